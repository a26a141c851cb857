"""The main table: perplexity, overlap and agreement of simulators beside people, baselines, ceilings, published rows.

`main_figures` gives its figures unrounded; the terminal, the page, CSV, JSON and LaTeX all show these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import (
    CEILING,
    DROPPED,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    UNLIMITED,
    UNTRAINED,
    WHOLE,
)
from chatbench.measures.intervals import Bound
from chatbench.measures.published import published
from chatbench.measures.uncertainty import Estimate
from chatbench.steps.detail_grids import interval_text, together, value_text
from chatbench.steps.grids import EMPTY, Grid, upright
from chatbench.steps.results_table import PROMPT_COLUMNS, Column, cell_text, decimals, row_labels
from chatbench.steps.score_bounds import Bounds
from chatbench.steps.score_table import ScoreTable

Kind = Literal["people", "simulator", "baseline", "ceiling", "published"]

AGREEMENT_COLUMNS = (
    Column("correlation", "pearson", decimals(3)),
    Column("mean absolute error", "mae", decimals(3)),
)
TEXT_COLUMNS = tuple(column for column in PROMPT_COLUMNS if column.metric != "sacrebleu")
MAIN_METRICS = tuple(column.metric for column in (*TEXT_COLUMNS, *AGREEMENT_COLUMNS))


@dataclass(frozen=True, slots=True)
class MainFigure:
    """One figure: `label` is its row's name, `model` is empty where it is the same for every model of the table."""

    model: str
    label: str
    source: str
    kind: Kind
    assistant: str
    metric: str
    estimate: Estimate
    interval: Bound | None
    bounds: Bounds | None
    by_split: Mapping[str, Value]


def main_figures(tables: Sequence[ScoreTable], *, with_published: bool = False) -> list[MainFigure]:
    """Every figure of the main metrics, sources in the order of `chatbench table`, published ones last."""
    estimates = [table.estimates() for table in tables]
    bounds, values = [table.bounds() for table in tables], [table.values() for table in tables]
    intervals = [table.uncertainty.intervals.get(WHOLE, {}) for table in tables]
    found = [
        MainFigure(
            model=tables[place].model if label != source.replace("_", " ") or len(tables) == 1 else "",
            label=label,
            source=source,
            kind=kind_of(source),
            assistant=row[0],
            metric=row[2],
            estimate=estimate,
            interval=intervals[place].get(row),
            bounds=bounds[place].get(row),
            by_split=values[place][row],
        )
        for label, place, source in row_labels(tables, estimates)
        for row, estimate in estimates[place].items()
        if row[1] == source and row[2] in MAIN_METRICS
    ]
    return found + (published_figures() if with_published else [])


def kind_of(source: str) -> Kind:
    """What sort of row a source is.

    >>> kind_of("fine-tuned, invalid dropped"), kind_of("user alone"), kind_of("ceiling, 10 chats")
    ('simulator', 'baseline', 'ceiling')
    """
    if source == PEOPLE:
        return "people"
    if source.startswith((FINE_TUNED, UNTRAINED)):
        return "simulator"
    return "ceiling" if source.startswith(CEILING) else "baseline"


def published_figures() -> list[MainFigure]:
    """The paper's figures, per assistant, without errors: they were not computed here."""
    none = Undefined("published without one")
    return [
        MainFigure("", row.method, row.method, "published", assistant, metric, Estimate(value, none, none, 0), None,
                   None, {})
        for row in published().rows
        for assistant, figures in row.figures.items()
        for metric, value in zip(("pearson", "mae"), figures, strict=True)
    ]  # fmt: skip


def main_grids(tables: Sequence[ScoreTable], *, with_errors: bool = False) -> list[Grid]:
    """The main table as two grids, agreement and texts: in one they would be wider than a terminal, or a page.

    Agreement comes with its intervals, and on demand with its standard errors, for which a terminal is too narrow.

    Left out, but in `chatbench table` and in CSV and JSON: single assistants, invalid answers dropped, simulators of
    which only the first chats are looked at, and ceilings of other numbers of chats.
    """
    figures = [figure for figure in main_figures(tables) if not _is_variant(figure.source, tables)]
    return [grid for grid in (_agreement_grid(figures, tables, with_errors), _text_grid(figures)) if grid.rows]


def _is_variant(source: str, tables: Sequence[ScoreTable]) -> bool:
    if source.startswith(CEILING):
        counts = {str(table.signature.get("conversations")) for table in tables}
        return UNLIMITED in source or source.removeprefix(CEILING).partition(" ")[0] not in counts
    return source.endswith(DROPPED) or ", first " in source


def _agreement_grid(figures: Sequence[MainFigure], tables: Sequence[ScoreTable], with_errors: bool) -> Grid:
    assistant = together(tables[0])
    cells = {(f.label, f.metric): f for f in figures if f.assistant == assistant}
    names = {f.label: row_name(f) for f in cells.values() if f.metric in ("pearson", "mae")}
    rows = []
    for label in names:
        row = [names[label]]
        for column in AGREEMENT_COLUMNS:
            figure = cells.get((label, column.metric))
            row += _agreement_cells(figure, column, with_errors) if figure else (EMPTY, EMPTY)
        rows.append(tuple(row))
    whose = " (mean of assistants)" if assistant == MEAN_OF_ASSISTANTS else ""
    header = ("", *(name for column in AGREEMENT_COLUMNS for name in (column.header, "interval")))
    return Grid(f"Agreement with people's accuracy per question{whose}", header, tuple(rows))


def row_name(figure: MainFigure) -> str:
    """The name of a figure's row of agreement, where a baseline is marked as one."""
    return f"baseline: {figure.label}" if figure.kind == "baseline" else figure.label


def _agreement_cells(figure: MainFigure, column: Column, with_errors: bool) -> tuple[str, str]:
    mean = figure.estimate.mean
    shown = cell_text(figure.estimate, column.show) if with_errors else value_text(mean)
    return shown, interval_text(figure.interval)


def _text_grid(figures: Sequence[MainFigure]) -> Grid:
    cells = {(f.label, f.metric): f.estimate for f in figures if f.assistant == EVERY_ASSISTANT}
    labels = dict.fromkeys(f.label for f in figures if any((f.label, c.metric) in cells for c in TEXT_COLUMNS))
    rows = [(label, *(cell_text(cells.get((label, c.metric)), c.show) for c in TEXT_COLUMNS)) for label in labels]
    filled = tuple(row for row in rows if set(row[1:]) != {EMPTY})
    header = ("", *(column.header for column in TEXT_COLUMNS))
    return upright(Grid("Perplexity of people's turns, and overlap of first prompts", header, filled))
