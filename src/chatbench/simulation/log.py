"""Logs of simulated conversations: what a line holds, and the one process that may write each.

A log is append-only, and a kill at any byte leaves it usable. Each line is a JSON object whose last key, `sha256`, is
the first 16 hexadecimal digits of the SHA-256 of the line without it, so each line can be verified by itself. (64 bits:
among a million damaged lines, the chance that one passes is below 1 in 10^13. It detects damage and edits by hand, not
a forger, who can hash too.) A line is a `SimulatedConversation`, its fields in order. The identities of both
participants are repeated in every line, although the settings beside the log have them too. That costs about 600 bytes
per conversation, and lets a line be checked, moved and read alone.

One process owns a log while it writes (`open_log`): it holds the lock `NAME.jsonl.lock`, which the kernel releases when
the process dies, and cuts off the incomplete last line of a run that was killed. Readers write nothing and need no
lock: they stop before an incomplete line. Lines are flushed to the disk at the end, and before that once a second at
most, when a line is written (a flush takes some milliseconds, in which no conversation makes progress): a kill loses
nothing, a power cut what was written since.

A conversation that failed for a transient reason and was simulated again has two lines: the last one per id counts.
`NAME.run.json` beside `NAME.jsonl` holds the settings and the assistants that the log was made with.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError, OccupiedError, expected_by
from chatbench.core.files import Row, file_error, json_line, read_json, write_json
from chatbench.core.progress import WorkProgress
from chatbench.core.records import SimulatedConversation

if TYPE_CHECKING:
    from chatbench.simulation.budget import Spending

CHECKSUM = "sha256"
SYNC_SECONDS = 1.0
DAMAGED = "delete this line from the file, then rerun the command that wrote it to recreate the record"
FIX = "simulate again with --overwrite"
ASSISTANTS = "assistants"
_CHECKSUM_AT_END = re.compile(rb', "sha256": "([0-9a-f]{16})"}\n\Z')
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)
"""Errors of a network file system without locks; there, running one process at a time is up to the user."""
_CHAT = TypeAdapter(SimulatedConversation)
_KEYS = frozenset(each.name for each in fields(SimulatedConversation))
_EXPECTED = "a simulated conversation"
_PARTICIPANTS = ("style", "prompts_sha256", "simulator", "assistant_identity")


# ---- lines ----


def checksummed_line(row: Mapping[str, object]) -> bytes:
    r"""The line of a record, with checksum and line end.

    >>> checksummed_line({"id": "a"})
    b'{"id": "a", "sha256": "6f580d13632c9682"}\n'
    """
    # A model's output may hold half a surrogate pair, which is not valid text; it becomes a question mark.
    content = json_line(row).encode("utf-8", "replace").rstrip(b"\n")
    return content[:-1] + f', "{CHECKSUM}": "{_digest(content)}"}}\n'.encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read_line(line: bytes, where: str) -> Row:
    found = _CHECKSUM_AT_END.search(line)
    if found is None:
        raise ChatbenchError(
            f"{where}: no checksum at its end", expected=f"a record that ends in {CHECKSUM!r}", fix=DAMAGED
        )
    content = line[: found.start()] + b"}"
    if _digest(content) != found[1].decode():
        raise ChatbenchError(
            f"{where}: checksum mismatch (the line was damaged or edited)",
            expected=f"content whose checksum is {found[1].decode()}, not {_digest(content)}",
            fix=DAMAGED,
        )
    row: Row = json.loads(content)
    return row


def _complete_lines(path: Path) -> Iterator[tuple[int, Row, bytes]]:
    """(number from 1, record, line) of each line that was complete when reading began; later lines are ignored."""
    with path.open("rb") as file, WorkProgress(f"reading {path.name}", "MB") as progress:
        left, number = os.fstat(file.fileno()).st_size, 0
        size = left
        while left and (line := file.readline(left)).endswith(b"\n"):
            left, number = left - len(line), number + 1
            yield number, _read_line(line, f"{path}, line {number}"), line
            progress((size - left) // 10**6, size // 10**6)


def read_log(path: Path) -> Iterator[tuple[int, Row]]:
    """Pairs (line number from 1, record without its checksum), one at a time; none if there is no such file.

    Raises:
        ChatbenchError: a line has no checksum, or does not match it.
    """
    if path.exists():
        yield from ((number, row) for number, row, _ in _complete_lines(path))


def read_recorded(path: Path) -> Iterator[tuple[int, SimulatedConversation]]:
    """Pairs (line number, conversation) for every line, one at a time; none if there is no such file.

    Raises:
        ChatbenchError: a line does not match its checksum, or is no simulated conversation, and why.
    """
    for number, row in read_log(path):
        where = f"{path}, line {number}"
        if missing := sorted(_KEYS - row.keys()):
            expected = "a conversation with its participants" if missing[0] in _PARTICIPANTS else _EXPECTED
            raise ChatbenchError(f"{where}: no {missing[0]!r}", expected=expected, fix=FIX)
        try:
            yield number, _CHAT.validate_python(row)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            ours = first["type"] == "value_error"  # a validator's own words
            found = first["msg"].partition(", ")[2] if ours else f"{name} {first['input']!r:.80}"
            raise ChatbenchError(
                f"{where}: {found}", expected=_EXPECTED if ours else expected_by(first), fix=FIX
            ) from None


def read_conversations(path: Path) -> list[SimulatedConversation]:
    """The simulated conversations of a log: the last line per id, in the order in which ids first appear.

    Raises:
        ChatbenchError: as `read_recorded`, or the file is missing.
    """
    if not path.exists():
        fix = "simulate first: chatbench simulate MODEL --assistant SPEC"
        raise ChatbenchError(f"{path}: no such file", expected="simulated conversations", fix=fix)
    by_id: dict[str, SimulatedConversation] = {}
    identities: dict[str, Mapping[str, object]] = {}
    for _, chat in read_recorded(path):
        # All chats with a participant share one identity object: in a large log, copies would outweigh the chats.
        one, other = (identities.setdefault(repr(each), each) for each in (chat.simulator, chat.assistant_identity))
        by_id[chat.id] = replace(chat, simulator=one, assistant_identity=other)
    return list(by_id.values())


# ---- where ----


def settings_path(log: Path) -> Path:
    """Path of a log's settings."""
    return log.with_suffix(".run.json")


def has_chats(log: Path) -> bool:
    """Whether anything was recorded; a run that was stopped at once leaves an empty log."""
    return log.exists() and log.stat().st_size > 0


# ---- the one writer ----


class AppendOnlyLog:
    """A log that only this process writes; made by `open_log`.

    `recorded` are the ids that need no further record, in the order in which they were recorded; only one with a true
    `transient` is followed by another try.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._recorded: dict[str, None] = {}
        self.recorded = self._recorded.keys()
        self._descriptor = descriptor
        self._end = 0
        self._synced_at = float("-inf")
        for _, row, line in _complete_lines(path):
            self._note(row, line)

    def append(self, rows: Sequence[Mapping[str, object]]) -> int:
        """Appends the records whose id is not recorded yet; returns their number.

        Raises:
            ChatbenchError: the disk refuses the write; the next append cuts off what was written of these records.
        """
        new: dict[str, Mapping[str, object]] = {}
        for row in rows:
            if row["id"] not in self.recorded:
                new.setdefault(str(row["id"]), row)
        lines = [(row, checksummed_line(row)) for row in new.values()]
        try:
            os.ftruncate(self._descriptor, self._end)
            position, rest = self._end, memoryview(b"".join(line for _, line in lines))
            while rest:
                written = os.pwrite(self._descriptor, rest, position)
                rest, position = rest[written:], position + written
        except OSError as error:
            raise self._refused(error) from error
        if time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        for row, line in lines:
            self._note(row, line)
        return len(lines)

    def sync(self) -> None:
        """Flushes what was appended to the disk.

        Raises:
            ChatbenchError: the disk refuses.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._refused(error) from error
        self._synced_at = time.monotonic()

    def _refused(self, error: OSError) -> ChatbenchError:
        fix = "free disk space, then run the same command again: it continues"
        return ChatbenchError(f"{self.path}: {error.strerror}", fix=fix)

    def _note(self, row: Mapping[str, object], line: bytes) -> None:
        self._end += len(line)
        if not row.get("transient", False):
            self._recorded.setdefault(str(row["id"]))


@contextmanager
def open_log(
    path: Path, settings: Mapping[str, object] | None = None, *, overwrite: bool = False
) -> Iterator[AppendOnlyLog]:
    """Opens a log that no other process writes until the `with` block ends; creates missing files and folders.

    Args:
        settings: what runs that write the same log must have in common, written beside it by the first one. Under
            `assistants`, later runs may add names; an existing one must stay the same.
        overwrite: discards existing records and settings; what ends without a new record puts them back.

    Raises:
        ChatbenchError: another process writes the log, it was made with other settings or its settings are missing, or
            a line does not match its checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _owned(path):
        _put_back(path)  # of a run that was killed before its first record
        if overwrite and path.exists():
            path.replace(_replaced(path))  # first: a log without settings is refused, settings without a log are not
            if settings_path(path).exists():
                settings_path(path).replace(_replaced(settings_path(path)))
        try:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
                if settings is not None:
                    _agree(path, json.loads(json.dumps(settings)))  # as it is read back: lists for tuples
                log = AppendOnlyLog(path, file.fileno())
                try:
                    yield log
                finally:
                    log.sync()
        finally:
            _put_back(path)


def _replaced(path: Path) -> Path:
    """Where a file that is being overwritten stays until there is a new record."""
    return path.with_name(f"{path.name}.replaced")


def _put_back(path: Path) -> None:
    """Restore an overwritten log and its settings if the new one has no complete record; else remove them."""
    old = _replaced(path)
    with path.open("rb") if path.exists() else nullcontext(io.BytesIO()) as file:
        empty = not file.readline().endswith(b"\n")
    for each in (settings_path(path), path):  # the log last: it says that there is something to put back
        if empty and old.exists() and _replaced(each).exists():
            _replaced(each).replace(each)
        elif not empty or not old.exists():
            _replaced(each).unlink(missing_ok=True)


def join_logs(path: Path, parts: Sequence[Path], planned: Mapping[str, Sequence[str]]) -> int:
    """Appends the records of a split's block logs, one after another, and removes those logs.

    The result has the lines and the order of one run over all blocks. What is in the log already stays as it is.

    Args:
        planned: identifiers of all conversations, by assistant.

    Returns:
        The number of appended conversations.

    Raises:
        ChatbenchError: conversations are missing, or the logs were made with different settings.
    """
    there = [part for part in parts if part.exists()]
    recorded = {row["id"] for log in (path, *there) for _, row in read_log(log)}
    if missing := [each for ids in planned.values() for each in ids if each not in recorded]:
        unit = "/".join((*path.parts[-3:-1], "base" if path.stem.endswith("_base") else "simulate"))
        raise ChatbenchError(
            f"{path}: {len(missing)} conversations are missing from its {len(parts)} block logs, such as {missing[0]}",
            fix=f"run the other blocks first, {unit}-000 to {unit}-{len(parts) - 1:03d}; then the same command again: "
            "it continues from here",
        )
    for part in there:
        with open_log(path, cast(dict[str, object], read_json(settings_path(part), fix=FIX))):
            pass  # its settings are those of the others
    with open_log(path) as log:
        count = sum(log.append([row]) for part in there for _, row in read_log(part))
    shutil.rmtree(parts[0].parent, ignore_errors=True)
    return count


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    # The owner has a file of its own: where the kernel has no locks, filelock uses what it writes into the lock.
    name, owned_by = (path.with_name(f"{path.name}.{ending}") for ending in ("lock", "owner"))
    lock = FileLock(name)
    try:
        lock.acquire(timeout=0)
        owned_by.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout:
        owner = "another process"
        with suppress(FileNotFoundError):  # it has just ended
            owner = owned_by.read_text(encoding="utf-8", errors="replace") or owner
        raise OccupiedError(
            f"{path}: {owner} is writing to it",
            expected="one process writing to a log at a time",
            fix="wait for it to finish, stop it, or choose another --results folder",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            owned_by.unlink(missing_ok=True)
            lock.release()
            raise file_error(error, owned_by) from error
    try:
        yield
    finally:
        owned_by.unlink(missing_ok=True)
        name.unlink(missing_ok=True)  # while locked: whoever opened it meanwhile sees that it has no name any more
        lock.release()


def refuse_other_settings(log: Path, settings: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Refuses a log that was made with other simulation settings than these, as far as both name them.

    `given` are the options of this run, by name.

    Raises:
        ChatbenchError: the settings differ.
    """
    if settings_path(log).exists():
        found = cast(dict[str, dict[str, object]], read_json(settings_path(log), fix=FIX))
        both = {name: value for name, value in found.get("settings", {}).items() if name in settings}
        shared = {name: value for name, value in settings.items() if name in both}
        _refuse_difference(log, {"settings": both}, {"settings": shared}, found, given)


def _agree(log: Path, wanted: dict[str, Any]) -> None:
    path = settings_path(log)
    found: dict[str, Any] = {}
    if path.exists():
        found = cast(dict[str, Any], read_json(path, fix=FIX))
        both = found.get(ASSISTANTS, {}).keys() & wanted.get(ASSISTANTS, {}).keys()
        before, now = (
            {**each, ASSISTANTS: {name: v for name, v in each.get(ASSISTANTS, {}).items() if name in both}}
            for each in (found, wanted)
        )
        _refuse_difference(log, before, now, before, chat_options(now))
    elif log.stat().st_size:
        raise ChatbenchError(f"{log}: its settings are missing ({path.name})", fix=other_place(log))
    if ASSISTANTS in wanted:
        wanted = {**wanted, ASSISTANTS: {**found.get(ASSISTANTS, {}), **wanted[ASSISTANTS]}}
    if wanted != found:
        write_json(path, wanted)


def _refuse_difference(
    log: Path, found: Mapping[str, object], wanted: Mapping[str, object], made: Mapping[str, Any],
    given: Mapping[str, object],
) -> None:  # fmt: skip
    """Refuses the first difference, with the options that differ between what it was `made` with and those `given`."""
    for each in differences(found, wanted):
        again = options_to_continue(found, wanted, made, given)
        if log.stem.endswith("_base"):
            again = again.replace("--conversations", "--conversations (of run: --base-conversations)")
        raise ChatbenchError(
            f"{log}: made with {each.name.removeprefix('settings.').removeprefix(f'{ASSISTANTS}.')} {each.one!r}",
            expected=f"{each.other!r}, as in this run",
            fix=f"to continue it, use {again}; otherwise {other_place(log)}" if again else other_place(log),
        )


_BY_OPTION = re.compile(
    r"settings\.(conversations|seed|max_user_turns|end_on|expected_answers)|"
    r"(settings\.simulator|assistants\..+)\.(temperature|max_tokens|dtype|reasoning_effort|answer_model)"
)
"""Settings in a log that an option of `simulate` sets."""


def options_to_continue(
    found: Mapping[str, object], wanted: Mapping[str, object], made: Mapping[str, Any], given: Mapping[str, object]
) -> str:
    """The options of `made` that are not those `given`; "" if no options would remove all differences."""
    if not all(_BY_OPTION.fullmatch(each.name) for each in differences(found, wanted)):
        return ""
    return options_text(chat_options(made), given)


def chat_options(made: Mapping[str, Any]) -> dict[str, object]:
    """What a log was made with, by name of the option; what an endpoint chose itself is left out."""
    settings, assistants = made.get("settings", {}), list(made.get(ASSISTANTS, {}).values())
    simulator = settings.get("simulator", {})
    of_loop = ("conversations", "seed", "max_user_turns", "end_on", "expected_answers")
    found: dict[str, object] = {name: settings.get(name) for name in of_loop}
    for name in ("temperature", "max_tokens", "dtype", "reasoning_effort"):
        of_assistants = next((each[name] for each in assistants if each.get(name) is not None), None)
        if name == "temperature":
            found |= {"simulator_temperature": simulator.get(name), "assistant_temperature": of_assistants}
        else:
            found[name] = of_assistants if simulator.get(name) is None else simulator[name]
        if name == "max_tokens" and of_assistants is not None:
            found["assistant_max_tokens"] = "" if of_assistants == found[name] else of_assistants
    found |= {"reasoning_effort": found["reasoning_effort"] or "", "answer_model": bool(simulator.get("answer_model"))}
    return {name: value for name, value in found.items() if value is not None}


def options_text(values: Mapping[str, object], given: Mapping[str, object]) -> str:
    """Options as on the command line, without those that are `given` and a data type that was left to chance.

    >>> options_text({"seed": 0, "max_tokens": 60, "end_on": [], "answer_model": True}, {"seed": 0, "end_on": ("x",)})
    '--max-tokens 60 --answer-model, without --end-on'
    """
    words, without = [], []
    for name, value in values.items():
        option, before = f"--{name.replace('_', '-')}", given.get(name)
        if (list(before) if isinstance(before, tuple) else before) in (value, "auto") or value == (before or ""):
            continue
        if value is False or value in ("", []):
            without.append(option)
        elif value is True:
            words.append(option)
        else:
            words += [f"{option} {shlex.quote(str(each))}" for each in (value if isinstance(value, list) else [value])]
    return ", ".join(filter(None, (" ".join(words), f"without {' and '.join(without)}" * bool(without))))


def other_place(log: Path) -> str:
    """The fix for a log with other settings; `run` has no --overwrite, so for its logs the command that has."""
    over, base = f"add --overwrite to start {log.name} over", " --base" * log.stem.endswith("_base")
    if log.parent.suffix == ".blocks":
        over = f"remove {log.parent} to start over"
    elif log.parts[-4:-3] == ("simulations",):
        over = f"start it over: chatbench simulate {log.parts[-3]} --split {log.parts[-2]}{base} --overwrite ..."
    return f"choose another --results folder or, losing what is recorded, {over}"


# ---- counts ----


def count_earlier(spending: Spending, log: Path, assistants: Container[str]) -> None:
    """Adds the cost of a log's conversations with a command's assistants to what was spent, unless they were counted.

    Those with others are no part of its budget, and may have had another price.
    """
    if log not in spending.counted:
        spending.counted.add(log)
        for _, chat in read_recorded(log):
            if chat.assistant in assistants:
                spending.recorded(chat.usage)


def failure_lines(failures: Counter[tuple[str, bool]]) -> list[str]:
    """The three most common of these failures, which are counted by reason and whether they are transient."""
    lines = [
        f"{count} failed: {' '.join(reason.split())} "
        f"({'the same command tries them again' if transient else 'not tried again'})"
        for (reason, transient), count in failures.most_common(3)
    ]
    others = sum(count for _, count in failures.most_common()[3:])
    return lines + ([f"{others} failed for other reasons"] if others else [])
