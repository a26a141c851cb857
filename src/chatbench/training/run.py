"""Fine-tuning with transformers' Trainer, of full models and LoRA adapters alike.

Only completion tokens carry loss, all with equal weight (but see `answer_weight`), however examples are batched.
Rerunning the command resumes a killed run from its last complete checkpoint and skips a finished one. Where arithmetic
is deterministic (as on a CPU), a resumed run ends with bit-identical weights.

A frozen base is held in 16 bits on a GPU, in float32 on a CPU or with precision = fp32, except for weights quantised to
8 or 4 bits. Adapters are float32. PEFT's `prepare_model_for_kbit_training` is not used: it would hold the output head
and the embeddings in float32 (2 GB more for Llama 3 8B), and the model would then be scored in a precision other than
that of training.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments, set_seed

from chatbench.core.errors import ChatbenchError, StoppedError, process_count
from chatbench.core.progress import Advanced, StopRequest, telling_what_is_kept
from chatbench.core.settings import Method, Resolved, Settings
from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import EncodedRows, TextForm, encode_rows
from chatbench.models.loading import (
    Loaded,
    best_device,
    context_length,
    empty_model,
    known_weights,
    load_base,
    load_tokenizer,
    sample_without_filters,
    tokenizer_hash,
)  # fmt: skip
from chatbench.models.loss import score_encoded
from chatbench.models.prefix_tree import attends_to_trees, refuse_unsuited, simulation_hint
from chatbench.models.run_record import (
    differing_file,
    finished_run,
    may_resume,
    record_of,
    run_lock,
    unfinished,
    write_record,
)
from chatbench.models.weights import Format, quantised_bits, resolve_precision
from chatbench.protocol.prompts import EncodedExample
from chatbench.training.batches import StepMaker, step_plan, weighed
from chatbench.training.checkpoints import check_space, checkpoints, complete_checkpoint, write_result
from chatbench.training.distributed import (
    check_sharded,
    check_shared,
    describe,
    everyone,
    fsdp_asked,
    on_main,
    process_rank,
    refuse_launch,
)  # fmt: skip
from chatbench.training.dry_run import (
    NOT_TEXT,
    few_steps,
    memory_warning,
    model_shape,
    pack_tokens,
    refuse_if_too_small,
    template_hint,
    training_device,
)  # fmt: skip
from chatbench.training.trainer import (
    PROJECT,
    CompletionTrainer,
    NothingLeft,
    RecentLosses,
    Say,
    Watch,
    refuse_missing_trackers,
    trackers,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataOrigin:
    """Provenance of a split for the model card: its study and its questions.

    `hub_dataset` and `revision` identify the hub dataset that the study was downloaded from; both are empty for any
    other study.
    """

    study: str
    questions_sha256: str
    train_questions: int
    held_out_questions: int
    hub_dataset: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on and where to write.

    `folder` is for the finished model, `logs` for TensorBoard events. `validation` loss is only reported, never used
    for selection. `train_sha256` identifies the training file; `data` is None for rows from no prepared split.
    """

    resolved: Resolved
    train: Sequence[ExampleRow]
    validation: Sequence[ExampleRow]
    train_sha256: str
    folder: Path
    logs: Path
    split: str
    data: DataOrigin | None = None


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """Result of a run; losses are in nats per token. `validation` holds (epoch, loss) pairs.

    `examples_left_out`, `examples_shortened` and `turns_dropped` count training data lost to the context limit.
    """

    status: Literal["trained", "resumed", "already trained"]
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
    """Fine-tune and write the model folder atomically; resume an unfinished run and skip a finished one.

    Under torchrun or accelerate, every process calls this, and the first one writes. Without `resume`, checkpoints of a
    killed run are deleted and training starts at step 0.

    Raises:
        ChatbenchError: no examples, no such model, another run is active in the folder, something this machine cannot
            do, or a loss that is not finite.
        StoppedError: stopped by SIGTERM, after a checkpoint was written.
    """
    if not job.train:
        raise ChatbenchError("no training examples", fix="prepare the splits again")
    refuse_launch(job.resolved.settings)
    refuse_missing_trackers(job.resolved.settings.report_to)
    is_main = process_rank() == 0
    kept = telling_what_is_kept(lambda: _kept(job.folder))
    with run_lock(job.folder) if is_main else nullcontext(), StopRequest() as stop, kept:
        return _train(job, resume, overwrite, say if is_main else lambda _line: None, stop)


def _train(job: TrainingJob, resume: bool, overwrite: bool, say: Say, stop: StopRequest) -> TrainingOutcome:
    resolved, settings, work = job.resolved, job.resolved.settings, unfinished(job.folder)
    form = TextForm(settings.template, settings.long_examples)
    known = known_weights(resolved.base, settings.seed)
    identity = _identity(known, load_tokenizer(resolved.base), form) if known else {}
    done = finished_run(job.folder, resolved, job.train_sha256, identity=identity, overwrite=overwrite)
    if done is not None:
        return TrainingOutcome("already trained", **{**done["outcome"], "validation": _pairs(done["outcome"])})
    began = time.monotonic()
    # trackio continues any run of the same name, so runs with other settings need another name.
    run_name = f"{resolved.key}/{job.split} {resolved.hash[:8]}"
    arguments = training_arguments(settings, work, run_name=run_name)
    precision = resolve_precision(settings.precision, arguments.device.type)
    loaded = trainable_base(resolved, precision, arguments, say)
    if settings.packing != "none":
        refuse_unsuited(loaded.model, settings.packed_attention, arguments.device.type)
    context = min(settings.max_tokens or context_length(loaded.model), context_length(loaded.model))
    encoded = weighed(encode_rows(loaded.tokenizer, job.train, context, form), settings.answer_weight)
    tokens = sum(example.tokens for example in encoded.examples)
    say(f"{len(encoded.examples):,} examples with {tokens:,} tokens in total, context {context:,}")
    hints = [*simulation_hint(loaded.model), *template_hint(resolved, loaded.tokenizer)]
    for line in (*hints, *encoded.lines(), *memory_warning(resolved, encoded, arguments.device)):
        say(line)
    record = record_of(
        resolved,
        _identity(loaded.weights, loaded.tokenizer, form),
        train_sha256=job.train_sha256,
        precision=precision,
        processes=arguments.world_size,
    )
    resume_from = on_main(arguments, lambda: _prepare_folder(job, record, resume, overwrite, say))
    everyone(arguments, lambda: check_shared(work))

    validation = encode_rows(loaded.tokenizer, job.validation, context, form).examples
    trainer = _trainer(resolved, loaded, encoded, validation, arguments, say, stop, resume_from)
    check_sharded(trainer.is_fsdp_enabled)
    for line in (describe(arguments, sharded=trainer.is_fsdp_enabled), *few_steps(trainer.steps)):
        say(line)
    on_main(arguments, lambda: check_space(work, trainer.most_bytes()))
    report_to = settings.report_to if arguments.process_index == 0 else ()
    trees = attends_to_trees(loaded.model) if settings.packing != "none" else nullcontext()
    with trackers(report_to, job.logs, run_name, resolved.key, resume_from) as callbacks, trees:
        for callback in callbacks:
            trainer.add_callback(callback)
        with suppress(NothingLeft):
            trainer.train(resume_from_checkpoint=resume_from)
    if trainer.state.global_step < trainer.state.max_steps:
        raise StoppedError(
            f"stopped by SIGTERM after step {trainer.state.global_step} of {trainer.state.max_steps}; progress saved",
            fix="the same command continues",
        )
    history = trainer.state.log_history
    losses = [float(row["loss"]) for row in history if "loss" in row] or [float("nan")]
    outcome: dict[str, Any] = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "validation": [[float(row["epoch"]), float(row["eval_loss"])] for row in history if "eval_loss" in row],
        "steps": trainer.state.global_step,
        **encoded.counts(),
        "trained_tokens": sum(len(example.completion) for example in encoded.examples),
    }
    record |= {"outcome": outcome, "split": job.split, "examples": len(job.train)}
    if job.data is not None:
        record["data"] = asdict(job.data)
    result = partial(write_result, job.folder, resolved, trainer, loaded, record)
    everyone(arguments, lambda: trainer.written(job.folder, result))
    status: Literal["trained", "resumed"] = "resumed" if resume_from else "trained"
    return TrainingOutcome(status, **{**outcome, "validation": _pairs(outcome)}, seconds=time.monotonic() - began)


def _identity(weights: str, tokenizer: PreTrainedTokenizerBase, form: TextForm) -> dict[str, str]:
    return {"base_weights": weights, "tokenizer": tokenizer_hash(tokenizer), "text_form": form.describe(tokenizer)}


def _kept(folder: Path) -> str:
    """Describe what an interrupted run in this folder has kept."""
    complete = (each for each in reversed(checkpoints(unfinished(folder))) if differing_file(each) is None)
    last = next(complete, None)
    return f"{last} is kept" if last else f"no checkpoint of {folder} is complete yet, so nothing is kept"


def _pairs(outcome: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    return tuple((float(epoch), float(loss)) for epoch, loss in outcome["validation"])


def _prepare_folder(job: TrainingJob, record: Mapping[str, Any], resume: bool, overwrite: bool, say: Say) -> str | None:
    """Prepare the working folder; return the checkpoint to resume from, or None to start at step 0."""
    work = unfinished(job.folder)
    if not (may_resume(job.folder, record, overwrite=overwrite) and resume):
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(job.logs, ignore_errors=True)  # curves of an earlier run
        work.mkdir(parents=True)
        write_record(work, record)
        return None
    checkpoint, incomplete = complete_checkpoint(work)
    if incomplete:
        say(f"deleted incomplete checkpoints: {', '.join(incomplete)}")
    say(f"continuing from {checkpoint.name}" if checkpoint else "starting over: there is no complete checkpoint yet")
    return str(checkpoint) if checkpoint else None


AS_THE_TRAINER_HAS_IT = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "seed", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "save_steps",
    "save_total_limit", "logging_steps", "logging_first_step",
)  # fmt: skip
"""Settings that are passed to the Trainer under the same name."""


def training_arguments(settings: Settings, folder: Path, *, run_name: str | None = None) -> TrainingArguments:
    """Convert settings to the Trainer's arguments; a comment explains each fixed value that needs it."""
    device = best_device()
    precision = resolve_precision(settings.precision, device)
    several = process_count() > 1
    # Only where it is on: its new name, activation_checkpointing, is not in transformers 5.0.
    rare: dict[str, Any] = {"gradient_checkpointing": True} if settings.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{name: getattr(settings, name) for name in AS_THE_TRAINER_HAS_IT},
        max_steps=settings.max_steps or -1,
        gradient_accumulation_steps=1,  # CompletionTrainer.training_step accumulates the batches of a step
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        save_strategy="steps",
        logging_nan_inf_filter=False,  # a non-finite loss is an error and must not be hidden
        eval_strategy="no",
        report_to=[name for name in settings.report_to if name in ("wandb", "trackio")] or "none",  # see `trackers`
        run_name=run_name,
        project=PROJECT,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_backend="gloo" if several and device == "cpu" else None,  # a single process with a backend crashes
        ddp_find_unused_parameters=False if several else None,
        log_level="error",
        use_cpu=device == "cpu",
        **rare,
    )
    # With several GPUs and one process, torch's DataParallel would split each batch; use accelerate launch instead.
    arguments._n_gpu = min(1, arguments.n_gpu)
    arguments.mixed_precision = "no" if precision == "fp32" else precision  # otherwise accelerate launch decides
    return arguments


def trainable_base(resolved: Resolved, precision: Format, arguments: TrainingArguments, say: Say) -> Loaded:
    """Load the base for training: in float32 for full fine-tuning, or frozen with new adapters.

    Raises:
        ChatbenchError: no such model, too little device memory, quantisation unavailable here, or adapters for modules
            that the model does not have.
    """
    settings, device = resolved.settings, arguments.device
    bits = quantised_bits(asdict(settings))
    if not fsdp_asked():  # a shard may fit where the full model does not
        shape = model_shape(empty_model(resolved.base), settings)
        refuse_if_too_small(shape, settings, training_device(str(device), settings))
    dtype = base_dtype(settings.method, device.type, precision)
    set_seed(settings.seed)
    loaded = load_base(resolved.base, dtype=dtype, seed=settings.seed, bits=bits, device=str(device))
    sample_without_filters(loaded.model)
    if settings.method == "lora":
        loaded = replace(loaded, model=with_adapters(loaded.model, settings))
        trainable, total = cast(Any, loaded.model).get_nb_trainable_parameters()  # counts both 4-bit weights of a byte
    else:
        freeze_all_but_text(loaded.model)
        total = sum(weight.numel() for weight in loaded.model.parameters())
        trainable = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    cast(Any, loaded.model.config).use_cache = False
    in_bits = f", the base in {bits} bits" if bits else ""
    say(f"training {trainable:,} of {total:,} parameters in {precision} on {device}{in_bits}")
    return loaded


def base_dtype(method: Method, device: str, precision: Format) -> torch.dtype:
    """The format in which a base is held, apart from quantised weights."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return half.get(precision, torch.float32) if method == "lora" and device == "cuda" else torch.float32


def freeze_all_but_text(model: PreTrainedModel) -> None:
    """Freeze what a model has beside its text decoder and output head, such as Gemma 3's vision tower."""
    if model.config.get_text_config() is model.config:
        return
    parts: list[Any] = [model.get_decoder(), model.get_output_embeddings()]  # type: ignore[no-untyped-call]
    learned = {id(weight) for part in parts for weight in part.parameters()}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in learned)


def with_adapters(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """Freeze the model and add new float32 adapters to the modules that the settings name.

    Raises:
        ChatbenchError: the model has no such modules.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS

    text = str(model.config.get_text_config().model_type)
    excluded = NOT_TEXT if any(re.fullmatch(NOT_TEXT, name) for name, _ in model.named_modules()) else None
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or cast("list[str] | None", PEFT_TARGETS.get(text)),
        exclude_modules=excluded,
    )
    if settings.gradient_checkpointing:
        cast(Any, model).enable_input_require_grads()  # else adapters in checkpointed layers get no gradient
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
    resolved: Resolved,
    loaded: Loaded,
    encoded: EncodedRows,
    validation: list[EncodedExample],
    arguments: TrainingArguments,
    say: Say,
    stop: StopRequest,
    resume_from: str | None,
) -> CompletionTrainer:
    settings = resolved.settings
    make_step = StepMaker(
        encoded.examples,
        packing=settings.packing,
        pack_tokens=pack_tokens(resolved, encoded, arguments.device),
        batch_examples=settings.per_device_train_batch_size,
        pad_id=int(cast(int, loaded.tokenizer.pad_token_id or 0)),
        device=arguments.device,
        kernel=settings.packed_attention,
        rank=arguments.process_index,
        processes=arguments.world_size,
    )
    trainer = CompletionTrainer(
        plan=step_plan(settings, encoded, arguments.world_size),
        make_step=make_step,
        losses=RecentLosses(encoded.rows, arguments.process_index),
        model=loaded.model,
        args=arguments,
        train_dataset=cast(Any, encoded.examples),
        processing_class=loaded.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)

    def validate(advanced: Advanced) -> tuple[float, int]:
        model: Any = loaded.model
        forward = vars(model).get("forward")  # accelerate's, with autocast inside
        if forward is not None:
            model.forward = model._original_forward
        try:
            scored = score_encoded(model, validation, advanced=advanced)
        finally:
            if forward is not None:
                model.forward = forward
        return sum(nats for nats, _ in scored), sum(tokens for _, tokens in scored)

    trainer.add_callback(Watch(trainer, say, validate if validation else None, stop, resume_from))
    return trainer
