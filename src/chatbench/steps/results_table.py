"""The final table, for the terminal and for Markdown: one set of grids of strings, drawn twice.

A cell is `mean ± standard error` over splits, without the error where there is one split, and in words where the value
does not exist. Baselines that are the same for all models stand there once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatbench.core.settings import model_key
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import (
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    UNTRAINED,
)
from chatbench.measures.published import published
from chatbench.measures.uncertainty import Estimate
from chatbench.steps.score_table import Row, ScoreTable, comparable, read_score_table, signature_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EMPTY = "–"  # noqa: RUF001  (a dash is what a table shows where a figure does not apply)
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Grid:
    """A titled table of strings; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that shows one metric of all assistants together."""

    header: str
    metric: str
    show: Format


def _decimals(digits: int) -> Format:
    return lambda value: f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


PROMPT_COLUMNS = (
    Column("perplexity", "perplexity", _perplexity),
    Column("bits per byte", "bits_per_byte", _decimals(3)),
    Column("BLEU", "bleu", _decimals(3)),
    Column("ROUGE-1", "rouge1", _decimals(3)),
    Column("ROUGE-2", "rouge2", _decimals(3)),
    Column("ROUGE-L", "rougeL", _decimals(3)),
    Column("sacrebleu", "sacrebleu", _decimals(1)),
)
NUMBER_COLUMNS = (
    Column("restate the problem", "restatement_share", _percent),
    Column("of these: every number", "all_numbers_share", _percent),
    Column("no foreign number", "no_foreign_number_share", _percent),
)
CHAT_COLUMNS = (
    Column("chats a split", "conversations", _decimals(0)),
    Column("user turns", "user_turns", _decimals(2)),
    Column("answered", "answered_share", _percent),
    Column("forced", "forced_share", _percent),
    Column("no answer", "no_answer_share", _percent),
    Column("failed", "failed_share", _percent),
    Column("invalid or none", "invalid_share", _percent),
)


def results_table(models: Sequence[str], *, results: Path) -> list[ScoreTable]:
    """The scores of several models, checked to be of the same data.

    Raises:
        ChatbenchError: a model was not scored, or two tables are of different data, splits or protocol.
    """
    tables = [read_score_table(results / "scores", model_key(model)) for model in models]
    comparable(tables)
    return tables


def score_grids(tables: Sequence[ScoreTable]) -> list[Grid]:
    """All grids: correlation, error, first prompts, numbers, chats."""
    estimates = [table.estimates() for table in tables]
    labels = _labels(tables, estimates)
    grids = [
        _assistant_grid("Correlation with people's accuracy (Pearson, per question)", "pearson", estimates, labels),
        _assistant_grid("Mean absolute error of accuracy (per question)", "mae", estimates, labels),
        _metric_grid("Perplexity of people's turns, and overlap of first prompts", PROMPT_COLUMNS, estimates, labels),
        _metric_grid("Numbers in first prompts", NUMBER_COLUMNS, estimates, labels),
        _metric_grid("How the chats went", CHAT_COLUMNS, estimates, labels),
    ]
    return [grid for grid in grids if grid.rows]


Estimates = dict[Row, Estimate]
Label = tuple[str, int, str]
"""(text, index of the table, source)."""


def _labels(tables: Sequence[ScoreTable], estimates: Sequence[Estimates]) -> list[Label]:
    """One row name per source and model; a source that says the same for all models is named once."""
    labels: list[Label] = []
    for source in dict.fromkeys(row[1] for table in estimates for row in table):
        shown = source.replace("_", " ")
        having = [index for index, table in enumerate(estimates) if any(row[1] == source for row in table)]
        of_source = [{row: e for row, e in estimates[index].items() if row[1] == source} for index in having]
        if len(tables) == 1 or (len(having) == len(tables) and all(rows == of_source[0] for rows in of_source)):
            labels.append((shown, having[0], source))
        else:
            labels += [(f"{tables[index].model}, {shown}", index, source) for index in having]
    return labels


def _assistant_grid(title: str, metric: str, estimates: Sequence[Estimates], labels: Sequence[Label]) -> Grid:
    names = sorted({row[0] for table in estimates for row in table if row[2] == metric})
    special = [name for name in (MEAN_OF_ASSISTANTS, EVERY_ASSISTANT) if name in names and len(names) > 2]
    columns = [name for name in names if name not in (MEAN_OF_ASSISTANTS, EVERY_ASSISTANT)] + special
    rows = [
        (text, *(_cell(estimates[index].get((name, source, metric)), _decimals(3)) for name in columns))
        for text, index, source in labels
    ]
    shown = {EVERY_ASSISTANT: "all pairs"}
    header = ("", *(shown.get(name, name) for name in columns))
    return Grid(title, header, tuple(row for row in rows if set(row[1:]) != {EMPTY}))


def _metric_grid(
    title: str, columns: Sequence[Column], estimates: Sequence[Estimates], labels: Sequence[Label]
) -> Grid:
    order = {PEOPLE: 0, FINE_TUNED: 1, UNTRAINED: 2}
    rows = [
        (text, *(_cell(estimates[index].get((EVERY_ASSISTANT, source, c.metric)), c.show) for c in columns))
        for text, index, source in sorted(labels, key=lambda label: order.get(label[2], 3))
        if source in order
    ]
    filled = tuple(row for row in rows if set(row[1:]) != {EMPTY})
    return _upright(Grid(title, ("", *(c.header for c in columns)), filled))


def _upright(grid: Grid) -> Grid:
    """The grid with rows and columns swapped where it is wider than high: a page has more lines than columns."""
    if len(grid.rows) >= len(grid.header) - 1 or not grid.rows:
        return grid
    header, *rows = zip(grid.header, *grid.rows, strict=True)
    return Grid(grid.title, tuple(header), tuple(tuple(row) for row in rows if set(row[1:]) != {EMPTY}))


def _cell(estimate: Estimate | None, show: Format) -> str:
    if estimate is None:
        return EMPTY
    if isinstance(estimate.mean, Undefined):
        return "undefined"
    error = estimate.standard_error
    text = show(estimate.mean) if isinstance(error, Undefined) else _with_error(estimate.mean, error, show)
    return f"{text} ({estimate.n} splits)" if estimate.undefined else text


def _with_error(mean: float, error: float, show: Format) -> str:
    number, blank, unit = show(mean).partition(" ")
    return f"{number} ± {show(error).partition(' ')[0]}{blank}{unit}"


def published_grid() -> Grid:
    """The published results as reference rows, marked as not computed here."""
    table = published()
    header = ("published, not computed here", *(f"{name}: r / MAE" for name in table.assistants))
    rows = tuple(
        (row.method, *(f"{row.figures[name][0]:.2f} / {row.figures[name][1]:.2f}" for name in table.assistants))
        for row in table.rows
    )
    return Grid("Reference: published figures on ChatBench", header, rows)


def footnotes(table: ScoreTable) -> list[str]:
    """What a reader must know beside the figures: splits, errors, undefined values, notes, signature."""
    sources: dict[str, dict[str, None]] = {}
    for (_, source, metric), estimate in table.estimates().items():
        if metric in ("pearson", "mae") and isinstance(estimate.mean, Undefined):
            sources.setdefault(estimate.mean.reason, {})[source] = None
    undefined = [f"undefined: {reason} ({'; '.join(having)})" for reason, having in sources.items()]
    signed = f"signature {table.signature_id} {signature_line(table.signature)}"
    return [f"{table.model}: {_error_note(table)}", *undefined, *table.notes, signed]


def _error_note(table: ScoreTable) -> str:
    count = len(table.splits)
    if count < 2:
        return f"{count} split, so there are no standard errors"
    note = f"mean ± standard error over {count} splits"
    if table.train_questions <= 0:
        return note
    factor = math.sqrt(1 + count * table.test_questions / table.train_questions)
    return (
        f"{note}; splits share questions: corrected for that (Nadeau-Bengio) every error is {factor:.2f} times as large"
    )


def as_markdown(tables: Sequence[ScoreTable], *, with_published: bool = True) -> str:
    """All grids and footnotes as Markdown."""
    grids = [*score_grids(tables), *([published_grid()] if with_published else [])]
    notes = [f"- {line}" for table in tables for line in footnotes(table)]
    if with_published:
        notes.append(f"- reference rows: {published().source}")
    return "\n\n".join([*map(_markdown_grid, grids), "\n".join(notes)]) + "\n"


def _markdown_grid(grid: Grid) -> str:
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


def print_tables(tables: Sequence[ScoreTable], console: Console | None = None, *, with_published: bool = False) -> None:
    """Prints all grids and footnotes; one too wide for the terminal is printed in parts, so that nothing is cut."""
    from rich.console import Console as RichConsole
    from rich.text import Text

    screen = console or RichConsole()
    for grid in [*score_grids(tables), *([published_grid()] if with_published else [])]:
        for part in parts(grid, screen.width):
            screen.print(_drawn(part))
    for line in (line for table in tables for line in footnotes(table)):
        screen.print(Text(line), style="dim")


MARGIN = 3
"""Blanks that a drawn column needs beside its text."""


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
    from rich.text import Text

    drawn = RichTable(title=grid.title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for place, name in enumerate(grid.header):
        justify: Literal["left", "right"] = "right" if place else "left"
        header = Text(name.replace(" ", "\n") if place else name)
        least = _column_width(grid, place) - MARGIN
        drawn.add_column(header, justify=justify, min_width=least, no_wrap=place > 0, vertical="bottom")
    for row in grid.rows:
        drawn.add_row(*(Text(cell) for cell in row))  # Text: a name may hold [brackets], which rich would read
    return drawn
