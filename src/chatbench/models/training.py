"""Fine-tuning: one function, on transformers' Trainer, for whole models and LoRA adapters alike.

Only the completion carries loss, each of its tokens the same, whatever the batches. The same command continues a killed
run from its last whole checkpoint, to the same weights bit by bit where arithmetic is deterministic (it is on a
processor), and does not repeat a finished one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl_whole, write_text_whole
from chatbench.core.settings import Resolved, Settings
from chatbench.models.batch_order import BatchOrder
from chatbench.models.checkpoints import latest_whole, remove_torn
from chatbench.models.completion_loss import completion_nats, padded_batch
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import Loaded, best_device, context_length, half_dtype, known_weights, load_base
from chatbench.models.model_card import model_card
from chatbench.models.precision import Format, resolve_precision
from chatbench.models.run_record import finished_run, may_resume, record_of, unfinished, write_record
from chatbench.models.scoring import score_encoded
from chatbench.models.training_watch import Say, Watch
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import EncodedExample

Status = Literal["trained", "resumed", "already trained"]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on, and where to.

    `folder` gets the finished model, `logs` the TensorBoard events. `validation` is only printed: nothing is chosen by
    it. `train_sha256` identifies the training file.
    """

    resolved: Resolved
    train: Sequence[ExampleRow]
    validation: Sequence[ExampleRow]
    train_sha256: str
    folder: Path
    logs: Path
    split: str


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
    arguments = _arguments(settings, unfinished(job.folder))
    is_main = arguments.process_index == 0
    tell: Say = say if is_main else _silent
    loaded = _trainable(job.resolved, resolve_precision(settings.precision, arguments.device.type), arguments, tell)
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
        trainer.add_callback(_tensorboard(job.logs, resume_from))
    trainer.train(resume_from_checkpoint=resume_from)
    outcome = {**_losses(trainer.state.log_history), "steps": trainer.state.global_step, "prompts_cut": cut}
    outcome["trained_tokens"] = sum(len(example.completion) for example in examples)
    _on_main(arguments, lambda: _write_result(job, trainer, loaded, {**record, "outcome": outcome}))
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


def _arguments(settings: Settings, folder: Path) -> TrainingArguments:
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
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
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
        report_to="none",  # TensorBoard is added by hand, to write where results/logs is
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        ddp_backend="gloo" if several and device == "cpu" else None,  # a single process with a backend crashes
        ddp_find_unused_parameters=False if several else None,
        log_level="error",
        use_cpu=device == "cpu",
        **rare,
    )
    # With several GPUs but one process, torch's DataParallel would split each batch; accelerate launch is the way.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _trainable(resolved: Resolved, precision: Format, arguments: TrainingArguments, say: Say) -> Loaded:
    """The base in training form: whole in float32, or frozen (8-bit where asked and possible) with fresh adapters."""
    settings = resolved.settings
    on_cuda = arguments.device.type == "cuda"
    in_8bit = settings.load_in_8bit and on_cuda
    if settings.load_in_8bit and not on_cuda:
        if "load_in_8bit" in resolved.explicit:
            raise ChatbenchError("load_in_8bit without a CUDA GPU", fix="set load_in_8bit to false, or use a CUDA GPU")
        say("8-bit weights need a CUDA GPU: the base is loaded unquantised, in 4 bytes a parameter")
    dtype = half_dtype() if settings.method == "lora" and on_cuda else torch.float32
    set_seed(settings.seed)
    loaded = load_base(
        resolved.base, dtype=dtype, seed=settings.seed, in_8bit_on=str(arguments.device) if in_8bit else None
    )
    if settings.method == "lora":
        loaded = replace(loaded, model=_with_adapters(loaded.model, settings, in_8bit=in_8bit))
    cast(Any, loaded.model.config).use_cache = False
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in loaded.model.parameters())
    say(f"training {trainable:,} of {everything:,} parameters in {precision} on {arguments.device}")
    return loaded


def _with_adapters(model: PreTrainedModel, settings: Settings, *, in_8bit: bool) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if in_8bit:
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=settings.gradient_checkpointing)
    elif settings.gradient_checkpointing:
        cast(Any, model).enable_input_require_grads()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or None,
    )
    try:
        return cast(PreTrainedModel, get_peft_model(model, config))
    except ValueError as error:
        linear = sorted(
            {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise ChatbenchError(
            f"lora_targets = {list(settings.lora_targets) or 'by architecture'}: {str(error).split('.')[0]}",
            expected=f"some of {', '.join(linear)}",
            fix="set lora_targets in the overrides file",
        ) from error


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


def _tensorboard(folder: Path, resume_from: str | None) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run drew after its last checkpoint is drawn again.
    purge = int(resume_from.rpartition("-")[2]) + 1 if resume_from else None
    callback: Any = TensorBoardCallback
    return cast(TensorBoardCallback, callback(SummaryWriter(str(folder), purge_step=purge)))


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


def _write_result(job: TrainingJob, trainer: Trainer, loaded: Loaded, record: Mapping[str, Any]) -> None:
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
