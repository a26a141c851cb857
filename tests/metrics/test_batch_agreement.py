"""Many replicates at once, against one after the other with each cell written out as often as it was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from chatbench.metrics.agreement import METRICS, Array, QuestionAccuracy, Undefined, Value, agreement, batch_agreement


def one_by_one(human: Array, simulated: Array, weights: Array) -> dict[str, Value]:
    cells = [
        QuestionAccuracy(str(i), "gpt", float(human[i]), float(simulated[i]), 1, 1)
        for i in range(len(human))
        for _ in range(int(weights[i]))
    ]
    scored = agreement(cells)
    accuracy = float(np.mean([cell.simulated for cell in cells]))
    return {**{metric: getattr(scored, metric) for metric in METRICS[:-1]}, "accuracy": accuracy}


@pytest.mark.parametrize("resampled", ["nothing", "people", "people and chats"])
def test_every_row_equals_the_figures_of_the_cells_that_it_stands_for(resampled: str) -> None:
    # Accuracies on a grid of six values: many ties, whose mean ranks depend on the weights.
    rng = np.random.default_rng(3)
    rows, cells = 25, 14
    human = rng.integers(0, 6, (rows if resampled != "nothing" else 1, cells)) / 5
    simulated = rng.integers(0, 6, (rows if "chats" in resampled else 1, cells)) / 5
    weights = rng.multinomial(cells, np.full(cells, 1 / cells), size=rows).astype(float)
    found = batch_agreement(human, simulated, weights)

    for row in range(rows):
        expected = one_by_one(human[row % len(human)], simulated[row % len(simulated)], weights[row])
        assert {metric: found[metric][row] for metric in METRICS} == pytest.approx(expected, abs=1e-12)


def test_what_is_undefined_for_a_row_is_nan_there_and_nowhere_else() -> None:
    # Row 0 draws only cells with the same prediction; row 1 all cells; row 2 no cell at all.
    human, simulated = np.array([[0.1, 0.5, 0.9, 0.4]]), np.array([[0.3, 0.3, 0.3, 0.8]])
    weights = np.array([[1.0, 1, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = batch_agreement(human, simulated, weights)

    assert np.isnan(found["pearson"]).tolist() == np.isnan(found["spearman"]).tolist() == [True, False, True]
    assert np.isnan(found["mae"]).tolist() == [False, False, True]
    assert isinstance(one_by_one(human[0], simulated[0], weights[0])["pearson"], Undefined)
