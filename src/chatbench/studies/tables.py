"""CSV tables in which every cell knows its place, so that an error can name file, row and column.

Rows are counted as a spreadsheet counts them: the header is row 1. A file that is damaged as a whole (missing, not
UTF-8, an open quote) is always an error; a single row with too few cells is a bad record.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.studies.fields import is_blank, plain_name
from chatbench.studies.intake import BadRecord, Intake


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
