"""Realism of simulated users: every measure on simulated against real chats, with people against people as reference.

Each measure has up to four numbers. *simulated* and *people*: the trait of each side. *apart*: the distance from the
simulated chats to the second half of the people (for a trait, the absolute difference). *people apart*: the distance
from the first half of the people to the second, with equally many chats. Both are means over random halvings. By this
measure, a simulator is as real as people if *apart* is no larger than *people apart*.

A distance between samples is never 0, even between samples of the same people, and it grows as samples shrink. So
people are split into random halves, all chats of a person in one half, and both distances are taken to the same second
half: from the first half, and from as many simulated chats of the same (question, assistant) pairs. Repeated halvings
show how far chance alone moves each distance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.core.progress import Advanced, unobserved
from chatbench.metrics.agreement import Undefined, Value, mean_value
from chatbench.metrics.pairs import grouped
from chatbench.realism.chats import ChatTraits
from chatbench.realism.detectability import Detection, behaviour_classes, detection
from chatbench.realism.measures import LENGTH_DISTANCES, TRAITS, Chats, behaviour_distances

HALVINGS = 20
"""Enough for a mean and a range; each further one costs as much as the first."""
ONE_PERSON = Undefined("fewer than two people wrote about these questions")


@dataclass(frozen=True, slots=True)
class Halving:
    """One random halving of the people: `first` and `simulated` hold equally many chats of each pair."""

    first: Chats
    simulated: Chats
    second: Chats


def halvings(real: Chats, simulated: Chats, rng: np.random.Generator, count: int = HALVINGS) -> Iterator[Halving]:
    """Draw `count` random halvings; people who worked with the same assistants are spread evenly over the halves.

    Yields nothing if there are fewer than two people.
    """
    worked_with = grouped((chat.person, chat.cell[1]) for chat in real)
    assistants = {person: sorted({*names}) for person, names in worked_with.items()}
    people = sorted(assistants, key=lambda person: (assistants[person], person))
    groups = [str(tuple(assistants[person])) for person in people]
    if len(people) < 2:
        return
    for _ in range(count):
        # Every other person of each group with the same assistants; the halves differ by at most one person.
        keys = rng.random(len(people))
        order = sorted(range(len(people)), key=lambda index: (groups[index], keys[index]))
        in_first = {people[index] for index in order[int(rng.integers(2)) :: 2]}
        first, drawn = equally_many([chat for chat in real if chat.person in in_first], simulated, rng)
        yield Halving(first, drawn, [chat for chat in real if chat.person not in in_first])


def equally_many(one: Chats, other: Chats, rng: np.random.Generator) -> tuple[list[ChatTraits], list[ChatTraits]]:
    """Draw from each pair that both sides have as many chats of each as the side with fewer has."""
    by_cell, pool = (grouped((chat.cell, chat) for chat in side) for side in (one, other))
    drawn: tuple[list[ChatTraits], list[ChatTraits]] = [], []
    for cell, chats in by_cell.items():
        others = pool.get(cell, [])
        size = min(len(chats), len(others))
        for side, of in zip(drawn, (chats, others), strict=True):
            side += [of[index] for index in sorted(rng.permutation(len(of))[:size])]
    return drawn


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure; `simulated` and `people` are None for a distance, which neither side has by itself.

    `people_range`: 2.5 and 97.5 % quantiles of *people apart* over halvings (for the classifier, over its bootstrap).
    `further`: share of halvings in which the simulated chats were further from people than people from each other; a
    tie counts half.
    """

    measure: str
    unit: str
    simulated: Value | None
    people: Value | None
    apart: Value
    people_apart: Value
    people_range: tuple[float, float] | Undefined | None = None
    further: Value | None = None


@dataclass(frozen=True, slots=True)
class ClassShare:
    """A behaviour class and its shares (0..1) of real and simulated chats."""

    name: str
    people: float
    simulated: float


@dataclass(frozen=True, slots=True)
class Realism:
    """All comparisons of one split; `detected`: simulated against real chats, `people_detected`: half against half."""

    chats: int
    simulated_chats: int
    people: int
    comparisons: tuple[Comparison, ...]
    classes: tuple[ClassShare, ...]
    detected: Detection | Undefined
    people_detected: Detection | Undefined


def realism(real: Chats, simulated: Chats, training: Chats, seed: int, advanced: Advanced = unobserved) -> Realism:
    """Compare simulated with real chats of the same (question, assistant) pairs.

    Args:
        real, simulated: held-out chats of the pairs that both sides have.
        training: people's training-side chats, which define the behaviour classes.
        advanced: called after each measure.
    """
    halves = list(halvings(real, simulated, np.random.default_rng(seed)))
    classes = behaviour_classes(training, seed)
    places: dict[int, int] = {}  # class by id(chat): halvings share chats, which are classified once
    shares: list[ClassShare] = []
    if not isinstance(classes, Undefined):
        chats = [*real, *simulated]
        places = {id(chat): place for chat, place in zip(chats, classes.classes_of(chats), strict=True)}
        of_people, of_simulated = (Counter(places[id(chat)] for chat in side) for side in (real, simulated))
        shares = [
            ClassShare(name, of_people[place] / max(1, len(real)), of_simulated[place] / max(1, len(simulated)))
            for place, name in enumerate(classes.names())
        ]
    number = classes if isinstance(classes, Undefined) else len(classes.centres)
    distances = (*LENGTH_DISTANCES, *behaviour_distances(lambda chat: places[id(chat)], number))
    comparisons: list[Comparison] = []
    total = len(TRAITS) + len(distances) + 2  # and two classifiers
    for trait in TRAITS:
        values = [(trait.of(half.simulated), trait.of(half.first), trait.of(half.second)) for half in halves]
        apart = [_difference(simulator, second) for simulator, _, second in values]
        reference = [_difference(first, second) for _, first, second in values]
        if trait.shrinks and halves:
            own = mean_value([simulator for simulator, _, _ in values]), mean_value([first for _, first, _ in values])
        else:
            own = trait.of(simulated), trait.of(real)
        comparisons.append(_compared(trait.name, trait.unit, own, apart, reference))
        advanced(len(comparisons), total)
    for distance in distances:
        apart = [distance.between(half.simulated, half.second) for half in halves]
        reference = [distance.between(half.first, half.second) for half in halves]
        comparisons.append(_compared(distance.name, distance.unit, (None, None), apart, reference))
        advanced(len(comparisons), total)
    detected: Detection | Undefined = ONE_PERSON
    people_detected: Detection | Undefined = ONE_PERSON
    if halves:  # against the same chats of the second half, as many as of the side compared, so that chance is 50 %
        detected, people_detected = (
            detection(*equally_many(halves[0].second, side, np.random.default_rng(seed)), seed)
            for side in (halves[0].simulated, halves[0].first)
        )
    advanced(total, total)
    for name, field in (("accuracy", "accuracy"), ("AUC", "auc")):  # two more distances
        to_people, among_people = (
            each if isinstance(each, Undefined) else getattr(each, field) for each in (detected, people_detected)
        )
        spread = None if isinstance(people_detected, Undefined) else getattr(people_detected, f"{field}_interval")
        measure = f"real-or-simulated classifier, {name}"
        comparisons.append(Comparison(measure, "share", None, None, to_people, among_people, spread))
    return Realism(
        chats=len(real),
        simulated_chats=len(simulated),
        people=len({chat.person for chat in real}),
        comparisons=tuple(comparisons),
        classes=tuple(shares),
        detected=detected,
        people_detected=people_detected,
    )


def _difference(first: Value, second: Value) -> Value:
    if isinstance(first, Undefined):
        return first
    return second if isinstance(second, Undefined) else abs(first - second)


def _compared(
    name: str, unit: str, own: tuple[Value | None, Value | None], apart: Sequence[Value], reference: Sequence[Value]
) -> Comparison:
    """Summarise a measure from its values per halving; undefined if any of them is."""
    if not apart:
        return Comparison(name, unit, *own, ONE_PERSON, ONE_PERSON)
    means = mean_value(list(apart)), mean_value(list(reference))
    pairs = [(a, r) for a, r in zip(apart, reference, strict=True) if isinstance(a, float) and isinstance(r, float)]
    if len(pairs) < len(apart):
        return Comparison(name, unit, *own, *means)
    low, high = np.quantile([r for _, r in pairs], [0.025, 0.975])
    further = sum((a > r) + (a == r) / 2 for a, r in pairs) / len(pairs)
    return Comparison(name, unit, *own, *means, (float(low), float(high)), further)
