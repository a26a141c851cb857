r"""Paired comparison of two simulators on the same questions: difference of every metric, interval and p-value.

Both predict the same pairs, so the difficulty of a question and the people who happened to answer it affect both and
cancel. Intervals are those of `resampling`, for differences over the same draws. Differences are taken split by split
and then averaged, so both means are over the splits where both have a value.

The p-value is from a permutation test clustered by question: under the null hypothesis the two simulators can be
swapped on any question, in all splits and with all assistants at once. p is the share of random swaps with a difference
at least as large as the observed one, which is itself counted. For correlations, each simulator's predictions (ranks,
for Spearman) are first standardised per split: this does not change a correlation, and without it swapping predictions
of differently biased simulators would lower the correlation by the mixture alone. Swaps do not show that people who
answered many questions may favour one simulator on all of them. Where people add to the variance, p is therefore at
least that of a t test with the variance of the interval.

For several pairs, Holm's step-down correction keeps the family-wise error rate at the level of a single test.

Source: Good 2005, "Permutation, parametric and bootstrap tests of hypotheses"; Holm 1979, "A simple sequentially
rejective multiple test procedure".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.agreement import (
    CORRELATIONS,
    METRICS,
    Array,
    Undefined,
    Value,
    batch_agreement,
    weighted_correlation,
    weighted_ranks,
)
from chatbench.metrics.pairs import Predictions
from chatbench.metrics.resampling import (
    DIFFERENCE,
    SIGNED,
    WITHOUT_INTERVAL,
    Bound,
    Draws,
    Interval,
    PredictorPairs,
    Rows,
    as_observed,
    degrees_of_freedom,
    fewest_questions,
    human_rows,
    interval,
    mean_over_splits,
    mean_replicates,
    person_variance,
    questions_drawn,
    replicate_rows,
    rows_by_assistant,
    rows_over_splits,
)

Mask = NDArray[np.bool_]
Both = Sequence[tuple[PredictorPairs, ...]]
"""Pairs of both simulators in each split; they differ in the simulated accuracies only."""
RowsOf = Callable[[Sequence[PredictorPairs]], Rows]

TIE = 1e-12
"""Swaps whose difference equals the observed one up to rounding count as at least as large."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """`first` - `second` with its interval and permutation p-value, over the `splits` where both have a value.

    `undefined` counts the splits left out because either has none.
    """

    first: Value
    second: Value
    difference: Value
    interval: Bound
    p: Value
    splits: int = 0
    undefined: int = 0


class PairedSplit(NamedTuple):
    """Accuracies of people and of two simulators in one split; both simulators have every pair of `human`."""

    human: Predictions
    first: Predictions
    second: Predictions


def paired_split(human: Predictions, first: Predictions, second: Predictions) -> PairedSplit:
    """Restrict a split to the human pairs that both simulators have."""
    both = {pair: person for pair, person in sorted(human.items()) if pair in first and pair in second}
    return PairedSplit(both, first, second)


def paired_differences(draws: Draws, splits: Sequence[PairedSplit]) -> dict[tuple[str, str], PairedDifference]:
    """Compare every agreement metric, by (assistant, metric), on splits made by `paired_split`."""
    both = [tuple(draws.predictor_pairs(split.human, side) for side in (split.first, split.second)) for split in splits]
    observed = _by_split(both, lambda pairs: replicate_rows(pairs, as_observed))
    resampled = _difference(both, lambda pairs: replicate_rows(pairs, partial(questions_drawn, draws)))
    extra = person_variance(draws, lambda human: _difference(both, lambda pairs: human_rows(pairs, human)))
    exchanged = rows_over_splits(
        [rows_by_assistant(one, partial(_differences, one, two, draws.exchanges[:, one.question])) for one, two in both]
    )
    found = {}
    for row, sides in observed.items():
        known = {number: values for number, values in sides.items() if not np.isnan(values).any()}
        if known:
            one, two = np.mean([*known.values()], axis=0)[:, 0].tolist()
        else:  # no split has a value of both: each one's own mean
            one, two = (float(mean_over_splits([values[side] for values in sides.values()])[0]) for side in (0, 1))
        questions = fewest_questions([both[number][0] for number in known], row[0])
        made = _paired(draws, row[1], one, two, resampled[row], exchanged[row], questions, extra.get(row, 0.0))
        found[row] = replace(made, splits=len(known), undefined=len(sides) - len(known))
    return found


def _by_split(both: Both, rows_of: RowsOf) -> dict[tuple[str, str], dict[int, Array]]:
    """Values of both in each split that has the row, by number of the split; arrays of shape (2, replicates)."""
    found: dict[tuple[str, str], dict[int, Array]] = {}
    for number, sides in enumerate(both):
        first, second = (rows_of([pairs]) for pairs in sides)
        for row in first:
            found.setdefault(row, {})[number] = np.array([first[row], second[row]])
    return found


def _difference(both: Both, rows_of: RowsOf) -> Rows:
    """Mean over splits of the differences, in each replicate over the splits where both have a value."""
    by_split = _by_split(both, rows_of)
    return {row: mean_over_splits([one - two for one, two in sides.values()]) for row, sides in by_split.items()}


def _differences(first: PredictorPairs, second: PredictorPairs, swapped: Mask, kept: Mask) -> dict[str, Array]:
    """Difference of every metric under random swaps, for one split and assistant.

    Args:
        swapped: whether a pair is swapped, shape (replicates, pairs).
        kept: mask of the assistant's pairs, shape (pairs,).
    """
    swap, human = swapped[:, kept], first.human[None, kept]
    one, two = first.simulated[None, kept], second.simulated[None, kept]
    weights = np.ones(swap.shape)
    ahead = batch_agreement(human, np.where(swap, two, one), weights)
    behind = batch_agreement(human, np.where(swap, one, two), weights)
    found = {metric: ahead[metric] - behind[metric] for metric in ahead}
    ones = np.ones((1, swap.shape[1]))
    ranks = [weighted_ranks(side, ones) for side in (human, one, two)]
    for metric, (target, *sides) in {"pearson": [human, one, two], "spearman": ranks}.items():
        x, y = (_standardised(side) for side in sides)
        of_first = weighted_correlation(target, np.where(swap, y, x), weights)
        found[metric] = of_first - weighted_correlation(target, np.where(swap, x, y), weights)
    return found


def _standardised(values: Array) -> Array:
    """Scale each row to mean 0 and variance 1; NaN if constant."""
    spread = values.std(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > TIE, (values - values.mean(axis=1, keepdims=True)) / spread, np.nan))


def _paired(
    draws: Draws,
    metric: str,
    first: float,
    second: float,
    resampled: Array,
    exchanged: Array,
    questions: int,
    extra: float = 0.0,
) -> PairedDifference:
    one, two = (Undefined("it has no value on these questions") if math.isnan(v) else v for v in (first, second))
    difference = first - second
    if math.isnan(difference):
        reason = Undefined("one of the two is undefined")
        return PairedDifference(one, two, reason, reason, reason)
    found = interval(draws, DIFFERENCE, difference, resampled, questions, extra)
    p = permutation_p(difference, exchanged)
    if extra and isinstance(found, Undefined):
        p = found
    elif extra and isinstance(found, Interval) and not isinstance(p, Undefined):
        p = max(p, t_test(draws, difference, found, extra))
    if metric in METRICS and isinstance(found, Interval):  # only some differences are possible
        most = 2.0 if metric in (*CORRELATIONS, *SIGNED) else 1.0
        found = replace(found, low=max(-most, found.low), high=min(most, found.high))
    return PairedDifference(one, two, difference, WITHOUT_INTERVAL.get(metric) or found, p)


def t_test(draws: Draws, difference: float, bound: Interval, of_people: float) -> float:
    """Two-sided p-value of a difference with an unclipped interval, whose variance includes that of people."""
    from scipy import special  # type: ignore[import-untyped]  # late: slow to import; has no types

    variance = bound.standard_error**2
    degrees = degrees_of_freedom(variance - of_people, bound.questions, of_people, draws.people)
    return float(2 * special.stdtr(degrees, -abs(difference) / bound.standard_error))


def permutation_p(difference: float, exchanged: Array) -> Value:
    """Two-sided p-value: (1 + swaps at least as far from 0) / (1 + swaps).

    >>> permutation_p(0.5, np.array([0.1, -0.6, 0.2]))
    0.5
    """
    known = exchanged[~np.isnan(exchanged)]
    if not len(known):
        return Undefined("no permutation has a value")
    return float(1 + (np.abs(known) >= abs(difference) - TIE).sum()) / (1 + len(known))


def mean_differences(
    draws: Draws, splits: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> PairedDifference:
    """Compare a metric that is a mean over questions, from both simulators' values per split and question."""
    means: list[tuple[float, float]] = []
    resampled: list[Array] = []
    exchanged: list[Array] = []
    used: set[str] = set()
    for first, second in splits:
        both = sorted(first.keys() & second.keys() & draws.place.keys())
        if both:
            used |= set(both)
            means.append((float(np.mean([first[q] for q in both])), float(np.mean([second[q] for q in both]))))
            difference = {q: first[q] - second[q] for q in both}
            resampled.append(mean_replicates(draws, difference))
            signs = np.where(draws.exchanges[:, [draws.place[q] for q in both]], -1, 1)
            exchanged.append(signs @ np.array([*difference.values()]) / len(both))
    if not means:
        reason = Undefined("no question has values for both")
        return PairedDifference(reason, reason, reason, reason, reason)
    mean_of_first, mean_of_second = np.mean(means, axis=0).tolist()
    over_splits = mean_over_splits(resampled), mean_over_splits(exchanged)
    made = _paired(draws, DIFFERENCE, mean_of_first, mean_of_second, *over_splits, len(used))
    return replace(made, splits=len(means), undefined=len(splits) - len(means))


def holm(p_values: Sequence[Value]) -> list[Value]:
    """Holm-adjusted p-values, in the given order; undefined ones stay undefined and do not count as tests.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted: list[Value] = list(p_values)
    known = sorted((p, place) for place, p in enumerate(p_values) if not isinstance(p, Undefined))
    highest = 0.0
    for rank, (p, place) in enumerate(known):  # by hand: statsmodels takes seconds to import
        adjusted[place] = highest = max(highest, min(1.0, (len(known) - rank) * p))
    return adjusted
