"""Estimate a fine-tuning run without loading weights: steps, tokens, memory and time (`--dry-run`).

Memory, in bytes, with P parameters, of which M in the layers' matrices and A in adapters; e = 4 in fp32, else 2:

    full           weights 4 P, gradients 4 P, optimizer o P (o is 8 for AdamW; `OPTIMIZER_BYTES`)
    LoRA           base b per parameter, b = 2 on a GPU and 4 in fp32 or on a CPU, but for M it is 1 (8-bit) or 0.516
                   (4-bit: nf4 with double quantisation); adapters 4 A, their gradients 4 A, optimizer o A
    copies         autocast keeps e bytes for each matrix parameter that is float32 and not quantised
    activations    LoRA: tokens x layers x (4 n + e (2 q + 2 k + 3 m) + (e + d) a)
                   full: tokens x layers x (12 n + e (2 q + 2 k + 4 m))
                   n: summed width of the layer's norms, q and k: widths of queries and keys, m: MLP width (2 m less if
                   not gated), a: summed input width of the adapted modules, d: bytes that dropout keeps per input,
                   1 on a GPU and 4 on a CPU, 0 without dropout
                   with gradient checkpointing: tokens x layers x b width (b = 4 for full), and one layer as above
                   each block of a prefix tree keeps keys and values of all that it attends to, expanded to the width of
                   the queries: 2 e q per gathered token instead of 2 e k per token
    logits         12 bytes (fp32) or 16 for each of scored rows x vocabulary, at most LOGITS_AT_ONCE of them at a time
    work           twice the largest matrix, if quantised matrices are dequantised for a product

The activation terms count what the backward pass keeps, as observed with torch's saved-tensor hooks on GPT-2, Llama,
Qwen3 and Gemma 3; attention scores are never kept (fused kernels). `docs/benchmarks.md` compares estimates with
measurements.

Arithmetic, in FLOPs (a multiply-add counts as two), with H the parameters of the output head:

    forward     2 M per token read, 2 H per scored row, 4 x query width x layers per attended pair of tokens
    backward    full: twice the forward; LoRA: once (no gradients of base weights), but twice for attention, and
                adapters cost 6 A per token in all
    gradient checkpointing computes the layers' forward once more

This is the count used for model FLOPs utilisation (PaLM, appendix B), but with the output head only on scored rows and
only the pairs that causal attention needs, as this package computes them.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from importlib import resources
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import OPTIMIZER_BYTES, Recipe, Resolved, Settings, resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import EncodedRows, TextForm, encode_rows
from chatbench.models.loading import (
    best_device,
    check_vocabulary,
    context_length,
    empty_model,
    free_bytes,
    load_tokenizer,
)  # fmt: skip
from chatbench.models.loss import BATCH_TOKENS, LOGITS_AT_ONCE, scored_sequence
from chatbench.models.prefix_tree import BLOCK_NODES, prefix_trees, refuse_unsuited, simulation_hint, tree_blocks
from chatbench.models.weights import Format, quantised_bits, refuse_unless_possible, resolve_precision
from chatbench.protocol.prompts import EncodedExample
from chatbench.training.batches import default_pack_tokens, step_plan
from chatbench.training.distributed import fsdp_asked

GIB = 2**30
NOT_TEXT = r".*(vision|visual|image|audio|multi_modal).*"
"""Names of modules that read something else than text, so that text gives them no gradient."""

NF4_BYTES = 0.5 + 0.127 / 8
"""Bytes of a 4-bit weight, including its share of the doubly quantised scales (0.127 bits; QLoRA, section 3)."""

ROOM = 0.9
"""Share of the free memory that an estimate may use; the rest is a margin for what is not modelled."""

TRAINING_SHARE = {"cuda": 0.4, "mps": 0.4, "cpu": 0.3}
"""Share of the matrix product speed that training is assumed to reach: on GPUs as is typical of large models, on CPUs
in fp32 as measured with SmolLM2-135M (0.22 and 0.30). On a CPU everything else takes as long in bf16 as in fp32."""

LEAST_PACK_TOKENS = 1024
"""Smaller packs share too little; if even these do not fit, a warning is printed before training."""


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run and the format of its matrix products.

    `total` and currently `free` bytes are of GPU memory, or of the machine's memory if there is no GPU.
    """

    name: str
    total: int
    free: int
    precision: Format
    on_gpu: bool


def training_device(device: str, settings: Settings) -> Device:
    """Describe a torch device for a run with these settings.

    Raises:
        ChatbenchError: the device cannot compute in the format that the settings ask for.
    """
    precision = resolve_precision(settings.precision, device)
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return Device(torch.cuda.get_device_name(device), total, free, precision, on_gpu=True)
    if device.startswith("mps"):
        total = torch.mps.recommended_max_memory()
        return Device("Apple GPU", total, total - torch.mps.driver_allocated_memory(), precision, on_gpu=False)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device("the CPU", total, free_bytes(torch.device("cpu")), precision, on_gpu=False)


def matrix_rate(device: str, precision: Format, *, seconds: float = 0.3) -> float:
    """Measure FLOP/s of square matrix products in a format: the median of those that fit into `seconds`."""
    kind = device.partition(":")[0]
    side = {"cuda": 8192, "mps": 4096, "cpu": 1024}[kind]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    while sum(times[1:]) < seconds or len(times) < 4:
        began = time.perf_counter()
        one @ other
        if kind != "cpu":  # GPU calls are asynchronous
            torch.get_device_module(kind).synchronize()
        times.append(time.perf_counter() - began)
    return float(2 * side**3 / sorted(times[1:])[len(times[1:]) // 2])  # the first product may include set-up


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Parameter counts of a model, and widths (features per token) of one decoder layer.

    Exact for decoders like GPT-2 and Llama; for other architectures, what is not found counts as 0.

    Attributes:
        parameters: all parameters; embeddings tied to the output head count once.
        layer_matrices: parameters of linear layers in the decoder layers, which are the ones quantised.
        largest_matrix: parameters of the largest of these matrices.
        query_width, key_width: number of heads times head size, for queries and keys.
        mlp_width: hidden width of the MLP. A `gated` layer computes it twice and multiplies.
        norm_width: total width of the layer's norms.
        adapters: parameters of the adapters that the settings describe, whether or not they are used.
        adapted_width: total input width of the layer's adapted modules.
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
    """Compute the shape of a model, possibly on the meta device, and of the adapters in the settings."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS

    config: Any = model.config.get_text_config()
    width, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", None) or 1)
    # Where layers differ (Gemma 4), the widest.
    layers = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]
    widths = [
        getattr(each, "qk_head_dim", None) or getattr(each, "head_dim", None) or width // heads for each in layers
    ]
    kept = [getattr(each, "num_key_value_heads", None) or heads for each in layers]
    query, key = heads * int(max(widths)), int(max(map(operator.mul, kept, widths)))
    mlp = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = max(lists, key=len, default=[model])
    inside = [matrix for block in blocks for matrix in _matrices(block)]
    in_block = list(_matrices(blocks[0]))
    adapted = set(settings.lora_targets or PEFT_TARGETS.get(str(config.model_type), ()))
    norm_widths = {"q_norm": query, "k_norm": key}
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_matrices=sum(inputs * outputs for _, inputs, outputs in inside),
        largest_matrix=max((inputs * outputs for _, inputs, outputs in inside), default=0),
        layers=len(blocks),
        width=width,
        query_width=query,
        key_width=key,
        mlp_width=max(mlp) if isinstance(mlp, list | tuple) else int(mlp),
        gated=any("gate" in name for name, _, _ in in_block),
        norm_width=sum(
            norm_widths.get(name.rpartition(".")[2], width)
            for name, module in blocks[0].named_modules()
            if "norm" in type(module).__name__.lower()
        ),
        vocabulary=int(config.vocab_size),
        adapters=settings.lora_r
        * sum(inputs + outputs for name, inputs, outputs in _matrices(model) if name in adapted),
        adapted_width=sum(inputs for name, inputs, _ in in_block if name in adapted),
    )


def _matrices(module: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Yield (last part of the name, inputs, outputs) of linear layers for text; GPT-2's `Conv1D` is transposed."""
    for name, each in module.named_modules():
        last = name.rpartition(".")[2]
        if re.fullmatch(NOT_TEXT, name):
            continue
        if isinstance(each, nn.Linear):
            yield last, each.in_features, each.out_features
        elif type(each).__name__ == "Conv1D":
            inputs, outputs = cast(torch.Tensor, each.weight).shape
            yield last, inputs, outputs


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one or more forward passes: tokens including padding, rows with logits, attended pairs of tokens.

    `gathered` counts the tokens whose keys the blocks of a prefix tree gather: their own and those of their context.
    """

    tokens: int
    scored_rows: int
    attended_pairs: int = 0
    gathered: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by use. `state` stays allocated for the whole run; the rest is temporary."""

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
        """Format the terms that are not negligible, and their sum."""
        summands = {name: getattr(self, name) / GIB for name in self.__slots__}
        shown = " + ".join(f"{name} {gib:.2f}" for name, gib in summands.items() if gib >= 0.005)
        return f"{shown} = {self.total / GIB:.2f} GiB"


def training_memory(shape: ModelShape, settings: Settings, largest: Work, device: Device) -> Memory:
    """Estimate a run's peak memory in bytes, without the libraries' own (about 0.5 GiB)."""
    full, on_gpu = settings.method == "full", device.on_gpu
    element = 4 if device.precision == "fp32" else 2
    base = 2 if on_gpu and not full and element == 2 else 4
    trained = shape.parameters if full else shape.adapters
    in_float = shape.head + (0 if settings.quantised else shape.layer_matrices)
    weights: float = 4 * trained
    if not full:
        per_matrix_parameter = 1.0 if settings.load_in_8bit else NF4_BYTES if settings.load_in_4bit else float(base)
        weights += per_matrix_parameter * shape.layer_matrices + base * (shape.parameters - shape.layer_matrices)

    heads = 2 * shape.query_width + 2 * shape.key_width
    mlp = (4 if full else 3) - (0 if shape.gated else 2)
    layer = (12 if full else 4) * shape.norm_width + element * (heads + mlp * shape.mlp_width)
    if not full:
        mask = (1 if on_gpu else 4) if settings.lora_dropout else 0
        layer += (element + mask) * shape.adapted_width
    gathered = 0
    if largest.gathered:
        gathered = 2 * element * (largest.gathered * shape.query_width - largest.tokens * shape.key_width)
    activations = shape.layers * (largest.tokens * layer + gathered)
    if settings.gradient_checkpointing:
        activations = largest.tokens * (shape.layers * base * shape.width + layer) + gathered
    return Memory(
        weights=weights,
        gradients=4 * trained,
        optimizer=OPTIMIZER_BYTES[settings.optim] * trained,
        copies=element * in_float if element < base else 0,
        activations=activations,
        logits=(12 if element == 4 else 16) * min(largest.scored_rows * shape.vocabulary, LOGITS_AT_ONCE),
        work=2 * base * shape.largest_matrix if settings.quantised else 0,
    )


EXAMPLE_TOKENS, SCORED_TOKENS = 1000, 100
"""All and scored tokens of a long ChatBench example, for estimates without data."""

_CONFIGS: Mapping[str, Mapping[str, Any]] = json.loads(
    (resources.files("chatbench.training") / "base_configs.json").read_text("utf-8")
)
"""The memory-relevant part of each recipe base's config.json on the hub, so that nothing has to be downloaded."""


def estimated_bytes(recipe: Recipe, *, on_gpu: bool) -> float:
    """Estimate a recipe's peak memory, in bytes, without packing and for batches of long examples; download nothing."""
    settings = replace(resolve_settings(recipe.name).settings, packing="none")
    if recipe.base in _CONFIGS:
        config: Any = AutoConfig.for_model(**_CONFIGS[recipe.base])
        with torch.device("meta"):
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))  # type: ignore[no-untyped-call]  # transformers
    else:
        model = empty_model(recipe.base)
    examples = settings.per_device_train_batch_size
    batch = Work(examples * EXAMPLE_TOKENS, examples * SCORED_TOKENS)
    device = Device("", 0, 0, "bf16" if on_gpu else "fp32", on_gpu)
    return training_memory(model_shape(model, settings), settings, batch, device).total


def training_operations(shape: ModelShape, settings: Settings, work: Work) -> float:
    """FLOPs of the forward and backward passes over `work`."""
    layers, attention, head = forward_operations(shape, work)
    if settings.method == "full":
        operations = 3 * (layers + attention + head)
    else:
        operations = 2 * (layers + head) + 3 * attention + 6.0 * shape.adapters * work.tokens
    return operations + (layers + attention if settings.gradient_checkpointing else 0)


def forward_operations(shape: ModelShape, work: Work) -> tuple[float, float, float]:
    """FLOPs of the forward passes over `work`, by the layers' matrices, attention, and the output head."""
    return (
        2.0 * shape.layer_matrices * work.tokens,
        4.0 * shape.query_width * shape.layers * work.attended_pairs,
        2.0 * shape.head * work.scored_rows,
    )


@dataclass(frozen=True, slots=True)
class EpochWork:
    """Optimizer steps and forward passes of one epoch, the maximum work of a pass, and the total."""

    steps: int
    passes: int
    largest: Work
    work: Work


def epoch_work(settings: Settings, encoded: EncodedRows, *, pack_tokens: int) -> EpochWork:
    """Compute the work of the first epoch in a single process; later epochs differ only in how they are shuffled."""
    steps = step_plan(settings, encoded, 1).steps(settings.seed, 0)
    passes: list[Work] = []
    for indices in steps:
        chosen = [encoded.examples[index] for index in indices]
        passes += forward_passes(chosen, settings, pack_tokens)
    counts = np.array([astuple(each) for each in passes])
    return EpochWork(len(steps), len(passes), Work(*counts.max(0).tolist()), Work(*counts.sum(0).tolist()))


def forward_passes(examples: Sequence[EncodedExample], settings: Settings, pack_tokens: int) -> Iterator[Work]:
    """Yield the work of each forward pass of a step.

    With packing, passes are prefix trees of at most `pack_tokens` tokens, where a token attends to its own path;
    otherwise they are padded rectangles, whose padding is read and attended to like any token.
    """
    if settings.packing != "none":
        for tree in prefix_trees([scored_sequence(example) for example in examples], pack_tokens):
            blocks = tree_blocks(tree, BLOCK_NODES) if settings.packed_attention == "blocks" else []
            gathered = sum(len(each) + sum(len(blocks[place]) for place in each.context) for each in blocks)
            yield Work(len(tree), len(np.unique(tree.edge_parents)), int(tree.depths.sum()) + len(tree), gathered)
        return
    for start in range(0, len(examples), settings.per_device_train_batch_size):
        rows = examples[start : start + settings.per_device_train_batch_size]
        longest = max(example.tokens for example in rows)
        scored = sum(len(example.completion) for example in rows)
        yield Work(len(rows) * longest, scored, len(rows) * longest * (longest + 1) // 2)


_METHOD = ("--method lora", {"method": "lora"})
_CHECKPOINTING = ("--gradient-checkpointing", {"gradient_checkpointing": True})
_EIGHT_BITS = ("--load-in-8bit", {"load_in_8bit": True, "load_in_4bit": False})
_FOUR_BITS = ("--load-in-4bit", {"load_in_4bit": True, "load_in_8bit": False})
_TRIED = (
    (_CHECKPOINTING,), (_METHOD,), (_METHOD, _EIGHT_BITS), (_METHOD, _FOUR_BITS),
    (_METHOD, _FOUR_BITS, _CHECKPOINTING),
)  # fmt: skip


def cheaper_options(shape: ModelShape, settings: Settings, largest: Work, device: Device) -> list[tuple[str, Memory]]:
    """Flags that would reduce memory, each with the resulting estimate, the mildest change first."""
    half = Work(largest.tokens // 2, largest.scored_rows // 2, gathered=largest.gathered // 2)
    options = []
    if settings.packing != "none":
        options.append((f"--pack-tokens {half.tokens}", training_memory(shape, settings, half, device)))
    elif (examples := settings.per_device_train_batch_size // 2) > 0:
        flags = f"--per-device-train-batch-size {examples}"
        if not settings.examples_per_step:  # keep the size of the optimizer step
            flags += f" --gradient-accumulation-steps {2 * settings.gradient_accumulation_steps}"
        options.append((flags, training_memory(shape, settings, half, device)))
    for changes in _TRIED:
        new = [each for each in changes if any(getattr(settings, name) != value for name, value in each[1].items())]
        values: Mapping[str, Any] = {name: value for each in new for name, value in each[1].items()}
        memory = training_memory(shape, replace(settings, **values), largest, device)
        options.append((" ".join(flag for flag, _ in new), memory))
    asked = training_memory(shape, settings, largest, device).total
    return list({flags: (flags, memory) for flags, memory in options if flags and memory.total < asked}.values())


def tokens_that_fit(shape: ModelShape, settings: Settings, device: Device, *, scored_share: float) -> int:
    """Find the largest batch, in tokens, whose estimate fits into `ROOM` of the free memory; 0 if there is none.

    `scored_share` is the share of tokens for which logits are computed.
    """

    def needed(tokens: int) -> float:
        return training_memory(shape, settings, Work(tokens, round(tokens * scored_share)), device).total

    return max(0, bisect_right(range(1 << 20), ROOM * device.free, key=needed) - 1)


def refuse_if_too_small(shape: ModelShape, settings: Settings, device: Device) -> None:
    """Refuse a run whose weights, gradients and optimizer state alone exceed the device's total memory.

    Raises:
        ChatbenchError: it does; the message has the estimate and what would fit.
    """
    nothing = Work(0, 0)
    needed = training_memory(shape, settings, nothing, device).state
    if needed <= device.total:
        return
    options = cheaper_options(shape, settings, nothing, device)
    fitting = [f"{flags} ({_gib(memory.state)})" for flags, memory in options if memory.state <= device.total]
    larger = "use a larger GPU, several with FSDP, or a smaller model"
    raise ChatbenchError(
        f"weights, gradients and optimizer state need {_gib(needed)}, but {device.name} has {_gib(device.total)}",
        expected="enough memory for these and for the activations (--dry-run shows how much)",
        fix=f"choose one: {'; '.join(fitting)}" if fitting else larger,
    )


def advice(shape: ModelShape, settings: Settings, largest: Work, device: Device) -> list[str]:
    """Say in one line whether the run fits; if not, add a line for each way to reduce memory."""
    has = f"{_gib(device.free)} of {_gib(device.total)} are free on {device.name}"
    if training_memory(shape, settings, largest, device).total <= ROOM * device.free:
        return [f"fits: {has}"]
    lines = [f"probably does not fit: {has}"]
    for flags, memory in cheaper_options(shape, settings, largest, device):
        verdict = "fits" if memory.total <= ROOM * device.free else "does not fit either"
        lines.append(f"{verdict} with {flags}: {_gib(memory.total)}")
    return lines


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def pack_tokens(resolved: Resolved, encoded: EncodedRows, device: torch.device) -> int:
    """Maximum tokens per prefix tree: as set, or else the default, reduced if a GPU could not hold it.

    The size of a pack changes what one forward pass reads, not what is learned.
    """
    settings, usual = resolved.settings, default_pack_tokens(device)
    if settings.pack_tokens or settings.packing == "none" or device.type != "cuda" or fsdp_asked():
        return settings.pack_tokens or usual
    shape, emptied = _emptied(resolved, device)
    fitting = tokens_that_fit(shape, settings, emptied, scored_share=_scored_share(encoded))
    return max(LEAST_PACK_TOKENS, min(usual, fitting))


def memory_warning(resolved: Resolved, encoded: EncodedRows, device: torch.device) -> list[str]:
    """Warning lines for a run whose largest batch will probably exceed the device's memory; otherwise none.

    The largest batch is an upper bound: a full pack, or as many of the longest example as a batch holds. A model that
    is sharded over several devices gets no warning.
    """
    if fsdp_asked():
        return []
    settings = resolved.settings
    longest = max(example.tokens for example in encoded.examples)
    tokens = settings.per_device_train_batch_size * longest
    if settings.packing != "none":
        tokens = max(pack_tokens(resolved, encoded, device), longest)
    largest = Work(tokens, round(tokens * _scored_share(encoded)))
    shape, emptied = _emptied(resolved, device)
    lines = advice(shape, settings, largest, emptied)
    return [f"memory: {line}" for line in lines] if len(lines) > 1 else []


FEW_STEPS = 100
"""Recipe `tiny` on `split_0` of the sample study: 0 of 50 chats end with an answer after 50 steps, 27 after 100, 41
after 150 (docs/training.md). SmolLM2-135M on HALIE: .415 bits per byte after 25, .367 after 81 (docs/experiments.md).
"""


def few_steps(steps: int) -> list[str]:
    """Warning lines for a run of so few steps that its chats may not end with an answer; otherwise none."""
    if steps >= FEW_STEPS:
        return []
    return [
        f"only {steps} steps in all: a simulator trained for fewer than about {FEW_STEPS} may not learn to end chats "
        "with an answer; use more epochs (--num-train-epochs) or fewer examples a step (--examples-per-step)"
    ]


def template_hint(resolved: Resolved, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Suggest an instruct model's own chat template if the settings neither use nor decline it."""
    if not tokenizer.chat_template or resolved.origins["template"] != "default":
        return []
    return ["training on plain text, although the tokenizer has a chat template; to train with it, add --template chat"]


def _emptied(resolved: Resolved, device: torch.device) -> tuple[ModelShape, Device]:
    """Return the base's shape, and the device with all memory free, so that a resumed run gets the same numbers."""
    found = training_device(str(device), resolved.settings)
    return model_shape(empty_model(resolved.base), resolved.settings), replace(found, free=found.total)


def _scored_share(encoded: EncodedRows) -> float:
    scored = sum(len(example.completion) for example in encoded.examples)
    return scored / sum(example.tokens for example in encoded.examples)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Plan of a run in a single process. `rate` is the measured speed of matrix products, in FLOP/s.

    `fp32_rate` is that in fp32, for a CPU that computes in bf16. `validation` is the work of one validation, in prefix
    trees; there is one at the end of each epoch.
    """

    resolved: Resolved
    shape: ModelShape
    encoded: EncodedRows
    hints: Sequence[str]
    validation_examples: int
    validation: Work
    epoch: EpochWork
    kind: str
    device: Device
    rate: float
    fp32_rate: float

    @property
    def steps(self) -> int:
        """Steps of the whole run: `max_steps`, or those of all epochs, rounded up as by the Trainer."""
        settings = self.resolved.settings
        return settings.max_steps or math.ceil(settings.num_train_epochs * self.epoch.steps)

    @property
    def validations(self) -> int:
        return math.ceil(self.steps / self.epoch.steps) if self.validation_examples else 0

    @property
    def operations(self) -> float:
        """FLOPs of the whole run, including its validations."""
        of_epoch = training_operations(self.shape, self.resolved.settings, self.epoch.work)
        of_validation = sum(forward_operations(self.shape, self.validation))
        return of_epoch * self.steps / self.epoch.steps + of_validation * self.validations

    @property
    def seconds(self) -> float:
        """Rough estimate of the duration, without start-up and checkpoints; quantised weights are slower."""
        others = 1 / TRAINING_SHARE[self.kind.partition(":")[0]] - 1
        return self.operations * (1 / self.rate + others / self.fp32_rate)

    def lines(self) -> list[str]:
        """The plan as lines to print."""
        work, encoded, shape, settings = self.epoch.work, self.encoded, self.shape, self.resolved.settings
        alone = sum(example.tokens for example in encoded.examples)
        scored = sum(len(example.completion) for example in encoded.examples)
        how = {
            "none": "padded",
            "conversation": "as prefix trees of conversations",
            "question": "as prefix trees of questions",
        }[settings.packing]
        of_step = len(encoded.examples) / self.epoch.steps
        lora = settings.method == "lora"
        adapters = shape.adapters if lora else 0
        trainable = adapters if lora else shape.parameters
        bits = quantised_bits(asdict(settings))
        in_bits = f", the base in {bits} bits" if bits else ""
        share = self.operations / self.seconds / self.rate
        speed = f"the {self.rate / 1e12:,.3g} TFLOP/s that {self.device.precision} matrix products reach on {self.kind}"
        rows = [
            ("examples", f"{len(encoded.examples):,} to train on, {self.validation_examples:,} to validate"),
            *(("", line) for line in (*self.hints, *encoded.lines())),
            ("tokens", f"{work.tokens:,} read per epoch, {how}; {alone:,} unpadded and unshared; {scored:,} scored"),
            ("steps", f"{self.steps:,}; an epoch has {self.epoch.steps:,} of {of_step:.1f} examples"),
            *(("", line) for line in few_steps(self.steps)),
            ("", f"and {self.epoch.passes:,} forward passes of at most {self.epoch.largest.tokens:,} tokens"),
            ("validation", f"{self.validations:,} times, {self.validation.tokens:,} tokens read each time"),
            ("parameters", f"{trainable:,} trainable of {shape.parameters + adapters:,}{in_bits}"),
            ("memory", training_memory(shape, settings, self.epoch.largest, self.device).line()),
            *(("", line) for line in advice(shape, settings, self.epoch.largest, self.device)),
            ("time", f"about {in_words(self.seconds)}: {self.operations / 1e12:,.3g} TFLOP at {share:.0%} of"),
            ("", speed),
        ]  # fmt: skip
        return [f"{name:<11} {text}" for name, text in rows]


def in_words(seconds: float) -> str:
    """Format a duration to about two digits.

    >>> [in_words(seconds) for seconds in (7, 110, 6000, 200_000)]
    ['7 s', '2 min', '1 h 40 min', '56 h']
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{minutes / 60:.0f} h"


def plan_run(resolved: Resolved, train: Sequence[ExampleRow], validation: Sequence[ExampleRow]) -> RunPlan:
    """Plan a run on this machine's device; reads the tokenizer and the configuration of the base, not its weights.

    Raises:
        ChatbenchError: no such model, examples that do not match it, a precision or quantisation that this machine
            cannot train in, packing that the model cannot read, or adapters for modules that it does not have. Too
            little memory is not an error: the plan says what would fit.
    """
    from chatbench.training.run import with_adapters  # which imports this module

    settings, kind = resolved.settings, best_device()
    device = training_device(kind, settings)
    bits = quantised_bits(asdict(settings))
    if bits is not None:
        refuse_unless_possible(bits, kind, resolved.base)
    model, tokenizer = empty_model(resolved.base), load_tokenizer(resolved.base)
    check_vocabulary(model, tokenizer, resolved.base)
    if settings.packing != "none":
        refuse_unsuited(model, settings.packed_attention, kind)
    context = min(settings.max_tokens or context_length(model), context_length(model))
    form = TextForm(settings.template, settings.long_examples)
    encoded, held_out = encode_rows(tokenizer, train, context, form), encode_rows(tokenizer, validation, context, form)
    hints = [*simulation_hint(model), *template_hint(resolved, tokenizer)]
    shape = model_shape(model, settings)
    if settings.method == "lora":
        trainable, _ = cast(Any, with_adapters(model, settings)).get_nb_trainable_parameters()
        shape = replace(shape, adapters=trainable)
    rate = matrix_rate(kind, device.precision)
    validating = forward_passes(held_out.examples, replace(settings, packing="conversation"), BATCH_TOKENS)
    return RunPlan(
        resolved=resolved,
        shape=shape,
        encoded=encoded,
        hints=hints,
        validation_examples=len(held_out.examples),
        validation=Work(*np.array([astuple(Work(0, 0)), *map(astuple, validating)]).sum(0).tolist()),
        epoch=epoch_work(settings, encoded, pack_tokens=pack_tokens(resolved, encoded, torch.device(kind))),
        kind=kind,
        device=device,
        rate=rate,
        fp32_rate=matrix_rate(kind, "fp32") if kind == "cpu" and device.precision != "fp32" else rate,
    )
