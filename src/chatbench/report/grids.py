"""Tables of strings, drawn for the terminal and as Markdown; what stands in them is for others to say.

A value as it stands in a table: a number, a percentage, `undefined`, or a dash where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chatbench.metrics.agreement import Undefined, Value

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

EMPTY = "–"  # noqa: RUF001  (a dash is what a table shows where a figure does not apply)
MARGIN = 3
"""Blanks that a drawn column needs beside its text."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A titled table of strings; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def upright(grid: Grid) -> Grid:
    """The grid with rows and columns swapped where it is wider than high: a page has more lines than columns."""
    if len(grid.rows) >= len(grid.header) - 1 or not grid.rows:
        return grid
    header, *rows = zip(grid.header, *grid.rows, strict=True)
    return Grid(grid.title, tuple(header), tuple(tuple(row) for row in rows if set(row[1:]) != {EMPTY}))


def markdown(grid: Grid) -> str:
    """The grid under its title, columns aligned."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (grid.header, *grid.rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(grid.header))]
    lines = [_markdown_line(row, widths) for row in cells]
    rule = (
        "|" + "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    )
    return "\n".join([f"**{grid.title}**", "", lines[0], rule, *lines[1:]])


def _markdown_line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def print_grids(grids: Sequence[Grid], footnotes: Sequence[str], console: Console | None = None) -> None:
    """Prints grids and footnotes; one too wide for the terminal is printed in parts, so that nothing is cut."""
    from rich.console import Console as RichConsole

    screen = console or RichConsole()
    for grid in grids:
        for part in parts(grid, screen.width):
            screen.print(_drawn(part))
    for line in footnotes:
        screen.print(_text(line), style="dim")


def parts(grid: Grid, width: int) -> list[Grid]:
    """The grid's columns in as many grids as it takes to stay within `width` characters; each has the row names."""
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
    """Characters that a column cannot do without: figures stay in one piece, names and headers may wrap at blanks."""
    wrapping = [grid.header[place], *(row[0] for row in grid.rows if place == 0)]
    words = [len(word) for text in wrapping for word in text.split(" ")]
    return max(*words, *(len(row[place]) for row in grid.rows if place > 0), 0) + MARGIN


def _drawn(grid: Grid) -> Table:
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(title=_text(grid.title), title_justify="left", title_style="bold", box=box.SIMPLE)
    for place, name in enumerate(grid.header):
        justify: Literal["left", "right"] = "right" if place else "left"
        header = _text(name.replace(" ", "\n") if place else name)
        least = _column_width(grid, place) - MARGIN
        drawn.add_column(header, justify=justify, min_width=least, no_wrap=place > 0, vertical="bottom")
    for row in grid.rows:
        drawn.add_row(*map(_text, row))
    return drawn


def _text(text: str) -> Text:
    """As it is: a name may hold [brackets], which rich would read, or characters that a terminal would act on."""
    from rich.text import Text as RichText

    from chatbench.simulation.terminal_chat import plain_text

    return RichText(plain_text(text))


def number(value: Value | None, digits: int = 3) -> str:
    """A value with so many decimals."""
    if value is None:
        return EMPTY
    return "undefined" if isinstance(value, Undefined) else f"{value:.{digits}f}"


def percent(value: Value | None) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else number(value)
