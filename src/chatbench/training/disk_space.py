"""Room on the disk for checkpoints: asked for before training, and named when it runs out all the same.

A checkpoint holds the trained weights and two averages per weight (AdamW), all in float32: 12 bytes a trained
parameter. A new one is written before the oldest is deleted, so one more than `save_total_limit` lie there for a while.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from chatbench.core.errors import ChatbenchError

CHECKPOINT_BYTES = 12
SHARDED_CHECKPOINT_BYTES = 16
"""Under FSDP the Trainer writes the weights twice: as the model's folder, and in the form it resumes from."""

_TORCH_WRITE_FAILED = ("inline_container.cc", "PytorchStreamWriter")
"""torch.save says so, and not why, when the disk is full."""


def checkpoint_bytes(trained_parameters: int, *, sharded: bool = False) -> int:
    """Size of one checkpoint; what is left out (settings, tokenizer, generators) is a few megabytes at most."""
    return trained_parameters * (SHARDED_CHECKPOINT_BYTES if sharded else CHECKPOINT_BYTES)


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
    free = shutil.disk_usage(_existing(folder)).free
    if there + free < needed:
        raise ChatbenchError(
            f"{folder}: {_size(free)} free on its disk, and the run's checkpoints need {_size(needed - there)}",
            expected=f"room for {_size(needed)}",
            fix="free space, choose another --results folder, or write fewer checkpoints (save_total_limit)",
        )


@contextmanager
def write_errors_named(target: Path, needed: int) -> Iterator[None]:
    """Turns a failure to write below `target` into an error that says how much room there is and how much it takes.

    Raises:
        ChatbenchError: the disk is full, or cannot be written to for another reason.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TORCH_WRITE_FAILED):
            raise
        free = shutil.disk_usage(_existing(target)).free
        raise ChatbenchError(
            f"{target} cannot be written: {_reason(error, free, needed)}; {_size(free)} are free",
            expected=f"room for {_size(needed)}",
            fix="free space there and run the same command: it continues from the last whole checkpoint",
        ) from error


def _reason(error: Exception, free: int, needed: int) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RuntimeError):
        return os.strerror(28) if free < needed else "torch.save failed"
    return str(error).rpartition("I/O error: ")[2]


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _size(count: int) -> str:
    """In GB, or in MB below one: `12.3 GB`, `1.4 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
