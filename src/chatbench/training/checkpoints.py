"""Checkpoints that are known to be whole.

The Trainer writes a checkpoint file by file, so a kill leaves a torn one, and a power cut one whose files have their
size and lack their bytes. When all of it is on the disk, a list of its files is added, in one step: sizes, and a hash
of samples. A checkpoint without that list, or whose files differ from it, is not resumed from.

The samples are 16 pieces of 1 MiB spread over a file: smaller files are covered whole, so is any loss of blocks that is
not tiny against the file, and a checkpoint of 80 GB takes no longer than one of 1 GB. A single flipped bit of a large
file can be missed.

Room on the disk for checkpoints: asked for before training, and named when it runs out all the same.

A checkpoint holds the trained weights and two averages per weight (AdamW), all in float32: 12 bytes a trained
parameter. A new one is written before the oldest is deleted, so one more than `save_total_limit` lie there for a while.

The loss curve of one run as a PNG: training loss, and validation loss, against steps.

Drawn on a figure object of its own, without pyplot. The same log gives the same bytes.

What a finished run leaves: the model's folder, completed and then put into its place in one step.

One run at a time in a folder: the lock is the kernel's, so a killed run leaves none behind.

Two runs in the same working folder would write into each other's checkpoints. The second one is refused with the name
of the first. Nothing has to be cleaned up after a kill: a lock file that nobody holds is taken over.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import hashlib
import io
import math
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_bytes, write_json, write_jsonl, write_text
from chatbench.models.chat_template import FIXED_DATE, ChatForm
from chatbench.models.loading import Loaded
from chatbench.models.run_record import LOG, LOSS_CURVE, RESOLVED_SETTINGS, unfinished, write_record
from chatbench.publishing.model_card import CARD, base_name, model_card
from chatbench.training.job import TrainingJob

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


INCHES = (6.0, 4.0)
DOTS_PER_INCH = 120


def loss_curve(log: Sequence[Mapping[str, object]], title: str) -> bytes | None:
    """The curve as PNG; None where the log has no loss.

    Args:
        log: lines of `trainer_log.jsonl`: `step` with `loss` or `eval_loss`, in nats per scored token.
        title: text above the curve, taken literally.
    """
    series = {"training": _points(log, "loss"), "held out": _points(log, "eval_loss")}
    if not any(series.values()):
        return None
    from matplotlib.figure import Figure  # late: takes half a second
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        if points:
            held_out = name == "held out"
            few = held_out or len(points) < 3  # a line through one point shows nothing
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if few else None, zorder=3 if held_out else 2)
    axes.set(xlabel="step", ylabel="loss (nats per scored token)")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # else matplotlib's version is in it
    return content.getvalue()


def _points(log: Sequence[Mapping[str, object]], name: str) -> list[tuple[int, float]]:
    pairs = [(row["step"], row[name]) for row in log if name in row and "step" in row]
    return [
        (step, float(loss))
        for step, loss in pairs
        if isinstance(step, int) and isinstance(loss, int | float) and math.isfinite(loss)
    ]


def write_result(job: TrainingJob, trainer: Trainer, loaded: Loaded, record: Mapping[str, Any]) -> None:
    """Completes the working folder and puts it, in one step, where the finished model belongs."""
    work = unfinished(job.folder)
    told = {**record, "split": job.split, "examples": len(job.train)}
    if job.data is not None:
        told["data"] = asdict(job.data)
    if job.resolved.settings.template == "chat":
        told["chat_template"] = chat_template_use(loaded.tokenizer)
    adapter = job.resolved.settings.method == "lora"
    _save_model(trainer, loaded, work, told)
    if not trainer.is_world_process_zero():
        return  # the others were needed where the model is sharded over them
    if adapter:
        _base_configuration(loaded).save_pretrained(work)
    log = _log_rows(trainer.state.log_history)
    write_jsonl(work / LOG, log)
    if (curve := loss_curve(log, f"{job.resolved.key}, {job.split}")) is not None:
        write_bytes(work / LOSS_CURVE, curve)
    write_json(work / RESOLVED_SETTINGS, job.resolved.as_json())
    write_text(work / CARD, model_card(told, adapter=adapter))
    write_record(work, told)
    _put_in_place(work, job.folder)


def _save_model(trainer: Trainer, loaded: Loaded, work: Path, record: Mapping[str, Any]) -> None:
    """Weights or adapter, tokenizer, and the Trainer's own arguments."""
    model: Any = loaded.model
    model.config.use_cache = True
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.revision = base_name(record).revision or None  # else the adapter would go with any later base
    trainer.save_model(str(work))


def _base_configuration(loaded: Loaded) -> PretrainedConfig:
    """The configuration of an adapter's base, without the quantisation, which is that of this run."""
    config = copy.deepcopy(cast(Any, loaded.model).config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return cast(PretrainedConfig, config)


def _put_in_place(work: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def chat_template_use(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How the tokenizer's chat template is applied, for others to apply it alike: options, and what ends a turn."""
    form = ChatForm(tokenizer)
    options: dict[str, object] = {"date_string": FIXED_DATE} if "date_string" in form.template.source else {}
    if form.template.thinking is not None:
        options["enable_thinking"] = form.template.thinking
    (end_id,) = form.end_ids
    end = tokenizer.convert_ids_to_tokens(end_id)
    return {"merges_system": form.template.merges_system, "options": options, "end": end}


def _log_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log without its last row, which tells run times; keys sorted, as a checkpoint gives them back."""
    return [dict(sorted(row.items())) for row in history if row.keys() & {"loss", "eval_loss"}]


_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside, no other process on this machine (on NFS: on any) enters for the same folder.

    Some network file systems know no locks; there the run goes on without one.

    Raises:
        ChatbenchError: another process is inside.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _opened_and_locked(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is another file now
        os.close(descriptor)


def _opened_and_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise ChatbenchError(
                f"{path.with_suffix('')}: {holder} is training there now",
                expected="one run at a time in a folder",
                fix="wait for it or stop it; the processes of one run are started by accelerate launch or torchrun",
            ) from error
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # its last holder removed it between opening and locking


FILE_LIST = "chatbench_files.json"
SAMPLES = 16
SAMPLE_BYTES = 1 << 20


def seal(checkpoint: Path) -> None:
    """Brings a checkpoint's files to the disk and writes down what they hold: from now on it counts as whole."""
    files = _files(checkpoint)
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    write_json(checkpoint / FILE_LIST, {str(file.relative_to(checkpoint)): _content(file) for file in files})


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
    """The newest whole checkpoint of a run, None where there is none."""
    return next(filter(is_complete, reversed(_checkpoints(folder))), None)


def remove_incomplete(folder: Path) -> list[str]:
    """Deletes the checkpoints that are not whole; gives their names."""
    torn = [checkpoint for checkpoint in _checkpoints(folder) if not is_complete(checkpoint)]
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
