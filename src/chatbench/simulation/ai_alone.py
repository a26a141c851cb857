"""Measures how often an assistant alone answers a study's questions right, by one method.

Samples are asked in blocks; what came back is appended to the log after each block, replies before the extractor is
asked about them. A run that was stopped continues: only what is missing is asked. More samples may be asked for later.

An assistant that answers a question alone: what it is asked by each method, and what its reply means.

    letter-only-zero-shot   the question, to be answered with a single letter
    letter-only-few-shot    the same behind five examples of the question's subset (MMLU's dev questions)
    free-text               the question as it is; a second model, the extractor, says which option the reply settles on

A letter-only reply counts by its first character, white space before it set aside: A to D, else it is invalid, which
counts as wrong. A free-text reply is right where the extractor names the right letter, and wrong where it names another
or none, or no attempt was made. Where the extractor does not return the JSON that it was asked for, the outcome is
unknown: the sample is dropped, and counted.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114); docs/protocol.md, AI-alone baselines.

What assistants answered alone, as it was measured here: the raw replies, the table made of them, and who reads it.

    results/ai_alone/NAME-METHOD.jsonl      every raw reply, and what the extractor returned about it (append-only)
    results/ai_alone/NAME-METHOD.run.json   what two runs that write the same log must have in common
    results/ai_alone/NAME-METHOD.csv        the scores, in the columns of ChatBench's ai_alone_answers.csv

The log is all that counts: the table is made of it again by every run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, read_json, write_json, write_text
from chatbench.core.records import LETTERS, AiAloneScore, Message, Question, Study
from chatbench.data.chatbench_format import read_ai_alone
from chatbench.data.mmlu import few_shot_examples
from chatbench.data.splits import question_set_sha256
from chatbench.data.tables import Intake
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import Failure, Participant, Reply, Request, derive_seed
from chatbench.protocol.prompts import (
    ASSISTANT_SYSTEM,
    EXTRACTION,
    EXTRACTION_SYSTEM,
    LETTER_ONLY,
    LETTER_ONLY_FEW_SHOT,
    LETTER_ONLY_QUESTION,
    SEPARATOR,
)
from chatbench.sample.study import ai_alone_table
from chatbench.simulation.log import AppendOnlyLog, read_log
from chatbench.simulation.participants import AssistantSpec, open_assistant, read_specs

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions

Method = Literal["letter-only-zero-shot", "letter-only-few-shot", "free-text"]
METHODS: tuple[Method, ...] = get_args(Method)
Result = Literal["right", "wrong", "invalid", "unknown"]
"""`invalid`: a letter-only reply without a letter, counted wrong. `unknown`: dropped."""

MAX_TOKENS: dict[Method, int] = {"letter-only-zero-shot": 10, "letter-only-few-shot": 10, "free-text": 1000}
EXTRACTION_MAX_TOKENS = 300


def column_name(method: Method) -> str:
    """The method as the study's tables call it.

    >>> column_name("letter-only-zero-shot")
    'letter_only_zero_shot'
    """
    return method.replace("-", "_")


def question_messages(method: Method, question: Question, examples: Sequence[Question] = ()) -> tuple[Message, Message]:
    """What the assistant is asked; `examples` are those of the few-shot method.

    Raises:
        ValueError: the few-shot method without examples, or examples with another method.
    """
    if bool(examples) != (method == "letter-only-few-shot"):
        raise ValueError(f"{method} with {len(examples)} examples")
    if method == "free-text":
        return Message("system", ASSISTANT_SYSTEM), Message("user", question.full_text)
    text = LETTER_ONLY
    if examples:
        text += LETTER_ONLY_FEW_SHOT.replace("{subset}", question.subset.replace("_", " "))
    text += "".join(f"{_asked(example)} {example.answer}\n\n" for example in examples)
    return Message("system", ASSISTANT_SYSTEM), Message("user", text + _asked(question))


def _asked(question: Question) -> str:
    return LETTER_ONLY_QUESTION.replace("{question}", question.full_text)


def extraction_messages(question: Question, reply: str) -> tuple[Message, Message]:
    """What the extractor is asked about a free-text reply."""
    # Cut at the markers and not replaced one after the other: a reply may hold a marker's name.
    head, _, tail = EXTRACTION.replace("{separator}", SEPARATOR).partition("{answer}")
    return (
        Message("system", EXTRACTION_SYSTEM),
        Message("user", head.replace("{question}", question.full_text) + reply + tail),
    )


def read_letter_reply(reply: str, question: Question) -> Result:
    """What a letter-only reply comes to.

    >>> read_letter_reply(" B. because", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'right'
    >>> read_letter_reply("The answer is B", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'invalid'
    """
    first = reply.strip()[:1]
    if first not in LETTERS:
        return "invalid"
    return "right" if first == question.answer else "wrong"


def read_extraction(output: str, question: Question) -> Result:
    """What a free-text reply comes to, by what the extractor returned; text around the JSON object is passed over.

    >>> question = Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B")
    >>> read_extraction('{"attempted_answer": true, "answer_val": "4", "answer_letter": "B"}', question)
    'right'
    >>> read_extraction('{"attempted_answer": true, "answer_val": "7", "answer_letter": null}', question)
    'wrong'
    >>> read_extraction("The student answers B.", question)
    'unknown'
    """
    try:
        found = json.loads(output[output.find("{") : output.rfind("}") + 1])
    except (json.JSONDecodeError, RecursionError):
        return "unknown"
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("attempted_answer"), bool)
        or "answer_letter" not in found
    ):
        return "unknown"
    letter = found["answer_letter"]
    right = found["attempted_answer"] and isinstance(letter, str) and letter.strip().upper() == question.answer
    return "right" if right else "wrong"


def method_sha256(method: Method) -> str:
    """SHA-256 of the texts that a method is made of, without any question: it changes where a prompt does."""
    texts = [method, ASSISTANT_SYSTEM]
    texts += [EXTRACTION_SYSTEM, EXTRACTION] if method == "free-text" else [LETTER_ONLY, LETTER_ONLY_QUESTION]
    texts += [LETTER_ONLY_FEW_SHOT] if method == "letter-only-few-shot" else []
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


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

    def __init__(self, workspace: Workspace, assistant: str, method: Method) -> None:
        name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in assistant)
        self.path = workspace.ai_alone / f"{name}-{column_name(method)}.jsonl"
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
                write_json(path, wanted)
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
    write_text(log.table, ai_alone_table(scores))


def with_measured_here(study: Study, workspace: Workspace, questions_sha256: str) -> tuple[Study, tuple[str, ...]]:
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
    for path in sorted(workspace.ai_alone.glob("*.csv")):
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


BLOCK = 256
"""Samples asked together; at most so many replies are asked for again after a kill."""

Examples = Mapping[str, Sequence[Question]]
"""Few-shot examples by subset."""


@dataclass(frozen=True, slots=True)
class AiAloneSettings:
    """How an assistant is asked: `samples` per question, drawn at `temperature` with `seed`.

    Raises:
        ChatbenchError: fewer than one sample, or a temperature below 0.
    """

    method: Method
    samples: int = 50
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature < 0:
            raise ChatbenchError(
                f"--samples {self.samples}, --temperature {self.temperature}", expected="at least 1, and at least 0"
            )


@dataclass(frozen=True, slots=True)
class AiAloneResult:
    """What the samples of the plan came to; `failed` are those without a reply or an extraction."""

    assistant: str
    method: Method
    questions: int
    counts: Mapping[Result, int]
    failed: int
    asked: int
    table: Path

    def lines(self) -> list[str]:
        """What to print."""
        known = sum(self.counts.get(result, 0) for result in ("right", "wrong", "invalid"))
        share = f"{self.counts.get('right', 0) / known:.1%} right" if known else "nothing known"
        parts = [f"{self.counts[name]} {name}" for name in ("invalid", "unknown") if self.counts.get(name)]
        parts += [f"{self.failed} failed"] if self.failed else []
        return [
            f"{self.assistant}, {self.method}: {self.questions} questions, {known} samples, {share}"
            + "".join(f", {part}" for part in parts),
            f"{self.asked} replies new -> {self.table}",
        ]


def ai_alone(
    assistant: str,
    settings: AiAloneSettings,
    *,
    study: Study,
    questions: Sequence[Question],
    workspace: Workspace,
    extractor: str | None = None,
    mmlu: Path | None = None,
    options: EndpointOptions | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> AiAloneResult:
    """Asks what is missing, and writes the table; see the module.

    Args:
        assistant: as in `chatbench simulate --assistant`, one of them.
        questions: those to ask, of the study.
        extractor: as `assistant`; for free text, and only there.
        mmlu: folder with MMLU's `dev/`, whose examples the few-shot method shows; for it, and only there.
        overwrite: drops what was recorded with other settings.

    Raises:
        ChatbenchError: a participant or the examples cannot be had, or the log has other settings.
    """
    spec = _one(assistant, "--assistant", study)
    reader = _extractor_spec(settings.method, extractor, study)
    examples = _examples(settings.method, mmlu, study)
    participant = open_assistant(
        spec, study, temperature=settings.temperature, max_tokens=MAX_TOKENS[settings.method], options=options
    )
    second = (
        open_assistant(reader, study, temperature=0.0, max_tokens=EXTRACTION_MAX_TOKENS, options=options)
        if reader
        else None
    )
    log = AiAloneLog(workspace, spec.name, settings.method)
    log.begin(_run_settings(settings, study, participant, second, examples), overwrite=overwrite)
    samples = [Sample(question, index) for question in questions for index in range(settings.samples)]
    asked = ask_missing(log, samples, participant, second, examples, settings.seed, say)
    came_to = results_of(log, samples)
    write_table(log, scores_of(log, _every_result(log, study)))
    return AiAloneResult(
        assistant=spec.name,
        method=settings.method,
        questions=len(questions),
        counts=Counter(came_to.values()),
        failed=len(samples) - len(came_to),
        asked=asked,
        table=log.table,
    )


def questions_of(
    study: Study, *, ids: Sequence[str] = (), split: str | None = None, workspace: Workspace
) -> list[Question]:
    """The questions named, those held out in a split, or all of the study's.

    Raises:
        ChatbenchError: ids and a split both, an id that the study does not have, or no such split.
    """
    if ids and split:
        raise ChatbenchError("--questions and --split both say which questions", fix="choose one")
    chosen = list(ids) or (workspace.split(split).question_ids("test") if split else list(study.questions))
    unknown = [each for each in chosen if each not in study.questions]
    if unknown:
        raise ChatbenchError(f"question {unknown[0]!r}: the study has no such question", expected="ids of --study")
    return [study.questions[each] for each in dict.fromkeys(chosen)]


def ask_missing(
    log: AiAloneLog,
    samples: Sequence[Sample],
    participant: Participant,
    extractor: Participant | None,
    examples: Examples,
    seed: int,
    say: Callable[[str], None] = lambda _line: None,
) -> int:
    """Asks for what the log lacks, block by block, and records it; how many replies of the assistant are new."""

    def asked(sample: Sample) -> Request:
        shown = examples.get(sample.question.subset, ())
        return _request(sample, "reply", seed, question_messages(log.method, sample.question, shown))

    missing = log.missing(samples, "reply")
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        log.append(block, "reply", participant.reply_all([asked(sample) for sample in block]))
        say(f"ai-alone: {start + len(block)}/{len(missing)} replies of {log.assistant}")
    if extractor is None:
        return len(missing)
    said = log.said("reply")
    unread = [
        sample
        for sample in log.missing(samples, "extraction")
        if sample.id("reply") in said and not said[sample.id("reply")].reason
    ]
    for start in range(0, len(unread), BLOCK):
        block = unread[start : start + BLOCK]
        requests = [
            _request(one, "extraction", seed, extraction_messages(one.question, said[one.id("reply")].text))
            for one in block
        ]
        log.append(block, "extraction", extractor.reply_all(requests))
        say(f"ai-alone: {start + len(block)}/{len(unread)} replies read")
    return len(missing)


def _request(sample: Sample, stage: Stage, seed: int, messages: tuple[Message, Message]) -> Request:
    name = sample.id(stage)
    return Request("assistant", messages, sample.question.id, derive_seed(seed, name, 0, "assistant"), "reply", name)


def _every_result(log: AiAloneLog, study: Study) -> dict[Sample, Result]:
    """Of all samples in the log, of earlier runs on other questions too."""
    stage: Stage = "extraction" if log.method == "free-text" else "reply"
    samples = []
    for name in log.said(stage):
        question_id, index, _ = name.rsplit("|", 2)
        samples.append(Sample(study.questions[question_id], int(index)))
    return results_of(log, samples)


def _one(text: str, option: str, study: Study) -> AssistantSpec:
    specs = read_specs([text], study.assistants)
    if len(specs) > 1:
        raise ChatbenchError(f"{option} {text!r} means {len(specs)} assistants", fix="name one of them")
    if specs[0].kind == "replay":
        raise ChatbenchError(f"{option} {text!r}: recorded chats hold no answers of an assistant alone")
    return specs[0]


def _extractor_spec(method: Method, extractor: str | None, study: Study) -> AssistantSpec | None:
    if method == "free-text" and extractor is None:
        raise ChatbenchError(
            "free-text needs a second model that reads the replies", fix="add --extractor SPEC, e.g. openai:gpt-4o"
        )
    if method != "free-text" and extractor is not None:
        raise ChatbenchError(f"--extractor does nothing with {method}", fix="leave it out")
    return None if extractor is None else _one(extractor, "--extractor", study)


def _examples(method: Method, mmlu: Path | None, study: Study) -> dict[str, list[Question]]:
    """Of all subsets, whichever are asked about, so that a log of some questions can be continued with others."""
    if method == "letter-only-few-shot" and mmlu is None:
        raise ChatbenchError(
            "letter-only-few-shot needs the five examples of each subset",
            fix="add --mmlu FOLDER, which holds dev/ as in the MMLU archive (github.com/hendrycks/test)",
        )
    if method != "letter-only-few-shot" and mmlu is not None:
        raise ChatbenchError(f"--mmlu does nothing with {method}", fix="leave it out")
    return {subset: few_shot_examples(mmlu, subset) for subset in study.questions_per_subset} if mmlu else {}


def _run_settings(
    settings: AiAloneSettings, study: Study, participant: Participant, extractor: Participant | None, examples: Examples
) -> dict[str, object]:
    shown = [question for each in examples.values() for question in each]
    return {
        "questions_sha256": question_set_sha256(study.questions.values()),
        "method_sha256": method_sha256(settings.method),
        "assistant": dict(participant.identity),
        "extractor": dict(extractor.identity) if extractor else None,
        "examples_sha256": question_set_sha256(shown) if shown else None,
        "seed": settings.seed,
    }
