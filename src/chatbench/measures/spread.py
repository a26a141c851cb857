r"""Where the uncertainty of a mean over splits comes from: questions, people, splits, simulated chats.

Model. Each split's figure is spread over its questions by the jackknife: y(q, s) = n f(s) - (n - 1) f(s without q),
whose mean over q is f(s) (up to curvature). These values are taken as crossed random effects,

    y(q, s) = mu + a(q) + b(s) + e(q, s),

a: what is peculiar to a question in every split, b: to a split (its training set and seed), e: the rest. Their
variances are estimated by the method of moments from the sums of squares within questions, within splits and over all,
which is unbiased for any pattern of who is held out where. The variance of the mean over splits is then a sum of known
multiples of them. Two parts are known better than that, from drawing answers and chats again within cells:

    questions             a, less what is due to people
    people                answers drawn again, plus what ties the answers of one person together
    splits                b
    questions x splits    e, less what is due to chats
    chats                 simulated chats drawn again

Of a single split, "splits" and "questions x splits" cannot be told from the questions and are left out. The parts add
up to the total. They are unbiased estimates of variances and not bounds, so a small one may come out
negative; it then says "too small to be told from 0". Splits train on overlapping questions, so b is too small, as the
plain standard error over splits is.

Source: Gao and Owen 2017, "Efficient moment calculations for variance components in large unbalanced crossed random
effects models"; Efron and Stein 1981 (jackknife).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.measures.agreement import Undefined
from chatbench.measures.batch_agreement import Array
from chatbench.measures.figures import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS
from chatbench.measures.intervals import human_rows, person_variance, variance
from chatbench.measures.resampling import Draws, Indices, SourceCells, replicate_rows

SplitValues = tuple[Indices, Array]
"""Places of a split's questions, and the value that each contributes to a figure; both of shape (questions,)."""

CAUSES = ("questions", "people", "splits", "questions x splits", "chats")


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of a mean over splits by cause (of `CAUSES`), in the figure's unit squared; may be slightly negative."""

    by_cause: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_cause.values())


def source_spreads(
    draws: Draws, splits: Sequence[SourceCells], by_worker: Array | None, by_answer: Array | None
) -> dict[tuple[str, str], Spread | Undefined]:
    """The spread of every figure of one simulator, by (assistant, metric); arguments as in `source_intervals`."""
    values = [jackknife_values(cells) for cells in splits]
    people = human_rows(splits, draws.accuracies_of_people())
    ties = person_variance(splits, by_worker, by_answer) if by_worker is not None and by_answer is not None else {}

    def with_chats(number: int, cells: SourceCells) -> tuple[Array, Array, Array]:
        again = draws.accuracies_of_chats(cells, number)
        return cells.human[None], again, np.ones_like(again)

    chats = replicate_rows(splits, with_chats)
    return {
        row: spread(
            [split[row] for split in values if row in split],
            people=variance(people[row]),
            ties=ties.get(row, 0.0),
            chats=variance(chats[row]),
        )
        for row in chats
    }


def jackknife_values(cells: SourceCells) -> dict[tuple[str, str], SplitValues]:
    """n f - (n - 1) f(without q) of every figure of a split, over the n questions that it rests on."""
    questions, place = np.unique(cells.question, return_inverse=True)
    without = np.ones((len(questions), len(cells.cell)))
    without[place, np.arange(len(cells.cell))] = 0.0
    fixed = (cells.human[None], cells.simulated[None])
    whole = replicate_rows([cells], lambda *_: (*fixed, np.ones((1, len(cells.cell)))))
    less = replicate_rows([cells], lambda *_: (*fixed, without))
    found = {}
    for row, values in less.items():
        together = row[0] in (EVERY_ASSISTANT, MEAN_OF_ASSISTANTS)
        own = np.isin(questions, cells.question if together else cells.question[cells.assistant == row[0]])
        count = int(own.sum())
        found[row] = (questions[own], count * whole[row] - (count - 1) * values[own])
    return found


def spread(splits: Sequence[SplitValues], *, people: float, ties: float, chats: float) -> Spread | Undefined:
    """The variance of the mean over splits by cause.

    Args:
        splits: per split, the values of its questions.
        people: variance from drawing answers again within cells, `ties` what people who answered several questions add.
        chats: variance from drawing chats again.
    """
    if any(np.isnan(values).any() for _, values in splits):
        return Undefined("without some question the figure is undefined")
    if np.isnan([people, ties, chats]).any():
        return Undefined("it has no value where other people or chats are drawn")
    if any(len(values) < 2 for _, values in splits):
        return Undefined("a split with fewer than 2 questions")
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
    """Unbiased variances of a (questions), b (splits) and e (rest) of the crossed random effects model.

    Three sums of squares and their expectations, with N values, G questions held out n(q) times, K splits of n(s):
    within questions (N - G)(b + e); within splits (N - K)(a + e); over all
    (N - sum n(q)^2 / N) a + (N - sum n(s)^2 / N) b + (N - 1) e.
    """
    places = np.concatenate([places for places, _ in splits])
    values = np.concatenate([values for _, values in splits])
    sizes = np.array([len(each) for _, each in splits])
    number = np.repeat(np.arange(len(splits)), sizes)
    _, question, times = np.unique(places, return_inverse=True, return_counts=True)
    count = len(values)
    if count == len(times):
        return Undefined("no question is held out in two splits, so splits cannot be told from questions")
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
    """Sum of squared distances from the mean of each value's group."""
    means = np.bincount(group, weights=values) / sizes
    return float(((values - means[group]) ** 2).sum())
