"""The words of a text, and how many words of one text stand in another in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001  (people type both apostrophes)


def words(text: str) -> list[str]:
    """Words and numbers, lower-cased, in order; punctuation and white space do not count.

    >>> words("What's 1,200 x 3.5?")
    ["what's", '1,200', 'x', '3.5']
    """
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]  # noqa: RUF001  (as above)


def words_in_order(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    One bit of an integer per word of `first`, so a whole column of the usual table is one addition.

    Source: Crochemore, Iliopoulos, Pinzon, Reid 2001, "A fast and practical bit-vector algorithm for the longest common
    subsequence problem".

    >>> words_in_order("a b c d".split(), "b x d a".split())
    2
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    every = (1 << len(first)) - 1
    unmatched = every
    for word in second:
        matches = unmatched & places.get(word, 0)
        unmatched = ((unmatched + matches) | (unmatched - matches)) & every
    return len(first) - unmatched.bit_count()


def share_in_order(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Share of the words of `wanted` that `found` holds in the same order, 0..1; 0 where nothing is wanted."""
    return words_in_order(wanted, found) / len(wanted) if wanted else 0.0
