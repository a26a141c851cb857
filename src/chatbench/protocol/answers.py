r"""Parse a simulated user's output: its next message, or the answer that ends the conversation.

The published order matters and is kept: strip white space, then double quotes at both ends, then one leading `YOU: `,
and only then test for `Answer: `. A quoted answer after `YOU: ` is therefore an ordinary message.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), and the published simulation loop (docs/protocol.md).

Lenient answer extraction is for answers that the protocol counts as invalid. The published rule takes the first
character after `Answer: `, so "(A)", "d" and "the answer is B" have no letter and count as wrong; lenient extraction
shows how many of them a person would have understood. It never replaces the strict rule: it measures how much of a
simulator's error is a matter of format. It knows four ways of naming an option, and returns a letter only if all
matches agree:

    the letter by itself       (A)    d    **B**    "C"
    letter and punctuation     b) 42    D: because of ...
    in a sentence              the answer is B    I would choose option (c)
    the option's text          verbatim, as the whole answer
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chatbench.core.answer_kinds import LETTERS, normalised
from chatbench.core.files import parse_json
from chatbench.protocol.prompts import ANSWER_PREFIX, IQA_EVAL_ANSWER


def lenient_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that a person would read in an answer; None if it is unclear or there is none (or no options).

    >>> options = ("one", "two", "three", "four")
    >>> [lenient_letter(text, options) for text in ("(A)", "d", "the answer is B", "Three.", "A or B", "a guess")]
    ['A', 'D', 'B', 'C', None, None]
    """
    text = " ".join(text.split())  # runs of spaces would be slow to match
    if not options:
        return None
    last = LETTERS[len(options) - 1]
    upper, lower, wrapped = f"[A-{last}]", f"[a-{last.lower()}]", r"[ (\[{<\"'*_`$]*"
    letter = f"({upper[:-1]}{lower[1:]})"
    if re.search(rf"\b{upper}\)?,? ?(?:or|and|/|&) ?\(?{upper}\b", text):
        return None
    alone = re.fullmatch(rf"{wrapped}{letter}[ )\]}}>\"'*_`$.,:;!]*", text)
    leading = re.match(rf"{wrapped}{letter}[\"'*_`]*[)\]}}.:]+(?= |$)", text)
    found = {match[1].upper() for match in (alone, leading) if match}
    # A lower-case letter in a sentence may be a word ("the answer is a number"), so punctuation must enclose or follow
    # it; "I" may be a word, too.
    in_a_sentence = (
        r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice|[Cc]hoose|[Pp]ick|[Ss]elect)"
        r"(?: (?:is|would be|must be|should be|option))* ?[:=]?[*_`]* ?"
        rf"(?:[(\[\"'*_`]+{letter}[)\]\"'*_`]|(?!I [a-z])({upper})\b(?!['\u2019])|({lower})(?= ?(?:[.,;!)]|$)))"
        rf"|\\boxed\{{(?:\\text\{{)?{letter}\}}"
    )
    found |= {named[named.lastindex or 0].upper() for named in re.finditer(in_a_sentence, text)}
    found |= {letter for letter, option in zip(LETTERS, options, strict=False) if _bare(text) == _bare(option) != ""}
    return found.pop() if len(found) == 1 else None


def _bare(text: str) -> str:
    """As `normalised`, but brackets, question marks and hyphens stay: an option may be told from another by them."""
    return normalised(text, " .,:;!\"'*`$")


_NAMES = r"(?:seed:)?(?:think(?:ing)?|thought|reasoning)>"
_OPENING = rf"(?:<{_NAMES}|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>analysis<\|message\|>)"
_CLOSING = rf"(?:</{_NAMES}|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>)"
_OPENED = re.compile(rf"{_OPENING}\s*\Z", re.IGNORECASE)
_REASONING = re.compile(rf"{_OPENING}(.*?){_CLOSING}|\A(.*){_CLOSING}|{_OPENING}(.*)\Z", re.DOTALL | re.IGNORECASE)
"""A complete block; one whose opening tag is in the prompt, as in some chat templates; or one that was cut off."""
REASONING_TAGS = ("[THINK]", "[/THINK]", "<think>", "</think>", "<|START_THINKING|>", "<|END_THINKING|>")
"""Tags that are special tokens in some tokenizers; decoding must keep them for `split_reasoning`."""


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with an opening tag, so that the model's output starts with reasoning.

    >>> opens_reasoning("assistant\\n<think>\\n"), opens_reasoning("<think>\\n\\n</think>\\n\\n")
    (True, False)
    """
    return bool(_OPENED.search(prompt))


def split_reasoning(text: str) -> tuple[str, str]:
    r"""Split a model's output into (reasoning, message); without reasoning tags it is all message, unchanged.

    >>> split_reasoning("<think>\nB?\n</think>\n\nAnswer: B")
    ('B?', 'Answer: B')
    >>> split_reasoning("so it is B</think>Answer: B"), split_reasoning("<think>cut at the lim")
    (('so it is B', 'Answer: B'), ('cut at the lim', ''))
    >>> split_reasoning("<|channel|>analysis<|message|>so it is B<|channel|>final<|message|>Answer: B")
    ('so it is B', 'Answer: B')
    """
    thoughts: list[str] = []
    said = text
    while found := _REASONING.search(said):
        thoughts.append(next(filter(None, found.groups()), "").strip())
        said = (said[: found.start()] + said[found.end() :]).strip()
    return "\n".join(filter(None, thoughts)), said


PARTICIPANT_PREFIX = "YOU: "
"""How the prompt marks the user's own turns; models tend to repeat it."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The text after `Answer: `, verbatim; `Question.read` parses it.

    `message` is the whole message, including the prefix and anything before it.
    """

    text: str
    message: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A message to the assistant; a `last` one ends the chat after the reply, or at once if it is empty."""

    text: str
    last: bool = False


def clean_output(output: str) -> str:
    r"""Extract the message from a simulator's output; double quotes are stripped from either end, paired or not.

    >>> clean_output('  "YOU: what is 2+2?"\n')
    'what is 2+2?'
    >>> clean_output('YOU: "Answer: B"')
    '"Answer: B'
    """
    return output.strip().strip('"').removeprefix(PARTICIPANT_PREFIX)


def read_answer(message: str) -> FinalAnswer | None:
    """Parse the answer from a cleaned message; None if it is an ordinary message.

    >>> read_answer("Answer: B. because 4 is even")
    FinalAnswer(text='B. because 4 is even')
    >>> read_answer("the Answer: B") is None
    True
    """
    text = message.removeprefix(ANSWER_PREFIX)
    return FinalAnswer(text, message) if message.startswith(ANSWER_PREFIX) else None


def read_iqa_answer(output: str) -> FinalAnswer | None:
    """Parse the answer of an IQA-EVAL simulator, which may be anywhere in its output, in any turn (even the first).

    >>> read_iqa_answer("I think so. So, the answer is: D.")
    FinalAnswer(text='D.')
    """
    _, marker, text = output.partition(IQA_EVAL_ANSWER)
    return FinalAnswer(text, clean_output(output)) if marker else None


def last_object(reply: str, key: str) -> dict[str, Any]:
    r"""The last JSON object in a model's reply that has the key, or {}; text around it is ignored, even with braces.

    >>> last_object(r'{"score": 1} because \frac{1}{2}', "score"), last_object('{"a": {"score": 1}}', "score")
    ({'score': 1}, {})
    """
    last: dict[str, Any] = {}
    place = reply.find("{")
    while place >= 0:
        end = place + 1
        with suppress(ValueError, RecursionError):
            end = json.JSONDecoder().raw_decode(reply, place)[1]
            found = parse_json(reply[place:end])
            last = found if key in found else last
        place = reply.find("{", end)
    return last
