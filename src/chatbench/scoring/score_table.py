r"""The score table of one model: metrics of every split, their means, and the signature of what was scored.

Tables may be shown side by side only if their signatures differ in nothing but the simulator (`comparable`).

A simulator's metrics have a floor, reached without fine-tuning, and a ceiling, reached by as many other people as there
are chats. A prediction without the sampling noise of chats can exceed that ceiling.

| metrics | floor | ceiling |
|---|---|---|
| agreement | the best of baselines and base model | human noise ceiling for its number of chats |
| overlap of first prompts | the base model | human prompts against human prompts |
| perplexity, bits per byte | the base model | unknown: nobody knows how predictable people are |

Bias has neither. Only a predictor of all pairs that the simulator is scored on can be the floor: fewer pairs may be
easier. The normalised score is (score - floor) / (ceiling - floor), defined if the ceiling is better than the
floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.estimates import Estimate, over_splits
from chatbench.metrics.names import (
    BASE_MODEL,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    TEXT_METRICS,
    WHOLE,
    MetricKey,
    Predictor,
    ceiling,
)
from chatbench.metrics.uncertainty import Uncertainty
from chatbench.scoring.signature import incompatible, signature_id

HIGHER_IS_BETTER = ("pearson", "spearman", *TEXT_METRICS, "sacrebleu")
BOUNDED_AGREEMENT = ("pearson", "spearman", "mae", "rmse", "ece")
SURPRISE = ("perplexity", "bits_per_byte")
MOST = 0.5
"""The score table begins with a warning if more than this share of chats has no answer."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Floor (and its predictor) and ceiling of one metric; `partial` predictors cover too few pairs to be the floor."""

    floor: Value
    floor_predictor: Predictor | None
    ceiling: Value
    higher_is_better: bool
    partial: tuple[Predictor, ...] = ()

    @property
    def floor_label(self) -> str:
        """Label of the floor's predictor; empty if there is none."""
        return self.floor_predictor.label if self.floor_predictor else ""

    def way(self, score: Value) -> Value:
        """Normalised score: 0 at the floor, 1 at the ceiling."""
        for value in (score, self.floor, self.ceiling):
            if isinstance(value, Undefined):
                return value
        low, high, at = (cast(float, value) for value in (self.floor, self.ceiling, score))
        if (high > low) != self.higher_is_better or high == low:
            return Undefined("the ceiling is no better than the floor")
        return (at - low) / (high - low)


def bounds(estimates: Mapping[MetricKey, Estimate], signature: Mapping[str, object]) -> dict[MetricKey, Bounds]:
    """Compute the floor and ceiling of every simulator metric that has them.

    Args:
        estimates: of one stratum, including baselines and ceilings.
        signature: has the numbers of chats per pair.
    """
    chats = _chats(signature)
    found: dict[MetricKey, Bounds] = {}
    for row in estimates:
        assistant, predictor, metric = row
        if predictor not in chats:
            continue
        higher = metric in HIGHER_IS_BETTER
        if metric in BOUNDED_AGREEMENT:
            floor, floor_predictor, partial = _best_baseline(estimates, row)
            top = _mean(estimates, (assistant, ceiling(chats[predictor]), metric))
            found[row] = Bounds(floor, floor_predictor, top, higher, partial)
        elif higher:
            found[row] = Bounds(*_base_model(estimates, row), _mean(estimates, (assistant, PEOPLE, metric)), higher)
        elif metric.startswith(SURPRISE):
            unknown = Undefined("nobody knows how predictable people are")
            found[row] = Bounds(*_base_model(estimates, row), unknown, higher)
    return found


def _chats(signature: Mapping[str, object]) -> dict[Predictor, int]:
    """Chats per pair of every simulator in the table and of its variants."""
    counts = {FINE_TUNED: signature.get("conversations"), BASE_MODEL: signature.get("base_conversations")}
    found = {predictor: count for predictor, count in counts.items() if isinstance(count, int) and count > 0}
    if BASE_MODEL in found:
        found[replace(FINE_TUNED, chats=found[BASE_MODEL])] = found[BASE_MODEL]
    return found | {replace(predictor, invalid="dropped"): count for predictor, count in found.items()}


def _mean(estimates: Mapping[MetricKey, Estimate], key: MetricKey) -> Value:
    return estimates[key].mean if key in estimates else Undefined("it was not measured")


def _base_model(estimates: Mapping[MetricKey, Estimate], key: MetricKey) -> tuple[Value, Predictor | None]:
    assistant, predictor, metric = key
    if predictor == BASE_MODEL:
        return Undefined("it is the floor itself"), None
    if (assistant, BASE_MODEL, metric) not in estimates:
        return Undefined("the base model was not measured"), None
    return estimates[assistant, BASE_MODEL, metric].mean, BASE_MODEL


def _best_baseline(
    estimates: Mapping[MetricKey, Estimate], key: MetricKey
) -> tuple[Value, Predictor | None, tuple[Predictor, ...]]:
    """The floor, its predictor, and the predictors left out because they do not cover all the simulator's pairs."""
    assistant, predictor, metric = key
    simulator = replace(predictor, invalid="counted wrong")
    known = {
        other: estimate.mean
        for (name, other, measured), estimate in estimates.items()
        if (name, measured) == (assistant, metric)
        and (other.is_baseline or other == BASE_MODEL)
        and other != simulator
        and not isinstance(estimate.mean, Undefined)
    }
    wanted = _questions(estimates, assistant, simulator)
    partial = tuple(other for other in known if _questions(estimates, assistant, other) != wanted)
    covering = {other: value for other, value in known.items() if other not in partial}
    if not covering:
        reason = "no baseline covers all the simulator's pairs" if partial else "no baseline has a value"
        return Undefined(reason), None, partial
    best = (max if metric in HIGHER_IS_BETTER else min)(covering, key=covering.__getitem__)
    return covering[best], best, partial


def _questions(
    estimates: Mapping[MetricKey, Estimate], assistant: str, predictor: Predictor
) -> tuple[Value, int] | None:
    """Mean number of pairs and number of splits of a row; the mean of assistants has those of all pairs."""
    name = EVERY_ASSISTANT if assistant == MEAN_OF_ASSISTANTS else assistant
    found = estimates.get((name, predictor, "questions"))
    return (found.mean, found.n) if found else None


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one split, on all its pairs or on a stratum (a condition or a subset)."""

    split: str
    assistant: str
    predictor: Predictor
    metric: str
    value: Value
    stratum: str = WHOLE

    @property
    def key(self) -> MetricKey:
        return self.assistant, self.predictor, self.metric


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """All metrics of one model over `splits`.

    `train_questions` and `test_questions` are means over the splits; `scored_questions` is the number of distinct
    questions behind the agreement metrics.
    """

    model: str
    splits: tuple[str, ...]
    train_questions: float
    test_questions: float
    scores: tuple[Score, ...]
    signature: Mapping[str, object]
    notes: tuple[str, ...] = ()
    uncertainty: Uncertainty = field(default_factory=Uncertainty)
    scored_questions: int = 0

    @property
    def signature_id(self) -> str:
        return signature_id(self.signature)

    @property
    def signature_with_splits(self) -> dict[str, object]:
        return {"splits": list(self.splits), **self.signature}

    @property
    def simulator(self) -> Predictor:
        """The scored simulator, including its name."""
        return next((score.predictor for score in self.scores if score.predictor == FINE_TUNED), FINE_TUNED)

    @property
    def warning(self) -> str:
        """Warning that most chats have no answer; empty if most have one."""
        found = self.estimates().get((EVERY_ASSISTANT, self.simulator, "without_answer_share"))
        if found is None or isinstance(found.mean, Undefined) or found.mean <= MOST:
            return ""
        return (
            f"{self.model}: {found.mean:.0%} of the chats of {self.simulator} have no valid answer, so no score says "
            "how well it predicts people; chatbench export shows how the chats end"
        )

    @property
    def strata(self) -> list[str]:
        """Names of the strata, beginning with `WHOLE`."""
        return list(dict.fromkeys((WHOLE, *(score.stratum for score in self.scores))))

    def values(self, stratum: str = WHOLE) -> dict[MetricKey, dict[str, Value]]:
        """Value per split of every row of a stratum, in the order of the scores."""
        rows: dict[MetricKey, dict[str, Value]] = {}
        for score in self.scores:
            if score.stratum == stratum:
                rows.setdefault(score.key, {})[score.split] = score.value
        return rows

    def estimates(self, stratum: str = WHOLE) -> dict[MetricKey, Estimate]:
        """Mean and standard errors over splits of every row of a stratum."""
        return {
            row: over_splits(
                list(values.values()), train_questions=self.train_questions, test_questions=self.test_questions
            )
            for row, values in self.values(stratum).items()
        }

    def bounds(self, stratum: str = WHOLE) -> dict[MetricKey, Bounds]:
        """Floor and ceiling of the simulators' rows of a stratum."""
        return bounds(self.estimates(stratum), self.signature)


def signature_line(signature: Mapping[str, object]) -> str:
    """Format a signature on one line, with hashes cut to 12 digits and nested entries (per split, ...) omitted.

    >>> signature_line({"study": "sample", "split_seed": 0, "weights": {"split_0": "ab"}})
    'study:sample|split_seed:0'
    """
    simulator = signature.get("simulator")
    if isinstance(simulator, Mapping):
        signature = {**signature, **{f"simulator.{name}": value for name, value in simulator.items()}}
    strata = {name: value for name, value in signature.items() if not isinstance(value, dict | list)}
    return "|".join(f"{name}:{str(value)[:12] if name.endswith('sha256') else value}" for name, value in strata.items())


def comparable(tables: Sequence[ScoreTable]) -> None:
    """Check that score tables are of the same data, splits, protocol and assistants.

    Raises:
        ChatbenchError: the signatures differ in more than the simulator, or the scored splits differ.
    """
    first = tables[0]
    for other in tables[1:]:
        for found in incompatible(first.signature_with_splits, other.signature_with_splits):
            raise ChatbenchError(
                f"{first.model} and {other.model} differ in {found.name}: {found.one} and {found.other}",
                expected="scores of the same data, splits and protocol in one table",
                fix="score both on the same data, splits and settings, or show them in two tables: "
                f"chatbench show {first.model}; chatbench show {other.model}",
            )
