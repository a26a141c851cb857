"""A user's own chats as JSON Lines: one record a line, of kind `user-AI`, `user-alone` or `ai-alone`.

The schema, with an example that can be copied, is in docs/own-study.md. Unknown keys are refused, so a misspelled one
is named instead of being passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.records import AiAloneScore, Answer, Conversation, Question, Study, Turn
from chatbench.data.tables import DUPLICATE_ANSWER, EXPECTED_ROLES, BadRecord, Intake, conversation_id, role_of

_Letter = Literal["A", "B", "C", "D"]
_Text = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionRecord(_Record):
    """A question; needed in full once, afterwards its id is enough."""

    id: _Text
    subset: _Text
    text: _Text
    options: tuple[_Text, _Text, _Text, _Text]
    answer: _Letter


class TurnRecord(_Record):
    """One message; `role` is `user` or `assistant` (`You`, `Bot` and `AI` are understood)."""

    role: _Text
    text: str


class UserAiRecord(_Record):
    """A person's chat and final answer; `turns` is null where the person answered without asking."""

    kind: Literal["user-AI"]
    question: QuestionRecord | _Text
    worker_id: _Text
    assistant: _Text
    turns: tuple[TurnRecord, ...] | None
    answer: _Letter
    condition: str = "direct-to-AI"
    confidence: str = ""


class UserAloneRecord(_Record):
    """A person's answer without an assistant."""

    kind: Literal["user-alone"]
    question: QuestionRecord | _Text
    worker_id: _Text
    answer: _Letter
    assistant: str = ""
    condition: str = "direct-to-AI"
    confidence: str = ""


class AiAloneRecord(_Record):
    """How often an assistant alone answers a question right, by one method."""

    kind: Literal["ai-alone"]
    question: QuestionRecord | _Text
    assistant: _Text
    method: _Text
    count: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    invalid: Annotated[int, Field(ge=0)] = 0


ChatRecord = Annotated[UserAiRecord | UserAloneRecord | AiAloneRecord, Field(discriminator="kind")]
_PARSER: TypeAdapter[UserAiRecord | UserAloneRecord | AiAloneRecord] = TypeAdapter(ChatRecord)


class _Gathered:
    """The study as far as it has been read."""

    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}
        self.conversations: list[Conversation] = []
        self.answers: dict[tuple[str, str, str], Answer] = {}
        self.ai_alone: dict[tuple[str, str, str], AiAloneScore] = {}


def read_chat_jsonl(path: Path, *, skip_bad_records: bool = False) -> Study:
    """The study in a JSON Lines file; its name is the file's name without the ending.

    Raises:
        ChatbenchError: the file is missing or a line is not JSON; or a record is bad and is not to be skipped.
    """
    intake = Intake(skip_bad_records=skip_bad_records)
    gathered = _Gathered()
    for number, row in read_jsonl(path, fix="correct the line; the schema is in docs/own-study.md"):
        with intake.record():
            _read_record(f"{path}, line {number}", row, gathered, intake)
    if not gathered.questions:
        raise ChatbenchError(f"{path}: no record", expected="one record a line", fix="see docs/own-study.md")
    return Study(
        name=path.stem,
        questions=gathered.questions,
        conversations=tuple(gathered.conversations),
        answers=tuple(gathered.answers.values()),
        ai_alone=tuple(gathered.ai_alone.values()),
        dropped=intake.dropped,
        notes=intake.notes,
    )


def _read_record(where: str, row: dict[str, object], gathered: _Gathered, intake: Intake) -> None:
    try:
        record = _PARSER.validate_python(row, strict=False)
    except ValidationError as error:
        raise _bad_record(where, error) from None
    question = _question(where, record.question, gathered)
    if isinstance(record, AiAloneRecord):
        key = (question.id, record.assistant, record.method)
        if key in gathered.ai_alone:
            raise BadRecord(
                "duplicate AI-alone record", f"{where}: {key} again", expected="one per question, assistant and method"
            )
        gathered.ai_alone[key] = AiAloneScore(*key, record.count, record.accuracy, record.invalid)
    elif (record.worker_id, question.id, record.kind) in gathered.answers:
        intake.drop(DUPLICATE_ANSWER)
        return
    else:
        chat = _conversation(where, record, question, intake) if isinstance(record, UserAiRecord) else None
        gathered.answers[record.worker_id, question.id, record.kind] = Answer(
            question.id, record.worker_id, record.kind, record.assistant, record.condition, record.answer,
            record.answer == question.answer, record.confidence, chat.id if chat else "",
        )  # fmt: skip
        if chat is not None:
            gathered.conversations.append(chat)
    gathered.questions[question.id] = question


def _bad_record(where: str, error: ValidationError) -> BadRecord:
    """The first thing that is wrong with a record, with its key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(
        str(part) for part in first["loc"] if part not in ("user-AI", "user-alone", "ai-alone", "QuestionRecord")
    )
    missing = first["type"] == "missing"
    found = "missing" if missing else repr(first["input"])[:80]
    return BadRecord(f"bad value of {key or 'kind'}", f"{where}, key {key or 'kind'!r}: {found}", expected=first["msg"])


def _question(where: str, given: QuestionRecord | str, gathered: _Gathered) -> Question:
    """The question in full, or the one that an earlier line gave under this id."""
    if isinstance(given, str):
        if given not in gathered.questions:
            raise BadRecord(
                "record about an unknown question",
                f"{where}, key 'question': {given!r}",
                expected="the question in full, or the id of an earlier one",
            )
        return gathered.questions[given]
    if not given.text.strip():
        raise BadRecord(
            "bad value of question.text", f"{where}, key 'question.text': blank", expected="the question's text"
        )
    question = Question(given.id, given.subset, given.text, given.options, given.answer)
    if gathered.questions.get(given.id, question) != question:
        raise BadRecord(
            "duplicate question id",
            f"{where}, key 'question.id': {given.id!r} with other content",
            expected="one question per id",
        )
    return question


def _conversation(where: str, record: UserAiRecord, question: Question, intake: Intake) -> Conversation | None:
    if record.turns is None:
        intake.note("user-AI answers without asking (turns is null)")
        return None
    if not record.turns:
        raise BadRecord(
            "empty conversation",
            f"{where}, key 'turns': no message",
            expected="messages, or null where nothing was asked",
        )
    turns = tuple(_turn(f"{where}, key 'turns.{index}", turn) for index, turn in enumerate(record.turns))
    try:
        return Conversation(
            conversation_id(question.id, record.worker_id), question.id, record.worker_id, record.assistant,
            record.condition, turns, record.answer,
        )  # fmt: skip
    except ValueError as error:
        raise BadRecord(
            "turns out of order",
            f"{where}, key 'turns': {error}",
            expected="a chat that starts with the user, alternates and ends with the assistant",
        ) from error


def _turn(where: str, record: TurnRecord) -> Turn:
    role = role_of(record.role)
    if role is None:
        raise BadRecord("unknown role", f"{where}.role': {record.role!r}", expected=EXPECTED_ROLES)
    if role == "user" and not record.text.strip():
        raise BadRecord("empty user message", f"{where}.text': no text", expected="what the user wrote")
    return Turn(role, record.text)
