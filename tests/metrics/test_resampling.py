"""Bootstrap intervals: against textbook formulas, and on simulated studies whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.coverage import World, coverage, draw_study, study_intervals

from chatbench.core.records import Answer
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import FINE_TUNED, PEOPLE
from chatbench.metrics.pairs import Prediction, SplitPairs
from chatbench.metrics.resampling import (
    Bound,
    Draws,
    Interval,
    Resampling,
    interval,
    mean_intervals,
    predictor_intervals,
    quantile,
)


def cells(human: Sequence[float], simulated: Sequence[float], people: int = 10, start: int = 0) -> SplitPairs:
    names = [(f"q{start + i:03d}", "gpt") for i in range(len(human))]
    return SplitPairs(
        {cell: Prediction(float(h), people) for cell, h in zip(names, human, strict=True)},
        {FINE_TUNED: {cell: Prediction(float(s), 10) for cell, s in zip(names, simulated, strict=True)}},
    )


def drawn(seed: int, count: int, start: int = 0) -> SplitPairs:
    """Random accuracies of people and simulators."""
    rng = np.random.default_rng(seed)
    return cells(rng.random(count).tolist(), rng.random(count).tolist(), start=start)


def with_assistant(one: SplitPairs, name: str, count: int | None = None) -> SplitPairs:
    """With the first questions' accuracies once more, of another assistant."""
    human = {(q, name): value for (q, _), value in [*one.human.items()][:count]}
    guess = {(q, name): one.predictors[FINE_TUNED][q, "gpt"] for q, _ in human}
    return SplitPairs({**one.human, **human}, {FINE_TUNED: {**one.predictors[FINE_TUNED], **guess}})


def intervals_of(
    splits: list[SplitPairs], told: Resampling | None = None, answers: Sequence[Answer] = ()
) -> dict[tuple[str, str], Bound]:
    draws = Draws([pair for split in splits for pair in split.human], answers, told or Resampling(2000))
    pairs = [draws.predictor_pairs(split.human, split.predictors[FINE_TUNED]) for split in splits]
    return predictor_intervals(draws, pairs)


def test_the_interval_of_a_mean_is_student_s() -> None:
    # A bias is a mean of differences: +- t(n-1) sd / sqrt(n). The plain bootstrap's spread is smaller by sqrt((n-1)/n).
    rng = np.random.default_rng(1)
    human, simulated = rng.random(12), rng.random(12)
    difference = simulated - human
    found = intervals_of([cells(human, simulated)], Resampling(20_000))["gpt", "bias"]
    error = float(difference.std(ddof=1)) / math.sqrt(12)

    assert found.standard_error == pytest.approx(error, rel=0.02)
    assert (found.high - found.low) / 2 == pytest.approx(quantile(0.95, 11) * error, rel=0.02)
    assert quantile(0.95, 11) == pytest.approx(2.201, abs=0.001)  # t table
    assert (found.high + found.low) / 2 == pytest.approx(float(difference.mean()))
    assert found.questions == 12


def test_a_question_held_out_twice_counts_as_one_question() -> None:
    # The same split twice has the same mean and holds no more questions: its interval must not shrink by sqrt(2).
    one = drawn(2, 30)
    once, twice = (intervals_of(splits)["all", "mae"] for splits in ([one], [one, one]))

    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert intervals_of([one, drawn(3, 30, start=30)])["all", "mae"].standard_error < 0.9 * once.standard_error


def test_both_assistants_of_a_question_are_drawn_together() -> None:
    # Two assistants with the same accuracies are no second sample of questions: the pooled error is that of one.
    one = drawn(3, 40)

    pooled = intervals_of([with_assistant(one, "twin")])["all", "mae"]
    few = intervals_of([with_assistant(one, "few", 4)])
    rows = ("gpt", "few", "all", "mean of assistants")
    assert [few[row, "mae"].questions for row in rows] == [40, 4, 40, 4]  # of which the degrees of freedom are
    assert pooled.standard_error == pytest.approx(intervals_of([one])["gpt", "mae"].standard_error, rel=1e-9)


def test_correlations_stay_within_one_and_are_longer_towards_zero() -> None:
    rng = np.random.default_rng(4)
    human = rng.random(15)
    found = intervals_of([cells(human, np.clip(human + rng.normal(0, 0.1, 15), 0, 1))])["gpt", "pearson"]

    assert found.low < found.high < 1
    middle = math.tanh((math.atanh(found.low) + math.atanh(found.high)) / 2)
    assert middle - found.low > found.high - middle


def workers_answers(by_worker: np.ndarray[tuple[int, int]]) -> list[Answer]:
    return [
        Answer(f"q{q:03d}", f"w{w}", "user-AI", "gpt", "", None, bool(right))
        for w, row in enumerate(by_worker)
        for q, right in enumerate(row)
    ]


SIX = workers_answers(np.array([[1] * 40] * 3 + [[0] * 40] * 3))


def test_people_who_answer_many_questions_widen_the_interval() -> None:
    # Six people answer all 40 questions; three are always right, three never: accuracy is 0.5 everywhere, so questions
    # alone show no spread, but other six people would have given anything from 0.1 to 0.9.
    split = cells([0.5] * 40, np.random.default_rng(5).random(40), people=6)
    alone, clustered = (intervals_of([split], Resampling(1000), of)["gpt", "bias"] for of in ((), SIX))

    assert alone.standard_error < 0.06
    assert clustered.standard_error == pytest.approx(0.5 / math.sqrt(5), rel=0.07)  # the unbiased variance of six means
    # Nearly all of the variance is that of six people.
    assert (clustered.high - clustered.low) / 2 == pytest.approx(2.571 * clustered.standard_error, rel=0.05)


def test_graded_answers_are_drawn_with_their_scores() -> None:
    split = cells([0.5, 0.7], [0.2, 0.4], people=4)
    scores = [(0, 0.5)] * 4 + [(1, 0.9)] * 2 + [(1, 0.5)] * 2
    answers = [Answer(f"q{q:03d}", f"w{i % 4}", "user-AI", "gpt", "", None, s) for i, (q, s) in enumerate(scores)]
    drawn = Draws(split.human, answers, Resampling(400)).accuracies_by_answer

    assert np.nanstd(drawn[:, 0]) == 0  # everybody scored 0.5
    assert np.nanmean(drawn[:, 1]) == pytest.approx(0.7, abs=0.02)
    assert np.nanstd(drawn[:, 1]) == pytest.approx(0.2 / math.sqrt(4), rel=0.25)  # binary answers: 0.23


def test_people_who_answer_once_each_are_not_clustered() -> None:
    split = cells([0.5, 1.0], [0.2, 0.4], people=2)
    answers = [Answer(f"q{i // 2:03d}", f"w{i}", "user-AI", "gpt", "", None, i != 0) for i in range(4)]
    nameless = [replace(answer, worker_id="") for answer in answers]  # not all one person

    assert [Draws(split.human, of, Resampling(100)).shares_people for of in (answers, nameless, SIX)] == [0, 0, 1]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 95 %; of 100 studies 89 to 99 hold it (99 % of the time). 1,000 studies: benchmarks/coverage.py.
    counts = coverage(World(questions=80), 100, Resampling(150), seed=11, paired=False)
    shares = {name: counter["hold"] / counter["intervals"] for name, counter in counts.items() if counter["intervals"]}

    assert len(shares) == 12
    assert min(shares.values()) >= 0.87
    assert 0.92 <= sum(shares.values()) / len(shares) <= 0.985


def test_what_has_no_interval_says_why() -> None:
    human, one = np.random.default_rng(6).random(20), drawn(9, 10)
    constant, equal, few, some = (
        intervals_of([split])
        for split in (
            cells(human, [0.5] * 20), cells(human, human), cells(human[:2], [0.1, 0.2]),
            # AI-alone accuracy of one of two assistants: a mean of the rest would be of something else.
            SplitPairs(with_assistant(one, "other").human, one.predictors),
        )
    )  # fmt: skip
    by_one = intervals_of(
        [cells([1.0, 0.0] * 10, np.linspace(0, 1, 20), people=1)], None, workers_answers(np.array([[1, 0] * 10]))
    )
    replicates = np.array([np.nan] * 10 + [0.1, 0.2] * 45)

    for found, reason in (
        (constant["gpt", "pearson"], "the metric is undefined"),
        (some["mean of assistants", "mae"], "the metric is undefined"),
        (some["other", "mae"], "the metric is undefined"),
        (equal["gpt", "mae"], "the metric is the same whichever questions are drawn"),
        (equal["gpt", "pearson"], "the metric is the same whichever questions are drawn"),
        (few["gpt", "mae"], "2 questions, 3 are needed"),
        (by_one["gpt", "mae"], "one person gave all answers: how people differ is unknown"),
        (interval(Draws((), (), Resampling(100)), "mae", 0.15, replicates, 30), "10 of 100 resamples have no value"),
    ):
        assert found == Undefined(reason)
    assert isinstance(constant["gpt", "ece"], Undefined)
    assert {type(found["gpt", "mae"]) for found in (constant, some)} == {Interval}
    assert intervals_of([]) == {}


def test_a_mean_over_questions_has_the_interval_of_its_questions() -> None:
    rng = np.random.default_rng(7)
    values = {f"q{i:03d}": float(v) for i, v in enumerate(rng.random(40))}
    draws = Draws([], (), Resampling(5000), held_out=list(values))
    found = mean_intervals(draws, {("all", FINE_TUNED, "bleu"): [values]})["all", FINE_TUNED, "bleu"]

    assert found.standard_error == pytest.approx(float(np.std(list(values.values()), ddof=1)) / math.sqrt(40), rel=0.05)
    assert mean_intervals(draws, {("all", FINE_TUNED, "bleu"): [{}]}) == {}


def test_people_who_answer_many_questions_widen_the_interval_of_a_gap() -> None:
    # Six other people with each assistant, three always right and three never: both accuracies vary by 0.25 / 6.
    answers = [*SIX, *(replace(answer, assistant="other", worker_id=f"o{answer.worker_id}") for answer in SIX)]
    values = {f"q{i:03d}": float(v) for i, v in enumerate(np.random.default_rng(8).random(40))}
    draws = Draws([(q, name) for q in values for name in ("gpt", "other")], answers, Resampling(1000))
    people, error, own = (
        ("gpt minus other", *of) for of in ((PEOPLE, "gap"), (FINE_TUNED, "gap_error"), (FINE_TUNED, "gap"))
    )
    found = mean_intervals(draws, {key: [values] for key in (people, error, own)})
    alone = found[own].standard_error

    assert alone < 0.06  # a simulator's own gap is not about people
    wide = math.sqrt(2 * 0.25 / 6 + alone**2)
    assert found[people].standard_error == pytest.approx(wide, rel=0.15)
    assert found[error].standard_error == found[people].standard_error


def test_equal_seeds_give_equal_intervals() -> None:
    study = draw_study(World(questions=40), np.random.default_rng(8))
    one, same, other = (study_intervals(study, Resampling(100, seed=seed)) for seed in (1, 1, 2))

    assert one == same != other
