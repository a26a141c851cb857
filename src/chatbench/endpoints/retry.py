"""How often a request is tried, how long an endpoint is waited for, and how many requests it is asked at once.

A request that is answered badly is tried again, with pauses that double, until `max_tries`; then its conversation
fails. An endpoint that is busy or does not answer at all is waited for, which counts as no try (`errors.POLICIES`):
after `patience_seconds` without a good answer to anybody the run stops, as it does where many requests in a row were
given up.

A model may have several addresses. A request goes to the least loaded one. One that fails it is left out, for pauses
that double, and the request goes on to another at once; it is paused and the patience runs only where none is left.

The number of requests at once is halved when the endpoint is overloaded, once for all that were under way together, and
grows by an eighth of the most for each round of good answers. Nobody asks before the time that a Retry-After names.

Source: additive increase and multiplicative decrease, as in TCP (Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace

from chatbench.core.errors import ChatbenchError
from chatbench.endpoints.address import EndpointOptions
from chatbench.endpoints.errors import FIX, Fault
from chatbench.protocol.dialogue import Reply

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

GROWTH = 1 / 8
"""Of the most, per round: one stray overload in a hundred answers then leaves about 40 of 64 places (the square root of
2 x 8 / 0.01); growth by one place a round would leave 14."""


class Pace:
    """Places for the requests of one endpoint, taken in the order of asking; `limit` of `most` are open."""

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self.most = most
        self.limit = float(most)
        self._clock = clock
        self._sleep = sleep
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open_at = self._halved_at = float("-inf")

    @asynccontextmanager
    async def place(self) -> AsyncIterator[float]:
        """Holds a place, and gives the time at which it was taken (see `overloaded`)."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
            while (pause := self._open_at - self._clock()) > 0:
                await self._sleep(pause)
            yield self._clock()
        finally:
            # Not for one that was cancelled while it waited; but for one that was cancelled as it was given the place.
            if turn.done() and not turn.cancelled():
                self._taken -= 1
                self._admit()

    @property
    def load(self) -> float:
        """Requests that have a place or wait for one, per open place."""
        return (self._taken + len(self._waiting)) / self.limit

    def _admit(self) -> None:
        while self._waiting and self._taken < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._taken += 1

    def succeeded(self) -> None:
        """A good answer came."""
        self.limit = min(self.most, self.limit + max(1.0, self.most * GROWTH) / self.limit)
        self._admit()

    def overloaded(self, asked_at: float, retry_after: float | None = None) -> None:
        """The endpoint could not keep up with a request whose place was taken at `asked_at`."""
        if asked_at > self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = self._clock()
        if retry_after:
            self._open_at = max(self._open_at, self._clock() + retry_after)


GIVEN_UP_IN_A_ROW = 8
"""So many requests given up one after the other, none answered between, mean that the endpoint is out of order."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
CONTINUES = "see whether the endpoint is up, then run the same command again: it continues"


class Replica:
    """One address of a model: the places of its requests, and whether it is left out because it failed one.

    It is tried again once its pause is over, by one request at a time, until one is answered. `unchecked` says that
    there may be another server behind it by then.
    """

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self.pace = Pace(most, clock, sleep)
        self.unchecked = False
        self.opens_at = float("-inf")
        self._clock = clock
        self._faults = 0  # since the last answer; of requests under way together only the first counts

    @property
    def is_open(self) -> bool:
        """Whether it may be asked: it is not left out, or it is time to try it and nobody does."""
        return not self._faults or (self._clock() >= self.opens_at and not self.pace.load)

    def leave_out(self, fault: Fault, asked_at: float) -> None:
        """Notes a fault of the endpoint that a request met which was sent at `asked_at`."""
        if fault.policy.overloaded:
            self.pace.overloaded(asked_at, fault.retry_after)
        now = self._clock()
        if now >= self.opens_at:
            self.opens_at = now + min(FIRST_PAUSE_SECONDS * 2 ** min(self._faults, 10), LONGEST_PAUSE_SECONDS)
            self._faults += 1
        self.opens_at = max(self.opens_at, now + (fault.retry_after or 0.0))
        self.unchecked |= fault.kind != "busy"

    def answered(self) -> None:
        """A good answer came."""
        self.pace.succeeded()
        self.opens_at, self._faults, self.unchecked = float("-inf"), 0, False


Attempt = Callable[[int, bool], Awaitable[Reply | Fault]]
"""Asks the address of that number, which may have to be checked first."""


class Patience:
    """Tries requests to one model until they are answered or given up; shared by all of a participant's requests."""

    def __init__(self, where: Sequence[str], options: EndpointOptions, clock: Clock, sleep: Sleep) -> None:
        self.replicas = [Replica(options.concurrency, clock, sleep) for _ in where]
        self._where = ", ".join(where)
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._failing_since: float | None = None
        self._good_at = float("-inf")
        self._given_up = 0

    async def answer(self, attempt: Attempt, seed: int) -> Reply | Fault:
        """The reply, or the fault that the request was given up with; `seed` draws the pauses.

        Raises:
            ChatbenchError: the endpoint is dead or out of order.
        """
        chance = random.Random(seed)
        began, tries, pauses, written, read = None, 0, 0, 0, 0
        asked: set[Replica] = set()  # since the last pause
        while True:
            one = self._least_loaded(asked)
            opens_at = one.opens_at
            async with one.pace.place() as asked_at:
                if one.opens_at > opens_at and self._elsewhere({*asked, one}):
                    continue  # it failed others while this request waited for its place
                began = asked_at if began is None else began  # waiting for a place is no fault of the server's
                found = await attempt(self.replicas.index(one), one.unchecked)
            written, read = written + found.tokens, read + found.prompt_tokens
            found = replace(found, tokens=written, prompt_tokens=read)  # replies in vain are paid for too
            if isinstance(found, Reply):
                one.answered()
                self._given_up = 0
            if isinstance(found, Reply) or not found.policy.retry:
                self._failing_since, self._good_at = None, self._clock()
                # What is refused for one request may be refused for all, for a reason that nobody has worded here yet.
                if isinstance(found, Fault) and found.kind in ("forbidden", "thinking", "refused"):
                    self._give_up(found)
                return found
            one.leave_out(found, asked_at)
            asked.add(one)
            if not (elsewhere := self._elsewhere(asked)):
                self._wait_on(found, asked_at)
            tries += found.policy.counts
            if tries >= self._options.max_tries or self._clock() - began >= self._options.patience_seconds:
                self._give_up(found)
                return found
            if elsewhere:
                continue
            longest = min(FIRST_PAUSE_SECONDS * 2**pauses, LONGEST_PAUSE_SECONDS)
            named = min(found.retry_after or 0.0, self._opens_in())
            await self._sleep(max(chance.uniform(0.5, 1.0) * longest, named))
            pauses += 1
            asked.clear()

    def _least_loaded(self, asked: Set[Replica]) -> Replica:
        """The one to ask next: one that may be asked and was not yet, else the one that may be asked first."""

        def last(one: Replica) -> tuple[bool, bool, float]:
            return not one.is_open, one in asked, one.pace.load if one.is_open else one.opens_at

        return min(self.replicas, key=last)

    def _elsewhere(self, asked: Set[Replica]) -> bool:
        return any(one.is_open for one in self.replicas if one not in asked)

    def _opens_in(self) -> float:
        """Seconds until one of the replicas may be asked."""
        return min(one.opens_at for one in self.replicas) - self._clock()

    def _wait_on(self, fault: Fault, asked_at: float) -> None:
        """Notes a fault that may pass; stops the run where it has lasted, or is to last, longer than the patience."""
        now, patience = self._clock(), self._options.patience_seconds
        if self._failing_since is None:
            self._failing_since = max(asked_at, self._good_at)
        if (fault.retry_after or 0.0) > patience and (len(self.replicas) == 1 or self._opens_in() > patience):
            raise ChatbenchError(
                f"{self._where}: asks to wait {fault.retry_after:,.0f} s ({fault.reason})",
                fix="run the same command again then: it continues",
            )
        if now - self._failing_since >= patience:
            raise ChatbenchError(f"{self._where}: no good answer for {patience:g} s ({fault.reason})", fix=CONTINUES)

    def _give_up(self, fault: Fault) -> None:
        self._failing_since = None
        self._given_up += 1
        if self._given_up >= GIVEN_UP_IN_A_ROW:
            raise ChatbenchError(
                f"{self._where}: {self._given_up} requests in a row failed ({fault.reason})",
                fix=FIX.get(fault.kind, CONTINUES),
            )
