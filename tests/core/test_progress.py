"""Progress on a terminal and elsewhere, against a clock that is set by hand."""

from __future__ import annotations

import sys
from io import StringIO

import pytest
from rich.console import Console
from tests.support.clock import Clock

from chatbench.core import progress
from chatbench.core.progress import WorkProgress, tracked


def test_without_a_terminal_a_line_comes_after_ten_seconds_and_each_time_that_the_time_has_doubled() -> None:
    shown, clock = StringIO(), Clock()

    with WorkProgress("[bold]split", "tokens", console=Console(file=shown), clock=clock) as view:  # a name, not markup
        for clock.now in (0.1, 9.9, 10.0, 19.0, 25.0, 49.0, 51.0):
            view(int(100 * clock.now), 10_000)

    assert shown.getvalue().splitlines() == [
        "[bold]split: 1,000/10,000 tokens  100/s  0:01:30 left",
        "[bold]split: 2,500/10,000 tokens  100/s  0:01:15 left",
        "[bold]split: 5,100/10,000 tokens  100/s  0:00:49 left",
    ]


def test_after_hours_a_line_still_comes_every_ten_minutes() -> None:
    shown, clock = StringIO(), Clock()

    with WorkProgress("long", "splits", console=Console(file=shown), clock=clock) as view:
        for clock.now in (7200.0, 7790.0, 7801.0):
            view(3, 9)

    assert shown.getvalue().count("0.00038/s") == 1
    assert len(shown.getvalue().splitlines()) == 2


def test_the_rate_and_the_time_left_are_of_this_run_not_of_what_was_there_before() -> None:
    shown, clock = StringIO(), Clock()

    with WorkProgress("ai-alone", "replies", already=900, console=Console(file=shown), clock=clock) as view:
        clock.now = 10.0
        view(910, 1000)

    assert shown.getvalue() == "ai-alone: 910/1,000 replies  1/s  0:01:30 left\n"


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
