"""Simulates conversations, a simulator in the user's place, about the held-out questions of a split.

The plan (`simulation_plan.py`: assistants in the order given, questions by id, repetitions) is held and recorded by
`simulation_run.py`; a run that was killed continues. What lies in the log in the end is counted by
`simulation_result.py`. A conversation that failed for a passing reason is tried again by the next run; one that failed
for good is not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Study
from chatbench.data.prepared import Manifest
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import MAX_USER_TURNS
from chatbench.protocol.failure_modes import GUARDS, Guard
from chatbench.protocol.prompt_styles import STYLES, prompts_sha256
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.log import ConversationLog
from chatbench.simulation.participants import (
    TUNED,
    AssistantSpec,
    SimulatorSpec,
    open_assistant,
    open_simulator,
    read_specs,
)
from chatbench.simulation.progress import ConversationProgress
from chatbench.simulation.run import BLOCK_SIZE, AnyParticipant, LoopSettings, Planned, Run, plan
from chatbench.simulation.summary import SimulateResult, count_earlier, tally_of

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions

DEFAULT_ACTIVE = 64
PER_PLACE = 2
"""Conversations under way for each request that an endpoint takes at once: while some wait for one side, others keep
the other side busy."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What the conversations of a log have in common, whoever plays the simulator and the assistant.

    `conversations` are held per question and assistant; `end_on` are guards that end the free turns when they see
    something; `expected_answers` asks the simulator for the probabilities of its answers.

    Raises:
        ChatbenchError: a number below 1, a temperature below 0, or an unknown guard.
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

    def __post_init__(self) -> None:
        for name in ("conversations", "max_user_turns", "max_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected="at least 1")
        for name in ("simulator_temperature", "assistant_temperature"):
            if not getattr(self, name) >= 0:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected="at least 0")
        if unknown := [name for name in self.end_on if name not in GUARDS]:
            raise ChatbenchError(f"--end-on {unknown[0]}: no such guard", expected=f"some of {', '.join(GUARDS)}")

    @property
    def guards(self) -> frozenset[Guard]:
        """The guards of `end_on`."""
        return frozenset(guard for guard in GUARDS if guard in self.end_on)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be simulated: the held-out questions of a split, and who takes part; nothing is loaded yet."""

    manifest: Manifest
    study: Study
    questions: tuple[Question, ...]
    assistants: tuple[AssistantSpec, ...]
    log: Path

    def plans(self, conversations: int) -> dict[str, list[Planned]]:
        """The conversations to hold, by assistant."""
        return {spec.name: plan(self.questions, spec.name, conversations) for spec in self.assistants}


def simulate(
    model: str,
    *,
    assistants: Sequence[str],
    workspace: Workspace,
    split: str,
    settings: ChatSettings | None = None,
    simulator: SimulatorSpec = TUNED,
    base_model: bool = False,
    options: EndpointOptions | None = None,
    spending: Spending | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> SimulateResult:
    """Simulates what is missing of the plan; see the module.

    Args:
        model: the name under which the results lie; with the tuned simulator, what was fine-tuned.
        base_model: the base model in the tuned one's place.
        options: how endpoints are asked.
        spending: prices and the budget, shared by the runs on several splits.
        overwrite: drops what was recorded with other settings.

    Raises:
        ChatbenchError: nothing is prepared or trained, a participant cannot be used, or the log has other settings.
        StoppedError: SIGTERM came, and what was under way with an endpoint was brought to its end.
    """
    told, paid = settings or ChatSettings(), spending or Spending(Prices())
    task = task_of(model, assistants, workspace=workspace, split=split, base_model=base_model)
    user = open_simulator(
        simulator, model=model, workspace=workspace, split=split, base_model=base_model,
        temperature=told.simulator_temperature, max_tokens=told.max_tokens, expected_answers=told.expected_answers,
        options=options,
    )  # fmt: skip
    participants = _open_assistants(task, told, options)
    log = ConversationLog(task.log)
    identities = {name: participant.identity for name, participant in participants.items()}
    log.begin(run_settings(task, told, simulator, user.identity), identities, overwrite=overwrite)
    count_earlier(paid, task.log)
    began = time.monotonic()
    plans = task.plans(told.conversations)
    planned = {one.id for each in plans.values() for one in each}
    loop = LoopSettings(told.seed, told.max_user_turns, STYLES[simulator.style], told.guards)
    active = PER_PLACE * options.concurrency if options else DEFAULT_ACTIVE
    dollars = (lambda: paid.usd) if paid.prices.known else None
    with ConversationProgress(console or Console(), len(planned - log.held), dollars) as progress:
        simulated = Run(log, user, participants, loop, progress, paid, told.block_size, active).hold(plans)
    seconds = time.monotonic() - began
    return SimulateResult(task.log, tally_of(task.log, planned), len(planned), simulated, seconds, paid.prices)


def _open_assistants(task: Task, told: ChatSettings, options: EndpointOptions | None) -> dict[str, AnyParticipant]:
    return {
        spec.name: open_assistant(
            spec, task.study, temperature=told.assistant_temperature, max_tokens=told.max_tokens, options=options
        )
        for spec in task.assistants
    }


def task_of(
    model: str, assistants: Sequence[str], *, workspace: Workspace, split: str, base_model: bool = False
) -> Task:
    """What a command asks for, read and checked as far as that goes without loading a model or asking an endpoint.

    Raises:
        ChatbenchError: nothing is prepared, the study changed, or an assistant cannot be read.
    """
    manifest = workspace.manifest
    held_out = workspace.split(split).question_ids("test")
    study = workspace.study
    specs = read_specs(assistants, sorted({conversation.assistant for conversation in study.conversations}))
    return Task(
        manifest,
        study,
        tuple(study.questions[question_id] for question_id in held_out),
        tuple(specs),
        workspace.conversations(model, split, base_model=base_model),
    )


def run_settings(
    task: Task, told: ChatSettings, simulator: SimulatorSpec, identity: Mapping[str, object]
) -> dict[str, object]:
    """What two runs that write the same log must have in common, beside the assistants."""
    return {**settings_known_before(task, told, simulator), "simulator": dict(identity)}


def settings_known_before(task: Task, told: ChatSettings, simulator: SimulatorSpec) -> dict[str, object]:
    """Those of `run_settings` that are known before any model is loaded."""
    return {
        "questions_sha256": task.manifest.questions_sha256,
        "held_out_sha256": question_set_sha256(task.questions),
        "conversations": told.conversations,
        "seed": told.seed,
        "max_user_turns": told.max_user_turns,
        "simulator_kind": simulator.kind,
        "style": simulator.style,
        "prompts_sha256": prompts_sha256(STYLES[simulator.style]),
        "end_on": sorted(told.guards),
        "expected_answers": told.expected_answers,
        "block_size": told.block_size,
    }
