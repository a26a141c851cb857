"""One measurement, in a process of its own, so that its peak memory is its own; prints one line of JSON.

    python benchmarks/one_measurement.py '{"kind": "train", "model": "distilgpt2", "variant": "plain", ...}'

`benchmarks/prefix_tree.py` starts these; see `Measurement` for the keys.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.utils import logging

from chatbench.models.encoding import EncodedRows
from chatbench.models.loading import fuse_activations
from chatbench.models.loss import score_encoded, scored_sequence
from chatbench.models.prefix_tree import attends_to_trees, prefix_trees
from chatbench.training import batches as training_steps
from model_shapes import SHAPES, ShapeName, build, matmul_flops_per_second, tree_flops
from study_like_chatbench import encoded, study_rows
from training_variants import BATCH, Options, conversations_apart, labelled, make_trainer, padded

Kind = Literal["train", "score", "matmul"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure. `variant` of a score is plain or trees, of a matmul nothing; `block_nodes` 0 is the default."""

    kind: Kind
    model: ShapeName
    variant: str = ""
    precision: Literal["fp32", "bf16"] = "fp32"
    questions: tuple[int, ...] = (0,)
    chats: int = 18
    context: int = 0
    dropout: float = 0.0
    threads: int = 2
    pack_tokens: int = 0
    examples_per_step: int = 0
    block_nodes: int = 0


@dataclass(slots=True)
class Reading:
    """What the model was given while it was watched; `labels` where its caller hands them to the model."""

    tokens: int = 0
    passes: int = 0
    labels: int = 0

    def watch(self, model: nn.Module) -> Callable[[], None]:
        """Counts from now on; gives what ends it."""

        def count(_module: nn.Module, _inputs: object, named: dict[str, Any]) -> None:
            self.tokens += named["input_ids"].numel()
            self.passes += 1
            if "labels" in named:
                self.labels += int((named["labels"][:, 1:] >= 0).sum())

        return model.register_forward_pre_hook(count, with_kwargs=True).remove


class Clock(TrainerCallback):
    """The seconds of the epoch: data, steps and optimizer, without what a run does once before and after."""

    seconds = cpu_seconds = 0.0

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += time.process_time() - self._began[1]

    def on_epoch_begin(self, *_arguments: Any, **_named: Any) -> None:
        self.start()

    def on_epoch_end(self, *_arguments: Any, **_named: Any) -> None:
        self.stop()


@dataclass(slots=True)
class Result:
    """Seconds for all questions together, on the clock and of all processors; `peak_bytes` of the whole process."""

    seconds: float
    cpu_seconds: float
    tokens: int = 0
    passes: int = 0
    steps: int = 0
    examples: int = 0
    supervised: int = 0
    peak_bytes: int = 0
    flops: float = 0.0
    flops_per_second: float = 0.0
    nats: float = 0.0
    profile: list[str] = field(default_factory=list)


def measure(what: Measurement, *, profile: bool = False) -> Result:
    torch.set_num_threads(what.threads)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    set_seed(0)
    if what.kind == "matmul":
        dtype = torch.bfloat16 if what.precision == "bf16" else torch.float32
        shape = SHAPES[what.model]
        rate = matmul_flops_per_second(shape, what.pack_tokens or training_steps.PACK_TOKENS_CPU, dtype, repeats=5)
        return Result(0.0, 0.0, flops_per_second=rate, peak_bytes=peak_bytes())
    if what.block_nodes:
        training_steps.tree_batch = partial(training_steps.tree_batch, block_nodes=what.block_nodes)  # no setting
    rows = rows_of(what)
    model = build(SHAPES[what.model], what.dropout, context=what.context)
    return _train(what, model, rows, profile) if what.kind == "train" else _score(what, model, rows)


def rows_of(what: Measurement) -> EncodedRows:
    shape = SHAPES[what.model]
    return encoded(study_rows(what.questions, what.chats), shape.vocabulary, what.context or shape.context)


def _train(what: Measurement, model: PreTrainedModel, rows: EncodedRows, profile: bool) -> Result:
    """One step to warm up (memory is touched, the optimizer's state made), then the epoch that is timed."""
    variant = cast(Any, what.variant)
    options = Options(what.precision, what.pack_tokens, what.examples_per_step)
    trainer = make_trainer(variant, model, rows, options)
    reading = Reading()
    with attends_to_trees(model) if variant in ("conversation", "question") else nullcontext():
        trainer.args.max_steps = 1
        trainer.train()
        trainer.args.max_steps = -1
        clock = Clock()
        trainer.add_callback(clock)
        stop_counting = reading.watch(model)
        with _profiler(profile) as profiled:
            trainer.train()
        stop_counting()
    if reading.labels not in (0, _supervised(rows)):
        raise RuntimeError(f"{what.variant} learned from {reading.labels} tokens, expected {_supervised(rows)}")
    flops = _needed_flops(what, rows) if variant in ("conversation", "question") else 0.0
    return Result(
        clock.seconds,
        clock.cpu_seconds,
        tokens=reading.tokens,
        passes=reading.passes,
        steps=trainer.state.global_step,
        examples=len(rows.examples),
        supervised=_supervised(rows),
        peak_bytes=peak_bytes(),
        flops=flops,
        profile=profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25).splitlines()
        if profile
        else [],
    )


def _profiler(wanted: bool) -> Any:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) if wanted else nullcontext()


def _score(what: Measurement, model: PreTrainedModel, rows: EncodedRows) -> Result:
    reading = Reading()
    score = _score_plain if what.variant == "plain" else _score_trees
    score(model, EncodedRows(rows.examples[:2], rows.rows[:2], rows.max_tokens))  # warm up
    stop_counting = reading.watch(model)
    clock = Clock()
    clock.start()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=what.precision == "bf16"):
        nats = score(model, rows)
    clock.stop()
    stop_counting()
    return Result(
        clock.seconds, clock.cpu_seconds, reading.tokens, reading.passes, 0, len(rows.examples), _supervised(rows),
        peak_bytes(), _needed_flops(what, rows) / 3, nats=nats,
    )  # fmt: skip


def _score_plain(model: PreTrainedModel, rows: EncodedRows) -> float:
    """As scripts do it: batches of four as they come, padded, logits for every position, the loss where labels are."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows.examples), BATCH):
            batch = padded([labelled(example) for example in rows.examples[start : start + BATCH]])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            following = batch["labels"][:, 1:].flatten()
            losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), following, reduction="none")
            total += float(losses.double().sum())
    return total


def _score_trees(model: PreTrainedModel, rows: EncodedRows) -> float:
    return sum(nats for nats, _ in score_encoded(fuse_activations(model), rows.examples))


def _needed_flops(what: Measurement, rows: EncodedRows) -> float:
    """Of the uncut trees: by question, or by conversation where that is what is trained."""
    if what.variant == "conversation":
        rows = conversations_apart(rows)
    names = [row.conversation_id if what.variant == "conversation" else row.question_id for row in rows.rows]
    return sum(
        tree_flops(SHAPES[what.model], tree)
        for name in dict.fromkeys(names)
        for tree in prefix_trees(
            [scored_sequence(e) for e, of in zip(rows.examples, names, strict=True) if of == name], budget=1 << 30
        )
    )


def _supervised(rows: EncodedRows) -> int:
    return sum(len(example.completion) for example in rows.examples)


def peak_bytes() -> int:
    """Most memory that this process held at any time (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: Sequence[str]) -> None:
    wanted = json.loads(arguments[0])
    profile = bool(wanted.pop("profile", False))
    wanted["questions"] = tuple(wanted.get("questions", (0,)))
    print(json.dumps(asdict(measure(Measurement(**wanted), profile=profile))), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(sys.argv[1:])
