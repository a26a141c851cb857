"""A user's own chats as JSON Lines: one record a line, of kind `user-AI`, `user-alone` or `ai-alone`.

The schema, with an example that can be copied, is in docs/own-study.md. Unknown keys are refused, so a misspelled one
is named instead of being passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatbench.core.errors import ChatbenchError, expected_by
from chatbench.core.files import read_jsonl
from chatbench.core.records import AiAloneScore, Answer, Question, Study, Turn
from chatbench.data.tables import BadRecord, Intake, Row, role_of

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


class _PersonsRecord(_Record):
    question: QuestionRecord | _Text
    worker_id: _Text
    answer: _Letter
    condition: str = "direct-to-AI"
    confidence: str = ""


class UserAiRecord(_PersonsRecord):
    """A person's chat and final answer; `turns` is null where the person answered without asking."""

    kind: Literal["user-AI"]
    assistant: _Text
    turns: tuple[TurnRecord, ...] | None


class UserAloneRecord(_PersonsRecord):
    """A person's answer without an assistant."""

    kind: Literal["user-alone"]
    assistant: str = ""


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
_MEANINGS = {
    "question": "the question in full (id, subset, text, options, answer), or the id of an earlier one",
    "question.options": "a list of four texts",
    "turns": "a list of messages (role, text), or null where nothing was asked",
}
"""What is expected where the type alone does not say it."""
_Scores = dict[tuple[str, str, str], AiAloneScore]


def read_chat_jsonl(path: Path, *, skip_bad_records: bool = False, maps: Sequence[str] = ()) -> Study:
    """The study in a JSON Lines file; its name is the file's name without the ending.

    Raises:
        ChatbenchError: the file is missing or a line is not JSON; or a record is bad and is not to be skipped.
    """
    intake, scores = Intake(skip_bad_records=skip_bad_records, maps=maps), _Scores()
    fix = "correct the line; the schema is in docs/own-study.md"
    for number, content in read_jsonl(path, fix=fix, replaced=intake.half_characters):
        with intake.record():
            _read_record(intake.row(f"{path}, line {number}", content, {}, unit="key"), intake, scores)
    if not intake.questions:
        raise ChatbenchError(f"{path}: no record", expected="one record a line", fix="see docs/own-study.md")
    return intake.study(path.stem, tuple(scores.values()))


def _read_record(row: Row, intake: Intake, scores: _Scores) -> None:
    try:
        record = _PARSER.validate_python(row.cells)
    except ValidationError as error:
        raise _first_problem(row, error) from None
    question = _question(row, record.question, intake)
    if isinstance(record, AiAloneRecord):
        key = (question.id, record.assistant, record.method)
        if key in scores:
            expected = "one per question, assistant and method"
            raise row.bad("duplicate AI-alone record", found=f"{key} again", expected=expected)
        scores[key] = AiAloneScore(*key, record.count, record.accuracy, record.invalid)
    else:
        right, confidence = record.answer == question.answer, record.confidence
        who, letter, condition = record.worker_id, record.answer, record.condition
        answer = Answer(question.id, who, record.kind, record.assistant, condition, letter, right, confidence)
        if (who, question.id, record.kind) not in intake.answers and isinstance(record, UserAiRecord):
            turns = _turns(row, record, intake)
            if turns is not None:
                intake.add_conversation(row.conversation("turns", turns, answer))
        intake.add_answer(answer)
    intake.questions[question.id] = question


def _first_problem(row: Row, error: ValidationError) -> BadRecord:
    first = error.errors(include_url=False)[0]
    branches = ("user-AI", "user-alone", "ai-alone", "QuestionRecord")  # of unions, which are no keys
    key = ".".join(str(part) for part in first["loc"] if part not in branches) or "kind"
    if "discriminator" in first.get("ctx", {}):
        found, expected = repr(row.value("kind")), "user-AI, user-alone or ai-alone"
        return row.bad("bad value of kind", key, found=found if "kind" in row.cells else "missing", expected=expected)
    found = "missing" if first["type"] == "missing" else repr(first["input"])[:80]
    if first["type"] == "extra_forbidden":
        found = "an unknown key"
    expected = _MEANINGS.get(key, "") or expected_by(first)
    return row.bad(f"bad value of {key}", key, found=found, expected=expected)


def _question(row: Row, given: QuestionRecord | str, intake: Intake) -> Question:
    """The question in full, or the one that an earlier line gave under this id."""
    if isinstance(given, str):
        if given not in intake.questions:
            expected = "the question in full, or the id of an earlier one"
            raise row.bad("record about an unknown question", "question", expected=expected)
        return intake.questions[given]
    if not given.text.strip():
        raise row.bad("bad value of question.text", "question.text", found="blank", expected="the question's text")
    question = Question(given.id, given.subset, given.text, given.options, given.answer)
    if intake.questions.get(given.id, question) != question:
        found = f"{given.id!r} with other content"
        raise row.bad("duplicate question id", "question.id", found=found, expected="one question per id")
    return question


def _turns(row: Row, record: UserAiRecord, intake: Intake) -> tuple[Turn, ...] | None:
    if record.turns is None:
        intake.note("user-AI answers without asking (turns is null)")
        return None
    if not record.turns:
        expected = "messages, or null where nothing was asked"
        raise row.bad("empty conversation", "turns", found="no message", expected=expected)
    turns = []
    for index, turn in enumerate(record.turns):
        role = role_of(str(intake.mapped(turn.role, "role")))
        if role is None:
            raise row.unknown_role(turn.role, f"turns.{index}.role", [[turn.role for turn in record.turns]])
        if role == "user" and not turn.text.strip():
            name, expected = f"turns.{index}.text", "what the user wrote"
            raise row.bad("empty user message", name, found="no text", expected=expected)
        turns.append(Turn(role, turn.text))
    return tuple(turns)
