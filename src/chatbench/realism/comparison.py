"""How like people simulated users are: every measure on simulated against real chats, beside people against people.

Of each measure there are up to four numbers. *simulated* and *people*: the trait of either side. *apart*: how far the
simulated chats are from the second half of the people (for a trait, the absolute difference). *people apart*: how far
the first half of the people is from the second, by equally many chats. Both are means over random halvings (`halves`).
A simulator is as real as this measure can tell where *apart* is no larger than *people apart*.

Random halves of the people: how different two groups of real people are, by the same measure and sample size.

A distance between samples never is 0, even between samples of the same people, and it grows as samples shrink. So
people are halved at random, the whole of a person's chats going to one half, and both distances are taken to the same
second half: from the first half, and from as many simulated chats of the same cells. Halving many times tells how far
chance alone moves either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from chatbench.metrics.accuracies import Cell
from chatbench.metrics.agreement import Undefined, Value, mean_value
from chatbench.realism.behaviour import BehaviourClasses, behaviour_classes
from chatbench.realism.chats import ChatTraits
from chatbench.realism.detectability import Detection, detection
from chatbench.realism.measures import LENGTH_DISTANCES, TRAITS, Chats, Distance, Trait, behaviour_distances

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


ONE_PERSON = Undefined("fewer than two people wrote about these questions")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure; `simulated` and `people` are None where it is a distance and neither side has a value of its own.

    `people_range`: 2.5 and 97.5 % quantiles of *people apart* over halvings. `further`: share of halvings in which the
    simulated chats were further from the people than the people from each other.
    """

    measure: str
    unit: str
    simulated: Value | None
    people: Value | None
    apart: Value
    people_apart: Value
    people_range: tuple[float, float] | None = None
    further: Value | None = None


@dataclass(frozen=True, slots=True)
class ClassShare:
    """A class of behaviour and the shares (0..1) of real and simulated chats in it."""

    name: str
    people: float
    simulated: float


@dataclass(frozen=True, slots=True)
class Realism:
    """All comparisons of one split; `detected` tells simulated from real, `people_detected` one half from the other."""

    chats: int
    simulated_chats: int
    people: int
    comparisons: tuple[Comparison, ...]
    classes: tuple[ClassShare, ...]
    detected: Detection | Undefined
    people_detected: Detection | Undefined


def realism(real: Chats, simulated: Chats, training: Chats, seed: int) -> Realism:
    """Compares simulated with real chats of the same cells.

    Args:
        real, simulated: held-out chats of the cells that both sides have.
        training: people's training-side chats, in which the classes of behaviour are found.
    """
    halves = list(
        halvings(
            real,
            simulated,
            person_of=lambda chat: chat.person,
            cell_of=lambda chat: chat.cell,
            rng=np.random.default_rng(seed),
        )
    )
    classes = behaviour_classes(training, seed)
    places = {} if isinstance(classes, Undefined) else _places(classes, [*real, *simulated])
    number = classes if isinstance(classes, Undefined) else len(classes.centres)
    distances = (*LENGTH_DISTANCES, *behaviour_distances(lambda chat: places[id(chat)], number))
    comparisons = [_trait(trait, real, simulated, halves) for trait in TRAITS]
    comparisons += [_distance(distance, halves) for distance in distances]
    detected = detection(halves[0].second, halves[0].simulated, seed) if halves else ONE_PERSON
    people_detected = detection(halves[0].second, halves[0].first, seed) if halves else ONE_PERSON
    return Realism(
        chats=len(real),
        simulated_chats=len(simulated),
        people=len({chat.person for chat in real}),
        comparisons=(*comparisons, *_detectability(detected, people_detected)),
        classes=() if isinstance(classes, Undefined) else tuple(_shares(classes, places, real, simulated)),
        detected=detected,
        people_detected=people_detected,
    )


def _trait(trait: Trait, real: Chats, simulated: Chats, halves: Sequence[Halving[ChatTraits]]) -> Comparison:
    values = [(trait.of(half.simulated), trait.of(half.first), trait.of(half.second)) for half in halves]
    apart = [_difference(simulator, second) for simulator, _, second in values]
    reference = [_difference(first, second) for _, first, second in values]
    if trait.shrinks and halves:
        own = mean_value([simulator for simulator, _, _ in values]), mean_value([first for _, first, _ in values])
    else:
        own = trait.of(simulated), trait.of(real)
    return _compared(trait.name, trait.unit, own, apart, reference)


def _difference(first: Value, second: Value) -> Value:
    if isinstance(first, Undefined):
        return first
    return second if isinstance(second, Undefined) else abs(first - second)


def _distance(distance: Distance, halves: Sequence[Halving[ChatTraits]]) -> Comparison:
    apart = [distance.between(half.simulated, half.second) for half in halves]
    reference = [distance.between(half.first, half.second) for half in halves]
    return _compared(distance.name, distance.unit, (None, None), apart, reference)


def _compared(
    name: str, unit: str, own: tuple[Value | None, Value | None], apart: Sequence[Value], reference: Sequence[Value]
) -> Comparison:
    """A measure from its values per halving; undefined where it is undefined in one of them."""
    if not apart:
        return Comparison(name, unit, *own, ONE_PERSON, ONE_PERSON)
    means = mean_value(list(apart)), mean_value(list(reference))
    known = [value for value in reference if not isinstance(value, Undefined)]
    pairs = [(a, r) for a, r in zip(apart, reference, strict=True) if isinstance(a, float) and isinstance(r, float)]
    if len(pairs) < len(apart):
        return Comparison(name, unit, *own, *means)
    low, high = np.quantile(known, [0.025, 0.975])
    further = sum(a > r for a, r in pairs) / len(pairs)
    return Comparison(name, unit, *own, *means, (float(low), float(high)), further)


def _detectability(detected: Detection | Undefined, reference: Detection | Undefined) -> list[Comparison]:
    """Accuracy and area of the classifier as two more distances, with the reference's bootstrap interval."""
    rows = []
    for name in ("accuracy", "AUC"):
        values = [
            found if isinstance(found, Undefined) else (found.accuracy if name == "accuracy" else found.auc)
            for found in (detected, reference)
        ]
        spread = None
        if isinstance(reference, Detection):
            spread = reference.accuracy_interval if name == "accuracy" else reference.auc_interval
        apart, people_apart = values
        rows.append(
            Comparison(f"real-or-simulated classifier, {name}", "share", None, None, apart, people_apart, spread)
        )
    return rows


def _places(classes: BehaviourClasses, chats: Chats) -> dict[int, int]:
    """The class of each chat by the identity of its record: the same chats are counted once per halving."""
    return {id(chat): place for chat, place in zip(chats, classes.classes_of(chats), strict=True)}


def _shares(classes: BehaviourClasses, places: Mapping[int, int], real: Chats, simulated: Chats) -> list[ClassShare]:
    of_people, of_simulated = (Counter(places[id(chat)] for chat in side) for side in (real, simulated))
    return [
        ClassShare(name, of_people[place] / max(1, len(real)), of_simulated[place] / max(1, len(simulated)))
        for place, name in enumerate(classes.names())
    ]
