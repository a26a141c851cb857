"""Checkpoints that are known to be whole.

The Trainer writes a checkpoint file by file, so a kill leaves a torn one, and a power cut one whose files have their
size and lack their bytes. When all of it is on the disk, a list of its files is added, in one step: sizes, and a hash
of samples. A checkpoint without that list, or whose files differ from it, is not resumed from.

The samples are 16 pieces of 1 MiB spread over a file: smaller files are covered whole, so is any loss of blocks that is
not tiny against the file, and a checkpoint of 80 GB takes no longer than one of 1 GB. A single flipped bit of a large
file can be missed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole

FILE_LIST = "chatbench_files.json"
SAMPLES = 16
SAMPLE_BYTES = 1 << 20


def seal(checkpoint: Path) -> None:
    """Brings a checkpoint's files to the disk and writes down what they hold: from now on it counts as whole."""
    files = _files(checkpoint)
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    write_json_whole(checkpoint / FILE_LIST, {str(file.relative_to(checkpoint)): _content(file) for file in files})


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with its content."""
    try:
        expected = read_json(checkpoint / FILE_LIST)
    except ChatbenchError:
        return False
    return isinstance(expected, Mapping) and all(
        (checkpoint / name).is_file() and _content(checkpoint / name) == content for name, content in expected.items()
    )


def latest_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none."""
    return next(filter(is_whole, reversed(_checkpoints(folder))), None)


def remove_torn(folder: Path) -> list[str]:
    """Deletes the checkpoints that are not whole; gives their names."""
    torn = [checkpoint for checkpoint in _checkpoints(folder) if not is_whole(checkpoint)]
    for checkpoint in torn:
        shutil.rmtree(checkpoint)
    return [checkpoint.name for checkpoint in torn]


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _files(checkpoint: Path) -> list[Path]:
    # Not the hidden files: a killed write may have left its temporary one.
    files = (file for file in sorted(checkpoint.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return [file for file in files if file.name != FILE_LIST]


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
