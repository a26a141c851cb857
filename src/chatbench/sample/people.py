"""Simulated people: how they open a chat, continue it, and settle on an answer.

A person has an ability, an opening style, and probabilities of what they leave out, check and believe. The habits of
the study are `STUDY_HABITS`; the tiny base model is pretrained on people with other habits and phrases
(tools/tiny_base), so a simulator has to learn the study's people from the study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from chatbench.core.records import Turn
from chatbench.sample.assistants import AssistantTurn, options_in, reply_to
from chatbench.sample.problems import LEVELS, Clause, Problem, ranges_in

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
    return Chat(tuple(turns), _final_letter(mind, reply))


def _first_message(mind: _Mind) -> str:
    style = mind.person.style if mind.rng.random() < 0.8 else mind.rng.choices(STYLES, mind.habits.styles)[0]
    phrases, question = mind.habits.phrases, mind.problem.question
    lead_in = mind.say(phrases.lead_ins)
    if style.startswith("copy"):
        mind.told_catch = True
        return lead_in + (question.full_text if style == "copy with options" else question.text)
    shorts = _told_in_short(mind, leave_one_out=style == "partial")
    ask = mind.problem.words(mind.say(mind.problem.template.ask.short))
    if style == "terse":
        return mind.say(phrases.terse_join).join([*shorts, ask])
    return lead_in + mind.say(phrases.rephrase).format(facts=mind.say(phrases.rephrase_join).join(shorts), ask=ask)


def _told_in_short(mind: _Mind, *, leave_one_out: bool) -> list[str]:
    """The clauses that the person states, in their short form."""
    clauses = list(mind.problem.template.schema.clauses)
    if leave_one_out and len(mind.problem.template.required) > 1:
        clauses.remove(mind.rng.choice(mind.problem.template.required))
    catch = mind.problem.template.catch
    misses = mind.habits.misses_flagged_catch if mind.problem.flagged else mind.habits.misses_catch
    if catch and mind.rng.random() >= misses:
        mind.told_catch = True
        clauses.append(catch.clause)
    return [_short(mind, clause) for clause in clauses]


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
        return mind.say(phrases.add_catch).format(_short(mind, catch.clause))
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


def _final_letter(mind: _Mind, reply: AssistantTurn) -> str:
    """The option of the assistant's result; the person's own if there is none or they do not trust it."""
    adopted = mind.problem.option_of(reply.value) if reply.value is not None else None
    if adopted is None:
        return mind.own_letter
    if adopted != mind.own_letter and mind.rng.random() >= mind.habits.trusts:
        return mind.own_letter
    return adopted
