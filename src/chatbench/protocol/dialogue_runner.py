"""Run dialogues: pass their requests to the participants and the replies back.

`run_together` is deterministic, for participants on this machine (models, whose batches are kept full; scripted ones).
`run_concurrently` lets every dialogue go at its own pace, for models behind endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    Participant,
    ParticipantName,
    Reply,
    Request,
    SteppedParticipant,
)

Result = TypeVar("Result")
Asking = Generator[Request, Reply | Failure, Result]
"""A dialogue, or any other generator of requests that returns a result."""
Replied = Callable[[Request, Reply | Failure], None]


Sides = Mapping[ParticipantName, Participant]


class _Line:
    """The requests waiting for one participant, by dialogue key."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.waiting: dict[int, Request] = {}

    def join(self, key: int, request: Request) -> None:
        self.waiting[key] = request
        if isinstance(self.participant, SteppedParticipant):
            self.participant.join(key, request)

    def step(self) -> list[tuple[int, Request, Reply | Failure]]:
        """Run one step of the participant, or have it reply to all waiting requests if it does not work in steps."""
        if isinstance(self.participant, SteppedParticipant):
            replies = self.participant.step()
        else:
            replies = list(zip(self.waiting, self.participant.reply_all([*self.waiting.values()]), strict=True))
        return [(key, self.waiting.pop(key), reply) for key, reply in replies]


def run_together(
    dialogues: Sequence[Asking[Result]],
    participants: Sides | Sequence[Sides],
    finished: Callable[[Result], None] = lambda _result: None,
    replied: Replied = lambda _request, _reply: None,
    stepped: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Run dialogues together, earlier ones with precedence, each as fast as its participants reply.

    What happens, and in which order, depends only on the arguments.

    Args:
        participants: one mapping for all dialogues, or one per dialogue.
        finished: called with each result as soon as its dialogue ends.
        replied: called with each reply or failure.
        stepped: called repeatedly while dialogues are in progress, to update a progress view.
    """
    sides = [participants] * len(dialogues) if isinstance(participants, Mapping) else participants
    lines = {id(one): _Line(one) for each in sides for one in each.values()}
    for line in lines.values():
        if isinstance(line.participant, SteppedParticipant):
            line.participant.forget()
    chats: dict[int, Result] = {}

    def advance(index: int, reply: Reply | Failure | None) -> None:
        try:
            # A generator is started by sending it None.
            request = dialogues[index].send(reply)  # type: ignore[arg-type]
            lines[id(sides[index][request.participant])].join(index, request)
        except StopIteration as stop:
            chats[index] = stop.value
            finished(stop.value)

    for index in range(len(dialogues)):
        advance(index, None)
    while any(line.waiting for line in lines.values()):
        for line in lines.values():
            for index, request, reply in line.step() if line.waiting else []:
                replied(request, reply)
                advance(index, reply)
            stepped()
    return [chats[index] for index in range(len(dialogues))]


def run_concurrently(
    dialogues: Iterable[Asking[Result]],
    participants: Mapping[ParticipantName, AnyParticipant],
    *,
    active: int,
    finished: Callable[[Result], None],
    may_begin: Callable[[], bool] = lambda: True,
    refused: Callable[[Request], Failure | None] = lambda _: None,
    replied: Replied = lambda _request, _reply: None,
) -> int:
    """Run dialogues concurrently, each at its own pace; return how many ended.

    Each dialogue calls a `ConcurrentParticipant` directly. A `Participant` works in one thread of its own: while it
    replies, the requests of the other dialogues queue for its next batch (or step, which they join), so a local model
    keeps full batches even if the other side is an endpoint. All callbacks run in the calling thread (in a notebook,
    where an event loop is already running, in one other thread), never two at once; none may block for long.

    Args:
        dialogues: consumed lazily, so never more than `active` are in memory.
        active: maximum number of dialogues in progress.
        finished: called with each record as soon as its dialogue ends, in order of completion. Write it here.
        may_begin: called before each dialogue; each False closes one of the `active` slots, and dialogues in progress
            run to their end. This is the clean stop (a signal, a budget).
        refused: called before each request; if it returns a `Failure`, the dialogue gets that instead of a reply, no
            participant is called, and the dialogue ends as failed with its cost so far. This is the quick stop.
        replied: called with each reply or failure of a participant, for a progress view or a budget.

    Raises:
        ChatbenchError: a participant cannot go on (the endpoint is down, the key was revoked). Dialogues in progress
            are dropped; `finished` was called for all that had ended. An exception in a callback does the same.
        KeyboardInterrupt: as above.
    """
    count = 0

    async def run_some(asked: _Served, source: Iterator[Asking[Result]]) -> None:
        nonlocal count
        while may_begin() and (following := next(source, None)):
            chat = await _run_one(following, asked, refused, replied)
            count += 1
            finished(chat)

    async def run_all() -> None:
        source = iter(dialogues)
        asked: _Served = {
            name: one if isinstance(one, ConcurrentParticipant) else _Batching(one)
            for name, one in participants.items()
        }
        tasks = [asyncio.ensure_future(run_some(asked, source)) for _ in range(active)]
        try:
            try:
                await asyncio.gather(*tasks)
            finally:  # the first error stops the other tasks and is raised unchanged
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for one in asked.values():
                await one.close()

    run_to_end(run_all())
    return count


async def _run_one(
    dialogue: Asking[Result],
    asked: _Served,
    refused: Callable[[Request], Failure | None],
    replied: Replied,
) -> Result:
    reply: Reply | Failure | None = None  # a generator is started by sending it None
    while True:
        try:
            request = dialogue.send(reply)  # type: ignore[arg-type]
        except StopIteration as stop:
            result: Result = stop.value
            return result
        reply = refused(request)
        if reply is None:
            reply = await asked[request.participant].reply(request)
            replied(request, reply)


class _Batching:
    """Queues requests for a participant that replies in batches, one batch at a time, in a thread of its own."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._thread = ThreadPoolExecutor(1)
        self._arrived: list[tuple[Request, asyncio.Future[Reply | Failure]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def reply(self, request: Request) -> Reply | Failure:
        place: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        self._arrived.append((request, place))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await place

    async def _serve(self) -> None:
        line, places = _Line(self._participant), dict[int, asyncio.Future[Reply | Failure]]()
        key = 0
        while self._arrived or line.waiting:
            arrived, self._arrived = self._arrived, []
            for request, place in arrived:
                key += 1
                places[key] = place
                line.join(key, request)
            try:
                replies = await asyncio.get_running_loop().run_in_executor(self._thread, line.step)
            except Exception as error:  # any error is passed to the waiting dialogues
                line.waiting.clear()
                for place in places.values():
                    if not place.done():
                        place.set_exception(error)
                places.clear()
            else:
                for ended, _, reply in replies:
                    if not (place := places.pop(ended)).done():  # already done if its dialogue was dropped
                        place.set_result(reply)
        self._serving = None

    async def close(self) -> None:
        if self._serving:
            self._serving.cancel()
        self._thread.shutdown()


_Served = Mapping[ParticipantName, ConcurrentParticipant | _Batching]


def run_to_end(coroutine: Coroutine[None, None, Result]) -> Result:
    """Run a coroutine from synchronous code, even if an event loop is already running (a notebook).

    Interrupting the waiting thread cancels the coroutine, whichever thread it runs in.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    begun: Future[tuple[asyncio.AbstractEventLoop, Callable[[], object]]] = Future()

    async def stoppable() -> Result:
        running = asyncio.ensure_future(coroutine)
        if begun.set_running_or_notify_cancel():
            begun.set_result((asyncio.get_running_loop(), running.cancel))
        else:
            running.cancel()
        return await running

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, stoppable()).result()
        except BaseException:
            # If this thread was interrupted, leaving the executor waits for the other one.
            if not begun.cancel():
                loop, cancel = begun.result()
                with suppress(RuntimeError):  # the loop is closed: the coroutine has ended
                    loop.call_soon_threadsafe(cancel)
            raise
