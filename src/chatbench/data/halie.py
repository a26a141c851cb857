"""HALIE's question-answering study (`event_blocks.csv`): people answered MMLU questions alone or with a language model.

A row is one question in one person's session: `ctrl` (alone), `lm` (with the model) or `attn` (attention check, left
out and counted). It differs from ChatBench in four ways:

- letters are lower case;
- the models complete text and do not see earlier turns, so some replies are empty: kept as they were, and counted;
- a person may answer an `lm` question without asking: an answer without a conversation, counted in the notes;
- a blank query is not a message: it and its reply are left out of the chat, and counted in the notes.

Source: Lee et al. 2022, arXiv 2212.09746; repository stanford-crfm/halie, `data/std/question/`, Apache-2.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import LETTERS, Answer, AnswerKind, Conversation, Question, Study, Turn
from chatbench.data.tables import (
    ATTENTION_CHECK,
    DUPLICATE_ANSWER,
    BadRecord,
    Intake,
    Options,
    Row,
    Table,
    conversation_id,
    correct_of,
    literal_list,
    read_table,
)

FILE_NAME = "event_blocks.csv"
CONDITION = "direct-to-AI"
_COLUMNS = (
    "worker_id", "model", "question_id", "question_type", "question_category", "question_text",
    "choice_a", "choice_b", "choice_c", "choice_d", "answer", "lm_used", "user_queries", "lm_responses",
    "user_answer", "user_correct",
)  # fmt: skip
_KINDS: dict[str, AnswerKind] = {"ctrl": "user-alone", "lm": "user-AI"}


@dataclass(slots=True)
class _Gathered:
    """What the rows read so far amount to."""

    questions: dict[str, Question]
    conversations: list[Conversation]
    answers: dict[tuple[str, str, AnswerKind], Answer]


def read_halie(path: Path, *, skip_bad_records: bool = False) -> Study:
    """The study in `event_blocks.csv` (or in the folder that holds it).

    Raises:
        ChatbenchError: the file is missing, damaged or has other columns; or a row is bad and is not to be skipped.
    """
    file = path / FILE_NAME if path.is_dir() else path
    intake = Intake(skip_bad_records=skip_bad_records)
    table = read_table(file, intake, fix="get the file with: chatbench download halie")
    _check_columns(table)
    gathered = _Gathered({}, [], {})
    for row in table.rows:
        with intake.record():
            _read_row(row, gathered, intake)
    if not gathered.questions:
        raise ChatbenchError(f"{file}: no question", expected="rows of type ctrl or lm", fix="download the file again")
    return Study(
        name="halie",
        questions=gathered.questions,
        conversations=tuple(gathered.conversations),
        answers=tuple(gathered.answers.values()),
        dropped=intake.dropped,
        notes=intake.notes,
    )


def _check_columns(table: Table) -> None:
    for column in _COLUMNS:
        if column not in table.columns:
            raise table.lacks(column.replace("_", " "), (column,))


def _read_row(row: Row, gathered: _Gathered, intake: Intake) -> None:
    kind_name = row.needed("question_type")
    if kind_name == "attn":
        intake.drop(ATTENTION_CHECK)
        return
    if kind_name not in _KINDS:
        raise BadRecord(
            "unknown kind of answer", f"{row.where('question_type')}: {kind_name!r}", expected="ctrl, lm or attn"
        )
    kind = _KINDS[kind_name]
    question = _question(row)
    known = gathered.questions.get(question.id, question)
    if known != question:
        raise BadRecord(
            "duplicate question id",
            f"{row.where('question_id')}: {question.id!r} with another text",
            expected="one text per id",
        )
    answer, chat = _answer(row, kind, question), _conversation(row, kind, question, intake)
    key = (answer.worker_id, answer.question_id, kind)
    if key in gathered.answers:
        intake.drop(DUPLICATE_ANSWER)
        return
    gathered.questions[question.id] = question
    gathered.answers[key] = answer if chat is None else replace(answer, conversation_id=chat.id)
    if chat is not None:
        gathered.conversations.append(chat)


def _question(row: Row) -> Question:
    subset = re.sub(r"[^a-z0-9]+", "_", row.needed("question_category").lower()).strip("_")
    options: Options = (row.needed("choice_a"), row.needed("choice_b"), row.needed("choice_c"), row.needed("choice_d"))
    question_id = f"{subset}-halie-{row.needed('question_id')}"
    return Question(question_id, subset, row.needed("question_text"), options, _letter(row, "answer"))


def _letter(row: Row, column: str) -> str:
    letter = row.needed(column).upper()
    if letter not in LETTERS:
        raise BadRecord("letter outside A-D", f"{row.where(column)}: {row.cells[column]!r}", expected="a, b, c or d")
    return letter


def _answer(row: Row, kind: AnswerKind, question: Question) -> Answer:
    correct = correct_of(row.needed("user_correct"))
    if correct is None:
        raise BadRecord(
            "user_correct that is neither 0 nor 1",
            f"{row.where('user_correct')}: {row.cells['user_correct']!r}",
            expected="0 or 1",
        )
    return Answer(
        question.id, row.needed("worker_id"), kind, row.needed("model"), CONDITION, _letter(row, "user_answer"), correct
    )


def _conversation(row: Row, kind: AnswerKind, question: Question, intake: Intake) -> Conversation | None:
    """The chat of an `lm` row, or None where nothing was asked."""
    turns = _turns(row, intake)
    if kind == "user-alone":
        if turns:
            intake.note("answers alone whose row holds queries: kept as answers alone, the queries left out")
        return None
    if not turns:
        asked = row.text("lm_used") == "1"
        intake.note(
            "answers with lm_used=1 but no query: no conversation"
            if asked
            else "user-AI answers without asking (lm_used=0)"
        )
        return None
    worker_id = row.needed("worker_id")
    return Conversation(
        id=conversation_id(question.id, worker_id),
        question_id=question.id,
        worker_id=worker_id,
        assistant=row.needed("model"),
        condition=CONDITION,
        turns=turns,
        answer=_letter(row, "user_answer"),
    )


def _turns(row: Row, intake: Intake) -> tuple[Turn, ...]:
    """Each query a user turn, each response the assistant's."""
    queries, responses = _texts(row, "user_queries"), _texts(row, "lm_responses")
    if len(queries) != len(responses):
        raise BadRecord(
            "queries and responses of unequal number",
            f"{row.where('lm_responses')}: {len(responses)} responses to {len(queries)} queries",
            expected="one response per query",
        )
    turns: list[Turn] = []
    for query, response in zip(queries, responses, strict=True):
        if not query.strip():
            intake.note("blank queries, left out with their replies")
            continue
        if not response.strip():
            intake.note("empty assistant messages, kept as they were")
        turns += [Turn("user", query), Turn("assistant", response)]
    return tuple(turns)


def _texts(row: Row, column: str) -> list[str]:
    values = literal_list(row.cells[column])
    if values is None or not all(isinstance(value, str) for value in values):
        raise BadRecord(
            "not a list of texts",
            f"{row.where(column)}: {row.cells[column][:60]!r}",
            expected="a Python list of strings",
        )
    return [str(value) for value in values]
