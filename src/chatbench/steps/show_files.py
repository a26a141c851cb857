"""What `chatbench show` shows, for other programs and for papers: JSON, CSV and LaTeX with unrounded figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import EVERY_ASSISTANT, FINE_TUNED, TERMINATIONS, UNTRAINED
from chatbench.measures.intervals import Interval
from chatbench.steps.detail_grids import together
from chatbench.steps.grids import Grid
from chatbench.steps.latex import latex_table
from chatbench.steps.main_table import AGREEMENT_COLUMNS, TEXT_COLUMNS, MainFigure, main_figures, main_grids, row_name
from chatbench.steps.results_table import footnotes, published_grid
from chatbench.steps.score_files import bound_as_json, value_as_json
from chatbench.steps.show import ModelResults

CSV_COLUMNS = (
    "model", "source", "kind", "assistant", "metric", "mean", "standard_error", "corrected_standard_error", "splits",
    "low", "high", "floor", "ceiling", "undefined_because", "signature_id",
)  # fmt: skip


def as_json(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """Everything that is shown: figures with their values per split, questions, endings, turns, notes."""
    tables = [model.table for model in found]
    content = {
        "figures": [_figure(figure) for figure in main_figures(tables, with_published=published)],
        "models": [
            {
                "model": model.table.model,
                "signature_id": model.table.signature_id,
                "signature": dict(model.table.signature),
                "splits": list(model.table.splits),
                "questions": [asdict(cell) for cell in model.cells],
                "endings": _endings(model),
                "user_turns": {s: {str(n): c for n, c in sorted(each.items())} for s, each in model.turns.items()},
                "notes": [*model.missing, *footnotes(model.table)],
            }
            for model in found
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _figure(figure: MainFigure) -> dict[str, object]:
    written: dict[str, object] = {
        "model": figure.model,
        "source": figure.source,
        "kind": figure.kind,
        "assistant": figure.assistant,
        "metric": figure.metric,
        "mean": value_as_json(figure.estimate.mean),
        "standard_error": value_as_json(figure.estimate.standard_error),
        "corrected_standard_error": value_as_json(figure.estimate.corrected_error),
        "per_split": {split: value_as_json(value) for split, value in figure.by_split.items()},
    }
    if figure.interval is not None:
        written["interval"] = bound_as_json(figure.interval)
    if figure.bounds is not None:
        written["floor"] = value_as_json(figure.bounds.floor)
        written["floor_source"] = figure.bounds.floor_source
        written["ceiling"] = value_as_json(figure.bounds.ceiling)
    return written


def _endings(model: ModelResults) -> dict[str, dict[str, object]]:
    """Mean shares over splits, by source."""
    estimates = model.table.estimates()
    found: dict[str, dict[str, object]] = {}
    for source in (FINE_TUNED, UNTRAINED):
        for ending in TERMINATIONS:
            estimate = estimates.get((EVERY_ASSISTANT, source, f"{ending}_share"))
            if estimate is not None:
                found.setdefault(source, {})[ending] = value_as_json(estimate.mean)
    return found


def as_csv(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """One figure a line; a cell is empty where a value does not exist or does not apply."""
    signatures = {model.table.model: model.table.signature_id for model in found}
    every = signatures[found[0].table.model] if len(found) == 1 else ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for figure in main_figures([model.table for model in found], with_published=published):
        of_ours = figure.kind != "published"
        estimate, interval, bounds = figure.estimate, figure.interval, figure.bounds
        ends = (interval.low, interval.high) if isinstance(interval, Interval) else (None, None)
        limits = (bounds.floor, bounds.ceiling) if bounds else (None, None)
        values = [estimate.mean, estimate.standard_error, estimate.corrected_error]
        why = estimate.mean.reason if isinstance(estimate.mean, Undefined) else ""
        writer.writerow(
            [figure.model, figure.source, figure.kind, figure.assistant, figure.metric, *map(_exact, values),
             estimate.n if of_ours else "", *map(_exact, (*ends, *limits)), why,
             signatures.get(figure.model, every) if of_ours else ""]
        )  # fmt: skip
    return text.getvalue()


def _exact(value: Value | None) -> str:
    """All digits, so that it reads back as the same number."""
    return "" if value is None or isinstance(value, Undefined) else repr(value)


def as_latex(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """The main table as two booktabs tables, agreement and texts, and the published rows as a third."""
    tables = [model.table for model in found]
    figures = main_figures(tables)
    grids = [*main_grids(tables, with_errors=True), *([published_grid()] if published else [])]
    lines = [r"% needs \usepackage{booktabs}; errors are standard errors over splits"]
    lines += [f"% signature {table.signature_id}" for table in tables]
    for number, grid in enumerate(grids, start=1):
        is_agreement = set(grid.header) & {column.header for column in AGREEMENT_COLUMNS}
        exact = _exact_agreement(figures, together(tables[0])) if is_agreement else _exact_texts(figures)
        lines.append(latex_table(_short_headers(grid), f"tab:chatbench-{number}", exact))
    return "\n".join([*lines, ""])


def _short_headers(grid: Grid) -> Grid:
    """A paper's column is narrow, and its readers know the abbreviation."""
    return Grid(grid.title, tuple("MAE" if name == "mean absolute error" else name for name in grid.header), grid.rows)


def _exact_agreement(figures: Sequence[MainFigure], assistant: str) -> dict[str, str]:
    """By row of the table of agreement, its figures unrounded."""
    names = {column.metric: column.header for column in AGREEMENT_COLUMNS}
    rows: dict[str, list[str]] = {}
    for figure in figures:
        if figure.assistant == assistant and figure.metric in names:
            rows.setdefault(row_name(figure), []).append(
                f"{names[figure.metric]} {_exact(figure.estimate.mean) or 'undefined'}"
            )
    return {row: ", ".join(texts) for row, texts in rows.items()}


def _exact_texts(figures: Sequence[MainFigure]) -> dict[str, str]:
    """By row of the table of texts, whichever way round it stands, its figures unrounded."""
    names = {column.metric: column.header for column in TEXT_COLUMNS}
    rows: dict[str, list[str]] = {}
    for figure in figures:
        if figure.assistant == EVERY_ASSISTANT and figure.metric in names:
            mean = _exact(figure.estimate.mean) or "undefined"
            rows.setdefault(names[figure.metric], []).append(f"{figure.label} {mean}")
            rows.setdefault(figure.label, []).append(f"{names[figure.metric]} {mean}")
    return {row: ", ".join(texts) for row, texts in rows.items()}
