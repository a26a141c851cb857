"""The chats of a ChatBench folder (`conversations.json`), joined with the people's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.records import Answer, Conversation, Question, Turn
from chatbench.studies.chatbench_answers import SELECTED_NAMES, AnswerTable
from chatbench.studies.chatbench_questions import ATTENTION_CHECK_ID, MODEL_NAMES
from chatbench.studies.fields import (
    EXPECTED_ROLES,
    correct_of,
    holds_indices,
    is_blank,
    letter_of,
    number_key,
    plain_name,
    role_of,
)
from chatbench.studies.intake import ATTENTION_CHECK, DUPLICATE_CONVERSATION, BadRecord, Intake, conversation_id

FILTERED_OUT = "conversation of an answer that user_answers_filtered.csv leaves out"
_QUESTION_NAMES = ("question_id", "questionID", "qid")  # not "id", which may be the chat's own
_HISTORY_NAMES = ("chat_history", "chatHistory", "messages", "conversation")


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One record of the list, its keys spelled plainly (`chatHistory` and `chat_history` are one)."""

    file: Path
    number: int
    fields: Mapping[str, object]

    def where(self, key: str = "") -> str:
        """The place as an error names it; records count from 1."""
        return f"{self.file}, record {self.number}" + (f", {key}" if key else "")

    def value(self, names: Sequence[str]) -> object:
        """The value of the first key with one of the names, or None."""
        return next((self.fields[plain_name(n)] for n in names if self.fields.get(plain_name(n)) is not None), None)

    def text(self, names: Sequence[str]) -> str:
        """The same as text; "" where nothing was recorded."""
        value = self.value(names)
        text = "" if value is None else str(value).strip()
        return "" if is_blank(text) else text


@dataclass(frozen=True, slots=True)
class Chats:
    """The conversations in file order, and the answers that only the conversations record."""

    conversations: tuple[Conversation, ...]
    answers: tuple[Answer, ...]


def read_chats(
    path: Path, questions: Mapping[str, Question], table: AnswerTable, intake: Intake, *, filtered: bool
) -> Chats:
    """Reads every chat. Where a record lacks the question, its place in the person's session tells it.

    Args:
        filtered: the answers come from the filtered file, so a chat without an answer there is left out and counted.

    Raises:
        ChatbenchError: the file is missing, half-written, or not a list of records.
        BadRecord: a record is not a chat (unknown role or question, empty, letter outside A-D).
    """
    records = _records(path, intake)
    indices = holds_indices([record.text(SELECTED_NAMES) for record in records])
    given = {(a.question_id, a.worker_id): a for a in table.answers if a.kind == "user-AI"}
    conversations: dict[str, Conversation] = {}
    extra: list[Answer] = []
    for record in records:
        with intake.record():
            worker_id = record.text(("worker_id",))
            if not worker_id:
                raise BadRecord(
                    "conversation without a worker", f"{record.where('worker_id')}: missing", expected="the person's id"
                )
            question_id = _question_id(record, table, may_be_filtered=filtered and bool(given))
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            answer = given.get((question_id, worker_id))
            if filtered and given and answer is None:
                intake.drop(FILTERED_OUT)
                continue
            conversation = _conversation(record, question_id, questions, answer, indices, intake)
            if conversation.id in conversations:
                intake.drop(DUPLICATE_CONVERSATION)
                continue
            if answer is None:
                extra.extend(_answer_of(record, conversation, questions[question_id], intake))
            conversations[conversation.id] = conversation
    return Chats(tuple(conversations.values()), tuple(extra))


def _records(path: Path, intake: Intake) -> list[ChatRecord]:
    content = read_json(path, fix="download the study again; the file is missing or half-written")
    if not isinstance(content, list):
        raise ChatbenchError(
            f"{path}: a {type(content).__name__}",
            expected="a JSON list of conversations",
            fix="download the study again",
        )
    records = []
    for number, item in enumerate(content, start=1):
        with intake.record():
            if not isinstance(item, dict):
                raise BadRecord(
                    "not a record", f"{path}, record {number}: {type(item).__name__}", expected="a JSON object"
                )
            records.append(ChatRecord(path, number, {plain_name(key): value for key, value in item.items()}))
    return records


def _question_id(record: ChatRecord, table: AnswerTable, *, may_be_filtered: bool) -> str:
    """The question's id, or "" for a chat that no answer of the filtered file belongs to."""
    question_id = record.text(_QUESTION_NAMES)
    if question_id:
        return question_id
    place = (record.text(("worker_id",)), number_key(record.value(("batch",))), number_key(record.value(("position",))))
    found = table.questions_at.get(place, set())
    if not found and may_be_filtered:
        return ""
    if len(found) != 1:
        problem = "no user-AI answer" if not found else f"{len(found)} questions"
        raise BadRecord(
            "conversation whose question is not known",
            f"{record.where()}: no question_id, and {problem} at worker, batch, position {', '.join(place)}",
            expected="a question_id, or one row of the answers with the same worker_id, batch and position",
        )
    return next(iter(found))


def _conversation(
    record: ChatRecord,
    question_id: str,
    questions: Mapping[str, Question],
    answer: Answer | None,
    indices: bool,
    intake: Intake,
) -> Conversation:
    question = questions.get(question_id)
    if question is None:
        raise BadRecord(
            "conversation about an unknown question",
            f"{record.where('question_id')}: {question_id!r}",
            expected="an id of questions.csv",
        )
    assistant = record.text(MODEL_NAMES) or (answer.assistant if answer else "")
    if not assistant:
        raise BadRecord(
            "conversation with no assistant named", f"{record.where('model')}: missing", expected="the assistant's name"
        )
    worker_id = record.text(("worker_id",))
    letter = _letter(record, question, answer, indices)
    if letter is None:
        intake.note("conversations whose final letter was not recorded: they yield no answer example")
    try:
        return Conversation(
            id=conversation_id(question_id, worker_id),
            question_id=question_id,
            worker_id=worker_id,
            assistant=assistant,
            condition=record.text(("condition",)) or (answer.condition if answer else ""),
            turns=_turns(record, intake),
            answer=letter,
        )
    except ValueError as error:
        raise BadRecord(
            "turns out of order",
            f"{record.where('chat_history')}: {error}",
            expected="a chat that starts with the user, alternates and ends with the assistant",
        ) from error


def _letter(record: ChatRecord, question: Question, answer: Answer | None, indices: bool) -> str | None:
    """The letter in the record, else in the answers, else the right one where `acc` is 1, else None."""
    selected = record.text(SELECTED_NAMES)
    if selected:
        letter = letter_of(selected, question.options, indices=indices)
        if letter is None:
            raise BadRecord(
                "letter outside A-D", f"{record.where('selected_answer')}: {selected!r}", expected="A, B, C or D"
            )
        return letter
    if answer is not None:
        return answer.letter
    return question.answer if correct_of(record.text(("acc",))) else None


def _turns(record: ChatRecord, intake: Intake) -> tuple[Turn, ...]:
    history = record.value(_HISTORY_NAMES)
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except json.JSONDecodeError:
            history = None
    if not isinstance(history, list):
        raise BadRecord(
            "no chat history",
            f"{record.where('chat_history')}: {type(history).__name__}",
            expected="a list of {role, content}",
        )
    if history and _role_name(history[0]) == "system":
        history = history[1:]
        intake.note("conversations led by a system message, which is no turn of the chat")
    if not history:
        raise BadRecord(
            "empty conversation",
            f"{record.where('chat_history')}: no message",
            expected="at least one message and its reply",
        )
    return tuple(_turn(record, index, item, intake) for index, item in enumerate(history))


def _role_name(item: object) -> str:
    return str(item.get("role", "")) if isinstance(item, dict) else ""


def _turn(record: ChatRecord, index: int, item: object, intake: Intake) -> Turn:
    where = record.where(f"chat_history[{index}]")
    role = role_of(_role_name(item))
    if role is None:
        raise BadRecord("unknown role", f"{where}: role {_role_name(item)!r}", expected=EXPECTED_ROLES)
    content = (
        next((item[k] for k in ("content", "text", "message") if k in item), None) if isinstance(item, dict) else None
    )
    if not isinstance(content, str):
        raise BadRecord("message without text", f"{where}: content {content!r}", expected="text")
    if not content.strip():
        if role == "user":
            raise BadRecord("empty user message", f"{where}: no text", expected="what the user wrote")
        intake.note("empty assistant messages, kept as they were")
    return Turn(role, content)


def _answer_of(record: ChatRecord, conversation: Conversation, question: Question, intake: Intake) -> list[Answer]:
    """The final answer as the chat's own record states it, for a chat that the answers' table does not hold."""
    correct = correct_of(record.text(("acc",)))
    if correct is None and conversation.answer is None:
        intake.note("conversations without a recorded answer")
        return []
    intake.note("answers taken from conversations.json, because the answers' table has no row for them")
    right = conversation.answer == question.answer if correct is None else correct
    return [
        Answer(
            conversation.question_id,
            conversation.worker_id,
            "user-AI",
            conversation.assistant,
            conversation.condition,
            conversation.answer,
            right,
        )
    ]
