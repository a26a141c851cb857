"""The plain-text form: what is scored, and where the prompt ends."""

from __future__ import annotations

import pytest

from chatbench.core.records import Message
from chatbench.protocol.transcript import (
    completion_text,
    encode_example,
    prompt_text,
    read_completion,
)
from tiny_models import tiny_tokenizer


def test_the_plain_text_form_is_the_published_one_byte_for_byte() -> None:
    messages = [Message("system", "You are ...\nA. 1"), Message("user", "Generate"), Message("assistant", "hi")]

    assert prompt_text(messages) == "[SYSTEM] You are ...\nA. 1\n\nGenerate\n\n[USER] "
    assert completion_text("hi") == "hi [END]"


def test_roles_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="user, system"):
        prompt_text([Message("user", "U"), Message("system", "S")])


@pytest.mark.parametrize(
    ("generated", "turn", "ended"),
    [
        ("what is 2+2? [END]", "what is 2+2?", True),
        ("what is 2+2? [END] [SYSTEM] more [END]", "what is 2+2?", True),  # the first end marker counts
        ("[END]", "", True),
        ("  cut off", "cut off", False),
    ],
)
def test_a_generated_turn_ends_at_its_first_end_marker(generated: str, turn: str, ended: bool) -> None:
    assert read_completion(generated) == (turn, ended)


def test_prompt_and_completion_are_tokenised_apart() -> None:
    # Together, " what" becomes one token across the border, and the mask is off by one: the likely mistake.
    tokenizer = tiny_tokenizer()
    prompt, completion = "[USER] ", "what is 12 plus 30 [END]"

    encoded = encode_example(tokenizer, prompt, completion, 100)

    assert encoded.prompt + encoded.completion != tokenizer.encode(prompt + completion)
    assert tokenizer.decode(encoded.prompt) == prompt
    assert tokenizer.decode(encoded.completion) == completion


def test_an_overlong_prompt_loses_its_start_and_never_the_completion() -> None:
    tokenizer = tiny_tokenizer()
    whole = encode_example(tokenizer, "the question [USER] ", "answer [END]", 1000)
    room = len(whole.completion) + 3

    cut = encode_example(tokenizer, "the question [USER] ", "answer [END]", room)

    assert cut.completion == whole.completion
    assert cut.prompt == whole.prompt[-3:]
    assert cut.prompt_cut == len(whole.prompt) - 3


def test_a_completion_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a context of 4"):
        encode_example(tiny_tokenizer(), "p", "a long completion [END]", 4)
