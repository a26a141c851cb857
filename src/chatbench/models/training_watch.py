"""What a run tells while it trains: losses, a progress bar, validation after each epoch; and sealed checkpoints."""

# ruff: noqa: ARG002  (a callback gets everything by the Trainer's names, used or not)

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.models.checkpoints import seal

Say = Callable[[str], None]


class Watch(TrainerCallback):
    """Callbacks of one run. `validation` gives (nats, tokens) on the main process, and is run when an epoch ends."""

    def __init__(
        self, say: Say, log: Callable[[dict[str, float]], None], validation: Callable[[], tuple[float, int]] | None
    ) -> None:
        self._say = say
        self._log = log
        self._validation = validation
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
        log_now = control.should_log or control.should_save
        at_end = state.global_step >= state.max_steps
        # Before the checkpoint of this step is written, or a run resumed from it would miss the validation.
        if (state.epoch == int(state.epoch or 0) or at_end) and state.is_world_process_zero and self._validation:
            nats, tokens = self._validation()
            self._log({"eval_loss": nats / tokens, "eval_perplexity": math.exp(min(nats / tokens, 700))})
        # The loss since the last line is not part of a checkpoint: log it now, so that a resumed run logs the same.
        control.should_log = log_now  # set last: the log of the validation has cleared it

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **said: Any) -> None:
        logs: dict[str, float] = said["logs"]
        if not logs.keys() & {"loss", "eval_loss"}:
            return
        if not math.isfinite(logs.get("loss", 0.0)) or not math.isfinite(logs.get("eval_loss", 0.0)):
            self.close()
            raise ChatbenchError(
                f"the loss is not finite at step {state.global_step}",
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its own generator's state
        if state.is_world_process_zero:
            seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the progress bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
