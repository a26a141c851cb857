"""Agreement by the probabilities of the letters beside agreement by the sampled letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.simulated_logs import prepared, rewrite_log, study, write_log

from chatbench.core.files import read_json, write_json
from chatbench.core.records import EMPTY_TURN, SimulatedConversation
from chatbench.metrics.names import EVERY_ASSISTANT, FINE_TUNED, Predictor
from chatbench.metrics.pairs import Prediction, Simulation, expected_predictions
from chatbench.metrics.resampling import Resampling
from chatbench.metrics.split_metrics import split_pairs
from chatbench.report.tables import as_markdown
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.simulation.log import settings_path

EXPECTED = Predictor("fine-tuned", expected=True)
CELL = ("elementary_mathematics-redux-4", "gpt-4o")


def chat(index: int, termination: str, expected: float | None, reason: str = "") -> SimulatedConversation:
    letter = "B" if termination in ("answered", "forced") else None
    end = {"termination": termination, "reason": reason, "letter": letter, "expected_correct": expected}
    return SimulatedConversation(f"{index}", *CELL, index, (), **end)  # type: ignore[arg-type]


def test_each_answer_counts_with_its_probability_and_a_chat_without_one_as_wrong() -> None:
    # (0.5 + 0.9 + 0 + 0) / 4; the one that an endpoint broke off is no answer, as in the sampled accuracy.
    ends = [("answered", 0.5, ""), ("forced", 0.9, ""), ("no_answer", None, ""), ("failed", None, EMPTY_TURN)]
    chats = [chat(index, *end) for index, end in enumerate([*ends, ("failed", None, "HTTP 500")])]

    assert expected_predictions(chats, {CELL}) == {CELL: Prediction(pytest.approx(0.35), 4)}
    assert expected_predictions(chats, set()) == {}
    # Of unknown probability: the mean of the others alone would be another quantity, the likely mistake.
    assert expected_predictions([*chats, chat(5, "answered", None)], {CELL}) == {}


def test_the_sampled_figures_stay_as_they_are_and_the_expected_ones_stand_beside_them() -> None:
    known, unknown = (
        split_pairs(study(), set(), {CELL[0]}, [Simulation(FINE_TUNED, tuple(chats), 2)]).predictors
        for chats in ([chat(index, "answered", probability) for index in range(2)] for probability in (0.25, None))
    )

    assert known[FINE_TUNED][CELL].accuracy == 1.0
    assert known[EXPECTED][CELL] == Prediction(0.25, 2)
    assert EXPECTED not in unknown


def test_the_table_has_both_and_its_signature_says_so(tmp_path: Path) -> None:
    place = prepared(tmp_path, splits=1)
    log = write_log(place, "split_0")

    def with_probabilities(row: dict[str, Any]) -> dict[str, Any]:
        right = 0.6 if row["letter"] == "B" else 0.1
        read = {"answering": 1.0, "letters": [0.1, right, 0.1, 0.1]}
        return {**row, "expected_correct": right, "answer_probabilities": [read]}

    rewrite_log(log, with_probabilities)
    settings = read_json(settings_path(log))
    settings["settings"]["expected_answers"] = True  # type: ignore[index]
    write_json(settings_path(log), settings)

    table = eval_chatbench("tiny", workspace=place, resampling=Resampling(100, 0.95, 0))

    values = {row: each["split_0"] for row, each in table.values().items()}
    sampled, expected = (values[EVERY_ASSISTANT, source, "accuracy"] for source in (FINE_TUNED, EXPECTED))
    assert expected == pytest.approx(0.1 + 0.5 * sampled)
    assert values[EVERY_ASSISTANT, EXPECTED, "pearson"] == pytest.approx(values[EVERY_ASSISTANT, FINE_TUNED, "pearson"])
    assert table.signature["simulator"]["expected_answers"] is True  # type: ignore[index]
    assert "fine-tuned, expected answers" in as_markdown([table])
