"""CSV tables in which every cell knows its place, so that an error can name file, row and column.

Rows are counted as a spreadsheet counts them: the header is row 1. A file that is damaged as a whole (missing, not
UTF-8, an open quote) is always an error; a single row with too few cells is a bad record.

The spellings in which studies write roles, letters, options and kinds of answers, each read to one value.

The names that the ChatBench files use are not all published, so the readers accept the variants listed here and refuse
everything else: a value that is merely guessed would be worse than an error.

What happens to records that cannot be used: an error that says where and why, or a count under its reason.

Nothing is left out silently. A record that breaks a study's rules raises `BadRecord`; with `skip_bad_records` the same
record is left out and counted. What the protocol leaves out (the attention check, duplicates) is always counted.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import LETTERS, AnswerKind, Role

ROLE_NAMES: dict[str, Role] = {
    "user": "user",
    "you": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "ai": "assistant",
}
EXPECTED_ROLES = "one of user, You, assistant, Bot, AI"

KIND_NAMES: dict[str, AnswerKind] = {
    "useralone": "user-alone",
    "user": "user-alone",
    "alone": "user-alone",
    "userai": "user-AI",
    "withai": "user-AI",
    "ai": "user-AI",
}
EXPECTED_KINDS = "user-alone or user-AI"

Options = tuple[str, str, str, str]


def plain_name(name: str) -> str:
    """A name without case and punctuation: `questionID`, `question_id` and `Question ID` are one name.

    >>> plain_name("questionID") == plain_name("question_id")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_blank(value: str) -> bool:
    """Whether a cell says that nothing was recorded (empty, or a data frame's `nan`)."""
    return value.strip() in {"", "nan", "NaN", "None", "null"}


def role_of(name: str) -> Role | None:
    """`user` or `assistant`, or None for an unknown role."""
    return ROLE_NAMES.get(plain_name(name))


def kind_of(name: str) -> AnswerKind | None:
    """`user-alone` or `user-AI`, or None for an unknown kind."""
    return KIND_NAMES.get(plain_name(name))


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
    filled = [value for value in values if not is_blank(value)]
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
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
    return value if isinstance(value, list) else None


def four_options(values: Sequence[object]) -> Options | None:
    """Four non-blank options as text, or None."""
    texts = [str(value).strip() for value in values]
    return (texts[0], texts[1], texts[2], texts[3]) if len(texts) == len(LETTERS) and all(texts) else None


def number_key(value: object) -> str:
    """A batch or position as one spelling, whether it was read as `3`, `3.0` or 3."""
    return str(value).strip().removesuffix(".0")


SKIP_FIX = "correct the record, or run again with --skip-bad-records to leave it out and have it counted"

ATTENTION_CHECK = "attention check"
DUPLICATE_ANSWER = "duplicate answer (same worker, question and kind; the first is kept)"
DUPLICATE_CONVERSATION = "duplicate conversation (same worker and question; the first is kept)"


class BadRecord(ChatbenchError):  # noqa: N818  # a record, named as the option --skip-bad-records names it
    """One record that cannot be used; `reason` is the short name under which it is counted when left out."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = SKIP_FIX) -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class Intake:
    """Counts what a reader leaves out (`dropped`) and what it wants to be known (`notes`)."""

    def __init__(self, *, skip_bad_records: bool = False) -> None:
        self.skip_bad_records = skip_bad_records
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Reads one record: a `BadRecord` raised inside is counted instead where bad records are to be skipped."""
        try:
            yield
        except BadRecord as error:
            if not self.skip_bad_records:
                raise
            self.drop(error.reason)

    def drop(self, reason: str) -> None:
        """Counts a record that is left out."""
        self._dropped[reason] += 1

    def note(self, text: str) -> None:
        """Counts something about a record that is kept."""
        self._noted[text] += 1

    @property
    def dropped(self) -> dict[str, int]:
        """Number of records left out, by reason, in alphabetical order."""
        return dict(sorted(self._dropped.items()))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per noted fact, led by its count."""
        return tuple(f"{count} x {text}" for text, count in sorted(self._noted.items()))


def conversation_id(question_id: str, worker_id: str) -> str:
    """The id of a person's chat about a question; a person has at most one.

    >>> conversation_id("college_mathematics-redux-3", "w7")
    'college_mathematics-redux-3|w7'
    """
    return f"{question_id}|{worker_id}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: column name -> text of the cell."""

    file: Path
    number: int
    cells: dict[str, str]

    def where(self, column: str | None = None) -> str:
        """The place of a cell (or of the row) as an error names it."""
        place = f"{self.file}, row {self.number}"
        return place if column is None else f"{place}, column {column!r}"

    def text(self, column: str | None) -> str:
        """The cell's text without surrounding white space; "" for a missing column, a blank cell or `nan`."""
        value = self.cells[column].strip() if column is not None else ""
        return "" if is_blank(value) else value

    def needed(self, column: str) -> str:
        """The cell's text.

        Raises:
            BadRecord: the cell is blank.
        """
        value = self.text(column)
        if not value:
            raise BadRecord(f"blank {column}", f"{self.where(column)}: blank", expected=f"a {column}")
        return value


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a CSV file."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def find(self, names: Sequence[str]) -> str | None:
        """The first column that has one of the names (case and punctuation do not matter), or None."""
        known = {plain_name(column): column for column in reversed(self.columns)}
        return next((known[plain_name(name)] for name in names if plain_name(name) in known), None)

    def need(self, meaning: str, names: Sequence[str]) -> str:
        """The column that holds `meaning`.

        Raises:
            ChatbenchError: there is none.
        """
        column = self.find(names)
        if column is None:
            raise self.lacks(meaning, names)
        return column

    def lacks(self, meaning: str, names: Sequence[str]) -> ChatbenchError:
        """The error for a table without a column for `meaning`."""
        return ChatbenchError(
            f"{self.path}, row 1: no column for {meaning}; columns are {', '.join(self.columns)}",
            expected=f"a column named {' or '.join(names)}",
            fix="rename the column, or check that this is the right file",
        )

    def texts(self, column: str) -> list[str]:
        """All cells of a column."""
        return [row.text(column) for row in self.rows]


def read_table(path: Path, intake: Intake, *, fix: str = "check the path, or download the study again") -> Table:
    """Reads a CSV file with a header.

    Raises:
        ChatbenchError: the file is missing, empty, half-written inside a quoted cell, or not UTF-8.
        BadRecord: a row has more or fewer cells than the header (unless `intake` skips bad records).
    """
    records = read_records(path, fix=fix)
    if not records:
        raise ChatbenchError(f"{path}: empty file", expected="a header and rows", fix=fix)
    header = records[0]
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if not record:
            continue
        with intake.record():
            rows.append(Row(path, number, _cells(path, number, header, record)))
    return Table(path, tuple(header), tuple(rows))


def _cells(path: Path, number: int, header: list[str], record: list[str]) -> dict[str, str]:
    if len(record) != len(header):
        raise BadRecord(
            "row with too few or too many cells",
            f"{path}, row {number}: {len(record)} cells",
            expected=f"{len(header)} cells, as in the header; the file may be half-written",
        )
    return dict(zip(header, record, strict=True))


def read_records(path: Path, *, fix: str) -> list[list[str]]:
    """All records of a CSV file, without meaning (MMLU files have no header).

    Raises:
        ChatbenchError: the file is missing, is not UTF-8, or ends inside a quoted cell.
    """
    records: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records.extend(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise ChatbenchError(f"{path}: no such file", fix=fix) from None
    except UnicodeDecodeError as error:
        raise ChatbenchError(f"{path}: not UTF-8 at byte {error.start}", expected="UTF-8 text", fix=fix) from error
    except csv.Error as error:
        raise ChatbenchError(
            f"{path}, row {len(records) + 1}: {error}",
            expected="CSV with closed quotes; the file may be half-written",
            fix=fix,
        ) from error
    return records
