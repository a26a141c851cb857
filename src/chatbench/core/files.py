"""Atomic writes, defensive reads, and messages for what can go wrong with a file.

A write goes to a temporary file in the same folder and replaces the target in one step, so a killed run never leaves
half a file and a reader never sees one. Devices and pipes are written to, not replaced; links are followed. Files from
outside are read within limits: encodings other than UTF-8, excessive nesting and endless numbers are errors that say
where, and a lone surrogate (half a character, which cannot be written back) becomes U+FFFD.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

from chatbench.core.errors import ChatbenchError
from chatbench.core.progress import WorkProgress, tracked

Row = dict[str, object]

MOST_DIGITS = 40
MOST_NESTED = 100
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_ELSEWHERE = "choose another path"
_PROBLEMS: Mapping[int, tuple[str, str]] = {
    errno.EACCES: ("permission denied", f"change its owner or mode, or {_ELSEWHERE}"),
    errno.EPERM: ("permission denied", f"change its owner or mode, or {_ELSEWHERE}"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.ENOSPC: ("the disk is full", f"free some space and run the same command again, or {_ELSEWHERE}"),
    errno.EDQUOT: ("disk quota exceeded", f"free some space and run the same command again, or {_ELSEWHERE}"),
    errno.EFBIG: ("the file is too large for this file system", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.EISDIR: ("is a folder, not a file", "give the path of a file"),
    errno.ENOTDIR: ("part of this path is a file, not a folder", _ELSEWHERE),
    errno.EEXIST: ("part of this path is a file, not a folder", _ELSEWHERE),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ELOOP: ("a symbolic link that points back to itself", "fix the link"),
    errno.EIO: ("disk I/O error", f"check the disk, or {_ELSEWHERE}"),
    errno.EMFILE: ("too many open files", "raise the limit: ulimit -n 4096"),
}


def file_error(error: OSError, path: Path | None = None) -> ChatbenchError:
    """Translate an `OSError` about a file (`path`, or the one it names) into an error that says how to fix it."""
    problem, fix = _PROBLEMS.get(error.errno or 0, (error.strerror or str(error), f"check the path, or {_ELSEWHERE}"))
    place = path or error.filename2 or error.filename or "a file"
    if place == "a file" and error.errno == errno.ENOENT:  # as tempfile raises it
        fix = "free some space, or set TMPDIR to a folder with some"
        place, problem = "temporary files", str(error.strerror)
    return ChatbenchError(f"{place}: {problem}", expected="a path that can be read and written", fix=fix)


# ---- Writing ----


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, replacing what was there; creates the folder.

    Raises:
        ChatbenchError: the operating system refuses.
    """
    if (descriptor := _STREAMS.get(str(path))) is not None:
        sys.stdout.flush()
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(content)
        return
    with replacing(path) as temporary:
        _fill(temporary, content)


def _fill(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.fsync(file.fileno())


@contextmanager
def written_together(texts: Mapping[Path, str]) -> Iterator[None]:
    """Write all texts to temporary files, run the block, then let them replace their targets, the first one last.

    Raises:
        ChatbenchError: as `write_text`; if it is raised before the block, no file has changed.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            _fill(stack.enter_context(replacing(path)), _encoded(path, text))
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that replaces it at the end; if the block fails, nothing is left.

    It gets the permissions of the file that it replaces, else the umask's. A device or a pipe is yielded itself.
    Temporary files of killed runs are removed.

    Raises:
        ChatbenchError: the operating system refuses, also for an `OSError` inside the block; the message names `path`.
    """
    temporary: Path | None = None
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if target.is_symlink():  # a loop of links
            raise OSError(errno.ELOOP, "", str(path))
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "", str(path))
            yield path
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        name = target.name[:100]
        _remove_abandoned(target.parent, name)
        temporary = target.with_name(f".{name}.{_HOST}-{os.getpid()}-{threading.get_ident()}.part")
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise file_error(error, path) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # of a read-only file system; the error above says so
                temporary.unlink(missing_ok=True)


def _remove_abandoned(folder: Path, name: str) -> None:
    """Remove temporary files of this target left by processes of this machine that no longer run."""
    for left in folder.glob(f".{escape(name)}.{_HOST}-*.part"):
        process = left.name.rpartition(f"{_HOST}-")[2].partition("-")[0]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            left.unlink(missing_ok=True)
        except PermissionError:  # it is running, as another user
            continue


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, like `write_bytes`."""
    write_bytes(path, _encoded(path, text))


def _encoded(path: Path, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # a surrogate from a file name; text read from files has none
        found = ascii(text[max(0, error.start - 20) : error.end + 20])
        raise ChatbenchError(
            f"{path}: {found} cannot be written as UTF-8", fix="rename the file with this name"
        ) from None


def json_text(value: object) -> str:
    """Format indented JSON; NaN is refused because it is not JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write `json_text`."""
    write_text(path, json_text(value))


def json_line(row: Mapping[str, object]) -> str:
    """Format one JSON Lines record, including the newline."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write JSON Lines."""
    write_text(path, "".join(map(json_line, rows)))


def keep_inputs(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Check that no file to be written is one of those that are read, or lies in a folder that is.

    Raises:
        ChatbenchError: one is.
    """
    inputs = {path.resolve() for path in read}
    for path in written:
        found = path.resolve()
        if found in inputs or (path.exists() and not inputs.isdisjoint(found.parents)):
            raise ChatbenchError(f"{path}: is read, and would be overwritten", fix="choose another name for the output")


# ---- Reading ----


class JsonTextError(ValueError):
    """A text that is not JSON or exceeds the limits of this module; `line` counts from 1."""

    def __init__(self, problem: str, line: int = 1) -> None:
        super().__init__(problem)
        self.line = line


def parse_json(text: str, replaced: Callable[[int], None] = lambda _: None, *, unique: bool = False) -> Any:
    r"""Parse JSON; all JSON from outside goes through this function.

    Args:
        replaced: called with the number of lone surrogates that were replaced by U+FFFD, if there were any.
        unique: whether a key that an object has twice is an error; else its last value counts.

    Raises:
        JsonTextError: it is not JSON, is nested too deeply, or holds a number that is too long or out of range.

    >>> parse_json('["a\\ud83d", 1e3]')
    ['a\ufffd', 1000.0]
    """
    try:
        pairs = _unique if unique else None
        value = json.loads(text, parse_int=_whole_number, parse_float=_number, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise JsonTextError(error.msg, error.lineno) from None
    except RecursionError:
        raise JsonTextError(f"nested more than {MOST_NESTED} deep") from None
    if text.count("[") + text.count("{") > MOST_NESTED:
        level = [value]
        for _ in range(MOST_NESTED + 1):
            level = [
                child
                for each in level
                if isinstance(each, dict | list)
                for child in (each.values() if isinstance(each, dict) else each)
            ]
        if level:
            raise JsonTextError(f"nested more than {MOST_NESTED} deep")
    if re.search(r"\\u[dD][89a-fA-F]", text):
        clean, count = re.subn("[\ud800-\udfff]", "\ufffd", json.dumps(value, ensure_ascii=False))
        if count:
            replaced(count)
            value = json.loads(clean)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise JsonTextError(f"key {next(name for name in made if names.count(name) > 1)!r:.60} twice in an object")
    return made


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise JsonTextError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    if abs(number := float(text)) == float("inf"):
        raise JsonTextError(f"the number {text[:MOST_DIGITS]} is out of range")
    return number


def read_json(path: Path, *, fix: str = "", replaced: Callable[[int], None] = lambda _: None) -> Any:
    """Read a JSON file; `fix` says which command makes the file, `replaced` is passed to `parse_json`.

    Raises:
        ChatbenchError: the file is missing or is not JSON.
    """
    try:
        return parse_json(read_text(path, fix), replaced, unique=True)
    except JsonTextError as error:
        raise ChatbenchError(f"{path}, line {error.line}: {error}", expected="JSON", fix=fix) from error


def read_object(path: Path, *, fix: str = "") -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ChatbenchError: as `read_json`, or the value is not an object.
    """
    content = read_json(path, fix=fix)
    if not isinstance(content, dict):
        raise ChatbenchError(f"{path}: {type(content).__name__}", expected="a JSON object", fix=fix)
    return content


def read_jsonl(
    path: Path, *, fix: str = "", replaced: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, record) pairs of a JSON Lines file, skipping blank lines.

    Raises:
        ChatbenchError: the file is missing, or a line is not a JSON object.
    """
    # Not splitlines(): a JSON string may contain U+2028 and other line separators.
    lines = read_text(path, fix).split("\n")
    for number, line in enumerate(tracked(lines, f"reading {path.name}", "lines"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, replaced, unique=True)
        except JsonTextError as error:
            raise ChatbenchError(
                f"{path}, line {number}: not JSON ({error})", expected="one JSON object per line", fix=fix
            ) from error
        if not isinstance(row, dict):
            raise ChatbenchError(f"{path}, line {number}: {type(row).__name__}", expected="a JSON object", fix=fix)
        yield number, row


def read_csv(path: Path, *, fix: str = "") -> list[list[str]]:
    """Read all records of a CSV file as text; semicolons or tabs may separate the cells, as in spreadsheet exports.

    Raises:
        ChatbenchError: the file is missing, is not UTF-8, or ends inside a quoted cell.
    """
    return csv_records(read_text(path, fix), path, fix=fix)


def csv_records(text: str, path: Path, *, fix: str = "") -> list[list[str]]:
    """Parse CSV text that was read from `path`, like `read_csv`.

    Raises:
        ChatbenchError: it ends inside a quoted cell.
    """
    csv.field_size_limit(2**31 - 1)
    named = re.match(r'"?sep=(.)"?\r?\n', text)  # a line that spreadsheets interpret and do not show
    text = text[named.end() :] if named else text
    records: list[list[str]] = []
    try:
        separator = named[1] if named else _separator(text)
        records.extend(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise ChatbenchError(
            f"{path}, row {len(records) + 1}: {error}",
            expected="CSV with closed quotes; the file may be half-written",
            fix=fix,
        ) from error
    return records


def _separator(text: str) -> str:
    """The separator that cuts the first two records into equally many cells, the most; else the header, comma first."""
    widths: dict[str, list[int]] = {}
    for each in ",;\t":
        records = csv.reader(io.StringIO(text, newline=""), delimiter=each)
        widths[each] = [len(record) for record in islice((r for r in records if any(map(str.strip, r))), 2)] or [0]
    equal = [each for each, found in widths.items() if len(found) == 2 and found[0] == found[1] > 1]
    if not equal and widths[","][0] > 1:
        return ","
    return max(equal or widths, key=lambda each: widths[each][0])


def read_text(path: Path, fix: str = "") -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        ChatbenchError: the file is missing, cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ChatbenchError(f"{path}: no such file", fix=fix or "check the path") from None
    except OSError as error:
        raise file_error(error, path) from error
    save = "save it as UTF-8 (spreadsheet programs call this 'CSV UTF-8')"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:2]:
        raise ChatbenchError(f"{path}: encoded as UTF-16", expected="UTF-8 text", fix=save)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        found = f"{path}, line {line}: not UTF-8 (byte 0x{byte:02X}, as in Windows-1252)"
        raise ChatbenchError(found, expected="UTF-8 text", fix=save) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file, WorkProgress(f"SHA-256 of {path.name}", "MB") as progress:
        while piece := file.read(1 << 20):
            digest.update(piece)
            progress(file.tell() // 10**6, size // 10**6)
    return digest.hexdigest()
