"""The benchmarks run, at tiny sizes, and what they compare is the same work."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A benchmark as a module: scripts in one folder, they import each other by bare names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.mark.slow
def test_every_variant_learns_from_the_same_tokens_and_trees_read_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A variant that left examples out, or read them with their padding, would look faster or slower than it is.
    script(monkeypatch, "prefix_tree").main(["--quick", "--out", str(tmp_path)])

    rows = json.loads((tmp_path / "prefix_tree.json").read_text())
    trained = {row["what"]["variant"]: row["result"] for row in rows if row["what"]["kind"] == "train"}
    assert len({(each["examples"], each["supervised"]) for each in trained.values()}) == 1
    assert trained["question"]["tokens"] < trained["conversation"]["tokens"] < trained["length-grouped"]["tokens"] / 2
    assert trained["length-grouped"]["tokens"] <= trained["plain"]["tokens"]
    scored = {row["what"]["variant"]: row["result"]["nats"] for row in rows if row["what"]["kind"] == "score"}
    assert scored["trees"] == pytest.approx(scored["plain"], rel=1e-6)
    table = (tmp_path / "prefix_tree.md").read_text()
    assert all(f"| {variant} |" in table for variant in ("plain", "length-grouped", "none", "conversation", "question"))


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second run would otherwise append rows, or time a machine in another state and mix both.
    options = ["--quick", "--variants", "conversation", "--no-scoring", "--out", str(tmp_path)]
    script(monkeypatch, "prefix_tree").main(options)
    first = (tmp_path / "prefix_tree.json").read_text()
    script(monkeypatch, "prefix_tree").main(options)

    assert (tmp_path / "prefix_tree.json").read_text() == first


@pytest.mark.slow
def test_learning_curves_begin_at_the_same_model_and_a_run_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = script(monkeypatch, "learning")
    learning.main(["--quick", "--out", str(tmp_path)])
    curves = (tmp_path / "learning.csv").read_text()
    starts = {line.split(",")[-1] for line in curves.splitlines()[1:] if line.split(",")[3] == "0"}
    stored = sorted((tmp_path / "runs").iterdir())

    assert len(starts) == 1
    assert [file.name.split("-")[-2] for file in stored] == ["conversation", "none", "question"]
    assert (tmp_path / "learning.png").stat().st_size > 10_000
    for file in stored:  # a run that was read and not repeated shows the numbers that stand in its file
        file.write_text(file.read_text().replace('"points": [[0, 0.0, ', '"points": [[0, 0.0, 9'))
    learning.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "learning.csv").read_text() != curves


@pytest.mark.slow
def test_the_simulation_benchmark_holds_the_same_conversations_in_every_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A way that stopped turns earlier, or answered at once, would look faster than it is.
    simulation = script(monkeypatch, "simulation")

    simulation.main(["--conversations=6", "--alone=2", "--checked=2", "--rounds=1", "--max-tokens=10"])

    said = capsys.readouterr().out
    for way in ("engine", "engine, one at a time", "continuous batching"):
        assert f"greedy, {way}: 2 of 2 conversations word for word those of generate" in said
    ways = ("engine", "continuous batching of transformers", "one at a time", "generate, one at a time")
    assert all(f"| {way} |" in said for way in ways)


@pytest.mark.slow
def test_the_study_of_expected_answers_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand: two cells of two conversations; drawn 0, 1 and 1, 0; expected 0.5, 0.7 and 0.4, 0.4. Variances 0.5, 0.5
    # and 0.02, 0; differences of the means +0.1 and -0.1, so their standard error is 0.1.
    expected_answers = script(monkeypatch, "expected_answers")
    values = np.array([[[0.0, 0.5, 0.2], [1.0, 0.7, 0.2]], [[1.0, 0.4, 0.2], [0.0, 0.4, 0.2]]])

    rows = expected_answers.table(values).splitlines()

    assert rows[3].startswith("| drawn letter | 0.5000 | +0.0000 ± 0.0000 | 0.5000 | 1.000 ")
    assert rows[4].startswith("| p(right letter, given an answer) | 0.5000 | +0.0000 ± 0.1960 | 0.0100 | 0.020 ")


@pytest.mark.slow
@pytest.mark.parametrize("database", [[], ["--postgres"]], ids=["sqlite", "postgres"])
def test_a_study_s_server_that_is_killed_loses_no_answer_that_was_acknowledged(
    database: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer that is acknowledged before its commit is lost, one that is sent again after the kill may be doubled.
    postgres = script(monkeypatch, "loopback_postgres")
    if database and postgres.postgres_programs() is None:
        pytest.skip(postgres.MISSING)
    people = ["--people", "15", "--pause", "1", "--kills", "2", "--every", "3"]

    assert script(monkeypatch, "collect").main([*people, "--only-killed", *database]) == 0


def test_architectures_are_compared_and_one_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = script(monkeypatch, "architectures")
    asked = compared.why_not_trees
    assert compared.main(["llama", "doge", "no_such_kind"]) == 0
    told = capsys.readouterr().out
    assert "not sampled: its layers attend by a mask" in told
    assert told.count("not compared") == 1

    monkeypatch.setattr("chatbench.models.loss.why_not_trees", lambda _model: "")
    monkeypatch.setattr(compared, "why_not_trees", lambda _model, capped=False: asked(_model) if capped else "")
    assert compared.main(["doge"]) == 1
    assert capsys.readouterr().out.endswith("accepted, but wrong: doge\n")
