"""The plan of a study: its formula by hand, agreement with simulated power, components of a study, and divisions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer, Question, Study
from chatbench.estimation.study_plan import Components, Design, components_of, divide, plan_rows, read_numbers
from chatbench.metrics.agreement import Undefined

TYPICAL = Components(0.04, 0.01, 0.17)


def test_the_variance_is_that_of_the_docstring() -> None:
    # 20 people x 5 answers, 100 questions: 0.01/20 + (0.17 + 0.04)/100 + 0.04/100; correlation 0.3 knows 0.09 x 0.22.
    design = Design(TYPICAL, 100, 5)

    assert design.variance(20) == pytest.approx(0.0005 + 0.0021 + 0.0004)
    assert replace(design, correlation=0.3).variance(20) == pytest.approx(0.0030 - 0.09 * 0.22 / 100)
    assert design.variance(20, difference=True) == pytest.approx(2 * 0.0026)
    assert replace(design, correlation=1.0).known == 0.04  # nobody knows more of a question than its accuracy


def test_the_fewest_people_are_enough_and_one_fewer_is_not() -> None:
    design = Design(TYPICAL, 200, 5, 0.35)
    wide, told = design.people_for_half_width(0.05), design.people_for_power(0.1, 0.8)

    assert design.half_width(wide) <= 0.05 < design.half_width(wide - 1)
    assert design.power(told, 0.1) >= 0.8 > design.power(told - 1, 0.1)
    assert wide < (replace(design, correlation=0.0).people_for_half_width(0.05) or 0)  # type: ignore[operator]  # an int
    few = Design(TYPICAL, 20, 5).people_for_half_width(0.05)
    assert "20 questions are too few for ±0.05: more than 61 are needed" in str(few)


@pytest.mark.parametrize("correlation", [0.0, 0.35])
def test_power_agrees_with_simulation_within_two_points(correlation: float) -> None:
    # Normal effects, random questions for each person, the simulator's f explains R of the question's effect. 20,000
    # studies: the error of a simulated power of 0.8 is 0.3 points. Without the person's variance it would be 9 off.
    design, d = Design(TYPICAL, 100, 5, correlation), 0.1
    people = design.people_for_power(d, 0.8)
    rng, studies = np.random.default_rng(0), 20_000

    def estimates() -> np.ndarray:
        unknown = rng.normal(0, math.sqrt(TYPICAL.question - design.known), (studies, people, 5)).mean(axis=(1, 2))
        person = rng.normal(0, math.sqrt(TYPICAL.person), (studies, people)).mean(axis=1)
        return unknown + person + rng.normal(0, math.sqrt(TYPICAL.rest / people / 5), studies)

    found = np.abs(d + estimates() - estimates()) > 1.959964 * math.sqrt(design.variance(people, difference=True))
    assert np.mean(found) == pytest.approx(design.power(people, d), abs=0.02)
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


def test_components_of_a_study_are_those_that_made_it() -> None:
    rng = np.random.default_rng(3)
    questions = {f"q{n}": Question(f"q{n}", "s", f"text {n}", ("1", "2", "3", "4"), "A") for n in range(150)}
    hardness, answers = dict(zip(questions, rng.normal(0, 0.2, 150), strict=True)), []
    for assistant, level in (("a", 0.5), ("b", 0.7)):  # the difference between assistants is no variance of answers
        for person in range(300):
            ability = rng.normal(0, 0.1)
            for q in rng.choice(list(questions), 8, replace=False):
                right = bool(rng.random() < np.clip(level + hardness[q] + ability, 0, 1))
                answers.append(Answer(str(q), f"{assistant}{person}", "user-AI", assistant, "", None, right))
    found = components_of(Study("s", questions, (), tuple(answers)))

    assert (found.question, found.person) == (pytest.approx(0.035, abs=0.012), pytest.approx(0.01, abs=0.006))
    assert found.total == pytest.approx(0.235, abs=0.012)
    once = tuple(replace(a, worker_id=str(n)) for n, a in enumerate(answers))
    assert isinstance(components_of(Study("s", questions, (), once)), Undefined)
    assert isinstance(components_of(Study("s", questions, (), ())), Undefined)
    right = tuple(replace(answer, correct=True) for answer in answers)
    assert components_of(Study("s", questions, (), right)) == Undefined("the study's answers show no variance")


def test_people_are_divided_where_training_still_pays_and_not_where_it_does_not() -> None:
    # Questions that differ much, a simulator of five people: twenty more teach it more than they would correct.
    uneven = Components(0.15, 0.0, 0.08)
    best, all_correct = divide(Design(uneven, 4000, 5, 0.2), 400, trained_on=5)
    assert 0 < best.training < 200
    assert best.half_width < all_correct.half_width
    assert best.training + best.correction == all_correct.correction == 400
    assert divide(Design(TYPICAL, 400, 5, 0.42), 100, trained_on=400)[0].training == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Components(-0.1, 0.1, 0.1), "--components -0.1,0.1,0.1"),
        (lambda: Components(0, 0, 0), "--components 0,0,0"),
        (lambda: Components(math.nan, 0.1, 0.1), "--components nan,0.1,0.1"),
        (lambda: Components(0.1, math.inf, 0.1), "--components 0.1,inf,0.1"),
        (lambda: read_numbers(["²"]), "--answers-per-person ²"),
        (lambda: Design(TYPICAL, 1), "--questions 1"),
        (lambda: Design(TYPICAL, 4, 5), "5 answers per person, but only 4 questions"),
        (lambda: Design(TYPICAL, 10, 5, 1.2), "--correlation 1.2"),
        (lambda: Design(TYPICAL, 10).people_for_half_width(0), "--half-width 0"),
        (lambda: Design(TYPICAL, 10).people_for_power(0.1, 1.0), "--power 1.0"),
        (lambda: divide(Design(TYPICAL, 10), 50, 20), "cannot divide --people 50"),
        (lambda: plan_rows([Design(TYPICAL, 90)], half_width=0.05, difference=0.1, power=0.8, price=-3), "--price -3"),
    ],
)
def test_plans_that_cannot_be_are_refused(make: object, said: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        make()  # type: ignore[operator]  # a lambda
    assert said in str(caught.value)


def test_the_command_prints_people_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chatbench.cli import main

    plan = ["plan-study", "--components", "0.04,0.01,0.17", "--answers-per-person", "5", "--price", "2"]
    options = ["--correlation", "0.3", "--people", "90", "--trained-on", "50"]
    assert main([*plan, "--questions", "200", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    alone, helped = (Design(TYPICAL, 200, 5, rho).people_for_half_width(0.05) for rho in (0.0, 0.3))
    assert f"{alone} (${10 * alone:,})" in said
    assert f"{helped} ($" in said
    assert "of 90 people, 0 for fine-tuning and 90 for correction" in said
    # A study of 8 questions was planned as one of 120.
    study = tmp_path / "study"
    assert main(["sample", str(study), "--questions", "8", "--chats", "4"]) == 0
    for source, count in ((["--study", str(study)], 8), (["--components", "0.04,0.01,0.17"], 120)):
        capsys.readouterr()
        assert main(["plan-study", *source, "--half-width", "0.3"]) == 0
        assert f"{count} questions, each person" in capsys.readouterr().out
    few = ["--components", "0.001,0.01,0.17", "--questions", "8"]
    assert main(["plan-study", *few]) == 0  # the default has 10 answers per person, too
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert rows[:2] == ["1", "5"]
    assert "10" not in rows
    for bad, why in (
        ([], "needs either --study or --components"),
        (["--components", "1,2"], "three variances"),
        (["--components", "0.04,0.01,0.17", "--answers-per-person", "x"], "--answers-per-person x"),
        (["--components", "0.04,0.01,0.17", "--trained-on", "100"], "--trained-on without --people"),
        ([*few, "--answers-per-person", "5,10"], "10 answers per person, but only 8 questions"),
    ):
        assert main(["plan-study", *bad]) == 2
        assert why in capsys.readouterr().err
