"""Checkpoints that are known to be whole.

The Trainer writes a checkpoint file by file, so a kill leaves a torn one. When all of it is written, a list of its
files and their sizes is added, in one step; a checkpoint without that list, or whose files differ from it, is not
resumed from.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole

FILE_LIST = "chatbench_files.json"


def seal(checkpoint: Path) -> None:
    """Writes down the files of a checkpoint and their sizes: from now on it counts as whole."""
    write_json_whole(checkpoint / FILE_LIST, _sizes(checkpoint))


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there in its full size."""
    try:
        expected = read_json(checkpoint / FILE_LIST)
    except ChatbenchError:
        return False
    return expected == _sizes(checkpoint)


def latest_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none."""
    return max(filter(is_whole, _checkpoints(folder)), key=_step, default=None)


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


def _sizes(checkpoint: Path) -> dict[str, int]:
    # Not the hidden files: a killed write may have left its temporary one.
    files = (file for file in sorted(checkpoint.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(checkpoint)): file.stat().st_size for file in files if file.name != FILE_LIST}
