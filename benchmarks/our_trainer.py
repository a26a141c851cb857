"""The package's trainer over examples that are encoded already: its steps, loss and optimizer, no files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PrinterCallback

from chatbench.core.settings import Settings
from chatbench.models.encoding import EncodedRows
from chatbench.training.batches import StepMaker, default_pack_tokens, step_plan
from chatbench.training.run import training_arguments
from chatbench.training.trainer import CompletionTrainer, RecentLosses


def our_trainer(model: PreTrainedModel, rows: EncodedRows, settings: Settings, *, pad_id: int = 0) -> CompletionTrainer:
    """As `chatbench.training.run.train` makes it; nothing is printed or saved."""
    arguments = training_arguments(settings, Path(tempfile.mkdtemp(prefix="chatbench-benchmark-")))
    arguments.save_strategy = "no"
    trainer = CompletionTrainer(
        plan=step_plan(settings, rows, 1),
        make_step=StepMaker(
            rows.examples,
            packing=settings.packing,
            pack_tokens=settings.pack_tokens or default_pack_tokens(arguments.device),
            batch_examples=settings.per_device_train_batch_size,
            pad_id=pad_id,
            device=arguments.device,
            kernel=settings.packed_attention,
        ),
        losses=RecentLosses(rows.rows, process=0),
        model=model,
        args=arguments,
        train_dataset=cast(Any, rows.examples),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
