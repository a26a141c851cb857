"""Agreement of simulated with human accuracy per question: correlation, error, bias, calibration; means over splits.

A simulated conversation may end without a valid letter. Accuracy is computed both ways: with such chats *counted wrong*
(the protocol's definition) and *dropped*. A value that does not exist (the correlation of a constant) is `Undefined`
with a reason, never NaN.

| metric | definition, from human accuracy h and simulated accuracy s of equally weighted (question, assistant) pairs |
|---|---|
| `pearson` | correlation of h and s, -1..1; undefined for fewer than 3 pairs or if either side is constant |
| `spearman` | Pearson correlation of the ranks; ties get their mean rank |
| `mae`, `rmse` | mean of abs(s - h), root of the mean of (s - h)^2, 0..1 |
| `bias` | mean of s - h, -1..1; positive if the simulator is right too often |
| `ece` | expected calibration error, 0..1: mean error of simulated accuracy, bin by bin |
| `accuracy` | mean of s |

ECE is the sum over bins of (pairs in bin / pairs) * abs(mean simulated - mean human), with pairs assigned to
`CALIBRATION_BINS` bins of equal width by simulated accuracy. Always abs(bias) <= ECE <= MAE. It depends on the bins:
errors of opposite sign within a bin cancel, and bins with few pairs bias it upwards, because chance differences do not
average out. It does not measure discrimination: always predicting the mean human accuracy gives an ECE near 0.

`batch_agreement` computes the metrics for many replicates at once. A replicate is a row of weights over the same pairs
(0 if a pair was not drawn, 2 if it was drawn twice), optionally with resampled accuracies. There, NaN means undefined.

The standard error sd / sqrt(n) of a mean over random splits treats the splits as independent. They draw from the same
questions, so their test and training sets overlap and it is too small. Nadeau and Bengio's correction adds the ratio of
test to training questions. For the interval of a proportion, Wilson's stays within 0..1, unlike share +- z * error, and
has nonzero width even if all answers are alike.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators: Pearson correlation and mean absolute error; Naeini,
Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning" (expected calibration
error); Nadeau and Bengio 2003, "Inference for the generalization error", section 3 (corrected resampled variance);
Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
METRICS = ("pearson", "spearman", "mae", "rmse", "bias", "ece", "accuracy")
CORRELATIONS = ("pearson", "spearman")

Treatment = Literal["counted wrong", "dropped"]
TREATMENTS: tuple[Treatment, ...] = ("counted wrong", "dropped")

MIN_QUESTIONS = 3
"""Fewest pairs for a correlation: two points always lie on a line."""

MIN_SPLITS = 2
"""Fewest splits for a standard deviation."""

CALIBRATION_BINS = 10
"""Number of equal-width bins of predicted accuracy: [0, 0.1), ..., [0.9, 1]."""

CONSTANT_BELOW = 1e-12
"""A variance of accuracies below this is rounding error: two accuracies from a thousand answers differ by more."""

NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """A value that does not exist, with the reason."""

    reason: str

    def __str__(self) -> str:
        return f"undefined: {self.reason}"


Value = float | Undefined
NO_QUESTION = Undefined("no question is left")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Counts of right, wrong and invalid (no valid letter) answers to one question with one assistant.

    An answer with a score between 0 and 1 adds its score to `right` and the rest to `wrong`.
    """

    right: float = 0
    wrong: float = 0
    invalid: int = 0

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.right + other.right, self.wrong + other.wrong, self.invalid + other.invalid)

    def count(self, treatment: Treatment) -> int:
        """Number of answers in the denominator of the accuracy."""
        return round(self.right + self.wrong) + (self.invalid if treatment == "counted wrong" else 0)

    def accuracy(self, treatment: Treatment) -> float | None:
        """Share of right answers, 0..1; None if there are no answers to count.

        >>> Outcomes(right=2, wrong=1, invalid=1).accuracy("counted wrong")
        0.5
        """
        return self.right / self.count(treatment) if self.count(treatment) else None


@dataclass(frozen=True, slots=True)
class QuestionAccuracy:
    """Human accuracy and its prediction for one question with one assistant (both 0..1)."""

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


def agreement(human: Sequence[float], simulated: Sequence[float]) -> dict[str, Value]:
    """Compute every metric in `METRICS` over the pairs; pass the pairs of several assistants for pooled metrics.

    >>> agreement([0.0, 0.5, 1.0], [0.2, 0.2, 0.2])["pearson"]
    Undefined(reason='the prediction is the same for every question')
    >>> round(agreement([1.0, 0.5, 0.0], [0.55, 0.55, 0.0])["ece"], 3)  # two bins: (2 * |0.55 - 0.75| + 0) / 3
    0.133
    """
    few = Undefined(f"{len(human)} questions, {MIN_QUESTIONS} are needed")
    if not len(human):
        return {**dict.fromkeys(METRICS, NO_QUESTION), **dict.fromkeys(CORRELATIONS, few)}
    found = batch_agreement(np.array([human]), np.array([simulated]), np.ones((1, len(human))))
    values: dict[str, Value] = {metric: float(row[0]) for metric, row in found.items()}
    for metric in CORRELATIONS:
        if len(human) < MIN_QUESTIONS:
            values[metric] = few
        elif math.isnan(found[metric][0]):
            constant = "the prediction" if np.var(simulated) <= CONSTANT_BELOW else "human accuracy"
            values[metric] = Undefined(f"{constant} is the same for every question")
    return values


def calibration_bin(predicted: Array | float) -> NDArray[np.int64]:
    """Bin index of each predicted accuracy; the last bin includes 1."""
    place = (np.asarray(predicted) * CALIBRATION_BINS + 1e-9).astype(np.int64)  # 1e-9: 0.7 may be stored as 0.6999...
    return np.minimum(CALIBRATION_BINS - 1, place)


def mean_value(values: Sequence[Value]) -> Value:
    """Mean of the values; undefined if any of them is, since the mean of the rest would be a different quantity."""
    for value in values:
        if isinstance(value, Undefined):
            return value
    known = [value for value in values if not isinstance(value, Undefined)]
    return math.fsum(known) / len(known) if known else NO_QUESTION


def batch_agreement(human: Array, simulated: Array, weights: Array) -> dict[str, Array]:
    """Compute every metric in `METRICS` for each replicate; each result has shape (replicates,).

    Args:
        human, simulated: accuracies in 0..1, shape (replicates, pairs), or (1, pairs) if all replicates share them.
        weights: shape (replicates, pairs), non-negative.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # a replicate that drew no pair is 0/0 = NaN
        total = weights.sum(axis=1)
        difference = simulated - human
        weighted = weights * difference
        bins = np.broadcast_to(calibration_bin(simulated), weighted.shape)
        return {
            "pearson": weighted_correlation(human, simulated, weights),
            "spearman": weighted_correlation(
                weighted_ranks(human, weights), weighted_ranks(simulated, weights), weights
            ),
            "mae": (weights * np.abs(difference)).sum(axis=1) / total,
            "rmse": np.sqrt((weights * difference**2).sum(axis=1) / total),
            "bias": weighted.sum(axis=1) / total,
            "ece": np.abs(_row_sums(bins, weighted, CALIBRATION_BINS)).sum(axis=1) / total,
            "accuracy": (weights * simulated).sum(axis=1) / total,
        }


def weighted_correlation(x: Array, y: Array, weights: Array) -> Array:
    """Weighted Pearson correlation of each row; NaN where a side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1, keepdims=True)
        x = x - (weights * x).sum(axis=1, keepdims=True) / total
        y = y - (weights * y).sum(axis=1, keepdims=True) / total
        xx, yy = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1)
        spread = np.minimum(xx, yy) > CONSTANT_BELOW * total[:, 0]
        return np.where(spread, np.clip((weights * x * y).sum(axis=1) / np.sqrt(xx * yy), -1, 1), np.nan)


def weighted_ranks(values: Array, weights: Array) -> Array:
    """Rank of each pair, shape (replicates, pairs), with pairs repeated by weight; ties get their mean rank."""
    replicates, pairs = weights.shape
    values = np.round(values, 12)  # means of scores such as 0.1 that are equal but for rounding are tied
    if len(values) == 1:  # the same values in every replicate: sort them once
        _, group = np.unique(values[0], return_inverse=True)
        one_hot = np.eye(group.max(initial=0) + 1)[group]
        in_group = weights @ one_hot
        return np.asarray(_middle(in_group)[:, group])
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    groups = np.zeros((replicates, pairs), dtype=np.int64)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=groups[:, 1:])
    in_group = _row_sums(groups, np.take_along_axis(weights, order, axis=1), pairs)
    ranks = np.empty((replicates, pairs))
    np.put_along_axis(ranks, order, np.take_along_axis(_middle(in_group), groups, axis=1), axis=1)
    return ranks


def _middle(in_group: Array) -> Array:
    """Mean rank within each of a sequence of tied groups, from the groups' weights."""
    return np.asarray(np.cumsum(in_group, axis=1) - in_group + (in_group + 1) / 2)


def _row_sums(labels: NDArray[Any], values: Array, count: int) -> Array:
    """Sum the values of each row by label 0..count-1; shape (replicates, count)."""
    rows = len(values)
    flat = (labels + count * np.arange(rows)[:, None]).ravel()
    sums = np.bincount(flat, weights=values.ravel(), minlength=rows * count).astype(np.float64)
    return sums.reshape(rows, count)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (0..1) of `count` answers; written here because statsmodels takes two seconds to import.

    Raises:
        ValueError: there are no answers, or the share is not in 0..1.

    >>> [round(end, 4) for end in wilson_interval(0.8, 10)]
    [0.4902, 0.9433]
    """
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"share {share} of {count} answers: expected a share in 0..1 of at least one answer")
    z2 = NORMAL_95**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over the `n` splits on which a value is defined, with standard errors in the same unit.

    `undefined` counts the splits left out because the value is undefined there.
    """

    mean: Value
    standard_error: Value
    corrected_error: Value
    n: int
    undefined: int = 0


def over_splits(values: Sequence[Value], *, train_questions: float, test_questions: float) -> Estimate:
    r"""Mean, sd / sqrt(n) and sqrt(1/n + test/train) * sd over splits, with sd of n - 1 degrees of freedom.

    Args:
        values: shape (splits,).
        train_questions: questions on the training side of a split (mean over splits).
        test_questions: questions on the held-out side (mean over splits).

    >>> over_splits([1.0, 3.0], train_questions=60, test_questions=30).standard_error
    1.0
    """
    kept = [value for value in values if not isinstance(value, Undefined)]
    lost = len(values) - len(kept)
    if not kept:
        reason = next((value for value in values if isinstance(value, Undefined)), Undefined("no split was scored"))
        return Estimate(reason, reason, reason, 0, lost)
    mean = math.fsum(kept) / len(kept)
    sd = standard_deviation(kept)
    if isinstance(sd, Undefined):
        reason = Undefined(f"{len(kept)} split, {MIN_SPLITS} are needed")
        return Estimate(mean, reason, reason, len(kept), lost)
    corrected: Value = Undefined("no training question")
    if train_questions > 0:
        corrected = sd * math.sqrt(1 / len(kept) + test_questions / train_questions)
    return Estimate(mean, sd / math.sqrt(len(kept)), corrected, len(kept), lost)


def standard_deviation(values: Sequence[float]) -> Value:
    """Sample standard deviation (n - 1); undefined for fewer than two values."""
    if len(values) < MIN_SPLITS:
        return Undefined(f"{len(values)} value, {MIN_SPLITS} are needed")
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
