"""A user's own chats as JSON Lines, with the documented example as the first input."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.support.study_files import REPOSITORY

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Turn
from chatbench.data.examples import examples_of
from chatbench.data.open_study import open_study
from chatbench.data.own_chats import read_chat_jsonl, turns_of
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
UNANSWERED = {key: value for key, value in CHAT.items() if key != "answer"}


def about(**change: object) -> Record:
    """The chat's question, changed."""
    return {"question": {**QUESTION, "id": "q2", **change}}


def write(folder: Path, *records: Record) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "own-study.md").read_text(encoding="utf-8")
    path = tmp_path / "fractions.jsonl"
    path.write_text(page.split("```jsonl\n")[1].split("```")[0], encoding="utf-8")
    study = open_study(path)

    assert study.name == "fractions"
    assert study.questions["fractions-1"].answer == "C"
    assert study.conversations[0].turns[0] == Turn("user", "how do i add 1/2 and 1/4")
    assert [(a.worker_id, a.kind, a.correct) for a in study.answers] == [
        ("w1", "user-AI", True), ("w2", "user-alone", False), ("w3", "user-AI", True)
    ]  # fmt: skip
    assert study.ai_alone == (AiAloneScore("fractions-1", "my-model", "free_text", 50, 0.92, 1),)
    assert study.notes == ("1 x user-AI answers without asking (turns is null)",)


def test_a_second_answer_of_the_same_person_is_counted_and_left_out(tmp_path: Path) -> None:
    study = read_chat_jsonl(write(tmp_path, CHAT, {**CHAT, "answer": "A"}))

    assert [a.letter for a in study.answers] == ["C"]
    assert sum(study.dropped.values()) == 1


BAD: list[tuple[Record, str, str]] = [
    ({"answer": "E"}, "key 'answer'", "bad value of answer"),
    ({"kind": "chat"}, "key 'kind'", "bad value of kind"),
    ({"worker": "w1"}, "key 'worker'", "bad value of worker"),
    ({"worker_id": ""}, "key 'worker_id'", "bad value of worker_id"),
    ({"turns": []}, "key 'turns': no message", "empty conversation"),
    ({"turns": [{"role": "user", "content": [{"text": "hi"}]}]}, "key 'turns': message 0", "bad value of turns"),
    ({"turns": [{"role": "user", "text": "a", "content": "b"}]}, "key 'turns.0': both text and", "bad value of turns"),
    ({"answer": None}, "key 'answer': missing", "bad value of answer"),
    ({"turns": [{"role": "moderator", "text": "hi"}]}, "key 'turns.0.role': role 'moderator'", "unknown role"),
    ({"question": "q9"}, "key 'question': 'q9'", "record about an unknown question"),
    (about(id="q1", text="Which?"), "key 'question.id': 'q1' with different", "duplicate question id"),
    (about(unit="km"), "key 'question.answer': unit does not apply", "bad value of question.answer"),
    (about(answer="c"), "key 'question.answer': answer 'c'", "bad value of question.answer"),
    (about(options=["a"]), "key 'question.options", "bad value of question.options"),
    (about(answer_kind="none", answer=None) | {"turns": []}, "key 'question.options': answer_kind none, but it has opt",
     "bad value of question.options"),
]  # fmt: skip


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
        (about(options="abcd"), "expected: a list of texts"),
        (about(options=[*"abcdefghijklmnopqrstuvwxyz?"]), "27 options\n  expected: 2 to 26"),
        ({"turns": "hi"}, "key 'turns': 'hi'\n  expected: a list of messages"),
        ({"turns": [{"text": "hi"}]}, "key 'turns.0.role': missing\n  expected: a value"),
        ({"wroker": "w"}, "key 'wroker': an unknown key\n  expected: the key 'worker_id'"),
        ({"zz": "w"}, "key 'zz': an unknown key\n  expected: only the keys"),
        (about(choices=[]), "key 'question.choices': an unknown key\n  expected: only the keys"),
        ({"answer": 1}, "key 'answer': 1\n  expected: one of A, B, C, D"),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_schema_and_not_of_a_library(
    tmp_path: Path, change: Record, said: str
) -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_chat_jsonl(write(tmp_path, {**CHAT, **change}))
    assert said in str(caught.value)
    of_library = ("Input should", "Field required", "tag", "discriminator")
    assert not [word for word in of_library if word in str(caught.value)]


def test_a_bad_first_record_does_not_take_the_others_about_its_question_with_it(tmp_path: Path) -> None:
    others = [{**CHAT, "question": "q1", "worker_id": worker} for worker in ("w2", "w3")]
    study = read_chat_jsonl(write(tmp_path, {**CHAT, "answer": "E"}, *others), skip_bad_records=True)

    assert [answer.worker_id for answer in study.answers] == ["w2", "w3"]
    assert study.dropped == {"bad value of answer": 1}


def test_a_file_of_bad_records_only_says_what_was_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, {**CHAT, "answer": "E"}, {**CHAT, "kind": "chat"}, {**CHAT, "answer": "F"})

    said = "no records; left out: 2 x bad value of answer; left out: 1 x bad value of k"
    with pytest.raises(ChatbenchError, match=said):
        read_chat_jsonl(path, skip_bad_records=True)


@pytest.mark.parametrize("score", [5, -1, 1.5])
def test_scores_on_another_scale_are_refused_even_where_bad_records_are_skipped(tmp_path: Path, score: float) -> None:
    rated = {**CHAT, "question": {"id": "q", "subset": "s", "text": "?", "answer_kind": "outcome"}, "answer": "a"}
    path = write(tmp_path, {**rated, "correct": 1}, {**rated, "worker_id": "w2", "correct": score})

    with pytest.raises(ChatbenchError, match=f"line 2, key 'correct': {score}\n  expected: true or false") as error:
        read_chat_jsonl(path, skip_bad_records=True)
    assert "(x - 1) / 4" in error.value.fix


def test_the_log_of_a_product_is_to_be_imported(tmp_path: Path) -> None:
    # Skipping bad records was advised, and left out all of them.
    path = write(tmp_path, {"session": 1, "role": "user", "text": "hi"}, {"session": 1, "role": "bot", "text": "yo"})
    for skip, said in ((False, "line 1, key 'kind': missing"), (True, "left out: 2 x bad value of kind")):
        with pytest.raises(ChatbenchError, match=said) as caught:
            open_study(path, skip_bad_records=skip)
        assert caught.value.fix.endswith(f"chatbench import {path} --draft map.toml")
    later = write(tmp_path, CHAT, {"session": 1})
    with pytest.raises(ChatbenchError, match=r"line 2, key 'kind': missing\n  expected: user-AI") as caught:
        open_study(later)
    assert "--skip-bad-records" in caught.value.fix


def test_half_a_character_is_replaced_and_can_be_prepared(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "hi \ud83d"}, {"role": "assistant", "text": "yes"}]
    others = (about(id=f"q{n}", text=f"What is {n}?") for n in range(4))
    study = read_chat_jsonl(write(tmp_path, *({**CHAT, "turns": turns, **each} for each in others)))

    assert study.conversations[0].turns[0].text == "hi \ufffd"
    assert study.notes == ("4 x half characters (lone surrogates), replaced by U+FFFD",)
    assert prepare_splits(tmp_path / "mine.jsonl", tmp_path / "data", splits=1).manifest.counts["questions"] == 4


def test_roles_of_any_name_are_settled_by_map(tmp_path: Path) -> None:
    known = [{"role": "You", "text": "hi"}, {"role": "Bot", "text": "yes"}]
    assert read_chat_jsonl(write(tmp_path, {**CHAT, "turns": known})).conversations[0].turns[1].role == "assistant"
    turns = [{"role": "Ada", "text": "hi"}, {"role": "ELIZA", "text": "yes"}]
    path = write(tmp_path, {**CHAT, "turns": turns})

    with pytest.raises(ChatbenchError, match=r"role 'Ada'; the chats hold 1 x 'Ada', 1 x 'ELIZA'") as caught:
        open_study(path)
    assert "--map role.Ada=" in caught.value.fix
    assert open_study(path, maps=["role.Ada=user", "role.ELIZA=assistant"]).conversations[0].turns[1].text == "yes"


KINDS = [
    # question's own keys, what people answered, as it is read, whether it is right
    ({"options": ["true", "false"], "answer": "B"}, {"answer": "B"}, "B", True),
    ({"options": ["B", "A"], "answer": "A"}, {"answer": "B"}, "B", False),  # a letter is a label, not the option's text
    ({"options": [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], "answer": "Z"}, {"answer": "Z"}, "Z", True),
    ({"answer_kind": "number", "answer": 0.5, "tolerance": 0.01}, {"answer": "about 1/2"}, "0.5", True),
    ({"answer_kind": "number", "answer": "1,200", "unit": "km"}, {"answer": 1200}, "1200", True),
    ({"answer_kind": "text", "answer": ["Paris", "Lutetia"]}, {"answer": " lutetia."}, "lutetia.", True),
    ({"answer_kind": "text", "answer": "Paris"}, {"answer": "Rome", "correct": True}, "Rome", True),  # as recorded
    ({"answer_kind": "text", "answer": 1969}, {"answer": "1969"}, "1969", True),  # not 1969.0
    ({"answer_kind": "text", "answer": "1969"}, {"answer": 1969.0}, "1969", True),
    ({"answer_kind": "outcome"}, {"answer": 7, "correct": True}, "7", True),
    ({"answer_kind": "outcome"}, {"correct": False}, None, False),
    ({"answer_kind": "outcome"}, {"answer": "def f(): ...", "correct": True}, "def f(): ...", True),
]


@pytest.mark.parametrize(("of_question", "given", "letter", "correct"), KINDS)
def test_answers_of_each_kind_are_read_and_judged(
    tmp_path: Path, of_question: Record, given: Record, letter: str | None, correct: bool
) -> None:
    question = {"id": "q1", "subset": "s", "text": "B or A?", **of_question}
    study = read_chat_jsonl(write(tmp_path, {**UNANSWERED, "question": question, **given}))

    assert [(answer.letter, answer.correct) for answer in study.answers] == [(letter, correct)]
    (chat,) = study.conversations
    examples = examples_of(chat, study.questions["q1"])
    assert [each.kind for each in examples] == ["first", "answer"][: 1 if letter is None else 2]
    assert letter is None or (examples[1].target, examples[1].user[-40:].count("Answer: ")) == (f"Answer: {letter}", 0)


def test_a_chat_without_an_answer_ends_with_done_and_counts_in_no_accuracy(tmp_path: Path) -> None:
    question = {"id": "q1", "subset": "s", "text": "Plan a trip.", "answer_kind": "none"}
    chats = {**UNANSWERED, "question": question}, {**UNANSWERED, "question": "q1", "chat": "2"}
    study = read_chat_jsonl(write(tmp_path, *chats))

    assert (study.answers, study.assistants) == ((), ("m",))
    assert [chat.id for chat in study.conversations] == ["q1|w1", "q1|w1|2"]
    last = examples_of(study.conversations[0], study.questions["q1"])[-1]
    assert last.target == "Answer: done"
    assert 'in the format "Answer: done"' in last.user


def said(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts))


U, A, S, T = "user", "assistant", "system", "tool"
RULES = [
    # messages, turns, context, how many notes
    ([(S, "be kind"), (U, "hi"), (A, "yes"), (S, "now terse")], said("hi", "yes"), [(0, S), (2, S)], 1),
    ([(U, "a"), (U, "b"), (A, "yes"), (A, "no")], said("a\nb", "yes\nno"), [], 2),
    ([(U, "a"), (A, "yes"), (U, "thanks")], said("a", "yes", "thanks", ""), [], 1),
    ([(A, "How can I help?"), (U, "a"), (A, "yes")], said("a", "yes"), [(0, A)], 1),
    ([(U, " "), (A, "Sorry?"), (U, "a"), (A, "yes")], said("a", "yes"), [], 1),
    ([(U, "a"), (A, None), (T, "42"), (A, "It is 42.")], said("a", "It is 42."), [(2, T)], 1),
    ([(U, "a"), (T, "42"), (A, "It is 42.")], said("a", "It is 42."), [(1, T)], 1),
    ([(U, [{"type": "text", "text": "this"}, {"type": "image_url"}]), (A, "ok")], said("this\n[image]", "ok"), [], 1),
    ([(U, ""), (A, "Hello?")], (), [], 1),
]


@pytest.mark.parametrize(("messages", "turns", "context", "notes"), RULES)
def test_messages_become_turns_by_stated_rules_that_are_counted(
    messages: list[tuple[str, object]], turns: tuple[Turn, ...], context: list[tuple[int, str]], notes: int
) -> None:
    noted: Counter[str] = Counter()
    found = turns_of(messages, lambda text: noted.update([text]))

    assert found.turns == turns
    assert [(each.turn, each.role) for each in found.context] == context
    assert len(noted) == notes, noted
