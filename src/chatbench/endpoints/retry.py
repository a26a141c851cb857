"""Retries, waiting, and concurrency of requests to an endpoint.

A request that gets a bad answer is retried with exponential backoff, up to `max_tries` times; then its conversation
fails. Waiting for an endpoint that is busy or does not answer at all counts as no try (`errors.POLICIES`). The run
stops after `patience_seconds` without a good answer to any request, or once many requests in a row were given up and a
small one (`probe`) is not answered either.

A model may have several addresses. A request goes to the least loaded one. An address that fails it is left out, with
exponential backoff, and the request moves on at once; only when no address is left does it pause and the patience run.

The number of concurrent requests is halved when the endpoint is overloaded, once for all that were in flight together,
and grows by an eighth of the maximum per round of good answers. No request is sent before the time of a Retry-After.

Source: additive increase and multiplicative decrease, as in TCP (Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from chatbench.core.errors import ChatbenchError
from chatbench.endpoints.address import EndpointOptions
from chatbench.endpoints.errors import FIX, Fault
from chatbench.protocol.dialogue import Reply

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

GROWTH = 1 / 8
"""Of the maximum, per round: with one stray overload per hundred answers, about 40 of 64 slots then stay open (the
square root of 2 x 8 / 0.01); growth by one slot per round would leave 14."""


class Pace:
    """First-come, first-served slots for the requests to one endpoint; `limit` of `most` are open."""

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self.most = most
        self.limit = float(most)
        self._clock = clock
        self._sleep = sleep
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open_at = self._halved_at = float("-inf")

    @asynccontextmanager
    async def place(self, leaves: Callable[[], bool] = lambda: False) -> AsyncIterator[float]:
        """Hold a slot; yield the time at which it was acquired (see `overloaded`).

        It is yielded before the time of a Retry-After only to a request that `leaves`: that can go elsewhere.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
            while (pause := self._open_at - self._clock()) > 0 and not leaves():
                await self._sleep(min(pause, LONGEST_PAUSE_SECONDS))
            yield self._clock()
        finally:
            # A request cancelled while it waited has no slot; one cancelled just as it was admitted has.
            if turn.done() and not turn.cancelled():
                self._taken -= 1
                self._admit()

    @property
    def load(self) -> float:
        """Requests that hold a slot or wait for one, per open slot."""
        return (self._taken + len(self._waiting)) / self.limit

    def _admit(self) -> None:
        while self._waiting and self._taken < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._taken += 1

    def succeeded(self) -> None:
        """Record a good answer."""
        self.limit = min(self.most, self.limit + max(1.0, self.most * GROWTH) / self.limit)
        self._admit()

    def overloaded(self, asked_at: float, retry_after: float | None = None) -> None:
        """Record an overload, met by a request that acquired its slot at `asked_at`."""
        if asked_at > self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = self._clock()
        if retry_after:
            self._open_at = max(self._open_at, self._clock() + retry_after)


GIVEN_UP_IN_A_ROW = 8
"""If this many requests in a row are given up, and then a small one too, the endpoint is considered broken."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
CONTINUES = "check that the endpoint is up, then run the same command again: it continues"


class Replica:
    """One address of a model: the slots for its requests, and whether it is left out after a fault.

    After its pause it is tried again, by one request at a time, until one is answered. `unchecked` means that a
    different server may be behind it by then.
    """

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self.pace = Pace(most, clock, sleep)
        self.unchecked = False
        self.opens_at = float("-inf")
        self._clock = clock
        self._faults = 0  # since the last answer; of requests in flight together only the first counts

    @property
    def is_open(self) -> bool:
        """Whether requests may be sent: it is not left out, or its pause is over and no request is trying it."""
        return not self._faults or (self._clock() >= self.opens_at and not self.pace.load)

    def leave_out(self, fault: Fault, asked_at: float) -> None:
        """Record a fault met by a request that was sent at `asked_at`."""
        if fault.policy.overloaded:
            self.pace.overloaded(asked_at, fault.retry_after)
        now = self._clock()
        if now >= self.opens_at:
            self.opens_at = now + min(FIRST_PAUSE_SECONDS * 2 ** min(self._faults, 10), LONGEST_PAUSE_SECONDS)
            self._faults += 1
        self.opens_at = max(self.opens_at, now + (fault.retry_after or 0.0))
        self.unchecked |= fault.kind != "busy"

    def answered(self) -> None:
        """Record a good answer."""
        self.pace.succeeded()
        self.opens_at, self._faults, self.unchecked = float("-inf"), 0, False


Attempt = Callable[[int, bool], Awaitable[Reply | Fault]]
"""Sends the request to the address with that number; the flag says whether to check the address first."""


class Patience:
    """Retries requests to one model until they are answered or given up; shared by all requests of a participant."""

    def __init__(
        self,
        where: Sequence[str],
        options: EndpointOptions,
        clock: Clock,
        sleep: Sleep,
        probe: Attempt | None = None,
    ) -> None:
        self.replicas = [Replica(options.concurrency, clock, sleep) for _ in where]
        self._where = ", ".join(where)
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._probe = probe
        self._failing_since: float | None = None
        self._good_at = float("-inf")
        self._given_up = 0

    async def answer(self, attempt: Attempt, seed: int) -> Reply | Fault:
        """The reply, or the fault for which the request was given up; `seed` seeds the jitter of the pauses.

        Raises:
            ChatbenchError: the endpoint is down or broken.
        """
        chance = random.Random(seed)
        began, tries, pauses, written, read = None, 0, 0, 0, 0
        asked: set[Replica] = set()  # since the last pause
        while True:
            one = self._least_loaded(asked)
            leaves = partial(self._better_elsewhere, one, one.opens_at, {*asked, one})
            async with one.pace.place(leaves) as asked_at:
                if leaves():
                    continue
                began = asked_at if began is None else began  # waiting for a slot is not the server's fault
                found = await attempt(self.replicas.index(one), one.unchecked)
            written, read = written + found.tokens, read + found.prompt_tokens
            found = replace(found, tokens=written, prompt_tokens=read)  # failed replies are paid for too
            if isinstance(found, Reply):
                one.answered()
                self._given_up = 0
            if isinstance(found, Reply) or not found.policy.retry:
                self._failing_since, self._good_at = None, self._clock()
                # Whatever is refused for one request may be refused for all, for a reason with no known wording yet.
                if isinstance(found, Fault) and found.kind in ("forbidden", "thinking", "refused"):
                    await self._give_up(found)
                return found
            one.leave_out(found, asked_at)
            asked.add(one)
            if not (elsewhere := self._elsewhere(asked)):
                self._wait_on(found, asked_at)
            tries += found.policy.counts
            if tries >= self._options.max_tries or self._clock() - began >= self._options.patience_seconds:
                await self._give_up(found)
                return found
            if elsewhere:
                continue
            longest = min(FIRST_PAUSE_SECONDS * 2**pauses, LONGEST_PAUSE_SECONDS)
            named = min(found.retry_after or 0.0, self._opens_in())
            await self._sleep(max(chance.uniform(0.5, 1.0) * longest, named))
            pauses += 1
            asked.clear()

    def _least_loaded(self, asked: Set[Replica]) -> Replica:
        """The replica to ask next: an open one if there is any, preferably not asked yet, else the first to open."""

        def last(one: Replica) -> tuple[bool, bool, float]:
            return not one.is_open, one in asked, one.pace.load if one.is_open else one.opens_at

        return min(self.replicas, key=last)

    def _elsewhere(self, asked: Set[Replica]) -> bool:
        return any(one.is_open for one in self.replicas if one not in asked)

    def _better_elsewhere(self, one: Replica, opened_at: float, asked: Set[Replica]) -> bool:
        """Whether to leave the queue for a slot at `one`, which opened or was to open at `opened_at` on joining it."""
        return one.opens_at > min(opened_at, self._clock()) and self._elsewhere(asked)

    def _opens_in(self) -> float:
        """Seconds until the first replica opens."""
        return min(one.opens_at for one in self.replicas) - self._clock()

    def _wait_on(self, fault: Fault, asked_at: float) -> None:
        """Record a transient fault; stop the run if it has lasted, or will last, longer than the patience."""
        now, patience = self._clock(), self._options.patience_seconds
        if self._failing_since is None:
            self._failing_since = max(asked_at, self._good_at)
        if (fault.retry_after or 0.0) > patience and (len(self.replicas) == 1 or self._opens_in() > patience):
            raise ChatbenchError(
                f"{self._where}: asks to wait {fault.retry_after:,.0f} s ({fault.reason})",
                fix="run the same command again after that: it continues",
            )
        if now - self._failing_since >= patience:
            raise ChatbenchError(f"{self._where}: no good answer for {patience:g} s ({fault.reason})", fix=CONTINUES)

    async def _give_up(self, fault: Fault) -> None:
        self._failing_since = None
        self._given_up += 1
        if self._given_up < GIVEN_UP_IN_A_ROW:
            return
        # Perhaps none but these can be answered (a question that is always filtered): ask something harmless.
        self._given_up = 0
        if self._probe is None or isinstance(await self.answer(self._probe, 0), Fault):
            raise ChatbenchError(
                f"{self._where}: {GIVEN_UP_IN_A_ROW} requests in a row failed ({fault.reason})",
                fix=FIX.get(fault.kind, CONTINUES),
            )
