"""What eval-chatbench leaves on disk beside the means: intervals, bounds, parts, figures per question, answers."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.support.simulated_logs import always_wrong, people_like, prepared, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import FINE_TUNED, Predictor
from chatbench.metrics.resampling import Resampling
from chatbench.report.tables import as_markdown
from chatbench.scoring import score_files
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import read_question_files, read_score_table
from chatbench.scoring.score_table import ScoreTable

Rows = list[dict[str, str]]


def nearly(question: Any, assistant: str, index: int) -> str | None:
    """As people, but the first chat about every third question is wrong, and the last one is no answer."""
    number = int(question.id.rpartition("-")[2])
    if number % 3 == 0 and index == 0:
        return "A"
    return None if number % 4 == 1 and index == 4 else people_like(question, assistant, index)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, ScoreTable]:
    place = prepared(tmp_path_factory.mktemp("scores"))
    for split_id in ("split_0", "split_1"):
        write_log(place, split_id, nearly)
        write_log(place, split_id, always_wrong, base_model=True, conversations=2)
    return place, eval_chatbench("tiny", workspace=place, resampling=Resampling(200))


def rows(place: Workspace, name: str) -> Rows:
    with (place.results / "scores" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_json_file_has_all_that_is_known_about_a_score(scored: tuple[Workspace, ScoreTable]) -> None:
    place, table = scored
    content = json.loads((place.results / "scores" / "tiny.json").read_text())
    figures = {(f["assistant"], f["source"], f["metric"]): f for f in content["figures"]}
    error = figures["mean of assistants", "fine-tuned", "mae"]

    assert error["interval"]["low"] < error["mean"] < error["interval"]["high"]
    assert error["interval"]["questions"] <= 8
    assert error["floor_source"] == "constant (train mean)"
    assert error["ceiling"] < error["floor"]
    assert {"questions", "people", "chats"} <= set(error["variance_by_cause"])
    assert "floor" not in figures["mean of assistants", "constant (train mean)", "mae"]
    assert figures["gpt-4o", "constant (train mean)", "pearson"]["interval"] == {"undefined": "the metric is undefined"}
    assert content["signature"]["resampling"].startswith("95 % confidence, 200 resamples")
    again = read_score_table(place.results / "scores", "tiny")
    assert again == table
    assert again.bounds() == table.bounds()


def test_the_figures_of_a_split_follow_from_its_questions(scored: tuple[Workspace, ScoreTable]) -> None:
    # The page, and whoever checks us, must be able to recompute a score from this file alone.
    place, table = scored
    accuracy: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    counts = {}
    for row in rows(place, "tiny.questions.csv"):
        if row["metric"] == "accuracy" and row["split"] == "split_0":
            accuracy[row["source"]][row["question_id"], row["assistant"]] = float(row["value"])
            counts[row["question_id"], row["assistant"], row["source"]] = row["count"]
            assert row["signature_id"] == table.signature_id
    for source in ("fine-tuned", "fine-tuned, invalid dropped", "base model", "constant (train mean)"):
        errors = [abs(accuracy[source][cell] - accuracy["people"][cell]) for cell in accuracy["people"]]
        assert table.values()["all", Predictor.parse(source), "mae"]["split_0"] == pytest.approx(
            sum(errors) / len(errors)
        )

    one = next(q for q, _, _ in counts if int(q.rpartition("-")[2]) % 4 == 1)  # one of five chats has no answer
    sources = ("fine-tuned", "fine-tuned, invalid dropped", "people")
    assert [counts[one, "gpt-4o", source] for source in sources] == ["5", "4", "5"]


def test_people_are_numbered_and_their_answers_add_up_to_their_accuracy(scored: tuple[Workspace, ScoreTable]) -> None:
    place, table = scored
    answers = rows(place, "tiny.answers.csv")
    right: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in answers:
        right[row["question_id"], row["assistant"]].append(int(row["correct"]))
    people = {
        (row["question_id"], row["assistant"]): float(row["value"])
        for row in rows(place, "tiny.questions.csv")
        if row["source"] == "people" and row["metric"] == "accuracy"
    }

    assert people == pytest.approx({cell: sum(each) / len(each) for cell, each in right.items()})
    assert {row["person"] for row in answers} == {str(n) for n in range(len({row["person"] for row in answers}))}
    found = read_question_files(place.results / "scores", "tiny", table, "")
    assert len(found.answers) == len(answers)
    assert found.texts["split_0"][FINE_TUNED, "bleu"]


def test_a_scoring_that_is_killed_leaves_no_table_beside_the_questions_of_another(
    scored: tuple[Workspace, ScoreTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The table is written last: what is there is either one scoring, or refused.
    shutil.copytree(scored[0].results, tmp_path / "results")
    place = Workspace(scored[0].data, tmp_path / "results")
    monkeypatch.setattr(score_files, "write_json", lambda path, _: sys.exit(f"killed before {path.name}"))
    with pytest.raises(SystemExit, match=r"killed before tiny\.json"):
        eval_chatbench("tiny", workspace=place, resampling=Resampling(100))

    table = read_score_table(place.scores("tiny").parent, "tiny")
    assert table == scored[1]
    with pytest.raises(ChatbenchError, match="a scoring was stopped between the two files"):
        read_question_files(place.scores("tiny").parent, "tiny", table, "")


def test_a_wider_confidence_gives_a_wider_interval_no_resamples_none_and_nonsense_is_refused(
    scored: tuple[Workspace, ScoreTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = scored[1]
    shutil.copytree(scored[0].results, tmp_path / "results")
    place = Workspace(scored[0].data, tmp_path / "results")
    quick = eval_chatbench("tiny", workspace=place, resampling=Resampling(0))
    assert quick.estimates() == table.estimates()
    assert (quick.uncertainty.intervals, quick.uncertainty.spreads) == ({}, {})
    assert "intervals:" not in as_markdown([quick])
    options = ["eval-chatbench", "tiny", "--data", str(place.data), "--results", str(place.results)]
    row = ("mean of assistants", FINE_TUNED, "mae")
    assert main([*options, "--bootstrap", "200", "--confidence", "0.5"]) == 0
    narrow = read_score_table(place.results / "scores", "tiny").uncertainty.intervals[""][row]
    wide = table.uncertainty.intervals[""][row]

    assert narrow.high - narrow.low < 0.7 * (wide.high - wide.low)  # type: ignore[union-attr]
    for wrong in (("--bootstrap", "7"), ("--confidence", "95")):
        assert main([*options, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    with pytest.raises(ChatbenchError, match="--bootstrap -1"):
        eval_chatbench("tiny", workspace=place, resampling=Resampling(-1))
