"""The scores of one model: figures of every split, their means, and the signature that says what they are figures of.

Two tables may stand side by side only where `comparable` finds nothing that differs but the simulator itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chatbench.core.errors import ChatbenchError
from chatbench.measures.agreement import Value
from chatbench.measures.figures import WHOLE, Row
from chatbench.measures.score_uncertainty import Uncertainty
from chatbench.measures.uncertainty import Estimate, over_splits
from chatbench.steps.score_bounds import Bounds, bounds
from chatbench.steps.signature_differences import differences


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
    def row(self) -> Row:
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

    def values(self, part: str = WHOLE) -> dict[Row, dict[str, Value]]:
        """Value per split of every row of a part, in the order of the scores."""
        rows: dict[Row, dict[str, Value]] = {}
        for score in self.scores:
            if score.part == part:
                rows.setdefault(score.row, {})[score.split] = score.value
        return rows

    def estimates(self, part: str = WHOLE) -> dict[Row, Estimate]:
        """Mean and standard errors over splits of every row of a part."""
        return {
            row: over_splits(
                list(values.values()), train_questions=self.train_questions, test_questions=self.test_questions
            )
            for row, values in self.values(part).items()
        }

    def bounds(self, part: str = WHOLE) -> dict[Row, Bounds]:
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
