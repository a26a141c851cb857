"""Checkpoints are complete or not resumed from; disk space is counted; one run at a time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.models.run_record import FILE_LIST, SAMPLE_BYTES, add_checksums, differing_file, run_lock
from chatbench.training.checkpoints import check_space, complete_checkpoint, run_bytes, write_errors_named


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
def test_a_checkpoint_whose_bytes_changed_in_place_is_deleted_for_the_one_before(tmp_path: Path, place: int) -> None:
    # Its files have their sizes, so a list of sizes alone would let it through; and 10 > 2, though "10" < "2" as text.
    before, after = (checksummed(tmp_path, step, bytes(range(256)) * (40 * SAMPLE_BYTES // 256)) for step in (2, 10))
    (after / "rng_state_1.pth").write_bytes(b"state")  # of another machine, seen after the list was written
    assert complete_checkpoint(tmp_path) == (after, [])

    overwrite(after, place, b"\xaa")
    assert complete_checkpoint(tmp_path) == (before, ["checkpoint-10"])
    assert not after.exists()

    (before / FILE_LIST).write_text('{"model.saf')
    assert complete_checkpoint(tmp_path) == (None, ["checkpoint-2"])


def test_lost_bytes_and_a_lost_stretch_in_the_middle_of_a_large_file_are_noticed(tmp_path: Path) -> None:
    short, large = checksummed(tmp_path, 1, b"12345"), checksummed(tmp_path, 2, b"\x01" * 40 * SAMPLE_BYTES)

    (short / "model.safetensors").write_bytes(b"1234")
    overwrite(large, 19 * SAMPLE_BYTES, b"\x00" * 3 * SAMPLE_BYTES)

    assert [differing_file(each) for each in (short, large)] == ["model.safetensors"] * 2


def test_space_is_counted_for_the_checkpoints_that_lie_there_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_bytes(12, 4, steps=6, save_steps=2, limit=2) == 36  # the third is written before the first is deleted
    assert run_bytes(12, 4, steps=3, save_steps=50, limit=2) == 12 + 4  # the last step's, and the result
    assert run_bytes(12, 4, steps=6, save_steps=2, limit=5) == 36 + 4

    (tmp_path / "there").write_bytes(b"x" * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500))
    check_space(tmp_path, 1500)
    check_space(tmp_path / "not" / "yet", 500)
    with pytest.raises(ChatbenchError, match=r"500 bytes free on its disk, but the run's checkpoints need 501 bytes"):
        check_space(tmp_path, 1501)


def test_a_bug_in_torch_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), write_errors_named(tmp_path, 1):
        raise RuntimeError("shapes do not fit")


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "split_0.lock").write_text("process 1 on elsewhere")

    with run_lock(tmp_path / "split_0"):
        assert (tmp_path / "split_0.lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not list(tmp_path.iterdir())
