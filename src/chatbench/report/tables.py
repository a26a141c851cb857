"""The main table: perplexity, overlap and agreement of simulators beside people, baselines, ceilings, published rows.

`main_figures` gives its figures unrounded; the terminal, the page, CSV, JSON and LaTeX all show these.

Tables that take a score apart: between floor and ceiling, gaps between assistants, parts, causes of uncertainty.

A comparison as tables for the terminal and as JSON.

The tables of scores, for the terminal and for Markdown: one set of grids, drawn twice.

A cell is `mean ± standard error` over splits, without the error where there is one split, and in words where the value
does not exist. Baselines that are the same for all models stand there once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatbench.core.files import Row, write_json, write_text
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.baselines import published
from chatbench.metrics.estimates import Estimate
from chatbench.metrics.intervals import Bound
from chatbench.metrics.names import (
    BASE_MODEL,
    CEILING,
    CONDITION,
    DROPPED,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    QUESTION_COPIED,
    SUBSET,
    TEXT_METRICS,
    UNLIMITED,
    WHOLE,
    MetricKey,
    ceiling_source,
)
from chatbench.metrics.uncertainty import CAUSES, Spread
from chatbench.report.grids import EMPTY, Grid, markdown, print_grids, upright
from chatbench.scoring.compare import ComparedFigure, Comparison
from chatbench.scoring.score_files import bound_as_json, read_score_table, value_as_json
from chatbench.scoring.score_table import Bounds, ScoreTable, comparable, signature_line
from chatbench.scoring.signature import resampling_text

if TYPE_CHECKING:
    from rich.console import Console

Format = Callable[[float], str]

AGREEMENT = {"pearson": "correlation", "spearman": "rank correlation", "mae": "mean absolute error",
             "rmse": "root mean square error", "ece": "calibration error"}  # fmt: skip
TEXTS = {"bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
         "perplexity": "perplexity", "bits_per_byte": "bits per byte"}  # fmt: skip
BAR = 10


def value_text(value: Value, digits: int = 3) -> str:
    """A number, or that it is undefined."""
    return "undefined" if isinstance(value, Undefined) else f"{value:.{digits}f}"


def interval_text(bound: Bound | None, digits: int = 3) -> str:
    """`0.412 to 0.655`."""
    return (
        EMPTY if bound is None or isinstance(bound, Undefined) else f"{bound.low:.{digits}f} to {bound.high:.{digits}f}"
    )


def way_text(way: Value) -> str:
    """How far a score is from floor to ceiling: a bar, which ends at both, and the percentage, which may not.

    >>> way_text(0.42), way_text(-0.3)
    ('████······ 42 %', '·········· -30 %')
    """
    if isinstance(way, Undefined):
        return EMPTY
    full = round(BAR * min(1.0, max(0.0, way)))
    return f"{'█' * full}{'·' * (BAR - full)} {100 * way:.0f} %"


def together(table: ScoreTable, part: str = WHOLE) -> str:
    """The row of all assistants: their mean where there are several, so that their difference is not scored."""
    several = any(score.assistant == MEAN_OF_ASSISTANTS and score.part == part for score in table.scores)
    return MEAN_OF_ASSISTANTS if several else EVERY_ASSISTANT


def bounds_grid(table: ScoreTable, source: str = FINE_TUNED) -> Grid:
    """Every score of a simulator between its floor and its ceiling."""
    assistant = together(table)
    rows = [((assistant, source, metric), shown) for metric, shown in AGREEMENT.items()]
    rows += [((EVERY_ASSISTANT, source, metric), shown) for metric, shown in TEXTS.items()]
    estimates, bounds = table.estimates(), table.bounds()
    intervals = table.uncertainty.intervals.get(WHOLE, {})
    lines = [
        (
            shown,
            value_text(estimates[row].mean),
            interval_text(intervals.get(row)),
            value_text(bounds[row].floor),
            value_text(bounds[row].ceiling),
            way_text(bounds[row].way(estimates[row].mean)),
            bounds[row].floor_source.replace("_", " ") or EMPTY,
        )
        for row, shown in rows
        if row in bounds
    ]
    whose = f" ({assistant})" if assistant == MEAN_OF_ASSISTANTS else ""
    return Grid(
        f"{table.model}, {source}: scores between floor and ceiling{whose}",
        ("", "score", "interval", "floor", "ceiling", "from floor to ceiling", "the floor is"),
        tuple(lines),
    )


def gap_grid(table: ScoreTable) -> Grid:
    """How much more often people are right with one assistant than with another, and how much simulated ones are."""
    estimates, intervals = table.estimates(), table.uncertainty.intervals.get(WHOLE, {})
    pairs = list(dict.fromkeys(row[0] for row in estimates if row[2] == "gap"))
    sources = list(dict.fromkeys(row[1] for row in estimates if row[2] == "gap"))
    lines = []
    for source in (s for s in sources if s in (PEOPLE, FINE_TUNED, BASE_MODEL)):
        cells = []
        for pair in pairs:
            row = (pair, source, "gap")
            bound = intervals.get(row)
            shown = value_text(estimates[row].mean) if row in estimates else EMPTY
            cells.append(
                shown if bound is None or isinstance(bound, Undefined) else f"{shown} ({interval_text(bound)})"
            )
        lines.append((source, *cells))
    return Grid(f"{table.model}: gap in accuracy between assistants", ("", *pairs), tuple(lines))


def part_grid(table: ScoreTable) -> Grid:
    """Agreement of the fine-tuned simulator on each condition and subset."""
    return Grid(
        f"{table.model}, {FINE_TUNED}: agreement by condition and subset",
        ("", "pairs", "people", "simulated", "mean absolute error", "ceiling", "correlation", "ceiling"),
        tuple(_part_rows(table)),
    )


def _part_rows(table: ScoreTable) -> Iterator[tuple[str, ...]]:
    for part in table.parts:
        estimates, bounds = table.estimates(part), table.bounds(part)
        intervals = table.uncertainty.intervals.get(part, {})
        assistant = together(table, part)

        def shown(metric: str, source: str = FINE_TUNED, digits: int = 3, name: str = EVERY_ASSISTANT) -> str:
            found = estimates.get((name, source, metric))  # noqa: B023  (called in this turn of the loop only)
            return EMPTY if found is None else value_text(found.mean, digits)

        cells = []
        for metric in ("mae", "pearson"):
            row = (assistant, FINE_TUNED, metric)
            bound = interval_text(intervals.get(row))
            score = shown(metric, name=assistant)
            cells.append(score if bound == EMPTY else f"{score} ({bound})")
            cells.append(value_text(bounds[row].ceiling) if row in bounds else EMPTY)
        name = part.removeprefix(CONDITION).removeprefix(SUBSET).replace("_", " ") or "everything"
        yield (name, shown("questions", digits=0), shown("accuracy", PEOPLE), shown("accuracy"), *cells)


def cause_grid(table: ScoreTable) -> Grid:
    """Standard errors of the fine-tuned simulator's scores, and how much of them is due to what."""
    assistant = together(table)
    estimates, intervals = table.estimates(), table.uncertainty.intervals.get(WHOLE, {})
    lines = []
    for metric, shown in {**AGREEMENT, "bias": "bias"}.items():
        row = (assistant, FINE_TUNED, metric)
        spread = table.uncertainty.spreads.get(row)
        if spread is None or isinstance(spread, Undefined) or row not in estimates:
            continue
        bound = intervals.get(row)
        over_questions = EMPTY if bound is None or isinstance(bound, Undefined) else f"{bound.standard_error:.4f}"
        lines.append((shown, *_causes(spread), over_questions, *_over_splits(estimates[row])))
    header = ("", *CAUSES, "all", "bootstrap over questions", "over splits", "over splits, corrected")
    return Grid(f"{table.model}, {FINE_TUNED}: standard errors by cause", header, tuple(lines))


def _causes(spread: Spread) -> Iterator[str]:
    for cause in CAUSES:
        yield deviation_text(spread.by_cause[cause]) if cause in spread.by_cause else EMPTY
    yield deviation_text(spread.total)


def deviation_text(variance: float) -> str:
    """The standard deviation of an estimated variance, which may have come out negative.

    >>> deviation_text(0.0004), deviation_text(-0.0004)
    ('0.0200', 'not above 0')
    """
    return f"{math.sqrt(variance):.4f}" if variance >= 0 else "not above 0"


def _over_splits(estimate: Estimate) -> Sequence[str]:
    return value_text(estimate.standard_error, 4), value_text(estimate.corrected_error, 4)


def ceilings_note(table: ScoreTable) -> str:
    """What the ceilings are."""
    chats = table.signature.get("conversations")
    count = chats if isinstance(chats, int) else None
    return (
        f"{ceiling_source(count)}: as well as other people, {count} chats per question and assistant, would agree with "
        "the people of the study; no simulator can be expected to do better"
    )


NAMES = {**AGREEMENT, "bias": "bias", **TEXTS}


def comparison_grids(comparison: Comparison) -> list[Grid]:
    """One grid per pair of runs: each figure of both, the difference, its interval and p-value."""
    several = len({(figure.first, figure.second) for figure in comparison.figures}) > 1
    header = ("", "of", "first", "second", "difference", "interval", "p", *(("p, Holm",) if several else ()))
    pairs = dict.fromkeys((figure.first, figure.second) for figure in comparison.figures)
    return [
        Grid(
            _title(comparison, pair),
            header,
            tuple(_line(figure, several) for figure in _ordered(comparison, pair)),
        )
        for pair in pairs
    ]


def _title(comparison: Comparison, pair: tuple[str, str]) -> str:
    ignored = comparison.ignored.get(pair, ())
    warning = f" (UNLIKE IN {', '.join(each.name for each in ignored)})" if ignored else ""
    return f"{pair[0]} (first) and {pair[1]} (second){warning}"


def _ordered(comparison: Comparison, pair: tuple[str, str]) -> list[ComparedFigure]:
    of_pair = [figure for figure in comparison.figures if (figure.first, figure.second) == pair]
    return sorted(of_pair, key=lambda figure: list(NAMES).index(figure.metric))


def _line(figure: ComparedFigure, several: bool) -> tuple[str, ...]:
    found = figure.found
    shown = (
        "all pairs" if figure.assistant == EVERY_ASSISTANT and figure.metric not in TEXT_METRICS else figure.assistant
    )
    return (
        NAMES[figure.metric],
        shown,
        value_text(found.first),
        value_text(found.second),
        value_text(found.difference),
        interval_text(found.interval),
        p_text(found.p),
        *((p_text(figure.holm_p),) if several else ()),
    )


def p_text(p: Value) -> str:
    """Three decimals, more would be made up by the number of exchanges; never 0, which no p-value is.

    >>> p_text(0.0004), p_text(0.0312)
    ('< 0.001', '0.031')
    """
    if isinstance(p, Undefined):
        return EMPTY
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the figures; what was ignored comes first."""
    ignored = [
        f"IGNORED: {first} and {second} differ in {difference}"
        for (first, second), differences in comparison.ignored.items()
        for difference in differences
    ]
    undefined = {
        f"undefined: {figure.found.difference.reason}: {NAMES[figure.metric]}, {figure.assistant}"
        for figure in comparison.figures
        if isinstance(figure.found.difference, Undefined)
    }
    return [
        *ignored,
        f"{comparison.questions} questions, {comparison.pairs_per_split:.0f} pairs of question and assistant a split, "
        f"{len(comparison.splits)} splits; differences are first - second, means over splits",
        f"intervals: {resampling_text(comparison.told)}; p: exchanges of the two simulators by question",
        f"{MEAN_OF_ASSISTANTS}: each assistant's figure weighs the same; all pairs: pooled",
        *sorted(undefined),
        *(f"signature of {run}: {signature_id}" for run, signature_id in comparison.signature_ids.items()),
    ]


def print_comparison(comparison: Comparison) -> None:
    """Prints all pairs and the notes."""
    print_grids(comparison_grids(comparison), comparison_notes(comparison))


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Writes `comparison_json`."""
    write_json(path, comparison_json(comparison))


def comparison_json(comparison: Comparison) -> Row:
    """Everything, with full precision."""
    return {
        "runs": [{"run": run, "signature_id": comparison.signature_ids[run]} for run in comparison.runs],
        "splits": list(comparison.splits),
        "questions": comparison.questions,
        "resampling": resampling_text(comparison.told),
        "ignored": [
            {"first": pair[0], "second": pair[1], "part": each.name, "values": [each.first, each.second]}
            for pair, differences in comparison.ignored.items()
            for each in differences
        ],
        "figures": [
            {
                "first": figure.first,
                "second": figure.second,
                "assistant": figure.assistant,
                "metric": figure.metric,
                "first_value": value_as_json(figure.found.first),
                "second_value": value_as_json(figure.found.second),
                "difference": value_as_json(figure.found.difference),
                "interval": bound_as_json(figure.found.interval),
                "p": value_as_json(figure.found.p),
                "p_holm": value_as_json(figure.holm_p),
            }
            for figure in comparison.figures
        ],
    }


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


def results_table(models: Sequence[str], *, workspace: Workspace) -> list[ScoreTable]:
    """The scores of several models, checked to be of the same data.

    Raises:
        ChatbenchError: a model was not scored, or two tables are of different data, splits or protocol.
    """
    tables = [read_score_table((path := workspace.scores(model)).parent, path.stem) for model in models]
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


Estimates = dict[MetricKey, Estimate]
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
    order = {PEOPLE: 0, FINE_TUNED: 1, BASE_MODEL: 2, QUESTION_COPIED: 3}
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


def write_markdown(table: ScoreTable, workspace: Workspace) -> None:
    """Writes the grids of one model's scores to `results/scores/MODEL.md`."""
    write_text(workspace.scores(table.model, ".md"), f"# Scores of {table.model}\n\n{as_markdown([table])}")


def print_tables(tables: Sequence[ScoreTable], console: Console | None = None, *, with_published: bool = False) -> None:
    """Prints all grids and footnotes."""
    grids = [*score_grids(tables), *([published_grid()] if with_published else [])]
    print_grids(grids, [line for table in tables for line in footnotes(table)], console)


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
    if source.startswith((FINE_TUNED, BASE_MODEL)):
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
