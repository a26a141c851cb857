"""Logs of simulated conversations: where they lie, how they are read, and what two runs that write one must share.

A conversation that failed for a passing reason and was simulated again has two lines: the last one per id counts.
`NAME.run.json` beside `NAME.jsonl` holds the settings and the assistants that the log was made with.

Logs that only grow, that several processes may write, and that a kill at any byte leaves usable.

Each line is a JSON object whose last key, `sha256`, is the first 16 hexadecimal digits of the SHA-256 of the line
without it, so that a line says by itself whether it is as it was written. (64 bits: among a million damaged lines the
chance that one passes is below 1 in 10^13. It tells damage and edits by hand, not a forger, who can hash too.)

A writer holds the file's lock from its look at the end of the file until its lines are written. Whoever comes next
therefore finds whole lines, and behind them at most the torn line of a writer that was killed, which it cuts off.
Readers write nothing: they stop before a torn line. Lines are forced to the disk once a second at most (a disk takes
some milliseconds, in which no conversation goes on): a kill loses nothing, a power cut the last second.

A simulated conversation as one line of a log, and back: everything that a result needs lies in the line itself.

The identities of both participants are repeated in every line although the file of settings has them too. That costs about
600 bytes a conversation, and buys that a line can be checked, moved and read alone.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, json_line, read_json, write_json
from chatbench.core.records import AnswerProbabilities, Role, SimulatedConversation, Termination, Turn, Usage

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


Identity = Mapping[str, object]
FIX = "simulate again with --overwrite"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A conversation, and what it depends on: who spoke (weights, decoding; no secret), and in which style.

    `prompts_sha256` is the hash of everything that the style says, so that two versions of a prompt are told apart.
    """

    chat: SimulatedConversation
    simulator: Identity
    assistant_identity: Identity
    style: str
    prompts_sha256: str


def conversation_row(chat: SimulatedConversation, **more: object) -> Row:
    """The line of a conversation, with `more` between its ids and its turns."""
    return {
        "id": chat.id,
        "question_id": chat.question_id,
        "assistant": chat.assistant,
        "index": chat.index,
        **more,
        "seed": chat.seed,
        "turns": [{"role": turn.role, "text": turn.text} for turn in chat.turns],
        "termination": chat.termination,
        "reason": chat.reason,
        "transient": chat.transient,
        "answer_text": chat.answer_text,
        "letter": chat.letter,
        "lenient_letter": chat.lenient_letter,
        "forced_text": chat.forced_text,
        "final_output": chat.final_output,
        "turns_dropped": chat.turns_dropped,
        "observed": dict(chat.observed),
        "usage": asdict(chat.usage),
        "seconds": round(chat.seconds, 3),
        "answer_probabilities": [None if one is None else asdict(one) for one in chat.answer_probabilities],
        "expected_correct": chat.expected_correct,
    }


def recorded_row(recorded: Recorded) -> Row:
    """The line of a conversation with all that it depends on."""
    return conversation_row(
        recorded.chat,
        style=recorded.style,
        prompts_sha256=recorded.prompts_sha256,
        simulator=dict(recorded.simulator),
        assistant_identity=dict(recorded.assistant_identity),
    )


def settles(row: Mapping[str, object]) -> bool:
    """Whether a line is the last one of its id: only a failure that may pass is followed by another try."""
    return not row.get("transient", False)


def chat_in(row: Row, where: str) -> SimulatedConversation:
    """The conversation in a line.

    Args:
        where: file and line, for the message.

    Raises:
        ChatbenchError: it is no simulated conversation, and why.
    """
    try:
        return _chat(row)
    except KeyError as missing:
        raise ChatbenchError(f"{where}: no {missing}", expected="a simulated conversation", fix=FIX) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ChatbenchError(f"{where}: {error}", expected="a simulated conversation", fix=FIX) from None


def recorded_in(row: Row, where: str) -> Recorded:
    """The conversation in a line with all that it depends on.

    Raises:
        ChatbenchError: as `chat_in`, or it does not say what it depends on.
    """
    chat = chat_in(row, where)
    try:
        simulator, assistant = cast(Identity, row["simulator"]), cast(Identity, row["assistant_identity"])
        return Recorded(chat, simulator, assistant, str(row["style"]), str(row["prompts_sha256"]))
    except KeyError as missing:
        raise ChatbenchError(
            f"{where}: no {missing}", expected="a conversation with its participants", fix=FIX
        ) from None


def _chat(row: Row) -> SimulatedConversation:
    if row["termination"] not in get_args(Termination):
        raise ValueError(f"termination {row['termination']!r}, expected one of {', '.join(get_args(Termination))}")
    turns = cast(list[dict[str, str]], row["turns"])
    probabilities = cast("list[dict[str, object] | None]", row["answer_probabilities"])
    return SimulatedConversation(
        id=str(row["id"]),
        question_id=str(row["question_id"]),
        assistant=str(row["assistant"]),
        index=int(cast(int, row["index"])),
        turns=tuple(Turn(cast(Role, turn["role"]), turn["text"]) for turn in turns),
        termination=cast(Termination, row["termination"]),
        reason=str(row["reason"]),
        answer_text=cast("str | None", row["answer_text"]),
        letter=cast("str | None", row["letter"]),
        forced_text=cast("str | None", row["forced_text"]),
        final_output=cast("str | None", row["final_output"]),
        seed=int(cast(int, row["seed"])),
        transient=bool(row["transient"]),
        turns_dropped=int(cast(int, row["turns_dropped"])),
        lenient_letter=cast("str | None", row["lenient_letter"]),
        observed=dict(cast(Mapping[str, int], row["observed"])),
        usage=Usage(**cast(dict[str, int], row["usage"])),
        seconds=float(cast(float, row["seconds"])),
        answer_probabilities=tuple(_probabilities(one) for one in probabilities),
        expected_correct=cast("float | None", row["expected_correct"]),
    )


def _probabilities(row: Mapping[str, object] | None) -> AnswerProbabilities | None:
    if row is None:
        return None
    first, second, third, fourth = cast(list[float], row["letters"])
    return AnswerProbabilities(cast(float, row["answering"]), (first, second, third, fourth))


def settings_path(log: Path) -> Path:
    """Where the settings of a log of conversations lie."""
    return log.with_suffix(".run.json")


def has_chats(log: Path) -> bool:
    """Whether anything was recorded; a run that was stopped at its very beginning leaves an empty log."""
    return log.exists() and log.stat().st_size > 0


def read_conversations(path: Path) -> list[SimulatedConversation]:
    """The simulated conversations of a log, the last line per id, in the order in which ids first appear.

    Raises:
        ChatbenchError: the file is missing, or a line is not what was written.
    """
    if not path.exists():
        fix = "simulate first: chatbench simulate MODEL --assistant SPEC"
        raise ChatbenchError(f"{path}: no such file", expected="simulated conversations", fix=fix)
    by_id = {}
    for number, row in read_log(path):
        chat = chat_in(row, f"{path}, line {number}")
        by_id[chat.id] = chat
    return list(by_id.values())


def read_recorded(path: Path) -> Iterator[tuple[int, Recorded]]:
    """Pairs (line number, conversation with all that it depends on), every line, one at a time.

    Raises:
        ChatbenchError: a line is not what was written.
    """
    return ((number, recorded_in(row, f"{path}, line {number}")) for number, row in read_log(path))


class ConversationLog:
    """A log of conversations as one run sees it: it may grow by others, who must have the same settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = AppendOnlyLog(path, settles=settles)
        self._settings: Identity = {}

    def begin(self, settings: Identity, assistants: Mapping[str, Identity], *, overwrite: bool = False) -> None:
        """Agrees on the settings with those who wrote or write the log, and reads what is there.

        Assistants may be added from run to run; one that is there must be the same.

        Raises:
            ChatbenchError: the log was made with other settings, or without any, and shall not be overwritten.
        """
        if overwrite:
            self._log.clear()  # first: a log without settings is refused, settings without a log are not
            settings_path(self.path).unlink(missing_ok=True)
        self._settings = _as_read_back(settings)
        with self._log.lock():
            _agree(self.path, self._settings, _as_read_back(assistants))
        self._log.catch_up()

    @property
    def held(self) -> AbstractSet[str]:
        """Ids of the conversations that need not be held (again), as of the last look."""
        return self._log.settled

    def catch_up(self) -> None:
        """Looks for what other processes recorded meanwhile."""
        self._log.catch_up()

    def append(self, records: Sequence[Recorded]) -> int:
        """Writes those that nobody recorded meanwhile; how many those were.

        Raises:
            ChatbenchError: the disk is full, or another run has begun the log anew.
        """
        return self._log.append([recorded_row(one) for one in records], check=self._still_agreed)

    def _still_agreed(self) -> None:
        path = settings_path(self.path)
        there = cast(dict[str, object], read_json(path)).get("settings") if path.exists() else None
        if there != self._settings:
            raise ChatbenchError(
                f"{self.path}: another run began it anew with other settings",
                fix="let one of the two write elsewhere: choose another --results folder",
            )


def _as_read_back(values: Mapping[str, object]) -> dict[str, Any]:
    """The values as they come out of a JSON file (lists for tuples), so that equal ones compare equal."""
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def refuse_other_settings(log: Path, settings: Identity) -> None:
    """Nothing, unless a log was made with other settings than these, as far as both name them.

    Raises:
        ChatbenchError: so it is.
    """
    path = settings_path(log)
    if path.exists():
        found = cast(dict[str, dict[str, object]], read_json(path, fix=FIX)).get("settings", {})
        both = found.keys() & settings.keys()
        wanted = _as_read_back({name: settings[name] for name in both})
        _refuse_difference(log, {name: found[name] for name in both}, wanted)


def _agree(log: Path, settings: Identity, assistants: Mapping[str, Identity]) -> None:
    path = settings_path(log)
    found: dict[str, dict[str, object]] = {"settings": {}, "assistants": {}}
    if path.exists():
        found = cast(dict[str, dict[str, object]], read_json(path, fix=FIX))
        _refuse_difference(log, found.get("settings", {}), settings)
        known = {name: found.get("assistants", {}).get(name) for name in assistants}
        _refuse_difference(
            log, {n: v for n, v in known.items() if v}, {n: v for n, v in assistants.items() if known[n]}
        )
    elif log.stat().st_size:
        raise ChatbenchError(f"{log}: its settings are missing ({path.name})", fix=_other_place(log))
    wanted = {"settings": dict(settings), "assistants": {**found.get("assistants", {}), **assistants}}
    if wanted != found or not path.exists():
        write_json(path, wanted)


def _refuse_difference(log: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    for name in sorted({*found, *wanted}):
        before, now = found.get(name), wanted.get(name)
        if before != now:
            if isinstance(before, dict) and isinstance(now, dict):
                _refuse_difference(log, before, now)
            raise ChatbenchError(
                f"{log}: made with {name} {before!r}", expected=f"{now!r}, as this run has it", fix=_other_place(log)
            )


def _other_place(log: Path) -> str:
    return f"add --overwrite to begin {log.name} anew, or choose another --results folder"
