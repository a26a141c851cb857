"""The prediction for a new assistant, its parts worked by hand, and when there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chatbench.core.records import Answer
from chatbench.estimation.new_assistant import (
    HeldOut,
    MeanEstimate,
    Predicted,
    predict,
    predict_difference,
    variance_of_chats,
    variance_of_people,
)
from chatbench.metrics.agreement import Outcomes, Undefined

QUESTIONS = ("q1", "q2")


def held_out(name: str, error: float) -> HeldOut:
    return HeldOut(name, QUESTIONS, np.array([0.5, 0.7]) + error, np.array([0.5, 0.7]), 10)


THREE = [held_out(name, error) for name, error in (("a", 0.0), ("b", 0.1), ("c", 0.2))]


def test_the_mean_error_is_added_and_the_spread_of_errors_makes_the_interval() -> None:
    # Errors 0, 0.1, 0.2: mean 0.1, S^2 = 0.01; 1 + 1/3 of it; t of 2 degrees 4.3027. Questions: 0.4 and 0.4, no spread.
    found = predict({"q1": 0.4, "q2": 0.4}, THREE)

    assert isinstance(found, Predicted)
    one, half = found.estimate, 4.3027 * (0.01 * 4 / 3) ** 0.5
    assert (one.low, one.value, one.high) == pytest.approx((0.5 - half, 0.5, 0.5 + half), abs=1e-4)


def test_the_parts_of_the_variance_add_up() -> None:
    three = [replace(each, people_variance=0.003, chats_variance=0.0006) for each in THREE]
    found = predict({"q1": 0.4, "q2": 0.6}, three, chats_variance=0.001)

    assert isinstance(found, Predicted)
    parts = found.variance_by_cause
    assert sum(parts.values()) == pytest.approx(found.estimate.standard_error**2)
    named = ("people", "simulated chats", "questions", "simulator on a new assistant")
    expected = (0.004, 0.0018, 0.02 / 2 - 0.001, 0.04 / 3 - 0.004 - 0.0008)
    assert parts == pytest.approx(dict(zip(named, expected, strict=True)))


def test_new_questions_add_the_spread_of_the_errors_over_the_old_ones() -> None:
    human = np.array([0.5, 0.9])
    uneven = [HeldOut(each.assistant, QUESTIONS, human + each.error, np.array([0.5, 0.5])) for each in THREE]
    old, new = predict({"q1": 0.2, "q2": 0.2}, uneven), predict({"x": 0.2, "y": 0.2}, uneven)

    assert isinstance(old, Predicted)
    assert isinstance(new, Predicted)
    assert new.estimate.value == old.estimate.value == pytest.approx(0.5)
    assert new.variance_by_cause["questions"] == pytest.approx(0.08 / 2)


def test_in_a_difference_the_errors_that_both_share_cancel() -> None:
    # All errors are 0.3 alike: the level is corrected by 0.3, the difference needs no correction and is exact.
    alike = [held_out(name, 0.3) for name in "abc"]
    found = predict_difference({"q1": 0.4, "q2": 0.6}, {"q1": 0.3, "q2": 0.5}, alike)
    spread = predict_difference({"q1": 0.4, "q2": 0.6}, {"q1": 0.3, "q2": 0.5}, THREE)

    assert isinstance(found, MeanEstimate)
    assert (found.value, found.low, found.high) == (pytest.approx(0.1),) * 3
    assert isinstance(spread, MeanEstimate)
    assert spread.standard_error == pytest.approx(0.02**0.5)


def test_below_three_assistants_it_is_undefined_and_says_why() -> None:
    for found in (predict({"q1": 0.4, "q2": 0.6}, THREE[:2]), predict_difference({"q1": 0.4}, {"q1": 0.4}, THREE[:2])):
        assert isinstance(found, Undefined)
        assert "2 assistants were held out and simulated, 3 are needed" in str(found)
    assert "1 simulated question" in str(predict({"q1": 0.4}, THREE))
    assert "fewer than 2 questions" in str(predict_difference({"q1": 0.4}, {"q2": 0.4}, THREE))


def test_variances_of_people_and_chats() -> None:
    # Two questions of two people each: in either one right, one wrong. Different people: each mean has the variance
    # 0.25 / (2 - 1), the mean of both 0.5 / 4. The same two, each once right and once wrong: what they add cancels.
    def answer(question: str, worker: str, correct: bool) -> Answer:
        return Answer(question, worker, "user-AI", "a", "", "B", correct)

    different = [answer("q1", "v", True), answer("q1", "w", False), answer("q2", "x", True), answer("q2", "y", False)]
    same = [answer("q1", "v", True), answer("q1", "w", False), answer("q2", "v", False), answer("q2", "w", True)]
    assert variance_of_people(different) == pytest.approx(0.5 / 4)
    assert variance_of_people(same) == 0
    assert variance_of_people([answer("q1", "", True), answer("q1", "", False)]) == pytest.approx(0.25)
    assert variance_of_people([answer("q1", "v", True)]) == variance_of_people([]) == 0
    assert variance_of_chats([Outcomes(1, 1), Outcomes(3, 0, 1), Outcomes(1)]) == pytest.approx((0.25 + 0.1875 / 3) / 9)
