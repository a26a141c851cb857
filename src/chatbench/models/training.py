"""Fine-tuning: one function, on transformers' Trainer, for whole models and LoRA adapters alike.

Only the completion carries loss, each of its tokens the same, whatever the batches. The same command continues a killed
run from its last whole checkpoint, to the same weights bit by bit where arithmetic is deterministic (it is on a
processor), and does not repeat a finished one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.models.adapters import trainable_base
from chatbench.models.batch_order import BatchOrder
from chatbench.models.checkpoints import latest_whole, remove_torn
from chatbench.models.completion_loss import completion_nats, padded_batch
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import Loaded, context_length, known_weights
from chatbench.models.precision import resolve_precision
from chatbench.models.run_record import finished_run, may_resume, record_of, unfinished, write_record
from chatbench.models.scoring import score_encoded
from chatbench.models.training_arguments import tensorboard, training_arguments
from chatbench.models.training_job import TrainingJob
from chatbench.models.training_result import write_result
from chatbench.models.training_watch import Say, Watch
from chatbench.protocol.transcript import EncodedExample

Status = Literal["trained", "resumed", "already trained"]


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What came of a run; losses are nats a token. `validation` holds (epoch, loss) pairs."""

    status: Status
    steps: int
    first_loss: float
    last_loss: float
    validation: tuple[tuple[float, float], ...]
    prompts_cut: int
    trained_tokens: int
    seconds: float = 0.0


def train(job: TrainingJob, *, resume: bool = True, overwrite: bool = False, say: Say = print) -> TrainingOutcome:
    """Fine-tunes and writes the model's folder, whole or not at all; continues or skips where that was done before.

    Started by torchrun or accelerate, every process calls this; the first one writes. Without `resume`, the checkpoints
    of a killed run are dropped and training starts at step 0.

    Raises:
        ChatbenchError: no examples, no such model, another run in the way, or something this machine cannot do.
    """
    if not job.train:
        raise ChatbenchError("no training examples", fix="prepare the splits again")
    settings = job.resolved.settings
    known = known_weights(job.resolved.base, settings.seed)
    done = finished_run(job.folder, job.resolved, job.train_sha256, base_weights=known, overwrite=overwrite)
    if done is not None:
        return _outcome("already trained", done["outcome"])
    began = time.monotonic()
    arguments = training_arguments(settings, unfinished(job.folder))
    is_main = arguments.process_index == 0
    tell: Say = say if is_main else _silent
    loaded = trainable_base(job.resolved, resolve_precision(settings.precision, arguments.device.type), arguments, tell)
    context = min(settings.max_tokens or context_length(loaded.model), context_length(loaded.model))
    examples = encode_rows(loaded.tokenizer, job.train, context)
    cut = sum(example.prompt_cut > 0 for example in examples)
    tell(f"{len(examples):,} examples, {sum(map(_length, examples)):,} tokens an epoch, context {context:,}")
    if cut:
        tell(f"{cut:,} prompts are longer than the context and were cut from the left")
    record = record_of(
        job.resolved,
        base_weights=loaded.weights,
        tokenizer=loaded.tokenizer_hash,
        train_sha256=job.train_sha256,
        precision=resolve_precision(settings.precision, arguments.device.type),
        processes=arguments.world_size,
    )
    resume_from = _on_main(arguments, lambda: _prepare_folder(job, record, resume, overwrite, tell))

    trainer = _trainer(job, loaded, examples, encode_rows(loaded.tokenizer, job.validation, context), arguments, tell)
    if is_main:
        trainer.add_callback(tensorboard(job.logs, resume_from))
    trainer.train(resume_from_checkpoint=resume_from)
    outcome = {**_losses(trainer.state.log_history), "steps": trainer.state.global_step, "prompts_cut": cut}
    outcome["trained_tokens"] = sum(len(example.completion) for example in examples)
    _on_main(arguments, lambda: write_result(job, trainer, loaded, {**record, "outcome": outcome}))
    return replace(_outcome("resumed" if resume_from else "trained", outcome), seconds=time.monotonic() - began)


class CompletionTrainer(Trainer):
    """The Trainer with the loss of completions only, and with an order of examples that depends on the seed alone."""

    def __init__(self, *, order: BatchOrder, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._order = order
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the scored tokens of a whole step

    def _get_train_sampler(self, _train_dataset: Any = None) -> BatchOrder:
        # Said here as well as by the data loader, which forgets it when a run resumes in several processes.
        self._order.set_epoch(int(self.state.epoch or 0))
        return self._order

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Sum of -ln p over this batch's scored tokens, divided by the scored tokens of the whole step.

        The step spans all accumulated batches and processes; processes are averaged, hence the factor.
        """
        nats = completion_nats(model, inputs["input_ids"], inputs["labels"])
        loss = nats.sum() / cast(torch.Tensor, num_items_in_batch) * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss


def _trainer(
    job: TrainingJob,
    loaded: Loaded,
    examples: list[EncodedExample],
    validation: list[EncodedExample],
    arguments: TrainingArguments,
    say: Say,
) -> CompletionTrainer:
    settings = job.resolved.settings
    per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * arguments.world_size
    order = BatchOrder(
        [_length(example) for example in examples],
        step_examples=per_step,
        seed=settings.seed,
        by_length=settings.train_sampling_strategy == "group_by_length",
    )
    pad_id = int(cast(int, loaded.tokenizer.pad_token_id or 0))
    trainer = CompletionTrainer(
        order=order,
        model=loaded.model,
        args=arguments,
        train_dataset=cast(Any, examples),
        data_collator=lambda batch: padded_batch(batch, pad_id),
        processing_class=loaded.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)

    def validate() -> tuple[float, int]:
        with torch.autocast(arguments.device.type, enabled=False):
            scored = score_encoded(loaded.model, validation)
        return sum(nats for nats, _ in scored), sum(tokens for _, tokens in scored)

    trainer.add_callback(Watch(say, trainer.log, validate if validation else None))
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


def _on_main(arguments: TrainingArguments, act: Callable[[], Any]) -> Any:
    """Result of `act`, done by the first process alone and told to all; its error is everybody's."""
    if arguments.world_size == 1:
        return act()
    told: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            told[0] = act()
        except ChatbenchError as error:
            told[1] = (error.found, error.expected, error.fix)
    torch.distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        found, expected, fix = told[1]
        raise ChatbenchError(found, expected=expected, fix=fix)
    return told[0]


def _length(example: EncodedExample) -> int:
    return len(example.prompt) + len(example.completion)


def _silent(_line: str) -> None:
    """Says nothing: only the first process speaks."""
