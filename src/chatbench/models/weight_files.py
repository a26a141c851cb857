"""What a model folder holds: whether its weights are whole, and which weights they are."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, sha256_of

_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "peft_version", "base_model_name_or_path", "use_cache")


def weights_hash(folder: Path) -> str:
    """SHA-256 over the configuration and the weight files of a model folder: `sha256:...`."""
    digest = hashlib.sha256()
    for file in (folder / "config.json", folder / "adapter_config.json"):
        if file.is_file():
            # The same weights are another model under another configuration; a path or a version is no part of it.
            config = cast(dict[str, Any], read_json(file))
            told = {name: value for name, value in config.items() if name not in _NOT_OF_THE_MODEL}
            digest.update(f"{file.name}:{json.dumps(told, sort_keys=True)}\n".encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name}:{sha256_of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def check_model_folder(folder: Path) -> None:
    """Refuses a folder that holds no model, or one whose weights are damaged or pickled.

    Raises:
        ChatbenchError: with the file and what is wrong with it.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ChatbenchError(f"{folder}: not a model folder", expected="config.json or adapter_config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        raise ChatbenchError(
            f"{folder}: {'weights as a pickle file only' if pickled else 'no weights'}",
            expected="model.safetensors or adapter_model.safetensors",
            fix="save the model with safe_serialization" if pickled else "train or copy the model again",
        )
    for index in folder.glob("*.safetensors.index.json"):
        shards = cast(dict[str, Any], read_json(index))["weight_map"].values()
        missing = sorted(set(shards) - {file.name for file in files})
        if missing:
            raise ChatbenchError(f"{folder}: {missing[0]} is missing", fix="copy or download the model again")
    for file in files:
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Refuses a weights file that is shorter than its own header says.

    Raises:
        ChatbenchError: the file is cut short or is not safetensors.
    """
    header, header_bytes = _header(file)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if header_bytes + max(ends, default=0) != file.stat().st_size:
        raise _broken(file)


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors of a safetensors file, from its header alone."""
    return [name for name in _header(file)[0] if name != "__metadata__"]


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and how many bytes it takes with its length in front."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        header_size = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + header_size > size:
            raise _broken(file)
        try:
            return cast(dict[str, Any], json.loads(opened.read(header_size))), 8 + header_size
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise _broken(file) from None


def _broken(file: Path) -> ChatbenchError:
    return ChatbenchError(f"{file}: half-written or damaged weights", fix="train, copy or download the model again")
