"""Models on this machine in a dialogue: their prompts, what they state of themselves, and chats that outgrow them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.chat_templates import THINKING, chat_tokenizer
from tests.support.tiny_models import reciting, tiny_model, tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Turn
from chatbench.models.chat_template import ChatForm
from chatbench.models.generation import Decoding, LocalGenerator
from chatbench.models.loading import Loaded
from chatbench.models.local_participants import LocalAssistant, LocalSimulator, encode_plain_chat
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.prompts import FOUR_OPTIONS, encode_completion, prompt_text, simulator_messages

TOKENIZER = tiny_tokenizer()
LONG = [Turn("assistant" if place % 2 else "user", f"turn {place}") for place in range(6)]


def loaded(context: int = 512) -> Loaded:
    return Loaded(tiny_model("llama", vocabulary=len(TOKENIZER), context=context), TOKENIZER, "/secret", "sha256:1")


def simulator(context: int = 512, **options: Any) -> LocalSimulator:
    return LocalSimulator(loaded(context), "tiny split_0", temperature=1.0, max_tokens=8, **options)


def asked(turns: list[Turn], question: str = "What is 12 + 30?\nA. 42\nB. 41\nC. 7\nD. 12") -> Request:
    return Request("simulator", simulator_messages(question, turns, asked_for=FOUR_OPTIONS), "q", 5, "turn")


def to_assistant(*texts: str) -> Request:
    """A system message and the turns after it."""
    roles = ["system", *(["user", "assistant"] * len(texts))]
    messages = tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))  # type: ignore[arg-type]
    return Request("assistant", messages, "q", 5, "reply")


def test_a_local_simulator_repeats_itself_and_states_its_weights_without_a_path() -> None:
    one = simulator()

    first, second = one.reply_all([asked([])] * 2)

    assert first == second
    assert isinstance(first, Reply)
    assert first.tokens <= 8
    assert one.identity["weights"] == "sha256:1"
    assert "/secret" not in str(one.identity)


def test_a_first_turn_has_no_answer_and_later_ones_are_read_only_when_asked() -> None:
    requests = [asked([]), asked([Turn("user", "what is 12 + 30"), Turn("assistant", "42")])]

    first, later = simulator(expected_answers=True).reply_all(requests)

    assert isinstance(first, Reply)
    assert isinstance(later, Reply)
    assert first.answer is None
    assert later.answer is not None
    assert sum(later.answer.letters) <= 1 + 1e-9
    assert [each.answer for each in simulator().reply_all(requests) if isinstance(each, Reply)] == [None, None]


def test_an_assistant_without_a_chat_template_gets_plain_text() -> None:
    assistant = LocalAssistant(loaded(), "x", temperature=0.7, max_tokens=8)

    assert isinstance(assistant.reply_all([to_assistant("S", "hi")])[0], Reply)
    ids = encode_plain_chat(TOKENIZER, to_assistant("S", "hi", "yes?", "12").messages)
    assert TOKENIZER.decode(ids) == "S\n\nUser: hi\n\nAssistant: yes?\n\nUser: 12\n\nAssistant:"


def test_a_thinking_model_thinks_where_it_is_asked_to_and_nobody_hears_its_thoughts() -> None:
    tokenizer = chat_tokenizer(THINKING)
    model = tiny_model("llama", vocabulary=len(tokenizer), context=512)
    one = Loaded(model, tokenizer, "x", "w")
    off, on = (LocalAssistant(one, "x", temperature=0.0, max_tokens=9, thinking=thinking) for thinking in (False, True))
    messages = to_assistant("S", "hi").messages
    assert tokenizer.decode(off._prompt_ids(messages)).endswith("<think>\n\n</think>\n\n")
    assert tokenizer.decode(on._prompt_ids(messages)).endswith("assistant\n")
    assert str(on.identity["form"]).endswith(", thinking")
    assert on.identity["form"] != off.identity["form"]

    for written, reply, reasoning in (
        ("<think>is it B?</think>\n\nit is 42", "it is 42", "is it B?"),
        ("so it is B. [/THINK]it is 42", "it is 42", "so it is B."),
        ("<think>is it Answer: B", "", "is it Answer: B"),
        ("[THINK]is it B?", "", "is it B?"),
        ("it is 42", "it is 42", ""),
    ):
        script = [*encode_completion(tokenizer, written), tokenizer.eos_token_id]
        told = reciting(script, 3)
        told.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        (made,) = LocalGenerator(told, tokenizer, Decoding(0.0, len(script))).generate([[5, 6, 7]], [0])
        assert (made.text.strip(), made.tokens, made.reasoning) == (reply, len(script), reasoning)

    # Tags that are special tokens are left out by decoding, and one that the prompt ends with is in no reply.
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    for opens, written, said in (
        (False, "<think>is it B?</think>it is 42", "it is 42"),
        (False, "<think>is it B", ""),
        (True, "is it B?</think>it is 42", "it is 42"),
        (True, "is it B", ""),
    ):
        script = tokenizer.encode(written, add_special_tokens=False)
        prompt = [5, 6, tokenizer.convert_tokens_to_ids("<think>") if opens else 7]
        told = reciting(script, 3)
        told.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        (made,) = LocalGenerator(told, tokenizer, Decoding(0.0, len(script))).generate([prompt], [0])
        assert (made.text.strip(), made.reasoning.startswith("is it B")) == (said, True)

    with pytest.raises(ChatbenchError, match="has no enable_thinking option"):
        LocalAssistant(Loaded(model, chat_tokenizer(), "x", "w"), "x", temperature=0.0, max_tokens=9, thinking=True)


def test_a_simulator_of_a_chat_template_ends_its_turn_at_the_templates_token_and_nowhere_else() -> None:
    # "[END]" is only text here; the tokenizer's own end token is another than the one that ends a turn.
    tokenizer = chat_tokenizer()
    script = [*encode_completion(tokenizer, "what is [END] 12"), *tokenizer.convert_tokens_to_ids(["<|im_end|>"]), 5, 6]
    model = reciting(script, len(ChatForm(tokenizer).prompt_ids(asked([]).messages)))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    one = LocalSimulator(Loaded(model, tokenizer, "x", "w"), "x", temperature=0.0, max_tokens=60, template="chat")
    (reply,) = one.reply_all([asked([])])

    assert tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id
    assert reply == Reply("what is [END] 12", tokens=len(script) - 2, prompt_tokens=model.prompt_tokens)
    assert str(one.identity["form"]).startswith("chat template ")


def test_a_simulator_whose_chat_outgrows_its_context_loses_the_oldest_turns_and_says_how_many() -> None:
    # It must not cut from the left, which would take the question away first.
    room = len(TOKENIZER.encode(prompt_text(asked(LONG[2:]).messages)))

    replies = simulator(room + 8).reply_all([asked(LONG), asked(LONG[2:]), asked(LONG)])

    assert [reply.turns_dropped for reply in replies if isinstance(reply, Reply)] == [2, 0, 2]
    assert replies[0].text == replies[1].text  # type: ignore[union-attr]  # the same prompt, the same seed


def test_a_question_that_fits_no_context_fails_its_own_chat_only() -> None:
    room = len(TOKENIZER.encode(prompt_text(asked([]).messages)))

    failed, replied = simulator(room + 8).reply_all([asked(LONG, "What? " * 200), asked([])])

    assert isinstance(failed, Failure)
    assert not failed.transient
    assert f"room for {room}" in failed.reason
    assert isinstance(replied, Reply)


def test_an_assistant_forgets_the_oldest_turns_and_keeps_its_instructions() -> None:
    turns = [*(turn.text for turn in LONG), "turn 6"]
    room = len(TOKENIZER.encode("S\n\nUser: turn 4\n\nAssistant: turn 5\n\nUser: turn 6\n\nAssistant:"))
    assistant = LocalAssistant(loaded(room + 8), "x", temperature=1.0, max_tokens=8)

    whole, shorter = assistant.reply_all([to_assistant("S", *turns), to_assistant("S", *turns[4:])])

    assert isinstance(whole, Reply)
    assert isinstance(shorter, Reply)
    assert (whole.turns_dropped, shorter.turns_dropped) == (4, 0)
    assert whole.text == shorter.text
    assert isinstance(assistant.reply_all([to_assistant("S", "word " * 99)])[0], Failure)
