"""Which reader opens what, and the summary that is printed after a study was read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.support.study_files import tiny_folder

from chatbench.core.errors import ChatbenchError
from chatbench.data.open_study import find_study, open_study, summary_text
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.simulation.participants import read_specs


def test_the_summary_has_one_fact_a_line_and_says_what_was_left_out(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    whole = [line.split() for line in summary_text(open_study(folder)).splitlines()]
    path = folder / "full_study" / "conversations.json"
    path.write_text(path.read_text().replace('"role": "user"', '"role": "moderator"', 1))
    lines = [line.split() for line in summary_text(open_study(folder, skip_bad_records=True)).splitlines()]

    assert whole[:6] == [
        ["study", "tiny"],
        ["questions", "all", "10"],
        ["college_mathematics", "5"],
        ["moral_scenarios", "5"],
        ["conversations", "gpt-4o,", "answer-first", "10"],
        ["user", "turns", "mean", "1.90"],  # 1 2 3 1 2 3 1 2 3 1
    ]
    assert ["user-alone", "10"] in whole
    at = whole.index(["accuracy", "gpt-4o", "30.0", "%", "of", "10"])  # B where A, B, C and D were given in turn
    assert whole[at + 1] == ["user-alone", "100.0", "%", "of", "10"]
    assert ["left", "out", "nothing", "0"] in whole
    assert ["left", "out", "unknown", "role", "1"] in lines


def test_the_summary_shows_the_texts_that_match_no_right_answer(tmp_path: Path) -> None:
    # With the sentence that a person handed in as the answer, everything was wrong, and no step said so.
    given = ["It is \x1b[31mParis"] * 3 + ["Rome"] * 4 + [" paris. "] * 9 + ["Oslo"] * 2 + ["Bern", "A" * 60 + "!"] * 3
    question = {"id": "q", "subset": "s", "text": "Capital?", "answer_kind": "text", "answer": ["Paris", "Paname"]}
    same: dict[str, object] = {"kind": "user-AI", "question": question, "turns": None}
    lines = [
        same | {"worker_id": str(at), "assistant": f"m{at // 12}", "answer": text} for at, text in enumerate(given)
    ]
    lines[0] |= {"correct": True}
    (path := tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary_text(open_study(path))

    told = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    at = told.index(["unmatched texts", "'Rome' for 'Paris'", "4"])
    assert told[at - 2 : at] == [["accuracy", "m0", "50.0 % of 12"], ["m1", "33.3 % of 12"]]
    assert told[at + 1 : at + 3] == [[r"'It is \x1b[31mParis' for 'Paris'", "3"], ["'Bern' for 'Paris'", "3"]]
    assert told[at + 3][0] == "left out"


def test_the_kind_of_a_study_is_told_from_its_files(tmp_path: Path) -> None:
    assert open_study(tiny_folder(tmp_path / "tiny")).name == "tiny"
    for path, problem in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "study in a known format")):
        with pytest.raises(ChatbenchError, match=problem) as caught:
            open_study(path)
        assert "ChatBench layout" in caught.value.expected


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
        {"id": "p1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        {"conversation": [{"role": "user", "content": "hi"}]},
    ],
)
def test_chats_of_another_program_are_pointed_to_import(row: dict[str, object], tmp_path: Path) -> None:
    # check-study sent them to prepare-splits, which asked for question ids.
    path = tmp_path / "my logs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    for step in (open_study, lambda path: prepare_splits(path, tmp_path / "data")):
        with pytest.raises(ChatbenchError, match="holds chats of another program") as caught:
            step(path)
        assert caught.value.fix == f"import them: chatbench import '{path}'"


def test_logs_that_look_like_one_question_are_not_told_to_split_by_person(tmp_path: Path) -> None:
    roles = (("system", "You are kind."), ("user", "hi"), ("assistant", "yes"))
    row = {"messages": [{"role": role, "content": text} for role, text in roles]}
    (tmp_path / "log.jsonl").write_text(2 * (json.dumps(row) + "\n"))

    with pytest.raises(ChatbenchError, match="no questions are left") as caught:
        prepare_splits(tmp_path / "log.jsonl", tmp_path / "data")
    assert "--by person" not in caught.value.fix
    assert "chatbench import" in caught.value.fix


def test_a_project_that_was_moved_finds_its_study_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    tiny_folder(Path("tiny"))
    prepare_splits(Path("tiny"), Path("data"), splits=1)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert len(Workspace(Path("data")).study.questions) == 10

    Path("tiny").rename("elsewhere")
    with pytest.raises(ChatbenchError, match="tiny: no such file or folder") as caught:
        Workspace(Path("data")).study  # noqa: B018  # a property that reads files
    assert caught.value.fix == "put it back, or prepare again: chatbench prepare-splits --study tiny"


def test_the_one_study_that_is_there_is_found(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="no study in") as caught:
        find_study(tmp_path)
    assert "chatbench download chatbench" in caught.value.fix
    (tmp_path / "data" / "split_0").mkdir(parents=True)
    (tmp_path / "data" / "prepare_splits.py").touch()
    (tmp_path / "data" / "notes.jsonl").write_text("{}")
    examples = tmp_path / "data" / "mmlu_interactive_full.jsonl"
    examples.write_text('{"messages": []}\n')
    assert find_study(tmp_path) == examples
    folder = tiny_folder(tmp_path / "studies" / "tiny")
    with pytest.raises(ChatbenchError, match="2 studies") as caught:
        find_study(tmp_path)
    assert str(folder) in caught.value.found
    examples.unlink()
    assert find_study(tmp_path) == folder


def test_a_folder_whose_only_study_file_is_study_jsonl_is_that_study(tmp_path: Path) -> None:
    # As `collect export` writes it for questions without four options; with another file beside it, it is ambiguous.
    folder = tmp_path / "studies" / "mine"
    folder.mkdir(parents=True)
    question = {"id": "q", "subset": "s", "text": "Even?", "options": ["no", "yes"], "answer": "B"}
    row = {"kind": "user-alone", "question": question, "worker_id": "w", "answer": "B"}
    (folder / "study.jsonl").write_text(json.dumps(row))
    (folder / "export.json").write_text("{}")

    assert list(open_study(folder).questions) == ["q"]
    assert find_study(tmp_path) == folder / "study.jsonl"
    (folder / "more.jsonl").write_text(json.dumps(row))
    with pytest.raises(ChatbenchError, match="not a study"):
        open_study(folder)


def test_a_study_file_in_data_is_found_as_before(tmp_path: Path) -> None:
    # The folder is not the study: other commands write JSON Lines there.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "study.jsonl").write_text('{"kind": "user-alone"}')

    assert find_study(tmp_path) == tmp_path / "data" / "study.jsonl"


def test_a_folder_called_data_that_is_a_study_is_one_study(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "event_blocks.csv").touch()

    assert find_study(tmp_path) == tmp_path / "data"


@pytest.mark.parametrize("name", ["all", "mean of assistants"])
def test_an_assistant_that_is_called_as_totals_are_is_refused(tmp_path: Path, name: str) -> None:
    # Its rows and those of all assistants were one.
    record = {
        "kind": "user-AI", "worker_id": "w", "assistant": name, "answer": "A", "turns": None,
        "question": {"id": "q", "subset": "s", "text": "Which?", "options": ["1", "2"], "answer": "A"},
    }  # fmt: skip
    path = tmp_path / "study.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")

    with pytest.raises(ChatbenchError, match=f"an assistant is called '{name}'"):
        open_study(path)
    with pytest.raises(ChatbenchError, match=f"an assistant called '{name}'"):
        read_specs([f"{name}=scripted:strong"], ())
