"""From nothing to scores: the walk of docs/collect.md, in small, by its own commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from tests.support.collected import served

from chatbench.cli import main
from chatbench.collect.config import CollectedStudy
from chatbench.collect.replies import open_assistants

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "collect.md"
SMALLER = {
    "sample": ["--questions", "12"],
    "collect init": ["--people", "3", "--batch-size", "4", "--phase-1-questions", "1"],
    "collect rehearse": ["--people", "18", "--pause", "0"],
    "finetune": ["--max-steps", "2"],
}
"""What makes the steps quick; a later option overrides the same one before it."""


def test_the_container_gets_what_the_build_reads_and_nothing_else() -> None:
    # COPY . put .env, with its keys, and studies with their databases into the image.
    lines = (DOCUMENT.parent / "examples" / "collect" / "Containerfile").read_text().splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert copied == {"pyproject.toml", "constraints.txt", "src", project["readme"], "LICENSE"}
    assert all((ROOT / source).exists() for source in copied)
    assert all(any(name.startswith(source) for source in copied) for name in project["license-files"])
    # Proxy headers are believed, so nobody but the proxy may reach the port.
    assert "ENV FORWARDED_ALLOW_IPS=*" in lines
    assert "-p 127.0.0.1:8420:8420" in lines[1]


@pytest.mark.slow
def test_the_documented_walk_goes_from_a_rehearsed_study_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Fails where a document's command has changed, or a file that export writes is not what the next command reads.
    walk = re.findall(r"^\$ chatbench (.+)$", DOCUMENT.read_text().partition("## What people see")[0], re.MULTILINE)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *more: str) -> str:
        smaller = next((options for name, options in SMALLER.items() if command.startswith(f"{name} ")), [])
        # 3: scored, but few chats have an answer, as those of a simulator that learnt for two steps.
        codes = (0, 3) if command.startswith("eval") else (0,)
        assert main([*shlex.split(command), *smaller, *more]) in codes, capsys.readouterr().err
        return capsys.readouterr().out

    served_at = walk.index("collect serve my_study")
    for command in walk[:served_at]:
        run(command)
    path = tmp_path / "my_study" / "study.toml"
    path.write_text(path.read_text().replace("requests_per_minute = 120", "requests_per_minute = 100000"))
    study = CollectedStudy(tmp_path / "my_study")
    with served(study, open_assistants(study)) as at:
        for command in walk[served_at + 1 :]:
            said = run(command, *(["--url", at.url] if command.startswith("collect rehearse") else []))
            if command.startswith("collect rehearse"):
                assert "finished" in said
                assert "fault" not in said
    assert list((tmp_path / "results" / "scores").glob("*.json"))
