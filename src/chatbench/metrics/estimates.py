r"""Standard errors of means over random splits, and the Wilson interval of a proportion.

The plain standard error sd / sqrt(n) treats splits as independent. They draw from the same questions, so their test and
training sets overlap and it is too small. Nadeau and Bengio's correction adds the ratio of test to training questions.

Wilson's interval stays within 0..1, unlike share +- z * error, and has nonzero width even if all answers are alike.

Sources: Nadeau and Bengio 2003, "Inference for the generalization error", section 3 (corrected resampled variance);
Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chatbench.metrics.agreement import Undefined, Value

NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


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


MIN_SPLITS = 2
"""Fewest splits for a standard deviation."""


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
