"""How much memory a training run needs, from the shape of the model, before anything is loaded.

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
"""

from __future__ import annotations

from dataclasses import dataclass

from chatbench.core.settings import Settings
from chatbench.models.completion_loss import LOGITS_AT_ONCE
from chatbench.models.precision import Format
from chatbench.training.model_shape import ModelShape

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
