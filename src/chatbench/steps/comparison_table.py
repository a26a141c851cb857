"""A comparison as tables for the terminal and as JSON."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.files import Row, write_json_whole
from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS, TEXT_METRICS
from chatbench.steps.compare import ComparedFigure, Comparison
from chatbench.steps.detail_grids import AGREEMENT, TEXTS, interval_text, value_text
from chatbench.steps.grids import EMPTY, Grid, print_grids
from chatbench.steps.score_files import bound_as_json, value_as_json
from chatbench.steps.score_signature import resampling_text

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
    write_json_whole(path, comparison_json(comparison))


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
