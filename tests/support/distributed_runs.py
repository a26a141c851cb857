"""The runs of tests/training/test_distributed.py: torchrun or accelerate starts a suite in each process.

    torchrun --nproc_per_node 2 tests/support/distributed_runs.py SUITE BASE FOLDER

One start for many runs, because importing takes longer than training here. An error is written to FOLDER/NAME_RANK.txt.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from tests.support.tiny_runs import LORA, STANDSTILL, chats, run_tiny, tiny_job

from chatbench.core.errors import ChatbenchError
from chatbench.training.trainer import CompletionTrainer

RANK = int(os.environ.get("RANK", "0"))  # not there where the tests are only collected
HALF_BATCH: dict[str, object] = {"per_device_train_batch_size": 2}


class KilledError(Exception):
    """Stands for a kill of all processes at once."""


def copies(base: Path, folder: Path) -> None:
    """Each process with the whole model."""
    run_tiny(tiny_job(base, folder / "full", **HALF_BATCH))
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    run_tiny(tiny_job(base, folder / "accumulated", **accumulated, **STANDSTILL))
    run_tiny(tiny_job(base, folder / "lora", **{**LORA, **HALF_BATCH}))
    run_tiny(tiny_job(base, folder / "eight_bit", **{**LORA, **HALF_BATCH, "load_in_8bit": True}))
    run_tiny(tiny_job(base, folder / "packed", chats(4), packing="conversation", **HALF_BATCH, **STANDSTILL))
    dropout = {**LORA, **HALF_BATCH, "lora_dropout": 0.2}
    run_tiny(tiny_job(base, folder / "undisturbed", **dropout))
    for name, disturb in (("killed", kill), ("stopped", stop_one)):
        with at_step(4, disturb):
            ended(folder, name, lambda name=name: run_tiny(tiny_job(base, folder / name, **dropout)))
        run_tiny(tiny_job(base, folder / name, **dropout))
    with at_step(4, spoil_one):
        ended(folder, "spoiled", lambda: run_tiny(tiny_job(base, folder / "spoiled", **HALF_BATCH)))
    with at_step(4, fill_disk):
        ended(folder, "disk_full", lambda: run_tiny(tiny_job(base, folder / "disk_full", **HALF_BATCH)))


def shards(base: Path, folder: Path) -> None:
    """The model sharded over the processes."""
    shard_on_processors()
    for name, flags in (("full", HALF_BATCH), ("lora", {**LORA, **HALF_BATCH})):
        with at_step(4, kill):
            ended(folder, name, lambda name=name, flags=flags: run_tiny(tiny_job(base, folder / name, **flags)))
        run_tiny(tiny_job(base, folder / name, **flags))
    run_tiny(tiny_job(base, folder / "packed", chats(4), packing="conversation", **HALF_BATCH, **STANDSTILL))


@contextmanager
def at_step(step: int, disturb: Callable[[CompletionTrainer, Any], None]) -> Iterator[None]:
    """Inside, every run is disturbed when this step begins."""
    undisturbed = CompletionTrainer.training_step
    save = torch.save

    def disturbed(self: CompletionTrainer, model: Any, inputs: Any, *rest: Any) -> Any:
        if self.state.global_step == step - 1:
            disturb(self, model)
        return undisturbed(self, model, inputs, *rest)

    CompletionTrainer.training_step = disturbed  # type: ignore[method-assign]
    try:
        yield
    finally:
        CompletionTrainer.training_step = undisturbed  # type: ignore[method-assign]
        torch.save = save


def kill(_trainer: CompletionTrainer, _model: Any) -> None:
    raise KilledError


def stop_one(_trainer: CompletionTrainer, _model: Any) -> None:
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def spoil_one(_trainer: CompletionTrainer, model: Any) -> None:
    """One weight of the second process is not a number: its loss is not, and after the exchange nobody's gradient."""
    if RANK == 1:
        with torch.no_grad():
            next(model.parameters()).view(-1)[:] = float("nan")


def fill_disk(_trainer: CompletionTrainer, _model: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save = torch.save

    def late(value: Any, file: Any, *rest: Any, **named: Any) -> None:
        # The other process has failed long ago: were it to remove the folder at once, this one would crash.
        until = time.monotonic() + 1
        while Path(file).parent.is_dir() and time.monotonic() < until:
            os.sched_yield()
        save(value, file, *rest, **named)

    torch.save = full if RANK == 0 else late


def ended(folder: Path, name: str, act: Callable[[], object]) -> None:
    """Writes down how a run that is to fail has ended."""
    try:
        act()
    except (ChatbenchError, KilledError) as error:
        (folder / f"{name}_{RANK}.txt").write_text(f"{type(error).__name__}: {error}")
        return
    raise AssertionError(f"{name}: nothing happened")


def shard_on_processors() -> None:
    """Lets accelerate shard over processors too.

    It takes FSDP into account only where it has found several GPUs; torch's fully_shard itself works over gloo.
    """
    begin = AcceleratorState.__init__

    def as_if_on_gpus(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
        if not AcceleratorState._shared_state:
            PartialState(cpu=True)
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        begin(self, *arguments, **named)

    AcceleratorState.__init__ = as_if_on_gpus


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2", "two processes, or the test would prove nothing"
    {"copies": copies, "shards": shards}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
