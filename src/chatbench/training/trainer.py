"""The Trainer with our optimizer steps, loss and checksummed checkpoints; everything else is left to transformers.

Also what a run reports while it trains (progress bar, log lines, validation after each epoch), where it logs curves
(`report_to`), and stopping on SIGTERM.
"""

# ruff: noqa: ARG002  (the Trainer passes every argument to a callback by name, used or not)

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.progress import Advanced, StopRequest, WorkProgress, standard_error, unobserved
from chatbench.data.examples import ExampleRow
from chatbench.models.loss import completion_nats
from chatbench.models.run_record import add_checksums
from chatbench.training.batches import StepMaker, StepOrder, StepPlan, TrainingStep
from chatbench.training.checkpoints import checkpoint_bytes, run_bytes, write_errors_named
from chatbench.training.distributed import everyone, on_main

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, order=True)
class BadStep:
    """The first step with a non-finite loss in one process, and the examples of that step."""

    step: int
    process: int
    examples: tuple[str, ...]

    def error(self, processes: int, learning_rate: float) -> ChatbenchError:
        where = f" in process {self.process} of {processes}" if processes > 1 else ""
        return ChatbenchError(
            f"the loss is not finite at step {self.step}{where}; examples in that step: {', '.join(self.examples)}",
            expected="a finite loss at every step",
            fix=f"check these examples; if they are fine, lower learning_rate ({learning_rate}) and add --overwrite",
        )


class RecentLosses:
    """Losses of one process since the last check; `rows[i]` is the example with index i.

    Reading a loss waits for the GPU. So losses stay on the device and are checked only where the run waits anyway: when
    a line is logged, and before a checkpoint is written, which therefore never holds non-finite weights.
    """

    def __init__(self, rows: Sequence[ExampleRow], process: int) -> None:
        self._rows = rows
        self._process = process
        self._seen: list[tuple[int, Tensor, Sequence[int]]] = []

    def add(self, step: int, loss: Tensor, examples: Sequence[int]) -> None:
        """Store the loss of a step, a scalar on its device, with the indices of the step's examples."""
        self._seen.append((step, loss.detach(), examples))

    def look(self) -> BadStep | None:
        """Return the first step with a non-finite loss, if any, and clear the stored losses."""
        seen, self._seen = self._seen, []
        finite = torch.stack([loss for _, loss, _ in seen]).isfinite().tolist() if seen else []
        for (step, _, examples), is_finite in zip(seen, finite, strict=True):
            if not is_finite:
                rows = (self._rows[index] for index in examples)
                return BadStep(step, self._process, tuple(f"{row.conversation_id} ({row.kind})" for row in rows))
        return None


PROJECT = "chatbench"
SILENT_SECONDS = 20
"""After this long without a log line, the progress within the first step is printed."""
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no error reports without consent; wandb reads it on import


def refuse_missing_trackers(report_to: Sequence[str]) -> None:
    """Check that each tracker is installed, before anything is loaded.

    Raises:
        ChatbenchError: a tracker is not installed.
    """
    for name in {"wandb", "trackio"}.intersection(report_to):
        if util.find_spec(name) is None:
            raise ChatbenchError(
                f"report_to includes {name}, which is not installed",
                fix=f"pip install {name}, or remove it from report_to",
            )


@contextmanager
def trackers(
    report_to: Sequence[str], logs: Path, run_name: str, group: str, resume_from: str | None
) -> Iterator[list[Any]]:
    """Open the trackers that the Trainer's `report_to` does not handle well; yield callbacks and close runs on exit.

    TensorBoard writes into `logs` and, on resuming, discards what was logged after the checkpoint. Weights & Biases
    runs are opened and closed here: an open run would also get the curves of the next split in this process, and the
    Trainer's integration reads the folder from the environment only once per process.

    Raises:
        ChatbenchError: Weights & Biases rejects the run.
    """
    with ExitStack() as ended:
        callbacks: list[Any] = []
        if "tensorboard" in report_to:
            from torch.utils.tensorboard import SummaryWriter
            from transformers.integrations.integration_utils import TensorBoardCallback

            purge_step = int(resume_from.rpartition("-")[2]) + 1 if resume_from else None
            writer = cast(Any, SummaryWriter)(str(logs), purge_step=purge_step)
            ended.callback(writer.close)
            callbacks.append(cast(Any, TensorBoardCallback)(writer))
        if "wandb" in report_to:
            wandb: Any = import_module("wandb")
            logs.mkdir(parents=True, exist_ok=True)
            folder, project = os.environ.get("WANDB_DIR", str(logs)), os.environ.get("WANDB_PROJECT", PROJECT)
            try:
                run = wandb.init(project=project, name=run_name, group=group, dir=folder)
            except wandb.errors.Error as error:
                raise ChatbenchError(
                    f"wandb: {str(error).splitlines()[0]}",
                    fix="run wandb login, put WANDB_API_KEY into .env, set WANDB_MODE=offline, or edit report_to",
                ) from error
            ended.push(lambda kind, *_: run.finish(exit_code=1 if kind else 0) and None)
        if "trackio" in report_to:
            trackio: Any = import_module("trackio")

            @ended.callback
            def finish() -> None:
                if trackio.context_vars.current_run.get() is not None:  # failed; otherwise the Trainer ends it
                    trackio.finish()

        yield callbacks


class NothingLeft(Exception):  # noqa: N818  (not an error)
    """Raised when resuming from the checkpoint of the last step, as the Trainer would run one more step."""


@dataclass(eq=False)
class Watch(TrainerCallback):
    """Callback of one run: progress, log lines, validation, and stopping on request.

    `validate` returns (nats, tokens) and is called at the end of each epoch, on the main process only or, if the model
    is sharded, on all processes; None means no validation.
    """

    trainer: CompletionTrainer
    say: Say
    validate: Callable[[Advanced], tuple[float, int]] | None
    stop: StopRequest
    resume_from: str | None
    _progress: WorkProgress | None = field(default=None, init=False)
    _started: tuple[float, int] = field(default=(0.0, 0), init=False)
    _passes: int = field(default=0, init=False)
    _said: bool = field(default=False, init=False)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.resume_from is not None:
            self.trainer.restore_unlogged(Path(self.resume_from))
        self._started = (time.monotonic(), state.global_step)
        if state.is_world_process_zero and sys.stderr.isatty():
            self._progress = WorkProgress("training", "steps", already=state.global_step)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            self._close()
            raise NothingLeft

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After each forward and backward pass: report progress once if the first step takes long."""
        self._passes += 1
        seconds = time.monotonic() - self._started[0]
        if not self._said and seconds > SILENT_SECONDS:
            step = f"step {state.global_step + 1}/{state.max_steps}"
            self._print(state, f"{step}: {self._passes} forward and backward passes took {seconds:.0f} s")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps)
        log_now = control.should_log or control.should_save
        epoch_ends = state.epoch == int(state.epoch or 0) or state.global_step >= state.max_steps
        if not self._said and not log_now:
            self._print(state, f"step {state.global_step}/{state.max_steps}  {self._speed(state)}")
        if log_now or epoch_ends or (self.stop.asked and args.world_size == 1):
            looked = everyone(args, lambda: (self.trainer.losses.look(), self.stop.asked))
            if bad := [step for step, _ in looked if step is not None]:
                self._close()
                raise min(bad).error(args.world_size, args.learning_rate)
            if any(asked for _, asked in looked):  # in any process: all of them save and stop
                control.should_save = control.should_training_stop = True
        # Validate before the checkpoint of this step is written; a run resumed from it would not validate again.
        if epoch_ends and self.validate and (state.is_world_process_zero or self.trainer.is_fsdp_enabled):
            with WorkProgress("validation", "tokens") as progress:
                nats, tokens = self.validate(progress if state.is_world_process_zero else unobserved)
            self.trainer.log({"eval_loss": nats / tokens, "eval_perplexity": math.exp(min(nats / tokens, 700))})
        control.should_log = log_now  # set last, as logging the validation clears it

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **said: Any) -> None:
        logs: dict[str, float] = said["logs"]
        if not math.isfinite(logs.get("eval_loss", 0.0)):
            self._close()
            raise ChatbenchError(
                f"the validation loss is not finite at step {state.global_step}",
                fix=f"lower learning_rate ({args.learning_rate}) and train again with --overwrite",
            )
        if "eval_loss" in logs:
            self._print(state, str({name: f"{value:.4g}" for name, value in logs.items()}))  # in the Trainer's format
            self._print(
                state,
                f"epoch {state.epoch:.2f}: validation loss {logs['eval_loss']:.4f} nats per token, "
                f"perplexity {logs['eval_perplexity']:.3f}",
            )
        elif "loss" in logs:
            learning = f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}"
            self._print(state, f"step {state.global_step}/{state.max_steps}  {learning}  {self._speed(state)}")

    def _speed(self, state: TrainerState) -> str:
        began, first = self._started
        seconds = (time.monotonic() - began) / max(1, state.global_step - first)
        return f"{1 / seconds:.2f} steps/s  {(state.max_steps - state.global_step) * seconds:.0f} s left"

    def _print(self, state: TrainerState, line: str) -> None:
        self._said = True
        if state.is_world_process_zero:
            (standard_error().print if self._progress is not None else self.say)(line)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


class CompletionTrainer(Trainer):
    """The Trainer with our steps: their examples depend only on the seed, and batching does not change the loss."""

    def __init__(self, *, plan: StepPlan, make_step: StepMaker, losses: RecentLosses, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._plan = plan
        self._make_step = make_step
        self.losses = losses
        model = cast(torch.nn.Module, self.model)
        adapters = hasattr(model, "peft_config")  # then what is frozen is not saved
        saved = (weight for weight in model.parameters() if weight.requires_grad or not adapters)
        self._weight_bytes = 4 * sum(weight.numel() for weight in saved)
        optim = str(getattr(self.args.optim, "value", self.args.optim))  # an enum once the Trainer has read it
        self._checkpoint_bytes = checkpoint_bytes(self._weight_bytes, optim, sharded=self.is_fsdp_enabled)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Loader that yields this process's share of one optimizer step at a time."""
        make_step = self._make_step
        return DataLoader(
            cast(Any, range(len(self._plan.lengths))),
            batch_sampler=StepOrder(self._plan, self.args.seed, lambda: int(self.state.epoch or 0)),
            collate_fn=lambda indices: {"step": make_step(indices)},
        )

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run backward on every batch; return this process's share of the loss, in nats per scored token of the step.

        Gradients and losses are averaged over processes, but the step spans all of them: hence the factor in `share`.
        """
        model.train()
        step: TrainingStep = inputs["step"]
        share = self.accelerator.num_processes / step.scored_tokens
        total = torch.zeros((), device=self.args.device)
        for place, (batch, counts, weights) in enumerate(zip(step.batches, step.counts, step.weights, strict=True)):
            last = place == len(step.batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    nats = completion_nats(model, batch)
                    loss = (nats if weights is None else nats * weights).sum() * (share * counts)
                self.accelerator.backward(loss)
            total += loss.detach()
            self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        self.losses.add(self.state.global_step + 1, total, step.examples)
        return total

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(len(self.get_train_dataloader()) * self.args.num_train_epochs)

    def most_bytes(self) -> int:
        """Maximum disk space of the run's folder, in bytes."""
        kept = cast(int, self.args.save_total_limit)
        return run_bytes(self._checkpoint_bytes, self._weight_bytes, self.steps, int(self.args.save_steps), kept)

    def written(self, target: Path, write: Callable[[], None]) -> None:
        """Call `write`, with errors such as a full disk raised as `ChatbenchError`."""
        with write_errors_named(target, self._checkpoint_bytes):
            write()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the Trainer does, then add checksums; if any process fails, delete the checkpoint."""
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"

        def write() -> None:
            self.written(checkpoint, lambda: Trainer._save_checkpoint(self, model, trial))
            unlogged = {"loss": float(self._tr_loss), "since_step": self._globalstep_last_logged}
            self.written(checkpoint, lambda: write_json(checkpoint / self._unlogged_file(), unlogged))

        sharded = self.is_fsdp_enabled
        try:
            if sharded:
                write()  # processes exchange tensors here: one that fails must exit, or the others wait for it forever
            everyone(self.args, lambda: None if sharded else write())
        except ChatbenchError:
            # Not before all processes have stopped writing: they would find the folder missing.
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        on_main(self.args, lambda: self.written(checkpoint, lambda: add_checksums(checkpoint)))

    def restore_unlogged(self, checkpoint: Path) -> None:
        """Restore the loss accumulated since the last logged line, so that the next line is as in an unstopped run."""
        unlogged = cast(dict[str, Any], read_json(checkpoint / self._unlogged_file()))
        self._tr_loss += unlogged["loss"]
        self._globalstep_last_logged = unlogged["since_step"]

    def _unlogged_file(self) -> str:
        return f"unlogged_loss_{self.args.process_index}.json"
