"""The Trainer with our steps, our loss and sealed checkpoints; everything else about training is the Trainer's.

The losses of the last steps with the examples behind them, so that one that is not finite can be named.

Reading a loss waits for the GPU. So the losses stay on the device and are looked at where the run waits anyway: when a
line is logged, and always before a checkpoint is written, which therefore never holds weights that are not finite.

Where a run's curves go while it trains: TensorBoard, Weights & Biases, trackio, or nowhere.

The setting `report_to` names them. A run is called `MODEL/SPLIT` in the project `chatbench`; a tracker's own variables
(WANDB_PROJECT, WANDB_MODE, TRACKIO_SPACE_ID...) keep their meaning. Only the first process reports. What a tracker
begins is ended here, so that the next split of the same process gets a run of its own.

What a run tells while it trains (losses, a progress bar, validation after each epoch), and when it stops early.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.core.stop import StopRequest
from chatbench.data.examples import ExampleRow
from chatbench.models.loss import completion_nats
from chatbench.training.batches import StepMaker, StepOrder, StepPlan, TrainingStep
from chatbench.training.checkpoints import checkpoint_bytes, run_bytes, seal, write_errors_named
from chatbench.training.distributed import everyone, on_main
from chatbench.training.gpu_watch import Reader, gpu_watch, nvidia_reader
from chatbench.training.job import TrainingJob


@dataclass(frozen=True, slots=True, order=True)
class BadStep:
    """The first step whose loss was not finite in one process, and the examples of that step."""

    step: int
    process: int
    examples: tuple[str, ...]

    def error(self, processes: int, learning_rate: float) -> ChatbenchError:
        where = f" in process {self.process} of {processes}" if processes > 1 else ""
        return ChatbenchError(
            f"the loss is not finite at step {self.step}{where}; its examples: {', '.join(self.examples)}",
            expected="a number at every step",
            fix=f"look at these examples; if they are fine, lower learning_rate ({learning_rate}) and add --overwrite",
        )


class RecentLosses:
    """Losses of one process since the last look; `rows[i]` is the example with index i."""

    def __init__(self, rows: Sequence[ExampleRow], process: int) -> None:
        self._rows = rows
        self._process = process
        self._seen: list[tuple[int, Tensor, Sequence[int]]] = []

    def add(self, step: int, loss: Tensor, examples: Sequence[int]) -> None:
        """Keeps the loss of a step, a scalar on its device, with the indices of the step's examples."""
        self._seen.append((step, loss.detach(), examples))

    def look(self) -> BadStep | None:
        """The first step whose loss is not finite, if there is one; the others are forgotten."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        finite = torch.stack([loss for _, loss, _ in seen]).isfinite().tolist()
        for (step, _, examples), is_finite in zip(seen, finite, strict=True):
            if not is_finite:
                return BadStep(step, self._process, tuple(self._name(index) for index in examples))
        return None

    def _name(self, index: int) -> str:
        row = self._rows[index]
        return f"{row.conversation_id} ({row.kind})"


PROJECT = "chatbench"
_OPTIONAL = ("wandb", "trackio")


def refuse_missing_trackers(report_to: Sequence[str]) -> None:
    """Checks that each tracker is installed.

    Raises:
        ChatbenchError: one is not.
    """
    for name in _OPTIONAL:
        if name in report_to and util.find_spec(name) is None:
            raise ChatbenchError(
                f"report_to has {name}, which is not installed",
                fix=f"pip install {name}, or leave it out of report_to",
            )


@contextmanager
def tracked(
    job: TrainingJob, arguments: TrainingArguments, resume_from: str | None, *, read_gpus: Reader | None = None
) -> Iterator[list[TrainerCallback]]:
    """The callbacks that report a run, for the time of the block; and the GPUs are watched in it.

    That the trackers are installed is checked before, by `refuse_missing_trackers`.

    Args:
        arguments: tell which process this is; trackio reads the run's name in them.
        resume_from: the checkpoint that the run continues from, None for a new one.
        read_gpus: asked for GPU readings in place of the driver.

    Raises:
        ChatbenchError: a tracker refuses the run.
    """
    names = job.resolved.settings.report_to
    if arguments.process_index != 0 or "none" in names:
        yield []
        return
    run_name = f"{job.resolved.key}/{job.split}"
    with ExitStack() as ended:
        callbacks: list[TrainerCallback] = []
        if "tensorboard" in names:
            callbacks.append(_tensorboard(job.logs, resume_from, ended))
        if "wandb" in names:
            callbacks.append(_wandb(job, run_name, ended))
        if "trackio" in names:
            # It goes on with any run of the same name, so that of other settings must be called otherwise.
            arguments.run_name, arguments.project = f"{run_name} {job.resolved.hash[:8]}", PROJECT
            callbacks.append(_trackio(ended))
        read = read_gpus or nvidia_reader()
        # Curves of their own: their steps are readings, which a resumed run's purge must not take for training steps.
        curves = _summary_writer(job.logs / "gpu", None, ended) if read and "tensorboard" in names else None
        ended.enter_context(gpu_watch(job.logs, read, scalar=curves and curves.add_scalar))
        yield callbacks


def _tensorboard(folder: Path, resume_from: str | None, ended: ExitStack) -> TrainerCallback:
    from transformers.integrations.integration_utils import TensorBoardCallback

    # What a killed run drew after its last checkpoint is drawn again.
    purge = int(resume_from.rpartition("-")[2]) + 1 if resume_from else None
    callback: Any = TensorBoardCallback
    return cast(TrainerCallback, callback(_summary_writer(folder, purge, ended)))


def _summary_writer(folder: Path, purge_step: int | None, ended: ExitStack) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    made: Any = SummaryWriter
    writer = made(str(folder), purge_step=purge_step)
    ended.callback(writer.close)
    return writer


def _wandb(job: TrainingJob, run_name: str, ended: ExitStack) -> TrainerCallback:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is told to anybody who was not asked to listen
    wandb: Any = import_module("wandb")
    from transformers.integrations.integration_utils import WandbCallback

    job.logs.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name,
            group=job.resolved.key,
            dir=os.environ.get("WANDB_DIR", str(job.logs)),
        )
    except wandb.errors.Error as error:
        raise ChatbenchError(
            f"wandb: {str(error).splitlines()[0]}",
            fix="wandb login, or WANDB_API_KEY in .env, or WANDB_MODE=offline, or leave it out of report_to",
        ) from error
    ended.push(lambda kind, *_: run.finish(exit_code=1 if kind else 0) and None)
    made: Any = WandbCallback
    return cast(TrainerCallback, made())  # goes on with the run that there is


def _trackio(ended: ExitStack) -> TrainerCallback:
    trackio: Any = import_module("trackio")
    from transformers.integrations.integration_utils import TrackioCallback

    @ended.callback
    def finish() -> None:
        if trackio.context_vars.current_run.get() is not None:  # a run that failed; others the callback has finished
            trackio.finish()

    made: Any = TrackioCallback
    return cast(TrainerCallback, made())


# ruff: noqa: ARG002  (a callback gets everything by the Trainer's names, used or not)


Say = Callable[[str], None]


class Watch(TrainerCallback):
    """Callbacks of one run. `validation` gives (nats, tokens), and is run when an epoch ends.

    It runs on the main process alone, or, with `validate_everywhere`, on all: a sharded model needs them all.
    """

    def __init__(
        self,
        say: Say,
        log: Callable[[dict[str, float]], None],
        validation: Callable[[], tuple[float, int]] | None,
        losses: RecentLosses,
        stop: StopRequest,
        *,
        validate_everywhere: bool = False,
    ) -> None:
        self._say = say
        self._log = log
        self._validation = validation
        self._losses = losses
        self._stop = stop
        self._validate_everywhere = validate_everywhere
        self._bar: Any = None
        self._task: Any = None
        self._started = (0.0, 0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = (time.monotonic(), state.global_step)
        if state.is_world_process_zero and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)
        epoch_ends = state.epoch == int(state.epoch or 0) or state.global_step >= state.max_steps
        log_now = control.should_log or control.should_save
        if log_now or epoch_ends or (self._stop.asked and args.world_size == 1):
            log_now = self._agree(args, control) or log_now
        # Before the checkpoint of this step is written, or a run resumed from it would miss the validation.
        if epoch_ends and self._validation and (state.is_world_process_zero or self._validate_everywhere):
            nats, tokens = self._validation()
            self._log({"eval_loss": nats / tokens, "eval_perplexity": math.exp(min(nats / tokens, 700))})
        # The loss since the last line is not part of a checkpoint: log it now, so that a resumed run logs the same.
        control.should_log = log_now  # set last: the log of the validation has cleared it

    def _agree(self, args: TrainingArguments, control: TrainerControl) -> bool:
        """Whether any process was asked to stop; then all save and stop. A loss that is not finite ends them all."""
        looked = everyone(args, lambda: (self._losses.look(), self._stop.asked))
        bad = [step for step, _ in looked if step is not None]
        if bad:
            self.close()
            raise min(bad).error(args.world_size, args.learning_rate)
        stop = any(asked for _, asked in looked)
        if stop:
            control.should_save = control.should_training_stop = True
        return stop

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **said: Any) -> None:
        logs: dict[str, float] = said["logs"]
        if not logs.keys() & {"loss", "eval_loss"}:
            return
        if not math.isfinite(logs.get("eval_loss", 0.0)):
            self.close()
            raise ChatbenchError(
                f"the validation loss is not finite at step {state.global_step}",
                fix=f"lower learning_rate ({args.learning_rate}) and train again with --overwrite",
            )
        if not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            line = (
                f"epoch {state.epoch:.2f}: validation loss {logs['eval_loss']:.4f} nats a token, "
                f"perplexity {logs['eval_perplexity']:.3f}"
            )
        else:
            began, first = self._started
            seconds = (time.monotonic() - began) / max(1, state.global_step - first)
            left = (state.max_steps - state.global_step) * seconds
            line = (
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
                f"lr {logs['learning_rate']:.2e}  {1 / seconds:.2f} steps/s  {left:.0f} s left"
            )
        (self._bar.console.print if self._bar is not None else self._say)(line)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the progress bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class CompletionTrainer(Trainer):
    """The Trainer with steps of our own: what a step holds depends on the seed alone, and its loss on no batching."""

    def __init__(self, *, plan: StepPlan, make_step: StepMaker, losses: RecentLosses, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._plan = plan
        self._make_step = make_step
        self._losses = losses
        model = cast(torch.nn.Module, self.model)
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        self._checkpoint_bytes = checkpoint_bytes(trained, sharded=self.is_fsdp_enabled)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item is one optimiser step: this process's share of it."""
        order = StepOrder(self._plan, self.args.seed, lambda: int(self.state.epoch or 0))
        make_step = self._make_step
        return DataLoader(
            cast(Any, range(len(self._plan.lengths))),
            batch_sampler=order,
            collate_fn=lambda indices: {"step": make_step(indices)},
        )

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Backward through every batch; gives this process's part of the loss, in nats per scored token of the step.

        The step spans all processes; gradients and losses are averaged over them, hence the factor.
        """
        model.train()
        step: TrainingStep = inputs["step"]
        share = self.accelerator.num_processes / step.scored_tokens
        total = torch.zeros((), device=self.args.device)
        for place, (batch, counts) in enumerate(zip(step.batches, step.counts, strict=True)):
            last = place == len(step.batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = completion_nats(model, batch).sum() * (share * counts)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._losses.add(self.state.global_step + 1, total, step.examples)
        return total

    def most_bytes(self) -> int:
        """Room that the run's folder takes at most."""
        steps = self.args.max_steps
        if steps <= 0:
            steps = math.ceil(len(self.get_train_dataloader()) * self.args.num_train_epochs)
        kept = cast(int, self.args.save_total_limit)
        return run_bytes(self._checkpoint_bytes, steps, int(self.args.save_steps), kept)

    def written(self, target: Path, write: Callable[[], None]) -> None:
        """Writes; a disk that is full is said in our words."""
        with write_errors_named(target, self._checkpoint_bytes):
            write()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, sealed once every process has written its part; none at all if one cannot."""
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"

        def write() -> None:
            self.written(checkpoint, lambda: Trainer._save_checkpoint(self, model, trial))

        sharded = self.is_fsdp_enabled
        try:
            if sharded:
                write()  # parts are exchanged in between: a process that fails has to end, or the others wait for it
            everyone(self.args, lambda: None if sharded else write())
        except ChatbenchError:
            # Only now, when the others have ended their writing too: one would meet a folder that is gone.
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        on_main(self.args, lambda: self.written(checkpoint, lambda: seal(checkpoint)))
