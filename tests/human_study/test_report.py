"""What a study says by itself: by hand, on the sample study whose truth is known, and on HALIE where it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tests.support.study_files import REPOSITORY, question, shared_data, tiny_folder

from chatbench.core.records import AiAloneScore, Answer, Conversation, Study, Turn
from chatbench.data.open_study import open_study
from chatbench.human_study.accuracy import AccuracyRow, Case, Group, Mean, Rate, advice_rows, mirror_rows, rate
from chatbench.human_study.regression import mixed_effects
from chatbench.human_study.report import StudyReport, study_footnotes, study_grids, study_report
from chatbench.human_study.report import study as step
from chatbench.metrics.agreement import Undefined
from chatbench.report.grids import markdown
from chatbench.sample.participants import STUDY_HABITS, answer_alone, draw_person
from chatbench.sample.participants import chat as hold_chat
from chatbench.sample.study import SampleSettings, SampleStudy, letter_only_chance, make_sample

QUESTIONS = [question(number) for number in range(4)]


def answers(
    number: int, right: str, *, kind: str = "user-AI", assistant: str = "strong", condition: str = "answer-first"
) -> list[Answer]:
    """One answer a person; `right` says with 1 and 0 who is right, the persons being w0, w1, ..."""
    return [
        Answer(QUESTIONS[number].id, f"w{person}", kind, assistant, condition, None, flag == "1")  # type: ignore[arg-type]
        for person, flag in enumerate(right)
    ]


def study_of(given: list[list[Answer]], alone: list[AiAloneScore] | None = None) -> Study:
    rows = tuple(answer for group in given for answer in group)
    return Study("by hand", {q.id: q for q in QUESTIONS}, (), rows, tuple(alone or ()))


def row_of(report: StudyReport, method: str, assistant: str, condition: str = "all") -> AccuracyRow:
    group = Group(method, assistant, condition)
    return next(row for row in report.accuracies if (row.group, row.subset) == (group, "all"))


# By hand


def test_each_question_weighs_the_same_and_the_error_is_over_questions() -> None:
    # 1/4 and 1/1: over answers the accuracy would be 2/5, the likely mistake.
    report = study_report(study_of([answers(0, "1000"), answers(1, "1")]))
    row = row_of(report, "user-AI", "strong")

    assert row.accuracy.value == pytest.approx(0.625)
    assert row.accuracy.standard_error == pytest.approx(math.sqrt(2 * 0.375**2) / math.sqrt(2))
    assert (row.accuracy.questions, row.answers) == (2, 5)


def test_names_that_are_all_are_not_the_total() -> None:
    # Each question counted twice in the total, which made standard errors too small.
    named = [
        replace(answer, condition="all" if n < 2 else "answer-first", assistant="all" if n % 2 else "strong")
        for n, answer in enumerate([*answers(0, "1000"), *answers(1, "1101")])
    ]
    study = study_of([named], [AiAloneScore(QUESTIONS[0].id, "all", "free_text", 50, 1.0)])
    subsets = dict(zip(study.questions, ("all", "algebra", "algebra", "algebra"), strict=True))
    questions = {name: replace(one, subset=subsets[name]) for name, one in study.questions.items()}
    report = study_report(replace(study, questions=questions))
    whole, *of_subsets = (row for row in report.accuracies if row.group == Group("user-AI", "strong", "all"))

    assert (whole.accuracy.questions, whole.answers) == (2, 4)
    assert [(row.subset, row.answers) for row in of_subsets] == [('"all"', 2), ("algebra", 2)]
    assert row_of(report, "user-AI", '"all"').answers == 4
    assert row_of(report, "user-AI", '"all"', '"all"').answers == 1
    assert [row.assistant for row in report.gaps if row.condition == "all"] == ['"all"']
    (first, *_) = study_grids(report)
    assert first.header == ("", "all", '"all"', "algebra")
    # One subset, such as that of imported studies, is the total.
    assert {row.subset for row in study_report(study).accuracies} == {"all"}


def test_gaps_are_taken_question_by_question_over_those_that_both_have() -> None:
    alone = [AiAloneScore(QUESTIONS[n].id, "strong", "free_text", 50, right) for n, right in enumerate((1.0, 0.0))]
    report = study_report(study_of([answers(0, "1000"), answers(1, "11"), answers(2, "00")], alone))
    gap = report.gaps[0]

    assert gap.difference == Mean(pytest.approx((0.75 - 1.0) / 2), pytest.approx(0.875), 2)
    assert gap.absolute.value == pytest.approx(0.875)
    assert gap.absolute_by_subset == pytest.approx(0.125)


def test_the_gap_between_assistants_is_paired_by_question() -> None:
    right = {"strong": ("1111", "0000"), "weak": ("1110", "0000")}
    given = [answers(n, people[n], assistant=name) for name, people in right.items() for n in (0, 1)]
    found = study_report(study_of(given)).model_gaps

    assert [(row.first, row.second, row.method) for row in found] == [("strong", "weak", "user-AI")]
    # Differences 1/4 and 0, though accuracies 1 and 0 lie far apart.
    assert found[0].difference == Mean(pytest.approx(0.125), pytest.approx(0.125), 2)


def test_corrected_and_misled_need_the_same_persons_answer_from_before() -> None:
    before = answers(0, "0011", kind="user-alone")
    elsewhere = answers(1, "00", kind="user-alone", condition="direct-to-AI")
    after = [answers(0, "1001"), answers(1, "11", condition="direct-to-AI")]
    (row,) = advice_rows(study_of([before, elsewhere, *after]))

    assert (row.corrected.yes, row.corrected.cases) == (1, 2)
    assert (row.misled.yes, row.misled.cases) == (1, 2)


def test_a_rate_over_few_questions_is_less_sure_than_its_cases_suggest() -> None:
    # Two questions, all yes and all no: as if there were two cases, not forty.
    cases = [Case(f"q{n % 2}", f"w{n}", n % 2 == 0) for n in range(40)]
    assert rate(cases, "").standard_error == pytest.approx(math.sqrt(2 * 2 * 10**2 / 40**2))
    assert rate([], "nobody was wrong alone").value == Undefined("nobody was wrong alone")
    assert isinstance(rate(cases[:1], "").standard_error, Undefined)


def test_the_mirror_rate_is_of_chats_and_by_condition() -> None:
    turns = (Turn("user", QUESTIONS[0].text), Turn("assistant", "The answer is B."))
    chats = [
        Conversation(f"c{n}", QUESTIONS[0].id, f"w{n}", "strong", condition, turns, letter)
        for n, (condition, letter) in enumerate([("direct-to-AI", "B"), ("direct-to-AI", "C"), ("answer-first", "B")])
    ]
    study = Study("s", {q.id: q for q in QUESTIONS}, tuple(chats), ())
    found = {(row.assistant, row.condition): row.mirror.value for row in mirror_rows(study)}

    assert found == {("all", "all"): 2 / 3, ("strong", "answer-first"): 1.0, ("strong", "direct-to-AI"): 0.5}


NO_SCORES, NO_CHATS, NO_CHANGE = "no AI-alone scores", "no chats", "nobody answered alone before chatting"
ONE_CONDITION = "one condition only (answer-first)"


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ([], ["no answers with an assistant", "no answers alone", NO_SCORES, NO_CHANGE, NO_CHATS]),
        ([answers(0, "1")],
         ["no answers alone", NO_SCORES, ONE_CONDITION, NO_CHANGE, NO_CHATS, "one assistant only (strong)"]),
        ([answers(0, "1"), answers(0, "1", kind="user-alone"), answers(1, "1", assistant="weak")],
         [NO_SCORES, ONE_CONDITION, NO_CHATS]),
    ],
)  # fmt: skip
def test_what_a_study_lacks_is_said(given: list[list[Answer]], lacks: list[str]) -> None:
    report = study_report(study_of(given))

    assert [reason.startswith(said) for reason, said in zip(report.missing, lacks, strict=True)] == [True] * len(lacks)
    assert study_footnotes(report)[-len(lacks) :] == [f"not in this study: {reason}" for reason in report.missing]


def test_one_question_gives_no_error_and_no_correlation_but_reasons() -> None:
    alone = [AiAloneScore(QUESTIONS[0].id, "strong", "free_text", 50, 0.5)]
    report = study_report(study_of([answers(0, "10")], alone))
    (correlation,), (regression,) = report.correlations, report.regressions
    error = row_of(report, "user-AI", "strong").accuracy.standard_error

    for value in (error, correlation.correlation, correlation.interval, regression.fit):
        assert isinstance(value, Undefined)
    assert study_grids(report)


def many(right: str, questions: int = 6, people: int = 6) -> list[Answer]:
    return [
        Answer(f"q{q}", f"w{w}", "user-AI", "a", "c", None, right[(q + w) % len(right)] == "1")
        for q in range(questions)
        for w in range(people)
    ]


INFINITE = "its effect has no finite estimate"


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [
        ([], [], "no answers"),
        (many("1", 1, 9), [], "1 questions and 9 people, 5 of each are needed"),
        (many("1", 4, 9), [], "4 questions and 9 people, 5 of each are needed"),
        (many("1"), [], "all answers are right"),
        (many("0"), [], "all answers are wrong"),
        (many("10"), [("same", [1.0] * 36)], "the fixed effects cannot be told apart"),
        (many("10"), [("b, against a", [float(answer.correct) for answer in many("10")])],
         f"all answers with b are right: {INFINITE}"),
        (many("100"), [("c, against a", [float((n // 6 + n % 6) % 3 == 1) for n in range(36)])],
         f"all answers with c are wrong: {INFINITE}"),
        (many("1010110", 7, 7) + many("1", 7, 2), [("b, against a", [1.0] * 49 + [0.0] * 14)],
         f"all answers with a are right: {INFINITE}"),
    ],
)  # fmt: skip
def test_no_regression_says_why(rows: list[Answer], columns: list[tuple[str, list[float]]], reason: str) -> None:
    assert mixed_effects(rows, columns) == Undefined(reason)


# The sample study, whose truth is known

SURE = 3.0
"""Standard errors within which a true value must lie: with this many checks 1.96 would fail by chance."""


@pytest.fixture(scope="module")
def sample() -> SampleStudy:
    return make_sample(SampleSettings(questions=80, chats=10))


@pytest.fixture(scope="module")
def report(sample: SampleStudy) -> StudyReport:
    return study_report(sample.study)


def holds(mean: Mean | Rate, truth: float, error_of_truth: float = 0.0) -> bool:
    return abs(mean.value - truth) < SURE * math.hypot(mean.standard_error, error_of_truth)


def test_accuracies_and_the_gap_between_assistants_are_recovered(sample: SampleStudy, report: StudyReport) -> None:
    rng, truth = Random(7), {}
    for name in sample.study.assistants:
        chances = [letter_only_chance(p, name, "letter_only_few_shot") for p in sample.problems.values()]
        alone = 0.98 * sum(chances) / len(chances)  # 2 % of the replies are invalid
        assert holds(row_of(report, "AI alone, letter_only_few_shot", name, "").accuracy, alone)
        # 60 fresh people per question who chat at once
        right = [
            [
                hold_chat(draw_person("", STUDY_HABITS, rng), problem, name, STUDY_HABITS, rng).letter
                == problem.question.answer
                for _ in range(60)
            ]
            for problem in sample.problems.values()
        ]
        truth[name] = float(np.mean(right))
        error = math.sqrt(np.var(right, axis=1).mean() / np.size(right))
        assert holds(row_of(report, "user-AI", name).accuracy, truth[name], error)
    gap = next(row for row in report.model_gaps if (row.method, row.condition) == ("user-AI", "all"))
    assert holds(gap.difference, truth[gap.first] - truth[gap.second], 0.01)


def test_the_regression_recovers_difficulty_and_ability(sample: SampleStudy, report: StudyReport) -> None:
    # By construction log odds = ability - difficulty with abilities of standard deviation 1.
    fit = next(one.fit for one in report.regressions if one.method == "user alone")
    difficulty = np.array([problem.difficulty for problem in sample.problems.values()])
    truths = [(fit.question_spread, difficulty.std(ddof=1)), (fit.person_spread, 1.0)]

    assert abs(fit.effects[0].estimate + difficulty.mean()) < 1.96 * fit.effects[0].standard_error
    for spread, truth in truths:
        assert spread.interval[0] < truth < spread.interval[1]
    # Errors that treat effects as independent would be less than half of this.
    assert fit.effects[0].standard_error > 0.1


def test_corrected_and_misled_rates_are_recovered(sample: SampleStudy, report: StudyReport) -> None:
    rng, counts = Random(3), {True: [0, 0], False: [0, 0]}
    for problem in sample.problems.values():
        for _ in range(40):
            person = draw_person("", STUDY_HABITS, rng)
            own = answer_alone(person, problem, rng)
            after = hold_chat(person, problem, "scripted-strong", STUDY_HABITS, rng, own).letter
            before_right = own == problem.question.answer
            counts[before_right][0] += (after == problem.question.answer) != before_right
            counts[before_right][1] += 1
    row = next(row for row in report.advice if row.assistant == "scripted-strong")
    for found, (yes, cases) in ((row.corrected, counts[False]), (row.misled, counts[True])):
        assert holds(found, yes / cases, 0.02)


# Files


def test_the_step_writes_what_it_prints(tmp_path: Path) -> None:
    report = step(tiny_folder(tmp_path / "tiny"), json=tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())

    assert content["study"] == "tiny"
    assert len(content["accuracies"]) == len(report.accuracies)
    assert content["regressions"][0]["fit"] == {"undefined": report.regressions[0].fit.reason}  # type: ignore[union-attr]
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_the_page_shows_what_is_recomputed_from_halie() -> None:
    report = study_report(open_study(shared_data("halie")))
    found = {row.group.assistant: row.accuracy.value for row in report.accuracies if row.subset == "all"}

    assert found.keys() == {"all", "Davinci", "InstructBabbage", "InstructDavinci", "Jumbo"}
    assert found["InstructDavinci"] == max(found.values(), key=float)  # type: ignore[arg-type]
    assert [reason.partition(":")[0] for reason in report.missing] == [
        "no AI-alone scores",
        "one condition only (direct-to-AI)",
        "nobody answered alone before chatting (answer-first)",
    ]
    page = (REPOSITORY / "docs" / "study-report.md").read_text(encoding="utf-8")
    assert [grid.title for grid in study_grids(report) if markdown(grid) not in page] == []
