"""GGUF files (llama.cpp's format) as models: each is converted once to an ordinary folder, which is then loaded.

transformers reads the weights, dequantises them and builds the tokenizer, with the file's chat template.
The values are kept exactly, so the weights are stored in float32: four bytes per parameter. The folder is
in a cache, under the file's SHA-256: a moved file is found again, and a changed one is another model.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from filelock import FileLock
from gguf import GGUFReader, LlamaFileType
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import file_error, read_object, sha256_of, write_json

GGUF_RECORD = "gguf.json"
"""In a folder made from a GGUF file: which file that was."""
_SCALED = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_SCALING = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
"""Tensors and fields that scale positions (RoPE)."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def is_gguf(source: str) -> bool:
    return source.lower().endswith(".gguf")


def gguf_weights(folder: Path) -> str:
    """Identifies the weights of a folder made from a GGUF file: `gguf sha256:HASH Q4_1`."""
    record = read_object(folder / GGUF_RECORD)
    return f"gguf sha256:{record['sha256']} {record['quantisation']}"


def gguf_folder(path: Path) -> Path:
    """The model folder of a GGUF file, made on first use; in `$XDG_CACHE_HOME/chatbench/gguf`.

    Processes that need the same file wait for the one that writes. A folder exists completely or not at all.

    Raises:
        ChatbenchError: not a GGUF file, an incomplete one or a part of a split one, an architecture or a tokenizer
            that transformers cannot read, scaled positions, or the folder cannot be written.
    """
    if _PART.search(path.name):
        _refuse_part(path)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chatbench" / "gguf"
    try:
        stat = path.stat()
        folder /= _sha256(path.resolve(), (stat.st_size, stat.st_mtime_ns))
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not folder.is_dir():  # no other process wrote it meanwhile
                    _convert(path, folder)
    except OSError as error:
        raise file_error(error) from error
    return folder


@lru_cache
def _sha256(path: Path, _state: tuple[int, int]) -> str:
    return sha256_of(path)


def _convert(path: Path, folder: Path) -> None:
    fields, tensors = _contents(path)
    architecture = str(fields.get("general.architecture"))
    if int(fields.get("split.count", 1)) > 1:
        _refuse_part(path)
    values = ((name, fields.get(f"{architecture}.{name}", "none")) for name in _SCALING)
    scaled = sorted(_SCALED & tensors) + [f"{name} = {value}" for name, value in values if value not in ("none", 0, 1)]
    if scaled and architecture != "gpt-oss":
        raise ChatbenchError(
            f"{path}: its positions are scaled ({', '.join(scaled)}), which transformers would ignore",
            expected="a model without RoPE scaling: ignoring it gives another model",
            fix="use the model's own safetensors: its hub id, or a folder",
        )
    place: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(str(path.parent), **place)
    except Exception as error:  # transformers' readers of the many architectures can raise anything
        raise ChatbenchError(
            f"{path}: transformers cannot read the architecture {architecture!r} from a GGUF file: {_line(error)}",
            expected="a language model such as llama, qwen2, qwen3, gemma2, gemma3, phi3 or gpt2",
            fix="use the model's own safetensors: its hub id, or a folder",
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **place)
        tokenizer("a")
    except Exception as error:  # as above
        raise ChatbenchError(
            f"{path}: transformers cannot build its tokenizer ({fields.get('tokenizer.ggml.model')}): {_line(error)}",
            expected="a tokenizer of the kind gpt2 or llama, with all its tokens and merges",
            fix="use the model's own safetensors and tokenizer: its hub id, or a folder",
        ) from error
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent), **place, dtype=torch.float32, output_loading_info=True
    )
    model, info = loaded
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ChatbenchError(
            f"{path}: {len(lacking)} tensors are missing or have another shape, such as {lacking[0]}",
            expected=f"all weights of a model of the architecture {architecture}",
            fix="download it again, or use the model's own safetensors",
        )
    # A model read from GGUF counts as quantised and refuses to be saved; one made from its configuration does not.
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed run
    plain.save_pretrained(unfinished, state_dict=model.state_dict())
    tokenizer.save_pretrained(unfinished)
    kind = fields.get("general.file_type")
    quantisation = LlamaFileType(kind).name.partition("_")[2] if kind in list(LlamaFileType) else "unknown"
    record = {"sha256": folder.name, "quantisation": quantisation, "architecture": architecture, "file": path.name}
    write_json(unfinished / GGUF_RECORD, record)
    unfinished.rename(folder)


def _contents(path: Path) -> tuple[dict[str, Any], set[str]]:
    """The scalar metadata of a GGUF file and the names of its tensors, after checking that they are all there."""
    with path.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ChatbenchError(f"{path}: not a GGUF file", expected="a llama.cpp model file", fix="download it again")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if len(field.types) == 1}
        return fields, {tensor.name for tensor in reader.tensors}
    except Exception as error:  # whatever the missing bytes lead to
        raise ChatbenchError(
            f"{path}: cut off or damaged after {path.stat().st_size:,} bytes: {_line(error)}",
            expected="all tensors that its header lists",
            fix="download it again",
        ) from error


def _refuse_part(path: Path) -> NoReturn:
    raise ChatbenchError(
        f"{path}: one part of a model that was split into several files",
        expected="the whole model in one file",
        fix="join the parts: llama-gguf-split --merge FIRST_PART OUT.gguf",
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
