"""What the page is told: pooled accuracies, calibration, distributions, and words for what is not there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]
from tests.support.simulated_logs import always_wrong, write_log

from chatbench.core.answer_kinds import CHOICE, Number, Text
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.records import Answer, AnswerProbabilities, Conversation, Question, SimulatedConversation, Turn
from chatbench.core.settings import model_key
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import wilson_interval
from chatbench.metrics.names import FINE_TUNED, PEOPLE
from chatbench.metrics.pairs import Prediction
from chatbench.metrics.resampling import Resampling
from chatbench.report.page_data import (
    MOST_TURNS,
    accuracy_values,
    answer_probabilities,
    calibration_values,
    chat_distributions,
    pooled_accuracies,
    question_values,
    run_scores,
    terminations,
    training_curves,
)
from chatbench.report.report import Shown, gather, report, shown_name, shown_results
from chatbench.report.show import show
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import QuestionScores, read_score_table, write_score_table
from chatbench.scoring.score_table import Score, ScoreTable


def scores(answers: tuple[Answer, ...] = ()) -> QuestionScores:
    """One question held out in two splits: 1 of 2, then 4 of 4 simulated chats right; people 3 of 4."""
    pair = ("q", "ai")
    accuracies = {
        split: {PEOPLE: {pair: Prediction(0.75, 4)}, FINE_TUNED: {pair: found}}
        for split, found in (("split_0", Prediction(0.5, 2)), ("split_1", Prediction(1.0, 4)))
    }
    return QuestionScores("id", accuracies, {}, answers)


def first_of(place: Workspace) -> dict[str, Any]:
    """What a page of this model holds at first."""
    return dict(gather(Shown(place, ("tiny",))).first)


@pytest.mark.parametrize(("share", "count"), [(0.0, 5), (0.3, 10), (1.0, 1), (0.5, 400)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(share: float, count: int) -> None:
    expected = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")

    assert wilson_interval(share, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_chats_of_all_splits_are_pooled_and_people_are_counted_once() -> None:
    # A mean of the two splits would give 0.75; people's answers added up would number 8.
    pooled = pooled_accuracies(scores())

    assert pooled[FINE_TUNED]["q", "ai"] == Prediction(5 / 6, 6)
    assert pooled[PEOPLE]["q", "ai"] == Prediction(0.75, 4)


def test_people_whom_each_split_holds_out_are_all_counted_and_once() -> None:
    # By person, each split scores other people, and some in both: the last split's two were shown as all people.
    pair = ("q", "ai")
    found = {"split_0": Prediction(1.0, 2), "split_1": Prediction(0.5, 2)}
    answers = tuple(Answer("q", str(n), "user-AI", "ai", "", None, float(n > 0)) for n in range(3))
    by_person = QuestionScores("id", {s: {PEOPLE: {pair: each}} for s, each in found.items()}, {}, answers)

    assert pooled_accuracies(by_person)[PEOPLE][pair] == Prediction(2 / 3, 3)


def test_cells_name_the_run_only_where_runs_differ_and_conditions_only_where_there_are_two() -> None:
    answers = [Answer("q", str(n), "user-AI", "ai", condition, None, n > 0) for n, condition in enumerate("aab")]
    groups = accuracy_values({"one": scores(tuple(answers)), "two": scores()}, {"q": 0})

    assert [(g["predictor"], g["run"], g["condition"]) for g in groups] == [
        ("people", "", ""), ("fine-tuned", "one", ""), ("fine-tuned", "two", ""),
        ("people", "", "a"), ("people", "", "b"),
    ]  # fmt: skip
    assert [g["accuracy"] for g in groups[3:]] == [[0.5], [1.0]]


def test_calibration_sets_people_beside_what_was_predicted_bin_by_bin() -> None:
    # Bins by people's accuracy instead of the predicted one would put all three pairs into one bin.
    people = {("a", "x"): Prediction(1.0, 4), ("b", "x"): Prediction(0.0, 4), ("c", "x"): Prediction(0.5, 4)}
    told = {("a", "x"): Prediction(0.62, 1), ("b", "x"): Prediction(0.68, 1), ("c", "x"): Prediction(1.0, 1)}
    found = calibration_values(QuestionScores("id", {"split_0": {PEOPLE: people, FINE_TUNED: told}}, {}, ()))

    two, one = found["fine-tuned"]  # type: ignore[misc]
    assert (two["from"], two["predicted"], two["people"], two["pairs"]) == (0.6, 0.65, 0.5, 2)
    assert (two["low"], two["high"]) == (0.0, 1.0)  # standard error of {1, 0}: 0.5, times 1.96
    assert (one["from"], one["to"], one["people"]) == (0.9, 1.0, 0.5)
    assert "low" not in one  # one question has no spread


def chat(*texts: str, letter: str | None = "A", probabilities: tuple[float, ...] = ()) -> SimulatedConversation:
    turns = tuple(turn for text in texts for turn in (Turn("user", text), Turn("assistant", "yes")))
    return SimulatedConversation(
        id="q|ai|0", question_id="q", assistant="ai", index=0, turns=turns, letter=letter,
        termination="answered" if letter else "no_answer",
        answer_probabilities=tuple(AnswerProbabilities(p, (1.0, 0.0, 0.0, 0.0)) for p in probabilities),
        expected_correct=probabilities[-1] if probabilities else None,
    )  # fmt: skip


def test_distributions_are_shares_of_chats_and_of_messages_and_endings_are_counted() -> None:
    person = Conversation("c", "q", "w", "ai", "", (Turn("user", "one two"), Turn("assistant", "ok")), "A")
    found = chat_distributions([person], {"fine-tuned": [chat("one"), chat("one", "two three"), chat(*["x"] * 40)]})

    turns, first, later = found["turns"], found["firstWords"], found["laterWords"]
    assert turns["fine-tuned"] == [[1, 0.33333], [2, 0.33333], [MOST_TURNS, 0.33333]]  # type: ignore[index]
    assert (first["people"], first["fine-tuned"]) == ([[2, 1.0]], [[1, 1.0]])  # type: ignore[index]
    assert later["people"] == []
    assert later["fine-tuned"] == [[1, 0.975], [2, 0.025]]
    assert found["chats"] == {"people": 1, "fine-tuned": 3}
    endings = terminations({"fine-tuned": [chat("a"), chat("b"), chat("c", letter=None)]})
    assert [(row["termination"], row["chats"]) for row in endings] == [("answered", 2), ("no_answer", 1)]


def test_probabilities_are_means_per_turn_over_the_chats_that_came_so_far() -> None:
    chats = [chat("a", probabilities=(0.2, 0.9)), chat("b", probabilities=(0.4,))]
    found = answer_probabilities({"fine-tuned": chats, "base model": [chat("c")]})["predictors"]

    assert list(found) == ["fine-tuned"]  # type: ignore[call-overload]  # who gave none is left out
    assert found["fine-tuned"]["answering"] == [[1, 0.3, 2], [2, 0.9, 1]]  # type: ignore[index]
    assert found["fine-tuned"]["right"] == [[8, 0.5], [18, 0.5]]  # type: ignore[index]  # of 20 bins
    assert answer_probabilities({"base model": [chat("c")]}) == {}


def test_a_curve_has_the_points_that_are_numbers_and_splits_stand_in_order(tmp_path: Path) -> None:
    # In the order of the alphabet split_10 comes before split_2; NaN would not be JSON.
    for split in ("split_2", "split_10"):
        folder = tmp_path / "models" / "tiny" / split
        folder.mkdir(parents=True)
        nan = float("nan")
        lines = [{"step": 5, "loss": 0.5, "epoch": 0.1}, {"step": 6, "loss": nan}, {"step": 7, "eval_loss": 0.4}]
        (folder / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    found = training_curves("tiny", Workspace(results=tmp_path))

    assert [curve["split"] for curve in found] == ["split_2", "split_10"]
    assert found[0]["points"] == [{"step": 5, "epoch": 0.1, "loss": 0.5}, {"step": 7, "eval_loss": 0.4}]


def test_the_page_holds_the_rows_of_the_scores_file_and_nothing_of_the_signature_but_words(finished: Workspace) -> None:
    first = first_of(finished)
    stored = read_json(finished.scores("tiny"))
    [run] = first["runs"]

    assert run["scores"]["rows"] == stored["figures"]
    assert set(run["scores"]["strata"]) == set(stored["parts"])
    assert not set(stored["signature"]) & set(run["scores"])
    assert first["comparison"] is None


def test_of_conditions_and_subsets_the_page_holds_agreement_only_and_a_warning_stands_apart(tmp_path: Path) -> None:
    scores = [Score("split_0", "all", FINE_TUNED, metric, 0.5, "subset a") for metric in ("mae", "bleu")]
    silent = Score("split_0", "all", FINE_TUNED, "without_answer_share", 1.0)
    table = ScoreTable("tiny", ("split_0",), 6, 4, (*scores, silent), {})
    write_score_table(tmp_path, "tiny", table)
    found = run_scores(table, tmp_path / "tiny.json")

    assert [row["metric"] for row in found["strata"]["subset a"]] == ["mae"]  # type: ignore[index]
    assert found["warning"] == table.warning != ""
    assert table.warning not in found["notes"]  # type: ignore[operator]  # a list


NUMBER = Question("q", "s", "How far?", (), "1001", Number(tolerance=5, unit="km"))


@pytest.mark.parametrize(
    ("question", "right"),
    [
        (NUMBER, ["1001 km (± 5)"]),
        (replace(NUMBER, kind=Number(tolerance=0.07, relative=True)), ["1001 (± 7 % of it)"]),
        (replace(NUMBER, kind=Number()), ["1001"]),
        (replace(NUMBER, answer="Paris", kind=Text(also=("Lutetia",))), ["Paris", "Lutetia"]),
        (replace(NUMBER, answer="B", options=("1", "2"), kind=CHOICE), []),  # marked among the options
        (None, []),
    ],
)
def test_right_answers_without_options_are_in_words(question: Question | None, right: list[str]) -> None:
    assert question_values("q", question)["right"] == right


def test_two_runs_are_compared_and_a_page_needs_no_names(finished: Workspace, tmp_path: Path) -> None:
    result = report(Shown(finished), tmp_path / "page.HTM")
    first = gather(Shown(finished, ("tiny", "distilgpt2"))).first

    assert result.runs == ("distilgpt2", "tiny")
    assert result.path.stat().st_size == result.size
    pairs = {(f["first"], f["second"]) for f in first["comparison"]["figures"]}  # type: ignore[index]
    assert pairs == {("tiny", "distilgpt2")}


def test_results_without_their_study_make_a_page_that_says_what_is_missing(finished: Workspace, tmp_path: Path) -> None:
    first = first_of(Workspace(tmp_path / "nowhere", finished.results))

    assert {question["text"] for question in first["questions"]} == {""}
    assert [text for text in first["missing"] if "no prepared splits" in text]
    assert str(tmp_path) not in json.dumps(first)  # a page is mailed: no paths of this machine


def test_a_project_that_was_moved_shows_its_study(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the place where the study was prepared was looked at.
    shutil.copytree(finished.data, tmp_path / "data")
    shutil.copytree(finished.data.parent / "study", tmp_path / "study")
    path = tmp_path / "data" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "study": "study", "study_resolved": "/gone/study"}))
    monkeypatch.chdir(tmp_path)

    first = first_of(Workspace(tmp_path / "data", finished.results))
    assert not [text for text in first["missing"] if "no longer where it was" in text]
    assert all(question["text"] for question in first["questions"])


def test_before_anything_was_simulated_the_commands_that_come_next_are_told(
    finished: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.results / "ppl", tmp_path / "ppl")
    first = first_of(Workspace(finished.data, tmp_path))

    assert [text for text in first["missing"] if "chatbench simulate tiny --assistant SPEC" in text]
    [run] = first["runs"]
    assert run["scores"] is None
    assert {row["predictor"] for row in run["perplexity"]} == {"fine-tuned", "base model"}


def test_a_model_without_results_is_refused_with_those_that_have_some(finished: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="no results of mistral") as refused:
        report(Shown(finished, ("mistral",)), tmp_path / "page.html")

    assert "distilgpt2, tiny" in str(refused.value)
    assert not (tmp_path / "page.html").exists()


def test_results_on_another_disk_find_the_data_beside_their_link(finished: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(finished.data)
    (tmp_path / "disk").mkdir()
    shutil.copytree(finished.results, tmp_path / "disk" / "results")
    (tmp_path / "results").symlink_to(tmp_path / "disk" / "results")

    shown = shown_results([str(tmp_path / "results")], results=tmp_path / "results", data=None)

    assert shown.workspace.data == tmp_path / "data"
    assert shown.workspace.is_prepared


@pytest.mark.parametrize(
    ("out", "folder", "found"),
    [
        ("page.html", True, "a file, not a folder"), ("folder", False, "a folder, not a file"),
        ("r.pdf", False, r"expected: a name that ends in \.html or \.htm\n.*r\.html"),
    ],
)  # fmt: skip
def test_a_place_for_something_else_is_refused_and_nothing_is_written(
    finished: Workspace, tmp_path: Path, out: str, folder: bool, found: str
) -> None:
    (tmp_path / "page.html").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()

    with pytest.raises(ChatbenchError, match=found):
        report(Shown(finished, ("tiny",)), tmp_path / out, folder=folder)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in tmp_path.rglob("*")} == {"page.html", "folder"}


def test_the_published_scores_are_those_of_chatbench_which_its_download_tells(
    finished: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.data.parent, tmp_path / "all")
    study, place = tmp_path / "all" / "study", Workspace(tmp_path / "all" / "data", finished.results)
    manifest = {**read_json(place.data / "manifest.json"), "study": str(study), "study_resolved": str(study)}
    write_json(place.data / "manifest.json", manifest)
    assert first_of(place)["published"] is None

    write_json(study / "download.json", {"source": "microsoft/ChatBench", "revision": "main", "sha256": {}})

    assert first_of(place)["published"]


def test_a_page_in_a_folder_removes_an_earlier_pages_parts_and_nothing_else(
    finished: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    for name in ("chats-999.js", "header.js"):
        (tmp_path / "parts" / name).write_text("", encoding="utf-8")

    report(Shown(finished, ("tiny",)), tmp_path, folder=True)

    assert not (tmp_path / "parts" / "chats-999.js").exists()
    assert (tmp_path / "parts" / "header.js").exists()


def test_the_name_that_is_shown_leads_back_to_the_results() -> None:
    # A folder's name may hold two pairs of hyphens; as a/b/c it would be no name of a model.
    assert [model_key(shown_name(key)) for key in ("a--b--c", "org--name", "tiny")] == ["a--b--c", "org--name", "tiny"]


def test_chats_that_were_simulated_after_the_scores_are_named_with_the_command_by_page_and_show(
    copied: Workspace, tmp_path: Path
) -> None:
    # Old scores stood above the figures of new chats, and nothing said so.
    shown = Shown(copied, ("tiny",))

    def told(split: str = "split_1", *letter: Any, **change: Any) -> list[str]:
        write_log(copied, split, *letter, **change)
        missing = gather(shown).first["missing"]
        assert missing == list(show(shown)[0].missing)
        return missing  # type: ignore[return-value]

    command = "scores of today's chats of tiny ({}): chatbench eval-chatbench tiny"
    assert told() == []  # as it was scored
    assert told(leave_out=1) == told(conversations=6) == told(temperature=0.5) == [command.format("split_1")]
    assert told("split_0", always_wrong, base_model=True, conversations=1, leave_out=1) == [
        command.format("split_0, split_1")
    ]
    assert report(shown, tmp_path / "page.html").missing == (command.format("split_0, split_1"),)
    eval_chatbench("tiny", workspace=copied, splits=["split_0"], resampling=Resampling(0))
    assert told() == [command.format("split_1")]  # a split that the table lacks
    eval_chatbench("tiny", workspace=copied, resampling=Resampling(0))
    assert told() == []


def test_a_table_and_the_questions_of_another_scoring_are_refused_by_page_and_show(copied: Workspace) -> None:
    path = copied.scores("tiny", ".questions.csv")
    path.write_text(path.read_text().replace(read_score_table(path.parent, "tiny").signature_id, "another"))

    for read in (gather, show):
        with pytest.raises(ChatbenchError, match="written with signature another"):
            read(Shown(copied, ("tiny",)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"seed": 7}, "split_seed 7"), ({"by": "person"}, "split_by person"),
        ({"also_questions": True}, "split_by question, also questions"),
    ],
)  # fmt: skip
def test_other_splits_than_those_that_were_scored_are_refused(
    finished: Workspace, tmp_path: Path, change: dict[str, object], found: str
) -> None:
    # The page once showed the chats of people about questions that these scores had not held out.
    data = tmp_path / "data"
    shutil.copytree(finished.data, data)
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps({**manifest, **change}))

    with pytest.raises(ChatbenchError, match=f"prepared with {found}\n"):
        report(Shown(Workspace(data, finished.results), ("tiny",)), tmp_path / "report.html")
