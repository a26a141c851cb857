"""True-size training steps of the published recipes on this machine's GPU: tokens a second, memory, utilisation.

    python benchmarks/recipes_gpu.py                          # 17 GB of disk; a GPU of 24 GB or more
    python benchmarks/recipes_gpu.py --recipe llama3-8b --packing conversation --data data
    python benchmarks/recipes_gpu.py --tiny                   # any machine: does the script run?

Nothing is downloaded: a model folder of the true shape with random weights is written (16 GB for Llama 3 8B), and from
there on everything is the package's own: loading, quantising, adapters, steps, loss, optimizer. Examples have the
lengths of ChatBench's (`study_like_chatbench.py`) or are those of a prepared folder; a token is a hash of a word.

Model FLOPs utilisation is the operations that the steps need (`chatbench.training.dry_run`, without what gradient
checkpointing computes again), over the seconds they took, over the card's peak for dense 16-bit products as its maker
states it; beside it, over what a plain product of matrices reaches on the card. The rows are printed as Markdown.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, TrainerCallback

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Resolved, Settings, resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.models.encoding import EncodedRows
from chatbench.models.loading import best_device, context_length, empty_model, load_tokenizer
from chatbench.models.prefix_tree import attends_to_trees
from chatbench.models.weights import Format, resolve_precision
from chatbench.training.batches import default_pack_tokens, step_plan
from chatbench.training.dry_run import (
    GIB,
    Work,
    forward_passes,
    matrix_rate,
    model_shape,
    training_device,
    training_memory,
    training_operations,
)
from chatbench.training.run import trainable_base, training_arguments
from our_trainer import our_trainer
from study_like_chatbench import QUESTIONS, encoded, study_rows

WARM_UP = 2
"""Steps before those that are timed."""

SHAPES: dict[str, Callable[[], Any]] = {
    "distilgpt2": lambda: GPT2Config(n_layer=6),
    "mistral-7b": lambda: MistralConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32_768, sliding_window=4096,
    ),
    "llama3-8b": lambda: LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False,
    ),
}  # fmt: skip
"""Configurations of the recipes' bases, as the hub has them, in what decides the cost."""

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10G": 70e12, "A10": 125e12, "A6000": 155e12, "4090": 165e12, "3090": 71e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip
"""Dense 16-bit tensor operations a second, from the makers' data sheets; the first name that the card's contains."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Some steps of one recipe. `seconds` are of the steps in `work`; `error` says why there are none."""

    recipe: str
    settings: Settings
    precision: Format
    work: Work
    largest: Work
    examples: int
    seconds: float
    peak_bytes: int
    estimated_bytes: float
    operations: float
    matrix_rate: float
    error: str = ""

    def row(self, peak: float | None) -> list[str]:
        """The cells of its line in the table."""
        name = [self.recipe, self.settings.packing, _format(self.settings, self.precision)]
        if self.error:
            return [*name, self.error, *[""] * 6]
        rate = self.operations / self.seconds
        return [
            *name,
            f"{self.largest.tokens:,}",
            f"{self.work.tokens / self.seconds:,.0f}",
            f"{self.examples / self.seconds:,.1f}",
            f"{self.peak_bytes / GIB:.1f}",
            f"{self.estimated_bytes / GIB:.1f}",
            f"{rate / peak:.0%}" if peak else "peak unknown",
            f"{rate / self.matrix_rate:.0%}",
        ]


HEAD = (
    "recipe", "packing", "weights, arithmetic", "largest pass, tokens", "tokens/s", "examples/s", "peak GiB",
    "estimated GiB", "MFU", "of matrix products",
)  # fmt: skip


class Clock(TrainerCallback):
    """When each step ended, a GPU's work finished: making the batches of a step counts too."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[float]()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def write_base(recipe: str, folder: Path, *, tiny: bool) -> Path:
    """A model folder of the recipe's shape with random weights in bf16, and a tokenizer that nobody uses."""
    config = SHAPES[recipe]()
    if tiny:
        config.update({"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 4096})
        config.update({"num_key_value_heads": 2, "head_dim": 16} if recipe != "distilgpt2" else {"n_inner": 128})
        config.update({"intermediate_size": 128})
    config.update({"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0})
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer("package:tiny_base").save_pretrained(folder)
    return folder


def measure(
    recipe: str, base: Path, rows: Sequence[ExampleRow], flags: Mapping[str, object], steps: int
) -> Measurement:
    """Times the steps after the first two, which set things up; a card that is too small is a finding, not an error."""
    named = resolve_settings(recipe, None, {**flags, "max_steps": WARM_UP + steps, "report_to": ["none"]})
    resolved = replace(named, base=str(base))
    settings = resolved.settings
    examples = encoded(list(rows), *_vocabulary_and_context(base))
    device = torch.device(best_device())
    precision = resolve_precision(settings.precision, device.type)
    order = step_plan(settings, examples, 1).steps(settings.seed, 0)[: WARM_UP + steps]
    passes = [list(_passes(settings, examples, indices, device)) for indices in order]
    work = _together([each for of_step in passes[WARM_UP:] for each in of_step])
    largest = _largest([each for of_step in passes for each in of_step])
    shape = model_shape(empty_model(str(base)), settings)
    estimate = training_memory(shape, settings, largest, training_device(str(device), settings))
    seconds, peak_bytes, error = _run(resolved, examples, precision)
    return Measurement(
        recipe=recipe,
        settings=settings,
        precision=precision,
        work=work,
        largest=largest,
        examples=sum(map(len, order[WARM_UP:])),
        seconds=seconds,
        peak_bytes=peak_bytes,
        estimated_bytes=estimate.total,
        operations=training_operations(shape, replace(settings, gradient_checkpointing=False), work),
        matrix_rate=matrix_rate(str(device), precision),
        error=error,
    )


def _run(resolved: Resolved, examples: EncodedRows, precision: Format) -> tuple[float, int, str]:
    """Seconds of the timed steps, the most memory that was taken, and why it did not work, if it did not."""
    settings = resolved.settings
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(settings, Path(folder))
        on_gpu = arguments.device.type == "cuda"
        try:
            model = trainable_base(resolved, precision, arguments, lambda line: print(f"  {line}", flush=True)).model
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            clock = Clock(arguments.device)
            trainer = our_trainer(model, examples, settings)
            trainer.add_callback(clock)
            with attends_to_trees(model) if settings.packing != "none" else nullcontext():
                trainer.train()
        except (torch.OutOfMemoryError, ChatbenchError) as error:
            return 0.0, 0, str(error).splitlines()[0]
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return clock.ends[-1] - clock.ends[WARM_UP - 1], peak, ""


def _vocabulary_and_context(base: Path) -> tuple[int, int]:
    model: Any = empty_model(str(base))
    return int(model.config.get_text_config().vocab_size), context_length(model)


def _together(passes: Sequence[Work]) -> Work:
    return Work(*(sum(getattr(each, name) for each in passes) for name in ("tokens", "scored_rows", "attended_pairs")))


def _largest(passes: Sequence[Work]) -> Work:
    return Work(
        *(
            max(getattr(each, name) for each in passes)
            for name in ("tokens", "scored_rows", "attended_pairs", "gathered")
        )
    )


def _passes(settings: Settings, examples: EncodedRows, indices: Sequence[int], device: torch.device) -> Iterator[Work]:
    chosen = [examples.examples[index] for index in indices]
    return forward_passes(chosen, settings, settings.pack_tokens or default_pack_tokens(device))


def _format(settings: Settings, precision: Format) -> str:
    weights = "8-bit" if settings.load_in_8bit else "4-bit" if settings.load_in_4bit else "unquantised"
    return f"{weights}, {precision}" + (", checkpointing" if settings.gradient_checkpointing else "")


def markdown(measurements: Sequence[Measurement]) -> str:
    """The table, with the machine and the versions above it."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU (figures mean nothing)"
    peak = next((rate for card, rate in PEAKS.items() if card in name), None)
    of_peak = f"; MFU against {peak / 1e12:,.0f} TFLOP/s" if peak else ""
    lines = [
        f"{name}, torch {torch.__version__}{of_peak}",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(each.row(peak)) + " |" for each in measurements)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    packings = ("none", "conversation", "question")
    parser.add_argument("--recipe", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--packing", nargs="+", choices=packings, default=["none", "conversation"])
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed, after two that are not")
    parser.add_argument("--examples-per-step", type=int, default=16, help="as the published DistilGPT-2 over its GPUs")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--data", type=Path, help="a prepared folder, in place of made-up chats")
    parser.add_argument("--folder", type=Path, help="where the random models are written, and removed again")
    parser.add_argument("--out", type=Path, help="also write the table into this file")
    parser.add_argument("--tiny", action="store_true", help="small shapes and few steps: only to see that it runs")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    made_up = range(4 if asked.tiny else QUESTIONS)
    rows = Workspace(asked.data).examples("split_0", "train") if asked.data else study_rows(made_up)
    flags = {"examples_per_step": asked.examples_per_step, "gradient_checkpointing": asked.gradient_checkpointing}
    measurements = []
    for recipe in asked.recipe:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            base = write_base(recipe, Path(folder), tiny=asked.tiny)
            for packing in asked.packing:
                print(f"{recipe}, packing {packing}", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
                steps = 2 if asked.tiny else asked.steps
                measurements.append(measure(recipe, base, rows, {**flags, "packing": packing}, steps))
    text = markdown(measurements)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
