"""What a simulator's scores are compared with: baselines from below, the human noise ceiling from above.

Baselines predict user-AI accuracy without a simulator. None sees a user-AI answer to a held-out question: the constant
and the regression are fitted on the training questions; user-alone and AI-alone accuracy are those of the held-out
questions themselves. The published results, which tables show as reference rows, are in `published.toml` with their
source.

The noise ceiling is the best agreement any simulator could reach, given how few people answered each question. Human
accuracy per question is a mean over few people, so even a simulator that knew each question's true probability would
not match it exactly. The noise is estimated by splitting the people of each pair into two random halves and comparing
them. Halves are smaller than the full sample, and a simulator has its own number of chats, so results are corrected:

* correlations: Spearman-Brown extrapolates the correlation r between halves to the reliability of n answers,
  rho(n) = k r / (1 + (k - 1) r) with k = n / (size of a half). A simulator with c chats per pair reaches at most
  sqrt(rho(n) rho(c)); with unlimited chats, sqrt(rho(n)).
* root mean square error: the difference of two means of a answers each has variance p(1-p)(1/a + 1/a), that of n people
  and c chats p(1-p)(1/n + 1/c). Each pair's difference between halves is scaled by the root of the ratio; with
  unlimited chats, 1/c is 0.
* absolute and calibration error do not scale like this, because with few answers many differences are exactly 0. They
  are simulated: draw probabilities from a Beta distribution with the mean of human accuracy and its variance minus the
  noise, then n people and c chats for each. The ECE ceiling is the simulated ECE. The MAE ceiling is the MAE between
  the real halves times the ratio of the simulated MAEs: n people against c chats, over half against half.

Sizes differ between pairs; the reliability uses their harmonic means. Pairs with a single person are omitted.

Source: ChatBench (arXiv 2504.07114), AI-alone methods against user-AI accuracy, and docs/protocol.md, sections 8 and 9;
Spearman 1910, Brown 1910; Lage-Castellanos et al. 2019, "Methods for computing the maximum performance of computational
models" (the ceiling sqrt(rho)).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from chatbench.core.records import Study
from chatbench.metrics.agreement import CORRELATIONS, MIN_QUESTIONS, Array, Outcomes, Undefined, Value, batch_agreement
from chatbench.metrics.names import CONSTANT, REGRESSION, USER_ALONE, Predictor, ai_alone
from chatbench.metrics.pairs import Pair, Prediction, add_up, assistants_of, grouped, human_outcomes, predictions

Guesses = dict[Pair, Prediction]

SPARE_QUESTIONS = 3
"""A regression needs at least this many more training questions than coefficients."""
CEILING_METRICS = ("pearson", "spearman", "mae", "rmse", "ece")
GRADED = 1e-6
"""If the sum of a pair's scores is further from a whole number, they are not all 0 or 1."""
HALVINGS = 200
"""Random halvings that a ceiling is averaged over; with 50 pairs, its Monte Carlo error is then below 0.005."""


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
    from pydantic import TypeAdapter  # late: slow to import

    text = resources.files("chatbench.metrics").joinpath("published.toml").read_text("utf-8")
    return TypeAdapter(Published).validate_python(tomllib.loads(text))


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
    trained = predictions(human_outcomes(study, train))
    by_assistant = grouped((assistant, prediction.accuracy) for (_, assistant), prediction in trained.items())
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


@dataclass(frozen=True, slots=True)
class Halves:
    """Random halvings of the people of each pair: accuracies of shape (halvings, pairs), sizes of shape (pairs,)."""

    first: Array
    second: Array
    size: NDArray[np.int64]
    people: NDArray[np.int64]


def ceilings(human: Mapping[Pair, Prediction], chats: Sequence[int | None], seed: int) -> list[dict[str, Value]]:
    """Ceiling of every metric in `CEILING_METRICS`, for each number of chats per pair (None: unlimited)."""
    several = [person for person in human.values() if person.count > 1]
    sums, why = [person.accuracy * person.count for person in several], ""
    if any(abs(each - round(each)) > GRADED for each in sums):
        why = "ceilings are estimated from right and wrong answers, and people's have scores between"
    elif len(several) < MIN_QUESTIONS:
        why = f"fewer than {MIN_QUESTIONS} questions have answers of two people"
    if why:
        return [dict.fromkeys(CEILING_METRICS, Undefined(why)) for _ in chats]
    halves = halve(several, seed)
    between = batch_agreement(halves.first, halves.second, np.ones_like(halves.first))
    known = {metric: between[metric][~np.isnan(between[metric])] for metric in CORRELATIONS}
    alike = Undefined("human accuracy is the same for every question")
    correlations = {metric: float(values.mean()) if len(values) else alike for metric, values in known.items()}
    return [
        {
            **{metric: correlation_ceiling(r, halves, count) for metric, r in correlations.items()},
            **error_ceilings(several, halves, count, seed),
        }
        for count in chats
    ]


def halve(pairs: Sequence[Prediction], seed: int) -> Halves:
    """Halve each pair's answers at random `HALVINGS` times, omitting one if odd."""
    rng = np.random.default_rng(seed)
    people = np.array([pair.count for pair in pairs])
    right = np.array([round(pair.accuracy * pair.count) for pair in pairs])
    size = people // 2
    shape = (HALVINGS, len(pairs))
    first = rng.hypergeometric(right, people - right, size, shape)
    second = rng.hypergeometric(right - first, people - right - (size - first), size, shape)
    return Halves(first / size, second / size, size, people)


def correlation_ceiling(r: Value, halves: Halves, chats: int | None) -> Value:
    """sqrt(rho(people) rho(chats)) from the mean correlation `r` between halves; undefined if r is not positive."""
    if isinstance(r, Undefined):
        return r
    if r <= 0:
        return Undefined("people do not agree among themselves: random halves of them correlate no more than by chance")
    half = 1 / float(np.mean(1 / halves.size))
    of_people = spearman_brown(r, 1 / float(np.mean(1 / halves.people)) / half)
    of_chats = 1.0 if chats is None else spearman_brown(r, chats / half)
    return math.sqrt(of_people * of_chats)


def spearman_brown(r: float, factor: float) -> float:
    """Reliability of a mean of `factor` times as many answers as the means that correlate with r.

    >>> spearman_brown(0.5, 2)
    0.6666666666666666
    """
    return factor * r / (1 + (factor - 1) * r)


def error_ceilings(pairs: Sequence[Prediction], halves: Halves, chats: int | None, seed: int) -> dict[str, Value]:
    """Smallest MAE, RMSE and ECE that can be expected."""
    difference = halves.second - halves.first
    noise = 1 / halves.people + (0.0 if chats is None else 1 / chats)
    shrunk = difference * np.sqrt(noise / (2 / halves.size))
    rng = np.random.default_rng([seed, 1])
    chance = draw_chances(pairs, rng)
    human = rng.binomial(halves.people, chance) / halves.people
    simulated = chance if chats is None else rng.binomial(chats, chance) / chats
    scored = batch_agreement(human, simulated, np.ones(chance.shape))
    of_halves = [rng.binomial(halves.size, chance) / halves.size for _ in range(2)]
    in_halves = float(np.abs(of_halves[0] - of_halves[1]).mean())
    return {
        "mae": float(np.abs(difference).mean()) * (float(scored["mae"].mean()) / in_halves if in_halves else 1.0),
        "rmse": float(np.sqrt((shrunk**2).mean(axis=1)).mean()),
        "ece": float(scored["ece"].mean()),
    }


def draw_chances(pairs: Sequence[Prediction], rng: np.random.Generator) -> Array:
    """Draw probabilities of being right, shape (`HALVINGS`, pairs), from a Beta distribution fitted by moments.

    Their variance is that of human accuracy minus the mean of h(1-h)/(n-1), the unbiased noise of n people.
    """
    people, accuracy = np.array([pair.count for pair in pairs]), np.array([pair.accuracy for pair in pairs])
    mean, noise = float(accuracy.mean()), float((accuracy * (1 - accuracy) / (people - 1)).mean())
    spread = float(accuracy.var(ddof=1)) - noise
    shape = (HALVINGS, len(pairs))
    if spread <= 0:  # no sign that questions differ in their probability
        return np.full(shape, mean)
    if spread >= mean * (1 - mean):  # every question is answered correctly by all or by nobody
        return (rng.random(shape) < mean).astype(np.float64)
    total = mean * (1 - mean) / spread - 1
    return rng.beta(mean * total, (1 - mean) * total, shape)
