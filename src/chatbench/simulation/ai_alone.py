"""Measures how often an assistant alone answers a study's questions correctly, by one method.

    letter-only-zero-shot   the question, to be answered with a single letter
    letter-only-few-shot    the same, after five examples of the question's subset (MMLU's dev questions)
    free-text               the question as it is; a second model, the extractor, says which option the reply settles on

A letter-only reply is judged by its first character after any white space: if that is no option's letter, the reply is
invalid and counts as wrong. A free-text reply is right if the extractor names the right letter, and wrong if it names
another or none, or no attempt was made. If the extractor does not return the JSON that it was asked for, the outcome
is unknown: the sample is dropped and counted. Questions without options cannot be measured by these methods.

    results/ai_alone/NAME-METHOD.jsonl      every raw reply, and what the extractor returned about it (append-only)
    results/ai_alone/NAME-METHOD.run.json   what runs that write the same log must have in common
    results/ai_alone/NAME-METHOD.csv        the scores, in the columns of ChatBench's ai_alone_answers.csv

Each sample is appended to the log as soon as its reply arrives (a model on this machine replies to a block at a time),
and then the extractor is asked about it. A stopped run continues: only what is missing is asked. More samples can be
requested later. Only the log counts: every run rebuilds the table from it.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114); docs/protocol.md, AI-alone baselines.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from chatbench.core.answer_kinds import Choice
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_text
from chatbench.core.progress import WorkProgress, telling_what_is_kept
from chatbench.core.records import FOUR_LETTERS, AiAloneScore, Message, Question, Study, Usage
from chatbench.core.texts import file_name
from chatbench.data.chatbench_format import read_ai_alone
from chatbench.data.download import few_shot_examples
from chatbench.data.splits import question_set_sha256
from chatbench.data.tables import Intake
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import without_secrets
from chatbench.endpoints.client import CHARACTERS_PER_TOKEN
from chatbench.protocol.answers import last_object
from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    ParticipantName,
    Request,
    derive_seed,
)
from chatbench.protocol.dialogue_runner import Asking, Sides, run_concurrently, run_together
from chatbench.protocol.prompts import (
    ASSISTANT_SYSTEM,
    EXTRACTION,
    EXTRACTION_SYSTEM,
    LETTER_ONLY,
    LETTER_ONLY_FEW_SHOT,
    LETTER_ONLY_QUESTION,
    SEPARATOR,
    filled,
)
from chatbench.sample.study import ai_alone_table
from chatbench.simulation.budget import SPENT, Prices, Spending, dollars, replies_otherwise
from chatbench.simulation.log import (
    AppendOnlyLog,
    failure_lines,
    open_log,
    other_place,
    read_log,
    settings_path,
)
from chatbench.simulation.participants import AssistantSpec, notes_on, open_assistant, read_specs, refuse_temperature

if TYPE_CHECKING:
    from pathlib import Path

    from chatbench.endpoints.address import EndpointOptions

Method = Literal["letter-only-zero-shot", "letter-only-few-shot", "free-text"]
Result = Literal["right", "wrong", "invalid", "unknown"]
"""`invalid`: a letter-only reply without a letter, counted wrong. `unknown`: dropped."""
Stage = Literal["reply", "extraction"]
Examples = Mapping[str, Sequence[Question]]
"""Few-shot examples by subset."""

MAX_TOKENS: dict[Method, int] = {"letter-only-zero-shot": 10, "letter-only-few-shot": 10, "free-text": 1000}
EXTRACTION_MAX_TOKENS = 4000
"""Room for reasoning; the JSON object alone takes about fifty. A larger --max-tokens holds for the extractor too."""
BLOCK = 256
"""Maximum concurrent samples per assistant, if it accepts that many."""
_KEPT = (
    "text", "tokens", "prompt_tokens", "reasoning", "reasoning_tokens", "cached_tokens", "finish", "model"
)  # fmt: skip
"""What a log record keeps of a reply."""
_SIDES: dict[Stage, ParticipantName] = {"reply": "assistant", "extraction": "simulator"}
"""Who is asked; the extractor takes the other side of a chat, which has a price of its own."""
_TOKENS = ("prompt_tokens", "tokens", "cached_tokens")
MEASURED_HERE = ", measured here"
"""Suffix of the name of a method that is not the study's own."""


def question_messages(method: Method, question: Question, examples: Sequence[Question] = ()) -> tuple[Message, Message]:
    """The messages to the assistant; `examples` are for the few-shot method."""
    if method == "free-text":
        return Message("system", ASSISTANT_SYSTEM), Message("user", question.full_text)
    text = LETTER_ONLY
    if examples:
        text += filled(LETTER_ONLY_FEW_SHOT, subset=question.subset.replace("_", " "))
    asked = [filled(LETTER_ONLY_QUESTION, question=each.full_text) for each in (*examples, question)]
    answered = "".join(f"{each} {example.answer}\n\n" for each, example in zip(asked, examples, strict=False))
    return Message("system", ASSISTANT_SYSTEM), Message("user", text + answered + asked[-1])


def extraction_messages(question: Question, reply: str) -> tuple[Message, Message]:
    """The messages to the extractor about a free-text reply."""
    text = filled(
        EXTRACTION, question=question.full_text, answer=reply, separator=SEPARATOR, letters=_quoted(question.letters)
    )
    return Message("system", EXTRACTION_SYSTEM), Message("user", text)


def _quoted(letters: Sequence[str]) -> str:
    *most, last = (f'"{letter}"' for letter in letters)
    return f"{', '.join(most)} or {last}"


def read_letter_reply(reply: str, question: Question) -> Result:
    """The outcome of a letter-only reply.

    >>> read_letter_reply(" B. because", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'right'
    >>> read_letter_reply("The answer is B", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'invalid'
    """
    first = reply.strip()[:1]
    if first not in question.letters:
        return "invalid"
    return "right" if first == question.answer else "wrong"


def read_extraction(output: str, question: Question) -> Result:
    """The outcome of a free-text reply, from what the extractor returned; see `last_object`.

    >>> question = Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B")
    >>> read_extraction('{"attempted_answer": true, "answer_val": "4", "answer_letter": "B"}', question)
    'right'
    >>> read_extraction("The student answers B.", question)
    'unknown'
    """
    found = last_object(output, "answer_letter")
    attempted = found.get("attempted_answer")
    if not isinstance(attempted, bool):
        return "unknown"
    said = found["answer_letter"]
    letter = re.fullmatch(r"\W*([A-Za-z])(?:\W*|[.):]\s.*)", said if isinstance(said, str) else "")  # "(b)", "B. four"
    right = attempted and letter is not None and letter[1].upper() == question.answer
    return "right" if right else "wrong"


def method_sha256(method: Method) -> str:
    """SHA-256 of a method's prompt texts without any question: it changes when a prompt does."""
    texts = [method, ASSISTANT_SYSTEM]
    extraction = EXTRACTION.replace("{letters}", _quoted(FOUR_LETTERS))
    texts += [EXTRACTION_SYSTEM, extraction] if method == "free-text" else [LETTER_ONLY, LETTER_ONLY_QUESTION]
    texts += [LETTER_ONLY_FEW_SHOT] if method == "letter-only-few-shot" else []
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _usage(rows: Sequence[Mapping[str, Any]]) -> Usage:
    used = Counter[str]()
    for row in rows:
        used.update({f"{_SIDES[row['stage']]}_{name}": row.get(name, 0) for name in _TOKENS})
    return Usage(**used)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question asked once."""

    question: Question
    index: int

    def id(self, stage: Stage) -> str:
        """Id of the record of that stage."""
        return f"{self.question.id}|{self.index}|{stage}"


class AiAloneLog:
    """The raw replies of one assistant by one method."""

    def __init__(self, workspace: Workspace, assistant: str, method: Method) -> None:
        self.column = method.replace("-", "_")
        """The method's name in the study's tables."""
        self.path = workspace.ai_alone / f"{file_name(assistant)}-{self.column}.jsonl"
        self.assistant = assistant
        self.method = method

    def records(self) -> dict[str, dict[str, Any]]:
        """The last record by id."""
        return {str(row["id"]): cast("dict[str, Any]", row) for _, row in read_log(self.path)}

    def texts(self, stage: Stage) -> dict[str, str]:
        """The texts of that stage, by record id; samples without a text are left out."""
        rows = self.records().items()
        return {name: str(row["text"]) for name, row in rows if row["stage"] == stage and not row["reason"]}

    def usages(self) -> list[Usage]:
        """The tokens of each recorded sample; the extractor's as a simulator's."""
        rows = defaultdict[tuple[object, object], list[dict[str, Any]]](list)
        for _, row in read_log(self.path):
            rows[row["question_id"], row["index"]].append(cast("dict[str, Any]", row))
        return [_usage(of_sample) for of_sample in rows.values()]

    def unfinished(self, samples: Sequence[Sample], *, extracted: bool) -> int:
        """Number of samples that were not asked for to the end; those that failed were."""
        reasons = {name: row["reason"] for name, row in self.records().items()}
        count = 0
        for sample in samples:
            reply, extraction = (reasons.get(sample.id(stage), SPENT) for stage in _SIDES)
            count += SPENT in (reply, extraction if extracted and not reply else reply)
        return count

    def trouble(self, samples: Sequence[Sample], asked: Mapping[Stage, str]) -> list[str]:
        """Sentences on replies, by stage, that failed, were cut off or came from another model than the requested."""
        ids = {sample.id(stage): stage for sample in samples for stage in asked}
        rows = {name: row for name, row in self.records().items() if name in ids}
        failures = Counter((str(row["reason"]), bool(row["transient"])) for row in rows.values() if row["reason"])
        finish_reasons, served = Counter[tuple[str, str]](), dict[tuple[str, str], Counter[str]]()
        for name, row in rows.items():
            if row["reason"]:
                continue
            who = "assistant" if ids[name] == "reply" else "extractor"
            if (reason := str(row.get("finish", "stop"))) != "stop":
                finish_reasons[who, reason] += 1
            if model := str(row.get("model", "")):
                served.setdefault((who, asked[ids[name]]), Counter())[model] += 1
        return [*failure_lines(failures), *replies_otherwise(finish_reasons, served, "replies")]

    def results(self, samples: Sequence[Sample]) -> dict[Sample, Result]:
        """The outcome of each sample; samples that failed or were not asked yet have none."""
        stage: Stage = "extraction" if self.method == "free-text" else "reply"
        read = read_extraction if self.method == "free-text" else read_letter_reply
        texts = self.texts(stage)
        return {
            sample: read(texts[sample.id(stage)], sample.question) for sample in samples if sample.id(stage) in texts
        }

    def scores(self, questions: Mapping[str, Question]) -> list[AiAloneScore]:
        """One score per question, by question id, over all samples in the log; unknown outcomes are not counted."""
        recorded = {(row["question_id"], row["index"]) for row in self.records().values()}
        samples = [Sample(questions[question_id], index) for question_id, index in recorded]
        by_question: dict[str, Counter[Result]] = {}
        for sample, result in self.results(samples).items():
            if result != "unknown":
                by_question.setdefault(sample.question.id, Counter())[result] += 1
        return [
            AiAloneScore(
                name, self.assistant, self.column, found.total(), found["right"] / found.total(), found["invalid"]
            )
            for name, found in sorted(by_question.items())
        ]

    def write_table(self, questions: Mapping[str, Question]) -> Path:
        """Writes the scores beside the log."""
        path = self.path.with_suffix(".csv")
        write_text(path, ai_alone_table(self.scores(questions)))
        return path


def with_measured_here(study: Study, workspace: Workspace, questions_sha256: str) -> tuple[Study, tuple[str, ...]]:
    """The study with the scores measured here added to its own, and a note on each table.

    A method measured here has a name of its own, so it never shares a row with the study's. If the study has the same
    assistant and method, its own scores are used and the others omitted; a table of other questions is omitted too.

    Raises:
        ChatbenchError: a table is damaged, or its settings are missing.
    """
    own = {(score.assistant, score.method) for score in study.ai_alone}
    scores: list[AiAloneScore] = []
    notes: list[str] = []
    for path in sorted(workspace.ai_alone.glob("*.csv")):
        settings = settings_path(path)
        if not settings.exists():
            raise ChatbenchError(f"{path}: its settings are missing ({settings.name})", fix=other_place(path))
        if cast(dict[str, Any], read_json(settings)).get("questions_sha256") != questions_sha256:
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


@dataclass(frozen=True, slots=True)
class AiAloneSettings:
    """How an assistant is asked: `samples` per question, drawn at `temperature` with `seed`.

    `max_tokens` limits a reply (None: the method's limit, see `MAX_TOKENS`, which leaves no room for reasoning).
    `reasoning_effort` is sent to the extractor too.

    Raises:
        ChatbenchError: fewer than one sample or token, or a temperature out of range.
    """

    method: Method
    samples: int = 50
    temperature: float = 0.7
    seed: int = 0
    max_tokens: int | None = None
    reasoning_effort: str = ""

    def __post_init__(self) -> None:
        refuse_temperature("--temperature", self.temperature)
        if self.samples < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ChatbenchError(
                f"--samples {self.samples}, --max-tokens {self.max_tokens}", expected="at least 1 of both"
            )


@dataclass(frozen=True, slots=True)
class AiAloneResult:
    """The outcomes of the planned samples; `failed` are those without a reply or an extraction.

    `trouble` are sentences on replies that failed, were cut off, or came from another model than the requested one.
    The tokens `used` and their cost in dollars (None: no price) are those of the log, with earlier runs.
    """

    assistant: str
    method: Method
    questions: int
    counts: Mapping[Result, int]
    failed: int
    asked: int
    table: Path
    trouble: tuple[str, ...]
    used: Usage
    usd: float | None

    def lines(self) -> list[str]:
        """Lines to print."""
        known = sum(self.counts.get(result, 0) for result in ("right", "wrong", "invalid"))
        share = f"{self.counts.get('right', 0) / known:.1%} right" if known else "no known outcome"
        parts = [f"{self.counts[name]} {name}" for name in ("invalid", "unknown") if self.counts.get(name)]
        parts += [f"{self.failed} failed"] if self.failed else []
        return [
            f"{self.assistant}, {self.method}: {self.questions} questions, {known} samples, {share}"
            + "".join(f", {part}" for part in parts),
            f"{self.asked} new replies -> {self.table}",
            f"tokens: {self.used.read:,} read, {self.used.written:,} written"
            + (f", {dollars(self.usd)}" if self.usd is not None else ""),
            *self.trouble,
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
    spending: Spending | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> AiAloneResult:
    """Asks what is missing and writes the table; see the module.

    Args:
        assistant: one assistant, as in `chatbench simulate --assistant`.
        questions: questions of the study to ask.
        extractor: like `assistant`; required for free text, and only there.
        mmlu: folder with MMLU's `dev/`, the examples of the few-shot method; required there, and only there.
        spending: prices and a budget for endpoints, the extractor's price being the simulator's. What the log holds
            counts; once it is spent, no more is asked.
        overwrite: discards what was recorded with other settings.

    Raises:
        ChatbenchError: a participant or the examples are unavailable, another process writes the log, or it has other
            settings; a price or budget without an endpoint.
    """
    method, spending = settings.method, spending or Spending(Prices())
    _refuse_unneeded(method, extractor, mmlu)
    if other := [question for question in questions if not isinstance(question.kind, Choice)]:
        found = f"question {other[0].id!r} has no options: its answer is of kind {other[0].kind.name}"
        raise ChatbenchError(found, expected="questions with options", fix="list only such questions: --questions IDS")
    spec, *readers = _specs(assistant, extractor, study)
    # For all subsets, whichever are asked about, so that a log of some questions can be continued with others.
    examples = {subset: few_shot_examples(mmlu, subset) for subset in study.questions_per_subset} if mmlu else {}
    shown = [question for each in examples.values() for question in each]
    limits = settings.max_tokens or MAX_TOKENS[method], max(EXTRACTION_MAX_TOKENS, settings.max_tokens or 0)
    sides: dict[ParticipantName, AnyParticipant] = {
        side: open_assistant(
            one, study, temperature=temperature, max_tokens=limit, reasoning_effort=settings.reasoning_effort,
            options=options,
        )
        for side, one, temperature, limit in zip(
            _SIDES.values(), (spec, *readers), (settings.temperature, 0.0), limits, strict=False
        )
    }  # fmt: skip
    spending.metered = frozenset(side for side, one in sides.items() if isinstance(one, ConcurrentParticipant))
    if not spending.metered and (spending.limited or spending.prices.known):
        raise ChatbenchError("a price or a budget without an endpoint: it would do nothing", fix="omit it")
    for note in notes_on(sides.values()):
        say(note)
    agreed = {
        "questions_sha256": question_set_sha256(study.questions.values()),
        "method_sha256": method_sha256(method),
        "assistant": dict(sides["assistant"].identity),
        "extractor": dict(sides["simulator"].identity) if readers else None,
        "examples_sha256": question_set_sha256(shown) if shown else None,
        "seed": settings.seed,
    }
    log = AiAloneLog(workspace, spec.name, method)
    samples = [Sample(question, index) for question in questions for index in range(settings.samples)]
    ids = {sample.id("reply") for sample in samples}
    with (
        open_log(log.path, agreed, overwrite=overwrite) as writer,
        telling_what_is_kept(lambda: f"{len(ids & writer.recorded)} of {len(ids)} replies are kept in {log.path}"),
    ):
        for used in log.usages():
            spending.recorded(used)
        spending.expect(_at_most(settings, questions, examples, extracted=bool(readers)), 1)
        if overwrite:
            log.path.with_suffix(".csv").unlink(missing_ok=True)  # of the settings before
        asked = ask_missing(log, writer, samples, sides, examples, settings.seed, spending)
        table = log.write_table(study.questions)
    results = log.results(samples)
    counts, failed = Counter(results.values()), len(samples) - len(results)
    wanted = {stage: str(sides[side].identity.get("name")) for stage, side in _SIDES.items() if side in sides}
    trouble = tuple(log.trouble(samples, wanted))
    if left := 0 if spending.leaves_room() else log.unfinished(samples, extracted=bool(readers)):
        failed -= left
        spending.left += left
        trouble += (f"{SPENT}: {left} of {len(samples)} samples are left; with a larger one the command continues",)
    used = _usage([cast("dict[str, Any]", row) for _, row in read_log(log.path)])
    usd = spending.prices.usd(used) if spending.prices.known else None
    return AiAloneResult(spec.name, method, len(questions), counts, failed, asked, table, trouble, used, usd)


def questions_of(
    study: Study, *, ids: Sequence[str] = (), split: str | None = None, workspace: Workspace
) -> list[Question]:
    """The named questions, those held out in a split, or all questions of the study.

    Raises:
        ChatbenchError: both ids and a split, an id that the study does not have, or no such split.
    """
    if ids and split:
        raise ChatbenchError("--questions and --split both select questions", fix="choose one")
    chosen = list(ids) or (workspace.split(split).question_ids("test") if split else list(study.questions))
    unknown = [each for each in chosen if each not in study.questions]
    if unknown:
        raise ChatbenchError(f"no question {unknown[0]!r} in the study", expected="ids of questions in --study")
    return [study.questions[each] for each in dict.fromkeys(chosen)]


def ask_missing(
    log: AiAloneLog,
    writer: AppendOnlyLog,
    samples: Sequence[Sample],
    sides: Mapping[ParticipantName, AnyParticipant],
    examples: Examples,
    seed: int,
    spending: Spending,
) -> int:
    """Asks for what the log lacks and records each reply as it comes; returns the number of new assistant replies.

    Args:
        sides: the assistant, and in place of a simulator the extractor if there is one.
    """
    texts, last = log.texts("reply"), [stage for stage, side in _SIDES.items() if side in sides][-1]
    missing = [
        sample for sample in samples
        if sample.id(last) not in writer.recorded
        and (sample.id("reply") in texts or sample.id("reply") not in writer.recorded)  # else it failed for good
    ]  # fmt: skip
    new, done = 0, len(samples) - len(missing)

    def asked(sample: Sample, stage: Stage, messages: tuple[Message, Message]) -> Asking[dict[str, Any]]:
        of_sample = derive_seed(seed, sample.id(stage), 0, "assistant")
        reply = yield Request(_SIDES[stage], messages, sample.question.id, of_sample, "reply", sample.id(stage))
        row = {"id": sample.id(stage), "question_id": sample.question.id, "index": sample.index, "stage": stage}
        if isinstance(reply, Failure):
            used = {"tokens": reply.tokens, "prompt_tokens": reply.prompt_tokens}
            row |= {"text": "", "reason": reply.reason, "transient": reply.transient, **used}
        else:
            row |= {"reason": "", "transient": False, **{name: getattr(reply, name) for name in _KEPT}}
            row["seconds"] = round(reply.seconds, 3)
        writer.append([row])
        return row

    def sampled(sample: Sample) -> Asking[Usage]:
        nonlocal new
        rows = []
        if (text := texts.get(sample.id("reply"))) is None:
            shown = examples.get(sample.question.subset, ())
            rows.append((yield from asked(sample, "reply", question_messages(log.method, sample.question, shown))))
            text = str(rows[0]["text"])
            new += not rows[0]["reason"]
        if last == "extraction" and not (rows and rows[0]["reason"]):
            rows.append((yield from asked(sample, "extraction", extraction_messages(sample.question, text))))
        return _usage(rows)

    def begun() -> Iterator[Asking[Usage]]:
        for sample in missing:
            spending.began()
            yield sampled(sample)

    def ended(usage: Usage) -> None:
        nonlocal done
        spending.ended(usage)
        done += 1
        progress(done, len(samples))

    with WorkProgress("ai-alone", f"replies of {log.assistant}", already=done) as progress:
        if any(isinstance(one, ConcurrentParticipant) for one in sides.values()):
            run_concurrently(
                begun(), sides, active=BLOCK, finished=ended, may_begin=spending.leaves_room,
                refused=spending.refused, replied=spending.replied,
            )  # fmt: skip
        else:
            run_together([*begun()], cast("Sides", sides), ended, spending.replied)
    return new


def _at_most(settings: AiAloneSettings, questions: Sequence[Question], examples: Examples, *, extracted: bool) -> Usage:
    """What a sample of the longest question takes if all replies are as long as possible."""
    longest = max(questions, key=lambda question: len(question.full_text))
    limit = settings.max_tokens or MAX_TOKENS[settings.method]
    messages = question_messages(settings.method, longest, examples.get(longest.subset, ()))
    read, of_extraction = (
        sum(len(message.content) for message in each) // CHARACTERS_PER_TOKEN
        for each in (messages, extraction_messages(longest, "") if extracted else ())
    )
    written = max(EXTRACTION_MAX_TOKENS, settings.max_tokens or 0)
    return Usage((of_extraction + limit) * extracted, written * extracted, read, limit)


def _specs(assistant: str, extractor: str | None, study: Study) -> list[AssistantSpec]:
    """The assistant's, and the extractor's if there is one."""
    found = []
    for option, text in (("--assistant", assistant), ("--extractor", extractor)):
        if text is None:
            continue
        spec, *others = read_specs([text], study.assistants, option)
        if others:
            raise ChatbenchError(
                f"{option} {without_secrets(text)!r} stands for {len(others) + 1} assistants", fix="name one of them"
            )
        if spec.kind == "replay":
            raise ChatbenchError(
                f"{option} {without_secrets(text)!r}: recorded chats contain no answers of an assistant alone"
            )
        found.append(spec)
    return found


def _refuse_unneeded(method: Method, extractor: str | None, mmlu: Path | None) -> None:
    if method == "free-text" and extractor is None:
        raise ChatbenchError(
            "free-text needs a second model that reads the replies", fix="add --extractor SPEC, e.g. openai:gpt-4o"
        )
    if method != "free-text" and extractor is not None:
        raise ChatbenchError(f"--extractor does nothing with {method}", fix="omit it")
    if method == "letter-only-few-shot" and mmlu is None:
        raise ChatbenchError(
            "letter-only-few-shot needs the five examples of each subset",
            fix="add --mmlu FOLDER, which holds dev/ as in the MMLU archive (github.com/hendrycks/test)",
        )
    if method != "letter-only-few-shot" and mmlu is not None:
        raise ChatbenchError(f"--mmlu does nothing with {method}", fix="omit it")
