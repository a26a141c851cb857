"""Logs of simulated conversations: where they lie, how they are read, and what two runs that write one must share.

A conversation that failed for a passing reason and was simulated again has two lines: the last one per id counts.
`NAME.run.json` beside `NAME.jsonl` holds the settings and the assistants that the log was made with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, cast

from chatbench.core.append_log import AppendOnlyLog, read_log
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole
from chatbench.core.records import SimulatedConversation
from chatbench.studies.conversation_rows import (
    FIX,
    Identity,
    Recorded,
    chat_in,
    recorded_in,
    recorded_row,
    settles,
)


def log_path(results: Path, key: str, split_id: str, *, untrained: bool = False) -> Path:
    """Where the simulated conversations of a model on a split lie."""
    return results / "simulations" / key / split_id / f"conversations{'_untrained' if untrained else ''}.jsonl"


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
        write_json_whole(path, wanted)


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
