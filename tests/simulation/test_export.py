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


@pytest.mark.parametrize("lost", ["data/split_0/table.csv", "results/scores/tiny.csv"])
def test_an_export_replaces_nothing_that_is_read(lost: str, tmp_path: Path) -> None:
    place = prepared(tmp_path, splits=1)
    write_log(place, "split_0")
    to = (place.data if lost.startswith("data") else place.results).joinpath(*Path(lost).parts[1:])
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("mine")

    with pytest.raises(ChatbenchError, match="is read, and would be overwritten"):
        export_chats("tiny", workspace=place, to=to)
    assert to.read_text() == "mine"
