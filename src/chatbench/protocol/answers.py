r"""What a simulated user's output means: its next message, or the answer that ends the conversation.

The published order matters and is kept: white space, then double quotes at both ends, then one leading `YOU: `, and
only then the test for `Answer: `. A quoted answer behind `YOU: ` therefore is an ordinary message.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), and the published simulation loop (docs/protocol.md).

Lenient answer extraction is for answers that the protocol counts as invalid. The published rule takes the first
character after `Answer: `, so "(A)", "d" and "the answer is B" have no letter and count as wrong; the lenient letter
says how many of them a person would have understood. It is never used in place of the strict one: it answers how much
of a simulator's error is a matter of form. It knows four ways of naming an option, and gives a letter only where all
that it finds agree:

    the letter by itself       (A)    d    **B**    "C"
    the letter, then a mark    b) 42    D: because of ...
    in a sentence              the answer is B    I would choose option (c)
    the option's text          word for word, where it is the whole answer
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from chatbench.core.answer_kinds import LETTERS
from chatbench.protocol.prompts import ANSWER_PREFIX, IQA_EVAL_ANSWER


class _Patterns(NamedTuple):
    """The ways of naming one of a number of options; white space is single spaces: runs of it would be slow."""

    alone: re.Pattern[str]
    leading: re.Pattern[str]
    named: re.Pattern[str]
    either: re.Pattern[str]


@cache
def _patterns(options: int) -> _Patterns:
    wrapped = r"[ (\[{<\"'*_`$]*"
    upper, lower = f"[A-{LETTERS[options - 1]}]", f"[a-{LETTERS[options - 1].lower()}]"
    letter = f"({upper[:-1]}{lower[1:]})"
    return _Patterns(
        re.compile(rf"{wrapped}{letter}[ )\]}}>\"'*_`$.,:;!]*"),
        re.compile(rf"{wrapped}{letter}[\"'*_`]*[)\]}}.:]+(?= |$)"),
        # A lower-case letter inside a sentence may be a word ("the answer is a number"), so a mark must hold or follow
        # it; and so may "I".
        re.compile(
            r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice|[Cc]hoose|[Pp]ick|[Ss]elect)"
            r"(?: (?:is|would be|must be|should be|option))* ?:? ?"
            rf"(?:[(\[\"'*_`]+{letter}[)\]\"'*_`]|(?!I [a-z])({upper})\b(?!['\u2019])|({lower})(?= ?(?:[.,;!)]|$)))"
        ),
        re.compile(rf"\b{upper}\)?,? ?(?:or|and|/|&) ?\(?{upper}\b"),
    )


def lenient_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that a person would read in an answer, None where it is unclear or there is none, as without options.

    >>> options = ("one", "two", "three", "four")
    >>> [lenient_letter(text, options) for text in ("(A)", "d", "the answer is B", "Three.", "A or B", "a guess")]
    ['A', 'D', 'B', 'C', None, None]
    """
    text = " ".join(text.split())
    if not options or (patterns := _patterns(len(options))).either.search(text):
        return None
    found = {match[1].upper() for match in (patterns.alone.fullmatch(text), patterns.leading.match(text)) if match}
    found |= {(named[1] or named[2] or named[3]).upper() for named in patterns.named.finditer(text)}
    found |= {letter for letter, option in zip(LETTERS, options, strict=False) if _bare(text) == _bare(option) != ""}
    return found.pop() if len(found) == 1 else None


def _bare(text: str) -> str:
    """A text without letter case, doubled white space, and marks around it."""
    return " ".join(text.casefold().split()).strip(" .,:;!\"'*`$")


_OPENING = r"(?:<(?:seed:)?(?:think(?:ing)?|thought|reasoning)>|\[THINK\]|◁think▷|<\|START_THINKING\|>)"
_CLOSING = r"(?:</(?:seed:)?(?:think(?:ing)?|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>)"
_OPENED = re.compile(rf"{_OPENING}\s*\Z", re.IGNORECASE)
_REASONING = re.compile(rf"{_OPENING}(.*?){_CLOSING}|\A(.*){_CLOSING}|{_OPENING}(.*)\Z", re.DOTALL | re.IGNORECASE)
"""A whole block; one whose opening tag stood in the prompt, as some chat templates have it; one that was cut off."""
REASONING_TAGS = ("[THINK]", "[/THINK]", "<think>", "</think>", "<|START_THINKING|>", "<|END_THINKING|>")
"""Tags that are special tokens in some tokenizers; a text that is to be split must hold them all the same."""


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt's last words are an opening tag: what a model writes next is reasoning.

    >>> opens_reasoning("assistant\\n<think>\\n"), opens_reasoning("<think>\\n\\n</think>\\n\\n")
    (True, False)
    """
    return bool(_OPENED.search(prompt))


def split_reasoning(text: str) -> tuple[str, str]:
    r"""(reasoning, what is said) of a model's output; without tags of reasoning all of it is said, as it is.

    >>> split_reasoning("<think>\nB?\n</think>\n\nAnswer: B")
    ('B?', 'Answer: B')
    >>> split_reasoning("so it is B</think>Answer: B"), split_reasoning("<think>cut at the lim")
    (('so it is B', 'Answer: B'), ('cut at the lim', ''))
    """
    thoughts: list[str] = []
    said = text
    while found := _REASONING.search(said):
        thoughts.append(next(filter(None, found.groups()), "").strip())
        said = (said[: found.start()] + said[found.end() :]).strip()
    return "\n".join(filter(None, thoughts)), said


PARTICIPANT_PREFIX = "YOU: "
"""How the prompt shows the user's own turns; models like to repeat it."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What followed `Answer: `, as it was; the question says what it means (`Question.read`).

    `message` is the whole of what was said, its prefix and whatever stood before it included.
    """

    text: str
    message: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A message to the assistant; a `last` one ends the chat once it is answered, or at once where it is empty."""

    text: str
    last: bool = False


def clean_output(output: str) -> str:
    r"""The message in a simulator's output; a double quote goes from either end, whether the other has one or not.

    >>> clean_output('  "YOU: what is 2+2?"\n')
    'what is 2+2?'
    >>> clean_output('YOU: "Answer: B"')
    '"Answer: B'
    """
    return output.strip().strip('"').removeprefix(PARTICIPANT_PREFIX)


def read_answer(message: str) -> FinalAnswer | None:
    """The answer that a cleaned message gives, None where it is an ordinary message.

    >>> read_answer("Answer: B. because 4 is even")
    FinalAnswer(text='B. because 4 is even')
    >>> read_answer("the Answer: B") is None
    True
    """
    text = message.removeprefix(ANSWER_PREFIX)
    return FinalAnswer(text, message) if message.startswith(ANSWER_PREFIX) else None


def read_iqa_answer(output: str) -> FinalAnswer | None:
    """The answer of an IQA-EVAL simulator, which may stand anywhere in its output and in any turn, the first too.

    >>> read_iqa_answer("I think so. So, the answer is: D.")
    FinalAnswer(text='D.')
    """
    _, marker, text = output.partition(IQA_EVAL_ANSWER)
    return FinalAnswer(text, clean_output(output)) if marker else None
