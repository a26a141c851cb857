"""Correlation, error, bias and calibration of per-question accuracy, many replicates at once, and means over splits."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from chatbench.metrics.agreement import (
    METRICS,
    Array,
    Estimate,
    Outcomes,
    QuestionAccuracy,
    Undefined,
    Value,
    agreement,
    batch_agreement,
    mean_value,
    over_splits,
    standard_deviation,
)


@pytest.mark.parametrize(
    ("human", "simulated", "expected"),
    [
        # Deviations: human -.3 -.1 .1 .3, simulated -.25 .25 -.25 .25: .1 / sqrt(.2 * .25). Differences 0 .3 -.4 -.1.
        ([0.2, 0.4, 0.6, 0.8], [0.2, 0.7, 0.2, 0.7],
         {"pearson": 0.1 / (0.2 * 0.25) ** 0.5, "mae": 0.8 / 4, "rmse": (0.26 / 4) ** 0.5, "bias": -0.05,
          "accuracy": 0.45}),
        ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], {"pearson": -1}),
        # The first two, means of equal scores, differ by rounding and are tied: deviations of ranks -1 -1 .5 1.5 and
        # -.5 -1.5 1.5 .5.
        ([sum([0.1] * 3) / 3, 0.1, 0.7, 0.9], [0.2, 0.1, 0.5, 0.4], {"spearman": 3.5 / (4.5 * 5) ** 0.5}),
        # Bin of 0.2 (three questions): mean simulated 0.2, human (0 + 0.4 + 0.5) / 3 = 0.3. Bin of 1: 1 against 0.6.
        # 3/4 * 0.1 + 1/4 * 0.4; the mean absolute error is (0.2 + 0.2 + 0.3 + 0.4) / 4, since nothing cancels there.
        ([0.0, 0.4, 0.5, 0.6], [0.2, 0.2, 0.2, 1.0], {"ece": 0.175, "mae": 0.275}),
        # The border of two bins belongs to the upper one and 1 to the last; 0.7 * 10 may come as 6.999...: in one bin
        # 0.7 and 0.75 cancel.
        ([0.75, 0.7], [0.7, 0.75], {"ece": 0}),
        ([0.9, 1.0], [1.0, 0.9], {"ece": 0}),
    ],
)  # fmt: skip
def test_metrics_worked_by_hand(human: list[float], simulated: list[float], expected: dict[str, float]) -> None:
    found = agreement(human, simulated)

    assert {metric: found[metric] for metric in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("human", "simulated", "correlation", "error"),
    [
        # 0.1 is not exact in binary: a test for zero variance would divide noise by noise here.
        ([0.2, 0.4, 0.9], [0.1, 0.1, 0.1], "the prediction is the same for every question", 0.4),
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], "human accuracy is the same for every question", 0.8),
        ([0.1, 0.2], [0.5, 0.9], "2 questions, 3 are needed", 0.55),  # two points always lie on a line
        ([], [], "0 questions, 3 are needed", Undefined("no question is left")),
    ],
)
def test_no_value_has_a_reason(human: list[float], simulated: list[float], correlation: str, error: Value) -> None:
    found = agreement(human, simulated)

    assert set(found) == set(METRICS)
    assert found["pearson"] == found["spearman"] == Undefined(correlation)
    assert found["mae"] == (error if isinstance(error, Undefined) else pytest.approx(error))


def test_a_perfect_line_gives_one_and_rounding_never_passes_it() -> None:
    draw = random.Random(6)
    lines = [[draw.random() for _ in range(7)] for _ in range(200)]

    values = [agreement(line, [0.3 * x + 0.1 for x in line])["pearson"] for line in lines]
    assert values == pytest.approx([1.0] * 200)
    assert all(isinstance(value, float) and value <= 1 for value in values)


def test_invalid_answers_are_counted_wrong_or_dropped() -> None:
    outcomes = Outcomes(right=3, wrong=1) + Outcomes(invalid=2)

    assert outcomes.accuracy("counted wrong") == 0.5
    assert outcomes.accuracy("dropped") == 0.75
    assert Outcomes(invalid=4).accuracy("counted wrong") == 0.0
    assert Outcomes(invalid=4).accuracy("dropped") is None


def test_a_mean_over_assistants_is_undefined_where_one_of_them_is_and_percentages_are_refused() -> None:
    # Leaving the undefined one out would report the other assistant's value as the mean of both.
    assert mean_value([0.2, 0.4]) == pytest.approx(0.3)
    assert mean_value([0.2, Undefined("too few")]) == Undefined("too few")
    with pytest.raises(ValueError, match=r"not in 0\.\.1"):
        QuestionAccuracy("q", "gpt", human=55.0, simulated=0.5, n_human=1, n_simulated=1)


def one_by_one(human: Array, simulated: Array, weights: Array) -> dict[str, Value]:
    """A replicate written out, each pair as often as it was drawn; correlations are scipy's."""
    drawn = np.repeat(np.arange(len(human)), weights.astype(int))
    h, s = human[drawn], simulated[drawn]
    found = agreement(h.tolist(), s.tolist())
    correlations = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    return found | {m: float(r(h, s).statistic) for m, r in correlations.items() if isinstance(found[m], float)}


@pytest.mark.parametrize("resampled", ["nothing", "people", "people and chats"])
def test_every_row_equals_the_metrics_of_the_pairs_that_it_stands_for(resampled: str) -> None:
    # Accuracies on a grid of six values: many ties, whose mean ranks depend on the weights.
    rng = np.random.default_rng(3)
    rows, pairs = 25, 14
    human = rng.integers(0, 6, (rows if resampled != "nothing" else 1, pairs)) / 5
    simulated = rng.integers(0, 6, (rows if "chats" in resampled else 1, pairs)) / 5
    weights = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=rows).astype(float)
    found = batch_agreement(human, simulated, weights)

    for row in range(rows):
        expected = one_by_one(human[row % len(human)], simulated[row % len(simulated)], weights[row])
        assert {metric: found[metric][row] for metric in METRICS} == pytest.approx(expected, abs=1e-12)


def test_what_is_undefined_for_a_row_is_nan_there_and_nowhere_else() -> None:
    # Row 0 draws only pairs with the same prediction; row 1 all pairs; row 2 no cell at all.
    human, simulated = np.array([[0.1, 0.5, 0.9, 0.4]]), np.array([[0.3, 0.3, 0.3, 0.8]])
    weights = np.array([[1.0, 1, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = batch_agreement(human, simulated, weights)

    assert np.isnan(found["pearson"]).tolist() == np.isnan(found["spearman"]).tolist() == [True, False, True]
    assert np.isnan(found["mae"]).tolist() == [False, False, True]
    assert isinstance(one_by_one(human[0], simulated[0], weights[0])["pearson"], Undefined)


def test_plain_and_corrected_errors_of_four_splits_worked_by_hand() -> None:
    # Mean 5, squared deviations 9 1 1 9: sd = sqrt(20/3). Plain: sd/2. Corrected for 60:40 : sd * sqrt(1/4 + 2/3).
    estimate = over_splits([2.0, 4.0, 6.0, 8.0], train_questions=60, test_questions=40)
    sd = (20 / 3) ** 0.5

    assert (estimate.mean, estimate.n) == (5.0, 4)
    assert standard_deviation([2.0, 4.0, 6.0, 8.0]) == pytest.approx(sd)
    assert standard_deviation([1.0]) == Undefined("1 value, 2 are needed")
    assert estimate.standard_error == pytest.approx(sd / 2)  # ddof 0 would give sqrt(5)/2
    assert estimate.corrected_error == pytest.approx(sd * (1 / 4 + 40 / 60) ** 0.5)


CONSTANT, ONE = Undefined("constant"), Undefined("1 split, 2 are needed")
OF_TWO = pytest.approx(0.1), pytest.approx(0.02**0.5 * (1 / 2 + 4 / 6) ** 0.5)


@pytest.mark.parametrize(
    ("values", "train_questions", "expected"),
    [
        ([0.5], 6, Estimate(0.5, ONE, ONE, 1)),
        ([0.2, CONSTANT, 0.4], 6, Estimate(pytest.approx(0.3), *OF_TWO, 2, 1)),
        ([CONSTANT, CONSTANT], 6, Estimate(CONSTANT, CONSTANT, CONSTANT, 0, 2)),
        ([], 6, Estimate(*[Undefined("no split was scored")] * 3, 0)),
        ([0.1, 0.3], 0, Estimate(pytest.approx(0.2), pytest.approx(0.1), Undefined("no training question"), 2)),
    ],
)
def test_what_a_split_lacks_is_counted(values: list[Value], train_questions: float, expected: Estimate) -> None:
    assert over_splits(values, train_questions=train_questions, test_questions=4) == expected
