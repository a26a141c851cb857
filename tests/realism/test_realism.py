"""The realism step on hand-made logs: its files, what it prints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.simulated_logs import ASSISTANTS, always_wrong, endpoint, prepared, rewrite_log, write_log

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.realism import realism as module
from chatbench.realism.comparison import realism as compare
from chatbench.realism.realism import RealismSettings, realism, realism_footnotes, realism_grids
from chatbench.realism.termination import Termination


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = prepared(tmp_path)
    write_log(workspace, "split_0")
    return workspace


def measures(path: Path) -> dict[str, dict[str, object]]:
    content = json.loads(path.read_text())
    rows = content["realism"]["comparisons"] if "realism" in content else content["measures"]
    return {row["measure"]: row for row in rows}


def test_a_split_and_the_summary_hold_every_measure_with_its_reference(place: Workspace) -> None:
    write_log(place, "split_1")
    realism("tiny", workspace=place)
    folder = place.results / "realism" / "tiny"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    split, summary = measures(folder / "split_0.json"), measures(folder / "summary.json")

    assert split["first message: copy"]["simulated"] == split["first message: copy"]["people"] == 1
    assert split["user turns"]["people_apart"] == 0
    assert split["length of a follow-up"]["apart"] == {"undefined": "nobody wrote a second message"}
    assert summary.keys() == split.keys()
    assert summary["user turns"]["simulated"] == {
        "mean": 1.0, "standard_error": 0.0, "corrected_standard_error": 0.0, "splits": 2,
    }  # fmt: skip
    assert "people" not in summary["user turns, Wasserstein"]
    assert json.loads((folder / "summary.json").read_text())["signature"]["halvings"] == 20
    realism("tiny", workspace=place)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_held_out_assistant_is_compared_with_its_own_chats(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_splits(place.data.parent / "study", place.data, by="assistant", splits=None)
    place = Workspace(place.data, place.results)
    write_log(place, "split_0")
    given = {}
    monkeypatch.setattr(module, "compare", lambda *sides: given.update(enumerate(sides)) or compare(*sides))
    realism("tiny", workspace=place, splits=["split_0"])

    (held_out,) = place.split("split_0").held_out
    real, simulated, training = ({chat.chat.assistant for chat in given[n]} for n in range(3))
    assert (real, simulated, training) == ({held_out}, {held_out}, set(ASSISTANTS) - {held_out})


def test_the_base_models_chats_have_own_files_and_splits_without_any_are_left_out(place: Workspace) -> None:
    # One such split ended the whole command, with "chatbench simulate MODEL" as its fix.
    write_log(place, "split_1")
    settings = RealismSettings(base_model=True)
    with pytest.raises(ChatbenchError, match="split_0, split_1: no chats of the base model"):
        realism("tiny", workspace=place, settings=settings)
    write_log(place, "split_0", always_wrong, base_model=True, conversations=2)
    simulate = "chatbench simulate tiny --assistant SPEC --base --split split_1"
    table = realism("tiny", workspace=place, settings=settings)

    assert (table.source, list(table.splits)) == ("base model", ["split_0"])
    files = {path.name for path in (place.results / "realism" / "tiny").iterdir()}
    assert files == {"split_0_base.json", "summary_base.json"}
    assert table.notes == (f"split_1: no chats of the base model, left out; {simulate}",)
    with pytest.raises(ChatbenchError, match="split_1: no chats of the base model") as named:
        realism("tiny", workspace=place, splits=["split_1"], settings=settings)
    assert named.value.fix == simulate


def test_a_prompted_simulator_goes_by_its_model_and_style(place: Workspace) -> None:
    write_log(place, "split_0", prompted=endpoint())
    table = realism("tiny", workspace=place)

    assert table.source == "simulator gpt-4o (two-step)"
    assert not any("fine-tuned" in text for grid in realism_grids(table) for text in (grid.title, *grid.header))


LOST = dict.fromkeys(("answer_text", "letter", "lenient_letter", "final_output"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        # Comparing them all the same would lay the assistant's difference to the simulator's charge.
        ({"assistant": "another"}, "split_0, fine-tuned: no question on which people had"),
        ({**LOST, "termination": "failed", "reason": "HTTP 400: no"},
         r"all 40 chats failed \(most common reason: HTTP 400: no\)"),
    ],
)  # fmt: skip
def test_without_comparable_chats_it_is_said_why(place: Workspace, changed: dict[str, object], said: str) -> None:
    rewrite_log(place.conversations("tiny", "split_0"), lambda row: {**row, **changed})

    with pytest.raises(ChatbenchError, match=said):
        realism("tiny", workspace=place)


def test_what_is_printed_names_every_measure_and_what_is_missing(place: Workspace) -> None:
    table = realism("tiny", workspace=place)
    grids, notes = realism_grids(table), realism_footnotes(table)

    assert len(grids[0].rows) == len(table.measures())
    assert next(row for row in grids[0].rows if row[0] == "MATTR")[3] != "–"  # noqa: RUF001  (what a grid shows)
    assert any("split_1: not simulated yet" in note for note in notes)
    assert any(note.startswith("classifier: undefined: 4 questions") for note in notes)


def test_termination_is_read_only_while_it_is_of_the_same_simulator(place: Workspace) -> None:
    # Scores of a model that was trained again since would stand beside chats that it never simulated.
    log = write_log(place, "split_1")
    path = place.results / "realism" / "tiny" / "split_1_termination.json"
    settings = json.loads(log.with_suffix(".run.json").read_text())["settings"]
    depends_on = {
        "weights": settings["simulator"]["weights"], "form": None, "temperature": 1.0,
        "questions_sha256": settings["questions_sha256"], "held_out_sha256": settings["held_out_sha256"],
        "style": "two-step", "points": 40, "opening_tokens": 16,
    }  # fmt: skip
    names = [field.name for field in fields(Termination)]
    scores: dict[str, object] = {**dict.fromkeys(names, 0.5), "calibration_error": {"undefined": "not asked"}}
    write_json(path, {"depends_on": depends_on, "scores": scores})
    table = realism("tiny", workspace=place, splits=["split_1"])
    assert table.termination["split_1"].f1 == 0.5
    assert ("F1 of ending", "0.500") in [row for grid in realism_grids(table) for row in grid.rows]

    for other in ({"weights": "another"}, {"style": "two-step-help"}):
        write_json(path, {"depends_on": {**depends_on, **other}, "scores": scores})
        assert realism("tiny", workspace=place, splits=["split_1"]).termination == {}
        assert read_json(path)


def test_a_simulator_in_another_style_is_not_asked_in_the_two_step_one(place: Workspace) -> None:
    # Its answers, `So, the answer is: B`, would all have counted as going on.
    path = place.conversations("tiny", "split_0").with_suffix(".run.json")
    content = json.loads(path.read_text())
    write_json(path, {**content, "settings": {**content["settings"], "style": "iqa-eval"}})

    with pytest.raises(ChatbenchError, match="prompted in the style iqa-eval"):
        realism("tiny", workspace=place, settings=RealismSettings(termination=True))
