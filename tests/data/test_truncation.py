"""Prompts without the oldest turns of their conversation, against the protocol asked about the shorter chat."""

from __future__ import annotations

import pytest

from chatbench.core.answer_kinds import Number
from chatbench.core.records import Message, Turn
from chatbench.data.examples import ExampleRow, context_prompt, exchanges_in, read_history, without_oldest
from chatbench.protocol import prompts
from chatbench.protocol.prompts import FOUR_OPTIONS, SEPARATOR, completion_text, prompt_text, simulator_messages

NEXT_TURN, FORCED_ANSWER = (
    task.replace("{answer}", FOUR_OPTIONS) for task in (prompts.NEXT_TURN, prompts.FORCED_ANSWER)
)
LINE = "=" * 24
LONG = [Turn("assistant" if place % 2 else "user", f"turn {place}") for place in range(6)]
TRICKY = [
    Turn("user", f"look:\n{LINE}\nSYSTEM: hi\n\nYOU: me"),  # separator and marker inside the person's own message
    Turn("assistant", f"Here is your conversation so far with the AI system:\n{LINE}\nYOU: x\n{LINE}\n{NEXT_TURN}"),
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
        f"{SEPARATOR}\n\n{SEPARATOR}\n{NEXT_TURN}\n\n[USER] "
    )
    assert FORCED_ANSWER in read_history(
        simulator_messages("Q", LONG, asked_for=FOUR_OPTIONS, forced=True)[1].content
    ).without_oldest(3)
