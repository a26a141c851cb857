"""Logs that only grow, that several processes may write, and that a kill at any byte leaves usable.

Each line is a JSON object whose last key, `sha256`, is the first 16 hexadecimal digits of the SHA-256 of the line
without it, so that a line says by itself whether it is as it was written. (64 bits: among a million damaged lines the
chance that one passes is below 1 in 10^13. It tells damage and edits by hand, not a forger, who can hash too.)

A writer holds the file's lock from its look at the end of the file until its lines are written. Whoever comes next
therefore finds whole lines, and behind them at most the torn line of a writer that was killed, which it cuts off.
Readers write nothing: they stop before a torn line. Lines are forced to the disk once a second at most (a disk takes
some milliseconds, in which no conversation goes on): a kill loses nothing, a power cut the last second.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, json_line

CHECKSUM = "sha256"
_DIGITS = 16
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a network file system without locks answers; there one process at a time is the user's affair."""
SYNC_SECONDS = 1.0
_SEAL = re.compile(rb', "sha256": "([0-9a-f]{16})"}\n\Z')
DAMAGED = "take this line out of the file; the command that wrote it then makes its record anew"


def checked_line(row: Mapping[str, object]) -> bytes:
    r"""The line of a record, with its checksum and its line end.

    >>> checked_line({"id": "a"})
    b'{"id": "a", "sha256": "6f580d13632c9682"}\n'

    Raises:
        ValueError: the record is empty, or has a key `sha256` of its own.
    """
    if not row or CHECKSUM in row:
        raise ValueError(f"a record with the keys {list(row)}, expected some, and none called {CHECKSUM!r}")
    # A model's output may hold half a surrogate pair, which is no text; it becomes a question mark.
    content = json_line(row).encode("utf-8", "replace").rstrip(b"\n")
    return content[:-1] + f', "{CHECKSUM}": "{_digest(content)}"}}\n'.encode()


def read_checked_line(line: bytes, where: str, *, fix: str = DAMAGED) -> Row:
    """The record of a whole line, without its checksum.

    Args:
        where: file and line, for the message.

    Raises:
        ChatbenchError: the line has no checksum, or is not what was written.
    """
    seal = _SEAL.search(line)
    if seal is None:
        raise ChatbenchError(
            f"{where}: no checksum at its end", expected=f"a record that ends in {CHECKSUM!r}", fix=fix
        )
    content = line[: seal.start()] + b"}"
    if _digest(content) != seal[1].decode():
        raise ChatbenchError(
            f"{where}: it is not as it was written (damaged, or edited)",
            expected=f"content with the checksum {seal[1].decode()}, found {_digest(content)}",
            fix=fix,
        )
    row: Row = json.loads(content)
    return row


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def read_log(path: Path, *, fix: str = DAMAGED) -> Iterator[tuple[int, Row]]:
    """Pairs (line number from 1, record) of a log, one at a time; nothing where there is no such file.

    Raises:
        ChatbenchError: a line is not as it was written; `fix` says what to do then.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        end = _shared_end(file)
        for number, line in _lines(file, 0, end):
            yield number, read_checked_line(line, f"{path}, line {number}", fix=fix)


def _lines(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines between two byte positions."""
    file.seek(start)
    number = 0
    while start < end:
        line = file.readline()
        number, start = number + 1, start + len(line)
        yield number, line


def _shared_end(file: BinaryIO) -> int:
    """Where the last whole line ends. What lies before stays as it is, so it can be read without the lock."""
    _take_lock(file, fcntl.LOCK_SH)
    try:
        return _end_of_lines(file)
    finally:
        _take_lock(file, fcntl.LOCK_UN)


def _end_of_lines(file: BinaryIO, block: int = 65536) -> int:
    """Bytes up to and with the last line end."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - block)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _take_lock(file: BinaryIO, kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _always(_row: Row) -> bool:
    return True


class AppendOnlyLog:
    """One process's view of a log of records that have an `id`; other processes may write it at the same time.

    Args:
        path: the file; it and its folder are made by the first lock or append.
        settles: whether a record settles its id, so that a further one would be a double; all do by default.
    """

    def __init__(self, path: Path, *, settles: Callable[[Row], bool] = _always) -> None:
        self.path = path
        self._settles = settles
        self._synced_at = float("-inf")
        self._forget()

    def _forget(self) -> None:
        self._settled: set[str] = set()
        self._seen_bytes = 0
        self._seen_lines = 0
        self._last_line = b""

    @property
    def settled(self) -> AbstractSet[str]:
        """The ids that need no further record, as far as this process has looked (`catch_up`)."""
        return self._settled

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other process appends. Not for use around this log's own `append`, which takes the same lock."""
        with self._locked():
            yield

    def catch_up(self) -> None:
        """Reads what was appended since the last look, by whomever.

        Raises:
            ChatbenchError: a line is not as it was written, or the file was emptied.
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                self._read_on(file, _shared_end(file))

    def append(self, rows: Sequence[Mapping[str, object]], *, check: Callable[[], None] | None = None) -> int:
        """Appends the records whose id is not settled yet; how many those were.

        `check` is called under the lock, before anything is written; what it raises stops the append.

        Raises:
            ChatbenchError: as `catch_up`, or the disk refuses.
        """
        with self._locked() as file:
            if check:
                check()
            self._read_on(file, _end_of_lines(file))
            lines = [(row, checked_line(row)) for row in self._unsettled(rows)]
            try:
                _write(file.fileno(), b"".join(line for _, line in lines), self._seen_bytes)
                self._sync(file.fileno())
            except OSError as error:
                raise ChatbenchError(
                    f"{self.path}: {error.strerror}", fix="make room, then run the same command again: it continues"
                ) from error
        for row, line in lines:
            self._note(row, line)
        return len(lines)

    def clear(self) -> None:
        """Empties the log; another process that has seen its lines refuses to go on."""
        with self._locked() as file:
            os.ftruncate(file.fileno(), 0)
            self._forget()

    def _sync(self, descriptor: int) -> None:
        if (now := time.monotonic()) - self._synced_at >= SYNC_SECONDS:
            os.fsync(descriptor)
            self._synced_at = now

    def _unsettled(self, rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
        new: dict[str, Mapping[str, object]] = {}
        for row in rows:
            if row["id"] not in self._settled:
                new.setdefault(str(row["id"]), row)
        return list(new.values())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "rb") as file:
            _take_lock(file, fcntl.LOCK_EX)
            yield file

    def _read_on(self, file: BinaryIO, end: int) -> None:
        """Reads the whole lines behind the last one seen."""
        before = len(self._last_line)
        file.seek(self._seen_bytes - before)
        if file.read(before) != self._last_line:
            raise ChatbenchError(
                f"{self.path}: it was changed or emptied while this process was writing it",
                fix="see which program did that (a run with --overwrite?), then run the same command again",
            )
        first = self._seen_lines
        for number, line in _lines(file, self._seen_bytes, end):
            self._note(read_checked_line(line, f"{self.path}, line {first + number}"), line)

    def _note(self, row: Mapping[str, object], line: bytes) -> None:
        self._seen_lines += 1
        self._seen_bytes += len(line)
        self._last_line = line
        if self._settles(dict(row)):
            self._settled.add(str(row["id"]))


def _write(descriptor: int, content: bytes, position: int) -> None:
    """Puts `content` at `position` as the end of the file, in place of a torn line there."""
    os.ftruncate(descriptor, position)
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written
