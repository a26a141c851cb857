"""Callbacks: curves are complete after a kill, a missing tracker is named in time, bad losses are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.support.prepared_files import sums
from tests.support.tiny_runs import killed_at_checkpoint, log_of, run_tiny, tiny_job

from chatbench.core.errors import ChatbenchError
from chatbench.training import run as training
from chatbench.training import trainer
from chatbench.training.trainer import RecentLosses


def curve(logs: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of a curve, in the order in which TensorBoard shows them."""
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_each_step_once_after_a_kill(base: Path, tmp_path: Path) -> None:
    # Steps 3 and 4 are trained twice: the second checkpoint is incomplete, so the run goes on from step 2.
    with killed_at_checkpoint(2):
        run_tiny(tiny_job(base, tmp_path))
    assert [step for step, _ in curve(tmp_path / "logs", "train/loss")] == [1, 2, 3, 4]

    run_tiny(tiny_job(base, tmp_path))

    shown = curve(tmp_path / "logs", "train/loss")
    losses = {row["step"]: row["loss"] for row in log_of(tmp_path) if "loss" in row}
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in shown] == pytest.approx([losses[step] for step, _ in shown], rel=1e-6)
    assert not [path.name for path in (tmp_path / "logs").iterdir() if not path.name.startswith("events.")]


def test_none_leaves_no_logs(base: Path, tmp_path: Path) -> None:
    run_tiny(tiny_job(base, tmp_path, num_train_epochs=0.3, report_to=["none"]))

    assert not (tmp_path / "logs").exists()


def test_a_tracker_that_is_not_installed_is_refused_with_its_command_before_anything_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_be_loaded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(trainer.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(training, "trainable_base", must_not_be_loaded)

    with pytest.raises(ChatbenchError, match="wandb, which is not installed") as refused:
        run_tiny(tiny_job(base, tmp_path, report_to=["tensorboard", "wandb"]))
    assert refused.value.fix.startswith("pip install wandb")
    assert not (tmp_path / "split_0.unfinished").exists()


def test_two_splits_of_one_process_are_two_runs_of_wandb(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its callback goes on with a run that is open, so the second split would be drawn into the first one's curves.
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    for name in ("one", "two"):
        run_tiny(tiny_job(base, tmp_path / name, num_train_epochs=0.3, report_to=["wandb"]))

    for name in ("one", "two"):
        assert len(list((tmp_path / name / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
        assert not list((tmp_path / name / "logs").glob("events.*"))


def test_runs_of_other_settings_are_other_runs_of_trackio(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio")
    for seed in (0, 1):
        run_tiny(tiny_job(base, tmp_path / str(seed), num_train_epochs=0.3, seed=seed, report_to=["trackio"]))

    assert (tmp_path / "trackio" / "chatbench.db").is_file()
    names = {each.name for each in trackio.Api().runs("chatbench")}
    assert len(names) == 2
    assert all(name.startswith("llama/split_0 ") for name in names)


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
