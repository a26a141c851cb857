"""The table of people's answers in a ChatBench folder (`user_answers.csv` or `user_answers_filtered.csv`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from chatbench.core.records import Answer, AnswerKind, Question
from chatbench.studies.chatbench_questions import ATTENTION_CHECK_ID, MODEL_NAMES, QUESTION_ID_NAMES
from chatbench.studies.fields import (
    EXPECTED_KINDS,
    correct_of,
    holds_indices,
    is_blank,
    kind_of,
    letter_of,
    number_key,
    plain_name,
)
from chatbench.studies.intake import ATTENTION_CHECK, DUPLICATE_ANSWER, BadRecord, Intake
from chatbench.studies.tables import Row, Table, read_table

Place = tuple[str, str, str]
"""Worker, batch and position: where in a person's session a question stood."""

SELECTED_NAMES = ("selected_answer", "selectedAnswer", "answer", "user_answer", "letter")
_KIND_NAMES = ("answer_type", "type", "kind", "phase")


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """The answers in file order, and which question stood at which place of a session with the AI."""

    answers: tuple[Answer, ...]
    questions_at: dict[Place, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The names that this file uses; None where it has no such column."""

    question: str
    worker: str
    kind: str
    model: str | None
    condition: str | None
    selected: str | None
    correct: str | None
    confidence: str | None
    batch: str | None
    position: str | None
    indices: bool


def read_answers(path: Path, questions: Mapping[str, Question], intake: Intake) -> AnswerTable:
    """Reads every answer; the attention check and repeated answers are left out and counted.

    Rows of type `confidence` belong to the same person's answer to the same question and are joined to it.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not an answer (unknown question or kind, a letter outside A-D, neither letter nor `acc`).
    """
    table = read_table(path, intake)
    columns = _columns(table)
    answers: dict[tuple[str, str, AnswerKind], Answer] = {}
    confidences: dict[tuple[str, str], str] = {}
    questions_at: dict[Place, set[str]] = {}
    for row in table.rows:
        with intake.record():
            question_id, worker_id = row.needed(columns.question), row.needed(columns.worker)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if "confiden" in plain_name(row.text(columns.kind)):
                confidences.setdefault(
                    (question_id, worker_id), row.text(columns.selected) or row.text(columns.confidence)
                )
                continue
            answer = _answer(row, columns, questions, intake)
            if answer.kind == "user-AI" and columns.batch is not None and columns.position is not None:
                place = (worker_id, number_key(row.text(columns.batch)), number_key(row.text(columns.position)))
                questions_at.setdefault(place, set()).add(question_id)
            if (question_id, worker_id, answer.kind) in answers:
                intake.drop(DUPLICATE_ANSWER)
            else:
                answers[question_id, worker_id, answer.kind] = answer
    _join_confidences(answers, confidences)
    return AnswerTable(tuple(answers.values()), questions_at)


def _columns(table: Table) -> _Columns:
    selected = table.find(SELECTED_NAMES)
    correct = table.find(("acc", "correct", "is_correct"))
    if correct is None:
        selected = table.need("what was answered", (*SELECTED_NAMES, "acc"))
    return _Columns(
        question=table.need("the question's id", QUESTION_ID_NAMES),
        worker=table.need("the person's id", ("worker_id", "worker", "participant_id", "user_id")),
        kind=table.need("the kind of answer", _KIND_NAMES),
        model=table.find(MODEL_NAMES),
        condition=table.find(("condition",)),
        selected=selected,
        correct=correct,
        confidence=table.find(("confidence",)),
        batch=table.find(("batch",)),
        position=table.find(("position",)),
        indices=selected is not None
        and holds_indices([t for t in table.texts(selected) if not t.endswith("confident")]),
    )


def _answer(row: Row, columns: _Columns, questions: Mapping[str, Question], intake: Intake) -> Answer:
    question_id = row.needed(columns.question)
    question = questions.get(question_id)
    if question is None:
        raise BadRecord(
            "answer to an unknown question",
            f"{row.where(columns.question)}: {question_id!r}",
            expected="an id of questions.csv",
        )
    kind = kind_of(row.text(columns.kind))
    if kind is None:
        raise BadRecord(
            "unknown kind of answer", f"{row.where(columns.kind)}: {row.cells[columns.kind]!r}", expected=EXPECTED_KINDS
        )
    assistant = row.text(columns.model)
    if kind == "user-AI" and not assistant:
        raise BadRecord(
            "answer with no assistant named", f"{row.where(columns.model)}: no model", expected="the assistant's name"
        )
    letter = _letter(row, columns, question)
    correct = _correct(row, columns, question, letter)
    if letter is not None and (letter == question.answer) != correct:
        intake.note("answers whose letter and acc disagree: acc was taken")
    if letter is None and correct:
        letter = question.answer
    elif letter is None:
        intake.note("wrong answers whose letter was not recorded")
    return Answer(
        question_id=question_id,
        worker_id=row.needed(columns.worker),
        kind=kind,
        assistant=assistant,
        condition=row.text(columns.condition),
        letter=letter,
        correct=correct,
        confidence=row.text(columns.confidence),
    )


def _letter(row: Row, columns: _Columns, question: Question) -> str | None:
    if columns.selected is None or is_blank(row.cells[columns.selected]):
        return None
    letter = letter_of(row.cells[columns.selected], question.options, indices=columns.indices)
    if letter is None:
        raise BadRecord(
            "letter outside A-D",
            f"{row.where(columns.selected)}: {row.cells[columns.selected]!r}",
            expected="A, B, C or D",
        )
    return letter


def _correct(row: Row, columns: _Columns, question: Question, letter: str | None) -> bool:
    """What `acc` says; where it is blank, whether the letter is the right one."""
    if columns.correct is not None and row.text(columns.correct):
        correct = correct_of(row.text(columns.correct))
        if correct is None:
            raise BadRecord(
                "acc that is neither 0 nor 1",
                f"{row.where(columns.correct)}: {row.cells[columns.correct]!r}",
                expected="0 or 1",
            )
        return correct
    if letter is None:
        raise BadRecord(
            "answer without letter and acc",
            f"{row.where(columns.selected)}: blank, and no acc",
            expected="a letter or acc",
        )
    return letter == question.answer


def _join_confidences(
    answers: dict[tuple[str, str, AnswerKind], Answer], confidences: Mapping[tuple[str, str], str]
) -> None:
    """Gives each confidence to the answer it stands before: the one given alone, else the one given with the AI."""
    kinds: tuple[AnswerKind, AnswerKind] = ("user-alone", "user-AI")
    for (question_id, worker_id), confidence in confidences.items():
        key = next(
            ((question_id, worker_id, kind) for kind in kinds if (question_id, worker_id, kind) in answers), None
        )
        if key is not None and not answers[key].confidence:
            answers[key] = replace(answers[key], confidence=confidence)
