"""Fine-tuning: one function, on transformers' Trainer, for whole models and LoRA adapters alike.

Only the completion carries loss, each of its tokens the same, whatever the batches. The same command continues a killed
run from its last whole checkpoint, to the same weights bit by bit where arithmetic is deterministic (it is on a
processor), and does not repeat a finished one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from transformers import PrinterCallback, TrainingArguments

from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.models.encoding import EncodedRows, TextForm, encode_rows
from chatbench.models.loading import Loaded, context_length, known_weights
from chatbench.models.precision import resolve_precision
from chatbench.models.run_record import finished_run, may_resume, record_of, unfinished, write_record
from chatbench.models.scoring import score_encoded
from chatbench.models.tree_attention import attends_to_trees, refuse_unsuited
from chatbench.protocol.transcript import EncodedExample
from chatbench.training.adapters import trainable_base
from chatbench.training.arguments import training_arguments
from chatbench.training.checkpoints import latest_whole, remove_torn
from chatbench.training.completion_trainer import CompletionTrainer
from chatbench.training.disk_space import check_space
from chatbench.training.job import TrainingJob
from chatbench.training.processes import check_sharded, check_shared, describe, everyone, on_main, refuse_launch
from chatbench.training.recent_losses import RecentLosses
from chatbench.training.result import write_result
from chatbench.training.run_lock import run_lock
from chatbench.training.run_plan import memory_warning, pack_tokens
from chatbench.training.steps import StepMaker, step_plan
from chatbench.training.stop_request import StopRequest
from chatbench.training.trackers import refuse_missing_trackers, tracked
from chatbench.training.watch import Say, Watch

Status = Literal["trained", "resumed", "already trained"]


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What came of a run; losses are nats a token. `validation` holds (epoch, loss) pairs.

    `examples_left_out`, `examples_shortened` and `turns_dropped` say what the context did to the training examples.
    """

    status: Status
    steps: int
    first_loss: float
    last_loss: float
    validation: tuple[tuple[float, float], ...]
    examples_left_out: int
    examples_shortened: int
    turns_dropped: int
    trained_tokens: int
    seconds: float = 0.0


def train(job: TrainingJob, *, resume: bool = True, overwrite: bool = False, say: Say = print) -> TrainingOutcome:
    """Fine-tunes and writes the model's folder, whole or not at all; continues or skips where that was done before.

    Started by torchrun or accelerate, every process calls this; the first one writes. Without `resume`, the checkpoints
    of a killed run are dropped and training starts at step 0.

    Raises:
        ChatbenchError: no examples, no such model, another run in the way, something this machine cannot do, or a loss
            that is not finite.
        StoppedError: SIGTERM came, and a checkpoint has been written.
    """
    if not job.train:
        raise ChatbenchError("no training examples", fix="prepare the splits again")
    refuse_launch(job.resolved.settings)
    refuse_missing_trackers(job.resolved.settings.report_to)
    is_main = os.environ.get("RANK", "0") == "0"
    with run_lock(job.folder) if is_main else nullcontext(), StopRequest() as stop:
        return _train(job, resume, overwrite, say if is_main else _silent, stop)


def _train(job: TrainingJob, resume: bool, overwrite: bool, tell: Say, stop: StopRequest) -> TrainingOutcome:
    settings = job.resolved.settings
    known = known_weights(job.resolved.base, settings.seed)
    done = finished_run(job.folder, job.resolved, job.train_sha256, base_weights=known, overwrite=overwrite)
    if done is not None:
        return _outcome("already trained", done["outcome"])
    began = time.monotonic()
    arguments = training_arguments(settings, unfinished(job.folder))
    loaded = trainable_base(job.resolved, resolve_precision(settings.precision, arguments.device.type), arguments, tell)
    if settings.packing != "none":
        refuse_unsuited(loaded.model, settings.packed_attention)
    context = min(settings.max_tokens or context_length(loaded.model), context_length(loaded.model))
    form = TextForm(settings.template, settings.long_examples)
    encoded = encode_rows(loaded.tokenizer, job.train, context, form)
    examples = encoded.examples
    tokens = sum(example.tokens for example in examples)
    tell(f"{len(examples):,} examples, {tokens:,} tokens one by one, context {context:,}")
    for line in encoded.lines() + memory_warning(job.resolved, encoded, arguments.device):
        tell(line)
    record = record_of(
        job.resolved,
        base_weights=loaded.weights,
        tokenizer=loaded.tokenizer_hash,
        train_sha256=job.train_sha256,
        precision=resolve_precision(settings.precision, arguments.device.type),
        processes=arguments.world_size,
    )
    resume_from = on_main(arguments, lambda: _prepare_folder(job, record, resume, overwrite, tell))
    everyone(arguments, lambda: check_shared(unfinished(job.folder)))

    validation = encode_rows(loaded.tokenizer, job.validation, context, form).examples
    trainer = _trainer(job, loaded, encoded, validation, arguments, tell, stop)
    check_sharded(trainer.is_fsdp_enabled)
    tell(describe(arguments, sharded=trainer.is_fsdp_enabled))
    on_main(arguments, lambda: check_space(unfinished(job.folder), trainer.most_bytes()))
    trees = attends_to_trees(loaded.model) if settings.packing != "none" else nullcontext()
    with tracked(job, arguments, resume_from) as reports, trees:
        for report in reports:
            trainer.add_callback(report)
        trainer.train(resume_from_checkpoint=resume_from)
    if trainer.state.global_step < trainer.state.max_steps:
        raise StoppedError(
            f"stopped by SIGTERM after step {trainer.state.global_step} of {trainer.state.max_steps}, and saved",
            fix="the same command continues",
        )
    outcome = {**_losses(trainer.state.log_history), "steps": trainer.state.global_step, **encoded.counts()}
    outcome["trained_tokens"] = sum(len(example.completion) for example in examples)
    finished = {**record, "outcome": outcome}
    everyone(arguments, lambda: trainer.written(job.folder, lambda: write_result(job, trainer, loaded, finished)))
    return replace(_outcome("resumed" if resume_from else "trained", outcome), seconds=time.monotonic() - began)


def _trainer(
    job: TrainingJob,
    loaded: Loaded,
    encoded: EncodedRows,
    validation: list[EncodedExample],
    arguments: TrainingArguments,
    say: Say,
    stop: StopRequest,
) -> CompletionTrainer:
    settings = job.resolved.settings
    losses = RecentLosses(encoded.rows, arguments.process_index)
    plan = step_plan(settings, encoded, arguments.world_size)
    make_step = StepMaker(
        encoded.examples,
        packing=settings.packing,
        pack_tokens=pack_tokens(job.resolved, encoded, arguments.device),
        batch_examples=settings.per_device_train_batch_size,
        pad_id=int(cast(int, loaded.tokenizer.pad_token_id or 0)),
        device=arguments.device,
        kernel=settings.packed_attention,
        rank=arguments.process_index,
        processes=arguments.world_size,
    )
    trainer = CompletionTrainer(
        plan=plan,
        make_step=make_step,
        losses=losses,
        model=loaded.model,
        args=arguments,
        train_dataset=cast(Any, encoded.examples),
        processing_class=loaded.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)

    def validate() -> tuple[float, int]:
        with torch.autocast(arguments.device.type, enabled=False):
            scored = score_encoded(loaded.model, validation)
        return sum(nats for nats, _ in scored), sum(tokens for _, tokens in scored)

    sharded = trainer.is_fsdp_enabled
    watched = validate if validation else None
    trainer.add_callback(Watch(say, trainer.log, watched, losses, stop, validate_everywhere=sharded))
    return trainer


def _prepare_folder(job: TrainingJob, record: Mapping[str, Any], resume: bool, overwrite: bool, say: Say) -> str | None:
    """Makes the working folder ready; gives the checkpoint to resume from, None to start."""
    work = unfinished(job.folder)
    if not (may_resume(job.folder, record, overwrite=overwrite) and resume):
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(job.logs, ignore_errors=True)  # curves of another run
        work.mkdir(parents=True)
        write_record(work, record)
        return None
    torn = remove_torn(work)
    if torn:
        say(f"left out as torn: {', '.join(torn)}")
    checkpoint = latest_whole(work)
    say(f"continuing from {checkpoint.name}" if checkpoint else "starting again: there is no whole checkpoint yet")
    return str(checkpoint) if checkpoint else None


def _losses(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    losses = [float(row["loss"]) for row in history if "loss" in row] or [float("nan")]
    validation = [[float(row["epoch"]), float(row["eval_loss"])] for row in history if "eval_loss" in row]
    return {"first_loss": losses[0], "last_loss": losses[-1], "validation": validation}


def _outcome(status: Status, stored: Mapping[str, Any]) -> TrainingOutcome:
    pairs = tuple((float(epoch), float(loss)) for epoch, loss in stored["validation"])
    return TrainingOutcome(status, **{**stored, "validation": pairs})


def _silent(_line: str) -> None:
    """Says nothing: only the first process speaks."""
