"""Examples that are longer than a model's context: nothing is cut silently, and everything is counted."""

from __future__ import annotations

import pytest
from tests.support.chat_templates import chat_tokenizer
from tests.support.tiny_models import tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Turn
from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import TextForm, encode_rows
from chatbench.protocol.prompts import (
    FOUR_OPTIONS,
    EncodedExample,
    completion_text,
    encode_completion,
    encode_prompt,
    prompt_text,
    simulator_messages,
)

TOKENIZER = tiny_tokenizer()
DROP = TextForm(long_examples="drop_oldest_turns")
LONG = [Turn("assistant" if place % 2 else "user", f"turn {place}") for place in range(6)]


def row(turns: list[Turn], target: str = "Answer: B", *, messages: bool = True) -> ExampleRow:
    asked = simulator_messages("What is 12 + 30?", turns, asked_for=FOUR_OPTIONS)
    whole = (*asked, Message("assistant", target)) if messages else None
    return ExampleRow(prompt_text(asked), completion_text(target), whole, "q", f"c{len(turns)}", "answer")


def tokens(one: ExampleRow) -> int:
    return len(TOKENIZER.encode(one.prompt)) + len(TOKENIZER.encode(one.completion))


def test_examples_that_are_too_long_are_left_out_and_counted_with_the_longest() -> None:
    rows = [row(LONG), row(LONG[:2]), row(LONG[:4])]

    encoded = encode_rows(TOKENIZER, rows, tokens(rows[1]))

    assert encoded.rows == [rows[1]]  # exactly as long as the context: it fits
    alone = EncodedExample(encode_prompt(TOKENIZER, rows[1].prompt), encode_completion(TOKENIZER, rows[1].completion))
    assert encoded.examples == [alone]  # all at once gives the ids of one by one
    assert encoded.counts() == {"examples_left_out": 2, "examples_shortened": 0, "turns_dropped": 0}
    assert f"the longest has {tokens(rows[0]):,}" in encoded.lines()[0]
    assert encode_rows(TOKENIZER, rows, 10_000).lines() == []


@pytest.mark.parametrize("messages", [True, False])
def test_as_few_of_the_oldest_turns_are_dropped_as_make_an_example_fit(messages: bool) -> None:
    whole, one_less, none = row(LONG, messages=messages), row(LONG[2:], messages=messages), row([], messages=messages)
    first = ExampleRow(none.prompt + "x" * 999, none.completion, None, "q", "first", "first")

    encoded = encode_rows(TOKENIZER, [first, whole, one_less], tokens(one_less), DROP)

    assert encoded.examples == encode_rows(TOKENIZER, [one_less] * 2, 10_000).examples
    assert [one.conversation_id for one in encoded.rows] == [whole.conversation_id, one_less.conversation_id]
    # The first turn has no conversation to drop.
    assert encoded.counts() == {"examples_left_out": 1, "examples_shortened": 1, "turns_dropped": 2}


def test_a_completion_is_never_cut_and_one_that_is_too_long_leaves_its_example_out() -> None:
    encoded = encode_rows(TOKENIZER, [row(LONG), row(LONG, target="word " * 400)], tokens(row(LONG)), DROP)

    assert encoded.counts() == {"examples_left_out": 1, "examples_shortened": 0, "turns_dropped": 0}


def test_a_chat_templates_examples_lose_turns_too() -> None:
    form = TextForm("chat", "drop_oldest_turns")
    (needed,) = encode_rows(chat_tokenizer(), [row(LONG[4:])], 10_000, form).examples

    encoded = encode_rows(chat_tokenizer(), [row(LONG)], needed.tokens, form)

    assert encoded.examples == [needed]
    assert encoded.turns_dropped == 4


@pytest.mark.parametrize("form", [TextForm(), DROP])
def test_a_context_that_nothing_fits_is_refused_with_what_the_longest_needs(form: TextForm) -> None:
    with pytest.raises(ChatbenchError, match="none of 2 examples fits a context of 30 tokens") as refused:
        encode_rows(TOKENIZER, [row(LONG), row([])], 30, form)
    assert str(tokens(row(LONG))) in refused.value.expected
