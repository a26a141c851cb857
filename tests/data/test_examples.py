"""Conversations become the protocol's examples byte for byte, rows in the three published shapes, and shorter prompts.

A prompt without its oldest turns is compared with the protocol asked about the shorter chat.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chatbench.core.answer_kinds import Number
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Conversation, Message, Question, Turn
from chatbench.data.examples import (
    ROW_FORMATS,
    ExampleRow,
    RowFormat,
    context_prompt,
    example_rows,
    examples_of,
    exchanges_in,
    read_examples,
    read_history,
    without_oldest,
)
from chatbench.protocol.prompts import FOUR_OPTIONS, NEXT_TURN, completion_text, prompt_text, simulator_messages

QUESTION = Question("math-redux-1", "math", "What is {1} + 1?", ("1", "2", "3", "4"), "B")
SAID = [" whats 1+1?\n", "It is 3. ", "are you sure", "It is 2."]
TURNS = tuple(Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(SAID))
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
    assert [each.kind for each in examples_of(replace(CHAT, answer=None), QUESTION)] == ["first", "follow_up"]


def test_a_chat_about_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="is about"):
        examples_of(CHAT, replace(QUESTION, id="other"))


def write(folder: Path, row_format: RowFormat) -> Path:
    path = folder / f"{row_format}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in example_rows(CHAT, QUESTION, row_format)))
    return path


def test_the_three_shapes_hold_what_was_published() -> None:
    ids = {"question_id": "math-redux-1", "conversation_id": "c1", "kind": "follow_up"}
    messages, plain, context = (example_rows(CHAT, QUESTION, row_format)[1] for row_format in ROW_FORMATS)
    user = TASK_2_START + "YOU: whats 1+1?\n\nSYSTEM: It is 3. " + TASK_2_END

    contents = {"system": SYSTEM, "user": user, "assistant": "are you sure"}
    assert messages == {"messages": [{"role": role, "content": text} for role, text in contents.items()], **ids}
    assert plain == {"prompt": f"[SYSTEM] {SYSTEM}\n\n{user}\n\n[USER] ", "completion": "are you sure [END]", **ids}
    prompt = f"{SYSTEM}\nuser: whats 1+1?\nassistant: It is 3. \nuser:"
    assert context == {"prompt": prompt, "completion": "are you sure", **ids}


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


TASK_2 = NEXT_TURN.replace("{answer}", FOUR_OPTIONS)
LINE = "=" * 24
LONG = [Turn("assistant" if place % 2 else "user", f"turn {place}") for place in range(6)]
TRICKY = [
    Turn("user", f"look:\n{LINE}\nSYSTEM: hi\n\nYOU: me"),  # separator and marker inside the person's own message
    Turn("assistant", f"Here is your conversation so far with the AI system:\n{LINE}\nYOU: x\n{LINE}\n{TASK_2}"),
    Turn("user", "ask 1\n\n"),
    Turn("assistant", "reply 1"),
]


def row(turns: list[Turn], *, messages: bool) -> ExampleRow:
    asked = simulator_messages("What is 12 + 30?", turns, asked_for=FOUR_OPTIONS)
    whole = (*asked, Message("assistant", "Answer: B")) if messages else None
    return ExampleRow(prompt_text(asked), completion_text("Answer: B"), whole, "q", "c", "answer")


@pytest.mark.parametrize("turns", [LONG, TRICKY, LONG[:2], []])
@pytest.mark.parametrize("forced", [False, True])
def test_a_prompt_taken_apart_and_joined_is_the_prompt(turns: list[Turn], forced: bool) -> None:
    messages = simulator_messages("Q", turns, asked_for=FOUR_OPTIONS, forced=forced)
    for prompt in (messages[1].content, prompt_text(messages), context_prompt("Q\nA. 1", turns)):
        history = read_history(prompt)

        assert history.without_oldest(0) == prompt
        assert len(history.exchanges) == (0 if forced and not turns else len(turns) // 2)


@pytest.mark.parametrize("dropped", [0, 1, 2])
@pytest.mark.parametrize("turns", [LONG, TRICKY])
def test_without_its_oldest_turns_a_prompt_is_that_of_the_rest_of_the_chat(turns: list[Turn], dropped: int) -> None:
    rest = turns[2 * dropped :]

    for messages in (True, False):
        whole = row(turns, messages=messages)
        assert exchanges_in(whole) == len(turns) // 2
        if rest:
            expected, shorter = row(rest, messages=messages), without_oldest(whole, dropped)
            assert (shorter.prompt, shorter.messages) == (expected.prompt, expected.messages)
    context = ExampleRow(context_prompt("Q\nA. 1", turns), "x [END]", None, "q", "c", "follow_up")
    assert without_oldest(context, dropped).prompt == context_prompt("Q\nA. 1", rest)


def test_a_unit_that_is_a_quotation_mark_does_not_hide_the_turns() -> None:
    asked = simulator_messages("How wide is it?", LONG, asked_for=Number(unit='"').asked_for(()))

    assert len(read_history(asked[1].content).exchanges) == 3


def test_without_any_turns_the_instructions_and_the_question_stay() -> None:
    assert without_oldest(row(LONG, messages=True), 3).prompt == (
        "[SYSTEM] You are a human user interacting with an AI system, and you are trying to answer the following "
        "question:\n\nWhat is 12 + 30?\n\nHere is your conversation so far with the AI system:\n"
        f"{LINE}\n\n{LINE}\n{TASK_2}\n\n[USER] "
    )
