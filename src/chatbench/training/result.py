"""What a finished run leaves: the model's folder, completed and then put into its place in one step."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

from chatbench.core.files import write_bytes_whole, write_json_whole, write_jsonl_whole, write_text_whole
from chatbench.models.chat_form import ChatForm
from chatbench.models.chat_template import FIXED_DATE
from chatbench.models.loading import Loaded
from chatbench.models.run_record import LOG, LOSS_CURVE, RESOLVED_SETTINGS, unfinished, write_record
from chatbench.publishing.base_names import base_name
from chatbench.publishing.model_card import CARD, model_card
from chatbench.training.job import TrainingJob
from chatbench.training.loss_curve import loss_curve


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
    write_jsonl_whole(work / LOG, log)
    if (curve := loss_curve(log, f"{job.resolved.key}, {job.split}")) is not None:
        write_bytes_whole(work / LOSS_CURVE, curve)
    write_json_whole(work / RESOLVED_SETTINGS, job.resolved.as_json())
    write_text_whole(work / CARD, model_card(told, adapter=adapter))
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
