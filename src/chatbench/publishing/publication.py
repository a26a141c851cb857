"""What of a finished model's folder is published: the model, its tokenizer, its card and its records, and nothing else.

Checkpoints stay, and so does `training_args.bin`: it is a pickle, and holds paths of the machine. Where our records or
a configuration name a folder of this machine, only its last name is published. What then still holds a secret of the
environment, or a path of this machine, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.models.run_record import LOG, LOSS_CURVE, RECORD, RESOLVED_SETTINGS, read_record
from chatbench.models.weight_files import check_model_folder
from chatbench.publishing.base_names import base_name, is_local_path, last_name
from chatbench.publishing.model_card import CARD
from chatbench.publishing.published_text import refuse_leaks
from chatbench.publishing.reload_snippet import with_folder

PUBLISHED = (
    CARD, RECORD, RESOLVED_SETTINGS, LOG, LOSS_CURVE,
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "spiece.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_OUR_RECORDS = (RECORD, RESOLVED_SETTINGS)
_CONFIGURATIONS = ("config.json", "adapter_config.json", "tokenizer_config.json")
_NAMES_OF_FOLDERS = ("_name_or_path", "name_or_path", "base_model_name_or_path")


@dataclass(frozen=True, slots=True)
class Publication:
    """What goes where: files by name, as a path or, where the folder's file names this machine, as changed bytes.

    `left_out` lists what lies in the folder too and stays there; `private` is how the repository is made.
    """

    repo_id: str
    revision: str
    private: bool
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...]

    @property
    def card(self) -> str:
        """The text of the model card, as published."""
        return cast(bytes, self.files[CARD]).decode("utf-8")

    def lines(self) -> list[str]:
        """Target, visibility, and each file with its size in bytes."""
        sizes = {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in self.files.items()
        }
        target = f"{self.repo_id} ({'private' if self.private else 'public'}), revision {self.revision}"
        return [
            f"{len(sizes)} files, {sum(sizes.values()):,} bytes -> {target}",
            *(f"  {size:>15,}  {name}" for name, size in sizes.items()),
            *(["left out: " + ", ".join(self.left_out)] if self.left_out else []),
        ]


def publication(folder: Path, repo_id: str, *, revision: str = "main", private: bool = True) -> Publication:
    """What of `folder` would be published.

    Raises:
        ChatbenchError: the folder holds no finished model, or damaged weights; an adapter whose base nobody else has; a
            secret or a path of this machine in a file.
    """
    _check_repo_id(repo_id)
    record = read_record(folder)
    if record is None or not (folder / CARD).is_file():
        raise ChatbenchError(
            f"{folder}: no {RECORD if record is None else CARD}",
            expected="a folder that chatbench finetune or merge made",
        )
    check_model_folder(folder)
    _refuse_unknown_base(folder, record)
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    published = [path for path in entries if path.is_file() and belongs(path.name)]
    files = {path.name: _content(path, record, repo_id, revision) for path in published}
    for name, content in files.items():
        refuse_leaks(name, content, folder)
    left_out = tuple(path.name + ("/" if path.is_dir() else "") for path in entries if path not in published)
    return Publication(repo_id, revision, private, files, left_out)


def belongs(name: str) -> bool:
    """Whether a file of this name is part of a published model."""
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in its documentation

    try:
        validate_repo_id(repo_id)
        why = "" if "/" in repo_id else "no organisation or account in it"
    except HFValidationError as error:
        why = str(error).splitlines()[0]
    if why:
        raise ChatbenchError(f"--to {repo_id}: {why}", expected="ORG/NAME")


def _refuse_unknown_base(folder: Path, record: Mapping[str, Any]) -> None:
    base = base_name(record)
    if (folder / "adapter_config.json").is_file() and base.kind == "folder":
        raise ChatbenchError(
            f"{folder}: an adapter on {record['base']}, which nobody else has",
            expected="a base from the hub",
            fix=f"publish a whole model: chatbench merge {folder} OUT, then chatbench publish OUT",
        )


def _content(path: Path, record: Mapping[str, Any], repo_id: str, revision: str) -> Path | bytes:
    if path.name == CARD:
        return with_folder(path.read_text(encoding="utf-8"), repo_id, revision).encode("utf-8")
    if path.name in _OUR_RECORDS:
        return _as_bytes(_without_folders(read_json(path)))
    if path.name in _CONFIGURATIONS:
        content = cast(dict[str, Any], read_json(path))
        named = {name: content[name] for name in _NAMES_OF_FOLDERS if is_local_path(str(content.get(name, "")))}
        if named:
            return _as_bytes({**content, **dict.fromkeys(named, _public_base(record))})
    return path


def _public_base(record: Mapping[str, Any]) -> str:
    base = base_name(record)
    return f"./{base.name}" if base.kind == "folder" else base.name


def _without_folders(value: object) -> object:
    """A JSON value in which each path of this machine is `./` and its last name, inside longer texts too."""
    paths = sorted({text for text in _texts(value) if is_local_path(text)}, key=len, reverse=True)

    def cleaned(each: object) -> object:
        if isinstance(each, dict):
            return {name: cleaned(item) for name, item in each.items()}
        if isinstance(each, list):
            return [cleaned(item) for item in each]
        if isinstance(each, str):
            for path in paths:
                each = each.replace(path, f"./{last_name(path)}")
        return each

    return cleaned(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _as_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
