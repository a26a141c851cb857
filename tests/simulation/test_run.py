"""A plan simulated: what is recorded and in which order, kills and resumed runs, a budget, and a stop."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.clock import Clock
from tests.support.fake_participants import ACTIVE, QUESTIONS, AloneBySeed, WordsBySeed, simulated

from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.records import SimulatedConversation
from chatbench.endpoints.client import REFUSAL
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request
from chatbench.simulation.budget import Prices, SimulateResult, Spending, Tally, tally_of
from chatbench.simulation.log import read_conversations
from chatbench.simulation.run import ConversationProgress, plan

ROOT = Path(__file__).parents[2]


def by_id(path: Path) -> dict[str, SimulatedConversation]:
    return {one.id: one for one in read_conversations(path)}


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def replying(function: Callable[[Request], Reply | Failure], *, reproducible: bool = True) -> FunctionParticipant:
    return FunctionParticipant(function, {"kind": "fake", "name": "f", "reproducible": reproducible})


# ---- what is recorded ----


def test_a_run_says_how_many_replies_were_cut_off_or_refusals_and_which_models_answered(tmp_path: Path) -> None:
    # An assistant that refused every request left no trace in what a run said.
    def answers(request: Request) -> Reply:
        index = int(request.conversation_id[-1])
        return Reply("four", finish=("length", REFUSAL, "stop")[index], model=f"m-{min(index, 1)}")

    simulated(tmp_path / "a.jsonl", assistant=replying(answers))
    tally = tally_of(tmp_path / "a.jsonl")
    chats = [chat for chat in read_conversations(tmp_path / "a.jsonl") if chat.assistant == "bot"]
    lines = SimulateResult(tmp_path / "a.jsonl", tally, 42, 42, 1.0, Prices()).lines()

    cut, refused = (sum(len(chat.turns) // 2 for chat in chats if chat.index == index) for index in (0, 1))
    assert f"{cut} replies of the assistant bot were cut off at --max-tokens" in lines
    assert f"{refused} replies of the assistant bot were refusals" in lines
    assert "the assistant bot: f was requested; models that answered (conversations): m-1 in 14, m-0 in 7" in lines


def test_an_answer_that_is_no_letter_is_called_an_answer(tmp_path: Path) -> None:
    tally = Tally(without_letter=2, lenient_letters=1)
    lines = [SimulateResult(tmp_path / "a", tally, 2, 2, 1.0, Prices(), letters).lines() for letters in (True, False)]

    assert "2 ended without a letter (counted wrong); lenient answer extraction finds one in 1" in lines[0]
    assert "2 ended without an answer (counted wrong)" in lines[1]


def test_the_log_holds_the_plan_once_and_a_finished_run_adds_nothing(tmp_path: Path) -> None:
    assert simulated(tmp_path / "a.jsonl") == 42

    conversations = read_conversations(tmp_path / "a.jsonl")

    assert {one.id for one in conversations} == {
        one.id for name in ("bot", "other") for one in plan(QUESTIONS, name, 3)
    }
    assert lines_in(tmp_path / "a.jsonl") == 42
    assert {one.termination for one in conversations} <= {"answered", "forced", "no_answer"}
    before = (tmp_path / "a.jsonl").read_bytes()
    simulator = WordsBySeed()

    assert simulated(tmp_path / "a.jsonl", simulator=simulator) == 0
    assert simulator.asked == 0
    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.parametrize("local", [True, False])
def test_each_conversation_is_recorded_as_soon_as_it_ends(tmp_path: Path, local: bool) -> None:
    # Writing when all are held would lose everything that an endpoint was paid for, or that took hours on this machine.
    path = tmp_path / "a.jsonl"
    recorded: list[int] = []

    def look(_: object) -> None:
        recorded.append(lines_in(path) if path.exists() else 0)

    if local:
        by_seed = WordsBySeed()
        one = replying(lambda request: (look(request), by_seed.reply_all([request])[0])[1])
        simulated(path, simulator=one, block_size=42)
    else:
        simulated(path, simulator=AloneBySeed(wait=look))

    assert recorded == sorted(recorded)
    assert len(set(recorded)) > (2 if local else 20)  # a block of 21 ends in a few waves


def test_a_passing_failure_is_tried_again_and_the_last_line_counts(tmp_path: Path) -> None:
    def flaky(request: Request) -> Reply | Failure:
        return Failure("HTTP 503", transient=True) if request.question_id == "q3" else Reply("fine")

    simulator = WordsBySeed()
    simulated(tmp_path / "a.jsonl", assistant=replying(flaky, reproducible=False))
    again = simulated(
        tmp_path / "a.jsonl", assistant=replying(lambda _: Reply("fine"), reproducible=False), simulator=simulator
    )

    conversations = read_conversations(tmp_path / "a.jsonl")
    assert again == 3
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 45  # the failed lines stay
    assert len(conversations) == 42
    assert not [one for one in conversations if one.termination == "failed"]
    # Only the three were asked for again, not their whole block: each reply of an endpoint is paid for.
    assert simulator.asked <= 3 * 4


def test_a_failure_for_good_stays_and_a_run_again_adds_nothing(tmp_path: Path) -> None:
    silent = replying(lambda _: Failure("no recorded reply"))

    simulated(tmp_path / "a.jsonl", assistant=silent)

    assert simulated(tmp_path / "a.jsonl", assistant=silent) == 0
    failed = [one for one in read_conversations(tmp_path / "a.jsonl") if one.termination == "failed"]
    assert len(failed) == 21
    assert failed[0].reason == "no recorded reply"
    assert [turn.role for turn in failed[0].turns] == ["user"]


def test_more_repetitions_of_a_seed_do_not_change_the_first_ones(tmp_path: Path) -> None:
    simulated(tmp_path / "few.jsonl", repetitions=2, block_size=1)
    simulated(tmp_path / "many.jsonl", repetitions=3, block_size=1)

    many = {one.id: one for one in read_conversations(tmp_path / "many.jsonl")}
    assert all(many[one.id] == one for one in read_conversations(tmp_path / "few.jsonl"))


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


def test_a_run_ends_with_nothing_active_and_everything_done(tmp_path: Path) -> None:
    for number, simulator in enumerate((AloneBySeed(), WordsBySeed())):
        shown, clock = StringIO(), count(0.0, 1000.0)  # so slow that each call shows a line
        view = ConversationProgress(Console(file=shown), 42, clock=clock.__next__)
        simulated(tmp_path / f"{number}.jsonl", simulator=simulator, progress=view)

        last = shown.getvalue().splitlines()[-1]
        assert last.startswith("simulate: 42/42 conversations")
        assert "  0 active" in last


# ---- kills ----


PROCESS = """
import os, signal, sys
from pathlib import Path
from tests.support.fake_participants import AloneBySeed, WordsBySeed, simulated
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
simulated(path, simulator=AloneBySeed() if how == "alone" else WordsBySeed())
"""


def process(path: Path, how: str, killed_after: int) -> subprocess.Popen[bytes]:
    """Holds all conversations, or is killed after so many bytes of records."""
    command = [sys.executable, "-c", PROCESS, str(path), how, str(killed_after)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})


@pytest.mark.parametrize("how", ["alone", "together"])
def test_killed_at_any_byte_and_continued_the_records_are_those_of_an_undisturbed_run(tmp_path: Path, how: str) -> None:
    simulated(tmp_path / "whole.jsonl", simulator=AloneBySeed() if how == "alone" else WordsBySeed())
    path, draw = tmp_path / "killed.jsonl", random.Random(0)

    for _ in range(4):
        assert process(path, how, draw.randrange(1, 9000)).wait() == -signal.SIGKILL
    simulated(path, simulator=AloneBySeed() if how == "alone" else WordsBySeed())

    assert by_id(path) == by_id(tmp_path / "whole.jsonl")
    assert lines_in(path) == 42
    if how == "together":
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_log_that_another_process_writes_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    # Two runs of one plan would pay for each reply twice.
    path = tmp_path / "a.jsonl"
    refused: list[str] = []
    second = WordsBySeed()

    def begin_another(asked: int) -> None:
        if asked == 6:
            with pytest.raises(ChatbenchError, match=f"process {os.getpid()} on") as caught:
                simulated(path, simulator=second)
            refused.append(str(caught.value))

    assert simulated(path, simulator=AloneBySeed(wait=begin_another)) == 42
    assert len(refused) == 1
    assert second.asked == 0


# ---- stop and budget ----


def test_sigterm_lets_those_under_way_end_and_begins_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    stop_at = AloneBySeed(wait=lambda asked: os.kill(os.getpid(), signal.SIGTERM) if asked == 5 else None)

    with pytest.raises(StoppedError, match="continues"):
        simulated(path, simulator=stop_at)

    begun = {request.conversation_id for request in stop_at.asked}
    assert 0 < len(begun) <= 5 + ACTIVE
    assert by_id(path).keys() == begun
    assert all(one.termination != "failed" for one in read_conversations(path))


def test_a_budget_ends_the_run_and_a_larger_one_continues_it(tmp_path: Path) -> None:
    simulated(tmp_path / "whole.jsonl", simulator=AloneBySeed(tokens=10))
    whole = tally_of(tmp_path / "whole.jsonl")
    spent = whole.usage.simulator_tokens + whole.usage.simulator_prompt_tokens
    path = tmp_path / "a.jsonl"

    simulated(path, simulator=AloneBySeed(tokens=10), spending=Spending(Prices(), max_tokens=spent // 2))

    there = tally_of(path)
    assert 10 < there.terminations.total() < 42
    # The last requests under way may go beyond it, by one each.
    assert there.usage.simulator_tokens * 3 <= spent // 2 + ACTIVE * 30
    again = AloneBySeed(tokens=10)
    assert simulated(path, simulator=again, spending=Spending(Prices(), max_tokens=spent // 2)) == 0
    assert not again.asked  # what earlier runs recorded counts
    simulated(path, simulator=again, spending=Spending(Prices(), max_tokens=2 * spent))
    assert by_id(path) == by_id(tmp_path / "whole.jsonl")


def test_a_spent_budget_fails_what_is_under_way_for_a_reason_that_passes(tmp_path: Path) -> None:
    # One token is less than any conversation: all that begin at once are over it in the middle.
    path = tmp_path / "a.jsonl"

    simulated(path, simulator=AloneBySeed(tokens=10), spending=Spending(Prices(), max_tokens=1))

    ended = read_conversations(path)
    assert {(one.termination, one.reason, one.transient) for one in ended} == {("failed", "the budget is spent", True)}
    assert len(ended) <= ACTIVE


def test_with_a_budget_only_the_assistant_behind_an_endpoint_must_report_its_tokens(tmp_path: Path) -> None:
    # Judging all assistants of a run together would stop it at the first reply of a scripted one beside the endpoint.
    free, path = WordsBySeed(), tmp_path / "a.jsonl"

    with pytest.raises(ChatbenchError, match="the assistant's endpoint does not report"):
        simulated(path, simulator=WordsBySeed(), assistant=AloneBySeed(), spending=Spending(Prices(), max_tokens=10**6))
    paid = AloneBySeed(tokens=1)
    simulated(path, simulator=free, assistant=paid, spending=Spending(Prices(), max_tokens=10**6))

    assert lines_in(path) == 42
