"""The two tables at the root of a ChatBench folder: the questions, and how the assistants answer them alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import LETTERS, AiAloneScore, Question
from chatbench.studies.fields import Options, four_options, holds_indices, letter_of, literal_list
from chatbench.studies.intake import ATTENTION_CHECK, BadRecord, Intake
from chatbench.studies.tables import Row, Table, read_table

ATTENTION_CHECK_ID = "example-1"
QUESTION_ID_NAMES = ("question_id", "questionID", "qid", "id")
MODEL_NAMES = ("model", "assistant", "model_name")
_TEXT_NAMES = ("question", "question_text", "text")
_CHOICES_NAMES = ("choices", "options", "answer_choices")
_CHOICE_PREFIXES = ("choice_", "option_", "answer_", "")
_GOLD_NAMES = ("answer", "correct_answer", "gold", "gold_answer", "answer_letter", "correct_letter", "label")


def read_questions(path: Path, intake: Intake) -> dict[str, Question]:
    """Questions by id from `questions.csv`.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not a question (blank cell, answer that is no option, an id that was used before).
    """
    table = read_table(path, intake)
    id_column = table.need("the question's id", QUESTION_ID_NAMES)
    text_column = table.need("the question's text", _TEXT_NAMES)
    gold_column = table.need("the right answer", _GOLD_NAMES)
    option_columns = _option_columns(table)
    indices = holds_indices(table.texts(gold_column))
    questions: dict[str, Question] = {}
    for row in table.rows:
        with intake.record():
            question_id = row.needed(id_column)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if question_id in questions:
                raise BadRecord(
                    "duplicate question id",
                    f"{row.where(id_column)}: {question_id!r} again",
                    expected="ids that differ",
                )
            options = _options(row, option_columns)
            questions[question_id] = Question(
                question_id,
                _subset(row, table, question_id),
                row.needed(text_column),
                options,
                _gold(row, gold_column, options, indices),
            )
    if not questions:
        raise ChatbenchError(f"{path}: no question", expected="one row per question", fix="download the study again")
    return questions


def _option_columns(table: Table) -> tuple[str, ...]:
    """One column with a list of options, or four columns with one each."""
    choices = table.find(_CHOICES_NAMES)
    if choices is not None:
        return (choices,)
    for prefix in _CHOICE_PREFIXES:
        columns = [table.find([prefix + letter]) for letter in LETTERS]
        if all(columns):
            return tuple(column for column in columns if column is not None)
    raise table.lacks("the options", ("choices", "choice_a ... choice_d", "option_a ... option_d", "A ... D"))


def _options(row: Row, columns: Sequence[str]) -> Options:
    values: Sequence[object] = [row.cells[column] for column in columns]
    if len(columns) == 1:
        values = literal_list(row.cells[columns[0]]) or []
    options = four_options(values)
    if options is None:
        column = next((column for column in columns if not row.text(column)), columns[0])
        raise BadRecord(
            "question without four options", f"{row.where(column)}: {row.cells[column]!r}", expected="four options"
        )
    return options


def _gold(row: Row, column: str, options: Options, indices: bool) -> str:
    letter = letter_of(row.needed(column), options, indices=indices)
    if letter is None:
        raise BadRecord(
            "right answer outside A-D",
            f"{row.where(column)}: {row.cells[column]!r}",
            expected="a letter A-D, an index 0-3, or the text of one option",
        )
    return letter


def _subset(row: Row, table: Table, question_id: str) -> str:
    """The question's subset: its own column, else the id before `-redux-{i}`, else the subject."""
    subset = row.text(table.find(("subset", "mmlu_subset")))
    if subset:
        return subset
    match = re.fullmatch(r"(.+?)(-redux)?-\d+", question_id)
    if match:
        return match.group(1)
    subject = row.text(table.find(("subject", "category", "topic")))
    if not subject:
        raise BadRecord(
            "question without a subset",
            f"{row.where()}: id {question_id!r}",
            expected="an id such as conceptual_physics-redux-7",
        )
    return subject


def read_ai_alone(path: Path, questions: Mapping[str, Question], intake: Intake) -> tuple[AiAloneScore, ...]:
    """Scores from the wide table `ai_alone_answers.csv`: `{method}_count`, `{method}_acc`, `{method}_invalid`.

    A method whose cells are blank in a row was not measured there.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row names an unknown question or holds something that is not a number.
    """
    table = read_table(path, intake)
    id_column = table.need("the question's id", QUESTION_ID_NAMES)
    model_column = table.need("the assistant", MODEL_NAMES)
    methods = [
        c.removesuffix("_count")
        for c in table.columns
        if c.endswith("_count") and f"{c.removesuffix('_count')}_acc" in table.columns
    ]
    if table.rows and not methods:
        raise table.lacks("a method", ("{method}_count with {method}_acc",))
    scores: list[AiAloneScore] = []
    seen: set[tuple[str, str]] = set()
    for row in table.rows:
        with intake.record():
            question_id, model = row.needed(id_column), row.needed(model_column)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if question_id not in questions:
                raise BadRecord(
                    "AI-alone row for an unknown question",
                    f"{row.where(id_column)}: {question_id!r}",
                    expected="an id of questions.csv",
                )
            if (question_id, model) in seen:
                raise BadRecord(
                    "duplicate AI-alone row",
                    f"{row.where()}: {question_id!r} and {model!r} again",
                    expected="one row each",
                )
            scores.extend(_scores(row, question_id, model, methods))
            seen.add((question_id, model))
    return tuple(scores)


def _scores(row: Row, question_id: str, model: str, methods: Sequence[str]) -> list[AiAloneScore]:
    scores = []
    for method in methods:
        if not row.text(f"{method}_count") or not row.text(f"{method}_acc"):
            continue
        count, accuracy = _number(row, f"{method}_count"), _number(row, f"{method}_acc")
        if accuracy > 1:
            raise BadRecord("share above 1", f"{row.where(f'{method}_acc')}: {accuracy}", expected="a share in 0..1")
        invalid_column = f"{method}_invalid"
        invalid = _number(row, invalid_column) if row.cells.get(invalid_column, "").strip() else 0
        scores.append(AiAloneScore(question_id, model, method, int(count), accuracy, int(invalid)))
    return scores


def _number(row: Row, column: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(row.text(column) or "0")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadRecord(
            "not a number", f"{row.where(column)}: {row.cells[column]!r}", expected="a number of at least 0"
        )
    return value
