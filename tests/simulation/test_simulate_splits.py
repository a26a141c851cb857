"""Several splits, each by its own adapter, and the dry run: what would be simulated, and what it would cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, error
from tests.support.simulated_logs import endpoint, prepared, questions, rewrite_log, write_log
from tests.support.study_files import tiny_folder

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Usage
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.protocol.dialogue import FunctionParticipant, Reply
from chatbench.simulation import simulate as module
from chatbench.simulation.budget import SPENT, Price, Prices, SimulateResult, tally_of
from chatbench.simulation.log import read_conversations
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings, Estimate, Simulations, open_participants, task_of

PRICES = Prices(Price(2, 10), Price(1, 4))
ENDPOINT = "gpt-4o=openai:some-model@http://127.0.0.1:9/v1"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return prepared(tmp_path, splits=1)


def estimated(
    place: Workspace, *assistants: str, simulator: str = "tuned", overwrite: bool = False, **settings: Any
) -> Estimate:
    chats = ChatSettings(**{"conversations": 5, "block_size": 256, **settings})
    asked = Simulations("tiny", assistants, place, chats, "split_0", read_simulator_spec(simulator))
    return asked.estimate("split_0", PRICES, overwrite=overwrite)


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
    assert found.lines()[0] == "gpt-4o: 20 conversations, 20 recorded, nothing to simulate"
    assert found.lines()[1] == "llama-3.1-8b: 20 conversations, 13 recorded, 7 to simulate, in 2 blocks"
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
    # At most, with ten turns and 1,000 tokens a message: 11 requests of the simulator and 10 replies. The first request
    # of the simulator reads its prompt, the next one two messages more; the assistant its system message and one more.
    assert (found.most.simulator_tokens, found.most.assistant_tokens) == (30 * 11_000, 10 * 10_000)
    assert found.most.assistant_prompt_tokens == round(10 * (10 * 31 / 4 + 1000 * sum(range(1, 20, 2))))
    assert 0 < found.most.simulator_prompt_tokens - 30 * 2000 * sum(range(11)) < 30 * 11 * 1000
    most = PRICES.usd(found.most)
    assert found.cost_lines()[1] == (
        f"about ${dollars / 30 * 1000:,.2f} per 1,000 conversations, $0.02 for these 30; at most ${most:,.2f}"
    )


def test_an_endpoint_that_reports_no_tokens_is_named_and_its_zeros_are_no_estimate(place: Workspace) -> None:
    # The run said "cost: $0.00", and the next estimate believed it. A scripted assistant uses none.
    log = write_log(place, "split_0", prompted=endpoint())
    usage = asdict(Usage(assistant_prompt_tokens=100, assistant_tokens=10))
    rewrite_log(log, lambda row: {**row, "usage": usage})
    tally = tally_of(log)

    assert tally.silent == {"simulator": 40}
    lines = SimulateResult(log, tally, 40, 40, 1.0, PRICES).lines()
    assert "the simulator's endpoint reported no tokens in 40 conversations: tokens and cost do not include it" in lines
    assert f"cost: unknown, at least ${PRICES.usd(tally.usage):.4f}" in lines
    nothing = replace(tally, tokens=Counter())
    assert "cost: unknown" in SimulateResult(log, nothing, 40, 40, 1.0, PRICES).lines()  # it was $0.00
    free = SimulateResult(log, tally, 40, 40, 1.0, Prices(assistant=Price(1, 4))).lines()
    assert any(line.startswith("cost: $") for line in free)
    assert "chats of people" in estimated(place, "replay:all", simulator="two-step:openai:m").basis


def test_why_chats_failed_is_counted_and_told(place: Workspace) -> None:
    # "failed 20" was all that the run said: the reasons were in the log only.
    log = write_log(place, "split_0")
    reasons = iter(["HTTP 400: [no]\nway", "HTTP 400: [no]\nway", "busy", "a", "b", "c"] + [SPENT] * 34)

    def fail(row: dict[str, object]) -> dict[str, object]:
        reason = next(reasons)
        lost = dict.fromkeys(("answer_text", "letter", "lenient_letter", "final_output"))
        return {**row, **lost, "termination": "failed", "reason": reason, "transient": reason in ("busy", SPENT)}

    rewrite_log(log, fail)
    lines = SimulateResult(log, tally_of(log), 40, 40, 1.0, PRICES).lines()

    assert [line for line in lines if " failed" in line][1:] == [
        "2 failed: HTTP 400: [no] way (not tried again)",
        "1 failed: a (not tried again)",
        "1 failed: b (not tried again)",
        "2 failed for other reasons",
    ]
    reasons = iter(["busy"] * 40)
    rewrite_log(log, fail)
    assert "40 failed: busy (the same command tries them again)" in (
        SimulateResult(log, tally_of(log), 40, 40, 1.0, PRICES).lines()
    )


def test_chats_with_other_assistants_say_nothing_about_the_cost_of_this_ones(place: Workspace) -> None:
    # They had a price of their own, and may have thought longer.
    log = write_log(place, "split_0", assistants=("gpt-4o",))
    rewrite_log(log, lambda row: {**row, "usage": asdict(Usage(100, 10, 200, 20))})

    assert "chats of people" in estimated(place, "another=openai:some-model@http://127.0.0.1:9/v1").basis
    assert "20 recorded conversations" in estimated(place, ENDPOINT).basis


def test_the_command_says_it_all_and_touches_nothing(
    place: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLIT_ID", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    before = sorted(place.data.parent.rglob("*"))
    options = ["--data", str(place.data), "--results", str(place.results), "--conversations", "5"]
    chats = ["--assistant", ENDPOINT, "--simulator", "iqa-eval:openai:m", "--assistant-price", "1/4"]

    assert main(["simulate", "any-name", *chats, *options, "--dry-run", "--budget-usd", "1"]) == 0

    shown = capsys.readouterr().out
    assert "budget: $0.00 of $1.00 spent; the rest is enough\n" in shown
    assert "split_0: gpt-4o: 20 conversations, 0 recorded, 20 to simulate, one by one" in shown
    assert "per 1,000 conversations" in shown
    assert "total: 20 conversations to simulate, about $" in shown
    assert sorted(place.data.parent.rglob("*")) == before
    monkeypatch.delenv("OPENAI_API_KEY")  # the run would end with this, after the weights of other models were loaded
    assert main(["simulate", "any-name", *chats, *options, "--dry-run"]) == 2
    assert "OPENAI_API_KEY is not set" in capsys.readouterr().err


def test_those_behind_endpoints_are_opened_before_weights_are_loaded(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wrong key was found after hours of loading.
    opened: list[str] = []

    def opening(name: str) -> FunctionParticipant:
        opened.append(name)
        return FunctionParticipant(lambda _: Reply("hello"), {"kind": "scripted", "name": name})

    monkeypatch.setattr(module, "open_simulator", lambda *_, **__: opening("simulator"))
    monkeypatch.setattr(module, "open_assistant", lambda spec, *_, **__: opening(spec.name))
    task = task_of("tiny", ["mine=local:.", ENDPOINT], workspace=place, split="split_0")
    _, assistants = open_participants("tiny", task, workspace=place, split="split_0", settings=ChatSettings())

    assert opened == ["gpt-4o", "simulator", "mine"]
    assert list(assistants) == ["mine", "gpt-4o"]


def test_what_the_run_would_refuse_the_dry_run_refuses(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    # It once promised to simulate what was missing of a log that was made with other settings.
    log = write_log(place, "split_0", leave_out=7)
    settings = log.with_suffix(".run.json")
    settings.write_text(json.dumps({"settings": {"seed": 7}, "assistants": {}}))
    folders = ["--data", str(place.data), "--results", str(place.results), "--conversations", "5", "--split", "split_0"]
    asked = ["simulate", "tiny", "--simulator", "two-step:local:x", "--assistant", "replay:all", *folders, "--dry-run"]

    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "made with seed 7" in said
    assert "to continue it, use --seed 7; otherwise choose another --results folder or, losing what" in said
    made = {"seed": 0, "conversations": 4, "simulator": {"temperature": 0.5, "max_tokens": 60, "answer_model": ["x"]}}
    assistants = {"gpt-4o": {"temperature": None, "max_tokens": 60, "reasoning_effort": "low"}}
    settings.write_text(json.dumps({"settings": made, "assistants": assistants}))
    assert main(asked) == 2  # all options that the log was made with, not only those that are known before the model is
    options = "--conversations 4 --simulator-temperature 0.5 --max-tokens 60 --reasoning-effort low --answer-model;"
    assert f"use {options}" in " ".join(capsys.readouterr().err.split())
    settings.write_text(json.dumps({"settings": {**made, "style": "userlm"}, "assistants": {}}))
    assert main(asked) == 2  # no option continues it
    assert "to continue it" not in capsys.readouterr().err
    assert main([*asked, "--overwrite"]) == 0
    assert "total: 40 conversations to simulate" in capsys.readouterr().out


def test_a_log_that_is_overwritten_is_not_read(place: Workspace) -> None:
    # Reading it for its mean tokens is the likely mistake: --overwrite is the way out for a damaged or older log.
    log = write_log(place, "split_0")
    log.write_bytes(log.read_bytes().replace(b"Let me see.", b"Let me sea."))
    with pytest.raises(ChatbenchError, match="checksum mismatch"):
        estimated(place, "replay:all")
    assert "chats of people" in estimated(place, "replay:all", overwrite=True).basis


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--budget-usd", "5"], "without a price"),
        (["--simulator-price", "cheap"], "--simulator-price 'cheap'"),
        (["--end-on", "boredom"], "no such failure detector"),
        (["--budget-tokens", "0"], "more than 0"),
        (["--concurrency", "0", "--judge", "openai:m"], "concurrency is 0"),
        (["--assistant-temperature", "-1"], "assistant_temperature is -1"),
        (["--assistant-max-tokens", "0"], "assistant_max_tokens is 0"),
        (["--simulator", "two-step"], "--simulator 'two-step'"),
        (["--simulator", "two-step:local:no/such/{split}"], "no/such/split_0: no such folder"),
        (["--assistant", "local:no/such/model", "--split", "split_0"], "no/such/model: no such folder"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(
    place: Workspace, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    folders = ["--data", str(place.data), "--results", str(place.results)]

    assert main(["simulate", "tiny", "--assistant", "replay:all", *folders, "--dry-run", *option]) == 2

    assert message in capsys.readouterr().err


# ---- one server, an adapter per split ----

BOTH = ("split_0", "split_1")


@pytest.fixture
def server(server: LoopbackEndpoint) -> LoopbackEndpoint:
    server.models = ("m", *(f"mine-{split}" for split in BOTH))
    return server


def simulated(folder: Path, server: LoopbackEndpoint, *more: str, assistant: str = "gpt-4o") -> int:
    """Exit code of the command."""
    data = folder / "data"
    if not data.exists():
        study = tiny_folder(folder / "study")
        assert main(["prepare-splits", "--study", str(study), "--out", str(data), "--splits", "2"]) == 0
    who = f"--simulator two-step:completions:mine-{{split}}@{server.url} --assistant {assistant}=openai:m@{server.url}"
    where = ["--data", str(data), "--results", str(folder / "results")]
    return main(["simulate", "mine", *who.split(), "--conversations", "2", *where, *more])


def test_the_budget_of_a_second_assistant_begins_at_nothing(tmp_path: Path, server: LoopbackEndpoint) -> None:
    # The first one's chats, at the second one's price, would have spent most of it.
    assert simulated(tmp_path, server) == 0
    logs = [Workspace(results=tmp_path / "results").conversations("mine", split) for split in BOTH]
    first = [chat for log in logs for chat in read_conversations(log)]
    prices = Prices(Price(1000, 1000), Price(1000, 1000))
    usd = sum(prices.usd(chat.usage) for chat in first)
    paid = ["--simulator-price", "1000/1000", "--assistant-price", "1000/1000", "--budget-usd", str(1.5 * usd)]

    assert simulated(tmp_path, server, *paid, assistant="second") == 0

    second = [chat for log in logs for chat in read_conversations(log) if chat.assistant == "second"]
    assert len(second) == len(first)
    assert all(chat.termination != "failed" for chat in second)


def test_a_spent_budget_ends_with_code_4_and_much_more_than_expected_is_told(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both looked like a run that was as planned: a simulator that uses all its turns cost 13 times what was printed.
    guess = dict.fromkeys(("simulator_prompt_tokens", "simulator_tokens", "assistant_prompt_tokens"), 1.0)
    monkeypatch.setattr(module, "usage_each", lambda *_: ({**guess, "assistant_tokens": 1.0}, "a guess"))
    assert simulated(tmp_path, server, "--split", "split_0", "--budget-tokens", "200") == 4
    assert "the budget is spent" in capsys.readouterr().out
    assert simulated(tmp_path, server, "--split", "split_0") == 0
    assert "more than twice the expected" in capsys.readouterr().out
    monkeypatch.setattr(module, "usage_each", lambda *_: (dict.fromkeys(guess, 1000.0), "a guess"))
    assert simulated(tmp_path, server, "--split", "split_1") == 0
    assert "more than twice" not in capsys.readouterr().out


def test_an_endpoint_is_checked_once_per_command_and_what_it_refuses_is_said_once(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.will(error(400, "temperature is not supported"))

    assert simulated(tmp_path, server) == 0

    checks = [each["model"] for each in server.asked if "Reply with the word: ready" in str(each)]
    assert sorted(checks) == ["m", "m", "mine-split_0", "mine-split_1"]  # the first was refused
    assert capsys.readouterr().out.count("m does not accept temperature: omitted") == 1


def test_an_assistant_whose_name_is_almost_one_of_the_study_s_is_told(place: Workspace) -> None:
    task = task_of("u", ["gpt4o=scripted:weak", "other=scripted:strong"], workspace=place, split="split_0")
    both = dict.fromkeys(("gpt4o", "other"), FunctionParticipant(lambda _: Reply(""), {"name": "x"}))
    options = EndpointOptions()
    told = module._notes(task, ChatSettings(), both["other"], both, options, new=False)

    assert module._notes(task, ChatSettings(), both["other"], both, options, new=False) == []  # the next split
    assert told == ["people worked with 'gpt-4o', not 'gpt4o': if it is meant, say gpt-4o=SPEC"]
    assert module._notes(task, ChatSettings(), both["other"], both, EndpointOptions(), new=True) == []


def test_an_assistant_may_have_a_token_limit_of_its_own_which_its_log_keeps(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--max-tokens", "60", "--assistant-max-tokens", "4000"]
    assert simulated(tmp_path, server, *limits) == 0

    assert {("messages" in each, each["max_tokens"]) for each in server.asked} == {(True, 4000), (False, 60)}
    chats = read_conversations(Workspace(results=tmp_path / "results").conversations("mine", "split_0"))
    assert {(one.simulator["max_tokens"], one.assistant_identity["max_tokens"]) for one in chats} == {(60, 4000)}
    assert simulated(tmp_path, server, *limits[:2]) == 2
    assert "to continue it, use --assistant-max-tokens 4000;" in capsys.readouterr().err
    assert simulated(tmp_path, server, *limits[:2], assistant="other") == 0  # the simulator is the same
    assert simulated(tmp_path, server, *limits, assistant="other") == 2
    assert "to continue it, use without --assistant-max-tokens;" in capsys.readouterr().err


def test_at_most_counts_an_assistants_own_limit(place: Workspace) -> None:
    one = estimated(place, ENDPOINT, max_user_turns=1, max_tokens=100)
    other = estimated(place, ENDPOINT, max_user_turns=1, max_tokens=100, assistant_max_tokens=300)

    assert other.most.assistant_tokens == 3 * one.most.assistant_tokens
    assert other.most.simulator_tokens == one.most.simulator_tokens
    # The forced answer is asked for with the reply before it.
    assert other.most.simulator_prompt_tokens - one.most.simulator_prompt_tokens == one.missing * 200
    assert other.most.assistant_prompt_tokens == one.most.assistant_prompt_tokens


def test_once_the_budget_is_spent_no_endpoint_is_asked_anything(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulated(tmp_path, server, "--budget-tokens", "200") == 4
    said = capsys.readouterr().out
    assert "mine-split_0" in str(server.asked)
    assert "mine-split_1" not in str(server.asked)
    planned = 2 * len(Workspace(tmp_path / "data").split("split_1").question_ids("test"))
    assert f"the budget is spent: {planned} of {planned} were not begun, 0 were cut off" in said
    server.asked.clear()

    assert simulated(tmp_path, server, "--budget-tokens", "200") == 4
    assert server.asked == []
    assert capsys.readouterr().out.count("the budget is spent") == 2
    assert simulated(tmp_path, server) == 0


def test_each_split_is_simulated_by_its_own_adapter(tmp_path: Path, server: LoopbackEndpoint) -> None:
    assert simulated(tmp_path, server) == 0

    for split in BOTH:
        chats = read_conversations(Workspace(results=tmp_path / "results").conversations("mine", split))
        held_out = Workspace(tmp_path / "data").split(split).question_ids("test")
        assert {chat.question_id for chat in chats} == set(held_out)
        assert len(chats) == 2 * len(held_out)
        assert all(chat.usage.simulator_prompt_tokens and chat.usage.assistant_tokens for chat in chats)
    order = [each["model"] for each in server.asked if "prompt" in each]
    assert order == sorted(order)  # all of split_0's adapter, then all of split_1's
    assert set(order) == {f"mine-{split}" for split in BOTH}


def test_each_split_may_have_an_address_of_its_own(tmp_path: Path, server: LoopbackEndpoint) -> None:
    # The dry run accepted it, and the run ended with "unreadable base URL".
    address = server.url.replace("/v1", "/{split}/v1")
    assert simulated(tmp_path, server, "--simulator", f"two-step:completions:m@{address}") == 0

    assert {each["path"] for each in server.asked if "prompt" in each} == {f"/{split}/v1/completions" for split in BOTH}


def test_an_adapter_that_is_missing_is_told_before_anything_is_simulated(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = ("m", "mine-split_0")

    assert simulated(tmp_path, server) == 2
    assert "does not serve mine-split_1" in capsys.readouterr().err
    assert server.asked == []
