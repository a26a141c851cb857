"""The scores of one model: figures of every split, their means, and the signature that says what they are figures of.

Files: `results/scores/<key>.json` (everything), `.csv` (long form, one figure a line). Two tables may stand side by
side only where `comparable` finds nothing that differs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole, write_text_whole
from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.uncertainty import Estimate, over_splits

SHARED_BY_ALL_MODELS = (
    "study",
    "question_set_sha256",
    "split_seed",
    "train_share",
    "protocol",
    "max_user_turns",
    "conversations",
    "assistants",
)
"""Parts of a signature that two models must have in common to be compared."""

Row = tuple[str, str, str]
"""(assistant, source, metric)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of one split."""

    split: str
    assistant: str
    source: str
    metric: str
    value: Value

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

    @property
    def signature_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the signature."""
        text = json.dumps(self.signature, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def values(self) -> dict[Row, dict[str, Value]]:
        """Value per split of every row, in the order of the scores."""
        rows: dict[Row, dict[str, Value]] = {}
        for score in self.scores:
            rows.setdefault(score.row, {})[score.split] = score.value
        return rows

    def estimates(self) -> dict[Row, Estimate]:
        """Mean and standard errors over splits of every row."""
        return {
            row: over_splits(
                list(values.values()), train_questions=self.train_questions, test_questions=self.test_questions
            )
            for row, values in self.values().items()
        }


def signature_line(signature: Mapping[str, object]) -> str:
    """A signature on one line, hashes shortened to 12 digits, parts that differ per split left to the JSON file.

    >>> signature_line({"study": "sample", "split_seed": 0, "weights": {"split_0": "ab"}})
    'study:sample|split_seed:0'
    """
    parts = {name: value for name, value in signature.items() if not isinstance(value, dict | list)}
    return "|".join(f"{name}:{str(value)[:12] if name.endswith('sha256') else value}" for name, value in parts.items())


def write_score_table(folder: Path, key: str, table: ScoreTable) -> None:
    """Writes `<key>.json` and `<key>.csv`."""
    write_json_whole(folder / f"{key}.json", _as_json(table))
    write_text_whole(folder / f"{key}.csv", as_csv(table))


def _as_json(table: ScoreTable) -> dict[str, object]:
    estimates = table.estimates()
    figures = [
        {
            "assistant": row[0],
            "source": row[1],
            "metric": row[2],
            "per_split": {split: value_as_json(value) for split, value in values.items()},
            **{name: value_as_json(value) for name, value in _named(estimates[row]).items()},
            "splits": estimates[row].n,
        }
        for row, values in table.values().items()
    ]
    return {
        "model": table.model,
        "signature_id": table.signature_id,
        "signature": dict(table.signature),
        "notes": list(table.notes),
        "splits": list(table.splits),
        "train_questions": table.train_questions,
        "test_questions": table.test_questions,
        "figures": figures,
    }


def _named(estimate: Estimate) -> dict[str, Value]:
    return {
        "mean": estimate.mean,
        "standard_error": estimate.standard_error,
        "corrected_standard_error": estimate.corrected_error,
    }


def value_as_json(value: Value) -> object:
    """A number as it is, an undefined value as an object with its reason."""
    return {"undefined": value.reason} if isinstance(value, Undefined) else value


def as_csv(table: ScoreTable) -> str:
    """Long form: split, assistant, source, metric, value (empty where undefined), why undefined, signature id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "assistant", "source", "metric", "value", "undefined_because", "signature_id"])
    for score in table.scores:
        known = not isinstance(score.value, Undefined)
        shown = [repr(score.value), ""] if known else ["", cast(Undefined, score.value).reason]
        writer.writerow([score.split, *score.row, *shown, table.signature_id])
    return text.getvalue()


def read_score_table(folder: Path, key: str) -> ScoreTable:
    """The table that `write_score_table` wrote.

    Raises:
        ChatbenchError: there is none, or it is not a scores file.
    """
    path, fix = folder / f"{key}.json", f"chatbench eval-chatbench {key}"
    content = read_json(path, fix=fix)
    try:
        return _table_from_json(cast(Mapping[str, object], content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="a scores file of this version", fix=fix) from error


def _table_from_json(content: Mapping[str, object]) -> ScoreTable:
    figures = cast(list[Mapping[str, object]], content["figures"])
    splits = tuple(cast(list[str], content["splits"]))
    rows = [
        (str(f["assistant"]), str(f["source"]), str(f["metric"]), cast(Mapping[str, object], f["per_split"]))
        for f in figures
    ]
    scores = tuple(
        Score(split, assistant, source, metric, _value_from_json(values[split]))
        for split in splits
        for assistant, source, metric, values in rows
        if split in values
    )
    return ScoreTable(
        model=str(content["model"]),
        splits=splits,
        train_questions=float(cast(float, content["train_questions"])),
        test_questions=float(cast(float, content["test_questions"])),
        scores=scores,
        signature=cast(Mapping[str, object], content["signature"]),
        notes=tuple(cast(list[str], content["notes"])),
    )


def _value_from_json(value: object) -> Value:
    return Undefined(str(value["undefined"])) if isinstance(value, dict) else float(cast(float, value))


def comparable(tables: list[ScoreTable]) -> None:
    """Refuses to put tables beside each other whose figures are of different data or protocols.

    Raises:
        ChatbenchError: a part of the signature in `SHARED_BY_ALL_MODELS` differs, or the scored splits do.
    """
    first = tables[0]
    for other in tables[1:]:
        mine = {**_shared(first), "splits": first.splits}
        theirs = {**_shared(other), "splits": other.splits}
        for name, value in mine.items():
            if theirs[name] != value:
                raise ChatbenchError(
                    f"{first.model} and {other.model} differ in {name}: {value} and {theirs[name]}",
                    expected="scores of the same data, splits and protocol in one table",
                    fix="score both models on the same data folder, or show them in two tables",
                )


def _shared(table: ScoreTable) -> dict[str, object]:
    return {name: table.signature.get(name) for name in SHARED_BY_ALL_MODELS}
