"""The published results: the figures of the paper, beside own ones and never among them."""

from __future__ import annotations

from chatbench.metrics.baselines import published
from chatbench.metrics.names import FINE_TUNED
from chatbench.report.tables import as_markdown, published_grid, score_grids
from chatbench.scoring.score_table import Score, ScoreTable

# Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114): correlation / mean absolute error with GPT-4o and Llama-3.1-8b.
OF_THE_PAPER = {
    "letter-only few-shot": ((0.30, 0.31), (0.21, 0.40)),
    "free-text": ((0.49, 0.20), (0.61, 0.20)),
    "IQA-EVAL": ((0.50, 0.18), (0.43, 0.22)),
    "two-step, GPT-4o not fine-tuned": ((0.41, 0.19), (0.39, 0.23)),
    "two-step, GPT-4o fine-tuned": ((0.63, 0.15), (0.65, 0.17)),
}


def test_the_shipped_figures_are_those_of_the_paper_and_name_it() -> None:
    table = published()

    assert table.assistants == ("gpt-4o", "llama-3.1-8b")
    assert {row.method: tuple(row.metrics[name] for name in table.assistants) for row in table.rows} == OF_THE_PAPER
    assert "2504.07114" in table.source


def test_published_rows_stand_in_a_table_of_their_own_that_says_so() -> None:
    own = ScoreTable("tiny", ("split_0",), 6, 4, (Score("split_0", "gpt-4o", FINE_TUNED, "mae", 0.25),), {})
    text = as_markdown([own])

    assert published_grid().header[0] == "published, not computed here"
    assert not any("IQA-EVAL" in row[0] for grid in score_grids([own]) for row in grid.rows)
    assert text.index("fine-tuned") < text.index("Reference: published scores") < text.index("IQA-EVAL")
    assert "IQA-EVAL" not in as_markdown([own], with_published=False)
