"""A figure and the names that its row can have, the same in every table and file of scores.

A row is (assistant, source, metric); a *part* is a condition or a subset of which alone a figure speaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatbench.metrics.agreement import Undefined, Value

EVERY_ASSISTANT = "all"
"""Row of all assistants' cells or chats together (pooled)."""
MEAN_OF_ASSISTANTS = "mean of assistants"

PEOPLE = "people"
FINE_TUNED = "fine-tuned"
BASE_MODEL = "base model"
DROPPED = ", invalid dropped"
"""Ending of a source's name where invalid answers were dropped; without it they are counted wrong."""
EXPECTED = ", expected answers"
"""Ending of a source's name where the probability of the right letter stands for the sampled letter."""
CONSTANT = "constant (train mean)"
REGRESSION = "regression on user alone and AI alone"
USER_ALONE = "user alone"
AI_ALONE = "AI alone, "
"""Beginning of a source's name; the method follows."""
QUESTION_COPIED = "question copied"
"""The question's text, word for word, as the first prompt."""
CEILING = "ceiling, "
"""Beginning of a source's name; `ceiling_source` says what follows."""
UNLIMITED = "unlimited chats"

AGREEMENT_METRICS = ("questions", "pearson", "spearman", "mae", "rmse", "bias", "ece")
TEXT_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
NUMBER_METRICS = ("restatement_share", "all_numbers_share", "no_foreign_number_share")
TERMINATIONS = ("answered", "forced", "no_answer", "failed")


WHOLE = ""
"""The part that is everything."""
CONDITION = "condition "
SUBSET = "subset "
"""Beginnings of a part's name."""

MetricKey = tuple[str, str, str]
"""(assistant, source, metric)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one split: `metric` of `source`, for one assistant or all, on the whole split or a part of it."""

    assistant: str
    source: str
    metric: str
    value: Value
    part: str = WHOLE


def chats_text(conversations: int) -> str:
    """`1 chat`, `10 chats`."""
    return f"{conversations} chat{'s' * (conversations != 1)}"


def first_chats_source(source: str, conversations: int) -> str:
    """Name of a simulator of which only the first few chats per cell are looked at."""
    return f"{source}, first {chats_text(conversations)}"


def ceiling_source(conversations: int | None) -> str:
    """Name of the ceiling of a simulator with so many chats per cell; None: with as many as one likes."""
    return CEILING + (UNLIMITED if conversations is None else chats_text(conversations))


def share(part: int, whole: int, reason: str) -> Value:
    """part / whole, or why it does not exist."""
    return part / whole if whole else Undefined(reason)
