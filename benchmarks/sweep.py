"""A sweep on paper: seconds to plan it, its size, and how long it takes on so many workers, against the lower bound.

    python benchmarks/sweep.py --simulate

Units take the stated minutes; a worker takes the next one that may begin (`workflow.on_ray.Sweep`), as Ray does. No
schedule can be shorter than the work divided by the workers, nor than the longest chain of units.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from chatbench.simulation.run import BLOCK_SIZE
from chatbench.workflow.on_ray import Sweep
from chatbench.workflow.units import STEPS, RunSettings, Unit, units_of

MINUTES: Mapping[str, float] = {"finetune": 60, "ppl": 15, "simulate": 6, "base": 6, "scores": 5, "realism": 10}
"""Of one unit; a block is one, and joining blocks takes a minute."""


def makespan(units: Sequence[Unit], workers: int) -> float:
    """Minutes until the last unit has ended."""
    sweep, now, running = Sweep(units), 0.0, list[tuple[float, int, Unit]]()
    while True:
        while len(running) < workers and (unit := sweep.next()):
            heapq.heappush(running, (now + minutes(unit), id(unit), unit))
        if not running:
            return now
        now, _, unit = heapq.heappop(running)
        sweep.end(unit, "")


def minutes(unit: Unit) -> float:
    return 1.0 if unit.blocks else MINUTES[unit.stage]


def longest_chain(units: Sequence[Unit]) -> float:
    """Minutes of the longest chain of units that wait for each other."""
    ends: dict[str, float] = {}
    for unit in units:
        ends[unit.id] = max((ends[name] for name in (*unit.requires, *unit.after)), default=0.0) + minutes(unit)
    return max(ends.values())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", required=True, help="the sweep on paper")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--chats", type=int, default=100_000, help="of each split, with all of two assistants")
    asked = parser.parse_args()
    models = {f"model-{number}": f"model-{number}" for number in range(asked.models)}
    blocks = -(-asked.chats // 2 // BLOCK_SIZE)
    began = time.perf_counter()
    splits = [f"split_{number}" for number in range(asked.splits)]
    units = list(units_of(models, lambda *_: blocks, splits, [s for s in STEPS if s != "base"], RunSettings()))
    Sweep(units)
    seconds = time.perf_counter() - began
    size = len(json.dumps([{"id": unit.id, **asdict(unit)} for unit in units]))
    work, chain = sum(map(minutes, units)), longest_chain(units)
    print(
        f"{len(units):,} units planned in {seconds:.2f} s; as JSON {size / 1e6:.1f} MB; {work / 60:,.0f} hours of work"
    )
    print(f"{'workers':>8}{'hours':>10}{'bound':>10}{'ratio':>8}")
    for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        found, bound = makespan(units, workers) / 60, max(work / workers, chain) / 60
        print(f"{workers:>8}{found:>10.1f}{bound:>10.1f}{found / bound:>8.3f}")


if __name__ == "__main__":
    main()
