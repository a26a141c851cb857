"""A figure and the names that its row can have, the same in every table and file of scores."""

from __future__ import annotations

from dataclasses import dataclass

from chatbench.measures.agreement import Undefined, Value

EVERY_ASSISTANT = "all"
"""Row of all assistants' cells or chats together (pooled)."""
MEAN_OF_ASSISTANTS = "mean of assistants"

PEOPLE = "people"
FINE_TUNED = "fine-tuned"
UNTRAINED = "untrained"
DROPPED = ", invalid dropped"
"""Ending of a source's name where invalid answers were dropped; without it they are counted wrong."""
CONSTANT = "constant (train mean)"
USER_ALONE = "user alone"
AI_ALONE = "AI alone, "
"""Beginning of a source's name; the method follows."""

AGREEMENT_METRICS = ("questions", "pearson", "spearman", "mae", "rmse", "bias")
TEXT_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
NUMBER_METRICS = ("restatement_share", "all_numbers_share", "no_foreign_number_share")
TERMINATIONS = ("answered", "forced", "no_answer", "failed")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one split: `metric` of `source`, for one assistant or all."""

    assistant: str
    source: str
    metric: str
    value: Value


def share(part: int, whole: int, reason: str) -> Value:
    """part / whole, or why it does not exist."""
    return part / whole if whole else Undefined(reason)
