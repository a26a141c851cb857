"""The questions of a page as plain values: their texts, and how often who was right about each.

Accuracies come from the scores' files per question, pooled over splits (each answer or chat weighs the same), so that
nothing is scored a second time here. The texts come from the study, and are empty where it cannot be opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbench.core.records import Question
from chatbench.measures.accuracies import Cell, Prediction
from chatbench.measures.agreement import CALIBRATION_BINS, calibration_bin
from chatbench.measures.figures import AI_ALONE, FINE_TUNED, PEOPLE, REGRESSION, UNTRAINED, USER_ALONE
from chatbench.measures.proportions import wilson_interval
from chatbench.steps.question_files import QuestionScores

SIMULATORS = (FINE_TUNED, UNTRAINED)
SHARED_SOURCES = (PEOPLE, USER_ALONE, REGRESSION)
"""What does not depend on the run; of these, and of AI alone, only the first run's are shown."""
DIGITS = 4

Plain = dict[str, object]


@dataclass(frozen=True, slots=True)
class RunScores:
    """The accuracies per question of one run."""

    key: str
    scores: QuestionScores


def question_values(questions: Mapping[str, Question], shown: Iterable[str]) -> list[Plain]:
    """The questions in the order of `shown`; one that the study does not have is known by its id only."""
    return [_question(questions.get(question_id), question_id) for question_id in shown]


def _question(question: Question | None, question_id: str) -> Plain:
    if question is None:
        return {"id": question_id, "subset": "", "text": "", "options": [], "answer": ""}
    return {
        "id": question.id,
        "subset": question.subset,
        "text": question.text,
        "options": list(question.options),
        "answer": question.answer,
    }


def cell_values(runs: Sequence[RunScores], place: Mapping[str, int]) -> list[Plain]:
    """Every source with its accuracy per question and assistant, as columns of equal length.

    Args:
        place: question id -> its number in `question_values`.
    """
    groups: list[Plain] = []
    for number, run in enumerate(runs):
        for source, pooled in pooled_accuracies(run.scores).items():
            own = source in SIMULATORS
            if own or (number == 0 and (source in SHARED_SOURCES or source.startswith(AI_ALONE))):
                groups.append(_columns(source, run.key if own else "", "", pooled, place))
    if runs:
        groups += [
            _columns(PEOPLE, "", condition, pooled, place) for condition, pooled in _conditions(runs[0].scores).items()
        ]
    return groups


def _columns(
    source: str, run: str, condition: str, cells: Mapping[Cell, Prediction], place: Mapping[str, int]
) -> Plain:
    known = {cell: found for cell, found in cells.items() if cell[0] in place}
    ends = [wilson_interval(found.accuracy, found.count) if found.count else (0.0, 1.0) for found in known.values()]
    return {
        "source": source,
        "run": run,
        "condition": condition,
        "question": [place[question_id] for question_id, _ in known],
        "assistant": [assistant for _, assistant in known],
        "accuracy": [round(found.accuracy, DIGITS) for found in known.values()],
        "count": [found.count for found in known.values()],
        "low": [round(low, DIGITS) for low, _ in ends],
        "high": [round(high, DIGITS) for _, high in ends],
    }


def pooled_accuracies(scores: QuestionScores) -> dict[str, dict[Cell, Prediction]]:
    """Accuracy per source and cell over all splits.

    People, their answers alone and AI alone are the same in every split and are not added up; a simulator is another
    model in each split, and its chats are.
    """
    pooled: dict[str, dict[Cell, Prediction]] = {}
    for sources in scores.accuracies.values():
        for source, cells in sources.items():
            of_source = pooled.setdefault(source, {})
            for cell, found in cells.items():
                before = of_source.get(cell)
                of_source[cell] = found if before is None or source not in SIMULATORS else _both(before, found)
    return pooled


def _both(first: Prediction, second: Prediction) -> Prediction:
    count = first.count + second.count
    right = first.accuracy * first.count + second.accuracy * second.count
    return Prediction(min(1.0, right / count), count) if count else first


def _conditions(scores: QuestionScores) -> dict[str, dict[Cell, Prediction]]:
    """People's accuracy per condition; nothing where all were in the same one."""
    right: dict[str, dict[Cell, list[bool]]] = {}
    for answer in scores.answers:
        cell = (answer.question_id, answer.assistant)
        right.setdefault(answer.condition, {}).setdefault(cell, []).append(answer.correct)
    if len(right) < 2:
        return {}
    return {
        condition: {cell: Prediction(sum(found) / len(found), len(found)) for cell, found in cells.items()}
        for condition, cells in sorted(right.items())
    }


def calibration_values(scores: QuestionScores) -> Plain:
    """Per source: how often people were right where the source said they would be, in bins of predicted accuracy.

    A cell counts once per split in which it is held out. The interval of a bin is of its mean over questions, the
    spread between them being the larger part: mean +- 1.96 standard errors, none where a bin has one question.
    """
    bins: dict[str, dict[int, list[tuple[str, float, float]]]] = {}
    for sources in scores.accuracies.values():
        people = sources.get(PEOPLE, {})
        for source, cells in sources.items():
            if source in (*SIMULATORS, REGRESSION) or source.startswith(AI_ALONE):
                for cell, found in cells.items():
                    if cell in people:
                        point = (cell[0], found.accuracy, people[cell].accuracy)
                        bins.setdefault(source, {}).setdefault(calibration_bin(found.accuracy), []).append(point)
    return {source: list(_calibration_bins(found)) for source, found in bins.items()}


def _calibration_bins(bins: Mapping[int, Sequence[tuple[str, float, float]]]) -> Iterator[Plain]:
    for number, points in sorted(bins.items()):
        by_question: dict[str, list[float]] = {}
        for question_id, _, person in points:
            by_question.setdefault(question_id, []).append(person)
        human = sum(person for _, _, person in points) / len(points)
        value: Plain = {
            "from": number / CALIBRATION_BINS,
            "to": (number + 1) / CALIBRATION_BINS,
            "predicted": round(sum(predicted for _, predicted, _ in points) / len(points), DIGITS),
            "people": round(human, DIGITS),
            "cells": len(points),
            "questions": len(by_question),
        }
        if len(by_question) > 1:
            half = 1.96 * _standard_error([sum(each) / len(each) for each in by_question.values()])
            value |= {"low": round(max(0.0, human - half), DIGITS), "high": round(min(1.0, human + half), DIGITS)}
        yield value


def _standard_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5)
