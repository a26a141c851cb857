r"""A mean from few real answers and many simulated ones: prediction-powered inference, clustered and power-tuned.

People gave n answers y (1 right, 0 wrong) to some questions; the simulator says f(q) about all Q of them. For any
weight w of the simulator,

    estimate(w) = mean y - w * (mean of f over the answered questions, as often as answered - mean of f over all Q)

is unbiased where the answered questions are a random sample, however wrong f is: what the simulator adds is knowledge
of which questions are hard. w is chosen to minimise the estimated variance, within 0..1 (power tuning).

Published PPI++ (`published`) takes answers as independent. Answers to one question, and answers of one person, are
not. Here the variance of (mean y, difference of the means of f) is summed over clusters of questions, and what ties
the answers of one person together is added where it is positive: V = V(questions) + max(0, V(people) - V(answers)),
each with its factor G / (G - 1), as everywhere in this package. G is the effective number of clusters, 1 / (sum of the
squared shares of the answers): a cluster with many answers leaves less to compare it with. That the answered questions
are among the Q is in V(questions). The questions count as a sample: the truth is of questions and people like these.

w is estimated too, which costs a degree of freedom: V(w) is multiplied by (G - 1) / (G - 2), G the number of answered
questions. Where it is then not below the variance of people alone, the simulator costs more than it gives at this
n, and people alone are reported: power tuning loses where the squared correlation is below about 1 / G.

Sources: Angelopoulos, Duchi and Zrnic 2023, "PPI++: Efficient Prediction-Powered Inference", arXiv 2311.01453 (weight,
its range, standard error); Broska, Howes and van Loon 2025, "The Mixed Subjects Design" (PPI correlation, effective
sample size); Cameron, Gelbach and Miller 2011 (two-way clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from chatbench.metrics.agreement import Array, Undefined, Value, agreement
from chatbench.metrics.resampling import Indices

FEWEST_CLUSTERS = 4
"""Fewer questions or people leave no degree of freedom for a spread and a weight."""


@dataclass(frozen=True, slots=True)
class RealAnswers:
    """People's answers: right (1) or wrong (0), the place of the question among the simulated ones, and who answered.

    All of shape (answers,).
    """

    correct: Array
    question: Indices
    person: Indices


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """An estimated share (or difference of shares), its standard error, and its 95 % interval."""

    value: float
    standard_error: float
    low: float
    high: float


def estimate_of(value: float, *parts: tuple[float, float], least: float = 0.0) -> MeanEstimate:
    """From independent parts of its variance, each with its degrees of freedom; cut to `least`..1.

    Half-width: root of the sum of t^2 * variance, t the quantile of each part's degrees of freedom (Cochran 1964). That
    errs on the safe side; common degrees of freedom for the sum (Satterthwaite) are too many where a part of two or
    three degrees comes out small by chance (0.926 instead of 0.95 with three assistants).
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # late, and has no types

    half = math.sqrt(sum(float(t.ppf(0.975, degrees)) ** 2 * max(0.0, variance) for variance, degrees in parts))
    inside = min(1.0, max(least, value))
    error = math.sqrt(sum(max(0.0, variance) for variance, _ in parts))
    return MeanEstimate(inside, error, max(least, min(value - half, inside)), min(1.0, max(value + half, inside)))


@dataclass(frozen=True, slots=True)
class Rectified:
    """People alone, and people with the simulator.

    `weight` is the simulator's, 0..1; `correlation` that of single answers with the simulated accuracy of their
    question (the PPI correlation); `effective_answers` how many real answers without a simulator are worth as much as
    these with it. `loses` says that the simulator costs more than it gives, so that `rectified` is people alone.
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
        correct, predicted: of the n labelled cases.
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
    """The estimates from real answers and the simulated accuracy of each question, shape (questions,)."""
    answered, people = len(np.unique(real.question)), len(np.unique(real.person))
    of_questions, of_people = _effective(real.question), _effective(real.person)
    if min(of_questions, of_people) < FEWEST_CLUSTERS - 0.5:
        return Undefined(f"{answered} questions with answers of {people} people, {FEWEST_CLUSTERS} of each are needed")
    about = simulated[real.question]
    mean, difference = float(real.correct.mean()), float(about.mean() - simulated.mean())
    by_question, by_person = _covariances(real, simulated, of_questions, of_people)
    degrees = min(of_questions, of_people) - 1

    def variance(weight: float) -> float:
        direction = np.array([1.0, -weight])
        return float(direction @ by_question @ direction + max(0.0, direction @ by_person @ direction))

    both = by_question + by_person
    weight = float(np.clip(both[0, 1] / both[1, 1], 0, 1)) if both[1, 1] > 1e-15 else 0.0
    alone = variance(0.0)
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
    """1 / (sum of squared shares): the number of clusters where all are of one size, less where they are not."""
    shares = np.unique(cluster, return_counts=True)[1] / max(1, len(cluster))
    return float(1 / np.sum(shares**2)) if len(cluster) else 0.0


def _covariances(real: RealAnswers, simulated: Array, questions: float, people: float) -> tuple[Array, Array]:
    """Covariance matrices, 2 x 2, of (mean y, difference of the means of f): by questions, and what people add."""
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
