r"""Mixed-effects logistic regression of being right, with crossed effects of questions and people.

statsmodels fits it by variational Bayes (`BinomialBayesMixedGLM.fit_vb`): estimates of the fixed effects, in log odds,
and of the standard deviations over questions and over people. Its own standard errors treat all effects as independent
of each other and are far too small (0.06 instead of 0.13 for the constant of 1,800 answers of the sample study), so
the errors here come from the curvature of the Laplace likelihood at the estimates (`crossed_logit`). How often the
intervals hold the truth where it is known is in docs/study-report.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.core.records import Answer
from chatbench.measures.agreement import Undefined
from chatbench.measures.crossed_logit import Array, CrossedAnswers, Indices, most_likely

NORMAL_95 = 1.959964
FEWEST_GROUPS = 5
"""A spread over fewer questions or people is not estimated."""
PRIOR_SD_OF_LOG_SD, PRIOR_SD_OF_EFFECT = 1.0, 2.0
"""The wide normal priors of the variational fit (the defaults of statsmodels)."""
DIFFERENCE = 0.1
"""Step in log standard deviation for the second differences of the likelihood."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A fixed effect in log odds, its standard error and 95 % interval."""

    name: str
    estimate: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        half = NORMAL_95 * self.standard_error
        return self.estimate - half, self.estimate + half


@dataclass(frozen=True, slots=True)
class Spread:
    """A standard deviation of effects in log odds with its 95 % interval, symmetric on the logarithmic scale."""

    estimate: float
    interval: tuple[float, float] | Undefined


@dataclass(frozen=True, slots=True)
class MixedEffects:
    """The fit: fixed effects (the first is the constant), and the spread over questions and over people."""

    answers: int
    questions: int
    people: int
    effects: tuple[Effect, ...]
    question_spread: Spread
    person_spread: Spread


def mixed_effects(
    answers: Iterable[Answer], columns: Sequence[tuple[str, Sequence[float]]] = ()
) -> MixedEffects | Undefined:
    """Fits the answers; `columns` are further fixed effects by name, one number per answer."""
    rows = list(answers)
    question = _numbered([answer.question_id for answer in rows])
    person = _numbered([answer.worker_id for answer in rows])
    right = np.array([float(answer.correct) for answer in rows])
    fixed = np.column_stack([np.ones(len(rows)), *(np.asarray(values, dtype=np.float64) for _, values in columns)])
    if (reason := _why_not(right, question, person, fixed)) is not None:
        return Undefined(reason)
    crossed = CrossedAnswers(right, fixed, question, person)
    effects, log_sds = _variational_fit(crossed)
    mode = most_likely(crossed, *np.exp(log_sds))
    errors = np.sqrt(np.diag(mode.covariance))
    names = ("constant", *(name for name, _ in columns))
    spreads = _spreads(crossed, log_sds)
    return MixedEffects(
        answers=len(rows),
        questions=crossed.questions,
        people=crossed.people,
        effects=tuple(Effect(n, float(e), float(s)) for n, e, s in zip(names, effects, errors, strict=True)),
        question_spread=spreads[0],
        person_spread=spreads[1],
    )


def _numbered(names: Sequence[str]) -> Indices:
    """The place of each name among the sorted distinct ones."""
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)


def _why_not(right: Array, question: Indices, person: Indices, fixed: Array) -> str | None:
    """Why this cannot be estimated; None where it can."""
    if not len(right):
        return "no answers"
    questions, people = int(question.max()) + 1, int(person.max()) + 1
    if min(questions, people) < FEWEST_GROUPS:
        return f"{questions} questions and {people} people, {FEWEST_GROUPS} of each are needed"
    if right.min() == right.max():
        return "all answers are right" if right[0] else "all answers are wrong"
    if people == len(right) or questions == len(right):
        return "nobody answered twice, so people and answers cannot be told apart"
    if np.linalg.matrix_rank(fixed) < fixed.shape[1]:
        return "the fixed effects cannot be told apart"
    return None


def _variational_fit(answers: CrossedAnswers) -> tuple[Array, Array]:
    """Fixed effects, and the logarithms of both standard deviations."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]  # late, and has no types
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM  # type: ignore[import-untyped]  # late, no types

    ones, rows = np.ones(len(answers.right)), np.arange(len(answers.right))
    random = hstack([csr_matrix((ones, (rows, answers.question))), csr_matrix((ones, (rows, answers.person)))], "csr")
    group = np.repeat([0, 1], [answers.questions, answers.people])
    model = BinomialBayesMixedGLM(
        answers.right, answers.fixed, random, group, vcp_p=PRIOR_SD_OF_LOG_SD, fe_p=PRIOR_SD_OF_EFFECT
    )
    size = answers.fixed.shape[1] + 2 + random.shape[1]
    # Given starting values, so that nothing is drawn at random; with BFGS the same fit takes nine times as long.
    fit = model.fit_vb(mean=np.zeros(size), sd=np.full(size, 0.5), fit_method="L-BFGS-B")
    return np.asarray(fit.fe_mean), np.asarray(fit.vcp_mean)


def _spreads(answers: CrossedAnswers, log_sds: Array) -> tuple[Spread, Spread]:
    """Both standard deviations with intervals from the curvature of the Laplace likelihood in their logarithms."""

    def likelihood(first: float, second: float) -> float:
        moved = np.exp(log_sds + DIFFERENCE * np.array([first, second]))
        return most_likely(answers, *moved).log_likelihood

    middle = likelihood(0, 0)
    diagonal = [likelihood(*step) + likelihood(*(-s for s in step)) - 2 * middle for step in ((1.0, 0.0), (0.0, 1.0))]
    crossed = (likelihood(1, 1) + likelihood(-1, -1) - likelihood(1, -1) - likelihood(-1, 1)) / 4
    information = -np.array([[diagonal[0], crossed], [crossed, diagonal[1]]]) / DIFFERENCE**2
    if information[0, 0] <= 0 or np.linalg.det(information) <= 0:
        flat = Undefined("the likelihood is flat: the answers do not tell this spread from none")
        return Spread(math.exp(log_sds[0]), flat), Spread(math.exp(log_sds[1]), flat)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    first, second = (_spread(float(log_sd), float(error)) for log_sd, error in zip(log_sds, errors, strict=True))
    return first, second


def _spread(log_sd: float, error: float) -> Spread:
    half = NORMAL_95 * error
    return Spread(math.exp(log_sd), (math.exp(log_sd - half), math.exp(log_sd + half)))
