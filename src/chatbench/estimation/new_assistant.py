"""User-AI accuracy with an assistant that few people, or none, have chatted with.

With few real chats, prediction-powered inference estimates a mean from few real and many simulated answers. People gave
n answers y (1 right, 0 wrong) to some questions; the simulator predicts f(q) for all Q questions. For any weight w of
the simulator,

    estimate(w) = mean y - w * (mean of f over the answers' questions - mean of f over all Q)

is unbiased if the answered questions are a random sample, however wrong f is: the simulator only contributes which
questions are hard. w in 0..1 is chosen to minimise the estimated variance (power tuning).

Published PPI++ (`published`) assumes independent answers, but answers to one question, and of one person, are
correlated. Here the variance of (mean y, difference of the means of f) is clustered by question, and the correlation
between answers of one person is added if positive: V = V(questions) + max(0, V(people) - V(answers)), each with its
factor G / (G - 1). G is the effective number of clusters, 1 / (sum of squared shares of the answers), which is lower
for unequal clusters. V(questions) accounts for the answered questions being among the Q. Questions are treated as a
sample: the estimand is the accuracy for questions and people like these.

Estimating w costs a degree of freedom: V(w) is multiplied by (G - 1) / (G - 2), G the effective number of questions.
If it is then not below the variance of people alone, people alone are reported: power tuning loses if the squared
correlation is below about 1 / G.

Without real chats, accuracy is predicted from simulation, with a prediction interval. For each known assistant a, a
simulator not trained on a simulated chats with it, which gives the error

    e(a) = mean over questions of (human accuracy - simulated accuracy).

The new assistant N is assumed exchangeable with the K known ones: the prediction is its mean simulated accuracy plus
the mean of the K errors, with variance

    V = S^2 (1 + 1/K) + variance over questions of (simulated accuracy with N + mean error there) / questions,

S^2 the sample variance of the K errors. The first term has only K - 1 degrees of freedom, which widens the t interval
for three to five assistants. S^2 includes sampling noise (people, chats), so V is conservative. With fewer than three
assistants there is no prediction.

A difference between N and a known assistant b takes both from the simulator trained on neither. Errors that they share
(of the simulator, of a question) cancel; the errors of two assistants remain, hence 2 S^2.

Sources: Angelopoulos, Duchi and Zrnic 2023, "PPI++: Efficient Prediction-Powered Inference", arXiv 2311.01453 (weight,
its range, standard error); Broska, Howes and van Loon 2025, "The Mixed Subjects Design" (PPI correlation, effective
sample size); Cameron, Gelbach and Miller 2011 (two-way clusters); Student 1908 (prediction interval of a normal
sample).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.core.records import Answer
from chatbench.data.splits import FEWEST_ASSISTANTS
from chatbench.metrics.agreement import Array, Outcomes, Undefined, Value, agreement
from chatbench.metrics.pairs import grouped
from chatbench.metrics.resampling import Indices

FEWEST_CLUSTERS = 3.5
"""Fewest effective questions and people: fewer leave no degrees of freedom for a variance and a weight."""
NO_VARIANCE = 1e-15


@dataclass(frozen=True, slots=True)
class RealAnswers:
    """Human answers: right (1) or wrong (0), index of the question among the simulated ones, and index of the person.

    All of shape (answers,).
    """

    correct: Array
    question: Indices
    person: Indices


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """An estimated share (or difference of shares) with its standard error and 95 % interval."""

    value: float
    standard_error: float
    low: float
    high: float


def estimate_of(value: float, *parts: tuple[float, float], least: float = 0.0) -> MeanEstimate:
    """Build an estimate from independent (variance, degrees of freedom) parts, clipped to `least`..1.

    The half-width is the root of the sum of t^2 * variance, with each part's t quantile (Cochran 1964). That is
    conservative; pooled degrees of freedom (Satterthwaite) are too many if a part with two or three degrees is small by
    chance (coverage 0.926 instead of 0.95 with three assistants).
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # late, and has no types

    half = math.sqrt(sum(float(t.ppf(0.975, degrees)) ** 2 * max(0.0, variance) for variance, degrees in parts))
    inside = min(1.0, max(least, value))
    error = math.sqrt(sum(max(0.0, variance) for variance, _ in parts))
    return MeanEstimate(inside, error, max(least, min(value - half, inside)), min(1.0, max(value + half, inside)))


@dataclass(frozen=True, slots=True)
class Rectified:
    """Estimates from people alone and from people with the simulator.

    `weight` (0..1) is the simulator's; `correlation` is that of single answers with the simulated accuracy of their
    question (the PPI correlation); `effective_answers` is the number of real answers that would be as precise without
    the simulator. With `loses`, the simulator does not reduce the variance and `rectified` is people alone.
    """

    answers: int
    questions: int
    people: int
    alone: MeanEstimate
    rectified: MeanEstimate
    weight: float
    correlation: Value
    effective_answers: float
    loses: bool


def published(correct: Array, predicted: Array, unlabelled: Array) -> tuple[float, float, float]:
    """PPI++ as published, for independent data: weight, estimate and standard error (`ppi_mean_ci` of ppi-python).

    Args:
        correct, predicted: labels and predictions of the n labelled cases.
        unlabelled: predictions of N other cases.
    """
    n, others = len(correct), len(unlabelled)
    spread = np.var(np.concatenate([predicted, unlabelled]), ddof=1)
    shared = np.mean((correct - correct.mean()) * (predicted - predicted.mean()))
    weight = float(np.clip(shared / ((1 + n / others) * spread), 0, 1)) if spread > 0 else 0.0
    estimate = weight * unlabelled.mean() + np.mean(correct - weight * predicted)
    variance = weight**2 * np.var(unlabelled) / others + np.var(correct - weight * predicted) / n
    return weight, float(estimate), math.sqrt(variance)


def rectified(real: RealAnswers, simulated: Array) -> Rectified | Undefined:
    """Estimate the mean from real answers and the simulated accuracy of each question, shape (questions,)."""
    answered, people = len(np.unique(real.question)), len(np.unique(real.person))
    of_questions, of_people = _effective(real.question), _effective(real.person)
    if min(of_questions, of_people) < FEWEST_CLUSTERS:
        return Undefined(
            f"{answered} questions with answers of {people} people, effectively "
            f"{of_questions:.1f} and {of_people:.1f}; {FEWEST_CLUSTERS} of each are needed"
        )
    about = simulated[real.question]
    mean, difference = float(real.correct.mean()), float(about.mean() - simulated.mean())
    by_question, by_person = _covariances(real, simulated, of_questions, of_people)
    degrees = min(of_questions, of_people) - 1

    def variance(weight: float) -> float:
        direction = np.array([1.0, -weight])
        return float(direction @ by_question @ direction + max(0.0, direction @ by_person @ direction))

    both = by_question + by_person
    weight = float(np.clip(both[0, 1] / both[1, 1], 0, 1)) if both[1, 1] > NO_VARIANCE else 0.0
    alone = variance(0.0)
    if alone <= NO_VARIANCE:
        what = {0.0: "wrong", 1.0: "right"}.get(mean, "as often right with every question and person")
        return Undefined(f"all {len(real.correct)} answers are {what}, so they show no variance")
    tuned = variance(weight) * (of_questions - 1) / (of_questions - 2)
    loses = tuned >= alone
    used = 0.0 if loses else weight
    of_both = estimate_of(mean - used * difference, (alone if loses else tuned, degrees))
    return Rectified(
        answers=len(real.correct),
        questions=answered,
        people=people,
        alone=estimate_of(mean, (alone, degrees)),
        rectified=of_both,
        weight=used,
        correlation=agreement(real.correct.tolist(), about.tolist())["pearson"],
        effective_answers=len(real.correct) * (1.0 if loses or tuned <= 0 else alone / tuned),
        loses=loses,
    )


def _effective(cluster: Indices) -> float:
    """Effective number of clusters, 1 / (sum of squared shares): their number if of equal size, else less."""
    shares = np.unique(cluster, return_counts=True)[1] / max(1, len(cluster))
    return float(1 / np.sum(shares**2)) if len(cluster) else 0.0


def _covariances(real: RealAnswers, simulated: Array, questions: float, people: float) -> tuple[Array, Array]:
    """2 x 2 covariances of (mean y, difference of the means of f): by questions, and what people add to them."""
    count, about = len(real.correct), simulated[real.question]
    each = np.stack([real.correct - real.correct.mean(), about - about.mean()], axis=1) / count

    def sums(cluster: Indices, clusters: int) -> Array:
        return np.stack([np.bincount(cluster, weights=column, minlength=clusters) for column in each.T], axis=1)

    of_questions = sums(real.question, len(simulated))
    of_questions[:, 1] -= (simulated - simulated.mean()) / len(simulated)
    _, person = np.unique(real.person, return_inverse=True)
    of_people = sums(person, int(person.max()) + 1)
    by_question = of_questions.T @ of_questions * questions / (questions - 1)
    by_person = of_people.T @ of_people * people / (people - 1) - each.T @ each * count / (count - 1)
    return by_question, by_person


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
    errors = (zip(each.questions, (each.human - each.simulated).tolist(), strict=True) for each in held_out)
    by_question = grouped(error for of_assistant in errors for error in of_assistant)
    mean_errors = {question: math.fsum(values) / len(values) for question, values in by_question.items()}
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
    by_question = grouped((answer.question_id, answer) for answer in answers)
    by_person: dict[str, float] = {}
    nobody = itertools.count()
    for of_question in by_question.values():
        size = len(of_question)
        mean = sum(answer.correct for answer in of_question) / size
        factor = math.sqrt(size / (size - 1)) if size > 1 else 0.0
        for answer in of_question:
            person = answer.worker_id or f"nobody {next(nobody)}"
            by_person[person] = by_person.get(person, 0.0) + factor * (answer.correct - mean) / size
    return math.fsum(each**2 for each in by_person.values()) / max(1, len(by_question)) ** 2


def variance_of_chats(outcomes: Iterable[Outcomes]) -> float:
    """Variance of mean simulated accuracy over questions, from resampling chats within questions."""
    shares = [(one.right / count, count) for one in outcomes if (count := one.count("counted wrong"))]
    return math.fsum(p * (1 - p) / (n - 1) for p, n in shares if n > 1) / max(1, len(shares)) ** 2
