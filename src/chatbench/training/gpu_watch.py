"""How busy the NVIDIA GPUs are while a run goes on, so that nobody has to watch a second terminal.

A thread asks the driver (NVML) every few seconds and appends to `gpu.csv`. The first process of a run asks for all GPUs
of its machine that the run may use; of a run on several machines only that one is watched. Where there is no NVIDIA
GPU, or nvidia-ml-py is missing, nothing is written and nothing is said.
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch

GPU_FILE = "gpu.csv"
SECONDS = 5.0
"""Between two readings; a reading takes about a millisecond."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What one GPU says at one moment; None for what the card does not tell. `gpu` is its number in torch."""

    gpu: int
    utilisation_percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None


Reader = Callable[[], Sequence[GpuReading]]
Scalar = Callable[[str, float, int], None]
"""Takes the name of a curve, a value, and the number of the reading."""

_COLUMNS = ("time", *(field.name for field in fields(GpuReading)))


@contextmanager
def gpu_watch(
    folder: Path, read: Reader | None, *, scalar: Scalar | None = None, seconds: float = SECONDS
) -> Iterator[None]:
    """Reads while the block runs, into `folder/gpu.csv` and, where given, into curves; not at all without a reader.

    The file is appended to: a run that is continued goes on in it, and so do the numbers of the readings.
    """
    if read is None:
        yield
        return
    stop = threading.Event()
    watch = threading.Thread(
        target=_watch, args=(folder / GPU_FILE, read, scalar, seconds, stop), name="gpu-watch", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join(timeout=10)  # seconds; a driver that hangs must not hold up the end of a run


def nvidia_reader() -> Reader | None:
    """A reader of the GPUs that torch may use, None where they are not NVIDIA's or cannot be asked."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return None
    if util.find_spec("pynvml") is None:
        return None
    nvml: Any = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return partial(
        read_gpus, nvml, [torch.cuda.get_device_properties(gpu).uuid for gpu in range(torch.cuda.device_count())]
    )


def read_gpus(nvml: Any, uuids: Sequence[object]) -> list[GpuReading]:
    """A reading of each GPU, by identity: NVML counts all cards, torch only those that it may use.

    Args:
        nvml: the module of nvidia-ml-py.
        uuids: shape (n_gpus,), as torch tells them, without the `GPU-` in front.
    """
    handles = [_told(nvml, nvml.nvmlDeviceGetHandleByUUID, f"GPU-{uuid}") for uuid in uuids]
    return [_reading(nvml, gpu, handle) for gpu, handle in enumerate(handles) if handle is not None]


def _reading(nvml: Any, gpu: int, handle: object) -> GpuReading:
    use = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    milliwatts = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    celsius = _told(nvml, nvml.nvmlDeviceGetTemperatureV, handle, nvml.NVML_TEMPERATURE_GPU)
    if celsius is None:  # a driver from before 2025
        celsius = _told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    return GpuReading(
        gpu=gpu,
        utilisation_percent=None if use is None else float(use.gpu),
        memory_used_mib=None if memory is None else memory.used / _MIB,
        memory_total_mib=None if memory is None else memory.total / _MIB,
        power_watts=None if milliwatts is None else milliwatts / 1000,
        temperature_celsius=None if celsius is None else float(celsius),
    )


def _told(nvml: Any, ask: Callable[..., Any], *about: object) -> Any:
    """An answer of the driver, None where this card or driver has none."""
    try:
        return ask(*about)
    except nvml.NVMLError:
        return None


def _watch(path: Path, read: Reader, scalar: Scalar | None, seconds: float, stop: threading.Event) -> None:
    try:
        number = _begin(path)
        with path.open("a", newline="", encoding="utf-8") as file:
            lines = csv.DictWriter(file, _COLUMNS)
            while True:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                for reading in read():
                    told = asdict(reading)
                    lines.writerow({"time": now, **{name: _rounded(value) for name, value in told.items()}})
                    for name, value in told.items():
                        if scalar is not None and name != "gpu" and value is not None:
                            scalar(f"gpu{reading.gpu}/{name}", value, number)
                file.flush()
                number += 1
                if stop.wait(seconds):
                    return
    except OSError:
        return  # a full disk stops the watch, not the run; the run says it when it saves


def _begin(path: Path) -> int:
    """Makes the file, or cuts off a line that a kill tore; gives the number of the next reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or not path.stat().st_size:
        path.write_text(",".join(_COLUMNS) + "\r\n", encoding="utf-8", newline="")
        return 0
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    with path.open(newline="", encoding="utf-8") as file:
        return len({line["time"] for line in csv.DictReader(file)})


def _rounded(value: float | None) -> float | None:
    return round(value, 1) if isinstance(value, float) else value
