"""From a study to training data: N random splits by question, as files that every later step reads.

Each file is written at once, the manifest last; where the manifest is going to change, the old one is removed first. A
run that was stopped thus leaves either a complete folder or one that every later step refuses; running it again
finishes it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, json_line, read_json, write_json, write_text
from chatbench.core.records import Part, Split, Study
from chatbench.data.examples import ROW_FORMATS, RowFormat, example_rows
from chatbench.data.open_study import open_study
from chatbench.data.prepared import MANIFEST, Manifest
from chatbench.data.splits import make_splits, near_duplicate_groups, question_set_sha256

_PARTS: tuple[Part, Part] = ("train", "test")
_KINDS = ("first", "follow_up", "answer")
_FILES = ("train.jsonl", "test.jsonl", "split.jsonl")


@dataclass(frozen=True, slots=True)
class PreparedSplits:
    """What was written, and the audit to print."""

    out: Path
    study: Study
    manifest: Manifest
    audit: str


def prepare_splits(
    study_path: Path,
    out: Path,
    *,
    splits: int = 10,
    train_share: float = 0.6,
    seed: int = 0,
    format: RowFormat = "messages",  # noqa: A002  # the name of the option
    skip_bad_records: bool = False,
    include_pilots: bool = False,
) -> PreparedSplits:
    """Writes `manifest.json` and `split_i/{train,test,split}.jsonl` into `out`.

    Raises:
        ChatbenchError: the study cannot be read, an option is out of range, or the study holds no conversation.
    """
    if format not in ROW_FORMATS:
        expected = f"one of {', '.join(ROW_FORMATS)}"
        raise ChatbenchError(f"format {format!r}", expected=expected, fix="use --format messages")
    study = open_study(study_path, skip_bad_records=skip_bad_records, include_pilots=include_pilots)
    if not study.conversations:
        fix = "check the study: chatbench check-study"
        raise ChatbenchError(f"{study_path}: no conversation", expected="chats to learn from", fix=fix)
    made = make_splits(study.questions.values(), splits=splits, train_share=train_share, seed=seed)
    rows = {c.id: example_rows(c, study.questions[c.question_id], format) for c in study.conversations}
    sides = {
        f"{split.id}/{part}": [
            row for c in study.conversations if split.part[c.question_id] == part for row in rows[c.id]
        ]
        for split in made
        for part in _PARTS
    }
    groups = near_duplicate_groups(study.questions.values())
    for split in made:
        _check_leaks(split, sides, groups)
    divisions: dict[str, list[Row]] = {
        f"{split.id}/split": [
            {"question_id": i, "subset": study.questions[i].subset, "part": part} for i, part in split.part.items()
        ]
        for split in made
    }
    texts = {f"{name}.jsonl": "".join(map(json_line, lines)) for name, lines in {**sides, **divisions}.items()}
    manifest = Manifest(
        study=str(study_path),
        study_resolved=str(study_path.resolve()),
        study_name=study.name,
        skip_bad_records=skip_bad_records,
        include_pilots=include_pilots,
        seed=seed,
        splits=splits,
        train_share=train_share,
        format=format,
        questions_sha256=question_set_sha256(study.questions.values()),
        counts={
            "questions": len(study.questions),
            "conversations": len(study.conversations),
            "answers": len(study.answers),
        },
        examples={name: _kinds(side) for name, side in sides.items()},
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())},
        package_version=version("chatbench"),
    )
    _write(out, texts, manifest)
    return PreparedSplits(out, study, manifest, _audit(made, sides, groups))


def _kinds(rows: Sequence[Row]) -> dict[str, int]:
    counted = Counter(str(row["kind"]) for row in rows)
    return {kind: counted[kind] for kind in _KINDS}


def _check_leaks(split: Split, sides: Mapping[str, Sequence[Row]], groups: Sequence[tuple[str, ...]]) -> None:
    """Looks at the rows themselves: no question, no conversation and no group of near duplicates on both sides.

    Raises:
        RuntimeError: there is one, which is a fault of ours and not of the study.
    """
    train, test = (sides[f"{split.id}/{part}"] for part in _PARTS)
    for key in ("question_id", "conversation_id"):
        shared = {str(row[key]) for row in train} & {str(row[key]) for row in test}
        if shared:
            raise RuntimeError(f"{split.id}: {key} on both sides: {sorted(shared)[:3]}")
    divided = [group for group in groups if len({split.part[question_id] for question_id in group}) > 1]
    if divided:
        raise RuntimeError(f"{split.id}: near duplicates on both sides: {divided[:3]}")


def _write(out: Path, texts: Mapping[str, str], manifest: Manifest) -> None:
    """Writes the files, and removes those of splits that an earlier run made and this one has not; others stay."""
    path = out / MANIFEST
    try:
        unchanged = path.exists() and read_json(path) == manifest.as_json()
    except ChatbenchError:  # a damaged manifest is another one
        unchanged = False
    if not unchanged:
        path.unlink(missing_ok=True)
    for name, text in sorted(texts.items()):
        write_text(out / name, text)
    for folder in out.glob("split_*"):
        if folder.name not in manifest.split_ids and folder.is_dir():
            for name in _FILES:
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
    write_json(path, manifest.as_json())


def _audit(splits: Sequence[Split], sides: Mapping[str, Sequence[Row]], groups: Sequence[tuple[str, ...]]) -> str:
    """One line per side of each split, and the result of the leak check."""
    lines = []
    for split in splits:
        for part in _PARTS:
            rows = sides[f"{split.id}/{part}"]
            kinds = _kinds(rows)
            chats = len({row["conversation_id"] for row in rows})
            lines.append(
                f"{split.id} {part:<5}  {len(split.question_ids(part))} questions, {chats} conversations, {len(rows)} "
                f"examples: {kinds['first']} first, {kinds['follow_up']} follow-up, {kinds['answer']} answer"
            )
    together = sum(len(group) for group in groups if len(group) > 1)
    lines.append(
        "leak check: no question, no conversation and no near duplicate on both sides of a split"
        f" ({together} questions have a near duplicate and are kept with it)"
    )
    return "\n".join(lines)
