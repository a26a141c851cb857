"""Exports simulated conversations as a table: CSV or Parquet, one row per conversation or per turn.

A row is the log's record plus what the study says about its question; lists and objects are JSON texts. If an id was
tried several times, the last try is exported. In CSV, a text that a spreadsheet would take for a formula (it begins
with =, +, -, @, a tab or a line break) gets an apostrophe before it, and so does a text that begins with an apostrophe:
to restore the texts, remove one leading apostrophe. Parquet keeps them as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import replacing
from chatbench.core.records import SimulatedConversation, Study
from chatbench.core.texts import harmless
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED
from chatbench.simulation.log import has_chats, read_recorded
from chatbench.simulation.split_chats import called, settings_of, simulated_splits

Cell = str | int | float | bool | None
Columns = Mapping[str, type]

_IDS: Columns = {"split": str, "source": str, "id": str, "question_id": str, "assistant": str, "index": int}
CONVERSATION: Columns = {
    **_IDS, "subset": str, "right_letter": str, "termination": str, "reason": str, "transient": bool,
    "answer_text": str, "letter": str, "lenient_letter": str, "correct": bool, "expected_correct": float,
    "user_turns": int, "turns": str, "forced_text": str, "final_output": str, "turns_dropped": int, "observed": str,
    "simulator_prompt_tokens": int, "simulator_tokens": int, "assistant_prompt_tokens": int, "assistant_tokens": int,
    "simulator_reasoning_tokens": int, "simulator_cached_tokens": int, "assistant_reasoning_tokens": int,
    "assistant_cached_tokens": int, "reasoning": str, "finish_reasons": str, "served_models": str,
    "prompts_truncated": str,
    "seconds": float, "answer_probabilities": str, "seed": int, "style": str, "prompts_sha256": str, "simulator": str,
    "assistant_identity": str,
}  # fmt: skip
"""Columns of a row per conversation."""
TURN: Columns = {**_IDS, "turn": int, "role": str, "text": str}
"""Columns of a row per turn; the final answer is not among the turns."""

ROWS_AT_ONCE = 1000


def export_chats(
    model: str, *, workspace: Workspace, to: Path, splits: Sequence[str] | None = None, turns: bool = False
) -> int:
    """Writes the recorded conversations of a model to `to`, completely or not at all; returns the number of rows.

    Args:
        to: the file; its ending, .csv or .parquet, sets the format.
        splits: ids such as `split_0`; None takes every prepared split that has chats.
        turns: write a row per turn instead of per conversation.

    Raises:
        ChatbenchError: another ending, no chats yet, or a damaged record.
    """
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(to.suffix)
    if write is None:
        raise ChatbenchError(f"--to {to}", expected="a name that ends in .csv or .parquet")
    if splits is None:  # also those with chats of the base model alone
        log, ids = partial(workspace.conversations, model), workspace.manifest.split_ids
        splits = [each for each in ids if has_chats(log(each)) or has_chats(log(each, base_model=True))] or None
    chosen, _ = simulated_splits(workspace, model, splits)
    rows = (row for split in chosen for row in _rows(workspace, model, split, turns=turns))
    with replacing(to) as temporary:
        return write(temporary, TURN if turns else CONVERSATION, rows)


def _rows(workspace: Workspace, model: str, split: str, *, turns: bool) -> Iterator[dict[str, Cell]]:
    for source, base_model in ((FINE_TUNED, False), (BASE_MODEL, True)):
        log = workspace.conversations(model, split, base_model=base_model)
        if not has_chats(log):
            continue
        source = called(source, settings_of(log)[0], split)
        last = {chat.id: number for number, chat in read_recorded(log)}
        for number, chat in read_recorded(log):
            # A line appended since the first pass belongs to the next export.
            if last.get(chat.id) != number:
                continue
            row = _conversation_row(chat, workspace.study, split, source.label)
            if not turns:
                yield row
                continue
            for place, turn in enumerate(chat.turns):
                yield {**{name: row[name] for name in _IDS}, "turn": place, "role": turn.role, "text": turn.text}


def _conversation_row(chat: SimulatedConversation, study: Study, split: str, source: str) -> dict[str, Cell]:
    question = study.questions.get(chat.question_id)
    if question is None:
        raise ChatbenchError(
            f"chat {chat.id}: no question {chat.question_id!r} in study {study.name}",
            expected="the study whose questions were simulated",
            fix="pass the --data that the chats were simulated with",
        )
    record = asdict(chat)
    usage = record.pop("usage")
    texts = {
        name: json.dumps(value, ensure_ascii=False)
        for name, value in record.items()
        if isinstance(value, list | tuple | dict)
    }
    return cast(
        dict[str, Cell],
        {
            **record,
            **texts,
            **usage,
            "split": split,
            "source": source,
            "subset": question.subset,
            "right_letter": question.answer,
            "correct": None if chat.termination == "failed" else question.is_right(chat.letter),
            "user_turns": sum(turn.role == "user" for turn in chat.turns),
        },
    )


def _write_csv(path: Path, columns: Columns, rows: Iterator[dict[str, Cell]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        # The writer quotes a text only for characters of its own line end, and a text may hold a bare "\r".
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([harmless(row[name]) for name in columns])
            count += 1
    return count


def _write_parquet(path: Path, columns: Columns, rows: Iterator[dict[str, Cell]]) -> int:
    import pyarrow  # type: ignore[import-untyped]  # it has no types
    from pyarrow import parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count
