"""Units: their order and needs, blocks of chats against one run, holes of a sweep, and array jobs on a fake Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.result_files import result_files
from tests.support.simulated_logs import prepared, rewrite_log, study, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.data.workspace import Workspace
from chatbench.sample.study import write_chatbench_folder
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings
from chatbench.workflow.run_all import run_all
from chatbench.workflow.units import STEPS, RunSettings, Unit, is_done, plan, run_unit, unit_called, units_of

SMALL = RunSettings(
    splits=1,
    chats=ChatSettings(conversations=2, max_user_turns=1, max_tokens=4, block_size=3),
    base_conversations=1,
    flags={"max_steps": 1, "per_device_train_batch_size": 2, "validation_examples": 2},
)
CHATS = ["prepare", "finetune", "simulate", "base"]


def listed(steps: Sequence[str] = STEPS, blocks: int = 1) -> list[Unit]:
    return list(units_of({"a": "a"}, lambda *_: blocks, ["split_0"], steps, RunSettings(gpus=0.5)))


def test_a_plan_names_what_each_unit_waits_for() -> None:
    units = {unit.id: unit for unit in listed(blocks=2)}

    assert list(units) == [
        "a/split_0/finetune", "a/split_0/ppl", "a/split_0/simulate-000", "a/split_0/simulate-001", "a/split_0/simulate",
        "a/split_0/base-000", "a/split_0/base-001", "a/split_0/base", "a/scores", "a/realism",
    ]  # fmt: skip
    assert units["a/split_0/simulate-001"].requires == ("a/split_0/finetune",)
    assert units["a/split_0/simulate"].requires == ("a/split_0/simulate-000", "a/split_0/simulate-001")
    assert units["a/scores"].requires == ()  # a split that failed leaves a hole, and no hole for all
    assert units["a/scores"].after == ("a/split_0/finetune", "a/split_0/ppl", "a/split_0/simulate", "a/split_0/base")
    assert {name for name, unit in units.items() if not unit.gpus} == {
        "a/split_0/simulate", "a/split_0/base", "a/scores", "a/realism",
    }  # fmt: skip
    assert listed(["simulate"])[0].requires == ()  # what is trained already is not waited for


def test_a_unit_needs_the_server_of_an_assistant_with_a_name_and_a_gpu_only_for_a_local_one() -> None:
    # NAME=openai:... had no server, and a host in .local: took a GPU.
    def needs(*assistants: str) -> tuple[tuple[str, ...], float]:
        settings = RunSettings(gpus=1, assistants=assistants, simulator=read_simulator_spec("two-step:openai:m"))
        [unit] = units_of({"a": "a"}, lambda *_: 1, ["split_0"], ["simulate"], settings)
        return unit.servers, unit.gpus

    named = "gpt=openai:gpt-4o@http://llm.local:8000/v1"
    assert needs(named) == (("two-step:openai:m", named), 0)
    assert needs("openai=local:folder") == (("two-step:openai:m",), 1)


def test_sigterm_reaches_the_processes_of_a_fine_tuning_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The run died at once, and torchrun lived on.
    body = "import os, signal, sys, time\n"
    body += "def save(*_): open('saved', 'w').close(); sys.exit(1)\n"
    body += "signal.signal(signal.SIGTERM, save); os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("chatbench.workflow.units.sys", SimpleNamespace(executable=str(tmp_path / "torchrun")))
    (tmp_path / "torchrun").write_text(f"#!{sys.executable}\n{body}")
    (tmp_path / "torchrun").chmod(0o755)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not waited for"))
    try:
        with pytest.raises(StoppedError, match="a/split_0/finetune: stopped by SIGTERM"):
            run_unit(Unit("a", "a", "split_0", "finetune", gpus=2), Workspace(tmp_path), RunSettings())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "saved").exists()


def test_the_units_that_plan_lists_are_those_that_run_unit_knows_and_a_script_of_ones_own_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without --slurm, a split of more than one block was listed as one unit, which run-unit took for a join.
    place, script = prepared(tmp_path), tmp_path / "sweep.sbatch"
    for split in ("split_0", "split_1"):
        place.model_folder("tiny", split).mkdir(parents=True)
    given = ["tiny", "--data", str(place.data), "--results", str(place.results), "--steps", "simulate"]
    given += ["--assistant", "scripted:strong", "--conversations", "200"]  # of 4 held-out questions
    assert main(["plan", *given, "--json"]) == 0
    listed = [unit["id"] for unit in json.loads(capsys.readouterr().out)]
    assert listed[:3] == ["tiny/split_0/simulate-000", "tiny/split_0/simulate-001", "tiny/split_0/simulate"]
    assert main(["run-unit", "tiny/split_0/simulate", *given]) == 2
    assert "tiny/split_0/simulate-000 to tiny/split_0/simulate-001" in capsys.readouterr().err

    assert [main(["plan", *given, "--slurm", str(script)]) for _ in range(2)] == [0, 0]
    mine = script.read_text() + "# mine\n"
    script.write_text(mine)
    assert main(["plan", *given, "--slurm", str(script)]) == 2  # it was overwritten
    capsys.readouterr()
    assert main(["plan", *given, "--slurm", str(script), "--budget-tokens", "9"]) == 2
    assert "omit the budget, or use chatbench run\n" in capsys.readouterr().err  # it said "without --on"
    assert script.read_text() == mine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained split, simulated by one undisturbed run in `whole`, and not yet simulated in `blocks`."""
    folder = tmp_path_factory.mktemp("units")
    write_chatbench_folder(study(), folder / "study")
    for results, steps in (("blocks", CHATS[:2]), ("whole", CHATS)):
        place = Workspace(folder / "data", folder / results)
        run_all("tiny-random", study=folder / "study", workspace=place, settings=SMALL, steps=steps, say=lambda _: None)
    return folder


def test_blocks_in_any_order_make_the_logs_of_one_run(folder: Path) -> None:
    place, said = Workspace(folder / "data", folder / "blocks"), list[str]()
    units = plan(["tiny-random"], place, SMALL, CHATS[2:], in_blocks=True)
    *parts, join = [unit for unit in units if unit.stage == "simulate"]
    assert [unit.block for unit in parts] == [0, 1, 2]  # 4 held-out questions x 2, in blocks of 3

    run_unit(parts[2], place, SMALL, say=said.append)
    with pytest.raises(ChatbenchError, match="12 conversations are missing from its 3 block logs"):
        run_unit(join, place, SMALL, say=said.append)
    for unit in sorted((unit for unit in units if unit != join), key=lambda unit: (unit.blocks, -(unit.block or 0))):
        run_unit(unit, place, SMALL, say=said.append)
    assert f"{parts[2].id}: already done" in said
    assert all(is_done(unit, place, SMALL) for unit in parts)
    assert not is_done(join, place, SMALL)
    run_unit(join, place, SMALL, say=said.append)

    assert result_files(folder / "blocks" / "simulations") == result_files(folder / "whole" / "simulations")
    assert is_done(join, place, SMALL)
    for again in (join, unit_called(parts[1].id, plan(["tiny-random"], place, SMALL, CHATS, in_blocks=True))):
        run_unit(again, place, SMALL, say=said.append)
        assert said[-1] == f"{again.id}: already done"
    with pytest.raises(ChatbenchError, match="made with seed 0"):
        is_done(join, place, replace(SMALL, chats=replace(SMALL.chats, seed=1)))


def test_a_model_that_fails_leaves_its_hole_and_the_others_are_scored(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    place = Workspace(folder / "data", folder / "whole")
    report = run_all([str(broken), "tiny-random"], study=None, workspace=place, settings=SMALL, say=lambda _: None)

    assert "broken/split_0/finetune" in report.failed
    assert report.failed["broken/split_0/simulate"] == "needs broken/split_0/finetune"
    assert [table.model for table in report.tables] == ["tiny-random"]
    assert report.page is not None
    assert any(line.startswith("missing: broken/split_0/finetune: ") for line in report.lines())


def test_assistants_that_people_did_not_use_leave_realism_out_of_a_run_and_lost_chats_end_it(tmp_path: Path) -> None:
    # `run --assistant NEW` ended at its last step, with exit code 2 and without the table of scores.
    place, said, unit = prepared(tmp_path), list[str](), Unit("tiny", "tiny", "", "realism")
    write_log(place, "split_0", assistants=("gpt-5",))
    run_unit(unit, place, RunSettings(), say=said.append)

    assert said == ["realism left out: split_0, fine-tuned: no question on which people had the same assistant"]
    lost = dict.fromkeys(("letter", "answer_text", "final_output"))
    rewrite_log(write_log(place, "split_0"), lambda row: {**row, **lost, "termination": "failed", "reason": "lost"})
    with pytest.raises(ChatbenchError, match="split_0, fine-tuned: all 40 chats failed"):
        run_unit(unit, place, RunSettings(), say=said.append)


FAKE_SBATCH = """\
import json, os, re, subprocess, sys
options = dict(word[2:].split("=", 1) if "=" in word else (word[2:], "") for word in sys.argv[1:] if word[:2] == "--")
script = [word for word in sys.argv[1:] if word[:2] != "--"]
book = os.environ["FAKE_SLURM"]
jobs = json.load(open(book)) if os.path.exists(book) else []
kind, *needed = options.get("dependency", "none").split(":")
first, last = map(int, options["array"].split("-"))
ended = {}
for task in range(first, last + 1):
    if kind == "aftercorr" and any(jobs[int(job)]["ended"][str(task)] for job in needed):
        ended[task] = 1  # DependencyNeverSatisfied
        continue
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}
    ended[task] = subprocess.run(["bash", *script], env=environment, stdout=sys.stderr).returncode
jobs.append({"name": options["job-name"], "kind": kind, "needed": needed, "ended": ended})
json.dump(jobs, open(book, "w"))
print(len(jobs) - 1)
"""


def test_array_jobs_leave_the_files_of_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_chatbench_folder(study(), tmp_path / "study")
    (tmp_path / "config.json").write_text(json.dumps(dict(SMALL.flags)))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    python = f"exec {sys.executable}"
    for name, body in (("sbatch", f"{python} {bin_folder}/fake.py"), ("chatbench", f"{python} -m chatbench")):
        (bin_folder / name).write_text(f'#!/bin/sh\n{body} "$@"\n')
        (bin_folder / name).chmod(0o755)
    (bin_folder / "fake.py").write_text(FAKE_SBATCH)
    given = ["tiny-random", "--study", "study", "--splits", "2", "--conversations", "2", "--max-user-turns", "1"]
    given += ["--max-tokens", "4", "--base-conversations", "0", "--config", "config.json"]
    given += ["--steps", "prepare,finetune,simulate,scores"]
    assert main(["plan", *given, "--slurm", "sweep.sbatch", "--results", "by slurm"]) == 0
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path / "jobs")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    ended = subprocess.run(["bash", "sweep.sbatch"], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert main(["run", *given, "--results", "by run"]) == 3  # a random model answers nothing

    jobs = json.loads((tmp_path / "jobs").read_text())
    assert [(job["name"], job["kind"], job["needed"]) for job in jobs] == [
        ("finetune", "none", []), ("simulate", "aftercorr", ["0"]), ("scores", "afterany", ["0", "1"]),
    ]  # fmt: skip
    assert result_files(tmp_path / "by slurm") == result_files(tmp_path / "by run")
