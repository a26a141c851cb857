"""Measures how often an assistant alone answers a study's questions right, by one method.

Samples are asked in blocks; what came back is appended to the log after each block, replies before the extractor is
asked about them. A run that was stopped continues: only what is missing is asked. More samples may be asked for later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Question, Study
from chatbench.protocol.ai_alone import (
    EXTRACTION_MAX_TOKENS,
    MAX_TOKENS,
    Method,
    Result,
    extraction_messages,
    method_sha256,
    question_messages,
)
from chatbench.protocol.dialogue import Request, Speaker, derive_seed
from chatbench.protocol.prepared_data import read_split
from chatbench.protocol.splits import question_set_sha256
from chatbench.steps.assistants import AssistantSpec, open_assistant, read_specs
from chatbench.studies.ai_alone_log import AiAloneLog, Sample, Stage, results_of, scores_of, write_table
from chatbench.studies.mmlu import few_shot_examples

if TYPE_CHECKING:
    from chatbench.models.endpoint import EndpointOptions

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
    results: Path,
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
        ChatbenchError: a speaker or the examples cannot be had, or the log has other settings.
    """
    spec = _one(assistant, "--assistant", study)
    reader = _extractor_spec(settings.method, extractor, study)
    examples = _examples(settings.method, mmlu, study)
    speaker = open_assistant(
        spec, study, temperature=settings.temperature, max_tokens=MAX_TOKENS[settings.method], options=options
    )
    second = (
        open_assistant(reader, study, temperature=0.0, max_tokens=EXTRACTION_MAX_TOKENS, options=options)
        if reader
        else None
    )
    log = AiAloneLog(results, spec.name, settings.method)
    log.begin(_run_settings(settings, study, speaker, second, examples), overwrite=overwrite)
    samples = [Sample(question, index) for question in questions for index in range(settings.samples)]
    asked = ask_missing(log, samples, speaker, second, examples, settings.seed, say)
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


def questions_of(study: Study, *, ids: Sequence[str] = (), split: str | None = None, data: Path) -> list[Question]:
    """The questions named, those held out in a split, or all of the study's.

    Raises:
        ChatbenchError: ids and a split both, an id that the study does not have, or no such split.
    """
    if ids and split:
        raise ChatbenchError("--questions and --split both say which questions", fix="choose one")
    chosen = list(ids) or (read_split(data, split).question_ids("test") if split else list(study.questions))
    unknown = [each for each in chosen if each not in study.questions]
    if unknown:
        raise ChatbenchError(f"question {unknown[0]!r}: the study has no such question", expected="ids of --study")
    return [study.questions[each] for each in dict.fromkeys(chosen)]


def ask_missing(
    log: AiAloneLog,
    samples: Sequence[Sample],
    speaker: Speaker,
    extractor: Speaker | None,
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
        log.append(block, "reply", speaker.reply_all([asked(sample) for sample in block]))
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
    settings: AiAloneSettings, study: Study, speaker: Speaker, extractor: Speaker | None, examples: Examples
) -> dict[str, object]:
    shown = [question for each in examples.values() for question in each]
    return {
        "questions_sha256": question_set_sha256(study.questions.values()),
        "method_sha256": method_sha256(settings.method),
        "assistant": dict(speaker.identity),
        "extractor": dict(extractor.identity) if extractor else None,
        "examples_sha256": question_set_sha256(shown) if shown else None,
        "seed": settings.seed,
    }
