"""How much faster prefix trees train and score: one command, one table, this machine.

    python benchmarks/prefix_tree.py                           everything, about two hours on two cores
    python benchmarks/prefix_tree.py --models distilgpt2 --precisions fp32 --rounds 1
    python benchmarks/prefix_tree.py --variants conversation --profile
    python benchmarks/prefix_tree.py --variants conversation,question --pack-tokens 1024,2048,4096 --blocks 128,256

Every measurement is a process of its own (so peak memory is its own), warmed up by one step, and trains on the examples
of one question for one epoch; the processes take turns, round by round, and the table shows medians. What was measured
is kept in the JSON file beside the table after each measurement, and not repeated: the same command continues.

The rows are described in `training_variants.py`, the data in `study_like_chatbench.py`, the floor in `model_shapes.py`.
`trl` needs an extra package (pip install "chatbench[benchmarks]") and is left out, visibly, where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from model_shapes import SHAPES
from one_measurement import Measurement, Result, measure
from prefix_tree_table import report
from study_like_chatbench import QUESTIONS, counts_of_questions, encoded, study_rows, token_counts
from training_variants import VARIANTS

TREES = ("conversation", "question")
WORKER = Path(__file__).with_name("one_measurement.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured in each round, in this order."""

    measurements: tuple[Measurement, ...]
    rounds: int
    in_process: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "prefix_tree.json")
    plan = _plan(options)
    if options.profile:
        for what in plan.measurements:
            if what.kind == "train":
                _print_profile(what)
        return
    for number in range(plan.rounds):
        for what in plan.measurements:
            if store.has(what, number):
                continue
            result = measure(what) if plan.in_process else _in_a_process(what)
            store.add(what, number, result)
            print(f"round {number + 1}/{plan.rounds}  {_name(what)}: {_said(what, result)}", flush=True)
    text = report(store.rounds_of(plan.measurements), _epochs(options), in_process=plan.in_process)
    (out / "prefix_tree.md").write_text(text, encoding="utf-8")
    print(text)


class Store:
    """The results so far, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def has(self, what: Measurement, number: int) -> bool:
        return any(row["round"] == number and row["what"] == _plain(what) for row in self._rows)

    def add(self, what: Measurement, number: int, result: Result) -> None:
        self._rows.append({"what": _plain(what), "round": number, "result": asdict(result)})
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._rows, indent=1), encoding="utf-8")
        part.replace(self._path)

    def rounds_of(self, measurements: Sequence[Measurement]) -> list[tuple[Measurement, list[Result]]]:
        found = []
        for what in measurements:
            rows = [row for row in self._rows if row["what"] == _plain(what)]
            found.append((what, [Result(**row["result"]) for row in rows]))
        return found


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        small = {"questions": (0,), "chats": 3, "threads": 1}
        variants = [variant for variant in options.variants if variant != "trl"]
        return Plan(tuple(_measurements(["quick"], ["fp32"], variants, options, small)), 1, in_process=True)
    common = {"context": options.context, "dropout": options.dropout, "threads": options.threads}
    variants = [variant for variant in options.variants if variant != "trl" or _has_trl()]
    chosen: list[Measurement] = []
    for model in options.models:
        questions = {
            "questions": typical_questions(SHAPES[model].vocabulary, _context(options, model), options.questions)
        }
        chosen += _measurements([model], options.precisions, variants, options, {**common, **questions})
    return Plan(tuple(chosen), options.rounds)


def _measurements(
    models: Sequence[str], precisions: Sequence[str], variants: Sequence[str], options: argparse.Namespace,
    common: dict[str, Any],
) -> Iterator[Measurement]:  # fmt: skip
    for model in models:
        for precision in precisions:
            shared = {"model": model, "precision": precision, **common}
            yield Measurement("matmul", **shared)
            for variant in variants:
                tunings = [(0, 0)]
                if variant in TREES:
                    tunings = [(pack, blocks) for pack in options.pack_tokens for blocks in options.blocks]
                for pack, blocks in tunings:
                    yield Measurement("train", variant=variant, pack_tokens=pack, block_nodes=blocks, **shared)
            if not options.no_scoring:
                yield Measurement("score", variant="plain", **shared)
                yield Measurement("score", variant="trees", **shared)


def typical_questions(vocabulary: int, context: int, count: int) -> tuple[int, ...]:
    """Numbers of the questions whose token counts, in all layouts, are nearest to the mean question's."""
    counts = counts_of_questions(vocabulary, context)
    away = np.abs(np.log(counts / counts.mean(axis=0))).max(axis=1)
    return tuple(sorted(int(number) for number in np.argsort(away, kind="stable")[:count]))


def _epochs(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens of an epoch over all questions, for each model of the table."""
    if options.quick:
        return {}
    return {
        model: token_counts(encoded(study_rows(range(QUESTIONS)), SHAPES[model].vocabulary, _context(options, model)))
        for model in options.models
    }


def _context(options: argparse.Namespace, model: str) -> int:
    return int(options.context) or SHAPES[model].context


def _in_a_process(what: Measurement, *, profile: bool = False) -> Result:
    wanted = json.dumps({**asdict(what), "profile": profile})
    ran = subprocess.run([sys.executable, str(WORKER), wanted], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{_name(what)} failed:\n{ran.stderr[-3000:]}")
    return Result(**json.loads(ran.stdout.strip().splitlines()[-1]))


def _print_profile(what: Measurement) -> None:
    print(f"\n{_name(what)}", flush=True)
    for line in _in_a_process(what, profile=True).profile:
        print(line[:150])


def _plain(what: Measurement) -> dict[str, Any]:
    """The measurement as JSON gives it back."""
    return dict(json.loads(json.dumps(asdict(what))))


def _name(what: Measurement) -> str:
    tuned = [f"{name} {value}" for name, value in (("pack", what.pack_tokens), ("blocks", what.block_nodes)) if value]
    return " ".join([what.model, what.precision, what.kind, what.variant, *tuned]).strip()


def _said(what: Measurement, result: Result) -> str:
    if what.kind == "matmul":
        return f"{result.flops_per_second / 1e9:.1f} GFLOP/s"
    seconds = f"{result.seconds:.2f} s ({result.cpu_seconds:.2f} s of processors)"
    return f"{seconds}, {result.tokens:,} tokens, {result.peak_bytes / 2**30:.2f} GiB"


def _has_trl() -> bool:
    if find_spec("trl") is None:
        print('trl is not installed, its row is left out: pip install "chatbench[benchmarks]"')
        return False
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=_words("distilgpt2", "llama"), default="distilgpt2,llama")
    parser.add_argument("--precisions", type=_words("fp32", "bf16"), default="fp32,bf16")
    parser.add_argument("--variants", type=_words(*VARIANTS), default=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=1, help="how many of the most typical of 200")
    parser.add_argument(
        "--context", type=int, default=0, help="tokens; default: as the model has, longer examples are left out"
    )
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pack-tokens", type=_numbers, default="0", help="token budgets of a tree, 0 the default")
    parser.add_argument("--blocks", type=_numbers, default="0", help="nodes of an attention block, 0 the default")
    parser.add_argument("--no-scoring", action="store_true")
    parser.add_argument("--profile", action="store_true", help="only print where each variant's time goes")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in one process: to see that it runs")
    parser.add_argument("--out", default="results/benchmarks")
    return parser.parse_args(arguments)


def _words(*allowed: str) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = text.split(",")
        if set(words) - set(allowed):
            raise argparse.ArgumentTypeError(f"{text}: expected some of {', '.join(allowed)}")
        return words

    return parse


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
