"""Which reader opens what, the summary that is printed after a study was read, and HALIE."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from tests.support.study_files import shared_data, tiny_folder

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl
from chatbench.core.records import Turn
from chatbench.data.open_study import find_study, open_study, read_halie, summary_text
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
    lines: list[dict[str, object]] = [
        {"kind": "user-AI", "question": question, "turns": None, "worker_id": str(at), "assistant": f"m{at // 12}",
         "answer": text} for at, text in enumerate(given)
    ]  # fmt: skip
    lines[0] |= {"correct": True}
    write_jsonl(tmp_path / "own.jsonl", lines)
    text = summary_text(open_study(tmp_path / "own.jsonl"))

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
    write_jsonl(path := tmp_path / "my logs.jsonl", [row])
    for step in (open_study, lambda path: prepare_splits(path, tmp_path / "data")):
        with pytest.raises(ChatbenchError, match="holds chats of another program") as caught:
            step(path)
        assert caught.value.fix == f"import them: chatbench import '{path}'"


def test_logs_that_look_like_one_question_are_not_told_to_split_by_person(tmp_path: Path) -> None:
    roles = (("system", "You are kind."), ("user", "hi"), ("assistant", "yes"))
    row = {"messages": [{"role": role, "content": text} for role, text in roles]}
    write_jsonl(tmp_path / "log.jsonl", [row, row])

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
    question = {"id": "q", "subset": "s", "text": "Even?", "options": ["no", "yes"], "answer": "B"}
    row = {"kind": "user-alone", "question": question, "worker_id": "w", "answer": "B"}
    write_jsonl(folder / "study.jsonl", [row])
    (folder / "export.json").write_text("{}")

    assert list(open_study(folder).questions) == ["q"]
    assert find_study(tmp_path) == folder / "study.jsonl"
    write_jsonl(folder / "more.jsonl", [row])
    with pytest.raises(ChatbenchError, match="not a study"):
        open_study(folder)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("study.jsonl", '{"kind": "user-alone"}', "data/study.jsonl"),  # other commands write JSON Lines there
        ("event_blocks.csv", "", "data"),
    ],
)
def test_a_study_in_data_is_that_file_or_if_only_its_name_tells_the_folder(
    name: str, content: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(content)

    assert find_study(tmp_path) == tmp_path / found


@pytest.mark.parametrize("name", ["all", "mean of assistants"])
def test_an_assistant_that_is_called_as_totals_are_is_refused(tmp_path: Path, name: str) -> None:
    # Its rows and those of all assistants were one.
    record = {
        "kind": "user-AI", "worker_id": "w", "assistant": name, "answer": "A", "turns": None,
        "question": {"id": "q", "subset": "s", "text": "Which?", "options": ["1", "2"], "answer": "A"},
    }  # fmt: skip
    write_jsonl(tmp_path / "study.jsonl", [record])

    with pytest.raises(ChatbenchError, match=f"an assistant is called '{name}'"):
        open_study(tmp_path / "study.jsonl")
    with pytest.raises(ChatbenchError, match=f"an assistant called '{name}'"):
        read_specs([f"{name}=scripted:strong"], ())


ROW = {
    "worker_id": "w1", "model": "Davinci", "question_id": "7", "question_type": "lm",
    "question_category": "Global facts", "question_text": "How many believed it?", "choice_a": "79%",
    "choice_b": "98%", "choice_c": "33%", "choice_d": "57%", "answer": "d", "lm_used": "1",
    "user_queries": "['who believed it', \"and 'why'\"]", "lm_responses": "['57%', '']", "user_answer": "c",
    "user_correct": "0",
}  # fmt: skip
"""A row of HALIE's file."""


def halie(folder: Path, *changes: dict[str, str]) -> Path:
    path = folder / "event_blocks.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROW))
        writer.writeheader()
        writer.writerows([{**ROW, **change} for change in changes])
    return path


def test_a_row_with_the_model_is_a_conversation_and_an_answer(tmp_path: Path) -> None:
    study = read_halie(halie(tmp_path, {}))
    question, chat, answer = study.questions["global_facts-halie-7"], study.conversations[0], study.answers[0]

    assert (question.subset, question.answer) == ("global_facts", "D")
    assert [turn.text for turn in chat.turns] == ["who believed it", "57%", "and 'why'", ""]
    assert (chat.assistant, chat.condition, chat.answer) == ("Davinci", "direct-to-AI", "C")
    assert (answer.kind, answer.letter, answer.correct, answer.conversation_id) == ("user-AI", "C", False, chat.id)
    assert study.notes == ("1 x empty assistant messages, kept as they were",)


def test_who_answers_without_asking_is_an_answer_without_a_conversation(tmp_path: Path) -> None:
    # Dropping the row would raise the accuracy of people who did ask: the likely mistake.
    study = read_halie(halie(tmp_path, {"lm_used": "0", "user_queries": "[]", "lm_responses": "[]"}))

    assert study.conversations == ()
    assert [(a.kind, a.conversation_id) for a in study.answers] == [("user-AI", "")]
    assert study.notes == ("1 x user-AI answers without asking (lm_used=0)",)


def test_a_blank_query_of_halie_and_its_reply_are_left_out_and_counted(tmp_path: Path) -> None:
    study = read_halie(halie(tmp_path, {"user_queries": "['', 'so?']", "lm_responses": "['odd', 'yes']"}))

    assert study.conversations[0].turns == (Turn("user", "so?"), Turn("assistant", "yes"))
    assert study.notes == ("1 x blank queries, left out with their replies",)


def test_control_rows_are_answers_alone_and_attention_rows_are_counted(tmp_path: Path) -> None:
    nothing = {"lm_used": "0", "user_queries": "[]", "lm_responses": "[]"}
    alone, check = {**nothing, "question_type": "ctrl"}, {**nothing, "question_type": "attn", "question_id": "30"}
    study = read_halie(halie(tmp_path, alone, check))

    assert [a.kind for a in study.answers] == ["user-alone"]
    assert study.dropped == {"attention check": 1}
    assert list(study.questions) == ["global_facts-halie-7"]


def test_a_repeated_answer_of_halie_is_counted_with_its_chat(tmp_path: Path) -> None:
    study = read_halie(halie(tmp_path, {}, {"user_answer": "d", "user_correct": "1"}))

    assert [a.letter for a in study.answers] == ["C"]
    assert len(study.conversations) == 1
    assert sum(study.dropped.values()) == 1


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"user_answer": "e"}, "user_answer", "letter outside A-D"),
        ({"answer": "5"}, "answer", "letter outside A-D"),
        ({"question_type": "chat"}, "question_type", "unknown kind of answer"),
        ({"lm_responses": "['57%']"}, "lm_responses", "queries and responses of unequal number"),
        ({"user_queries": "['who"}, "user_queries", "not a list of texts"),
        ({"user_correct": "2"}, "user_correct", "user_correct that is neither 0 nor 1"),
        ({"question_text": "Another?", "worker_id": "w2"}, "question_id", "duplicate question id"),
        ({"worker_id": ""}, "worker_id", "blank worker_id"),
    ],
)
def test_a_bad_row_of_halie_is_named_or_left_out_and_counted(
    tmp_path: Path, change: dict[str, str], column: str, reason: str
) -> None:
    path = halie(tmp_path, {}, change)

    with pytest.raises(ChatbenchError, match=rf"event_blocks.csv, row 3, column '{column}'"):
        read_halie(path)
    study = read_halie(path, skip_bad_records=True)
    assert study.dropped == {reason: 1}
    assert len(study.answers) == 1
    path.write_text(path.read_text().replace("lm_used", "used"))
    with pytest.raises(ChatbenchError, match="row 1: no column for lm used"):
        read_halie(path)


def test_the_real_halie_holds_30_questions_and_1220_conversations() -> None:
    # Counted in the file with the csv module alone: 1,410 lm rows, of which 183 have lm_used=0, 6 have no query and
    # 1 has only a blank one; 1,410 ctrl rows; 282 attention rows.
    study = open_study(shared_data("halie"))

    assert study.questions_per_subset == dict.fromkeys(
        ("college_chemistry", "global_facts", "miscellany", "nutrition", "us_foreign_policy"), 6
    )
    assert len(study.conversations) == 1410 - 183 - 6 - 1
    assert len(study.answers) == 2820
    assert study.dropped == {"attention check": 282}
    assert study.assistants == ("Davinci", "InstructBabbage", "InstructDavinci", "Jumbo")
    assert "183 x user-AI answers without asking (lm_used=0)" in study.notes
    assert "7 x answers with lm_used=1 but no query: no conversation" in study.notes
