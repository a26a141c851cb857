"""Simulates conversations about the held-out questions of a split, with a simulator as the user.

The plan (assistants in the order given, questions by id, repetitions) is simulated and recorded by `run.py`; a killed
run continues. `summary.py` counts what is in the log at the end. A conversation that failed for a transient
reason is tried again by the next run; one that failed permanently is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Study
from chatbench.core.stop import telling_what_is_kept
from chatbench.data.prepared import Manifest
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import read_addresses
from chatbench.protocol.dialogue import MAX_USER_TURNS, AnyParticipant, SteppedParticipant
from chatbench.protocol.failure_modes import FAILURE_MODES, FailureMode
from chatbench.protocol.prompt_styles import STYLES, prompts_sha256
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.judge import judge_answers, needs_judge, open_judge, peoples_answers, simulated_answers
from chatbench.simulation.log import open_log, read_conversations
from chatbench.simulation.participants import (
    TUNED,
    AssistantSpec,
    SimulatorSpec,
    notes_on,
    open_assistant,
    open_simulator,
    read_specs,
)
from chatbench.simulation.progress import ConversationProgress
from chatbench.simulation.run import BLOCK_SIZE, LoopSettings, Planned, Run, block_of, plan
from chatbench.simulation.summary import SimulateResult, count_earlier, tally_of

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions

Opened = tuple[AnyParticipant, Mapping[str, AnyParticipant]]
"""The simulator, and the assistants by name."""
DEFAULT_ACTIVE = 64
PER_PLACE = 2
"""Active conversations per concurrent request of an endpoint: while some wait for one side, others keep
the other side busy."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Settings that the conversations of a log share, whoever plays the simulator and the assistant.

    `conversations` are simulated per question and assistant; `end_on` lists failure modes that force the answer when
    they are detected; `expected_answers` asks the simulator for the probabilities of its answers; `answer_model` draws
    its letters from what people of the training side chose (simulation/answer_model.py); `reasoning_effort` is sent to
    endpoints that accept it. `cache_gib` bounds the keys and values that all local models keep together, in GiB (None:
    a third of free memory); it changes speed, and text only through rounding. A `judge` with its `rubric`
    scores answers of kind outcome (simulation/judge.py).

    Raises:
        ChatbenchError: a number below 1, a temperature below 0, or an unknown failure mode.
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
    judge: str = ""
    rubric: Path | None = None

    def __post_init__(self) -> None:
        for name in ("conversations", "max_user_turns", "max_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected="at least 1")
        for name in ("simulator_temperature", "assistant_temperature"):
            if not getattr(self, name) >= 0:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected="at least 0")
        if self.cache_gib is not None and not self.cache_gib > 0:
            raise ChatbenchError(f"--cache-gib {self.cache_gib:g}", expected="more than 0")
        if unknown := [name for name in self.end_on if name not in FAILURE_MODES]:
            raise ChatbenchError(
                f"--end-on {unknown[0]}: no such failure detector", expected=f"any of {', '.join(FAILURE_MODES)}"
            )

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

    def plans(self, conversations: int) -> dict[str, list[Planned]]:
        """The conversations to simulate, by assistant."""
        return {spec.name: plan(self.questions, spec.name, conversations) for spec in self.assistants}


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
) -> SimulateResult:
    """Simulates what is missing from the plan; see the module.

    Args:
        model: the name that results are stored under; with the tuned simulator, what was fine-tuned.
        base_model: use the base model instead of the tuned one.
        options: how endpoints are asked.
        spending: prices and the budget, shared by the runs on several splits.
        overwrite: discards what was recorded with other settings.
        task: questions and log to use instead of the split's held-out questions and its log.
        block: only this block of each assistant's plan, into a log of its own.
        opened: participants from `open_participants` for the same split, model and settings.

    Raises:
        ChatbenchError: nothing is prepared or trained, a participant cannot be used, another process writes the log, or
            it has other settings.
        StoppedError: SIGTERM came; conversations active at an endpoint were brought to their end.
    """
    settings, spending = settings or ChatSettings(), spending or Spending(Prices())
    task = task or task_of(model, assistants, workspace=workspace, split=split, base_model=base_model)
    console = console or Console()
    ask_judge = _judging(task, settings, workspace, spending, options, console, in_blocks=block is not None)
    user, participants = opened or open_participants(
        model, task, workspace=workspace, split=split, settings=settings, simulator=simulator, base_model=base_model,
        options=options,
    )  # fmt: skip
    for note in notes_on((user, *participants.values())):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    agreed = {
        "settings": {**settings_known_before(task, settings, simulator), "simulator": dict(user.identity)},
        "assistants": {name: participant.identity for name, participant in participants.items()},
    }
    plans: Mapping[str, Sequence[Planned]] = task.plans(settings.conversations)
    if block is not None:
        plans = block_of(plans, settings.block_size, block)
        task = replace(task, log=workspace.conversations(model, split, base_model=base_model, block=block))
    planned = {one.id for each in plans.values() for one in each}
    loop = LoopSettings(settings.seed, settings.max_user_turns, STYLES[simulator.style], settings.failure_modes)
    asked = [spec.argument for spec in task.assistants if spec.kind == "openai"]
    asked += [simulator.argument] * (simulator.kind in ("openai", "completions"))
    addresses = max((len(read_addresses(each)) for each in asked), default=1)
    active = addresses * (PER_PLACE * options.concurrency if options else DEFAULT_ACTIVE)
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
    if ask_judge:
        ask_judge(simulated_answers(task.study, read_conversations(task.log)))
    return SimulateResult(task.log, tally_of(task.log, planned), len(planned), simulated, seconds, spending.prices)


def _judging(
    task: Task,
    settings: ChatSettings,
    workspace: Workspace,
    spending: Spending,
    options: EndpointOptions | None,
    console: Console,
    *,
    in_blocks: bool,
) -> Callable[[Sequence[tuple[str, str]]], None] | None:
    """Judges simulated answers with a judge that was first asked about people's; None if there is nothing to judge."""
    if not needs_judge(task.questions, settings.judge):
        return None
    if in_blocks:
        raise ChatbenchError(
            "--judge cannot be used with chats in blocks",
            fix="simulate with --judge later, then again with the judge",
        )
    judge = open_judge(
        settings.judge, settings.rubric, task.study, options, max_tokens=settings.max_tokens,
        reasoning_effort=settings.reasoning_effort,
    )  # fmt: skip

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def ask(answers: Sequence[tuple[str, str]]) -> None:
        active = options.concurrency if options else DEFAULT_ACTIVE
        say(judge_answers(judge, answers, task.study, workspace, spending=spending, active=active, say=say).text())

    ask([key for key, _ in peoples_answers(task.study)])
    return ask


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

    Raises:
        ChatbenchError: a participant cannot be used.
    """
    user = open_simulator(
        simulator, model=model, workspace=workspace, split=split, base_model=base_model,
        temperature=settings.simulator_temperature, max_tokens=settings.max_tokens,
        reasoning_effort=settings.reasoning_effort, expected_answers=settings.expected_answers,
        answer_model=settings.answer_model, options=options,
    )  # fmt: skip
    assistants = {
        spec.name: spec.participant
        or open_assistant(
            spec, task.study, temperature=settings.assistant_temperature, max_tokens=settings.max_tokens,
            reasoning_effort=settings.reasoning_effort, options=options,
        )
        for spec in task.assistants
    }  # fmt: skip
    local = [one for one in (user, *assistants.values()) if isinstance(one, SteppedParticipant)]
    for one in local:
        one.share_memory(settings.cache_gib, len(local))
    return user, assistants


def task_of(
    model: str, assistants: Sequence[str | AssistantSpec], *, workspace: Workspace, split: str, base_model: bool = False
) -> Task:
    """Reads a command's request and checks what can be checked without loading a model or asking an endpoint.

    Raises:
        ChatbenchError: nothing is prepared, the study changed, or an assistant cannot be read.
    """
    held_out, study = workspace.split(split).question_ids("test"), workspace.study
    specs = specs_in(study, assistants)
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
