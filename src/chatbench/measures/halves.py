"""Random halves of the people: how different two groups of real people are, by the same measure and sample size.

A distance between samples never is 0, even between samples of the same people, and it grows as samples shrink. So
people are halved at random, the whole of a person's chats going to one half, and both distances are taken to the same
second half: from the first half, and from as many simulated chats of the same cells. Halving many times tells how far
chance alone moves either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from chatbench.measures.accuracies import Cell

Chat = TypeVar("Chat")

HALVINGS = 20
"""Enough for a mean and a range; every further one costs as much as the first."""


@dataclass(frozen=True, slots=True)
class Halving(Generic[Chat]):
    """`second` is half of the people; `first` and `simulated` hold equally many chats of each cell."""

    first: tuple[Chat, ...]
    simulated: tuple[Chat, ...]
    second: tuple[Chat, ...]


def halvings(
    real: Sequence[Chat],
    simulated: Sequence[Chat],
    *,
    person_of: Callable[[Chat], str],
    cell_of: Callable[[Chat], Cell],
    rng: np.random.Generator,
    count: int = HALVINGS,
) -> Iterator[Halving[Chat]]:
    """`count` random halvings; people who worked with the same assistant are spread evenly over the halves.

    Nothing is yielded where there is one person only.
    """
    cells = _by_cell(simulated, cell_of)
    assistants: dict[str, set[str]] = defaultdict(set)
    for chat in real:
        assistants[person_of(chat)].add(cell_of(chat)[1])
    people = sorted(assistants, key=lambda person: (sorted(assistants[person]), person))
    if len(people) < 2:
        return
    for _ in range(count):
        in_first = _every_other(people, [tuple(sorted(assistants[person])) for person in people], rng)
        first = [chat for chat in real if person_of(chat) in in_first]
        second = tuple(chat for chat in real if person_of(chat) not in in_first)
        yield Halving(*_equally_many(_by_cell(first, cell_of), cells, rng), second)


def _every_other(people: Sequence[str], groups: Sequence[object], rng: np.random.Generator) -> set[str]:
    """Half of the people of each group of neighbours, drawn at random; halves differ by one person at most."""
    keys = rng.random(len(people))
    order = sorted(range(len(people)), key=lambda index: (str(groups[index]), keys[index]))
    return {people[index] for index in order[int(rng.integers(2)) :: 2]}


def _equally_many(
    people: dict[Cell, list[Chat]], simulated: dict[Cell, list[Chat]], rng: np.random.Generator
) -> tuple[tuple[Chat, ...], tuple[Chat, ...]]:
    """From each cell that both have, as many chats of either as the smaller side has, drawn at random."""
    chosen: tuple[list[Chat], list[Chat]] = ([], [])
    for cell, chats in people.items():
        others = simulated.get(cell, [])
        count = min(len(chats), len(others))
        for side, pool in zip(chosen, (chats, others), strict=True):
            side += [pool[index] for index in sorted(rng.permutation(len(pool))[:count])]
    return tuple(chosen[0]), tuple(chosen[1])


def _by_cell(chats: Sequence[Chat], cell_of: Callable[[Chat], Cell]) -> dict[Cell, list[Chat]]:
    cells: dict[Cell, list[Chat]] = defaultdict(list)
    for chat in chats:
        cells[cell_of(chat)].append(chat)
    return cells
