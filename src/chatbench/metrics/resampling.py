r"""Resampled accuracies: questions, people, single answers and simulated chats drawn again.

The same draws serve every source and every split, so whatever is computed from them is paired: a question that is drawn
twice counts twice in each split that holds it out, for people, simulators and baselines alike.

| draw | what is drawn again | what its spread holds |
|---|---|---|
| `questions` | whole questions, with all their answers and chats | everything that differs from question to question |
| `workers` | people, with all their answers; questions stay | people, with what one person does in several questions |
| `answers` | single answers; questions stay | people, as if every answer were another person's |
| `people` | answers within each cell, n-1 of n | the same, without the small-sample bias of `answers` |
| `chats` | simulated chats within each cell, n-1 of n | chance in the simulation |

Drawing n-1 of n with replacement makes the variance of a mean unbiased (Rao and Wu 1988); the first three draw n of n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer
from chatbench.metrics.accuracies import Cell
from chatbench.metrics.agreement import Array, batch_agreement
from chatbench.metrics.cells import SplitCells
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS

Indices = NDArray[np.int64]
Rows = dict[tuple[str, str], Array]
"""Replicates, shape (replicates,), by (assistant, metric)."""


MOST_WITHIN = 400
"""People, answers and chats are drawn again for a variance alone, a part of the whole one: that takes fewer draws."""

QUESTIONS, WORKERS, ANSWERS, PEOPLE, EXCHANGES, CHATS = range(6)
"""Streams of random numbers, one for each kind of draw; that of chats goes on with the number of the split."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often to draw, how sure an interval is to be, and where the random numbers start."""

    replicates: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SourceCells:
    """What one source says of one split's cells, as arrays of shape (cells,).

    `assistants` are all of the split's, also those of which the source says nothing. `question` and `cell` are places
    in the lists of all questions and all cells.
    """

    assistants: tuple[str, ...]
    question: Indices
    cell: Indices
    assistant: NDArray[np.str_]
    human: Array
    simulated: Array
    chats: Array


class Draws:
    """All random draws over some splits, and the cells that they are drawn for."""

    def __init__(
        self,
        splits: Sequence[SplitCells],
        answers: Iterable[Answer],
        told: Resampling,
        held_out: Iterable[str] = (),
    ) -> None:
        """`held_out`: further questions to draw from, beyond those of the scored cells."""
        self.cells = tuple(sorted({cell for split in splits for cell in split.human}))
        self.questions = tuple(sorted({question_id for question_id, _ in self.cells} | set(held_out)))
        self.told = told
        self._within = min(told.replicates, MOST_WITHIN)
        self._cell_place = {cell: place for place, cell in enumerate(self.cells)}
        self._question_place = {question_id: place for place, question_id in enumerate(self.questions)}
        self._answers = _answer_arrays(answers, self._cell_place)
        self.question_weights = self._question_weights()

    def _question_weights(self) -> Array:
        count = len(self.questions)
        if not count:
            return np.zeros((self.told.replicates, 0))
        drawn = self._rng(QUESTIONS).multinomial(count, np.full(count, 1 / count), size=self.told.replicates)
        return np.asarray(drawn, dtype=np.float64)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.told.seed, number])

    def exchanges(self) -> NDArray[np.bool_]:
        """Shape (replicates, questions): whether two simulators change places in a question; a fair coin each."""
        return self._rng(EXCHANGES).random((self.told.replicates, len(self.questions))) < 0.5

    @property
    def shares_people(self) -> bool:
        """Whether somebody answered more than once, so that answers are clustered by person."""
        workers, _, _ = self._answers
        return len(np.unique(workers)) < len(workers)

    def source_cells(self, split: SplitCells, source: str) -> SourceCells:
        """The cells of a split that both people and the source have."""
        predicted = split.sources.get(source, {})
        both = [cell for cell in split.human if cell in predicted]
        return SourceCells(
            assistants=tuple(split.assistants),
            question=np.array([self._question_place[question_id] for question_id, _ in both], dtype=np.int64),
            cell=np.array([self._cell_place[cell] for cell in both], dtype=np.int64),
            assistant=np.array([assistant for _, assistant in both], dtype=np.str_),
            human=np.array([split.human[cell].accuracy for cell in both]),
            simulated=np.array([predicted[cell].accuracy for cell in both]),
            chats=np.array([predicted[cell].count for cell in both], dtype=np.float64),
        )

    def accuracies_by_worker(self) -> Array:
        """Shape (replicates, cells): human accuracy where people were drawn again; NaN in a cell that drew nobody."""
        workers, cells, correct = self._answers
        _, worker = np.unique(workers, return_inverse=True)
        count = worker.max(initial=-1) + 1
        if not count:
            return np.full((self._within, len(self.cells)), np.nan)
        given, right = np.zeros((count, len(self.cells))), np.zeros((count, len(self.cells)))
        np.add.at(given, (worker, cells), 1)
        np.add.at(right, (worker, cells), correct)
        weights = self._rng(WORKERS).multinomial(count, np.full(count, 1 / count), size=self._within)
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ right) / (weights @ given))

    def accuracies_by_answer(self) -> Array:
        """The same with every answer drawn by itself: Poisson counts, to which those of workers tend too."""
        _, cells, correct = self._answers
        right = np.bincount(cells, weights=correct, minlength=len(self.cells))
        wrong = np.bincount(cells, minlength=len(self.cells)) - right
        rng, size = self._rng(ANSWERS), (self._within, len(self.cells))
        drawn_right, drawn_wrong = rng.poisson(right, size), rng.poisson(wrong, size)
        with np.errstate(invalid="ignore"):
            return np.asarray(drawn_right / (drawn_right + drawn_wrong))

    def accuracies_of_people(self) -> Array:
        """Shape (replicates, cells): human accuracy of n-1 answers drawn from the n of each cell."""
        _, cells, correct = self._answers
        count = np.bincount(cells, minlength=len(self.cells)).astype(np.float64)
        right = np.bincount(cells, weights=correct, minlength=len(self.cells))
        return _one_less(right / np.maximum(count, 1), count, self._within, self._rng(PEOPLE))

    def accuracies_of_chats(self, cells: SourceCells, split: int) -> Array:
        """Shape (replicates, cells of the source): simulated accuracy of n-1 chats drawn from the n of each cell."""
        return _one_less(cells.simulated, cells.chats, self._within, self._rng(CHATS + split))


def _answer_arrays(answers: Iterable[Answer], places: Mapping[Cell, int]) -> tuple[NDArray[np.str_], Indices, Array]:
    """Worker, cell and right (1) or wrong (0) of every user-AI answer about a scored cell.

    A person without an id is somebody else every time.
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
    """Accuracy of n-1 draws with replacement from n outcomes; a single outcome stays as it is."""
    drawn = np.maximum(count - 1, 1).astype(np.int64)
    again = rng.binomial(drawn, np.clip(accuracy, 0, 1), size=(replicates, len(accuracy))) / drawn
    return np.where(count > 1, again, accuracy)


Redraw = Callable[[int, SourceCells], tuple[Array, Array, Array]]
"""(number of the split, its cells) -> human, simulated and weights, as `batch_agreement` takes them."""


def replicate_rows(splits: Sequence[SourceCells], redraw: Redraw) -> Rows:
    """Every figure of every replicate: per assistant, pooled, and as mean of assistants, as mean over the splits.

    A split in which a figure is undefined is left out of that replicate's mean; NaN where no split has it.
    """
    per_split: list[Rows] = []
    for number, cells in enumerate(splits):
        drawn = redraw(number, cells)
        per_split.append(_rows_of_split(cells, drawn))
    names = dict.fromkeys(row for rows in per_split for row in rows)
    return {name: mean_over_splits([rows[name] for rows in per_split if name in rows]) for name in names}


def _rows_of_split(cells: SourceCells, drawn: tuple[Array, Array, Array]) -> Rows:
    return rows_by_assistant(cells, lambda kept: batch_agreement(*(values[:, kept] for values in drawn)))


def rows_by_assistant(cells: SourceCells, score: Callable[[NDArray[np.bool_]], Mapping[str, Array]]) -> Rows:
    """What `score` gives for each assistant's cells, for all of them, and the mean of assistants.

    A mean is NaN where one of them is, since a mean over the rest would be of something else.
    """
    rows: Rows = {}
    for name in [*cells.assistants, EVERY_ASSISTANT]:
        kept = np.ones(len(cells.cell), dtype=bool) if name == EVERY_ASSISTANT else cells.assistant == name
        rows |= {(name, metric): values for metric, values in score(kept).items()}
    if len(cells.assistants) > 1:
        for metric in dict.fromkeys(metric for _, metric in rows):
            rows[MEAN_OF_ASSISTANTS, metric] = np.asarray(np.mean([rows[n, metric] for n in cells.assistants], axis=0))
    return rows


def mean_over_splits(values: Sequence[Array]) -> Array:
    """Mean over splits of each replicate, over those splits where it is not NaN."""
    stacked = np.array(values)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, stacked, 0).sum(axis=0) / known.sum(axis=0))


def checked_resampling(told: Resampling) -> Resampling:
    """The same, once it is sure that it makes sense.

    Raises:
        ChatbenchError: it does not.
    """
    if told.replicates < 0 or 0 < told.replicates < LEAST_REPLICATES:
        raise ChatbenchError(f"--bootstrap {told.replicates}", expected=f"0, or {LEAST_REPLICATES} and more")
    if not 0 < told.confidence < 1:
        raise ChatbenchError(f"--confidence {told.confidence}", expected="a share between 0 and 1, such as 0.95")
    return told


LEAST_REPLICATES = 100
"""Fewer resamples say little about the ends of an interval."""
