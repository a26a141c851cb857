"""The record of a fine-tuning run, written before it starts, so that later commands can tell whether it is the same.

The record is `chatbench.json` of the model's folder. A run trains in `FOLDER.unfinished`, which is renamed to `FOLDER`
when all of it is written: a finished folder is always complete. One process at a time writes it.

Once all of a folder is on the disk, a list of its files is added atomically: sizes, and a hash of samples. A kill
leaves no list; a power cut can leave files of the right size without their bytes. The samples are 16 pieces of 1 MiB
spread over a file: smaller files are covered completely, so is any loss of blocks that is not tiny against the file,
and 80 GB take no longer than 1 GB. A single flipped bit of a large file can be missed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shlex
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError, OccupiedError
from chatbench.core.files import read_object, sha256_of, write_json
from chatbench.core.settings import Resolved

RECORD = "chatbench.json"
RESOLVED_SETTINGS = "resolved_settings.json"
LOG = "trainer_log.jsonl"
LOSS_CURVE = "loss_curve.png"
FILE_LIST = "chatbench_files.json"
SAMPLES = 16
SAMPLE_BYTES = 1 << 20

_LABELS = {
    "train_sha256": "training data", "base": "base", "base_weights": "weights of the base", "precision": "precision",
    "processes": "processes", "tokenizer": "tokenizer", "text_form": "text form",
}  # fmt: skip
"""Besides the settings, what a continued run must share with the one before."""


def record_of(
    resolved: Resolved, identity: Mapping[str, str], *, train_sha256: str, precision: str, processes: int
) -> dict[str, Any]:
    """Everything that the result of a run depends on; no time, path or secret.

    `identity` says what the base is and how it reads: `base_weights`, `tokenizer` (hash) and `text_form`.
    """
    versions = {"python": platform.python_version()}
    for name in ("chatbench", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "model": resolved.model,
        "recipe": resolved.recipe,
        "base": resolved.base,
        **identity,
        "train_sha256": train_sha256,
        "settings_hash": resolved.hash,
        "settings": {**asdict(resolved.settings), "lora_targets": list(resolved.settings.lora_targets)},
        "origins": dict(resolved.origins),
        "precision": precision,
        "processes": processes,
        "versions": versions,
    }


def unfinished(folder: Path) -> Path:
    """The folder that a run works in until it is done."""
    return folder.with_name(folder.name + ".unfinished")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, None if there is none."""
    path = folder / RECORD
    return read_object(path) if path.is_file() else None


def refuse_other_data(folder: Path, record: Mapping[str, Any], train_file: Path) -> None:
    """Check that the model of a folder was trained on this file, and thus on none of the split's held-out questions.

    Raises:
        ChatbenchError: it was trained on other data, as after `prepare-splits` with another seed.
    """
    if record["train_sha256"] != sha256_of(train_file):
        raise ChatbenchError(
            f"{folder}: trained on data that differs from {train_file}",
            expected="a model that has not seen the held-out questions",
            fix=_again(folder, record),
        )


def finished_run(
    folder: Path, resolved: Resolved, train_sha256: str, *, identity: Mapping[str, str], overwrite: bool
) -> dict[str, Any] | None:
    """The record of this run if it was finished before; None if it is to be trained.

    `identity` is as in `record_of`; what is not known before loading is left out, and not compared.

    Raises:
        ChatbenchError: the folder holds another run's model, or this one's is damaged, and `overwrite` is off.
    """
    if overwrite:
        return None
    found = read_record(folder)
    if found is None:
        if folder.exists() and any(folder.iterdir()):
            fix = f"move it away, or: {_again(folder, {'model': resolved.model})}"
            raise ChatbenchError(f"{folder}: not empty, but has no {RECORD}", fix=fix)
        return None
    wanted = {"base": resolved.base, "settings_hash": resolved.hash, "train_sha256": train_sha256, **identity}
    if any(_changed(name, found, wanted) for name in wanted):
        raise _differs(folder, found, {**wanted, "settings": asdict(resolved.settings)}, "holds a model trained")
    if (file := differing_file(folder)) is not None:
        raise ChatbenchError(
            f"{folder}: trained with these settings, but {file} is missing or differs from what training wrote",
            expected=f"the files that {FILE_LIST} lists",
            fix=f"restore it, or train again: {_again(folder, found)}",
        )
    return found


def may_resume(folder: Path, record: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether the unfinished folder belongs to the same run; False if there is none, or it is to be overwritten.

    Raises:
        ChatbenchError: it belongs to another run and `overwrite` is off.
    """
    found = read_record(unfinished(folder))
    if found is None:
        return False
    if not any(_changed(name, found, record) for name in ("settings_hash", *_LABELS)):
        return True
    if overwrite:
        return False
    raise _differs(unfinished(folder), found, record, "holds a run started")


def _changed(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if name == "base" and "base_weights" in wanted:  # they decide: a folder may have been moved
        return False
    old = name == "text_form" and name not in found  # a record of an earlier version
    return not old and bool(found.get(name) != wanted[name])


def _differs(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> ChatbenchError:
    old, new = found.get("settings", {}), wanted.get("settings", {})
    lines = [f"{d.name}: {d.one} -> {d.other}" for d in differences(old, new) if d.name in new]
    for name, label in _LABELS.items():
        if name in wanted and _changed(name, found, wanted):
            lines.append(f"{label}: {str(found.get(name))[:24]} -> {str(wanted[name])[:24]}")
    return ChatbenchError(
        f"{folder} {what} differently: {'; '.join(lines)}",
        expected="the same settings, data and base as before",
        fix="choose another --results folder, for all steps; or go back to those settings; or train again: "
        f"{_again(folder, found)}, likewise for every other split, then simulate with --overwrite, then score",
    )


def _again(folder: Path, record: Mapping[str, Any]) -> str:
    """The command that trains this split again; `run` has no --overwrite."""
    split, results = folder.name.removesuffix(".unfinished"), folder.parents[2]
    words = ["chatbench", "finetune", str(record["model"]), "--overwrite"]
    words += ["--results", str(results)] * (str(results) != "results")
    return f"SPLIT_ID={split} {shlex.join(words)}, with your other options"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record, completely or not at all."""
    write_json(folder / RECORD, record)


def add_checksums(folder: Path, *, ignored: Collection[str] = ()) -> None:
    """Flushes a folder's files to the disk and records their contents: from now on it counts as complete.

    Args:
        ignored: names in the folder that may change or be removed later, or are complete already.
    """
    # Not the hidden files: a killed write may have left its temporary one.
    names = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file() and file.name[0] != ".")
    listed = [name for name in names if name.parts[0] not in (*ignored, FILE_LIST)]
    for name in listed:
        with (folder / name).open("rb") as opened:
            os.fsync(opened.fileno())
    write_json(folder / FILE_LIST, {str(name): _content(folder / name) for name in listed})


def differing_file(folder: Path) -> str | None:
    """The first file of a folder that differs from its list, or the list if it cannot be read; None if all match."""
    try:
        listed = read_object(folder / FILE_LIST)
    except ChatbenchError:
        return FILE_LIST
    there = ((name, folder / name, content) for name, content in listed.items())
    return next((name for name, file, content in there if not file.is_file() or _content(file) != content), None)


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


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield `OUT.unfinished`, which becomes `out` at the end of the block.

    Raises:
        ChatbenchError: there is something at `out`, another process is writing it, or it cannot be written.
    """
    with run_lock(out):
        refuse_unless_new(out)
        work = unfinished(out)
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            yield work
            if out.exists():
                out.rmdir()  # checked above to be empty
            work.rename(out)
        except (OSError, SafetensorError) as error:
            fix = "free up space there, or choose another OUT, and run the same command again"
            raise ChatbenchError(f"{out} cannot be written: {error}", fix=fix) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)  # already renamed on success


def refuse_unless_new(out: Path) -> None:
    """Check that there is nothing at `out` but, at most, an empty folder.

    Raises:
        ChatbenchError: there is.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ChatbenchError(
            f"{out}: already exists and is not an empty folder", fix="choose another OUT, or remove it"
        )


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """A lock: no other process on this machine (on NFS: on any) can enter for the same folder.

    The kernel holds the lock, so a killed run leaves none behind. Some network file systems have no locks; the run then
    goes on without one.

    Raises:
        ChatbenchError: another process holds it.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        holder = path.read_text(encoding="utf-8") if path.exists() else ""
        raise OccupiedError(
            f"{folder}: {holder or 'another process'} is writing there now",
            expected="only one process at a time writing to a folder",
            fix="wait for it or stop it; to train with several processes, use accelerate launch or torchrun",
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
