"""What a metric is of: the predictor, and the names that tables and files of scores have in common.

A row of scores is (assistant, predictor, metric). A *stratum* is a condition or a subset of the questions, of which
alone a value speaks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from chatbench.metrics.agreement import Treatment, Undefined, Value

EVERY_ASSISTANT = "all"
"""Row of all assistants' pairs or chats together (pooled)."""
MEAN_OF_ASSISTANTS = "mean of assistants"

Kind = Literal[
    "people",
    "fine-tuned",
    "base model",
    "question copied",
    "constant (train mean)",
    "regression on user alone and AI alone",
    "user alone",
    "AI alone",
    "ceiling",
]


@dataclass(frozen=True, slots=True)
class Predictor:
    """Whose accuracy or first prompts a metric is about: people, a simulator, a baseline, or the human ceiling.

    `method` is how AI alone was asked. `name` says what the simulator is where it is not the one fine-tuned here: the
    model and its style. It is part of the label only: in every table the scored simulator is found as `FINE_TUNED`.
    `chats` is of a simulator how many of each pair's first chats are looked at
    (None: all), of a ceiling for how many chats per pair it is (None: unlimited). `invalid` says what became of a
    simulator's invalid answers; `expected` that the probability of the right letter stands for the sampled one.

    >>> str(Predictor("fine-tuned", chats=3)), Predictor.parse("ceiling, 10 chats").chats
    ('fine-tuned, first 3 chats', 10)
    >>> str(Predictor("fine-tuned", name="gpt-4o (two-step)")), Predictor("fine-tuned", name="gpt-4o") == FINE_TUNED
    ('simulator gpt-4o (two-step)', True)
    """

    kind: Kind
    method: str = ""
    chats: int | None = None
    invalid: Treatment = "counted wrong"
    expected: bool = False
    name: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The name in tables and files; `parse` reads it."""
        parts = [f"{SIMULATOR}{self.name}" if self.name else str(self.kind)]
        if self.kind == "AI alone":
            parts.append(self.method)
        elif self.kind == "ceiling":
            parts.append("unlimited chats" if self.chats is None else chats_text(self.chats))
        elif self.chats is not None:
            parts.append(f"first {chats_text(self.chats)}")
        parts += ["invalid dropped"] * (self.invalid == "dropped") + ["expected answers"] * self.expected
        return ", ".join(parts)

    def __str__(self) -> str:
        return self.label

    @classmethod
    def parse(cls, label: str) -> Predictor:
        """The predictor of a label.

        Raises:
            ValueError: no predictor is called so.
        """
        named = _NAMED.match(label)
        name, rest = (named["name"], label[named.end() :]) if named else ("", label)
        head, comma, rest = ("fine-tuned", "", rest) if named else rest.partition(", ")
        kind = next((kind for kind in get_args(Kind) if kind == head), None)
        if kind == "AI alone" and comma:
            return cls("AI alone", method=rest)
        if kind is not None:
            words = rest.removeprefix(", ").split(", ")
            count = next((int(number) for word in words for number in word.split() if number.isdigit()), None)
            dropped: Treatment = "dropped" if "invalid dropped" in words else "counted wrong"
            found = cls(kind, "", count, dropped, "expected answers" in words, name)
            if found.label == label:
                return found
        raise ValueError(f"predictor {label!r}, expected a label such as {FINE_TUNED} or {ceiling(10)}")

    @property
    def is_simulator(self) -> bool:
        """Whether it is a simulator in any variant: with its first chats, with invalid answers dropped ..."""
        return self.kind in (FINE_TUNED.kind, BASE_MODEL.kind)

    @property
    def is_baseline(self) -> bool:
        """Whether it predicts accuracy without a simulator."""
        return self.kind in (CONSTANT.kind, REGRESSION.kind, USER_ALONE.kind, "AI alone")


SIMULATOR = "simulator "
"""Beginning of the label of a simulator that was not fine-tuned here."""
_NAMED = re.compile(
    rf"{SIMULATOR}(?P<name>.+?)(?=(?:, first \d+ chats?)?(?:, invalid dropped)?(?:, expected answers)?\Z)", re.DOTALL
)

PEOPLE = Predictor("people")
FINE_TUNED = Predictor("fine-tuned")
BASE_MODEL = Predictor("base model")
SIMULATORS = (FINE_TUNED, BASE_MODEL)
QUESTION_COPIED = Predictor("question copied")
"""The question's text, word for word, as the first prompt."""
CONSTANT = Predictor("constant (train mean)")
REGRESSION = Predictor("regression on user alone and AI alone")
USER_ALONE = Predictor("user alone")


def ai_alone(method: str) -> Predictor:
    """The assistant without people, asked by that method."""
    return Predictor("AI alone", method=method)


def ceiling(chats: int | None) -> Predictor:
    """The best that a simulator with so many chats per pair can reach; None: with any number."""
    return Predictor("ceiling", chats=chats)


def chats_text(conversations: int) -> str:
    """`1 chat`, `10 chats`."""
    return f"{conversations} chat{'s' * (conversations != 1)}"


TEXT_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
TERMINATIONS = ("answered", "forced", "no_answer", "failed")

WHOLE = ""
"""The stratum that is everything."""
CONDITION = "condition "
SUBSET = "subset "
"""Beginnings of a stratum's name."""

MetricKey = tuple[str, Predictor, str]
"""(assistant, predictor, metric)."""


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One metric of one split: of a predictor, for one assistant or all, on the whole split or a stratum of it."""

    assistant: str
    predictor: Predictor
    metric: str
    value: Value
    stratum: str = WHOLE


def share(count: int, total: int, reason: str) -> Value:
    """count / total, or why it does not exist."""
    return count / total if total else Undefined(reason)
