"""Files that are complete or not there.

A write goes to a temporary file in the same folder and replaces the target in one step, so a reader, or a run that was
killed, never meets half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from chatbench.core.errors import ChatbenchError

Row = dict[str, object]


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, replacing what was there in one step; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON; NaN is refused because it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(row: Mapping[str, object]) -> str:
    """One JSON Lines record with its line end."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes JSON Lines."""
    write_text(path, "".join(map(json_line, rows)))


def read_json(path: Path, *, fix: str = "") -> object:
    """The value in a JSON file; `fix` says which command makes the file.

    Raises:
        ChatbenchError: the file is missing or is not JSON.
    """
    try:
        return json.loads(_read_text(path, fix))
    except json.JSONDecodeError as error:
        raise ChatbenchError(f"{path}, line {error.lineno}: {error.msg}", expected="JSON", fix=fix) from error


def read_jsonl(path: Path, *, fix: str = "") -> Iterator[tuple[int, Row]]:
    """Pairs (line number from 1, record) of a JSON Lines file; blank lines are passed over.

    Raises:
        ChatbenchError: the file is missing, or a line is not a JSON object.
    """
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(_read_text(path, fix).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ChatbenchError(
                f"{path}, line {number}: not JSON ({error.msg})", expected="one JSON object a line", fix=fix
            ) from error
        if not isinstance(row, dict):
            raise ChatbenchError(f"{path}, line {number}: {type(row).__name__}", expected="a JSON object", fix=fix)
        yield number, row


def _read_text(path: Path, fix: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ChatbenchError(f"{path}: no such file", fix=fix or "check the path") from None
    except UnicodeDecodeError as error:
        raise ChatbenchError(f"{path}: not UTF-8 at byte {error.start}", expected="UTF-8 text", fix=fix) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
