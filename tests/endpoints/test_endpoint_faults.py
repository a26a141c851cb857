"""The endpoint benchmarks at small sizes: with faults and kills nothing is lost, and the ways compared do the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from chatbench.core.records import Question, SimulatedConversation, Turn
from chatbench.protocol.prompts import prompt_text, simulator_messages

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUESTION = Question("q", "maths", "What is 1+1?", ("1", "2", "3", "4"), "B")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("endpoint_faults")


@pytest.mark.slow
def test_every_conversation_is_recorded_once_and_as_it_was(faults: Any, capsys: pytest.CaptureFixture[str]) -> None:
    # Blocks that are written when they end would be held again after a kill; a line per try would be there twice.
    small = "--conversations=150 --held-out=10 --kills=3 --server-deaths=1 --timeout=1 --concurrency=12 --latency-ms=5"
    found = faults.main(small.split())

    assert (found.records, found.duplicates, found.corrupted, found.failed) == (150, 0, 0, 0)
    assert (found.kills, found.server_deaths) == (3, 1)
    assert "150 records of 150 conversations" in capsys.readouterr().out


def test_the_ways_that_are_compared_for_speed_do_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # A loop that held shorter conversations would look faster than it is.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    speed: Any = importlib.import_module("simulation_endpoint")

    with speed.serving() as url:
        requests = [way(url, 12, 4, 0) for way in (speed.plain_asyncio, speed.chatbench_engine)]

    assert requests[0] == requests[1] > 36  # three each at the least


def test_words_of_another_conversation_are_found_out(faults: Any) -> None:
    # Else the benchmark would call everything whole.
    said = [faults.simulated(prompt_text(simulator_messages(QUESTION.full_text, [], asked_for=QUESTION.asked_for)))]
    asked = [{"role": "system", "content": "You are a helpful AI assistant."}, {"role": "user", "content": said[0]}]

    def chat(reply: str) -> SimulatedConversation:
        turns = (Turn("user", said[0]), Turn("assistant", reply))
        return SimulatedConversation("q|bot|0", "q", "bot", 0, turns, "forced", letter="B", forced_text="Answer: B")

    assert not faults.corrupted(chat(faults.said_to(asked)), QUESTION)
    assert faults.corrupted(chat(faults.said_to([*asked, asked[1]])), QUESTION)
