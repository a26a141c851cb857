r"""Confidence intervals of means over splits: a bootstrap over questions, widened for people who answered several.

Resampling questions captures everything that varies between them (the question itself, who answered it, which chats
were drawn) and respects that splits share questions: one drawn twice counts twice in every split. It misses the
correlation between questions that the same person answered. As for two-way clusters, the variance over resampled people
is added and that over resampled answers subtracted: V = V(questions) + max(0, V(people) - V(answers)).

The interval is estimate +- t * sqrt(V) with (questions - 1) degrees of freedom; V(questions) includes the bootstrap's
small-sample factor questions / (questions - 1). Correlations use Fisher's scale (atanh), where they are nearly normal.
ECE has no interval: it is biased upwards with few questions, and resampling adds to the bias. Trained simulators and
splits are taken as fixed: variation from training on other questions is in the standard errors over splits, not here.

Source: Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering"; Field and Welsh 2007,
"Bootstrapping clustered data".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from chatbench.metrics.agreement import CORRELATIONS, MIN_QUESTIONS, Array, Undefined
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS, PEOPLE, MetricKey
from chatbench.metrics.resampling import Drawn, Draws, PredictorPairs, Rows, mean_over_splits, replicate_rows

WITHOUT_INTERVAL = {
    "ece": Undefined("calibration error is biased upwards by an unknown amount if bins have few questions")
}
"""Metrics whose interval would cover the truth less often than it claims; measured in benchmarks/coverage.py."""
SIGNED = ("bias", "gap", "gap_error")
DIFFERENCE = "difference"
"""Metric name for the difference of two metrics, whose interval is not clipped to a range."""
LOST_SHARE = 0.05
"""If a larger share of resamples is undefined, there is no interval: the rest would describe something else."""
NO_SPREAD = 1e-9
CERTAIN = 1 - 1e-12
"""Correlations are clipped to this before atanh, which is infinite at 1."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval with its standard error (in the metric's unit) and number of questions."""

    low: float
    high: float
    standard_error: float
    questions: int


Bound = Interval | Undefined


def predictor_intervals(draws: Draws, splits: Sequence[PredictorPairs]) -> dict[tuple[str, str], Bound]:
    """Interval of every metric of one predictor, by (assistant, metric), from its pairs in each split."""
    drawn = replicate_rows(splits, partial(questions_drawn, draws))
    extra = person_variance(draws, splits)
    observed, confidence = replicate_rows(splits, as_observed), draws.resampling.confidence
    questions = {name: fewest_questions(splits, name) for name, _ in observed}
    return {
        row: WITHOUT_INTERVAL.get(row[1])
        or interval(row[1], float(estimate[0]), drawn[row], questions[row[0]], confidence, extra.get(row, 0.0))
        for row, estimate in observed.items()
    }


def fewest_questions(splits: Sequence[PredictorPairs], assistant: str) -> int:
    """Number of distinct questions behind a row; for the mean of assistants, that of the assistant with the fewest."""
    if assistant == MEAN_OF_ASSISTANTS:
        names = {name for pairs in splits for name in pairs.assistants}
        return min((fewest_questions(splits, name) for name in names), default=0)
    return len(
        {
            question
            for pairs in splits
            for question, name in zip(pairs.question.tolist(), pairs.assistant.tolist(), strict=True)
            if assistant in (EVERY_ASSISTANT, name)
        }
    )


def as_observed(_split: int, pairs: PredictorPairs) -> Drawn:
    """A single replicate with every pair once."""
    return pairs.human[None], pairs.simulated[None], np.ones((1, len(pairs.pair)))


def questions_drawn(draws: Draws, _split: int, pairs: PredictorPairs) -> Drawn:
    """Replicates with resampled questions."""
    return pairs.human[None], pairs.simulated[None], draws.question_weights[:, pairs.question]


def person_variance(draws: Draws, splits: Sequence[PredictorPairs]) -> dict[tuple[str, str], float]:
    """max(0, V(people) - V(answers)) of every metric: the effect of one person answering several questions.

    Empty if nobody answered twice.
    """
    if not draws.shares_people:
        return {}
    people, answers = human_rows(splits, draws.accuracies_by_worker), human_rows(splits, draws.accuracies_by_answer)
    return {row: excess(people[row], answers[row]) for row in people}


def excess(people: Array, answers: Array) -> float:
    """max(0, V(people) - V(answers)); NaN if either is undefined."""
    return float(np.maximum(0.0, variance(people) - variance(answers)))


def human_rows(splits: Sequence[PredictorPairs], accuracies: Array) -> Rows:
    """Every metric with resampled human `accuracies` of shape (replicates, all pairs); NaN pairs are left out."""

    def redraw(_: int, pairs: PredictorPairs) -> tuple[Array, Array, Array]:
        human = accuracies[:, pairs.pair]
        there = ~np.isnan(human)
        return np.where(there, human, 0.0), pairs.simulated[None], there.astype(np.float64)

    return replicate_rows(splits, redraw)


def variance(values: Array) -> float:
    """Variance of the defined replicates; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.var()) if len(known) else math.nan


def interval(
    metric: str, estimate: float, replicates: Array, questions: int, confidence: float, extra_variance: float = 0.0
) -> Bound:
    """Compute the interval of one metric.

    Args:
        estimate: the metric itself; NaN if undefined.
        replicates: the metric on resampled questions.
        questions: number of distinct questions.
        extra_variance: variance to add, in the metric's unit squared; NaN if unknown.
    """
    if math.isnan(estimate):
        return Undefined("the metric is undefined")
    if questions < MIN_QUESTIONS:
        return Undefined(f"{questions} question{'s' * (questions != 1)}, {MIN_QUESTIONS} are needed")
    known = replicates[~np.isnan(replicates)]
    lost = len(replicates) - len(known)
    if not len(replicates) or lost > LOST_SHARE * len(replicates):
        return Undefined(f"{lost} of {len(replicates)} resamples have no value")
    if math.isnan(extra_variance):
        return Undefined("it has no value when people are resampled")
    on_scale = _scaled(metric, known)
    spread = float(on_scale.std())
    if spread < NO_SPREAD:
        return Undefined("the metric is the same whichever questions are drawn")
    factor = questions / (questions - 1)
    slope = 1 / max(1 - estimate**2, 1 - CERTAIN) if metric in CORRELATIONS else 1.0
    error = math.sqrt(spread**2 * factor + extra_variance * slope**2)
    half = quantile(confidence, questions) * error
    centre = float(_scaled(metric, np.array([estimate]))[0])
    low, high = centre - half, centre + half
    if metric in CORRELATIONS:
        low, high = math.tanh(low), math.tanh(high)
    elif metric != DIFFERENCE:
        low, high = max(-1.0 if metric in SIGNED else 0.0, low), min(1.0, high)
    return Interval(low, high, math.sqrt(float(known.var()) * factor + extra_variance), questions)


def quantile(confidence: float, questions: int) -> float:
    """Two-sided quantile of Student's t with (questions - 1) degrees of freedom."""
    from scipy import special  # type: ignore[import-untyped]  # late: slow to import; has no types

    return float(special.stdtrit(questions - 1, 0.5 + confidence / 2))


def _scaled(metric: str, values: Array) -> Array:
    return np.arctanh(np.clip(values, -CERTAIN, CERTAIN)) if metric in CORRELATIONS else values


def mean_intervals(draws: Draws, values: Mapping[MetricKey, Sequence[Mapping[str, float]]]) -> dict[MetricKey, Bound]:
    """Compute intervals of metrics that are means over questions.

    Args:
        values: per metric and split, the value of each question; `draws` must include all these questions.
    """
    found: dict[MetricKey, Bound] = {}
    for row, splits in values.items():
        if known := [split for split in splits if split]:
            estimate = math.fsum(float(np.mean([*split.values()])) for split in known) / len(known)
            drawn = mean_over_splits([mean_replicates(draws, split) for split in known])
            questions = len({question_id for split in known for question_id in split})
            extra = gap_variance(draws, row, known)
            found[row] = interval(row[2], estimate, drawn, questions, draws.resampling.confidence, extra)
    return found


def gap_variance(draws: Draws, row: MetricKey, splits: Sequence[Mapping[str, float]]) -> float:
    """max(0, V(people) - V(answers)) of people's gap, which gap errors include; 0 for other metrics."""
    name, predictor, metric = row
    if not draws.shares_people or not (metric == "gap_error" or (metric == "gap" and predictor == PEOPLE)):
        return 0.0
    assistants = sorted({assistant for _, assistant in draws.pairs})
    both = next(pair for pair in combinations(assistants, 2) if " minus ".join(pair) == name)

    def gaps(accuracies: Array) -> Array:
        first, second = (
            [accuracies[:, [draws.pair_place[question_id, assistant] for question_id in split]] for split in splits]
            for assistant in both
        )
        return mean_over_splits([mean_over_splits([*(x - y).T]) for x, y in zip(first, second, strict=True)])

    return excess(gaps(draws.accuracies_by_worker), gaps(draws.accuracies_by_answer))


def mean_replicates(draws: Draws, values: Mapping[str, float]) -> Array:
    """Mean of a split's values in each question resample, shape (replicates,); NaN if none of them was drawn."""
    weights = draws.question_weights[:, [draws.place[question_id] for question_id in values]]
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ np.array([*values.values()]) / weights.sum(axis=1))
