"""The folder that `chatbench prepare-splits` writes, as later steps read it.

    manifest.json                     what was prepared from what, and the SHA-256 of every file below
    split_i/{train,test}.jsonl        one example per line (`example_rows`)
    split_i/split.jsonl               one question per line: question_id, subset, part

The manifest is written last: a folder without one is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from chatbench.core.errors import ChatbenchError, expected_by
from chatbench.core.files import Row, read_json, read_jsonl, sha256_of, write_json, write_jsonl
from chatbench.core.records import Unit
from chatbench.data.examples import KINDS, PREPARE_FIX, read_examples
from chatbench.data.splits import MOST_SPLITS

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was prepared, with everything needed to open the same study again.

    `counts` holds totals of the study, `examples` the number of examples of each kind by `split_i/part`, `files` the
    SHA-256 of each file by its path below the folder. `by` says what the splits hold out, `held_out` which units by
    split (empty for questions), `also_questions` that the questions of the test side are unseen too. `maps` are the
    study's --map options; `adopted` marks splits that were made by hand (`adopt`).
    """

    study: str
    study_resolved: str
    study_name: str
    skip_bad_records: bool
    include_pilots: bool
    seed: int
    splits: int
    train_share: float
    format: str
    questions_sha256: str
    counts: dict[str, int]
    examples: dict[str, dict[str, int]]
    files: dict[str, str]
    package_version: str
    by: Unit = "question"
    also_questions: bool = False
    held_out: dict[str, list[str]] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)
    adopted: bool = False

    @property
    def split_ids(self) -> list[str]:
        """`split_0`, `split_1`, ..."""
        return [f"split_{number}" for number in range(self.splits)]

    @property
    def study_path(self) -> Path:
        """Where the study is: where it was or, in a project that was moved, at the relative path that was given."""
        return Path(self.study_resolved if Path(self.study_resolved).exists() else self.study)

    def as_json(self) -> Row:
        """The content of `manifest.json`."""
        return asdict(self)


def load_manifest(data_dir: Path) -> Manifest:
    """Load the manifest of a prepared folder; splits made by hand get one first (`adopt`).

    Raises:
        ChatbenchError: there is none (nothing was prepared, or the preparation was stopped), or it is damaged.
    """
    path = data_dir / MANIFEST
    if not path.exists() and not adopt(data_dir):
        raise ChatbenchError(f"{path}: no such file", expected="fully prepared splits", fix=PREPARE_FIX)
    from pydantic import TypeAdapter, ValidationError  # lazy: slow to import

    content = read_json(path, fix=PREPARE_FIX)
    try:
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(content), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        found = f"{'.'.join(map(str, first['loc'])) or 'content'} {first['input']!r:.60}"
        expected = f"{expected_by(first)}, as in a manifest of this version"
        raise ChatbenchError(f"{path}: unexpected {found}", expected=expected, fix=PREPARE_FIX) from None
    if not 1 <= manifest.splits <= MOST_SPLITS:
        raise ChatbenchError(f"{path}: {manifest.splits} splits", expected=f"1 to {MOST_SPLITS}", fix=PREPARE_FIX)
    return manifest


def adopt(data_dir: Path) -> bool:
    """Write a manifest, marked as adopted, for splits that a user made by hand; return whether there are any.

    `split_0`, `split_1`, ... each hold `train.jsonl` and `test.jsonl` with lines of `messages`, or of `prompt` and
    `completion`. Output of prepare-splits has conversation ids and is never adopted: without a manifest it is
    incomplete.

    Raises:
        ChatbenchError: a line is not an example, or a split lacks a side.
    """
    first = data_dir / "split_0" / "train.jsonl"
    line = next(read_jsonl(first), None) if first.is_file() else None
    if line is None or "conversation_id" in line[1]:
        return False
    files: dict[str, str] = {}
    examples: dict[str, dict[str, int]] = {}
    asked: set[str] = set()
    number = 0
    while (folder := data_dir / f"split_{number}").is_dir():
        sides = {part: read_examples(folder / f"{part}.jsonl") for part in ("train", "test")}
        questions = {part: {row.question_id for row in rows} for part, rows in sides.items()}
        if both := questions["train"] & questions["test"]:
            note = f"{len(both)} questions are on both sides: held-out scores will be inflated"
            print(f"chatbench: {folder}: {note}", file=sys.stderr)
        lines: list[Row] = [{"question_id": q, "subset": "", "part": p} for p in sides for q in sorted(questions[p])]
        write_jsonl(folder / "split.jsonl", lines)
        for name in ("train.jsonl", "test.jsonl", "split.jsonl"):
            files[f"{folder.name}/{name}"] = sha256_of(folder / name)
        examples |= {
            f"{folder.name}/{part}": kinds_of({"kind": row.kind} for row in rows) for part, rows in sides.items()
        }
        asked |= questions["train"] | questions["test"]
        number += 1
    manifest = Manifest(
        study=str(data_dir), study_resolved=str(data_dir.resolve()), study_name=data_dir.resolve().name,
        skip_bad_records=False, include_pilots=False, seed=0, splits=number, train_share=0.0, format="messages",
        questions_sha256=hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest(),
        counts={"questions": len(asked)}, examples=examples, files=files, package_version=version("chatbench"),
        adopted=True,
    )  # fmt: skip
    write_json(data_dir / MANIFEST, manifest.as_json())
    return True


def kinds_of(rows: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """Number of examples of each kind."""
    counted = Counter(str(row["kind"]) for row in rows)
    return {kind: counted[kind] for kind in KINDS}
