"""SIGTERM as a wish: a cluster that takes a machine back sends it some seconds before it kills.

The step under way is finished, a checkpoint is written, and the same command continues from there. A second SIGTERM
kills at once. Ctrl-C is left as it is: it stops at once, and the run continues from the last checkpoint.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Whether SIGTERM has come; use it as a context manager. Outside the main thread no signal is heard."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
