"""The dry run: what would be held, where, and what it would cost, with nothing loaded, asked or written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import pytest
from tests.support.simulated_logs import prepared, questions, rewrite_log, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Usage
from chatbench.data.workspace import Workspace
from chatbench.simulation.budget import Price, Prices
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings, task_of
from chatbench.simulation.simulate_splits import Estimate, estimate

PRICES = Prices(Price(2, 10), Price(1, 4))
ENDPOINT = "gpt-4o=openai:some-model@http://127.0.0.1:9/v1"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return prepared(tmp_path, splits=1)


def estimated(place: Workspace, *assistants: str, simulator: str = "tuned", block_size: int = 256) -> Estimate:
    task = task_of("tiny", assistants, workspace=place, split="split_0")
    settings = ChatSettings(conversations=5, block_size=block_size)
    return estimate(task, settings, read_simulator_spec(simulator), PRICES)


def test_what_is_missing_is_counted_per_assistant_in_blocks_or_one_by_one(place: Workspace) -> None:
    # Four held-out questions, five conversations each; the log lacks the last 7 of the second assistant.
    settings = write_log(place, "split_0", leave_out=7).with_suffix(".run.json")
    settings.write_text(settings.read_text().replace('"block_size": 256', '"block_size": 5'))

    found = estimated(place, "replay:all", block_size=5)

    assert [(one.assistant, one.planned, one.recorded, one.blocks) for one in found.pending] == [
        ("gpt-4o", 20, 20, 0),
        ("llama-3.1-8b", 20, 13, 2),
    ]
    assert found.missing == 7
    assert found.lines()[0] == "gpt-4o: 20 conversations, 20 recorded, nothing to hold"
    assert found.lines()[1] == "llama-3.1-8b: 20 conversations, 13 recorded, 7 to hold, in 2 blocks"
    assert found.lines()[-1].endswith("simulations/tiny/split_0/conversations.jsonl")
    assert [one.blocks for one in estimated(place, ENDPOINT, block_size=5).pending] == [None]
    settings.write_text(settings.read_text().replace('"simulator_kind": "tuned"', '"simulator_kind": "openai"'))
    by_endpoint = estimated(place, "replay:all", simulator="two-step:openai:m", block_size=5)
    assert [one.blocks for one in by_endpoint.pending] == [None, None]


def test_before_anything_is_recorded_tokens_are_guessed_from_what_people_wrote(place: Workspace) -> None:
    # Each person asked once, in the question's words, and was told "Let me see." (11 characters); the system message
    # of the assistant has 31. The simulator's answer is "Answer: B" (9).
    found = estimated(place, ENDPOINT)
    held_out = {question.id for question in found.task.questions}
    texts = [len(question.text) for question in questions() if question.id in held_out]

    assert "chats of people" in found.basis
    assert found.usage.assistant_tokens == round(20 * 11 / 4)
    assert found.usage.assistant_prompt_tokens == round(20 * (31 + fmean(texts)) / 4)
    assert found.usage.simulator_tokens == round(20 * (9 + fmean(texts)) / 4)


def test_once_conversations_are_recorded_their_mean_is_the_guess(place: Workspace) -> None:
    log = write_log(place, "split_0", leave_out=30)
    usage = iter([Usage(100, 10, 200, 20), Usage(300, 30, 400, 40)] * 5)
    rewrite_log(log, lambda row: {**row, "usage": asdict(next(usage))})

    found = estimated(place, "gpt-4o=local:folder", "llama-3.1-8b=scripted:weak")

    # 10 + 20 are missing; a scripted assistant reads and writes no tokens.
    assert found.usage == Usage(30 * 200, 30 * 20, 10 * 300, 10 * 30)
    assert "10 recorded conversations" in found.basis
    dollars = (6000 * 2 + 600 * 10 + 3000 * 1 + 300 * 4) / 1e6
    assert found.cost_lines()[1] == f"about ${dollars / 30 * 1000:,.2f} per 1,000 conversations, $0.02 for these 30"


def test_the_command_says_it_all_and_touches_nothing(
    place: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLIT_ID", raising=False)
    before = sorted(place.data.parent.rglob("*"))
    options = ["--data", str(place.data), "--results", str(place.results), "--conversations", "5"]
    chats = ["--assistant", ENDPOINT, "--simulator", "iqa-eval:openai:m", "--assistant-price", "1/4"]

    assert main(["simulate", "any-name", *chats, *options, "--dry-run"]) == 0

    told = capsys.readouterr().out
    assert "split_0: gpt-4o: 20 conversations, 0 recorded, 20 to hold, one by one" in told
    assert "per 1,000 conversations" in told
    assert "in all 20 conversations to hold, about $" in told
    assert sorted(place.data.parent.rglob("*")) == before


def test_what_the_run_would_refuse_the_dry_run_refuses(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    # It once promised to hold what was missing of a log that was made with other settings.
    log = write_log(place, "split_0", leave_out=7)
    settings = log.with_suffix(".run.json")
    settings.write_text(json.dumps({"settings": {"seed": 7}, "assistants": {}}))
    folders = ["--data", str(place.data), "--results", str(place.results), "--conversations", "5", "--split", "split_0"]
    asked = ["simulate", "tiny", "--simulator", "two-step:local:x", "--assistant", "replay:all", *folders, "--dry-run"]

    assert main(asked) == 2
    assert "made with seed 7" in capsys.readouterr().err
    assert main([*asked, "--overwrite"]) == 0
    assert "in all 40 conversations to hold" in capsys.readouterr().out


def test_a_log_that_is_overwritten_is_not_read(place: Workspace) -> None:
    # Reading it for its mean tokens is the likely mistake: --overwrite is the way out for a damaged or older log.
    log = write_log(place, "split_0")
    log.write_bytes(log.read_bytes().replace(b"Let me see.", b"Let me sea."))
    task = task_of("tiny", ["replay:all"], workspace=place, split="split_0")
    asked = task, ChatSettings(conversations=5, block_size=256), read_simulator_spec("tuned"), PRICES

    with pytest.raises(ChatbenchError, match="not as it was written"):
        estimate(*asked)
    assert "chats of people" in estimate(*asked, overwrite=True).basis


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--budget-usd", "5"], "without a price"),
        (["--simulator-price", "cheap"], "--simulator-price 'cheap'"),
        (["--end-on", "boredom"], "no such guard"),
        (["--budget-tokens", "0"], "more than 0"),
        (["--concurrency", "0"], "concurrency is 0"),
        (["--assistant-temperature", "-1"], "assistant_temperature is -1"),
        (["--simulator", "two-step"], "--simulator 'two-step'"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(
    place: Workspace, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    folders = ["--data", str(place.data), "--results", str(place.results)]

    assert main(["simulate", "tiny", "--assistant", "replay:all", *folders, "--dry-run", *option]) == 2

    assert message in capsys.readouterr().err
