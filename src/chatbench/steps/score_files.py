"""The scores of one model on disk: `<key>.json` (everything) and `<key>.csv` (long form, one figure a line)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole, write_text_whole
from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.figures import WHOLE, Row
from chatbench.measures.intervals import Bound, Interval
from chatbench.measures.score_uncertainty import Uncertainty
from chatbench.measures.spread import Spread
from chatbench.steps.score_table import Score, ScoreTable

Json = Mapping[str, object]


def write_score_table(folder: Path, key: str, table: ScoreTable) -> None:
    """Writes `<key>.json` and `<key>.csv`."""
    write_json_whole(folder / f"{key}.json", _as_json(table))
    write_text_whole(folder / f"{key}.csv", as_csv(table))


def _as_json(table: ScoreTable) -> dict[str, object]:
    return {
        "model": table.model,
        "signature_id": table.signature_id,
        "signature": dict(table.signature),
        "notes": list(table.notes),
        "splits": list(table.splits),
        "train_questions": table.train_questions,
        "test_questions": table.test_questions,
        "figures": list(_figures(table, WHOLE)),
        "parts": {part: list(_figures(table, part)) for part in table.parts if part != WHOLE},
    }


def _figures(table: ScoreTable, part: str) -> Iterator[dict[str, object]]:
    """Each row of a part with all that is known about it; what it does not have is not mentioned."""
    estimates, bounds = table.estimates(part), table.bounds(part)
    intervals = table.uncertainty.intervals.get(part, {})
    spreads = table.uncertainty.spreads if part == WHOLE else {}
    for row, values in table.values(part).items():
        figure: dict[str, object] = {
            "assistant": row[0],
            "source": row[1],
            "metric": row[2],
            "per_split": {split: value_as_json(value) for split, value in values.items()},
            "mean": value_as_json(estimates[row].mean),
            "standard_error": value_as_json(estimates[row].standard_error),
            "corrected_standard_error": value_as_json(estimates[row].corrected_error),
            "splits": estimates[row].n,
        }
        if row in intervals:
            figure["interval"] = bound_as_json(intervals[row])
        if row in spreads:
            figure["variance_by_cause"] = _spread_as_json(spreads[row])
        if row in bounds:
            figure["floor"] = value_as_json(bounds[row].floor)
            figure["floor_source"] = bounds[row].floor_source
            figure["ceiling"] = value_as_json(bounds[row].ceiling)
        yield figure


def value_as_json(value: Value) -> object:
    """A number as it is, an undefined value as an object with its reason."""
    return {"undefined": value.reason} if isinstance(value, Undefined) else value


def bound_as_json(bound: Bound) -> object:
    """An interval with its standard error and number of questions, or why there is none."""
    return {"undefined": bound.reason} if isinstance(bound, Undefined) else asdict(bound)


def _spread_as_json(spread: Spread | Undefined) -> object:
    return {"undefined": spread.reason} if isinstance(spread, Undefined) else dict(spread.by_cause)


def as_csv(table: ScoreTable) -> str:
    """Long form: split, assistant, source, metric, value (empty where undefined), why undefined, signature id, part."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "assistant", "source", "metric", "value", "undefined_because", "signature_id", "part"])
    for score in table.scores:
        known = not isinstance(score.value, Undefined)
        shown = [repr(score.value), ""] if known else ["", cast(Undefined, score.value).reason]
        writer.writerow([score.split, *score.row, *shown, table.signature_id, score.part])
    return text.getvalue()


def read_score_table(folder: Path, key: str) -> ScoreTable:
    """The table that `write_score_table` wrote.

    Raises:
        ChatbenchError: there is none, or it is not a scores file.
    """
    return read_score_file(folder / f"{key}.json", f"chatbench eval-chatbench {key}")


def read_score_file(path: Path, fix: str) -> ScoreTable:
    """As `read_score_table`, of a file that may lie anywhere; `fix` is the command that makes it."""
    content = read_json(path, fix=fix)
    try:
        return _table_from_json(cast(Json, content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="a scores file of this version", fix=fix) from error


def _table_from_json(content: Json) -> ScoreTable:
    parts = {WHOLE: content["figures"], **cast(Json, content["parts"])}
    figures = {part: cast(list[Json], each) for part, each in parts.items()}
    splits = tuple(cast(list[str], content["splits"]))
    scores = tuple(
        Score(split, *_row(figure), _value(cast(Json, figure["per_split"])[split]), part)
        for split in splits
        for part, each in figures.items()
        for figure in each
        if split in cast(Json, figure["per_split"])
    )
    intervals = {
        part: {_row(figure): _bound(figure["interval"]) for figure in each if "interval" in figure}
        for part, each in figures.items()
    }
    spreads = {
        _row(figure): _spread(figure["variance_by_cause"]) for figure in figures[WHOLE] if "variance_by_cause" in figure
    }
    return ScoreTable(
        model=str(content["model"]),
        splits=splits,
        train_questions=float(cast(float, content["train_questions"])),
        test_questions=float(cast(float, content["test_questions"])),
        scores=scores,
        signature=cast(Json, content["signature"]),
        notes=tuple(cast(list[str], content["notes"])),
        uncertainty=Uncertainty({part: rows for part, rows in intervals.items() if rows}, spreads),
    )


def _row(figure: Json) -> Row:
    return str(figure["assistant"]), str(figure["source"]), str(figure["metric"])


def _undefined(value: object) -> Undefined | None:
    return Undefined(str(value["undefined"])) if isinstance(value, dict) and "undefined" in value else None


def _value(value: object) -> Value:
    return _undefined(value) or float(cast(float, value))


def _bound(value: object) -> Bound:
    return _undefined(value) or Interval(**cast(dict[str, float], value))  # type: ignore[arg-type]  # one field is int


def _spread(value: object) -> Spread | Undefined:
    return _undefined(value) or Spread({str(cause): float(v) for cause, v in cast(dict[str, float], value).items()})
