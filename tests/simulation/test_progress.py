"""What a simulation shows beside its conversations."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from tests.support.clock import Clock

from chatbench.protocol.dialogue import Reply, Request
from chatbench.simulation.run import ConversationProgress


def test_those_under_way_failures_tokens_cost_and_time_left_are_shown() -> None:
    shown, clock = StringIO(), Clock()
    request = Request("simulator", (), "q", 0, "turn")

    with ConversationProgress(Console(file=shown), 40, lambda: 1.234, clock) as view:
        view.begun(12)
        for _ in range(10):
            view.replied(request, Reply("hello", tokens=50))
        for failed in (True, False, False):
            view.ended(failed=failed)
        clock.now = 10.0
        view.ended()

    assert shown.getvalue() == (
        "simulate: 4/40 conversations  0.4/s  8 active  1 failed  50 tokens/s  $1.23  0:01:30 left\n"
    )
