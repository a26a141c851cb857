"""What a finished run leaves: the model's folder, completed and then put into its place in one step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import Trainer

from chatbench.core.files import write_jsonl_whole, write_text_whole
from chatbench.models.loading import Loaded
from chatbench.models.model_card import model_card
from chatbench.models.run_record import unfinished, write_record
from chatbench.models.training_job import TrainingJob


def write_result(job: TrainingJob, trainer: Trainer, loaded: Loaded, record: Mapping[str, Any]) -> None:
    """Completes the working folder and puts it, in one step, where the finished model belongs."""
    work = unfinished(job.folder)
    cast(Any, loaded.model.config).use_cache = True
    trainer.save_model(str(work))
    card = model_card(
        job.resolved, str(job.folder), split=job.split, examples=len(job.train), steps=trainer.state.global_step
    )
    write_text_whole(work / "README.md", card)
    write_jsonl_whole(work / "trainer_log.jsonl", _log_rows(trainer.state.log_history))
    write_record(work, record)
    old = job.folder.with_name(job.folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if job.folder.exists():
        job.folder.rename(old)
    work.rename(job.folder)
    shutil.rmtree(old, ignore_errors=True)


def _log_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log without its last row, which tells run times; keys sorted, as a checkpoint gives them back."""
    return [dict(sorted(row.items())) for row in history if row.keys() & {"loss", "eval_loss"}]
