"""The Trainer's arguments from our settings; what is fixed has its reason on its line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from chatbench.core.settings import Settings
from chatbench.models.loading import best_device
from chatbench.models.precision import resolve_precision


def training_arguments(settings: Settings, folder: Path) -> TrainingArguments:
    device = best_device()
    precision = resolve_precision(settings.precision, device)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    rare: dict[str, Any] = {}
    if settings.gradient_checkpointing:
        rare["gradient_checkpointing"] = True  # its newer name, activation_checkpointing, is not in transformers 5.0
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=1,  # a step's batches are accumulated in CompletionTrainer.training_step
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        seed=settings.seed,
        optim="adamw_torch_fused",
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,  # a loss that is not finite is an error, not something to hide
        eval_strategy="no",
        report_to="none",  # trackers are added by hand (trackers.py), to write where results/logs is
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_backend="gloo" if several and device == "cpu" else None,  # a single process with a backend crashes
        ddp_find_unused_parameters=False if several else None,
        log_level="error",
        use_cpu=device == "cpu",
        **rare,
    )
    # With several GPUs but one process, torch's DataParallel would split each batch; accelerate launch is the way.
    arguments._n_gpu = min(1, arguments.n_gpu)
    arguments.mixed_precision = "no" if precision == "fp32" else precision  # else accelerate launch would decide it
    return arguments
