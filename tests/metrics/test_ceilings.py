"""The human noise ceiling: worked by hand, on simulated people, and on the sample study, where it is known."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from chatbench.metrics.agreement import Undefined, Value, batch_agreement
from chatbench.metrics.baselines import CEILING_METRICS, ceilings, halve, spearman_brown
from chatbench.metrics.pairs import Pair, Prediction, human_outcomes, predictions
from chatbench.sample.study import SampleSettings, make_sample, true_accuracy

Human = dict[Pair, Prediction]


def cells(right: list[int], people: int) -> Human:
    return {(f"q{i}", "gpt"): Prediction(r / people, people) for i, r in enumerate(right)}


def number(value: Value) -> float:
    assert isinstance(value, float)
    return value


def test_spearman_brown_turns_the_reliability_of_a_half_into_that_of_the_whole() -> None:
    # True variance 1, noise 2 of a half: r = 1/3. Twice the people, noise 1: 1/2.
    assert spearman_brown(1 / 3, 2) == pytest.approx(1 / 2)
    assert spearman_brown(1 / 2, 1 / 2) == pytest.approx(1 / 3)


def test_scores_between_right_and_wrong_have_no_ceiling() -> None:
    agreed = {(f"q{i}", "gpt"): Prediction(i / 10, 4) for i in range(1, 10)}

    (found,) = ceilings(agreed, [None], seed=0)
    assert all(isinstance(value, Undefined) and "scores between" in value.reason for value in found.values())


def test_halves_hold_different_people_and_miss_at_most_one() -> None:
    # Two of five right: the halves of two together have 1 or 2 right ones, and never 3 or more.
    halves = halve(list(cells([2, 5, 0], 5).values()), seed=1)

    assert halves is not None
    together = (halves.first + halves.second) * halves.size
    assert set(together[:, 0].tolist()) == {1.0, 2.0}
    assert set(together[:, 1].tolist()) == {4.0}
    assert halves.size.tolist() == [2, 2, 2]


def test_people_who_always_agree_leave_no_noise() -> None:
    (found,) = ceilings(cells([8, 0, 8, 0], 8), [None], seed=0)

    assert number(found["pearson"]) == pytest.approx(1)
    assert number(found["mae"]) == pytest.approx(0)
    assert number(found["ece"]) == pytest.approx(0)


def test_the_ceilings_of_simulated_people_are_what_perfect_simulators_reach() -> None:
    # Chances are known here, so perfect simulators of 10 chats, and of unlimited ones, can be scored.
    rng = np.random.default_rng(4)
    count, people, chats = 400, 9, 10
    chance = rng.beta(2, 1.2, count)
    human = rng.binomial(people, chance)
    limited, unlimited = ceilings(cells(human.tolist(), people), [chats, None], seed=0)
    ones = np.ones((200, count))
    truth = batch_agreement(human[None] / people, rng.binomial(chats, chance, (200, count)) / chats, ones)
    perfect = batch_agreement(human[None] / people, chance[None], ones[:1])

    for metric in CEILING_METRICS:
        tolerance = 0.02 if metric in ("pearson", "spearman") else 0.006
        assert number(limited[metric]) == pytest.approx(float(truth[metric].mean()), abs=tolerance), metric
    # Without Spearman-Brown the limited correlation would be that of halves, 0.1 lower.
    assert number(unlimited["pearson"]) == pytest.approx(float(perfect["pearson"][0]), abs=0.02)
    assert number(unlimited["mae"]) == pytest.approx(float(perfect["mae"][0]), abs=0.006)
    assert number(unlimited["rmse"]) == pytest.approx(float(perfect["rmse"][0]), abs=0.006)


def test_the_ceiling_of_the_sample_study_is_right() -> None:
    # The truth: accuracy of fresh people, as many as chats, against those of the study, over its 60 questions.
    sample = make_sample(SampleSettings(questions=60, chats=10, seed=2))
    human = predictions(human_outcomes(sample.study, sample.study.questions.keys()))
    limited, unlimited = ceilings(human, [10, None], seed=0)
    rng = Random(5)
    chance = np.array([[true_accuracy(sample.problems[q], a, people=70, rng=rng) for q, a in human]])
    draws = np.random.default_rng(6)
    fresh = draws.binomial(10, chance, (300, chance.size)) / 10
    again = draws.binomial(10, chance, (300, chance.size)) / 10
    known = batch_agreement(fresh, again, np.ones_like(fresh))
    best = batch_agreement(fresh, chance, np.ones_like(fresh))

    # One study of 120 cells: its ceiling varies by about 0.03 (correlation) and 0.008 (error) around the truth.
    assert number(limited["pearson"]) == pytest.approx(float(known["pearson"].mean()), abs=0.07)
    assert number(unlimited["pearson"]) == pytest.approx(float(best["pearson"].mean()), abs=0.05)
    assert number(limited["mae"]) == pytest.approx(float(known["mae"].mean()), abs=0.02)
    assert number(unlimited["mae"]) == pytest.approx(float(best["mae"].mean()), abs=0.02)
    assert number(limited["ece"]) == pytest.approx(float(known["ece"].mean()), abs=0.02)


def test_without_two_people_in_three_questions_there_is_no_ceiling() -> None:
    alone = {**cells([1, 0, 1, 1], 1), ("q9", "gpt"): Prediction(0.5, 2)}

    assert set(ceilings(alone, [10], seed=0)[0].values()) == {
        Undefined("fewer than 3 questions have answers of two people")
    }


def test_people_who_do_not_agree_have_no_correlation_ceiling_but_an_error_ceiling() -> None:
    # Exactly half right everywhere: the more one half has, the fewer the other; a ceiling of 0 would hide that.
    (found,) = ceilings(cells([5, 5, 5, 5], 10), [10], seed=0)

    assert isinstance(found["pearson"], Undefined)
    assert number(found["mae"]) > 0.1


def test_equal_seeds_give_equal_ceilings() -> None:
    human = cells([1, 5, 7, 3, 9, 8], 10)

    assert ceilings(human, [10], seed=3) == ceilings(human, [10], seed=3)
    assert ceilings(human, [10], seed=3) != ceilings(human, [10], seed=4)
