"""Attention keys and values of prompts: what prompts share is computed once, and a batch gets them in one cache.

A `Past` holds one sequence's keys and values without padding; every sequence that starts with the same tokens can share
it. `padded_cache` copies several behind left padding into the cache object that a transformers model takes, once:
copies and fresh memory, not arithmetic, are what a small model waits for.

`Prefill` computes prompts that start alike (one question, many simulated people) once: equal prompts wholly, similar
ones up to where they part. Every forward pass has the past of its rows padded on the left and their new tokens on the
right, so that each row's own slots are adjacent. For decoders whose layers all keep their whole past (GPT-2, Llama,
Mistral within its window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 32
"""Memory that a cache layer reserves at once: a copy of the whole cache per 32 tokens in place of one per token."""
PREFILL_TOKENS = 4096
"""Prompt tokens per forward pass: more only falls out of the CPU's cache."""
PASS_TOKENS = 128
"""A forward pass costs about as much as so many tokens, before it computes any (measured on the packaged model)."""
LEAST_SHARED = 8
"""A start of fewer tokens is not worth a pass of its own."""


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of one sequence: per layer a tensor of shape (heads, tokens, head width)."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers has no types here
    """A cache layer that writes new tokens into spare memory in place of copying itself for each."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._reserved: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._reserved is None or self._reserved[0].shape[-2] < end:
            self._reserved = (_grown(self.keys, key_states, end), _grown(self.values, value_states, end))
        self._reserved[0][:, :, start:end] = key_states
        self._reserved[1][:, :, start:end] = value_states
        self.keys, self.values = (states[:, :, :end] for states in self._reserved)
        return self.keys, self.values

    def fill(self, keys: Sequence[torch.Tensor | None], values: Sequence[torch.Tensor | None], width: int) -> None:
        """Takes one row per entry, each of shape (heads, tokens <= width, head width), padded on the left."""
        some = next(row for row in keys if row is not None)
        self.lazy_initialization(some, some)
        self._reserved = (_padded(keys, some, width), _padded(values, some, width))
        self.keys, self.values = (states[:, :, :width] for states in self._reserved)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._reserved = None


def _grown(old: torch.Tensor, new: torch.Tensor, end: int) -> torch.Tensor:
    rows, heads, _, width = new.shape
    grown = new.new_empty(rows, heads, end + SPARE_TOKENS, width)
    if old.numel():
        grown[:, :, : old.shape[-2]] = old
    return grown


def _padded(rows: Sequence[torch.Tensor | None], some: torch.Tensor, width: int) -> torch.Tensor:
    padded = some.new_empty(len(rows), some.shape[0], width + SPARE_TOKENS, some.shape[2])
    for place, row in zip(padded, rows, strict=True):
        start = width - (0 if row is None else row.shape[1])
        place[:, :start] = 0  # padding is masked, but what is there by chance may be NaN, and 0 times NaN is NaN
        if row is not None:
            place[:, start:width] = row
    return padded


def padded_cache(layers: int, pasts: Sequence[Past | None]) -> tuple[DynamicCache, list[int]]:
    """A cache with one row per past (None: an empty one), and how many slots of padding each row begins with."""
    cache = DynamicCache()
    grown = [GrowingLayer() for _ in range(layers)]
    cache.layers = list(grown)
    lengths = [past.tokens if past else 0 for past in pasts]
    width = max(lengths)
    if width:
        for index, layer in enumerate(grown):
            keys = [past.keys[index] if past else None for past in pasts]
            layer.fill(keys, [past.values[index] if past else None for past in pasts], width)
    return cache, [width - length for length in lengths]


class Prefill:
    """Forward passes of a causal language model whose attention is `sdpa` or `eager`: they read additive masks.

    Args:
        context: tokens that the model can see at once.
    """

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        self.model = model
        self.context = context
        self.layers = int(model.config.num_hidden_layers)

    def pasts(self, sequences: Sequence[tuple[int, ...]]) -> list[Past | None]:
        """Keys and values of each sequence (None for an empty one); what sequences share is computed once."""
        distinct = sorted({sequence for sequence in sequences if sequence})
        shared = shared_starts(distinct)
        starts = sorted({sequence[: shared[sequence]] for sequence in distinct if shared[sequence]})
        start_pasts = dict(zip(starts, self._extended([None] * len(starts), starts), strict=True))
        heads = [start_pasts.get(sequence[: shared[sequence]]) for sequence in distinct]
        rests = [sequence[shared[sequence] :] for sequence in distinct]
        pasts = dict(zip(distinct, self._extended(heads, rests), strict=True))
        return [pasts.get(sequence) for sequence in sequences]

    def _extended(self, pasts: Sequence[Past | None], sequences: Sequence[tuple[int, ...]]) -> list[Past]:
        """Keys and values of each past followed by its sequence."""
        extended: dict[int, Past] = {}
        for rows in passes([len(sequence) for sequence in sequences]):
            batch = [sequences[row] for row in rows]
            cache, padding = padded_cache(self.layers, [pasts[row] for row in rows])
            past_slots, width = cache.get_seq_length(), max(map(len, batch))
            tokens = torch.tensor([[*ids, *[ids[-1]] * (width - len(ids))] for ids in batch], device=self.model.device)
            self.columns(tokens, torch.tensor(padding, device=self.model.device), cache)
            layers = cast("list[GrowingLayer]", cache.layers)
            for place, (row, start, ids) in enumerate(zip(rows, padding, batch, strict=True)):
                slots = slice(start, past_slots + len(ids))  # views: they keep the cache's memory alive
                keys = tuple(layer.keys[place, :, slots] for layer in layers)
                extended[row] = Past(keys, tuple(layer.values[place, :, slots] for layer in layers))
        return [extended[row] for row in range(len(sequences))]

    def columns(
        self, tokens: torch.Tensor, padding: torch.Tensor, cache: DynamicCache, *, logits: int = 1
    ) -> torch.Tensor:
        """Logits of the last columns of new tokens behind what the cache holds; the cache grows by all of them.

        Args:
            tokens: shape (rows, columns).
            padding: shape (rows,), how many slots of padding each row of the cache begins with.
            logits: of how many columns logits are wanted.

        Returns:
            Shape (rows, logits, vocabulary).
        """
        past_slots, (rows, width) = cache.get_seq_length(), tokens.shape
        steps = torch.arange(width, device=tokens.device)
        dtype = self.model.dtype
        causal = torch.full((width, width), torch.finfo(dtype).min, device=tokens.device, dtype=dtype)
        bias = self.bias(padding, past_slots).expand(-1, 1, width, past_slots)
        bias = torch.cat([bias, causal.triu(1).expand(rows, 1, width, width)], dim=-1)
        # Padding may count past the context: what comes out of it is thrown away, but its position must exist.
        positions = (past_slots - padding[:, None] + steps).clamp(max=self.context - 1)
        return self.forward(tokens, positions, cache, bias, logits=logits)

    def bias(self, padding: torch.Tensor, slots: int) -> torch.Tensor:
        """Additive attention mask of shape (rows, 1, 1, slots): the lowest number on padding, 0 elsewhere."""
        hidden = torch.arange(slots, device=padding.device) < padding[:, None]
        bias = torch.zeros(hidden.shape, dtype=self.model.dtype, device=padding.device)
        return bias.masked_fill(hidden, torch.finfo(self.model.dtype).min)[:, None, None, :]

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: DynamicCache, bias: torch.Tensor, *, logits: int = 1
    ) -> torch.Tensor:
        """Logits of the last `logits` columns, shape (rows, logits, vocabulary); the cache grows by `tokens`."""
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits,
        )
        found: torch.Tensor = output.logits
        return found


def shared_starts(sequences: Sequence[tuple[int, ...]], *, least: int = LEAST_SHARED) -> dict[tuple[int, ...], int]:
    """How many leading tokens each sequence shares with its cluster; 0 where it is alone.

    Neighbours in the given (sorted) order form clusters. A sequence joins the one before it where that saves at least
    as many tokens as parting: all members but one save what all of them share. At least one token stays out of the
    shared start, so that none is left empty.

    >>> shared_starts([(1, 2, 3, 4), (1, 2, 3, 5, 6), (7, 8)], least=2)
    {(1, 2, 3, 4): 3, (1, 2, 3, 5, 6): 3, (7, 8): 0}
    """
    following = [*(_common(one, other) for one, other in pairwise(sequences)), 0][: len(sequences)]
    clusters: list[list[tuple[int, ...]]] = []
    shared: list[int] = []
    for sequence, with_next in zip(sequences, following, strict=True):
        if clusters:
            members, common = len(clusters[-1]), min(shared[-1], _common(clusters[-1][0], sequence))
            apart = (members - 1) * shared[-1] + (with_next if with_next > common else 0)
            if common >= least and members * common >= apart:
                clusters[-1].append(sequence)
                shared[-1] = common
                continue
        clusters.append([sequence])
        shared.append(len(sequence) - 1)
    return {
        sequence: length if len(cluster) > 1 else 0
        for cluster, length in zip(clusters, shared, strict=True)
        for sequence in cluster
    }


def passes(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in forward passes such that the tokens computed, padding included, and the cost of each pass are fewest.

    Every pass has at most `PREFILL_TOKENS` columns in all, or a single row.

    >>> passes([2000, 9, 10, 1900])
    [[0, 3], [2, 1]]
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    # cheapest[end]: cost of the first `end` rows, longest first, and where their last pass begins.
    cheapest: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            columns = lengths[order[start]] * (end - start)  # the first of a pass is its longest
            if columns > PREFILL_TOKENS and start < end - 1:
                break
            options.append((cheapest[start][0] + columns + PASS_TOKENS, start))
        cheapest.append(min(options))
    found: list[list[int]] = []
    end = len(order)
    while end:
        start = cheapest[end][1]
        found.insert(0, order[start:end])
        end = start
    return found


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a text: the tokenizer's and those that the model's generation settings name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None)
