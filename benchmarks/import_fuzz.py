"""Damaged files for the readers of studies and everything that imports: each is refused with its place, or is a study.

    python benchmarks/import_fuzz.py --inputs 100000 --out results/import_fuzz

Input number N is made from N alone: a good file of one of the shapes with bytes, cells or JSON values replaced. A
reader may refuse it (a `ChatbenchError` that names the file; exit code 2), or what it read is a study that opens. It
fails with any other error, with a study written by halves or beside a refusal, or after `TIMEOUT_SECONDS`. Failures are
appended to `failures.jsonl` with their number; a run that was stopped goes on, and `--first N --inputs 1` repeats one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json
from chatbench.data.imports import draft, import_study, read_map
from chatbench.data.open_study import open_study

TIMEOUT_SECONDS = 20
TOLD_EVERY = 1000
OPENAI: Any = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"},
                            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]}  # fmt: skip
SHAREGPT: Any = {"id": "p1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}
WILDCHAT: Any = {"hashed_ip": "p1", "model": "gpt-4", "conversation": OPENAI["messages"][1:2] * 2}
TURNS = [{"role": "user", "text": "help"}, {"role": "assistant", "content": [{"type": "image_url"}]}]
QUESTIONS: list[dict[str, Any]] = [
    {"options": ["1", "2", "3"], "answer": "B", "ordered": True},
    {"answer_kind": "number", "answer": 1234.5, "tolerance": 0.1, "relative": True, "unit": "km"},
    {"answer_kind": "text", "answer": ["Curie", "M. Curie"]},
    {"answer_kind": "outcome"},
    {"answer_kind": "none"},
]
GIVEN: list[dict[str, Any]] = [
    {"answer": "B"}, {"answer": "1 1/2"}, {"answer": "curie"}, {"answer": "code", "correct": 0.5}, {}
]  # fmt: skip
OWN: list[Any] = [
    {"kind": "user-AI", "question": {"id": f"q{at}", "subset": "s", "text": "Which?", **each}, "worker_id": "w",
     "assistant": "bot", "turns": TURNS, **given}
    for at, (each, given) in enumerate(zip(QUESTIONS, GIVEN, strict=True))
] + [
    {"kind": "user-alone", "question": "q0", "worker_id": "w", "answer": "A", "confidence": "very"},
    {"kind": "ai-alone", "question": "q0", "assistant": "bot", "method": "free_text", "count": 50, "accuracy": 0.9},
]  # fmt: skip
TABLE = [["person", "task", "text", "a", "b", "right", "p1", "r1", "p2", "r2", "chosen", "ok"]] + [
    [f"p{at}", "t1", "Is B right?", "B", "A", "B", "hi", "yes", "why" * at, "so" * at, "AB"[at], "1"] for at in (0, 1)
]
TABLE_MAP = """\
worker_id = "person"
question_id = "task"
question_text = "text"
options = ["a", "b"]
right_answer = "right"
answer = "chosen"
answers = "letters"
correct = "ok"
answer_kind = "choice"
turns = ["p1", "r1", "p2", "r2"]
"""
LONG = [["chat_id", "turn", "role", "text"], ["c1", "2", "bot", "yes"], ["c1", "1", "user", "hi"]]
LONG_MAP = 'chat = "chat_id"\norder = "turn"\nrole = "role"\ncontent = "text"\n'
ODD_VALUES: Sequence[Any] = (
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", " ", "\x00", "\ud83d", "A", "user", "é" * 300, [],
    [[]], {}, {"type": "text"}, {"role": "user"}, [None], "9" * 5000, "1/0", "(" * 500, "[" * 3000, "2026-13-45",
)  # fmt: skip
ODD_PIECES = (
    b"", b'"', b"\n", b"\r", b",", b";", b"\t", b"null", b"[[", b"{}", b"\\ud83d", b"9" * 400, b"\xff", b"\x00",
    b"\xef\xbb\xbf", b"\xff\xfe", b"1e999", b"'", b"#", b"=", b"[" * 2000,
)  # fmt: skip


def rows_as_lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def rows_as_table(rows: Sequence[Sequence[Any]], chance: random.Random) -> bytes:
    mark = chance.choice(",,,;\t")
    lines = [mark.join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in rows]
    encoding = chance.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    return chance.choice(["\n", "\r\n"]).join(lines).encode(encoding, "replace")


def rows_as_parquet(rows: Sequence[Any]) -> bytes:
    import pandas as pd  # type: ignore[import-untyped]

    file = BytesIO()
    pd.DataFrame([row if isinstance(row, dict) else {"row": str(row)} for row in rows]).to_parquet(file)
    return file.getvalue()


def with_odd_values(value: Any, chance: random.Random, share: float) -> Any:
    """The value with some of its parts replaced, left out or doubled."""
    if chance.random() < share:
        return chance.choice(ODD_VALUES)
    if isinstance(value, dict):
        kept = [(key, each) for key, each in value.items() if chance.random() >= share / 2]
        made = {key: with_odd_values(each, chance, share) for key, each in kept}
        return made | ({chance.choice(["idd", "text", ""]): 1} if chance.random() < share else {})
    if isinstance(value, list):
        made_list = [with_odd_values(each, chance, share) for each in value if chance.random() >= share / 2]
        return made_list * (2 if chance.random() < share else 1)
    return value


def with_odd_bytes(content: bytes, chance: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(made) + 1)
        made[at : at + chance.randrange(5)] = chance.choice([*ODD_PIECES, bytes([chance.randrange(256)])])
    return bytes(made[: chance.randrange(len(made) + 1)] if chance.random() < 0.15 else made)


def made(number: int) -> tuple[str, bytes, str, str]:
    """Name and content of an input, its mapping, and what reads it: import, own, draft or map."""
    chance = random.Random(number)
    values = chance.random() < 0.5
    share = chance.choice([0.01, 0.05, 0.2]) if values else 0.0
    shape = chance.choices(
        ["own", "openai", "sharegpt", "wildchat", "json", "table", "long", "parquet", "draft", "map"],
        [25, 12, 12, 10, 5, 15, 10, 1, 5, 5],
    )[0]
    rows = {"own": OWN, "openai": [OPENAI] * 2, "sharegpt": [SHAREGPT] * 2, "wildchat": [WILDCHAT] * 2,
            "json": [OPENAI], "table": TABLE, "long": LONG, "parquet": [WILDCHAT, WILDCHAT],
            "draft": chance.choice([TABLE, LONG]), "map": TABLE}[shape]  # fmt: skip
    rows = with_odd_values(rows, chance, share)
    rows = rows if isinstance(rows, list) else [rows]
    mapping = {"table": TABLE_MAP, "long": LONG_MAP, "map": TABLE_MAP}.get(shape, "")
    if shape in ("table", "long", "draft", "map"):
        table = [row if isinstance(row, list) else [row] for row in rows]
        name, content = "in.csv", rows_as_table(table, chance)
    elif shape == "parquet":
        try:
            name, content = "in.parquet", rows_as_parquet(rows)
        except Exception:  # what cannot be written as Parquet is no input
            name, content = "in.parquet", b"PAR1"
    elif shape == "json":
        name, content = "in.json", json.dumps(rows).encode()
    else:
        name, content = "in.jsonl", rows_as_lines(rows)
    if shape == "map":
        mapping = with_odd_bytes(mapping.encode(), chance).decode("utf-8", "replace")
    elif not values:
        content = with_odd_bytes(content, chance)
    return name, content, mapping, {"own": "own", "draft": "draft"}.get(shape, "import")


def read(folder: Path, name: str, mapping: str, reader: str) -> None:
    """Reads the input as its command does; what was imported must open."""
    path, out = folder / name, folder / "out.jsonl"
    if reader == "own":
        open_study(path)
    elif reader == "draft":
        (folder / "map.toml").write_text(draft(path), encoding="utf-8", newline="")
        read_map(folder / "map.toml")  # what was drafted is a mapping
    else:
        (folder / "map.toml").write_text(mapping, encoding="utf-8", newline="")
        import_study([path], out, folder / "map.toml" if mapping else None)
        try:
            open_study(out)
        except ChatbenchError as error:
            raise AssertionError(f"what was imported does not open: {error}") from error


def tried(number: int, folder: Path) -> str:
    """ "read" or "refused", else what is wrong."""
    name, content, mapping, reader = made(number)
    (folder / name).write_bytes(content)
    before = {name, "map.toml"}
    try:
        read(folder, name, mapping, reader)
        result = "read"
    except ChatbenchError as error:
        told = str(error)
        result = "refused" if str(folder) in told else f"a refusal without a file: {told[:200]}"
        if written := [each.name for each in folder.iterdir() if each.name not in before]:
            result = f"refused, yet {', '.join(sorted(written))} is there"
    except Exception:  # every other error is what is looked for
        result = "".join(traceback.format_exc(limit=-3))
    for each in folder.iterdir():
        each.unlink()
    return result


class TimeoutOfInputError(BaseException):
    """An input took too long; not an `Exception`, which a reader might handle."""


def _too_long(*_: object) -> None:
    raise TimeoutOfInputError


def fuzz(numbers: range, out: Path, say: Callable[[str], object] = print) -> Counter[str]:
    """Tries the inputs that are not tried yet; counts of what came out, of all tries in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state, failures = out / "state.json", out / "failures.jsonl"
    done = json.loads(state.read_text()) if state.exists() else {"next": numbers.start, "counts": {}}
    counts, began = Counter[str](done["counts"]), time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as folder, failures.open("a", encoding="utf-8") as file:
        for number in range(max(numbers.start, done["next"]), numbers.stop):
            signal.alarm(TIMEOUT_SECONDS)
            try:
                result = tried(number, Path(folder))
            except TimeoutOfInputError:
                result = f"more than {TIMEOUT_SECONDS} s: " + "".join(traceback.format_exc(limit=-3))
            signal.alarm(0)
            counts[result if result in ("read", "refused") else "failed"] += 1
            if result not in ("read", "refused"):
                file.write(json.dumps({"number": number, "why": result}) + "\n")
                file.flush()
            if (number + 1) % TOLD_EVERY == 0 or number + 1 == numbers.stop:
                write_json(state, {"next": number + 1, "counts": counts})
                rate = (number + 1 - max(numbers.start, done["next"])) / (time.monotonic() - began)
                say(f"{number + 1}: {dict(counts)}, {rate:.0f} inputs/s")
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--out", type=Path, default=Path("results/import_fuzz"))
    options = parser.parse_args(arguments)
    counts = fuzz(range(options.first, options.first + options.inputs), options.out)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
