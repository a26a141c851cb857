"""Figures as PNG files: human against simulated accuracy, loss curves, scores over splits.

Drawn on figure objects of their own, without pyplot, so nothing is shown, and nothing global is changed.

Small plots of characters: bars in the cells of a table, and a scatter whose digits count points.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.files import write_bytes
from chatbench.metrics.agreement import QuestionAccuracy, Undefined
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, PEOPLE, TERMINATIONS
from chatbench.report.grids import EMPTY, Grid
from chatbench.report.tables import AGREEMENT_COLUMNS, PROMPT_COLUMNS, Column, together
from chatbench.scoring.score_table import ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCATTER_ROWS, SCATTER_COLUMNS = 11, 41
"""Tenths of people's accuracy upwards, fortieths of the simulated one to the right: as the page has it, and finer."""
MOST_TURNS = 10
"""Chats with more user turns are counted together."""
WIDTH = 12

TurnCounts = Mapping[str, Mapping[int, int]]
"""Chats by number of user turns, by source."""


def bar(value: float, top: float = 1.0, width: int = WIDTH) -> str:
    """A bar of `width` characters that is full at `top`; anything above 0 shows.

    >>> bar(0.5, width=4), bar(0.01, width=4), bar(-1.0, width=4)
    ('██··', '▏···', '····')
    """
    share = min(1.0, max(0.0, value / top)) if top > 0 else 0.0
    full = round(share * width)
    if full == 0 and share > 0:
        return "▏" + "·" * (width - 1)
    return "█" * full + "·" * (width - full)


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
        shown = [_place(at[row, column], row, column) for column in range(SCATTER_COLUMNS)]
        lines.append(f"  {row / (SCATTER_ROWS - 1):.1f} │{''.join(shown)}│")
    lines.append(f"      └{'─' * SCATTER_COLUMNS}┘")
    half = SCATTER_COLUMNS // 2
    lines.append(" " * 6 + "0.0".ljust(half) + "0.5".ljust(half - 1) + "1.0  simulated")
    return lines


def _place(points: int, row: int, column: int) -> str:
    if points:
        return "+" if points > 9 else str(points)
    return "/" if row * (SCATTER_COLUMNS - 1) == column * (SCATTER_ROWS - 1) else " "


def split_grid(tables: Sequence[ScoreTable]) -> Grid:
    """Correlation, error and perplexity of the fine-tuned simulator on every split."""
    columns = [(together(tables[0]), column) for column in AGREEMENT_COLUMNS]
    columns += [(EVERY_ASSISTANT, column) for column in PROMPT_COLUMNS if column.metric == "perplexity"]
    tops = [_top(tables, assistant, column) for assistant, column in columns]
    rows = []
    for table in tables:
        for split in table.splits:
            cells = [
                _bar_cell(table, split, assistant, column, top)
                for (assistant, column), top in zip(columns, tops, strict=True)
            ]
            rows.append((f"{table.model}, {split}" if len(tables) > 1 else split, *cells))
    header = ("", *(column.header for _, column in columns))
    title = "Fine-tuned on each split (a bar is full at a correlation of 1, else at the largest)"
    return Grid(title, header, tuple(row for row in rows if set(row[1:]) != {EMPTY}))


def _top(tables: Sequence[ScoreTable], assistant: str, column: Column) -> float:
    """Where bars are full: 1 for a correlation, else the largest value."""
    if column.metric == "pearson":
        return 1.0
    values = [v for t in tables for v in t.values().get((assistant, FINE_TUNED, column.metric), {}).values()]
    return max((value for value in values if not isinstance(value, Undefined)), default=1.0)


def _bar_cell(table: ScoreTable, split: str, assistant: str, column: Column, top: float) -> str:
    value = table.values().get((assistant, FINE_TUNED, column.metric), {}).get(split)
    if value is None:
        return EMPTY
    return "undefined" if isinstance(value, Undefined) else f"{bar(value, top)} {column.show(value)}"


def termination_grid(table: ScoreTable) -> Grid:
    """How the chats of each simulator ended: shares of all of them."""
    estimates = table.estimates()
    sources = [s for s in (FINE_TUNED, BASE_MODEL) if (EVERY_ASSISTANT, s, "answered_share") in estimates]
    rows = []
    for ending in TERMINATIONS:
        means = [estimates[EVERY_ASSISTANT, source, f"{ending}_share"].mean for source in sources]
        cells = [EMPTY if isinstance(m, Undefined) else f"{bar(m)} {100 * m:5.1f} %" for m in means]
        rows.append((ending.replace("_", " "), *cells))
    return Grid(f"{table.model}: how the chats ended", ("", *sources), tuple(rows) if sources else ())


def turn_grid(model: str, counts: TurnCounts) -> Grid:
    """Shares of chats by number of user turns, people's beside simulated ones."""
    sources = [source for source in (PEOPLE, FINE_TUNED, BASE_MODEL) if counts.get(source)]
    most = max((turns for source in sources for turns in counts[source]), default=0)
    rows = []
    for turns in range(1, min(most, MOST_TURNS) + 1):
        name = f"{turns} or more" if turns == MOST_TURNS < most else str(turns)
        last = most if turns == MOST_TURNS else turns
        shares = [
            sum(counts[source].get(n, 0) for n in range(turns, last + 1)) / sum(counts[source].values())
            for source in sources
        ]
        rows.append((name, *(f"{bar(share)} {100 * share:5.1f} %" for share in shares)))
    return Grid(f"{model}: user turns of a chat", ("turns", *sources), tuple(rows))


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
        axes.plot(*_series(lines, "loss"), color=colour, linewidth=1.2, label=split)
        axes.plot(*_series(lines, "eval_loss"), color=colour, marker="o", linestyle="none")
    axes.set(xlabel="step", ylabel="loss (nats per scored token); points: held out")
    return _saved(figure, axes, path)


def _series(lines: Sequence[Mapping[str, object]], name: str) -> tuple[list[float], list[float]]:
    points = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
    kept = [(float(x), float(y)) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)]
    return [x for x, _ in kept], [y for _, y in kept]


def scores_over_splits(
    table: ScoreTable, metric: str, path: Path, *, assistant: str = EVERY_ASSISTANT, sources: Sequence[str] = ()
) -> Path:
    """One metric over the splits, a line per source (all sources that have it, or those named)."""
    figure, axes = _figure()
    for (name, source, measured), values in table.values().items():
        if (name, measured) != (assistant, metric) or (sources and source not in sources):
            continue
        points = [(split, value) for split, value in values.items() if not isinstance(value, Undefined)]
        axes.plot([split for split, _ in points], [value for _, value in points], marker="o", label=source)
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
