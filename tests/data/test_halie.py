"""HALIE: the rows of a small file written here, and the counts of the real one where it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tests.support.study_files import shared_data

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Turn
from chatbench.data.open_study import open_study, read_halie

ROW = {
    "worker_id": "w1",
    "model": "Davinci",
    "question_id": "7",
    "question_type": "lm",
    "question_category": "Global facts",
    "question_text": "How many believed it?",
    "choice_a": "79%",
    "choice_b": "98%",
    "choice_c": "33%",
    "choice_d": "57%",
    "answer": "d",
    "lm_used": "1",
    "user_queries": "['who believed it', \"and 'why'\"]",
    "lm_responses": "['57%', '']",
    "user_answer": "c",
    "user_correct": "0",
}


def write(folder: Path, *changes: dict[str, str]) -> Path:
    path = folder / "event_blocks.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROW))
        writer.writeheader()
        writer.writerows([{**ROW, **change} for change in changes])
    return path


def test_a_row_with_the_model_is_a_conversation_and_an_answer(tmp_path: Path) -> None:
    study = read_halie(write(tmp_path, {}))
    question, chat, answer = study.questions["global_facts-halie-7"], study.conversations[0], study.answers[0]

    assert (question.subset, question.answer) == ("global_facts", "D")
    assert chat.turns == (
        Turn("user", "who believed it"),
        Turn("assistant", "57%"),
        Turn("user", "and 'why'"),
        Turn("assistant", ""),
    )
    assert (chat.assistant, chat.condition, chat.answer) == ("Davinci", "direct-to-AI", "C")
    assert (answer.kind, answer.letter, answer.correct, answer.conversation_id) == ("user-AI", "C", False, chat.id)
    assert study.notes == ("1 x empty assistant messages, kept as they were",)


def test_who_answers_without_asking_is_an_answer_without_a_conversation(tmp_path: Path) -> None:
    # Dropping the row would raise the accuracy of people who did ask: the likely mistake.
    study = read_halie(write(tmp_path, {"lm_used": "0", "user_queries": "[]", "lm_responses": "[]"}))

    assert study.conversations == ()
    assert [(a.kind, a.conversation_id) for a in study.answers] == [("user-AI", "")]
    assert study.notes == ("1 x user-AI answers without asking (lm_used=0)",)


def test_a_blank_query_and_its_reply_are_left_out_and_counted(tmp_path: Path) -> None:
    study = read_halie(write(tmp_path, {"user_queries": "['', 'so?']", "lm_responses": "['odd', 'yes']"}))

    assert study.conversations[0].turns == (Turn("user", "so?"), Turn("assistant", "yes"))
    assert study.notes == ("1 x blank queries, left out with their replies",)


def test_control_rows_are_answers_alone_and_attention_rows_are_counted(tmp_path: Path) -> None:
    nothing = {"lm_used": "0", "user_queries": "[]", "lm_responses": "[]"}
    study = read_halie(
        write(tmp_path, {**nothing, "question_type": "ctrl"}, {**nothing, "question_type": "attn", "question_id": "30"})
    )

    assert [a.kind for a in study.answers] == ["user-alone"]
    assert study.dropped == {"attention check": 1}
    assert list(study.questions) == ["global_facts-halie-7"]


def test_a_repeated_answer_is_counted_with_its_chat(tmp_path: Path) -> None:
    study = read_halie(write(tmp_path, {}, {"user_answer": "d", "user_correct": "1"}))

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
def test_a_bad_row_is_named_or_left_out_and_counted(
    tmp_path: Path, change: dict[str, str], column: str, reason: str
) -> None:
    path = write(tmp_path, {}, change)

    with pytest.raises(ChatbenchError, match=rf"event_blocks.csv, row 3, column '{column}'"):
        read_halie(path)
    study = read_halie(path, skip_bad_records=True)
    assert study.dropped == {reason: 1}
    assert len(study.answers) == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    path.write_text(path.read_text().replace("lm_used", "used"))

    with pytest.raises(ChatbenchError, match="row 1: no column for lm used"):
        read_halie(path)


def test_the_real_file_holds_30_questions_and_1220_conversations() -> None:
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
