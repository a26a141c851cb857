"""Input with which hardly anything can be computed: every figure says why, and no file holds a NaN or a made-up 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from tests.support.simulated_logs import ASSISTANTS, questions, study

from chatbench.core.files import read_json
from chatbench.core.records import Answer, Question, SimulatedConversation, Study
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import FINE_TUNED, PEOPLE, Predictor
from chatbench.metrics.pairs import Simulation
from chatbench.metrics.resampling import Resampling
from chatbench.metrics.split_metrics import split_metrics
from chatbench.metrics.uncertainty import score_uncertainty
from chatbench.report.tables import as_markdown
from chatbench.scoring.score_files import read_score_table, write_score_table
from chatbench.scoring.score_table import Score, ScoreTable

Chats = tuple[SimulatedConversation, ...]


def chats_of(chosen: list[Question], letter: Callable[[int, int], str | None], *, failed: bool = False) -> Chats:
    """Chats of every question and assistant; `letter` is told the question's number and the chat's index."""
    real, chats = {c.question_id: c.turns for c in study().conversations}, []
    for (number, question), assistant, index in product(enumerate(chosen), ASSISTANTS, range(5)):
        turns, end = ((), "failed") if failed else (real[question.id], "answered")
        more = {"reason": "endpoint down"} if failed else {"letter": letter(number, index)}
        name = f"{question.id}|{assistant}|{index}"
        chats.append(SimulatedConversation(name, question.id, assistant, index, turns, end, **more))
    return tuple(chats)


def mixed(number: int, index: int) -> str:
    return "B" if (number + index) % 3 else "A"


@cache
def table(case: str) -> ScoreTable:
    """Scores of two splits that are alike."""
    whole, held_out, chats = CASES[case]
    test = {question.id for question in held_out}
    split = split_metrics(whole, set(whole.questions) - test, test, [Simulation(FINE_TUNED, chats, 5)], {})
    scores = [
        Score(f"split_{number}", figure.assistant, figure.predictor, figure.metric, figure.value, figure.stratum)
        for number in range(2)
        for figure in split.metrics
    ]
    uncertainty = score_uncertainty([split] * 2, whole.answers, Resampling(100))
    return ScoreTable("tiny", ("split_0", "split_1"), 6, 4, tuple(scores), {"conversations": 5}, (), uncertainty)


def with_answers(change: Callable[[Answer], Answer]) -> Study:
    whole = study()
    return replace(whole, answers=tuple(map(change, whole.answers)))


WHOLE, HELD_OUT = study(), questions()[5:]
MIXED, RIGHT = chats_of(HELD_OUT, mixed), chats_of(HELD_OUT, lambda *_: "B")
ALL_RIGHT = with_answers(lambda a: replace(a, correct=True))
FIRST = tuple(a for a in WHOLE.answers if a.worker_id.endswith("0"))
CASES: dict[str, tuple[Study, list[Question], Chats]] = {
    "one question": (WHOLE, HELD_OUT[:1], chats_of(HELD_OUT[:1], mixed)),
    "two questions": (WHOLE, HELD_OUT[:2], chats_of(HELD_OUT[:2], mixed)),
    "people always right": (ALL_RIGHT, HELD_OUT, MIXED),
    "simulator always right": (WHOLE, HELD_OUT, RIGHT),
    "every answer invalid": (WHOLE, HELD_OUT, chats_of(HELD_OUT, lambda *_: None)),
    "all alike": (ALL_RIGHT, HELD_OUT, RIGHT),
    "every chat failed": (WHOLE, HELD_OUT, chats_of(HELD_OUT, mixed, failed=True)),
    "no chats": (WHOLE, HELD_OUT, ()),
    "no conversations of people": (replace(WHOLE, conversations=()), HELD_OUT, MIXED),
    "nobody answered": (replace(WHOLE, answers=()), HELD_OUT, MIXED),
    "one person a question": (replace(WHOLE, answers=FIRST), HELD_OUT, MIXED),
    "nobody has a name": (with_answers(lambda a: replace(a, worker_id="")), HELD_OUT, MIXED),
    "ties everywhere": (WHOLE, HELD_OUT, chats_of(HELD_OUT, lambda number, _: "AB"[number % 2])),
}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_finite_or_says_why_it_is_not_there(case: str, tmp_path: Path) -> None:
    scored = table(case)
    write_score_table(tmp_path, "tiny", scored)
    content = read_json(tmp_path / "tiny.json")

    assert json.dumps(content, allow_nan=False)
    assert "nan" not in (tmp_path / "tiny.csv").read_text().lower().replace("finance", "")
    assert read_score_table(tmp_path, "tiny").estimates() == scored.estimates()
    assert read_score_table(tmp_path, "tiny").uncertainty == scored.uncertainty
    assert "nan" not in as_markdown([scored], with_published=False).split("intervals:")[0]
    reasons = [score.value.reason for score in scored.scores if isinstance(score.value, Undefined)]
    assert all(reasons)


@pytest.mark.parametrize(
    ("case", "assistant", "predictor", "reason"),
    [
        ("one question", "gpt-4o", "fine-tuned", "1 questions, 3 are needed"),
        ("people always right", "gpt-4o", "fine-tuned", "human accuracy is the same for every question"),
        ("simulator always right", "gpt-4o", "fine-tuned", "the prediction is the same for every question"),
        ("every answer invalid", "gpt-4o", "fine-tuned", "the prediction is the same for every question"),
        ("one person a question", "all", "ceiling, 5 chats", "fewer than 3 questions have answers of two people"),
    ],
)
def test_a_correlation_that_does_not_exist_is_not_zero(case: str, assistant: str, predictor: str, reason: str) -> None:
    key = assistant, Predictor.parse(predictor), "pearson"

    assert table(case).estimates()[key].mean == Undefined(reason)
    assert isinstance(table(case).uncertainty.intervals[""].get(key, Undefined("")), Undefined)


def test_failed_chats_are_no_wrong_answers_and_invalid_ones_are_wrong_or_dropped() -> None:
    failed, invalid = (table(f"every {what}").estimates() for what in ("chat failed", "answer invalid"))

    assert ("all", FINE_TUNED, "mae") not in failed
    assert failed["all", FINE_TUNED, "failed_share"].mean == 1
    assert isinstance(failed["all", PEOPLE, "accuracy"].mean, Undefined)
    assert invalid["all", FINE_TUNED, "accuracy"].mean == 0.0
    assert ("all", Predictor.parse("fine-tuned, invalid dropped"), "accuracy") not in invalid
