r"""Bootstrap draws of questions, people, answers and simulated chats.

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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer
from chatbench.metrics.agreement import Array, batch_agreement
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS
from chatbench.metrics.pairs import Pair, Predictions, assistants_of

Indices = NDArray[np.int64]
Rows = dict[tuple[str, str], Array]
"""Replicates, shape (replicates,), by (assistant, metric)."""


LEAST_REPLICATES = 100
"""Fewest resamples for an interval."""
MOST_WITHIN = 400
"""Most draws of people, answers and chats: only a variance is estimated from them, which takes fewer draws."""

QUESTIONS, WORKERS, ANSWERS, PEOPLE, EXCHANGES, CHATS = range(6)
"""Random streams, one per kind of draw; the split's number is added to that of chats."""


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
        self._answers = _answer_arrays(answers, self.pair_place)

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

    @property
    def shares_people(self) -> bool:
        """Whether somebody answered more than once, so that answers are clustered by person."""
        workers, _, _ = self._answers
        return len(np.unique(workers)) < len(workers)

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
        workers, pairs, correct = self._answers
        _, worker = np.unique(workers, return_inverse=True)
        count = worker.max(initial=-1) + 1
        if not count:
            return np.full((self._within, len(self.pairs)), np.nan)
        given, right = np.zeros((count, len(self.pairs))), np.zeros((count, len(self.pairs)))
        np.add.at(given, (worker, pairs), 1)
        np.add.at(right, (worker, pairs), correct)
        weights = self._rng(WORKERS).multinomial(count, np.full(count, 1 / count), size=self._within)
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ right) / (weights @ given))

    @cached_property
    def accuracies_by_answer(self) -> Array:
        """Human accuracy with answers resampled independently (as Poisson counts), shape (replicates, pairs)."""
        count, right = self._answer_counts()
        rng, size = self._rng(ANSWERS), (self._within, len(self.pairs))
        drawn_right, drawn_wrong = rng.poisson(right, size), rng.poisson(count - right, size)
        with np.errstate(invalid="ignore"):
            return np.asarray(drawn_right / (drawn_right + drawn_wrong))

    @cached_property
    def accuracies_of_people(self) -> Array:
        """Human accuracy of n-1 answers drawn from the n of each pair, shape (replicates, pairs)."""
        count, right = self._answer_counts()
        return _one_less(right / np.maximum(count, 1), count, self._within, self._rng(PEOPLE))

    def _answer_counts(self) -> tuple[Array, Array]:
        """Number of answers and of right answers of each pair."""
        _, pairs, correct = self._answers
        count = np.bincount(pairs, minlength=len(self.pairs)).astype(np.float64)
        return count, np.bincount(pairs, weights=correct, minlength=len(self.pairs)).astype(np.float64)

    def accuracies_of_chats(self, pairs: PredictorPairs, split: int) -> Array:
        """Simulated accuracy of n-1 chats drawn from each pair's n, shape (replicates, pairs of the predictor)."""
        return _one_less(pairs.simulated, pairs.chats, self._within, self._rng(CHATS + split))


def _answer_arrays(answers: Iterable[Answer], places: Mapping[Pair, int]) -> tuple[NDArray[np.str_], Indices, Array]:
    """Worker, pair index and correctness (1 or 0) of every user-AI answer to a scored pair.

    Each answer without a worker id counts as a different person.
    """
    rows = [
        (answer.worker_id or f"nobody {number}", places[answer.question_id, answer.assistant], answer.correct)
        for number, answer in enumerate(answers)
        if answer.kind == "user-AI" and (answer.question_id, answer.assistant) in places
    ]
    return (
        np.array([row[0] for row in rows], dtype=np.str_),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def _one_less(accuracy: Array, count: Array, replicates: int, rng: np.random.Generator) -> Array:
    """Accuracy of n-1 draws with replacement from n outcomes; a single outcome is unchanged."""
    drawn = np.maximum(count - 1, 1).astype(np.int64)
    again = rng.binomial(drawn, np.clip(accuracy, 0, 1), size=(replicates, len(accuracy))) / drawn
    return np.where(count > 1, again, accuracy)


Drawn = tuple[Array, Array, Array]
"""Human accuracies, simulated accuracies and weights: the arguments of `batch_agreement`."""


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
        kept = np.ones(len(pairs.pair), dtype=bool) if name == EVERY_ASSISTANT else pairs.assistant == name
        rows |= {(name, metric): values for metric, values in score(kept).items()}
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
