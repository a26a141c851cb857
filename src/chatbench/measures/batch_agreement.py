r"""The agreement of many replicates at once: `agreement`'s figures for rows of resampled cells, with weights.

A replicate is a row of weights over the same cells, and maybe of resampled accuracies: a cell drawn twice has weight 2,
one that was not drawn has weight 0. Every figure equals that of `agreement` on the cells written out as often as their
weights say. What is undefined for a row is NaN here; whoever reports it says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbench.measures.agreement import CALIBRATION_BINS

Array = NDArray[np.float64]

METRICS = ("pearson", "spearman", "mae", "rmse", "bias", "ece", "accuracy")
CONSTANT_BELOW = 1e-12
"""A variance of accuracies below this is rounding: two accuracies from a thousand answers differ by more."""


def batch_agreement(human: Array, simulated: Array, weights: Array) -> dict[str, Array]:
    """The figures of each replicate, by name (`METRICS`), each of shape (replicates,); `accuracy` is the simulated one.

    Args:
        human, simulated: shape (replicates, cells), or (1, cells) where they are the same in all; shares in 0..1.
        weights: shape (replicates, cells), not negative.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # a replicate that drew no cell is 0/0 = NaN
        total = weights.sum(axis=1)
        difference = simulated - human
        return {
            "pearson": weighted_correlation(human, simulated, weights),
            "spearman": weighted_correlation(
                weighted_ranks(human, weights), weighted_ranks(simulated, weights), weights
            ),
            "mae": (weights * np.abs(difference)).sum(axis=1) / total,
            "rmse": np.sqrt((weights * difference**2).sum(axis=1) / total),
            "bias": (weights * difference).sum(axis=1) / total,
            "ece": _calibration_errors(difference, simulated, weights) / total,
            "accuracy": (weights * simulated).sum(axis=1) / total,
        }


def weighted_correlation(x: Array, y: Array, weights: Array) -> Array:
    """Pearson correlation of each row, NaN where a side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1, keepdims=True)
        x = x - (weights * x).sum(axis=1, keepdims=True) / total
        y = y - (weights * y).sum(axis=1, keepdims=True) / total
        xx, yy = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1)
        spread = np.minimum(xx, yy) > CONSTANT_BELOW * total[:, 0]
        return np.where(spread, np.clip((weights * x * y).sum(axis=1) / np.sqrt(xx * yy), -1, 1), np.nan)


def weighted_ranks(values: Array, weights: Array) -> Array:
    """Shape (replicates, cells): rank of each cell among the cells written out by weight, ties sharing their mean."""
    replicates, cells = weights.shape
    if len(values) == 1:  # the same values in every replicate: their order is found once
        _, group = np.unique(values[0], return_inverse=True)
        one_hot = np.eye(group.max(initial=0) + 1)[group]
        in_group = weights @ one_hot
        return np.asarray(_middle(in_group)[:, group])
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    groups = np.zeros((replicates, cells), dtype=np.int64)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=groups[:, 1:])
    in_group = _row_sums(groups, np.take_along_axis(weights, order, axis=1), cells)
    ranks = np.empty((replicates, cells))
    np.put_along_axis(ranks, order, np.take_along_axis(_middle(in_group), groups, axis=1), axis=1)
    return ranks


def _middle(in_group: Array) -> Array:
    """Mean rank within groups that follow each other, from the weight in each."""
    return np.asarray(np.cumsum(in_group, axis=1) - in_group + (in_group + 1) / 2)


def _calibration_errors(difference: Array, simulated: Array, weights: Array) -> Array:
    """Shape (replicates,): sum over bins of |weighted sum of simulated - human|."""
    bins = np.minimum(CALIBRATION_BINS - 1, (simulated * CALIBRATION_BINS + 1e-9).astype(np.int64))
    weighted = weights * difference
    return np.asarray(np.abs(_row_sums(np.broadcast_to(bins, weighted.shape), weighted, CALIBRATION_BINS)).sum(axis=1))


def _row_sums(labels: NDArray[Any], values: Array, count: int) -> Array:
    """Shape (replicates, count): per row, the sum of the values that have each label 0..count-1."""
    rows = len(values)
    flat = (labels + count * np.arange(rows)[:, None]).ravel()
    sums = np.bincount(flat, weights=values.ravel(), minlength=rows * count).astype(np.float64)
    return sums.reshape(rows, count)
