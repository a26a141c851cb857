"""The runs of `learning.py` as a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

COLOURS = {
    "none": "#777777",
    "conversation": "#0072b2",
    "question": "#d55e00",
}  # told apart by colour-blind readers too


@dataclass(frozen=True, slots=True)
class Run:
    """One curve: at each point the step, the seconds of training so far and the held-out nats a token."""

    study: str
    packing: str
    seed: int
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    nats: tuple[float, ...]


def table(runs: Sequence[Run]) -> str:
    """Mean and standard deviation over seeds; perplexities, and times to the perplexity that `none` ends with."""
    lines = [
        "| study | packing | seeds | steps | seconds | perplexity before | after | after as long as the fastest took "
        "| seconds to what `none` ends with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for study in dict.fromkeys(run.study for run in runs):
        of_study = [run for run in runs if run.study == study]
        fastest = min(_mean([run.seconds[-1] for run in of_study if run.packing == p]) for p in _packings(of_study))
        goal = math.exp(mean(run.nats[-1] for run in of_study if run.packing == "none"))
        for packing in _packings(of_study):
            chosen = [run for run in of_study if run.packing == packing]
            reached = [_first_below(run, goal) for run in chosen]
            cells = [
                study, packing, f"{len(chosen)}", f"{chosen[0].steps[-1]}",
                _spread([run.seconds[-1] for run in chosen], 1),
                _spread([math.exp(run.nats[0]) for run in chosen], 3),
                _spread([math.exp(run.nats[-1]) for run in chosen], 3),
                _spread([math.exp(float(np.interp(fastest, run.seconds, run.nats))) for run in chosen], 3),
                _spread([s for s in reached if s is not None], 1) if None not in reached else
                f"not reached by {reached.count(None)} of {len(reached)}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _packings(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.packing for run in runs))


def _mean(values: Sequence[float]) -> float:
    return float(mean(values))


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation, the latter where there are two values or more."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _first_below(run: Run, perplexity: float) -> float | None:
    """Seconds at which the curve, a straight line between points, first is as low; None if it never is."""
    goal = math.log(perplexity)
    for place in range(1, len(run.nats)):
        before, after = run.nats[place - 1], run.nats[place]
        if after <= goal:
            share = 0.0 if before <= goal else (before - goal) / (before - after)
            return run.seconds[place - 1] + share * (run.seconds[place] - run.seconds[place - 1])
    return None


def plot(runs: Sequence[Run], folder: Path) -> None:
    """`learning.png` and `learning.svg`: a panel a study, a thin line a seed, a thick one their mean.

    The point before the first step is left out: it would flatten all others.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    studies = list(dict.fromkeys(run.study for run in runs))
    figure, panels = pyplot.subplots(1, len(studies), figsize=(5.2 * len(studies), 4.0), squeeze=False)
    for panel, study in zip(panels[0], studies, strict=True):
        for packing in _packings(runs):
            chosen = [run for run in runs if run.study == study and run.packing == packing]
            for run in chosen:
                panel.plot(run.seconds[1:], np.exp(run.nats[1:]), color=COLOURS[packing], alpha=0.3, linewidth=0.8)
            shortest = min(len(run.steps) for run in chosen)
            seconds = np.mean([run.seconds[:shortest] for run in chosen], axis=0)
            perplexity = np.exp(np.mean([run.nats[:shortest] for run in chosen], axis=0))
            panel.plot(
                seconds[1:],
                perplexity[1:],
                color=COLOURS[packing],
                linewidth=2,
                marker="o",
                markersize=3.5,
                label=packing,
            )
        panel.set_yscale("log")
        panel.set_title(study)
        panel.set_xlabel("seconds of training")
        panel.set_ylabel("held-out perplexity per token")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.grid(alpha=0.25)
        panel.legend(title="packing", frameon=False)
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"learning.{suffix}", dpi=150)
    pyplot.close(figure)
