"""What can go wrong while a run trains: it is killed, stopped, interrupted; the disk is full; a loss is not a number.

Whatever it is, the user reads one clear error, a whole checkpoint stays, and the same command ends with the weights of
an undisturbed run.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.prepared_files import sums, write_prepared
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_runs import KILLED, log_of, run_tiny, tiny_job, weights_of

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.stop import StopRequest
from chatbench.training import checkpoints as disk_space
from chatbench.training import run as training
from chatbench.training.checkpoints import (
    SAMPLE_BYTES,
    check_space,
    is_complete,
    latest_complete,
    remove_incomplete,
    run_bytes,
    run_lock,
    seal,
    write_errors_named,
)
from chatbench.training.run import CompletionTrainer
from chatbench.training.trainer import RecentLosses

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_tiny(tiny_job(base, folder))
    return folder


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "split_0.unfinished").glob("checkpoint-*"))


@contextmanager
def at_step(patch: pytest.MonkeyPatch, step: int, disturb: Callable[[CompletionTrainer], None]) -> Iterator[None]:
    """Inside, a run is disturbed when this step begins."""
    undisturbed_step = CompletionTrainer.training_step

    def disturbed(self: CompletionTrainer, *arguments: Any) -> Any:
        if self.state.global_step == step - 1:
            disturb(self)
        return undisturbed_step(self, *arguments)

    with patch.context() as patched:
        patched.setattr(CompletionTrainer, "training_step", disturbed)
        yield


@pytest.mark.slow
def test_runs_killed_at_any_moment_again_and_again_end_as_undisturbed_ones(base: Path, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, TESTS / "support" / "killed_runs.py", base, tmp_path / "killed"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert killed.returncode == 0, killed.stderr
    kills = dict(line.split() for line in killed.stdout.splitlines() if line.split()[:1][0] in KILLED)
    assert all(int(kills[name]) >= 1 for name in KILLED)  # else it would prove nothing
    for name, flags in KILLED.items():
        run_tiny(tiny_job(base, tmp_path / "undisturbed" / name, **flags))
        assert weights_of(tmp_path / "killed" / name) == weights_of(tmp_path / "undisturbed" / name), name
        assert log_of(tmp_path / "killed" / name) == log_of(tmp_path / "undisturbed" / name), name


@pytest.mark.parametrize("step", [1, 4])
def test_sigterm_saves_and_stops_and_the_same_command_continues(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with (
        at_step(monkeypatch, step, lambda _: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(StoppedError, match=f"after step {step} of 6, and saved") as stopped,
    ):
        run_tiny(tiny_job(base, tmp_path, logging_steps=10))

    assert stopped.value.fix == "the same command continues"
    assert checkpoints(tmp_path)[-1] == f"checkpoint-{step}"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_tiny(tiny_job(base, tmp_path, logging_steps=10)).status == "resumed"
    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_sigterm_at_the_last_step_lets_the_run_finish(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_step(monkeypatch, 6, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert run_tiny(tiny_job(base, tmp_path)).status == "trained"

    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_the_command_line_tells_a_stop_from_a_wrong_input_by_its_exit_code(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_prepared(tmp_path / "data")
    command = ["finetune", str(base), "--data", str(data), "--results", str(tmp_path / "results"), "--max-steps", "3"]
    monkeypatch.chdir(tmp_path)

    with at_step(monkeypatch, 2, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert main(command) == 143

    assert "the same command continues" in capsys.readouterr().err
    assert main(command) == 0
    assert "resumed 3 steps" in capsys.readouterr().out


def test_a_thread_that_hears_no_signals_trains_all_the_same() -> None:
    heard: list[bool] = []

    def listen() -> None:
        with StopRequest() as stop:
            heard.append(stop.asked)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()

    assert heard == [False]


def test_ctrl_c_stops_at_once_and_the_same_command_continues(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        at_step(monkeypatch, 4, lambda _: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(KeyboardInterrupt),
    ):
        run_tiny(tiny_job(base, tmp_path))

    assert checkpoints(tmp_path) == ["checkpoint-2"]
    run_tiny(tiny_job(base, tmp_path))
    assert weights_of(tmp_path) == weights_of(undisturbed)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Inside, the kernel refuses to make a file larger, as a full disk does: the libraries' own errors come up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "fails"),
    [(100_000, "the weights (safetensors)"), (200_000, "the optimizer (torch.save)")],  # 156 kB and 313 kB
)
def test_a_disk_that_fills_up_ends_with_its_name_and_leaves_the_checkpoint_before(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, fails: str
) -> None:
    limit = files_no_larger_than(size)
    try:
        with (
            at_step(monkeypatch, 4, lambda _: limit.__enter__()),
            pytest.raises(ChatbenchError, match="checkpoint-4 cannot be written") as ended,
        ):
            run_tiny(tiny_job(base, tmp_path))
    finally:
        limit.__exit__(None, None, None)

    assert "are free" in ended.value.found, fails
    assert "continues from the last whole checkpoint" in ended.value.fix
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    run_tiny(tiny_job(base, tmp_path))
    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_a_disk_that_fills_up_at_the_very_end_keeps_the_trained_model(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = training.write_result

    def when_full(*arguments: Any) -> None:
        with files_no_larger_than(100_000):
            write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "write_result", when_full)
        with pytest.raises(ChatbenchError, match="split_0 cannot be written"):
            run_tiny(tiny_job(base, tmp_path))

    assert "checkpoint-6" in checkpoints(tmp_path)
    assert run_tiny(tiny_job(base, tmp_path)).status == "resumed"
    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_a_bug_in_torch_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), write_errors_named(tmp_path, 1):
        raise RuntimeError("shapes do not fit")


def test_a_run_whose_checkpoints_do_not_fit_the_disk_is_refused_before_its_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 39,072 parameters, 12 bytes each, and three checkpoints at a time: 1.41 MB.
    class Usage:
        free = 1_400_000

    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ChatbenchError, match=r"1\.4 MB free on its disk") as refused:
        run_tiny(tiny_job(base, tmp_path))
    assert "save_total_limit" in refused.value.fix
    assert checkpoints(tmp_path) == []

    Usage.free = 1_410_000
    run_tiny(tiny_job(base, tmp_path))


def test_room_is_counted_for_the_checkpoints_that_lie_there_at_a_time(tmp_path: Path) -> None:
    assert run_bytes(12, steps=6, save_steps=2, limit=2) == 36  # the third is written before the first is deleted
    assert run_bytes(12, steps=3, save_steps=50, limit=2) == 12 + 4  # the last step's, and the result
    assert run_bytes(12, steps=6, save_steps=2, limit=5) == 36 + 4

    (tmp_path / "there").write_bytes(b"x" * 1000)
    with pytest.raises(ChatbenchError, match="need"):
        check_space(tmp_path, disk_space.shutil.disk_usage(tmp_path).free + 10**12)
    check_space(tmp_path / "not" / "yet", 1)


def test_the_first_step_whose_loss_is_not_finite_is_named_with_its_examples(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A line is logged every 10 steps, so the loss is read two steps later than it came up.
    def spoil(trainer: CompletionTrainer) -> None:
        with torch.no_grad():
            next(iter(trainer.model.parameters()))[:] = float("nan")

    seen: list[tuple[int, ...]] = []
    add = RecentLosses.add
    monkeypatch.setattr(
        RecentLosses,
        "add",
        lambda self, step, loss, examples: (seen.append(tuple(examples)), add(self, step, loss, examples)),
    )
    with at_step(monkeypatch, 2, spoil), pytest.raises(ChatbenchError) as stopped:
        run_tiny(tiny_job(base, tmp_path, logging_steps=10, save_steps=1000))

    rows = sums(12)
    named = ", ".join(f"{rows[index].conversation_id} ({rows[index].kind})" for index in seen[1])
    assert stopped.value.found == f"the loss is not finite at step 2; its examples: {named}"
    assert "learning_rate" in stopped.value.fix


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the next run would continue from weights that are not numbers.
    def spoil(trainer: CompletionTrainer) -> None:
        with torch.no_grad():
            next(iter(trainer.model.parameters()))[:] = float("nan")

    with at_step(monkeypatch, 3, spoil), pytest.raises(ChatbenchError, match="not finite at step 3"):
        run_tiny(tiny_job(base, tmp_path, logging_steps=1000, save_steps=2))

    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_losses_are_forgotten_once_they_have_been_looked_at() -> None:
    losses = RecentLosses(sums(3), process=0)
    assert losses.look() is None
    losses.add(1, torch.tensor(2.0), [0])
    assert losses.look() is None
    losses.add(2, torch.tensor(float("inf")), [1, 2])
    losses.add(3, torch.tensor(float("nan")), [0])

    bad = losses.look()

    assert bad is not None
    assert (bad.step, bad.examples) == (2, ("c1 (follow_up)", "c2 (answer)"))
    assert losses.look() is None


def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def start_another(_: CompletionTrainer) -> None:
        with pytest.raises(ChatbenchError) as error:
            run_tiny(tiny_job(base, tmp_path, seed=1))
        refused.append(error.value.found)

    with at_step(monkeypatch, 4, start_another):
        run_tiny(tiny_job(base, tmp_path))

    assert refused == [f"{tmp_path / 'split_0'}: process {os.getpid()} on {os.uname().nodename} is training there now"]
    assert weights_of(tmp_path) == weights_of(undisturbed)
    assert not list(tmp_path.glob("*.lock"))


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "split_0.lock").write_text("process 1 on elsewhere")

    with run_lock(tmp_path / "split_0"):
        assert (tmp_path / "split_0.lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}"


def sealed(folder: Path, step: int, content: bytes) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(content)
    seal(checkpoint)
    return checkpoint


@pytest.mark.parametrize("place", [0, 3, 40 * SAMPLE_BYTES - 1])
def test_a_checkpoint_whose_bytes_changed_in_place_is_passed_over_for_the_one_before(
    tmp_path: Path, place: int
) -> None:
    # Its files have their sizes, so a list of sizes alone would let it through.
    before, after = (sealed(tmp_path, step, bytes(range(256)) * (40 * SAMPLE_BYTES // 256)) for step in (2, 4))
    assert latest_complete(tmp_path) == after

    with (after / "model.safetensors").open("r+b") as file:
        file.seek(place)
        file.write(b"\xaa")

    assert latest_complete(tmp_path) == before
    assert remove_incomplete(tmp_path) == ["checkpoint-4"]


def test_a_lost_stretch_in_the_middle_of_a_large_file_is_noticed(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path, 2, b"\x01" * 40 * SAMPLE_BYTES)

    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(19 * SAMPLE_BYTES)
        file.write(b"\x00" * 3 * SAMPLE_BYTES)

    assert not is_complete(checkpoint)


def test_a_file_that_appears_later_does_not_make_a_checkpoint_torn(tmp_path: Path) -> None:
    # On a network file system another machine's file can become visible after the list was written.
    checkpoint = sealed(tmp_path, 2, b"weights")
    (checkpoint / "rng_state_1.pth").write_bytes(b"state")

    assert is_complete(checkpoint)
