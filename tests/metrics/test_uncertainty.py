"""Means over splits with plain and corrected standard errors."""

from __future__ import annotations

import pytest

from chatbench.metrics.agreement import Estimate, Undefined, Value, over_splits, standard_deviation


def test_plain_and_corrected_errors_of_four_splits_worked_by_hand() -> None:
    # Mean 5, squared deviations 9 1 1 9: sd = sqrt(20/3). Plain: sd/2. Corrected for 60:40 : sd * sqrt(1/4 + 2/3).
    estimate = over_splits([2.0, 4.0, 6.0, 8.0], train_questions=60, test_questions=40)
    sd = (20 / 3) ** 0.5

    assert (estimate.mean, estimate.n) == (5.0, 4)
    assert estimate.standard_error == pytest.approx(sd / 2)  # ddof 0 would give sqrt(5)/2
    assert estimate.corrected_error == pytest.approx(sd * (1 / 4 + 40 / 60) ** 0.5)


CONSTANT, ONE = Undefined("constant"), Undefined("1 split, 2 are needed")
OF_TWO = pytest.approx(0.1), pytest.approx(0.02**0.5 * (1 / 2 + 4 / 6) ** 0.5)


@pytest.mark.parametrize(
    ("values", "train_questions", "expected"),
    [
        ([0.5], 6, Estimate(0.5, ONE, ONE, 1)),
        (
            [0.2, CONSTANT, 0.4],
            6,
            Estimate(pytest.approx(0.3), *OF_TWO, 2, 1),
        ),
        ([CONSTANT, CONSTANT], 6, Estimate(CONSTANT, CONSTANT, CONSTANT, 0, 2)),
        ([], 6, Estimate(*[Undefined("no split was scored")] * 3, 0)),
        ([0.1, 0.3], 0, Estimate(pytest.approx(0.2), pytest.approx(0.1), Undefined("no training question"), 2)),
    ],
)
def test_what_a_split_lacks_is_undefined_and_counted(
    values: list[Value], train_questions: float, expected: Estimate
) -> None:
    assert over_splits(values, train_questions=train_questions, test_questions=4) == expected


def test_standard_deviation_of_one_value_is_undefined() -> None:
    assert standard_deviation([1.0]) == Undefined("1 value, 2 are needed")
    assert standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
