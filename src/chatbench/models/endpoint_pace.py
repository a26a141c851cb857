"""How many requests an endpoint is asked at once: as many as it bears.

The limit begins at the most that is allowed. It is halved when the endpoint is overloaded, once for all requests that
were under way together, and grows by an eighth of the most for each round of good answers. Where the endpoint says how
long to wait (Retry-After), nobody asks before.

Source: additive increase and multiplicative decrease, as in TCP (Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

GROWTH = 1 / 8
"""Of the most, per round: one stray overload in a hundred answers then leaves about 40 of 64 places (the square root of
2 x 8 / 0.01); growth by one place a round would leave 14."""


class Pace:
    """Places for the requests of one endpoint, taken in the order of asking; `limit` of `most` are open."""

    def __init__(self, most: int, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
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
        await self._enter()
        try:
            while (pause := self._open_at - self._clock()) > 0:
                await self._sleep(pause)
            yield self._clock()
        finally:
            self._taken -= 1
            self._admit()

    async def _enter(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given the place in the same moment
                self._taken -= 1
                self._admit()
            raise

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
