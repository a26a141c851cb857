"""The human noise ceiling: worked by hand, on simulated people, and on the sample study, where it is known."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from chatbench.metrics.agreement import Undefined, batch_agreement
from chatbench.metrics.baselines import CEILING_METRICS, ceilings, halve
from chatbench.metrics.pairs import Pair, Prediction, human_outcomes, predictions
from chatbench.sample.study import SampleSettings, make_sample, true_accuracy


def cells(right: list[int], people: int) -> dict[Pair, Prediction]:
    return {(f"q{i}", "gpt"): Prediction(r / people, people) for i, r in enumerate(right)}


def test_halves_hold_different_people_and_miss_at_most_one() -> None:
    # Two of five right: the halves of two together have 1 or 2 right ones, and never 3 or more.
    halves = halve(list(cells([2, 5, 0], 5).values()), seed=1)

    together = (halves.first + halves.second) * halves.size
    assert set(together[:, 0].tolist()) == {1.0, 2.0}
    assert set(together[:, 1].tolist()) == {4.0}
    assert halves.size.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("human", "reason"),
    [
        ({(f"q{i}", "gpt"): Prediction(i / 10, 4) for i in range(1, 10)},
         "ceilings are estimated from right and wrong answers, and people's have scores between"),
        ({**cells([1, 0, 1, 1], 1), ("q9", "gpt"): Prediction(0.5, 2)},
         "fewer than 3 questions have answers of two people"),
    ],
)  # fmt: skip
def test_without_right_and_wrong_or_two_people_there_is_no_ceiling(human: dict[Pair, Prediction], reason: str) -> None:
    assert ceilings(human, [10, None], seed=0) == [dict.fromkeys(CEILING_METRICS, Undefined(reason))] * 2


def test_people_who_always_agree_leave_no_noise_and_those_who_never_do_no_correlation() -> None:
    (alike,) = ceilings(cells([8, 0, 8, 0], 8), [None], seed=0)
    # Exactly half right everywhere: the more one half has, the fewer the other; a ceiling of 0 would hide that.
    (apart,) = ceilings(cells([5, 5, 5, 5], 10), [10], seed=0)

    assert [alike[metric] for metric in ("pearson", "mae", "ece")] == pytest.approx([1, 0, 0])
    assert isinstance(apart["pearson"], Undefined)
    assert apart["mae"] > 0.1


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

    # Without Spearman-Brown the limited correlation would be that of halves, 0.1 lower.
    for metric in CEILING_METRICS:
        tolerance = 0.02 if metric in ("pearson", "spearman") else 0.006
        assert limited[metric] == pytest.approx(float(truth[metric].mean()), abs=tolerance), metric
        if metric in ("pearson", "mae", "rmse"):
            assert unlimited[metric] == pytest.approx(float(perfect[metric][0]), abs=tolerance), metric


def test_the_ceiling_of_the_sample_study_is_right() -> None:
    # The truth: accuracy of fresh people, as many as chats, against those of the study, over its 60 questions.
    sample = make_sample(SampleSettings(questions=60, chats=10, seed=2))
    human = predictions(human_outcomes(sample.study, sample.study.questions.keys()))
    limited, unlimited = ceilings(human, [10, None], seed=0)
    rng = Random(5)
    chance = np.array([[true_accuracy(sample.problems[q], a, people=70, rng=rng) for q, a in human]])
    draws = np.random.default_rng(6)
    fresh, again = (draws.binomial(10, chance, (300, chance.size)) / 10 for _ in range(2))
    known, best = (batch_agreement(fresh, other, np.ones_like(fresh)) for other in (again, chance))

    # One study of 120 cells: its ceiling varies by about 0.03 (correlation) and 0.008 (error) around the truth.
    for found, truth, tolerances in (
        (limited, known, {"pearson": 0.07, "mae": 0.02, "ece": 0.02}), (unlimited, best, {"pearson": 0.05, "mae": 0.02})
    ):  # fmt: skip
        for metric, tolerance in tolerances.items():
            assert found[metric] == pytest.approx(float(truth[metric].mean()), abs=tolerance), metric


def test_equal_seeds_give_equal_ceilings() -> None:
    one, same, other = (ceilings(cells([1, 5, 7, 3, 9, 8], 10), [10], seed=seed) for seed in (3, 3, 4))

    assert one == same != other
