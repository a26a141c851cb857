"""The plan of a fine-tuning run, made without loading weights: what `--dry-run` prints.

How much memory a device has, and how fast it multiplies matrices.

The sizes of a model that decide what training it costs, read off its modules without weights.

They are exact for decoders in the manner of GPT-2 and Llama; of another architecture, what is not found counts as 0, so
that its estimates are low.

How much memory a training run needs, from the shape of the model, before anything is loaded.

In bytes, with P parameters, of which M in the layers' matrices and A in adapters; e = 4 in fp32, else 2:

    whole          weights 4 P, gradients 4 P, AdamW 8 P
    adapters       base b per parameter, b = 2 on a GPU and 4 on a processor, but 1 (8-bit) or 0.516 (4-bit: nf4 with
                   double quantisation) for M; adapters 4 A, their gradients 4 A, AdamW 8 A
    copies         autocast keeps e bytes for each matrix parameter that is float32 and not quantised
    activations    tokens x layers x (4 n + e (2 q + 2 k + 3 m) + (e + d) a)     where the base is frozen
                   tokens x layers x (12 n + e (2 q + 2 k + 4 m))               where it learns
                   n: summed width of the layer's norms, q and k: widths of queries and keys, m: the MLP's width (2 m
                   less where it is not gated), a: summed input width of the adapted modules, d: what dropout keeps of
                   an input, 1 on a GPU and 4 on a processor, 0 where there is none
                   with gradient checkpointing, tokens x layers x b width, and one layer as above
    logits         12 bytes (fp32) or 16 for each of scored rows x vocabulary, at most LOGITS_AT_ONCE of them at a time
    work           twice the largest matrix, where quantised ones are spread out for a product

The terms of the activations count what the backward pass keeps, as seen with torch's saved-tensor hooks on GPT-2,
Llama, Qwen3 and Gemma 3; attention scores are never kept (fused kernels). `docs/benchmarks.md` has estimates beside
what was measured.

What a run will do and cost, in figures: steps, tokens, arithmetic, time. Plain arithmetic on plain numbers.

Arithmetic, in operations (a multiplication and an addition are two), with M the parameters of the layers' matrices, A
those of the adapters, H those of the output head:

    forward     2 M a token read, 2 H a scored row, 4 x query width x layers an attended pair (token, earlier token)
    backward    twice the forward where the base learns; where it is frozen, once (no gradients of its weights), but
                twice for attention; adapters cost 6 A a token
    gradient checkpointing computes the layers' forward once more

This is the count that model FLOPs utilisation is stated in (PaLM, appendix B), but with the output head on scored rows
only and with the pairs that causal attention needs, which is what this package computes.

What the forward passes of one epoch read, counted without making a tensor.

Whether a run fits a device, and what would make it fit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import Resolved
from chatbench.core.settings import Settings
from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import EncodedRows, TextForm, encode_rows
from chatbench.models.loading import best_device, context_length, empty_model, load_tokenizer
from chatbench.models.loss import LOGITS_AT_ONCE, scored_sequence
from chatbench.models.precision import Format, quantised_bits, refuse_unless_possible, resolve_precision
from chatbench.models.prefix_tree import prefix_trees
from chatbench.protocol.plain_text import EncodedExample
from chatbench.training.batches import default_pack_tokens, step_plan
from chatbench.training.distributed import fsdp_asked

TRAINING_SHARE = 0.4
"""Share of the speed of plain matrix products that training is assumed to reach: customary for large models on GPUs."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 1024}


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a GPU's own memory, or of the machine's where there is no GPU; `free` now."""

    name: str
    total: int
    free: int


def device_memory(device: str) -> DeviceMemory:
    """The memory of a torch device."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(torch.cuda.get_device_name(device), total, free)
    if device.startswith("mps"):
        total = torch.mps.recommended_max_memory()
        return DeviceMemory("Apple GPU", total, total - torch.mps.driver_allocated_memory())
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    return DeviceMemory("the processor", total, _available(total))


def _available(total: int) -> int:
    """Linux tells what a new process could get; elsewhere all of it is assumed free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return total


def matrix_rate(device: str, precision: Format, *, seconds: float = 0.3) -> float:
    """Operations per second of square matrix products in a format, the median of what fits into `seconds`."""
    side = _SIDE[device.partition(":")[0]]
    one, other = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    one @ other  # the first product may set things up
    _wait(device)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        one @ other
        _wait(device)
        times.append(time.perf_counter() - began)
    return float(2 * side**3 / sorted(times)[len(times) // 2])


def _wait(device: str) -> None:
    """A GPU answers before it has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts of parameters, and widths (features a token) in one decoder layer.

    Attributes:
        parameters: all of them; embeddings that serve as the output head too count once.
        layer_matrices: those of linear layers inside the decoder layers. These are what is quantised.
        largest_matrix: the largest of these matrices.
        query_width, key_width: heads times head size, of queries and of keys.
        mlp_width: what the layer widens to. A `gated` layer does so twice, and multiplies.
        norm_width: summed over the layer's norms.
        adapters: parameters of the adapters that the settings ask for, whether or not they are used.
        adapted_width: summed over the inputs of the layer's adapted modules.
    """

    parameters: int
    layer_matrices: int
    largest_matrix: int
    layers: int
    width: int
    query_width: int
    key_width: int
    mlp_width: int
    gated: bool
    norm_width: int
    vocabulary: int
    adapters: int
    adapted_width: int

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocabulary * self.width


def model_shape(model: PreTrainedModel, settings: Settings) -> ModelShape:
    """The shape of a model, whose parameters may lie on the meta device, with the adapters of the settings."""
    config: Any = model.config.get_text_config()
    width, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", None) or 1)
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    query, key = heads * head_width, int(getattr(config, "num_key_value_heads", None) or heads) * head_width
    blocks = _decoder_layers(model)
    inside = [matrix for block in blocks for matrix in _matrices(block)]
    adapted = set(settings.lora_targets or _peft_targets(str(config.model_type)))
    sizes = [matrix.inputs * matrix.outputs for matrix in inside]
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_matrices=sum(sizes),
        largest_matrix=max(sizes, default=0),
        layers=len(blocks),
        width=width,
        query_width=query,
        key_width=key,
        mlp_width=_mlp_width(config, width),
        gated=any("gate" in matrix.name for matrix in _matrices(blocks[0])),
        norm_width=sum(_norm_widths(blocks[0], {"q_norm": query, "k_norm": key}, width)),
        vocabulary=int(config.vocab_size),
        adapters=sum(settings.lora_r * (m.inputs + m.outputs) for m in _matrices(model) if m.name in adapted),
        adapted_width=sum(matrix.inputs for matrix in _matrices(blocks[0]) if matrix.name in adapted),
    )


@dataclass(frozen=True, slots=True)
class _Matrix:
    name: str
    inputs: int
    outputs: int


def _matrices(module: nn.Module) -> Iterator[_Matrix]:
    """Linear layers by the last part of their names, GPT-2's transposed ones (`Conv1D`) among them."""
    for name, each in module.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(each, nn.Linear):
            yield _Matrix(last, each.in_features, each.out_features)
        elif type(each).__name__ == "Conv1D":
            weight: Any = each.weight
            yield _Matrix(last, int(weight.shape[0]), int(weight.shape[1]))


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules; the model itself where it has none."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[model])


def _mlp_width(config: Any, width: int) -> int:
    told = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    return max(told) if isinstance(told, list | tuple) else int(told)


def _norm_widths(block: nn.Module, of_heads: dict[str, int], width: int) -> Iterator[int]:
    for name, module in block.named_modules():
        if "norm" in type(module).__name__.lower():
            yield of_heads.get(name.rpartition(".")[2], width)


def _peft_targets(model_type: str) -> list[str]:
    """The modules that peft adapts where none are named; none for an architecture that it does not know."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    return list(KNOWN.get(model_type, ()))


GIB = 2**30
NF4_BYTES = 0.5 + 0.127 / 8
"""Bytes of a 4-bit weight with its share of the doubly quantised scales (0.127 bits; QLoRA, section 3)."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One batch: the tokens that it reads, padding included, and the rows for which logits are computed."""

    tokens: int
    scored_rows: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what takes them. `state` is there from the first step to the last, the rest comes and goes."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float
    work: float

    @property
    def state(self) -> float:
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.state + self.copies + self.activations + self.logits + self.work

    def line(self) -> str:
        """The parts that are not negligible, and their sum."""
        parts = {name: getattr(self, name) / GIB for name in self.__slots__}
        shown = " + ".join(f"{name} {gib:.2f}" for name, gib in parts.items() if gib >= 0.005)
        return f"{shown} = {self.total / GIB:.2f} GiB"


def training_memory(
    shape: ModelShape, settings: Settings, largest: ForwardPass, *, precision: Format, on_gpu: bool
) -> Memory:
    """Bytes that a run needs at its peak, beside what the libraries themselves take (about 0.5 GiB)."""
    whole = settings.method == "full"
    element = 4 if precision == "fp32" else 2
    base = 2 if on_gpu and not whole else 4
    learning = shape.parameters if whole else shape.adapters
    in_float = shape.head + (0 if settings.quantised else shape.layer_matrices)
    return Memory(
        weights=4 * learning if whole else _frozen(shape, settings, base) + 4 * learning,
        gradients=4 * learning,
        optimizer=8 * learning,
        copies=element * in_float if element < base else 0,
        activations=largest.tokens * _activations_a_token(shape, settings, element, base, 1 if on_gpu else 4),
        logits=(12 if element == 4 else 16) * min(largest.scored_rows * shape.vocabulary, LOGITS_AT_ONCE),
        work=2 * base * shape.largest_matrix if settings.quantised else 0,
    )


def _frozen(shape: ModelShape, settings: Settings, base: int) -> float:
    a_matrix_parameter = 1.0 if settings.load_in_8bit else NF4_BYTES if settings.load_in_4bit else float(base)
    return a_matrix_parameter * shape.layer_matrices + base * (shape.parameters - shape.layer_matrices)


def _activations_a_token(shape: ModelShape, settings: Settings, element: int, base: int, mask: int) -> int:
    heads = 2 * shape.query_width + 2 * shape.key_width
    if settings.method == "full":
        layer = 12 * shape.norm_width + element * (heads + (4 if shape.gated else 2) * shape.mlp_width)
    else:
        layer = 4 * shape.norm_width + element * (heads + (3 if shape.gated else 1) * shape.mlp_width)
        layer += (element + (mask if settings.lora_dropout else 0)) * shape.adapted_width
    if settings.gradient_checkpointing:
        return shape.layers * base * shape.width + layer
    return shape.layers * layer


@dataclass(frozen=True, slots=True)
class Work:
    """What some forward passes read: tokens (padding included), rows with logits, and attended pairs of tokens."""

    tokens: int
    scored_rows: int
    attended_pairs: int


def training_operations(shape: ModelShape, settings: Settings, work: Work) -> float:
    """Operations of the forward and backward passes over `work`."""
    layers = 2.0 * shape.layer_matrices * work.tokens
    attention = 4.0 * shape.query_width * shape.layers * work.attended_pairs
    head = 2.0 * shape.head * work.scored_rows
    if settings.method == "full":
        operations = 3 * (layers + attention + head)
    else:
        operations = 2 * (layers + head) + 3 * attention + 6.0 * shape.adapters * work.tokens
    return operations + (layers + attention if settings.gradient_checkpointing else 0)


def optimizer_steps(settings: Settings, steps_an_epoch: int) -> int:
    """Steps of the whole run: `max_steps`, or as many as the epochs hold.

    >>> optimizer_steps(Settings(num_train_epochs=1.5), 101)
    152
    """
    return settings.max_steps or math.ceil(settings.num_train_epochs * steps_an_epoch)


def in_words(seconds: float) -> str:
    """A duration to about two digits.

    >>> [in_words(seconds) for seconds in (7, 110, 6000, 200_000)]
    ['7 s', '2 min', '1 h 40 min', '56 h']
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{minutes / 60:.0f} h"


@dataclass(frozen=True, slots=True)
class EpochWork:
    """One epoch's optimizer steps and forward passes, the largest of them, and what they read together."""

    steps: int
    passes: int
    largest: ForwardPass
    work: Work


def epoch_work(settings: Settings, encoded: EncodedRows, *, pack_tokens: int) -> EpochWork:
    """The first epoch of a run in one process; later ones differ in their order only."""
    steps = step_plan(settings, encoded, 1).steps(settings.seed, 0)
    passes: list[Work] = []
    for indices in steps:
        chosen = [encoded.examples[index] for index in indices]
        batch = settings.per_device_train_batch_size
        passes += padded_passes(chosen, batch) if settings.packing == "none" else packed_passes(chosen, pack_tokens)
    return EpochWork(
        steps=len(steps),
        passes=len(passes),
        largest=ForwardPass(max(each.tokens for each in passes), max(each.scored_rows for each in passes)),
        work=Work(
            tokens=sum(each.tokens for each in passes),
            scored_rows=sum(each.scored_rows for each in passes),
            attended_pairs=sum(each.attended_pairs for each in passes),
        ),
    )


def padded_passes(examples: Sequence[EncodedExample], batch: int) -> Iterator[Work]:
    """Rectangles of `batch` examples; padding is read and attended to like any token."""
    for start in range(0, len(examples), batch):
        rows = examples[start : start + batch]
        longest = max(example.tokens for example in rows)
        scored = sum(len(example.completion) for example in rows)
        yield Work(len(rows) * longest, scored, len(rows) * longest * (longest + 1) // 2)


def packed_passes(examples: Sequence[EncodedExample], pack_tokens: int) -> Iterator[Work]:
    """Prefix trees of at most `pack_tokens` tokens; a token attends to those on its path."""
    for tree in prefix_trees([scored_sequence(example) for example in examples], pack_tokens).trees:
        yield Work(len(tree), len(np.unique(tree.edge_parents)), int(tree.depths.sum()) + len(tree))


ROOM = 0.9
"""Share of the free memory that an estimate may take; the rest is for what the estimate does not know."""

_METHOD = ("--method lora", {"method": "lora"})
_CHECKPOINTING = ("--gradient-checkpointing", {"gradient_checkpointing": True})
_EIGHT_BITS = ("--load-in-8bit", {"load_in_8bit": True, "load_in_4bit": False})
_FOUR_BITS = ("--load-in-4bit", {"load_in_4bit": True, "load_in_8bit": False})
_TRIED = (
    (_CHECKPOINTING,), (_METHOD,), (_METHOD, _EIGHT_BITS), (_METHOD, _FOUR_BITS),
    (_METHOD, _FOUR_BITS, _CHECKPOINTING),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    """A way to run, by the flags to add to what was asked for, and what it needs."""

    flags: str
    memory: Memory


def cheaper_options(
    shape: ModelShape, settings: Settings, largest: ForwardPass, *, precision: Format, on_gpu: bool
) -> list[Option]:
    """What needs less memory than what was asked for, the mildest change first."""

    def option(flags: str, changed: Settings, passed: ForwardPass = largest) -> Option:
        return Option(flags, training_memory(shape, changed, passed, precision=precision, on_gpu=on_gpu))

    asked = option("", settings).memory.total
    half = ForwardPass(largest.tokens // 2, largest.scored_rows // 2)
    options = []
    if settings.packing != "none":
        options.append(option(f"--pack-tokens {half.tokens}", settings, half))
    elif (examples := settings.per_device_train_batch_size // 2) > 0:
        flags = f"--per-device-train-batch-size {examples}"
        if not settings.examples_per_step:  # the step is to stay what it is
            flags += f" --gradient-accumulation-steps {2 * settings.gradient_accumulation_steps}"
        options.append(option(flags, settings, half))
    for parts in _TRIED:
        new = [part for part in parts if any(getattr(settings, name) != value for name, value in part[1].items())]
        values: Mapping[str, Any] = {name: value for part in new for name, value in part[1].items()}
        options.append(option(" ".join(flag for flag, _ in new), replace(settings, **values)))
    distinct = {each.flags: each for each in options if each.flags and each.memory.total < asked}
    return list(distinct.values())


def tokens_that_fit(
    shape: ModelShape, settings: Settings, device: DeviceMemory, *, precision: Format, on_gpu: bool, scored_share: float
) -> int:
    """The largest batch, in tokens, whose estimate leaves some of the free memory free; 0 if there is none.

    `scored_share` is the share of tokens for which logits are computed.
    """

    def needed(tokens: int) -> float:
        batch = ForwardPass(tokens, round(tokens * scored_share))
        return training_memory(shape, settings, batch, precision=precision, on_gpu=on_gpu).total

    fitting, too_many = 0, 1 << 20
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if needed(middle) <= ROOM * device.free else (fitting, middle)
    return fitting


def refuse_if_too_small(
    shape: ModelShape, settings: Settings, device: DeviceMemory, *, precision: Format, on_gpu: bool
) -> None:
    """Stops a run whose weights, gradients and optimizer alone are more than all the memory of the device.

    Raises:
        ChatbenchError: with the estimate, and with what would fit.
    """
    nothing = ForwardPass(0, 0)
    needed = training_memory(shape, settings, nothing, precision=precision, on_gpu=on_gpu).state
    if needed <= device.total:
        return
    options = cheaper_options(shape, settings, nothing, precision=precision, on_gpu=on_gpu)
    fitting = [f"{each.flags} ({_gib(each.memory.state)})" for each in options if each.memory.state <= device.total]
    larger = "use a larger GPU, several with FSDP, or a smaller model"
    raise ChatbenchError(
        f"weights, gradients and optimizer need {_gib(needed)}, and {device.name} has {_gib(device.total)}",
        expected="room for them and for the activations (--dry-run tells how much)",
        fix=f"choose one: {'; '.join(fitting)}" if fitting else larger,
    )


def advice(
    shape: ModelShape,
    settings: Settings,
    largest: ForwardPass,
    device: DeviceMemory,
    *,
    precision: Format,
    on_gpu: bool,
) -> list[str]:
    """One line that says whether the run fits; where it does not, one for each way to need less."""
    needed = training_memory(shape, settings, largest, precision=precision, on_gpu=on_gpu).total
    has = f"{_gib(device.free)} of {_gib(device.total)} are free on {device.name}"
    if needed <= ROOM * device.free:
        return [f"fits: {has}"]
    lines = [f"is likely not to fit: {has}"]
    for each in cheaper_options(shape, settings, largest, precision=precision, on_gpu=on_gpu):
        verdict = "fits" if each.memory.total <= ROOM * device.free else "does not fit either"
        lines.append(f"{verdict} with {each.flags}: {_gib(each.memory.total)}")
    return lines


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


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
