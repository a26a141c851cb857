"""Checkpoints that are known to be complete, and one run at a time that writes them.

The Trainer writes a checkpoint file by file, so a kill leaves an incomplete one, and a power cut one whose files have
their size and lack their bytes. When all of it is on the disk, a list of its files is added, in one step: sizes, and a
hash of samples. A checkpoint without that list, or whose files differ from it, is not resumed from.

The samples are 16 pieces of 1 MiB spread over a file: smaller files are covered completely, so is any loss of blocks
that is not tiny against the file, and a checkpoint of 80 GB takes no longer than one of 1 GB. A single flipped bit of a
large file can be missed.

A checkpoint holds the trained weights and two averages per weight (AdamW), all in float32: 12 bytes a trained
parameter. A new one is written before the oldest is deleted, so one more than `save_total_limit` lie there for a while.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json

FILE_LIST = "chatbench_files.json"
SAMPLES = 16
SAMPLE_BYTES = 1 << 20
SHARDED_CHECKPOINT_BYTES = 16
"""Under FSDP the Trainer writes the weights twice: as the model's folder, and in the form it resumes from."""


def add_checksums(checkpoint: Path) -> None:
    """Brings a checkpoint's files to the disk and writes down what they hold: from now on it counts as complete."""
    # Not the hidden files: a killed write may have left its temporary one.
    files = [file for file in sorted(checkpoint.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    listed = {str(file.relative_to(checkpoint)): _content(file) for file in files if file.name != FILE_LIST}
    write_json(checkpoint / FILE_LIST, listed)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with its content."""
    try:
        expected = read_json(checkpoint / FILE_LIST)
    except ChatbenchError:
        return False
    return isinstance(expected, Mapping) and all(
        (checkpoint / name).is_file() and _content(checkpoint / name) == content for name, content in expected.items()
    )


def latest_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, None where there is none."""
    return next(filter(is_complete, reversed(_checkpoints(folder))), None)


def remove_incomplete(folder: Path) -> list[str]:
    """Deletes the incomplete checkpoints; gives their names."""
    incomplete = [checkpoint for checkpoint in _checkpoints(folder) if not is_complete(checkpoint)]
    for checkpoint in incomplete:
        shutil.rmtree(checkpoint)
    return [checkpoint.name for checkpoint in incomplete]


def _checkpoints(folder: Path) -> list[Path]:
    """In the order of their steps."""
    found = (path for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name))
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _content(file: Path) -> dict[str, object]:
    """Size and SHA-256 of a file's samples."""
    size = file.stat().st_size
    hashed = hashlib.sha256()
    with file.open("rb") as opened:
        if size <= SAMPLES * SAMPLE_BYTES:
            hashed.update(opened.read())
        else:
            for sample in range(SAMPLES):
                opened.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                hashed.update(opened.read(SAMPLE_BYTES))
    return {"bytes": size, "sha256_of_samples": hashed.hexdigest()}


def checkpoint_bytes(trained_parameters: int, *, sharded: bool = False) -> int:
    """Size of one checkpoint; what is left out (settings, tokenizer, generators) is a few megabytes at most."""
    return trained_parameters * (SHARDED_CHECKPOINT_BYTES if sharded else 12)


def run_bytes(one_checkpoint: int, steps: int, save_steps: int, limit: int) -> int:
    """Most bytes that a run's folder holds at a time, with `limit` checkpoints kept.

    >>> run_bytes(12, steps=100, save_steps=50, limit=2)  # two checkpoints, and the result in a third of one
    28
    """
    written = math.ceil(steps / save_steps)  # the last step is always saved
    result = one_checkpoint // 3
    return max(min(written, limit + 1) * one_checkpoint, min(written, limit) * one_checkpoint + result)


def check_space(folder: Path, needed: int) -> None:
    """Nothing, where `folder` (what lies in it counts too) has room for `needed` bytes.

    Raises:
        ChatbenchError: it has not.
    """
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = _free(folder)
    if there + free < needed:
        raise ChatbenchError(
            f"{folder}: {_size(free)} free on its disk, and the run's checkpoints need {_size(needed - there)}",
            expected=f"room for {_size(needed)}",
            fix="free space, choose another --results folder, or write fewer checkpoints (save_total_limit)",
        )


@contextmanager
def write_errors_named(target: Path, needed: int) -> Iterator[None]:
    """Turns a failure to write below `target` into an error that says how much space there is and how much it takes.

    Raises:
        ChatbenchError: the disk is full, or cannot be written to for another reason.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = _free(target)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif isinstance(error, RuntimeError):
            # What torch.save raises, without saying why, when the disk is full; others are bugs.
            if not any(words in str(error) for words in ("inline_container.cc", "PytorchStreamWriter")):
                raise
            reason = os.strerror(errno.ENOSPC) if free < needed else "torch.save failed"
        else:
            reason = str(error).rpartition("I/O error: ")[2]
        raise ChatbenchError(
            f"{target} cannot be written: {reason}; {_size(free)} are free",
            expected=f"room for {_size(needed)}",
            fix="free space there and run the same command: it continues from the last complete checkpoint",
        ) from error


def _free(path: Path) -> int:
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def _size(count: int) -> str:
    """In GB, or in MB below one: `12.3 GB`, `1.4 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside, no other process on this machine (on NFS: on any) enters for the same folder.

    The lock is the kernel's, so a killed run leaves none behind. Some network file systems know no locks; there the run
    goes on without one.

    Raises:
        ChatbenchError: another process is inside.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        holder = path.read_text(encoding="utf-8") if path.exists() else ""
        raise ChatbenchError(
            f"{folder}: {holder or 'another process'} is training there now",
            expected="one run at a time in a folder",
            fix="wait for it or stop it; the processes of one run are started by accelerate launch or torchrun",
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is another file now
        lock.release()
