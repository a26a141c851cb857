"""What a finished run leaves: the model's folder, completed and then put into its place in one step."""

from __future__ import annotations

import copy
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

from chatbench.core.files import write_bytes, write_json, write_jsonl, write_text
from chatbench.core.resolved_settings import Resolved
from chatbench.models.chat_template import FIXED_DATE, ChatForm
from chatbench.models.loading import Loaded
from chatbench.models.run_record import LOG, LOSS_CURVE, RESOLVED_SETTINGS, unfinished, write_record
from chatbench.publishing.model_card import CARD, base_name, model_card


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
    write_json(work / RESOLVED_SETTINGS, resolved.as_json())
    write_text(work / CARD, model_card(record, adapter=is_adapter))
    write_record(work, record)
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
