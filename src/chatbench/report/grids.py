"""Tables of strings: built from rows and columns, printed in the terminal or written as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from chatbench.core.texts import markdown_text, printable
from chatbench.metrics.agreement import Undefined, Value

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EMPTY = "–"  # noqa: RUF001  (a dash is what a table shows where a metric does not apply)
MARGIN = 3
"""Padding of a printed column, in characters."""
LONGEST_WORD = 36
"""Characters of a word in a row's name that stay on one line: a model's key can be longer than a terminal is wide."""
_PART = re.compile(rf".{{1,{LONGEST_WORD}}}\Z|.{{1,{LONGEST_WORD - 1}}}[-/_.]|.{{1,{LONGEST_WORD}}}", re.DOTALL)
R = TypeVar("R")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Grid:
    """A titled table of strings; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids_of(tables: Iterable[tuple[str, Iterable[str], Iterable[Iterable[str]]]]) -> list[Grid]:
    """Build grids from titles, headers and rows; those without rows are omitted."""
    grids = [Grid(title, tuple(header), tuple(map(tuple, rows))) for title, header, rows in tables]
    return [grid for grid in grids if grid.rows]


def build(
    title: str,
    rows: Sequence[tuple[str, R]],
    columns: Sequence[tuple[str, C]],
    cell: Callable[[R, C], str],
    *,
    corner: str = "",
) -> Grid:
    """Build a table with a cell for every named row and column; rows without a filled cell are omitted."""
    lines = ((name, *(cell(row, column) for _, column in columns)) for name, row in rows)
    filled = tuple(line for line in lines if set(line[1:]) - {EMPTY})
    return Grid(title, (corner, *(name for name, _ in columns)), filled)


def upright(grid: Grid) -> Grid:
    """Swap rows and columns if the grid is wider than high, since a page has more lines than columns."""
    if len(grid.rows) >= len(grid.header) - 1 or not grid.rows:
        return grid
    header, *rows = zip(grid.header, *grid.rows, strict=True)
    return Grid(grid.title, header, tuple(row for row in rows if set(row[1:]) - {EMPTY}))


def markdown(grid: Grid) -> str:
    """Format the grid as Markdown under its title, columns aligned."""
    cells = [[*map(markdown_text, row)] for row in (grid.header, *grid.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(f"| {' | '.join([name.ljust(widths[0]), *padded])} |")
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([f"**{markdown_text(grid.title)}**", "", lines[0], rule, *lines[1:]])


def print_grids(grids: Sequence[Grid], footnotes: Sequence[str], console: Console | None = None) -> None:
    """Print grids and footnotes; split a grid that is wider than the terminal, so that nothing is cut off."""
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table

    screen = console or RichConsole()
    for grid in (piece for each in grids if each.rows for piece in pieces(each, screen.width)):
        drawn = Table(title=_text(grid.title), title_justify="left", title_style="bold", box=box.SIMPLE)
        for place, name in enumerate(grid.header):
            drawn.add_column(
                _text(name.replace(" ", "\n") if place else name),
                justify="right" if place else "left",
                min_width=_column_width(grid, place) - MARGIN,
                no_wrap=place > 0,
                overflow="fold",
                vertical="bottom",
            )
        for row in grid.rows:
            drawn.add_row(_text(folded(row[0])), *map(_text, row[1:]))
        screen.print(drawn)
    for line in footnotes:
        screen.print(_text(line), style="dim")


def folded(name: str) -> str:
    """Break the words of a name that are too long for a line behind a hyphen or the like, if they have one.

    >>> folded("fine-tuned, meta-llama/Meta-Llama-3.1-405B-Instruct-FP8").split("\\n")
    ['fine-tuned, meta-llama/Meta-Llama-3.1-405B-', 'Instruct-FP8']
    """
    words = name.split(" ")
    return " ".join(word if len(word) <= LONGEST_WORD else "\n".join(_PART.findall(word)) for word in words)


def pieces(grid: Grid, width: int) -> list[Grid]:
    """Split the grid's columns into grids of at most `width` characters, each with the row names."""
    needed = [_column_width(grid, place) for place in range(len(grid.header))]
    groups: list[list[int]] = [[]]
    for place in range(1, len(needed)):
        if groups[-1] and needed[0] + sum(needed[other] for other in groups[-1]) + needed[place] > width:
            groups.append([])
        groups[-1].append(place)
    return [
        Grid(
            grid.title if number == 0 else f"{grid.title}, continued",
            tuple(grid.header[place] for place in (0, *group)),
            tuple(tuple(row[place] for place in (0, *group)) for row in grid.rows),
        )
        for number, group in enumerate(groups)
    ]


def _column_width(grid: Grid, place: int) -> int:
    """Minimum characters of a column: numbers stay in one piece, names and headers may wrap at blanks."""
    wrapping = [grid.header[place], *(row[0] for row in grid.rows if place == 0)]
    words = [min(len(word), LONGEST_WORD if place == 0 else len(word)) for text in wrapping for word in text.split(" ")]
    return max(*words, *(len(row[place]) for row in grid.rows if place > 0), 0) + MARGIN


def _text(text: str) -> Text:
    """Text without markup: a name may hold [brackets], which rich would parse, or control characters."""
    from rich.text import Text as RichText

    return RichText(printable(text))


def number(value: Value | None, digits: int = 3) -> str:
    """Format a value with `digits` decimals; `undefined`, or a dash if there is none."""
    if value is None:
        return EMPTY
    return "undefined" if isinstance(value, Undefined) else f"{value:.{digits}f}"


def percent(value: Value | None) -> str:
    """Format a share as a percentage with one decimal."""
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else number(value)
