"""How a person puts a question to an assistant: copied, rephrased, told in part, or not told at all.

Every first message is one of four, tried in this order (words and numbers count, letter case and punctuation do not):

    copy      at least 90 % of the words of the question's text stand in it, in the question's order
    rephrase  it restates the question (half of its content words or numbers) and misses none of its numbers
    partial   it holds at least one number or content word of the question
    other     none of these ("can you help me?")

The published annotation of first prompts has no stated threshold, so these are this project's own; they are applied to
people and simulators alike.
"""

from __future__ import annotations

from typing import Literal, get_args

from chatbench.core.records import Question
from chatbench.measures.number_copy import content_words, numbers, restates
from chatbench.measures.word_order import share_in_order, words

Wording = Literal["copy", "rephrase", "partial", "other"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

COPY_SHARE = 0.9
"""From this share of its words, in their order, a text counts as copied: typing errors and dropped articles pass."""


def copied_share(message: str, text: str) -> float:
    """Share of the words of `text` that `message` holds in the same order, 0..1."""
    return share_in_order(words(text), words(message))


def wording_of(message: str, question: Question) -> Wording:
    """Which of the four a first message is; a question without numbers or content words can only be copied or not."""
    if copied_share(message, question.text) >= COPY_SHARE:
        return "copy"
    if restates(message, question) and numbers(question.text) <= numbers(message):
        return "rephrase"
    told = (numbers(message) & numbers(question.text)) | (content_words(message) & content_words(question.text))
    return "partial" if told else "other"


def tells_options(message: str, question: Question) -> bool:
    """Whether a message lists the options: it holds at least 90 % of all options' words, in their order."""
    return copied_share(message, " ".join(question.options)) >= COPY_SHARE
