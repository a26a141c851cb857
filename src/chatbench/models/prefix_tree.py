"""Prefix trees: what many token sequences share is laid out, and computed, once.

The k+1 examples of a conversation repeat its history, and all conversations about a question repeat instruction and
question. Here three examples, scored tokens in capitals (`X` and `Y` are two answers to the same prompt):

    a b c X .          laid out in pre-order     index    0  1  2  3  4  5  6
    a b c Y Z .                                  tokens   a  b  c  X  Y  Z  d
    a b d W                                      depths   0  1  2  3  3  4  2
                                                 ends     7  7  6  4  6  6  7
           c -- X
          /  `- Y -- Z         edges (parent -> target)   2->X  3->.   2->Y  4->Z  5->.   6->W
    a -- b
          `-- d

Node i descends from node j, or is j, exactly when `j <= i < ends[j]`; then i attends to j. A node's depth is
its position. The loss sits on *edges*: each scored token is predicted from its parent's hidden state, so a branch point
(`c` above) predicts one target for every branch, and a scored token that nothing follows (`.`, `W`) needs no node at
all. The sum over edges of `-ln p(target | path to parent)` is the sum over the sequences one by one.

`prefix_trees` cuts what exceeds a budget of nodes into several trees, where the fewest tokens are repeated.

Attention over a tree uses a model's own forward: transformers lets a model call another attention function by
name. Ours, `chatbench_tree`, finds the tree among the keyword arguments that every layer passes on, and computes the
attention in one of two ways:

    blocks   scaled dot-product attention block by block, on any device, in any precision; what a block does not need is
             never computed, so attention costs what the tree needs and not the square of its nodes
    flex     FlexAttention with the tree as its mask function, on CUDA; compiled once for each padded length

A block is a run of nodes in pre-order. Outside the block, their ancestors are exactly the nodes of some earlier blocks,
its *context*. Only inside a block does a mask say who descends from whom. A long unbranched stretch is cut into blocks
of at most `limit` nodes, a small subtree is one block, and small neighbours under the same ancestors share one.

    stem ------+-- subtree 1        blocks      context
               +-- subtree 2        stem        -
               `-- subtree 3        1 and 2     stem
                                    3           stem

A sliding window counts positions on the path. Without a tree among its arguments, it is ordinary causal attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import PackedAttention

Integers = NDArray[np.int64]
_NONE: Integers = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ScoredSequence:
    """Token ids, and which of them are scored (same length).

    Raises:
        ValueError: the lengths differ, or the first token is scored: nothing predicts it.
    """

    tokens: Sequence[int]
    scored: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.scored):
            raise ValueError(f"{len(self.tokens)} tokens, but {len(self.scored)} marks of what is scored")
        if self.scored and self.scored[0]:
            raise ValueError("the first token is scored, but nothing comes before it that could predict it")


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A tree, or several side by side, in pre-order.

    Attributes:
        tokens: shape (nodes,), token ids.
        depths: shape (nodes,), 0 at a root; the position id.
        ends: shape (nodes,), one past the node's last descendant.
        edge_parents: shape (edges,), the node whose hidden state predicts.
        edge_targets: shape (edges,), the token to predict.
        edge_sequences: shape (edges,), index of the sequence that it came from. Edges of a sequence are consecutive, in
            its order; sequences in the order in which they were laid out.
    """

    tokens: Integers
    depths: Integers
    ends: Integers
    edge_parents: Integers
    edge_targets: Integers
    edge_sequences: Integers

    def __len__(self) -> int:
        return len(self.tokens)


def prefix_tree(sequences: Sequence[ScoredSequence]) -> PrefixTree:
    """One tree of all sequences, however large.

    >>> tree = prefix_tree([ScoredSequence([7, 8, 9], [False, True, True]), ScoredSequence([7, 5], [False, True])])
    >>> tree.tokens.tolist(), tree.ends.tolist()
    ([7, 8], [2, 2])
    >>> list(zip(tree.edge_parents.tolist(), tree.edge_targets.tolist()))
    [(0, 5), (0, 8), (1, 9)]
    """
    return _laid_out(_sorted(sequences))


def prefix_trees(sequences: Sequence[ScoredSequence], budget: int) -> list[PrefixTree]:
    """Trees of at most `budget` nodes each (at least 1), cut where the fewest tokens are repeated.

    A single sequence longer than the budget is a tree of its own; one without a scored token is left out.
    """
    entries = [entry for entry in _sorted(sequences) if len(entry.inputs)]
    if not entries:
        return []
    starts = _cuts(np.array([len(e.inputs) for e in entries]), np.array([e.shared for e in entries]), budget)
    for start in starts:
        entries[start].shared = 0  # laid out again from the root
    return [_laid_out(entries[start:end]) for start, end in pairwise([*starts, len(entries)])]


class _Entry:
    """A sequence in sorted order. `inputs` ends before the last scored token, which is only ever a target."""

    __slots__ = ("index", "inputs", "scored", "sequence", "shared")

    def __init__(self, index: int, sequence: ScoredSequence) -> None:
        self.index, self.sequence, self.shared = index, sequence, 0
        self.scored: Integers = np.flatnonzero(np.asarray(sequence.scored, dtype=bool))
        last = int(self.scored[-1]) if len(self.scored) else 0
        self.inputs: Integers = np.asarray(sequence.tokens[:last], dtype=np.int64)


def _sorted(sequences: Sequence[ScoredSequence]) -> list[_Entry]:
    """Sorted by their inputs, so that each shares its longest prefix, whose length is noted, with the previous one."""
    entries = [_Entry(index, sequence) for index, sequence in enumerate(sequences)]
    entries.sort(key=lambda entry: (entry.inputs.tolist(), entry.index))
    for before, entry in pairwise(entries):
        size = min(len(before.inputs), len(entry.inputs))
        differ = np.flatnonzero(before.inputs[:size] != entry.inputs[:size])
        entry.shared = int(differ[0]) if len(differ) else size
    return entries


def _laid_out(entries: Sequence[_Entry]) -> PrefixTree:
    """Appends what each sequence does not share with the previous one; a node ends where a sequence leaves its path."""
    total = sum(len(entry.inputs) - entry.shared for entry in entries)
    tokens, depths, ends = (np.empty(total, dtype=np.int64) for _ in range(3))
    parents: list[Integers] = []
    path = _NONE
    count = 0
    for entry in entries:
        fresh = len(entry.inputs) - entry.shared
        ends[path[entry.shared :]] = count
        path = np.concatenate([path[: entry.shared], np.arange(count, count + fresh)])
        tokens[count : count + fresh] = entry.inputs[entry.shared :]
        depths[count : count + fresh] = np.arange(entry.shared, len(entry.inputs))
        parents.append(path[entry.scored - 1])
        count += fresh
    ends[path] = count
    return PrefixTree(
        tokens,
        depths,
        ends,
        np.concatenate([_NONE, *parents]),
        np.concatenate([_NONE, *(np.asarray(e.sequence.tokens, dtype=np.int64)[e.scored] for e in entries)]),
        np.concatenate([_NONE, *(np.full(len(e.scored), e.index) for e in entries)]),
    )


def _cuts(lengths: Integers, shared: Integers, budget: int) -> list[int]:
    """Starts of the groups of consecutive sequences that fit the budget and together repeat the fewest tokens.

    A group costs its first sequence in full and the new part of every other; a cut repeats what the sequence after it
    shares with the one before. Shortest path over the cut points; ties go to fewer groups.
    """
    fresh = lengths - shared
    count = len(lengths)
    best: list[tuple[int, int]] = [(0, 0)] + [(-1, 0)] * count
    came_from = [0] * (count + 1)
    for end in range(1, count + 1):
        size = 0  # of the group start..end, without what `start` shares with the sequence before it
        for start in range(end - 1, -1, -1):
            size += int(fresh[start])
            if size > budget and start < end - 1:
                break
            if size + int(shared[start]) > budget and start < end - 1:
                continue
            repeated = int(shared[start]) if start else 0
            cost = (best[start][0] + repeated, best[start][1] + 1)
            if best[end][0] < 0 or cost < best[end]:
                best[end], came_from[end] = cost, start
    starts = [came_from[count]]
    while starts[0]:
        starts.insert(0, came_from[starts[0]])
    return starts


Kernel = PackedAttention
NAME = "chatbench_tree"
BLOCK_NODES = 256
"""Nodes per block. Smaller blocks skip more of the square but need more calls (benchmarks/prefix_tree.py --blocks)."""
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
    """Blocks that cover the tree in order, each of at most `limit` nodes (at least 1)."""
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
    """Which nodes of its context and of itself each node of a block attends to, shape (nodes, context nodes + nodes).

    Args:
        window: sliding window in tokens, including the node itself; what is further back on the path is not seen.
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
    """A tree on a device, with what its attention needs: made once per tree, used by every layer.

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
        """The attention output, shape (1, length, heads, width).

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
        # `split` instead of slices: the backward of each slice writes a zero tensor of the full size.
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
    tree_plan: Any = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls in each layer, with a `TreePlan` (or a `kv_cache.Step`) or without."""
    if tree_plan is not None:
        more = {"softcap": others["softcap"]} if others.get("softcap") else {}
        if isinstance(tree_plan, _Asked) and attention_mask is not None:
            more["mask"] = attention_mask
        return tree_plan.attend(module, query, key, value, scaling, dropout, sliding_window, **more), None
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
    )
    return output, None


AttentionInterface.register(NAME, tree_attention)


@contextmanager
def attends_to_trees(model: nn.Module) -> Iterator[None]:
    """Inside, the model accepts `tree_plan=`; backward passes belong inside too (checkpointing reruns layers)."""
    inner = transformers_model(model)
    before = inner.config._attn_implementation
    if before == NAME:
        yield
        return
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def why_not_trees(model: nn.Module, *, capped: bool = False) -> str:
    """Why a model cannot read trees, "" if it can; `capped` if capped scores are allowed.

    A recurrent or convolutional layer carries state from token to token of a row, which in a tree would leak from one
    branch into the next; the kernels do not compute capped attention scores; some layers do not pass a plan on; and
    others keep more than a plan knows of in their mask.
    """
    inner = transformers_model(model)
    config = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    if getattr(config, "attn_logit_softcapping", None) and not capped:
        return "it caps its attention scores"
    if not (inner._supports_sdpa or (capped and getattr(config, "attn_logit_softcapping", None))):
        return "it has no scaled dot-product attention"
    if getattr(config, "alibi", False):
        return "it counts distances in the row (ALiBi)"
    offset = any(  # by padding, as in RoBERTa
        isinstance(module, nn.Embedding) and module.padding_idx is not None and "position" in name
        for name, module in inner.named_modules()
    )
    if offset or "position_ids" not in signature(inner.base_model.forward).parameters:
        return "it counts positions in the row"
    layers = _layers(model)
    if len(layers) < config.num_hidden_layers:
        return "not all of its layers pass the tree on to their attention"
    if any(layer.masked for layer in layers):
        return "its layers attend by a mask of their own"
    if capped and any(layer.calls > 1 for layer in layers):
        return "its layers attend twice"
    window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    sliding = any(kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or ["sliding_attention"])
    if window and sliding and not any(layer.window for layer in layers):
        return "its layers do not say how wide their window is"
    return ""


@dataclass(slots=True)
class _Layer:
    """What a layer hands to its attention: the sizes of `kept_by_layers`, its window, and if it has a mask as well."""

    sizes: tuple[int, int, int]
    window: int | None
    masked: bool
    calls: int = 1


class _Asked:
    """Takes the place of a plan, to see which layers ask it, and with what."""

    def __init__(self) -> None:
        self.layers: dict[int, _Layer] = {}

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _scale: float | None, _dropout: float,
        window: int | None, **others: object,
    ) -> Tensor:  # fmt: skip
        layer = _Layer((key.shape[1], key.shape[3], value.shape[3]), window, masked="mask" in others)
        layer.calls += self.layers[id(module)].calls if id(module) in self.layers else 0
        self.layers[id(module)] = layer
        return value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


_LAYERS: dict[tuple[type, str], list[_Layer]] = {}


def kept_by_layers(model: nn.Module) -> list[tuple[int, int, int]]:
    """Per layer that a plan reaches: the heads of its keys and values, a key's width and a value's."""
    return [layer.sizes for layer in _layers(model)]


def _layers(model: nn.Module) -> list[_Layer]:
    """The layers that a plan reaches; asked once per class and configuration, of a twin without weights."""
    inner = transformers_model(model)
    described = (type(inner), inner.config.to_json_string())
    if described not in _LAYERS:
        asked, config = _Asked(), deepcopy(inner.config)
        config.pad_token_id = None  # some look for padding among the ids, which have no values on this device
        with torch.device("meta"):
            twin: Any = type(inner)(config)
            ids = torch.zeros(1, 2, dtype=torch.long)
        twin.bfloat16().eval()  # experts multiply no float32 on this device
        # A forward that does not even take these arguments raises anything: no plan reaches it.
        with suppress(Exception), torch.no_grad(), attends_to_trees(twin):
            twin.base_model(input_ids=ids, position_ids=ids, tree_plan=asked, use_cache=False)
        _LAYERS[described] = list(asked.layers.values())
    return _LAYERS[described]


def refuse_unsuited(model: nn.Module, kernel: Kernel, device: str) -> None:
    """Refuses to train a model on trees on this type of device where it, or the kernel, cannot.

    Raises:
        ChatbenchError: with the reason.
    """
    if kernel == "flex" and device != "cuda":
        raise ChatbenchError(
            f"packed_attention = 'flex' on {device}",
            expected="a CUDA GPU: FlexAttention has no backward pass elsewhere",
            fix="set packed_attention to blocks",
        )
    reason = why_not_trees(model)
    if reason:
        kind = type(transformers_model(model)).__name__
        fix = "; ".join(["set packing to none", *simulation_hint(model)])
        raise ChatbenchError(f"packing is not possible for {kind}: {reason}", fix=fix)


def simulation_hint(model: nn.Module) -> list[str]:
    """A note on a model that can be trained without packing, but not sampled from here; else nothing."""
    reason = why_not_trees(model, capped=True)
    return [f"chatbench cannot simulate with it here ({reason}): serve it behind an endpoint"] if reason else []


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """The model inside the wrappers of distributed training and of adapters."""
    inner: Any = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return cast(PreTrainedModel, inner)
