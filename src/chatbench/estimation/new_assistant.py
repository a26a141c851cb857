r"""Prediction interval of user-AI accuracy with an assistant that has no human chats, from simulation.

For each known assistant a, a simulator not trained on a simulated chats with it, which gives the error

    e(a) = mean over questions of (human accuracy - simulated accuracy).

The new assistant N is assumed exchangeable with the K known ones: the prediction is its mean simulated accuracy plus
the mean of the K errors, with variance

    V = S^2 (1 + 1/K) + variance over questions of (simulated accuracy with N + mean error there) / questions,

S^2 the sample variance of the K errors. The first term has only K - 1 degrees of freedom, which widens the t interval
for three to five assistants. S^2 includes sampling noise (people, chats), so V is conservative. With fewer than three
assistants there is no prediction.

A difference between N and a known assistant b takes both from the simulator trained on neither. Errors that they share
(of the simulator, of a question) cancel; the errors of two assistants remain, hence 2 S^2.

Source: prediction interval of a normal sample (Student 1908).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.core.records import Answer
from chatbench.estimation.prediction_powered import MeanEstimate, estimate_of
from chatbench.metrics.agreement import Array, Outcomes, Undefined

FEWEST_ASSISTANTS = 3


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A held-out assistant: human and simulated accuracy (0..1) by question, from a simulator not trained on it.

    `people_variance` and `chats_variance` are the variances of the means of `human` and `simulated` over questions.
    """

    assistant: str
    questions: tuple[str, ...]
    human: Array
    simulated: Array
    answers: int = 0
    people_variance: float = 0.0
    chats_variance: float = 0.0

    @property
    def error(self) -> float:
        """Mean of human minus simulated accuracy."""
        return float(np.mean(self.human - self.simulated))


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction with its interval and its variance by cause; small components may be slightly negative."""

    estimate: MeanEstimate
    variance_by_cause: Mapping[str, float]


def predict(
    simulated: Mapping[str, float], held_out: Sequence[HeldOut], *, chats_variance: float = 0.0
) -> Predicted | Undefined:
    """Predict human accuracy with the new assistant.

    Args:
        simulated: its simulated accuracy by question; the questions may differ from the study's.
        chats_variance: variance of the mean of `simulated` from resampling chats.
    """
    if isinstance(spread := error_spread(held_out), Undefined):
        return spread
    if len(simulated) < 2:
        return Undefined(f"{len(simulated)} simulated question, 2 are needed")
    count = len(held_out)
    errors: dict[str, list[float]] = {}
    for each in held_out:
        for question, error in zip(each.questions, each.human - each.simulated, strict=True):
            errors.setdefault(question, []).append(float(error))
    mean_errors = {question: math.fsum(values) / len(values) for question, values in errors.items()}
    values = np.array(list(simulated.values()))
    level = float(values.mean()) + math.fsum(each.error for each in held_out) / count
    if simulated.keys() <= mean_errors.keys():
        of_questions = _of_mean(values + np.array([mean_errors[question] for question in simulated]))
    else:  # other questions: two independent samples
        of_questions = _of_mean(values) + _of_mean(np.array(list(mean_errors.values())))
    of_error = spread * (1 + 1 / count)
    people = (1 + 1 / count) * float(np.mean([each.people_variance for each in held_out]))
    chats = (1 + 1 / count) * float(np.mean([each.chats_variance for each in held_out]))
    return Predicted(
        estimate_of(level, (of_error, count - 1), (of_questions, len(values) - 1)),
        {
            "simulator on a new assistant": of_error - people - chats,
            "people": people,
            "simulated chats": chats + chats_variance,
            "questions": of_questions - chats_variance,
        },
    )


def predict_difference(
    simulated: Mapping[str, float], other: Mapping[str, float], held_out: Sequence[HeldOut]
) -> MeanEstimate | Undefined:
    """Predict the accuracy with the new assistant minus that with a known one, from a simulator trained on neither."""
    if isinstance(spread := error_spread(held_out), Undefined):
        return spread
    differences = np.array([simulated[question] - other[question] for question in simulated if question in other])
    if len(differences) < 2:
        return Undefined("fewer than 2 questions were simulated with both assistants")
    parts = (2 * spread, len(held_out) - 1), (_of_mean(differences), len(differences) - 1)
    return estimate_of(float(differences.mean()), *parts, least=-1.0)


def error_spread(held_out: Sequence[HeldOut]) -> float | Undefined:
    """Sample variance of the errors on held-out assistants."""
    if len(held_out) < FEWEST_ASSISTANTS:
        return Undefined(
            f"{len(held_out)} assistants were held out and simulated, {FEWEST_ASSISTANTS} are needed to estimate the "
            "error of a simulator on an assistant that it was not trained on"
        )
    return float(np.var([each.error for each in held_out], ddof=1))


def _of_mean(values: Array) -> float:
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def variance_of_people(answers: Iterable[Answer]) -> float:
    """Variance of mean human accuracy over questions, from resampling people with all their answers.

    Questions with a single answer contribute nothing.
    """
    by_question: dict[str, list[Answer]] = {}
    for answer in answers:
        by_question.setdefault(answer.question_id, []).append(answer)
    by_person: dict[str, float] = {}
    number = 0
    for of_question in by_question.values():
        size = len(of_question)
        mean = sum(answer.correct for answer in of_question) / size
        factor = math.sqrt(size / (size - 1)) if size > 1 else 0.0
        for answer in of_question:
            number += 1
            person = answer.worker_id or f"nobody {number}"
            share = factor * (answer.correct - mean) / size
            by_person[person] = by_person.get(person, 0.0) + share
    return math.fsum(each**2 for each in by_person.values()) / max(1, len(by_question)) ** 2


def variance_of_chats(outcomes: Iterable[Outcomes]) -> float:
    """Variance of mean simulated accuracy over questions, from resampling chats within questions."""
    shares = [(one.right / count, count) for one in outcomes if (count := one.count("counted wrong"))]
    return math.fsum(p * (1 - p) / (n - 1) for p, n in shares if n > 1) / max(1, len(shares)) ** 2
