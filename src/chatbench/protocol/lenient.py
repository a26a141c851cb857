r"""A patient reader for answers that the protocol counts as invalid; what it finds stands beside the strict letter.

The published rule takes the first character after `Answer: `, so "(A)", "d" and "the answer is B" have no letter and
count as wrong. This reader says how many of them a person would have understood. It is never used in place of the
strict rule: it answers how much of a simulator's error is a matter of form.

It knows four ways of naming an option, and gives a letter only where all that it finds agree:

    the letter by itself       (A)    d    **B**    "C"
    the letter, then a mark    b) 42    D: because of ...
    in a sentence              the answer is B    I would choose option (c)
    the option's text          word for word, where it is the whole answer
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatbench.core.records import LETTERS

# White space is single spaces by then: runs of it would make these patterns slow.
_WRAPPED = r"[ (\[{<\"'*_`$]*"
_ALONE = re.compile(rf"{_WRAPPED}([A-Da-d])[ )\]}}>\"'*_`$.,:;!]*")
_LEADING = re.compile(rf"{_WRAPPED}([A-Da-d])[\"'*_`]*[)\]}}.:]+(?= |$)")
# A lower-case letter inside a sentence may be a word ("the answer is a number"), so a mark must hold or follow it.
_NAMED = re.compile(
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice|[Cc]hoose|[Pp]ick|[Ss]elect)(?: (?:is|would be|must be|should be|option))*"
    r" ?:? ?(?:[(\[\"'*_`]+([A-Da-d])[)\]\"'*_`]|([A-D])\b(?!['\u2019])|([a-d])(?= ?(?:[.,;!)]|$)))"
)
_EITHER = re.compile(r"\b[A-D]\)?,? ?(?:or|and|/|&) ?\(?[A-D]\b")


def lenient_letter(text: str, options: tuple[str, str, str, str]) -> str | None:
    """The letter that a person would read in an answer, None where it is unclear or there is none.

    >>> options = ("one", "two", "three", "four")
    >>> [lenient_letter(text, options) for text in ("(A)", "d", "the answer is B", "Three.", "A or B", "a guess")]
    ['A', 'D', 'B', 'C', None, None]
    """
    text = " ".join(text.split())
    if _EITHER.search(text):
        return None
    found = set(_letters(text)) | {
        letter for letter, option in zip(LETTERS, options, strict=True) if _bare(text) == _bare(option) != ""
    }
    return found.pop() if len(found) == 1 else None


def _letters(text: str) -> Iterator[str]:
    for match in (_ALONE.fullmatch(text), _LEADING.match(text)):
        if match:
            yield match[1].upper()
    for named in _NAMED.finditer(text):
        yield (named[1] or named[2] or named[3]).upper()


def _bare(text: str) -> str:
    """A text without letter case, doubled white space, and marks around it."""
    return " ".join(text.casefold().split()).strip(" .,:;!\"'*`$")
