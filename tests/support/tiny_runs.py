"""Fine-tuning runs of a few steps on a tiny model, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.prepared_files import sums

from chatbench.core.settings import resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.training import trainer
from chatbench.training.run import TrainingJob, TrainingOutcome, train

SETTINGS: dict[str, object] = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2.0, "learning_rate": 1e-3, "logging_steps": 1,
    "save_steps": 2, "precision": "fp32", "packing": "none",
}  # fmt: skip
LORA: dict[str, object] = {"method": "lora", "lora_dropout": 0.0, "learning_rate": 1e-2}

STANDSTILL: dict[str, object] = {"learning_rate": 1e-12}
"""The weights hardly move, so the losses of all steps can be compared to the last digit, not only that of the first."""


KILLED: dict[str, dict[str, object]] = {
    "full": {},
    "lora_with_dropout": {**LORA, "lora_dropout": 0.2},
    "bf16": {"precision": "bf16", "train_sampling_strategy": "group_by_length"},
}
"""The runs that are killed at any moment."""


class KilledError(BaseException):
    """Stands for a kill: nothing that training does afterwards runs."""


@contextmanager
def killed_at_checkpoint(number: int) -> Iterator[None]:
    """Inside, a run ends before the checksums of its `number`-th checkpoint are written, as if it were killed."""
    written: list[Path] = []
    add_checksums = trainer.add_checksums

    def kill(checkpoint: Path) -> None:
        written.append(checkpoint)
        if len(written) == number:
            raise KilledError
        add_checksums(checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "add_checksums", kill)
        with pytest.raises(KilledError):
            yield


def chats(count: int) -> list[ExampleRow]:
    """Three examples of each of `count` conversations: each prompt goes on where the one before stopped."""
    rows = []
    for number in range(count):
        prompt = f"[SYSTEM] What is {number} + {number * 7 % 50}?\n\n[USER] "
        for kind, said in (("first", f"what is {number}?"), ("follow_up", "are you sure"), ("answer", "Answer: B")):
            rows.append(
                ExampleRow(
                    prompt=prompt, completion=f"{said} [END]", messages=None, question_id=f"q{number // 2}",
                    conversation_id=f"c{number}", kind=kind,  # type: ignore[arg-type]  # one of its literals
                )
            )  # fmt: skip
            prompt += f"{said}\n\n[ASSISTANT] it is {number}\n\n[USER] "
    return rows


def tiny_job(base: Path, folder: Path, rows: list[ExampleRow] | None = None, **settings: object) -> TrainingJob:
    """A run of 6 steps, 3 an epoch, unless `settings` say otherwise."""
    usual = {
        name: value for name, value in SETTINGS.items() if name != "num_train_epochs" or "max_steps" not in settings
    }
    return TrainingJob(
        resolved=resolve_settings(str(base), None, {**usual, **settings}),
        train=sums(12) if rows is None else rows,
        validation=sums(4, 50),
        train_sha256="0" * 64,
        folder=folder / "split_0",
        logs=folder / "logs",
        split="split_0",
    )


def run_tiny(each: TrainingJob) -> TrainingOutcome:
    """Trains and says nothing."""
    return train(each, say=lambda _line: None)


def weights_of(folder: Path) -> bytes:
    """The weights file of a run's result, model or adapter."""
    (file,) = (folder / "split_0").glob("*.safetensors")
    return file.read_bytes()


def log_of(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "split_0" / "trainer_log.jsonl").read_text().splitlines()]
