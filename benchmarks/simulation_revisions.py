r"""How fast `chatbench simulate` is with a local model, beside an older revision of the package.

    python benchmarks/simulation_revisions.py --study studies/halie --against 5a37165 --model MODEL_FOLDER

Both revisions run the same command lines in turns: the model in the user's place, as it is (a fine-tuned one after
`chatbench merge`), all recorded assistants replayed, a few held-out questions. With `--dtype bfloat16`, today's code
also runs with weights of that type. Seconds are those that the command prints (without loading); CPU seconds are of the
whole process. MODEL is a folder or a recipe that both revisions know.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
DONE = re.compile(r"(\d[\d,]*) new in ([\d.]+) s")


def chatbench(source: Path, arguments: list[str], threads: int) -> tuple[str, float]:
    """What the command line of a source tree prints, and the CPU seconds of its process."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import sys; from chatbench.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise SystemExit(f"chatbench {' '.join(arguments)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: list[str] | None = None) -> None:
    """Prints chats and CPU seconds of each round, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--against", default="5a37165", help="a revision of this repository")
    parser.add_argument("--model", required=True)
    parser.add_argument("--train-share", default="0.9", help="of the questions; the others are chatted about")
    parser.add_argument("--conversations", default="10")
    parser.add_argument("--max-user-turns", default="3")
    parser.add_argument("--max-tokens", default="60")
    parser.add_argument("--expected-answers", action="store_true", help="also read the answers' probabilities")
    parser.add_argument("--dtype", help="today's code also with weights of this type")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "older"
        old.mkdir()
        tree = subprocess.run(
            ["git", "archive", options.against, "src"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "x", "-C", str(old)], input=tree, check=True)
        data = f"{folder}/data"
        split = ["--splits", "1", "--train-share", options.train_share, "--out", data]
        chatbench(ROOT / "src", ["prepare-splits", "--study", str(options.study), *split], options.threads)
        sides: dict[str, tuple[Path, list[str]]] = {"older": (old / "src", []), "now": (ROOT / "src", [])}
        if options.dtype:
            sides[f"now, {options.dtype}"] = (ROOT / "src", ["--dtype", options.dtype])
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name, (source, more) in sides.items():
                command = ["simulate", options.model, "--base", "--assistant", "replay:all", "--split", "split_0"]
                command += ["--conversations", options.conversations, "--max-user-turns", options.max_user_turns]
                command += ["--max-tokens", options.max_tokens, "--seed", str(number), "--data", data, *more]
                command += ["--expected-answers"] * options.expected_answers
                printed, cpu = chatbench(source, [*command, "--results", f"{folder}/{name}-{number}"], options.threads)
                found = DONE.search(printed)
                assert found, printed
                seconds[name].append((float(found[2]), cpu))
                print(f"round {number + 1}, {name}: {found[1]} chats in {found[2]} s, {cpu:.0f} CPU s", flush=True)
    for name in [*sides][1:]:
        for at, what in ((0, "wall-clock"), (1, "CPU")):
            ratio = median(o[at] / n[at] for o, n in zip(seconds["older"], seconds[name], strict=True))
            print(f"{name}, {what}: {ratio:.2f} times as fast as {options.against}")


if __name__ == "__main__":
    main()
