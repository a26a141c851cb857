r"""The floor and the ceiling of a simulator's figures: what needs no simulator, and what no simulator can pass.

| figures | floor | ceiling |
|---|---|---|
| agreement | the best of baselines and untrained simulator | human noise ceiling for its number of chats |
| overlap of first prompts | the untrained simulator | people against people |
| perplexity, bits per byte | the untrained simulator | unknown: nobody knows how predictable people are |

A bias has neither. How far a score is on the way is (score - floor) / (ceiling - floor), which exists where the ceiling
is the better of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import (
    AI_ALONE,
    CONSTANT,
    DROPPED,
    FINE_TUNED,
    PEOPLE,
    REGRESSION,
    TEXT_METRICS,
    UNTRAINED,
    USER_ALONE,
    Row,
    ceiling_source,
    first_chats_source,
)
from chatbench.measures.uncertainty import Estimate

HIGHER_IS_BETTER = ("pearson", "spearman", *TEXT_METRICS, "sacrebleu")
BOUNDED_AGREEMENT = ("pearson", "spearman", "mae", "rmse", "ece")
SURPRISE = ("perplexity", "bits_per_byte")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Floor, whose it is, and ceiling of one figure."""

    floor: Value
    floor_source: str
    ceiling: Value
    higher_is_better: bool

    def way(self, score: Value) -> Value:
        """How far the score is on the way from floor to ceiling: 0 at the floor, 1 at the ceiling."""
        for value in (score, self.floor, self.ceiling):
            if isinstance(value, Undefined):
                return value
        low, high, at = (cast(float, value) for value in (self.floor, self.ceiling, score))
        if (high > low) != self.higher_is_better or high == low:
            return Undefined("the ceiling is no better than the floor")
        return (at - low) / (high - low)


def bounds(estimates: Mapping[Row, Estimate], signature: Mapping[str, object]) -> dict[Row, Bounds]:
    """Floor and ceiling of every figure of a simulator that has them.

    Args:
        estimates: of one part, baselines and ceilings included.
        signature: holds the numbers of chats per cell.
    """
    chats = _chats(signature)
    found: dict[Row, Bounds] = {}
    for row in estimates:
        assistant, source, metric = row
        if source not in chats:
            continue
        higher = metric in HIGHER_IS_BETTER
        if metric in BOUNDED_AGREEMENT:
            floor, floor_source = _best_baseline(estimates, row)
            ceiling = _mean(estimates, (assistant, ceiling_source(chats[source]), metric))
            found[row] = Bounds(floor, floor_source, ceiling, higher)
        elif higher:
            found[row] = Bounds(*_untrained(estimates, row), _mean(estimates, (assistant, PEOPLE, metric)), higher)
        elif metric.startswith(SURPRISE):
            unknown = Undefined("nobody knows how predictable people are")
            found[row] = Bounds(*_untrained(estimates, row), unknown, higher)
    return found


def _chats(signature: Mapping[str, object]) -> dict[str, int]:
    """Chats per cell of every simulator in the table."""
    counts = {FINE_TUNED: signature.get("conversations"), UNTRAINED: signature.get("conversations_untrained")}
    found = {source: count for source, count in counts.items() if isinstance(count, int) and count > 0}
    if UNTRAINED in found:
        found[first_chats_source(FINE_TUNED, found[UNTRAINED])] = found[UNTRAINED]
    return {**found, **{source + DROPPED: count for source, count in found.items()}}


def _is_baseline(source: str) -> bool:
    return source in (CONSTANT, REGRESSION, USER_ALONE, UNTRAINED) or source.startswith(AI_ALONE)


def _mean(estimates: Mapping[Row, Estimate], row: Row) -> Value:
    return estimates[row].mean if row in estimates else Undefined("it was not measured")


def _untrained(estimates: Mapping[Row, Estimate], row: Row) -> tuple[Value, str]:
    assistant, source, metric = row
    if source == UNTRAINED:
        return Undefined("it is the floor itself"), ""
    if (assistant, UNTRAINED, metric) not in estimates:
        return Undefined("the untrained model was not measured"), ""
    return estimates[assistant, UNTRAINED, metric].mean, UNTRAINED


def _best_baseline(estimates: Mapping[Row, Estimate], row: Row) -> tuple[Value, str]:
    assistant, source, metric = row
    known = {
        rival: estimate.mean
        for (name, rival, measured), estimate in estimates.items()
        if (name, measured) == (assistant, metric)
        and _is_baseline(rival)
        and rival != source.removesuffix(DROPPED)
        and not isinstance(estimate.mean, Undefined)
    }
    if not known:
        return Undefined("no baseline has one"), ""
    best = (max if metric in HIGHER_IS_BETTER else min)(known, key=lambda rival: known[rival])
    return known[best], best
