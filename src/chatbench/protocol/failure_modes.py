r"""Failure detectors: what goes wrong in simulators, detected in one message at a time; nothing here changes a chat.

    two_openings      the second message repeats the first, as if the chat had not begun
    role_flip         speaks as the assistant, or writes both sides of the chat
    glued_answer      an answer with other text around it, which strict reading takes for a message or cuts away
    empty_turn        an empty message
    endless_thanks    only thanks or a good-bye, and not for the first time
    assistant_work    solves or explains, or talks like an assistant, in place of asking

The detectors look at the words alone and favour precision: each would rather miss a case than count what a person may
well write. So a count is a lower bound, for comparing simulators and for finding the chats worth reading. People do
some of this too (a real user may paste a question twice): the rate that matters is the one beyond theirs.
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
"""Share of words in common: a rewording of a sentence of ten words keeps about half of them."""
FEWEST_WORDS = 4
"""Anybody may write an opening of a few words ("help", "hi there", "is it A") twice."""
EXPLANATION_WORDS = 30
"""People's messages after the first are short (a dozen words); what goes on this long without a question explains."""
EXPLANATION_MARKS = 2
"""One "therefore" may stand in a person's own attempt; two different marks of a worked solution hardly do."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# As the prompts write them, and as chat templates and transcripts do; a colon has to follow, at the start of a line.
_PARTICIPANT = re.compile(r"^(?:\[(?:SYSTEM|USER|ASSISTANT)\]|(?:SYSTEM|ASSISTANT|Assistant|AI|YOU): )", re.MULTILINE)
# On one line: "Answer:" over a pasted list of options is none.
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
    """What is detected in a simulator's output after `turns`; a forced answer is not expected to be a question."""
    message = said.message if isinstance(said, FinalAnswer) else said.text
    seen: dict[FailureMode, bool] = {
        "role_flip": flips_role(message, question),
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
    """Whether a message repeats the opening, up to a few words; another number makes it another question.

    Twice the words that both have (each as often as both have it), over all words of both, is at least `SAME_WORDS`:
    in any order, because alignment takes minutes for the endless repetitions of a broken simulator.

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


def flips_role(message: str, question: Question) -> bool:
    """Whether a line is led by the name of a participant, unless the question has such lines of its own."""
    return bool(_PARTICIPANT.search(message)) and not _PARTICIPANT.search(question.full_text)


def glues_answer(said: Said | FinalAnswer, question: Question) -> bool:
    """Whether an answer stands amid a message, or is followed by more than its letter and that option's text.

    Without options that is more than one line.

    What stands before an IQA-EVAL answer is not counted: that style reads its answer anywhere.
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
    """Whether a message holds a word of thanks or good-bye, courtesies, and nothing else."""
    words = _words(message)
    return not _CLOSING.isdisjoint(words) and _COURTESY.issuperset(words)


def does_assistants_work(message: str, question: Question) -> bool:
    """Whether a message begins as assistants do, or is long, asks nothing and bears marks of a worked solution.

    A mark that the question bears too does not count: people paste it.
    """
    if _ASSISTANT_OPENING.match(message.lstrip()):
        return True
    if "?" in message or len(_words(message)) < EXPLANATION_WORDS:
        return False
    marks = sum(bool(mark.search(message)) and not mark.search(question.full_text) for mark in _WORKED)
    return marks >= EXPLANATION_MARKS


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text.replace("\u2019", "'"))]
