"""A user's own chats as JSON Lines: one record per line, of kind `user-AI`, `user-alone` or `ai-alone`.

The schema, with an example to copy, is in docs/own-study.md, and as JSON Schema in `schema()`. Unknown keys are errors
that name the closest known key, so misspelled keys are not silently ignored. A question's `answer_kind` says what its
answers are.

The messages of any program become turns by fixed rules for what does not alternate between the two sides:

    content in parts              texts are joined by newlines; any other part is named, as `[image]`
    system, tool messages         context: the assistant saw it, the person did not, no prompt contains it
    assistant before the person   context too
    messages of one side in a row are one turn, joined by a newline (blank ones of the assistant are left out)
    a blank message of the person is left out, with the reply to it
    a chat that ends with the person gets an empty reply

Each use of a rule is counted. Names, time stamps and the like are not part of a chat.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatbench.core.answer_kinds import DONE, Choice, Kind, KindName, NoAnswer, Number, Outcome, Text
from chatbench.core.errors import ChatbenchError, expected_by, first_problem
from chatbench.core.files import read_jsonl
from chatbench.core.records import AiAloneScore, Answer, Context, Conversation, Question, Role, Study, Turn
from chatbench.data.tables import BadRecord, Intake, Row, conversation_id, plain_name, role_of

CONTEXT_ROLES = {"system": "system", "developer": "system", "tool": "tool", "function": "tool"}
_MODELS: dict[str, Role] = dict.fromkeys(("gpt", "model", "chatgpt", "bing", "bard"), "assistant")
EMPTY_CHAT = "chats without a message of the person: left out"
_TEXT_PARTS = ("text", "input_text", "output_text")
_KEYS_OF: dict[KindName, set[str]] = {
    "choice": {"ordered"}, "number": {"tolerance", "relative", "unit"}, "text": set(), "outcome": set(), "none": set()
}  # fmt: skip
"""Keys of a question that apply to some of its kinds only."""


RawMessage = tuple[str, object]
"""A message as found in a file: any role, and content that is text, a list of parts, or nothing."""


class Turns(NamedTuple):
    """The turns of person and assistant (none if the person said nothing), and the assistant's other context."""

    turns: tuple[Turn, ...]
    context: tuple[Context, ...]


@dataclass(slots=True)
class _Exchange:
    asked: list[str]
    replies: list[str] = field(default_factory=list)
    context: list[tuple[bool, str, str]] = field(default_factory=list)
    """(whether it is before the reply, role, text)."""


def known_role(name: str) -> str | None:
    """`user`, `assistant`, `system` or `tool`; None for an unknown role.

    >>> known_role("Human"), known_role("gpt"), known_role("developer"), known_role("moderator")
    ('user', 'assistant', 'system', None)
    """
    return role_of(name) or _MODELS.get(plain_name(name)) or CONTEXT_ROLES.get(plain_name(name))


def content_text(content: object, note: Callable[[str], None] = lambda _text: None) -> str | None:
    """The text of a message's content; None if it is neither text nor parts.

    >>> content_text([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "..."}}])
    'What is this?\\n[image]'
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str) or (kind in _TEXT_PARTS and isinstance(part.get("text"), str)):
            texts.append(part if isinstance(part, str) else part["text"])
        elif isinstance(kind, str) and kind not in _TEXT_PARTS:
            name = kind.removeprefix("input_").partition("_")[0]
            texts.append(f"[{name}]")
            note(f"parts of messages that are no text, named [{name}] in their place")
        else:
            return None
    return "\n".join(texts)


def turns_of(messages: Iterable[RawMessage], note: Callable[[str], None]) -> Turns:
    """Convert messages to turns; `note` is called for each rule that was needed.

    Raises:
        ValueError: a role is unknown, or content is neither text nor parts.
    """
    turns, context = list[Turn](), list[Context]()
    for exchange in _exchanges(messages, note):
        start = len(turns)
        said, replies = ([text for text in each if text.strip()] for each in (exchange.asked, exchange.replies))
        if len(said) < len(exchange.asked):
            note("blank messages of the person, left out (with their replies, where nothing else was asked)")
        if said and not exchange.replies:
            note("chats that end with the person: an empty reply follows")
        elif said and not replies:
            note("empty assistant messages, kept as they were")
        if said:
            whole = replies if len(exchange.replies) > 1 else exchange.replies
            turns += [Turn("user", "\n".join(said)), Turn("assistant", "\n".join(whole))]
        context += [Context(start + 1 if before and said else len(turns), *rest) for before, *rest in exchange.context]
    return Turns(tuple(turns), tuple(context))


def _exchanges(messages: Iterable[RawMessage], note: Callable[[str], None]) -> list[_Exchange]:
    """The exchanges; in the first one, which the person did not begin, nothing is asked."""
    exchanges = [_Exchange([])]
    for index, (name, content) in enumerate(messages):
        role, text, last = known_role(name), content_text(content, note), exchanges[-1]
        if role is None or text is None:
            wrong = f"role {name!r}" if role is None else "content that is not text"
            raise ValueError(f"message {index}: {wrong}")
        if role in CONTEXT_ROLES:
            note(f"{role} messages, kept as the assistant's context")
            last.context.append((bool(last.asked) and not last.replies, role, text))
        elif role == "assistant" and not last.asked:
            note("messages of the assistant before the person's first, kept as its context")
            last.context.append((False, role, text))
        elif role == "assistant":
            if text.strip() and any(map(str.strip, last.replies)):
                note("messages of the assistant in a row, joined")
            last.replies.append(text)
        elif last.asked and not last.replies:
            note("messages of the person in a row, joined")
            last.asked.append(text)
        else:
            exchanges.append(_Exchange([text]))
    return exchanges


_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionRecord(_Record):
    """A question, or the statement of a task; needed in full once, afterwards its id is enough.

    `answer` is the right one: a letter, a number, or one or more texts; kinds outcome and none have no `answer`.
    """

    id: _Text
    subset: _Text
    text: _Text
    answer_kind: KindName = "choice"
    options: tuple[_Text, ...] = ()
    ordered: bool = False
    answer: _Text | _Number | tuple[_Text, ...] | None = None
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    relative: bool = False
    unit: str = ""

    def question(self) -> Question:
        """Convert to a `Question`.

        Raises:
            ValueError: options, answer or tolerance do not fit its kind.
        """
        answers = (
            self.answer if isinstance(self.answer, tuple) else () if self.answer is None else (_as_text(self.answer),)
        )
        if len(answers) != 1 and not (self.answer_kind == "text" and answers):
            needed = self.answer_kind not in ("outcome", "none")
            if answers or needed:
                found = f"answer {self.answer!r}"
                raise ValueError(f"question {self.id!r}: {found}, expected {'one' if needed else 'none'}")
        kinds: dict[KindName, Kind] = {
            "choice": Choice(self.ordered),
            "number": Number(self.tolerance, self.relative, self.unit),
            "text": Text(tuple(answers[1:])),
            "outcome": Outcome(),
            "none": NoAnswer(),
        }
        foreign = self.model_fields_set & {"ordered", "tolerance", "relative", "unit"} - _KEYS_OF[self.answer_kind]
        if foreign:
            key = min(foreign)
            raise ValueError(f"question {self.id!r}: {key} does not apply to answer_kind {self.answer_kind}")
        return Question(self.id, self.subset, self.text, self.options, "".join(answers[:1]), kinds[self.answer_kind])


def _as_text(answer: str | float) -> str:
    """An answer as text; a number without decimals has none (1969, not 1969.0)."""
    return str(answer).removesuffix(".0") if isinstance(answer, float) else str(answer)


class TurnRecord(_Record):
    """One message: `role` is `user`, `assistant`, `system` or `tool` (`You`, `Bot`, `AI`, `human` and `gpt` too).

    The message is in `text`, or in `content` as in OpenAI's format: a text, or a list of parts.
    """

    role: _Text
    text: str | None = None
    content: str | tuple[dict[str, Any], ...] | None = None


class _PersonsRecord(_Record):
    question: QuestionRecord | _Text
    worker_id: _Text
    answer: _Text | _Number | None = None
    correct: bool | Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    condition: str = "direct-to-AI"
    confidence: str = ""


class UserAiRecord(_PersonsRecord):
    """A person's chat and final answer; `turns` is null if the person answered without asking.

    `chat` names the chat if a person has several about one question.
    """

    kind: Literal["user-AI"]
    assistant: _Text
    turns: tuple[TurnRecord, ...] | None
    chat: str = ""


class UserAloneRecord(_PersonsRecord):
    """A person's answer without an assistant."""

    kind: Literal["user-alone"]
    assistant: str = ""


class AiAloneRecord(_Record):
    """Accuracy of an assistant alone on one question, by one method."""

    kind: Literal["ai-alone"]
    question: QuestionRecord | _Text
    assistant: _Text
    method: _Text
    count: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    invalid: Annotated[int, Field(ge=0)] = 0


ChatRecord = Annotated[UserAiRecord | UserAloneRecord | AiAloneRecord, Field(discriminator="kind")]
_PARSER: TypeAdapter[UserAiRecord | UserAloneRecord | AiAloneRecord] = TypeAdapter(ChatRecord)
_KINDS = "user-AI, user-alone or ai-alone"
_MEANINGS = {
    "question": "the question in full (id, subset, text, options, answer), or the id of an earlier one",
    "question.options": "a list of texts",
    "question.answer": "a letter, a number, a text, or a list of texts",
    "correct": "true or false; for an outcome also a score in 0..1",
    "answer": "a letter, a number or a text, as the question's answer_kind asks for",
    "turns": "a list of messages (role, text), or null if the person asked nothing",
}
"""What is expected, for keys whose type alone does not say it."""
_KEYS = {name for each in (UserAiRecord, UserAloneRecord, AiAloneRecord) for name in each.model_fields}
_KNOWN_KEYS = {"question": set(QuestionRecord.model_fields), "turns": set(TurnRecord.model_fields), "": _KEYS}
_BRANCH = re.compile(r"(?:constrained-|function-)?(?:str|int|float|bool|tuple|dict|none)\b")
"""Names of union branches in the location of a validation error, which are not keys."""
_Scores = dict[tuple[str, str, str], AiAloneScore]


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_PARSER.json_schema()}


def rows_of(study: Study) -> Iterator[dict[str, object]]:
    """Convert a study to records of this format, each question in full where it is first; chats are in their answers.

    Chats without an answer, such as those of kind `none`, get records of their own.
    """
    told: set[str] = set()

    def about(question_id: str) -> object:
        question = study.questions[question_id]
        if question_id in told:
            return question_id
        told.add(question_id)
        kind = {key: value for key, value in asdict(question.kind).items() if key not in ("name", "also")}
        answer = [question.answer, *question.kind.also] if isinstance(question.kind, Text) else question.answer or None
        options = {"options": list(question.options)} if question.options else {}
        row = {"id": question.id, "subset": question.subset, "text": question.text, "answer_kind": question.kind.name}
        return {**row, **options, "answer": answer, **kind}

    chats = {chat.id: chat for chat in study.conversations}
    for answer in study.answers:
        row: dict[str, object] = {"kind": answer.kind, "question": about(answer.question_id)}
        row |= {"worker_id": answer.worker_id, "assistant": answer.assistant, "condition": answer.condition}
        if answer.kind == "user-AI":
            chat = chats.pop(answer.conversation_id, None)
            row["turns"] = [{"role": turn.role, "text": turn.text} for turn in chat.turns] if chat else None
        yield {**row, "answer": answer.letter, "correct": answer.correct, "confidence": answer.confidence}
    for chat in chats.values():
        row = {"kind": "user-AI", "question": about(chat.question_id), "worker_id": chat.worker_id, "chat": chat.id}
        turns = [{"role": turn.role, "text": turn.text} for turn in chat.turns]
        yield {**row, "assistant": chat.assistant, "condition": chat.condition, "turns": turns}
    for score in study.ai_alone:
        shown = {key: value for key, value in asdict(score).items() if key != "question_id"}
        yield {"kind": "ai-alone", "question": about(score.question_id), **shown}


def read_chat_jsonl(path: Path, *, skip_bad_records: bool = False, maps: Sequence[str] = ()) -> Study:
    """Read the study in a JSON Lines file; its name is the file's name without the extension.

    Raises:
        ChatbenchError: the file is missing or a line is not JSON; or a record is bad and bad ones are not skipped.
    """
    intake, scores = Intake(skip_bad_records=skip_bad_records, maps=maps), _Scores()
    fix = "correct the line; the schema is in docs/own-study.md"
    importing = f"if it is of another program, import it: chatbench import {shlex.quote(str(path))} --draft map.toml"
    for number, content in read_jsonl(path, fix=fix, replaced=intake.half_characters):
        if not (intake.questions or skip_bad_records or "kind" in content):
            raise ChatbenchError(f"{path}, line {number}, key 'kind': missing", expected=_KINDS, fix=importing)
        with intake.record():
            read_record(intake.row(f"{path}, line {number}", content, {}, unit="key"), intake, scores)
    study = intake.study(path.stem, tuple(scores.values()))
    if not study.questions or (study.dropped and not (study.answers or study.conversations or scores)):
        why = "".join(f"; left out: {count} x {reason}" for reason, count in study.dropped.items())
        fix = importing if {*study.dropped} == {"bad value of kind"} else "see docs/own-study.md"
        raise ChatbenchError(f"{path}: no records{why}", expected="one record per line", fix=fix)
    return study


def read_record(row: Row, intake: Intake, scores: _Scores) -> None:
    """Read one record into `intake`, or into `scores` if it is about an AI alone.

    Raises:
        BadRecord: it is not a record of this format.
        LeftOut: the same person has already answered the same question, or chatted about it.
    """
    try:
        record = _PARSER.validate_python(row.cells)
    except ValidationError as error:
        raise _first_problem(row, error) from None
    question = _question(row, record.question, intake)
    intake.questions[question.id] = question  # even if the rest of the record is bad: later ones may name it
    if isinstance(record, AiAloneRecord):
        key = (question.id, record.assistant, record.method)
        if key in scores:
            expected = "one per question, assistant and method"
            raise row.bad("duplicate AI-alone record", found=f"{key} again", expected=expected)
        scores[key] = AiAloneScore(*key, record.count, record.accuracy, record.invalid)
    else:
        answer = _answer(row, record, question, intake)
        new = (record.worker_id, question.id, record.kind) not in intake.answers
        if isinstance(record, UserAiRecord) and (new or record.chat):
            chat = _chat(row, record, question, answer, intake)
            if chat is not None:
                intake.add_conversation(chat)
        if question.kind != NoAnswer():
            intake.add_answer(answer)


def read_question_lines(path: Path, *, least: int = 1) -> dict[str, Question]:
    """Read questions by id, one JSON object per line, as in a study of one's own (docs/own-study.md).

    Raises:
        ChatbenchError: a line is not a question, an id occurs twice, or there are fewer than `least`.
    """
    found: dict[str, Question] = {}
    fix = 'write {"id": ..., "subset": ..., "text": ..., "options": [...], "answer": "A"} on each line'
    for number, content in read_jsonl(path, fix=fix):
        try:
            question = QuestionRecord.model_validate(content).question()
        except ValidationError as error:
            key, value, expected = first_problem(error)
            where = f"{path}, line {number}, key {key!r}"
            raise ChatbenchError(f"{where}: {value}", expected=expected, fix=fix) from None
        except ValueError as error:
            raise ChatbenchError(f"{path}, line {number}: {error}", fix=fix) from None
        if question.id in found:
            raise ChatbenchError(f"{path}, line {number}: question {question.id!r} again", expected="unique ids")
        found[question.id] = question
    if len(found) < least:
        raise ChatbenchError(f"{path}: {len(found)} questions", expected=f"at least {least}", fix=fix)
    return found


def _answer(row: Row, record: UserAiRecord | UserAloneRecord, question: Question, intake: Intake) -> Answer:
    """The person's answer, and whether it is right: as recorded, else by the question's kind."""
    given, kind, correct = record.answer, question.kind, record.correct
    by_rule = correct is None
    read = question.read(_as_text(given)) if given is not None else None
    if isinstance(kind, Choice) and given not in (None, *question.letters):
        read = None
    if kind == NoAnswer():
        if given is not None or correct is not None or record.kind == "user-alone":
            expected = "a chat, with neither answer nor correct"
            raise row.bad("answer to a question without one", found="a question of answer_kind none", expected=expected)
        read, correct = DONE, False
    elif kind == Outcome() and correct is None:
        expected = "true or false, or a score in 0..1: the question's answer_kind is outcome"
        raise row.bad("bad value of correct", "correct", found="missing", expected=expected)
    elif kind != Outcome() and correct not in (None, 0, 1):
        raise row.bad(
            "bad value of correct", "correct", found=str(correct), expected="true or false; only an outcome has scores"
        )
    elif read is None and (given is not None or correct is None):
        expected = f"one of {', '.join(question.letters)}" if question.options else question.asked_for.strip("<>")
        raise row.bad(
            "bad value of answer", "answer", found="missing" if given is None else repr(given), expected=expected
        )
    elif correct is None:
        correct = bool(question.is_right(read))
    elif read is not None and question.is_right(read) not in (correct, None):
        hint = "; simulate --judge judges simulated texts too" if question.checkable else ""
        intake.note(
            f"answers that the question's own rule judges otherwise than the study: the study's was taken{hint}"
        )
    assistant, condition = record.assistant, record.condition
    chat = isinstance(record, UserAiRecord) and record.chat
    about = conversation_id(question.id, record.worker_id, chat) if chat else ""
    who = question.id, record.worker_id, record.kind, assistant, condition
    return Answer(*who, read, correct if correct % 1 else bool(correct), record.confidence, about, by_rule)


def _first_problem(row: Row, error: ValidationError) -> BadRecord:
    first = error.errors(include_url=False)[0]
    branches = ("user-AI", "user-alone", "ai-alone", "QuestionRecord")
    parts = [str(part) for part in first["loc"] if part not in branches and not _BRANCH.match(str(part))]
    key = ".".join(parts) or "kind"
    if "discriminator" in first.get("ctx", {}):
        found = repr(row.value("kind")) if "kind" in row.cells else "missing"
        return row.bad("bad value of kind", key, found=found, expected=_KINDS)
    found = "missing" if first["type"] == "missing" else repr(first["input"])[:80]
    if first["type"] == "extra_forbidden":
        found = "an unknown key"
    expected = _MEANINGS.get(key, "") or expected_by(first)
    if key == "correct" and isinstance(first["input"], int | float):  # skipped, a scale from 1 to 5 would leave its 1
        how = "rescale all of them, such as (x - 1) / 4 for 1 to 5"
        raise ChatbenchError(f"{row.place}, key 'correct': {found}", expected=expected, fix=how)
    if first["type"] == "extra_forbidden":
        known = _KNOWN_KEYS[key.partition(".")[0] if "." in key else ""]
        nearest = difflib.get_close_matches(key.rpartition(".")[2], sorted(known), 1)
        expected = f"the key {nearest[0]!r}" if nearest else f"only the keys {', '.join(sorted(known))}"
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
    try:
        question = given.question()
    except ValueError as error:
        found, _, expected = str(error).partition(", expected ")
        key = "question.options" if " options" in found else "question.answer"
        raise row.bad(f"bad value of {key}", key, found=found.partition(": ")[2], expected=expected) from None
    if intake.questions.get(given.id, question) != question:
        found = f"{given.id!r} with different content"
        raise row.bad("duplicate question id", "question.id", found=found, expected="one question per id")
    return question


def _chat(row: Row, record: UserAiRecord, question: Question, answer: Answer, intake: Intake) -> Conversation | None:
    """The chat of a record; None if the person wrote nothing."""
    if record.turns is None:
        intake.note("user-AI answers without asking (turns is null)")
        return None
    if not record.turns:
        expected = "messages, or null if the person asked nothing"
        raise row.bad("empty conversation", "turns", found="no message", expected=expected)
    messages = list[RawMessage]()
    for index, turn in enumerate(record.turns):
        role = str(intake.mapped(turn.role, "role"))
        if known_role(role) is None:
            raise row.unknown_role(turn.role, f"turns.{index}.role", [[turn.role for turn in record.turns]])
        if turn.text is not None and turn.content is not None:
            raise row.bad("bad value of turns", f"turns.{index}", found="both text and content", expected="only one")
        messages.append((role, turn.content if turn.text is None else turn.text))
    try:
        turns = turns_of(messages, intake.note)
    except ValueError as error:
        raise row.bad("bad value of turns", "turns", found=str(error), expected="text, or parts with a type") from None
    if not turns.turns:
        intake.note(EMPTY_CHAT)
        return None
    who = question.id, answer.worker_id, answer.assistant, answer.condition
    chat_id = conversation_id(question.id, answer.worker_id, record.chat)
    return Conversation(chat_id, *who, turns.turns, answer.letter, turns.context)
