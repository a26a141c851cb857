r"""The scores of one model: figures of every split, their means, and the signature that says what they are figures of.

Two tables may stand side by side only where `comparable` finds nothing that differs but the simulator itself.

The floor and the ceiling of a simulator's figures: what needs no simulator, and what no simulator can pass.

| figures | floor | ceiling |
|---|---|---|
| agreement | the best of baselines and base model | human noise ceiling for its number of chats |
| overlap of first prompts | the base model | people against people |
| perplexity, bits per byte | the base model | unknown: nobody knows how predictable people are |

A bias has neither. How far a score is on the way is (score - floor) / (ceiling - floor), which exists where the ceiling
is the better of the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.estimates import Estimate, over_splits
from chatbench.metrics.names import (
    AI_ALONE,
    BASE_MODEL,
    CONSTANT,
    DROPPED,
    FINE_TUNED,
    PEOPLE,
    REGRESSION,
    TEXT_METRICS,
    USER_ALONE,
    WHOLE,
    MetricKey,
    ceiling_source,
    first_chats_source,
)
from chatbench.metrics.uncertainty import Uncertainty
from chatbench.scoring.signature import differences

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


def bounds(estimates: Mapping[MetricKey, Estimate], signature: Mapping[str, object]) -> dict[MetricKey, Bounds]:
    """Floor and ceiling of every figure of a simulator that has them.

    Args:
        estimates: of one part, baselines and ceilings included.
        signature: holds the numbers of chats per cell.
    """
    chats = _chats(signature)
    found: dict[MetricKey, Bounds] = {}
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
            found[row] = Bounds(*_base_model(estimates, row), _mean(estimates, (assistant, PEOPLE, metric)), higher)
        elif metric.startswith(SURPRISE):
            unknown = Undefined("nobody knows how predictable people are")
            found[row] = Bounds(*_base_model(estimates, row), unknown, higher)
    return found


def _chats(signature: Mapping[str, object]) -> dict[str, int]:
    """Chats per cell of every simulator in the table."""
    counts = {FINE_TUNED: signature.get("conversations"), BASE_MODEL: signature.get("base_conversations")}
    found = {source: count for source, count in counts.items() if isinstance(count, int) and count > 0}
    if BASE_MODEL in found:
        found[first_chats_source(FINE_TUNED, found[BASE_MODEL])] = found[BASE_MODEL]
    return {**found, **{source + DROPPED: count for source, count in found.items()}}


def _is_baseline(source: str) -> bool:
    return source in (CONSTANT, REGRESSION, USER_ALONE, BASE_MODEL) or source.startswith(AI_ALONE)


def _mean(estimates: Mapping[MetricKey, Estimate], row: MetricKey) -> Value:
    return estimates[row].mean if row in estimates else Undefined("it was not measured")


def _base_model(estimates: Mapping[MetricKey, Estimate], row: MetricKey) -> tuple[Value, str]:
    assistant, source, metric = row
    if source == BASE_MODEL:
        return Undefined("it is the floor itself"), ""
    if (assistant, BASE_MODEL, metric) not in estimates:
        return Undefined("the base model was not measured"), ""
    return estimates[assistant, BASE_MODEL, metric].mean, BASE_MODEL


def _best_baseline(estimates: Mapping[MetricKey, Estimate], row: MetricKey) -> tuple[Value, str]:
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


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of one split, on the whole of it or on a part (a condition, a subset)."""

    split: str
    assistant: str
    source: str
    metric: str
    value: Value
    part: str = WHOLE

    @property
    def row(self) -> MetricKey:
        return self.assistant, self.source, self.metric


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """All figures of one model over `splits`; the two counts of questions are means over the splits."""

    model: str
    splits: tuple[str, ...]
    train_questions: float
    test_questions: float
    scores: tuple[Score, ...]
    signature: Mapping[str, object]
    notes: tuple[str, ...] = ()
    uncertainty: Uncertainty = field(default_factory=Uncertainty)

    @property
    def signature_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the signature."""
        text = json.dumps(self.signature, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def parts(self) -> list[str]:
        """Names of the parts, the whole first."""
        return list(dict.fromkeys((WHOLE, *(score.part for score in self.scores))))

    def values(self, part: str = WHOLE) -> dict[MetricKey, dict[str, Value]]:
        """Value per split of every row of a part, in the order of the scores."""
        rows: dict[MetricKey, dict[str, Value]] = {}
        for score in self.scores:
            if score.part == part:
                rows.setdefault(score.row, {})[score.split] = score.value
        return rows

    def estimates(self, part: str = WHOLE) -> dict[MetricKey, Estimate]:
        """Mean and standard errors over splits of every row of a part."""
        return {
            row: over_splits(
                list(values.values()), train_questions=self.train_questions, test_questions=self.test_questions
            )
            for row, values in self.values(part).items()
        }

    def bounds(self, part: str = WHOLE) -> dict[MetricKey, Bounds]:
        """Floor and ceiling of the simulators' rows of a part."""
        return bounds(self.estimates(part), self.signature)


def signature_line(signature: Mapping[str, object]) -> str:
    """A signature on one line, hashes shortened to 12 digits, parts that differ per split left to the JSON file.

    >>> signature_line({"study": "sample", "split_seed": 0, "weights": {"split_0": "ab"}})
    'study:sample|split_seed:0'
    """
    parts = {name: value for name, value in signature.items() if not isinstance(value, dict | list)}
    return "|".join(f"{name}:{str(value)[:12] if name.endswith('sha256') else value}" for name, value in parts.items())


def comparable(tables: Sequence[ScoreTable]) -> None:
    """Refuses to put tables beside each other whose figures are of different data, protocols or assistants.

    Raises:
        ChatbenchError: the signatures differ in more than the simulator, or the scored splits do.
    """
    first = tables[0]
    for other in tables[1:]:
        for found in differences(_signed(first), _signed(other)):
            raise ChatbenchError(
                f"{first.model} and {other.model} differ in {found.name}: {found.first} and {found.second}",
                expected="scores of the same data, splits and protocol in one table",
                fix="score both models on the same data folder, or show them in two tables",
            )


def _signed(table: ScoreTable) -> dict[str, object]:
    return {"splits": list(table.splits), **table.signature}
