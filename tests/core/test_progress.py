"""Progress on a terminal and elsewhere, against a clock that is set by hand; requests to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from io import StringIO

import pytest
from rich.console import Console
from tests.support.clock import Clock

from chatbench.core import progress
from chatbench.core.progress import StopRequest, WorkProgress, tracked


@pytest.mark.parametrize(
    ("already", "calls", "lines"),
    [
        (
            0,
            [(now, int(100 * now), 10_000) for now in (0.1, 9.9, 10.0, 19.0, 25.0, 49.0, 51.0)],
            ["1,000/10,000 parts  100/s  0:01:30", "2,500/10,000 parts  100/s  0:01:15",
             "5,100/10,000 parts  100/s  0:00:49"],
        ),
        # After hours a line still comes every ten minutes.
        (0, [(7200.0, 3, 9), (7790.0, 3, 9), (7801.0, 3, 9)],
         ["3/9 parts  0.00042/s  4:00:00", "3/9 parts  0.00038/s  4:20:02"]),
        # The rate is of this run, not of what was there before.
        (900, [(10.0, 910, 1000)], ["910/1,000 parts  1/s  0:01:30"]),
    ],
)  # fmt: skip
def test_without_a_terminal_a_line_comes_after_ten_seconds_and_each_time_that_the_time_has_doubled(
    already: int, calls: list[tuple[float, int, int]], lines: list[str]
) -> None:
    shown, clock = StringIO(), Clock()
    name = "[bold]work"  # not markup

    with WorkProgress(name, "parts", already=already, console=Console(file=shown), clock=clock) as view:
        for clock.now, done, total in calls:
            view(done, total)

    assert shown.getvalue().splitlines() == [f"{name}: {line} left" for line in lines]


@pytest.mark.parametrize("seconds", [9.0, 11.0])
def test_on_a_terminal_a_bar_comes_after_ten_seconds_and_leaves_output_that_goes_to_a_file_alone(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # rich sends all that is printed to the bar's console unless it is told not to: `> file` would stay empty.
    shown, file, clock = StringIO(), StringIO(), Clock()
    monkeypatch.setattr(sys, "stdout", file)

    with WorkProgress("work", "chats", console=Console(file=shown, force_terminal=True, width=99), clock=clock) as view:
        clock.now = seconds
        view(3, 9)
        print("a result")

    assert ("3/9 chats" in shown.getvalue()) == (seconds > 10)
    assert file.getvalue() == "a result\n"
    assert "a result" not in shown.getvalue()


def test_a_bar_inside_another_shares_the_screen_with_it() -> None:
    shown, clock = StringIO(), Clock()
    console = Console(file=shown, force_terminal=True, width=99)

    with (
        WorkProgress("training", "steps", console=console, clock=clock) as outer,
        WorkProgress("validation", "tokens", console=console, clock=clock) as inner,
    ):
        clock.now = 20.0
        outer(3, 9)
        inner(10, 20)
        assert outer._bar
        outer._bar.refresh()  # as its thread does

    assert "3/9 steps" in shown.getvalue()
    assert "10/20 tokens" in shown.getvalue()


def test_items_are_given_as_they_are_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "standard_error", lambda: Console(file=shown))

    assert list(tracked("abc", "letters", "letters")) == ["a", "b", "c"]
    assert shown.getvalue().splitlines()[-1].startswith("letters: ")
    assert list(tracked([], "nothing", "letters")) == []


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
