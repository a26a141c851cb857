"""Bootstrap over questions, people, answers and simulated chats, and the confidence intervals of means over splits.

All predictors and splits share the same draws, so whatever is computed from them is paired: a question drawn twice
counts twice in each split that holds it out, for people, simulators and baselines alike.

| draw | resampled | source of variance |
|---|---|---|
| `questions` | whole questions, with all their answers and chats | everything that varies between questions |
| `workers` | people, with all their answers; questions fixed | people, with correlation between one person's answers |
| `answers` | single answers; questions fixed | people, as if every answer were from a different person |
| `people` | answers within each pair, n-1 of n | the same, without the small-sample bias of `answers` |
| `chats` | simulated chats within each pair, n-1 of n | randomness of the simulation |

Drawing n-1 of n with replacement makes the variance of a mean unbiased (Rao and Wu 1988); the first three draw n of n.

Intervals are a bootstrap over questions, widened for people who answered several. Resampling questions captures
everything that varies between them (the question itself, who answered it, which chats were drawn) and respects that
splits share questions. It misses the correlation between questions that the same person answered. As for two-way
clusters, the variance over resampled people is added and that over resampled answers subtracted:
V = V(questions) + max(0, V(people) - V(answers)).

The interval is estimate +- t * sqrt(V). V(questions) and V(people) include the bootstrap's small-sample factor
n / (n - 1), and t has the degrees of freedom of a sum of two variances, one over questions, one over people
(Satterthwaite 1946). Correlations use Fisher's scale (atanh), where they are nearly normal.
ECE has no interval: it is biased upwards with few questions, and resampling adds to the bias. Trained simulators and
splits are taken as fixed: variation from training on other questions is in the standard errors over splits, not here.

Source: Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering"; Field and Welsh 2007,
"Bootstrapping clustered data"; Satterthwaite 1946, "An approximate distribution of estimates of variance components".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer
from chatbench.metrics.agreement import CORRELATIONS, MIN_QUESTIONS, Array, Undefined, batch_agreement
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS, PEOPLE, MetricKey
from chatbench.metrics.pairs import Pair, Predictions, assistants_of

Indices = NDArray[np.int64]
Rows = dict[tuple[str, str], Array]
"""Replicates, shape (replicates,), by (assistant, metric)."""
Drawn = tuple[Array, Array, Array]
"""Human accuracies, simulated accuracies and weights: the arguments of `batch_agreement`."""

LEAST_REPLICATES = 100
"""Fewest resamples for an interval."""
MOST_WITHIN = 400
"""Most draws of people, answers and chats: only a variance is estimated from them, which takes fewer draws."""

QUESTIONS, WORKERS, ANSWERS, PERSONS, EXCHANGES, CHATS = range(6)
"""Random streams, one per kind of draw; the split's number is added to that of chats."""

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
class Resampling:
    """Bootstrap settings: number of replicates (0: no intervals), confidence level and seed."""

    replicates: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def checked(self) -> Resampling:
        """Return self if the settings are valid.

        Raises:
            ChatbenchError: too few replicates, or a confidence outside 0..1.
        """
        if self.replicates < 0 or 0 < self.replicates < LEAST_REPLICATES:
            raise ChatbenchError(f"--bootstrap {self.replicates}", expected=f"0, or {LEAST_REPLICATES} and more")
        if not 0 < self.confidence < 1:
            raise ChatbenchError(f"--confidence {self.confidence}", expected="a share between 0 and 1, such as 0.95")
        return self


@dataclass(frozen=True, slots=True)
class PredictorPairs:
    """One predictor's accuracies for one split's pairs, as arrays of shape (pairs,).

    `assistants` are all assistants of the split, including any without a prediction. `question` and `pair` are indices
    into `Draws.questions` and `Draws.pairs`.
    """

    assistants: tuple[str, ...]
    question: Indices
    pair: Indices
    assistant: NDArray[np.str_]
    human: Array
    simulated: Array
    chats: Array

    def of(self, assistant: str) -> NDArray[np.bool_]:
        """Mask of an assistant's pairs, or of all."""
        return np.asarray((self.assistant == assistant) | (assistant == EVERY_ASSISTANT))


class Draws:
    """All random draws over a set of splits.

    Args:
        pairs: the scored pairs of all splits; duplicates are allowed.
        answers: the study's answers; those about other pairs are ignored.
        held_out: additional questions to draw from, beyond those of the scored pairs.
    """

    def __init__(
        self, pairs: Iterable[Pair], answers: Iterable[Answer], resampling: Resampling, held_out: Iterable[str] = ()
    ) -> None:
        self.pairs = tuple(sorted(set(pairs)))
        self.questions = tuple(sorted({question_id for question_id, _ in self.pairs} | set(held_out)))
        self.resampling = resampling
        self.place = {question_id: place for place, question_id in enumerate(self.questions)}
        self._within = min(resampling.replicates, MOST_WITHIN)
        self.pair_place = {pair: place for place, pair in enumerate(self.pairs)}
        # Of every user-AI answer to a scored pair; one without a worker id counts as a different person's.
        places = self.pair_place
        rows = [
            (answer.worker_id or f"nobody {number}", places[answer.question_id, answer.assistant], answer.correct)
            for number, answer in enumerate(answers)
            if answer.kind == "user-AI" and (answer.question_id, answer.assistant) in places
        ]
        self._workers = np.array([row[0] for row in rows], dtype=np.str_)
        self._answered = np.array([row[1] for row in rows], dtype=np.int64)
        self._correct = np.array([row[2] for row in rows], dtype=np.float64)

    @cached_property
    def question_weights(self) -> Array:
        """How often each question was drawn, shape (replicates, questions)."""
        count = len(self.questions)
        if not count:
            return np.zeros((self.resampling.replicates, 0))
        drawn = self._rng(QUESTIONS).multinomial(count, np.full(count, 1 / count), size=self.resampling.replicates)
        return np.asarray(drawn, dtype=np.float64)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.resampling.seed, number])

    @cached_property
    def exchanges(self) -> NDArray[np.bool_]:
        """Whether two simulators are swapped on a question, by fair coin flips; shape (replicates, questions)."""
        return self._rng(EXCHANGES).random((self.resampling.replicates, len(self.questions))) < 0.5

    @cached_property
    def people(self) -> int:
        """Number of people who answered."""
        return len(np.unique(self._workers))

    @property
    def shares_people(self) -> bool:
        """Whether somebody answered more than once, so that answers are clustered by person."""
        return self.people < len(self._workers)

    def predictor_pairs(self, human: Predictions, predicted: Predictions) -> PredictorPairs:
        """Join human and predicted accuracies of a split on their common pairs."""
        both = [pair for pair in human if pair in predicted]
        return PredictorPairs(
            assistants=tuple(assistants_of(human)),
            question=np.array([self.place[question_id] for question_id, _ in both], dtype=np.int64),
            pair=np.array([self.pair_place[pair] for pair in both], dtype=np.int64),
            assistant=np.array([assistant for _, assistant in both], dtype=np.str_),
            human=np.array([human[pair].accuracy for pair in both]),
            simulated=np.array([predicted[pair].accuracy for pair in both]),
            chats=np.array([predicted[pair].count for pair in both], dtype=np.float64),
        )

    @cached_property
    def accuracies_by_worker(self) -> Array:
        """Human accuracy with people resampled, shape (replicates, pairs); NaN where nobody was drawn."""
        _, worker = np.unique(self._workers, return_inverse=True)
        count = worker.max(initial=-1) + 1
        if not count:
            return np.full((self._within, len(self.pairs)), np.nan)
        given, right = np.zeros((count, len(self.pairs))), np.zeros((count, len(self.pairs)))
        np.add.at(given, (worker, self._answered), 1)
        np.add.at(right, (worker, self._answered), self._correct)
        weights = self._rng(WORKERS).multinomial(count, np.full(count, 1 / count), size=self._within)
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ right) / (weights @ given))

    @cached_property
    def accuracies_by_answer(self) -> Array:
        """Human accuracy with answers resampled independently (as Poisson counts), shape (replicates, pairs)."""
        rng, size = self._rng(ANSWERS), (self._within, len(self.pairs))
        right, total = np.zeros(size), np.zeros(size)
        for score in np.unique(self._correct)[::-1]:  # 1 and 0, or the scores of a graded outcome
            answers = np.bincount(self._answered[self._correct == score], minlength=len(self.pairs))
            drawn = rng.poisson(answers, size)
            right, total = right + score * drawn, total + drawn
        with np.errstate(invalid="ignore"):
            return np.asarray(right / total)

    @cached_property
    def accuracies_of_people(self) -> Array:
        """Human accuracy of n-1 answers drawn from the n of each pair, shape (replicates, pairs)."""
        count = np.bincount(self._answered, minlength=len(self.pairs)).astype(np.float64)
        right = np.bincount(self._answered, weights=self._correct, minlength=len(self.pairs))
        return _one_less(right / np.maximum(count, 1), count, self._within, self._rng(PERSONS))

    def accuracies_of_chats(self, pairs: PredictorPairs, split: int) -> Array:
        """Simulated accuracy of n-1 chats drawn from each pair's n, shape (replicates, pairs of the predictor)."""
        return _one_less(pairs.simulated, pairs.chats, self._within, self._rng(CHATS + split))


def _one_less(accuracy: Array, count: Array, replicates: int, rng: np.random.Generator) -> Array:
    """Accuracy of n-1 draws with replacement from n outcomes; a single outcome is unchanged."""
    drawn = np.maximum(count - 1, 1).astype(np.int64)
    again = rng.binomial(drawn, np.clip(accuracy, 0, 1), size=(replicates, len(accuracy))) / drawn
    return np.where(count > 1, again, accuracy)


def replicate_rows(splits: Sequence[PredictorPairs], redraw: Callable[[int, PredictorPairs], Drawn]) -> Rows:
    """Mean over splits of every metric in each replicate: per assistant, pooled, and as mean of assistants.

    Args:
        redraw: returns the draws of a split, given its number and pairs.
    """

    def rows_of_split(number: int, pairs: PredictorPairs) -> Rows:
        drawn = redraw(number, pairs)
        return rows_by_assistant(pairs, lambda kept: batch_agreement(*(values[:, kept] for values in drawn)))

    return rows_over_splits([rows_of_split(number, pairs) for number, pairs in enumerate(splits)])


def rows_over_splits(splits: Sequence[Rows]) -> Rows:
    """Average each row over the splits that have it."""
    names = dict.fromkeys(row for rows in splits for row in rows)
    return {name: mean_over_splits([rows[name] for rows in splits if name in rows]) for name in names}


def rows_by_assistant(pairs: PredictorPairs, score: Callable[[NDArray[np.bool_]], Mapping[str, Array]]) -> Rows:
    """Apply `score` to each assistant's pairs and to all pairs, and add the mean of assistants.

    The mean is NaN if any assistant is, since the mean of the rest would be a different quantity.
    """
    rows: Rows = {}
    for name in [*pairs.assistants, EVERY_ASSISTANT]:
        rows |= {(name, metric): values for metric, values in score(pairs.of(name)).items()}
    if len(pairs.assistants) > 1:
        for metric in dict.fromkeys(metric for _, metric in rows):
            rows[MEAN_OF_ASSISTANTS, metric] = np.asarray(np.mean([rows[n, metric] for n in pairs.assistants], axis=0))
    return rows


def mean_over_splits(values: Sequence[Array]) -> Array:
    """Mean of each replicate over the splits where it is not NaN."""
    stacked = np.array(values)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, stacked, 0).sum(axis=0) / known.sum(axis=0))


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
    extra = person_variance(draws, partial(human_rows, splits))
    observed = replicate_rows(splits, as_observed)
    questions = {name: fewest_questions(splits, name) for name, _ in observed}
    return {
        row: WITHOUT_INTERVAL.get(row[1])
        or interval(draws, row[1], float(estimate[0]), drawn[row], questions[row[0]], extra.get(row, 0.0))
        for row, estimate in observed.items()
    }


def fewest_questions(splits: Sequence[PredictorPairs], assistant: str) -> int:
    """Number of distinct questions behind a row; for the mean of assistants, that of the assistant with the fewest."""
    if assistant == MEAN_OF_ASSISTANTS:
        names = {name for pairs in splits for name in pairs.assistants}
        return min((fewest_questions(splits, name) for name in names), default=0)
    kept = [pairs.question[pairs.of(assistant)] for pairs in splits]
    return len(np.unique(np.concatenate(kept))) if kept else 0


def as_observed(_split: int, pairs: PredictorPairs) -> Drawn:
    """A single replicate with every pair once."""
    return pairs.human[None], pairs.simulated[None], np.ones((1, len(pairs.pair)))


def questions_drawn(draws: Draws, _split: int, pairs: PredictorPairs) -> Drawn:
    """Replicates with resampled questions."""
    return pairs.human[None], pairs.simulated[None], draws.question_weights[:, pairs.question]


def person_variance(draws: Draws, rows_of: Callable[[Array], Rows]) -> dict[tuple[str, str], float]:
    """max(0, V(people) - V(answers)) of every metric: the effect of one person answering several questions.

    Empty if nobody answered twice.

    Args:
        rows_of: every metric from resampled human accuracies, as `human_rows`.
    """
    if not draws.shares_people:
        return {}
    people, answers = map(rows_of, (draws.accuracies_by_worker, draws.accuracies_by_answer))
    return {row: excess(draws, people[row], answers[row]) for row in people}


def excess(draws: Draws, people: Array, answers: Array) -> float:
    """max(0, V(people) - V(answers)) from a metric's replicates; NaN if either is undefined or there is one person."""
    if draws.people < 2:
        return math.nan
    return float(np.maximum(0.0, variance(people) * draws.people / (draws.people - 1) - variance(answers)))


def human_rows(splits: Sequence[PredictorPairs], accuracies: Array) -> Rows:
    """Every metric with resampled human `accuracies` of shape (replicates, all pairs); NaN pairs are left out."""

    def redraw(_: int, pairs: PredictorPairs) -> Drawn:
        human = accuracies[:, pairs.pair]
        there = ~np.isnan(human)
        return np.where(there, human, 0.0), pairs.simulated[None], there.astype(np.float64)

    return replicate_rows(splits, redraw)


def variance(values: Array) -> float:
    """Variance of the defined replicates; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.var()) if len(known) else math.nan


def interval(
    draws: Draws, metric: str, estimate: float, replicates: Array, questions: int, extra_variance: float = 0.0
) -> Bound:
    """Compute the interval of one metric.

    Args:
        estimate: the metric itself; NaN if undefined.
        replicates: the metric on resampled questions.
        questions: number of distinct questions.
        extra_variance: variance to add for `draws.people`, in the metric's unit squared; NaN if unknown.
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
        alone = "one person gave all answers: how people differ is unknown"
        return Undefined(alone if draws.people == 1 else "it has no value when people are resampled")
    spread = float(_scaled(metric, known).std())
    if spread < NO_SPREAD:
        return Undefined("the metric is the same whichever questions are drawn")
    factor = questions / (questions - 1)
    slope = 1 / max(1 - estimate**2, 1 - CERTAIN) if metric in CORRELATIONS else 1.0
    of_questions, of_people = spread**2 * factor, extra_variance * slope**2
    degrees = degrees_of_freedom(of_questions, questions, of_people, draws.people)
    half = quantile(draws.resampling.confidence, degrees) * math.sqrt(of_questions + of_people)
    centre = float(_scaled(metric, np.array([estimate]))[0])
    low, high = centre - half, centre + half
    if metric in CORRELATIONS:
        low, high = math.tanh(low), math.tanh(high)
    elif metric != DIFFERENCE:
        low, high = max(-1.0 if metric in SIGNED else 0.0, low), min(1.0, high)
    return Interval(low, high, math.sqrt(float(known.var()) * factor + extra_variance), questions)


def degrees_of_freedom(of_questions: float, questions: int, of_people: float, people: int) -> float:
    """Satterthwaite's, of the sum of a variance over questions and one over people.

    >>> degrees_of_freedom(0.01, 31, 0.0, 6), degrees_of_freedom(0.01, 31, 0.01, 6)
    (30.0, 17.142857142857142)
    """
    uncertain = of_questions**2 / (questions - 1) + (of_people**2 / (people - 1) if of_people else 0.0)
    return (of_questions + of_people) ** 2 / uncertain


def quantile(confidence: float, degrees: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy import special  # type: ignore[import-untyped]  # late: slow to import; has no types

    return float(special.stdtrit(degrees, 0.5 + confidence / 2))


def _scaled(metric: str, values: Array) -> Array:
    return np.arctanh(np.clip(values, -CERTAIN, CERTAIN)) if metric in CORRELATIONS else values


def mean_intervals(draws: Draws, values: Mapping[MetricKey, Sequence[Mapping[str, float]]]) -> dict[MetricKey, Bound]:
    """Compute intervals of metrics that are means over questions.

    Args:
        values: per metric and split, the value of each question; `draws` must include all these questions.
    """
    found: dict[MetricKey, Bound] = {}
    for row, splits in values.items():
        if known := [*filter(None, splits)]:
            estimate = math.fsum(float(np.mean([*split.values()])) for split in known) / len(known)
            drawn = mean_over_splits([mean_replicates(draws, split) for split in known])
            questions = len({question_id for split in known for question_id in split})
            extra = gap_variance(draws, row, known)
            found[row] = interval(draws, row[2], estimate, drawn, questions, extra)
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

    return excess(draws, gaps(draws.accuracies_by_worker), gaps(draws.accuracies_by_answer))


def mean_replicates(draws: Draws, values: Mapping[str, float]) -> Array:
    """Mean of a split's values in each question resample, shape (replicates,); NaN if none of them was drawn."""
    weights = draws.question_weights[:, [draws.place[question_id] for question_id in values]]
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ np.array([*values.values()]) / weights.sum(axis=1))
