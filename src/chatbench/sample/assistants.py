"""Scripted assistants that solve a problem only from what the user wrote: strong, weak, or in between.

They search the user's messages for the numbers and the question. What the user left out costs accuracy: a missing fact
is asked for (or, by the weak one, guessed), and a missing catch goes unnoticed and leads to the trap. Both make slips
in calculations, the weak one more often, and may overlook a catch or a negation that was stated. An assistant that was
given the options names the one that it arrives at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from random import Random
from typing import Any

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.sample.problems import (
    RANGE,
    Ask,
    Catch,
    Clause,
    Template,
    Working,
    all_templates,
    fill,
    level_of,
    ranges_in,
    work_out,
)


@dataclass(frozen=True, slots=True)
class Strength:
    """Probabilities of an assistant's mistakes.

    A calculation goes wrong with `slip` + `slip_per_step` for each step after the first + `slip_large` if a number
    is above 150; a catch is overlooked with `overlooks_catch`, "not" with `overlooks_not`; a missing number is
    guessed instead of asked for with `guesses`.
    """

    slip: float
    slip_per_step: float
    slip_large: float
    overlooks_catch: float
    overlooks_not: float
    guesses: float
    explains: bool


STRENGTHS: Mapping[str, Strength] = {
    "scripted-strong": Strength(0.02, 0.03, 0.10, 0.02, 0.05, 0.0, explains=True),
    "scripted-weak": Strength(0.06, 0.05, 0.26, 0.06, 0.45, 0.4, explains=False),
}


def strength_of(name: str) -> Strength:
    """Strength of `scripted-strong`, `scripted-weak` or `scripted-X`, interpolated from weak (0) to strong (1) by X.

    >>> round(strength_of("scripted-0.5").slip, 9)
    0.04

    Raises:
        ChatbenchError: no scripted assistant has this name.
    """
    if name in STRENGTHS:
        return STRENGTHS[name]
    share = share_of(name)
    weak, strong = astuple(STRENGTHS["scripted-weak"]), astuple(STRENGTHS["scripted-strong"])
    between = [(1 - share) * low + share * high for low, high in zip(weak[:-1], strong[:-1], strict=True)]
    values: list[Any] = [*between, share >= 0.5]
    return Strength(*values)


def share_of(name: str) -> float:
    """How far an assistant is from weak (0) to strong (1).

    Raises:
        ChatbenchError: no scripted assistant has this name.
    """
    try:
        share = {"scripted-weak": 0.0, "scripted-strong": 1.0}.get(name)
        share = float(name.removeprefix("scripted-")) if share is None else share
    except ValueError:
        share = math.nan
    if not (name.startswith("scripted-") and 0 <= share <= 1):
        expected = f"{', '.join(STRENGTHS)}, or scripted-X with X in 0..1, such as scripted-0.5"
        raise ChatbenchError(f"no scripted assistant {name!r}", expected=expected)
    return share


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a text says about a problem: `facts` by name, the question, and the catch if it was stated."""

    template: Template
    facts: Mapping[str, int]
    ask: Ask
    catch: Catch | None

    @property
    def missing(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.template.required if not clause.facts.keys() <= self.facts.keys())


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """A reply: its text, and the value it arrives at or the clause it asks for; neither if nothing was understood."""

    text: str
    value: int | None = None
    asks_for: Clause | None = None


@dataclass(frozen=True, slots=True)
class _Patterns:
    template: Template
    nouns: tuple[str, ...]
    facts: tuple[tuple[str, re.Pattern[str]], ...]
    asks: tuple[tuple[Ask, re.Pattern[str]], ...]
    catches: tuple[tuple[Ask, Catch, tuple[tuple[str, re.Pattern[str]], ...]], ...]


def _compiled(facts: Mapping[str, str], slots: Mapping[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(fill(pattern, slots), re.IGNORECASE)) for name, pattern in facts.items())


@cache
def _all_patterns() -> tuple[_Patterns, ...]:
    """One entry per schema and world, with its questions and catches as alternatives."""
    entries: dict[tuple[str, int], _Patterns] = {}
    for template in all_templates():
        key = template.schema.name, id(template.world)
        if key in entries:
            continue
        world = template.world
        entries[key] = _Patterns(
            template=template,
            nouns=tuple(word.lower() for word in world.values()),
            facts=tuple(pair for clause in template.required for pair in _compiled(clause.facts, world)),
            asks=tuple((ask, re.compile(fill(ask.pattern, world), re.IGNORECASE)) for ask in template.schema.asks),
            catches=tuple(
                (ask, catch, _compiled(catch.clause.facts, world))
                for ask in template.schema.asks
                for catch in ask.catches
            ),
        )
    return tuple(entries.values())


def _found(patterns: Sequence[tuple[str, re.Pattern[str]]], text: str) -> dict[str, int]:
    """The last number that matches each pattern: later statements of a user correct earlier ones."""
    found = {}
    for name, pattern in patterns:
        numbers = [int(number) for number in pattern.findall(text)]
        if numbers and numbers[-1] <= 10**6:
            found[name] = numbers[-1]
    return found


@lru_cache(maxsize=4096)
def understand(text: str) -> Understanding | None:
    """The best interpretation of a user's messages; None if no problem is recognised."""
    lowered = text.lower()
    words = set(re.findall(r"[a-z-]+", lowered))
    best, best_score = None, 0.0
    for entry in _all_patterns():
        if words.isdisjoint(entry.nouns):
            continue
        reading, score = _read(entry, text)
        score += 0.01 * sum(noun in words for noun in entry.nouns)
        # "square" is a place and also occurs in "square meters": the noun that comes first breaks ties.
        score -= 0.005 * min(lowered.find(noun) for noun in entry.nouns if noun in words) / len(lowered)
        if score > best_score:
            best, best_score = reading, score
    return best


def _read(entry: _Patterns, text: str) -> tuple[Understanding, float]:
    facts = _found(entry.facts, text)
    asked = [(ask, match.start()) for ask, pattern in entry.asks for match in pattern.finditer(text)]
    ask = max(asked, key=lambda pair: pair[1])[0] if asked else entry.asks[0][0]
    catch = None
    for of_ask, candidate, patterns in entry.catches:
        numbers = _found(patterns, text)
        if of_ask is ask and numbers:
            catch = candidate
            facts |= numbers
    needed = len(entry.facts)
    held = sum(name in facts for name, _ in entry.facts)
    score = held - 0.4 * (needed - held) + 0.6 * bool(asked) + 0.6 * (catch is not None)
    return Understanding(entry.template, facts, ask, catch), score if held else 0.0


def options_in(text: str) -> dict[int, str]:
    """Options that a user listed, value -> letter: `A. 12`, `B) 15`, one per line or in a row."""
    return {int(value): letter for letter, value in re.findall(r"\b([A-D])[.):]\s*(\d{1,6})\b", text)}


def reply_to(name: str, user_messages: Sequence[str], rng: Random) -> AssistantTurn:
    """The assistant's next turn after these user messages.

    Raises:
        ChatbenchError: no scripted assistant has this name.
    """
    strength = strength_of(name)
    text = "\n".join(user_messages)
    understanding = understand(RANGE.sub("", text) if ranges_in(text) else text)  # the end of a range is not a fact
    if understanding is None:
        return AssistantTurn("I do not understand the problem. What are the numbers, and what is the question?")
    facts = dict(understanding.facts)
    for clause in understanding.missing:
        if rng.random() >= strength.guesses:
            return AssistantTurn(fill(clause.missing, understanding.template.world), asks_for=clause)
        facts |= {
            fact: rng.randint(*understanding.template.schema.ranges[fact]) for fact in clause.facts if fact not in facts
        }
    return _solve(understanding, facts, strength, text, rng)


def _solve(
    understanding: Understanding, facts: Mapping[str, int], strength: Strength, text: str, rng: Random
) -> AssistantTurn:
    """Solve the problem, with mistakes; the strong one shows its steps, both name the option if given any."""
    ask, catch = understanding.ask, understanding.catch
    if catch and rng.random() < strength.overlooks_catch:
        catch = None
    if ask.negates and rng.random() < strength.overlooks_not:
        working = Working((), facts[ask.negates])  # "how many are NOT red" read as "how many are red"
    else:
        solution = catch.solve if catch else ask.solve
        count = len(work_out(solution, facts).steps)
        chance = (
            strength.slip + strength.slip_per_step * (count - 1) + strength.slip_large * (max(facts.values()) > 150)
        )
        slip_at, slip = None, 0
        if rng.random() < chance:
            slip_at, slip = rng.randrange(count), rng.choice((-10, -2, -1, 1, 2, 10))
        working = work_out(solution, facts, slip_at=slip_at, slip=slip)
    value = working.value
    if value is None:
        return AssistantTurn("These numbers do not fit together. Please check them.")
    answer = str(value)
    if ranges := ranges_in(text):
        letter = level_of(value, ranges)
        answer = f"{letter}. {value}" if letter else f"{value}, which is not among your options"
    elif options := options_in(text):
        answer = f"{options[value]}. {value}" if value in options else f"{value}, which is not among your options"
    if strength.explains:
        shown = ", ".join(working.steps) + ". " if working.steps else ""
        return AssistantTurn(f"{shown}The answer is {answer}.", value)
    return AssistantTurn(f"I think it is {answer}.", value)


def scripted_reply(name: str, messages: Sequence[Message], seed: int) -> str:
    """The next reply of scripted assistant `name`; depends only on the user's messages and the seed."""
    return reply_to(name, [message.content for message in messages if message.role == "user"], Random(seed)).text
