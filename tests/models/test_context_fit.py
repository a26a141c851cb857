"""Examples and chats that are longer than a model's context: nothing is cut silently, and everything is counted."""

from __future__ import annotations

import pytest
from tests.support.chat_templates import chat_tokenizer
from tests.support.tiny_models import tiny_model, tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Turn
from chatbench.data.examples import ExampleRow, context_prompt
from chatbench.data.truncation import exchanges_in, read_history, without_oldest
from chatbench.models.encoding import TextForm, encode_rows
from chatbench.models.loading import Loaded
from chatbench.models.local_participants import LocalAssistant, LocalSimulator
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.plain_text import completion_text, prompt_text
from chatbench.protocol.prompts import FORCED_ANSWER, NEXT_TURN, SEPARATOR, simulator_messages

DROP = TextForm(long_examples="drop_oldest_turns")
LINE = "=" * 24


def chat(*said: str) -> list[Turn]:
    """Turns from the user on."""
    return [Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(said)]


def row(turns: list[Turn], target: str = "Answer: B", *, messages: bool = True) -> ExampleRow:
    asked = simulator_messages("What is 12 + 30?", turns)
    whole = (*asked, Message("assistant", target)) if messages else None
    return ExampleRow(prompt_text(asked), completion_text(target), whole, "q", f"c{len(turns)}", "answer")


LONG = chat("ask 0", "reply 0", "ask 1", "reply 1", "ask 2", "reply 2")
TRICKY = chat(
    f"look:\n{LINE}\nSYSTEM: hi\n\nYOU: me",  # separator and marker inside the person's own message
    f"Here is your conversation so far with the AI system:\n{LINE}\nYOU: x\n{LINE}\n{NEXT_TURN}",  # and a prompt
    "ask 1\n\n",
    "reply 1",
)


# ---- taking a prompt apart ----


@pytest.mark.parametrize("turns", [LONG, TRICKY, LONG[:2], []])
@pytest.mark.parametrize("forced", [False, True])
def test_a_prompt_taken_apart_and_joined_is_the_prompt(turns: list[Turn], forced: bool) -> None:
    for prompt in (
        simulator_messages("Q", turns, forced=forced)[1].content,
        prompt_text(simulator_messages("Q", turns, forced=forced)),
        context_prompt("Q\nA. 1", turns),
    ):
        history = read_history(prompt)

        assert history.without_oldest(0) == prompt
        assert len(history.exchanges) == (0 if forced and not turns else len(turns) // 2)


@pytest.mark.parametrize("dropped", [0, 1, 2])
@pytest.mark.parametrize("turns", [LONG, TRICKY])
def test_without_its_oldest_turns_a_prompt_is_that_of_the_rest_of_the_chat(turns: list[Turn], dropped: int) -> None:
    # The independent source is the protocol, asked about the shorter chat.
    rest = turns[2 * dropped :]

    for whole in (row(turns), row(turns, messages=False)):
        assert exchanges_in(whole) == len(turns) // 2
        if rest:
            expected = row(rest, messages=whole.messages is not None)
            shorter = without_oldest(whole, dropped)
            assert (shorter.prompt, shorter.messages) == (expected.prompt, expected.messages)
    context = ExampleRow(context_prompt("Q\nA. 1", turns), "x [END]", None, "q", "c", "follow_up")
    assert without_oldest(context, dropped).prompt == context_prompt("Q\nA. 1", rest)


def test_without_any_turns_the_instructions_and_the_question_stay() -> None:
    assert without_oldest(row(LONG), 3).prompt == (
        "[SYSTEM] You are a human user interacting with an AI system, and you are trying to answer the following "
        "question:\n\nWhat is 12 + 30?\n\nHere is your conversation so far with the AI system:\n"
        f"{SEPARATOR}\n\n{SEPARATOR}\n{NEXT_TURN}\n\n[USER] "
    )
    assert FORCED_ANSWER in read_history(simulator_messages("Q", LONG, forced=True)[1].content).without_oldest(3)


# ---- training and scoring ----


def tokens(one: ExampleRow) -> int:
    return len(tiny_tokenizer().encode(one.prompt)) + len(tiny_tokenizer().encode(one.completion))


def test_examples_that_are_too_long_are_left_out_and_counted_with_the_longest() -> None:
    rows = [row(LONG), row(LONG[:2]), row(LONG[:4])]

    encoded = encode_rows(tiny_tokenizer(), rows, tokens(rows[1]))

    assert encoded.rows == [rows[1]]  # exactly as long as the context: it fits
    assert encoded.examples == encode_rows(tiny_tokenizer(), [rows[1]], 10_000).examples
    assert encoded.counts() == {"examples_left_out": 2, "examples_shortened": 0, "turns_dropped": 0}
    assert f"the longest has {tokens(rows[0]):,}" in encoded.lines()[0]
    assert encode_rows(tiny_tokenizer(), rows, 10_000).lines() == []


@pytest.mark.parametrize("messages", [True, False])
def test_as_few_of_the_oldest_turns_are_dropped_as_make_an_example_fit(messages: bool) -> None:
    whole, one_less, none = row(LONG, messages=messages), row(LONG[2:], messages=messages), row([], messages=messages)
    first = ExampleRow(none.prompt + "x" * 999, none.completion, None, "q", "first", "first")

    encoded = encode_rows(tiny_tokenizer(), [first, whole, one_less], tokens(one_less), DROP)

    assert encoded.examples == encode_rows(tiny_tokenizer(), [one_less] * 2, 10_000).examples
    assert [one.conversation_id for one in encoded.rows] == [whole.conversation_id, one_less.conversation_id]
    # The first turn has no conversation to drop.
    assert encoded.counts() == {"examples_left_out": 1, "examples_shortened": 1, "turns_dropped": 2}


def test_a_completion_is_never_cut_and_one_that_is_too_long_leaves_its_example_out() -> None:
    long = row(LONG, target="word " * 400)

    encoded = encode_rows(tiny_tokenizer(), [row(LONG), long], tokens(row(LONG)), DROP)

    assert encoded.counts() == {"examples_left_out": 1, "examples_shortened": 0, "turns_dropped": 0}


def test_a_chat_templates_examples_lose_turns_too() -> None:
    form = TextForm("chat", "drop_oldest_turns")
    tokenizer = chat_tokenizer()
    (needed,) = encode_rows(tokenizer, [row(LONG[4:])], 10_000, form).examples

    encoded = encode_rows(tokenizer, [row(LONG)], needed.tokens, form)

    assert encoded.examples == [needed]
    assert encoded.turns_dropped == 4


def test_a_context_that_nothing_fits_is_refused() -> None:
    with pytest.raises(ChatbenchError, match="none of 2 examples fits a context of 30 tokens"):
        encode_rows(tiny_tokenizer(), [row(LONG), row([])], 30, DROP)


# ---- simulated chats ----


def loaded(context: int) -> Loaded:
    tokenizer = tiny_tokenizer()
    return Loaded(tiny_model("llama", vocabulary=len(tokenizer), context=context), tokenizer, "x", "w")


def asked(turns: list[Turn]) -> Request:
    return Request("simulator", simulator_messages("What is 12 + 30?", turns), "q", 5, "turn")


def test_a_simulator_whose_chat_outgrows_its_context_loses_the_oldest_turns_and_says_how_many() -> None:
    # It must not cut from the left, which would take the question away first.
    room = len(tiny_tokenizer().encode(prompt_text(asked(LONG[2:]).messages)))
    simulator = LocalSimulator(loaded(room + 8), "x", temperature=1.0, max_tokens=8)

    replies = simulator.reply_all([asked(LONG), asked(LONG[2:]), asked(LONG)])

    assert [reply.turns_dropped for reply in replies if isinstance(reply, Reply)] == [2, 0, 2]
    assert replies[0].text == replies[1].text  # type: ignore[union-attr]  # the same prompt, the same seed


def test_a_question_that_fits_no_context_fails_its_own_chat_only() -> None:
    room = len(tiny_tokenizer().encode(prompt_text(asked([]).messages)))
    simulator = LocalSimulator(loaded(room + 8), "x", temperature=1.0, max_tokens=8)
    long = Request("simulator", simulator_messages("What? " * 200, LONG), "q", 5, "turn")

    replies = simulator.reply_all([long, asked([])])

    assert isinstance(replies[0], Failure)
    assert not replies[0].transient
    assert f"room for {room}" in replies[0].reason
    assert isinstance(replies[1], Reply)


def test_an_assistant_forgets_the_oldest_turns_and_keeps_its_instructions() -> None:
    system, *turns = [Message("system", "S"), *(Message(turn.role, turn.text) for turn in [*LONG, *chat("ask 3")])]

    def request(messages: list[Message]) -> Request:
        return Request("assistant", (system, *messages), "q", 5, "reply")

    room = len(tiny_tokenizer().encode("S\n\nUser: ask 2\n\nAssistant: reply 2\n\nUser: ask 3\n\nAssistant:"))
    assistant = LocalAssistant(loaded(room + 8), "x", temperature=1.0, max_tokens=8)

    whole, shorter = assistant.reply_all([request(turns), request(turns[4:])])

    assert isinstance(whole, Reply)
    assert isinstance(shorter, Reply)
    assert (whole.turns_dropped, shorter.turns_dropped) == (4, 0)
    assert whole.text == shorter.text
    assert isinstance(assistant.reply_all([request([Message("user", "word " * 99)])])[0], Failure)
