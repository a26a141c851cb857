"""SIGTERM is noticed once, and the handler before is put back."""

from __future__ import annotations

import os
import signal
import threading

from chatbench.core.progress import StopRequest


def test_the_first_sigterm_is_a_request_and_the_second_kills() -> None:
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_that_gets_no_signals_works_all_the_same() -> None:
    asked: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert asked == [False]
