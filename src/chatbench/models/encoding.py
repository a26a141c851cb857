"""Examples to token ids, many at a time: the ids of `protocol.transcript.encode_example`, with the batch's speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import EncodedExample, encode_example


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[ExampleRow], max_tokens: int
) -> list[EncodedExample]:
    """Token ids of each row, cut on the left of the prompt to `max_tokens`.

    Raises:
        ChatbenchError: a completion alone is longer than the model's context.
    """
    encoder = _Batch(tokenizer, (row.prompt for row in rows), (row.completion for row in rows))
    encoded = []
    for row in rows:
        try:
            encoded.append(encode_example(encoder, row.prompt, row.completion, max_tokens))
        except ValueError as error:
            raise ChatbenchError(
                f"example of conversation {row.conversation_id}: {error}",
                expected="turns that fit the model's context",
                fix="choose a model with a longer context, or leave the conversation out of the study",
            ) from error
    return encoded


class _Batch:
    """An `Encoder` that knows the ids of its texts: a tokenizer is several times as fast on a list as one by one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str], completions: Iterable[str]) -> None:
        self.bos_token_id = cast("int | None", tokenizer.bos_token_id)
        self._ids = {True: _ids(tokenizer, prompts, special=True), False: _ids(tokenizer, completions, special=False)}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._ids[add_special_tokens][text]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, special: bool) -> dict[str, list[int]]:
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    batch = tokenizer(
        distinct, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return dict(zip(distinct, cast("list[list[int]]", batch["input_ids"]), strict=True))
