"""Draws word problems from the schemas: text, options, right answer, and the truth behind them.

A template is a schema with a world, a question and a catch or none; there are several hundred. What makes a problem
hard can be read off its text: the number of steps, the size of the numbers, a negation, a catch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from chatbench.core.records import LETTERS, Question
from chatbench.sample.schemas import NAMES, SCHEMAS, Ask, Catch, Clause, Schema, Working, World

LARGEST = 999
"""Numbers stay below a thousand, so that the tiny base's tokenizer has one token for each."""


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of problem in one world: what varies within it is names, numbers and wording."""

    schema: Schema
    world: World
    ask: Ask
    catch: Catch | None

    @property
    def required(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.schema.clauses if clause.facts)


@dataclass(frozen=True, slots=True)
class Problem:
    """A drawn problem. `facts` holds every number by name, `trap` the result of one who overlooks the catch."""

    template: Template
    name: str
    facts: Mapping[str, int]
    question: Question
    value: int
    trap: int
    steps: int
    flagged: bool
    """The catch is announced by a word such as "But", which makes it harder to overlook."""

    @property
    def size(self) -> int:
        """Largest number of the problem, its result included."""
        return max(*self.facts.values(), self.value)

    @property
    def difficulty(self) -> float:
        """How hard it is for a person, in logits: steps, size of the numbers, negation, catch."""
        size = 0.9 * (self.size > 100) + 0.7 * (self.size > 300)
        return -1.6 + 0.5 * (self.steps - 1) + size + 0.8 * self.template.ask.negated + 0.9 * self.has_catch

    @property
    def has_catch(self) -> bool:
        return self.template.catch is not None

    def words(self, text: str) -> str:
        """Fills the slots of a clause or question with this problem's names and numbers."""
        return fill(text, {**self.template.world, "P": self.name, **{key: str(n) for key, n in self.facts.items()}})

    def option_of(self, value: int) -> str | None:
        """Letter of the option that names `value`, None where there is none."""
        return dict(zip(self.question.options, LETTERS, strict=True)).get(str(value))


def fill(text: str, slots: Mapping[str, str]) -> str:
    """Replaces `{slot}` by its word; other braces (those of patterns) stay."""
    return re.sub(r"\{([A-Za-z]+)\}", lambda match: slots[match[1]], text)


def all_templates() -> Iterator[Template]:
    """Every template, in a fixed order."""
    for schema in SCHEMAS:
        for world in schema.worlds:
            for ask in schema.asks:
                for catch in (None, *ask.catches):
                    yield Template(schema, world, ask, catch)


def draw_problem(template: Template, question_id: str, rng: Random) -> Problem:
    """A problem of this template; rejection sampling keeps every intermediate result whole and within bounds."""
    large = rng.random() < 0.5
    while True:
        facts = _draw_facts(template, large, rng)
        solution = _whole_solution(template, facts)
        if solution is not None:
            return _tell(template, question_id, facts, solution, rng)


def _draw_facts(template: Template, large: bool, rng: Random) -> dict[str, int]:
    names = [name for clause in template.schema.clauses for name in clause.facts]
    names += template.catch.clause.facts if template.catch else []
    facts = {}
    for name in names:
        low, high = template.schema.ranges[name]
        middle = low + (high - low) // 3
        facts[name] = (
            rng.randint(middle, high) if large and name != "c" else rng.randint(low, high if name == "c" else middle)
        )
    return facts


@dataclass(frozen=True, slots=True)
class _Solution:
    value: int
    trap: int
    steps: int


def _whole_solution(template: Template, facts: Mapping[str, int]) -> _Solution | None:
    """The result and the trap, None where a step is not whole, not positive or too large."""
    if len(set(facts.values())) < len(facts):
        return None  # equal numbers would hide which one was copied
    values = []
    steps = 0
    for solve in (template.ask.solve, template.catch.solve if template.catch else template.ask.solve):
        working = Working()
        try:
            values.append(solve(facts, working))
        except ZeroDivisionError:
            return None
        steps = len(working.steps)
        if not all(_step_is_sound(step) for step in working.steps):
            return None
    trap, value = values
    if template.catch and trap == value:
        return None
    return _Solution(value, trap, steps)


def _step_is_sound(step: str) -> bool:
    left, sign, right, _, result = step.split()
    if sign == "/" and int(left) % int(right) != 0:
        return False
    return 0 < int(result) <= LARGEST


def _tell(template: Template, question_id: str, facts: dict[str, int], solution: _Solution, rng: Random) -> Problem:
    name = rng.choice(NAMES)
    flagged = rng.random() < 0.5
    slots = {**template.world, "P": name, **{key: str(number) for key, number in facts.items()}}
    sentences = [rng.choice(clause.full) for clause in template.schema.clauses]
    if template.catch:
        sentences.append(template.catch.clause.full[flagged])
    sentences.append(rng.choice(template.ask.full))
    text = fill(" ".join(sentences), slots)
    options = _options(solution, list(facts.values()), rng)
    question = Question(
        id=question_id,
        subset=template.schema.subset,
        text=text,
        options=(options[0], options[1], options[2], options[3]),
        answer=LETTERS[options.index(str(solution.value))],
    )
    return Problem(
        template, name, facts, question, solution.value, solution.trap, solution.steps,
        flagged=flagged and template.catch is not None,
    )  # fmt: skip


def _options(solution: _Solution, numbers: list[int], rng: Random) -> list[str]:
    """The right value, the trap, and near misses, in random order."""
    chosen = list(dict.fromkeys((solution.value, solution.trap)))
    near = [solution.value + sign * step for sign in (1, -1) for step in (1, 2, 3, 5, 10, 20)]
    near += [solution.trap + numbers[0], solution.value + numbers[-1]]
    candidates = sorted({value for value in near if 0 < value <= LARGEST} - set(chosen))
    chosen += rng.sample(candidates, 4 - len(chosen))
    rng.shuffle(chosen)
    return [str(value) for value in chosen]
