"""A user's own chats as JSON Lines, with the documented example as the first input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.study_files import REPOSITORY

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Turn
from chatbench.data.open_study import open_study
from chatbench.data.own_chats import read_chat_jsonl
from chatbench.data.prepare_splits import prepare_splits

Record = dict[str, object]
QUESTION: Record = {"id": "q1", "subset": "s", "text": "What?", "options": ["a", "b", "c", "d"], "answer": "C"}
CHAT: Record = {
    "kind": "user-AI",
    "question": QUESTION,
    "worker_id": "w1",
    "assistant": "m",
    "turns": [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "yes"}],
    "answer": "C",
}


def write(folder: Path, *records: Record) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def documented_example() -> str:
    page = (REPOSITORY / "docs" / "own-study.md").read_text(encoding="utf-8")
    return page.split("```jsonl\n")[1].split("```")[0]


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fractions.jsonl"
    path.write_text(documented_example(), encoding="utf-8")
    study = open_study(path)

    assert study.name == "fractions"
    assert study.questions["fractions-1"].answer == "C"
    assert study.conversations[0].turns[0] == Turn("user", "how do i add 1/2 and 1/4")
    assert [(a.worker_id, a.kind, a.correct) for a in study.answers] == [
        ("w1", "user-AI", True),
        ("w2", "user-alone", False),
        ("w3", "user-AI", True),
    ]
    assert study.ai_alone == (AiAloneScore("fractions-1", "my-model", "free_text", 50, 0.92, 1),)
    assert study.notes == ("1 x user-AI answers without asking (turns is null)",)


def test_role_names_of_chat_logs_are_understood(tmp_path: Path) -> None:
    turns = [{"role": "You", "text": "hi"}, {"role": "Bot", "text": "yes"}]

    assert read_chat_jsonl(write(tmp_path, {**CHAT, "turns": turns})).conversations[0].turns[1].role == "assistant"


def test_a_second_answer_of_the_same_person_is_counted_and_left_out(tmp_path: Path) -> None:
    study = read_chat_jsonl(write(tmp_path, CHAT, {**CHAT, "answer": "A"}))

    assert [a.letter for a in study.answers] == ["C"]
    assert sum(study.dropped.values()) == 1


NO_REPLY = [{"role": "user", "text": "hi"}]
BAD = [
    ({"answer": "E"}, "key 'answer'", "bad value of answer"),
    ({"kind": "chat"}, "key 'kind'", "bad value of kind"),
    ({"worker": "w1"}, "key 'worker'", "bad value of worker"),
    ({"worker_id": ""}, "key 'worker_id'", "bad value of worker_id"),
    ({"turns": []}, "key 'turns': no message", "empty conversation"),
    ({"turns": NO_REPLY}, "key 'turns': conversation", "turns out of order"),
    ({"turns": [{"role": "moderator", "text": "hi"}]}, "key 'turns.0.role': role 'moderator'", "unknown role"),
    ({"turns": [{"role": "user", "text": " "}]}, "key 'turns.0.text': no text", "empty user message"),
    ({"question": "q9"}, "key 'question': 'q9'", "record about an unknown question"),
    ({"question": {**QUESTION, "text": "Which?"}}, "key 'question.id': 'q1' with other", "duplicate question id"),
    (
        {"question": {**QUESTION, "id": "q2", "answer": "c"}},
        "key 'question.answer': 'c'",
        "bad value of question.answer",
    ),
    (
        {"question": {**QUESTION, "id": "q2", "options": ["a"]}},
        "key 'question.options",
        "bad value of question.options.1",
    ),
]


@pytest.mark.parametrize(("change", "place", "reason"), BAD)
def test_a_bad_record_is_named_with_line_and_key_or_left_out_and_counted(
    tmp_path: Path, change: Record, place: str, reason: str
) -> None:
    path = write(tmp_path, CHAT, {**CHAT, "worker_id": "w2", **change})

    with pytest.raises(ChatbenchError) as caught:
        read_chat_jsonl(path)
    assert f"mine.jsonl, line 2, {place}" in str(caught.value)
    assert "--skip-bad-records" in caught.value.fix
    assert read_chat_jsonl(path, skip_bad_records=True).dropped == {reason: 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "chat"}, "key 'kind': 'chat'\n  expected: user-AI, user-alone or ai-alone"),
        ({"kind": None}, "key 'kind': None\n  expected: user-AI"),
        ({"question": 7}, "key 'question': 7\n  expected: the question in full"),
        ({"question": {**QUESTION, "options": [*"abcde"]}}, "expected: a list of four texts"),
        ({"turns": "hi"}, "key 'turns': 'hi'\n  expected: a list of messages"),
        ({"turns": [{"role": "user"}]}, "key 'turns.0.text': missing\n  expected: a value"),
        ({"wroker": "w"}, "key 'wroker': an unknown key\n  expected: only the keys"),
        ({"answer": 1}, "key 'answer': 1\n  expected: one of 'A', 'B', 'C' or 'D'"),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_schema_and_not_of_a_library(
    tmp_path: Path, change: Record, said: str
) -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_chat_jsonl(write(tmp_path, {**CHAT, **change}))
    assert said in str(caught.value)
    assert not [
        word for word in ("Input should", "Field required", "tag", "discriminator") if word in str(caught.value)
    ]


def test_half_a_character_is_replaced_and_can_be_prepared(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "hi \ud83d"}, {"role": "assistant", "text": "yes"}]
    others = [
        {**CHAT, "question": {**QUESTION, "id": f"q{n}", "text": f"What is {n}?"}, "turns": turns} for n in range(4)
    ]
    study = read_chat_jsonl(write(tmp_path, *others))

    assert study.conversations[0].turns[0].text == "hi \ufffd"
    assert study.notes == ("4 x half characters (lone surrogates), replaced by U+FFFD",)
    assert prepare_splits(tmp_path / "mine.jsonl", tmp_path / "data", splits=1).manifest.counts["questions"] == 4


def test_roles_of_any_name_are_settled_by_map(tmp_path: Path) -> None:
    turns = [{"role": "Ada", "text": "hi"}, {"role": "ELIZA", "text": "yes"}]
    path = write(tmp_path, {**CHAT, "turns": turns})

    with pytest.raises(ChatbenchError, match=r"role 'Ada'; the chats hold 1 x 'Ada', 1 x 'ELIZA'") as caught:
        open_study(path)
    assert "--map role.Ada=" in caught.value.fix
    assert open_study(path, maps=["role.Ada=user", "role.ELIZA=assistant"]).conversations[0].turns[1].text == "yes"


def test_a_half_written_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, CHAT, CHAT)
    path.write_text(path.read_text()[:-30])

    with pytest.raises(ChatbenchError, match=r"mine.jsonl, line 2: not JSON"):
        read_chat_jsonl(path)
