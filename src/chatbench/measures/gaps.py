r"""The gap between two assistants: how much more often people are right with the one than with the other.

A benchmark is read for such gaps, so a simulator should preserve them. A gap is the mean difference of accuracy over
the questions for which both assistants' cells are there, with people and with the source; its error is the source's gap
minus that of people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from chatbench.measures.accuracies import Cell, Prediction
from chatbench.measures.figures import PEOPLE
from chatbench.measures.split_cells import SplitCells

GAP_METRICS = ("gap", "gap_error")

QuestionValues = dict[str, float]
"""A value per question id."""


def gap_values(cells: SplitCells) -> Iterator[tuple[tuple[str, str, str], QuestionValues]]:
    """((assistants, source, metric), value per question), for every pair of assistants that share a question."""
    for first, second in combinations(cells.assistants, 2):
        name = f"{first} minus {second}"
        people = _differences(cells.human, first, second)
        if people:
            yield (name, PEOPLE, "gap"), people
        for source, predicted in cells.sources.items():
            found = {q: value for q, value in _differences(predicted, first, second).items() if q in people}
            if found:
                yield (name, source, "gap"), found
                yield (name, source, "gap_error"), {q: value - people[q] for q, value in found.items()}


def _differences(accuracies: Mapping[Cell, Prediction], first: str, second: str) -> QuestionValues:
    return {
        question_id: accuracies[question_id, first].accuracy - accuracies[question_id, second].accuracy
        for question_id, assistant in accuracies
        if assistant == first and (question_id, second) in accuracies
    }
