"""Import files of other programs as a study: OpenAI and ShareGPT messages, chat logs, tables of survey tools.

A mapping (TOML) says which columns or keys hold what; known formats need none (`PRESETS`), and `draft` suggests one.
Each row becomes a record of `own_chats` and is parsed as one at once, so the written file is a study that opens.
Every row is in the report: kept, changed (a rule of `own_chats` was needed) or dropped, and why.

    messages   a column with a list of messages, as JSON or a Python literal; `reply` holds the reply to the last one
    turns      or columns that alternate, the person's first: ["prompt1", "reply1", "prompt2", "reply2"]
    chat       or one message per row: the column with the chat id; `role`, `content` and `order` are columns then
    cumulative = true: each row repeats the chat so far, and only the last row of a chat is kept

Several chats of a person about one question are numbered. A chat without a statement of what the person wants gets a
placeholder (`NO_STATEMENT`); without question ids, split such studies by person. An answer that is the text of one
option (`normalised`) becomes its letter; if the text is itself a letter, `answers` must say which of the two is meant.
Nested keys of JSON and Parquet are read as `user.id`, unless a key has that name itself.
Columns without a name are not read; cells that are exactly one of `missing` are blank.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import tomllib
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chatbench.core.answer_kinds import LETTERS, KindName, Number, normalised
from chatbench.core.errors import ChatbenchError, expected_by
from chatbench.core.files import (
    JsonTextError,
    csv_records,
    file_error,
    json_line,
    keep_inputs,
    parse_json,
    read_json,
    read_jsonl,
    read_text,
    write_text,
)
from chatbench.core.progress import tracked
from chatbench.core.texts import csv_text
from chatbench.data.own_chats import EMPTY_CHAT, content_text, known_role, read_record
from chatbench.data.splits import NO_STATEMENT
from chatbench.data.tables import EXPECTED_ROLES, SKIP_FIX, BadRecord, Intake, LeftOut, find_column, literal_list

Cells = Mapping[str, object]
Rows = Sequence[tuple[str, Cells]]
"""The place and the cells of each row."""
_TABLES = (".csv", ".tsv", ".txt")
_LOGS = (".jsonl", ".ndjson", ".json")
_NO_VALUE = "a formula without its value"
_FIRST_ROW = "whose names are read from the first row: delete rows with titles above it"
_UNNAMED = re.compile(rf"\s*|Unnamed: \d+(\.\d+)?|{_NO_VALUE}")
"""Names of columns without one; the second is what pandas makes of it."""
_MISSING = ("NA", "N/A", "#N/A", "<NA>", "NULL", "null", "NaN", "nan", "None")
_ONE_POINT = re.compile(r"[^\d.,]*[1-9]\d{0,2}\.\d{3}[^\d.,]*")
_DECIMAL_COMMA = re.compile(r"[^\d.,]*(?:\d+,(?!\d{3}\D*$)\d+|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})[^\d.,]*")
"""Numbers whose point may be of thousands, and numbers that tell that it is."""


class Statements(BaseModel):
    """A second table, in the folder of the first file, with one row per question; column `key` holds its id."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: str
    key: str
    sheet: str = ""


class _OfRows(BaseModel):
    """What rows say: in `ImportMap` its column, in `Constants` its value; "" if there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    worker_id: str = ""
    assistant: str = ""
    condition: str = ""
    confidence: str = ""
    question_id: str = ""
    answer: str = ""
    correct: str = ""
    question_text: str = ""
    subset: str = ""
    right_answer: str = ""
    tolerance: str = ""
    relative: str = ""
    unit: str = ""


class Constants(_OfRows):
    """Values for all rows that have no other; numbers, true and false need no quotes."""

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return _as_text(value) if isinstance(value, bool | int | float) else value


class ImportMap(_OfRows):
    """Which column (or key) holds what; "" if none does. Values in `constants` apply to rows that have no other.

    `header_rows` is the number of rows above a table's data; the first has the column names. `role` and `content` are
    keys of a message or, with `chat`, columns; the messages of a chat are in row order, or sorted by the numbers or
    times in `order`. `question_text`, `subset`, `options`, `right_answer`, `tolerance`, `relative` and `unit` refer to
    the table of `statements`, if there is one. `roles` says what names of roles mean that are not known.
    """

    _file: Path = Path()
    header_rows: Annotated[int, Field(ge=1)] = 1
    messages: str = ""
    role: str = "role"
    content: str = "content"
    reply: str = ""
    turns: tuple[str, ...] = ()
    chat: str = ""
    order: str = ""
    sheet: str = ""
    cumulative: bool = False
    missing: tuple[str, ...] = ()
    answers: Literal["", "letters", "texts"] = ""
    answer_kind: KindName = "none"
    options: tuple[str, ...] = ()
    statements: Statements | None = None
    roles: Mapping[str, Literal["user", "assistant", "system", "tool"]] = {}
    constants: Constants = Constants()

    def model_post_init(self, context: Any, /) -> None:
        self._file = context or Path()

    def wrong(self, found: str, key: str, *, expected: str, how: str = "") -> ChatbenchError:
        """The error for a key; its fix names the file that the mapping was read from."""
        return ChatbenchError(found, expected=expected, fix=_correct(self._file, key, how))


def _correct(path: Path, key: str, how: str = "") -> str:
    if path == Path():  # of a preset
        return "import each file on its own, or draft a mapping: chatbench import FILE --draft map.toml"
    return f"correct {path}, key {key!r}{': ' * bool(how)}{how}"


PRESETS: Mapping[str, ImportMap] = {
    "messages": ImportMap(messages="messages", worker_id="user_id", assistant="model"),
    "conversations": ImportMap(messages="conversations", role="from", content="value", worker_id="id"),
    "conversation": ImportMap(messages="conversation", worker_id="hashed_ip", assistant="model"),
}
"""By the key that identifies the format: OpenAI's, ShareGPT's, and that of WildChat and LMSYS-Chat."""
_SPELLINGS: Mapping[str, Sequence[str]] = {
    "messages": ("messages", "conversations", "conversation", "chat_history", "request", "dialog", "chat"),
    "reply": ("response", "reply", "completion", "model_response", "assistant_response", "bot_response"),
    "worker_id": ("worker_id", "participant_id", "user_id", "prolific_pid", "response_id", "programmer_id",
                  "hashed_ip", "pid", "uid"),
    "assistant": ("assistant", "model", "model_name"),
    "condition": ("condition", "group", "arm"),
    "confidence": ("confidence",),
    "question_id": ("question_id", "task_id", "item_id", "task_name", "task", "item"),
    "answer": ("answer", "selected_answer", "final_answer", "submitted_answer", "final_choice"),
    "correct": ("correct", "acc", "is_correct"),
    "question_text": ("question_text", "item_text", "question", "statement", "task_description", "task"),
    "subset": ("subset", "category", "topic"),
    "right_answer": ("right_answer", "correct_answer", "gold", "truth", "reference"),
    "tolerance": ("tolerance", "tol"),
    "relative": ("relative",),
    "unit": ("unit", "units"),
}  # fmt: skip
_OF_MESSAGES: Mapping[str, Sequence[str]] = {
    "chat": ("chat_id", "conversation_id", "dialog_id", "dialogue_id", "session_id", "session", "thread_id"),
    "order": ("turn", "turn_id", "turn_index", "order", "position", "message_index", "timestamp", "created_at"),
    "role": ("role", "sender", "speaker", "author", "from"),
    "content": ("text", "content", "message", "utterance", "body", "value"),
}
"""For tables with one message per row."""
_KEYS = ("role", "content")
_REQUESTS = ("prompt", "query", "request", "user_message", "user_input", "user_prompt", "input", "message")
_TEXTS = (*_SPELLINGS["messages"], *_SPELLINGS["reply"], *_SPELLINGS["right_answer"], *_OF_MESSAGES["content"],
          *_REQUESTS, "right", "option", "opt", "o", "choice")  # fmt: skip
"""Names, without a number, of columns where `None` may be what was said."""
_JOINED = "the chat's messages"
_OF_NUMBERS = ("tolerance", "relative", "unit")
_OF_STATEMENTS = ("question_text", "subset", "right_answer", *_OF_NUMBERS)
_OF_KINDS: Mapping[KindName, Sequence[str]] = {
    "choice": ("answer", "right_answer", "correct", "options", "answers"),
    "number": ("answer", "right_answer", "correct", *_OF_NUMBERS), "text": ("answer", "right_answer", "correct"),
    "outcome": ("answer", "correct"), "none": (),
}  # fmt: skip
"""Keys that say something about answers, by the kinds that use them."""
_OF_ANSWERS = tuple(dict.fromkeys(key for keys in _OF_KINDS.values() for key in keys))
_KINDS = "choice (with options), number, text, outcome (with correct)"
_SCORES = {
    **dict.fromkeys(("yes", "true", "right", "correct", "ja", "wahr", "richtig"), 1.0),
    **dict.fromkeys(("no", "false", "wrong", "incorrect", "nein", "falsch"), 0.0),
}
_GOES_ON = "the chat goes on in another row"
_LISTED = "right answers that are lists: each text in them is right, and so is the cell as written"
_IF_RECORDED = ("assistant", "condition", "confidence", "subset", "answer", "correct")
"""Keys that a log may lack altogether if nothing is recorded; then another file must have them."""
_AT_FAULT = {
    "question.answer": "key 'right_answer'", "question.options": "key 'options'", "answer": "key 'answer'",
    "correct": "key 'correct'", "empty conversation": "key 'messages' or 'turns'", "no chat's id": "key 'chat'",
}  # fmt: skip
"""What to correct in a mapping, by the reason for which a row is dropped (or the key with a bad value)."""


@dataclass(slots=True)
class Imported:
    """The outcome of every row: place, what was done (kept, changed, dropped), why, and what was found there."""

    rows: list[tuple[str, str, tuple[str, ...], str]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    out: Path = Path()
    joined: dict[str, list[str]] = field(default_factory=dict)
    """Places of a chat's other rows, by the place of its first row."""
    fixes: dict[str, str] = field(default_factory=dict)
    """Which key of the mapping to correct, by the reason why a row was dropped."""
    notes: list[str] = field(default_factory=list)
    """What the summary says about the study as a whole."""

    def add(self, place: str, done: str, *why: str, found: str = "") -> None:
        """Report a row, and the other rows of its chat."""
        self.rows += [(each, done, why, found) for each in (place, *self.joined.get(place, ()))]

    def drop(self, place: str, error: BadRecord) -> None:
        """Report a row that cannot be used, with what was expected of it."""
        expected = f" (expected: {error.expected})" if error.expected else ""
        self.add(place, "dropped", error.reason, found=error.found.removeprefix(place).lstrip(", ") + expected)
        if error.fix != SKIP_FIX:
            self.fixes[error.reason] = error.fix

    def lines(self) -> list[str]:
        """The summary to print."""
        done = Counter(action for _, action, *_ in self.rows)
        reasons = Counter(f"{action}: {each}" for _, action, why, _ in self.rows for each in why)
        head = ", ".join(f"{done[action]} {action}" for action in ("kept", "changed", "dropped"))
        return [
            f"{len(self.rows)} rows: {head} -> {self.out}",
            *(f"  {n} x {why}" for why, n in reasons.most_common()),
            *(f"  {note}" for note in self.notes),
        ]


def import_study(paths: Sequence[Path], out: Path, mapping: Path | None = None) -> Imported:
    """Write the imported study to `out`, and the outcome of every row beside it, with the suffix `.rows.csv`.

    Raises:
        ChatbenchError: a file cannot be read or would be overwritten, the mapping does not fit it, or no row is left.
    """
    result = Imported(out=out)
    intake = Intake()
    report = out.with_suffix(".rows.csv")
    if out.suffix != ".jsonl":
        raise ChatbenchError(f"{out}: not a name that ends in .jsonl", fix="use --out study.jsonl")
    chosen = read_map(mapping) if mapping else None
    second = [paths[0].parent / chosen.statements.table] if chosen and chosen.statements else []
    keep_inputs((out, report), [*paths, *second, *([mapping] if mapping else [])])
    if out.exists() and not report.exists():
        found = f"{out}: is there, and was not made by import, which leaves {report.name} beside it"
        raise ChatbenchError(found, expected="a new file", fix="choose another --out, or remove it")
    halves = list[int]()
    files = {path: _filled(read_rows(path, chosen, halves=halves), chosen) for path in paths}
    rows = [each for of_file in files.values() for each in of_file]
    chosen = _checked(chosen or preset(rows, paths[0]), files)
    unread = _unread(rows, chosen)
    _refuse_other_scales(rows, chosen)
    read = [cells for _, cells in rows]
    if chosen.chat:
        rows, chosen = _chats(rows, chosen, result), chosen.model_copy(update={"messages": _JOINED})
    statements = _statements(chosen, paths[0].parent)
    superseded = _superseded(rows, chosen) if chosen.cumulative else {}
    chats, known = Counter[tuple[str, str]](), set[str]()
    for number, (place, cells) in enumerate(tracked(rows, "import", "rows")):
        if number in superseded:
            result.add(place, "dropped", _GOES_ON, found=rows[superseded[number]][0])
            continue
        noted, taken, changed = Counter(intake.noted), len(intake.conversations) + len(intake.answers), list[str]()
        try:
            written = json.dumps(_record(place, cells, chosen, statements, chats, intake))
            record = parse_json(written, halves.append)
            intake.half_characters(str(record).count("\ufffd") if halves else 0)
            row = intake.row(place, record, {}, unit="key")
            read_record(row, intake, {})  # no scores of AI alone are imported
        except BadRecord as error:
            result.drop(place, error)
            continue
        except LeftOut as error:  # a second answer; a chat that came with it is kept
            changed = [str(error)]
        if len(intake.conversations) + len(intake.answers) == taken:
            result.add(place, "dropped", *(changed or [EMPTY_CHAT]))
            continue
        changed += intake.noted - noted
        result.add(place, "changed" if changed else "kept", *changed)
        question_id = record["question"]["id"]
        result.records.append(record | ({"question": question_id} if question_id in known else {}))
        known.add(question_id)
    if not result.records:
        raise _nothing_left(result, paths[0], mapping)
    to_use = "" if mapping else f"; to use them: {_drafting(paths[0])}"
    people = {record["worker_id"] for record in result.records}
    result.notes = _notes(chosen, len(people), known, intake, unread, to_use) + _doubts(chosen, read, statements)
    table = [(place, done, "; ".join(why), found) for place, done, why, found in result.rows]
    write_text(report, csv_text(["row", "done", "why", "found"], table))  # first: it lets the study be replaced
    write_text(out, "".join(map(json_line, result.records)))
    return result


def _notes(
    mapping: ImportMap, people: int, known: Set[str], intake: Intake, unread: Sequence[str], to_use: str
) -> list[str]:
    """What the study has, the columns that were not read, and right answers that only one exact number matches."""
    questions, answers = [each for name, each in intake.questions.items() if name in known], len(intake.answers)
    given = {name for name, value in (*mapping, *mapping.constants) if value}
    who = f"{people} {'people' if people != 1 else 'person'}" + " (no worker_id)" * ("worker_id" not in given)
    about = f"{len(questions)} question{'s' * (len(questions) != 1)}"
    about += " (no question_id)" * given.isdisjoint(("question_id", "question_text"))
    notes = [f"{who}, {about}, {answers or 'no'} answer{'s' * (answers != 1)}"]
    if unread:
        more = f" and {len(unread) - 12} more" * (len(unread) > 12)
        notes.append(f"not read: {', '.join(f'{name!r:.60}' for name in unread[:12])}{more}{to_use}")
    exact = [(q, q.kind.value(q.answer)) for q in questions if isinstance(q.kind, Number) and not q.kind.tolerance]
    if odd := [question.answer for question, value in exact if value and value.denominator > 1]:
        told = f"{len(odd)} right answers such as {odd[0]!r:.40} have no tolerance: only exactly that number is right"
        notes.append(told)
    return notes


def _doubts(mapping: ImportMap, rows: Sequence[Cells], statements: Mapping[str, Cells] | None) -> list[str]:
    """Notes on columns of answers whose cells may not be read as they were meant."""
    notes = list[str]()
    tables = (mapping.right_answer, rows if statements is None else statements.values()), (mapping.answer, rows)
    for column, table in tables:
        cells = [row.get(column) for row in table if column]
        if typed := [cell for cell in cells if isinstance(cell, _Typed)]:
            told = f"column {column!r}: {len(typed)} cells are dates, times, TRUE or FALSE, read as {typed[0]!r} is"
            notes.append(f"{told}; the spreadsheet may show them otherwise: to get that, save it as CSV")
        texts = [_as_text(cell) for cell in cells] if mapping.answer_kind == "number" else []
        comma = next(filter(_DECIMAL_COMMA.fullmatch, texts), None)
        if comma and (points := [text for text in texts if _ONE_POINT.fullmatch(text)]):
            told = f"column {column!r}: {len(points)} cells such as {points[0]!r} read as {Number().read(points[0])}"
            notes.append(f"{told}, though others such as {comma!r:.40} have decimal commas: remove points of thousands")
    return notes


def _nothing_left(result: Imported, path: Path, mapping: Path | None) -> ChatbenchError:
    others = (row for row in result.rows if row[2] != (_GOES_ON,))
    place, _, (why, *_), found = next(others, ("", "", ("no row",), ""))
    fix = f"correct {mapping}" if mapping else f"draft and correct a mapping: {_drafting(path)}"
    at_fault = result.fixes.get(why) or _AT_FAULT.get(why.removeprefix("bad value of "))
    return ChatbenchError(
        f"{path}: no row could be imported; the first: {': '.join(filter(None, [place, why, found]))}",
        expected="rows that match the mapping",
        fix=f"{fix}, {at_fault}" if at_fault else fix,
    )


def _drafting(path: Path) -> str:
    return f"chatbench import {shlex.quote(str(path))} --draft map.toml"


# Reading


def read_rows(
    path: Path, mapping: ImportMap | None = None, *, second: bool = False, halves: list[int] | None = None
) -> list[tuple[str, Cells]]:
    """Read the rows of a file, or of the table of statements (`second`), by its extension; `halves`: see `parse_json`.

    Raises:
        ChatbenchError: the file is missing, damaged, in an unknown format or without the mapping's sheet.
    """
    ending, mapping, replaced = path.suffix.lower(), mapping or ImportMap(), ([] if halves is None else halves).append
    key = "statements.sheet" if second else "sheet"
    asked = mapping.statements.sheet if second and mapping.statements else mapping.sheet
    if asked and ending != ".xlsx":
        raise mapping.wrong(f"{path}: not an Excel file: no sheet {asked!r}", key, expected=".xlsx", how="remove it")
    if mapping.header_rows > 1 and not second and ending not in (*_TABLES, ".xlsx"):
        found = f"{path}: not a table: it has no rows above the data"
        raise mapping.wrong(found, "header_rows", expected="a CSV or Excel file", how="remove it")
    if ending in (".jsonl", ".ndjson"):
        return [(f"{path}, line {number}", _with_paths(row)) for number, row in read_jsonl(path, replaced=replaced)]
    if ending == ".json":
        content = read_json(path, replaced=replaced)
        items = content if isinstance(content, list) else [content]
        if bad := next((at for at, item in enumerate(items, 1) if not isinstance(item, dict)), None):
            raise ChatbenchError(f"{path}, record {bad}: not an object", expected="a JSON list of objects")
        return [(f"{path}, record {number}", _with_paths(item)) for number, item in enumerate(items, start=1)]
    header_rows = 1 if second else mapping.header_rows
    if ending in _TABLES:
        return _table_rows(csv_records(_table_text(path), path), path, header_rows)
    if ending == ".parquet":
        return _parquet_rows(path)
    if ending == ".xlsx":
        sheets = _sheets(path)
        if (sheet := asked or next(iter(sheets), "")) not in sheets:
            found = f"{path}: no sheet {sheet!r}; it has {', '.join(map(repr, sheets))}"
            raise mapping.wrong(found, key, expected="one of its sheets")
        return _sheet_rows(sheets[sheet], path, header_rows)
    expected = ".jsonl, .json, .csv, .tsv, .txt, .xlsx or .parquet"
    raise ChatbenchError(f"{path}: unknown file format", expected=expected, fix="rename it, or save it in one of these")


def _with_paths(row: dict[str, object]) -> Cells:
    """A row with its nested keys as well, each after its object.

    >>> _with_paths({"user": {"id": "u1"}, "user.id": "as written"})
    {'user': {'id': 'u1'}, 'user.id': 'as written'}
    """
    found, rest = dict[str, object](), [*reversed(row.items())]
    while rest:
        name, value = rest.pop()
        found[name] = row.get(name, value)
        if isinstance(value, dict):
            rest += [(f"{name}.{key}", each) for key, each in reversed(value.items())]
    return found


def _table_text(path: Path) -> str:
    """Read a table in UTF-8 or, as spreadsheets save it, UTF-16 with a byte order mark."""
    try:
        content = path.read_bytes() if path.is_file() else b""
        if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            return content.decode("utf-16")
    except UnicodeDecodeError as error:
        raise ChatbenchError(f"{path}, byte {error.start}: not UTF-16", expected="UTF-16 or UTF-8 text") from None
    except OSError as error:
        raise file_error(error, path) from error
    return read_text(path)


def _table_rows(records: Sequence[Sequence[str]], path: Path, header_rows: int) -> list[tuple[str, Cells]]:
    if not records:
        raise ChatbenchError(f"{path}: empty file", expected="a header and rows")
    if len(records) < header_rows:
        expected = f"{header_rows} rows above the data, as header_rows says, and rows below"
        raise ChatbenchError(f"{path}: {len(records)} rows", expected=expected, fix="correct header_rows")
    header = ["" if _UNNAMED.fullmatch(name) else name for name in records[0]]
    if repeated := [name for name, count in Counter(header).items() if count > 1 and name]:
        found = f"{path}, row 1: more than one column {repeated[0]!r}"
        raise ChatbenchError(found, expected="unique column names")
    rows: list[tuple[str, Cells]] = []
    for number, record in enumerate(records[header_rows:], start=header_rows + 1):
        if len(record) > len(header) or (len(record) < len(header) and any(map(str.strip, record))):
            found, expected = f"{path}, row {number}: {len(record)} cells", f"{len(header)} cells, as in the header"
            raise ChatbenchError(found, expected=expected + f", {_FIRST_ROW}" * (len(record) > len(header)))
        if any(map(str.strip, record)):
            cells = {name: cell for name, cell in zip(header, record, strict=True) if name}
            rows.append((f"{path}, row {number}", cells))
    return rows


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Translate what the libraries raise for a file that is missing or damaged."""
    import pyarrow as pa  # type: ignore[import-untyped]  # lazy: takes a second

    try:
        yield
    except FileNotFoundError:
        raise ChatbenchError(f"{path}: no such file", fix="check the path") from None
    except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, OSError, EOFError, OverflowError,
            zlib.error, JsonTextError, pa.ArrowException, BadZipFile) as error:  # fmt: skip  # XML's is a SyntaxError
        found = f"{path}: cannot be read as {path.suffix.lower()} ({str(error)[:200]})"
        raise ChatbenchError(found, fix="save it again") from None


def _parquet_rows(path: Path) -> list[tuple[str, Cells]]:
    from pyarrow import parquet

    with _damage(path):
        # Not with pandas: its to_json crashes the process on some lists of objects.
        text = json.dumps(parquet.read_table(path).to_pylist(), default=_of_parquet)
        rows = json.loads(text, parse_constant=lambda _: None)  # of constants that are not JSON numbers (NaN)
        return [(f"{path}, row {number}", _with_paths(row)) for number, row in enumerate(rows, start=1)]


def _of_parquet(value: object) -> object:
    """A value that JSON lacks: bytes as the text that they hold; other bytes as an object, which no column may hold."""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
        return {"bytes": len(value)}
    return _as_text(value)


def _sheets(path: Path) -> Mapping[str, Any]:
    """The sheets of an Excel file by name, as openpyxl reads them; only formulas without a value have type `f`."""
    from openpyxl import load_workbook  # type: ignore[import-untyped]  # lazy: takes a while

    with _damage(path):
        book = load_workbook(path)
        cells = (cell for sheet in book.worksheets for row in sheet.iter_rows() for cell in row)
        if formulas := [cell for cell in cells if cell.data_type == "f"]:
            book = load_workbook(path, data_only=True)
            for value in (book[cell.parent.title][cell.coordinate] for cell in formulas):
                if value.value is None and value.data_type == "n":  # an empty text has another type
                    value.data_type = "f"
        return {sheet.title: sheet for sheet in book.worksheets}


class _Typed(str):
    """The text of an Excel cell that may show another: of a date, a time, TRUE or FALSE."""


def _cell_text(cell: Any) -> str:
    """The text of an Excel cell; a share in the format of a percentage is one (`25%`, or `25 %` if it has a space)."""
    from openpyxl.utils.escape import unescape  # type: ignore[import-untyped]  # it has no types

    if cell.data_type in (no_value := {"e": "", "f": _NO_VALUE}):
        return no_value[cell.data_type]
    if cell.data_type in ("b", "d"):
        return _Typed(str(cell.value).upper() if cell.data_type == "b" else _as_text(cell.value))
    if isinstance(cell.value, int | float) and "%" in (shown := re.sub(r'"[^"]*"|\\.', "", cell.number_format)):
        return f"{cell.value * 100:.12g}{' ' * (' %' in shown)}%"
    text: str = unescape(_as_text(cell.value))
    return text


def _sheet_rows(sheet: Any, path: Path, header_rows: int) -> list[tuple[str, Cells]]:
    """The rows of a sheet; cells that are merged within a column all have their value, formulas may be `_NO_VALUE`.

    Raises:
        ChatbenchError: cells below the header are merged across columns: which of these the value is of is unknown.
    """
    records = [[_cell_text(cell) for cell in row] for row in sheet.iter_rows()]
    for merged in sheet.merged_cells.ranges:
        left, top, right, bottom = merged.bounds
        value = records[top - 1][left - 1]
        if value and right > left and bottom > header_rows:
            found = f"{path}, sheet {sheet.title!r}: the cells {merged.coord} are merged across columns"
            fix = "unmerge them, and write the value where it belongs"
            raise ChatbenchError(found, expected="cells merged within a column", fix=fix)
        for record in records[top - 1 : bottom]:
            record[left - 1] = value
    return _table_rows(records, path, header_rows)


# The mapping


def read_map(path: Path) -> ImportMap:
    """Read a mapping file.

    Raises:
        ChatbenchError: it is missing, not TOML, or has an unknown key or an invalid value.
    """
    try:
        return ImportMap.model_validate(tomllib.loads(read_text(path)), context=path)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        expected = "a mapping as in docs/own-study.md"
        raise ChatbenchError(f"{path}: not TOML ({error})", expected=expected, fix=f"correct {path}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        expected = expected_by(first)
        *tables, last = map(str, first["loc"])
        how = f"write it above [{tables[0]}]" if tables and last in ImportMap.model_fields else ""
        if not tables and last in Constants.model_fields:
            expected, how = "the name of a column", "a value for all rows belongs in [constants]"
        if first["type"] == "extra_forbidden":
            model = Constants if "constants" in tables else Statements if tables else ImportMap
            expected = f"one of {', '.join(model.model_fields)}"
        found = f"{path}, key {key!r}: {first['input']!r:.80}"
        raise ChatbenchError(found, expected=expected, fix=_correct(path, key, how)) from None


def preset(rows: Rows, path: Path) -> ImportMap:
    """The mapping for rows in a known format.

    Raises:
        ChatbenchError: the rows are in another format.
    """
    keys = dict.fromkeys(name for _, cells in rows for name in cells)
    shape = next((name for name in PRESETS if name in keys), None)
    if shape is None:
        raise ChatbenchError(
            f"{path}: {'columns ' + ', '.join(map(str, keys)) if keys else 'no row'}",
            expected=f"one of the columns {', '.join(PRESETS)}, or a mapping",
            fix=f"draft a mapping and correct it: {_drafting(path)}",
        )
    known = PRESETS[shape]
    names = {name: column for name in ("worker_id", "assistant") if (column := find_column([*keys], _SPELLINGS[name]))}
    return known.model_copy(update={"worker_id": "", "assistant": "", **names})


def draft(path: Path) -> str:
    """Draft a mapping file from the columns' names and cells, with comments on what they do not tell."""
    of_table, rows = _rows_to_draft(path)
    objects = {name for _, cells in rows for name, value in cells.items() if isinstance(value, dict)}
    columns = [name for name in dict.fromkeys(name for _, cells in rows for name in cells) if name not in objects]
    lines = [f"# Drafted from {path.name}: {len(rows)} rows with the columns {', '.join(map(repr, columns))}."]
    of_chats, taken, role, messages = _chats_to_draft(rows, columns)
    roles = [each.get(role) for each in messages if isinstance(each, dict)]
    unknown = Counter(each for each in roles if isinstance(each, str) and known_role(each) is None)
    lines += ["# docs/own-study.md has all keys.", *of_table, *_numbered(columns), *of_chats]
    columns = [name for name in columns if name not in taken]
    named = dict[str, str | None]()
    for name in [*_SPELLINGS][2:]:  # not messages and reply
        column = named[name] = _named([each for each in columns if each not in named.values()], _SPELLINGS[name])
        of_numbers = name in _OF_NUMBERS and bool(column)
        line = f"{name} = {_quoted(column)}" if column else f'# {name} = ""  # no matching column'
        lines.append("# " * of_numbers + line + "  # with answer_kind number" * of_numbers)
    may_be = [name for name in columns if not find_column([re.sub(r"[\W_]+[A-Za-z]$|\d+$", "", name)], _TEXTS)]
    gone = [(text, name) for name in may_be for _, cells in rows if (text := _as_text(cells.get(name))) in _MISSING]
    if gone:
        texts, names = (", ".join(map(_quoted, dict.fromkeys(each))) for each in zip(*gone, strict=True))
        lines.append(f"# missing = [{texts}]  # uncomment to read as blank: {len(gone)} cells in {names}")
    answers = any(named[name] for name in _OF_KINDS["choice"] if name in named)
    lines += [
        f'# answer_kind = ""  # fill in: {_KINDS}' if answers else f'answer_kind = "none"  # or {_KINDS}',
        '# options = ["column a", "column b"]',
        "# cumulative = true  # where each row repeats the chat so far",
        *["[roles]  # fill in who they are: user, assistant, system or tool"] * bool(unknown),
        *(f'# {_quoted(each)} = "..."  # {count} messages' for each, count in unknown.most_common(20)),
        "# [statements]  # a second table with the text of each question",
        '# table = "questions.csv"',
        '# key = "id"',
        "# [constants]  # values for all rows; below this line there is nothing else",
        '# assistant = "gpt-4o"',
    ]
    return "\n".join(lines) + "\n"


def _named(columns: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The column with one of the names, or else one whose path ends in it (`metadata.task_id`)."""
    last = {name.rpartition(".")[2]: name for name in reversed(columns) if "." in name}
    return find_column(columns, spellings) or last.get(find_column([*last], spellings) or "")


def _chats_to_draft(rows: Rows, columns: Sequence[str]) -> tuple[list[str], Set[str], str, Sequence[Any]]:
    """The draft's lines on the chats, the columns in them, the key or column of roles, and messages that have it."""
    asked, reply = (_named(columns, _SPELLINGS[name]) for name in ("messages", "reply"))
    keys = {name: found for name in columns if (found := _keys_of_messages(rows, name, known=name == asked))}
    if keys:
        column = asked if asked in keys else next(iter(keys))
        role, content = keys[column]
        lines = [f"messages = {_quoted(column)}" + f"  # of {len(keys)} columns with messages" * (len(keys) > 1)]
        lines += [f"role = {_quoted(role)}", f"content = {_quoted(content)}"] if (role, content) != _KEYS else []
        lines.append(f"reply = {_quoted(reply)}" if reply else '# reply = ""  # no matching column')
        return lines, {column, reply or column}, role, [
            each for _, cells in rows for each in _messages(cells.get(column)) or []
        ]  # fmt: skip
    long = {name: _named(columns, spellings) for name, spellings in _OF_MESSAGES.items()}
    if long["chat"] and long["role"] and long["content"]:
        lines = [f"{name} = {_quoted(column)}" for name, column in long.items() if column]
        return lines, {column for column in long.values() if column}, long["role"], [cells for _, cells in rows]
    if reply and (request := asked or _named(columns, _REQUESTS)):
        return [f"turns = [{_quoted(request)}, {_quoted(reply)}]"], {request, reply}, "role", []
    return [
        '# messages = ""  # no column with lists of messages; one with them, or:',
        '# turns = ["prompt", "reply"]  # columns that take turns, the person\'s first, or, with one message per row:',
        *(f"# {name} = {_quoted(column or '')}" for name, column in long.items()),
    ], set(), "role", []  # fmt: skip


def _keys_of_messages(rows: Rows, column: str, *, known: bool) -> tuple[str, str] | None:
    """The keys of role and content in a column's lists of messages: the usual ones if it is `known` by its name."""
    cells = (row.get(column) for _, row in rows[:200])
    lists = (_messages(cell) for cell in cells if isinstance(cell, list) or _as_text(cell).startswith("["))
    message = next((found[0] for found in lists if found and isinstance(found[0], dict)), {})
    names = [name for name, value in message.items() if value is None or isinstance(value, str | list)]
    role = find_column(names, _OF_MESSAGES["role"])
    content = "content" if "content" in names else find_column(names, _OF_MESSAGES["content"])
    return (role, content) if role and content else _KEYS if message and known else None


def _numbered(columns: Sequence[str]) -> list[str]:
    """A comment on columns such as `1_chat`, `1_answer`, `2_chat`, `2_answer`, which may be of several chats."""
    groups: dict[str, list[str]] = {}
    for name in columns:
        groups.setdefault(re.sub(r"\d+", "1", name, count=1), []).append(name)
    several = [f"{names[0]!r} to {names[-1]!r}" for names in groups.values() if len(names) > 1]
    advice = "if a row has several chats, make a row of each first: docs/own-study.md, one row per person"
    return [f"# {', '.join(several[:3])}: {advice}"] if len(several) > 1 else []


def _quoted(text: str) -> str:
    """A string of TOML, which has no escape for half a character, as JSON has."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rows_to_draft(path: Path) -> tuple[list[str], list[tuple[str, Cells]]]:
    """The rows of a file, or of its first sheet with chats, or else with a table; and the draft's lines on them."""
    sheets = _sheets(path) if path.suffix.lower() == ".xlsx" else {}
    lines, rows = list[str](), [] if len(sheets) > 1 else read_rows(path)
    for name, sheet in sheets.items() if len(sheets) > 1 else ():
        with suppress(ChatbenchError):
            found_rows = _sheet_rows(sheet, path, header_rows=1)
            of_chats = bool(found_rows and _chats_to_draft(found_rows, [*found_rows[0][1]])[1])
            if of_chats or (not lines and found_rows and len(found_rows[0][1]) > 1):
                lines = [f"sheet = {_quoted(name)}  # of the sheets {', '.join(map(repr, sheets))}"]
                rows = found_rows
            if of_chats:
                break
    if len(sheets) > 1 and not lines:
        found = f"{path}: no table in the sheets {', '.join(map(repr, sheets))}"
        raise ChatbenchError(found, expected="a header and rows of two or more columns")
    for at, (place, cells) in enumerate(rows[:2]):
        if any(_as_text(cell).startswith('{"ImportId"') for cell in cells.values()):
            lines.append(
                f"header_rows = {place.rpartition(' ')[2]}  # Qualtrics' questions and ids are below the names"
            )
            return lines, rows[at + 1 :]
    return [*lines, "# header_rows = 3  # where a survey tool writes the questions and ids below the names"], rows


def _checked(mapping: ImportMap, files: Mapping[Path, Rows]) -> ImportMap:
    """The mapping, if its keys go together and are all used, and its columns are in every file."""
    path = next(iter(files))
    for key in _OF_ANSWERS:
        if key not in _OF_KINDS[mapping.answer_kind] and (getattr(mapping, key) or getattr(mapping.constants, key, "")):
            found = f"{path}: the mapping sets {key}, which answer_kind {mapping.answer_kind!r} does not use"
            how = f"say what kind the answers are, or remove {key}"
            kinds = ", ".join(kind for kind, keys in _OF_KINDS.items() if key in keys)
            raise mapping.wrong(found, "answer_kind", expected=f"one of {kinds}", how=how)
    if mapping.cumulative and not (mapping.worker_id or mapping.constants.worker_id):
        found = f"{path}: the mapping sets cumulative without worker_id: chats of different people may begin alike"
        raise mapping.wrong(found, "worker_id", expected="the column with the person's id", how="or omit cumulative")
    if mapping.chat:
        if mapping.messages or mapping.turns or mapping.reply or mapping.cumulative:
            found = f"{path}: the mapping sets chat together with messages, turns, reply or cumulative"
            expected = "one message per row, or a whole chat per row"
            raise mapping.wrong(found, "chat", expected=expected, how="choose one")
    elif not (mapping.messages or mapping.turns):
        found, expected = f"{path}: the mapping names no column with chats", "one of messages, turns and chat"
        raise mapping.wrong(found, "messages", expected=expected)
    _refuse_unused(mapping)
    wanted = _wanted(mapping)
    union = {name for rows in files.values() for _, cells in rows for name in cells}
    for path, rows in files.items():
        if rows or len(files) == 1:
            _require(wanted, rows, mapping, path, union if path.suffix.lower() in _LOGS else set())
    return mapping


def _wanted(mapping: ImportMap) -> dict[str, Sequence[str]]:
    """The columns that are read, without those of the table of statements, by the mapping's keys."""
    elsewhere = {"options", *_OF_STATEMENTS} if mapping.statements else set[str]()
    names = [*_SPELLINGS, *(_OF_MESSAGES if mapping.chat else ())]
    wanted: dict[str, Sequence[str]] = {name: [getattr(mapping, name)] for name in names}
    wanted |= {"turns": mapping.turns, "options": mapping.options}
    return {name: columns for name, columns in wanted.items() if name not in elsewhere}


def _unread(rows: Rows, mapping: ImportMap) -> list[str]:
    """The columns with values that are not read; of objects those of their keys."""
    read = {name for names in _wanted(mapping).values() for name in names}
    cells = (each for _, row in rows for each in row.items() if each[0] not in read and not isinstance(each[1], dict))
    return [*dict.fromkeys(name for name, value in cells if isinstance(value, list) or _as_text(value))]


def _refuse_unused(mapping: ImportMap) -> None:
    if mapping.statements and not (mapping.options or any(getattr(mapping, name) for name in _OF_STATEMENTS)):
        found = "the mapping sets statements, but reads no column of that table"
        expected = f"at least one of options, {', '.join(_OF_STATEMENTS)}"
        raise mapping.wrong(found, "statements", expected=expected, how="name a column, or remove it")
    unused = {
        "turns": mapping.messages and "with messages", "reply": not mapping.messages and "without messages",
        "order": not mapping.chat and "without chat",
        "relative": not (mapping.tolerance or mapping.constants.tolerance) and "without tolerance",
        **dict.fromkeys(("role", "content", "roles"), mapping.turns and "with turns"),
    }  # fmt: skip
    for key, why in unused.items():
        given = getattr(mapping, key) != ImportMap.model_fields[key].default or getattr(mapping.constants, key, "")
        if why and given:
            found = f"the mapping sets {key} {why}, where it has no use"
            raise mapping.wrong(found, key, expected="only keys that are used", how="remove it")


def _require(
    wanted: Mapping[str, Sequence[str]],
    rows: Rows,
    mapping: ImportMap,
    path: Path,
    elsewhere: Set[str] = frozenset(),
) -> None:
    """Check that the columns, by the mapping's keys, are there and have values, and that no constant is one's name.

    Those of `_IF_RECORDED` may be `elsewhere`.
    """
    columns = {name for _, cells in rows for name in cells}
    for key, names in wanted.items():
        if lost := next(((at, name) for name in names for at, cells in rows if cells.get(name) == _NO_VALUE), None):
            fix = "save the file in a spreadsheet program; if it is text that begins with =, save the table as CSV"
            raise ChatbenchError(f"{lost[0]}, column {lost[1]!r}: {_NO_VALUE}", expected="values", fix=fix)
        known = columns | elsewhere if key in _IF_RECORDED else columns
        if lacking := next((name for name in names if name and name not in known), None):
            found = f"{path}: no column {lacking!r}; it has {', '.join(map(str, sorted(columns)))}"
            above = "" if path.suffix.lower() in (*_LOGS, ".parquet") else f", {_FIRST_ROW}"
            raise mapping.wrong(found, key, expected=f"every column named in the mapping{above}")
    for name, text in mapping.constants:
        if text and text in columns.difference(mapping.options):  # an option's column may be called A, as an answer is
            found = f"{path}: {name} is {text!r} in [constants], and that is a column"
            how = "write it above [constants]"
            raise mapping.wrong(found, f"constants.{name}", expected="a value for all rows", how=how)


def _refuse_other_scales(rows: Rows, mapping: ImportMap) -> None:
    """Refuse a column `correct` with a number outside 0..1: of ratings from 1 to 5, only the worst would be left."""
    texts = [(place, _text(cells, mapping.correct)) for place, cells in rows]
    sizes = [(_number(text.lstrip("-+")), place, text) for place, text in texts]
    scale = [(-size if text[0] == "-" else size, place, text) for size, place, text in sizes if size is not None]
    if other := next((each for each in scale if not 0 <= each[0] <= 1), None):
        found = f"{other[1]}, column {mapping.correct!r}: {other[2]!r}; its numbers are from {min(scale)[2]} to "
        how = "rescale the column in a spreadsheet or with pandas: (x - 1) / 4 for 1 to 5, x / 100 for 0 to 100; "
        how += "codes for no answer (-1, 99) belong in `missing`"
        raise mapping.wrong(found + max(scale)[2], "correct", expected="0 or 1, or scores from 0 to 1", how=how)


def _statements(mapping: ImportMap, folder: Path) -> Mapping[str, Cells] | None:
    if mapping.statements is None:
        return None
    path, key = folder / mapping.statements.table, mapping.statements.key
    rows = _filled(read_rows(path, mapping, second=True), mapping)
    named = {name: [getattr(mapping, name)] for name in _OF_STATEMENTS if not getattr(mapping.constants, name)}
    wanted = {"statements.key": [key], "options": [*mapping.options], **named}
    _require(wanted, rows, mapping, path)
    statements: dict[str, Cells] = {}
    for place, cells in rows:
        if statements.setdefault(_text(cells, key), cells) != cells:
            found = f"{place}, column {key!r}: {_text(cells, key)!r} again, with different cells"
            raise ChatbenchError(found, expected="one row per question", fix="remove or correct one")
    return statements


# Rows


def _chats(rows: Rows, mapping: ImportMap, result: Imported) -> list[tuple[str, Cells]]:
    """Merge tables with one message per row into one row per chat; a column's value may be in any of its rows.

    A chat is in one file: ids in another file are other chats.
    """
    groups: dict[tuple[str, str], list[tuple[str, Cells]]] = {}
    for place, cells in rows:
        if chat := _text(cells, mapping.chat):
            groups.setdefault((place.rpartition(", ")[0], chat), []).append((place, cells))
        else:
            result.add(place, "dropped", "no chat's id", found=f"column {mapping.chat!r}")
    found: list[tuple[str, Cells]] = []
    for group in groups.values():
        first, *others = (place for place, _ in group)
        result.joined[first] = others
        try:
            ordered = sorted(group, key=lambda row: _moment(row[0], row[1], mapping.order)) if mapping.order else group
            found.append((first, {**_shared(group, mapping), _JOINED: [dict(cells) for _, cells in ordered]}))
        except BadRecord as error:
            result.drop(first, error)
    return found


def _moment(place: str, cells: Cells, column: str) -> tuple[bool, float]:
    """Sort key of a message; numbers come before times."""
    text = _text(cells, column)
    try:
        if math.isfinite(number := float(text)):
            return False, number
    except ValueError:
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(text)
            return True, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    found = f"{place}, column {column!r}: {text!r:.60}"
    raise BadRecord("no order", found, expected="a number or an ISO time", fix="key 'order'")


def _shared(group: Rows, mapping: ImportMap) -> dict[str, object]:
    """The values in a chat's rows other than its messages."""
    names = {getattr(mapping, name) for name in _SPELLINGS} | {*mapping.options} - {""}
    shared: dict[str, object] = {}
    for place, cells in group:
        for name in sorted(names):
            text = _text(cells, name)
            if text and shared.setdefault(name, text) != text:
                expected = f"{shared[name]!r:.60}, as an earlier row has it"
                raise BadRecord("two values in one chat", f"{place}, column {name!r}: {text!r:.60}", expected=expected,
                                fix="key 'chat'")  # fmt: skip
    return shared


def _filled(rows: Rows, mapping: ImportMap | None) -> Rows:
    """The rows, with None for cells that are exactly one of the mapping's `missing`."""
    gone = mapping.missing if mapping else ()
    return [(at, {k: None if gone and _as_text(v) in gone else v for k, v in row.items()}) for at, row in rows]


def _text(cells: Cells, name: str) -> str:
    """A cell as text; "" for a column that the mapping does not name."""
    return _as_text(cells.get(name)) if name else ""


def _as_text(value: object) -> str:
    """A value as text: "" if nothing is recorded (null, NaN), 1969 for the number 1969.0, no midnight, no seconds 0."""
    if isinstance(value, datetime) and value.time() == time() and not value.tzinfo:
        return value.date().isoformat()
    if isinstance(value, time):
        return str(value).removesuffix(":00")
    if isinstance(value, float):
        return "" if math.isnan(value) else str(value).removesuffix(".0")
    return "" if value is None else str(value).strip()


def _messages(value: object) -> list[Any] | None:
    return value if isinstance(value, list) else literal_list(value) if isinstance(value, str) else None


def _chat(place: str, cells: Cells, mapping: ImportMap) -> list[dict[str, object]]:
    if mapping.turns:
        said = [_said(place, cells, name, mapping).strip() for name in mapping.turns]
        while said and not said[-1]:
            said.pop()
        return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(said)]
    found = _messages(cells.get(mapping.messages)) if _text(cells, mapping.messages) else []
    if found is None:
        raise BadRecord("no list of messages", f"{place}, column {mapping.messages!r}: "
                        f"{cells.get(mapping.messages)!r:.80}", expected="a list of messages",
                        fix="key 'messages'")  # fmt: skip
    roles = {name.strip().casefold(): role for name, role in mapping.roles.items()}
    chat: list[dict[str, object]] = []
    for at, message in enumerate(found):
        known = isinstance(message, dict) and isinstance(message.get(mapping.role), str)
        if not known or content_text(message.get(mapping.content)) is None:
            raise BadRecord("bad message", f"{place}, message {at}: {message!r:.80}",
                            expected=f"an object with {mapping.role} and {mapping.content}",
                            fix="key 'role' or 'content'")  # fmt: skip
        role = message[mapping.role]
        meant = roles.get(role.strip().casefold()) or (role if known_role(role) else None)
        if meant is None:
            raise BadRecord("unknown role", f"{place}, message {at}: role {role!r:.60}",
                            expected=f"{EXPECTED_ROLES}, system, tool",
                            fix=f"key 'roles': say who it is, as in {_quoted(role[:60])} = \"user\"")  # fmt: skip
        chat.append({"role": meant, "content": message.get(mapping.content)})
    if mapping.reply:
        chat.append({"role": "assistant", "content": _said(place, cells, mapping.reply, mapping)})
    return chat


def _said(place: str, cells: Cells, name: str, mapping: ImportMap) -> str:
    """A cell that holds one message: a text, its parts, or an object with either."""
    value = cells.get(name)
    if isinstance(value, dict):
        value = value.get(mapping.content, value)
    if isinstance(value, dict) or (isinstance(value, list) and content_text(value) is None):
        raise BadRecord("bad message", f"{place}, column {name!r}: {cells[name]!r:.80}",
                        expected="a text, or a message", fix="key 'reply' or 'turns'")  # fmt: skip
    if isinstance(value, list):
        return content_text(value) or ""
    return str(value) if _as_text(value) else ""


def _record(
    place: str,
    cells: Cells,
    mapping: ImportMap,
    statements: Mapping[str, Cells] | None,
    chats: Counter[tuple[str, str]],
    intake: Intake,
) -> dict[str, Any]:
    """Convert a row to a record of `own_chats`, with its question in full."""

    def value(name: str) -> str:
        return _text(cells, getattr(mapping, name)) or str(getattr(mapping.constants, name))

    for name in ("worker_id", "assistant", *_IF_RECORDED, "question_id", "question_text"):
        if isinstance(found := cells.get(getattr(mapping, name)), list | dict):
            raise BadRecord(f"{name} is no text", f"{place}, column {getattr(mapping, name)!r}: {found!r:.80}",
                            expected="a text or a number", fix=f"key {name!r}")  # fmt: skip
    question = _question(place, cells, mapping, statements, intake)
    worker = value("worker_id") or "row-" + hashlib.sha256(place.encode()).hexdigest()[:12]
    chats[question["id"], worker] += 1
    record: dict[str, Any] = {
        "kind": "user-AI",
        "question": question,
        "worker_id": worker,
        "assistant": value("assistant") or "unknown",
        "turns": _chat(place, cells, mapping),
    }
    if (number := chats[question["id"], worker]) > 1:
        record["chat"] = str(number)
    record |= {name: value(name) for name in ("condition", "confidence") if value(name)}
    if mapping.answer or mapping.constants.answer:
        record["answer"] = _answer(place, value("answer"), "answer", question, mapping)
    judged = mapping.correct or mapping.constants.correct
    if judged and (value("correct") or mapping.answer_kind == "outcome"):  # other kinds have a rule for blank cells
        record["correct"] = _correctness(place, value("correct"), mapping)
    if not record["turns"] and (record.get("answer") or "correct" in record):
        record["turns"] = None  # answered without asking
    return record


def _question(
    place: str, cells: Cells, mapping: ImportMap, statements: Mapping[str, Cells] | None, intake: Intake
) -> dict[str, Any]:
    constants = mapping.constants
    question_id = _text(cells, mapping.question_id) or constants.question_id
    if statements is not None:
        if question_id not in statements:
            raise BadRecord("question without a statement", f"{place}, column {mapping.question_id!r}: {question_id!r}",
                            expected="an id in the table of statements", fix="key 'question_id'")  # fmt: skip
        cells = statements[question_id]
    text = _text(cells, mapping.question_text) or constants.question_text or NO_STATEMENT
    question: dict[str, Any] = {
        "id": question_id or "question-" + hashlib.sha256(text.encode()).hexdigest()[:16],
        "subset": _text(cells, mapping.subset) or constants.subset or "all",
        "text": text,
        "answer_kind": mapping.answer_kind,
    }
    right: Any = _text(cells, mapping.right_answer) or constants.right_answer
    if mapping.answer_kind == "text":
        value = cells.get(mapping.right_answer) if mapping.right_answer else None
        listed = value if isinstance(value, list) else literal_list(right)
        if listed and (listed is value or all(isinstance(each, str) for each in listed)):  # [1, 2] may be an answer
            if listed is not value:  # the cell may be one answer that is a list
                intake.note(_LISTED)
                listed = [*listed, right]
            right = [text for each in listed if (text := _as_text(each))]
    if mapping.answer_kind == "choice":
        listed = literal_list(_text(cells, mapping.options[0])) if len(mapping.options) == 1 else None
        options = [str(each).strip() for each in listed or [_text(cells, name) for name in mapping.options]]
        while options and not options[-1]:  # a question with fewer options; blanks elsewhere stay, to keep the letters
            options.pop()
        question["options"] = options
        right = _answer(place, right, "right_answer", question, mapping) or ""
    if mapping.answer_kind in ("choice", "number", "text"):
        question["answer"] = right or None
    return question | (_closeness(place, cells, mapping) if mapping.answer_kind == "number" else {})


def _closeness(place: str, cells: Cells, mapping: ImportMap) -> dict[str, Any]:
    """How close to a number an answer must be, and its unit: the keys of `_OF_NUMBERS` that are recorded."""
    said = {key: _text(cells, getattr(mapping, key)) or getattr(mapping.constants, key) for key in _OF_NUMBERS}
    share = _SCORES.get(said["relative"].lower(), _number(said["relative"]))
    relative = bool(share) if share in (0, 1) else None
    tolerance = None if "%" in said["tolerance"] and not relative else _number(said["tolerance"])
    found = {"tolerance": tolerance, "relative": relative, "unit": said["unit"]}
    if wrong := next((key for key, text in said.items() if text and found[key] is None), None):
        expected = "yes or no" if wrong == "relative" else "a number such as 0.5; with relative, 0.05 for 5 %"
        raise BadRecord(f"bad value of {wrong}", f"{place}, {wrong}: {said[wrong]!r:.60}", expected=expected,
                        fix=f"key {wrong!r}")  # fmt: skip
    return {key: found[key] for key, text in said.items() if text}


def _number(text: str) -> float | None:
    """A number in digits, without a sign, or a percentage; None if the text is none."""
    read = re.fullmatch(r"((?:\d+[.,]?\d*|[.,]\d+)(?:e[-+]?\d+)?)(\s*%)?", text, re.IGNORECASE)
    number = float(read[1].replace(",", ".")) / (100 if read[2] else 1) if read else math.nan
    return number if math.isfinite(number) else None


def _correctness(place: str, text: str, mapping: ImportMap) -> float | bool:
    """Whether an answer is right, in numbers or words; of an outcome also a score between 0 and 1."""
    score = _SCORES.get(text.lower(), _number(text))
    outcome = mapping.answer_kind == "outcome"
    if score is None or not 0 <= score <= 1 or (score % 1 and not outcome):
        numbers = "a number from 0 to 1" if outcome else "0 or 1"
        raise BadRecord(f"correct that is neither {numbers} nor yes or no", f"{place}, correct: {text!r:.60}",
                        expected=f"{numbers}, yes or no, true or false", fix="key 'correct'")  # fmt: skip
    return score if score % 1 else bool(score)


def _answer(place: str, given: str, key: str, question: Mapping[str, Any], mapping: ImportMap) -> str | None:
    """The answer in a cell; for a choice its letter, whether written as a letter or as the option's text.

    The right answer may be written otherwise than people's: `answers` decides only if it could be two options.
    """
    options = question.get("options")
    if not given or not options:
        return given or None
    letter = _letter(given, options, "") if key == "right_answer" else None
    if letter := letter or _letter(given, options, mapping.answers):
        return letter
    column = getattr(mapping, key)
    where = f"column {column!r}" if column else f"{key} in [constants]"
    listed = ", ".join(f"{letter}) {option:.40}" for letter, option in zip(LETTERS, options, strict=False))
    raise BadRecord(
        f"{where}: answer that is no option, or could be two",
        f"{place}, {where}: {given!r:.60}",
        expected=f'the letter or the text of one of {listed}; answers = "letters" or "texts" tells which, if need be',
        fix=f"key {key!r} or 'answers'",
    )


def _letter(given: str, options: Sequence[str], answers: str) -> str | None:
    """The letter of the option that is meant; None if none is, or two could be.

    >>> [_letter(given, ("Yes", "No"), "") for given in ("yes.", "(b)", "A) Yes", "A) No", "I think B")]
    ['A', 'B', 'A', None, None]
    """
    labelled = re.fullmatch(r"[(\[]?([A-Z])(?:[)\].:]+\s*(.*))?", given, re.IGNORECASE | re.DOTALL)
    label, rest = (labelled[1].upper(), labelled[2]) if labelled else (None, None)
    texts = _letters_of(given, options)
    if label not in LETTERS[: len(options)]:
        label = None
    elif rest:  # `A) text`
        if not texts:
            return label if _letters_of(str(rest), options) == [label] else None
        label = None
    if answers != "letters" and len(texts) == 1 and (answers == "texts" or label in (None, texts[0])):
        return texts[0]
    return label if answers != "texts" and (answers == "letters" or not texts) else None


def _letters_of(text: str, options: Sequence[str]) -> list[str]:
    """Letters of the options with this text; only if none has it, of those that differ in case or punctuation."""
    pairs = [*zip(LETTERS, options, strict=False)]
    plain = normalised(text)
    exact = [letter for letter, option in pairs if option == text]
    return exact or [letter for letter, option in pairs if plain and normalised(option) == plain]


def _superseded(rows: Rows, mapping: ImportMap) -> dict[int, int]:
    """Rows whose chat is continued by another row of the same person, question and assistant, with that row.

    A row with the same chat continues it if it has the same answer; a row without a person's id is a person's own.
    """
    groups: dict[tuple[str, ...], list[tuple[int, tuple[str, ...], tuple[str, str]]]] = {}
    for number, (place, cells) in enumerate(rows):
        worker = _text(cells, mapping.worker_id) or mapping.constants.worker_id or place
        about = (_text(cells, name) for name in (mapping.question_id, mapping.question_text, mapping.assistant))
        try:
            said = tuple(json.dumps(each, sort_keys=True, default=str) for each in _chat(place, cells, mapping))
        except BadRecord:
            continue
        given = _text(cells, mapping.answer), _text(cells, mapping.correct)
        groups.setdefault((worker, *about), []).append((number, said, given))
    found: dict[int, int] = {}
    for group in groups.values():
        for number, said, given in group:
            going_on = [
                other
                for other, more, then in group
                if more[: len(said)] == said and (len(more) > len(said) or (other > number and then == given))
            ]
            if going_on and said:
                found[number] = going_on[-1]
    return found
