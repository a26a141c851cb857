"""Which parts of a question a user has conveyed: its numbers, its content words.

Numbers count by value and once each; words are those of `content_words`. A share is of the question's text without
its options: whether the options were told is counted apart (`copying.tells_options`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chatbench.core.records import Question
from chatbench.measures.number_copy import content_words, numbers


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares in 0..1 of a question's numbers and content words; None where the question has none."""

    numbers: float | None
    words: float | None


def coverage(messages: Iterable[str], question: Question) -> Coverage:
    """What the messages together convey."""
    said = "\n".join(messages)
    return Coverage(
        _share(numbers(question.text), numbers(said)), _share(content_words(question.text), content_words(said))
    )


def _share(wanted: frozenset[object], found: frozenset[object]) -> float | None:
    return len(wanted & found) / len(wanted) if wanted else None
