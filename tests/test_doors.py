"""The commands beside the package: doors (Python files of a few lines) and shell scripts, calls of `chatbench` all."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.command_lines import COMMANDS, REPOSITORY, problem_with_chatbench

from chatbench import cli

DOORS = {
    "data/prepare_splits.py": ["prepare-splits"],
    "src/finetune.py": ["finetune"],
    "src/finetune_distilgpt2.py": ["finetune", "distilgpt2"],
    "src/finetune_mistral.py": ["finetune", "mistral-7b"],
    "src/finetune_llama3.py": ["finetune", "llama3-8b"],
    "src/eval_ppl.py": ["eval-ppl"],
    "src/eval_ppl_distilgpt2.py": ["eval-ppl", "distilgpt2"],
    "src/eval_ppl_mistral.py": ["eval-ppl", "mistral-7b"],
    "src/eval_ppl_llama3.py": ["eval-ppl", "llama3-8b"],
    "src/eval_chatbench.py": ["eval-chatbench"],
}

SCRIPTS = {
    ("run_all_train_ppl.sh", "tiny"): ["run", "tiny", "--steps", "finetune,ppl"],
    ("run_all_train_ppl_distilgpt2.sh",): ["run", "distilgpt2", "--steps", "finetune,ppl"],
    ("run_all_train_ppl_distilgpt2.sh", "my/model"): ["run", "my/model", "--steps", "finetune,ppl"],
    ("run_all_train_ppl_mistral.sh",): ["run", "mistral-7b", "--steps", "finetune,ppl"],
    ("run_all_train_ppl_llama3.sh",): ["run", "llama3-8b", "--steps", "finetune,ppl"],
    ("run_all_chatbench.sh", "tiny"): ["run", "tiny", "--steps", "simulate,base,scores"],
    ("run_quick_sanity.sh", "tiny"): ["sanity", "tiny"],
}


EVERY_SCRIPT = sorted(path.name for path in REPOSITORY.glob("*.sh"))


def open_door(door: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs a door as `python DOOR ARGUMENTS` would; gives the exit code."""
    monkeypatch.setattr(sys, "argv", [door, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / door), run_name="__main__")
    return ended.value.code


def test_every_door_is_known_here() -> None:
    there = [path for folder in ("src", "data") for path in (REPOSITORY / folder).glob("*.py")]

    assert {str(path.relative_to(REPOSITORY)) for path in there} == set(DOORS)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_hands_its_arguments_on_and_its_exit_code_back(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def record(arguments: Sequence[str]) -> int:
        called.append(list(arguments))
        return 7

    monkeypatch.setattr(cli, "main", record)

    assert open_door(door, ["--split", "split_1"], monkeypatch) == 7
    assert called == [[*DOORS[door], "--split", "split_1"]]


def test_a_door_opens_from_another_folder(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "src" / "finetune.py"), "tiny", "--split", "split_9"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert ended.returncode == 2
    assert ended.stderr.startswith("chatbench: data/manifest.json: no such file")


@pytest.mark.parametrize("script", EVERY_SCRIPT)
def test_a_script_is_executable_strict_and_bash(script: str) -> None:
    path = REPOSITORY / script
    lines = path.read_text().splitlines()

    assert os.access(path, os.X_OK)
    assert lines[0] == "#!/usr/bin/env bash"
    assert next(line for line in lines[1:] if not line.startswith("#")) == "set -euo pipefail"
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def run_beside_a_fake(folder: Path, words: Sequence[str], code: int = 7) -> subprocess.CompletedProcess[str]:
    """Runs a copy of a script beside a `.venv` whose `chatbench` prints folder and arguments on a line and exits."""
    fake = folder / ".venv" / "bin" / "chatbench"
    fake.parent.mkdir(parents=True)
    fake.write_text(f'#!/usr/bin/env bash\nprintf \'%q \' "$PWD" "$@"\necho\nexit {code}\n')
    fake.chmod(0o755)
    script = shutil.copy(REPOSITORY / words[0], folder / words[0])
    # Started from elsewhere: a script goes to its own folder first.
    return subprocess.run([script, *words[1:]], capture_output=True, text=True, check=False, cwd=folder.parent)


@pytest.mark.parametrize("words", SCRIPTS)
def test_a_script_calls_one_command_in_its_own_folder(words: Sequence[str], tmp_path: Path) -> None:
    more = ["--results", "two words"] if len(words) > 1 else []
    ended = run_beside_a_fake(tmp_path, [*words, *more])

    assert [shlex.split(line) for line in ended.stdout.splitlines()] == [
        [str(tmp_path.resolve()), *SCRIPTS[tuple(words)], *more]
    ]
    assert ended.returncode == 7  # and the script's own is that of the command


@pytest.mark.parametrize("script", EVERY_SCRIPT)
def test_every_call_of_a_script_is_a_command_with_its_options(script: str, tmp_path: Path) -> None:
    ended = run_beside_a_fake(tmp_path, [script, "tiny"], code=0)
    calls = [shlex.split(line)[1:] for line in ended.stdout.splitlines()]

    assert ended.returncode == 0
    assert calls
    assert [problem for call in calls if (problem := problem_with_chatbench(call))] == []


@pytest.mark.parametrize("script", EVERY_SCRIPT)
def test_a_script_stops_at_the_first_command_that_fails(script: str, tmp_path: Path) -> None:
    ended = run_beside_a_fake(tmp_path, [script, "tiny"])

    assert ended.returncode == 7
    assert len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize("script", [name for name in EVERY_SCRIPT if (name,) not in SCRIPTS])
def test_a_script_without_its_argument_says_its_usage(script: str, tmp_path: Path) -> None:
    ended = run_beside_a_fake(tmp_path, [script])

    assert ended.returncode != 0
    assert f"usage: ./{script} " in ended.stderr
    assert not ended.stdout


def test_the_steps_of_the_scripts_are_steps_of_run() -> None:
    from chatbench.workflow.run_all import STEPS

    assert "run" in COMMANDS
    for called in SCRIPTS.values():
        if called[0] == "run":
            assert set(called[3].split(",")) <= set(STEPS)
