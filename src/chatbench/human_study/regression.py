r"""Mixed-effects logistic regression of being right, with crossed effects of questions and people.

statsmodels fits it by variational Bayes (`BinomialBayesMixedGLM.fit_vb`): estimates of the fixed effects, in log odds,
and of the standard deviations over questions and over people. Its own standard errors treat all effects as independent
of each other and are far too small (0.06 instead of 0.13 for the constant of 1,800 answers of the sample study), so
the errors here come from the curvature of the Laplace likelihood at the estimates (`crossed_logit`). How often the
intervals hold the truth where it is known is in docs/study-report.md.

Logistic regression with a normal effect of every question and of every person, crossed: its Laplace likelihood.

    log odds of being right = fixed effects + question effect + person effect,   effects ~ N(0, sd^2)

Given both standard deviations, the most likely effects are found by Newton's method, and the likelihood of the standard
deviations follows from the curvature there (Laplace's approximation, what lme4's glmer does by default). Person effects
are eliminated first: their block is diagonal, so a step costs a solve of the size of the questions.

Source: Breslow and Clayton 1993, "Approximate inference in generalized linear mixed models"; Bates et al. 2015 (lme4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbench.core.records import Answer
from chatbench.metrics.agreement import Undefined

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_STEPS = 100
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class CrossedAnswers:
    """Answers, shape (answers,): right or not (1, 0), the number of the question, the number of the person.

    `fixed`: shape (answers, effects), the columns of the fixed effects; the first is the constant.
    """

    right: Array
    fixed: Array
    question: Indices
    person: Indices

    @property
    def questions(self) -> int:
        return int(self.question.max()) + 1

    @property
    def people(self) -> int:
        return int(self.person.max()) + 1


@dataclass(frozen=True, slots=True)
class Mode:
    """The most likely effects given both standard deviations.

    `log_likelihood`: of the standard deviations, up to a constant. `covariance`: of the fixed effects, question and
    person effects allowed for.
    """

    fixed: Array
    log_likelihood: float
    covariance: Array


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The negative second derivatives after the person effects are eliminated; q question, b fixed, w person."""

    person: Array  # diagonal, shape (people,)
    question_person: Any  # sparse, shape (questions, people); each column divided by `person`
    weights: Any  # sparse, shape (questions, people)
    fixed_person: Array  # shape (effects, people)
    question: Array
    question_fixed: Array
    fixed: Array


def most_likely(answers: CrossedAnswers, question_sd: float, person_sd: float) -> Mode:
    """Fixed effects and likelihood at these standard deviations (above 0)."""
    effects = np.zeros(answers.fixed.shape[1])
    of_question, of_person = np.zeros(answers.questions), np.zeros(answers.people)
    before = -np.inf
    for _ in range(MOST_STEPS):
        log_odds = answers.fixed @ effects + of_question[answers.question] + of_person[answers.person]
        chance = 1 / (1 + np.exp(-log_odds))
        blocks = _blocks(answers, chance * (1 - chance), question_sd, person_sd)
        height = float(
            np.sum(answers.right * log_odds - np.logaddexp(0, log_odds))
            - np.sum(of_question**2) / (2 * question_sd**2)
            - np.sum(of_person**2) / (2 * person_sd**2)
        )
        if height - before < TOLERANCE:
            break
        before = height
        step = _newton_step(
            answers, blocks, answers.right - chance, of_question / question_sd**2, of_person / person_sd**2
        )
        of_question, effects, of_person = of_question + step[0], effects + step[1], of_person + step[2]
    flat = np.linalg.slogdet(blocks.question)[1] + np.sum(np.log(blocks.person))
    scale = 2 * answers.questions * np.log(question_sd) + 2 * answers.people * np.log(person_sd)
    information = blocks.fixed - blocks.question_fixed.T @ np.linalg.solve(blocks.question, blocks.question_fixed)
    return Mode(effects, height - float(flat + scale) / 2, np.asarray(np.linalg.inv(information), dtype=np.float64))


def _blocks(answers: CrossedAnswers, weight: Array, question_sd: float, person_sd: float) -> _Blocks:
    from scipy.sparse import csr_matrix, diags  # type: ignore[import-untyped]  # late, and has no types

    shape = answers.questions, answers.people
    weights = csr_matrix((weight, (answers.question, answers.person)), shape=shape)
    weighted = answers.fixed * weight[:, None]
    person = np.asarray(np.bincount(answers.person, weight, shape[1]) + 1 / person_sd**2, dtype=np.float64)
    fixed_question = np.array([np.bincount(answers.question, column, shape[0]) for column in weighted.T])
    fixed_person = np.array([np.bincount(answers.person, column, shape[1]) for column in weighted.T])
    divided = weights @ diags(1 / person)
    question = np.diag(np.bincount(answers.question, weight, shape[0]) + 1 / question_sd**2)
    return _Blocks(
        person=person,
        question_person=divided,
        weights=weights,
        fixed_person=fixed_person,
        question=question - (divided @ weights.T).toarray(),
        question_fixed=fixed_question.T - divided @ fixed_person.T,
        fixed=answers.fixed.T @ weighted - (fixed_person / person) @ fixed_person.T,
    )


def _newton_step(
    answers: CrossedAnswers, blocks: _Blocks, residual: Array, question_pull: Array, person_pull: Array
) -> Sequence[Array]:
    """Changes of question effects, fixed effects and person effects."""
    to_question = np.bincount(answers.question, residual, answers.questions) - question_pull
    to_person = np.bincount(answers.person, residual, answers.people) - person_pull
    to_fixed = answers.fixed.T @ residual
    matrix = np.block([[blocks.question, blocks.question_fixed], [blocks.question_fixed.T, blocks.fixed]])
    right_side = np.concatenate(
        [to_question - blocks.question_person @ to_person, to_fixed - (blocks.fixed_person / blocks.person) @ to_person]
    )
    question, fixed = np.split(np.linalg.solve(matrix, right_side), [answers.questions])
    person = (to_person - blocks.weights.T @ question - blocks.fixed_person.T @ fixed) / blocks.person
    return question, fixed, person


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
    from scipy.sparse import csr_matrix, hstack  # late
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
