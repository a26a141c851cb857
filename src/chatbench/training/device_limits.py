"""How much memory a device has, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from chatbench.models.precision import Format

TRAINING_SHARE = 0.4
"""Share of the speed of plain matrix products that training is assumed to reach: customary for large models on GPUs."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 1024}


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a GPU's own memory, or of the machine's where there is no GPU; `free` now."""

    name: str
    total: int
    free: int


def device_memory(device: str) -> DeviceMemory:
    """The memory of a torch device."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(torch.cuda.get_device_name(device), total, free)
    if device.startswith("mps"):
        total = torch.mps.recommended_max_memory()
        return DeviceMemory("Apple GPU", total, total - torch.mps.driver_allocated_memory())
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    return DeviceMemory("the processor", total, _available(total))


def _available(total: int) -> int:
    """Linux tells what a new process could get; elsewhere all of it is assumed free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return total


def matrix_rate(device: str, precision: Format, *, seconds: float = 0.3) -> float:
    """Operations per second of square matrix products in a format, the median of what fits into `seconds`."""
    side = _SIDE[device.partition(":")[0]]
    one, other = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    one @ other  # the first product may set things up
    _wait(device)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        one @ other
        _wait(device)
        times.append(time.perf_counter() - began)
    return float(2 * side**3 / sorted(times)[len(times) // 2])


def _wait(device: str) -> None:
    """A GPU answers before it has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
