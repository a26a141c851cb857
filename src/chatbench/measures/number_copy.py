r"""Whether prompts carry the numbers of the question over: copied, left out, or made up.

Numbers are compared by value (`1,200` = `1200` = `1200.0`), without sign, and once each however often they stand there.
A prompt that asks about something else ("what is a prime?") need not hold them; one that *restates* the problem should.
People leave facts out on purpose, so a simulator is read beside the human value and not against 100 %.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from chatbench.core.records import Question

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
"""From this share of its content words, or of its numbers, a question counts as restated."""


def numbers(text: str) -> frozenset[Decimal]:
    """The distinct numbers of a text, by value.

    >>> sorted(map(str, numbers("1,200 pens, 3 boxes, 3.50 each, 3 left")))
    ['1200', '3', '3.5']
    """
    values = (Decimal(match.replace(",", "")) for match in _NUMBER.findall(text))
    # normalize() would turn 1200 into 1.2E+3, an equal but unreadable value.
    return frozenset(v.quantize(Decimal(1)) if v == v.to_integral_value() else v.normalize() for v in values)


def content_words(text: str) -> frozenset[str]:
    """The distinct words of a text, lower-cased, without function words and numbers."""
    return frozenset(_WORD.findall(text.lower())) - _FUNCTION_WORDS


def restates(prompt: str, question: Question) -> bool:
    """Whether a prompt tells the problem: it holds half of the question text's content words or half of its numbers."""
    return _reaches(content_words(prompt), content_words(question.text)) or _reaches(
        numbers(prompt), numbers(question.text)
    )


def _reaches(found: frozenset[object], wanted: frozenset[object]) -> bool:
    return bool(wanted) and len(found & wanted) >= RESTATED_SHARE * len(wanted)


@dataclass(frozen=True, slots=True)
class NumberCopy:
    """Counts over prompts about questions whose text holds a number; counts add up.

    `complete`: restatements that hold every number of the question text. `with_number`: prompts that hold a number at
    all; `no_foreign`: those of them whose every number stands in the question (text or options).
    """

    prompts: int = 0
    restatements: int = 0
    complete: int = 0
    with_number: int = 0
    no_foreign: int = 0

    def __add__(self, other: NumberCopy) -> NumberCopy:
        return NumberCopy(
            self.prompts + other.prompts,
            self.restatements + other.restatements,
            self.complete + other.complete,
            self.with_number + other.with_number,
            self.no_foreign + other.no_foreign,
        )


def number_copy(prompts: Iterable[str], question: Question) -> NumberCopy:
    """Counts for one question's first prompts; all zero where the question text holds no number."""
    wanted = numbers(question.text)
    if not wanted:
        return NumberCopy()
    known = wanted | numbers(question.full_text)
    total = NumberCopy()
    for prompt in prompts:
        found, restated = numbers(prompt), restates(prompt, question)
        total += NumberCopy(1, restated, restated and wanted <= found, bool(found), bool(found) and found <= known)
    return total
