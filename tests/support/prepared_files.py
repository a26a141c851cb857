"""A small prepared data folder, written by hand, for the tests of the steps that train and score."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.files import sha256_of, write_json, write_jsonl
from chatbench.data.examples import ExampleRow
from chatbench.data.prepared import MANIFEST, Manifest


def sums(count: int, first: int = 0) -> list[ExampleRow]:
    """Examples about sums, of three kinds and many lengths."""
    rows = []
    for number in range(first, first + count):
        kind = ("first", "follow_up", "answer")[number % 3]
        said = {
            "first": f"what is {number} plus {number * 7 % 50}?",
            "follow_up": "are you sure",
            "answer": "Answer: B",
        }
        question = f"What is {number} + {number * 7 % 50}?" + " Think." * (number % 5)
        rows.append(
            ExampleRow(
                prompt=f"[SYSTEM] {question}\n\nGenerate\n\n[USER] ",
                completion=f"{said[kind]} [END]",
                messages=None,
                question_id=f"q{number}",
                conversation_id=f"c{number}",
                kind=kind,  # type: ignore[arg-type]  # a literal, picked from a tuple
            )
        )
    return rows


def write_prepared(folder: Path, *, splits: int = 1, train: int = 12, test: int = 6) -> Path:
    """`splits` splits of different examples, with a manifest that fits them; gives the folder back."""
    files, examples = {}, {}
    for number in range(splits):
        split = f"split_{number}"
        sides = {"train": sums(train, 100 * number), "test": sums(test, 100 * number + 50)}
        for part, rows in sides.items():
            write_jsonl(folder / split / f"{part}.jsonl", [as_line(row) for row in rows])
            examples[f"{split}/{part}"] = {"first": len(rows)}
        questions = [{"question_id": r.question_id, "subset": "s", "part": part} for part in sides for r in sides[part]]
        write_jsonl(folder / split / "split.jsonl", questions)
        names = ("train.jsonl", "test.jsonl", "split.jsonl")
        files |= {f"{split}/{name}": sha256_of(folder / split / name) for name in names}
    manifest = Manifest(
        study="study", study_resolved="/study", study_name="sums", skip_bad_records=False, include_pilots=False, seed=0,
        splits=splits, train_share=0.6, format="prompt-completion", questions_sha256="0" * 64, counts={},
        examples=examples, files=files, package_version="0",
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest.as_json())
    return folder


def as_line(row: ExampleRow) -> dict[str, object]:
    return {
        "prompt": row.prompt,
        "completion": row.completion,
        "question_id": row.question_id,
        "conversation_id": row.conversation_id,
        "kind": row.kind,
    }
