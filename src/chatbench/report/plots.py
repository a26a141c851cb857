"""Text plots: bars in the cells of a table, and a scatter plot whose digits count points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, TERMINATIONS, Predictor
from chatbench.report.grids import EMPTY, Grid, build
from chatbench.report.tables import AGREEMENT_COLUMNS, TEXT_COLUMNS, Column, bar, held_out_questions, scored, together
from chatbench.scoring.score_table import ScoreTable

SCATTER_ROWS, SCATTER_COLUMNS = 11, 41
"""Vertically tenths of people's accuracy, horizontally fortieths of the simulated one."""
MOST_TURNS = 10
"""Chats with more user turns are counted together."""

TurnCounts = Mapping[str, Mapping[int, int]]
"""Number of chats by number of user turns, by predictor."""


def scatter_lines(points: Sequence[tuple[float, float]]) -> list[str]:
    """Plot people's accuracy (vertical) against simulated accuracy (horizontal), each in 0..1.

    Args:
        points: (simulated, people's).

    Returns:
        Lines in which a digit is the number of points there, `+` means ten or more, and `/` marks equal accuracies.
    """
    at = Counter((round(y * (SCATTER_ROWS - 1)), round(x * (SCATTER_COLUMNS - 1))) for x, y in points)
    lines = []
    for row in reversed(range(SCATTER_ROWS)):
        drawn = [
            "/" if row * (SCATTER_COLUMNS - 1) == column * (SCATTER_ROWS - 1) else " "
            for column in range(SCATTER_COLUMNS)
        ]
        for column in range(SCATTER_COLUMNS):
            if found := at[row, column]:
                drawn[column] = "+" if found > 9 else str(found)
        lines.append(f"  {row / (SCATTER_ROWS - 1):.1f} │{''.join(drawn)}│")
    lines.append(f"      └{'─' * SCATTER_COLUMNS}┘")
    half = SCATTER_COLUMNS // 2
    lines.append(" " * 6 + "0.0".ljust(half) + "0.5".ljust(half - 1) + "1.0  simulated")
    return lines


def split_grid(tables: Sequence[ScoreTable]) -> Grid:
    """Correlation, error and perplexity of the scored simulator on every split."""
    columns = [(column.header, (together(tables[0]), column)) for column in AGREEMENT_COLUMNS]
    columns += [(column.header, (EVERY_ASSISTANT, column)) for column in TEXT_COLUMNS if column.metric == "perplexity"]
    rows = [
        (f"{table.model}, {split}" if len(tables) > 1 else split, (table, split))
        for table in tables
        for split in table.splits
    ]

    def values(table: ScoreTable, assistant: str, metric: str) -> Mapping[str, Value]:
        return table.values().get((assistant, FINE_TUNED, metric), {})

    def cell(row: tuple[ScoreTable, str], of: tuple[str, Column]) -> str:
        (table, split), (assistant, column) = row, of
        value = values(table, assistant, column.metric).get(split)
        if value is None or isinstance(value, Undefined):
            return EMPTY if value is None else "undefined"
        every = [each for one in tables for each in values(one, assistant, column.metric).values()]
        largest = max(each for each in every if not isinstance(each, Undefined))
        return f"{bar(value, 1.0 if column.metric == 'pearson' else largest)} {column.show(value)}"

    title = f"The simulator on each split (a bar is full at a correlation of 1, else at the largest; {scored(tables)})"
    return build(title, rows, columns, cell)


def termination_grid(table: ScoreTable) -> Grid:
    """How the chats of each simulator ended, as shares of its chats."""
    estimates = table.estimates()
    sources = [s for s in (table.simulator, BASE_MODEL) if (EVERY_ASSISTANT, s, "answered_share") in estimates]

    def cell(ending: str, source: Predictor) -> str:
        mean = estimates[EVERY_ASSISTANT, source, f"{ending}_share"].mean
        return EMPTY if isinstance(mean, Undefined) else _bar_share(mean)

    rows = [(ending.replace("_", " "), ending) for ending in TERMINATIONS] if sources else []
    title = f"{table.model}: how the chats ended ({held_out_questions([table])} held-out questions per split)"
    return build(title, rows, [(source.label, source) for source in sources], cell)


def turn_grid(table: ScoreTable, counts: TurnCounts) -> Grid:
    """Shares of chats by number of user turns, people's and simulated."""
    columns = [(f"{label} ({sum(chats.values())} chats)", chats) for label, chats in counts.items() if chats]
    most = max((turns for _, each in columns for turns in each), default=0)
    rows = [(str(turns), range(turns, turns + 1)) for turns in range(1, min(most, MOST_TURNS) + 1)]
    if most > MOST_TURNS:
        rows[-1] = (f"{MOST_TURNS} or more", range(MOST_TURNS, most + 1))

    def cell(turns: range, chats: Mapping[int, int]) -> str:
        return _bar_share(sum(chats.get(n, 0) for n in turns) / sum(chats.values()))

    title = f"{table.model}: user turns of a chat ({held_out_questions([table])} held-out questions per split)"
    return build(title, rows, columns, cell, corner="turns")


def _bar_share(share: float) -> str:
    return f"{bar(share)} {100 * share:5.1f} %"
