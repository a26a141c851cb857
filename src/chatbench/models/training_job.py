"""What a fine-tuning run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.settings import Resolved
from chatbench.protocol.example_rows import ExampleRow


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on, and where to.

    `folder` gets the finished model, `logs` the TensorBoard events. `validation` is only printed: nothing is chosen by
    it. `train_sha256` identifies the training file.
    """

    resolved: Resolved
    train: Sequence[ExampleRow]
    validation: Sequence[ExampleRow]
    train_sha256: str
    folder: Path
    logs: Path
    split: str
