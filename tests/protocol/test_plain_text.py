"""The plain-text form: what is scored, and where the prompt ends."""

from __future__ import annotations

import pytest
from tests.support.tiny_models import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.protocol.prompts import (
    completion_text,
    encode_completion,
    encode_prompt,
    prompt_text,
    read_completion,
    wrapping,
)


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

    ids = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, completion)

    assert ids[0] + ids[1] != tokenizer.encode(prompt + completion)
    assert tokenizer.decode(ids[0]) == prompt
    assert tokenizer.decode(ids[1]) == completion


def wrapped_by(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose post-processor puts `<|endoftext|>` where the template says."""
    tokenizer = tiny_tokenizer()
    end = ("<|endoftext|>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[end])
    return tokenizer


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("$A", [], []),
        ("<|endoftext|> $A", [0], []),
        ("$A <|endoftext|>", [], [0]),
        ("<|endoftext|> $A <|endoftext|>", [0], [0]),
    ],
)
def test_a_tokenizer_that_ends_texts_does_not_end_a_prompt(template: str, before: list[int], after: list[int]) -> None:
    # The prompt as `encode(add_special_tokens=True)` gives it would end the text before the completion begins.
    tokenizer = wrapped_by(template)

    assert wrapping(tokenizer) == (before, after)
    assert encode_prompt(tokenizer, "what is") == before + tiny_tokenizer().encode("what is")
    assert encode_completion(tokenizer, "what is") == tiny_tokenizer().encode("what is")


def test_a_tokenizer_that_begins_every_text_anew_is_refused() -> None:
    class Stubborn:
        bos_token_id, eos_token_id = 1, 2

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002
            return [1, *map(ord, text)]

    with pytest.raises(ChatbenchError, match=r"\[1, 97\] without special tokens"):
        encode_prompt(Stubborn(), "p")
