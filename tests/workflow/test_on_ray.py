"""Units on Ray: which may begin, and two nodes of which one is lost, with a driver that is killed."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import signal
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tests.support.ray_nodes import ADDRESSES, inside, kill_node, ray_nodes, why_not
from tests.support.result_files import result_files
from tests.support.simulated_logs import study
from tests.support.tiny_models import save_tiny_model

from chatbench.cli import main
from chatbench.data.workspace import Workspace
from chatbench.models.run_record import read_record
from chatbench.sample.study import write_chatbench_folder
from chatbench.simulation import participants
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings
from chatbench.workflow.on_ray import Order, RayExecutor, SimulatorActor, Sweep, contents, local_files
from chatbench.workflow.run_all import run_all
from chatbench.workflow.units import STEPS, RunSettings, is_done, plan, units_of

FLAGS = {"max_steps": 1, "per_device_train_batch_size": 2, "validation_examples": 2}


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with a study and a config."""
    monkeypatch.chdir(tmp_path)
    write_chatbench_folder(study(), tmp_path / "study")
    (tmp_path / "config.json").write_text(json.dumps(FLAGS))


def test_what_needs_a_failed_unit_fails_with_it_and_the_scores_are_still_made() -> None:
    sweep = Sweep(list(units_of({"a": "a", "b": "b"}, lambda *_: 2, ["split_0"], STEPS, RunSettings())))
    begun = []
    while unit := sweep.next():
        begun.append(unit.id)
        sweep.end(unit, "out of memory" if unit.id == "a/split_0/finetune" else "")

    assert sweep.ended["a/split_0/simulate"] == "needs a/split_0/simulate-000"
    assert [name for name in begun if name.startswith("a/")] == ["a/split_0/finetune", "a/scores", "a/realism"]
    assert sweep.ended.keys() == sweep.units.keys()
    assert len(sweep.ended) == 20


def test_an_actor_goes_on_with_blocks_of_its_own_split_only() -> None:
    sweep = Sweep(list(units_of({"a": "a"}, lambda *_: 2, ["split_0", "split_1"], ["simulate"], RunSettings())))
    first = sweep.next()
    assert first is not None
    second = sweep.next(like=first)

    assert second is not None
    assert (first.id, second.id) == ("a/split_0/simulate-000", "a/split_0/simulate-001")
    assert sweep.next(like=second) is None


def test_on_another_engine_or_without_ray_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny", "--on", "dask", "--data", str(tmp_path)]) == 2
    assert "expected: ray, or ray:ADDRESS" in capsys.readouterr().err
    assert main(["run", "tiny", "--collect"]) == 2
    assert main(["run", "tiny", "--on", "ray", "--collect", "--judge", "openai:m", "--rubric", "rubric.txt"]) == 2
    assert "each node would write its own verdicts" in capsys.readouterr().err
    assert main(["run", "tiny", "--on", "ray", "--budget-tokens", "5"]) == 2
    assert "a budget for units on a cluster" in capsys.readouterr().err


def test_collect_sends_the_folders_of_local_participants_of_the_unit_s_split(tmp_path: Path) -> None:
    # Only MODEL's folder was sent, so a node without the others failed, or took a hub id for them.
    sent: list[Order] = []
    for name in ("mine/split_0", "mine/split_1", "helper"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    assistants = (f"gpt=local:{tmp_path}/helper#thinking", "local:org/name", "openai:m@http://host:1/v1")
    settings = RunSettings(
        assistants=assistants, simulator=read_simulator_spec(f"two-step:local:{tmp_path}/mine/{{split}}")
    )
    [unit] = units_of({"a": "a"}, lambda *_: 1, ["split_1"], ["simulate"], settings)
    order = Order(Workspace(tmp_path / "data", tmp_path / "results"), settings, str(tmp_path), collect=True)
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _unit, order, *_: sent.append(order)))
    executor = SimpleNamespace(_order=order, _task=task, _shared=None, _board=None, collect=True, settings=settings)
    RayExecutor._begin(executor, unit, None, Sweep([unit]))  # type: ignore[arg-type]  # all it needs

    assert list(sent[0].files.values()) == [b"mine/split_1"]
    assert list(contents(local_files(assistants)).values()) == [b"helper"]


def test_the_table_shows_a_reason_as_it_is_and_not_as_markup() -> None:
    # rich reads [/tmp/x] as the end of a style that was never begun, and ends the run.
    [unit] = units_of({"a": "a"}, lambda *_: 1, ["split_0"], ["finetune"], RunSettings())
    sweep = Sweep([unit])
    sweep.end(unit, "no space: [/tmp/x] [red]")
    ray = SimpleNamespace(get=lambda where, **_: where, exceptions=SimpleNamespace(RayError=OSError))
    board = SimpleNamespace(where=SimpleNamespace(remote=dict))
    table = RayExecutor._table(SimpleNamespace(_ray=ray, _board=board), sweep, [])  # type: ignore[arg-type]  # all it needs
    written = io.StringIO()
    Console(width=120, file=written).print(table)

    assert "failed: no space: [/tmp/x] [red]" in written.getvalue()


def started(environment: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    """`chatbench run ... --on ray` on the first node."""
    command = inside(0, "-u", "-m", "chatbench", "run", *words, "--on", f"ray:{ADDRESSES[0]}:6379")
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def until_done(run: subprocess.Popen[str], count: int) -> list[str]:
    """Its lines until so many units were done."""
    assert run.stdout
    seen: list[str] = []
    while sum(" done in " in line for line in seen) < count and (line := run.stdout.readline()):
        seen.append(line)
    assert sum(" done in " in line for line in seen) == count, "".join(seen)
    return seen


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.usefixtures("begun")
def test_a_lost_node_and_a_killed_driver_change_no_byte(tmp_path: Path) -> None:
    models = ["tiny-random", *(str(save_tiny_model(tmp_path / name, context=2048)) for name in ("one", "two"))]
    given = ["--study", "study", "--splits", "3", "--conversations", "2", "--max-user-turns", "1", "--max-tokens", "4"]
    given += ["--base-conversations", "0", "--config", "config.json", "--steps", "prepare,finetune,simulate,scores"]
    with ray_nodes(gpus=(0, 1)) as environment:
        driver = partial(started, environment)
        placed = driver("tiny-random", *given[:-1], "prepare,finetune", "--gpus", "1", "--results", "cluster")
        assert all(line.endswith(f"on {ADDRESSES[1]}\n") for line in until_done(placed, 3) if " done in " in line)
        assert placed.wait() == 0
        first = driver(*models, *given, "--gpus", "0", "--results", "cluster")
        until_done(first, 4)
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = driver(*models, *given, "--gpus", "0", "--results", "cluster")
        until_done(second, 6)
        kill_node(1)
        assert "missing: " not in second.communicate()[0]
        assert second.returncode == 3  # random models answer nothing
    assert main(["run", *models, *given, "--results", "alone"]) == 3

    found, wanted = result_files(tmp_path / "cluster"), result_files(tmp_path / "alone")
    assert {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)} == set()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.usefixtures("begun")
def test_shares_of_gpus_several_processes_ctrl_c_and_a_wrong_token() -> None:
    given = ["tiny-random", "--study", "study", "--splits", "4", "--config", "config.json"]
    given += ["--steps", "prepare,finetune"]
    models = Workspace(results=Path("results")).models("tiny-random")
    with ray_nodes(gpus=(0, 2), cpus=(1, 3)) as environment:
        stranger = started({**environment, "RAY_AUTH_TOKEN": "0" * 64}, *given)
        said = stranger.communicate()[0]
        assert stranger.returncode == 2, said
        assert "its token in RAY_AUTH_TOKEN" in said
        assert environment["RAY_AUTH_TOKEN"] not in said
        assert not models.exists()

        shared = started(environment, *given, "--gpus", "0.75")
        until_done(shared, 1)
        command = inside(0, "-m", "ray.scripts.scripts", "status", f"--address={ADDRESSES[0]}:6379")
        status = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        cpus, gpus = (float(used) for used in re.findall(r"([\d.]+)/[\d.]+ [CG]PU", status))
        assert 0 < cpus <= 2, status  # two GPUs have no room for three times 0.75, though the CPUs have
        assert gpus == 0.75 * cpus
        shared.send_signal(signal.SIGINT)
        said = shared.communicate()[0]
        assert shared.returncode == 130, said
        assert re.search(r"[123] of 4 units are done; the same command continues", said)
        again = started(environment, *given, "--gpus", "0.75")
        assert all(line.endswith(f"on {ADDRESSES[1]}\n") for line in until_done(again, 4) if " done in " in line)
        assert again.wait() == 0
        assert sorted(each.name for each in models.iterdir()) == [f"split_{number}" for number in range(4)]

        both = started(environment, *given, "--split", "split_0", "--gpus", "2", "--results", "both")
        said = both.communicate()[0]
        assert both.returncode == 0, said
    record = read_record(Workspace(results=Path("both")).model_folder("tiny-random", "split_0"))
    assert record is not None
    assert record["processes"] == 2


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'chatbench[ray]'"
)
@pytest.mark.usefixtures("begun")
def test_an_actor_loads_the_models_of_its_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chats = ChatSettings(conversations=2, max_user_turns=1, max_tokens=4, block_size=3)
    settings, place = RunSettings(splits=1, chats=chats, flags=FLAGS), Workspace(Path("data"), Path("results"))
    run_all("tiny-random", study=Path("study"), workspace=place, settings=settings, steps=["prepare", "finetune"])
    parts = [unit for unit in plan(["tiny-random"], place, settings, ["simulate"], in_blocks=True) if not unit.blocks]
    loaded: list[str] = []
    load = participants.load_simulator

    def counted(*given: Any, **which: Any) -> Any:
        loaded.append(given[2])
        return load(*given, **which)

    monkeypatch.setattr(participants, "load_simulator", counted)
    actor, board = SimulatorActor(), SimpleNamespace(started=SimpleNamespace(remote=lambda *_: None))
    outcomes = [actor.do(unit, Order(place, settings, str(tmp_path), collect=False), {}, board) for unit in parts]

    assert [outcome.failure for outcome in outcomes] == [""] * len(parts) == [""] * 3
    assert all(is_done(unit, place, settings) for unit in parts)
    assert loaded == ["split_0"]


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.usefixtures("begun")
def test_a_node_without_the_folder_gets_and_gives_back_files(tmp_path: Path) -> None:
    given = ["run", "tiny-random", "--study", "study", "--splits", "2", "--conversations", "1", "--max-user-turns", "1"]
    given += ["--max-tokens", "4", "--base-conversations", "1", "--config", "config.json"]
    given += ["--steps", "prepare,finetune,ppl,simulate,base,scores"]
    with ray_nodes(gpus=(0, 1), hidden=tmp_path) as environment:
        on = ["--on", f"ray:{ADDRESSES[0]}:6379", "--collect", "--results", "cluster"]
        command = inside(0, "-m", "chatbench", *given, *on)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.count(f"on {ADDRESSES[1]}\n") == 8, ended.stdout + ended.stderr
    assert main([*given, "--results", "alone"]) == 3

    found, wanted = result_files(tmp_path / "cluster"), result_files(tmp_path / "alone")
    assert {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)} == set()
