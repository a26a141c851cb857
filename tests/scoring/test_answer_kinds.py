"""Studies of each kind of answer, from their file over prepared splits and simulated chats to scores and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.simulated_logs import write_log

from chatbench.core.records import Question
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import FINE_TUNED, PEOPLE
from chatbench.report.report import report, shown_results
from chatbench.report.tables import score_grids
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_table import ScoreTable

PEOPLE_PER_QUESTION = 5
TURNS = [{"role": "user", "text": "help"}, {"role": "assistant", "text": "Let me see."}]
KINDS: dict[str, tuple[dict[str, object], str, str]] = {
    # keys of the questions, a right answer, a wrong one
    "two options": ({"options": ["true", "false"], "answer": "B"}, "B", "A"),
    "26 options": ({"options": [*"BCDEFGHIJKLMNOPQRSTUVWXYZA"], "answer": "Z"}, "Z", "E"),
    "levels": ({"options": [*"12345"], "answer": "B", "ordered": True}, "B", "E"),
    "number": ({"answer_kind": "number", "answer": 1234.5, "tolerance": 0.01, "relative": True}, "1,230", "1 2/3"),
    "text": ({"answer_kind": "text", "answer": ["Marie Curie", "Curie"]}, "curie.", "B"),
    "outcome": ({"answer_kind": "outcome"}, "", ""),
    "none": ({"answer_kind": "none"}, "", ""),
}
WORDS = ["apples", "books", "chairs", "ducks", "eggs", "forks", "goats", "hats", "inks", "jars"]


def write_study(path: Path, kind: str) -> Path:
    """Ten questions; of five people about question n, n // 2 are right."""
    keys, right, wrong = KINDS[kind]
    rows = []
    for number, word in enumerate(WORDS):
        text = f"Is B, or {word} by {number * 7} {word}, what {word} mean?"
        question: object = {"id": f"q{number}", "subset": "all", "text": text, **keys}
        for person in range(PEOPLE_PER_QUESTION):
            is_right = person < number // 2
            row = {"kind": "user-AI", "question": question, "worker_id": f"w{number}{person}", "assistant": "gpt-4o"}
            given = {"outcome": {"correct": is_right}, "none": {}}.get(kind, {"answer": right if is_right else wrong})
            rows.append({**row, "turns": TURNS, **given})
            question = f"q{number}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(folder: Path, kind: str) -> tuple[Workspace, ScoreTable]:
    """Chats of simulated users who are right as often as people are."""
    place = Workspace(folder / "data", folder / "results")
    prepare_splits(write_study(folder / "study.jsonl", kind), place.data, splits=1)
    _, right, wrong = KINDS[kind]

    def answered(question: Question, _assistant: str, index: int) -> str:
        return (right if index < int(question.id[1:]) // 2 else wrong) or "done"

    write_log(place, "split_0", answered, assistants=["gpt-4o"], of=[*place.study.questions.values()])
    return place, eval_chatbench("tiny", workspace=place)


@pytest.mark.parametrize("kind", [kind for kind, (_, right, _) in KINDS.items() if right])
def test_who_is_right_as_often_as_people_has_no_error_whatever_is_asked(kind: str, tmp_path: Path) -> None:
    # A letter compared with the right letter of four, or a text compared as it was written, is the likely mistake.
    place, table = scored(tmp_path, kind)

    values = {(p, metric): estimate.mean for (who, p, metric), estimate in table.estimates().items() if who == "all"}
    assert values[FINE_TUNED, "mae"] == 0
    assert values[FINE_TUNED, "accuracy"] == values[PEOPLE, "accuracy"] > 0
    assert values[FINE_TUNED, "invalid_share"] == 0
    shown = json.dumps([grid.title for grid in score_grids([table])])
    assert "How the chats went" in shown
    # Wrong ones chose E for B: three levels off, right ones none.
    accuracy = values[PEOPLE, "accuracy"]
    levels = {p: values.get((p, "level_error")) for p in (PEOPLE, FINE_TUNED)}
    wanted = pytest.approx(3 * (1 - accuracy)) if kind == "levels" else None  # type: ignore[operator]
    assert levels == {PEOPLE: wanted, FINE_TUNED: wanted}
    made = report(shown_results([str(place.results)], results=place.results, data=place.data), tmp_path / "page.html")
    assert made.lines()


@pytest.mark.parametrize(("kind", "note"), [("outcome", "not scored"), ("none", "no accuracy")])
def test_without_a_comparison_no_accuracy_is_made_up_and_a_note_says_why(kind: str, note: str, tmp_path: Path) -> None:
    # Chats that cannot be judged, counted as wrong, would give an accuracy of 0: the likely mistake.
    _, table = scored(tmp_path, kind)

    assert any(note in each for each in table.notes)
    assert not [
        score for score in table.scores
        if score.metric == "accuracy" and score.predictor == FINE_TUNED and isinstance(score.value, float)
    ]  # fmt: skip
