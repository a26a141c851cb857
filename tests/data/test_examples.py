"""Conversations become the protocol's examples byte for byte, and rows in the three published shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Conversation, Question, Turn
from chatbench.data.examples import ROW_FORMATS, RowFormat, example_rows, examples_of, read_examples

QUESTION = Question("math-redux-1", "math", "What is {1} + 1?", ("1", "2", "3", "4"), "B")
TURNS = (
    Turn("user", " whats 1+1?\n"),
    Turn("assistant", "It is 3. "),
    Turn("user", "are you sure"),
    Turn("assistant", "It is 2."),
)
CHAT = Conversation("c1", QUESTION.id, "w", "gpt-4o", "direct-to-AI", TURNS, "C")

SYSTEM = (
    "You are a human user interacting with an AI system, and you are trying to answer the following question:\n\n"
    "What is {1} + 1?\nA. 1\nB. 2\nC. 3\nD. 4"
)
TASK_1 = (
    "Generate the first prompt you would say to the system to get started with answering your question. "
    "Remember to write exactly as a real user would."
)
TASK_2_END = (
    "\n========================\n"
    "If your question is answered by this conversation, return ONLY the answer in the format "
    '"Answer: A, B, C, or D". If not, generate the next prompt you would say to the system to answer your question. '
    "Remember to keep your writing style consistent."
)
TASK_2_START = "Here is your conversation so far with the AI system:\n========================\n"


def test_two_user_turns_give_three_examples_byte_for_byte() -> None:
    first, follow_up, answer = examples_of(CHAT, QUESTION)
    once = "YOU: whats 1+1?\n\nSYSTEM: It is 3. "  # the person's text is stripped, the assistant's is not

    assert (first.kind, first.system, first.user, first.target) == ("first", SYSTEM, TASK_1, "whats 1+1?")
    assert (follow_up.kind, follow_up.system, follow_up.target) == ("follow_up", SYSTEM, "are you sure")
    assert follow_up.user == TASK_2_START + once + TASK_2_END
    assert (answer.kind, answer.system, answer.target) == ("answer", SYSTEM, "Answer: C")  # chosen, though B is right
    assert answer.user == TASK_2_START + once + "\n\nYOU: are you sure\n\nSYSTEM: It is 2." + TASK_2_END
    assert {(e.question_id, e.conversation_id) for e in (first, follow_up, answer)} == {("math-redux-1", "c1")}


def test_a_chat_without_a_recorded_answer_gives_no_answer_example() -> None:
    chat = Conversation("c1", QUESTION.id, "w", "gpt-4o", "direct-to-AI", TURNS, None)

    assert [example.kind for example in examples_of(chat, QUESTION)] == ["first", "follow_up"]


def test_a_chat_about_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="is about"):
        examples_of(CHAT, Question("other", "math", "What?", ("1", "2", "3", "4"), "B"))


def write(folder: Path, row_format: RowFormat) -> Path:
    path = folder / f"{row_format}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in example_rows(CHAT, QUESTION, row_format)))
    return path


def test_the_three_shapes_hold_what_was_published() -> None:
    ids = {"question_id": "math-redux-1", "conversation_id": "c1", "kind": "follow_up"}
    messages, plain, context = (example_rows(CHAT, QUESTION, row_format)[1] for row_format in ROW_FORMATS)
    user = TASK_2_START + "YOU: whats 1+1?\n\nSYSTEM: It is 3. " + TASK_2_END

    assert messages == {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": user},
            {"role": "assistant", "content": "are you sure"},
        ],
        **ids,
    }
    assert plain == {"prompt": f"[SYSTEM] {SYSTEM}\n\n{user}\n\n[USER] ", "completion": "are you sure [END]", **ids}
    assert context == {
        "prompt": f"{SYSTEM}\nuser: whats 1+1?\nassistant: It is 3. \nuser:",
        "completion": "are you sure",
        **ids,
    }


def test_messages_and_prompt_completion_are_read_to_the_same_text(tmp_path: Path) -> None:
    from_messages, from_plain, from_context = (read_examples(write(tmp_path, row_format)) for row_format in ROW_FORMATS)

    assert [(r.prompt, r.completion) for r in from_messages] == [(r.prompt, r.completion) for r in from_plain]
    assert [r.kind for r in from_messages] == ["first", "follow_up", "answer"]
    assert from_messages[2].messages is not None
    assert from_plain[2].messages is None
    assert (from_context[2].prompt[-6:], from_context[2].completion) == ("\nuser:", "Answer: C [END]")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "last"}, "key 'kind': 'last'"),
        ({"question_id": None}, "key 'question_id': None"),
        ({"messages": [{"role": "user", "content": "x"}]}, "key 'messages': roles"),
    ],
)
def test_a_row_that_is_no_example_is_named(tmp_path: Path, change: dict[str, object], place: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({**example_rows(CHAT, QUESTION)[0], **change}) + "\n")

    with pytest.raises(ChatbenchError, match=r"train\.jsonl, line 1") as caught:
        read_examples(path)
    assert place in str(caught.value)
    assert "prepare-splits" in caught.value.fix
