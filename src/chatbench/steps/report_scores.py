"""The scores of one run as plain values for the page: every figure that it shows, and the signature in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import CONDITION, FINE_TUNED, PEOPLE, SUBSET, UNTRAINED, WHOLE
from chatbench.measures.intervals import Bound
from chatbench.steps.compare import Comparison
from chatbench.steps.comparison_table import comparison_notes
from chatbench.steps.main_table import kind_of
from chatbench.steps.results_table import footnotes
from chatbench.steps.score_table import ScoreTable, signature_line

PART_METRICS = ("pearson", "mae", "accuracy", "questions")
PART_SOURCES = (PEOPLE, FINE_TUNED, UNTRAINED)
DIGITS = 6
"""Significant digits of what is drawn: more than can be seen, and half the size of all of them."""

Plain = dict[str, object]


def run_scores(table: ScoreTable) -> Plain:
    """What the page knows of one model's scores."""
    return {
        "signature": table.signature_id,
        "line": signature_line(table.signature),
        "facts": [list(fact) for fact in signature_words(table)],
        "notes": [note for note in footnotes(table) if not note.startswith("signature ")],
        "splits": list(table.splits),
        "chats": table.signature.get("conversations"),
        "figures": [figure for part in table.parts for figure in _figures(table, part)],
        "parts": [_part(part) for part in table.parts if part != WHOLE],
    }


def _part(part: str) -> Plain:
    kind = "condition" if part.startswith(CONDITION) else "subset"
    return {"name": part, "kind": kind, "label": part.removeprefix(CONDITION).removeprefix(SUBSET)}


def _figures(table: ScoreTable, part: str) -> Iterator[Plain]:
    """Every row; of a condition or subset only agreement. What a row does not have is not mentioned."""
    estimates, bounds = table.estimates(part), table.bounds(part)
    intervals = table.uncertainty.intervals.get(part, {})
    for row, per_split in table.values(part).items():
        assistant, source, metric = row
        if part != WHOLE and (metric not in PART_METRICS or source not in PART_SOURCES):
            continue
        estimate = estimates[row]
        figure: Plain = {"assistant": assistant, "source": source, "kind": kind_of(source), "metric": metric}
        if part != WHOLE:
            figure["part"] = part
        figure["mean"] = short(estimate.mean)
        if isinstance(estimate.mean, Undefined):
            figure["why"] = estimate.mean.reason
        if not isinstance(estimate.standard_error, Undefined):
            figure["error"] = short(estimate.standard_error)
        figure["perSplit"] = [short(per_split.get(split)) for split in table.splits]
        figure.update(_ends(intervals.get(row)))
        if row in bounds:
            bound = bounds[row]
            figure["floor"], figure["floorSource"] = short(bound.floor), bound.floor_source
            figure["ceiling"], figure["way"] = short(bound.ceiling), short(bound.way(estimate.mean))
        yield figure


def _ends(bound: Bound | None) -> Plain:
    if bound is None or isinstance(bound, Undefined):
        return {}
    return {"low": short(bound.low), "high": short(bound.high)}


def short(value: Value | None) -> float | None:
    """To six significant digits; None where there is no value."""
    return None if value is None or isinstance(value, Undefined) else float(f"{value:.{DIGITS}g}")


def signature_words(table: ScoreTable) -> Iterator[tuple[str, str]]:
    """What the scores are scores of, as (label, sentence)."""
    told = table.signature
    splits = len(table.splits)
    share = told.get("train_share")
    yield "Study", f"{told.get('study')}; question set {str(told.get('question_set_sha256'))[:12]}"
    yield (
        "Splits",
        f"{splits} random split{'s' * (splits != 1)} of the questions, "
        + (f"{100 * share:g} % to train on, " if isinstance(share, float) else "")
        + f"{table.test_questions:g} held out on average (seed {told.get('split_seed')})",
    )
    yield "Simulator", _simulator_words(told)
    yield (
        "Chats",
        f"{told.get('conversations')} per held-out question and assistant, at most {told.get('max_user_turns')} user "
        f"turns, protocol {told.get('protocol')}"
        + (f"; untrained: {told['conversations_untrained']}" if told.get("conversations_untrained") else ""),
    )
    yield (
        "Assistants",
        ", ".join(_assistant_words(cast(Mapping[str, Mapping[str, object]], told.get("assistants", {})))),
    )
    yield "Overlap", f"BLEU: {told.get('bleu')}; ROUGE: {told.get('rouge')}"
    if told.get("resampling") not in (None, "none"):
        yield "Intervals", str(told["resampling"])
    yield "Version", f"chatbench {told.get('chatbench')}"


def _simulator_words(told: Mapping[str, object]) -> str:
    more = [str(told[name]) for name in ("kind", "dtype", "form") if told.get(name)]
    more += [f"temperature {told['temperature']:g}"] if isinstance(told.get("temperature"), int | float) else []
    return ", ".join([str(told.get("model")), *more])


def _assistant_words(assistants: Mapping[str, Mapping[str, object]]) -> Sequence[str]:
    return [name if identity.get("kind") in (None, name) else f"{name} ({identity['kind']})"
            for name, identity in assistants.items()]  # fmt: skip


def comparison_values(found: Comparison) -> Plain:
    """Paired differences of every two runs, first minus second."""
    return {
        "runs": list(found.runs),
        "notes": comparison_notes(found),
        "figures": [
            {
                "first": each.first,
                "second": each.second,
                "assistant": each.assistant,
                "metric": each.metric,
                "values": [short(each.found.first), short(each.found.second)],
                "difference": short(each.found.difference),
                **_ends(each.found.interval),
                "p": short(each.found.p),
                "holm": short(each.holm_p),
            }
            for each in found.figures
        ],
    }
