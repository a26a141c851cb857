"""Checkpoints are complete or not resumed from; disk space is counted; one run at a time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.training.checkpoints import (
    SAMPLE_BYTES,
    add_checksums,
    check_space,
    is_complete,
    latest_complete,
    remove_incomplete,
    run_bytes,
    run_lock,
    write_errors_named,
)


def checksummed(folder: Path, step: int, content: bytes) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(content)
    add_checksums(checkpoint)
    return checkpoint


def overwrite(checkpoint: Path, place: int, content: bytes) -> None:
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(place)
        file.write(content)


@pytest.mark.parametrize("place", [0, 3, 40 * SAMPLE_BYTES - 1])
def test_a_checkpoint_whose_bytes_changed_in_place_is_passed_over_for_the_one_before(
    tmp_path: Path, place: int
) -> None:
    # Its files have their sizes, so a list of sizes alone would let it through.
    before, after = (checksummed(tmp_path, step, bytes(range(256)) * (40 * SAMPLE_BYTES // 256)) for step in (2, 4))
    assert latest_complete(tmp_path) == after

    overwrite(after, place, b"\xaa")

    assert latest_complete(tmp_path) == before
    assert remove_incomplete(tmp_path) == ["checkpoint-4"]


def test_a_lost_stretch_in_the_middle_of_a_large_file_is_noticed(tmp_path: Path) -> None:
    checkpoint = checksummed(tmp_path, 2, b"\x01" * 40 * SAMPLE_BYTES)

    overwrite(checkpoint, 19 * SAMPLE_BYTES, b"\x00" * 3 * SAMPLE_BYTES)

    assert not is_complete(checkpoint)


def test_a_file_that_appears_later_does_not_make_a_checkpoint_incomplete(tmp_path: Path) -> None:
    # On a network file system another machine's file can become visible after the list was written.
    checkpoint = checksummed(tmp_path, 2, b"weights")
    (checkpoint / "rng_state_1.pth").write_bytes(b"state")

    assert is_complete(checkpoint)


def test_space_is_counted_for_the_checkpoints_that_lie_there_at_a_time(tmp_path: Path) -> None:
    assert run_bytes(12, steps=6, save_steps=2, limit=2) == 36  # the third is written before the first is deleted
    assert run_bytes(12, steps=3, save_steps=50, limit=2) == 12 + 4  # the last step's, and the result
    assert run_bytes(12, steps=6, save_steps=2, limit=5) == 36 + 4

    (tmp_path / "there").write_bytes(b"x" * 1000)
    with pytest.raises(ChatbenchError, match="need"):
        check_space(tmp_path, shutil.disk_usage(tmp_path).free + 10**12)
    check_space(tmp_path / "not" / "yet", 1)


def test_a_bug_in_torch_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), write_errors_named(tmp_path, 1):
        raise RuntimeError("shapes do not fit")


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "split_0.lock").write_text("process 1 on elsewhere")

    with run_lock(tmp_path / "split_0"):
        assert (tmp_path / "split_0.lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not list(tmp_path.iterdir())
