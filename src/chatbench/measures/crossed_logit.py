r"""Logistic regression with a normal effect of every question and of every person, crossed: its Laplace likelihood.

    log odds of being right = fixed effects + question effect + person effect,   effects ~ N(0, sd^2)

Given both standard deviations, the most likely effects are found by Newton's method, and the likelihood of the standard
deviations follows from the curvature there (Laplace's approximation, what lme4's glmer does by default). Person effects
are eliminated first: their block is diagonal, so a step costs a solve of the size of the questions.

Source: Breslow and Clayton 1993, "Approximate inference in generalized linear mixed models"; Bates et al. 2015 (lme4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
