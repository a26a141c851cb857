"""prepare-splits: the files, the audit, what a kill leaves, and how later steps find what they need."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.study_files import chat, question, shared_data, tiny_folder, tiny_study

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl
from chatbench.data.examples import RowFormat, example_rows
from chatbench.data.open_study import open_study, summary_text
from chatbench.data.own_chats import rows_of
from chatbench.data.prepare_splits import _check_leaks, prepare_splits
from chatbench.data.prepared import load_manifest
from chatbench.data.splits import splits_of
from chatbench.data.workspace import Workspace
from chatbench.sample.study import SampleSettings, write_chatbench_folder, write_sample

WORDS = ("tides", "moths", "rivers", "violins", "glaciers", "comets")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def own_chats(path: Path, subsets: str, answers: Sequence[str | None]) -> Path:
    """One chat about each question, whose subsets are named by a character."""
    write_jsonl(path, [
        {"kind": "user-AI", "worker_id": "w", "assistant": "a", "answer": answer, "correct": True,
         "turns": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "A"}],
         "question": {"id": word, "subset": subset, "text": f"Which {word} are oldest?", "answer_kind": "outcome"}}
        for word, subset, answer in zip(WORDS, subsets, answers, strict=False)
    ])  # fmt: skip
    return path


def test_all_files_are_written_and_the_manifest_knows_them(study: Path, out: Path) -> None:
    manifest = prepare_splits(study, out, splits=2, seed=3).manifest
    before = contents(out)

    files = [f"split_{i}/{name}.jsonl" for i in (0, 1) for name in ("split", "test", "train")]
    assert sorted(before) == ["manifest.json", *files]
    assert manifest.files == {name: hashlib.sha256(before[name]).hexdigest() for name in files}
    assert load_manifest(out) == manifest
    assert (manifest.study_name, manifest.seed, manifest.splits, manifest.format) == ("tiny", 3, 2, "messages")
    assert manifest.counts == {"questions": 10, "conversations": 10, "answers": 20}
    first = json.loads(before["split_0/split.jsonl"].splitlines()[0])
    assert {**first, "part": ""} == {
        "question_id": "college_mathematics-redux-0", "subset": "college_mathematics", "part": ""
    }  # fmt: skip
    prepare_splits(study, out, splits=2, seed=3)
    assert contents(out) == before  # running again changes no byte
    # A manifest from before there were other splits than by question.
    content = json.loads(before["manifest.json"])
    older = {key: value for key, value in content.items() if key not in ("by", "also_questions", "held_out")}
    (out / "manifest.json").write_text(json.dumps(older))
    assert load_manifest(out).by == "question"


def test_train_and_test_hold_all_examples_once_and_share_no_question(study: Path, out: Path) -> None:
    # Ten chats with 1 2 3 1 2 3 1 2 3 1 user turns: 19 turns, so 19 + 10 examples.
    prepare_splits(study, out, splits=3)
    place = Workspace(out)

    for split_id in place.manifest.split_ids:
        train, test = place.examples(split_id, "train"), place.examples(split_id, "test")
        assert len(train) + len(test) == 29
        assert not {row.question_id for row in train} & {row.question_id for row in test}
        assert {row.question_id for row in train} == set(place.split(split_id).question_ids("train"))
        assert len(place.split(split_id).question_ids("train")) == 6


def test_the_audit_counts_examples_per_kind_and_reports_the_leak_check(study: Path, out: Path) -> None:
    prepared = prepare_splits(study, out, splits=1)
    lines = prepared.audit.splitlines()
    counts = prepared.manifest.examples

    assert counts["split_0/train"]["first"] + counts["split_0/test"]["first"] == 10
    assert counts["split_0/train"]["follow_up"] + counts["split_0/test"]["follow_up"] == 9
    assert lines[0].startswith("split_0 train  6 questions, 6 conversations, ")
    assert lines[1].startswith("split_0 test   4 questions, 4 conversations, ")
    assert lines[2].startswith("leak check: no question, no conversation and no near duplicate")


@pytest.mark.parametrize("given", [[None] * 4, [None, "code", None, None]])
def test_chats_without_any_answer_to_learn_from_are_told(tmp_path: Path, out: Path, given: list[str | None]) -> None:
    # "0 answer" examples was all that was said, and no simulator ended a chat.
    path = own_chats(tmp_path / "s.jsonl", "1111", given)

    for text in (prepare_splits(path, out, splits=1).audit, summary_text(open_study(path))):
        assert ("note: no answer to learn from: simulators will not end chats" in text) == (not any(given))


@pytest.mark.parametrize(("subsets", "noted"), [("012340", True), ("010101", False), ("000000", False)])
def test_the_audit_says_when_small_subsets_miss_the_share(tmp_path: Path, out: Path, subsets: str, noted: bool) -> None:
    # Of one subset, or two of three, 4 of 6 questions train instead of 3.6: rounding, which no subsets would change.
    audit = prepare_splits(own_chats(tmp_path / "s.jsonl", subsets, "AAAAAA"), out, splits=2).audit

    assert ("note: a share of 0.83 of the questions trains instead of 0.6: subsets are split one by" in audit) is noted
    assert ("note" in audit) is noted


@pytest.mark.parametrize("writes", range(8))
def test_a_run_killed_after_any_file_is_finished_by_the_next(
    study: Path, out: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    reference = out.with_name("reference")
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


@pytest.mark.parametrize("files", range(7))
def test_a_disk_that_fills_while_any_file_is_written_leaves_the_folder_as_it_was(
    study: Path, out: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    written = itertools.count()
    prepare_splits(study, out, splits=3, seed=1)
    before = contents(out)

    def full(_: int) -> None:
        if next(written) == files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ChatbenchError, match="the disk is full"):
        prepare_splits(study, out, splits=2, seed=2)
    assert contents(out) == before


def test_splits_of_an_earlier_run_go_and_other_files_stay(study: Path, out: Path) -> None:
    prepare_splits(study, out, splits=3)
    (out / "split_2" / "notes.txt").write_text("mine")
    (out / "prepare_splits.py").write_text("an entry point")
    prepare_splits(study, out, splits=1)

    files = [f"split_0/{name}.jsonl" for name in ("split", "test", "train")]
    assert sorted(contents(out)) == ["manifest.json", "prepare_splits.py", *files, "split_2/notes.txt"]


@pytest.mark.parametrize("left", [("split",), ("split", "test"), ("split", "test", "train")])
def test_what_a_stopped_run_left_is_replaced_though_a_later_manifest_does_not_list_it(
    study: Path, out: Path, left: tuple[str, ...]
) -> None:
    # It was refused as not written by prepare-splits.
    prepare_splits(study, out, splits=3)
    (out / "manifest.json").unlink()
    for name in {"split", "test", "train"} - {*left}:
        (out / "split_2" / f"{name}.jsonl").unlink()
    prepare_splits(study, out, splits=2)
    prepare_splits(study, out, splits=4)

    assert len(load_manifest(out).split_ids) == 4


@pytest.mark.parametrize("adopted", [True, False])
def test_splits_made_by_hand_are_neither_overwritten_nor_removed(study: Path, out: Path, adopted: bool) -> None:
    # All folders called split_... were overwritten, or emptied, without a word.
    rows = lines_of_examples("messages")
    for name in ("split_0", "split_mine", "split_7"):
        for part in ("train", "test"):
            write_jsonl(out / name / f"{part}.jsonl", rows)
    if adopted:
        load_manifest(out)
    before = contents(out)
    with pytest.raises(ChatbenchError, match=r"split_0/\w+.jsonl: not written by prepare-splits") as caught:
        prepare_splits(study, out, splits=1)
    assert "choose another folder" in caught.value.fix
    assert contents(out) == before

    (out / "manifest.json").unlink(missing_ok=True)
    (out / "split_0").rename(out / "split_0_backup")
    prepare_splits(study, out, splits=3)
    prepare_splits(study, out, splits=1)  # removes split_1 and split_2
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "split_0", "split_0_backup", "split_mine", "split_7"
    }  # fmt: skip
    with pytest.raises(ChatbenchError, match=r"split_7/test.jsonl: not written by prepare-splits"):
        prepare_splits(study, out, splits=8)


def test_the_file_to_be_split_and_a_manifest_of_another_program_stay(study: Path, tmp_path: Path, out: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", lines_of_examples("messages"))
    prepare_splits(tmp_path / "x.jsonl", out, splits=3)
    before = contents(out)
    for name in ("split_0/train.jsonl", "split_2/test.jsonl"):  # would be overwritten, or removed
        with pytest.raises(ChatbenchError, match=f"{name}: is to be split, and would be lost"):
            prepare_splits(out / name, out, splits=1)
    assert contents(out) == before

    other = tmp_path / "other" / "manifest.json"
    other.parent.mkdir()
    other.write_text('{"name": "an app", "files": {}}')
    with pytest.raises(ChatbenchError, match=r"manifest.json: not written by prepare-splits"):
        prepare_splits(study, other.parent, splits=1)


def test_data_that_was_never_prepared_or_was_changed_and_a_split_that_is_not_there_are_refused(
    study: Path, out: Path
) -> None:
    with pytest.raises(ChatbenchError, match=r"manifest.json: no such file"):
        Workspace(out).split_file("split_0", "train.jsonl")
    prepare_splits(study, out, splits=5)
    with pytest.raises(ChatbenchError, match=r"no such split: split_7; .* has split_0..split_4") as caught:
        Workspace(out).examples("split_7", "train")
    assert "--splits" in caught.value.fix
    path = Workspace(out).split_file("split_0", "train.jsonl")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ChatbenchError, match="changed since it was prepared"):
        Workspace(out).examples("split_0", "train")

    before = contents(out)
    (study / "questions.csv").write_text("")
    with pytest.raises(ChatbenchError, match="empty file"):
        prepare_splits(study, out, splits=1)
    assert contents(out) == before  # a bad study leaves earlier data as it was


def lines_of_examples(form: str, questions: int = 5) -> list[dict[str, object]]:
    """Two chats of three examples about each question, as the original project writes them: without ids."""
    rows: list[dict[str, object]] = []
    for number in range(questions):
        of, two = question(number), [chat(question(number), w, user_turns=2, answer="C") for w in ("w1", "w2")]
        lines = [row for each in two for row in example_rows(each, of, form)]  # type: ignore[arg-type]  # one of three
        rows += [{key: row[key] for key in ("messages", "prompt", "completion") if key in row} for row in lines]
    return rows


@pytest.mark.parametrize("form", ["messages", "prompt-completion", "context"])
def test_a_file_of_examples_is_split_by_the_questions_in_its_prompts(tmp_path: Path, form: str) -> None:
    # Split by line, the likely mistake, every question would be on both sides.
    rows = lines_of_examples(form)
    write_jsonl(tmp_path / "mmlu_interactive_full.jsonl", rows)
    manifest = prepare_splits(tmp_path / "mmlu_interactive_full.jsonl", tmp_path / "data", splits=2).manifest
    place = Workspace(tmp_path / "data")
    train, test = place.examples("split_0", "train"), place.examples("split_0", "test")

    assert manifest.counts == {"questions": 5}
    assert (len({row.question_id for row in train}), len({row.question_id for row in test})) == (3, 2)
    assert not {row.question_id for row in train} & {row.question_id for row in test}
    assert [row.kind for row in (*train, *test)] == ["first", "follow_up", "answer"] * 10
    assert len({row.conversation_id for row in (*train, *test)}) == 10
    assert [row.completion for row in (*train, *test)] == ["ask 0 [END]", "ask 1 [END]", "Answer: C [END]"] * 10
    assert set(place.split("split_0").question_ids("test")) == {row.question_id for row in test}
    with pytest.raises(ChatbenchError, match="holds training examples, not people's answers"):
        place.study  # noqa: B018  # a property that reads files


def test_a_prompt_without_a_question_is_refused_with_its_line(tmp_path: Path, out: Path) -> None:
    unclear = {"prompt": "user: hi\nuser:", "completion": "a"}
    write_jsonl(tmp_path / "x.jsonl", [*lines_of_examples("context", 1), unclear])

    with pytest.raises(ChatbenchError, match=r"x\.jsonl, line 7: no question in the prompt"):
        prepare_splits(tmp_path / "x.jsonl", out)


@pytest.mark.parametrize("form", ["messages", "prompt-completion", "context"])
def test_splits_made_by_hand_are_adopted_once(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines_of_examples(form)
    for split, border in (("split_0", 18), ("split_1", 15)):  # the second divides a question
        write_jsonl(tmp_path / split / "train.jsonl", rows[:border])
        write_jsonl(tmp_path / split / "test.jsonl", rows[border:])
    place = Workspace(tmp_path)
    before = contents(tmp_path)

    assert place.manifest.adopted
    assert (place.manifest.splits, place.manifest.counts) == (2, {"questions": 5})
    assert len(place.examples("split_0", "test")) == 12
    assert len(place.split("split_0").question_ids("test")) == 2
    assert "split_1: 1 questions are on both sides" in capsys.readouterr().err
    assert {name: contents(tmp_path)[name] for name in before} == before  # the user's files stay as they were
    with pytest.raises(ChatbenchError, match="made by hand"):
        place.study  # noqa: B018  # a property that reads files
    write_jsonl(tmp_path / "split_0" / "test.jsonl", rows[:3])
    with pytest.raises(ChatbenchError, match="changed since"):
        place.examples("split_0", "test")


@pytest.mark.parametrize("value", [2**63, 0, -1, "3", 1.5, None])
def test_a_manifest_that_holds_what_it_cannot_is_refused_at_once(study: Path, out: Path, value: object) -> None:
    prepare_splits(study, out, splits=1)
    path = out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "splits": value}))

    with pytest.raises(ChatbenchError, match=r"manifest\.json: .*splits") as caught:
        load_manifest(out)
    assert "Input should" not in str(caught.value)
    with pytest.raises(ChatbenchError, match="splits"):
        prepare_splits(study, out, splits=2**63)


def test_what_values_mean_is_kept_for_later_steps(study: Path, out: Path) -> None:
    for path in (study / "full_study").glob("*.csv"):
        path.write_text(path.read_text().replace("user-AI", "together"))
    prepare_splits(study, out, splits=1, maps=["answer_type.together=user-AI"])

    assert len(Workspace(out).study.answers) == 20


def two_assistants(folder: Path) -> Path:
    """The tiny study once more with another assistant and other people."""
    study = tiny_study(folder.name)
    chats = [replace(c, assistant="llama", worker_id=f"{c.worker_id}x", id=f"{c.id}x") for c in study.conversations]
    answers = [replace(answer, assistant="llama", worker_id=f"{answer.worker_id}x") for answer in study.answers]
    doubled = replace(study, conversations=(*study.conversations, *chats), answers=(*study.answers, *answers))
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
    assert "note: 2 assistants; for a new one, chatbench estimate needs 3, or real chats" in prepared.audit
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


def test_a_leak_of_what_is_held_out_is_found_in_the_rows(tmp_path: Path) -> None:
    study = open_study(two_assistants(tmp_path / "study"))
    chats = {chat.id: chat for chat in study.conversations}
    rows = [{"conversation_id": chat.id, "question_id": chat.question_id} for chat in chats.values()]
    sides = {"split_0/train": rows[:1], "split_0/test": rows[-1:]}
    with pytest.raises(RuntimeError, match="assistant on the wrong side"):
        _check_leaks(splits_of(study, "assistant")[0], sides, [], chats)


def test_by_question_too_a_side_without_chats_is_refused(tmp_path: Path) -> None:
    # All chats are about one of ten questions: written, the other side's file would be empty.
    study = tiny_study()
    write_jsonl(tmp_path / "x.jsonl", rows_of(replace(study, conversations=study.conversations[:1])))

    with pytest.raises(ChatbenchError, match=r"split_0 holds out .*: one side has no chats"):
        prepare_splits(tmp_path / "x.jsonl", tmp_path / "data", splits=1)
    assert not (tmp_path / "data").exists()


PUBLISHED = {
    ("sample", "messages"): "c12d871edcb1e3dbe6257c36c7cd1052455f46c547c2f7fc3ad0b9ee756055bc",
    ("sample", "prompt-completion"): "e00900b73f271809bfe142c685604d1ae924e850d38f5ff53a636c48c5f23f01",
    ("sample", "context"): "f19fc54f283658e6c280186335bdc898fc5b606c75c48b9745749870c08765a9",
    ("halie", "messages"): "6062fca961ab3a03cce2a525a5dfb360301ac796e4f908a4c2174629dcc6ec74",
    ("halie", "prompt-completion"): "6277888391a84e0b2af1c13656170d1d23b5ff254d242f6fb137ecddf7334916",
    ("halie", "context"): "91f84f904e6ec569a74e6b673d5af2780ab8680e70e4e62c6e1b3db06ed41c20",
}
"""SHA-256 of the hash of the questions and of every file, from before questions could be anything but four options."""


@pytest.mark.parametrize(("name", "row_format"), PUBLISHED)
def test_four_options_are_prepared_byte_for_byte_as_published(name: str, row_format: RowFormat, tmp_path: Path) -> None:
    # A prompt in other words, or a question set hashed otherwise, would make every model and score of before useless.
    folder = tmp_path / "sample" if name == "sample" else shared_data(name)
    if name == "sample":
        write_sample(folder, SampleSettings(questions=24, chats=2))
    manifest = prepare_splits(folder, tmp_path / "data", splits=2, format=row_format).manifest
    content = json.dumps([manifest.questions_sha256, sorted(manifest.files.items())])
    assert hashlib.sha256(content.encode()).hexdigest() == PUBLISHED[name, row_format]
