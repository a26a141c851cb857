"""What a simulator has to beat: the regression on user-alone and AI-alone accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from chatbench.core.records import AiAloneScore, Answer, Question, Study
from chatbench.metrics.baselines import baseline_predictions, regression_predictions
from chatbench.metrics.names import CONSTANT, REGRESSION, USER_ALONE, ai_alone

PEOPLE = 20


def study(rule: tuple[float, float, float] = (0.1, 0.5, 0.25), questions: int = 40) -> Study:
    """User-AI accuracy is exactly intercept + a * user alone + b * AI alone, where it can be made of 20 people."""
    rng = np.random.default_rng(1)
    answers: list[Answer] = []
    scores = []
    for i in range(questions):
        alone, ai = 2 * rng.integers(0, 11), 4 * rng.integers(0, 6)
        together = round(rule[0] * PEOPLE + rule[1] * alone + rule[2] * ai)
        for kind, right in (("user-alone", alone), ("user-AI", together)):
            answers += [
                Answer(f"q{i}", f"w{n}", kind, "gpt", "", None, n < right)  # type: ignore[arg-type]
                for n in range(PEOPLE)
            ]
        scores.append(AiAloneScore(f"q{i}", "gpt", "free_text", PEOPLE, float(ai) / PEOPLE))
    texts = {f"q{i}": Question(f"q{i}", "s", "?", ("1", "2", "3", "4"), "A") for i in range(questions)}
    return Study("rule", texts, (), tuple(answers), tuple(scores))


TRAIN, HELD_OUT = {f"q{i}" for i in range(24)}, {(f"q{i}", "gpt") for i in range(24, 40)}


def test_the_regression_finds_the_rule_and_applies_it_to_questions_that_it_did_not_see() -> None:
    found = regression_predictions(study(), TRAIN, HELD_OUT)
    whole = study()
    real = {
        cell: sum(a.correct for a in whole.answers if a.question_id == cell[0] and a.kind == "user-AI") / PEOPLE
        for cell in HELD_OUT
    }

    assert found.keys() == HELD_OUT
    assert {cell: each.accuracy for cell, each in found.items()} == pytest.approx(real, abs=1e-9)
    assert next(iter(found.values())).count == 24


def test_held_out_answers_with_the_assistant_are_never_looked_at() -> None:
    # The same study with every held-out user-AI answer wrong gives the same predictions.
    whole = study()
    spoilt = tuple(
        Answer(a.question_id, a.worker_id, a.kind, a.assistant, "", None, False)
        if a.kind == "user-AI" and a.question_id not in TRAIN
        else a
        for a in whole.answers
    )
    other = Study("spoilt", whole.questions, (), spoilt, whole.ai_alone)

    assert baseline_predictions(other, TRAIN, HELD_OUT) == baseline_predictions(whole, TRAIN, HELD_OUT)


def test_predictions_are_shares() -> None:
    # 0.9 + 0.5 * 1 + 0.25 * 1 > 1: people cannot be right more often than always.
    found = regression_predictions(study(rule=(0.0, 0.9, 0.9)), TRAIN, HELD_OUT)

    assert all(0 <= each.accuracy <= 1 for each in found.values())


def test_without_one_of_the_two_or_enough_questions_there_is_no_regression() -> None:
    whole = study()
    no_ai = Study("no ai", whole.questions, (), whole.answers)
    together = tuple(answer for answer in whole.answers if answer.kind == "user-AI")
    never_alone = Study("never alone", whole.questions, (), together, whole.ai_alone)

    assert regression_predictions(no_ai, TRAIN, HELD_OUT) == {}
    assert regression_predictions(never_alone, TRAIN, HELD_OUT) == {}
    assert regression_predictions(whole, {"q0", "q1", "q2", "q3", "q4"}, HELD_OUT) == {}
    assert set(baseline_predictions(no_ai, TRAIN, HELD_OUT)) == {CONSTANT, USER_ALONE}
    assert set(baseline_predictions(whole, TRAIN, HELD_OUT)) == {
        CONSTANT, REGRESSION, USER_ALONE, ai_alone("free_text"),
    }  # fmt: skip
