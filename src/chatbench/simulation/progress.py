"""Progress of a simulation: conversations done and active, failures, tokens per second and dollars.

simulate ━━━━━━━━━╸──────── 512/1,600 conversations  4.4/s  64 active  3 failed  2,310 tokens/s  $1.24  0:04:10 left
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from chatbench.core.progress import WorkProgress
from chatbench.protocol.dialogue import Failure, Reply, Request


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
