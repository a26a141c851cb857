"""What assistants answered alone, as it was measured here: the raw replies, the table made of them, and who reads it.

    results/ai_alone/NAME-METHOD.jsonl      every raw reply, and what the extractor returned about it (append-only)
    results/ai_alone/NAME-METHOD.run.json   what two runs that write the same log must have in common
    results/ai_alone/NAME-METHOD.csv        the scores, in the columns of ChatBench's ai_alone_answers.csv

The log is all that counts: the table is made of it again by every run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from chatbench.core.append_log import AppendOnlyLog, read_log
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, read_json, write_json_whole, write_text_whole
from chatbench.core.records import AiAloneScore, Question, Study
from chatbench.protocol.ai_alone import Method, Result, column_name, read_extraction, read_letter_reply
from chatbench.protocol.dialogue import Failure, Reply
from chatbench.studies.chatbench_questions import read_ai_alone
from chatbench.studies.chatbench_writer import ai_alone_table
from chatbench.studies.intake import Intake

Stage = Literal["reply", "extraction"]
MEASURED_HERE = ", measured here"
"""Ending of the name of a method that is not the study's own."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question asked once."""

    question: Question
    index: int

    def id(self, stage: Stage) -> str:
        """Of the record of what was said at that stage."""
        return f"{self.question.id}|{self.index}|{stage}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said about a sample; `reason` is why it said nothing, "" where it did."""

    text: str
    reason: str = ""


class AiAloneLog:
    """The raw replies of one assistant by one method."""

    def __init__(self, results: Path, assistant: str, method: Method) -> None:
        name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in assistant)
        self.path = results / "ai_alone" / f"{name}-{column_name(method)}.jsonl"
        self.assistant = assistant
        self.method = method
        self._log = AppendOnlyLog(self.path, settles=lambda row: not row["transient"])

    @property
    def table(self) -> Path:
        return self.path.with_suffix(".csv")

    def begin(self, settings: Mapping[str, object], *, overwrite: bool = False) -> None:
        """Agrees on the settings with the run that began the log.

        Raises:
            ChatbenchError: it was begun with other settings, or its settings are missing.
        """
        path = _settings_path(self.path)
        if overwrite:
            self._log.clear()
            path.unlink(missing_ok=True)
        wanted = cast(dict[str, Any], json.loads(json.dumps(settings)))
        with self._log.lock():
            if not path.exists() and not self.path.stat().st_size:
                write_json_whole(path, wanted)
            _refuse_difference(self.path, _settings(self.path), wanted)
        self._log.catch_up()

    def missing(self, samples: Sequence[Sample], stage: Stage) -> list[Sample]:
        """Those of which nothing was recorded at that stage, or a failure that may pass."""
        return [sample for sample in samples if sample.id(stage) not in self._log.settled]

    def append(self, samples: Sequence[Sample], stage: Stage, replies: Sequence[Reply | Failure]) -> None:
        """Records what was said about each sample."""
        self._log.append([_row(one, stage, reply) for one, reply in zip(samples, replies, strict=True)])

    def said(self, stage: Stage) -> dict[str, Said]:
        """What was said, by the record's id."""
        found: dict[str, Said] = {}
        for _, row in read_log(self.path):
            if row["stage"] == stage:
                found[str(row["id"])] = Said(str(row["text"]), str(row["reason"]))
        return found


def _row(sample: Sample, stage: Stage, reply: Reply | Failure) -> Row:
    row: Row = {"id": sample.id(stage), "question_id": sample.question.id, "index": sample.index, "stage": stage}
    if isinstance(reply, Failure):
        return {**row, "text": "", "reason": reply.reason, "transient": reply.transient}
    usage = {"tokens": reply.tokens, "prompt_tokens": reply.prompt_tokens, "seconds": round(reply.seconds, 3)}
    return {**row, "text": reply.text, "reason": "", "transient": False, **usage}


def results_of(log: AiAloneLog, samples: Sequence[Sample]) -> dict[Sample, Result]:
    """What each sample came to; those that failed, or are not asked yet, have none."""
    stage: Stage = "extraction" if log.method == "free-text" else "reply"
    read = read_extraction if log.method == "free-text" else read_letter_reply
    said = log.said(stage)
    found = {sample: said[sample.id(stage)] for sample in samples if sample.id(stage) in said}
    return {sample: read(one.text, sample.question) for sample, one in found.items() if not one.reason}


def scores_of(log: AiAloneLog, results: Mapping[Sample, Result]) -> list[AiAloneScore]:
    """One score per question, by question id; unknown results are left out of its count."""
    by_question: dict[str, list[Result]] = {}
    for sample, result in results.items():
        if result != "unknown":
            by_question.setdefault(sample.question.id, []).append(result)
    return [
        AiAloneScore(
            question_id, log.assistant, column_name(log.method), len(found), found.count("right") / len(found),
            found.count("invalid"),
        )
        for question_id, found in sorted(by_question.items())
    ]  # fmt: skip


def write_table(log: AiAloneLog, scores: Sequence[AiAloneScore]) -> None:
    """Writes the table beside the log."""
    write_text_whole(log.table, ai_alone_table(scores))


def with_measured_here(study: Study, results: Path, questions_sha256: str) -> tuple[Study, tuple[str, ...]]:
    """The study with the scores that were measured here beside its own, and a note on each table.

    A method measured here has a name of its own, so that it never stands in one row with the study's. Where the study
    has the same assistant and method, its own scores are taken and the others left out; left out is also a table of
    other questions.

    Raises:
        ChatbenchError: a table is damaged, or its settings are missing.
    """
    own = {(score.assistant, score.method) for score in study.ai_alone}
    scores: list[AiAloneScore] = []
    notes: list[str] = []
    for path in sorted((results / "ai_alone").glob("*.csv")):
        if _settings(path).get("questions_sha256") != questions_sha256:
            notes.append(f"{path}: measured on other questions than the study's, left out")
            continue
        found = read_ai_alone(path, study.questions, Intake())
        kept = [score for score in found if (score.assistant, score.method) not in own]
        scores += [replace(score, method=score.method + MEASURED_HERE) for score in kept]
        which = ", ".join(sorted({f"{score.method} of {score.assistant}" for score in found}))
        if kept:
            counts = [score.count for score in kept]
            notes.append(
                f"AI alone, {which}: measured here on {len(kept)} questions, "
                f"{min(counts)} to {max(counts)} samples each ({path.name}); the regression uses it too"
            )
        elif found:
            notes.append(f"{path}: the study has its own {which}, which was taken")
    return replace(study, ai_alone=(*study.ai_alone, *scores)), tuple(notes)


def _settings_path(log: Path) -> Path:
    return log.with_suffix(".run.json")


def _settings(log: Path) -> dict[str, Any]:
    path = _settings_path(log)
    if not path.exists():
        raise ChatbenchError(f"{log}: its settings are missing ({path.name})", fix=_other_place(log))
    return cast(dict[str, Any], read_json(path))


def _refuse_difference(log: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise ChatbenchError(
                f"{log}: made with {name} {found.get(name)!r}",
                expected=f"{wanted.get(name)!r}, as this run has it",
                fix=_other_place(log),
            )


def _other_place(log: Path) -> str:
    return f"add --overwrite to begin {log.name} anew, or choose another --results folder"
