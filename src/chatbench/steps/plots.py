"""Figures as PNG files: human against simulated accuracy, loss curves, scores over splits.

Drawn on figure objects of their own, without pyplot, so nothing is shown, and nothing global is changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.files import write_bytes_whole
from chatbench.measures.agreement import QuestionAccuracy, Undefined
from chatbench.measures.figures import EVERY_ASSISTANT
from chatbench.steps.score_table import ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    write_bytes_whole(path, content.getvalue())
    return path
