"""`chatbench compare`: paired tables of scored runs, and the refusal of incompatible ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.simulated_logs import always_wrong, endpoint, prepared, rewrite_log, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.records import Question
from chatbench.data.workspace import Workspace
from chatbench.metrics.resampling import Interval, Resampling
from chatbench.report.tables import comparison_grids, comparison_notes, score_grids
from chatbench.scoring.compare import Comparison, compare
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import read_score_table
from chatbench.scoring.score_table import comparable, ignorable, incompatible
from chatbench.simulation.log import settings_path

TOLD = Resampling(200)
SPLITS = ("split_0", "split_1")


def now_and_then(question: Question, assistant: str, index: int) -> str:
    """Right in every second question, whatever people do."""
    return "B" if int(question.id.rpartition("-")[2]) % 2 and index < 3 + (assistant == "gpt-4o") else "A"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    place = prepared(tmp_path_factory.mktemp("scored"))
    for split_id in SPLITS:
        write_log(place, split_id)
        write_log(place, split_id, now_and_then, model="distilgpt2")
        write_log(place, split_id, always_wrong, base_model=True, conversations=2)
    score(place, "tiny", "distilgpt2")
    return place


@pytest.fixture
def place(scored: Workspace, tmp_path: Path) -> Workspace:
    """Results of one's own to change."""
    shutil.copytree(scored.results, tmp_path / "results")
    return Workspace(scored.data, tmp_path / "results")


def score(place: Workspace, *models: str) -> None:
    for model in models:
        eval_chatbench(model, workspace=place, resampling=Resampling(100))


def compared(place: Workspace, *runs: str, ignore: tuple[str, ...] = ()) -> Comparison:
    return compare(runs, workspace=place, ignore=ignore, resampling=TOLD)


def change_settings(
    place: Workspace, model: str, change: Callable[[dict[str, Any]], object], *, base_model: bool = False
) -> None:
    """Changes what the runs of a model were made with, and scores it again."""
    for split_id in SPLITS:
        path = settings_path(place.conversations(model, split_id, base_model=base_model))
        content = json.loads(path.read_text())
        change(content)
        write_json(path, content)
    score(place, model)


def other_temperature(place: Workspace, model: str) -> None:
    """Gives every assistant of a model's runs another temperature."""
    for split_id in SPLITS:
        rewrite_log(
            place.conversations(model, split_id),
            lambda row: {**row, "assistant_identity": {**row["assistant_identity"], "temperature": 0.2}},  # type: ignore[dict-item]
        )
    change_settings(place, model, lambda run: [each.update(temperature=0.2) for each in run["assistants"].values()])


def test_differences_are_those_of_the_scores_per_assistant_and_together(place: Workspace) -> None:
    comparison = compared(place, "tiny", "distilgpt2")
    found = {(figure.assistant, figure.metric): figure.found for figure in comparison.metrics}
    errors = found["gpt-4o", "mae"]

    assert errors.first == pytest.approx(0)  # `people_like` is right as often as people
    assert errors.difference == pytest.approx(-errors.second)
    assert errors.second > 0.1
    assert isinstance(found["mean of assistants", "mae"].interval, Interval)
    assert found["all", "bleu"].difference == pytest.approx(0)  # both copy the question
    assert {assistant for assistant, metric in found if metric == "pearson"} == {
        "gpt-4o", "llama-3.1-8b", "all", "mean of assistants",
    }  # fmt: skip
    assert (comparison.splits, comparison.pairs_per_split) == (SPLITS, 8)


def test_three_runs_make_three_tables_with_corrected_p_values(place: Workspace) -> None:
    for split_id in SPLITS:
        write_log(place, split_id, always_wrong, model="gpt2")
    score(place, "gpt2")
    comparison = compared(place, "tiny", "distilgpt2", "gpt2")
    grids = comparison_grids(comparison)

    assert [grid.title for grid in grids] == [
        "tiny (first) and distilgpt2 (second), 6 questions",
        "tiny (first) and gpt2 (second), 6 questions",
        "distilgpt2 (first) and gpt2 (second), 6 questions",
    ]
    assert grids[0].header[-2:] == ("p", "p, Holm")
    errors = [figure for figure in comparison.metrics if (figure.assistant, figure.metric) == ("all", "mae")]
    plain, holm = [figure.found.p for figure in errors], [figure.holm_p for figure in errors]
    assert len(plain) == 3
    assert min(holm) == pytest.approx(min(1.0, 3 * min(plain)))  # type: ignore[type-var, arg-type, operator]


def test_with_one_assistant_no_row_stands_there_twice(place: Workspace) -> None:
    # "gpt-4o" and "all pairs" were the same numbers under two names.
    comparison = compared(place, "tiny", "distilgpt2")
    one = [each for each in comparison.metrics if each.assistant in ("gpt-4o", "all")]
    [grid] = comparison_grids(replace(comparison, metrics=tuple(one)))

    of = [row[1] for row in grid.rows]
    assert of == ["gpt-4o"] * 6 + ["all"] * 4  # texts are compared with all assistants together
    assert not any("all pairs: pooled" in note for note in comparison_notes(replace(comparison, metrics=tuple(one))))
    assert "all pairs" in [row[1] for row in comparison_grids(comparison)[0].rows]


def test_incompatible_signatures_are_refused_or_said_in_the_table(place: Workspace) -> None:
    other_temperature(place, "distilgpt2")

    with pytest.raises(ChatbenchError, match=r"differ in assistants\.gpt-4o\.temperature") as refused:
        compared(place, "tiny", "distilgpt2")
    assert "--ignore assistants.llama-3.1-8b.temperature" in str(refused.value)
    with pytest.raises(ChatbenchError, match="temperature"):
        compared(place, "tiny", "distilgpt2", ignore=("conversations",))  # another difference than the one there is
    with pytest.raises(ChatbenchError, match="--ignore temprature: no part of a signature"):
        compared(place, "tiny", "tiny#base", ignore=("temprature",))
    for ignore in ("assistants.*.temperature", "assistants", "assistant_decoding"):
        comparison = compared(place, "tiny", "distilgpt2", ignore=(ignore,))

        assert "DIFFERS IN assistants.gpt-4o.temperature" in comparison_grids(comparison)[0].title
        assert "IGNORED: tiny and distilgpt2 differ in assistants.gpt-4o.temperature: nothing and 0.2" in "\n".join(
            comparison_notes(comparison)
        )


def test_a_fine_tuned_and_a_prompted_simulator_are_compared_as_in_the_paper(place: Workspace) -> None:
    for split_id in SPLITS:
        write_log(place, split_id, now_and_then, model="gpt4", prompted=endpoint(temperature=0.7))
    score(place, "gpt4")
    comparison = compared(place, "tiny", "gpt4")

    assert comparison.ignored == {}
    assert len(comparison_grids(comparison)) == 1
    tables = [read_score_table(place.results / "scores", model) for model in ("tiny", "gpt4")]
    comparable(tables)
    names = [row[0] for row in score_grids(tables)[0].rows]
    assert {"tiny, fine-tuned", "gpt4, simulator gpt-4o (two-step)"} <= set(names)


@pytest.mark.parametrize(
    ("setting", "value"), [("max_user_turns", 3), ("end_on", ["repetition"]), ("conversations", 4)]
)
def test_the_protocol_may_not_differ_between_simulators(place: Workspace, setting: str, value: object) -> None:
    for split_id in SPLITS:
        write_log(place, split_id, model="gpt4", prompted=endpoint())
    change_settings(place, "gpt4", lambda run: run["settings"].update({setting: value}))

    with pytest.raises(ChatbenchError, match=f"differ in {setting}") as refused:
        compared(place, "tiny", "gpt4")
    option = refused.value.fix.rpartition("--ignore ")[2]
    assert compared(place, "tiny", "gpt4", ignore=(option,)).ignored  # the fix that the error names is possible
    with pytest.raises(ChatbenchError, match=f"differ in {setting}.*"):
        comparable([read_score_table(place.results / "scores", model) for model in ("tiny", "gpt4")])


def test_only_what_all_runs_have_is_compared_and_of_different_splits_only_if_told_so(place: Workspace) -> None:
    # The second run lost its last chats: its cell is left out of the first one's figures too.
    place.conversations("distilgpt2", "split_0").unlink()
    write_log(place, "split_0", now_and_then, model="distilgpt2", leave_out=3)
    score(place, "distilgpt2")
    assert compared(place, "tiny", "distilgpt2", ignore=("by_split",)).pairs_per_split == 7.5

    eval_chatbench("tiny", workspace=place, splits=["split_1"], resampling=Resampling(100))
    with pytest.raises(ChatbenchError, match="differ in splits"):
        compared(place, "tiny", "distilgpt2")
    comparison = compared(place, "tiny", "distilgpt2", ignore=("splits", "by_split"))
    assert comparison.splits == ("split_1",)


def test_a_run_may_lie_in_another_folder_or_be_the_base_of_a_run(place: Workspace, tmp_path: Path) -> None:
    place.results.rename(tmp_path / "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    names = (f"{elsewhere}:tiny", str(elsewhere / "scores" / "distilgpt2.json"))
    both = compare(names, workspace=place, resampling=TOLD)
    base = compare(("tiny", "tiny#base"), workspace=Workspace(results=elsewhere), resampling=TOLD)

    assert both.runs == names
    found = {(figure.assistant, figure.metric): figure.found for figure in base.metrics}
    assert found["all", "mae"].second == found["all", "bias"].first - found["all", "bias"].second  # type: ignore[operator]
    # `run` simulates fewer chats with the base model, and its own results were refused; the table says what that does.
    assert "DIFFERS IN conversations" in comparison_grids(base)[0].title
    assert "fewer conversations are noisier" in comparison_notes(base)[1]
    with pytest.raises(ChatbenchError, match="differ in conversations: 5 and 2"):
        compare((f"{elsewhere}:distilgpt2", "tiny#base"), workspace=Workspace(results=elsewhere), resampling=TOLD)
    with pytest.raises(ChatbenchError, match="no base model simulator was scored"):
        compare(("tiny", "distilgpt2#base"), workspace=Workspace(results=elsewhere), resampling=TOLD)


def test_the_protocol_of_a_base_model_is_its_own(place: Workspace) -> None:
    # Only its number of chats was compared; the rest was taken from the fine-tuned model's run.
    change_settings(place, "tiny", lambda run: run["settings"].update(max_user_turns=3), base_model=True)

    with pytest.raises(ChatbenchError, match="differ in max_user_turns: 10 and 3"):
        compared(place, "tiny", "tiny#base")
    ignored = compared(place, "tiny", "tiny#base", ignore=("max_user_turns",)).ignored
    assert [each.name for each in ignored["tiny", "tiny#base"]] == ["conversations", "max_user_turns"]
    with pytest.raises(ChatbenchError, match="max_user_turns: 10 and 3"):
        compared(place, "distilgpt2", "tiny#base")


def test_runs_that_are_one_and_files_that_do_not_belong_together_are_refused(place: Workspace) -> None:
    # One run alone, or twice, is no comparison.
    for runs in (("tiny",), ("tiny", "tiny"), ("tiny", f"{place.results}:tiny"), ("tiny", str(place.scores("tiny")))):
        with pytest.raises(ChatbenchError, match="two or more different runs"):
            compared(place, *runs)
    path = place.results / "scores" / "tiny.questions.csv"
    path.write_text(path.read_text().replace(read_json(path.parent / "tiny.json")["signature_id"], "another"))  # type: ignore[index]

    with pytest.raises(ChatbenchError, match="written with signature another"):
        compared(place, "tiny", "distilgpt2")
    path.write_text("a,b\n")
    with pytest.raises(ChatbenchError, match="unexpected columns"):
        compared(place, "tiny", "distilgpt2")
    path.unlink()
    with pytest.raises(ChatbenchError, match="chatbench eval-chatbench tiny"):
        compared(place, "tiny", "distilgpt2")


def test_the_command_prints_and_writes(place: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "comparison.json"
    arguments = ["compare", "tiny", "distilgpt2", "--results", str(place.results), "--bootstrap", "100"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "tiny (first) and distilgpt2 (second), 6 questions" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {figure["metric"] for figure in written["figures"]} >= {"pearson", "mae", "bleu"}
    assert main([*arguments, "--bootstrap", "5"]) == 2
    assert "expected: 100 and more" in capsys.readouterr().err
    assert main(["compare", "tiny", "nothing", "--results", str(place.results)]) == 2
    assert f"eval-chatbench nothing --results {place.results}" in capsys.readouterr().err


def test_what_belongs_to_the_simulator_may_differ_and_nothing_else() -> None:
    first = {
        "model": "a", "study": "s", "simulator": {"name": "gpt-4o", "style": "two-step", "temperature": 1.0},
        "by_split": {"split_0": {"simulator": {"weights": "x", "held_out_sha256": "1"}}},
    }  # fmt: skip
    second = {"model": "b", "study": "s"}
    second |= {"by_split": {"split_0": {"simulator": {"weights": "y", "held_out_sha256": "2"}}}}

    assert [each.name for each in incompatible(first, second)] == ["by_split.split_0.simulator.held_out_sha256"]
    assert [each.name for each in incompatible({"a": 1}, {"b": 2})] == ["a", "b"]
    # What a judge had done so far when each was scored is not the judge.
    counts = {"accuracy": 0.9, "kappa": 0.8, "answers": 9, "unread": 1, "failed": 0, "reason": "", "missing": 2}
    later = {"accuracy": {"undefined": "x"}, "kappa": 0.7, "answers": 8, "unread": 2, "failed": 1, "reason": "y"}
    one, other = ({"judge": {"judge": "m", "rubric_sha256": "1", **each}} for each in (counts, later))
    assert incompatible(one, other) == []
    other["judge"] |= {"judge": "n", "rubric_sha256": "2"}
    assert [each.name for each in incompatible(one, other)] == ["judge.judge", "judge.rubric_sha256"]
    assert not ignorable("assistants.gpt.name", ["assistant_decoding", "assist", "model"])
