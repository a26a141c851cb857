"""Both notebooks run from top to bottom, with small settings, in a kernel of this very Python."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.support.command_lines import REPOSITORY

NOTEBOOKS = ("data/finetuning_experiments.ipynb", "notebooks/chatbench_end_to_end.ipynb")
SMALL = {
    "QUESTIONS": "8",
    "CHATS": "1",
    "SPLITS": "2",
    "MODEL": "tiny-random",
    "CONVERSATIONS": "2",
    "MAX_USER_TURNS": "2",
    "MAX_TOKENS": "6",
    "TRAINING": '{"max_steps": 4, "per_device_train_batch_size": 2, "validation_examples": 2, "logging_steps": 1}',
}
KERNEL = "chatbench-test"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernel that runs this Python, known to this test alone; the notebooks' settings are small."""
    spec = tmp_path / "jupyter" / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": command, "display_name": KERNEL, "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests, more threads would wait for each other
    for name, value in SMALL.items():
        monkeypatch.setenv(f"CHATBENCH_NOTEBOOK_{name}", value)
    return KERNEL


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(REPOSITORY / name, as_version=4)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_and_clean(name: str) -> None:
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_takes_every_setting_from_its_own_variable(name: str) -> None:
    # A setting that is misspelled here would let the notebook run at full size.
    settings = next(cell.source for cell in read(name).cells if cell.cell_type == "code")
    taken = re.findall(r'^(\w+) = .*"CHATBENCH_NOTEBOOK_(\w+)"', settings, re.MULTILINE)

    assert all(variable == setting for variable, setting in taken)
    assert {setting for _, setting in taken} - {"STUDY"} <= SMALL.keys()


def run(name: str, kernel: str, folder: Path) -> str:
    """Runs a notebook in `folder`; gives the text that its cells printed."""
    notebook = read(name)
    NotebookClient(notebook, timeout=300, kernel_name=kernel, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    colours = re.compile(r"\x1b\[[0-9;]*m")
    return colours.sub("", "\n".join([*texts, f"pictures: {pictures}"]))


def test_the_notebook_of_the_data_preparation_runs(kernel: str, tmp_path: Path) -> None:
    printed = run(NOTEBOOKS[0], kernel, tmp_path)

    assert "study study" in printed
    assert "leak check: no question, no conversation" in printed
    assert "same bytes: split_0/split.jsonl" in printed
    assert len(re.findall(r"tokens of prompt \(dim, no loss\), \d+ scored", " ".join(printed.split()))) == 2
    assert "pictures: 1" in printed


def test_the_notebook_of_the_whole_benchmark_runs(kernel: str, tmp_path: Path) -> None:
    printed = run(NOTEBOOKS[1], kernel, tmp_path)

    assert "split_1 trained 4 steps" in printed
    assert "split_1: perplexity" in printed
    assert "conversations.jsonl" in printed
    assert "Mean absolute error of accuracy" in printed
    assert "pictures: 3" in printed
