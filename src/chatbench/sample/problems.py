"""Word problems: text, options, right answer, and the facts behind them, drawn from the kinds in problems.toml.

A schema is a kind of problem: clauses (sentences with facts) and questions, each with its plain solution and perhaps
catches (clauses that are easily overlooked and change the result). The pattern of a fact finds its number both in the
problem's own words and in a user's short form, so an assistant can solve the problem from what a user wrote. A template
is a schema in one world with one question and at most one catch; there are several hundred. What makes a problem hard
can be read off its text: the number of steps, the size of the numbers, a negation, a catch.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from random import Random
from typing import NamedTuple

from pydantic import TypeAdapter

from chatbench.core.answer_kinds import Choice, Number
from chatbench.core.records import FOUR_LETTERS, Question

LARGEST = 999
"""Numbers stay below a thousand, so that the tiny base's tokenizer has one token for each."""
OPERATIONS = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.floordiv),
}

World = dict[str, str]
"""Words by slot name."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence with facts: `full` as the problem words it, `short` as people do; `facts` maps names to patterns.

    `missing` is what an assistant asks if the facts are not given.
    """

    full: tuple[str, ...]
    short: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Catch(Clause):
    """A clause that is easily overlooked, and the solution that takes it into account."""

    solve: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, the pattern that recognises it, its plain solution, and the fact that a negation excludes."""

    full: tuple[str, ...]
    short: tuple[str, ...]
    pattern: str
    solve: str
    negates: str = ""
    catches: tuple[Catch, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of problem. `ranges` are inclusive bounds of each fact, over small and large numbers."""

    name: str
    subset: str
    worlds: tuple[World, ...]
    clauses: tuple[Clause, ...]
    asks: tuple[Ask, ...]
    ranges: Mapping[str, tuple[int, int]]


_RAW = tomllib.loads((resources.files(__package__) / "problems.toml").read_text(encoding="utf-8"))
NAMES: tuple[str, ...] = tuple(_RAW["names"])
WORLDS: Mapping[str, tuple[World, ...]] = {
    name: tuple(dict(zip(raw["slots"], row.split(), strict=True)) for row in raw["rows"])
    for name, raw in _RAW["worlds"].items()
}
SCHEMAS = TypeAdapter(tuple[Schema, ...]).validate_python(
    [{**raw, "worlds": WORLDS[raw["worlds"]]} for raw in _RAW["schemas"]]
)
SUBSETS = tuple(dict.fromkeys(schema.subset for schema in SCHEMAS))


class Working(NamedTuple):
    """A calculation: its steps (`6 * 4 = 24`) and its result, None after a division by zero."""

    steps: tuple[str, ...]
    value: int | None


def work_out(solution: str, facts: Mapping[str, int], *, slip_at: int | None = None, slip: int = 0) -> Working:
    """Evaluate an expression over facts; step number `slip_at` is wrong by `slip`.

    >>> work_out("(a - c) * b", {"a": 6, "b": 14, "c": 2})
    Working(steps=('6 - 2 = 4', '4 * 14 = 56'), value=56)
    """
    steps: list[str] = []

    def value_of(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=fact):
                return facts[fact]
            case ast.BinOp(left=left, op=operation, right=right):
                first, second = value_of(left), value_of(right)
                sign, apply = OPERATIONS[type(operation)]
                result = int(apply(first, second)) + (slip if len(steps) == slip_at else 0)
                steps.append(f"{first} {sign} {second} = {result}")
                return result
        raise ValueError(f"{solution}: expected sums, differences, products and quotients of facts")

    try:
        value = value_of(_parsed(solution))
    except ZeroDivisionError:  # a misstated problem may share something among nobody
        return Working((*steps, "nothing to divide by"), None)
    return Working(tuple(steps), value)


@cache
def _parsed(solution: str) -> ast.expr:
    return ast.parse(solution, mode="eval").body


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of problem in one world; names, numbers and wording vary within it."""

    schema: Schema
    world: World
    ask: Ask
    catch: Catch | None

    @property
    def required(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.schema.clauses if clause.facts)


@dataclass(frozen=True, slots=True)
class Problem:
    """A drawn problem. `facts` holds every number by name, `trap` the result if the catch is overlooked.

    `flagged`: a word such as "But" announces the catch, which makes it harder to overlook.
    """

    template: Template
    name: str
    facts: Mapping[str, int]
    question: Question
    value: int
    trap: int
    steps: int
    flagged: bool

    @property
    def size(self) -> int:
        """Largest number of the problem, its result included."""
        return max(*self.facts.values(), self.value)

    @property
    def difficulty(self) -> float:
        """Difficulty for people, in logits: steps, size of the numbers, negation, catch."""
        size = 0.9 * (self.size > 100) + 0.7 * (self.size > 300)
        negated, catch = bool(self.template.ask.negates), self.template.catch is not None
        return -1.6 + 0.5 * (self.steps - 1) + size + 0.8 * negated + 0.9 * catch

    def words(self, text: str) -> str:
        """Fill the slots of a clause or question with this problem's names and numbers."""
        return fill(text, {**self.template.world, "P": self.name, **{key: str(n) for key, n in self.facts.items()}})

    def option_of(self, value: int) -> str | None:
        """The answer for `value`: its option's letter (None if it has none), its level's letter, or the number."""
        if not self.question.options:
            return str(value)
        if self.question.kind == LEVELS:
            return level_of(value, ranges_in(self.question.full_text))
        return dict(zip(self.question.options, FOUR_LETTERS, strict=True)).get(str(value))

    @property
    def wrong_answers(self) -> list[str]:
        """Wrong answers that a person who guesses may give."""
        near = [str(self.value + step) for step in (-10, -1, 1, 10) if self.value + step > 0]
        return [each for each in self.question.letters or near if each != self.question.answer]


LEVELS = Choice(ordered=True)
TIMES = {"half of ": 0.5, "": 1.0, "twice ": 2.0, "four times ": 4.0}
"""Upper ends of the first four levels, as multiples of a number that the question gives."""
RANGE = re.compile(rf"\b([A-Z])[.):]\s*(?:up to ({'|'.join(TIMES)})(\d{{1,6}})|more)\b")


def ranges_in(text: str) -> list[tuple[float, str]]:
    """Upper ends and letters of the ordered ranges in a text: `A. up to 10`, `B. up to twice 10`, `C. more`.

    >>> ranges_in("A. up to 10, B. up to twice 10, C. more")
    [(10.0, 'A'), (20.0, 'B'), (inf, 'C')]
    """
    found = [(TIMES[times] * int(of) if of else math.inf, letter) for letter, times, of in RANGE.findall(text)]
    return found if len(found) > 1 and any(end < math.inf for end, _ in found) else []


def level_of(value: float, ranges: Sequence[tuple[float, str]]) -> str | None:
    """Letter of the first range that contains the value; None if there is none."""
    return next((letter for end, letter in ranges if value <= end), None)


def without_options(problem: Problem, *, levels: bool) -> Problem:
    """The same problem, asking for its number or for the level (one of five ranges) that the number falls into.

    Ranges are multiples of one number, chosen so that the trap falls into a different one than the value.
    """
    question, value, trap = problem.question, problem.value, problem.trap
    if not levels:
        asked = replace(question, options=(), answer=str(value), kind=Number())
    else:
        rng = Random(f"levels of {question.id}")
        if trap == value:  # the middle of any range
            unit = max(2, round(value / rng.choice((0.35, 0.7, 1.4, 2.8, 5.6))))
        else:  # an end of a range lies between
            low, high = sorted((value, trap))
            between = [range(max(2, math.ceil(low / end)), math.ceil(high / end)) for end in TIMES.values()]
            unit = rng.choice(rng.choice([units for units in between if units]))
        options = (*(f"up to {times}{unit}" for times in TIMES), "more")
        asked = replace(question, options=options, kind=LEVELS)
        answer = level_of(value, ranges_in(asked.full_text))
        assert answer is not None
        asked = replace(asked, answer=answer)
    return replace(problem, question=replace(asked, subset="sample_levels" if levels else "sample_numbers"))


def fill(text: str, slots: Mapping[str, str]) -> str:
    """Replace each `{slot}` by its word; other braces (those of patterns) stay."""
    return re.sub(r"\{([A-Za-z]+)\}", lambda match: slots[match[1]], text)


def all_templates() -> Iterator[Template]:
    """Every template, in a fixed order."""
    for schema in SCHEMAS:
        for world in schema.worlds:
            for ask in schema.asks:
                for catch in (None, *ask.catches):
                    yield Template(schema, world, ask, catch)


def draw_problem(template: Template, question_id: str, rng: Random) -> Problem:
    """Draw a problem; rejection sampling keeps every intermediate result whole and within bounds."""
    large, catch = rng.random() < 0.5, template.catch
    solution = catch.solve if catch else template.ask.solve
    while True:
        facts = _draw_facts(template, large, rng)
        trap, value = _sound_result(template.ask.solve, facts), _sound_result(solution, facts)
        # Equal numbers would hide which one was copied.
        if trap and value and len(set(facts.values())) == len(facts) and not (catch and trap == value):
            break
    name = rng.choice(NAMES)
    flagged = rng.random() < 0.5
    slots = {**template.world, "P": name, **{key: str(number) for key, number in facts.items()}}
    sentences = [rng.choice(clause.full) for clause in template.schema.clauses]
    if catch:
        sentences.append(catch.full[flagged])
    sentences.append(rng.choice(template.ask.full))
    # The right value, the trap, and near misses, in random order.
    numbers = list(facts.values())
    chosen = list(dict.fromkeys((value, trap)))
    near = [value + sign * step for sign in (1, -1) for step in (1, 2, 3, 5, 10, 20)]
    near += [trap + numbers[0], value + numbers[-1]]
    chosen += rng.sample(sorted({number for number in near if 0 < number <= LARGEST} - set(chosen)), 4 - len(chosen))
    rng.shuffle(chosen)
    text, options = fill(" ".join(sentences), slots), tuple(map(str, chosen))
    question = Question(question_id, template.schema.subset, text, options, FOUR_LETTERS[chosen.index(value)])
    steps = len(work_out(solution, facts).steps)
    return Problem(template, name, facts, question, value, trap, steps, flagged=flagged and catch is not None)


def _draw_facts(template: Template, large: bool, rng: Random) -> dict[str, int]:
    """Draw a number for each fact, from the lower third of its range or from the rest; a catch's from all of it."""
    clauses = [*template.schema.clauses, *([template.catch] if template.catch else [])]
    facts = {}
    for name in (name for clause in clauses for name in clause.facts):
        low, high = template.schema.ranges[name]
        middle = high if name == "c" else low + (high - low) // 3
        facts[name] = rng.randint(middle, high) if large and name != "c" else rng.randint(low, middle)
    return facts


def _sound_result(solution: str, facts: Mapping[str, int]) -> int | None:
    """The result (above 0); None if a quotient is not whole or a result is out of bounds."""
    working = work_out(solution, facts)
    for step in working.steps if working.value is not None else ():
        left, sign, right, _, result = step.split()
        if not 0 < int(result) <= LARGEST or (sign == "/" and int(left) % int(right)):
            return None
    return working.value
