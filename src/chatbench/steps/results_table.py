"""The tables of scores, for the terminal and for Markdown: one set of grids, drawn twice.

A cell is `mean ± standard error` over splits, without the error where there is one split, and in words where the value
does not exist. Baselines that are the same for all models stand there once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.model_names import model_key
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import (
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    QUESTION_COPIED,
    UNTRAINED,
    Row,
)
from chatbench.measures.published import published
from chatbench.measures.uncertainty import Estimate
from chatbench.steps.detail_grids import bounds_grid, cause_grid, ceilings_note, gap_grid, part_grid
from chatbench.steps.grids import EMPTY, Grid, markdown, print_grids, upright
from chatbench.steps.score_files import read_score_table
from chatbench.steps.score_table import ScoreTable, comparable, signature_line

if TYPE_CHECKING:
    from rich.console import Console

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that shows one metric of all assistants together."""

    header: str
    metric: str
    show: Format


def decimals(digits: int) -> Format:
    """Shows a number with so many decimals."""
    return lambda value: f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def perplexity_text(value: float) -> str:
    """Two decimals where they say something."""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


PROMPT_COLUMNS = (
    Column("perplexity", "perplexity", perplexity_text),
    Column("bits per byte", "bits_per_byte", decimals(3)),
    Column("BLEU", "bleu", decimals(3)),
    Column("ROUGE-1", "rouge1", decimals(3)),
    Column("ROUGE-2", "rouge2", decimals(3)),
    Column("ROUGE-L", "rougeL", decimals(3)),
    Column("sacrebleu", "sacrebleu", decimals(1)),
)
NUMBER_COLUMNS = (
    Column("restate the problem", "restatement_share", _percent),
    Column("of these: every number", "all_numbers_share", _percent),
    Column("no foreign number", "no_foreign_number_share", _percent),
)
CHAT_COLUMNS = (
    Column("chats a split", "conversations", decimals(0)),
    Column("user turns", "user_turns", decimals(2)),
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
    """What is printed: correlation, error, floors and ceilings, gaps, first prompts, numbers, chats."""
    estimates = [table.estimates() for table in tables]
    labels = row_labels(tables, estimates)
    grids = [
        _assistant_grid("Correlation with people's accuracy (Pearson, per question)", "pearson", estimates, labels),
        _assistant_grid("Mean absolute error of accuracy (per question)", "mae", estimates, labels),
        *map(bounds_grid, tables),
        *map(gap_grid, tables),
        _metric_grid("Perplexity of people's turns, and overlap of first prompts", PROMPT_COLUMNS, estimates, labels),
        _metric_grid("Numbers in first prompts", NUMBER_COLUMNS, estimates, labels),
        _metric_grid("How the chats went", CHAT_COLUMNS, estimates, labels),
    ]
    return [grid for grid in grids if grid.rows]


def detail_grids(tables: Sequence[ScoreTable]) -> list[Grid]:
    """What only the Markdown file has besides: conditions and subsets, and where the uncertainty comes from."""
    grids = [grid for table in tables for grid in (part_grid(table), cause_grid(table))]
    return [grid for grid in grids if grid.rows]


Estimates = dict[Row, Estimate]
Label = tuple[str, int, str]
"""(text, index of the table, source)."""


def row_labels(tables: Sequence[ScoreTable], estimates: Sequence[Estimates]) -> list[Label]:
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
        (text, *(cell_text(estimates[index].get((name, source, metric)), decimals(3)) for name in columns))
        for text, index, source in labels
    ]
    shown = {EVERY_ASSISTANT: "all pairs"}
    header = ("", *(shown.get(name, name) for name in columns))
    return Grid(title, header, tuple(row for row in rows if set(row[1:]) != {EMPTY}))


def _metric_grid(
    title: str, columns: Sequence[Column], estimates: Sequence[Estimates], labels: Sequence[Label]
) -> Grid:
    order = {PEOPLE: 0, FINE_TUNED: 1, UNTRAINED: 2, QUESTION_COPIED: 3}
    rows = [
        (text, *(cell_text(estimates[index].get((EVERY_ASSISTANT, source, c.metric)), c.show) for c in columns))
        for text, index, source in sorted(labels, key=lambda label: order.get(label[2], 4))
        if source in order
    ]
    filled = tuple(row for row in rows if set(row[1:]) != {EMPTY})
    return upright(Grid(title, ("", *(c.header for c in columns)), filled))


def cell_text(estimate: Estimate | None, show: Format) -> str:
    """Mean ± standard error over splits, each shown by `show`."""
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
    ceilings = [ceilings_note(table)] if table.bounds() else []
    return [f"{table.model}: {_error_note(table)}", *_interval_note(table), *ceilings, *undefined, *table.notes, signed]


def _interval_note(table: ScoreTable) -> list[str]:
    told = table.signature.get("resampling")
    if not table.uncertainty.intervals:
        return []
    return [f"intervals: {told}; the trained simulators and the splits are taken as they are"]


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
    grids = [*score_grids(tables), *detail_grids(tables), *([published_grid()] if with_published else [])]
    notes = [f"- {line}" for table in tables for line in footnotes(table)]
    if with_published:
        notes.append(f"- reference rows: {published().source}")
    return "\n\n".join([*map(markdown, grids), "\n".join(notes)]) + "\n"


def print_tables(tables: Sequence[ScoreTable], console: Console | None = None, *, with_published: bool = False) -> None:
    """Prints all grids and footnotes."""
    grids = [*score_grids(tables), *([published_grid()] if with_published else [])]
    print_grids(grids, [line for table in tables for line in footnotes(table)], console)
