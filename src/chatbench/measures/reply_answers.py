r"""The option at which an assistant's reply arrives, read off its text; None where the reply does not say.

In this order, the later place in the reply winning within each:

    1. a letter that is called the answer ("The answer is B", "**C**", "\boxed{D}", "option A is correct"),
       or with which the reply begins ("B. 12")
    2. the one option whose text stands in the last sentence that names any option; where all options are numbers, in
       the last sentence with a number ("8 * 7 = 54. The answer is 54." does not answer 8)

A sentence that names several options decides nothing. What cannot be read is unknown, not wrong.
"""

from __future__ import annotations

import re

from chatbench.core.records import LETTERS, Question
from chatbench.measures.number_copy import numbers
from chatbench.measures.word_order import words

_LETTER = r"[(\[*\"'`]*([A-D])(?![\w'’])"  # noqa: RUF001  (people type both apostrophes)
_CALLED = re.compile(
    rf"(?:\b(?:answer|choice|option|choose|select|pick)\b(?:\s+(?:would be|should be|is|are|to|was))?[\s:]*{_LETTER}"
    r"|\b([A-D])[)\]*\"'`]*\s+is\s+(?:the\s+)?(?:correct|right)\b"
    rf"|\\boxed\{{\s*(?:\\text\{{)?\(?([A-D])\b"
    rf"|\*\*\(?([A-D])\)?[.):]?(?:\*\*|\s))",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\W*([A-D])(?:[.):]|\s*$)")
_ARTICLE = re.compile(r"^(?:the|an?) ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def answer_in_reply(reply: str, question: Question) -> str | None:
    """The letter of the option that a reply gives as its answer."""
    called = [str(letter) for groups in _CALLED.findall(reply) for letter in groups if letter in LETTERS]
    if called:
        return called[-1]
    if first := _FIRST.match(reply):
        return str(first[1])
    only_numbers = all(_is_number(option) for option in question.options)
    for sentence in reversed(_SENTENCE.split(reply)):
        named = _named(sentence, question)
        if named or (only_numbers and numbers(sentence)):
            return named[0] if len(named) == 1 else None
    return None


def _named(sentence: str, question: Question) -> list[str]:
    """Letters of the options whose text stands in a sentence: a number by its value, else the words, article aside."""
    found, said = numbers(sentence), f" {' '.join(words(sentence))} "
    named = []
    for letter, option in zip(LETTERS, question.options, strict=True):
        option_words = _ARTICLE.sub("", " ".join(words(option)))
        stands = numbers(option) <= found if _is_number(option) else f" {option_words} " in said
        if option_words and stands:
            named.append(letter)
    return named


def _is_number(option: str) -> bool:
    return len(words(option)) == 1 and len(numbers(option)) == 1
