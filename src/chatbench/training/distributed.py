"""Coordinate the processes of a distributed run: check the launch, share results, and propagate errors.

The worst mistake is a launch that silently starts fewer processes than requested. So the number of processes is always
printed, and launches that can be recognised as faulty are refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings

Result = TypeVar("Result")


def process_rank() -> int:
    """Rank of this process if torchrun or accelerate started several, else 0."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() else 0


def describe(arguments: TrainingArguments, *, sharded: bool) -> str:
    """Describe how the run is distributed, e.g. "2 processes on cpu, gloo, each with the whole model"."""
    device = arguments.device.type
    if arguments.world_size == 1:
        return f"1 process on {device}"
    machines = len(set(everyone(arguments, socket.gethostname)))
    where = f" on {machines} machines" if machines > 1 else ""
    model = "the model sharded over them (FSDP)" if sharded else "each with the whole model"
    return f"{arguments.world_size} processes{where} on {device}, {torch.distributed.get_backend()}, {model}"


def refuse_launch(settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch that would not run as requested.

    `accelerate launch --cpu --num_processes 2` sets a master address but starts only one process.

    Raises:
        ChatbenchError: fewer processes than requested, or FSDP with a quantised model.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if by_accelerate and "WORLD_SIZE" not in environment:
        raise ChatbenchError(
            "accelerate launch was asked to start several processes but started only one",
            expected="WORLD_SIZE in the environment of each process",
            fix="on CPUs, start with: torchrun --nproc_per_node 2 -m chatbench finetune MODEL",
        )
    if fsdp_asked(environment) and (settings.load_in_8bit or settings.load_in_4bit):
        raise ChatbenchError(
            "FSDP cannot shard quantised weights",
            expected="a quantised base in each process (DDP), or 16-bit weights to shard",
            fix="use configs/accelerate/ddp_4gpu.yaml, or set load_in_8bit and load_in_4bit to false",
        )


def check_sharded(sharded: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Check that a model is sharded if FSDP was requested; accelerate may silently replicate it instead.

    Raises:
        ChatbenchError: FSDP was requested and the model is not sharded.
    """
    if fsdp_asked(environment) and not sharded:
        raise ChatbenchError(
            "FSDP was requested, but accelerate does not shard here",
            expected="several GPUs",
            fix="start several processes with a GPU each, or turn FSDP off",
        )


def everyone(arguments: TrainingArguments, act: Callable[[], Result]) -> list[Result]:
    """Run `act` in each process and gather all results; a `ChatbenchError` in one process is raised in all."""
    if arguments.world_size == 1:
        return [act()]
    own: tuple[Any, ChatbenchError | None]
    try:
        own = act(), None
    except ChatbenchError as error:
        own = None, error
    gathered: list[Any] = [None] * arguments.world_size
    torch.distributed.all_gather_object(gathered, own)
    for _, failure in gathered:
        if failure is not None:
            raise failure
    return [result for result, _ in gathered]


def on_main(arguments: TrainingArguments, act: Callable[[], Result]) -> Result:
    """Run `act` in the first process and broadcast its result; its `ChatbenchError` is raised in all."""
    return everyone(arguments, lambda: act() if arguments.process_index == 0 else None)[0]  # type: ignore[return-value]  # the first is never None's


def check_shared(folder: Path) -> None:
    """Check that this process sees the folder that the first process has just created.

    Raises:
        ChatbenchError: it does not, as the machines do not share the folder.
    """
    if not folder.exists():
        raise ChatbenchError(
            f"{socket.gethostname()} does not see {folder}, which the first process created",
            expected="a --results folder on a file system that all machines share",
            fix="choose one with --results",
        )


def fsdp_asked(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launch requested that the model be sharded over processes (FSDP)."""
    return environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
