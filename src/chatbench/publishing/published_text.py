"""Refuses to publish what tells a secret, or where things lie on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from chatbench.core.errors import ChatbenchError

_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST_SECRET = 8
"""Characters; a shorter value (`test`, `1`) would be found everywhere, and protects nothing."""

_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
_CHUNK_BYTES = 1 << 24


def refuse_leaks(name: str, content: Path | bytes, folder: Path) -> None:
    """Looks for secrets in any file, and for paths in text.

    Args:
        name: the file's name where it is published.
        folder: where the model lies on this machine.

    Raises:
        ChatbenchError: the file holds the value of an environment variable that is named like a secret, the token of
            the hub, or a path of this machine.
    """
    found = _first_of(secrets(), content)
    if found is not None:
        raise ChatbenchError(
            f"{name}: holds the value of {found}", fix="remove it from that file, and withdraw it if others saw it"
        )
    if name.endswith((".safetensors", ".png")) or name in _VOCABULARIES:
        return  # a word of a vocabulary is no path, whatever it looks like
    text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", errors="replace")
    for path in _paths(folder):
        if re.search(re.escape(path) + r"(?![\w.-])", text):
            raise ChatbenchError(
                f"{name}: holds {path}, a path of this machine",
                fix="remove it from that file; a folder's or a base's own name is enough",
            )


def secrets() -> dict[str, bytes]:
    """What must not be published, by where it comes from: secrets of the environment, and the hub's token."""
    from huggingface_hub import get_token

    named = {name: value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
    named["the token of the hub"] = get_token() or ""
    return {name: value.encode() for name, value in named.items() if len(value) >= SHORTEST_SECRET}


def _first_of(needles: Mapping[str, bytes], content: Path | bytes) -> str | None:
    overlap = max(map(len, needles.values()), default=0)
    before = b""
    for chunk in _chunks(content):
        window = before + chunk
        for name, needle in needles.items():
            if needle in window:
                return name
        before = window[-overlap:]  # a value may lie across two chunks
    return None


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _paths(folder: Path) -> list[str]:
    places = (folder.resolve(), folder.absolute(), Path.cwd(), Path.home())
    return sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True)
