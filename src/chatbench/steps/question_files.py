"""What scores are made of, per question: `<key>.questions.csv` and `<key>.answers.csv`.

Questions: one figure of one question and source in one split a line. A source's accuracy comes with the number of
answers, chats or samples behind it; overlap of first prompts is of all assistants together. Answers: one human answer a
line, about the cells that were scored; people are numbered, not named. With both, the scores of agreement can be
recomputed, and two simulators compared, without the study.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_text_whole
from chatbench.core.records import Answer, Study
from chatbench.measures.accuracies import Cell, Prediction
from chatbench.measures.figures import EVERY_ASSISTANT, PEOPLE, TEXT_METRICS
from chatbench.measures.split_figures import SplitMeasures

QUESTION_COLUMNS = (
    "split", "question_id", "subset", "assistant", "source", "metric", "value", "count", "signature_id",
)  # fmt: skip
ANSWER_COLUMNS = ("question_id", "assistant", "person", "condition", "correct")
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """What was read back: accuracies by split, source and cell; overlap by split, (source, metric) and question."""

    signature_id: str
    accuracies: Mapping[str, Mapping[str, Mapping[Cell, Prediction]]]
    texts: Mapping[str, Mapping[tuple[str, str], Mapping[str, float]]]
    answers: tuple[Answer, ...]


def write_question_files(
    folder: Path, key: str, study: Study, measures: Mapping[str, SplitMeasures], signature_id: str
) -> None:
    """Writes both files; `measures` are by split."""
    rows = [
        [split, question_id, study.questions[question_id].subset, *rest, signature_id]
        for split, measured in measures.items()
        for question_id, rest in _question_rows(measured)
    ]
    write_text_whole(folder / f"{key}.questions.csv", _csv(QUESTION_COLUMNS, rows))
    cells = {cell for measured in measures.values() for cell in measured.cells.human}
    write_text_whole(folder / f"{key}.answers.csv", _csv(ANSWER_COLUMNS, _answer_rows(study.answers, cells)))


def _question_rows(measured: SplitMeasures) -> Iterator[tuple[str, list[object]]]:
    """Question id, and assistant, source, metric, value and count."""
    for source, cells in {PEOPLE: measured.cells.human, **measured.cells.sources}.items():
        for (question_id, assistant), accuracy in cells.items():
            yield question_id, [assistant, source, ACCURACY, repr(accuracy.accuracy), accuracy.count]
    for (assistant, source, metric), values in measured.question_values.items():
        if metric in TEXT_METRICS:
            for question_id, value in values.items():
                yield question_id, [assistant, source, metric, repr(value), ""]


def _answer_rows(answers: Sequence[Answer], cells: AbstractSet[Cell]) -> Iterator[list[object]]:
    person: dict[str, int] = {}
    for number, answer in enumerate(answers):
        if answer.kind == "user-AI" and (answer.question_id, answer.assistant) in cells:
            who = person.setdefault(answer.worker_id or f"nobody {number}", len(person))
            yield [answer.question_id, answer.assistant, who, answer.condition, int(answer.correct)]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_question_files(folder: Path, key: str, fix: str) -> QuestionScores:
    """What `write_question_files` wrote.

    Raises:
        ChatbenchError: a file is missing or is not one of these; `fix` is the command that makes it.
    """
    path = folder / f"{key}.questions.csv"
    accuracies: dict[str, dict[str, dict[Cell, Prediction]]] = {}
    texts: dict[str, dict[tuple[str, str], dict[str, float]]] = {}
    signature_id = ""
    try:
        for row in _read_csv(path, QUESTION_COLUMNS, fix):
            split, question_id, _, assistant, source, metric, value, count, signature_id = row
            if metric == ACCURACY:
                of_source = accuracies.setdefault(split, {}).setdefault(source, {})
                of_source[question_id, assistant] = Prediction(float(value), int(count))
            elif assistant == EVERY_ASSISTANT:
                texts.setdefault(split, {}).setdefault((source, metric), {})[question_id] = float(value)
    except ValueError as error:
        raise ChatbenchError(f"{path}: {error}", expected="numbers as values and counts", fix=fix) from error
    answers = tuple(
        Answer(question_id, person, "user-AI", assistant, condition, None, correct == "1")
        for question_id, assistant, person, condition, correct in _read_csv(
            folder / f"{key}.answers.csv", ANSWER_COLUMNS, fix
        )
    )
    return QuestionScores(signature_id, accuracies, texts, answers)


def _read_csv(path: Path, columns: Sequence[str], fix: str) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise ChatbenchError(f"{path}: no such file", fix=fix) from None
    if not rows or tuple(rows[0]) != tuple(columns) or any(len(row) != len(columns) for row in rows):
        raise ChatbenchError(f"{path}: other columns", expected=", ".join(columns), fix=fix)
    return rows[1:]
