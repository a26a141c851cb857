"""Progress of a simulation: a bar on a terminal, elsewhere a plain line now and then.

simulating ━━━━━━━━━╸──────── 512/1600  64 active  3 failed  2,310 tokens/s  $1.24  0:04:10 left
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from chatbench.core.texts import printable
from chatbench.protocol.dialogue import Failure, Reply, Request

PLAIN_EVERY_SECONDS = 30.0
"""Where there is no terminal: at most one line in so many seconds, but for the last one of an assistant."""


class ConversationProgress:
    """Counts conversations, replies and tokens as they come; use it as a context manager.

    Args:
        total: conversations that this run is to simulate.
        dollars: what was spent so far; None where there is no price.
        clock: seconds, ever growing.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        dollars: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._total = total
        self._dollars = dollars
        self._clock = clock
        self._began = self._last_line = clock()
        self._assistant = ""
        self._done = self._active = self._failed = self._tokens = 0
        more = TextColumn("{task.fields[more]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), more)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("simulating", total=total, more="")

    def __enter__(self) -> ConversationProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def with_assistant(self, name: str) -> None:
        """The next conversation to end was with this assistant."""
        self._assistant = name

    def begun(self, count: int = 1) -> None:
        """So many conversations begin."""
        self._active += count
        self._show()

    def replied(self, _request: Request, reply: Reply | Failure) -> None:
        """A participant replied."""
        if isinstance(reply, Reply):
            self._tokens += reply.tokens
        self._show()

    def ended(self, *, failed: bool = False) -> None:
        """One ended, perhaps without an answer."""
        self._active -= 1
        self._done += 1
        self._failed += failed
        self.tick()

    def tick(self) -> None:
        """Something goes on: shows the time, now and then."""
        self._show()
        if self._clock() - self._last_line >= PLAIN_EVERY_SECONDS:
            self.say()

    def say(self) -> None:
        """The plain line, where there is no bar."""
        self._last_line = self._clock()
        if not self._console.is_terminal:
            self._console.print(
                printable(f"simulate: {self._done}/{self._total} conversations, last with {self._assistant}, ")
                + self._more(),
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _show(self) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done, more=self._more())

    def _more(self) -> str:
        seconds = max(self._clock() - self._began, 1e-9)
        parts = [f"{self._active} active", f"{self._failed} failed", f"{self._done / seconds:.1f}/s"]
        if self._tokens:
            parts.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if self._dollars:
            parts.append(f"${self._dollars():,.2f}")
        if 0 < self._done < self._total:
            parts.append(f"{clock_text(seconds / self._done * (self._total - self._done))} left")
        return "  ".join(parts)


def clock_text(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock_text(3725.2)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
