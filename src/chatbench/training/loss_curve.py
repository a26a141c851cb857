"""The loss curve of one run as a PNG: training loss, and validation loss, against steps.

Drawn on a figure object of its own, without pyplot. The same log gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

INCHES = (6.0, 4.0)
DOTS_PER_INCH = 120


def loss_curve(log: Sequence[Mapping[str, object]], title: str) -> bytes | None:
    """The curve as PNG; None where the log has no loss.

    Args:
        log: lines of `trainer_log.jsonl`: `step` with `loss` or `eval_loss`, in nats per scored token.
        title: text above the curve, taken literally.
    """
    series = {"training": _points(log, "loss"), "held out": _points(log, "eval_loss")}
    if not any(series.values()):
        return None
    from matplotlib.figure import Figure  # late: takes half a second
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        if points:
            held_out = name == "held out"
            few = held_out or len(points) < 3  # a line through one point shows nothing
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if few else None, zorder=3 if held_out else 2)
    axes.set(xlabel="step", ylabel="loss (nats per scored token)")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # else matplotlib's version is in it
    return content.getvalue()


def _points(log: Sequence[Mapping[str, object]], name: str) -> list[tuple[int, float]]:
    pairs = [(row["step"], row[name]) for row in log if name in row and "step" in row]
    return [
        (step, float(loss))
        for step, loss in pairs
        if isinstance(step, int) and isinstance(loss, int | float) and math.isfinite(loss)
    ]
