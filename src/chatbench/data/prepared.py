"""The folder that `chatbench prepare-splits` makes, as every later step finds it.

    manifest.json                     what was prepared from what, and the SHA-256 of every file below
    split_i/{train,test}.jsonl        one example a line (`example_rows`)
    split_i/split.jsonl               one question a line: question_id, subset, part

The manifest is written last: a folder without one is incomplete.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, read_json, read_jsonl, sha256_of
from chatbench.core.records import Side, Split, Unit
from chatbench.data.examples import PREPARE_FIX

MANIFEST = "manifest.json"
OF_UNITS = {"by", "also_questions", "held_out"}
"""Fields that a manifest of questions may lack."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was prepared, with everything needed to open the same study again.

    `counts` holds totals of the study; `examples` the examples of each kind by `split_i/part`; `files` the SHA-256 of
    each file by its path below the folder. `by` says what the splits hold out, `held_out` which of it by split (nothing
    where that are questions), `also_questions` that the questions of the test side are unseen too.
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

    @property
    def split_ids(self) -> list[str]:
        """`split_0`, `split_1`, ..."""
        return [f"split_{number}" for number in range(self.splits)]

    def as_json(self) -> Row:
        """The content of `manifest.json`."""
        return asdict(self)


def load_manifest(data_dir: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        ChatbenchError: there is none (nothing was prepared, or the preparation was stopped), or it is damaged.
    """
    path = data_dir / MANIFEST
    if not path.exists():
        raise ChatbenchError(f"{path}: no such file", expected="splits that were prepared to the end", fix=PREPARE_FIX)
    content = read_json(path, fix=PREPARE_FIX)
    known = set(Manifest.__dataclass_fields__)
    if not isinstance(content, dict) or not known - OF_UNITS <= set(content) <= known:
        different = sorted((known - OF_UNITS) ^ set(content)) if isinstance(content, dict) else type(content).__name__
        raise ChatbenchError(
            f"{path}: unexpected content ({different})", expected="a manifest of this version", fix=PREPARE_FIX
        )
    return Manifest(**content)


def prepared_file(
    data_dir: Path, manifest: Manifest, split_id: str, name: str, verified: dict[Path, tuple[int, int, str]]
) -> Path:
    """Path of `train.jsonl`, `test.jsonl` or `split.jsonl` of a split, checked against the manifest.

    `verified` holds modification time (ns), size (bytes) and SHA-256 of what was hashed before, and is added to.

    Raises:
        ChatbenchError: no such split; or the file is missing or is not the one that was prepared.
    """
    path = data_dir / split_id / name
    if split_id not in manifest.split_ids:
        has = manifest.split_ids[0] if manifest.splits == 1 else f"{manifest.split_ids[0]}..{manifest.split_ids[-1]}"
        raise ChatbenchError(
            f"no such split: {split_id}; {data_dir} has {has}",
            fix=f"choose one of them, or prepare more: chatbench prepare-splits --study {manifest.study} --splits N",
        )
    if not path.exists():
        raise ChatbenchError(f"{path}: no such file", expected="the file that the manifest lists", fix=PREPARE_FIX)
    state = (path.stat().st_mtime_ns, path.stat().st_size)
    if path not in verified or verified[path][:2] != state:
        verified[path] = (*state, sha256_of(path))
    if verified[path][2] != manifest.files.get(f"{split_id}/{name}"):
        raise ChatbenchError(
            f"{path}: changed since it was prepared, or the preparation was stopped",
            expected="the SHA-256 in the manifest",
            fix=PREPARE_FIX,
        )
    return path


def split_in(path: Path, split_id: str, manifest: Manifest) -> Split:
    """Which question is on which side, from a `split.jsonl`.

    Raises:
        ChatbenchError: a line is no question's.
    """
    part: dict[str, Side] = {}
    for number, row in read_jsonl(path, fix=PREPARE_FIX):
        if row.get("part") not in ("train", "test", "both"):
            raise ChatbenchError(
                f"{path}, line {number}, key 'part': {row.get('part')!r}",
                expected="train, test or both",
                fix=PREPARE_FIX,
            )
        part[str(row["question_id"])] = cast(Side, row["part"])
    return Split(split_id, manifest.seed, part, manifest.by, frozenset(manifest.held_out.get(split_id, ())))
