"""Checkpoints that are verified to be complete, and the finished model folder.

The Trainer writes a checkpoint file by file. One without checksums, or with files that do not match them
(`models/run_record.py`), is incomplete and not resumed from.

A checkpoint holds float32 weights and optimizer state (`OPTIMIZER_BYTES`): 12 bytes per trained parameter with AdamW.
A new one is written before the oldest is deleted, so there may briefly be one more than `save_total_limit`.
"""

from __future__ import annotations

import copy
import errno
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rich.filesize import decimal
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_bytes, write_json, write_jsonl, write_text
from chatbench.core.settings import OPTIMIZER_BYTES, Optimizer, Resolved
from chatbench.models.chat_template import FIXED_DATE, ChatForm
from chatbench.models.loading import Loaded, save_special_tokens
from chatbench.models.run_record import (
    LOG,
    LOSS_CURVE,
    RESOLVED_SETTINGS,
    add_checksums,
    differing_file,
    unfinished,
    write_record,
)  # fmt: skip
from chatbench.publishing.model_card import CARD, base_name, model_card


def complete_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint of a run, or None, and the names of incomplete ones, which are deleted."""
    found = checkpoints(folder)
    incomplete = [checkpoint for checkpoint in found if differing_file(checkpoint) is not None]
    for checkpoint in incomplete:
        shutil.rmtree(checkpoint)
    complete = [checkpoint for checkpoint in found if checkpoint not in incomplete]
    return complete[-1] if complete else None, [checkpoint.name for checkpoint in incomplete]


def checkpoints(folder: Path) -> list[Path]:
    """List a run's checkpoints, complete or not, ordered by step."""
    found = (path for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name))
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def checkpoint_bytes(weight_bytes: int, optim: str, *, sharded: bool = False) -> int:
    """Size of one checkpoint, ignoring a few megabytes for settings, tokenizer and random number generators.

    >>> checkpoint_bytes(4, "adamw_torch"), checkpoint_bytes(4, "sgd")  # of one parameter
    (12, 4)
    """
    # Under FSDP the Trainer writes the weights twice: as a model folder, and in the format it resumes from.
    return math.ceil(weight_bytes * (1 + sharded + OPTIMIZER_BYTES[cast(Optimizer, optim)] / 4))


def run_bytes(one_checkpoint: int, result: int, steps: int, save_steps: int, limit: int) -> int:
    """Peak size of a run's folder, with `limit` checkpoints kept and then the final weights (`result`).

    >>> run_bytes(12, 4, steps=100, save_steps=50, limit=2)  # two checkpoints, and the result
    28
    """
    written = math.ceil(steps / save_steps)  # the last step is always saved
    return max(min(written, limit + 1) * one_checkpoint, min(written, limit) * one_checkpoint + result)


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk has room for `folder` to reach `needed` bytes, including what it already holds.

    Raises:
        ChatbenchError: there is too little free space.
    """
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = _free(folder)
    if there + free < needed:
        raise ChatbenchError(
            f"{folder}: {decimal(free)} free on its disk, but the run's checkpoints need {decimal(needed - there)}",
            expected=f"room for {decimal(needed)}",
            fix="free up space, choose another --results folder, or write fewer checkpoints (save_total_limit)",
        )


@contextmanager
def write_errors_named(target: Path, needed: int) -> Iterator[None]:
    """Turn a failure to write to `target` into an error that states the free and the required space.

    Raises:
        ChatbenchError: the disk is full or not writable.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = _free(target)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif isinstance(error, RuntimeError):
            # torch.save raises this on a full disk, without the reason; any other RuntimeError is a bug.
            if not any(words in str(error) for words in ("inline_container.cc", "PytorchStreamWriter")):
                raise
            reason = os.strerror(errno.ENOSPC) if free < needed else "torch.save failed"
        else:
            reason = str(error).rpartition("I/O error: ")[2]
        raise ChatbenchError(
            f"{target} cannot be written: {reason}; {decimal(free)} free",
            expected=f"room for {decimal(needed)}",
            fix="free up space there and run the same command: it continues from the last complete checkpoint",
        ) from error


def _free(path: Path) -> int:
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def write_result(folder: Path, resolved: Resolved, trainer: Trainer, loaded: Loaded, record: Mapping[str, Any]) -> None:
    """Complete the working folder of a run and move it to `folder`."""
    work, model = unfinished(folder), cast(Any, loaded.model)
    if resolved.settings.template == "chat":
        record = {**record, "chat_template": chat_template_use(loaded.tokenizer)}
    model.config.use_cache = True
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.revision = base_name(record).revision or None  # otherwise it would load onto any later base revision
    trainer.save_model(str(work))
    if not trainer.is_world_process_zero():
        return  # other processes only take part in saving a sharded model
    is_adapter = resolved.settings.method == "lora"
    if is_adapter:
        config = copy.deepcopy(cast(PretrainedConfig, model.config))
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # a setting of this run, not of the base
        config.save_pretrained(work)
    # Skip the last row, which has run times; sort keys, as they are after loading from a checkpoint.
    history = trainer.state.log_history
    log = [dict(sorted(row.items())) for row in history if row.keys() & {"loss", "eval_loss"}]
    write_jsonl(work / LOG, log)
    if (curve := loss_curve(log, f"{resolved.key}, {record['split']}")) is not None:
        write_bytes(work / LOSS_CURVE, curve)
    save_special_tokens(loaded.tokenizer, work)
    write_json(work / RESOLVED_SETTINGS, resolved.as_json())
    write_text(work / CARD, model_card(record, adapter=is_adapter))
    write_record(work, record)
    add_checksums(work, ignored=[CARD, *(checkpoint.name for checkpoint in checkpoints(work))])
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def chat_template_use(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Describe how the tokenizer's chat template is applied (options, end of a turn), so that others can match it."""
    form = ChatForm(tokenizer)
    options: dict[str, object] = {"date_string": FIXED_DATE} if "date_string" in form.template.source else {}
    if form.template.thinking is not None:
        options["enable_thinking"] = form.template.thinking
    (end_id,) = form.end_ids
    end = tokenizer.convert_ids_to_tokens(end_id)
    return {"merges_system": form.template.merges_system, "options": options, "end": end}


def loss_curve(log: Sequence[Mapping[str, object]], title: str) -> bytes | None:
    """Plot training and held-out loss by step as a PNG, byte-identical for the same log; None if there is no loss.

    Args:
        log: lines of `trainer_log.jsonl`: `step` with `loss` or `eval_loss`, in nats per scored token.
        title: text above the curve, not parsed as math.
    """
    series = {
        label: [
            (row["step"], float(loss))
            for row in log
            if isinstance(loss := row.get(name), int | float)
            and isinstance(row.get("step"), int)
            and math.isfinite(loss)
        ]
        for label, name in (("training", "loss"), ("held out", "eval_loss"))
    }
    if not any(series.values()):
        return None
    from matplotlib.figure import Figure  # imported late, as it takes half a second
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.0, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    for label, points in series.items():
        if points:
            held_out = label == "held out"
            few = held_out or len(points) < 3  # a line through so few points is hard to see
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if few else None, zorder=3 if held_out else 2)
    axes.set(xlabel="step", ylabel="loss (nats per scored token)")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # omits matplotlib's version
    return content.getvalue()
