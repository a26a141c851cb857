"""The Trainer with our steps, our loss and sealed checkpoints; everything else about training is the Trainer's."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from chatbench.core.errors import ChatbenchError
from chatbench.models.completion_loss import completion_nats
from chatbench.training.checkpoints import seal
from chatbench.training.disk_space import checkpoint_bytes, run_bytes, write_errors_named
from chatbench.training.processes import everyone, on_main
from chatbench.training.recent_losses import RecentLosses
from chatbench.training.step_order import StepOrder, StepPlan
from chatbench.training.steps import StepMaker, TrainingStep


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
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002  (the step knows it)
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
