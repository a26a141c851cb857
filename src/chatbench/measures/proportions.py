r"""The interval of a share of right answers, which few answers tell only roughly.

Wilson's: the shares p for which the observed share is within z standard errors sqrt(p (1 - p) / n) of p. Unlike
share +- z * error it stays within 0..1 and has a width where all answers are alike.

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (0..1) of `count` answers.

    Raises:
        ValueError: there are no answers, or the share is none.

    >>> [round(end, 4) for end in wilson_interval(0.8, 10)]
    [0.4902, 0.9433]
    """
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"share {share} of {count} answers: expected a share in 0..1 of at least one answer")
    z2 = NORMAL_95**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)
