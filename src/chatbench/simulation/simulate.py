"""Simulates conversations about held-out questions, with a simulator as the user: one split, or several on a budget.

The plan (assistants in the order given, questions by id, repetitions) is simulated and recorded by `run.py`; a killed
run continues. What is in the log is counted at the end. A conversation that failed for a transient reason is tried
again by the next run; one that failed permanently is not.

Several splits share one budget. A dry run says what a run would do and cost; this estimate is made before any model is
loaded or any endpoint is asked. Tokens per conversation are the mean over the recorded conversations with these
assistants, if the log or that of an earlier split has any and keeps them; otherwise they are estimated from people's
chats about the same questions, at four characters per token: as many turns, as long, each request with the whole chat
so far. A simulator that talks more than people, or a model that reasons, costs more; once conversations are recorded,
the next estimate uses them. The bound beside the estimate is for conversations with all user turns, every message as
long as `max_tokens` allows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from rich.console import Console

from chatbench.core.errors import ChatbenchError
from chatbench.core.progress import telling_what_is_kept
from chatbench.core.records import Question, Study, Usage
from chatbench.core.settings import is_local
from chatbench.data.prepared import Manifest
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions, read_addresses
from chatbench.metrics.pairs import Pair, grouped
from chatbench.protocol.dialogue import MAX_USER_TURNS, AnyParticipant, SteppedParticipant
from chatbench.protocol.failure_modes import FAILURE_MODES, FailureMode
from chatbench.protocol.prompt_styles import STYLES, prompts_sha256
from chatbench.simulation.budget import (
    Prices,
    SimulateResult,
    Spending,
    Tally,
    dollars,
    tally_of,
    usage_at_most,
    usage_each,
)
from chatbench.simulation.judge import (
    LATER,
    AskJudge,
    count_verdicts,
    estimated_requests,
    judge_spec,
    judging,
    needs_judge,
    opened_judge,
    peoples_answers,
    read_rubric,
    simulated_answers,
)
from chatbench.simulation.log import (
    count_earlier,
    open_log,
    options_text,
    read_conversations,
    read_recorded,
    refuse_other_settings,
)
from chatbench.simulation.participants import (
    SPLIT_MARK,
    TUNED,
    AssistantSpec,
    SimulatorSpec,
    active_at,
    not_recorded,
    notes_on,
    open_assistant,
    open_simulator,
    read_specs,
    refuse_impossible,
    refuse_missing,
    refuse_temperature,
)
from chatbench.simulation.run import (
    BLOCK_SIZE,
    ConversationProgress,
    LoopSettings,
    Planned,
    Run,
    blocks,
    plan,
)

Say = Callable[[str], None]
Opened = tuple[AnyParticipant, Mapping[str, AnyParticipant]]
"""The simulator, and the assistants by name."""
LOCAL = frozenset({"tuned", "local"})
"""Kinds of participants whose models run on this machine."""
ENDPOINTS = ("openai", "completions")
"""Kinds of participants behind an endpoint; their conversations are not divided into blocks."""
WITHOUT_TOKENS = ("scripted", "replay")
"""Kinds of assistants that use no tokens."""
MOST_GIB = 1_000_000
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Data types of the weights of local models; auto: see models.loading.inference_dtype."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Settings that the conversations of a log share, whoever plays the simulator and the assistant.

    `conversations` are simulated per question and assistant; `end_on` lists failure modes that force the answer when
    they are detected; `expected_answers` asks the simulator for the probabilities of its answers; `answer_model` draws
    its letters from what people of the training side chose (simulation/answer_model.py); `reasoning_effort` is sent to
    endpoints that accept it. `cache_gib` bounds the keys and values that all local models keep together, in GiB (None:
    a third of free memory); it changes speed, and text only through rounding. `dtype` is the data type of their weights
    (one of `DTYPES`). A `judge` with its `rubric` scores answers of kind outcome and texts that match no right
    answer (simulation/judge.py). `assistant_max_tokens` replaces `max_tokens` for assistants (None: it is the same).

    Raises:
        ChatbenchError: a number or a temperature out of range, an unknown failure mode or data type.
    """

    conversations: int = 10
    seed: int = 0
    max_user_turns: int = MAX_USER_TURNS
    simulator_temperature: float = 1.0
    assistant_temperature: float = 0.7
    max_tokens: int = 1000
    block_size: int = BLOCK_SIZE
    end_on: tuple[str, ...] = ()
    expected_answers: bool = False
    answer_model: bool = False
    reasoning_effort: str = ""
    cache_gib: float | None = None
    dtype: str = "auto"
    judge: str = ""
    rubric: Path | None = None
    assistant_max_tokens: int | None = None

    def __post_init__(self) -> None:
        numbers = ("conversations", "max_user_turns", "max_tokens", "block_size", "seed")
        for name in numbers + ("assistant_max_tokens",) * (self.assistant_max_tokens is not None):
            if not isinstance(getattr(self, name), int):
                raise ChatbenchError(f"{name} is {getattr(self, name)!r}", expected="a whole number")
            if name != "seed" and getattr(self, name) < 1:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected="at least 1")
        for name in ("simulator_temperature", "assistant_temperature"):
            refuse_temperature(name, getattr(self, name))
        if self.cache_gib is not None and not 0 < self.cache_gib <= MOST_GIB:
            raise ChatbenchError(f"--cache-gib {self.cache_gib:g}", expected=f"more than 0, at most {MOST_GIB:,}")
        if self.dtype not in DTYPES:
            raise ChatbenchError(f"dtype is {self.dtype!r}", expected=f"one of {', '.join(DTYPES)}")
        if self.rubric and self.judge in ("", LATER):
            raise ChatbenchError(
                f"--rubric {self.rubric} without a judge that reads it", fix="add --judge openai:MODEL@URL, or omit it"
            )
        if unknown := [name for name in self.end_on if name not in FAILURE_MODES]:
            raise ChatbenchError(
                f"--end-on {unknown[0]}: no such failure detector", expected=f"any of {', '.join(FAILURE_MODES)}"
            )

    def options(self) -> str:
        """The options of these settings that are not the defaults, as on the command line."""
        values = {name: value for name, value in asdict(self).items() if name not in ("block_size", "cache_gib")}
        return options_text({**values, "end_on": list(self.end_on)}, asdict(ChatSettings()))

    @property
    def assistant_tokens(self) -> int:
        """Maximum tokens of an assistant's message."""
        return self.assistant_max_tokens or self.max_tokens

    @property
    def failure_modes(self) -> frozenset[FailureMode]:
        """The failure modes in `end_on`."""
        return frozenset(mode for mode in FAILURE_MODES if mode in self.end_on)


@dataclass(frozen=True, slots=True)
class Task:
    """What to simulate: the held-out questions of a split and the participants; nothing is loaded yet."""

    manifest: Manifest
    study: Study
    questions: tuple[Question, ...]
    assistants: tuple[AssistantSpec, ...]
    log: Path

    def plans(self, settings: ChatSettings, block: int | None = None) -> dict[str, list[Planned]]:
        """The conversations to simulate, by assistant, all or one block of each; none of `unrecorded` pairs.

        Where pairs are left out, the last blocks may be empty.

        Raises:
            ChatbenchError: there is no such block.
        """
        left_out, size = set(self.unrecorded), settings.block_size
        plans = {
            spec.name: [
                one
                for one in plan(self.questions, spec.name, settings.conversations)
                if (one.question.id, spec.name) not in left_out
            ]
            for spec in self.assistants
        }
        if block is None:
            return plans
        last = (len(self.questions) * settings.conversations - 1) // size
        if not 0 <= block <= last:
            raise ChatbenchError(f"no block {block} of the conversations", expected=f"block 0 to {last}")
        return {name: planned[block * size : (block + 1) * size] for name, planned in plans.items()}

    @property
    def unrecorded(self) -> list[Pair]:
        """Questions that a replayed assistant cannot be asked; see `not_recorded`."""
        replayed = {spec.name: spec.argument for spec in self.assistants if spec.kind == "replay"}
        return not_recorded(self.study, replayed, (question.id for question in self.questions))

    @property
    def left_out(self) -> list[str]:
        """A line for each assistant that cannot be asked about some questions."""
        names = grouped((name, question) for question, name in self.unrecorded).items()
        return [
            f"no chats with {name} about {', '.join(questions[:3])}{f' and {more} more' if more > 0 else ''}: "
            "in the study, nobody asked it about this"
            for name, questions in names
            for more in (len(questions) - 3,)
        ]


def simulate(
    model: str,
    *,
    assistants: Sequence[str | AssistantSpec],
    workspace: Workspace,
    split: str,
    settings: ChatSettings | None = None,
    simulator: SimulatorSpec = TUNED,
    base_model: bool = False,
    options: EndpointOptions | None = None,
    spending: Spending | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    task: Task | None = None,
    block: int | None = None,
    opened: Opened | None = None,
    accept: Callable[[AnyParticipant], None] | None = None,
) -> SimulateResult:
    """Simulates what is missing from the plan; see the module. If the budget has no room for a chat, nobody is opened.

    Args:
        model: the name that results are stored under; with the tuned simulator, what was fine-tuned.
        base_model: use the base model instead of the tuned one.
        options: how endpoints are asked.
        spending: prices and the budget, shared by the runs on several splits.
        overwrite: discards what was recorded with other settings.
        task: questions and log to use instead of the split's held-out questions and its log.
        block: only this block of each assistant's plan, into a log of its own.
        opened: participants from `open_participants` for the same split, model and settings.
        accept: called with the simulator before any conversation, to refuse it.

    Raises:
        ChatbenchError: nothing is prepared or trained, a participant cannot be used, another process writes the log, or
            it has other settings.
        StoppedError: SIGTERM came; conversations active at an endpoint were brought to their end.
    """
    settings, spending = settings or ChatSettings(), spending or Spending(Prices())
    task = task or task_of(model, assistants, workspace=workspace, split=split, base_model=base_model)
    console, options = console or Console(), options or EndpointOptions()
    plans = task.plans(settings, block)
    if block is not None:
        task = replace(task, log=workspace.conversations(model, split, base_model=base_model, block=block))
    continues = block is None and not (opened or (overwrite and task.log.exists()))
    if continues:
        count_earlier(spending, task.log, plans)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    ask_judge = None
    if needs_judge(task.questions, settings.judge, task.study):
        ask_judge = judging(settings, task.study, workspace, spending, options, say, in_blocks=block is not None)
    if continues and not spending.leaves_room():
        planned = {one.id for each in plans.values() for one in each}
        done = {chat.id for _, chat in read_recorded(task.log) if not chat.transient}
        if planned - done or not accept:
            if ask_judge:
                ask_judge(list(peoples_answers(task.study)))
            return _ended(task, planned, 0, 0.0, spending, ask_judge)
    user, participants = opened or open_participants(
        model, task, workspace=workspace, split=split, settings=settings, simulator=simulator, base_model=base_model,
        options=options,
    )  # fmt: skip
    if accept:
        accept(user)
    if ask_judge:
        ask_judge(list(peoples_answers(task.study)))
    for note in _notes(task, settings, user, participants, options, new=accept is not None):
        say(note)
    agreed = {
        "settings": {**settings_known_before(task, settings, simulator), "simulator": dict(user.identity)},
        "assistants": {name: participant.identity for name, participant in participants.items()},
    }
    planned = {one.id for each in plans.values() for one in each}
    loop = LoopSettings(settings.seed, settings.max_user_turns, STYLES[simulator.style], settings.failure_modes)
    active = active_at(endpoints_of(simulator, [split], task.assistants), options)
    dollars = (lambda: spending.usd) if spending.prices.known else None
    with (
        open_log(task.log, agreed, overwrite=overwrite) as log,
        telling_what_is_kept(
            lambda: f"{len(planned & log.recorded)} of {len(planned)} conversations are kept in {task.log}"
        ),
    ):
        count_earlier(spending, task.log, plans)
        began = time.monotonic()
        with ConversationProgress(console, len(planned - log.recorded), dollars) as progress:
            run = Run(log, user, participants, loop, progress, spending, settings.block_size, active)
            simulated = run.simulate(plans)
        seconds = time.monotonic() - began
    return _ended(task, planned, simulated, seconds, spending, ask_judge)


def _notes(
    task: Task, settings: ChatSettings, user: AnyParticipant, participants: Mapping[str, AnyParticipant],
    options: EndpointOptions, *, new: bool,
) -> list[str]:  # fmt: skip
    """What is said before the first chat; of `new` assistants, not that people have not worked with them."""
    both = (user, *participants.values())
    notes, known = notes_on(both), task.study.assistants
    if settings.dtype == "auto" and not task.log.exists() and any(getattr(one, "slow_in_float32", 0) for one in both):
        notes.append("this CPU multiplies bfloat16 in hardware: --dtype bfloat16 would be about twice as fast")
    notes += task.left_out
    for name in () if new else sorted(participants.keys() - known):
        near = get_close_matches(name, known, 1)
        notes += [f"people worked with {each!r}, not {name!r}: if it is meant, say {each}=SPEC" for each in near]
    return options.untold(notes)


def _ended(
    task: Task, planned: set[str], simulated: int, seconds: float, spending: Spending, ask_judge: AskJudge | None
) -> SimulateResult:
    """Has the chats of the log judged, and counts them."""
    if ask_judge and task.log.exists():
        ask_judge(simulated_answers(task.study, read_conversations(task.log)))
    tally, letters = tally_of(task.log, planned), all(question.options for question in task.questions)
    found = SimulateResult(task.log, tally, len(planned), simulated, seconds, spending.prices, letters)
    spending.left += found.left
    return found


def endpoints_of(simulator: SimulatorSpec, splits: Iterable[str], specs: Iterable[AssistantSpec]) -> list[str]:
    """The addresses of those that are behind an endpoint: the simulator of each split, and the assistants."""
    simulators = [simulator.argument.replace(SPLIT_MARK, split) for split in splits if simulator.kind in ENDPOINTS]
    return [*simulators, *(spec.argument for spec in specs if spec.kind in ENDPOINTS)]


def _refuse_without_local(settings: ChatSettings, simulator: SimulatorSpec, task: Task) -> None:
    """Refuses settings of local models where no model is local."""
    given = {"--dtype": settings.dtype != "auto", "--cache-gib": settings.cache_gib is not None}
    if any(given.values()) and not {simulator.kind, *(spec.kind for spec in task.assistants)} & LOCAL:
        name = next(name for name in given if given[name])
        raise ChatbenchError(f"{name} without a local model: it would do nothing", fix=f"omit {name}")


def open_participants(
    model: str,
    task: Task,
    *,
    workspace: Workspace,
    split: str,
    settings: ChatSettings,
    simulator: SimulatorSpec = TUNED,
    base_model: bool = False,
    options: EndpointOptions | None = None,
) -> Opened:
    """Loads and checks the simulator, and the assistants by name; see `simulate`.

    Those behind endpoints come first: a wrong key is found before weights are loaded.

    Raises:
        ChatbenchError: a participant cannot be used.
    """
    _refuse_without_local(settings, simulator, task)
    remote = [spec for spec in task.assistants if spec.kind in ENDPOINTS]
    opened = {spec.name: _opened_assistant(spec, task.study, settings, options) for spec in remote}
    user = open_simulator(
        simulator, model=model, workspace=workspace, split=split, base_model=base_model,
        temperature=settings.simulator_temperature, max_tokens=settings.max_tokens,
        reasoning_effort=settings.reasoning_effort, expected_answers=settings.expected_answers,
        answer_model=settings.answer_model, dtype=settings.dtype, options=options,
    )  # fmt: skip
    assistants = {
        spec.name: opened.get(spec.name) or _opened_assistant(spec, task.study, settings, options)
        for spec in task.assistants
    }
    local = [one for one in (user, *assistants.values()) if isinstance(one, SteppedParticipant)]
    for one in local:
        one.share_memory(settings.cache_gib, len(local))
    return user, assistants


def _opened_assistant(
    spec: AssistantSpec, study: Study, settings: ChatSettings, options: EndpointOptions | None
) -> AnyParticipant:
    return spec.participant or open_assistant(
        spec, study, temperature=settings.assistant_temperature, max_tokens=settings.assistant_tokens,
        reasoning_effort=settings.reasoning_effort, dtype=settings.dtype, options=options,
    )  # fmt: skip


def check_endpoints(
    assistants: Sequence[str | AssistantSpec], study: Study, settings: ChatSettings, options: EndpointOptions
) -> None:
    """Asks the assistants and the judge behind endpoints something small, before models are trained for them.

    Raises:
        ChatbenchError: one of them cannot be used.
    """
    for spec in specs_in(study, assistants):
        if spec.kind in ENDPOINTS:
            _opened_assistant(spec, study, settings, options)
    if needs_judge([*study.questions.values()], settings.judge, study) and judge_spec(settings.judge).kind in ENDPOINTS:
        opened_judge(settings, study, options)


def task_of(
    model: str, assistants: Sequence[str | AssistantSpec], *, workspace: Workspace, split: str, base_model: bool = False
) -> Task:
    """Reads a command's request and checks what can be checked without loading a model or asking an endpoint.

    Raises:
        ChatbenchError: nothing is prepared, the study changed, or an assistant cannot be read.
    """
    held_out, study = workspace.split(split).question_ids("test"), workspace.study
    specs = specs_in(study, assistants)
    refuse_missing(specs)
    return Task(
        workspace.manifest,
        study,
        tuple(study.questions[question_id] for question_id in held_out),
        tuple(specs),
        workspace.conversations(model, split, base_model=base_model),
    )


def specs_in(study: Study, assistants: Sequence[str | AssistantSpec]) -> list[AssistantSpec]:
    """One spec per assistant of a command; see `read_specs`."""
    return read_specs(assistants, sorted({conversation.assistant for conversation in study.conversations}))


def settings_known_before(task: Task, settings: ChatSettings, simulator: SimulatorSpec) -> Mapping[str, object]:
    """What runs that write the same log must have in common, as far as it is known before a model is loaded."""
    return {
        "questions_sha256": task.manifest.questions_sha256,
        "held_out_sha256": question_set_sha256(task.questions),
        "conversations": settings.conversations,
        "seed": settings.seed,
        "max_user_turns": settings.max_user_turns,
        "simulator_kind": simulator.kind,
        "style": simulator.style,
        "prompts_sha256": prompts_sha256(STYLES[simulator.style]),
        "end_on": sorted(settings.failure_modes),
        "expected_answers": settings.expected_answers,
        "block_size": settings.block_size,
    }


@dataclass(frozen=True, slots=True)
class Pending:
    """The conversations with one assistant: planned, in the log, and the blocks in which the rest is simulated.

    `blocks` is None if they are simulated one by one.
    """

    assistant: str
    planned: int
    recorded: int
    blocks: int | None

    def line(self) -> str:
        missing = self.planned - self.recorded
        how = "one by one" if self.blocks is None else f"in {self.blocks} block{'s' * (self.blocks != 1)}"
        rest = f"{missing} to simulate, {how}" if missing else "nothing to simulate"
        return f"{self.assistant}: {self.planned} conversations, {self.recorded} recorded, {rest}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run on one split would do; `usage` is for everything missing, estimated from `basis`, and at `most`.

    `tally` has the recorded conversations that it is estimated from, if there are any.
    """

    task: Task
    pending: tuple[Pending, ...]
    usage: Usage
    most: Usage
    basis: str
    prices: Prices
    tally: Tally

    @property
    def missing(self) -> int:
        """Conversations to simulate."""
        return sum(one.planned - one.recorded for one in self.pending)

    def lines(self) -> list[str]:
        """Lines to print: per assistant, tokens, dollars, and where it would be written."""
        pending = (one.line() for one in self.pending)
        return [*pending, *self.task.left_out, *self.cost_lines(), f"to be written to {self.task.log}"]

    def cost_lines(self) -> list[str]:
        """Tokens and dollars; none if there is nothing to simulate."""
        if not self.missing:
            return []
        about, most = (f"{each.read:,} tokens read, {each.written:,} written" for each in (self.usage, self.most))
        lines = [f"about {about} (estimated from {self.basis}); at most {most} (every turn and token used)"]
        if self.prices.known:
            usd = self.prices.usd(self.usage)
            each = dollars(usd * 1000 / self.missing)
            most = dollars(self.prices.usd(self.most))
            lines.append(
                f"about {each} per 1,000 conversations, {dollars(usd)} for these {self.missing:,}; at most {most}"
            )
        return lines


@dataclass(frozen=True, slots=True)
class Simulations:
    """The simulations that a command asks for; `split` None means every split that this simulator can play on.

    `tasks`, by split, are instead of the splits' held-out questions and logs.
    """

    model: str
    assistants: Sequence[str | AssistantSpec]
    workspace: Workspace
    settings: ChatSettings
    split: str | None = None
    simulator: SimulatorSpec = TUNED
    base_model: bool = False
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def splits(self) -> list[str]:
        """The requested split; else those that the simulator was trained on; else (no training needed) all.

        Raises:
            ChatbenchError: nothing is prepared, or nothing is trained.
        """
        if self.tasks or self.split:
            return [*self.tasks] or [str(self.split)]
        if self.simulator.kind == "tuned" and not self.base_model:
            return self.workspace.trained_splits(self.model)
        return list(self.workspace.manifest.split_ids)

    def task(self, split: str) -> Task:
        """What to simulate on a split."""
        return self.tasks.get(split) or task_of(
            self.model, self.assistants, workspace=self.workspace, split=split, base_model=self.base_model
        )

    def estimate(
        self, split: str, prices: Prices, *, overwrite: bool = False, measured: Tally | None = None
    ) -> Estimate:
        """What one split would do and cost; no model is loaded and no endpoint is asked.

        `measured` counts if the split's log has no conversation yet.

        Raises:
            ChatbenchError: options contradict each other, or the log is damaged, or was made with other settings.
        """
        settings, simulator, task = self.settings, self.simulator, self.task(split)
        refuse_impossible(
            simulator, base_model=self.base_model, expected_answers=settings.expected_answers,
            answer_model=settings.answer_model,
        )  # fmt: skip
        _refuse_without_local(settings, simulator, task)
        if simulator.kind == "local":
            is_local(simulator.argument.replace(SPLIT_MARK, split))
        needs_judge(task.questions, settings.judge, task.study)
        recorded: set[str] = set()
        if not overwrite:
            refuse_other_settings(task.log, settings_known_before(task, settings, simulator), asdict(settings))
            recorded = {chat.id for _, chat in read_recorded(task.log) if not chat.transient}
        # A log to be overwritten may be damaged, or of another version: it is not read.
        plans = task.plans(settings)
        ids = {one.id for planned in plans.values() for one in planned}
        tally, where = Tally() if overwrite else tally_of(task.log, ids), ""
        if measured and any(measured.ended_tokens.values()) and not any(tally.ended_tokens.values()):
            tally, where = measured, " of another split"
        style, most_tokens = STYLES[simulator.style], (settings.max_tokens, settings.assistant_tokens)
        each, basis = usage_each(task.questions, task.study.conversations, style, tally)
        bound = usage_at_most(task.questions, style, settings.max_user_turns, *most_tokens)
        pending = []
        tokens, most = Counter[str](), Counter[str]()
        for spec, planned in zip(task.assistants, plans.values(), strict=True):
            done = sum(one.id in recorded for one in planned)
            open_blocks = sum(
                any(one.id not in recorded for one in block) for block in blocks(planned, settings.block_size)
            )
            by_itself = not {simulator.kind, spec.kind}.isdisjoint(ENDPOINTS)
            pending.append(Pending(spec.name, len(planned), done, None if by_itself else open_blocks))
            counted = [name for name in each if spec.kind not in WITHOUT_TOKENS or name.startswith("simulator")]
            for total, one in ((tokens, each), (most, bound)):
                total.update({name: round((len(planned) - done) * one[name]) for name in counted if name in one})
        return Estimate(task, tuple(pending), Usage(**tokens), Usage(**most), basis + where, prices, tally)


def dry_run(asked: Simulations, spending: Spending, say: Say, *, overwrite: bool = False) -> None:
    """Prints what `simulate_splits` would do.

    Raises:
        ChatbenchError: nothing is prepared or trained, an assistant cannot be read, a key is not set, or a log is
            damaged or was made with other settings.
    """
    _refuse_nothing_to_replay(asked)
    estimates, measured = list[tuple[str, Estimate]](), Tally()
    for split in asked.splits():
        estimates.append((split, asked.estimate(split, spending.prices, overwrite=overwrite, measured=measured)))
        measured = estimates[-1][1].tally
    for split, one in estimates:
        say(f"{split}: " + "\n".join(one.lines()))
    missing = sum(one.missing for _, one in estimates)
    tokens = sum(one.usage.read + one.usage.written for _, one in estimates)
    usd = sum(spending.prices.usd(one.usage) for _, one in estimates)
    most = sum(spending.prices.usd(one.most) for _, one in estimates)
    specs = list(estimates[0][1].task.assistants)
    if spending.limited and not overwrite:
        _count_recorded(asked, spending)
    asked_about = [question for _, one in estimates for question in one.task.questions]
    if needs_judge(asked_about, asked.settings.judge, estimates[0][1].task.study):
        specs.append(judge_spec(asked.settings.judge))
        count, usage = _judges_part(asked, [one for _, one in estimates], overwrite=overwrite)
        tokens, usd = tokens + usage.read + usage.written, usd + spending.prices.usd(usage)
        most += spending.prices.usd(usage)
        say(f"judge: at most {count:,} answers, about {usage.read:,} tokens read, {usage.written:,} written")
        count_verdicts(spending, asked.workspace)
    if spending.limited:
        say(spending.outlook(tokens, usd, missing))
    cost = f", about {dollars(usd)}, at most {dollars(most)}" if spending.prices.known else ""
    say(f"total: {missing:,} conversations to simulate{cost}; nothing was simulated (--dry-run)")
    for address in endpoints_of(asked.simulator, asked.splits(), specs):
        for place in read_addresses(address):
            place.key()


def _refuse_nothing_to_replay(asked: Simulations) -> None:
    tasks = [asked.task(split) for split in asked.splits()]
    if all(len(task.unrecorded) == len(task.questions) * len(task.assistants) for task in tasks):
        names = " or ".join(sorted({spec.argument for task in tasks for spec in task.assistants}))
        raise ChatbenchError(
            f"there is nothing to replay: in the study, nobody asked {names} about any of these questions",
            fix="name other assistants, or a model: local:FOLDER, openai:MODEL@URL",
        )


def _count_recorded(asked: Simulations, spending: Spending) -> None:
    for task in map(asked.task, asked.splits()):
        count_earlier(spending, task.log, {spec.name for spec in task.assistants})


def _judges_part(asked: Simulations, estimates: Sequence[Estimate], *, overwrite: bool) -> tuple[int, Usage]:
    """The judge's requests and tokens: for people's answers, those of recorded chats, and those of missing ones."""
    study = estimates[0].task.study
    refuse_missing([judge_spec(asked.settings.judge)])
    answers, chats = list(peoples_answers(study)), 0
    for one in estimates:
        if one.task.log.exists() and not overwrite:
            answers += simulated_answers(study, read_conversations(one.task.log))
        checkable = sum(question.checkable for question in one.task.questions)
        chats += one.missing * checkable // len(one.task.questions)
    rubric = read_rubric(asked.settings.judge, asked.settings.rubric)
    return estimated_requests(answers, chats, study, asked.workspace, rubric)


def simulate_splits(
    asked: Simulations,
    spending: Spending,
    say: Say,
    *,
    options: EndpointOptions | None = None,
    overwrite: bool = False,
    accept: Callable[[str, AnyParticipant], None] | None = None,
) -> None:
    """Simulates split by split; what any of them has recorded counts towards the budget from the start.

    `accept` is called with each split and its simulator, to refuse it.

    Raises:
        ChatbenchError: as `simulate`.
    """
    splits, options = asked.splits(), options or EndpointOptions()
    _refuse_nothing_to_replay(asked)
    if asked.simulator.kind in ENDPOINTS:
        from chatbench.endpoints.participant import refuse_missing_adapters

        refuse_missing_adapters([asked.simulator.argument.replace(SPLIT_MARK, split) for split in splits])
    if not overwrite:
        _count_recorded(asked, spending)

    def used() -> float:
        counts, prices = spending.judge, spending.prices
        return spending.usd - prices.usd(counts) if prices.known else spending.tokens - counts.read - counts.written

    measured = Tally()
    for split in splits:
        before = asked.estimate(split, spending.prices, overwrite=overwrite, measured=measured)
        if shown := spending.prices.known or any(one.blocks is None for one in before.pending):
            for line in before.cost_lines():
                say(f"{split}: {line}")
        spending.expect(before.usage, before.missing)
        began = used()
        result = simulate(
            asked.model,
            assistants=asked.assistants,
            workspace=asked.workspace,
            split=split,
            settings=asked.settings,
            simulator=asked.simulator,
            base_model=asked.base_model,
            options=options,
            spending=spending,
            overwrite=overwrite,
            task=asked.tasks.get(split),
            accept=partial(accept, split) if accept else None,
        )
        say(f"{split}: " + "\n".join(result.lines()))
        measured = result.tally if any(result.tally.ended_tokens.values()) else before.tally
        about = spending.prices.usd(before.usage) if spending.prices.known else before.usage.read + before.usage.written
        about *= result.simulated / max(1, before.missing)
        if shown and used() - began > 2 * about > 0:
            costs = [dollars(x) if spending.prices.known else f"{x:,.0f} tokens" for x in (used() - began, about)]
            say(f"{split}: {costs[0]}, more than twice the expected {costs[1]} of {result.simulated:,} conversations")
    if (judge := spending.judge) != Usage():
        cost = f", {dollars(spending.prices.usd(judge))}" if spending.prices.known else ""
        say(f"judge: {judge.read:,} tokens read, {judge.written:,} written{cost}, for all verdicts in this folder")
