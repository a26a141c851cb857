"""How far apart two samples or two sets of frequencies are.

Divergences are in bits. Jensen-Shannon is symmetric, at most 1, and needs no smoothing; Kullback-Leibler is infinite
where the second side never does what the first does, so `SMOOTHING` chats are added to every class before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatbench.measures.agreement import Undefined, Value

Frequencies = NDArray[np.float64]

SMOOTHING = 0.5
"""Added to the count of every class before a Kullback-Leibler divergence (the prior of Jeffreys)."""
LENGTH_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Classes of lengths in words for divergences: 0, 1, 2-3, 4-7, ..., 256 and more."""


def wasserstein(first: Sequence[float], second: Sequence[float]) -> Value:
    """Earth mover's distance between two samples, in their own unit: the mean shift that turns one into the other."""
    if not first or not second:
        return Undefined("one side has nothing to compare")
    from scipy.stats import wasserstein_distance  # type: ignore[import-untyped]  # late: it takes most of a second; no types

    return float(wasserstein_distance(first, second))


def jensen_shannon(first: Sequence[int], second: Sequence[int]) -> Value:
    """Jensen-Shannon divergence between two counts per class, 0 (alike) to 1 bit (nothing in common).

    >>> jensen_shannon([2, 2], [3, 3])
    0.0
    >>> jensen_shannon([5, 0], [0, 1])
    1.0
    """
    if not sum(first) or not sum(second):
        return Undefined("one side has nothing to compare")
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]  # late, and has no types

    return float(jensenshannon(first, second, base=2)) ** 2  # scipy's distance is the root of the divergence


def kullback_leibler(first: Sequence[int], second: Sequence[int]) -> Value:
    """Bits lost by expecting the classes as `second` has them where they come as in `first`; both smoothed."""
    if not sum(first) or not sum(second):
        return Undefined("one side has nothing to compare")
    p, q = smoothed(first), smoothed(second)
    return float(np.sum(p * np.log2(p / q)))


def smoothed(counts: Sequence[int]) -> Frequencies:
    """Frequencies of classes after adding `SMOOTHING` to each count; they sum to 1."""
    raised = np.asarray(counts, dtype=np.float64) + SMOOTHING
    return np.asarray(raised / raised.sum())


def counts_by_length(lengths: Sequence[int]) -> list[int]:
    """How many lengths fall into each class of `LENGTH_EDGES`.

    >>> counts_by_length([0, 3, 2, 300])[:4], counts_by_length([300])[-1]
    ([1, 0, 2, 0], 1)
    """
    places = np.searchsorted(LENGTH_EDGES, np.asarray(lengths, dtype=np.int64), side="right") - 1
    return [int(count) for count in np.bincount(places, minlength=len(LENGTH_EDGES))]
