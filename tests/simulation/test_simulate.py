"""The simulation step: the plan, the log, killed and continued runs, and what may not change between runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.fake_participants import QUIET, WordsBySeed, held
from tests.support.study_files import tiny_folder
from tests.support.tiny_models import save_tiny_model

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AnswerProbabilities, SimulatedConversation, Turn, Usage
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request
from chatbench.simulation.log import (
    ConversationLog,
    Recorded,
    checked_line,
    conversation_row,
    read_conversations,
    read_recorded,
    recorded_row,
    settings_path,
)
from chatbench.simulation.participants import TUNED, AssistantSpec, open_simulator, read_specs
from chatbench.simulation.simulate import ChatSettings, simulate
from chatbench.simulation.summary import SimulateResult


def replying(function: Callable[[Request], Reply | Failure], *, reproducible: bool = True) -> FunctionParticipant:
    return FunctionParticipant(function, {"kind": "fake", "name": "f", "reproducible": reproducible})


def test_the_log_holds_the_plan_in_its_order(tmp_path: Path) -> None:
    assert held(tmp_path / "a.jsonl") == 42

    conversations = read_conversations(tmp_path / "a.jsonl")

    assert [one.id for one in conversations[:4]] == ["q0|bot|0", "q0|bot|1", "q0|bot|2", "q1|bot|0"]
    assert len({one.id for one in conversations}) == 42
    assert {one.termination for one in conversations} <= {"answered", "forced", "no_answer"}


def test_a_finished_run_run_again_adds_nothing(tmp_path: Path) -> None:
    held(tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    simulator = WordsBySeed()

    assert held(tmp_path / "a.jsonl", simulator=simulator) == 0
    assert simulator.asked == 0
    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.37, 0.5, 0.77, 0.999])
def test_cut_at_any_byte_and_continued_the_file_is_the_same(tmp_path: Path, part: float) -> None:
    # The words say how many rows were asked together, so a smaller block on resume would show: the likely mistake.
    path = tmp_path / "a.jsonl"
    held(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])

    held(path)

    assert path.read_bytes() == whole


KILLED = """
import sys, time
from pathlib import Path
import tests.support.fake_participants as t
class Slow(t.WordsBySeed):
    def reply_all(self, requests):
        print("asked", flush=True)
        time.sleep(0.02)
        return super().reply_all(requests)
t.held(Path(sys.argv[1]), simulator=Slow())
"""


@pytest.mark.parametrize("requests", [2, 9])
def test_a_process_killed_in_the_middle_and_continued_leaves_the_same_file(tmp_path: Path, requests: int) -> None:
    held(tmp_path / "whole.jsonl")
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed.jsonl")],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
    )
    assert process.stdout is not None
    for _ in range(requests):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    held(tmp_path / "killed.jsonl")

    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_passing_failure_is_tried_again_and_the_last_line_counts(tmp_path: Path) -> None:
    def flaky(request: Request) -> Reply | Failure:
        return Failure("HTTP 503", transient=True) if request.question_id == "q3" else Reply("fine")

    simulator = WordsBySeed()
    held(tmp_path / "a.jsonl", assistant=replying(flaky, reproducible=False))
    again = held(
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

    held(tmp_path / "a.jsonl", assistant=silent)

    assert held(tmp_path / "a.jsonl", assistant=silent) == 0
    failed = [one for one in read_conversations(tmp_path / "a.jsonl") if one.termination == "failed"]
    assert len(failed) == 21
    assert failed[0].reason == "no recorded reply"
    assert [turn.role for turn in failed[0].turns] == ["user"]


def test_more_repetitions_of_a_seed_do_not_change_the_first_ones(tmp_path: Path) -> None:
    held(tmp_path / "few.jsonl", repetitions=2, block_size=1)
    held(tmp_path / "many.jsonl", repetitions=3, block_size=1)

    many = {one.id: one for one in read_conversations(tmp_path / "many.jsonl")}
    assert all(many[one.id] == one for one in read_conversations(tmp_path / "few.jsonl"))


def test_a_conversation_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    held(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    assert list(rows[0]) == [
        "id", "question_id", "assistant", "index", "style", "prompts_sha256", "simulator", "assistant_identity", "seed",
        "turns", "termination", "reason", "transient", "answer_text", "letter", "lenient_letter", "forced_text",
        "final_output", "turns_dropped", "observed", "usage", "seconds", "answer_probabilities", "expected_correct",
        "sha256",
    ]  # fmt: skip
    for row, (_, one) in zip(rows, read_recorded(path), strict=True):
        assert {**recorded_row(one), "sha256": row["sha256"]} == row


def test_everything_in_a_record_survives_the_file(tmp_path: Path) -> None:
    chat = SimulatedConversation(
        id="q|b|1", question_id="q", assistant="b", index=1, turns=(Turn("user", "hi\u2028"), Turn("assistant", "ho")),
        termination="forced", answer_text="(B)", lenient_letter="B", forced_text="Answer: (B)",
        final_output=' "Answer: (B)"', seed=7, turns_dropped=2, observed={"role_flip": 2}, usage=Usage(1, 2, 3, 4),
        seconds=1.25, answer_probabilities=(None, AnswerProbabilities(0.5, (0.1, 0.2, 0.3, 0.4))), expected_correct=0.2,
    )  # fmt: skip
    one = Recorded(chat, {"name": "s"}, {"name": "a"}, "two-step", "abc")
    log = begin(tmp_path / "a.jsonl", {}, {})
    log.append([one])

    assert [recorded for _, recorded in read_recorded(log.path)] == [one]
    assert read_conversations(log.path) == [chat]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"termination": "bored"}, "termination 'bored'"),
        ({"letter": "E"}, "letter 'E'"),
        ({"turns": [{"role": "user"}]}, "no 'text'"),
        ({"termination": "no_answer", "letter": "A"}, "yet it has the answer"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = conversation_row(SimulatedConversation("q|b|0", "q", "b", 0, (), "answered"))
    (tmp_path / "a.jsonl").write_bytes(checked_line(row) + checked_line({**row, **change}))

    with pytest.raises(ChatbenchError, match="line 2") as caught:
        read_conversations(tmp_path / "a.jsonl")
    assert message in str(caught.value)


def begin(path: Path, settings: dict[str, object], assistants: dict[str, dict[str, object]]) -> ConversationLog:
    log = ConversationLog(path)
    log.begin(settings, assistants)
    return log


def test_other_settings_are_refused_and_another_assistant_is_welcome(tmp_path: Path) -> None:
    log = tmp_path / "conversations.jsonl"
    begin(log, {"seed": 0, "simulator": {"weights": "a"}}, {"bot": {"kind": "replay"}})
    begin(log, {"seed": 0, "simulator": {"weights": "a"}}, {"new": {"kind": "local"}})

    assert set(json.loads(settings_path(log).read_text())["assistants"]) == {"bot", "new"}
    for settings, assistants, found in (
        ({"seed": 1, "simulator": {"weights": "a"}}, {}, "seed 0"),
        ({"seed": 0, "simulator": {"weights": "b"}}, {}, "weights 'a'"),
        ({"seed": 0, "simulator": {"weights": "a"}}, {"bot": {"kind": "openai"}}, "kind 'replay'"),
    ):
        with pytest.raises(ChatbenchError, match="--overwrite") as caught:
            begin(log, settings, assistants)  # type: ignore[arg-type]
        assert found in str(caught.value)


def test_settings_that_json_writes_otherwise_are_the_same_settings(tmp_path: Path) -> None:
    begin(tmp_path / "a.jsonl", {"end_on": ("role_flip",)}, {})
    begin(tmp_path / "a.jsonl", {"end_on": ("role_flip",)}, {})


def test_a_run_whose_log_another_began_anew_writes_nothing_into_it(tmp_path: Path) -> None:
    # It had seen no line yet, so nothing but the settings tells it.
    path = tmp_path / "a.jsonl"
    held(tmp_path / "b.jsonl")
    (_, mine), *_ = read_recorded(tmp_path / "b.jsonl")
    first = begin(path, {"seed": 0}, {})
    ConversationLog(path).begin({"seed": 1}, {}, overwrite=True)

    with pytest.raises(ChatbenchError, match="began it anew"):
        first.append([mine])
    assert path.read_bytes() == b""


def test_a_log_without_its_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conversations.jsonl").write_text("{}\n")

    with pytest.raises(ChatbenchError, match="settings are missing"):
        begin(tmp_path / "conversations.jsonl", {}, {})


def test_specs_name_kind_argument_and_the_name_in_the_study() -> None:
    texts = ["scripted:all", "replay:gpt-4o", "llama-3.1-8b=local:models/llama", "openai:m@http://h/v1#K"]

    assert read_specs(texts, ["gpt-4o"]) == [
        AssistantSpec("scripted-strong", "scripted", "scripted-strong"),
        AssistantSpec("scripted-weak", "scripted", "scripted-weak"),
        AssistantSpec("gpt-4o", "replay", "gpt-4o"),
        AssistantSpec("llama-3.1-8b", "local", "models/llama"),
        AssistantSpec("m", "openai", "m@http://h/v1#K"),
    ]
    assert [spec.name for spec in read_specs(["replay:all"], ["a", "b"])] == ["a", "b"]
    assert read_specs(["gpt-4o=scripted:weak"], [])[0].name == "gpt-4o"


@pytest.mark.parametrize(
    "texts",
    [[], ["gpt-4o"], ["replay:nobody"], ["x=replay:all"], ["scripted:clever"], ["scripted:weak", "scripted:all"]],
)
def test_a_spec_that_cannot_be_used_is_refused(texts: list[str]) -> None:
    with pytest.raises(ChatbenchError):
        read_specs(texts, ["gpt-4o"])


def test_a_key_in_a_spec_is_not_shown() -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_specs(["opnai:m#sk-secret"], [])
    assert "secret" not in str(caught.value)


# ---- the whole step, with a model of random weights ----


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared study, and a random model where the fine-tuned one would lie."""
    root = tmp_path_factory.mktemp("prepared")
    prepare_splits(tiny_folder(root / "study"), root / "data", splits=1)
    save_tiny_model(root / "results" / "models" / "tiny" / "split_0", context=1024)
    return root


def run(
    root: Path, *, results: str = "results", console: Console = QUIET, overwrite: bool = False, **settings: object
) -> SimulateResult:
    chats: dict[str, object] = {"conversations": 2, "max_user_turns": 2, "max_tokens": 12, **settings}
    return simulate(
        "tiny", assistants=["replay:all"], split="split_0", workspace=Workspace(root / "data", root / results),
        console=console, overwrite=overwrite, settings=ChatSettings(**chats),  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_step_simulates_held_out_questions_only_and_says_how_they_ended(prepared: Path) -> None:
    shown = StringIO()
    result = run(prepared, console=Console(file=shown))

    conversations = read_conversations(result.path)
    held_out = {row["question_id"] for row in _rows(prepared / "data/split_0/split.jsonl") if row["part"] == "test"}
    assert {one.question_id for one in conversations} == held_out
    assert result.conversations == result.simulated == len(conversations) == 2 * len(held_out)
    assert sum(result.terminations.values()) == result.conversations
    assert result.path == Workspace(results=prepared / "results").conversations("tiny", "split_0")
    assert f"{len(conversations)}/{len(conversations)} conversations, last with gpt-4o" in shown.getvalue()
    assert result.lines()[0].startswith(f"{len(conversations)} conversations: answered ")
    whole = result.path.read_bytes()

    result.path.write_bytes(whole[: len(whole) // 2])
    assert run(prepared).simulated > 0
    assert result.path.read_bytes() == whole
    with pytest.raises(ChatbenchError, match="seed 0"):
        run(prepared, seed=1)
    assert run(prepared, seed=1, overwrite=True).simulated == result.conversations
    assert result.path.read_bytes() != whole


def test_greedy_conversations_are_the_same_one_by_one_in_blocks_and_resumed(prepared: Path) -> None:
    found = {}
    for results, size in (("one", 1), ("five", 5), ("all", 256), ("resumed", 5)):
        (prepared / results).mkdir()
        (prepared / results / "models").symlink_to(prepared / "results" / "models")
        log = run(prepared, results=results, block_size=size, simulator_temperature=0.0).path
        if results == "resumed":
            whole = log.read_bytes()
            log.write_bytes(whole[: len(whole) // 3])
            assert run(prepared, results=results, block_size=size, simulator_temperature=0.0).simulated > 0
        found[results] = read_conversations(log)

    assert found["one"] == found["five"] == found["all"] == found["resumed"]
    assert len(found["one"]) > 5


def test_recorded_assistants_answer_with_recorded_words(prepared: Path) -> None:
    replies = {
        turn["text"]
        for row in _rows(run(prepared, seed=1).path)
        for turn in row["turns"]  # type: ignore[attr-defined]
        if turn["role"] == "assistant"
    }
    assert replies
    assert all(reply.startswith("reply ") for reply in replies)


def test_a_study_that_changed_is_refused(prepared: Path) -> None:
    questions = prepared / "study" / "questions.csv"
    before = questions.read_text()
    questions.write_text(before.replace("What about", "Why not"))
    try:
        with pytest.raises(ChatbenchError, match="its questions changed since the splits were made"):
            run(prepared)
    finally:
        questions.write_text(before)


def test_a_model_that_was_not_fine_tuned_is_refused_before_anything_is_written(prepared: Path) -> None:
    with pytest.raises(ChatbenchError, match="no model fine-tuned on split_0"):
        run(prepared, results="elsewhere")
    assert not (prepared / "elsewhere").exists()


@pytest.mark.parametrize("name", ["conversations", "max_user_turns", "max_tokens", "block_size"])
def test_numbers_below_one_are_refused(prepared: Path, name: str) -> None:
    with pytest.raises(ChatbenchError, match=f"{name} is 0"):
        run(prepared, **{name: 0})


def test_the_base_model_simulator_is_the_base_of_the_recipe(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base")

    simulator = open_simulator(
        TUNED, model=str(folder), workspace=Workspace(results=tmp_path), split="split_0", base_model=True
    )

    assert simulator.identity["name"] == "base base model"


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
