"""Behaviour classes: clusters of people's training-side chats, to which held-out chats are assigned.

A chat is described by the features in `FEATURES`, standardised on the training-side people, and clustered by k-means.
A divergence measures how much the class frequencies of two sides differ: *forward* (people || simulated) is large if
the simulator lacks what people do, *backward* (simulated || people) if it does what people hardly do.

Source: forward and backward divergence over behaviour clusters as in arXiv 2605.07847; the features are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.agreement import Undefined
from chatbench.realism.chats import SHORT_MESSAGE, ChatTraits

Rows = NDArray[np.float64]

CLASSES = 8
FEWEST_CHATS_PER_CLASS = 25
"""There are fewer classes if the training side has fewer chats per class than this."""


def _of_follow_ups(count: int, chat: ChatTraits) -> float:
    return count / max(1, chat.follow_ups)


FEATURES: dict[str, Callable[[ChatTraits], float]] = {
    "words in the first message (log2)": lambda chat: math.log2(1 + chat.first_words),
    "question copied": lambda chat: chat.copied,
    "numbers told at first": lambda chat: 1.0 if chat.at_first.numbers is None else chat.at_first.numbers,
    "content words told at first": lambda chat: 1.0 if chat.at_first.words is None else chat.at_first.words,
    "options told": lambda chat: float(chat.options_told),
    "user turns (log2)": lambda chat: math.log2(1 + chat.turns),
    "words per follow-up (log2)": lambda chat: math.log2(1 + _of_follow_ups(sum(chat.follow_up_words), chat)),
    "short follow-ups": lambda chat: _of_follow_ups(sum(n <= SHORT_MESSAGE for n in chat.follow_up_words), chat),
    "follow-ups that ask": lambda chat: _of_follow_ups(chat.asking, chat),
    "follow-ups that repeat": lambda chat: _of_follow_ups(chat.repeats, chat),
    "a number from nowhere": lambda chat: float(chat.foreign_numbers),
    "polite words": lambda chat: float(chat.polite),
}
"""Interpretable features of one chat; shares and yes/no features are in 0..1."""


@dataclass(frozen=True, slots=True)
class BehaviourClasses:
    """Class centres, shape (classes, features), in features standardised by `centre` (mean) and `scale` (deviation)."""

    centres: Rows
    centre: Rows
    scale: Rows

    def classes_of(self, chats: Sequence[ChatTraits]) -> list[int]:
        """The class of each chat: the one with the nearest centre."""
        scaled = (feature_rows(chats) - self.centre) / self.scale
        distances = ((scaled[:, None, :] - self.centres[None, :, :]) ** 2).sum(-1)
        return [int(place) for place in distances.argmin(1)]

    def names(self) -> list[str]:
        """Name each class by the two features in which it deviates most from the average person, with direction."""
        features = list(FEATURES)
        return [
            ", ".join(
                f"{'much' if centre[place] > 0 else 'little'}: {features[place]}"
                for place in np.argsort(-np.abs(centre), kind="stable")[:2]
            )
            for centre in self.centres
        ]


def feature_rows(chats: Sequence[ChatTraits]) -> Rows:
    """Features of the chats, shape (chats, features), in the order of `FEATURES`."""
    rows = [[feature(chat) for feature in FEATURES.values()] for chat in chats]
    return np.asarray(rows, dtype=np.float64).reshape(len(chats), len(FEATURES))


def behaviour_classes(training: Sequence[ChatTraits], seed: int) -> BehaviourClasses | Undefined:
    """Cluster people's training-side chats into up to `CLASSES` classes, largest first."""
    rows = feature_rows(training)
    distinct = len(np.unique(rows, axis=0))
    classes = min(CLASSES, len(training) // FEWEST_CHATS_PER_CLASS, distinct)
    if classes < 2:
        return Undefined(
            f"{len(training)} training-side chats of people, {2 * FEWEST_CHATS_PER_CLASS} that differ are needed"
        )
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # late: it takes a second; has no types

    centre, spread = rows.mean(0), rows.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    found = KMeans(n_clusters=classes, n_init=10, random_state=seed).fit((rows - centre) / scale)
    sizes = np.bincount(found.labels_, minlength=classes)
    order = np.argsort(-sizes, kind="stable")
    return BehaviourClasses(found.cluster_centers_[order], centre, scale)
