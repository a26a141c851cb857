"""What a run leaves on the disk: checkpoints that are known to be complete, and the finished folder.

The Trainer writes a checkpoint file by file; one without a list of its files, or whose files differ from it
(`models/run_record.py`), is not resumed from.

A checkpoint holds the trained weights in float32 and what the optimizer keeps of each (`OPTIMIZER_BYTES`): 12 bytes a
trained parameter with AdamW. A new one is written before the oldest is deleted, so one more than `save_total_limit` lie
there for a while.
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

from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_bytes, write_json, write_jsonl, write_text
from chatbench.core.resolved_settings import Resolved
from chatbench.core.settings import OPTIMIZER_BYTES, Optimizer
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
    """The newest complete checkpoint of a run, None where there is none, and the names of the incomplete: deleted."""
    found = checkpoints(folder)
    incomplete = [checkpoint for checkpoint in found if differing_file(checkpoint) is not None]
    for checkpoint in incomplete:
        shutil.rmtree(checkpoint)
    complete = [checkpoint for checkpoint in found if checkpoint not in incomplete]
    return complete[-1] if complete else None, [checkpoint.name for checkpoint in incomplete]


def checkpoints(folder: Path) -> list[Path]:
    """Those of a run, complete or not, in the order of their steps."""
    found = (path for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name))
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def checkpoint_bytes(weight_bytes: int, optim: str, *, sharded: bool = False) -> int:
    """Size of one checkpoint; what is left out (settings, tokenizer, generators) is a few megabytes at most.

    >>> checkpoint_bytes(4, "adamw_torch"), checkpoint_bytes(4, "sgd")  # of one parameter
    (12, 4)
    """
    # Under FSDP the Trainer writes the weights twice: as the model's folder, and in the form it resumes from.
    return math.ceil(weight_bytes * (1 + sharded + OPTIMIZER_BYTES[cast(Optimizer, optim)] / 4))


def run_bytes(one_checkpoint: int, result: int, steps: int, save_steps: int, limit: int) -> int:
    """Most bytes that a run's folder holds at a time, with `limit` checkpoints kept, and the weights as the `result`.

    >>> run_bytes(12, 4, steps=100, save_steps=50, limit=2)  # two checkpoints, and the result
    28
    """
    written = math.ceil(steps / save_steps)  # the last step is always saved
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


def write_result(folder: Path, resolved: Resolved, trainer: Trainer, loaded: Loaded, record: Mapping[str, Any]) -> None:
    """Completes the working folder of `folder` and puts it there."""
    work, model = unfinished(folder), cast(Any, loaded.model)
    if resolved.settings.template == "chat":
        record = {**record, "chat_template": chat_template_use(loaded.tokenizer)}
    model.config.use_cache = True
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.revision = base_name(record).revision or None  # else the adapter would go with any later base
    trainer.save_model(str(work))
    if not trainer.is_world_process_zero():
        return  # the others were needed where the model is sharded over them
    is_adapter = resolved.settings.method == "lora"
    if is_adapter:
        config = copy.deepcopy(cast(PretrainedConfig, model.config))
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # that of this run, not of the base
        config.save_pretrained(work)
    # Without the last row, which tells run times; keys sorted, as a checkpoint gives them back.
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
    """How the tokenizer's chat template is applied, for others to apply it alike: options, and what ends a turn."""
    form = ChatForm(tokenizer)
    options: dict[str, object] = {"date_string": FIXED_DATE} if "date_string" in form.template.source else {}
    if form.template.thinking is not None:
        options["enable_thinking"] = form.template.thinking
    (end_id,) = form.end_ids
    end = tokenizer.convert_ids_to_tokens(end_id)
    return {"merges_system": form.template.merges_system, "options": options, "end": end}


def loss_curve(log: Sequence[Mapping[str, object]], title: str) -> bytes | None:
    """Training and held-out loss against steps as PNG, the same bytes for the same log; None without a loss.

    Args:
        log: lines of `trainer_log.jsonl`: `step` with `loss` or `eval_loss`, in nats per scored token.
        title: text above the curve, taken literally.
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
    from matplotlib.figure import Figure  # late: takes half a second
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.0, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    for label, points in series.items():
        if points:
            held_out = label == "held out"
            few = held_out or len(points) < 3  # a line through one point shows nothing
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if few else None, zorder=3 if held_out else 2)
    axes.set(xlabel="step", ylabel="loss (nats per scored token)")
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # else matplotlib's version is in it
    return content.getvalue()
