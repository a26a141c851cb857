"""One object for the folders: what it keeps, and when it looks again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.simulated_logs import prepared, study_folder

from chatbench.core.errors import ChatbenchError
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace


def test_manifest_and_study_are_opened_once_until_they_are_prepared_again(tmp_path: Path) -> None:
    # A manifest kept for good would go on with the old seed and refuse the new files as changed.
    place = prepared(tmp_path, seed=0)
    before, study = place.split("split_0"), place.study
    assert place.manifest is place.manifest
    assert place.study is study
    prepare_splits(study_folder(place), place.data, splits=2, seed=1)

    assert place.manifest.seed == place.split("split_0").seed == 1
    assert place.split("split_0").part != before.part
    assert place.study is not study


def test_a_study_that_changed_since_is_refused(tmp_path: Path) -> None:
    place = prepared(tmp_path)
    file = study_folder(place) / "questions.csv"
    file.write_text(file.read_text().replace("apples", "pears"))

    with pytest.raises(ChatbenchError, match="questions have changed since the splits were made"):
        place.study  # noqa: B018  # a property that reads files


def test_a_file_that_changes_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    # A hash kept by path alone would let it pass.
    place = prepared(tmp_path)
    path = place.split_file("split_0", "test.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Let me see", b"Let me sea", 1))
    os.utime(path, ns=(1, 1))

    with pytest.raises(ChatbenchError, match=r"test\.jsonl: changed since it was prepared"):
        place.examples("split_0", "test")


def test_every_path_of_a_model_lies_below_its_key(tmp_path: Path) -> None:
    place = Workspace(results=tmp_path)

    below = "mistralai--Mistral-7B-v0.1"
    hub = "mistralai/Mistral-7B-v0.1"
    assert place.model_folder(hub, "split_3") == tmp_path / "models" / below / "split_3"
    assert place.training_logs(hub, "split_3") == tmp_path / "logs" / below / "split_3"
    assert place.perplexity(hub, "split_3") == tmp_path / "ppl" / below / "split_3.json"
    chats = tmp_path / "simulations" / below / "split_3"
    assert place.conversations(hub, "split_3") == chats / "conversations.jsonl"
    assert place.conversations(hub, "split_3", base_model=True) == chats / "conversations_base.jsonl"
    assert place.scores(hub, ".csv") == tmp_path / "scores" / f"{below}.csv"
