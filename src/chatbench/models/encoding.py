"""Encodes examples to token ids, in the form that a model was or will be trained on, and fits them to its context.

Nothing is cut silently: an example longer than the context is left out and counted, or, if requested,
loses the oldest turns of the conversation in its prompt until it fits. Training, validation and perplexity all
encode here, so they see the same tokens. `TokenPieces` is the inverse: the text of each scored token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.progress import WorkProgress
from chatbench.core.records import Message
from chatbench.core.settings import LongExamples, Template
from chatbench.data.examples import TURNS_PER_EXCHANGE, ExampleRow, exchanges_in, without_oldest
from chatbench.models.chat_template import ChatForm
from chatbench.protocol.prompts import END, EncodedExample, encode_prompt, prompt_text, wrapping

ROWS_AT_ONCE = 4096
"""Rows passed to a tokenizer at once; progress is shown in between."""


class PlainForm:
    """Prompt and completion as text with the protocol's markers, each tokenised by itself.

    A generated turn ends at one of the `stop` strings or a token of `end_ids`.

    Raises:
        ChatbenchError: the tokenizer adds tokens that cannot be distinguished from the text's.
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
        return (f"the tokenizer appends {token} to a text; it is omitted between prompt and completion",)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt of a system and a user message."""
        return encode_prompt(self._tokenizer, prompt_text(messages))

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample]:
        """Token ids of each row."""
        # A tokenizer is several times faster on a list than one by one.
        distinct = list(dict.fromkeys(text for row in rows for text in (row.prompt, row.completion)))
        if not distinct:
            return []
        batch = self._tokenizer(
            distinct, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        ids = dict(zip(distinct, cast("list[list[int]]", batch["input_ids"]), strict=True))
        return [EncodedExample(self._before + ids[row.prompt], ids[row.completion]) for row in rows]


@dataclass(frozen=True, slots=True)
class TextForm:
    """How an example becomes tokens: its template, and what happens if they exceed the context."""

    template: Template = "plain"
    long_examples: LongExamples = "leave_out"

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """In words, what an example's ids depend on besides the tokenizer's vocabulary and rules."""
        return f"{encoder(tokenizer, self.template).name}; examples longer than the context: {self.long_examples}"


PLAIN = TextForm()


def form_of(record: Mapping[str, Any]) -> TextForm:
    """The form that a model was trained in, from its `chatbench.json`; plain text if the record says nothing."""
    settings = record.get("settings", {})
    return TextForm(settings.get("template", PLAIN.template), settings.get("long_examples", PLAIN.long_examples))


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """The examples that fit: `examples[i]` holds the ids of `rows[i]`, in the order in which they were given.

    `examples_left_out` did not fit; `longest_tokens` is the longest of those that were too long, before anything was
    dropped. `examples_shortened` lost `turns_dropped` turns in all. `notes` are to be printed once.
    """

    examples: list[EncodedExample]
    rows: list[ExampleRow]
    max_tokens: int
    examples_left_out: int = 0
    examples_shortened: int = 0
    turns_dropped: int = 0
    longest_tokens: int = 0
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """How the context limited the examples, by name, for a record."""
        return {name: getattr(self, name) for name in ("examples_left_out", "examples_shortened", "turns_dropped")}

    def lines(self) -> list[str]:
        """The notes, and what did not fit."""
        lines = list(self.notes)
        too_long = self.examples_left_out + self.examples_shortened
        if too_long:
            lines.append(
                f"{too_long:,} examples are longer than the context of {self.max_tokens:,} tokens "
                f"(the longest has {self.longest_tokens:,}): {self.examples_left_out:,} left out, "
                f"{self.examples_shortened:,} shortened by their {self.turns_dropped:,} oldest turns"
            )
        return lines


def encoder(tokenizer: PreTrainedTokenizerBase, template: Template) -> PlainForm | ChatForm:
    """The encoder of examples and prompts in a template's form.

    Raises:
        ChatbenchError: the tokenizer has no such template, or one that cannot be masked exactly.
    """
    return PlainForm(tokenizer) if template == "plain" else ChatForm(tokenizer)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[ExampleRow], max_tokens: int, form: TextForm = PLAIN
) -> EncodedRows:
    """Token ids of the rows within `max_tokens`, shortened as `form` says, and the counts of what did not fit.

    Raises:
        ChatbenchError: no row fits, or the rows or the tokenizer do not match the template.
    """
    chosen = encoder(tokenizer, form.template)
    fitting: list[tuple[ExampleRow, EncodedExample]] = []
    shortened = dropped = longest = 0
    encoded: list[EncodedExample] = []
    with WorkProgress("reading tokens", "examples") as progress:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            encoded += chosen.encode(rows[start : start + ROWS_AT_ONCE])
            progress(len(encoded), len(rows))
    for row, example in zip(rows, encoded, strict=True):
        if example.tokens <= max_tokens:
            fitting.append((row, example))
            continue
        longest = max(longest, example.tokens)
        most = exchanges_in(row) if form.long_examples == "drop_oldest_turns" else 0
        for count in range(1, most + 1):  # as few as make it fit
            shorter = without_oldest(row, count)
            (example,) = chosen.encode([shorter])
            if example.tokens <= max_tokens:
                fitting.append((shorter, example))
                shortened += 1
                dropped += TURNS_PER_EXCHANGE * count
                break
    if rows and not fitting:
        raise ChatbenchError(
            f"none of {len(rows):,} examples fits a context of {max_tokens:,} tokens",
            expected=f"room for {longest:,} tokens, the length of the longest",
            fix="choose a model with a longer context",
        )
    return EncodedRows(
        examples=[example for _, example in fitting],
        rows=[row for row, _ in fitting],
        max_tokens=max_tokens,
        examples_left_out=len(rows) - len(fitting),
        examples_shortened=shortened,
        turns_dropped=dropped,
        longest_tokens=longest,
        notes=chosen.notes,
    )


_BROKEN = "\ufffd"
"""What a tokenizer decodes part of a character to."""
_MOST_BYTES = 4
"""Tokens of a character at most: what is incomplete after as many is a broken character that somebody wrote."""
_ANCHOR = "a"
"""Decoded before each token: at the start of a text some tokenizers drop the token's space."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """`texts[i]` cost `nats[i]`; both have the same length, in the order of the completion."""

    texts: tuple[str, ...]
    nats: tuple[float, ...]


class TokenPieces:
    """Decodes the tokens of completions one by one; each token of the vocabulary is decoded once.

    The pieces of a completion joined are its text. A character that takes several tokens (an emoji, a letter of a
    script that the tokenizer barely covers) cannot be divided: its tokens are one piece, with the sum of their nats.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)
        self._anchor_length = len(self._decode(self._anchor))
        self._known: dict[int, str] = {}

    def scored(self, completion: Sequence[int], nats: Sequence[float], text: str) -> ScoredText:
        """The pieces of a completion and their nats.

        Args:
            completion: token ids.
            nats: one per token.
            text: what was encoded; tells whether a leading space is the text's or the tokenizer's.
        """
        texts: list[str] = []
        sums: list[float] = []
        unfinished: list[int] = []  # tokens of a character that is incomplete so far
        for token, cost in zip(completion, nats, strict=True):
            if unfinished:
                unfinished.append(token)
                texts[-1] = self._after_anchor(unfinished)
                sums[-1] += cost
            else:
                unfinished = [token]
                if token not in self._known:
                    self._known[token] = self._after_anchor([token])
                texts.append(self._known[token])
                sums.append(cost)
            if not texts[-1].endswith(_BROKEN) or len(unfinished) == _MOST_BYTES:
                unfinished = []
        if texts and not text.startswith(" "):
            texts[0] = texts[0].removeprefix(" ")
        return ScoredText(tuple(texts), tuple(sums))

    def _after_anchor(self, tokens: Sequence[int]) -> str:
        return self._decode([*self._anchor, *tokens])[self._anchor_length :]

    def _decode(self, tokens: Sequence[int]) -> str:
        # "Hello ." must not become "Hello.".
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
