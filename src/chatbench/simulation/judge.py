"""Judges the answers that comparison cannot: a checker is a model with a rubric, or a function.

Of kind outcome the study says how right its people were, but no rule says how right a simulated answer is; and a text
may be right in other words than the listed ones. A checker gives each such answer a score from 0 (wrong) to 1 (right).
It first judges what people handed in. Its agreement with the study's own judgements of that (0.5 or more counts as
right) is shown with every score of simulated answers that depends on it. Where the study recorded no judgement of a
text, people get the checker's, so that they are measured as simulators are.

    results/judge/verdicts.jsonl       what the checker said about each answer to a question (append-only)
    results/judge/verdicts.run.json    who the checker is, and the hashes of its prompt and rubric

Equal answers to a question are judged once, whoever gave them, and a stopped run continues. A reply without a score is
kept, counted and reported (if none of the first few has one, the run stops), and so are answers without a verdict: an
outcome is then neither right nor wrong, and its chat is left out; a text counts by comparison. A verdict holds for the
question as it was when it was judged.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chatbench.core.answer_kinds import Outcome, Text
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, read_text
from chatbench.core.progress import telling_what_is_kept
from chatbench.core.records import (
    RIGHT_FROM,
    Answer,
    Message,
    Question,
    SimulatedConversation,
    Study,
    Usage,
    joined_id,
)
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import without_secrets
from chatbench.endpoints.client import CHARACTERS_PER_TOKEN
from chatbench.metrics.agreement import Undefined, Value
from chatbench.protocol.answers import last_object
from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    Participant,
    Reply,
    Request,
    derive_seed,
    function_identity,
)
from chatbench.protocol.dialogue_runner import run_concurrently, run_together
from chatbench.protocol.prompts import JUDGE, JUDGE_SYSTEM, RIGHT_ANSWERS, SEPARATOR, filled
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.log import open_log, read_log, settings_path
from chatbench.simulation.participants import AssistantSpec, notes_on, open_assistant, read_specs

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.simulate import ChatSettings

LATER = "later"
"""Value of `--judge`: answers are judged after the simulation."""
MAX_TOKENS = 4000
"""Room for reasoning; a score alone takes about ten. A larger --max-tokens holds for the judge too."""
TOKENS_OF_SCORE = 10
"""Tokens of a reply without reasoning, for estimates."""
FIRST_REPLIES = 8
"""If none of so many first replies holds a score, no more are paid for."""
Checker = Callable[[Question, str], float]
"""How right an answer to a question is, 0..1."""
AskJudge = Callable[[Sequence[tuple[str, str]]], None]
"""Has answers (question id and answer) judged."""
Verdicts = Mapping[tuple[str, str], float | str | None]
"""By question id and answer; None if the reply holds no score, a text if none came, and why."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A model with a rubric, or a function."""

    checker: AnyParticipant | Checker
    rubric: str = ""

    @property
    def settings(self) -> dict[str, object]:
        """What runs that write the same verdicts must have in common."""
        hashes = {"rubric_sha256": self.rubric, "prompt_sha256": JUDGE_SYSTEM + JUDGE + RIGHT_ANSWERS}
        if (identity := getattr(self.checker, "identity", None)) is None:
            identity = function_identity(self.checker)
        return {
            "judge": dict(identity),
            **{key: hashlib.sha256(text.encode()).hexdigest() for key, text in hashes.items()},
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a judge agrees with the study about people's answers; `kappa` is Cohen's.

    `answers` answers of people were compared; `unread` replies of the judge, about people or simulators, hold no score,
    and `failed` did not come, mostly for this `reason`. `missing` scored answers were never judged.
    """

    judge: str
    rubric_sha256: str
    accuracy: Value
    kappa: Value
    answers: int
    unread: int
    failed: int = 0
    reason: str = ""
    missing: int = 0

    def text(self) -> str:
        """In words, as shown with scores."""
        known = not isinstance(self.accuracy, Undefined)
        kappa = f"{self.kappa:.2f}" if isinstance(self.kappa, float) else str(self.kappa)
        found = f"accuracy {self.accuracy:.3f}, kappa {kappa} on {self.answers} answers of people" if known else ""
        found = found or f"agreement with the study unknown ({self.accuracy})"
        parts = [f"{self.unread} replies without a score"] * bool(self.unread)
        parts += [f"{self.failed} answers could not be judged ({self.reason})"] * bool(self.failed)
        parts += [f"{self.missing} answers are not judged yet (simulate with the judge again)"] * bool(self.missing)
        rule = "; of these, outcomes are left out and texts compared" if parts else ""
        return f"judged by {self.judge}: {found}{''.join(f'; {part}' for part in parts)}{rule}"


def needs_judge(questions: Sequence[Question], judge: str, study: Study) -> bool:
    """Whether a model judges some answers to these questions.

    Raises:
        ChatbenchError: some need a checker and none is named; or one is named that has nothing to judge in the study.
    """
    count = sum(isinstance(question.kind, Outcome) for question in questions)
    if count and not judge:
        raise ChatbenchError(
            f"{count} questions of kind outcome: nothing determines whether a simulated answer is right",
            expected="a checker: a model with a rubric, or a function",
            fix="name a model and a rubric: --judge openai:MODEL@URL --rubric FILE; or add --judge later, and judge "
            "with your own function: chatbench.api.judge",
        )
    if judge and not any(question.checkable for question in study.questions.values()):
        raise ChatbenchError(f"--judge {without_secrets(judge)}: no question is of kind outcome or text", fix="omit it")
    return judge not in ("", LATER) and any(question.checkable for question in questions)


def open_judge(
    spec: str,
    rubric: Path | None,
    study: Study,
    options: EndpointOptions | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    reasoning_effort: str = "",
) -> Judge:
    """Opens and checks the judge of a spec (`openai:MODEL@URL`, `local:FOLDER`); greedy, so that verdicts repeat.

    Raises:
        ChatbenchError: there is no rubric, or the model cannot be used.
    """
    text = read_rubric(spec, rubric)
    checker = open_assistant(
        judge_spec(spec), study, temperature=0.0, max_tokens=max(MAX_TOKENS, max_tokens),
        reasoning_effort=reasoning_effort, options=options,
    )  # fmt: skip
    return Judge(checker, text)


def opened_judge(settings: ChatSettings, study: Study, options: EndpointOptions | None) -> Judge:
    """The judge of a simulation's settings; see `open_judge`."""
    return open_judge(
        settings.judge, settings.rubric, study, options, max_tokens=settings.max_tokens,
        reasoning_effort=settings.reasoning_effort,
    )  # fmt: skip


def judge_spec(spec: str) -> AssistantSpec:
    """Parses the spec of a judge.

    Raises:
        ChatbenchError: it is no endpoint's and no local model's.
    """
    one, *others = read_specs([spec], (), "--judge")
    if others or one.kind not in ("openai", "local"):
        raise ChatbenchError(f"--judge {without_secrets(spec)}", expected="openai:MODEL@URL or local:FOLDER")
    return one


def read_rubric(spec: str, rubric: Path | None) -> str:
    """The text of a judge's rubric.

    Raises:
        ChatbenchError: there is none.
    """
    if rubric is None or not (text := read_text(rubric).strip()):
        raise ChatbenchError(
            f"--judge {without_secrets(spec)}: no rubric", expected="a text that says which answers are right",
            fix="add --rubric FILE",
        )  # fmt: skip
    return text


def judge_messages(question: Question, answer: str, rubric: str) -> tuple[Message, Message]:
    """The messages to a model about an answer; of a text it is told the right ones."""
    if isinstance(question.kind, Text):
        rubric += RIGHT_ANSWERS + "\n".join((question.answer, *question.kind.also))
    text = filled(JUDGE, question=question.full_text, rubric=rubric, answer=answer, separator=SEPARATOR)
    return Message("system", JUDGE_SYSTEM), Message("user", text)


def read_score(reply: str) -> float | None:
    """The score in a judge's reply, None if there is none; see `last_object`.

    >>> read_score('It sorts. {"score": 0.5}'), read_score('{"score": 7}'), read_score("right")
    (0.5, None, None)
    """
    score = last_object(reply, "score").get("score")
    if isinstance(score, str):  # as some models write numbers
        with suppress(ValueError):
            score = float(score)
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        return None
    return float(score)


def peoples_answers(study: Study) -> dict[tuple[str, str], list[Answer]]:
    """What people handed in that a checker judges, by question id and answer."""
    found: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in study.answers:
        if answer.letter is not None and study.questions[answer.question_id].is_for_checker(answer.letter):
            found[answer.question_id, answer.letter].append(answer)
    return found


def simulated_answers(study: Study, chats: Iterable[SimulatedConversation]) -> list[tuple[str, str]]:
    """Question id and answer of the chats that a checker judges."""
    return [
        (chat.question_id, chat.letter)
        for chat in chats
        if chat.letter is not None and study.questions[chat.question_id].is_for_checker(chat.letter)
    ]


def verdicts_path(workspace: Workspace) -> Path:
    """Path of the verdicts."""
    return workspace.results / "judge" / "verdicts.jsonl"


def estimated_requests(
    answers: Iterable[tuple[str, str]], chats: int, study: Study, workspace: Workspace, rubric: str
) -> tuple[int, Usage]:
    """How many answers the judge will be asked about at most, and the tokens that this takes.

    They are those of `answers` (question id and answer) without a verdict, and one for each of `chats` new chats.
    Tokens are the mean of earlier verdicts, else one per four characters, and a score without reasoning.
    """
    rows = [cast("dict[str, Any]", row) for _, row in read_log(verdicts_path(workspace))]
    known = set(answers)
    count = len({_verdict_id(study, *each) for each in known} - {row["id"] for row in rows}) + chats
    if rows:
        read, written = (sum(row[name] for row in rows) / len(rows) for name in ("prompt_tokens", "tokens"))
    else:
        asked = known or {(key, "") for key, question in study.questions.items() if question.checkable}
        prompts = [judge_messages(study.questions[question_id], answer, rubric) for question_id, answer in asked]
        characters = sum(len(message.content) for prompt in prompts for message in prompt)
        read, written = characters / len(prompts) / CHARACTERS_PER_TOKEN, TOKENS_OF_SCORE
    return count, Usage(assistant_prompt_tokens=round(count * read), assistant_tokens=round(count * written))


def judge_answers(
    judge: Judge,
    answers: Iterable[tuple[str, str]],
    study: Study,
    workspace: Workspace,
    *,
    spending: Spending | None = None,
    active: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> Agreement:
    """Asks about answers (question id and answer) without a verdict; returns the judge's agreement with the study.

    Args:
        spending: a budget; the judge's tokens count as an assistant's.
        active: maximum concurrent requests.

    Raises:
        ChatbenchError: another judge's verdicts exist, another process writes them, or the judge cannot continue or
            gives no scores.
    """
    path = verdicts_path(workspace)
    if settings_path(path).exists() and read_json(settings_path(path)) != json.loads(json.dumps(judge.settings)):
        raise ChatbenchError(
            f"{path}: verdicts of another judge, rubric or decoding, or of an earlier version",
            expected="one judge per results folder",
            fix=f"remove {path} and {settings_path(path).name} to have every answer judged again, or choose another "
            "--results folder",
        )
    wanted: dict[str, tuple[str, str]] = {}
    for question_id, answer in answers:
        wanted[_verdict_id(study, question_id, answer)] = question_id, answer
    if spending:
        count_verdicts(spending, workspace)
    with (
        open_log(path, judge.settings) as log,
        telling_what_is_kept(lambda: f"{len(wanted.keys() & log.recorded)} of {len(wanted)} verdicts are in {path}"),
    ):
        missing = {key: each for key, each in wanted.items() if key not in log.recorded}
        if missing:
            say(f"judge: {len(missing)} of {len(wanted)} answers to judge")
        passed: Counter[str] = Counter()
        first = 0 if not missing or _gives_scores(judge, path) else FIRST_REPLIES

        def record(row: dict[str, object]) -> None:
            log.append([row])
            passed.update([str(row["reason"])] * bool(row["transient"]))

        for part in filter(None, ([*missing.items()][:first], [*missing.items()][first:])):
            _ask(judge, dict(part), study, record, spending or Spending(Prices()), active)
            _gives_scores(judge, path)
        if left := len(wanted.keys() - log.recorded):
            why = f" ({passed.most_common(1)[0][0]})" if passed else ""
            say(f"judge: {left} of {len(wanted)} answers are not judged yet{why}; the same command continues")
    return agreement_with(study, *read_verdicts(workspace, study))


def judging(
    settings: ChatSettings, study: Study, workspace: Workspace, spending: Spending, options: EndpointOptions,
    say: Callable[[str], None], *, in_blocks: bool,
) -> AskJudge:  # fmt: skip
    """A function that has answers judged, and says so.

    A judge behind an endpoint is opened, and so checked, at once, or never if the budget is spent; one on this machine
    when it is first needed.

    Raises:
        ChatbenchError: the chats are simulated in blocks, or the judge cannot be used.
    """
    if in_blocks:
        raise ChatbenchError(
            "--judge cannot be used with chats in blocks",
            fix="simulate with --judge later, then again with the judge",
        )
    count_verdicts(spending, workspace)
    is_remote, told = judge_spec(settings.judge).kind == "openai", ""
    judge = opened_judge(settings, study, options) if is_remote and not spending.is_spent else None

    def ask(answers: Sequence[tuple[str, str]]) -> None:
        nonlocal judge, told
        if judge is None and is_remote:
            if left := estimated_requests(answers, 0, study, workspace, "")[0]:
                say(f"judge: {left} of {len(set(answers))} answers are not judged yet; the budget is spent")
            agreement = agreement_with(study, *read_verdicts(workspace, study))
        else:
            judge, active = judge or opened_judge(settings, study, options), options.concurrency
            agreement = judge_answers(judge, answers, study, workspace, spending=spending, active=active, say=say)
        if (found := agreement.text()) != told:
            say(told := found)

    for note in options.untold(notes_on([cast(AnyParticipant, judge.checker)] if judge else [])):
        say(f"judge: {note}")
    return ask


def _gives_scores(judge: Judge, path: Path) -> bool:
    """Whether a reply has held a score; an error if none has, of `FIRST_REPLIES` or more."""
    replies = [row for _, row in read_log(path) if not row["reason"]]
    if any(row["score"] is not None for row in replies):
        return True
    if len(replies) >= FIRST_REPLIES:
        last, name = replies[-1], cast("dict[str, Any]", judge.settings["judge"])["name"]
        cut = " (cut off at the token limit)" * (last.get("finish") == "length")
        raise ChatbenchError(
            f"the judge {name} has given {len(replies)} replies without a score, such as{cut} {last['text']!r:.200}",
            expected='a reply with {"score": X}, X from 0 to 1',
            fix=f"name another judge, or raise --max-tokens if it was cut off; first remove {path} and "
            f"{settings_path(path).name}",
        )
    return False


def _verdict_id(study: Study, question_id: str, answer: str) -> str:
    """Of an answer to a question with this text and these right answers."""
    question = study.questions[question_id]
    listed = (question.answer, *question.kind.also) if isinstance(question.kind, Text) else ()
    what = json.dumps([question.full_text, listed, answer])
    return joined_id(question_id, hashlib.sha256(what.encode()).hexdigest()[:16])


def count_verdicts(spending: Spending, workspace: Workspace) -> None:
    """Adds the cost of all earlier verdicts to what was spent, unless they were counted."""
    path = verdicts_path(workspace)
    if path not in spending.counted:
        spending.counted.add(path)
        for _, row in cast("Iterator[tuple[int, dict[str, Any]]]", read_log(path)):
            spending.judged(_request((), row), Reply("", row["tokens"], prompt_tokens=row["prompt_tokens"]))


def _request(messages: Sequence[Message], row: Mapping[str, Any]) -> Request:
    seed = derive_seed(0, row["id"], 0, "assistant")
    return Request("assistant", tuple(messages), row["question_id"], seed, "reply", row["id"])


def _ask(
    judge: Judge,
    missing: Mapping[str, tuple[str, str]],
    study: Study,
    record: Callable[[dict[str, object]], None],
    spending: Spending,
    active: int,
) -> None:
    checker = judge.checker

    def asked(key: str, question_id: str, answer: str) -> Generator[Request, Reply | Failure, dict[str, object]]:
        row: dict[str, object] = {"id": key, "question_id": question_id, "answer": answer}
        question = study.questions[question_id]
        reply: Reply | Failure
        if hasattr(checker, "identity"):
            reply = yield _request(judge_messages(question, answer, judge.rubric), row)
        else:
            given = float(checker(question, answer))
            if not 0 <= given <= 1:
                found = f"question {question_id!r}: the checker returned {given}"
                raise ChatbenchError(found, expected="a score from 0 to 1")
            reply = Reply(json.dumps({"score": given}))
        used = {"tokens": reply.tokens, "prompt_tokens": reply.prompt_tokens}
        if isinstance(reply, Failure):
            return {**row, "score": None, "text": "", **used, "reason": reply.reason, "transient": reply.transient}
        said = {"reasoning": reply.reasoning, "finish": reply.finish, "model": reply.model}
        score = read_score(reply.text)
        return {**row, "score": score, "text": reply.text, **used, **said, "reason": "", "transient": False}

    dialogues = [asked(key, *each) for key, each in missing.items()]
    if isinstance(checker, ConcurrentParticipant):
        spending.metered = frozenset({"assistant"})
        run_concurrently(
            dialogues, {"assistant": checker}, active=active, finished=record,
            may_begin=lambda: not spending.is_spent, refused=spending.refused, replied=spending.judged,
        )  # fmt: skip
    else:  # the dialogues with a function end without a request
        run_together(dialogues, {"assistant": cast(Participant, checker)}, record, spending.judged)


def read_verdicts(workspace: Workspace, study: Study) -> tuple[Verdicts, Mapping[str, Any]]:
    """The verdicts on answers to the study's questions, and whose they are; none if nothing was judged.

    Raises:
        ChatbenchError: a line does not match its checksum.
    """
    path = verdicts_path(workspace)
    found: dict[tuple[str, str], float | str | None] = {}
    for _, row in cast("Iterator[tuple[int, dict[str, Any]]]", read_log(path)):
        key = row["question_id"], row["answer"]
        if key[0] in study.questions and row["id"] == _verdict_id(study, *key) and not row["transient"]:
            found[key] = row["reason"] or row["score"]
    return found, cast(dict[str, Any], read_json(settings_path(path))) if settings_path(path).exists() else {}


def agreement_with(study: Study, verdicts: Verdicts, settings: Mapping[str, Any]) -> Agreement:
    """Accuracy and Cohen's kappa of the verdicts on what people handed in and the study judged, each person once."""
    pairs = [
        (given >= RIGHT_FROM, answer.correct >= RIGHT_FROM)
        for key, answers in peoples_answers(study).items()
        if isinstance(given := verdicts.get(key), float)
        for answer in answers
        if not answer.by_rule
    ]
    name, rubric = str(settings["judge"].get("name")), str(settings["rubric_sha256"])
    reasons = Counter(why for why in verdicts.values() if isinstance(why, str))
    most_common = next((why for why, _ in reasons.most_common(1)), "")
    left_out = sum(score is None for score in verdicts.values()), reasons.total(), most_common
    if not pairs:
        none = Undefined("there is no verdict on an answer of people that the study judged")
        return Agreement(name, rubric, none, none, 0, *left_out)
    count = len(pairs)
    accuracy = sum(given == right for given, right in pairs) / count
    yes, right_share = (sum(each) / count for each in zip(*pairs, strict=True))
    chance = yes * right_share + (1 - yes) * (1 - right_share)
    same = Undefined("all verdicts and all judgements of the study are the same")
    kappa: Value = (accuracy - chance) / (1 - chance) if chance < 1 else same
    return Agreement(name, rubric, accuracy, kappa, count, *left_out)


def with_verdicts(
    study: Study, workspace: Workspace, chats: Iterable[SimulatedConversation] = ()
) -> tuple[Study, Agreement | None]:
    """The study with the verdicts on answers to its questions, and their judge's agreement with it.

    The agreement counts those answers of people and of `chats` that lack a verdict.

    Raises:
        ChatbenchError: a line does not match its checksum.
    """
    verdicts, settings = read_verdicts(workspace, study)
    asked = {*peoples_answers(study), *simulated_answers(study, chats)}
    if not settings or not (asked or verdicts):
        return study, None
    found = replace(agreement_with(study, verdicts, settings), missing=len(asked - verdicts.keys()))
    known = {key: score for key, score in verdicts.items() if isinstance(score, float)}
    answers = [
        replace(answer, correct=known.get((answer.question_id, answer.letter or ""), answer.correct))
        if answer.by_rule
        else answer
        for answer in study.answers
    ]
    return replace(study, answers=tuple(answers), verdicts=known), found
