r"""The plain-text format of examples, for base models without a chat template.

`prompt = "[SYSTEM] {system}\n\n{user}\n\n[USER] "`, `completion = "{target} [END]"`. The markers are plain text, not
added tokens. Prompt and completion are tokenised separately, the same way in training, scoring and generation:
tokenised together, a BPE tokenizer would merge the last space of the prompt with the first word of the completion, and
the mask would be off by a token.

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
    """The tokenizer interface that this module needs (Hugging Face tokenizers have it)."""

    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of one example; only `completion` carries loss.

    `weights` are the loss weights of its tokens in training, of the same length; empty means 1 each.
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
    r"""Format the prompt that the model continues.

    >>> prompt_text([Message("system", "S"), Message("user", "U")])
    '[SYSTEM] S\n\nU\n\n[USER] '

    A simulator prompted with a single system message (IQA-EVAL) continues right after it.

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
    """Extract the turn from a generated text, and whether the end marker was there.

    >>> read_completion("Answer: B [END] and more")
    ('Answer: B', True)
    >>> read_completion("still talking")
    ('still talking', False)
    """
    text, marker, _ = generated.partition(END.strip())
    return text.strip() if marker else generated.strip(), bool(marker)


def wrapping(tokenizer: Encoder) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text.

    Those before (usually a beginning-of-sequence token) start a prompt. Those after (an end-of-sequence token) are
    omitted: between prompt and completion they would mark the end of the text.

    Raises:
        ChatbenchError: the tokenizer also changes the text, or adds special tokens when told not to.
    """
    bare, wrapped = (tokenizer.encode(_PROBE, add_special_tokens=flag) for flag in (False, True))
    starts = [start for start in range(len(wrapped)) if wrapped[start : start + len(bare)] == bare]
    unasked = {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(bare)
    if not bare or not starts or unasked:
        raise ChatbenchError(
            f"the tokenizer encodes {_PROBE!r} as {bare} without special tokens and as {wrapped} with them",
            expected="the same tokens, with special tokens only before or after them and only on request",
            fix="correct its post-processor, or choose another base",
        )
    return wrapped[: starts[0]], wrapped[starts[0] + len(bare) :]


def encode_prompt(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a prompt, starting with the special tokens that go before a text (see `wrapping`)."""
    return wrapping(tokenizer)[0] + tokenizer.encode(text, add_special_tokens=False)


def encode_completion(tokenizer: Encoder, text: str) -> list[int]:
    """Token ids of a completion, without special tokens."""
    return tokenizer.encode(text, add_special_tokens=False)
