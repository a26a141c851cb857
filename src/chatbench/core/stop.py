"""SIGTERM as a request: a cluster that takes a machine back sends it some seconds before it kills.

Whoever works in steps finishes the one under way, saves, and ends; the same command then continues. A second SIGTERM
kills at once. Ctrl-C is left as it is.
"""

from __future__ import annotations

import signal
import threading
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
