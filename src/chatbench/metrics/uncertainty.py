r"""Uncertainty of a model's metrics: confidence intervals, and a decomposition of the variance by cause.

All metrics share one set of draws per stratum, so equal data give equal intervals, whatever else is in the table.

The variance of a mean over splits is decomposed into questions, people, splits and simulated chats. Each split's metric
is split into jackknife pseudo-values of its questions, y(q, s) = n f(s) - (n - 1) f(s without q), whose mean over q is
f(s) (up to curvature). These are modelled with crossed random effects,

    y(q, s) = mu + a(q) + b(s) + e(q, s),

a: the question, b: the split (its training set and seed), e: the rest. Their variances are estimated by the method of
moments from the sums of squares within questions, within splits and overall, which is unbiased for any pattern of
held-out questions. The variance of the mean over splits is then a sum of known multiples of them. Two components are
estimated more precisely by resampling answers and chats within pairs:

    questions             a, minus the share of people
    people                resampled answers, plus the correlation between answers of one person
    splits                b
    questions x splits    e, minus the share of chats
    chats                 resampled simulated chats

With a single split, "splits" and "questions x splits" cannot be separated from questions and are omitted. The
components add up to the total. They are unbiased estimates of variances, so one that is indistinguishable from 0 may be
negative. Splits train on overlapping questions, so b is too small, as is the plain standard error over splits.

Source: Gao and Owen 2017, "Efficient moment calculations for variance components in large unbalanced crossed random
effects models"; Efron and Stein 1981 (jackknife).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from chatbench.core.progress import Advanced, unobserved
from chatbench.core.records import Answer
from chatbench.metrics.agreement import Array, Undefined
from chatbench.metrics.names import (
    CONDITION,
    EVERY_ASSISTANT,
    MEAN_OF_ASSISTANTS,
    SIMULATORS,
    WHOLE,
    MetricKey,
    Predictor,
)
from chatbench.metrics.pairs import SplitPairs, grouped
from chatbench.metrics.resampling import (
    Bound,
    Drawn,
    Draws,
    Indices,
    PredictorPairs,
    Resampling,
    as_observed,
    human_rows,
    mean_intervals,
    person_variance,
    predictor_intervals,
    replicate_rows,
    variance,
)
from chatbench.metrics.split_metrics import SplitMetrics

T = TypeVar("T")
SplitValues = tuple[Indices, Array]
"""Indices of a split's questions and their contributions to a metric, both of shape (questions,)."""

CAUSES = ("questions", "people", "splits", "questions x splits", "chats")


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of a mean over splits by cause (of `CAUSES`), in the metric's unit squared; may be slightly negative."""

    by_cause: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_cause.values())


def predictor_spreads(draws: Draws, splits: Sequence[PredictorPairs]) -> dict[tuple[str, str], Spread | Undefined]:
    """Decompose the variance of every metric of one simulator, by (assistant, metric), from its pairs in each split."""

    def chats_drawn(split: int, pairs: PredictorPairs) -> Drawn:
        again = draws.accuracies_of_chats(pairs, split)
        return pairs.human[None], again, np.ones_like(again)

    values = [jackknife_values(pairs) for pairs in splits]
    human = partial(human_rows, splits)
    people, ties = human(draws.accuracies_of_people), person_variance(draws, human)
    return {
        row: spread(
            [split[row] for split in values if row in split],
            people=variance(people[row]),
            ties=ties.get(row, 0.0),
            chats=variance(chats),
        )
        for row, chats in replicate_rows(splits, chats_drawn).items()
    }


def jackknife_values(pairs: PredictorPairs) -> dict[tuple[str, str], SplitValues]:
    """Jackknife pseudo-values n f - (n - 1) f(without q) of every metric of a split, over its n questions."""
    questions, place = np.unique(pairs.question, return_inverse=True)
    without = np.ones((len(questions), len(pairs.pair)))
    without[place, np.arange(len(pairs.pair))] = 0.0
    whole = replicate_rows([pairs], as_observed)
    less = replicate_rows([pairs], lambda *_: (pairs.human[None], pairs.simulated[None], without))
    found = {}
    for row, values in less.items():
        own = np.isin(questions, pairs.question[pairs.of(EVERY_ASSISTANT if row[0] == MEAN_OF_ASSISTANTS else row[0])])
        count = int(own.sum())
        found[row] = (questions[own], count * whole[row] - (count - 1) * values[own])
    return found


def spread(splits: Sequence[SplitValues], *, people: float, ties: float, chats: float) -> Spread | Undefined:
    """Decompose the variance of the mean over splits by cause.

    Args:
        splits: per split, the values of its questions.
        people: variance from resampling answers within pairs.
        ties: additional variance from people who answered several questions.
        chats: variance from resampling chats.
    """
    if any(np.isnan(values).any() for _, values in splits):
        return Undefined("it has no value when some question is left out")
    if np.isnan([people, ties, chats]).any():
        return Undefined("it has no value when people or chats are resampled")
    if any(len(values) < 2 for _, values in splits):
        return Undefined("a split has fewer than 2 questions")
    if len(splits) == 1:
        values = splits[0][1]
        both = float(values.var(ddof=1)) / len(values)
        return Spread({"questions": both - people - chats, "people": people + ties, "chats": chats})
    components = variance_components(splits)
    if isinstance(components, Undefined):
        return components
    of_questions, of_splits, rest = components
    weight = [np.full(len(values), 1 / len(splits) / len(values)) for _, values in splits]
    per_question = np.bincount(np.concatenate([places for places, _ in splits]), weights=np.concatenate(weight))
    from_questions = of_questions * float((per_question**2).sum())
    from_rest = rest * sum(float((each**2).sum()) for each in weight)
    return Spread(
        {
            "questions": from_questions - people,
            "people": people + ties,
            "splits": of_splits / len(splits),
            "questions x splits": from_rest - chats,
            "chats": chats,
        }
    )


def variance_components(splits: Sequence[SplitValues]) -> tuple[float, float, float] | Undefined:
    """Unbiased variances of a (questions), b (splits) and e (rest) in the crossed random effects model.

    Solves three sums of squares for their expectations, with N values, G questions held out n(q) times each, and K
    splits of n(s) questions: within questions (N - G)(b + e); within splits (N - K)(a + e); overall
    (N - sum n(q)^2 / N) a + (N - sum n(s)^2 / N) b + (N - 1) e.
    """
    places = np.concatenate([places for places, _ in splits])
    values = np.concatenate([values for _, values in splits])
    sizes = np.array([len(each) for _, each in splits])
    number = np.repeat(np.arange(len(splits)), sizes)
    _, question, times = np.unique(places, return_inverse=True, return_counts=True)
    count = len(values)
    if count == len(times):
        return Undefined("no question is held out in two splits, so splits and questions cannot be told apart")
    sums = [
        _within(values, question, times),
        _within(values, number, sizes),
        float(((values - values.mean()) ** 2).sum()),
    ]
    expected = [
        [0, count - len(times), count - len(times)],
        [count - len(sizes), 0, count - len(sizes)],
        [count - (times**2).sum() / count, count - (sizes**2).sum() / count, count - 1],
    ]
    if np.linalg.matrix_rank(expected) < len(expected):
        return Undefined("the splits hold out the same questions, so the causes cannot be told apart")
    of_questions, of_splits, rest = np.linalg.solve(expected, sums).tolist()
    return of_questions, of_splits, rest


def _within(values: Array, group: Indices, sizes: Indices) -> float:
    """Sum of squared deviations from group means."""
    means = np.bincount(group, weights=values) / sizes
    return float(((values - means[group]) ** 2).sum())


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Intervals by stratum and row, and the variance by cause of each simulator's metrics over all pairs."""

    intervals: Mapping[str, Mapping[MetricKey, Bound]] = field(default_factory=dict)
    spreads: Mapping[MetricKey, Spread | Undefined] = field(default_factory=dict)


def score_uncertainty(
    splits: Sequence[SplitMetrics], answers: Sequence[Answer], resampling: Resampling, advanced: Advanced = unobserved
) -> Uncertainty:
    """Compute intervals of every predictor over all pairs and of simulators on each stratum, and simulators' spreads.

    Args:
        answers: the study's answers; those about other pairs are ignored.
        advanced: progress callback, called after each predictor on each stratum.
    """
    if resampling.replicates == 0:
        return Uncertainty()
    all_pairs = (each for split in splits for each in {WHOLE: split.pairs, **split.strata}.items())
    by_stratum: dict[str, list[SplitPairs]] = {WHOLE: [], **grouped(all_pairs)}
    predictors = {
        stratum: [
            each
            for each in dict.fromkeys(predictor for pairs in of_splits for predictor in pairs.predictors)
            if stratum == WHOLE or each in SIMULATORS
        ]
        for stratum, of_splits in by_stratum.items()
    }
    done, total = 0, sum(map(len, predictors.values()))
    intervals: dict[str, dict[MetricKey, Bound]] = {}
    spreads: dict[MetricKey, Spread | Undefined] = {}
    for stratum, of_splits in by_stratum.items():
        condition = stratum.removeprefix(CONDITION) if stratum.startswith(CONDITION) else None
        given = [answer for answer in answers if condition in (None, answer.condition)]
        values = (each for split in splits for each in split.question_values.items() if stratum == WHOLE)
        means = grouped(values)
        questions = {question_id for values in means.values() for each in values for question_id in each}
        draws = Draws((pair for pairs in of_splits for pair in pairs.human), given, resampling, questions)
        intervals[stratum] = {}
        for predictor in predictors[stratum]:
            having = [pairs for pairs in of_splits if predictor in pairs.predictors]
            found = [draws.predictor_pairs(pairs.human, pairs.predictors[predictor]) for pairs in having]
            intervals[stratum] |= _keyed(predictor, predictor_intervals(draws, found))
            if stratum == WHOLE and predictor in SIMULATORS:
                spreads |= _keyed(predictor, predictor_spreads(draws, found))
            done += 1
            advanced(done, total)
        intervals[stratum] |= mean_intervals(draws, means)
    # With separate draws, so that they change no other interval.
    alone = grouped(each for split in splits for each in split.without_people.items())
    questions = {question_id for values in alone.values() for each in values for question_id in each}
    intervals[WHOLE] |= mean_intervals(Draws((), (), resampling, questions), alone)
    return Uncertainty(intervals, spreads)


def _keyed(predictor: Predictor, rows: Mapping[tuple[str, str], T]) -> dict[MetricKey, T]:
    return {(assistant, predictor, metric): value for (assistant, metric), value in rows.items()}
