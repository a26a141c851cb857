r"""Failure detectors for simulators, applied to one message at a time; nothing here changes a chat.

    two_openings      the second message repeats the first, as if the chat had not begun
    role_flip         speaks as the assistant, or writes both sides of the chat
    glued_answer      an answer with other text around it, which strict parsing takes for a message or discards
    empty_turn        an empty message
    endless_thanks    only thanks or a goodbye, and not for the first time
    assistant_work    solves or explains, or talks like an assistant, instead of asking

The detectors look only at the words and favour precision: they would rather miss a case than count what a person might
well write. So a count is a lower bound, for comparing simulators and for finding chats worth reading. People do some of
this too (a real user may paste a question twice): what matters is the rate in excess of theirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from chatbench.core.answer_kinds import LETTERS
from chatbench.core.records import Question, Turn
from chatbench.protocol.answers import FinalAnswer, Said

FailureMode = Literal["two_openings", "role_flip", "glued_answer", "empty_turn", "endless_thanks", "assistant_work"]
FAILURE_MODES: tuple[FailureMode, ...] = get_args(FailureMode)

SAME_WORDS = 0.8
"""Minimum word overlap (0..1) of a repetition: a rewording of a ten-word sentence keeps about half of its words."""
FEWEST_WORDS = 4
"""Shorter messages do not count as repeated: anybody may write "help", "hi there" or "is it A" twice."""
EXPLANATION_WORDS = 30
"""People's messages after the first are short (a dozen words); one this long without a question is an explanation."""
EXPLANATION_MARKS = 2
"""A person's own attempt may contain one "therefore", but hardly two different marks of a worked solution."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# At the start of a line, as prompts, chat templates and transcripts mark them; without brackets, a colon must follow.
_PARTICIPANT = re.compile(r"^(?:\[(?:SYSTEM|USER|ASSISTANT)\]|(?:SYSTEM|ASSISTANT|Assistant|AI|YOU): )", re.MULTILINE)
# On one line: "Answer:" above a pasted list of options is not an answer.
_ANSWER_INSIDE = re.compile(r"\bAnswer: *(?:\(?([A-Z])\b|\S+)")
_CLOSING = frozenset({"thank", "thanks", "thx", "ty", "bye", "goodbye", "cheers", "appreciate", "appreciated"})
_COURTESY = _CLOSING | set(
    _WORD.findall(
        "a again all alright amazing and awesome be clear cool day everything excellent explaining explanation for "
        "glad good got great have help helped helpful helping helps i is it it's its lot lots makes me much nice now "
        "of oh ok okay perfect really sense so sounds sure take care super that that's the this time today too "
        "understand very was well will wonderful yes you you're your yours welcome later see i'm i'll"
    )
)
_ASSISTANT_OPENING = re.compile(
    r"(?:sure|certainly|of course|absolutely)[,!.] (?:here|i can|i'd|i would|let's|let me|to solve)"
    r"|i(?:'d| would) be (?:happy|glad) to (?:help|assist)"
    r"|as an ai\b|(?:you're|you are) welcome\b|great question\b|how can i (?:help|assist) you",
    re.IGNORECASE,
)
_WORKED = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"\bstep \d",
        r"^[ \t]*(?:\d+[.)]|[-*•]) [^\n]*\n\s*(?:\d+[.)]|[-*•]) ",
        r"\b(?:therefore|thus|hence)\b",
        r"\bthe (?:correct|right|final) (?:answer|option|choice) is\b",
        r"\b(?:let's|let us|we (?:can|need to|get|have|know|find))\b",
        r"=[^=\n]{1,40}=",
    )
)


def observed_in(
    said: Said | FinalAnswer, turns: Sequence[Turn], question: Question, *, forced: bool = False
) -> frozenset[FailureMode]:
    """Detect failure modes in a simulator's output after `turns`; a forced answer is not expected to be a question."""
    message = said.message if isinstance(said, FinalAnswer) else said.text
    seen: dict[FailureMode, bool] = {
        # A line starts with the name of a participant, and the question has no such lines itself.
        "role_flip": bool(_PARTICIPANT.search(message)) and not _PARTICIPANT.search(question.full_text),
        "glued_answer": glues_answer(said, question),
        "empty_turn": isinstance(said, Said) and not said.last and not message.strip(),
    }
    if isinstance(said, Said) and not forced:
        seen["two_openings"] = len(turns) == 2 and repeats(message, turns[0].text)
        seen["endless_thanks"] = only_thanks(message) and any(
            turn.role == "user" and only_thanks(turn.text) for turn in turns
        )
        seen["assistant_work"] = does_assistants_work(message, question)
    return frozenset(name for name, is_seen in seen.items() if is_seen)


def repeats(message: str, opening: str) -> bool:
    """Whether a message repeats the opening, up to a few words; a different number makes it a different question.

    The Dice coefficient of the two multisets of words must be at least `SAME_WORDS`. Word order is ignored, because
    alignment takes minutes on the endless repetitions of a broken simulator.

    >>> repeats("What is 2+2? Thanks", "what is 2 + 2?")
    True
    >>> repeats("What is 2+3?", "What is 2+2?")
    False
    """
    ours, theirs = Counter(_words(message)), Counter(_words(opening))
    numbers = [{word: count for word, count in words.items() if word[0].isdigit()} for words in (ours, theirs)]
    if min(ours.total(), theirs.total()) < FEWEST_WORDS or numbers[0] != numbers[1]:
        return False
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total()) >= SAME_WORDS


def glues_answer(said: Said | FinalAnswer, question: Question) -> bool:
    """Whether an answer is inside a message, or is followed by more than its letter and that option's text.

    Without options, an answer of more than one line counts. Text before an IQA-EVAL answer does not: that style accepts
    the answer anywhere.
    """
    if isinstance(said, Said):
        inside = _ANSWER_INSIDE.finditer(said.text)
        found = next((each for each in inside if not question.options or each[1] in question.letters), None)
        return found is not None and (found.start() > 0 or _words(said.text[found.end() :]) != [])
    letter = question.read(said.text)
    if letter is None or not question.options:
        return letter is not None and "\n" in said.text.strip()
    rest = _words(said.text[1:])
    return rest not in ([], _words(question.options[LETTERS.index(letter)]))


def only_thanks(message: str) -> bool:
    """Whether a message contains a word of thanks or goodbye, and otherwise only courtesies."""
    words = _words(message)
    return not _CLOSING.isdisjoint(words) and _COURTESY.issuperset(words)


def does_assistants_work(message: str, question: Question) -> bool:
    """Whether a message opens like an assistant's, or is long, asks nothing and has marks of a worked solution.

    A mark that the question has too does not count: people paste it.
    """
    if _ASSISTANT_OPENING.match(message.lstrip()):
        return True
    if "?" in message or len(_words(message)) < EXPLANATION_WORDS:
        return False
    marks = sum(bool(mark.search(message)) and not mark.search(question.full_text) for mark in _WORKED)
    return marks >= EXPLANATION_MARKS


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text.replace("\u2019", "'"))]
