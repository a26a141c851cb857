r"""The plain-text form in which a base model without a chat template sees an example.

`prompt = "[SYSTEM] {system}\n\n{user}\n\n[USER] "`, `completion = "{target} [END]"`. The markers are plain text, not
added tokens. Prompt and completion are tokenised separately, the same way in training, scoring and generation: a
byte-pair tokenizer joins the last space of the prompt with the first word of the completion if they are tokenised
together, and the mask would be off by a token.

Source: model cards of microsoft/chatbench-distilgpt2, -mistral-7b and -llama3-8b (see docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chatbench.core.records import Message

END = " [END]"


class Encoder(Protocol):
    """The two calls of a tokenizer that this module needs (Hugging Face tokenizers have them)."""

    bos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of one example; only `completion` carries loss. `prompt_cut` tokens of the prompt's start are gone."""

    prompt: list[int]
    completion: list[int]
    prompt_cut: int = 0


def prompt_text(messages: Sequence[Message]) -> str:
    r"""The text that the model continues.

    >>> prompt_text([Message("system", "S"), Message("user", "U")])
    '[SYSTEM] S\n\nU\n\n[USER] '
    """
    system, user = messages[0], messages[1]
    if system.role != "system" or user.role != "user":
        raise ValueError(f"roles {system.role}, {user.role}; expected system, user")
    return f"[SYSTEM] {system.content}\n\n{user.content}\n\n[USER] "


def completion_text(target: str) -> str:
    """The text that carries the loss: the human turn and the end marker."""
    return target + END


def read_completion(generated: str) -> tuple[str, bool]:
    """The turn in a generated text, and whether its end marker was there.

    >>> read_completion("Answer: B [END] and more")
    ('Answer: B', True)
    >>> read_completion("still talking")
    ('still talking', False)
    """
    text, marker, _ = generated.partition(END.strip())
    return text.strip() if marker else generated.strip(), bool(marker)


def encode_prompt(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a prompt, led by the tokenizer's beginning-of-sequence token where it has one that it uses."""
    return tokenizer.encode(text, add_special_tokens=True)


def encode_completion(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a completion, without special tokens."""
    return tokenizer.encode(text, add_special_tokens=False)


def encode_example(tokenizer: Encoder, prompt: str, completion: str, max_tokens: int) -> EncodedExample:
    """Encodes both parts and makes them fit `max_tokens` by cutting the *start* of the prompt, never the completion.

    Raises:
        ValueError: the completion alone does not fit.
    """
    prompt_ids, completion_ids = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, completion)
    room = max_tokens - len(completion_ids)
    if room < 1:
        raise ValueError(f"a completion of {len(completion_ids)} tokens does not fit a context of {max_tokens}")
    cut = max(0, len(prompt_ids) - room)
    return EncodedExample(prompt_ids[cut:], completion_ids, cut)
