"""The simulation step with a model of random weights: whole runs, resumed, and what is refused before one begins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.fake_participants import QUIET, WordsBySeed
from tests.support.study_files import tiny_folder
from tests.support.tiny_models import save_tiny_model

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.metrics.pairs import Pair
from chatbench.models import local_participants
from chatbench.protocol.dialogue import FunctionParticipant, Reply
from chatbench.simulation.budget import Prices, SimulateResult, Spending
from chatbench.simulation.log import read_conversations
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings, Simulations, dry_run, simulate, simulate_splits, task_of
from chatbench.workflow.units import RunSettings, Unit, is_done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared study, and a random model where the fine-tuned one would lie."""
    root = tmp_path_factory.mktemp("prepared")
    prepare_splits(tiny_folder(root / "study"), root / "data", splits=1)
    save_tiny_model(root / "results" / "models" / "tiny" / "split_0", context=1024)
    return root


def results_with_the_models(root: Path, name: str) -> Path:
    """Another results folder, with the same models."""
    (root / name).mkdir(exist_ok=True)
    if not (root / name / "models").exists():
        (root / name / "models").symlink_to(root / "results" / "models")
    return root / name


def run(
    root: Path, *, results: str = "results", console: Console = QUIET, overwrite: bool = False, **settings: object
) -> SimulateResult:
    chats: dict[str, object] = {"conversations": 2, "max_user_turns": 2, "max_tokens": 12, **settings}
    return simulate(
        "tiny", assistants=["replay:all"], split="split_0", workspace=Workspace(root / "data", root / results),
        console=console, overwrite=overwrite, settings=ChatSettings(**chats),  # type: ignore[arg-type]
    )  # fmt: skip


def without(study: Study, *pairs: Pair) -> Study:
    """The study without the chats of these questions and assistants."""
    kept = [chat for chat in study.conversations if (chat.question_id, chat.assistant) not in pairs]
    return replace(study, conversations=tuple(kept))


def test_a_replayed_assistant_is_not_asked_what_nobody_asked_it(prepared: Path) -> None:
    # The likely mistake: chats that fail because there is nothing to repeat, counted as the simulator's.
    workspace, console = Workspace(prepared / "data", prepared / "left_out"), Console(record=True, width=200)
    task = task_of("tiny", ["replay:all"], workspace=workspace, split="split_0")
    first = task.questions[0].id
    task = replace(task, study=without(task.study, (first, "gpt-4o")))

    replay = FunctionParticipant(lambda _: Reply("so"), {"name": "replay"})
    result = simulate(
        "tiny", assistants=[], split="split_0", workspace=workspace, console=console, task=task,
        settings=ChatSettings(conversations=2, max_user_turns=2),
        opened=(WordsBySeed(), {spec.name: replay for spec in task.assistants}),
    )  # fmt: skip

    chats = read_conversations(result.path)
    pairs = {(question.id, spec.name) for question in task.questions for spec in task.assistants}
    assert {(chat.question_id, chat.assistant) for chat in chats} == pairs - {(first, "gpt-4o")}
    assert result.conversations == len(chats)
    assert f"no chats with gpt-4o about {first}: in the study, nobody asked it" in console.export_text()


def test_blocks_are_those_of_a_single_run_also_where_pairs_are_left_out(prepared: Path) -> None:
    # The likely mistake: blocks cut before pairs are left out, so that chats are simulated together with others.
    task = task_of("tiny", ["replay:gpt-4o"], workspace=Workspace(prepared / "data"), split="split_0")
    task = replace(task, study=without(task.study, (task.questions[0].id, "gpt-4o")))
    settings = ChatSettings(conversations=3, block_size=4)
    count = len(task.questions) * 3

    parts = [task.plans(settings, block)["gpt-4o"] for block in range(-(-count // 4))]

    assert [one for part in parts for one in part] == task.plans(settings)["gpt-4o"]
    assert [len(part) for part in parts] == [4, 4, 1]
    with pytest.raises(ChatbenchError, match=f"expected: block 0 to {len(parts) - 1}"):
        task.plans(settings, len(parts))


def test_a_split_with_nothing_to_replay_has_no_chats_and_a_run_with_nothing_at_all_is_refused(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, console = (
        Workspace(prepared / "data", results_with_the_models(prepared, "nothing")),
        Console(record=True, width=200),
    )
    held_out = workspace.split("split_0").question_ids("test")
    study = without(workspace.study, *((question, "gpt-4o") for question in held_out))
    monkeypatch.setattr(Workspace, "study", study)
    settings = RunSettings(assistants=("replay:gpt-4o",), chats=ChatSettings())

    result = simulate("tiny", assistants=["replay:gpt-4o"], split="split_0", workspace=workspace, console=console)

    assert result.conversations == result.simulated == 0
    assert f"about {', '.join(held_out[:3])} and 1 more: in the study, nobody asked" in console.export_text()
    assert is_done(Unit("tiny", "tiny", "split_0", "simulate"), workspace, settings)
    asked = Simulations("tiny", ["replay:gpt-4o"], workspace, ChatSettings(), "split_0")
    for act in (simulate_splits, dry_run):
        with pytest.raises(ChatbenchError, match="nothing to replay: in the study, nobody asked gpt-4o"):
            act(asked, Spending(Prices()), print)
    either = replace(asked, assistants=["replay:gpt-4o", "scripted:weak"])
    assert "no chats with gpt-4o" in " ".join(either.estimate("split_0", Prices()).lines())


def command(root: Path, results: str, *more: str) -> int:
    """Exit code of the command, with another results folder."""
    folders = ["--data", str(root / "data"), "--results", str(results_with_the_models(root, results))]
    return main(["simulate", "tiny", "--split", "split_0", "--assistant", "replay:all", *folders, *more])


def test_the_step_simulates_held_out_questions_only_and_says_how_they_ended(prepared: Path) -> None:
    result = run(prepared)

    conversations = read_conversations(result.path)
    held_out = {row["question_id"] for row in _rows(prepared / "data/split_0/split.jsonl") if row["part"] == "test"}
    assert {one.question_id for one in conversations} == held_out
    assert result.conversations == result.simulated == len(conversations) == 2 * len(held_out)
    assert sum(result.terminations.values()) == result.conversations
    assert result.path == Workspace(results=prepared / "results").conversations("tiny", "split_0")
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
        results_with_the_models(prepared, results)
        log = run(prepared, results=results, block_size=size, simulator_temperature=0.0).path
        if results == "resumed":
            whole = log.read_bytes()
            log.write_bytes(whole[: len(whole) // 3])
            assert run(prepared, results=results, block_size=size, simulator_temperature=0.0).simulated > 0
        # Chats are recorded as they end, so their order is the batch's.
        found[results] = sorted(read_conversations(log), key=lambda chat: chat.id)

    assert found["one"] == found["five"] == found["all"] == found["resumed"]
    assert len(found["one"]) > 5


def test_the_bound_on_keys_and_values_changes_no_chat_and_one_without_room_is_refused(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for gib in ("", "0.0015", "1e-6"):
        few = ["--conversations", "2", "--max-user-turns", "2", "--max-tokens", "12", "--simulator-temperature", "0"]
        code = command(prepared, f"bounded-{gib}", *few, *(("--cache-gib", gib) if gib else ()))
        log = Workspace(results=prepared / f"bounded-{gib}").conversations("tiny", "split_0")
        made[gib] = (code, sorted(read_conversations(log), key=lambda chat: chat.id) if log.exists() else [])

    assert made["0.0015"] == made[""] != (0, [])
    assert made["1e-6"] == (2, [])
    assert "raise --cache-gib" in " ".join(capsys.readouterr().err.split())


def test_a_new_log_on_a_cpu_with_bfloat16_is_told_of_the_faster_data_type(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_participants, "cpu_has_bf16", lambda: True)
    said = []
    for results, least, more in (("a", 1, []), ("a", 1, []), ("b", 10**9, []), ("c", 1, ["--dtype", "bfloat16"])):
        monkeypatch.setattr(local_participants, "SLOW_FROM", least)
        few = ["--conversations", "1", "--max-user-turns", "1", "--max-tokens", "4"]
        assert not command(prepared, f"told-{results}", *few, *more)
        said.append("--dtype bfloat16 would be" in " ".join(capsys.readouterr().out.split()))

    assert said == [True, False, False, False]  # a log that is continued keeps its data type


def test_the_data_type_of_local_models_is_recorded_and_refused_where_none_is_local(prepared: Path) -> None:
    results = results_with_the_models(prepared, "rounded")
    made = run(prepared, results="rounded", dtype="bfloat16")

    identity = json.loads(made.path.with_name("conversations.run.json").read_text())
    assert identity["settings"]["simulator"]["dtype"] == "bfloat16"
    with pytest.raises(ChatbenchError, match="dtype"):
        run(prepared, results="rounded")
    for name, value in (("dtype", "bfloat16"), ("cache_gib", 1.0)):
        settings = ChatSettings(**{name: value})  # type: ignore[arg-type]
        simulator = read_simulator_spec("two-step:openai:m@http://127.0.0.1:9/v1")
        with pytest.raises(ChatbenchError, match=f"--{name.replace('_', '-')} without a local model"):
            simulate(
                "tiny", assistants=["replay:all"], split="split_0", workspace=Workspace(prepared / "data", results),
                settings=settings, simulator=simulator, console=QUIET,
            )  # fmt: skip
    with pytest.raises(ChatbenchError, match="dtype is 'half'"):
        ChatSettings(dtype="half")


def test_a_model_that_was_not_fine_tuned_is_refused_before_anything_is_written(prepared: Path) -> None:
    with pytest.raises(ChatbenchError, match="no model fine-tuned on split_0"):
        run(prepared, results="elsewhere")
    assert not (prepared / "elsewhere").exists()


def test_a_model_that_may_have_seen_the_held_out_questions_is_refused(prepared: Path) -> None:
    # After `prepare-splits` with another seed, split_0's model was trained on some of what is held out now.
    folder = prepared / "seen" / "models" / "tiny" / "split_0"
    save_tiny_model(folder, context=1024)
    (folder / "chatbench.json").write_text(json.dumps({"model": "tiny", "train_sha256": "0" * 64, "settings": {}}))

    with pytest.raises(ChatbenchError, match="trained on data that differs"):
        run(prepared, results="seen")
    with pytest.raises(ChatbenchError, match="trained on data that differs"):
        simulate(
            "other", assistants=["replay:all"], split="split_0", settings=ChatSettings(conversations=1), console=QUIET,
            workspace=Workspace(prepared / "data", prepared / "seen"),
            simulator=read_simulator_spec(f"two-step:local:{folder.parent}/{{split}}"),
        )  # fmt: skip
    assert not Workspace(results=prepared / "seen").conversations("tiny", "split_0").exists()


@pytest.mark.parametrize("name", ["conversations", "max_user_turns", "max_tokens", "block_size"])
def test_numbers_below_one_are_refused(prepared: Path, name: str) -> None:
    with pytest.raises(ChatbenchError, match=f"{name} is 0"):
        run(prepared, **{name: 0})


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
