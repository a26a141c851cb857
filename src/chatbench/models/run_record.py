"""What a fine-tuning run is, written down before it starts, so that a later command can tell whether it is the same.

The record is `chatbench.json` of the model's folder. A run trains in `FOLDER.unfinished`, which is renamed to `FOLDER`
when all of it is written: a finished folder is whole, and only then there.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.resolved_settings import Resolved

RECORD = "chatbench.json"
RESOLVED_SETTINGS = "resolved_settings.json"
LOG = "trainer_log.jsonl"
LOSS_CURVE = "loss_curve.png"

_LABELS = {
    "train_sha256": "training data", "base": "base", "base_weights": "weights of the base", "precision": "precision",
    "processes": "processes",
}  # fmt: skip
"""Beside the settings, what a run that is continued must share with the one before."""


def record_of(
    resolved: Resolved, *, base_weights: str, tokenizer: str, train_sha256: str, precision: str, processes: int
) -> dict[str, Any]:
    """Everything that the result of a run depends on; no time, no path, no secret."""
    versions = {"python": platform.python_version()}
    for name in ("chatbench", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "model": resolved.model,
        "recipe": resolved.recipe,
        "base": resolved.base,
        "base_weights": base_weights,
        "tokenizer": tokenizer,
        "train_sha256": train_sha256,
        "settings_hash": resolved.hash,
        "settings": {**asdict(resolved.settings), "lora_targets": list(resolved.settings.lora_targets)},
        "origins": dict(resolved.origins),
        "precision": precision,
        "processes": processes,
        "versions": versions,
    }


def unfinished(folder: Path) -> Path:
    """Where a run works until it is done."""
    return folder.with_name(folder.name + ".unfinished")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, None where there is none."""
    path = folder / RECORD
    return cast(dict[str, Any], read_json(path)) if path.is_file() else None


def finished_run(
    folder: Path, resolved: Resolved, train_sha256: str, *, base_weights: str | None, overwrite: bool
) -> dict[str, Any] | None:
    """The record of this very run if it was finished before; None if it is to be trained.

    `base_weights` is None where they are not known before loading: then they are not compared.

    Raises:
        ChatbenchError: another run's model stands there and `overwrite` is off.
    """
    if overwrite:
        return None
    found = read_record(folder)
    if found is None:
        if folder.exists() and any(folder.iterdir()):
            raise ChatbenchError(f"{folder}: not empty, and no {RECORD} in it", fix="move it away, or add --overwrite")
        return None
    wanted = {"base": resolved.base, "settings_hash": resolved.hash, "train_sha256": train_sha256}
    if base_weights is not None:
        wanted["base_weights"] = base_weights
    if any(found.get(name) != value for name, value in wanted.items()):
        raise _differs(folder, found, {**wanted, "settings": asdict(resolved.settings)}, "holds a model trained")
    return found


def may_resume(folder: Path, record: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether the unfinished folder belongs to the same run; False if there is none, or it is to be written over.

    Raises:
        ChatbenchError: it belongs to another run and `overwrite` is off.
    """
    found = read_record(unfinished(folder))
    if found is None:
        return False
    if all(found.get(name) == record[name] for name in ("settings_hash", *_LABELS)):
        return True
    if overwrite:
        return False
    raise _differs(unfinished(folder), found, record, "holds a run begun")


def _differs(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> ChatbenchError:
    old, new = found.get("settings", {}), wanted.get("settings", {})
    lines = [f"{d.name}: {d.one} -> {d.other}" for d in differences(old, new) if d.name in new]
    for name, label in _LABELS.items():
        if name in wanted and found.get(name) != wanted[name]:
            lines.append(f"{label}: {str(found.get(name))[:24]} -> {str(wanted[name])[:24]}")
    return ChatbenchError(
        f"{folder} {what} otherwise: {'; '.join(lines)}",
        expected="the same settings, data and base as before, to continue or to keep it",
        fix="add --overwrite to train again, or go back to those settings",
    )


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record, completely or not at all."""
    write_json(folder / RECORD, record)
