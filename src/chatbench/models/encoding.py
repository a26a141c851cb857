"""Examples to token ids, in the form that a model was or will be trained on, and made to fit its context.

Nothing is cut silently: an example that is longer than the context is left out and counted, or, where that is asked
for, loses the oldest turns of the conversation in its prompt until it fits. Training, validation and perplexity all
encode here, so they see the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import LongExamples, Template
from chatbench.models.chat_form import ChatForm
from chatbench.models.plain_form import PlainForm
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.history import TURNS_PER_EXCHANGE, exchanges_in, without_oldest
from chatbench.protocol.transcript import EncodedExample


@dataclass(frozen=True, slots=True)
class TextForm:
    """How an example becomes tokens: its template, and what happens where they are more than the context holds."""

    template: Template = "plain"
    long_examples: LongExamples = "leave_out"

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """What the ids of an example depend on beside the tokenizer's vocabulary and rules, in words."""
        return f"{encoder(tokenizer, self.template).name}; examples longer than the context: {self.long_examples}"


PLAIN = TextForm()


def form_of(record: Mapping[str, Any]) -> TextForm:
    """The form that a model was trained in, by its `chatbench.json`; a record that says nothing means plain text."""
    settings = record.get("settings", {})
    return TextForm(settings.get("template", PLAIN.template), settings.get("long_examples", PLAIN.long_examples))


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """The examples that fit: `examples[i]` holds the ids of `rows[i]`, in the order in which they were given.

    `examples_left_out` did not fit; `longest_tokens` is the longest of those that were too long, before anything was
    dropped. `examples_shortened` lost `turns_dropped` turns between them. `notes` are worth saying once.
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
        """What the context did to the examples, by name, for a record."""
        return {
            "examples_left_out": self.examples_left_out,
            "examples_shortened": self.examples_shortened,
            "turns_dropped": self.turns_dropped,
        }

    def lines(self) -> list[str]:
        """The notes, and what did not fit; nothing where there is nothing to say."""
        lines = list(self.notes)
        too_long = self.examples_left_out + self.examples_shortened
        if too_long:
            lines.append(
                f"{too_long:,} examples are longer than the context of {self.max_tokens:,} tokens "
                f"(the longest has {self.longest_tokens:,}): {self.examples_left_out:,} left out, "
                f"{self.examples_shortened:,} without their {self.turns_dropped:,} oldest turns"
            )
        return lines


def encoder(tokenizer: PreTrainedTokenizerBase, template: Template) -> PlainForm | ChatForm:
    """What encodes examples and prompts in a template's form.

    Raises:
        ChatbenchError: the tokenizer has no such template, or one that cannot be masked exactly.
    """
    return PlainForm(tokenizer) if template == "plain" else ChatForm(tokenizer)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[ExampleRow], max_tokens: int, form: TextForm = PLAIN
) -> EncodedRows:
    """Token ids of the rows that fit `max_tokens`, made to fit as `form` says, and the counts of what did not.

    Raises:
        ChatbenchError: no row fits, or the rows or the tokenizer do not go with the template.
    """
    chosen = encoder(tokenizer, form.template)
    fitting: list[tuple[ExampleRow, EncodedExample]] = []
    shortened = dropped = longest = 0
    for row, example in zip(rows, chosen.encode(rows), strict=True):
        if example.tokens <= max_tokens:
            fitting.append((row, example))
            continue
        longest = max(longest, example.tokens)
        if form.long_examples == "drop_oldest_turns" and (shorter := _shortened(chosen, row, max_tokens)):
            fitting.append(shorter[:2])
            shortened += 1
            dropped += shorter[2]
    if rows and not fitting:
        raise ChatbenchError(
            f"none of {len(rows):,} examples fits a context of {max_tokens:,} tokens",
            expected=f"room for {longest:,} tokens, as the longest needs",
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


def _shortened(
    chosen: PlainForm | ChatForm, row: ExampleRow, max_tokens: int
) -> tuple[ExampleRow, EncodedExample, int] | None:
    """The row without as few of its oldest turns as make it fit, and their number; None if nothing makes it fit."""
    for count in range(1, exchanges_in(row) + 1):
        shorter = without_oldest(row, count)
        (example,) = chosen.encode([shorter])
        if example.tokens <= max_tokens:
            return shorter, example, TURNS_PER_EXCHANGE * count
    return None
