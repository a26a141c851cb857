"""What the readers of studies share: records that know their place, the spellings of values, and the gathered study.

A file that is damaged as a whole (missing, not UTF-8, an open quote) is always an error. A single record that breaks a
study's rules raises `BadRecord`, which says where and why; with `skip_bad_records` the same record is left out and
counted under its reason. What the protocol leaves out (the attention check, duplicates) is always counted.

The names that the ChatBench files use are not all published, so the readers accept the spellings listed here and in
`chatbench_format` and refuse everything else: a guessed value would be worse than an error.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import JsonTextError, parse_json, read_csv
from chatbench.core.records import LETTERS, AiAloneScore, Answer, AnswerKind, Conversation, Question, Role, Study, Turn

ROLE_NAMES: dict[str, Role] = {
    **dict.fromkeys(("user", "you", "human"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai"), "assistant"),
}
EXPECTED_ROLES = "one of user, You, assistant, Bot, AI"
KIND_NAMES: dict[str, AnswerKind] = {
    **dict.fromkeys(("useralone", "user", "alone"), "user-alone"),
    **dict.fromkeys(("userai", "withai", "ai"), "user-AI"),
}
EXPECTED_KINDS = "user-alone or user-AI"

SKIP_FIX = "correct the record, or run again with --skip-bad-records to leave it out and have it counted"
ATTENTION_CHECK = "attention check"
DUPLICATE_ANSWER = "duplicate answer (same worker, question and kind; the first is kept)"
DUPLICATE_CONVERSATION = "duplicate conversation (same worker and question; the first is kept)"

Options = tuple[str, str, str, str]


def plain_name(name: str) -> str:
    """A name without case and punctuation: `questionID`, `question_id` and `Question ID` are one name.

    >>> plain_name("questionID") == plain_name("question_id")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def role_of(name: str) -> Role | None:
    """`user` or `assistant`, or None for an unknown role."""
    return ROLE_NAMES.get(plain_name(name))


def correct_of(text: str) -> bool | None:
    """The truth of an `acc` cell (`1`, `0.0`, `True`), or None where it is blank or neither.

    >>> correct_of("1.0"), correct_of("False"), correct_of("")
    (True, False, None)
    """
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(text.strip().lower())


def holds_indices(values: Sequence[str]) -> bool:
    """Whether a column of answers counts options from 0 to 3 instead of naming letters or texts.

    Decided for the whole column: in a mathematics study a single `2` may as well be the text of an option.
    """
    filled = [value for value in values if value]
    return sum(value.removesuffix(".0") in {"0", "1", "2", "3"} for value in filled) > len(filled) / 2


def letter_of(value: str, options: Options, *, indices: bool = False) -> str | None:
    """The letter that a recorded answer means, or None if it means none.

    A letter in either case, an index from 0 (where `indices` says that the column holds them), or an option's text.

    >>> letter_of("b", ("1", "2", "3", "4")), letter_of("3", ("1", "2", "3", "4"))
    ('B', 'C')
    >>> letter_of("3", ("1", "2", "3", "4"), indices=True)
    'D'
    """
    value = value.strip()
    if value.upper() in LETTERS:
        return value.upper()
    if indices:
        index = value.removesuffix(".0")
        return LETTERS[int(index)] if index in {"0", "1", "2", "3"} else None
    matches = [letter for letter, option in zip(LETTERS, options, strict=True) if option.strip() == value]
    return matches[0] if len(matches) == 1 else None


def literal_list(text: str) -> list[object] | None:
    """The list in a cell, written as JSON or as a Python literal; None if it is neither.

    >>> literal_list('["1", "2"]') == literal_list("['1', '2']")
    True
    """
    try:
        value = parse_json(text)
    except JsonTextError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, list) else None


def four_options(values: Sequence[object]) -> Options | None:
    """Four non-blank options as text, or None."""
    texts = [str(value).strip() for value in values]
    return (texts[0], texts[1], texts[2], texts[3]) if len(texts) == len(LETTERS) and all(texts) else None


def conversation_id(question_id: str, worker_id: str) -> str:
    """The id of a person's chat about a question; a person has at most one.

    >>> conversation_id("college_mathematics-redux-3", "w7")
    'college_mathematics-redux-3|w7'
    """
    return f"{question_id}|{worker_id}"


class BadRecord(ChatbenchError):  # noqa: N818  # a record, named as the option --skip-bad-records names it
    """One record that cannot be used; `reason` is the short name under which it is counted when left out."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = SKIP_FIX) -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class LeftOut(Exception):  # noqa: N818  # no error: what the protocol leaves out
    """A record that is left out and counted under this reason, whether or not bad records are skipped."""


class Intake:
    """A study as far as it has been read, with what was left out (`dropped`) and what a user should know (`notes`)."""

    def __init__(self, *, skip_bad_records: bool = False) -> None:
        self.skip_bad_records = skip_bad_records
        self.questions: dict[str, Question] = {}
        self.conversations: dict[str, Conversation] = {}
        self.answers: dict[tuple[str, str, AnswerKind], Answer] = {}
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Reads one record: `LeftOut` and, where they are skipped, bad records raised inside are counted."""
        try:
            yield
        except LeftOut as error:
            self._dropped[str(error)] += 1
        except BadRecord as error:
            if not self.skip_bad_records:
                raise
            self._dropped[error.reason] += 1

    def note(self, text: str) -> None:
        """Counts something about a record that is kept."""
        self._noted[text] += 1

    def add_answer(self, answer: Answer) -> None:
        """Keeps an answer.

        Raises:
            LeftOut: the same person has answered the same question in the same way before.
        """
        if self.answers.setdefault((answer.worker_id, answer.question_id, answer.kind), answer) is not answer:
            raise LeftOut(DUPLICATE_ANSWER)

    def add_conversation(self, conversation: Conversation) -> None:
        """Keeps a conversation.

        Raises:
            LeftOut: the same person has chatted about the same question before.
        """
        if self.conversations.setdefault(conversation.id, conversation) is not conversation:
            raise LeftOut(DUPLICATE_CONVERSATION)

    def study(self, name: str, ai_alone: Sequence[AiAloneScore] = ()) -> Study:
        """What was read; an answer given with an assistant gets the id of its conversation, where there is one."""
        answers = []
        for answer in self.answers.values():
            chat = conversation_id(answer.question_id, answer.worker_id)
            linked = answer.kind == "user-AI" and chat in self.conversations
            answers.append(replace(answer, conversation_id=chat) if linked else answer)
        return Study(
            name=name,
            questions=self.questions,
            conversations=tuple(self.conversations.values()),
            answers=tuple(answers),
            ai_alone=tuple(ai_alone),
            dropped=dict(sorted(self._dropped.items())),
            notes=tuple(f"{count} x {text}" for text, count in sorted(self._noted.items())),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file, and where it stands.

    `place` is such as `questions.csv, row 3` (as a spreadsheet counts: the header is row 1). `names` gives the file's
    own name of a column or key that is asked for by another; `unit` is what errors call it.
    """

    place: str
    cells: Mapping[str, object]
    names: Mapping[str, str] = field(default_factory=dict)
    unit: Literal["column", "key"] = "column"

    def value(self, name: str) -> object:
        """What the record holds under a name, or None."""
        return self.cells.get(self.names.get(name, name))

    def text(self, name: str) -> str:
        """The same without surrounding white space; "" where nothing was recorded (blank, or a data frame's `nan`)."""
        value = self.value(name)
        text = "" if value is None else str(value).strip()
        return "" if text in {"nan", "NaN", "None", "null"} else text

    def needed(self, name: str) -> str:
        """The same.

        Raises:
            BadRecord: the cell is blank.
        """
        column = self.names.get(name, name)
        if not self.text(name):
            raise self.bad(f"blank {column}", name, found="blank", expected=f"a {column}")
        return self.text(name)

    def bad(self, reason: str, name: str = "", *, expected: str, found: str = "") -> BadRecord:
        """The error for this record, or for one cell of it; `found` is by default what the cell holds."""
        place = f"{self.place}, {self.unit} {self.names.get(name, name)!r}" if name else self.place
        return BadRecord(reason, f"{place}: {found or repr(self.value(name))[:80]}", expected=expected)

    def conversation(self, name: str, turns: tuple[Turn, ...], answer: Answer) -> Conversation:
        """The chat that led to an answer; its turns are under `name` in this record.

        Raises:
            BadRecord: the turns do not alternate from user to assistant.
        """
        chat = conversation_id(answer.question_id, answer.worker_id)
        who = answer.question_id, answer.worker_id, answer.assistant, answer.condition
        try:
            return Conversation(chat, *who, turns, answer.letter)
        except ValueError as error:
            expected = "a chat that starts with the user, alternates and ends with the assistant"
            raise self.bad("turns out of order", name, found=str(error), expected=expected) from error


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a CSV file; `names` gives the file's column for each of `spellings` that it has."""

    path: Path
    columns: tuple[str, ...]
    spellings: Mapping[str, Sequence[str]]
    names: Mapping[str, str]
    rows: tuple[Row, ...]

    def require(self, **meanings: str) -> None:
        """Checks that there is a column of each name; the meaning is what an error calls it.

        Raises:
            ChatbenchError: there is none.
        """
        for name, meaning in meanings.items():
            if name not in self.names:
                raise self.lacks(meaning, self.spellings[name])

    def lacks(self, meaning: str, spellings: Sequence[str]) -> ChatbenchError:
        """The error for a table without a column for `meaning`."""
        return ChatbenchError(
            f"{self.path}, row 1: no column for {meaning}; columns are {', '.join(self.columns)}",
            expected=f"a column named {' or '.join(spellings)}",
            fix="rename the column, or check that this is the right file",
        )

    def texts(self, name: str) -> list[str]:
        """All cells of a column."""
        return [row.text(name) for row in self.rows]


def find_column(columns: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The first column that has one of the names (case and punctuation do not matter), or None."""
    known = {plain_name(column): column for column in reversed(columns)}
    return next((known[name] for name in map(plain_name, spellings) if name in known), None)


def read_table(
    path: Path,
    intake: Intake,
    spellings: Mapping[str, Sequence[str]],
    *,
    fix: str = "check the path, or download the study again",
) -> Table:
    """Reads a CSV file with a header, whose columns may be spelled in several ways.

    Raises:
        ChatbenchError: the file is missing, empty, half-written inside a quoted cell, or not UTF-8.
        BadRecord: a row has more or fewer cells than the header (unless `intake` skips bad records).
    """
    records = read_csv(path, fix=fix)
    if not records:
        raise ChatbenchError(f"{path}: empty file", expected="a header and rows", fix=fix)
    header, rows = records[0], []
    names = {name: column for name, accepted in spellings.items() if (column := find_column(header, accepted))}
    for number, record in enumerate(records[1:], start=2):
        if not any(map(str.strip, record)):  # spreadsheets leave rows of empty cells below
            continue
        with intake.record():
            row = Row(f"{path}, row {number}", dict(zip(header, record, strict=False)), names)
            if len(record) != len(header):
                raise row.bad(
                    "row with too few or too many cells",
                    found=f"{len(record)} cells",
                    expected=f"{len(header)} cells, as in the header; the file may be half-written",
                )
            rows.append(row)
    return Table(path, tuple(header), spellings, names, tuple(rows))
