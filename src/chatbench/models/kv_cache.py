"""A cache of attention keys and values, so that each distinct token is read once.

`RadixCache` is a tree of token segments: every prompt that was read is a path in it, and another prompt reads only
what comes after the longest path that it shares. Chats about a question share instruction and question; the turns of a
chat share the chat so far. When memory runs out, the least recently used leaves are evicted first.

`Slab` holds the rows of a batch that are being continued, side by side and padded on the right to one width, so that
attention to all of them is one call per layer. A row has its own copy of what it shares with others: copying is a
thousandth of the work of reading, and attention in place is several times faster than gathering segments at each token.
Rows that begin alike are put into one slab, and on a CPU the copy of its first row then stands for all of them.

`Step` is one forward pass over new tokens of any rows, laid end to end without padding: one token of each row that is
continued, and pieces of the prompts that are being read. It is passed in place of a `TreePlan` (`prefix_tree`), so the
model's own forward calls it for attention in each layer. Masks are exact, sliding windows included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.models.prefix_tree import kept_by_layers

SLAB_TOKENS = 16_384
"""Tokens that a slab has room for: 64 rows of 256."""
NARROWEST = 256
"""Tokens of the narrowest row; each slab width is twice the one before."""
SHARING = 16
"""Rows that begin alike get a slab of their own if they are this many, and are attended to together."""
SHARED_TOKENS = 64
"""Tokens of the shortest beginning that is attended to once for all rows of a slab."""


class OutOfRoomError(Exception):
    """The limit on keys and values leaves no room; the caller frees something or reports it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a model's keys and values; both of a token in all layers take `token_bytes`."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """The shape of a model that reads trees.

        Raises:
            ChatbenchError: its keys and values are not all of one shape, as in Gemma 4 and DeepSeek-V3.
        """
        layers = kept_by_layers(model)
        heads, width, of_value = layers[0]
        if len(set(layers)) > 1 or width != of_value:
            raise ChatbenchError(
                f"{type(model).__name__} cannot be sampled from here: its keys and values differ in width or heads",
                expected="keys and values of one shape in all layers",
                fix="use an endpoint",
            )
        return cls(len(layers), heads, width, model.dtype, model.device)

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize

    def empty(self, *sizes: int) -> Tensor:
        """Shape (layers, 2 for keys and values, *sizes, head width), uninitialised."""
        return torch.empty(self.layers, 2, *sizes, self.width, dtype=self.dtype, device=self.device)


class _Node:
    """Some tokens after the parent's, and their keys and values, shape (layers, 2, heads, tokens, head width).

    `states` are None while they are being read; `rows` counts the active rows that begin with the path to here.
    """

    __slots__ = ("children", "parent", "rows", "states", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], states: Tensor | None, parent: _Node | None, used: int) -> None:
        self.tokens, self.states, self.parent, self.used = tokens, states, parent, used
        self.rows = 0
        self.children: dict[int, _Node] = {}


class RadixCache:
    """Keys and values by their tokens; with those in the slabs, at most `limit` bytes.

    `bytes` is the current total, `peak` the largest so far.
    """

    def __init__(self, shape: Shape, limit: int) -> None:
        self.shape, self.limit = shape, limit
        self.bytes = self.peak = 0
        self._root = _Node((), None, None, 0)
        self._clock = 0

    def begin(self, tokens: tuple[int, ...], buffer_tokens: int) -> tuple[Tensor, int] | None:
        """A buffer that begins with the cached part of `tokens`, shape (1 of `Shape.empty`), and its number of tokens.

        The rest counts as being read until `end`. None while another prompt is reading a beginning that both share.

        Raises:
            OutOfRoomError: the buffer and what is new would exceed the limit.
        """
        path, node, known = self._walk(tokens)
        if node is not None and node.states is None:
            return None
        fresh = len(tokens) - known
        self.take((buffer_tokens + fresh) * self.shape.token_bytes, keep=[each for each, _ in path])
        buffer, start = self.shape.empty(self.shape.heads, buffer_tokens), 0
        for each, count in path:
            each.used = self._clock
            assert each.states is not None  # only the last of a path may be without
            buffer[..., start : start + count, :] = each.states[..., :count, :]
            start += count
        parent = self._split(*path[-1]) if path else self._root
        if fresh:
            parent.children[tokens[known]] = _Node(tokens[known:], None, parent, self._clock)
        self._count(tokens, 1)
        return buffer, known

    def end(self, tokens: tuple[int, ...], states: Tensor) -> None:
        """Stores what was read since `begin` from its buffer, or a copy of `states` if nothing was begun."""
        path, node, known = self._walk(tokens)
        if node is None and known < len(tokens):  # a reply, which was written and not read
            fresh = len(tokens) - known
            try:
                self.take(fresh * self.shape.token_bytes, keep=[each for each, _ in path])
            except OutOfRoomError:
                return
            parent = self._split(*path[-1]) if path else self._root
            node = parent.children[tokens[known]] = _Node(tokens[known:], None, parent, self._clock)
        if node is not None and node.states is None and node.tokens == tokens[known:]:  # else another prompt reads it
            start = len(tokens) - len(node.tokens)
            node.states = states[..., start : len(tokens), :].clone()

    def leave(self, tokens: tuple[int, ...]) -> None:
        """The row that began with `tokens` is no longer active."""
        self._count(tokens, -1)

    def shared(self, tokens: tuple[int, ...]) -> int:
        """How many of the first tokens enough active rows begin with to attend to them together, or 0.

        0 except on a CPU, where it was measured.
        """
        if self.shape.device.type != "cpu":
            return 0
        count = 0
        for node, known in self._walk(tokens)[0]:
            if node.rows < SHARING:
                break
            count += known
        return count if count >= SHARED_TOKENS else 0

    def _count(self, tokens: tuple[int, ...], rows: int) -> None:
        path, reading, _ = self._walk(tokens)
        for node in [*(node for node, _ in path), *([reading] if reading else [])]:
            node.rows = max(0, node.rows + rows)  # one that was evicted and read again has not counted all

    def take(self, count: int, keep: Sequence[_Node] = ()) -> None:
        """Reserves this many bytes, evicting the least recently used leaves for them.

        Raises:
            OutOfRoomError: eviction cannot free enough.
        """
        while self.bytes + count > self.limit:
            leaves: list[_Node] = []
            waiting = [self._root]
            while waiting:
                node = waiting.pop()
                waiting.extend(node.children.values())
                if not node.children and node.states is not None and node not in keep:
                    leaves.append(node)
            if not leaves:
                raise OutOfRoomError
            for leaf in sorted(leaves, key=lambda each: each.used):
                if self.bytes + count > self.limit and leaf.parent is not None:
                    del leaf.parent.children[leaf.tokens[0]]
                    self.give(len(leaf.tokens) * self.shape.token_bytes)
        self.bytes += count
        self.peak = max(self.peak, self.bytes)

    def give(self, count: int) -> None:
        """Releases this many bytes."""
        self.bytes -= count

    def _walk(self, tokens: tuple[int, ...]) -> tuple[list[tuple[_Node, int]], _Node | None, int]:
        """Nodes and how many of their tokens `tokens` share; the node being read that comes next; tokens shared."""
        self._clock += 1
        node, known = self._root, 0
        path: list[tuple[_Node, int]] = []
        while known < len(tokens) and (following := node.children.get(tokens[known])):
            if following.states is None:
                return path, following, known
            count = _common(following.tokens, tokens[known : known + len(following.tokens)])
            path.append((following, count))
            known += count
            if count < len(following.tokens):
                break
            node = following
        return path, None, known

    def _split(self, node: _Node, count: int) -> _Node:
        """The node, or a new one of its first `count` tokens above the rest of it."""
        if count == len(node.tokens):
            return node
        assert node.states is not None
        assert node.parent is not None
        upper = _Node(node.tokens[:count], node.states[..., :count, :].clone(), node.parent, self._clock)
        upper.rows = node.rows
        node.parent.children[node.tokens[0]] = upper
        node.tokens, node.states, node.parent = node.tokens[count:], node.states[..., count:, :].clone(), upper
        upper.children[node.tokens[0]] = node
        return upper


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The number of leading tokens that both share."""
    if one == other:
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def slab_width(tokens: int, context: int) -> int:
    """Width of the narrowest slab with room for a row of this many tokens."""
    width = NARROWEST
    while width < tokens:
        width *= 2
    return min(width, context)


class Slab:
    """Rows of one width: `states` of shape (layers, 2, rows, heads, width, head width), `lengths` of those in use.

    All rows begin with the tokens of `start`. On a CPU, a row takes no memory until it is written, so slabs may be many
    and far from full.
    """

    def __init__(self, cache: RadixCache, tokens: int, context: int, start: tuple[int, ...] = ()) -> None:
        shape = cache.shape
        self.start = start
        self.width = slab_width(tokens, context)
        most = min(SLAB_TOKENS, cache.limit // 8 // shape.token_bytes)
        self.rows = max(1, most // self.width)
        self.bytes = 0
        self.lengths: list[int] = []
        self._cache = cache
        self.reserve(1 if shape.device.type == "cpu" else self.rows)
        self.states = shape.empty(self.rows, shape.heads, self.width)

    def reserve(self, rows: int) -> None:
        """Counts the memory of this many rows, if it is not counted yet.

        Raises:
            OutOfRoomError: there is no room for them.
        """
        more = rows * self.width * self._cache.shape.token_bytes - self.bytes
        if more > 0:
            self._cache.take(more)
            self.bytes += more

    def append(self, states: Tensor, length: int) -> None:
        """Adds a row with the first `length` tokens of `states`, shape (layers, 2, heads, tokens, head width)."""
        place = self.states[:, :, len(self.lengths)]
        place[..., :length, :] = states[..., :length, :]
        place[..., length:, :] = 0  # masked, but garbage may be NaN
        self.lengths.append(length)

    def remove(self, place: int) -> None:
        """Removes this row; the last one takes its place."""
        length = self.lengths.pop()
        if place < len(self.lengths):
            self.states[:, :, place, :, :length] = self.states[:, :, len(self.lengths), :, :length]
            self.lengths[place] = length


@dataclass(slots=True)
class Piece:
    """Tokens of one prompt that are read together: `count` of them, after the first `start` of its `buffer`."""

    buffer: Tensor
    start: int
    count: int


class Step:
    """One forward pass: a token of every row of `slabs`, then the tokens of `pieces`, in this order."""

    def __init__(self, slabs: Sequence[Slab], pieces: Sequence[Piece]) -> None:
        self._slabs, self._pieces = slabs, pieces
        lengths = [slab.lengths for slab in slabs]
        starts = [piece.start + place for piece in pieces for place in range(piece.count)]
        self.positions = [*(length for each in lengths for length in each), *starts]
        self._masks: dict[tuple[int | None, int], list[Tensor]] = {}
        self._places: list[tuple[Tensor, Tensor]] = []

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float | None, _dropout: float,
        window: int | None, softcap: float | None = None,
    ) -> Tensor:  # fmt: skip
        """The attention output, shape (1, tokens, heads, width); stores the new keys and values.

        `query` has shape (1, heads, tokens, width); `key` and `value` may have fewer heads.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]  # every attention of transformers has one
        # Heads that share keys become further queries to them, so that no key is copied.
        groups = query.shape[1] // key.shape[1]
        masks = self._masks.get((window, groups))
        if masks is None:  # per slab, of shape (rows, 1, 1, slots), then per piece, of shape (groups * tokens, slots)
            masks, self._places = [], []
            for slab in self._slabs:
                at = torch.tensor(slab.lengths, device=key.device)
                self._places.append((torch.arange(len(at), device=key.device), at))
                masks.append(_mask(at[:, None], max(slab.lengths) + 1, window, key)[:, None, None])
            for piece in self._pieces:
                end = piece.start + piece.count
                at = torch.arange(piece.start, end, device=key.device).repeat(groups)
                masks.append(_mask(at[:, None], end, window, key))
            self._masks[window, groups] = masks
        queries = query[0].reshape(key.shape[1], groups, *query.shape[2:])  # (key heads, groups, tokens, width)
        stored = torch.cat([key, value])  # (2, key heads, tokens, width)
        found, begun = [], 0
        for slab, (rows, places), mask in zip(self._slabs, self._places, masks, strict=False):
            count = len(slab.lengths)
            new = slice(begun, begun + count)
            keys, values = slab.states[layer]
            slab.states[layer][:, rows, :, places] = stored[:, :, new].permute(2, 0, 1, 3)
            seen = slice(mask.shape[-1])
            asked = queries[:, :, new].permute(2, 0, 1, 3)
            shared = len(slab.start) if count >= SHARING else 0
            out = _attention(asked, keys[:count, :, seen], values[:count, :, seen], mask, scale, softcap, shared)
            found.append(out.flatten(1, 2))
            begun += count
        for piece, mask in zip(self._pieces, masks[len(self._slabs) :], strict=True):
            new, end = slice(begun, begun + piece.count), piece.start + piece.count
            keys, values = piece.buffer[layer]
            piece.buffer[layer][:, :, piece.start : end] = stored[:, :, new]
            asked = queries[:, :, new].flatten(1, 2)[None]
            out = _attention(asked, keys[None, :, :end], values[None, :, :end], mask, scale, softcap)
            found.append(out[0].reshape(-1, piece.count, out.shape[-1]).transpose(0, 1))
            begun += piece.count
        return torch.cat(found)[None]


def _mask(positions: Tensor, slots: int, window: int | None, like: Tensor) -> Tensor:
    """0 where a token sees a slot (itself and those before it within the window), else the lowest number."""
    behind = positions - torch.arange(slots, device=like.device)
    hidden = (behind < 0) | (behind >= window) if window is not None else behind < 0
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, torch.finfo(like.dtype).min
    )


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, softcap: float | None, shared: int = 0
) -> Tensor:
    """Attention of shape (rows, key heads, queries, width), as `query`; the first `shared` slots are alike in all rows.

    Those are read from the first row only: keys and values are most of what a pass reads of memory.
    """
    if softcap is None and not shared:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    rows, heads, queries, _ = query.shape
    # As keys times queries: with few queries, twice as fast as queries times keys.
    own = (key[:, :, shared:] @ query.transpose(-1, -2)).transpose(-1, -2)
    together = query.transpose(0, 1).reshape(heads, rows * queries, -1) @ key[0, :, :shared].transpose(-1, -2)
    common = together.view(heads, rows, queries, shared).transpose(0, 1)
    scores = torch.cat([common, own], -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + mask).softmax(-1, dtype=torch.float32).to(value.dtype)
    of_own = weights[..., shared:] @ value[:, :, shared:]
    of_common = weights[..., :shared].transpose(0, 1).reshape(heads, rows * queries, shared) @ value[0, :, :shared]
    return of_own + of_common.view(heads, rows, queries, -1).transpose(0, 1)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a text: the tokenizer's and those that the model's generation settings name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None)
