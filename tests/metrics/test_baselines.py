"""What a simulator has to beat: the regression on user-alone and AI-alone accuracy; and the published results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chatbench.core.records import AiAloneScore, Answer, Question, Study
from chatbench.metrics.baselines import baseline_predictions, published, regression_predictions
from chatbench.metrics.names import CONSTANT, FINE_TUNED, REGRESSION, USER_ALONE, ai_alone
from chatbench.report.tables import as_markdown, published_grid, score_grids
from chatbench.scoring.score_table import Score, ScoreTable

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


WHOLE = study()
TRAIN, HELD_OUT = {f"q{i}" for i in range(24)}, {(f"q{i}", "gpt") for i in range(24, 40)}


def test_the_regression_finds_the_rule_and_applies_it_to_questions_that_it_did_not_see() -> None:
    found = regression_predictions(WHOLE, TRAIN, HELD_OUT)
    real = {
        cell: sum(a.correct for a in WHOLE.answers if a.question_id == cell[0] and a.kind == "user-AI") / PEOPLE
        for cell in HELD_OUT
    }

    assert {cell: each.accuracy for cell, each in found.items()} == pytest.approx(real, abs=1e-9)
    assert next(iter(found.values())).count == 24
    # 0.9 + 0.9 > 1: people cannot be right more often than always.
    steep = regression_predictions(study(rule=(0.0, 0.9, 0.9)), TRAIN, HELD_OUT)
    assert max(each.accuracy for each in steep.values()) == 1


def test_held_out_answers_with_the_assistant_are_never_looked_at() -> None:
    # The same study with every held-out user-AI answer wrong gives the same predictions.
    spoilt = tuple(
        replace(a, correct=False) if a.kind == "user-AI" and a.question_id not in TRAIN else a for a in WHOLE.answers
    )

    other = baseline_predictions(replace(WHOLE, answers=spoilt), TRAIN, HELD_OUT)
    assert other == baseline_predictions(WHOLE, TRAIN, HELD_OUT)


def test_without_one_of_the_two_or_enough_questions_there_is_no_regression() -> None:
    no_ai = replace(WHOLE, ai_alone=())
    never_alone = replace(WHOLE, answers=tuple(answer for answer in WHOLE.answers if answer.kind == "user-AI"))

    assert regression_predictions(no_ai, TRAIN, HELD_OUT) == {}
    assert regression_predictions(never_alone, TRAIN, HELD_OUT) == {}
    assert regression_predictions(WHOLE, {"q0", "q1", "q2", "q3", "q4"}, HELD_OUT) == {}
    assert set(baseline_predictions(no_ai, TRAIN, HELD_OUT)) == {CONSTANT, USER_ALONE}
    every = {CONSTANT, REGRESSION, USER_ALONE, ai_alone("free_text")}
    assert set(baseline_predictions(WHOLE, TRAIN, HELD_OUT)) == every


# Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114): correlation / mean absolute error with GPT-4o and Llama-3.1-8b.
OF_THE_PAPER = {
    "letter-only few-shot": ((0.30, 0.31), (0.21, 0.40)),
    "free-text": ((0.49, 0.20), (0.61, 0.20)),
    "IQA-EVAL": ((0.50, 0.18), (0.43, 0.22)),
    "two-step, GPT-4o not fine-tuned": ((0.41, 0.19), (0.39, 0.23)),
    "two-step, GPT-4o fine-tuned": ((0.63, 0.15), (0.65, 0.17)),
}


def test_the_shipped_figures_are_those_of_the_paper_and_stand_in_a_table_of_their_own_that_says_so() -> None:
    table = published()
    own = ScoreTable("tiny", ("split_0",), 6, 4, (Score("split_0", "gpt-4o", FINE_TUNED, "mae", 0.25),), {})
    text = as_markdown([own])

    assert table.assistants == ("gpt-4o", "llama-3.1-8b")
    assert {row.method: tuple(row.metrics[name] for name in table.assistants) for row in table.rows} == OF_THE_PAPER
    assert "2504.07114" in table.source
    assert published_grid().header[0] == "published, not computed here"
    assert not any("IQA-EVAL" in row[0] for grid in score_grids([own]) for row in grid.rows)
    assert text.index("fine-tuned") < text.index("Reference: published scores") < text.index("IQA-EVAL")
    assert "IQA-EVAL" not in as_markdown([own], with_published=False)
