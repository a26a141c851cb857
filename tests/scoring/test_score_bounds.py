"""Floors and ceilings of scores."""

from __future__ import annotations

import pytest

from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.names import (
    BASE_MODEL,
    CONSTANT,
    FINE_TUNED,
    PEOPLE,
    USER_ALONE,
    MetricKey,
    Predictor,
    ai_alone,
    ceiling,
)
from chatbench.report.tables import footnotes, way_text
from chatbench.scoring.score_table import Bounds, Score, ScoreTable, bounds

DROPPED, FIRST = Predictor("fine-tuned", invalid="dropped"), Predictor("fine-tuned", chats=1)
SIGNATURE = {"conversations": 10, "base_conversations": 1}
Row = tuple[float | None, ...]


def values(**of: dict[Predictor, Value | Row]) -> dict[MetricKey, dict[str, Value]]:
    """Per metric the values of one split, or of several (None: undefined), by source, for one assistant."""
    rows = {("gpt", source, metric): value for metric, row in of.items() for source, value in row.items()}
    return {
        key: {
            f"split_{n}": Undefined("no value") if value is None else value
            for n, value in enumerate(row if isinstance(row, tuple) else (row,))
        }
        for key, row in rows.items()
    }


def test_the_floor_is_the_best_baseline_by_name_whichever_way_is_better() -> None:
    free_text = ai_alone("free text")
    correlations = {FINE_TUNED: 0.6, USER_ALONE: 0.3, free_text: 0.4, BASE_MODEL: 0.1, CONSTANT: Undefined("constant")}
    errors = {FINE_TUNED: 0.15, CONSTANT: 0.22, USER_ALONE: 0.25, free_text: 0.3, BASE_MODEL: 0.5}
    found = bounds(values(pearson=correlations, mae=errors), SIGNATURE)
    correlation, error = found["gpt", FINE_TUNED, "pearson"], found["gpt", FINE_TUNED, "mae"]

    assert (correlation.floor, correlation.floor_predictor) == (0.4, free_text)
    assert (error.floor, error.floor_predictor) == (0.22, CONSTANT)
    assert ("gpt", CONSTANT, "mae") not in found  # a baseline is no score
    assert bounds(values(mae={FINE_TUNED: 0.15}), {}) == {}  # without numbers of chats


def test_a_simulator_is_held_against_the_ceiling_of_its_own_number_of_chats() -> None:
    errors = {
        FINE_TUNED: 0.15, DROPPED: 0.14, FIRST: 0.3, BASE_MODEL: 0.5, CONSTANT: 0.22,
        ceiling(10): 0.12, ceiling(1): 0.31, ceiling(None): 0.09,
    }  # fmt: skip
    found = bounds(values(mae=errors), SIGNATURE)

    assert {row[1]: each.ceiling for row, each in found.items()} == {
        FINE_TUNED: 0.12, DROPPED: 0.12, FIRST: 0.31, BASE_MODEL: 0.31,
    }  # fmt: skip
    assert found["gpt", BASE_MODEL, "mae"].floor_predictor == CONSTANT  # and not itself


def test_overlap_lies_between_the_base_model_model_and_people_and_perplexity_has_no_ceiling() -> None:
    found = bounds(
        values(bleu={FINE_TUNED: 0.3, BASE_MODEL: 0.2, PEOPLE: 0.4}, perplexity={FINE_TUNED: 2.0, BASE_MODEL: 20.0}),
        SIGNATURE,
    )

    assert found["gpt", FINE_TUNED, "bleu"] == Bounds(0.2, BASE_MODEL, 0.4, 0.3, True)
    assert found["gpt", FINE_TUNED, "bleu"].normalised == pytest.approx(0.5)
    assert found["gpt", FINE_TUNED, "perplexity"].floor == 20.0
    assert isinstance(found["gpt", FINE_TUNED, "perplexity"].ceiling, Undefined)
    alone = bounds(values(bleu={FINE_TUNED: 0.3}), SIGNATURE)["gpt", FINE_TUNED, "bleu"]
    assert isinstance(alone.floor, Undefined)
    assert isinstance(alone.ceiling, Undefined)


def test_the_way_from_floor_to_ceiling_runs_downwards_for_errors() -> None:
    def way(floor: float, top: float, score: Value, *, higher: bool = False) -> Value:
        return Bounds(floor, CONSTANT, top, score, higher).normalised

    assert way(0.30, 0.10, 0.15) == pytest.approx(0.75)
    assert way(0.30, 0.10, 0.40) == pytest.approx(-0.5)
    assert isinstance(way(0.10, 0.30, 0.2), Undefined)  # a floor better than the ceiling
    assert isinstance(way(0.3, 0.3, 0.2, higher=True), Undefined)
    assert isinstance(way(0.30, 0.10, Undefined("x")), Undefined)
    assert way_text(Undefined("x")) == "–"  # noqa: RUF001


@pytest.mark.parametrize(
    ("score", "floor", "top", "expected"),
    [
        # In split_1, where everything is better, there is no ceiling: 150 % of the way if it counted for the score.
        ((0.3, 0.9), (0.2, 0.4), (0.4, None), (0.2, 0.4, 0.5)),
        ((0.3, None), (0.2, 0.9), (0.4, 0.9), (0.2, 0.4, 0.5)),
        ((None, None), (0.1, 0.3), (0.4, 0.6), (0.2, 0.5, "no value")),
        ((0.3, None), (0.2, 0.2), (None, 0.4), ("no split has score",) * 3),
        ((0.3, 0.5), (0.2, 0.4), (None, None), (pytest.approx(0.3), "no value", "no value")),
    ],
)
@pytest.mark.parametrize(
    ("metric", "below", "above"), [("pearson", USER_ALONE, ceiling(10)), ("bleu", BASE_MODEL, PEOPLE)]
)
def test_nothing_is_normalised_across_different_splits(
    metric: str, below: Predictor, above: Predictor, score: Row, floor: Row, top: Row, expected: tuple[float | str, ...]
) -> None:
    rows = values(**{metric: {FINE_TUNED: score, below: floor, above: top}})
    one = bounds(rows, SIGNATURE)["gpt", FINE_TUNED, metric]

    for found, wanted in zip((one.floor, one.ceiling, one.normalised), expected, strict=True):
        if isinstance(wanted, str):
            assert wanted in found.reason
        else:
            assert found == pytest.approx(wanted) if isinstance(wanted, float) else found == wanted


def test_a_baseline_of_one_of_two_splits_or_of_some_of_the_pairs_is_no_floor_and_a_note_names_it() -> None:
    free_text = ai_alone("free text")
    both = {FINE_TUNED: (0.5, 0.5), USER_ALONE: (0.4, 0.2), free_text: (0.35, None), ceiling(10): (0.6, 0.6)}
    found = bounds(values(pearson=both), SIGNATURE)["gpt", FINE_TUNED, "pearson"]
    assert (found.floor, found.floor_predictor) == (pytest.approx(0.3), USER_ALONE)
    # AI alone was measured on one of ten pairs, an easy one.
    rows = {FINE_TUNED: (0.15, 10), CONSTANT: (0.22, 10), free_text: (0.01, 1)}
    scores = [
        Score("split_0", name, predictor, metric, value)
        for predictor, values in rows.items()
        for metric, value in zip(("mae", "questions"), values, strict=True)
        for name in ("gpt", "all")
    ]
    table = ScoreTable("tiny", ("split_0",), 6, 4, tuple(scores), SIGNATURE)
    found = table.bounds()["gpt", FINE_TUNED, "mae"]

    assert (found.floor, found.floor_predictor, found.partial) == (0.22, CONSTANT, (free_text,))
    assert "a floor only where they cover the same pairs as the simulator: AI alone, free text" in footnotes(table)
