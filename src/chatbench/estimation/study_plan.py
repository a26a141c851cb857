r"""Study planning: the number of people, questions and answers per person needed, without and with a simulator.

Single answers (1 right, 0 wrong) vary by question, by person and by chance, y = mu + a(q) + b(p) + e. If n people
answer m random questions of Q each, and the simulator simulates all Q, the variance of the estimate is

    V(n) = P/n + E/(n m) + A (1/(n m) + 1/Q) - R/(n m),      R = rho^2 (A + P + E),

A, P, E the variances by question, by person and of the residual, rho the simulator's PPI correlation (0 without one).
The simulator explains only differences between questions, so R is at most A; it reduces neither the variance of people
nor that from the choice of the Q questions. For two assistants whose people answer random questions from the same Q,
V(difference) = 2 (V(n) - A/Q).

Half-width: z V^(1/2); power to detect a difference d of two assistants: Phi(d / V^(1/2) - z); both assume large n.

People's chats can either train the simulator or correct it, not both. More training data is assumed to raise R as
R(t) = A t / (t + h) with t people, h from the measured correlation and the people behind it: returns diminish, and no
simulator knows more about a question than its accuracy. This is an assumption, not a finding.

Sources: Broska, Howes and van Loon 2025 (power of mixed-subjects designs); arXiv 2510.11408 (dividing people between
training and correction); Gao and Owen 2017 (moment estimates of crossed effects).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.metrics.agreement import NORMAL_95, Undefined
from chatbench.metrics.pairs import grouped
from chatbench.metrics.uncertainty import variance_components

LEAST_SHARE = 1e-6
"""Smallest half-width or difference of accuracies that a study is planned for."""


@dataclass(frozen=True, slots=True)
class Components:
    """Variances of single answers: by question, by person, and residual."""

    question: float
    person: float
    rest: float

    def __post_init__(self) -> None:
        if min(self.question, self.person, self.rest) < 0 or not 0 < self.total < math.inf:
            stated = f"{self.question:g},{self.person:g},{self.rest:g}"
            raise ChatbenchError(f"--components {stated}", expected="variances of 0 or more, such as 0.04,0.01,0.17")

    @property
    def total(self) -> float:
        return self.question + self.person + self.rest


def components_of(study: Study) -> Components | Undefined:
    """Estimate the components within assistants, averaged with weights by answers; negative ones are set to 0."""
    found: list[tuple[int, tuple[float, float, float]]] = []
    reason = Undefined("the study has no answers with an assistant")
    for assistant in study.assistants:
        answers = [a for a in study.answers if a.kind == "user-AI" and a.assistant == assistant]
        place = {question: at for at, question in enumerate(sorted({a.question_id for a in answers}))}
        people = grouped((answer.worker_id or f"nobody {number}", answer) for number, answer in enumerate(answers))
        components = variance_components([
            (np.array([place[a.question_id] for a in each], dtype=np.int64), np.array([float(a.correct) for a in each]))
            for each in people.values()
        ])  # fmt: skip
        if isinstance(components, Undefined):
            reason = Undefined(f"{assistant}: nobody answered twice, or no question was answered twice")
        else:
            found.append((len(answers), components))
    if not found:
        return reason
    weights = [count for count, _ in found]
    question, person, rest = np.average([each for _, each in found], axis=0, weights=weights)
    parts = [max(0.0, float(part)) for part in (question, person, rest)]
    return Components(*parts) if sum(parts) > 0 else Undefined("the study's answers show no variance")


@dataclass(frozen=True, slots=True)
class Design:
    """A study design except its number of people; `correlation` is its simulator's PPI correlation (0: none)."""

    components: Components
    questions: int
    answers_per_person: int = 5
    correlation: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("questions", 2), ("answers_per_person", 1)):
            if getattr(self, name) < least:
                raise ChatbenchError(f"--{name.replace('_', '-')} {getattr(self, name)}", expected=f"at least {least}")
        if self.answers_per_person > self.questions:
            raise ChatbenchError(
                f"{self.answers_per_person} answers per person, but only {self.questions} questions",
                expected="no more answers than questions",
            )
        if not 0 <= self.correlation <= 1:
            raise ChatbenchError(f"--correlation {self.correlation}", expected="0..1, as chatbench estimate prints it")

    @property
    def known(self) -> float:
        """R: the variance of single answers that the simulator explains."""
        return min(self.correlation**2 * self.components.total, self.components.question)

    def variance(self, people: float, *, difference: bool = False) -> float:
        """Variance of the estimate for one assistant, or of the difference of two with `people` people each."""
        c, answers = self.components, people * self.answers_per_person
        chance = c.person / people + (c.rest + c.question - self.known) / answers
        return 2 * chance if difference else chance + c.question / self.questions

    def half_width(self, people: float) -> float:
        """Half-width of the 95 % interval for one assistant."""
        return NORMAL_95 * math.sqrt(self.variance(people))

    def power(self, people: float, difference: float) -> float:
        """Probability that the 95 % interval of the difference excludes 0."""
        from scipy.stats import norm  # type: ignore[import-untyped]  # late, and has no types

        apart = abs(difference) / math.sqrt(self.variance(people, difference=True))
        return float(norm.cdf(apart - NORMAL_95) + norm.cdf(-apart - NORMAL_95))

    def people_for_half_width(self, wanted: float) -> int | Undefined:
        """Fewest people for a half-width; undefined if there are too few questions to reach it."""
        if not LEAST_SHARE <= wanted < 1:
            raise ChatbenchError(f"--half-width {wanted}", expected=f"from {LEAST_SHARE} to 1, such as 0.05")
        least = NORMAL_95**2 * self.components.question / wanted**2
        if self.questions <= least:
            return Undefined(
                f"{self.questions} questions are too few for ±{wanted:g}: more than {least:.0f} are needed"
            )
        return self._fewest(wanted**2 / NORMAL_95**2 - self.components.question / self.questions)

    def people_for_power(self, difference: float, power: float) -> int:
        """Fewest people per assistant to detect a difference between two with the given power."""
        from scipy.stats import norm

        if not LEAST_SHARE <= difference < 1 or not 0.05 < power < 1:
            found, least = f"--difference {difference} --power {power}", f"from {LEAST_SHARE} to 1 and from 0.05 to 1"
            raise ChatbenchError(found, expected=f"{least}, such as 0.1 and 0.8")
        return self._fewest((difference / (NORMAL_95 + float(norm.ppf(power)))) ** 2 / 2)

    def _fewest(self, chance: float) -> int:
        one = self.variance(1, difference=True) / 2
        return max(2, math.ceil(one / chance - 1e-9))


def read_components(text: str | None, study: Study | None) -> Components:
    """Parse `Q,P,E` from the command line, or estimate the components from the study.

    Raises:
        ChatbenchError: the text is not three numbers, or they cannot be estimated from the study.
    """
    if text is not None:
        numbers = [part.strip() for part in text.split(",")]
        try:
            question, person, rest = map(float, numbers)
        except ValueError:
            raise ChatbenchError(f"--components {text}", expected="three variances, such as 0.04,0.01,0.17") from None
        return Components(question, person, rest)
    found = components_of(study) if study else Undefined("no study")
    if isinstance(found, Undefined):
        raise ChatbenchError(
            f"variances of the study's answers are {found}", fix="give them: --components 0.04,0.01,0.17"
        )
    return found


def read_numbers(texts: Sequence[str]) -> list[int]:
    """Parse whole numbers from the command line.

    Raises:
        ChatbenchError: a text is not a whole number.
    """
    if not texts or not all(text.isdecimal() for text in texts):
        raise ChatbenchError(f"--answers-per-person {','.join(texts)}", expected="whole numbers, such as 1,5,10")
    return [int(text) for text in texts]


def plan_rows(
    designs: Sequence[Design], *, half_width: float, difference: float, power: float, price: float | None = None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and rows of the plan: people (and costs) by answers per person, without and with the simulator."""
    if price is not None and not 0 <= price < math.inf:
        raise ChatbenchError(f"--price {price:g}", expected="US dollars per chat, 0 or more")
    header = ["answers a person"]
    rows = [[str(design.answers_per_person)] for design in designs]
    for with_simulator in (False, True):
        if with_simulator and not any(design.correlation for design in designs):
            continue
        who = "with simulator" if with_simulator else "alone"
        header += [f"interval, {who}", f"difference, {who}"]
        for row, design in zip(rows, designs, strict=True):
            one = design if with_simulator else replace(design, correlation=0.0)
            wide = one.people_for_half_width(half_width)
            for people, assistants in ((wide, 1), (one.people_for_power(difference, power), 2)):
                if isinstance(people, Undefined):
                    row.append("too few questions")
                    continue
                cost = price and f" (${assistants * people * one.answers_per_person * price:,.0f})"
                row.append(f"{people:,}{cost or ''}")
    return tuple(header), tuple(map(tuple, rows))


@dataclass(frozen=True, slots=True)
class Division:
    """A division of people between training and correcting the simulator, with the resulting half-width."""

    training: int
    correction: int
    half_width: float


def divide(design: Design, people: int, trained_on: int) -> tuple[Division, Division]:
    """Find the best division of new people between training and correction; also return the one without training.

    Args:
        trained_on: people behind the measured correlation, not counting the new ones.
    """
    if people < 2 or trained_on < 1 or design.correlation <= 0:
        raise ChatbenchError(
            f"cannot divide --people {people} with --trained-on {trained_on} --correlation {design.correlation:g}",
            expected="at least 2 people, and a measured simulator: its correlation and the people it was trained on",
        )
    most = design.components.question
    half = trained_on * (most / design.known - 1) if most > 0 else 0.0

    def division(training: int) -> Division:
        known = most * (trained_on + training) / (trained_on + training + half) if most > 0 else 0.0
        then = replace(design, correlation=min(1.0, math.sqrt(known / design.components.total)))
        return Division(training, people - training, then.half_width(people - training))

    return min(map(division, range(people - 1)), key=lambda each: each.half_width), division(0)
