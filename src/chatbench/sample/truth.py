"""What a first message about a sample problem tells, judged against the problem itself.

A message *tells* a clause if it holds one of the clause's wordings, whatever number stands in it; each number of a told
clause should then be the problem's. People of the sample study tell some clauses and leave out others, but never change
a number, so their share of right messages is 1 by construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from chatbench.core.records import Question
from chatbench.sample.assistants import understand
from chatbench.sample.problems import fill
from chatbench.sample.schemas import NAMES, Clause

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Telling:
    """Counts over messages; they add up.

    `right`: messages that tell at least one clause with numbers, and hold no number but the right ones in their places.
    `facts`: clauses with numbers that the problem has, `told`: those that were told; `catches` and `told_catches`: the
    same for catches alone.
    """

    messages: int = 0
    right: int = 0
    facts: int = 0
    told: int = 0
    catches: int = 0
    told_catches: int = 0

    def __add__(self, other: Telling) -> Telling:
        return Telling(
            self.messages + other.messages,
            self.right + other.right,
            self.facts + other.facts,
            self.told + other.told,
            self.catches + other.catches,
            self.told_catches + other.told_catches,
        )

    def shares(self) -> dict[str, float]:
        """The shares in 0..1 by name; a share of nothing is left out."""
        pairs = {
            "numbers right": (self.right, self.messages),
            "facts told": (self.told, self.facts),
            "catches told": (self.told_catches, self.catches),
        }
        return {name: part / whole for name, (part, whole) in pairs.items() if whole}


def is_sample_question(question: Question) -> bool:
    """Whether a question is one of the sample study's, so that its truth can be read off."""
    reading = understand(question.full_text)
    return question.subset.startswith("sample_") and reading is not None and not reading.missing


def telling(messages: Iterable[str], question: Question) -> Telling:
    """Counts for the first messages about one question of the sample study.

    Raises:
        ValueError: the question is not one of the sample study's.
    """
    reading = understand(question.full_text)
    if reading is None:
        raise ValueError(f"{question.id} is no question of the sample study")
    slots = {**reading.template.world, **{name: str(number) for name, number in reading.facts.items()}}
    catches = (reading.catch.clause,) if reading.catch else ()
    total = Telling()
    for message in messages:
        told = [_tells(message, clause, slots) for clause in reading.template.required]
        told_catches = [_tells(message, clause, slots) for clause in catches]
        every = [*told, *told_catches]
        numbers = set(_NUMBER.findall(message)) <= set(_NUMBER.findall(question.full_text))
        total += Telling(
            messages=1,
            right=numbers and any(every) and all(each is not False for each in every),
            facts=len(every),
            told=sum(each is not None for each in every),
            catches=len(told_catches),
            told_catches=sum(each is not None for each in told_catches),
        )
    return total


def _tells(message: str, clause: Clause, slots: dict[str, str]) -> bool | None:
    """True: told with the right numbers; False: told with others; None: not told."""
    masked = _NUMBER.sub("#", message)
    told = False
    for wording in chain(clause.full, clause.short):
        for said in _with_names(wording, message):
            text = fill(said, slots)
            if _occurs(text, message):
                return True
            told = told or _occurs(_NUMBER.sub("#", text), masked)
    return False if told else None


def _with_names(wording: str, message: str) -> list[str]:
    """The wording with each name of a person that the message holds; names are not what is judged here."""
    if "{P}" not in wording:
        return [wording]
    return [wording.replace("{P}", name) for name in NAMES if name in message]


def _occurs(text: str, message: str) -> bool:
    """Whether the text stands in the message, not as part of a longer number or word."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) is not None
