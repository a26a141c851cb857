"""prepare-splits: the files, the audit, what a kill leaves, and how later steps find what they need."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from tests.support.study_files import shared_data, tiny_folder

from chatbench.core.errors import ChatbenchError
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.prepared import load_manifest
from chatbench.data.workspace import Workspace


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_all_files_are_written_and_the_manifest_knows_them(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    manifest = prepare_splits(study, out, splits=2, seed=3).manifest

    assert sorted(contents(out)) == [
        "manifest.json",
        *(f"split_{i}/{n}.jsonl" for i in (0, 1) for n in ("split", "test", "train")),
    ]
    assert load_manifest(out) == manifest
    assert (manifest.study_name, manifest.seed, manifest.splits, manifest.format) == ("tiny", 3, 2, "messages")
    assert manifest.counts == {"questions": 10, "conversations": 10, "answers": 20}
    before = contents(out)
    prepare_splits(study, out, splits=2, seed=3)
    assert contents(out) == before  # running again changes no byte
    for name, sha256 in manifest.files.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256


def test_train_and_test_hold_all_examples_once_and_share_no_question(study: Path, tmp_path: Path) -> None:
    # Ten chats with 1 2 3 1 2 3 1 2 3 1 user turns: 19 turns, so 19 + 10 examples.
    out = tmp_path / "data"
    prepare_splits(study, out, splits=3)

    for split_id in load_manifest(out).split_ids:
        train, test = Workspace(out).examples(split_id, "train"), Workspace(out).examples(split_id, "test")
        assert len(train) + len(test) == 29
        assert not {row.question_id for row in train} & {row.question_id for row in test}
        assert {row.question_id for row in train} == set(Workspace(out).split(split_id).question_ids("train"))
        assert len(Workspace(out).split(split_id).question_ids("train")) == 6


def test_a_line_of_split_jsonl_is_a_question(study: Path, tmp_path: Path) -> None:
    prepare_splits(study, tmp_path / "data", splits=1)
    first = json.loads((tmp_path / "data" / "split_0" / "split.jsonl").read_text().splitlines()[0])

    assert {**first, "part": "?"} == {
        "question_id": "college_mathematics-redux-0",
        "subset": "college_mathematics",
        "part": "?",
    }


def test_the_audit_counts_examples_per_kind_and_reports_the_leak_check(study: Path, tmp_path: Path) -> None:
    prepared = prepare_splits(study, tmp_path / "data", splits=1)
    lines = prepared.audit.splitlines()
    counts = prepared.manifest.examples

    assert counts["split_0/train"]["first"] + counts["split_0/test"]["first"] == 10
    assert counts["split_0/train"]["follow_up"] + counts["split_0/test"]["follow_up"] == 9
    assert lines[0].startswith("split_0 train  6 questions, 6 conversations, ")
    assert lines[1].startswith("split_0 test   4 questions, 4 conversations, ")
    assert lines[2].startswith("leak check: no question, no conversation and no near duplicate")


@pytest.mark.parametrize("writes", range(8))
def test_a_run_killed_after_any_file_is_finished_by_the_next(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    out, reference = tmp_path / "data", tmp_path / "reference"
    prepare_splits(study, out, splits=3, seed=1)
    prepare_splits(study, reference, splits=2, seed=2)
    replace = os.replace
    done: list[Path] = []

    def killed(source: str, target: Path) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        replace(source, target)
        done.append(target)

    if writes < 7:  # two splits of three files, and the manifest
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                prepare_splits(study, out, splits=2, seed=2)
        with pytest.raises(ChatbenchError, match="manifest"):  # nobody reads a mixture
            load_manifest(out)
    prepare_splits(study, out, splits=2, seed=2)

    assert contents(out) == contents(reference)


def test_splits_of_an_earlier_run_go_and_other_files_stay(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare_splits(study, out, splits=3)
    (out / "split_2" / "notes.txt").write_text("mine")
    (out / "prepare_splits.py").write_text("an entry point")
    prepare_splits(study, out, splits=1)

    assert sorted(contents(out)) == [
        "manifest.json",
        "prepare_splits.py",
        *(f"split_0/{name}.jsonl" for name in ("split", "test", "train")),
        "split_2/notes.txt",
    ]


def test_a_split_that_is_not_there_is_named_with_those_that_are(study: Path, tmp_path: Path) -> None:
    prepare_splits(study, tmp_path / "data", splits=5)

    with pytest.raises(ChatbenchError) as caught:
        Workspace(tmp_path / "data").examples("split_7", "train")
    assert "no such split: split_7" in str(caught.value)
    assert "split_0..split_4" in str(caught.value)
    assert "--splits" in caught.value.fix


def test_data_that_was_never_prepared_or_was_changed_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match=r"manifest.json: no such file"):
        Workspace(tmp_path / "data").split_file("split_0", "train.jsonl")
    prepare_splits(study, tmp_path / "data", splits=1)
    path = Workspace(tmp_path / "data").split_file("split_0", "train.jsonl")
    path.write_text(path.read_text() + "\n")

    with pytest.raises(ChatbenchError, match="changed since it was prepared"):
        Workspace(tmp_path / "data").examples("split_0", "train")


def test_a_bad_study_leaves_earlier_data_as_it_was(study: Path, tmp_path: Path) -> None:
    prepare_splits(study, tmp_path / "data", splits=1)
    before = contents(tmp_path / "data")
    (study / "questions.csv").write_text("")

    with pytest.raises(ChatbenchError, match="empty file"):
        prepare_splits(study, tmp_path / "data", splits=1)
    assert contents(tmp_path / "data") == before


def test_the_real_halie_study_is_split_20_to_10(tmp_path: Path) -> None:
    # 6 questions a subset: 0.6 x 6 = 3.6, so 4 of each of the five train.
    prepared = prepare_splits(shared_data("halie"), tmp_path / "data", splits=5)

    for split_id in prepared.manifest.split_ids:
        assert len(Workspace(tmp_path / "data").split(split_id).question_ids("train")) == 20
        kinds = [prepared.manifest.examples[f"{split_id}/{part}"] for part in ("train", "test")]
        assert sum(kind["answer"] for kind in kinds) == 1220
