"""Means over splits with plain and corrected standard errors."""

from __future__ import annotations

import pytest

from chatbench.metrics.agreement import Undefined
from chatbench.metrics.estimates import Estimate, over_splits, standard_deviation


def test_plain_and_corrected_errors_of_four_splits_worked_by_hand() -> None:
    # Mean 5, squared deviations 9 1 1 9: sd = sqrt(20/3). Plain: sd/2. Corrected for 60:40 : sd * sqrt(1/4 + 2/3).
    estimate = over_splits([2.0, 4.0, 6.0, 8.0], train_questions=60, test_questions=40)
    sd = (20 / 3) ** 0.5

    assert (estimate.mean, estimate.n) == (5.0, 4)
    assert estimate.standard_error == pytest.approx(sd / 2)  # ddof 0 would give sqrt(5)/2
    assert estimate.corrected_error == pytest.approx(sd * (1 / 4 + 40 / 60) ** 0.5)


def test_one_split_has_a_mean_and_no_error() -> None:
    estimate = over_splits([0.5], train_questions=6, test_questions=4)

    assert estimate.mean == 0.5
    assert estimate.standard_error == estimate.corrected_error == Undefined("1 split, 2 are needed")


def test_splits_without_a_value_are_left_out_and_counted() -> None:
    estimate = over_splits([0.2, Undefined("constant"), 0.4], train_questions=6, test_questions=4)

    assert estimate.mean == pytest.approx(0.3)
    assert (estimate.n, estimate.undefined) == (2, 1)


def test_a_value_that_no_split_has_stays_undefined_with_its_reason() -> None:
    reason = Undefined("constant")

    assert over_splits([reason, reason], train_questions=6, test_questions=4) == Estimate(reason, reason, reason, 0, 2)
    assert over_splits([], train_questions=6, test_questions=4).mean == Undefined("no split was scored")


def test_without_training_questions_there_is_no_corrected_error() -> None:
    estimate = over_splits([0.1, 0.3], train_questions=0, test_questions=10)

    assert estimate.standard_error == pytest.approx(0.1)
    assert estimate.corrected_error == Undefined("no training question")


def test_standard_deviation_of_one_value_is_undefined() -> None:
    assert standard_deviation([1.0]) == Undefined("1 value, 2 are needed")
    assert standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
