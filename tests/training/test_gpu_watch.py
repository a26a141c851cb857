"""The GPU watch: what it appends, that it ends with its block, and that it never stands in a run's way."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatbench.training import gpu_watch as module
from chatbench.training.gpu_watch import GPU_FILE, GpuReading, gpu_watch, nvidia_reader, read_gpus

FIRST, SECOND = GpuReading(0, 91.0, 1024.04, 4096.0, 250.5, 61.0), GpuReading(1, 3.0, 512.0, 4096.0)


class FakeReader:
    """Gives two readings each time; `enough` is set after the third time."""

    def __init__(self) -> None:
        self.times = 0
        self.enough = threading.Event()

    def __call__(self) -> list[GpuReading]:
        self.times += 1
        if self.times >= 3:
            self.enough.set()
        return [FIRST, SECOND]


def lines_of(folder: Path) -> list[dict[str, str]]:
    with (folder / GPU_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def watched(folder: Path) -> FakeReader:
    """Watches until there were three times two readings."""
    read = FakeReader()
    with gpu_watch(folder, read, seconds=1e-3):
        assert read.enough.wait(timeout=10)
    return read


def test_each_reading_is_a_line_and_what_a_card_does_not_tell_is_empty(tmp_path: Path) -> None:
    read = watched(tmp_path / "logs")

    lines = lines_of(tmp_path / "logs")
    assert len(lines) == 2 * read.times
    assert list(lines[0].values())[1:] == ["0", "91.0", "1024.0", "4096.0", "250.5", "61.0"]
    assert list(lines[1].values())[1:] == ["1", "3.0", "512.0", "4096.0", "", ""]
    assert lines[0]["time"] == lines[1]["time"]


def test_the_watch_ends_with_its_block_whatever_ends_the_block(tmp_path: Path) -> None:
    read = FakeReader()

    def failing_run() -> None:
        with gpu_watch(tmp_path, read, seconds=1e-3):
            assert read.enough.wait(timeout=10)
            raise KeyError("the run failed")

    with pytest.raises(KeyError):
        failing_run()
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu-watch"]
    assert len(lines_of(tmp_path)) == 2 * read.times


def test_a_continued_run_appends_and_its_curves_go_on_where_they_were(tmp_path: Path) -> None:
    before = watched(tmp_path)
    with (tmp_path / GPU_FILE).open("a") as file:
        file.write("2026-01-01T00:00:00,0,5")  # torn by a kill

    numbers: list[int] = []
    read = FakeReader()
    with gpu_watch(tmp_path, read, seconds=1e-3, scalar=lambda _name, _value, number: numbers.append(number)):
        assert read.enough.wait(timeout=10)

    lines = lines_of(tmp_path)
    assert len(lines) == 2 * (before.times + read.times)
    assert all(line["memory_total_mib"] == "4096.0" for line in lines)
    # Readings of one millisecond share a time, and count as one.
    assert numbers[0] == len({line["time"] for line in lines[: 2 * before.times]})


def test_a_curve_is_named_by_card_and_quantity_and_skips_what_is_not_told(tmp_path: Path) -> None:
    told: dict[str, float] = {}
    read = FakeReader()
    with gpu_watch(tmp_path, read, seconds=1e-3, scalar=lambda name, value, _number: told.update({name: value})):
        assert read.enough.wait(timeout=10)

    assert told == {
        "gpu0/utilisation_percent": 91.0, "gpu0/memory_used_mib": 1024.04, "gpu0/memory_total_mib": 4096.0,
        "gpu0/power_watts": 250.5, "gpu0/temperature_celsius": 61.0,
        "gpu1/utilisation_percent": 3.0, "gpu1/memory_used_mib": 512.0, "gpu1/memory_total_mib": 4096.0,
    }  # fmt: skip


def test_without_a_reader_nothing_is_written(tmp_path: Path) -> None:
    with gpu_watch(tmp_path / "logs", None):
        pass

    assert not (tmp_path / "logs").exists()


def test_a_disk_that_cannot_be_written_stops_the_watch_and_not_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    ran = False

    with gpu_watch(tmp_path / "logs", FakeReader(), seconds=1e-3):
        ran = True

    assert ran
    assert capfd.readouterr().err == ""  # no traceback of a thread


class FakeNvmlError(Exception):
    """What the driver raises."""


def fake_driver() -> SimpleNamespace:
    """Two cards, which NVML counts the other way round than torch; the second tells neither power nor use."""

    def by_uuid(name: str) -> str:
        if name not in ("GPU-aaaa", "GPU-bbbb"):
            raise FakeNvmlError(name)
        return name

    def only_of_a(value: object) -> object:
        def answer(handle: str, *_: object) -> object:
            if handle != "GPU-aaaa":
                raise FakeNvmlError("not supported")
            return value

        return answer

    return SimpleNamespace(
        NVMLError=FakeNvmlError,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetUtilizationRates=only_of_a(SimpleNamespace(gpu=91, memory=50)),
        nvmlDeviceGetMemoryInfo=lambda _handle: SimpleNamespace(used=512 << 20, total=4096 << 20, free=0),
        nvmlDeviceGetPowerUsage=only_of_a(250_500),
        nvmlDeviceGetTemperatureV=only_of_a(61),
        nvmlDeviceGetTemperature=lambda _handle, _sensor: 40,
    )


def test_cards_are_found_by_identity_and_told_in_mebibytes_watts_and_degrees() -> None:
    # By number, CUDA_VISIBLE_DEVICES=1 would make torch's first card another one than NVML's first.
    readings = read_gpus(fake_driver(), ["bbbb", "gone", "aaaa"])

    assert readings == [
        GpuReading(0, None, 512.0, 4096.0, None, 40.0),
        GpuReading(2, 91.0, 512.0, 4096.0, 250.5, 61.0),
    ]


def test_where_there_is_no_nvidia_gpu_or_no_driver_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module.torch.cuda, "is_available", lambda: False)
        assert nvidia_reader() is None

    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    with monkeypatch.context() as patched:
        patched.setattr(module.util, "find_spec", lambda _name: None)
        assert nvidia_reader() is None

    def refuse() -> None:
        raise FakeNvmlError("no driver")

    broken = SimpleNamespace(NVMLError=FakeNvmlError, nvmlInit=refuse)
    monkeypatch.setattr(module.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(module, "import_module", lambda _name: broken)
    assert nvidia_reader() is None
