"""What a fine-tuning run is asked to do.

Which study and which questions a prepared split was made of, as the model card tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.resolved_settings import Resolved
from chatbench.data.download import CHATBENCH_DATASET, downloaded_from
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace


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


def data_origin(workspace: Workspace, split: str) -> DataOrigin:
    """The origin of a split's data.

    Raises:
        ChatbenchError: no such split.
    """
    manifest, divided = workspace.manifest, workspace.split(split)
    source, revision = downloaded_from(Path(manifest.study_resolved))
    from_hub = source == CHATBENCH_DATASET  # the other source is a GitHub repository, which is no hub data set
    return DataOrigin(
        study=manifest.study_name,
        questions_sha256=manifest.questions_sha256,
        train_questions=len(divided.question_ids("train")),
        held_out_questions=len(divided.question_ids("test")),
        hub_dataset=source if from_hub else "",
        revision=revision if from_hub else "",
    )
