"""Runs that are stopped: SIGTERM as a request, and what a run that was interrupted (Ctrl-C) has kept.

SIGTERM: a cluster that takes a machine back sends it some seconds before it kills.

Whoever works in steps finishes the one under way, saves, and ends; the same command then continues. A second SIGTERM
kills at once. Ctrl-C ends a run at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """`asked` tells whether SIGTERM has come since the block began. Outside the main thread no signal is noticed."""

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
    """A Ctrl-C inside the block is raised on with a sentence for the user: what is kept, and that the run continues."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(str(stopped) or f"{kept()}; the same command continues") from None
