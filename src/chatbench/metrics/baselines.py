r"""Baselines: predictions of user-AI accuracy without a simulator, and the published results.

No baseline sees a user-AI answer to a held-out question. The constant and the regression are fitted on the training
questions; user-alone and AI-alone accuracy are those of the held-out questions themselves. The published results, which
tables show as reference rows, are in `published.toml` with their source.

Source: ChatBench (arXiv 2504.07114): AI-alone methods against user-AI accuracy; docs/protocol.md, sections 8 and 9.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from chatbench.core.records import Study
from chatbench.metrics.agreement import Outcomes
from chatbench.metrics.names import CONSTANT, REGRESSION, USER_ALONE, Predictor, ai_alone
from chatbench.metrics.pairs import Pair, Prediction, add_up, assistants_of, human_outcomes, predictions


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A method's published (Pearson correlation, mean absolute error) per assistant."""

    method: str
    metrics: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Published:
    """All published rows and their source."""

    source: str
    assistants: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@cache
def published() -> Published:
    """Read the published results.

    >>> published().rows[-1].metrics["gpt-4o"]
    (0.63, 0.15)
    """
    content = tomllib.loads(resources.files("chatbench.metrics").joinpath("published.toml").read_text("utf-8"))
    assistants = tuple(content["assistants"])
    rows = tuple(
        PublishedRow(row["method"], dict(zip(assistants, zip(row["pearson"], row["mae"], strict=True), strict=True)))
        for row in content["row"]
    )
    return Published(content["source"], assistants, rows)


Guesses = dict[Pair, Prediction]

SPARE_QUESTIONS = 3
"""A regression needs at least this many more training questions than coefficients."""


def baseline_predictions(study: Study, train: AbstractSet[str], pairs: AbstractSet[Pair]) -> dict[Predictor, Guesses]:
    """Predict the given held-out pairs with every baseline that the study has data for."""
    found = {
        CONSTANT: constant_predictions(study, train, pairs),
        REGRESSION: regression_predictions(study, train, pairs),
        USER_ALONE: user_alone_predictions(study, pairs),
        **{ai_alone(method): guesses for method, guesses in ai_alone_predictions(study, pairs).items()},
    }
    return {predictor: guesses for predictor, guesses in found.items() if guesses}


def constant_predictions(study: Study, train: AbstractSet[str], pairs: Iterable[Pair]) -> Guesses:
    """Predict, for every question, the mean human accuracy on the training questions with that assistant."""
    by_assistant: dict[str, list[float]] = {}
    for (_, assistant), prediction in predictions(human_outcomes(study, train)).items():
        by_assistant.setdefault(assistant, []).append(prediction.accuracy)
    guess = {name: Prediction(math.fsum(values) / len(values), len(values)) for name, values in by_assistant.items()}
    return {pair: guess[pair[1]] for pair in pairs if pair[1] in guess}


def user_alone_predictions(study: Study, pairs: Iterable[Pair]) -> Guesses:
    """Predict the user-alone accuracy of each question, pooled over the assistants people worked with later."""
    alone = (answer for answer in study.answers if answer.kind == "user-alone")
    outcomes = add_up((answer.question_id, Outcomes(answer.correct, 1 - answer.correct)) for answer in alone)
    return predictions({pair: outcomes[pair[0]] for pair in pairs if pair[0] in outcomes})


def ai_alone_predictions(study: Study, pairs: AbstractSet[Pair]) -> dict[str, Guesses]:
    """Predict, by each method, the accuracy of the assistant alone (the study counts invalid answers as wrong)."""
    by_method: dict[str, Guesses] = {}
    for score in study.ai_alone:
        pair = (score.question_id, score.assistant)
        if pair in pairs and score.count > 0:
            by_method.setdefault(score.method, {})[pair] = Prediction(score.accuracy, score.count)
    return dict(sorted(by_method.items()))


def regression_predictions(study: Study, train: AbstractSet[str], pairs: AbstractSet[Pair]) -> Guesses:
    """Predict user-AI accuracy from user-alone and AI-alone accuracy, by least squares on the training questions.

    One regression per assistant, with an intercept, user-alone accuracy, and AI-alone accuracy by each method;
    predictions are clipped to 0..1. An assistant without user-alone or AI-alone accuracy, or with too few training
    questions, is omitted. `count` is the number of training questions.
    """
    trained = predictions(human_outcomes(study, train))
    known = frozenset(trained) | pairs
    user_alone, by_method = user_alone_predictions(study, known), ai_alone_predictions(study, known)
    found: Guesses = {}
    for assistant in assistants_of(pairs):
        methods = [each for each in by_method.values() if any(pair[1] == assistant for pair in each)]
        features = [user_alone, *methods]
        if not (user_alone and methods):
            continue
        # Intercept and accuracies of each pair that has all of them.
        rows = {
            pair: [1.0, *(each[pair].accuracy for each in features)]
            for pair in sorted(known)
            if pair[1] == assistant and all(pair in each for each in features)
        }
        fitted, wanted = [pair for pair in trained if pair in rows], [pair for pair in rows if pair in pairs]
        if wanted and len(fitted) >= len(features) + 1 + SPARE_QUESTIONS:
            design, target = ([rows[pair] for pair in fitted], [trained[pair].accuracy for pair in fitted])
            coefficients, *_ = np.linalg.lstsq(np.array(design), np.array(target), rcond=None)
            guesses = np.clip(np.array([rows[pair] for pair in wanted]) @ coefficients, 0.0, 1.0)
            found |= {pair: Prediction(float(g), len(fitted)) for pair, g in zip(wanted, guesses, strict=True)}
    return found
