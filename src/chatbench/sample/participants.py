"""The sample study's participants: scripted assistants, and simulated people who chat with them.

A scripted assistant (strong, weak, or in between) solves a problem only from what the user wrote: it searches the
user's messages for the numbers and the question. What the user left out costs accuracy: a missing fact is asked for
(or, by the weak one, guessed), and a missing catch goes unnoticed and leads to the trap. Both make slips in
calculations, the weak one more often, and may overlook a catch or a negation that was stated. An assistant that was
given the options names the one that it arrives at.

A simulated person opens a chat, continues it, and settles on an answer. They have an ability, an opening style, and
probabilities of what they leave out, check and believe. The habits of the study are `STUDY_HABITS`; the tiny base model
is pretrained on people with other habits and phrases (tools/tiny_base), so a simulator has to learn the study's people
from the study.
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
from chatbench.core.records import Message, Turn
from chatbench.sample.problems import (
    LEVELS,
    RANGE,
    SCHEMAS,
    Ask,
    Catch,
    Clause,
    Problem,
    Template,
    Working,
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


@cache
def strength_of(name: str) -> Strength:
    """Strength of `scripted-strong`, `scripted-weak` or `scripted-X`, interpolated from weak (0) to strong (1) by X.

    >>> round(strength_of("scripted-0.5").slip, 9)
    0.04

    Raises:
        ChatbenchError: no scripted assistant has this name.
    """
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
    """The patterns; `#2 boxes` means a number followed by `boxes`, with at most two words between."""
    number = r"(\\d+)\\s+(?:[a-z]+\\s+){0,\1}?\2\\b"
    found = {name: re.sub(r"^#(\d) (.*)", number, pattern) for name, pattern in facts.items()}
    return tuple((name, re.compile(fill(pattern, slots), re.IGNORECASE)) for name, pattern in found.items())


@cache
def _all_patterns() -> tuple[_Patterns, ...]:
    """One entry per schema and world, with its questions and catches as alternatives."""
    return tuple(
        _Patterns(
            template=Template(schema, world, schema.asks[0], None),
            nouns=tuple(word.lower() for word in world.values()),
            facts=tuple(pair for clause in schema.clauses for pair in _compiled(clause.facts, world)),
            asks=tuple((ask, re.compile(fill(ask.pattern, world), re.IGNORECASE)) for ask in schema.asks),
            catches=tuple((ask, catch, _compiled(catch.facts, world)) for ask in schema.asks for catch in ask.catches),
        )
        for schema in SCHEMAS
        for world in schema.worlds
    )


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
        score = held - 0.4 * (needed - held) + 0.6 * bool(asked) + 0.6 * (catch is not None) if held else 0.0
        score += 0.01 * sum(noun in words for noun in entry.nouns)
        # "square" is a place and also occurs in "square meters": the noun that comes first breaks ties.
        score -= 0.005 * min(lowered.find(noun) for noun in entry.nouns if noun in words) / len(lowered)
        if score > best_score:
            best, best_score = Understanding(entry.template, facts, ask, catch), score
    return best


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
    for clause in [each for each in understanding.template.required if not each.facts.keys() <= facts.keys()]:
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


MAX_USER_TURNS = 10
STYLES = ("copy with options", "copy question", "rephrase", "terse", "partial")


@dataclass(frozen=True, slots=True)
class Phrases:
    """What people say; `{}` is replaced by the content."""

    lead_ins: tuple[str, ...]
    rephrase_join: tuple[str, ...]
    rephrase: tuple[str, ...]
    terse_join: tuple[str, ...]
    inform: tuple[str, ...]
    add_catch: tuple[str, ...]
    check: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Habits:
    """Probabilities of a population's behaviour.

    `styles` are weights in the order of `STYLES`. A catch is overlooked on first reading with `misses_catch`, or with
    `misses_flagged_catch` if a word such as "But" announces it (people who copy overlook nothing). `adds_catch`: it is
    added after the first result. `checks`: asks "are you sure?". `gives_options`: lists the options when a result is
    none of them; levels are always listed, because a result names none. `trusts`: adopts a result that contradicts
    their own.
    """

    styles: tuple[float, float, float, float, float]
    misses_catch: float
    misses_flagged_catch: float
    adds_catch: float
    checks: float
    gives_options: float
    trusts: float
    phrases: Phrases


STUDY_HABITS = Habits(
    styles=(0.18, 0.14, 0.30, 0.22, 0.16),
    misses_catch=0.95,
    misses_flagged_catch=0.55,
    adds_catch=0.10,
    checks=0.20,
    gives_options=0.60,
    trusts=0.90,
    # Words that the tiny base's tokenizer knows: a word spelt from pieces that the base never saw is easily garbled.
    phrases=Phrases(
        lead_ins=("", "", "", "I have a question: ", "answer this: "),
        rephrase_join=(", ", " and "),
        rephrase=("in this problem {facts}, {ask}?", "{facts}. {ask}?"),
        terse_join=(" ", ", "),
        inform=("it is {}", "{}", "so {}"),
        add_catch=("and {}", "it has also {}"),
        check=("is that the answer?", "is that it?"),
        options=("so which one is it?\n{}", "I have these options\n{}"),
    ),
)


@dataclass(frozen=True, slots=True)
class Person:
    """One participant. `ability` is in logits, 0 for the average person."""

    id: str
    ability: float
    style: str


@dataclass(frozen=True, slots=True)
class Chat:
    """What one person did with one problem: the turns and the letter chosen."""

    turns: tuple[Turn, ...]
    letter: str


def draw_person(person_id: str, habits: Habits, rng: Random) -> Person:
    """Draw a person, with ability from a standard normal distribution."""
    return Person(person_id, rng.gauss(0.0, 1.0), rng.choices(STYLES, habits.styles)[0])


def chance_alone(person: Person, problem: Problem) -> float:
    """Probability that the person solves the problem alone; otherwise they fall for the trap or guess."""
    return 1.0 / (1.0 + math.exp(problem.difficulty - person.ability))


def answer_alone(person: Person, problem: Problem, rng: Random) -> str:
    """The letter that the person would choose without help."""
    if rng.random() < chance_alone(person, problem):
        return problem.question.answer
    trap = problem.option_of(problem.trap)
    if trap is not None and trap != problem.question.answer and rng.random() < 0.6:
        return trap
    return rng.choice(problem.wrong_answers)


@dataclass(slots=True)
class _Mind:
    """What a person has said and done so far in one chat."""

    person: Person
    problem: Problem
    habits: Habits
    own_letter: str
    rng: Random
    told_catch: bool = False
    added_catch: bool = False
    checked: bool = False

    def say(self, choices: Sequence[str]) -> str:
        return self.rng.choice(choices)


def chat(
    person: Person, problem: Problem, assistant: str, habits: Habits, rng: Random, own_letter: str | None = None
) -> Chat:
    """Simulate a chat with a scripted assistant; `own_letter` is the person's earlier answer, None to draw one."""
    mind = _Mind(person, problem, habits, own_letter or answer_alone(person, problem, rng), rng)
    said = [_first_message(mind)]
    turns = [Turn("user", said[0])]
    reply = reply_to(assistant, said, rng)
    turns.append(Turn("assistant", reply.text))
    while len(said) < MAX_USER_TURNS and (message := _next_message(mind, said, reply)) is not None:
        said.append(message)
        reply = reply_to(assistant, said, rng)
        turns += [Turn("user", message), Turn("assistant", reply.text)]
    letter = problem.option_of(reply.value) if reply.value is not None else None
    if letter is None or (letter != mind.own_letter and rng.random() >= habits.trusts):
        letter = mind.own_letter  # the result is none of the options, or the person does not trust it
    return Chat(tuple(turns), letter)


def _first_message(mind: _Mind) -> str:
    style = mind.person.style if mind.rng.random() < 0.8 else mind.rng.choices(STYLES, mind.habits.styles)[0]
    phrases, question = mind.habits.phrases, mind.problem.question
    lead_in = mind.say(phrases.lead_ins)
    if style.startswith("copy"):
        mind.told_catch = True
        return lead_in + (question.full_text if style == "copy with options" else question.text)
    clauses = list(mind.problem.template.schema.clauses)
    if style == "partial" and len(mind.problem.template.required) > 1:
        clauses.remove(mind.rng.choice(mind.problem.template.required))
    catch = mind.problem.template.catch
    misses = mind.habits.misses_flagged_catch if mind.problem.flagged else mind.habits.misses_catch
    if catch and mind.rng.random() >= misses:
        mind.told_catch = True
        clauses.append(catch)
    shorts = [_short(mind, clause) for clause in clauses]
    ask = mind.problem.words(mind.say(mind.problem.template.ask.short))
    if style == "terse":
        return mind.say(phrases.terse_join).join([*shorts, ask])
    return lead_in + mind.say(phrases.rephrase).format(facts=mind.say(phrases.rephrase_join).join(shorts), ask=ask)


def _short(mind: _Mind, clause: Clause) -> str:
    return mind.problem.words(mind.say(clause.short))


def _next_message(mind: _Mind, said: Sequence[str], reply: AssistantTurn) -> str | None:
    """The next message; None if the person has what they need."""
    phrases, problem = mind.habits.phrases, mind.problem
    if reply.asks_for is not None:
        # Only a clause of this problem: the assistant may have misread which kind of problem it is.
        known = reply.asks_for if reply.asks_for in problem.template.required else None
        return mind.say(phrases.inform).format(_short(mind, known)) if known else problem.question.full_text
    if reply.value is None:
        return problem.question.full_text if problem.question.full_text not in said else None
    catch = problem.template.catch
    if catch and not mind.told_catch and not mind.added_catch and mind.rng.random() < mind.habits.adds_catch:
        mind.added_catch = True
        return mind.say(phrases.add_catch).format(_short(mind, catch))
    if not mind.checked and mind.rng.random() < mind.habits.checks:
        mind.checked = True
        return mind.say(phrases.check)
    levels, told = problem.question.kind == LEVELS, "\n".join(said)
    if (
        (levels or problem.option_of(reply.value) is None)
        and not (ranges_in(told) if levels else options_in(told))
        and (levels or mind.rng.random() < mind.habits.gives_options)
    ):
        lines = problem.question.full_text.removeprefix(problem.question.text).strip()
        return mind.say(phrases.options).format(lines)
    return None
