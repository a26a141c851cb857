"""prepare-splits: the files, the audit, what a kill leaves, and how later steps find what they need."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.study_files import shared_data, tiny_folder, tiny_study

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.data import prepare_splits as module
from chatbench.data.open_study import open_study
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.prepared import load_manifest
from chatbench.data.splits import splits_of
from chatbench.data.workspace import Workspace
from chatbench.sample.study import write_chatbench_folder


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


def two_assistants(folder: Path) -> Path:
    """The tiny study once more with another assistant and other people."""
    study = tiny_study(folder.name)
    more = {
        name: tuple(replace(one, assistant="llama", worker_id=f"{one.worker_id}x") for one in getattr(study, name))
        for name in ("conversations", "answers")
    }
    chats = [replace(c, id=f"{c.id}x") for c in more["conversations"]]
    doubled = replace(study, conversations=(*study.conversations, *chats), answers=(*study.answers, *more["answers"]))
    write_chatbench_folder(doubled, folder)
    return folder


@pytest.mark.parametrize(("also_questions", "questions"), [(False, 10), (True, 4)])
def test_by_assistant_training_holds_no_chat_with_the_held_out_one(
    tmp_path: Path, also_questions: bool, questions: int
) -> None:
    study = two_assistants(tmp_path / "study")
    prepared = prepare_splits(study, tmp_path / "data", by="assistant", also_questions=also_questions)
    assistants = {chat.id: chat.assistant for chat in prepared.study.conversations}

    assert prepared.manifest.held_out == {"split_0": ["gpt-4o"], "split_1": ["llama"]}
    assert (prepared.manifest.by, prepared.manifest.also_questions) == ("assistant", also_questions)
    place = Workspace(tmp_path / "data")
    for split_id, (held_out,) in prepared.manifest.held_out.items():
        train, test = place.examples(split_id, "train"), place.examples(split_id, "test")
        assert held_out not in {assistants[row.conversation_id] for row in train}
        assert {assistants[row.conversation_id] for row in test} == {held_out}
        assert len({row.question_id for row in test}) == len(place.split(split_id).question_ids("test")) == questions
        assert not also_questions or not {r.question_id for r in train} & {r.question_id for r in test}
        held = place.split(split_id).held_out_records(place.study)
        assert {a.assistant for a in held.answers if a.kind == "user-AI"} == {held_out}
    assert "; held out: gpt-4o" in prepared.audit
    assert prepared.audit.splitlines()[-1].startswith(
        "leak check: no question, no conversation, no near duplicate and no assistant" if also_questions
        else "leak check: no conversation and no assistant on both sides"
    )  # fmt: skip


def test_a_leak_of_what_is_held_out_is_found_in_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_side(study: Study, *_args: object, **_options: object) -> list[object]:
        return [replace(split, held_out=frozenset()) for split in splits_of(study, "person", splits=1)]

    folder = two_assistants(tmp_path / "study")
    monkeypatch.setattr(module, "splits_of", one_side)
    with pytest.raises(ChatbenchError, match="one side has no chat"):
        prepare_splits(folder, tmp_path / "data", by="person")
    chats = {chat.id: chat for chat in open_study(folder).conversations}
    split = splits_of(open_study(folder), "assistant")[0]
    rows = [{"conversation_id": chat.id, "question_id": chat.question_id} for chat in chats.values()]
    with pytest.raises(RuntimeError, match="assistant on the wrong side"):
        module._check_leaks(split, {"split_0/train": rows[:1], "split_0/test": rows[-1:]}, [], chats)


def test_a_manifest_from_before_these_options_is_of_questions(study: Path, tmp_path: Path) -> None:
    prepare_splits(study, tmp_path / "data", splits=1)
    path = tmp_path / "data" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in ("by", "also_questions", "held_out")}))

    assert load_manifest(tmp_path / "data").by == "question"
