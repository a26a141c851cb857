"""What a sweep costs on Ray, and a large one on paper.

    python benchmarks/sweep.py --simulate                  # needs no Ray
    python benchmarks/sweep.py --overhead --steps 250      # fine-tuning units of about a minute, with and without Ray
    python benchmarks/sweep.py --nodes                     # the demo's sweep on two nodes of one core, and on one

`--overhead` runs the same units by `chatbench run` on one core and, at the same time, by `run --on ray` with a node on
another core; the cores are swapped from round to round, so that other work on the machine meets both sides alike. The
cluster is up before; everything else counts, the start of the commands and of Ray's workers too. `--nodes` alternates
two nodes (a core each) and one. Both use the first two cores and print the load average.

`--simulate` plans on paper: seconds to plan, its size, and how long it takes on so many workers, against the lower
bound. Units take the stated minutes; a worker takes the next one that may begin (`workflow.on_ray.Sweep`), as Ray does.
No schedule can be shorter than the work divided by the workers, nor than the longest chain of units.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

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


@contextmanager
def cluster(cores: Sequence[int]) -> Iterator[str]:
    """Address of a cluster with a node of one CPU on each of these cores."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    from ray.cluster_utils import Cluster  # reads them once

    before, nodes = os.sched_getaffinity(0), Cluster()
    for core in cores:
        os.sched_setaffinity(0, {core})  # what a node starts, workers too, has the affinity of its parent
        nodes.add_node(num_cpus=1, num_gpus=0, include_dashboard=False)
    os.sched_setaffinity(0, before)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


def chatbench(*words: str, core: int) -> float:
    """Seconds of a command on one core.

    Raises:
        RuntimeError: it failed.
    """
    command = ["taskset", "-c", str(core), sys.executable, "-m", "chatbench", *words]
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)}: {ended.stdout}{ended.stderr}")
    return time.perf_counter() - began


def overhead(given: Sequence[str], units: int, rounds: int) -> float:
    """Prints seconds with and without Ray, and gives the ratio of their sums."""
    sums = {"chatbench run": 0.0, "run --on ray": 0.0}
    for turn in range(rounds):
        mine, rays = (turn % 2, 1 - turn % 2)
        with cluster([rays]) as address, ThreadPoolExecutor(2) as both:
            ways = {
                "chatbench run": both.submit(chatbench, *given, "--results", f"alone{turn}", core=mine),
                "run --on ray": both.submit(
                    chatbench, *given, "--results", f"ray{turn}", "--on", f"ray:{address}", core=rays
                ),
            }
            for name, way in ways.items():
                sums[name] += way.result()
                print(f"round {turn}: {name:<14} {way.result():7.1f} s, load average {os.getloadavg()[0]:.1f}")
    alone, on_ray = sums.values()
    print(f"{rounds * units} units of {alone / rounds / units:.1f} s: {on_ray / alone:.3f} x on Ray")
    return on_ray / alone


def two_nodes(given: Sequence[str], rounds: int) -> float:
    """Prints seconds on one and on two nodes of one core, and gives the ratio of their sums."""
    sums = {2: 0.0, 1: 0.0}
    for turn in range(rounds):
        for count in sums:
            with cluster(range(count)) as address:
                seconds = chatbench(*given, "--results", f"nodes{count}-{turn}", "--on", f"ray:{address}", core=0)
            sums[count] += seconds
            print(f"round {turn}: nodes {count} {seconds:7.1f} s, load average {os.getloadavg()[0]:.1f}")
    print(f"two nodes are {sums[1] / sums[2]:.2f} x as fast as one")
    return sums[1] / sums[2]


def on_ray(asked: argparse.Namespace) -> float:
    """Runs `--overhead` or `--nodes` in a folder of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    splits = asked.splits or 3
    given = ["run", "tiny", "--study", "sample", "--splits", str(splits)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        chatbench("sample", "sample", core=0)
        if asked.steps:
            Path("config.json").write_text(json.dumps({"max_steps": asked.steps}))
            given += ["--config", "config.json"]
        if asked.nodes:
            given += ["--base-conversations", "1", "--max-tokens", "100", "--conversations", str(asked.conversations)]
            chatbench(*given, "--steps", "prepare", core=0)
            return two_nodes(given, asked.rounds)
        chatbench(*given, "--steps", "prepare", core=0)
        return overhead([*given, "--steps", "prepare,finetune"], splits, asked.rounds)


def main() -> None:
    """Prints what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--simulate", action="store_true", help="the sweep on paper")
    what.add_argument("--overhead", action="store_true", help="units on Ray against the same units without it")
    what.add_argument("--nodes", action="store_true", help="two nodes of one core against one")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--splits", type=int, help="default: 10 on paper, else 3")
    parser.add_argument("--chats", type=int, default=100_000, help="of each split, with all of two assistants")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="of fine-tuning; default: the recipe's")
    parser.add_argument("--conversations", type=int, default=10, help="with --nodes, per question and assistant")
    asked = parser.parse_args()
    if asked.simulate:
        on_paper(asked)
    else:
        on_ray(asked)


def on_paper(asked: argparse.Namespace) -> None:
    """Prints the table of `--simulate`."""
    models = {f"model-{number}": f"model-{number}" for number in range(asked.models)}
    blocks = -(-asked.chats // 2 // BLOCK_SIZE)
    began = time.perf_counter()
    splits = [f"split_{number}" for number in range(asked.splits or 10)]
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
