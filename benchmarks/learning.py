"""Held-out perplexity against training time, for each way to pack: does sharing steps change what is learned?

    python benchmarks/learning.py --study sample --study halie=studies/halie
    python benchmarks/learning.py --study halie=studies/halie --model tiny-random --schedule constant_with_warmup

Each run trains on `split_0` with the model's recipe, on the package's own trainer; seeds change the order (and the
weights of a random model), packing what shares a step: none and conversation take the same number of steps, question
takes steps of at least 20 examples, so fewer of them. At evenly spaced steps the clock stops and the held-out examples
are scored.

The recipe's schedule lowers the learning rate to the end of the run, so it is the last point that a user gets; with
`--schedule constant_with_warmup` every point is what a run stopped there would give. A run that is in the folder
is not repeated: the same command continues. `sample` alone stands for the study that the package generates.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, TrainerCallback
from transformers.utils import logging

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import resolve_settings
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.models.encoding import TextForm, encode_rows
from chatbench.models.loading import context_length
from chatbench.models.loss import score_encoded
from chatbench.models.prefix_tree import attends_to_trees
from chatbench.models.weights import resolve_precision
from chatbench.protocol.prompts import EncodedExample
from chatbench.sample.study import SampleSettings, write_sample
from chatbench.training.finetune import spread
from chatbench.training.run import trainable_base, training_arguments
from learning_report import Run, plot, table
from our_trainer import our_trainer

PACKINGS = ("none", "conversation", "question")


class Point(NamedTuple):
    """Seconds of training so far, scoring not counted, and the held-out loss in nats a token."""

    step: int
    seconds: float
    nats: float


@dataclass(frozen=True, slots=True)
class Request:
    """What is the same for all runs of one command; 0 leaves a setting to the recipe."""

    model: str
    epochs: float
    schedule: str
    points: int
    held_out: int
    max_steps: int
    threads: int


class HeldOut(TrainerCallback):
    """Scores the held-out examples before the first step, at evenly spaced ones, and after the last."""

    def __init__(self, model: PreTrainedModel, examples: Sequence[EncodedExample], points: int) -> None:
        self._model = model
        self._examples = examples
        self._count = points
        self._seconds = self._began = 0.0
        self.points: list[Point] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._score(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        due = state.max_steps * len(self.points) / self._count
        if state.global_step >= min(due, state.max_steps):
            self._seconds += time.perf_counter() - self._began
            self._score(state.global_step)

    def _score(self, step: int) -> None:
        scored = score_encoded(self._model, self._examples)
        nats, tokens = (sum(part) for part in zip(*scored, strict=True))
        self.points.append(Point(step, self._seconds, nats / tokens))
        self._began = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    out = Path(options.out)
    request = Request(
        options.model, options.epochs, options.schedule, options.points, options.held_out, options.max_steps,
        options.threads,
    )  # fmt: skip
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(request.threads)
    runs = []
    for study in options.study:
        data = _prepared(study, out, options)
        for seed in range(options.seeds):
            for packing in PACKINGS:  # in turns, so that a change of the machine's speed falls on all
                runs.append(_run(request, data, study.partition("=")[0], packing, seed, out / "runs"))
    _write_csv(out / "learning.csv", runs)
    text = table(runs)
    (out / "learning.md").write_text(text, encoding="utf-8")
    plot(runs, out)
    print(text)


def _prepared(study: str, out: Path, options: argparse.Namespace) -> Path:
    name, _, path = study.partition("=")
    source = Path(path) if path else out / "studies" / name
    if not path and not source.is_dir():
        write_sample(source, SampleSettings(options.sample_questions, options.sample_chats, seed=0))
    data = out / "data" / name
    if not (data / "manifest.json").is_file():
        prepare_splits(source, data, splits=1)
    return data


def _run(request: Request, data: Path, study: str, packing: str, seed: int, folder: Path) -> Run:
    """The run, from its file where it was done before with the same request."""
    file = folder / f"{study}-{request.model}-{packing}-{seed}.json"
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["request"] != asdict(request):
            raise ChatbenchError(
                f"{file}: was run with other options",
                expected=json.dumps(stored["request"]),
                fix="choose another --out",
            )
        points = stored["points"]
    else:
        points = _trained(request, data, packing, seed)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"request": asdict(request), "points": points}), encoding="utf-8")
        part.replace(file)
    run = Run(study, packing, seed, *(tuple(column) for column in zip(*points, strict=True)))
    print(
        f"{study} {packing} seed {seed}: {run.steps[-1]} steps, {run.seconds[-1]:.0f} s, {run.nats[-1]:.4f} nats",
        flush=True,
    )
    return run


def _trained(request: Request, data: Path, packing: str, seed: int) -> list[Point]:
    flags = {
        "packing": packing, "seed": seed, "num_train_epochs": request.epochs or None,
        "lr_scheduler_type": request.schedule or None, "max_steps": request.max_steps or None,
    }  # fmt: skip
    resolved = resolve_settings(
        request.model, None, {name: value for name, value in flags.items() if value is not None}
    )
    settings = resolved.settings
    arguments = training_arguments(settings, data)
    loaded = trainable_base(resolved, resolve_precision(settings.precision, "cpu"), arguments, lambda _line: None)
    context, form = context_length(loaded.model), TextForm(settings.template, settings.long_examples)
    rows = encode_rows(loaded.tokenizer, Workspace(data).examples("split_0", "train"), context, form)
    tested = spread(Workspace(data).examples("split_0", "test"), request.held_out)
    held_out = encode_rows(loaded.tokenizer, tested, context, form).examples
    trainer = our_trainer(loaded.model, rows, settings, pad_id=int(loaded.tokenizer.pad_token_id or 0))
    scoring = HeldOut(loaded.model, held_out, request.points)
    trainer.add_callback(scoring)
    with attends_to_trees(loaded.model):
        trainer.train()
    return scoring.points


def _write_csv(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "packing", "seed", "step", "seconds", "nats_per_token"])
        for run in runs:
            for step, seconds, nats in zip(run.steps, run.seconds, run.nats, strict=True):
                writer.writerow([run.study, run.packing, run.seed, step, f"{seconds:.3f}", f"{nats:.6f}"])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", action="append", help="NAME=PATH of a study, or sample; may be repeated")
    parser.add_argument("--model", default="tiny", help="a recipe's name: tiny, tiny-random")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0, help="default: the recipe's")
    parser.add_argument("--schedule", default="", help="of the learning rate; default: the recipe's")
    parser.add_argument("--points", type=int, default=12, help="of each curve, after the one at step 0")
    parser.add_argument("--held-out", type=int, default=500, help="held-out examples, evenly spaced")
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--sample-questions", type=int, default=120)
    parser.add_argument("--sample-chats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few steps of a random model: to see that it runs")
    parser.add_argument("--out", default="results/benchmarks/learning")
    options = parser.parse_args(arguments)
    options.study = options.study or ["sample"]
    if options.quick:
        options.model, options.seeds, options.max_steps, options.points, options.threads = "tiny-random", 1, 3, 2, 1
        options.held_out, options.sample_questions, options.sample_chats = 10, 10, 2
    return options


if __name__ == "__main__":
    main()
