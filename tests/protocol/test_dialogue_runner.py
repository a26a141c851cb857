"""Dialogues side by side: who is asked when, how little is in memory, and how a run stops."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, SimulatedConversation
from chatbench.protocol.dialogue import (
    AnyParticipant,
    Dialogue,
    Failure,
    FunctionParticipant,
    ParticipantName,
    Reply,
    Request,
    dialogue,
)
from chatbench.protocol.dialogue_runner import run_concurrently, run_to_end

QUESTION = Question("q", "maths", "What is 1+1?", ("1", "2", "3", "4"), "B")


def simulated(request: Request) -> Reply:
    return Reply("Answer: B" if len(request.messages[1].content) > 150 else "hi")


SIMULATOR = FunctionParticipant(simulated, {"name": "fake"})


class Echo:
    """An assistant that is asked by each dialogue for itself, and notes how many ask at once."""

    def __init__(self, *, dies_at: int | None = None, together: int = 1) -> None:
        self.identity: dict[str, object] = {"name": "echo"}
        self.asked = self.under_way = self.most_under_way = self.closed = 0
        self._dies_at = dies_at
        self._together = together
        self._all_here: asyncio.Event | None = None

    async def reply(self, request: Request) -> Reply | Failure:
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.asked == self._dies_at:
                raise ChatbenchError("the endpoint is dead")
            self._all_here = self._all_here or asyncio.Event()
            if self.under_way >= self._together:
                self._all_here.set()
            await asyncio.wait_for(self._all_here.wait(), 10)
            return Reply(f"you said {request.messages[-1].content} in {request.conversation_id}", tokens=3)
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        self.closed += 1


def dialogues(count: int) -> Iterator[Dialogue]:
    for number in range(count):
        yield dialogue(QUESTION, f"c{number}", base_seed=0)


def ended_of(
    source: Iterator[Dialogue], active: int, *, assistant: AnyParticipant, simulator: AnyParticipant = SIMULATOR,
    ended: list[SimulatedConversation] | None = None, **more: Any,
) -> list[SimulatedConversation]:  # fmt: skip
    """The dialogues in the order in which they ended."""
    ended = [] if ended is None else ended
    sides: dict[ParticipantName, AnyParticipant] = {"simulator": simulator, "assistant": assistant}
    assert run_concurrently(source, sides, active=active, finished=ended.append, **more) == len(ended)
    return ended


def test_every_dialogue_ends_as_it_would_alone() -> None:
    ended = ended_of(dialogues(20), 7, assistant=Echo())

    assert len({chat.id for chat in ended}) == len(ended) == 20
    assert all(chat.turns[1].text == f"you said hi in {chat.id}" for chat in ended)
    assert {chat.letter for chat in ended} == {"B"}


def test_not_more_dialogues_are_begun_than_may_be_under_way() -> None:
    # A list of all dialogues, or a task for each, would hold everything in memory at once.
    begun, most = 0, []
    ended: list[SimulatedConversation] = []

    def counted() -> Iterator[Dialogue]:
        nonlocal begun
        for one in dialogues(30):
            begun += 1
            most.append(begun - len(ended))
            yield one

    echo = Echo(together=5)
    ended_of(counted(), 5, assistant=echo, ended=ended)

    assert max(most) == 5
    assert echo.most_under_way == 5
    assert len(ended) == 30


def test_a_participant_in_batches_is_asked_for_all_who_wait_in_one_other_thread() -> None:
    batches: list[int] = []
    threads: set[str] = set()

    class Batched:
        identity: dict[str, object] = {"name": "batched"}  # noqa: RUF012  # one object, never changed

        def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
            batches.append(len(requests))
            threads.add(threading.current_thread().name)
            return [simulated(request) for request in requests]

    ended_of(dialogues(12), 12, simulator=Batched(), assistant=Echo(together=12))

    assert batches == [12, 12]
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_a_dead_participant_stops_the_run_after_those_that_ended_were_handed_over() -> None:
    echo = Echo(dies_at=6)
    ended: list[SimulatedConversation] = []

    with pytest.raises(ChatbenchError, match="the endpoint is dead"):
        ended_of(dialogues(10), 1, assistant=echo, ended=ended)

    assert [chat.id for chat in ended] == ["c0", "c1", "c2", "c3", "c4"]
    assert (echo.under_way, echo.closed) == (0, 1)


def test_an_error_of_a_participant_in_batches_is_raised_too() -> None:
    def broken(_: Request) -> Reply:
        raise ChatbenchError("out of memory")

    with pytest.raises(ChatbenchError, match="out of memory"):
        ended_of(dialogues(10), 4, simulator=FunctionParticipant(broken, {}), assistant=Echo())


def test_after_a_request_to_stop_those_under_way_are_brought_to_their_end() -> None:
    ended: list[SimulatedConversation] = []

    assert len(ended_of(dialogues(10), 3, assistant=Echo(), ended=ended, may_begin=lambda: not ended)) == 3


def test_a_refused_request_ends_its_dialogue_with_what_was_said_and_asks_nobody() -> None:
    asked: list[str] = []

    (chat,) = ended_of(
        dialogues(1), 1, assistant=Echo(),
        refused=lambda request: Failure("spent", transient=True) if len(request.messages[1].content) > 150 else None,
        replied=lambda request, _: asked.append(request.participant),
    )  # fmt: skip

    assert (chat.termination, chat.reason, chat.transient) == ("failed", "spent", True)
    assert chat.usage.assistant_tokens == 3
    assert asked == ["simulator", "assistant"]


def test_an_interrupt_in_a_notebook_stops_what_runs_in_the_other_thread() -> None:
    # Leaving the thread's executor waits for it: without a word to it, until the whole run has ended.
    stopped, notebook = [], threading.get_ident()

    def waits_for_result() -> bool:
        frame = sys._current_frames()[notebook]
        return any(each.f_code.co_name == "result" for each, _ in traceback.walk_stack(frame))

    async def interrupted() -> None:
        while not waits_for_result():
            await asyncio.sleep(0)
        signal.pthread_kill(notebook, signal.SIGINT)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 10)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    async def in_a_notebook() -> None:
        run_to_end(interrupted())

    loop = asyncio.new_event_loop()  # unlike asyncio.run, a notebook's loop leaves the interrupt to Python
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(in_a_notebook())
    loop.close()
    assert stopped == [True]


def test_it_works_where_an_event_loop_runs_already() -> None:
    # In a notebook `asyncio.run` is refused.
    async def in_a_notebook() -> int:
        return len(ended_of(dialogues(2), 2, assistant=Echo()))

    assert run_to_end(in_a_notebook()) == 2
