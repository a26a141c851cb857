"""Shared parts of the study readers: records with their location, accepted spellings, and the study being collected.

A damaged file (missing, not UTF-8, an open quote) is always an error. A single record that breaks a study's rules
raises `BadRecord`, which says where and why; with `skip_bad_records`, such a record is left out and counted by reason.
What the protocol leaves out (the attention check, duplicates) is always counted.

Not all names that the ChatBench files use are published, so the readers accept the spellings listed here and in
`chatbench_format` and refuse everything else: a guessed value would be worse than an error.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import JsonTextError, parse_json, read_csv
from chatbench.core.records import (
    FOUR_LETTERS,
    AiAloneScore,
    Answer,
    AnswerKind,
    Conversation,
    Question,
    Role,
    Study,
    Turn,
    joined_id,
)
from chatbench.core.texts import as_it_was

ROLE_NAMES: dict[str, Role] = {
    **dict.fromkeys(("user", "you", "human", "person", "participant", "respondent", "subject", "worker", "customer",
                     "client", "enduser", "nutzer", "teilnehmer", "kunde", "mensch"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai", "chatbot", "agent", "model", "llm", "aiassistant", "virtualassistant",
                     "aimodel", "languagemodel", "ki", "assistent"), "assistant"),
}  # fmt: skip
EXPECTED_ROLES = "one of user, You, participant, customer, assistant, Bot, AI, model"
KIND_NAMES: dict[str, AnswerKind] = {
    **dict.fromkeys(("useralone", "user", "alone", "useranswer"), "user-alone"),
    **dict.fromkeys(("userai", "withai", "ai", "useraianswer"), "user-AI"),
}
EXPECTED_KINDS = "user-alone or user-AI"
MOST_SHOWN = 12
"""Maximum number of distinct values that an error lists."""

SKIP_FIX = "correct the record, or run again with --skip-bad-records to leave it out and count it"
MAP_EXAMPLE = "--map answer_type.userAnswer=user-alone"
ATTENTION_CHECK = "attention check"
DUPLICATE_ANSWER = "duplicate answer (same worker, question and kind; the first is kept)"
HALF_CHARACTERS = "half characters (lone surrogates), replaced by U+FFFD"
DUPLICATE_CONVERSATION = "duplicate conversation (same worker and question; the first is kept)"

Options = tuple[str, ...]


def plain_name(name: str) -> str:
    """Normalise a name by case and punctuation: `questionID`, `question_id` and `Question ID` are one name.

    >>> plain_name("questionID") == plain_name("question_id")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def role_of(name: str) -> Role | None:
    """`user` or `assistant`, or None for an unknown role."""
    return ROLE_NAMES.get(plain_name(name))


def correct_of(text: str) -> bool | None:
    """Parse an `acc` cell (`1`, `0.0`, `True`); None if it is blank or neither true nor false.

    >>> correct_of("1.0"), correct_of("False"), correct_of("")
    (True, False, None)
    """
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(text.strip().lower())


Reading = Literal["letters and texts", "counted from 0", "counted from 1"]
"""How the cells of an answer column are to be read."""


def reading_of(cells: Sequence[tuple[str, Options | None]]) -> Reading | None:
    """The only reading that fits all numbers of an answer column; None if there is not exactly one.

    A number may be an option's index, from 0 or from 1, or its text. That is decided for the whole column, from all its
    cells and the options of their questions: a single `2` may be any of the three. Readings that give the same letters
    count as one. Cells that fit no reading are left to `letter_of`.

    >>> options = ("red", "green", "blue", "grey")
    >>> [reading_of([(cell, options) for cell in column]) for column in ("0123", "1234", "123", "ABC")]
    ['counted from 0', 'counted from 1', None, 'letters and texts']
    """
    numbers = [(_whole(value), options) for value, options in cells if _whole(value)]
    small = {value for value, _ in numbers} & set("01234")
    named = [letter_of(value, options) for value, options in numbers if options]
    in_words = any(value.upper() in FOUR_LETTERS for value, _ in cells)
    in_words |= any(letter_of(v, options) for v, options in numbers if options and v not in small)
    if in_words or not small:
        return "letters and texts"
    fits: list[Reading] = ["letters and texts"] if named and all(named) else []
    fits += ["counted from 0"] if "4" not in small else []
    fits += ["counted from 1"] if "0" not in small else []
    letters = {tuple(letter_of(v, options, way) for v, options in numbers if options) for way in fits}
    return fits[0] if len(letters) == 1 else None


def _whole(value: str) -> str:
    return value.removesuffix(".0") if re.fullmatch(r"\d+(\.0)?", value) else ""


def letter_of(value: str, options: Options, reading: Reading = "letters and texts") -> str | None:
    """The letter that a recorded answer means, or None if it means none.

    The answer is a letter in either case, an option's text, or its index if the column is read that way (`reading_of`).

    >>> letter_of("b", ("1", "2", "3", "4")), letter_of("3", ("1", "2", "3", "4"))
    ('B', 'C')
    >>> letter_of("3", ("1", "2", "3", "4"), "counted from 0")
    'D'
    """
    value = value.strip()
    if value.upper() in FOUR_LETTERS:
        return value.upper()
    if reading != "letters and texts":
        first = "0123" if reading == "counted from 0" else "1234"
        return dict(zip(first, FOUR_LETTERS, strict=True)).get(_whole(value))
    matches = [letter for letter, option in zip(FOUR_LETTERS, options, strict=True) if option.strip() == value]
    return matches[0] if len(matches) == 1 else None


def literal_list(text: str) -> list[object] | None:
    """Parse the list in a cell, written as JSON or as a Python literal; None if it is neither.

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
    return tuple(texts) if len(texts) == len(FOUR_LETTERS) and all(texts) else None


def conversation_id(question_id: str, worker_id: str, chat: str = "") -> str:
    """Id of a person's chat about a question; if there are several, `chat` names each.

    >>> conversation_id("college_mathematics-redux-3", "w7")
    'college_mathematics-redux-3|w7'
    """
    return joined_id(question_id, worker_id, *([chat] if chat else []))


class BadRecord(ChatbenchError):  # noqa: N818  # a record, named as the option --skip-bad-records names it
    """A record that cannot be used; `reason` is the short name under which it is counted when left out."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = SKIP_FIX) -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class LeftOut(Exception):  # noqa: N818  # no error: what the protocol leaves out
    """A record that is left out and counted by reason (the message), whether or not bad records are skipped."""


class Intake:
    """A study being read, with counts of what was left out (`dropped`) and remarks for the user (`noted`)."""

    def __init__(self, *, skip_bad_records: bool = False, maps: Sequence[str] = ()) -> None:
        self.skip_bad_records = skip_bad_records
        self.questions: dict[str, Question] = {}
        self.conversations: dict[str, Conversation] = {}
        self.answers: dict[tuple[str, str, AnswerKind], Answer] = {}
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._maps: dict[tuple[str, str], str] = {}
        self._mapped: set[tuple[str, str]] = set()
        for text in maps:
            name, equals, meaning = text.partition("=")
            column, dot, value = name.partition(".")
            if not (column and dot and equals):
                raise ChatbenchError(f"--map {text}", expected="COLUMN.VALUE=MEANING", fix=f"example: {MAP_EXAMPLE}")
            self._maps[plain_name(column), value.strip()] = meaning.strip()

    def mapped(self, value: object, *columns: str) -> object:
        """Translate a value by --map, under any name of its column; values without a --map are unchanged."""
        keys = [(plain_name(column), str(value).strip()) for column in columns]
        known = next((key for key in keys if key in self._maps), None)
        if known is None:
            return value
        self._mapped.add(known)
        return self._maps[known]

    def row(self, place: str, cells: Mapping[str, object], names: Mapping[str, str], **more: Any) -> Row:
        """Build a record with --map applied, which may use a column's name in the file or its standard name."""
        if self._maps:
            asked = {column: name for name, column in names.items()}
            cells = {column: self.mapped(value, column, asked.get(column, column)) for column, value in cells.items()}
        return Row(place, cells, names, **more)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Context for reading one record: counts `LeftOut` and, if bad records are skipped, `BadRecord`."""
        try:
            yield
        except LeftOut as error:
            self.dropped[str(error)] += 1
        except BadRecord as error:
            if not self.skip_bad_records:
                raise
            self.dropped[error.reason] += 1

    def note(self, text: str, count: int = 1) -> None:
        """Count a remark about a record that is kept."""
        self.noted[text] += count

    def half_characters(self, count: int) -> None:
        """Count lone surrogates that were replaced in the input."""
        self.note(HALF_CHARACTERS, count)

    def reading(self, name: str, rows: Sequence[Row], options_of: Callable[[Row], Options | None]) -> Reading:
        """How the answers in a column are to be read, judged from all rows; noted if they are numbers.

        Raises:
            ChatbenchError: the column has numbers that can be read in more than one way, or in none.
        """
        filled = [(row.text(name), options_of(row)) for row in rows if row.text(name)]
        reading = reading_of(filled)
        if reading is None:
            column = rows[0].names.get(name, name)
            values = Counter(value for value, _ in filled)
            raise ChatbenchError(
                f"{rows[0].place.rpartition(',')[0]}, {rows[0].unit} {column!r}: numbers that could mean more than one "
                f"option; it holds {listed(values)}",
                expected="letters, or numbers that clearly count from 0 (with a 0, no 4) or from 1 (with a 4, no 0)",
                fix=f"write letters, or say what they mean: --map {column}.1=A --map {column}.2=B ...",
            )
        if reading != "letters and texts":
            first = "0 is A" if reading == "counted from 0" else "1 is A"
            self.note(f"{name.replace('_', ' ')}s that are numbers, {reading} ({first})", len(filled))
        return reading

    def check_numbers(self, name: str, rows: Sequence[Row], right: Callable[[float], bool], expected: str) -> None:
        """Refuse a column in which a single number shows that all mean something else (a code 2, a percentage).

        Treated as bad records, such numbers would be left out and the rest of the column misread.

        Raises:
            ChatbenchError: there is such a number.
        """
        values = Counter(row.text(name) for row in rows if row.text(name))
        if wrong := [value for value in values if re.fullmatch(r"-?\d+(\.\d*)?", value) and not right(float(value))]:
            column = rows[0].names.get(name, name)
            raise ChatbenchError(
                f"{rows[0].place.rpartition(',')[0]}, {rows[0].unit} {column!r}: {wrong[0]!r}; "
                f"it holds {listed(values)}",
                expected=expected,
                fix=f"correct the column, or say what each value means: --map {column}.{wrong[0]}=...",
            )

    def add_answer(self, answer: Answer) -> None:
        """Add an answer.

        Raises:
            LeftOut: the same person has already answered the same question in the same way (alone or with an AI).
        """
        if self.answers.setdefault((answer.worker_id, answer.question_id, answer.kind), answer) is not answer:
            raise LeftOut(DUPLICATE_ANSWER)

    def add_conversation(self, conversation: Conversation) -> None:
        """Add a conversation.

        Raises:
            LeftOut: a conversation with this id (same person and question) was already added.
        """
        if self.conversations.setdefault(conversation.id, conversation) is not conversation:
            raise LeftOut(DUPLICATE_CONVERSATION)

    def study(self, name: str, ai_alone: Sequence[AiAloneScore] = ()) -> Study:
        """The study that was read; an answer given with an assistant gets the id of its conversation, if there is one.

        Raises:
            ChatbenchError: a --map names a value that the study does not contain.
        """
        for column, value in self._maps.keys() - self._mapped:
            found = f"--map {column}.{value}: the study {name} has no such value in a column of this name"
            raise ChatbenchError(found, fix="correct it, or omit it")
        answers = []
        for answer in self.answers.values():
            chat = answer.conversation_id or conversation_id(answer.question_id, answer.worker_id)
            linked = chat in self.conversations and answer.kind == "user-AI"
            answers.append(replace(answer, conversation_id=chat if linked else ""))
        return Study(
            name=name,
            questions=self.questions,
            conversations=tuple(self.conversations.values()),
            answers=tuple(answers),
            ai_alone=tuple(ai_alone),
            dropped=dict(sorted(self.dropped.items())),
            notes=tuple(f"{count} x {text}" for text, count in sorted(self.noted.items())),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file, and its location.

    `place` is, for example, `questions.csv, row 3` (as a spreadsheet counts: the header is row 1). `names` maps
    standard names of columns or keys to those in the file; `unit` is what errors call them; `others` are all records of
    the file.
    """

    place: str
    cells: Mapping[str, object]
    names: Mapping[str, str] = field(default_factory=dict)
    unit: Literal["column", "key"] = "column"
    others: Sequence[Row] = field(default=(), repr=False, compare=False)

    def value(self, name: str) -> object:
        """The record's value under a name, or None."""
        return self.cells.get(self.names.get(name, name))

    def text(self, name: str) -> str:
        """The value as stripped text; "" if nothing was recorded (blank, or a data frame's `nan`)."""
        value = self.value(name)
        text = "" if value is None else str(value).strip()
        return "" if text in {"nan", "NaN", "None", "null"} else text

    def needed(self, name: str) -> str:
        """The value as stripped text, which must not be blank.

        Raises:
            BadRecord: the cell is blank.
        """
        column = self.names.get(name, name)
        if not self.text(name):
            raise self.bad(f"blank {column}", name, found="blank", expected="a value")
        return self.text(name)

    def bad(self, reason: str, name: str = "", *, expected: str, found: str = "", fix: str = SKIP_FIX) -> BadRecord:
        """The error for this record, or for one of its cells; `found` defaults to the cell's value."""
        place = f"{self.place}, {self.unit} {self.names.get(name, name)!r}" if name else self.place
        return BadRecord(reason, f"{place}: {found or repr(self.value(name))[:80]}", expected=expected, fix=fix)

    def unknown(self, reason: str, name: str, *, expected: str) -> BadRecord:
        """The error for an unknown value of a categorical column.

        It lists all values of the column, which a user needs to give them a meaning with --map.
        """
        values = Counter(row.text(name) for row in self.others)
        found = f"{self.text(name)!r}; the {self.unit} holds {listed(values)}"
        fix = _map_fix(self.names.get(name, name), self.text(name))
        return self.bad(reason, name, found=found, expected=expected, fix=fix)

    def unknown_role(self, role: str, name: str, roles: Iterable[Iterable[str]]) -> BadRecord:
        """The error for the unknown role of a message at `name`; `roles` are those of every chat."""
        values = Counter(each for chat in roles for each in chat)
        found, fix = f"role {role!r}; the chats hold {listed(values)}", _map_fix("role", role)
        return self.bad("unknown role", name, found=found, expected=EXPECTED_ROLES, fix=fix)

    def conversation(self, name: str, turns: tuple[Turn, ...], answer: Answer) -> Conversation:
        """The chat that led to an answer; `name` is where its turns are in this record.

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
    """All rows of a CSV file; `names` maps the standard names among `spellings` to the file's columns."""

    path: Path
    columns: tuple[str, ...]
    spellings: Mapping[str, Sequence[str]]
    names: Mapping[str, str]
    rows: tuple[Row, ...]

    def require(self, **meanings: str) -> None:
        """Check that there is a column for each name; errors describe it by its meaning.

        Raises:
            ChatbenchError: a column is missing.
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


def _map_fix(column: str, value: str) -> str:
    return f"say what it means: --map {shlex.quote(f'{column}.{value}=...')}; or {SKIP_FIX}"


def listed(values: Counter[str]) -> str:
    """Distinct values with their counts, the most frequent first.

    >>> listed(Counter("aab"))
    "2 x 'a', 1 x 'b'"
    """
    shown = ", ".join(f"{count} x {value[:40]!r}" for value, count in values.most_common(MOST_SHOWN))
    return shown + (f" and {len(values) - MOST_SHOWN} other values" if len(values) > MOST_SHOWN else "")


def find_column(columns: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The column for the first of the names that there is (ignoring case and punctuation), or None."""
    known = {plain_name(column): column for column in reversed(columns)}
    return next((known[name] for name in map(plain_name, spellings) if name in known), None)


def read_table(
    path: Path,
    intake: Intake,
    spellings: Mapping[str, Sequence[str]],
    *,
    fix: str = "check the path, or download the study again",
) -> Table:
    """Read a CSV file with a header, whose columns may be spelled in several ways.

    The apostrophe that keeps a spreadsheet from evaluating a cell (`harmless`) is removed.

    Raises:
        ChatbenchError: the file is missing, empty, half-written inside a quoted cell, or not UTF-8.
        BadRecord: a row has more or fewer cells than the header (unless `intake` skips bad records).
    """
    records = read_csv(path, fix=fix)
    if not records:
        raise ChatbenchError(f"{path}: empty file", expected="a header and rows", fix=fix)
    header, rows = records[0], list[Row]()
    known = Counter(plain_name(column) for column in header)
    names = {name: column for name, accepted in spellings.items() if (column := find_column(header, accepted))}
    if repeated := [column for column in names.values() if known[plain_name(column)] > 1]:
        found, expected = f"{path}, row 1: more than one column {repeated[0]!r}", "unique column names"
        raise ChatbenchError(found, expected=expected, fix="rename or remove one")
    for number, record in enumerate(records[1:], start=2):
        if not any(map(str.strip, record)):  # spreadsheets leave rows of empty cells below
            continue
        with intake.record():
            cells = dict(zip(header, map(as_it_was, record), strict=False))
            row = intake.row(f"{path}, row {number}", cells, names, others=rows)
            if len(record) != len(header):
                raise row.bad(
                    "row with too few or too many cells",
                    found=f"{len(record)} cells",
                    expected=f"{len(header)} cells, as in the header; the file may be half-written",
                )
            rows.append(row)
    return Table(path, tuple(header), spellings, names, tuple(rows))
