"""Which splits an export without --split takes; its tables are tested in tests/scoring/test_verification.py."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tests.support.simulated_logs import prepared, write_log

from chatbench.core.errors import ChatbenchError
from chatbench.simulation.split_chats import export_chats


def test_a_split_with_chats_of_the_base_model_alone_is_exported_too(tmp_path: Path) -> None:
    place, to = prepared(tmp_path, splits=3), tmp_path / "chats.csv"
    with pytest.raises(ChatbenchError, match="no simulated chats of tiny"):
        export_chats("tiny", workspace=place, to=to)

    for logs, base_model in ((["split_1"], True), (["split_1", "split_2"], False)):
        for split in logs:
            write_log(place, split, base_model=base_model)
        export_chats("tiny", workspace=place, to=to)
        with to.open(encoding="utf-8", newline="") as file:
            found = {(row["split"], row["source"]) for row in csv.DictReader(file)}
        assert ("split_1", "base model") in found
        assert len(found) == (1 if base_model else 3)
