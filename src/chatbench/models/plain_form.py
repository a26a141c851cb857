"""An example in the protocol's plain-text form, tokenised many at a time (see `protocol.transcript`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from chatbench.core.records import Message
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import END, EncodedExample, encode_prompt, prompt_text, wrapping


class PlainForm:
    """Prompt and completion as text with the protocol's markers, each tokenised by itself.

    A generated turn ends where one of `stop` is written, or a token of `end_ids`.

    Raises:
        ChatbenchError: the tokenizer adds tokens that cannot be told from the text's.
    """

    name = "plain text"
    stop = (END.strip(),)
    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before, self._after = wrapping(tokenizer)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the form is applied."""
        if not self._after:
            return ()
        token = self._tokenizer.decode(self._after)
        return (f"the tokenizer ends a text with {token}: left away between prompt and completion",)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt of a system and a user message."""
        return encode_prompt(self._tokenizer, prompt_text(messages))

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample]:
        """Token ids of each row."""
        ids = self._ids([text for row in rows for text in (row.prompt, row.completion)])
        return [EncodedExample(self._before + ids[row.prompt], ids[row.completion]) for row in rows]

    def _ids(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """By text; a tokenizer is several times as fast on a list as one by one."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        batch = self._tokenizer(
            distinct, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        return dict(zip(distinct, cast("list[list[int]]", batch["input_ids"]), strict=True))
