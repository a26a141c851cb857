"""Figures: PNG files drawn with Matplotlib without pyplot, so nothing global changes, and plots of characters.

Plots of characters are bars in the cells of a table, and a scatter whose digits count points.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.files import write_bytes
from chatbench.metrics.agreement import QuestionAccuracy, Undefined, Value
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, TERMINATIONS, Predictor
from chatbench.report.grids import EMPTY, Grid, build
from chatbench.report.tables import AGREEMENT_COLUMNS, TEXT_COLUMNS, Column, bar, held_out_questions, scored, together
from chatbench.scoring.score_table import ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCATTER_ROWS, SCATTER_COLUMNS = 11, 41
"""Tenths of people's accuracy upwards, fortieths of the simulated one to the right: as the page has it, and finer."""
MOST_TURNS = 10
"""Chats with more user turns are counted together."""

TurnCounts = Mapping[str, Mapping[int, int]]
"""Chats by number of user turns, by source."""


def scatter_lines(points: Sequence[tuple[float, float]]) -> list[str]:
    """People's accuracy (upwards) against simulated accuracy (to the right), each in 0..1.

    Args:
        points: (simulated, people's).

    Returns:
        Lines in which a digit counts the points of a place, `+` is ten and more, `/` the line on which both agree.
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
    """How the chats of each simulator ended: shares of all of them."""
    estimates = table.estimates()
    sources = [s for s in (table.simulator, BASE_MODEL) if (EVERY_ASSISTANT, s, "answered_share") in estimates]

    def cell(ending: str, source: Predictor) -> str:
        mean = estimates[EVERY_ASSISTANT, source, f"{ending}_share"].mean
        return EMPTY if isinstance(mean, Undefined) else _bar_share(mean)

    rows = [(ending.replace("_", " "), ending) for ending in TERMINATIONS] if sources else []
    title = f"{table.model}: how the chats ended ({held_out_questions([table])} held-out questions per split)"
    return build(title, rows, [(source.label, source) for source in sources], cell)


def turn_grid(table: ScoreTable, counts: TurnCounts) -> Grid:
    """Shares of chats by number of user turns, people's beside simulated ones."""
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


INCHES = (6.0, 4.0)
DOTS_PER_INCH = 120


def accuracy_scatter(cells: Sequence[QuestionAccuracy], path: Path) -> Path:
    """One point per question and assistant: simulated accuracy over human accuracy, with the line of agreement."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    for assistant in sorted({cell.assistant for cell in cells}):
        chosen = [cell for cell in cells if cell.assistant == assistant]
        axes.scatter([c.human for c in chosen], [c.simulated for c in chosen], label=assistant, alpha=0.7, s=24)
    axes.set(xlabel="accuracy of people with the assistant", ylabel="simulated accuracy")
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
    return _saved(figure, axes, path)


def loss_curves(logs: Mapping[str, Sequence[Mapping[str, object]]], path: Path) -> Path:
    """Training loss (line) and validation loss (points) over steps, one colour per split.

    Args:
        logs: per split, lines of `trainer_log.jsonl`: `step` with `loss` or `eval_loss`.
    """
    figure, axes = _figure()
    for index, (split, lines) in enumerate(logs.items()):
        colour = f"C{index % 10}"
        for name, style in (("loss", {"linewidth": 1.2, "label": split}), ("eval_loss", {"marker": "o", "ls": "none"})):
            points = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, **style)  # type: ignore[arg-type]
    axes.set(xlabel="step", ylabel="loss (nats per scored token); points: held out")
    return _saved(figure, axes, path)


def scores_over_splits(
    table: ScoreTable, metric: str, path: Path, *, assistant: str = EVERY_ASSISTANT, sources: Sequence[str] = ()
) -> Path:
    """One metric over the splits, a line per source (all sources that have it, or those named)."""
    figure, axes = _figure()
    for (name, source, measured), values in table.values().items():
        if (name, measured) != (assistant, metric) or (sources and source.label not in sources):
            continue
        points = [(split, value) for split, value in values.items() if not isinstance(value, Undefined)]
        axes.plot([split for split, _ in points], [value for _, value in points], marker="o", label=source.label)
    axes.set(xlabel="split", ylabel=f"{metric}, {assistant}")
    return _saved(figure, axes, path)


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure as NewFigure  # late: takes half a second

    figure = NewFigure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    return figure, figure.subplots()


def _saved(figure: Figure, axes: Axes, path: Path) -> Path:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
    return path
