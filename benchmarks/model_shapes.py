"""The models of the timings (true shapes, random weights), what their arithmetic costs, and how fast this machine is.

Floating-point operations of one training pass over a prefix tree, forward and backward, that any exact method needs:

    6 x weights of the layers x tokens  +  12 x width x layers x attended pairs  +  6 x width x vocabulary x scored rows

where the weights are those of the matrix products inside the layers (no embeddings), width is heads x head size, a pair
is a node with an ancestor or itself, and a scored row is a node that predicts at least one scored token. Scoring costs
a third. Norms, activations, softmax, embeddings and the optimizer are not counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from chatbench.models.prefix_tree import PrefixTree

ShapeName = Literal["distilgpt2", "llama", "quick"]


@dataclass(frozen=True, slots=True)
class Shape:
    """`matrices` are the (inputs, outputs) of the products in one layer."""

    name: ShapeName
    layers: int
    width: int
    heads: int
    key_value_heads: int
    inner: int
    vocabulary: int
    context: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        if self.name == "llama":
            keys = self.width // self.heads * self.key_value_heads
            square, key, up = (self.width, self.width), (self.width, keys), (self.width, self.inner)
            return [square, key, key, square, up, up, (self.inner, self.width)]
        return [
            (self.width, 3 * self.width),
            (self.width, self.width),
            (self.width, self.inner),
            (self.inner, self.width),
        ]

    @property
    def layer_weights(self) -> int:
        """Weights of the matrix products of all layers."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("distilgpt2", 6, 768, 12, 12, 3072, 50257, 1024),
        # Llama's parts in a size whose plain run of one question takes one to two minutes on two cores: 56 M parameters
        Shape("llama", 8, 512, 8, 4, 1408, 32000, 4096),
        Shape("quick", 2, 32, 2, 2, 64, 500, 1024),
    )
}


def build(shape: Shape, dropout: float, *, context: int = 0, seed: int = 0) -> PreTrainedModel:
    """The model with random weights, float32, on the processor; `context` 0 is the shape's own."""
    torch.manual_seed(seed)
    if shape.name == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
                num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                num_key_value_heads=shape.key_value_heads, max_position_embeddings=context or shape.context,
                attention_dropout=dropout, tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocabulary, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads,
            n_inner=shape.inner, n_positions=context or shape.context, resid_pdrop=dropout, embd_pdrop=dropout,
            attn_pdrop=dropout, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def tree_flops(shape: Shape, tree: PrefixTree) -> float:
    """Floating-point operations of one forward and backward pass over the tree; see the module's text."""
    pairs = int((tree.depths + 1).sum())
    rows = len(np.unique(tree.edge_parents))
    return (
        6.0 * shape.layer_weights * len(tree)
        + 12.0 * shape.width * shape.layers * pairs
        + 6.0 * shape.width * shape.vocabulary * rows
    )


def matmul_flops_per_second(shape: Shape, tokens: int, dtype: torch.dtype, repeats: int) -> float:
    """The rate of torch's matrix product on the products of one layer, forward and backward, at `tokens` rows.

    The three products of each matrix are timed one after the other, `repeats` times; the rate is the operations of all
    over the sum of each one's fastest time.
    """
    flops = seconds = 0.0
    for inputs, outputs in shape.matrices:
        x, y = torch.randn(tokens, inputs, dtype=dtype), torch.randn(tokens, outputs, dtype=dtype)
        weight = torch.randn(inputs, outputs, dtype=dtype)
        for left, right in ((x, weight), (y, weight.T), (x.T, y)):
            seconds += min(_seconds(left, right) for _ in range(repeats))
            flops += 2.0 * tokens * inputs * outputs
    return flops / seconds


def _seconds(left: Tensor, right: Tensor) -> float:
    began = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - began
