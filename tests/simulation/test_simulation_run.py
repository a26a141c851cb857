"""Conversations held one by one with an endpoint: kills, two writers, a budget, a stop, and what is shown meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.fake_participants import ACTIVE, LOOP, QUESTIONS, AloneBySeed, WordsBySeed, held

from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.records import SimulatedConversation, Usage
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.simulation.budget import Price, Prices, Spending, read_price
from chatbench.simulation.log import ConversationLog, read_conversations, read_recorded
from chatbench.simulation.progress import ConversationProgress
from chatbench.simulation.run import plan
from chatbench.simulation.summary import tally_of

ROOT = Path(__file__).parents[2]


def by_id(path: Path) -> dict[str, SimulatedConversation]:
    return {one.id: one for one in read_conversations(path)}


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n")


# ---- kills and other writers ----

PROCESS = """
import os, signal, sys
from pathlib import Path
from tests.support.fake_participants import AloneBySeed, WordsBySeed, held
path, how, bytes_left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real = os.pwrite
def write_until_killed(descriptor, content, position):
    global bytes_left
    written = real(descriptor, content[:bytes_left], position)
    bytes_left -= written
    if not bytes_left:
        os.kill(os.getpid(), signal.SIGKILL)
    return written
os.pwrite = write_until_killed
held(path, simulator=AloneBySeed() if how == "alone" else WordsBySeed())
"""
NEVER = 10**9


def process(path: Path, how: str, killed_after: int) -> subprocess.Popen[bytes]:
    """Holds all conversations, or is killed after so many bytes of records."""
    command = [sys.executable, "-c", PROCESS, str(path), how, str(killed_after)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})


@pytest.mark.parametrize("how", ["alone", "together"])
def test_killed_at_any_byte_and_continued_the_records_are_those_of_an_undisturbed_run(tmp_path: Path, how: str) -> None:
    held(tmp_path / "whole.jsonl", simulator=AloneBySeed() if how == "alone" else WordsBySeed())
    path, draw = tmp_path / "killed.jsonl", random.Random(0)

    for _ in range(4):
        assert process(path, how, draw.randrange(1, 9000)).wait() == -signal.SIGKILL
    held(path, simulator=AloneBySeed() if how == "alone" else WordsBySeed())

    assert by_id(path) == by_id(tmp_path / "whole.jsonl")
    assert lines_in(path) == 42
    if how == "together":
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("how", ["alone", "together"])
def test_two_processes_with_one_plan_record_each_conversation_once(tmp_path: Path, how: str) -> None:
    held(tmp_path / "whole.jsonl", simulator=AloneBySeed() if how == "alone" else WordsBySeed())
    path = tmp_path / "both.jsonl"

    assert [one.wait() for one in [process(path, how, NEVER), process(path, how, NEVER)]] == [0, 0]

    assert by_id(path) == by_id(tmp_path / "whole.jsonl")
    assert lines_in(path) == 42


def test_what_another_process_recorded_meanwhile_is_not_begun(tmp_path: Path) -> None:
    # Looking at the log only once, at the beginning, is the likely mistake: each reply would be paid for twice.
    held(tmp_path / "other.jsonl", simulator=AloneBySeed())
    others = [recorded for _, recorded in read_recorded(tmp_path / "other.jsonl")]
    path = tmp_path / "mine.jsonl"

    def record_all(asked: int) -> None:
        if asked == 6:
            log = ConversationLog(path)
            log.begin({"seed": 0}, {})
            log.append(others)

    simulator = AloneBySeed(wait=record_all)
    held(path, simulator=simulator)

    assert len({request.conversation_id for request in simulator.asked}) <= 6 + ACTIVE
    assert by_id(path) == by_id(tmp_path / "other.jsonl")
    assert lines_in(path) == 42


def test_each_conversation_is_recorded_as_soon_as_it_ends(tmp_path: Path) -> None:
    # Writing when all are held would lose everything that an endpoint was paid for.
    path = tmp_path / "a.jsonl"
    recorded = []
    held(path, simulator=AloneBySeed(wait=lambda _: recorded.append(lines_in(path) if path.exists() else 0)))

    assert recorded == sorted(recorded)
    assert len(set(recorded)) > 20


# ---- stop and budget ----


def test_sigterm_lets_those_under_way_end_and_begins_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    stop_at = AloneBySeed(wait=lambda asked: os.kill(os.getpid(), signal.SIGTERM) if asked == 5 else None)

    with pytest.raises(StoppedError, match="continues"):
        held(path, simulator=stop_at)

    begun = {request.conversation_id for request in stop_at.asked}
    assert 0 < len(begun) <= 5 + ACTIVE
    assert by_id(path).keys() == begun
    assert all(one.termination != "failed" for one in read_conversations(path))


def test_a_budget_ends_the_run_and_a_larger_one_continues_it(tmp_path: Path) -> None:
    held(tmp_path / "whole.jsonl", simulator=AloneBySeed(tokens=10))
    whole = tally_of(tmp_path / "whole.jsonl")
    spent = whole.usage.simulator_tokens + whole.usage.simulator_prompt_tokens
    path = tmp_path / "a.jsonl"

    held(path, simulator=AloneBySeed(tokens=10), spending=Spending(Prices(), max_tokens=spent // 2))

    there = tally_of(path)
    assert 10 < there.conversations < 42
    # The last requests under way may go beyond it, by one each.
    assert there.usage.simulator_tokens * 3 <= spent // 2 + ACTIVE * 30
    again = AloneBySeed(tokens=10)
    assert held(path, simulator=again, spending=Spending(Prices(), max_tokens=spent // 2)) == 0
    assert not again.asked  # what earlier runs recorded counts
    held(path, simulator=again, spending=Spending(Prices(), max_tokens=2 * spent))
    assert by_id(path) == by_id(tmp_path / "whole.jsonl")


def test_a_spent_budget_fails_what_is_under_way_for_a_reason_that_passes(tmp_path: Path) -> None:
    # One token is less than any conversation: all that begin at once are over it in the middle.
    path = tmp_path / "a.jsonl"

    held(path, simulator=AloneBySeed(tokens=10), spending=Spending(Prices(), max_tokens=1))

    ended = read_conversations(path)
    assert {(one.termination, one.reason, one.transient) for one in ended} == {("failed", "the budget is spent", True)}
    assert len(ended) <= ACTIVE


def test_dollars_are_tokens_times_prices_of_their_side() -> None:
    # Per side, and read and written apart: 3 x 2 + 5 x 10 for the simulator, 7 x 1 + 11 x 4 for the assistant.
    prices = Prices(read_price("--simulator-price", "2/10"), Price(1, 4))

    assert prices.usd(Usage(3, 5, 7, 11)) == pytest.approx(107e-6)
    assert Prices(None, Price(1, 4)).usd(Usage(3, 5, 7, 11)) == pytest.approx(51e-6)


@pytest.mark.parametrize("text", ["10", "2.5/", "a/b", "-1/2", "1/2/3", ""])
def test_a_price_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ChatbenchError, match="--assistant-price"):
        read_price("--assistant-price", text)


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ChatbenchError, match="without a price"):
        Spending(Prices(), max_usd=5)
    with pytest.raises(ChatbenchError, match="more than 0"):
        Spending(Prices(), max_tokens=0)
    silent = Spending(Prices(), max_tokens=100)
    silent.metered = frozenset({"assistant"})
    request = Request("assistant", (), "q", 0, "reply")
    with pytest.raises(ChatbenchError, match="does not say how many tokens"):
        silent.heard(request, Reply("hello"))
    silent.heard(request, Failure("HTTP 503", transient=True))


def test_with_a_budget_only_the_assistant_behind_an_endpoint_must_report_its_tokens(tmp_path: Path) -> None:
    # Judging all assistants of a run together would stop it at the first reply of a scripted one beside the endpoint.
    free, path = WordsBySeed(), tmp_path / "a.jsonl"

    with pytest.raises(ChatbenchError, match="the assistant's endpoint does not say"):
        held(path, simulator=WordsBySeed(), assistant=AloneBySeed(), spending=Spending(Prices(), max_tokens=10**6))
    paid = AloneBySeed(tokens=1)
    held(path, simulator=free, assistant=paid, spending=Spending(Prices(), max_tokens=10**6))

    assert lines_in(path) == 42


def test_room_is_judged_by_those_that_ended_not_by_parts_of_those_under_way() -> None:
    # By what was spent over what ended, 3 under way would look like 4 times the cost, and the run would stop early.
    spending = Spending(Prices(), max_tokens=1000)
    spending.began(4)
    for _ in range(4):
        spending.heard(Request("simulator", (), "q", 0, "turn"), Reply("", tokens=100))
    spending.ended(Usage(simulator_tokens=100))

    assert spending.leaves_room(6)
    assert not spending.leaves_room(7)


# ---- the view ----


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
            view.heard(request, Reply("hello", tokens=50))
        view.ended(4, failed=1)
        view._bar.refresh()

    for part in ("4/40", "8 active", "1 failed", "50 tokens/s", "$1.23", "0:01:30 left"):
        assert part in shown.getvalue()


def test_elsewhere_a_plain_line_comes_now_and_then_and_at_the_end() -> None:
    shown, clock = StringIO(), Clock()

    with ConversationProgress(Console(file=shown), 5, None, clock) as view:
        view.with_assistant("[bold]bot")  # a name is not markup
        for clock.seconds in (10.0, 31.0, 40.0, 62.0):
            view.begun()
            view.ended()
        view.elsewhere(1)
        view.say()

    assert shown.getvalue().splitlines() == [
        "simulate: 2/5 conversations, last with [bold]bot, 0 active  0 failed  0.1/s  0:00:46 left",
        "simulate: 4/5 conversations, last with [bold]bot, 0 active  0 failed  0.1/s  0:00:16 left",
        "simulate: 4/4 conversations, last with [bold]bot, 0 active  0 failed  0.1/s",
    ]


def test_a_run_ends_with_nothing_active_and_everything_done(tmp_path: Path) -> None:
    for number, simulator in enumerate((AloneBySeed(), WordsBySeed())):
        shown = StringIO()
        held(tmp_path / f"{number}.jsonl", simulator=simulator, progress=ConversationProgress(Console(file=shown), 42))

        assert shown.getvalue().splitlines()[-1].startswith("simulate: 42/42 conversations, last with other, 0 active")


def test_the_plan_is_the_same_for_any_number_of_repetitions() -> None:
    few, many = plan(QUESTIONS, "bot", 2), plan(QUESTIONS, "bot", 3)

    assert {one.id for one in few} < {one.id for one in many}
    assert LOOP.begin(few[0]).send(None).conversation_id == "q0|bot|0"  # type: ignore[arg-type]
