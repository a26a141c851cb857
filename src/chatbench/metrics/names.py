"""Predictors, and the names that score tables and files share.

A row of scores is (assistant, predictor, metric). A *stratum* is a condition or a subset of the questions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from chatbench.metrics.agreement import Treatment, Undefined, Value

EVERY_ASSISTANT = "all"
"""Row of the pairs or chats pooled over assistants."""
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
    """Whose accuracy or first prompts a metric describes: people, a simulator, a baseline, or the human ceiling.

    `method` is how the AI alone was asked. `chats` is, for a simulator, how many first chats of each pair are used
    (None: all), and for a ceiling, the number of chats per pair (None: unlimited). `invalid` is the treatment of a
    simulator's invalid answers. With `expected`, the probability of the right letter replaces the sampled answer.
    `name` is the model and style of a simulator that was not fine-tuned here. It affects the label only: every table
    lists the scored simulator as `FINE_TUNED`.

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
        """Name in tables and files; `parse` reads it."""
        parts = [f"{SIMULATOR}{self.name}" if self.name else str(self.kind)]
        if self.kind == "AI alone":
            parts.append(self.method)
        elif self.kind == "ceiling":
            parts.append("unlimited chats" if self.chats is None else chats_text(self.chats))
        elif self.chats is not None:
            parts.append(f"first {chats_text(self.chats)}")
        parts += ["invalid dropped"] * (self.invalid == "dropped") + ["expected answers"] * self.expected
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """The label as read by people: methods without underscores, a model's own name as it is."""
        return self.label if self.name else self.label.replace("_", " ")

    def __str__(self) -> str:
        return self.label

    @classmethod
    def parse(cls, label: str) -> Predictor:
        """Parse a label.

        Raises:
            ValueError: no predictor has this label.
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
        """Whether it is a simulator, in any variant (first chats only, invalid answers dropped, ...)."""
        return self.kind in (FINE_TUNED.kind, BASE_MODEL.kind)

    @property
    def is_baseline(self) -> bool:
        """Whether it predicts accuracy without a simulator."""
        return self.kind in (CONSTANT.kind, REGRESSION.kind, USER_ALONE.kind, "AI alone")


SIMULATOR = "simulator "
"""Label prefix of a simulator that was not fine-tuned here."""
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
    """The assistant answering alone, asked by the given method."""
    return Predictor("AI alone", method=method)


def ceiling(chats: int | None) -> Predictor:
    """The human noise ceiling for this number of chats per pair (None: unlimited)."""
    return Predictor("ceiling", chats=chats)


def chats_text(conversations: int) -> str:
    """Format a number of chats: `1 chat`, `10 chats`."""
    return f"{conversations} chat{'s' * (conversations != 1)}"


TEXT_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
TERMINATIONS = ("answered", "forced", "no_answer", "failed")

WHOLE = ""
"""The stratum of all pairs."""
CONDITION = "condition "
SUBSET = "subset "
"""Prefixes of a stratum's name."""

MetricKey = tuple[str, Predictor, str]
"""(assistant, predictor, metric)."""


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A predictor's metric on one split, for one assistant or all, on the whole split or one stratum."""

    assistant: str
    predictor: Predictor
    metric: str
    value: Value
    stratum: str = WHOLE


def share(count: float, total: float, reason: str) -> Value:
    """count / total; undefined for the given reason if total is 0."""
    return count / total if total else Undefined(reason)


def apart_from_all(name: str) -> str:
    """A name as it is, or in quotes if it could be mistaken for the total; different names stay different.

    >>> apart_from_all("math"), apart_from_all("all")
    ('math', '"all"')
    """
    return f'"{name}"' if name.strip('"') == EVERY_ASSISTANT else name
