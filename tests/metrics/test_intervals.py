"""Bootstrap intervals: against textbook formulas, and on simulated studies whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.coverage import World, coverage, draw_study, study_intervals

from chatbench.core.records import Answer
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import FINE_TUNED, PEOPLE
from chatbench.metrics.pairs import Pair, Prediction, SplitPairs
from chatbench.metrics.resampling import (
    Bound,
    Draws,
    Interval,
    PredictorPairs,
    Resampling,
    interval,
    mean_intervals,
    predictor_intervals,
    quantile,
)


def all_pairs(splits: list[SplitPairs]) -> list[Pair]:
    return [pair for split in splits for pair in split.human]


def pairs_of(draws: Draws, splits: list[SplitPairs]) -> list[PredictorPairs]:
    return [draws.predictor_pairs(split.human, split.predictors[FINE_TUNED]) for split in splits]


def cells(human: list[float], simulated: list[float], people: int = 10, start: int = 0) -> SplitPairs:
    names = [(f"q{start + i:03d}", "gpt") for i in range(len(human))]
    return SplitPairs(
        {cell: Prediction(h, people) for cell, h in zip(names, human, strict=True)},
        {FINE_TUNED: {cell: Prediction(s, 10) for cell, s in zip(names, simulated, strict=True)}},
    )


def intervals_of(splits: list[SplitPairs], told: Resampling | None = None) -> dict[tuple[str, str], Bound]:
    draws = Draws(all_pairs(splits), (), told or Resampling(2000))
    return predictor_intervals(draws, pairs_of(draws, splits))


def known(bound: Bound) -> Interval:
    assert isinstance(bound, Interval), bound
    return bound


def test_the_interval_of_a_mean_is_student_s() -> None:
    # A bias is a mean of differences: +- t(n-1) sd / sqrt(n). The plain bootstrap's spread is smaller by sqrt((n-1)/n).
    rng = np.random.default_rng(1)
    human, simulated = rng.random(12), rng.random(12)
    difference = simulated - human
    found = known(intervals_of([cells(human.tolist(), simulated.tolist())], Resampling(20_000))["gpt", "bias"])
    error = float(difference.std(ddof=1)) / math.sqrt(12)

    assert found.standard_error == pytest.approx(error, rel=0.02)
    assert (found.high - found.low) / 2 == pytest.approx(quantile(0.95, 11) * error, rel=0.02)
    assert quantile(0.95, 11) == pytest.approx(2.201, abs=0.001)  # t table
    assert (found.high + found.low) / 2 == pytest.approx(float(difference.mean()))
    assert found.questions == 12


def test_a_question_held_out_twice_counts_as_one_question() -> None:
    # The same split twice has the same mean and holds no more questions: its interval must not shrink by sqrt(2).
    rng = np.random.default_rng(2)
    one = cells(rng.random(30).tolist(), rng.random(30).tolist())
    once, twice = (known(intervals_of(splits)["all", "mae"]) for splits in ([one], [one, one]))

    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    other = cells(rng.random(30).tolist(), rng.random(30).tolist(), start=30)
    assert known(intervals_of([one, other])["all", "mae"]).standard_error < 0.9 * once.standard_error


def test_both_assistants_of_a_question_are_drawn_together() -> None:
    # Two assistants with the same accuracies are no second sample of questions: the pooled error is that of one.
    rng = np.random.default_rng(3)
    one = cells(rng.random(40).tolist(), rng.random(40).tolist())
    twin = {(q, "twin"): value for (q, _), value in one.human.items()}
    twin_guess = {(q, "twin"): value for (q, _), value in one.predictors[FINE_TUNED].items()}
    both = SplitPairs({**one.human, **twin}, {FINE_TUNED: {**one.predictors[FINE_TUNED], **twin_guess}})

    pooled = known(intervals_of([both])["all", "mae"])
    assert pooled.standard_error == pytest.approx(known(intervals_of([one])["gpt", "mae"]).standard_error, rel=1e-9)


def test_correlations_stay_within_one_and_are_longer_towards_zero() -> None:
    rng = np.random.default_rng(4)
    human = rng.random(15)
    found = known(
        intervals_of([cells(human.tolist(), np.clip(human + rng.normal(0, 0.1, 15), 0, 1).tolist())])["gpt", "pearson"]
    )
    estimate = float(np.corrcoef(human, human)[0, 1])

    assert found.low < found.high < estimate
    middle = math.tanh((math.atanh(found.low) + math.atanh(found.high)) / 2)
    assert middle - found.low > found.high - middle


def workers_answers(by_worker: np.ndarray[tuple[int, int]]) -> list[Answer]:
    return [
        Answer(f"q{q:03d}", f"w{w}", "user-AI", "gpt", "", None, bool(right))
        for w, row in enumerate(by_worker)
        for q, right in enumerate(row)
    ]


def test_people_who_answer_many_questions_widen_the_interval() -> None:
    # Six people answer all 40 questions; three are always right, three never: accuracy is 0.5 everywhere, so questions
    # alone show no spread, but other six people would have given anything from 0.1 to 0.9.
    answers = workers_answers(np.array([[1] * 40] * 3 + [[0] * 40] * 3))
    simulated = np.random.default_rng(5).random(40)
    split = cells([0.5] * 40, simulated.tolist(), people=6)
    draws = Draws(split.human, answers, Resampling(1000))
    alone = known(intervals_of([split], Resampling(1000))["gpt", "bias"])
    clustered = known(predictor_intervals(draws, pairs_of(draws, [split]))["gpt", "bias"])

    assert draws.shares_people
    assert alone.standard_error < 0.06
    assert clustered.standard_error == pytest.approx(0.5 / math.sqrt(5), rel=0.07)  # the unbiased variance of six means
    # Nearly all of the variance is that of six people.
    assert (clustered.high - clustered.low) / 2 == pytest.approx(2.571 * clustered.standard_error, rel=0.05)


def test_one_person_s_answers_have_no_interval() -> None:
    answers = workers_answers(np.array([[1, 0] * 10]))
    split = cells([1.0, 0.0] * 10, np.linspace(0, 1, 20).tolist(), people=1)
    draws = Draws(split.human, answers, Resampling(1000))

    reason = "one person gave all answers: how people differ is unknown"
    assert predictor_intervals(draws, pairs_of(draws, [split]))["gpt", "mae"] == Undefined(reason)


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
    nameless = [Answer(a.question_id, "", "user-AI", "gpt", "", None, a.correct) for a in answers]

    assert not Draws(split.human, answers, Resampling(100)).shares_people
    assert not Draws(split.human, nameless, Resampling(100)).shares_people  # no id: not all one person


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 95 %; of 100 studies 89 to 99 hold it (99 % of the time). 1,000 studies: benchmarks/coverage.py.
    counts = coverage(World(questions=80), 100, Resampling(150), seed=11, paired=False)
    shares = {name: counter["hold"] / counter["intervals"] for name, counter in counts.items() if counter["intervals"]}

    assert len(shares) == 12
    assert min(shares.values()) >= 0.87
    assert 0.92 <= sum(shares.values()) / len(shares) <= 0.985


def test_what_has_no_interval_says_why() -> None:
    rng = np.random.default_rng(6)
    human = rng.random(20).tolist()
    constant = intervals_of([cells(human, [0.5] * 20)])
    equal = intervals_of([cells(human, human)])
    few = intervals_of([cells(human[:2], [0.1, 0.2])])

    assert constant["gpt", "pearson"] == Undefined("the metric is undefined")
    assert isinstance(constant["gpt", "mae"], Interval)
    assert equal["gpt", "mae"] == Undefined("the metric is the same whichever questions are drawn")
    assert equal["gpt", "pearson"] == Undefined("the metric is the same whichever questions are drawn")
    assert few["gpt", "mae"] == Undefined("2 questions, 3 are needed")
    assert isinstance(constant["gpt", "ece"], Undefined)
    assert intervals_of([]) == {}


def test_a_source_that_lacks_an_assistant_has_no_interval_for_the_mean_of_assistants() -> None:
    # AI-alone accuracy of one of two assistants: the mean is undefined, and one of the rest would be of something else.
    rng = np.random.default_rng(9)
    one = cells(rng.random(10).tolist(), rng.random(10).tolist())
    human = {**one.human, **{(q, "other"): value for (q, _), value in one.human.items()}}
    found = intervals_of([SplitPairs(human, one.predictors)])

    assert found["mean of assistants", "mae"] == Undefined("the metric is undefined")
    assert found["other", "mae"] == Undefined("the metric is undefined")
    assert isinstance(found["gpt", "mae"], Interval)


def test_an_interval_is_not_made_of_the_few_resamples_that_have_a_value() -> None:
    replicates = np.array([np.nan] * 10 + [0.1, 0.2] * 45)

    draws = Draws((), (), Resampling(100))

    assert interval(draws, "mae", 0.15, replicates, 30) == Undefined("10 of 100 resamples have no value")


def test_a_mean_over_questions_has_the_interval_of_its_questions() -> None:
    rng = np.random.default_rng(7)
    values = {f"q{i:03d}": float(v) for i, v in enumerate(rng.random(40))}
    draws = Draws([], (), Resampling(5000), held_out=list(values))
    found = known(mean_intervals(draws, {("all", FINE_TUNED, "bleu"): [values]})["all", FINE_TUNED, "bleu"])

    assert found.standard_error == pytest.approx(float(np.std(list(values.values()), ddof=1)) / math.sqrt(40), rel=0.05)
    assert mean_intervals(draws, {("all", FINE_TUNED, "bleu"): [{}]}) == {}


def test_people_who_answer_many_questions_widen_the_interval_of_a_gap() -> None:
    # Six other people with each assistant, three always right and three never: both accuracies vary by 0.25 / 6.
    rows = np.array([[1] * 40] * 3 + [[0] * 40] * 3)
    answers = workers_answers(rows)
    answers += [replace(answer, assistant="other", worker_id=f"o{answer.worker_id}") for answer in answers]
    values = {f"q{i:03d}": float(v) for i, v in enumerate(np.random.default_rng(8).random(40))}
    draws = Draws([(q, name) for q in values for name in ("gpt", "other")], answers, Resampling(1000))
    people, error, own = (
        ("gpt minus other", *of) for of in ((PEOPLE, "gap"), (FINE_TUNED, "gap_error"), (FINE_TUNED, "gap"))
    )
    found = mean_intervals(draws, {key: [values] for key in (people, error, own)})
    alone = known(found[own]).standard_error

    assert alone < 0.06  # a simulator's own gap is not about people
    wide = math.sqrt(2 * 0.25 / 6 + alone**2)
    assert known(found[people]).standard_error == pytest.approx(wide, rel=0.15)
    assert known(found[error]).standard_error == known(found[people]).standard_error


def test_an_assistant_s_interval_has_the_degrees_of_freedom_of_its_own_questions() -> None:
    rng = np.random.default_rng(10)
    many = cells(rng.random(40).tolist(), rng.random(40).tolist())
    few = {(q, "few"): value for (q, _), value in list(many.human.items())[:4]}
    guess = {(q, "few"): Prediction(float(rng.random()), 10) for q, _ in few}
    both = SplitPairs({**many.human, **few}, {FINE_TUNED: {**many.predictors[FINE_TUNED], **guess}})
    found = intervals_of([both])
    rows = ("gpt", "few", "all", "mean of assistants")

    assert [found[row, "mae"].questions for row in rows if isinstance(found[row, "mae"], Interval)] == [40, 4, 40, 4]


def test_equal_seeds_give_equal_intervals() -> None:
    study = draw_study(World(questions=40), np.random.default_rng(8))

    assert study_intervals(study, Resampling(100, seed=1)) == study_intervals(study, Resampling(100, seed=1))
    assert study_intervals(study, Resampling(100, seed=1)) != study_intervals(study, Resampling(100, seed=2))
