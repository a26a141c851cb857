r"""How well simulated per-question accuracy agrees with human accuracy: correlation, error, bias, calibration.

One record per (question, assistant). A simulated conversation may end without a valid letter; both treatments are
computed side by side: *counted wrong* (the protocol's accuracy) and *dropped* (accuracy among valid answers). A value
that does not exist (the correlation of a constant) is `Undefined` with its reason, never a number and never NaN.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators: Pearson correlation and mean absolute error; expected
calibration error after Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian
binning".

The agreement of many replicates at once: `agreement`'s figures for rows of resampled cells, with weights.

A replicate is a row of weights over the same cells, and maybe of resampled accuracies: a cell drawn twice has weight 2,
one that was not drawn has weight 0. Every figure equals that of `agreement` on the cells written out as often as their
weights say. What is undefined for a row is NaN here; whoever reports it says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Treatment = Literal["counted wrong", "dropped"]
TREATMENTS: tuple[Treatment, ...] = ("counted wrong", "dropped")

MIN_QUESTIONS = 3
"""Two points always lie on a line: a correlation needs a third."""

CALIBRATION_BINS = 10
"""Equally wide bins of predicted accuracy: [0, 0.1), ..., [0.9, 1]."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """A value that does not exist, and why."""

    reason: str

    def __str__(self) -> str:
        return f"undefined: {self.reason}"


Value = float | Undefined


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the answers to one question with one assistant came out; `invalid` = no letter of A-D was given."""

    right: int = 0
    wrong: int = 0
    invalid: int = 0

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.right + other.right, self.wrong + other.wrong, self.invalid + other.invalid)

    def count(self, treatment: Treatment) -> int:
        """Answers in the denominator."""
        return self.right + self.wrong + (self.invalid if treatment == "counted wrong" else 0)

    def accuracy(self, treatment: Treatment) -> float | None:
        """Share of right answers, 0..1; None where nothing is left to divide by.

        >>> Outcomes(right=2, wrong=1, invalid=1).accuracy("counted wrong")
        0.5
        """
        return self.right / self.count(treatment) if self.count(treatment) else None


@dataclass(frozen=True, slots=True)
class QuestionAccuracy:
    """Accuracy of people and of what is to predict it, for one question with one assistant (shares in 0..1)."""

    question_id: str
    assistant: str
    human: float
    simulated: float
    n_human: int
    n_simulated: int

    def __post_init__(self) -> None:
        if not (0 <= self.human <= 1 and 0 <= self.simulated <= 1):
            raise ValueError(
                f"{self.question_id}, {self.assistant}: accuracies {self.human}, {self.simulated} not in 0..1"
            )


@dataclass(frozen=True, slots=True)
class Agreement:
    """All figures over the same questions; errors and bias (simulated - human) are differences of shares."""

    questions: int
    pearson: Value
    spearman: Value
    mae: Value
    rmse: Value
    bias: Value
    ece: Value


def agreement(cells: Sequence[QuestionAccuracy]) -> Agreement:
    """Agreement over cells, each weighing the same; cells of several assistants together are the pooled figure."""
    human, simulated = [cell.human for cell in cells], [cell.simulated for cell in cells]
    return Agreement(
        questions=len(cells),
        pearson=pearson(human, simulated),
        spearman=spearman(human, simulated),
        mae=mean_absolute_error(human, simulated),
        rmse=root_mean_square_error(human, simulated),
        bias=bias(human, simulated),
        ece=calibration_error(human, simulated),
    )


def pearson(human: Sequence[float], simulated: Sequence[float]) -> Value:
    """Pearson correlation, -1..1; undefined under 3 questions and where either side is constant.

    >>> pearson([0.0, 0.5, 1.0], [0.2, 0.2, 0.2])
    Undefined(reason='the prediction is the same for every question')
    """
    if len(human) < MIN_QUESTIONS:
        return Undefined(f"{len(human)} questions, {MIN_QUESTIONS} are needed")
    # Equality and not a zero variance: the mean of equal floats need not be exactly that float.
    if len(set(simulated)) == 1:
        return Undefined("the prediction is the same for every question")
    if len(set(human)) == 1:
        return Undefined("human accuracy is the same for every question")
    x, y = _centred(human), _centred(simulated)
    covariance = math.fsum(a * b for a, b in zip(x, y, strict=True))
    r = covariance / math.sqrt(math.fsum(a * a for a in x)) / math.sqrt(math.fsum(b * b for b in y))
    return max(-1.0, min(1.0, r))  # rounding can pass 1 by 1e-16


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def spearman(human: Sequence[float], simulated: Sequence[float]) -> Value:
    """Spearman correlation: Pearson's of the ranks, ties sharing their mean rank; undefined where Pearson's is."""
    return pearson(_ranks(human), _ranks(simulated))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + 1 + stop) / 2
        start = stop
    return ranks


def mean_absolute_error(human: Sequence[float], simulated: Sequence[float]) -> Value:
    """Mean of |simulated - human|, 0..1."""
    return _mean([abs(s - h) for h, s in zip(human, simulated, strict=True)])


def root_mean_square_error(human: Sequence[float], simulated: Sequence[float]) -> Value:
    """Square root of the mean squared difference, 0..1."""
    mean = _mean([(s - h) ** 2 for h, s in zip(human, simulated, strict=True)])
    return mean if isinstance(mean, Undefined) else math.sqrt(mean)


def bias(human: Sequence[float], simulated: Sequence[float]) -> Value:
    """Mean of simulated - human, -1..1: positive where the simulator is too often right."""
    return _mean([s - h for h, s in zip(human, simulated, strict=True)])


def calibration_error(human: Sequence[float], simulated: Sequence[float]) -> Value:
    r"""Expected calibration error: how far off simulated accuracy is on average, bin by bin, 0..1.

    Sum over bins of (questions in bin / questions) * |mean simulated - mean human|; a question is binned by its
    simulated accuracy, in `CALIBRATION_BINS` equally wide bins. Always |bias| <= ECE <= MAE. Its weaknesses: it depends
    on the bins; errors of opposite sign in one bin cancel; with few questions in a bin it is too large, because chance
    differences do not cancel; and it says nothing about telling questions apart (the constant mean of people has an ECE
    near 0).

    >>> calibration_error([1.0, 0.5, 0.0], [0.55, 0.55, 0.0])  # bins of two and one: (2 * |0.55 - 0.75| + 0) / 3
    0.1333333333333333
    """
    bins: dict[int, list[float]] = {}
    for person, predicted in zip(human, simulated, strict=True):
        bins.setdefault(calibration_bin(predicted), []).append(predicted - person)
    if not bins:
        return Undefined("no question is left")
    return math.fsum(abs(math.fsum(differences)) for differences in bins.values()) / len(human)


def calibration_bin(predicted: float) -> int:
    """Number of the bin of a predicted accuracy; the last one includes 1."""
    return min(CALIBRATION_BINS - 1, int(predicted * CALIBRATION_BINS + 1e-9))  # 1e-9: 0.7 may come as 0.6999...


def _mean(values: Sequence[float]) -> Value:
    return math.fsum(values) / len(values) if values else Undefined("no question is left")


def mean_value(values: Sequence[Value]) -> Value:
    """Mean over assistants; undefined where one of them is, since a mean over the rest would be of something else."""
    for value in values:
        if isinstance(value, Undefined):
            return value
    return _mean([value for value in values if not isinstance(value, Undefined)])


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
