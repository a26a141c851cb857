"""Which study and which questions a prepared split was made of, as the model card tells it."""

from __future__ import annotations

from pathlib import Path

from chatbench.protocol.prepared_data import load_manifest, read_split
from chatbench.studies.download import CHATBENCH_DATASET, downloaded_from
from chatbench.training.job import DataOrigin


def data_origin(data: Path, split: str) -> DataOrigin:
    """The origin of a split's data.

    Raises:
        ChatbenchError: no such split.
    """
    manifest, divided = load_manifest(data), read_split(data, split)
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
