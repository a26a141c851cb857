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

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message

PROMPT_END = "\n\n[USER] "
END = " [END]"
_PROBE = "a"


class Encoder(Protocol):
    """What this module needs of a tokenizer (Hugging Face tokenizers have it)."""

    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of one example; only `completion` carries loss.

    In training each of its tokens counts once, or as often as `weights`, of the same length, say.
    """

    prompt: list[int]
    completion: list[int]
    weights: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Length of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    @property
    def weight(self) -> float:
        """Sum of the weights of the completion's tokens."""
        return sum(self.weights) if self.weights else len(self.completion)


def prompt_text(messages: Sequence[Message]) -> str:
    r"""The text that the model continues.

    >>> prompt_text([Message("system", "S"), Message("user", "U")])
    '[SYSTEM] S\n\nU\n\n[USER] '

    A simulator that is asked in one system message (IQA-EVAL) goes on right after it.

    >>> prompt_text([Message("system", "S")])
    '[SYSTEM] S\n\n[USER] '
    """
    roles = [message.role for message in messages[:2]]
    if roles not in (["system"], ["system", "user"]):
        raise ValueError(f"roles {', '.join(roles)}; expected system, user")
    return "[SYSTEM] " + "\n\n".join(message.content for message in messages[:2]) + PROMPT_END


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


def wrapping(tokenizer: Encoder) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text.

    Those before (a beginning-of-sequence token, mostly) lead a prompt. Those after (an end-of-sequence token) are
    omitted: between prompt and completion they would say that the text is over.

    Raises:
        ChatbenchError: it changes the text as well, or adds tokens though it is told not to.
    """
    bare, wrapped = (tokenizer.encode(_PROBE, add_special_tokens=flag) for flag in (False, True))
    starts = [start for start in range(len(wrapped)) if wrapped[start : start + len(bare)] == bare]
    unasked = {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(bare)
    if not bare or not starts or unasked:
        raise ChatbenchError(
            f"the tokenizer encodes {_PROBE!r} as {bare} without special tokens and as {wrapped} with them",
            expected="the same tokens, with special ones only before or after them and only where they are asked for",
            fix="set its post-processor right, or choose another base",
        )
    return wrapped[: starts[0]], wrapped[starts[0] + len(bare) :]


def encode_prompt(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a prompt, led by what the tokenizer puts before a text (see `wrapping`)."""
    return wrapping(tokenizer)[0] + tokenizer.encode(text, add_special_tokens=False)


def encode_completion(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a completion, without special tokens."""
    return tokenizer.encode(text, add_special_tokens=False)
