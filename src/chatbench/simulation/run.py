"""Simulates the missing conversations of a plan, records them, and shows progress.

If both participants are reproducible, the conversations of a fixed block are simulated together, with all assistants
and by question, so that local models keep a full batch and read once what chats share. A killed run continues: a block
that is not completely in the log is simulated again in the same composition, and only what is missing is appended, so
the log has the conversations of an uninterrupted run, in the same order.

If one may answer differently each time (an endpoint), only the missing conversations are simulated, many concurrently:
paying twice would gain nothing. Either way, each is appended to the log as soon as it ends.

Meanwhile a line shows the conversations done, active and failed, tokens per second, and dollars if prices are known:

simulate ━━━━━━━━━╸──────── 512/1,600 conversations  4.4/s  64 active  3 failed  2,310 tokens/s  $1.24  0:04:10 left
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import cast

from rich.console import Console

from chatbench.core.errors import StoppedError
from chatbench.core.progress import StopRequest, WorkProgress
from chatbench.core.records import Question, SimulatedConversation, joined_id
from chatbench.protocol.dialogue import (
    MAX_USER_TURNS,
    AnyParticipant,
    ConcurrentParticipant,
    Dialogue,
    Failure,
    ParticipantName,
    Reply,
    Request,
    dialogue,
)
from chatbench.protocol.dialogue_runner import Sides, run_concurrently, run_together
from chatbench.protocol.failure_modes import FailureMode
from chatbench.protocol.prompt_styles import TWO_STEP, Style, prompts_sha256
from chatbench.simulation.budget import Spending
from chatbench.simulation.log import AppendOnlyLog

BLOCK_SIZE = 512
"""Conversations that are simulated together if both participants are reproducible."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One conversation to simulate."""

    id: str
    question: Question
    assistant: str
    index: int


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Settings of the dialogue loop, the same for all conversations of a log; see `dialogue`."""

    seed: int = 0
    max_user_turns: int = MAX_USER_TURNS
    style: Style = TWO_STEP
    end_on: frozenset[FailureMode] = frozenset()

    def begin(self, planned: Planned) -> Dialogue:
        """The dialogue of a planned conversation, before its first request."""
        return dialogue(
            planned.question,
            planned.id,
            base_seed=self.seed,
            max_user_turns=self.max_user_turns,
            style=self.style,
            end_on=self.end_on,
        )


def plan(questions: Sequence[Question], assistant: str, conversations: int) -> list[Planned]:
    """All conversations with one assistant, by question, then by repetition."""
    return [
        Planned(joined_id(question.id, assistant, index), question, assistant, index)
        for question in questions
        for index in range(conversations)
    ]


def together(plans: Iterable[Sequence[Planned]]) -> list[Planned]:
    """Merges the plans of several assistants by question, so that what chats about a question share is read once."""
    everything = [one for planned in plans for one in planned]
    place = {one.question.id: index for index, one in reversed(list(enumerate(everything)))}
    return sorted(everything, key=lambda one: place[one.question.id])


def blocks(planned: Sequence[Planned], size: int = BLOCK_SIZE) -> list[Sequence[Planned]]:
    """The plan in blocks of a fixed size: what is simulated together must not depend on what is already recorded."""
    return [planned[start : start + size] for start in range(0, len(planned), size)]


def finished(
    chat: SimulatedConversation,
    planned: Planned,
    simulator: Mapping[str, object],
    assistant_identity: Mapping[str, object],
    style: Style,
) -> SimulatedConversation:
    """The record of a planned conversation: what the dialogue returned, plus who took part."""
    return replace(
        chat,
        assistant=planned.assistant,
        index=planned.index,
        prompts_sha256=prompts_sha256(style),
        simulator=simulator,
        assistant_identity=assistant_identity,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """What simulating a plan needs: participants, the log, the progress view and the budget.

    `active` is the maximum number of concurrent conversations if they are simulated one by one.
    """

    log: AppendOnlyLog
    simulator: AnyParticipant
    assistants: Mapping[str, AnyParticipant]
    loop: LoopSettings
    progress: ConversationProgress
    spending: Spending
    block_size: int = BLOCK_SIZE
    active: int = 1

    def simulate(self, plans: Mapping[str, Sequence[Planned]]) -> int:
        """Simulates what is missing; returns the number of conversations recorded.

        Raises:
            ChatbenchError: a participant cannot continue, or the log cannot be written; what ended before is recorded.
            StoppedError: SIGTERM came while conversations were simulated one by one; active ones were brought to
                an end.
        """
        apart = [
            name
            for name in plans
            if self._metered(name) or any(isinstance(one, ConcurrentParticipant) for one in self._sides(name).values())
        ]
        place = {chat: index for index, chat in enumerate(self.log.recorded)}
        local = {name: [place.get(one.id) for one in plans[name]] for name in plans if name not in apart}
        lacking = [places for places in local.values() if None in places]
        began = min((each for places in lacking for each in places if each is not None), default=len(place))
        # An assistant that was finished before the incomplete ones began takes no part in their blocks.
        joint = [name for name, each in local.items() if any(one is None or one > began for one in each)]
        count = self._in_blocks([plans[name] for name in joint])
        return count + sum(self._one_by_one(name, plans[name]) for name in apart)

    def _sides(self, name: str) -> dict[ParticipantName, AnyParticipant]:
        return {"simulator": self.simulator, "assistant": self.assistants[name]}

    def _metered(self, name: str) -> frozenset[ParticipantName]:
        """Sides that are not reproducible and are paid per token: those behind an endpoint."""
        sides = self._sides(name).items()
        return frozenset(side for side, each in sides if not each.identity.get("reproducible", True))

    def _in_blocks(self, plans: Sequence[Sequence[Planned]]) -> int:
        self.spending.metered = frozenset()
        count = 0
        for parts in zip_longest(*(blocks(planned, self.block_size) for planned in plans), fillvalue=()):
            block = together(parts)
            missing = {one.id: one for one in block if one.id not in self.log.recorded}
            if not missing:
                continue
            if not self.spending.leaves_room(len(missing)):
                break
            self.progress.begun(len(missing))
            self.spending.began(len(block))
            run_together(
                [self.loop.begin(one) for one in block],
                cast("list[Sides]", [self._sides(one.assistant) for one in block]),
                partial(self._record, missing),
                self._replied,
                self.progress.tick,
            )
            count += len(missing)
        return count

    def _one_by_one(self, name: str, planned: Sequence[Planned]) -> int:
        self.spending.metered = self._metered(name)
        missing = {one.id: one for one in planned if one.id not in self.log.recorded}

        def begun() -> Iterator[Dialogue]:
            for one in missing.values():
                self.spending.began()
                self.progress.begun()
                yield self.loop.begin(one)

        with StopRequest() as stop:
            count = run_concurrently(
                begun(),
                self._sides(name),
                active=self.active,
                finished=partial(self._record, missing),
                may_begin=lambda: not stop.asked and self.spending.leaves_room(),
                refused=self.spending.refused,
                replied=self._replied,
            )
        if stop.asked:
            raise StoppedError(
                "stopped by SIGTERM; every conversation that began is recorded", fix="the same command continues"
            )
        return count

    def _record(self, missing: Mapping[str, Planned], chat: SimulatedConversation) -> None:
        """Handles a conversation that ended; in a block that is simulated again, some are already in the log."""
        self.spending.ended(chat.usage)
        if (planned := missing.get(chat.id)) is not None:
            other = self.assistants[planned.assistant].identity
            record = finished(chat, planned, self.simulator.identity, other, self.loop.style)
            self.log.append([asdict(record)])
            self.progress.ended(failed=chat.termination == "failed")

    def _replied(self, request: Request, reply: Reply | Failure) -> None:
        self.spending.replied(request, reply)
        self.progress.replied(request, reply)


class ConversationProgress:
    """Counts conversations, replies and tokens as they come in; use it as a context manager.

    Args:
        total: conversations to simulate in this run.
        dollars: what was spent so far; None if there is no price.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        dollars: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._dollars = dollars
        self._clock = clock
        self._began = clock()
        self._done = self._active = self._failed = self._tokens = 0
        self._shown = WorkProgress("simulate", "conversations", more=self._more, console=console, clock=clock)

    def __enter__(self) -> ConversationProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def begun(self, count: int = 1) -> None:
        """Counts conversations that begin."""
        self._active += count
        self.tick()

    def replied(self, _request: Request, reply: Reply | Failure) -> None:
        """Counts a participant's reply."""
        if isinstance(reply, Reply):
            self._tokens += reply.tokens
        self.tick()

    def ended(self, *, failed: bool = False) -> None:
        """Counts a conversation that ended, with or without an answer."""
        self._active -= 1
        self._done += 1
        self._failed += failed
        self.tick()

    def tick(self) -> None:
        """Updates the display now and then, to show that the run is alive."""
        self._shown(self._done, self._total)

    def _more(self) -> str:
        parts = [f"{self._active} active", f"{self._failed} failed"]
        if self._tokens:
            parts.append(f"{self._tokens / (self._clock() - self._began):,.0f} tokens/s")
        if self._dollars:
            parts.append(f"${self._dollars():,.2f}")
        return "  ".join(parts)
