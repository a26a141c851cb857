"""What a fine-tuning run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.resolved_settings import Resolved
from chatbench.protocol.example_rows import ExampleRow


@dataclass(frozen=True, slots=True)
class DataOrigin:
    """The study and the questions behind a split, for the model card.

    `hub_dataset` is the id of the published data set that the study was downloaded from, at `revision`; both are empty
    for any other study.
    """

    study: str
    questions_sha256: str
    train_questions: int
    held_out_questions: int
    hub_dataset: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on, and where to.

    `folder` gets the finished model, `logs` the TensorBoard events. `validation` is only printed: nothing is chosen by
    it. `train_sha256` identifies the training file; `data` is None where the rows come from no prepared split.
    """

    resolved: Resolved
    train: Sequence[ExampleRow]
    validation: Sequence[ExampleRow]
    train_sha256: str
    folder: Path
    logs: Path
    split: str
    data: DataOrigin | None = None
