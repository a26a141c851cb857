"""How far a simulation is: a bar with rate and time left on a terminal, a plain line per block elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ConversationProgress:
    """Counts conversations; use it as a context manager."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._block = ("", 0, 0)
        self._began = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("simulating", total=total, rate=0.0)

    def __enter__(self) -> ConversationProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, assistant: str, wanted: int) -> None:
        """A block of `wanted` missing conversations begins."""
        self._block = (assistant, wanted, 0)

    def ended(self, count: int) -> None:
        """`count` more conversations of the block came to their end (in a block held again, missing or not)."""
        assistant, wanted, so_far = self._block
        self._block = (assistant, wanted, min(wanted, so_far + count))
        self._show(self._done + self._block[2])

    def finish(self) -> None:
        """The block is in the log."""
        assistant, wanted, _ = self._block
        self._done += wanted
        self._show(self._done)
        if not self._console.is_terminal:
            rate = self._done / max(time.monotonic() - self._began, 1e-9)
            self._console.print(
                f"simulate: {self._done}/{self._total} conversations, last with {assistant}, {rate:.1f}/s",
                highlight=False,
                soft_wrap=True,
            )

    def _show(self, done: int) -> None:
        rate = done / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, completed=done, rate=rate)
