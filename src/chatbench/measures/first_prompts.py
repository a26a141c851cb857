"""Figures of first prompts: overlap with what people wrote, and whether the question's numbers came over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from chatbench.core.records import Conversation, SimulatedConversation, Study
from chatbench.measures.accuracies import is_lost
from chatbench.measures.figures import EVERY_ASSISTANT, Figure, share
from chatbench.measures.number_copy import NumberCopy, number_copy
from chatbench.measures.overlap import BleuCounts, Overlap, overlap, sacrebleu_score
from chatbench.measures.uncertainty import standard_deviation


def simulated_first_prompts(chats: Iterable[SimulatedConversation]) -> dict[str, list[str]]:
    """First user message of each chat by question; a simulator that said nothing said "".

    The first message is written before the assistant is heard, so chats with all assistants count together.
    """
    prompts: dict[str, list[str]] = {}
    for chat in chats:
        if chat.turns or not is_lost(chat):
            prompts.setdefault(chat.question_id, []).append(chat.turns[0].text if chat.turns else "")
    return prompts


def human_overlap(conversations: Sequence[Conversation]) -> Overlap | None:
    """Overlap of different people's first prompts about one question: what a perfect simulator could reach.

    None where fewer than two people wrote.
    """
    workers = np.array([conversation.worker_id for conversation in conversations], dtype=object)
    prompts = [conversation.turns[0].text for conversation in conversations]
    different = np.asarray(workers[:, None] != workers[None, :], dtype=bool)
    return overlap(prompts, prompts, allowed=different) if different.any() else None


def question_copied(study: Study, prompts: Mapping[str, Sequence[str]]) -> dict[str, Overlap]:
    """Overlap of each question's own text with what people wrote: what a simulator reaches that just copies it."""
    return {
        question_id: overlap([study.questions[question_id].text], texts)
        for question_id, texts in sorted(prompts.items())
    }


def overlap_values(overlaps: Mapping[str, Overlap]) -> dict[str, dict[str, float]]:
    """Per metric, the value of each question."""
    return {
        "bleu": {question_id: scored.bleu for question_id, scored in overlaps.items()},
        "rouge1": {question_id: scored.rouge1 for question_id, scored in overlaps.items()},
        "rouge2": {question_id: scored.rouge2 for question_id, scored in overlaps.items()},
        "rougeL": {question_id: scored.rouge_l for question_id, scored in overlaps.items()},
    }


def overlap_figures(overlaps: Mapping[str, Overlap], source: str) -> Iterator[Figure]:
    """Mean and standard deviation over questions, and sacrebleu over all pairs as one corpus; by question id."""
    if not overlaps:
        return
    for metric, values in overlap_values(overlaps).items():
        numbers = list(values.values())
        yield Figure(EVERY_ASSISTANT, source, metric, math.fsum(numbers) / len(numbers))
        yield Figure(EVERY_ASSISTANT, source, f"{metric}_sd_over_questions", standard_deviation(numbers))
    counts = sum((scored.bleu_counts for scored in overlaps.values()), start=BleuCounts())
    yield Figure(EVERY_ASSISTANT, source, "sacrebleu", sacrebleu_score(counts)[0])
    yield Figure(EVERY_ASSISTANT, source, "prompt_pairs", float(sum(scored.pairs for scored in overlaps.values())))


def number_figures(study: Study, prompts: Mapping[str, Sequence[str]], source: str) -> Iterator[Figure]:
    """Shares of first prompts that restate the problem, and of those that carry its numbers over rightly."""
    copies = [number_copy(texts, study.questions[question_id]) for question_id, texts in prompts.items()]
    total = sum(copies, start=NumberCopy())
    shares = {
        "restatement_share": (total.restatements, total.prompts, "no question has a number in its text"),
        "all_numbers_share": (total.complete, total.restatements, "no prompt restates its problem"),
        "no_foreign_number_share": (total.no_foreign, total.with_number, "no prompt holds a number"),
    }
    for metric, (part, whole, reason) in shares.items():
        yield Figure(EVERY_ASSISTANT, source, metric, share(part, whole, reason))
