"""Accuracy with a new assistant: rectified means from few real chats, predictions without, and coverage in small."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbench.core.records import Answer
from chatbench.estimation.new_assistant import (
    HeldOut,
    RealAnswers,
    estimate_of,
    predict,
    predict_difference,
    published,
    rectified,
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

    one, half = found.estimate, 4.3027 * (0.01 * 4 / 3) ** 0.5
    assert (one.low, one.value, one.high) == pytest.approx((0.5 - half, 0.5, 0.5 + half), abs=1e-4)


def test_the_parts_of_the_variance_add_up() -> None:
    three = [replace(each, people_variance=0.003, chats_variance=0.0006) for each in THREE]
    found = predict({"q1": 0.4, "q2": 0.6}, three, chats_variance=0.001)

    parts = found.variance_by_cause
    assert sum(parts.values()) == pytest.approx(found.estimate.standard_error**2)
    named = ("people", "simulated chats", "questions", "simulator on a new assistant")
    expected = (0.004, 0.0018, 0.02 / 2 - 0.001, 0.04 / 3 - 0.004 - 0.0008)
    assert parts == pytest.approx(dict(zip(named, expected, strict=True)))


def test_new_questions_add_the_spread_of_the_errors_over_the_old_ones() -> None:
    human = np.array([0.5, 0.9])
    uneven = [HeldOut(each.assistant, QUESTIONS, human + each.error, np.array([0.5, 0.5])) for each in THREE]
    old, new = predict({"q1": 0.2, "q2": 0.2}, uneven), predict({"x": 0.2, "y": 0.2}, uneven)

    assert new.estimate.value == old.estimate.value == pytest.approx(0.5)
    assert new.variance_by_cause["questions"] == pytest.approx(0.08 / 2)


def test_in_a_difference_the_errors_that_both_share_cancel() -> None:
    # All errors are 0.3 alike: the level is corrected by 0.3, the difference needs no correction and is exact.
    alike = [held_out(name, 0.3) for name in "abc"]
    found = predict_difference({"q1": 0.4, "q2": 0.6}, {"q1": 0.3, "q2": 0.5}, alike)
    spread = predict_difference({"q1": 0.4, "q2": 0.6}, {"q1": 0.3, "q2": 0.5}, THREE)

    assert (found.value, found.low, found.high) == (pytest.approx(0.1),) * 3
    assert spread.standard_error == pytest.approx(0.02**0.5)


def test_below_three_assistants_it_is_undefined_and_says_why() -> None:
    for found in (predict({"q1": 0.4, "q2": 0.6}, THREE[:2]), predict_difference({"q1": 0.4}, {"q1": 0.4}, THREE[:2])):
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


# ---- with real chats ----


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("estimate_coverage")


def test_the_published_estimate_is_that_of_the_paper() -> None:
    # By hand: means 0.5 of y, 0.5 of f (labelled), 0.55 of f (others); cov(y, f) = 0.1 with divisor 4; var of all six f
    # = 0.0656.../... below; weight = cov / ((1 + 4/2) var); n = 4, N = 2. benchmarks/estimate_coverage.py --ppi-python
    # compares with the package itself: 2e-16 at most in 200 data sets.
    correct, predicted = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.7, 0.3, 0.7, 0.3])
    unlabelled = np.array([0.6, 0.5])
    weight, estimate, error = published(correct, predicted, unlabelled)

    spread = sum((f - 3.1 / 6) ** 2 for f in (0.7, 0.3, 0.7, 0.3, 0.6, 0.5)) / 5
    assert weight == pytest.approx(0.1 / (3 * spread), abs=1e-12)
    assert estimate == pytest.approx(0.5 + weight * (0.55 - 0.5), abs=1e-12)
    residual = [0.5 - weight * 0.2] * 4
    expected = weight**2 * 0.0025 / 2 + sum(r * r for r in residual) / 4 / 4
    assert error == pytest.approx(expected**0.5, abs=1e-12)


def test_with_every_answer_its_own_question_and_person_only_the_small_sample_factors_differ() -> None:
    # Sum over labelled and other questions: the published variance, but for G / (G - 1), (G - 1) / (G - 2) and that the
    # others here include the labelled ones. 20,000 other questions make the latter small.
    rng = np.random.default_rng(0)
    chance = rng.random(20_000)
    n = 400
    real = RealAnswers((rng.random(n) < chance[:n]).astype(float), np.arange(n), np.arange(n))

    mine = rectified(real, chance)
    weight, estimate, error = published(real.correct, chance[:n], chance[n:])

    assert mine.weight == pytest.approx(weight, rel=0.05)
    assert mine.rectified.value == pytest.approx(estimate, abs=0.002)
    assert mine.rectified.standard_error == pytest.approx(error * (n / (n - 2)) ** 0.5, rel=0.01)


def test_clusters_are_seen_and_a_copy_of_every_answer_adds_nothing() -> None:
    # The likely mistake, answers as independent, would shrink the error by 2 ** 0.5 for each answer written twice.
    rng = np.random.default_rng(1)
    simulated = rng.random(60)
    question = rng.integers(0, 60, 80)
    once = RealAnswers((rng.random(80) < simulated[question]).astype(float), question, np.arange(80))
    twice = RealAnswers(np.tile(once.correct, 2), np.tile(question, 2), np.arange(160))  # as other people would

    for name in ("alone", "rectified"):
        error, same = (getattr(rectified(each, simulated), name).standard_error for each in (once, twice))
        assert same == pytest.approx(error, rel=0.06)
    lone = replace(once, question=np.arange(80) % 60, person=np.arange(80) // 10)
    tied = rectified(replace(lone, correct=(lone.person % 2).astype(float)), simulated)
    assert tied.alone.standard_error > 2 * (0.25 / 80) ** 0.5  # a person is always right or always wrong


def test_a_biased_simulator_is_rectified_and_a_useless_one_is_left_alone() -> None:
    rng = np.random.default_rng(2)
    chance = np.clip(rng.normal(0.5, 0.3, 4000), 0, 1)
    question = rng.choice(4000, 300, replace=False)
    real = RealAnswers((rng.random(300) < chance[question]).astype(float), question, np.arange(300))

    good, shifted = rectified(real, chance), rectified(real, chance * 0.5)
    assert shifted.rectified.value == pytest.approx(good.rectified.value, abs=0.01)
    assert 1.2 < good.effective_answers / 300 < 2
    assert good.rectified.high - good.rectified.low < 0.9 * (good.alone.high - good.alone.low)
    assert not good.loses
    useless = rectified(real, 1 - chance)  # a negative correlation is no help: the weight is not negative
    assert (useless.weight, useless.loses, useless.effective_answers) == (0.0, True, 300)
    assert useless.rectified == useless.alone
    constant = rectified(real, np.full(4000, 0.3))
    assert constant.loses
    assert isinstance(constant.correlation, Undefined)


def test_few_clusters_have_no_estimate() -> None:
    found = rectified(RealAnswers(np.array([1.0, 0, 1]), np.array([0, 1, 2]), np.arange(3)), np.ones(6))

    assert "3 questions with answers of 3 people" in str(found)
    # Shares 7/10, 1/10, 1/10, 1/10: 1 / 0.52 = 1.9 effective questions.
    uneven = RealAnswers(np.array([1.0, 0] * 5), np.array([0] * 7 + [1, 2, 3]), np.arange(10))
    said = str(rectified(uneven, np.ones(6)))
    assert "4 questions with answers of 10 people" in said
    assert "effectively 1.9 and 10.0; 3.5 of each are needed" in said


@pytest.mark.parametrize(("value", "what"), [(1.0, "right"), (0.0, "wrong")])
def test_answers_that_are_all_alike_have_no_interval_of_width_zero(value: float, what: str) -> None:
    real = RealAnswers(np.full(12, value), np.arange(12), np.arange(12))

    assert rectified(real, np.linspace(0, 1, 20)) == Undefined(f"all 12 answers are {what}, so they show no variance")


def test_parts_of_a_variance_have_each_their_own_quantile_and_ends_stay_shares() -> None:
    # t of 2 degrees 4.303, normal 1.960: half-width ((4.303 * 0.01)^2 + (1.960 * 0.02)^2)^(1/2) = 0.0582
    found = estimate_of(0.98, (1e-4, 2), (4e-4, 1e9))

    assert (found.low, found.high) == (pytest.approx(0.98 - 0.0582, abs=1e-4), 1.0)
    assert estimate_of(-0.4, (0.01, 10), least=-1).low == pytest.approx(-0.4 - 2.228 * 0.1, abs=1e-3)


@pytest.mark.parametrize("name", ["both clusters", "useless, few answers"])
def test_intervals_hold_the_truth_as_often_as_they_say(benchmark: Any, name: str) -> None:
    # The benchmark's 1,000 replications in small; the published interval on clustered data holds it far less often.
    world = next(each for each in benchmark.RECTIFIED if each.name == name)
    row = benchmark.rectified_row(world, 150, seed=4)

    assert row["rectified"] > 0.91
    assert row["width / people alone"] < 1.02
    assert row["effective"] == pytest.approx(row["effective, true"], rel=0.15)
    if name == "both clusters":
        assert row["published PPI++"] < 0.9 < row["rectified"]


@pytest.mark.parametrize("name", ["3 assistants", "4, useless"])
def test_predictions_for_a_new_assistant_hold_the_truth(benchmark: Any, name: str) -> None:
    # With a normal quantile instead of t, three assistants would hold it in about 80 %.
    world = next(each for each in benchmark.NEW if each.name == name)
    row = benchmark.new_row(world, 150, seed=5)

    assert row["level"] >= 0.93
    assert row["difference"] >= 0.93
