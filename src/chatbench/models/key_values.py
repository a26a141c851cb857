"""Attention keys and values of single sequences, and the padded cache that a batch of them needs.

A `Past` holds one sequence's keys and values without padding; every sequence that starts with the same tokens can share
it. `padded_cache` copies several behind left padding into the cache object that a transformers model takes, once:
copies and fresh memory, not arithmetic, are what a small model waits for. For decoders whose layers all keep their
whole past (GPT-2, Llama, Mistral within its window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 32
"""Room that a cache layer makes at once: a copy of the whole cache per 32 tokens in place of one per token."""


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of one sequence: per layer a tensor of shape (heads, tokens, head width)."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers has no types here
    """A cache layer that writes new tokens into spare room in place of copying itself for each."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = (_roomier(self.keys, key_states, end), _roomier(self.values, value_states, end))
        self._room[0][:, :, start:end] = key_states
        self._room[1][:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def fill(self, keys: Sequence[torch.Tensor | None], values: Sequence[torch.Tensor | None], width: int) -> None:
        """Takes one row per entry, each of shape (heads, tokens <= width, head width), padded on the left."""
        some = next(row for row in keys if row is not None)
        self.lazy_initialization(some, some)
        self._room = (_padded(keys, some, width), _padded(values, some, width))
        self._show(width)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None

    def _show(self, end: int) -> None:
        assert self._room is not None  # for the type checker: both callers have just set it
        self.keys, self.values = self._room[0][:, :, :end], self._room[1][:, :, :end]


def _roomier(old: torch.Tensor, new: torch.Tensor, end: int) -> torch.Tensor:
    rows, heads, _, width = new.shape
    room = new.new_empty(rows, heads, end + SPARE_TOKENS, width)
    if old.numel():
        room[:, :, : old.shape[-2]] = old
    return room


def _padded(rows: Sequence[torch.Tensor | None], some: torch.Tensor, width: int) -> torch.Tensor:
    room = some.new_empty(len(rows), some.shape[0], width + SPARE_TOKENS, some.shape[2])
    for place, row in zip(room, rows, strict=True):
        start = width - (0 if row is None else row.shape[1])
        place[:, :start] = 0  # padding is masked, but what is there by chance may be NaN, and 0 times NaN is NaN
        if row is not None:
            place[:, start:width] = row
    return room


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


def unpadded_rows(cache: DynamicCache, starts: Sequence[int], ends: Sequence[int]) -> list[Past]:
    """Each row's slots `starts[row]:ends[row]`, as views: they keep the cache's memory alive."""
    layers = cast("list[GrowingLayer]", cache.layers)
    return [
        Past(
            tuple(layer.keys[row, :, start:end] for layer in layers),
            tuple(layer.values[row, :, start:end] for layer in layers),
        )
        for row, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
