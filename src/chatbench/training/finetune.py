"""Fine-tunes a simulator on one split: settings, data and folders in, a model folder out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import sha256_of
from chatbench.core.recipes import recipe_of
from chatbench.core.resolved_settings import Resolved, resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.training.job import data_origin

if TYPE_CHECKING:
    from chatbench.training.dry_run import RunPlan
    from chatbench.training.run import TrainingOutcome

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """Where the fine-tuned model lies, and how its training went."""

    model: str
    split: str
    folder: Path
    outcome: TrainingOutcome

    def lines(self) -> list[str]:
        """What to print in the end."""
        done = self.outcome
        if done.status == "already trained":
            return [f"{self.folder}: already trained with these settings; --overwrite trains again"]
        losses = f"loss {done.first_loss:.3f} -> {done.last_loss:.3f}"
        if done.validation:
            losses += f", held out {done.validation[-1][1]:.3f} nats a token"
        return [f"{done.status} {done.steps:,} steps in {done.seconds:.0f} s, {losses} -> {self.folder}"]


def finetune(
    model: str,
    *,
    workspace: Workspace,
    split: str = "split_0",
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    say: Say = print,
) -> FinetuneResult:
    """Fine-tunes MODEL on a split's training side; continues a killed run, and does not repeat a finished one.

    Args:
        flags: settings given on the command line, by name; None stands for "not given".

    Raises:
        ChatbenchError: no such split or model, unknown or contradicting settings, another run in the way, or a device
            that is too small.
    """
    train_file = workspace.split_file(split, "train.jsonl")
    resolved = resolved_for(model, config, flags or {})
    from chatbench.training.job import TrainingJob
    from chatbench.training.run import train

    is_main = _process_rank() == 0
    if is_main:
        say(f"fine-tuning {model} on {split}")
        for line in resolved.lines():
            say(f"  {line}")
    job = TrainingJob(
        resolved=resolved,
        train=workspace.examples(split, "train"),
        validation=spread(workspace.examples(split, "test"), resolved.settings.validation_examples),
        train_sha256=sha256_of(train_file),
        folder=workspace.model_folder(model, split),
        logs=workspace.training_logs(model, split),
        split=split,
        data=data_origin(workspace, split),
    )
    with _memory_advised(model):
        outcome = train(job, resume=resume, overwrite=overwrite, say=say)
    result = FinetuneResult(model, split, job.folder, outcome)
    if is_main:
        for line in result.lines():
            say(line)
    return result


def plan_finetune(
    model: str,
    *,
    workspace: Workspace,
    split: str = "split_0",
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    say: Say = print,
) -> RunPlan:
    """Says what `finetune` would do with the same arguments, and what it would cost; loads no weights.

    Raises:
        ChatbenchError: as `finetune`, but for what only shows when training.
    """
    resolved = resolved_for(model, config, flags or {})
    train, test = (workspace.examples(split, side) for side in ("train", "test"))
    from chatbench.training.dry_run import plan_run

    say(f"plan of fine-tuning {model} on {split}")
    for line in resolved.lines():
        say(f"  {line}")
    plan = plan_run(resolved, train, spread(test, resolved.settings.validation_examples))
    for line in plan.lines():
        say(line)
    return plan


def spread(rows: Sequence[ExampleRow], count: int) -> list[ExampleRow]:
    """At most `count` rows, evenly spaced over all of them.

    >>> spread(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    if count >= len(rows):
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]


def resolved_for(model: str, config: Path | None, flags: Mapping[str, object]) -> Resolved:
    """The settings; a model without a recipe is measured first, for its size decides between full and LoRA."""
    resolved = resolve_settings(model, config, flags)  # before the model is looked for: its errors are quick
    if recipe_of(model) is not None or "method" in resolved.explicit:
        return resolved
    from chatbench.models.loading import parameter_count

    return resolve_settings(model, config, flags, parameters=parameter_count(resolved.base))


@contextmanager
def _memory_advised(model: str) -> Iterator[None]:
    """Turns a GPU that is out of memory into an error that says how to need less."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ChatbenchError(
            f"out of memory: {str(error).splitlines()[0]}",
            expected="room for the largest batch",
            fix=f"chatbench finetune {model} --dry-run says what would fit",
        ) from error


def _process_rank() -> int:
    """This process's number where torchrun or accelerate started several, else 0."""
    import os

    return int(os.environ.get("RANK", "0"))
