"""How like people simulated users are: every measure on simulated against real chats, beside people against people.

Of each measure there are up to four numbers. *simulated* and *people*: the trait of either side. *apart*: how far the
simulated chats are from the second half of the people (for a trait, the absolute difference). *people apart*: how far
the first half of the people is from the second, by equally many chats. Both are means over random halvings (`halves`).
A simulator is as real as this measure can tell where *apart* is no larger than *people apart*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.measures.agreement import Undefined, Value, mean_value
from chatbench.measures.behaviour import BehaviourClasses, behaviour_classes
from chatbench.measures.chat_traits import ChatTraits
from chatbench.measures.detectability import Detection, detection
from chatbench.measures.halves import Halving, halvings
from chatbench.measures.realism_measures import (
    LENGTH_DISTANCES,
    TRAITS,
    Chats,
    Distance,
    Trait,
    behaviour_distances,
)

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
