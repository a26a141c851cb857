r"""Prediction-powered inference: a mean from few real and many simulated answers, clustered and power-tuned.

People gave n answers y (1 right, 0 wrong) to some questions; the simulator predicts f(q) for all Q questions. For any
weight w of the simulator,

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
