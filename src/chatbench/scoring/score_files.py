"""Read and write the score files of one model.

- `<key>.json`: everything.
- `<key>.csv`: long form, one metric of one split per line.
- `<key>.questions.csv`: one metric of one question, predictor and split per line. An accuracy comes with its number of
  answers, chats or samples; overlap of first prompts is pooled over assistants.
- `<key>.answers.csv`: one human answer to a scored pair per line, with people numbered rather than named.

The last two suffice to recompute agreement and to compare two simulators without the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_csv, read_json, write_json, write_text
from chatbench.core.records import Answer, Study
from chatbench.core.texts import as_it_was, csv_text
from chatbench.metrics.agreement import Estimate, Undefined
from chatbench.metrics.names import EVERY_ASSISTANT, PEOPLE, TEXT_METRICS, WHOLE, MetricKey, Predictor
from chatbench.metrics.pairs import Pair, Prediction, Predictions
from chatbench.metrics.resampling import Bound, Interval
from chatbench.metrics.split_metrics import SplitMetrics
from chatbench.metrics.uncertainty import Spread, Uncertainty
from chatbench.scoring.score_table import Bounds, Score, ScoreTable

Result = TypeVar("Result")


def plain(value: object) -> object:
    """Convert to JSON types: dataclasses to objects, tuples to lists, `Undefined` to `{"undefined": reason}`."""
    if isinstance(value, Undefined):
        return {"undefined": value.reason}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


QUESTION_COLUMNS = (
    "split", "question_id", "subset", "assistant", "source", "metric", "value", "count", "signature_id",
)  # fmt: skip
ANSWER_COLUMNS = ("question_id", "assistant", "person", "condition", "correct")
ACCURACY = "accuracy"
JUDGED_BY = ("judge", "accuracy", "kappa", "answers", "unread", "failed", "missing")


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """Accuracies by split, predictor and pair; overlap (`texts`) by split, (predictor, metric) and question."""

    signature_id: str
    accuracies: Mapping[str, Mapping[Predictor, Predictions]]
    texts: Mapping[str, Mapping[tuple[Predictor, str], Mapping[str, float]]]
    answers: tuple[Answer, ...]


def write_question_files(
    folder: Path, key: str, study: Study, measures: Mapping[str, SplitMetrics], signature_id: str
) -> None:
    """Write `<key>.questions.csv` and `<key>.answers.csv`; `measures` are by split."""
    rows: list[list[object]] = []
    for split, measured in measures.items():
        for predictor, accuracies in {PEOPLE: measured.pairs.human, **measured.pairs.predictors}.items():
            rows += [
                [split, question, study.questions[question].subset, assistant, predictor.label, ACCURACY,
                 found.accuracy, found.count, signature_id]
                for (question, assistant), found in accuracies.items()
            ]  # fmt: skip
        for (assistant, predictor, metric), values in measured.question_values.items():
            if metric in TEXT_METRICS:
                rows += [
                    [split, question, study.questions[question].subset, assistant, predictor.label, metric,
                     value, "", signature_id]
                    for question, value in values.items()
                ]  # fmt: skip
    write_text(folder / f"{key}.questions.csv", csv_text(QUESTION_COLUMNS, rows))
    pairs = {pair for measured in measures.values() for pair in measured.pairs.human}
    person: dict[str, int] = {}
    of_pairs = [
        [a.question_id, a.assistant, person.setdefault(a.worker_id or f"nobody {number}", len(person)), a.condition,
         a.correct if a.correct % 1 else int(a.correct)]
        for number, a in enumerate(study.answers)
        if a.kind == "user-AI" and (a.question_id, a.assistant) in pairs
    ]  # fmt: skip
    write_text(folder / f"{key}.answers.csv", csv_text(ANSWER_COLUMNS, of_pairs))


def read_question_files(folder: Path, key: str, table: ScoreTable, fix: str) -> QuestionScores:
    """Read the files that `write_question_files` wrote with a table; `fix` is the command that creates them.

    Raises:
        ChatbenchError: a file is missing or malformed, or of another scoring than the table.
    """
    path = folder / f"{key}.questions.csv"
    accuracies: dict[str, dict[Predictor, dict[Pair, Prediction]]] = {}
    texts: dict[str, dict[tuple[Predictor, str], dict[str, float]]] = {}
    signature_id = ""
    try:
        for row in _read_csv(path, QUESTION_COLUMNS, fix):
            split, question_id, _, assistant, label, metric, value, count, signature_id = row
            predictor = Predictor.parse(label)
            if metric == ACCURACY:
                of_predictor = accuracies.setdefault(split, {}).setdefault(predictor, {})
                of_predictor[question_id, assistant] = Prediction(float(value), int(count))
            elif assistant == EVERY_ASSISTANT:
                texts.setdefault(split, {}).setdefault((predictor, metric), {})[question_id] = float(value)
    except ValueError as error:
        raise ChatbenchError(f"{path}: {error}", expected="numeric values and counts", fix=fix) from error
    if signature_id not in ("", table.signature_id):  # "": no question could be scored
        raise ChatbenchError(
            f"{path}: written with signature {signature_id}",
            expected=f"signature {table.signature_id}, as in {key}.json; a scoring was stopped between the two files",
            fix=fix,
        )
    answers = tuple(
        Answer(question_id, person, "user-AI", assistant, condition, None, float(correct))
        for question_id, assistant, person, condition, correct in _read_csv(
            folder / f"{key}.answers.csv", ANSWER_COLUMNS, fix
        )
    )
    return QuestionScores(signature_id, accuracies, texts, answers)


def _read_csv(path: Path, columns: Sequence[str], fix: str) -> list[list[str]]:
    rows = read_csv(path, fix=fix)
    if not rows or tuple(rows[0]) != tuple(columns) or any(len(row) != len(columns) for row in rows):
        raise ChatbenchError(f"{path}: unexpected columns", expected=", ".join(columns), fix=fix)
    return [[as_it_was(cell) for cell in row] for row in rows[1:]]


def write_score_table(folder: Path, key: str, table: ScoreTable) -> None:
    """Write `<key>.csv` and then `<key>.json`, which is the last file of a scoring."""
    content = {
        "model": table.model,
        "signature_id": table.signature_id,
        "signature": dict(table.signature),
        "notes": list(table.notes),
        "splits": list(table.splits),
        "train_questions": table.train_questions,
        "test_questions": table.test_questions,
        "scored_questions": table.scored_questions,
        "figures": list(_figures(table, WHOLE)),
        "parts": {part: list(_figures(table, part)) for part in table.strata if part != WHOLE},
    }
    write_text(folder / f"{key}.csv", as_csv(table))
    write_json(folder / f"{key}.json", content)


def _figures(table: ScoreTable, part: str) -> Iterator[dict[str, object]]:
    """Yield each row of a stratum (`part`) as JSON, with only the fields that it has."""
    estimates, bounds = table.estimates(part), table.bounds(part)
    intervals = table.uncertainty.intervals.get(part, {})
    spreads = table.uncertainty.spreads if part == WHOLE else {}
    for row, values in table.values(part).items():
        figure: dict[str, object] = {
            "assistant": row[0],
            "source": row[1].label,
            "metric": row[2],
            "per_split": plain(values),
            **estimate_as_json(estimates[row]),
            "splits": estimates[row].n,
        }
        if row in intervals:
            figure["interval"] = plain(intervals[row])
        if row in spreads:
            figure["variance_by_cause"] = plain(
                spread.by_cause if isinstance(spread := spreads[row], Spread) else spread
            )
        if row in bounds:
            figure |= bounds_as_json(bounds[row])
        yield figure


def estimate_as_json(estimate: Estimate) -> dict[str, object]:
    """Convert a mean over splits and its standard errors to JSON."""
    errors = {"standard_error": estimate.standard_error, "corrected_standard_error": estimate.corrected_error}
    return {name: plain(value) for name, value in {"mean": estimate.mean, **errors}.items()}


def bounds_as_json(bounds: Bounds) -> dict[str, object]:
    """Convert the floor, its predictor and the ceiling to JSON."""
    source = bounds.floor_predictor.label if bounds.floor_predictor else ""
    return {"floor": plain(bounds.floor), "floor_source": source, "ceiling": plain(bounds.ceiling)}


def as_csv(table: ScoreTable) -> str:
    """Format as long-form CSV: one row per score; `value` is empty where undefined, with the reason beside it."""
    rows = [
        [score.split, score.assistant, score.predictor.label, score.metric,
         *(("", score.value.reason) if isinstance(score.value, Undefined) else (score.value, "")),
         table.signature_id, score.stratum]
        for score in table.scores
    ]  # fmt: skip
    header = ["split", "assistant", "source", "metric", "value", "undefined_because", "signature_id", "part"]
    if judge := cast(Mapping[str, Any], table.signature.get("judge")):  # repeated with each score, which depends on it
        header += [f"judge_{name}" for name in JUDGED_BY]
        of_judge = ["" if isinstance(judge[name], Mapping) else judge[name] for name in JUDGED_BY]
        rows = [[*row, *of_judge] for row in rows]
    return csv_text(header, rows)


def read_score_table(folder: Path, key: str) -> ScoreTable:
    """Read the table that `write_score_table` wrote.

    Raises:
        ChatbenchError: the file is missing, or is not a score file of this version.
    """
    return read_score_file(folder / f"{key}.json", f"chatbench eval-chatbench {key}")


def read_score_file(path: Path, fix: str) -> ScoreTable:
    """Read a score table from any path, as `read_score_table`; `fix` is the command that creates it."""
    content = read_json(path, fix=fix)
    try:
        figures = {WHOLE: content["figures"], **content["parts"]}
        rows = [
            (part, (str(figure["assistant"]), Predictor.parse(str(figure["source"])), str(figure["metric"])), figure)
            for part, each in figures.items()
            for figure in each
        ]
        intervals: dict[str, dict[MetricKey, Bound]] = {}
        for part, row, figure in rows:
            if "interval" in figure:
                bound = _known(figure["interval"], lambda found: Interval(**found))
                intervals.setdefault(part, {})[row] = bound
        spreads = {row: _known(f["variance_by_cause"], Spread) for _, row, f in rows if "variance_by_cause" in f}
        return ScoreTable(
            model=str(content["model"]),
            splits=tuple(content["splits"]),
            train_questions=float(content["train_questions"]),
            test_questions=float(content["test_questions"]),
            scores=tuple(
                Score(split, *row, _known(figure["per_split"][split], float), part)
                for split in content["splits"]
                for part, row, figure in rows
                if split in figure["per_split"]
            ),
            signature=dict(content["signature"]),
            notes=tuple(content["notes"]),
            uncertainty=Uncertainty(intervals, spreads),
            scored_questions=int(content["scored_questions"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="a score file of this version", fix=fix) from error


def _known(value: Any, read: Callable[[Any], Result]) -> Result | Undefined:
    return Undefined(value["undefined"]) if isinstance(value, dict) and "undefined" in value else read(value)
