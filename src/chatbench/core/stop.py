"""Stopping a run: SIGTERM as a request to save and end, and what a run interrupted by Ctrl-C has kept.

A cluster that reclaims a machine sends SIGTERM some seconds before it kills. Work that proceeds in steps finishes the
current one, saves and ends; the same command then continues. A second SIGTERM kills at once, and Ctrl-C ends a run at
once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
