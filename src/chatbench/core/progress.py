"""Progress of long work, and how it is stopped.

For ten seconds nothing is shown, then a bar on a terminal, or occasional lines elsewhere:

    split_0, fine-tuned ━━━━━━━━━╸──────── 12,345/34,319 tokens  580/s  0:00:38 left

SIGTERM is a request to save and end: a cluster that reclaims a machine sends it some seconds before it kills. Work that
proceeds in steps finishes the current one, saves and ends; the same command then continues. A second SIGTERM kills at
once. Ctrl-C ends a run at once too, with a message that says what is kept.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from chatbench.core.texts import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


QUIET_SECONDS = 10.0
"""Shorter work shows nothing. The first line comes after this time, the next each time the elapsed time has doubled."""
MOST_SECONDS_BETWEEN_LINES = 600.0

Advanced = Callable[[int, int], None]
"""Progress callback, called with (amount done, total)."""
Item = TypeVar("Item")


def unobserved(_done: int, _total: int) -> None:
    """Progress callback that does nothing."""


@cache
def standard_error() -> Console:
    """The console shared by all progress bars, so that nested ones (validation in training) share the screen."""
    from rich.console import Console  # lazy, like all rich imports here: most work ends before it is needed

    return Console(stderr=True)


class WorkProgress:
    """Progress of some work, with its rate and the time left: a context manager, and an `Advanced` callback.

    Args:
        what: the work; `unit`: what it is counted in.
        already: amount done before this run, which the rate excludes.
        more: returns further text to show.
        console: standard error by default.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        *,
        already: int = 0,
        more: Callable[[], str] = lambda: "",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._unit, self._already = printable(what), unit, already
        self._more, self._console, self._clock = more, console, clock
        self._began, self._silent_until = clock(), QUIET_SECONDS
        self._bar: Progress | None = None

    def __enter__(self) -> WorkProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, done: int, total: int) -> None:
        seconds = self._clock() - self._began
        if seconds < self._silent_until:
            return
        rate = (done - self._already) / seconds
        parts = [f"{done:,}/{total:,} {self._unit}", f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s", self._more()]
        if rate > 0 and done < total:
            parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
        text = "  ".join(filter(None, parts))
        console = self._console or standard_error()
        if not console.is_terminal:
            self._silent_until = seconds + min(seconds, MOST_SECONDS_BETWEEN_LINES)
            console.print(f"{self._what}: {text}", markup=False, highlight=False, soft_wrap=True)
            return
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"))
            # Output redirected to a file must not go to the bar's console instead.
            redirected = sys.stdout.isatty()
            self._bar = Progress(*columns, console=console, transient=True, redirect_stdout=redirected)
            self._bar.add_task(self._what, completed=done, total=total, text=text)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, text=text)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def tracked(items: Sequence[Item], what: str, unit: str) -> Iterator[Item]:
    """Yield the items, showing progress."""
    with WorkProgress(what, unit) as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress(done, len(items))


class StopRequest:
    """Context manager: `asked` is True once SIGTERM has arrived. Outside the main thread no signal is noticed."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def telling_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    """Re-raise a Ctrl-C inside the block with a message for the user: what is kept, and how to continue."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(str(stopped) or f"{kept()}; the same command continues") from None
