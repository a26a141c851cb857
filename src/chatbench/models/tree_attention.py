"""Attention over a prefix tree, through a model's own forward: each node attends to its ancestors and itself.

transformers lets a model call another attention function by name. Ours, `chatbench_tree`, finds the tree among the
keyword arguments that every layer hands on, and computes the attention in one of two ways:

    blocks   scaled dot-product attention block by block, on any device, in any precision; what a block does not need is
             never computed, so that attention costs what the tree needs and not the square of its nodes
    flex     FlexAttention with the tree as its mask function, on CUDA; compiled once for each padded length

A block is a run of nodes in pre-order whose ancestors outside the block are all of some earlier blocks, its *context*.
Inside a block, and only there, a mask says who descends from whom. A long unbranched stretch is cut into blocks of at
most `limit` nodes, a small subtree is one block, and small neighbours under the same ancestors share one.

    stem ------+-- subtree 1        blocks      context
               +-- subtree 2        stem        -
               `-- subtree 3        1 and 2     stem
                                    3           stem

A sliding window counts positions on the path. Without a tree among its arguments it is ordinary causal attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import PackedAttention
from chatbench.models.prefix_tree import PrefixTree

Kernel = PackedAttention
NAME = "chatbench_tree"
BLOCK_NODES = 256
"""Nodes of a block. Smaller ones skip more of the square but are more calls (benchmarks/prefix_tree.py --blocks)."""
FLEX_LENGTHS = 512
"""Trees are padded to a multiple of this for FlexAttention, so that few shapes are compiled."""


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes `start` to `stop` (exclusive), and the indices of the blocks all of whose nodes they descend from."""

    start: int
    stop: int
    context: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start


def tree_blocks(tree: PrefixTree, limit: int) -> list[Block]:
    """Blocks that cover the tree in order, each of at most `limit` nodes.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"blocks of {limit} nodes")
    ends = tree.ends
    blocks: list[Block] = []
    waiting: list[tuple[int, int, tuple[int, ...]]] = [(0, len(tree), ())]  # (start, stop, context), last first
    while waiting:
        start, stop, context = waiting.pop()
        if start == stop:
            continue
        taken = start  # end of the whole subtrees that begin at `start` and together fit
        while taken < stop and int(ends[taken]) - start <= limit:
            taken = int(ends[taken])
        if taken > start:
            blocks.append(Block(start, taken, context))
            waiting.append((taken, stop, context))
            continue
        stem = start + 1  # one past the unbranched stretch that begins at `start`
        while stem < ends[start] and stem - start < limit and ends[stem] == ends[start]:
            stem += 1
        waiting.append((int(ends[start]), stop, context))
        waiting.append((stem, int(ends[start]), (*context, len(blocks))))
        blocks.append(Block(start, stem, context))
    return blocks


def block_mask(tree: PrefixTree, blocks: list[Block], index: int, window: int | None = None) -> NDArray[np.bool_]:
    """Who of its context and itself each node of a block attends to: shape (nodes, context nodes + nodes).

    Args:
        window: sliding window in tokens, the node itself included; what lies further back on the path is not seen.
    """
    block = blocks[index]
    rows = np.arange(block.start, block.stop)
    seen = [np.arange(blocks[each].start, blocks[each].stop) for each in block.context]
    columns = np.concatenate([*seen, rows])
    allowed: NDArray[np.bool_] = (columns <= rows[:, None]) & (rows[:, None] < tree.ends[columns])
    if window is not None:
        allowed &= tree.depths[rows][:, None] - tree.depths[columns] < window
    return allowed


class TreePlan:
    """A tree on a device, with what its attention needs: made once for a tree, used by every layer.

    `tokens` and `depths` have shape (1, length). For the flex kernel the tree is padded, with nodes that see only
    themselves.
    """

    def __init__(self, tree: PrefixTree, device: torch.device, kernel: Kernel, block_nodes: int) -> None:
        self.kernel = kernel
        self._tree = tree
        self._device = device
        padding = -len(tree) % FLEX_LENGTHS if kernel == "flex" else 0
        self.tokens = torch.from_numpy(np.pad(tree.tokens, (0, padding))).to(device).unsqueeze(0)
        self.depths = torch.from_numpy(np.pad(tree.depths, (0, padding))).to(device).unsqueeze(0)
        own_ends = np.arange(len(tree) + 1, len(tree) + padding + 1)
        self._ends = torch.from_numpy(np.concatenate([tree.ends, own_ends])).to(device)
        self._longest = int(tree.depths.max()) + 1
        self._blocks = tree_blocks(tree, block_nodes) if kernel == "blocks" else []
        self._sizes = [len(block) for block in self._blocks]
        self._masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = {}
        self._flex_masks: dict[int | None, Any] = {}

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float,
        window: int | None,
    ) -> Tensor:  # fmt: skip
        """Attention's output, shape (1, length, heads, width).

        `query` has shape (1, heads, length, width); `key` and `value` may have fewer heads.
        """
        within = window if window is not None and window < self._longest else None
        if self.kernel == "flex":
            return self._flex(query, key, value, scale, within)
        masks = self._masks.setdefault((within, query.dtype), [])
        if not masks:
            for index in range(len(self._blocks)):
                allowed = torch.from_numpy(block_mask(self._tree, self._blocks, index, within))
                mask = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, float("-inf"))
                masks.append(mask.to(self._device)[None, None])
        keys, values = torch.split(key, self._sizes, dim=2), torch.split(value, self._sizes, dim=2)
        outputs = []
        # `split` and not slices: the backward of a slice writes a zero tensor of the full size for each of them.
        for index, part in enumerate(torch.split(query, self._sizes, dim=2)):
            seen = [*self._blocks[index].context, index]
            output, _ = sdpa_attention_forward(
                module,
                part,
                torch.cat([keys[each] for each in seen], dim=2) if len(seen) > 1 else keys[index],
                torch.cat([values[each] for each in seen], dim=2) if len(seen) > 1 else values[index],
                masks[index],
                dropout=dropout,
                scaling=scale,
                is_causal=False,
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1)

    def _flex(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._flex_masks:
            ends, depths, length = self._ends, self.depths[0], len(self._ends)

            def descends(_batch: Tensor, _head: Tensor, node: Tensor, other: Tensor) -> Tensor:
                seen = (other <= node) & (node < ends[other])
                return seen if window is None else seen & (depths[node] - depths[other] < window)

            self._flex_masks[window] = create_block_mask(
                descends, B=None, H=None, Q_LEN=length, KV_LEN=length, device=str(ends.device)
            )
        attention = _flex_attention(compiled=query.is_cuda)
        output = attention(query, key, value, block_mask=self._flex_masks[window], scale=scale, enable_gqa=True)
        return cast(Tensor, output).transpose(1, 2)


@cache
def _flex_attention(*, compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    tree_plan: TreePlan | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer, with or without a tree."""
    if tree_plan is not None:
        return tree_plan.attend(module, query, key, value, scaling, dropout, sliding_window), None
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
    )
    return output, None


AttentionInterface.register(NAME, tree_attention)


@contextmanager
def attends_to_trees(model: nn.Module) -> Iterator[None]:
    """Inside, the model takes `tree_plan=`; backward passes belong inside too (checkpointing runs layers again)."""
    inner = _transformers_model(model)
    before = inner.config._attn_implementation
    if before == NAME:
        yield
        return
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def why_not_trees(model: nn.Module) -> str:
    """Why a model cannot read trees, "" where it can.

    A recurrent or convolutional layer carries state from token to token of a row, which in a tree would run from one
    branch into the next; a capped attention score is more than the kernels compute.
    """
    inner = _transformers_model(model)
    config = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    if not inner._supports_sdpa:
        return "it has no scaled dot-product attention"
    if getattr(config, "alibi", False):
        return "it counts distances in the row (ALiBi)"
    return ""


def refuse_unsuited(model: nn.Module, kernel: Kernel) -> None:
    """Refuses to train a model on trees where it, or the kernel, cannot.

    Raises:
        ChatbenchError: with the reason.
    """
    inner = _transformers_model(model)
    if kernel == "flex" and inner.device.type != "cuda":
        raise ChatbenchError(
            f"packed_attention = 'flex' on {inner.device.type}",
            expected="a CUDA GPU: FlexAttention has no backward pass elsewhere",
            fix="set packed_attention to blocks",
        )
    reason = why_not_trees(model)
    if reason:
        raise ChatbenchError(f"packing for {type(inner).__name__}: {reason}", fix="set packing to none")


def _transformers_model(model: nn.Module) -> PreTrainedModel:
    """The model inside the wrappers of distributed training and of adapters."""
    inner: Any = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return cast(PreTrainedModel, inner)
