"""The progress of a simulation, on a terminal and elsewhere."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from chatbench.protocol.dialogue import Reply, Request
from chatbench.simulation.progress import ConversationProgress


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_terminal_shows_done_active_failed_speed_cost_and_time_left() -> None:
    shown, clock = StringIO(), Clock()
    console = Console(file=shown, force_terminal=True, width=160)
    request = Request("simulator", (), "q", 0, "turn")

    with ConversationProgress(console, 40, lambda: 1.234, clock) as view:
        view.begun(12)
        clock.seconds = 10.0
        for _ in range(10):
            view.replied(request, Reply("hello", tokens=50))
        for failed in (True, False, False, False):
            view.ended(failed=failed)
        view._bar.refresh()

    for part in ("4/40", "8 active", "1 failed", "50 tokens/s", "$1.23", "0:01:30 left"):
        assert part in shown.getvalue()


def test_without_a_terminal_a_plain_line_comes_now_and_then_and_at_the_end() -> None:
    shown, clock = StringIO(), Clock()

    with ConversationProgress(Console(file=shown), 5, None, clock) as view:
        view.with_assistant("[bold]bot")  # a name is not markup
        for clock.seconds in (10.0, 31.0, 40.0, 62.0):
            view.begun()
            view.ended()
        view.say()

    assert shown.getvalue().splitlines() == [
        "simulate: 2/5 conversations, last with [bold]bot, 0 active  0 failed  0.1/s  0:00:46 left",
        "simulate: 4/5 conversations, last with [bold]bot, 0 active  0 failed  0.1/s  0:00:16 left",
        "simulate: 4/5 conversations, last with [bold]bot, 0 active  0 failed  0.1/s  0:00:16 left",
    ]
