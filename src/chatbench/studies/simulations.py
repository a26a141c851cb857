"""Simulated conversations as lines of `conversations.jsonl`, and their settings in the file beside it.

A conversation that failed and was simulated again has two lines: the last one per id counts. `NAME.run.json` beside
`NAME.jsonl` holds what must not change between two runs that write the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import AppendOnlyLog, Row, read_json, read_jsonl, write_json_whole
from chatbench.core.records import Role, SimulatedConversation, Termination, Turn

_FIX = "simulate again with --overwrite"


def log_path(results: Path, key: str, split_id: str, *, untrained: bool = False) -> Path:
    """Where the simulated conversations of a model on a split lie."""
    return results / "simulations" / key / split_id / f"conversations{'_untrained' if untrained else ''}.jsonl"


def conversation_row(conversation: SimulatedConversation, **more: object) -> Row:
    """The line of a conversation; `more` is written too, but not read back into the record."""
    return {
        "id": conversation.id,
        "question_id": conversation.question_id,
        "assistant": conversation.assistant,
        "index": conversation.index,
        "turns": [{"role": turn.role, "text": turn.text} for turn in conversation.turns],
        "termination": conversation.termination,
        "reason": conversation.reason,
        "transient": conversation.transient,
        "answer_text": conversation.answer_text,
        "letter": conversation.letter,
        "forced_text": conversation.forced_text,
        "seed": conversation.seed,
        "turns_dropped": conversation.turns_dropped,
        **more,
    }


def read_conversations(path: Path) -> list[SimulatedConversation]:
    """The simulated conversations of a file, the last line per id, in the order in which ids first appear.

    Raises:
        ChatbenchError: the file is missing, or a line is not a simulated conversation.
    """
    by_id: dict[str, SimulatedConversation] = {}
    for number, row in read_jsonl(path, fix="simulate first: chatbench simulate MODEL --assistant SPEC"):
        conversation = _conversation(row, f"{path}, line {number}")
        by_id[conversation.id] = conversation
    return list(by_id.values())


def recorded_conversations(log: AppendOnlyLog) -> list[SimulatedConversation]:
    """As `read_conversations`, of a log that may not exist yet."""
    return read_conversations(log.path) if log.path.exists() else []


def _conversation(row: Row, where: str) -> SimulatedConversation:
    try:
        if row["termination"] not in get_args(Termination):
            raise ValueError(f"termination {row['termination']!r}, expected one of {', '.join(get_args(Termination))}")
        turns = cast(list[dict[str, str]], row["turns"])
        return SimulatedConversation(
            id=str(row["id"]),
            question_id=str(row["question_id"]),
            assistant=str(row["assistant"]),
            index=int(cast(int, row["index"])),
            turns=tuple(Turn(cast(Role, turn["role"]), turn["text"]) for turn in turns),
            termination=cast(Termination, row["termination"]),
            reason=str(row.get("reason", "")),
            answer_text=cast("str | None", row.get("answer_text")),
            letter=cast("str | None", row.get("letter")),
            forced_text=cast("str | None", row.get("forced_text")),
            seed=int(cast(int, row.get("seed", 0))),
            transient=bool(row.get("transient", False)),
            turns_dropped=int(cast(int, row.get("turns_dropped", 0))),
        )
    except KeyError as missing:
        raise ChatbenchError(f"{where}: no {missing}", expected="a simulated conversation", fix=_FIX) from None
    except (TypeError, ValueError) as error:
        raise ChatbenchError(f"{where}: {error}", expected="a simulated conversation", fix=_FIX) from None


def settings_path(log: Path) -> Path:
    """Where the settings of a log of conversations lie."""
    return log.with_suffix(".run.json")


def agree_on_settings(
    log: Path, settings: Mapping[str, object], assistants: Mapping[str, Mapping[str, object]]
) -> None:
    """Writes the settings beside a new log, or makes sure that a log is only continued with the settings it has.

    Assistants may be added from run to run; one that is there must be the same.

    Raises:
        ChatbenchError: the log was made with other settings, or without any.
    """
    path = settings_path(log)
    found: dict[str, dict[str, object]] = {"settings": {}, "assistants": {}}
    if path.exists():
        found = cast(dict[str, dict[str, object]], read_json(path, fix=_FIX))
        _refuse_difference(log, found.get("settings", {}), settings)
        known = {name: found.get("assistants", {}).get(name) for name in assistants}
        _refuse_difference(
            log, {n: v for n, v in known.items() if v}, {n: v for n, v in assistants.items() if known[n]}
        )
    elif log.exists() and log.stat().st_size:
        raise ChatbenchError(f"{log}: its settings are missing ({path.name})", fix=_other_place(log))
    wanted = {"settings": dict(settings), "assistants": {**found.get("assistants", {}), **assistants}}
    if wanted != found:
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
