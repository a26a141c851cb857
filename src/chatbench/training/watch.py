"""What a run tells while it trains (losses, a progress bar, validation after each epoch), and when it stops early."""

# ruff: noqa: ARG002  (a callback gets everything by the Trainer's names, used or not)

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.training.processes import everyone
from chatbench.training.recent_losses import RecentLosses
from chatbench.training.stop_request import StopRequest

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
