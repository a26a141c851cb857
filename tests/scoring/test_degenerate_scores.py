"""Input with which hardly anything can be computed: every figure says why, and no file holds a NaN or a made-up 0."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.simulated_logs import ASSISTANTS, questions, study

from chatbench.core.files import read_json
from chatbench.core.records import Answer, Question, SimulatedConversation, Study
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import FINE_TUNED, PEOPLE, Predictor
from chatbench.metrics.pairs import Simulation
from chatbench.metrics.resampling import Resampling
from chatbench.metrics.split_metrics import SplitMetrics, split_metrics
from chatbench.metrics.uncertainty import score_uncertainty
from chatbench.report.tables import as_markdown
from chatbench.scoring.score_files import read_score_table, write_score_table
from chatbench.scoring.score_table import Score, ScoreTable

Chats = tuple[SimulatedConversation, ...]


def chats_of(
    chosen: list[Question], letter: Callable[[int, int], str | None], conversations: int = 5, *, failed: bool = False
) -> Chats:
    """Chats of every question and assistant; `letter` is told the question's number and the chat's index."""
    real = {c.question_id: c.turns for c in study().conversations}
    return tuple(
        SimulatedConversation(
            id=f"{question.id}|{assistant}|{index}",
            question_id=question.id,
            assistant=assistant,
            index=index,
            turns=() if failed else real[question.id],
            termination="failed" if failed else "answered",
            reason="endpoint down" if failed else "",
            letter=None if failed else letter(number, index),
        )
        for number, question in enumerate(chosen)
        for assistant in ASSISTANTS
        for index in range(conversations)
    )


def mixed(number: int, index: int) -> str:
    return "B" if (number + index) % 3 else "A"


def measured(whole: Study, held_out: list[Question], chats: Chats) -> list[SplitMetrics]:
    test = {question.id for question in held_out}
    return [split_metrics(whole, set(whole.questions) - test, test, [Simulation(FINE_TUNED, chats, 5)], {})] * 2


def table(splits: list[SplitMetrics], whole: Study) -> ScoreTable:
    scores = [
        Score(f"split_{number}", figure.assistant, figure.predictor, figure.metric, figure.value, figure.stratum)
        for number, split in enumerate(splits)
        for figure in split.metrics
    ]
    uncertainty = score_uncertainty(splits, whole.answers, Resampling(100))
    return ScoreTable("tiny", ("split_0", "split_1"), 6, 4, tuple(scores), {"conversations": 5}, (), uncertainty)


def with_answers(change: Callable[[Answer], Answer]) -> Study:
    whole = study()
    return replace(whole, answers=tuple(map(change, whole.answers)))


HELD_OUT = questions()[5:]
CASES: dict[str, tuple[Study, list[Question], Chats]] = {
    "one question": (study(), HELD_OUT[:1], chats_of(HELD_OUT[:1], mixed)),
    "two questions": (study(), HELD_OUT[:2], chats_of(HELD_OUT[:2], mixed)),
    "people always right": (with_answers(lambda a: replace(a, correct=True)), HELD_OUT, chats_of(HELD_OUT, mixed)),
    "simulator always right": (study(), HELD_OUT, chats_of(HELD_OUT, lambda *_: "B")),
    "every answer invalid": (study(), HELD_OUT, chats_of(HELD_OUT, lambda *_: None)),
    "all alike": (with_answers(lambda a: replace(a, correct=True)), HELD_OUT, chats_of(HELD_OUT, lambda *_: "B")),
    "every chat failed": (study(), HELD_OUT, chats_of(HELD_OUT, mixed, failed=True)),
    "no chats": (study(), HELD_OUT, ()),
    "no conversations of people": (replace(study(), conversations=()), HELD_OUT, chats_of(HELD_OUT, mixed)),
    "nobody answered": (replace(study(), answers=()), HELD_OUT, chats_of(HELD_OUT, mixed)),
    "one person a question": (
        replace(study(), answers=tuple(a for a in study().answers if a.worker_id.endswith("0"))),
        HELD_OUT,
        chats_of(HELD_OUT, mixed),
    ),
    "nobody has a name": (with_answers(lambda a: replace(a, worker_id="")), HELD_OUT, chats_of(HELD_OUT, mixed)),
    "ties everywhere": (study(), HELD_OUT, chats_of(HELD_OUT, lambda number, _: "AB"[number % 2])),
}


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for each in value.values() for n in numbers(each)]
    if isinstance(value, list):
        return [n for each in value for n in numbers(each)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_finite_or_says_why_it_is_not_there(case: str, tmp_path: Path) -> None:
    whole, held_out, chats = CASES[case]
    scored = table(measured(whole, held_out, chats), whole)
    write_score_table(tmp_path, "tiny", scored)
    content = read_json(tmp_path / "tiny.json")

    assert all(math.isfinite(number) for number in numbers(content))
    assert "nan" not in (tmp_path / "tiny.csv").read_text().lower().replace("finance", "")
    assert read_score_table(tmp_path, "tiny").estimates() == scored.estimates()
    assert read_score_table(tmp_path, "tiny").uncertainty == scored.uncertainty
    assert "nan" not in as_markdown([scored], with_published=False).split("intervals:")[0]
    reasons = [score.value.reason for score in scored.scores if isinstance(score.value, Undefined)]
    assert all(reasons)
    assert json.dumps(content, allow_nan=False)


UNDEFINED = {
    "one question": ("pearson", "1 questions, 3 are needed"),
    "people always right": ("pearson", "human accuracy is the same for every question"),
    "simulator always right": ("pearson", "the prediction is the same for every question"),
    "every answer invalid": ("pearson", "the prediction is the same for every question"),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_a_correlation_that_does_not_exist_is_not_zero(case: str) -> None:
    whole, held_out, chats = CASES[case]
    metric, reason = UNDEFINED[case]
    scored = table(measured(whole, held_out, chats), whole)

    assert scored.estimates()["gpt-4o", FINE_TUNED, metric].mean == Undefined(reason)
    assert isinstance(scored.uncertainty.intervals[""]["gpt-4o", FINE_TUNED, metric], Undefined)


def test_failed_chats_are_no_wrong_answers_and_leave_no_accuracy() -> None:
    whole, held_out, chats = CASES["every chat failed"]
    rows = table(measured(whole, held_out, chats), whole).estimates()

    assert ("all", FINE_TUNED, "mae") not in rows
    assert rows["all", FINE_TUNED, "failed_share"].mean == 1
    assert isinstance(rows["all", PEOPLE, "accuracy"].mean, Undefined)


def test_invalid_answers_are_wrong_or_dropped_and_dropped_leaves_nothing() -> None:
    whole, held_out, chats = CASES["every answer invalid"]
    rows = table(measured(whole, held_out, chats), whole).estimates()

    assert rows["all", FINE_TUNED, "accuracy"].mean == 0.0
    assert ("all", Predictor.parse("fine-tuned, invalid dropped"), "accuracy") not in rows


def test_people_who_answered_alone_have_no_ceiling() -> None:
    whole, held_out, chats = CASES["one person a question"]
    found = (
        table(measured(whole, held_out, chats), whole)
        .estimates()["all", Predictor.parse("ceiling, 5 chats"), "pearson"]
        .mean
    )

    assert found == Undefined("fewer than 3 questions have answers of two people")
