"""Two simulators on the same questions: differences, intervals and permutation p-values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from benchmarks.coverage import World, draw_study, study_differences

from chatbench.core.records import Answer
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.paired import (
    PairedDifference,
    holm,
    mean_differences,
    paired_differences,
    paired_split,
    permutation_p,
)
from chatbench.metrics.pairs import Pair, Prediction
from chatbench.metrics.resampling import Draws, Interval, Resampling


def accuracies(values: Sequence[float], assistant: str = "gpt", name: str = "q") -> dict[Pair, Prediction]:
    return {(f"{name}{i:02d}", assistant): Prediction(float(v), 10) for i, v in enumerate(values)}


def differences(
    *sides: Sequence[float], replicates: int = 2000, answers: Sequence[Answer] = ()
) -> dict[tuple[str, str], PairedDifference]:
    """Of people's accuracies and those of two simulators."""
    splits = [paired_split(*map(accuracies, sides))]
    return paired_differences(Draws(splits[0].human, answers, Resampling(replicates)), splits)


def test_differences_are_first_minus_second_on_the_cells_of_both() -> None:
    # The second lacks the last question.
    found = differences([0.2, 0.4, 0.9, 0.6], [0.2, 0.5, 0.5, 0.6], [0.5, 0.5, 0.5])["gpt", "mae"]

    assert found.first == pytest.approx(0.5 / 3)
    assert found.second == pytest.approx(0.8 / 3)
    assert found.difference == pytest.approx(-0.1)
    # A simulator does not differ from itself.
    human, same = np.random.default_rng(1).random((2, 20))
    found = differences(human, same, same)["gpt", "pearson"]
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.interval == Undefined("the metric is the same whichever questions are drawn")


def test_what_is_hard_about_questions_cancels() -> None:
    # Errors differ widely between questions, but the second is always 0.05 further off than the first, or 0.06.
    rng = np.random.default_rng(2)
    human = rng.uniform(0, 0.4, 30)
    off = rng.uniform(0, 0.5, 30)
    second = human + off + np.where(rng.random(30) < 0.5, 0.05, 0.06)
    found = differences(human, human + off, second)["gpt", "mae"]

    assert found.interval.high - found.interval.low < 0.01  # unpaired it would be about 0.15
    assert found.p == pytest.approx(1 / 2001)


def test_the_permutation_p_is_that_of_all_exchanges_of_questions_with_both_assistants_together() -> None:
    # Differences of errors 1 2 3 10 (in 1/20): of 16 sign patterns those with |sum| >= 16 are two: 2/16. With twins
    # instead of a second sample the p-value stays; exchanged apart, 2/16 would become about 2/256.
    sides = [0.0] * 4, [0.05, 0.10, 0.15, 0.50], [0.0] * 4
    splits = [paired_split(*({**accuracies(values), **accuracies(values, "twin")} for values in sides))] * 2
    found = paired_differences(Draws(splits[0].human, (), Resampling(20_000)), splits)

    for row in ("gpt", "all", "mean of assistants"):
        assert found[row, "mae"].p == pytest.approx(2 / 16, abs=0.01)
    assert permutation_p(0.5, np.array([0.5, np.nan, -0.1])) == pytest.approx(2 / 3)


def test_a_bias_neither_makes_nor_hides_a_difference_of_correlations() -> None:
    # The second is 0.4 lower. Exchanged raw, mixtures of both would correlate with hardly anything, now this way and
    # now that, and no difference would look large beside theirs.
    rng = np.random.default_rng(3)
    human = rng.uniform(0.45, 1, 60)
    first, second, poor = (np.clip(human + rng.normal(0, sd, 60), 0.4, 1) for sd in (0.05, 0.05, 0.12))
    equal, worse = (differences(human, first, other - 0.4, replicates=500) for other in (second, poor))

    assert equal["gpt", "pearson"].p > 0.05
    assert equal["gpt", "mae"].p == pytest.approx(1 / 501)
    assert worse["gpt", "pearson"].p < 0.02
    assert worse["gpt", "spearman"].p < 0.02


def test_a_few_able_people_do_not_decide_between_two_simulators() -> None:
    # Four of six people are always right, two never: the first simulator is nearer to them on every question, but with
    # six other people it might as well be further off. Swaps of questions alone find p = 0.001.
    rng = np.random.default_rng(8)
    accurate = [4 / 6] * 30, *(level + rng.uniform(-0.05, 0.05, 30) for level in (0.6, 0.4))
    answers = [
        Answer(f"q{q:02d}", f"person {n}", "user-AI", "gpt", "", None, n < 4) for q in range(30) for n in range(6)
    ]
    strangers, found = (differences(*accurate, answers=of)["gpt", "mae"] for of in ((), answers))

    assert strangers.p == pytest.approx(1 / 2001)
    assert found.interval.low < 0 < found.interval.high
    assert found.p > 0.05  # as the interval says


def test_differences_of_correlations_stay_within_two() -> None:
    human = [0.1, 0.5, 0.4, 0.9, 0.2]
    draws = Draws(accuracies(human), (), Resampling(200, confidence=0.9999))
    splits = [paired_split(accuracies(human), accuracies(human), accuracies([0.9, 0.5, 0.4, 0.3, 0.2]))]

    assert paired_differences(draws, splits)["gpt", "pearson"].interval.high == 2.0


def test_equally_good_simulators_differ_significantly_no_more_often_than_they_should() -> None:
    # 5 % of p-values below 0.05; of 40 studies 0 to 6 (99.5 %). 1,000 studies: benchmarks/coverage.py.
    rng = np.random.default_rng(4)
    ps, held = [], []
    for _ in range(40):
        found = study_differences(draw_study(World(questions=50), rng), Resampling(150))["all", "mae"]
        ps.append(found[1])
        held.append(isinstance(found[0], Interval) and found[0].low <= 0 <= found[0].high)

    assert sum(p <= 0.05 for p in ps) <= 6
    assert sum(p <= 0.5 for p in ps) >= 10  # and they are spread, not all near 1
    assert sum(held) >= 33


def test_a_figure_that_one_of_them_lacks_has_no_difference_and_a_split_without_it_counts_for_neither() -> None:
    found = differences([0.1, 0.5, 0.9, 0.3], [0.5] * 4, [0.1, 0.6, 0.7, 0.2])
    assert found["gpt", "pearson"].difference == Undefined("one of the two is undefined")
    assert isinstance(found["gpt", "pearson"].p, Undefined)
    assert isinstance(found["gpt", "mae"].difference, float)
    # The second is constant in the second split: only the first, in which both are equal, can be compared. Subtracting
    # means over different splits would give (1 + -1) / 2 - 1 = -1.
    up, down, flat = [0.1, 0.4, 0.6, 0.9], [0.9, 0.6, 0.4, 0.1], [0.5] * 4

    splits = [
        paired_split(*[accuracies(up)] * 3),
        paired_split(*(accuracies(values, name="r") for values in (up, down, flat))),
    ]
    pairs = [pair for split in splits for pair in split.human]
    found = paired_differences(Draws(pairs, (), Resampling(200)), splits)

    assert (found["gpt", "pearson"].first, found["gpt", "pearson"].difference) == (pytest.approx(1), 0.0)
    assert (found["gpt", "pearson"].splits, found["gpt", "pearson"].undefined) == (1, 1)
    assert (found["gpt", "mae"].splits, found["gpt", "mae"].undefined) == (2, 0)


def test_means_over_questions_are_compared_by_the_questions_of_both() -> None:
    draws = Draws([], (), Resampling(2000), held_out=[f"q{i}" for i in range(12)])
    first = {f"q{i}": 0.5 + 0.01 * i for i in range(12)}
    second = {f"q{i}": 0.4 + 0.01 * i + 0.02 * (i % 2) for i in range(10)}
    found = mean_differences(draws, [(first, second)])

    assert found.difference == pytest.approx(0.09)
    assert found.p == pytest.approx(1 / 2001 + 2 / 1024, abs=0.004)
    assert isinstance(found.interval, Interval)
    assert isinstance(mean_differences(draws, [({}, second)]).difference, Undefined)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_sinks() -> None:
    missing = Undefined("none")

    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, missing, 0.9]) == [1.0, missing, 1.0]
    assert holm([]) == []
