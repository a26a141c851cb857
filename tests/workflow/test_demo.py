"""The demo: the checks at its end, passed only where the figures say so, and what its folder holds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.command_lines import REPOSITORY

from chatbench.core.files import write_text
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import (
    BASE_MODEL,
    CONSTANT,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    REGRESSION,
    USER_ALONE,
    ai_alone,
)
from chatbench.scoring.score_table import Score, ScoreTable
from chatbench.workflow import demo as module
from chatbench.workflow.demo import checks, demo, truth_lines
from chatbench.workflow.run_all import RunReport


def table(own_pearson: float, own_mae: float) -> ScoreTable:
    rows = [
        (EVERY_ASSISTANT, FINE_TUNED, "perplexity", 1.5),
        (EVERY_ASSISTANT, BASE_MODEL, "perplexity", 2.9),
        (EVERY_ASSISTANT, FINE_TUNED, "answered_share", 0.95),
        (MEAN_OF_ASSISTANTS, FINE_TUNED, "pearson", own_pearson),
        (MEAN_OF_ASSISTANTS, FINE_TUNED, "mae", own_mae),
        (MEAN_OF_ASSISTANTS, ai_alone("free text"), "pearson", 0.5),
        (MEAN_OF_ASSISTANTS, ai_alone("free text"), "mae", 0.25),
        (MEAN_OF_ASSISTANTS, CONSTANT, "pearson", Undefined("constant")),
        (MEAN_OF_ASSISTANTS, CONSTANT, "mae", 0.2),
    ]
    scores = tuple(Score("split_0", *row) for row in rows)
    return ScoreTable("tiny", ("split_0",), 70, 50, scores, {})


def test_a_simulator_must_beat_every_baseline_not_the_average_one() -> None:
    told = {FINE_TUNED: {"numbers right": 0.92}}

    # 1.5 is more than half of 2.9; 0.6 beats 0.5; 0.22 beats the AI alone but not the constant.
    assert [check.passed for check in checks(table(0.6, 0.22), told)] == [False, True, True, True, False]
    assert [check.passed for check in checks(table(0.5, 0.19), told)] == [False, True, True, False, True]


def test_a_verdict_names_every_baseline_of_the_table_and_is_yes_only_where_the_table_agrees() -> None:
    # The regression is a baseline too: "best baseline .200" beside a regression of .176 in the table was untrue.
    with_people = [Score("split_0", MEAN_OF_ASSISTANTS, REGRESSION, "mae", 0.176),
                   Score("split_0", MEAN_OF_ASSISTANTS, USER_ALONE, "mae", 0.3)]  # fmt: skip
    made = table(0.6, 0.18)
    verdict = checks(replace(made, scores=(*made.scores, *with_people)), {})[-1]

    assert not verdict.passed
    assert verdict.found.splitlines() == [
        "0.18",
        "      0.176  regression on user alone and AI alone (needs people's answers to these questions)",
        "        0.2  constant (train mean)",
        "       0.25  AI alone, free text",
        "        0.3  user alone (needs people's answers to these questions)",
    ]


def test_what_is_not_there_is_undefined_and_not_passed() -> None:
    found = checks(ScoreTable("tiny", (), 0, 0, (), {}), {})

    assert not any(check.passed for check in found)
    assert any("undefined" in line for line in truth_lines({FINE_TUNED: {"numbers right": 0.5}}, found))


def test_its_folder_holds_what_the_documentation_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The page of files called the folder of the sample study `study/`. Training and the page are other tests' subject.
    def run_all(*_: object, workspace: Workspace, **__: object) -> RunReport:
        write_text(workspace.data / "manifest.json", "")
        write_text(workspace.results / "scores.json", "")
        return RunReport((), 0.0, 0)

    def write_page(_: object, out: Path) -> SimpleNamespace:
        write_text(out, "")
        return SimpleNamespace(chats=0, path=out)

    monkeypatch.setattr(module, "run_all", run_all)
    monkeypatch.setattr(module, "write_page", write_page)
    demo(tmp_path, splits=1, say=lambda _: None)

    page = (REPOSITORY / "docs" / "files.md").read_text(encoding="utf-8").partition("## `demo/`")[2]
    assert {path.name for path in tmp_path.iterdir()} == {name.strip("/") for name in re.findall(r"`([\w./]+)`", page)}
