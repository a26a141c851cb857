"""Tables that take a score apart: between floor and ceiling, gaps between assistants, parts, causes of uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import (
    CONDITION,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    SUBSET,
    UNTRAINED,
    WHOLE,
    ceiling_source,
)
from chatbench.measures.intervals import Bound
from chatbench.measures.spread import CAUSES, Spread
from chatbench.measures.uncertainty import Estimate
from chatbench.steps.grids import EMPTY, Grid
from chatbench.steps.score_table import ScoreTable

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
    for source in (s for s in sources if s in (PEOPLE, FINE_TUNED, UNTRAINED)):
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
