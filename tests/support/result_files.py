"""What two runs of the same sweep must leave alike, byte for byte."""

from __future__ import annotations

from pathlib import Path

NOT_ALIKE = ("training_args.bin", "chatbench_files.json", "report.html")
"""The Trainer's own arguments hold the path of the results, the checksums of a model those of its files, and a page the
minute in which it was made."""


def result_files(folder: Path) -> dict[str, bytes]:
    """Content by path of what lies in a results folder, but for TensorBoard's curves, whose names hold the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_ALIKE and path.relative_to(folder).parts[0] != "logs"
    }
