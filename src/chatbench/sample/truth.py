"""What a first message about a sample problem states, checked against the problem itself.

A message *states* a clause if it contains one of the clause's wordings, with any number in it; each number of a stated
clause should then be the problem's. People of the sample study state some clauses and leave out others, but never
change a number, so their share of right messages is 1 by construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from operator import add

from chatbench.core.records import Question
from chatbench.sample.assistants import understand
from chatbench.sample.problems import NAMES, Clause, fill

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class StatedFacts:
    """Counts over messages, which can be added up.

    `right`: messages that state at least one clause and contain only the right numbers, in the right places. `facts`:
    clauses with numbers that the problem has, `stated`: those that were stated; `catches` and `stated_catches`: the
    same for catches alone.
    """

    messages: int = 0
    right: int = 0
    facts: int = 0
    stated: int = 0
    catches: int = 0
    stated_catches: int = 0

    def __add__(self, other: StatedFacts) -> StatedFacts:
        return StatedFacts(*map(add, astuple(self), astuple(other)))

    def shares(self) -> dict[str, float]:
        """The shares in 0..1 by name; those with a denominator of 0 are left out."""
        pairs = {
            "numbers right": (self.right, self.messages),
            "facts stated": (self.stated, self.facts),
            "catches stated": (self.stated_catches, self.catches),
        }
        return {name: count / of for name, (count, of) in pairs.items() if of}


def stated_facts(messages: Iterable[str], question: Question) -> StatedFacts:
    """Counts for the first messages about one question of the sample study.

    Raises:
        ValueError: the question is not one of the sample study's.
    """
    reading = understand(question.full_text)
    if reading is None:
        raise ValueError(f"{question.id} is not a question of the sample study")
    slots = {**reading.template.world, **{name: str(number) for name, number in reading.facts.items()}}
    catches = [reading.catch.clause] if reading.catch else []
    allowed = set(_NUMBER.findall(question.full_text))
    total = StatedFacts()
    for message in messages:
        of_catches = [_states(message, clause, slots) for clause in catches]
        every = [_states(message, clause, slots) for clause in reading.template.required] + of_catches
        numbers = set(_NUMBER.findall(message)) <= allowed
        total += StatedFacts(
            messages=1,
            right=numbers and any(every) and False not in every,
            facts=len(every),
            stated=sum(each is not None for each in every),
            catches=len(of_catches),
            stated_catches=sum(each is not None for each in of_catches),
        )
    return total


def _states(message: str, clause: Clause, slots: dict[str, str]) -> bool | None:
    """True: stated with the right numbers; False: with wrong ones; None: not stated."""
    masked, stated = _NUMBER.sub("#", message), False
    for wording in (*clause.full, *clause.short):
        # A person may have any name of the study: names are not checked.
        for name in [name for name in NAMES if name in message] if "{P}" in wording else [""]:
            text = fill(wording, {**slots, "P": name})
            if _occurs(text, message):
                return True
            stated = stated or _occurs(_NUMBER.sub("#", text), masked)
    return False if stated else None


def _occurs(text: str, message: str) -> bool:
    """Whether the text occurs in the message, not as part of a longer number or word."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) is not None
