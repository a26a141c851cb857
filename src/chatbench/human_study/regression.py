r"""Mixed-effects logistic regression of correctness, with crossed random effects of questions and people.

    log odds of being right = fixed effects + question effect + person effect,   effects ~ N(0, sd^2)

statsmodels estimates the fixed effects, in log odds, and both standard deviations by variational Bayes
(`BinomialBayesMixedGLM.fit_vb`). Its own standard errors treat all effects as independent and are far too small (0.06
instead of 0.13 for the constant of 1,800 answers of the sample study), so standard errors here come from the curvature
of the Laplace likelihood at the estimates (what lme4's glmer maximises by default). The measured coverage of the
intervals is in docs/study-report.md.

Source: Breslow and Clayton 1993, "Approximate inference in generalized linear mixed models"; Bates et al. 2015 (lme4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbench.core.records import RIGHT_FROM, Answer
from chatbench.metrics.agreement import NORMAL_95, Undefined

Array = NDArray[np.float64]

MOST_STEPS = 100
TOLERANCE = 1e-9
FEWEST_GROUPS = 5
"""Fewest questions and people for which a standard deviation is estimated."""
PRIOR_SD_OF_LOG_SD, PRIOR_SD_OF_EFFECT = 1.0, 2.0
"""Wide normal priors of the variational fit (statsmodels' defaults)."""
AGAINST = ", against "
"""Between a group and its reference group in the name of an effect."""
DIFFERENCE = 0.1
"""Step in the log standard deviations for second differences of the likelihood."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A fixed effect in log odds, with its standard error and 95 % interval."""

    name: str
    estimate: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        half = NORMAL_95 * self.standard_error
        return self.estimate - half, self.estimate + half


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation of random effects in log odds, with its 95 % interval (symmetric on the log scale)."""

    estimate: float
    interval: tuple[float, float] | Undefined


@dataclass(frozen=True, slots=True)
class MixedEffects:
    """The fitted model: fixed effects (the constant first) and standard deviations over questions and people."""

    answers: int
    questions: int
    people: int
    effects: tuple[Effect, ...]
    question_spread: Spread
    person_spread: Spread


@dataclass(frozen=True, slots=True)
class _Design:
    """`right`: 1 or 0, shape (answers,). `columns`: sparse, shape (answers, fixed + questions + people)."""

    right: Array
    columns: Any
    fixed: int
    questions: int
    people: int


def mixed_effects(
    answers: Iterable[Answer], columns: Sequence[tuple[str, Sequence[float]]] = ()
) -> MixedEffects | Undefined:
    """Fit the answers; `columns` are fixed effects besides the constant, by name, with one value per answer."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]  # late, and has no types

    rows = list(answers)
    right = np.array([float(answer.correct >= RIGHT_FROM) for answer in rows])
    fixed = np.column_stack([np.ones(len(rows)), *(np.asarray(values, dtype=np.float64) for _, values in columns)])
    questions, question = np.unique([answer.question_id for answer in rows], return_inverse=True)
    people, person = np.unique([answer.worker_id for answer in rows], return_inverse=True)
    if (reason := _why_not(right, len(questions), len(people), fixed) or _separated(right, columns)) is not None:
        return Undefined(reason)
    one_hot = [csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), of))) for of in (question, person)]
    design = _Design(right, hstack([csr_matrix(fixed), *one_hot], "csr"), fixed.shape[1], len(questions), len(people))
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM  # type: ignore[import-untyped]  # late, no types

    random, group = design.columns[:, design.fixed :], np.repeat([0, 1], [design.questions, design.people])
    model = BinomialBayesMixedGLM(right, fixed, random, group, vcp_p=PRIOR_SD_OF_LOG_SD, fe_p=PRIOR_SD_OF_EFFECT)
    size = design.columns.shape[1] + 2
    # Explicit starting values, so that nothing is drawn at random; BFGS takes nine times as long for the same fit.
    fit = model.fit_vb(mean=np.zeros(size), sd=np.full(size, 0.5), fit_method="L-BFGS-B")
    effects, log_sds = np.asarray(fit.fe_mean), np.asarray(fit.vcp_mean)
    _, covariance = _laplace(design, log_sds)
    errors = np.sqrt(np.diag(covariance))
    names = ["constant", *(name for name, _ in columns)]
    found = map(Effect, names, effects.tolist(), errors.tolist())
    return MixedEffects(len(rows), len(questions), len(people), tuple(found), *_spreads(design, log_sds))


def _why_not(right: Array, questions: int, people: int, fixed: Array) -> str | None:
    """Why the model cannot be estimated; None if it can."""
    if not len(right):
        return "no answers"
    if min(questions, people) < FEWEST_GROUPS:
        return f"{questions} questions and {people} people, {FEWEST_GROUPS} of each are needed"
    if right.min() == right.max():
        return "all answers are right" if right[0] else "all answers are wrong"
    if len(right) in (people, questions):
        return "nobody answered twice, so people and answers cannot be told apart"
    if np.linalg.matrix_rank(fixed) < fixed.shape[1]:
        return "the fixed effects cannot be told apart"
    return None


def _separated(right: Array, columns: Sequence[tuple[str, Sequence[float]]]) -> str | None:
    """Why a dummy-coded effect would be infinite: all answers of its group, or of the reference group, are alike."""
    groups: list[tuple[str, NDArray[np.bool_]]] = []
    references: dict[str, NDArray[np.bool_]] = {}
    for name, values in columns:
        inside = np.asarray(values, dtype=np.float64)
        if np.isin(inside, (0.0, 1.0)).all():
            level, _, reference = name.partition(AGAINST)
            groups.append((level, inside == 1))
            reference = reference or f"{level} 0"
            references[reference] = references.get(reference, np.ones(len(right), dtype=bool)) & (inside == 0)
    for name, members in [*groups, *references.items()]:
        if members.any() and right[members].min() == right[members].max():
            what = "right" if right[members][0] else "wrong"
            return f"all answers with {name} are {what}: its effect has no finite estimate"
    return None


def _laplace(design: _Design, log_sds: Array) -> tuple[float, Array]:
    """Log likelihood of both standard deviations, up to a constant, and covariance of the fixed effects.

    Newton's method finds the most likely effects; the curvature there gives both (Laplace's approximation).
    """
    log_precision = np.repeat(-2 * log_sds, [design.questions, design.people])
    precision = np.concatenate([np.zeros(design.fixed), np.exp(log_precision)])
    effects, before = np.zeros(len(precision)), -np.inf
    for _ in range(MOST_STEPS):
        log_odds = design.columns @ effects
        chance = 1 / (1 + np.exp(-log_odds))
        height = float(np.sum(design.right * log_odds - np.logaddexp(0, log_odds)) - np.sum(precision * effects**2) / 2)
        weighted = design.columns.multiply((chance * (1 - chance))[:, None])
        curvature = (design.columns.T @ weighted).toarray() + np.diag(precision)
        if height - before < TOLERANCE:
            break
        before = height
        effects = effects + np.linalg.solve(curvature, design.columns.T @ (design.right - chance) - precision * effects)
    log_determinant = np.linalg.slogdet(curvature[design.fixed :, design.fixed :])[1] - np.sum(log_precision)
    unit = np.eye(len(precision), design.fixed)
    return height - float(log_determinant) / 2, np.linalg.solve(curvature, unit)[: design.fixed]


def _spreads(design: _Design, log_sds: Array) -> list[Spread]:
    """Both standard deviations, with intervals from the curvature of the Laplace likelihood in their logarithms."""

    def likelihood(first: float, second: float) -> float:
        return _laplace(design, log_sds + DIFFERENCE * np.array([first, second]))[0]

    middle = likelihood(0, 0)
    diagonal = [likelihood(*step) + likelihood(*(-s for s in step)) - 2 * middle for step in ((1.0, 0.0), (0.0, 1.0))]
    crossed = (likelihood(1, 1) + likelihood(-1, -1) - likelihood(1, -1) - likelihood(-1, 1)) / 4
    information = -np.array([[diagonal[0], crossed], [crossed, diagonal[1]]]) / DIFFERENCE**2
    if information[0, 0] <= 0 or np.linalg.det(information) <= 0:
        flat = Undefined("the likelihood is flat: the answers cannot tell this spread from zero")
        return [Spread(math.exp(log_sd), flat) for log_sd in log_sds]
    halves = NORMAL_95 * np.sqrt(np.diag(np.linalg.inv(information)))
    return [
        Spread(math.exp(log_sd), (math.exp(log_sd - half), math.exp(log_sd + half)))
        for log_sd, half in zip(log_sds, halves, strict=True)
    ]
