"""Where uncertainty comes from: classical formulas, and simulated data whose components are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chatbench.core.records import Answer
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.pairs import Prediction
from chatbench.metrics.resampling import Draws, PredictorPairs, Resampling
from chatbench.metrics.uncertainty import (
    CAUSES,
    SplitValues,
    jackknife_values,
    predictor_spreads,
    spread,
    variance_components,
)


def values_of(held_out: list[list[int]], numbers: list[list[float]]) -> list[SplitValues]:
    return [(np.array(places), np.array(row)) for places, row in zip(held_out, numbers, strict=True)]


def test_a_balanced_table_gives_the_classical_two_way_components() -> None:
    # Three questions in two splits: rows 1 2 6 and 3 6 9. Mean squares by hand: questions 18.25 - ..., as below.
    table = np.array([[1.0, 2, 6], [3, 6, 9]])
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    of_splits = 3 * ((rows - grand) ** 2).sum() / 1
    of_questions = 2 * ((columns - grand) ** 2).sum() / 2
    rest = ((table - rows[:, None] - columns[None] + grand) ** 2).sum() / 2
    found = variance_components(values_of([[0, 1, 2]] * 2, table.tolist()))

    assert found == pytest.approx(((of_questions - rest) / 2, (of_splits - rest) / 3, rest))


def test_components_are_unbiased_where_splits_overlap_in_part() -> None:
    # Known: questions 4, splits 1, rest 9 (variances). Each of 4 splits holds out a random 40 % of 50 questions.
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1500):
        held_out = [rng.permutation(50)[:20] for _ in range(4)]
        question, split = rng.normal(0, 2, 50), rng.normal(0, 1, 4)
        numbers = [question[q] + s + rng.normal(0, 3, 20) for q, s in zip(held_out, split, strict=True)]
        found.append(variance_components(list(zip(held_out, numbers, strict=True))))

    # Standard errors of these means: 0.05, 0.04, 0.06.
    assert np.mean(found, axis=0) == pytest.approx([4, 1, 9], abs=0.25)


def test_the_causes_add_up_to_the_variance_of_the_mean_over_splits() -> None:
    # One simulated design many times: the mean of `total` is the variance of the mean over splits itself.
    rng = np.random.default_rng(2)
    totals, means = [], []
    held_out = [np.sort(rng.permutation(40)[:16]) for _ in range(3)]
    for _ in range(3000):
        question, split = rng.normal(0, 2, 40), rng.normal(0, 1, 3)
        numbers = [question[q] + s + rng.normal(0, 1.5, 16) for q, s in zip(held_out, split, strict=True)]
        found = spread(list(zip(held_out, numbers, strict=True)), people=0.01, ties=0.0, chats=0.02)
        assert set(found.by_cause) == set(CAUSES)
        totals.append(found.total)
        means.append(np.mean([each.mean() for each in numbers]))

    assert np.mean(totals) == pytest.approx(np.var(means), rel=0.06)


def world(
    rng: np.random.Generator, question_sd: float, split_sd: float, seed: int = 0
) -> tuple[Draws, list[PredictorPairs]]:
    """80 questions, 3 splits of 40, 6 people and 8 chats a question; everybody answers once."""
    chance = np.clip(rng.normal(0.5, question_sd, 80), 0.05, 0.95)
    right = rng.binomial(6, 0.5, 80)
    answers = [
        Answer(f"q{q:02d}", f"w{q}.{n}", "user-AI", "gpt", "", None, n < right[q]) for q in range(80) for n in range(6)
    ]
    splits = []
    for _ in range(3):
        held_out = np.sort(rng.permutation(80)[:40])
        guess = rng.binomial(8, np.clip(chance[held_out] + rng.normal(0, split_sd), 0, 1)) / 8
        human = {(f"q{q:02d}", "gpt"): Prediction(float(right[q]) / 6, 6) for q in held_out}
        splits.append((human, {cell: Prediction(float(g), 8) for cell, g in zip(human, guess, strict=True)}))
    draws = Draws([pair for human, _ in splits for pair in human], answers, Resampling(150, seed=seed))
    return draws, [draws.predictor_pairs(*split) for split in splits]


def test_people_and_chats_are_told_apart_from_questions_and_splits() -> None:
    # The bias is a mean of s - h, so its variances are known. Per question in a split: people 0.25/6, shared by splits;
    # chats p(1-p)/8; questions 0.1^2; splits 0.05^2. Averaged over 60 studies.
    rng = np.random.default_rng(3)
    found, weights = [], []
    for number in range(60):
        draws, parts = world(rng, question_sd=0.1, split_sd=0.05, seed=number)
        bias = predictor_spreads(draws, parts)["gpt", "bias"]
        found.append([bias.by_cause[cause] for cause in CAUSES])
        times = np.bincount(np.concatenate([each.question for each in parts]))
        weights.append(float(((times / 120) ** 2).sum()))
    shared, alone = float(np.mean(weights)), 1 / 120
    means = dict(zip(CAUSES, np.mean(found, axis=0), strict=True))

    assert means["people"] == pytest.approx(0.25 / 6 * shared, rel=0.1)
    assert means["chats"] == pytest.approx((0.25 - 0.01) / 8 * alone, rel=0.1)
    assert means["questions"] == pytest.approx(0.01 * shared, abs=8e-5)
    assert means["splits"] == pytest.approx(0.05**2 / 3, abs=4e-4)
    assert means["questions x splits"] == pytest.approx(0, abs=5e-5)


def test_one_split_tells_people_and_chats_from_the_rest_and_no_more() -> None:
    draws, (cells, *_) = world(np.random.default_rng(4), 0.2, 0.0)
    found = predictor_spreads(draws, [cells])["gpt", "mae"]
    _, values = jackknife_values(cells)["gpt", "mae"]

    assert values == pytest.approx(np.abs(cells.simulated - cells.human))  # of a mean: the questions' own
    assert set(found.by_cause) == {"questions", "people", "chats"}
    assert found.total == pytest.approx(float(values.var(ddof=1)) / 40)


def test_splits_without_a_common_question_cannot_be_told_from_questions() -> None:
    apart = values_of([[0, 1], [2, 3]], [[1.0, 2.0], [3.0, 5.0]])

    assert isinstance(variance_components(apart), Undefined)
    assert isinstance(spread(values_of([[0, 1]], [[math.nan, 1.0]]), people=0, ties=0, chats=0), Undefined)
    assert isinstance(spread(values_of([[0]], [[1.0]]), people=0, ties=0, chats=0), Undefined)
