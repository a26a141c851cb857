"""Correlation, error and bias of per-question accuracy, and what is undefined."""

from __future__ import annotations

import random

import pytest

from chatbench.metrics.agreement import (
    Outcomes,
    QuestionAccuracy,
    Undefined,
    agreement,
    bias,
    calibration_error,
    mean_absolute_error,
    mean_value,
    pearson,
    spearman,
)


def cells(human: list[float], simulated: list[float]) -> list[QuestionAccuracy]:
    pairs = enumerate(zip(human, simulated, strict=True))
    return [QuestionAccuracy(f"q{i}", "gpt", h, s, n_human=10, n_simulated=10) for i, (h, s) in pairs]


def test_figures_of_four_questions_worked_by_hand() -> None:
    # Deviations: human -.3 -.1 .1 .3, simulated -.25 .25 -.25 .25: r = .1 / sqrt(.2 * .25). Differences 0 .3 -.4 -.1.
    scored = agreement(cells([0.2, 0.4, 0.6, 0.8], [0.2, 0.7, 0.2, 0.7]))

    assert scored.questions == 4
    assert scored.pearson == pytest.approx(0.1 / (0.2 * 0.25) ** 0.5)
    assert scored.mae == pytest.approx(0.8 / 4)
    assert scored.rmse == pytest.approx((0.26 / 4) ** 0.5)
    assert scored.bias == pytest.approx(-0.05)


def test_correlations_equal_scipys_with_ties() -> None:
    from scipy import stats

    draw = random.Random(5)
    human = [draw.randint(0, 9) / 9 for _ in range(60)]
    simulated = [draw.randint(0, 10) / 10 for _ in range(60)]

    assert pearson(human, simulated) == pytest.approx(float(stats.pearsonr(human, simulated).statistic))
    assert spearman(human, simulated) == pytest.approx(float(stats.spearmanr(human, simulated).statistic))


def test_a_constant_prediction_has_no_correlation_but_an_error() -> None:
    # 0.1 is not exact in binary: a test for zero variance would divide noise by noise here.
    scored = agreement(cells([0.2, 0.4, 0.9], [0.1, 0.1, 0.1]))

    assert scored.pearson == Undefined("the prediction is the same for every question")
    assert scored.spearman == scored.pearson
    assert scored.mae == pytest.approx(0.4)


def test_constant_people_have_no_correlation_either() -> None:
    assert pearson([1.0, 1.0, 1.0], [0.1, 0.2, 0.3]) == Undefined("human accuracy is the same for every question")


def test_two_questions_always_lie_on_a_line_so_their_correlation_is_undefined() -> None:
    assert pearson([0.1, 0.2], [0.5, 0.9]) == Undefined("2 questions, 3 are needed")


def test_no_question_gives_reasons_and_no_number() -> None:
    scored = agreement([])

    assert (scored.questions, scored.mae, scored.rmse) == (0, scored.bias, scored.bias)
    assert scored.bias == Undefined("no question is left")


def test_a_perfect_line_gives_one_and_rounding_never_passes_it() -> None:
    draw = random.Random(6)
    lines = [[draw.random() for _ in range(7)] for _ in range(200)]

    values = [pearson(line, [0.3 * x + 0.1 for x in line]) for line in lines]
    assert values == pytest.approx([1.0] * 200)
    assert all(isinstance(value, float) and value <= 1 for value in values)
    assert pearson([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) == pytest.approx(-1)


def test_invalid_answers_are_counted_wrong_or_dropped() -> None:
    outcomes = Outcomes(right=3, wrong=1) + Outcomes(invalid=2)

    assert outcomes.accuracy("counted wrong") == 0.5
    assert outcomes.accuracy("dropped") == 0.75
    assert Outcomes(invalid=4).accuracy("counted wrong") == 0.0
    assert Outcomes(invalid=4).accuracy("dropped") is None


def test_a_mean_over_assistants_is_undefined_where_one_of_them_is() -> None:
    # Leaving the undefined one out would report the other assistant's value as the mean of both.
    assert mean_value([0.2, 0.4]) == pytest.approx(0.3)
    assert mean_value([0.2, Undefined("too few")]) == Undefined("too few")


def test_an_accuracy_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not in 0\.\.1"):
        QuestionAccuracy("q", "gpt", human=55.0, simulated=0.5, n_human=1, n_simulated=1)


def test_calibration_error_of_two_bins_worked_by_hand() -> None:
    # Bin of 0.2 (three questions): mean simulated 0.2, human (0 + 0.4 + 0.5) / 3 = 0.3. Bin of 1 (one): 1 against 0.6.
    # 3/4 * 0.1 + 1/4 * 0.4; the mean absolute error is (0.2 + 0.2 + 0.3 + 0.4) / 4, since nothing cancels there.
    human, simulated = [0.0, 0.4, 0.5, 0.6], [0.2, 0.2, 0.2, 1.0]

    assert calibration_error(human, simulated) == pytest.approx(0.175)
    assert mean_absolute_error(human, simulated) == pytest.approx(0.275)


def test_calibration_error_lies_between_bias_and_mean_absolute_error() -> None:
    draw = random.Random(9)
    for _ in range(100):
        human, simulated = [draw.randint(0, 9) / 9 for _ in range(20)], [draw.randint(0, 10) / 10 for _ in range(20)]
        values = abs(bias(human, simulated)), calibration_error(human, simulated), mean_absolute_error(human, simulated)  # type: ignore[arg-type]
        assert values[0] - 1e-12 <= values[1] <= values[2] + 1e-12  # type: ignore[operator]


def test_an_accuracy_on_the_border_of_two_bins_belongs_to_the_upper_one_and_1_to_the_last() -> None:
    # 0.7 * 10 may come as 6.999...: [0.7, 0.8) would then lose it. In one bin 0.7 and 0.75 cancel: error 0.
    assert calibration_error([0.75, 0.7], [0.7, 0.75]) == pytest.approx(0)
    assert calibration_error([0.9, 1.0], [1.0, 0.9]) == pytest.approx(0)
    assert calibration_error([], []) == Undefined("no question is left")
