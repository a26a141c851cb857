r"""Two simulators on the same questions: the difference of every figure, its interval, and how likely chance makes it.

Both answer the same cells, so what is hard about a question or peculiar about the people who answered it meets both and
cancels. The interval is that of `intervals`, of differences over one and the same draws.

The p-value is of a permutation test clustered by question: if it did not matter which simulator is which, the two could
change places in any question, in all splits and with all assistants at once. p is the share of such random exchanges
with a difference at least as large, the one that was found counted among them. For correlations each simulator's
predictions (ranks, for Spearman) are first brought to mean 0 and variance 1 per split: a correlation does not see them,
and without it exchanged predictions of differently biased simulators would be badly correlated by the mixture alone.

Of several pairs, Holm's step-down correction keeps the chance of any false alarm at the level of a single test.

Source: Good 2005, "Permutation, parametric and bootstrap tests of hypotheses"; Holm 1979, "A simple sequentially
rejective multiple test procedure".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.accuracies import Cell, Prediction
from chatbench.metrics.agreement import Array, Undefined, Value, batch_agreement, weighted_correlation, weighted_ranks
from chatbench.metrics.cells import SplitCells
from chatbench.metrics.intervals import DIFFERENCE, WITHOUT_INTERVAL, Bound, excess, human_rows, interval
from chatbench.metrics.resampling import Draws, Rows, SourceCells, mean_over_splits, replicate_rows, rows_by_assistant

Mask = NDArray[np.bool_]

FIRST, SECOND = "first", "second"
TIE = 1e-12
"""Exchanges that give the same difference up to rounding count as at least as large."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """`first` - `second` with its interval and permutation p-value; undefined where one of the two figures is."""

    first: Value
    second: Value
    difference: Value
    interval: Bound
    p: Value


def paired_cells(
    human: Mapping[Cell, Prediction], first: Mapping[Cell, Prediction], second: Mapping[Cell, Prediction]
) -> SplitCells:
    """The cells of one split that people and both simulators have."""
    both = {cell: person for cell, person in sorted(human.items()) if cell in first and cell in second}
    return SplitCells(both, {FIRST: first, SECOND: second}, {})


def paired_differences(draws: Draws, splits: Sequence[SplitCells]) -> dict[tuple[str, str], PairedDifference]:
    """Every figure of agreement, by (assistant, metric), on splits made by `paired_cells`."""
    both = [[draws.source_cells(split, source) for split in splits] for source in (FIRST, SECOND)]
    found = [replicate_rows(cells, _unchanged) for cells in both]
    resampled = _minus(*(replicate_rows(cells, lambda _, c: _with_weights(draws, c)) for cells in both))
    extra: dict[tuple[str, str], float] = {}
    if draws.shares_people:
        people, answers = (
            _minus(*(human_rows(cells, accuracies) for cells in both))
            for accuracies in (draws.accuracies_by_worker(), draws.accuracies_by_answer())
        )
        extra = {row: excess(people[row], answers[row]) for row in people}
    exchanged = _exchanged_rows(draws, *both)
    questions = len({int(q) for cells in both[0] for q in cells.question})
    return {
        row: _paired(
            row[1],
            (float(found[0][row][0]), float(found[1][row][0])),
            resampled[row],
            exchanged[row],
            questions,
            draws.told.confidence,
            extra.get(row, 0.0),
        )
        for row in found[0]
    }


def _unchanged(_: int, cells: SourceCells) -> tuple[Array, Array, Array]:
    return cells.human[None], cells.simulated[None], np.ones((1, len(cells.cell)))


def _with_weights(draws: Draws, cells: SourceCells) -> tuple[Array, Array, Array]:
    return cells.human[None], cells.simulated[None], draws.question_weights[:, cells.question]


def _minus(first: Rows, second: Rows) -> Rows:
    return {row: first[row] - second[row] for row in first}


def _exchanged_rows(draws: Draws, first: Sequence[SourceCells], second: Sequence[SourceCells]) -> Rows:
    """Every difference under every random exchange, shape (replicates,)."""
    exchange = draws.exchanges()
    per_split = [
        rows_by_assistant(one, partial(_differences, one, two, exchange[:, one.question]))
        for one, two in zip(first, second, strict=True)
    ]
    names = dict.fromkeys(row for rows in per_split for row in rows)
    return {name: mean_over_splits([rows[name] for rows in per_split if name in rows]) for name in names}


def _differences(first: SourceCells, second: SourceCells, swapped: Mask, kept: Mask) -> dict[str, Array]:
    """Differences of one split and assistant, by metric.

    Args:
        swapped: shape (replicates, cells).
        kept: shape (cells,), the assistant's cells.
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
    """Mean 0, variance 1; NaN where all are alike."""
    spread = values.std(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > TIE, (values - values.mean(axis=1, keepdims=True)) / spread, np.nan))


def _paired(
    metric: str,
    figures: tuple[float, float],
    resampled: Array,
    exchanged: Array,
    questions: int,
    confidence: float,
    extra: float,
) -> PairedDifference:
    first, second = (_value(figure) for figure in figures)
    difference = figures[0] - figures[1]
    if math.isnan(difference):
        reason = Undefined("one of the two is undefined")
        return PairedDifference(first, second, reason, reason, reason)
    bound = WITHOUT_INTERVAL.get(metric) or interval(DIFFERENCE, difference, resampled, questions, confidence, extra)
    return PairedDifference(first, second, difference, bound, permutation_p(difference, exchanged))


def _value(figure: float) -> Value:
    return Undefined("it has no value on these questions") if math.isnan(figure) else figure


def permutation_p(difference: float, exchanged: Array) -> Value:
    """Two-sided: (1 + exchanges at least as far from 0) / (1 + exchanges).

    >>> permutation_p(0.5, np.array([0.1, -0.6, 0.2]))
    0.5
    """
    known = exchanged[~np.isnan(exchanged)]
    if not len(known):
        return Undefined("no exchange has a value")
    return float(1 + (np.abs(known) >= abs(difference) - TIE).sum()) / (1 + len(known))


def mean_differences(
    draws: Draws, splits: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> PairedDifference:
    """The difference of a figure that is a mean over questions, from both sides' values per split and question."""
    place = {question_id: number for number, question_id in enumerate(draws.questions)}
    means: list[tuple[float, float]] = []
    resampled: list[Array] = []
    exchanged: list[Array] = []
    used: set[str] = set()
    for first, second in splits:
        both = sorted(first.keys() & second.keys() & place.keys())
        if not both:
            continue
        used |= set(both)
        one, two = (np.array([side[question_id] for question_id in both]) for side in (first, second))
        places = [place[question_id] for question_id in both]
        weights = draws.question_weights[:, places]
        means.append((float(one.mean()), float(two.mean())))
        with np.errstate(invalid="ignore"):
            resampled.append(weights @ (one - two) / weights.sum(axis=1))
        exchanged.append(np.where(draws.exchanges()[:, places], -1, 1) @ (one - two) / len(both))
    if not means:
        reason = Undefined("no question has both")
        return PairedDifference(reason, reason, reason, reason, reason)
    figures = (float(np.mean([one for one, _ in means])), float(np.mean([two for _, two in means])))
    return _paired(
        DIFFERENCE,
        figures,
        mean_over_splits(resampled),
        mean_over_splits(exchanged),
        len(used),
        draws.told.confidence,
        0.0,
    )


def holm(p_values: Sequence[Value]) -> list[Value]:
    """Holm's adjusted p-values, in the given order; undefined ones stay so and do not count as tests.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not isinstance(p, Undefined))
    adjusted = list(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted
