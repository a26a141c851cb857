r"""Metrics of chats and their first prompts: turns, endings, overlap with human prompts, and numbers copied.

A prompt can copy the numbers of its question, omit them, or make others up. Numbers are compared by value (`1,200` =
`1200` = `1200.0`), without sign, each counted once. A prompt that asks about something else ("what is a prime?") need
not contain them; one that *restates* the problem should. People omit facts on purpose, so compare a simulator with the
human value, not with 100 %.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

import numpy as np

from chatbench.core.answer_kinds import Choice
from chatbench.core.records import Conversation, Question, SimulatedConversation, Study
from chatbench.metrics.agreement import Undefined, Value, standard_deviation
from chatbench.metrics.names import EVERY_ASSISTANT, PEOPLE, TERMINATIONS, TEXT_METRICS, MetricValue, Predictor, share
from chatbench.metrics.pairs import grouped, is_lost
from chatbench.metrics.text import BleuCounts, Overlap, TokenizerName, common_lengths, overlap, sacrebleu_score

Chat = TypeVar("Chat")


def people_metrics(conversations: Sequence[Conversation]) -> Iterator[MetricValue]:
    """Number of real chats and mean number of user turns, per assistant and pooled."""
    for name, group in _by_assistant(conversations, lambda chat: chat.assistant):
        turns = [chat.user_turns for chat in group]
        yield MetricValue(name, PEOPLE, "conversations", float(len(group)))
        yield MetricValue(name, PEOPLE, "user_turns", sum(turns) / len(turns))


def chat_metrics(chats: Sequence[SimulatedConversation], predictor: Predictor) -> Iterator[MetricValue]:
    """Number of chats, share of each ending, and mean user turns of chats that did not fail.

    Also the shares without a valid letter: of all chats (`without_answer_share`) and of those not lost
    (`invalid_share`).
    """
    for name, group in _by_assistant(chats, lambda chat: chat.assistant):
        endings: Counter[str] = Counter(chat.termination for chat in group)
        turns = [sum(turn.role == "user" for turn in chat.turns) for chat in group if chat.termination != "failed"]
        kept = [chat for chat in group if not is_lost(chat)]
        without, invalid = (sum(chat.letter is None for chat in chats) for chats in (group, kept))
        values: dict[str, Value] = {
            "conversations": float(len(group)),
            **{f"{ending}_share": endings[ending] / len(group) for ending in TERMINATIONS},
            "user_turns": share(sum(turns), len(turns), "every chat failed"),
            "without_answer_share": without / len(group),
            "invalid_share": share(invalid, len(kept), "every chat failed"),
        }
        yield from (MetricValue(name, predictor, metric, value) for metric, value in values.items())


def level_metrics(
    given: Iterable[tuple[str, str, str | None]], questions: Mapping[str, Question], predictor: Predictor
) -> Iterator[MetricValue]:
    """Mean absolute error, in levels, of valid answers to questions with ordered options; yields nothing without any.

    Args:
        given: (assistant, question id, letter) of each answer.
    """
    errors = [
        (assistant, abs(question.letters.index(letter) - question.letters.index(question.answer)))
        for assistant, question_id, letter in given
        if (question := questions[question_id]).kind == Choice(ordered=True) and letter in question.letters
    ]
    for name, group in _by_assistant(errors, lambda error: error[0]):
        yield MetricValue(name, predictor, "level_error", sum(error for _, error in group) / len(group))


def _by_assistant(chats: Sequence[Chat], assistant_of: Callable[[Chat], str]) -> Iterator[tuple[str, Sequence[Chat]]]:
    yield from sorted(grouped((assistant_of(chat), chat) for chat in chats).items())
    if chats:
        yield EVERY_ASSISTANT, chats


_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", re.ASCII)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_FUNCTION_WORDS_TEXT = """
a about after all also an and any are as at be been before both but by can could did do does each either every for from
get had has have he her hers him his how i if in into is it its just let me more most much many my no nor not now of off
on one only or other our out over she should so some such than that the their them then there these they this those
through to too under up us very was we were what when where which while who whom whose why will with would you your
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
RESTATED_SHARE = 0.5
"""A prompt with at least this share of a question's content words, or of its numbers, restates it."""


def numbers(text: str) -> frozenset[Decimal]:
    """The distinct numbers of a text, by value.

    >>> sorted(map(str, numbers("1,200 pens, 3 boxes, 3.50 each, 3 left")))
    ['1200', '3', '3.5']
    """
    found = (match.replace(",", "") for match in _NUMBER.findall(text))
    # normalize() and quantize() would round to 28 digits, or fail, and write 1200 as 1.2E+3.
    return frozenset(Decimal(digits.rstrip("0").rstrip(".") if "." in digits else digits) for digits in found)


def content_words(text: str) -> frozenset[str]:
    """The distinct words of a text, lower-cased, without function words and numbers."""
    return frozenset(_WORD.findall(text.lower())) - _FUNCTION_WORDS


def restates(prompt: str, question: Question) -> bool:
    """Whether a prompt contains at least half of the question text's content words, or half of its numbers."""
    kinds: tuple[Callable[[str], frozenset[object]], ...] = (content_words, numbers)
    both = ((wanted, part_of(prompt)) for part_of in kinds if (wanted := part_of(question.text)))
    return any(len(wanted & found) >= RESTATED_SHARE * len(wanted) for wanted, found in both)


def number_copy(prompts: Iterable[str], question: Question) -> Counter[str]:
    """Count numbers copied in one question's first prompts; empty if the question text has no number.

    `complete`: restatements with every number of the question text. `with_number`: prompts with any number.
    `no_foreign`: those of them whose numbers all occur in the question (text or options).
    """
    counts: Counter[str] = Counter()
    if wanted := numbers(question.text):
        known = wanted | numbers(question.full_text)
        for prompt in prompts:
            found, restated = numbers(prompt), restates(prompt, question)
            counts["prompts"] += 1
            counts["restatements"] += restated
            counts["complete"] += restated and wanted <= found
            counts["with_number"] += bool(found)
            counts["no_foreign"] += bool(found) and found <= known
    return counts


_TYPED_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001  (people type both apostrophes)


def words(text: str) -> list[str]:
    """Lower-cased words and numbers of a text, in order, without punctuation.

    >>> words("What's 1,200 x 3.5?")
    ["what's", '1,200', 'x', '3.5']
    """
    return [word.replace("’", "'") for word in _TYPED_WORD.findall(text.lower())]  # noqa: RUF001  (as above)


def words_in_order(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    >>> words_in_order("a b c d".split(), "b x d a".split())
    2
    """
    return int(common_lengths([first], [second])[0, 0])


def simulated_first_prompts(chats: Iterable[SimulatedConversation]) -> dict[str, list[str]]:
    """First user message of each chat, by question; "" if the simulator wrote nothing.

    The first message is written before the assistant replies, so chats are pooled over assistants.
    """
    prompts: dict[str, list[str]] = {}
    for chat in chats:
        if chat.turns or not is_lost(chat):
            prompts.setdefault(chat.question_id, []).append(chat.turns[0].text if chat.turns else "")
    return prompts


def human_overlap(conversations: Sequence[Conversation], tokenizer: TokenizerName = "published") -> Overlap | None:
    """Overlap of different people's first prompts about one question: the ceiling for a simulator.

    None if fewer than two people wrote one.
    """
    workers = np.array([conversation.worker_id for conversation in conversations], dtype=object)
    prompts = [conversation.turns[0].text for conversation in conversations]
    different = np.asarray(workers[:, None] != workers[None, :], dtype=bool)
    return overlap(prompts, prompts, allowed=different, tokenizer=tokenizer) if different.any() else None


def overlap_values(overlaps: Mapping[str, Overlap]) -> dict[str, dict[str, float]]:
    """Value per question of each metric, omitting questions where it is undefined."""
    return {
        metric: {
            question_id: value
            for question_id, scored in overlaps.items()
            if not isinstance(value := scored.value(metric), Undefined)
        }
        for metric in TEXT_METRICS
    }


def overlap_metrics(overlaps: Mapping[str, Overlap], predictor: Predictor) -> Iterator[MetricValue]:
    """Mean and standard deviation over questions, and sacrebleu over all pairs as one corpus."""
    if not overlaps:
        return
    some = next(iter(overlaps.values()))
    for metric, values in overlap_values(overlaps).items():
        numbers = list(values.values())
        mean = math.fsum(numbers) / len(numbers) if numbers else some.value(metric)
        deviation = standard_deviation(numbers) if numbers else mean
        yield MetricValue(EVERY_ASSISTANT, predictor, metric, mean)
        yield MetricValue(EVERY_ASSISTANT, predictor, f"{metric}_sd_over_questions", deviation)
    read = [scored.bleu_counts for scored in overlaps.values() if "bleu" not in scored.unread]
    corpus = sacrebleu_score(sum(read, start=BleuCounts()))[0] if read else some.value("bleu")
    yield MetricValue(EVERY_ASSISTANT, predictor, "sacrebleu", corpus)
    yield MetricValue(
        EVERY_ASSISTANT, predictor, "prompt_pairs", float(sum(scored.pairs for scored in overlaps.values()))
    )


def number_metrics(study: Study, prompts: Mapping[str, Sequence[str]], predictor: Predictor) -> Iterator[MetricValue]:
    """Shares of first prompts that restate the problem, that then contain all its numbers, and that invent none."""
    total: Counter[str] = Counter()
    for question_id, texts in prompts.items():
        total += number_copy(texts, study.questions[question_id])
    for metric, part, whole, reason in (
        ("restatement_share", "restatements", "prompts", "no question has a number in its text"),
        ("all_numbers_share", "complete", "restatements", "no prompt restates its problem"),
        ("no_foreign_number_share", "no_foreign", "with_number", "no prompt contains a number"),
    ):
        yield MetricValue(EVERY_ASSISTANT, predictor, metric, share(total[part], total[whole], reason))
