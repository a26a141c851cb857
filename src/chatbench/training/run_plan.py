"""The plan of a fine-tuning run, made without loading weights: what `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from chatbench.core.resolved_settings import Resolved
from chatbench.models.encoding import EncodedRows, TextForm, encode_rows
from chatbench.models.loading import best_device, context_length, empty_model, load_tokenizer
from chatbench.models.precision import Format, resolve_precision
from chatbench.models.quantisation import quantised_bits, refuse_unless_possible
from chatbench.protocol.example_rows import ExampleRow
from chatbench.training.device_limits import TRAINING_SHARE, device_memory, matrix_rate
from chatbench.training.epoch_work import EpochWork, epoch_work
from chatbench.training.memory import ForwardPass, Memory, training_memory
from chatbench.training.memory_advice import advice, tokens_that_fit
from chatbench.training.model_shape import ModelShape, model_shape
from chatbench.training.plan import in_words, optimizer_steps, training_operations
from chatbench.training.processes import fsdp_asked
from chatbench.training.steps import default_pack_tokens

LEAST_PACK_TOKENS = 1024
"""Smaller packs share too little; if these do not fit, the warning before training says so."""

_HOW = {
    "none": "padded",
    "conversation": "as prefix trees of conversations",
    "question": "as prefix trees of questions",
}


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run in one process would do. `rate` is the measured speed of matrix products, in operations a second."""

    resolved: Resolved
    shape: ModelShape
    encoded: EncodedRows
    validation_examples: int
    epoch: EpochWork
    device: str
    precision: Format
    memory: Memory
    memory_advice: Sequence[str]
    rate: float

    @property
    def steps(self) -> int:
        return optimizer_steps(self.resolved.settings, self.epoch.steps)

    @property
    def operations(self) -> float:
        """Of the whole run."""
        of_epoch = training_operations(self.shape, self.resolved.settings, self.epoch.work)
        return of_epoch * self.steps / self.epoch.steps

    @property
    def seconds(self) -> float:
        """A rough estimate: without start, validation and checkpoints; quantised weights are slower."""
        return self.operations / (TRAINING_SHARE * self.rate)

    def lines(self) -> list[str]:
        """What to print."""
        work, encoded = self.epoch.work, self.encoded
        alone = sum(example.tokens for example in encoded.examples)
        scored = sum(len(example.completion) for example in encoded.examples)
        how = _HOW[self.resolved.settings.packing]
        of_step = len(encoded.examples) / self.epoch.steps
        rows = [
            ("examples", f"{len(encoded.examples):,} to train on, {self.validation_examples:,} to validate"),
            *(("", line) for line in encoded.lines()),
            ("tokens", f"{work.tokens:,} read an epoch, {how}; unpadded and alone {alone:,}; {scored:,} are learned"),
            ("steps", f"{self.steps:,}; an epoch has {self.epoch.steps:,} of {of_step:.1f} examples"),
            ("", f"and {self.epoch.passes:,} forward passes of at most {self.epoch.largest.tokens:,} tokens"),
            ("parameters", self._parameters()),
            ("memory", self.memory.line()),
            *(("", line) for line in self.memory_advice),
            ("time", f"about {in_words(self.seconds)}: {self.operations / 1e12:,.3g} TFLOP at {TRAINING_SHARE:.0%} of"),
            ("", f"the {self.rate / 1e12:,.3g} TFLOP/s that {self.precision} matrix products reach on {self.device}"),
        ]  # fmt: skip
        return [f"{name:<11} {text}" for name, text in rows]

    def _parameters(self) -> str:
        adapted = self.resolved.settings.method == "lora"
        learning = self.shape.adapters if adapted else self.shape.parameters
        bits = quantised_bits(asdict(self.resolved.settings))
        held = f", the base in {bits} bits" if bits else ""
        return f"{learning:,} learn, of {self.shape.parameters + adapted * self.shape.adapters:,}{held}"


def plan_run(resolved: Resolved, train: Sequence[ExampleRow], validation: Sequence[ExampleRow]) -> RunPlan:
    """The plan on this machine's device; reads the tokenizer and the configuration of the base, not its weights.

    Raises:
        ChatbenchError: no such model, examples that do not go with it, a format or a quantisation that this machine
            cannot train in. Too little memory is no error here: the plan says what would fit.
    """
    settings, device = resolved.settings, best_device()
    precision = resolve_precision(settings.precision, device)
    bits = quantised_bits(asdict(settings))
    if bits is not None:
        refuse_unless_possible(bits, device, resolved.base)
    model = empty_model(resolved.base)
    shape = model_shape(model, settings)
    room, on_gpu = device_memory(device), device == "cuda"
    context = min(settings.max_tokens or context_length(model), context_length(model))
    form = TextForm(settings.template, settings.long_examples)
    encoded = encode_rows(load_tokenizer(resolved.base), train, context, form)
    epoch = epoch_work(settings, encoded, pack_tokens=pack_tokens(resolved, encoded, torch.device(device)))
    return RunPlan(
        resolved=resolved,
        shape=shape,
        encoded=encoded,
        validation_examples=len(validation),
        epoch=epoch,
        device=device,
        precision=precision,
        memory=training_memory(shape, settings, epoch.largest, precision=precision, on_gpu=on_gpu),
        memory_advice=advice(shape, settings, epoch.largest, room, precision=precision, on_gpu=on_gpu),
        rate=matrix_rate(device, precision),
    )


def pack_tokens(resolved: Resolved, encoded: EncodedRows, device: torch.device) -> int:
    """Most tokens of a prefix tree: as asked for, or the usual number, or fewer where a GPU would not hold them.

    The size of a pack changes what is read in one forward pass, not what is learned from.
    """
    settings, usual = resolved.settings, default_pack_tokens(device)
    if settings.pack_tokens or settings.packing == "none" or device.type != "cuda" or fsdp_asked():
        return settings.pack_tokens or usual
    shape, room = model_shape(empty_model(resolved.base), settings), device_memory(str(device))
    fitting = tokens_that_fit(
        shape,
        settings,
        replace(room, free=room.total),  # what is free now would be another number in a resumed run
        precision=resolve_precision(settings.precision, device.type),
        on_gpu=True,
        scored_share=_scored_share(encoded),
    )
    return max(LEAST_PACK_TOKENS, min(usual, fitting))


def memory_warning(resolved: Resolved, encoded: EncodedRows, device: torch.device) -> list[str]:
    """What to say before training if the largest batch is likely not to fit all of the device; nothing if it is.

    The largest batch is bounded, not looked for: as many tokens as a pack may hold, or the longest example throughout.
    Nothing is said of a model that is sharded over several devices.
    """
    if fsdp_asked():
        return []
    settings = resolved.settings
    longest = max(example.tokens for example in encoded.examples)
    examples = settings.per_device_train_batch_size
    tokens = examples * longest
    if settings.packing != "none":
        tokens = max(pack_tokens(resolved, encoded, device), longest)
    rows = round(tokens * _scored_share(encoded))
    shape, room = model_shape(empty_model(resolved.base), settings), device_memory(str(device))
    whole = replace(room, free=room.total)
    on_gpu, precision = device.type == "cuda", resolve_precision(settings.precision, device.type)
    lines = advice(shape, settings, ForwardPass(tokens, rows), whole, precision=precision, on_gpu=on_gpu)
    return [f"memory: {line}" for line in lines] if len(lines) > 1 else []


def _scored_share(encoded: EncodedRows) -> float:
    scored = sum(len(example.completion) for example in encoded.examples)
    return scored / sum(example.tokens for example in encoded.examples)
