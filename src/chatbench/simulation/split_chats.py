"""The simulated chats of a split: read for scoring, and exported as a table.

Scoring gets them checked to belong to the prepared data. The table is CSV or Parquet, with one row per conversation or
per turn. A row is the log's record plus what the study says about its question; lists and objects are JSON texts. If an
id was tried several times, the last try is exported. In CSV, a text that a spreadsheet would take for a formula (it
begins with =, +, -, @, a tab or a line break) gets an apostrophe before it, and so does a text that begins with an
apostrophe: to restore the texts, remove one leading apostrophe. Parquet keeps them as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import keep_inputs, read_json, replacing
from chatbench.core.records import RIGHT_FROM, SimulatedConversation, Split, Study
from chatbench.core.texts import harmless
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.metrics.pairs import Simulation
from chatbench.simulation.judge import with_verdicts
from chatbench.simulation.log import FIX, has_chats, read_conversations, read_recorded, settings_path
from chatbench.simulation.participants import SPLIT_MARK


@dataclass(frozen=True, slots=True)
class SplitChats:
    """A split with its simulations, the scored simulator's first.

    `settings` and `assistants` are by predictor: the settings of the run, and the identity of each assistant by name.
    """

    split: Split
    simulations: tuple[Simulation, ...]
    settings: Mapping[Predictor, Mapping[str, object]]
    assistants: Mapping[Predictor, Mapping[str, object]]

    @property
    def simulator(self) -> Mapping[str, object]:
        """Identity of the scored simulator."""
        return cast(Mapping[str, object], self.settings[FINE_TUNED]["simulator"])


def read_chats(workspace: Workspace, model: str, split_id: str) -> SplitChats:
    """The chats of the fine-tuned simulator, and of the base model if there are any.

    Raises:
        ChatbenchError: the fine-tuned simulator's chats are missing, or chats belong to other data or another split.
    """
    split = workspace.split(split_id)
    paths = {
        FINE_TUNED: workspace.conversations(model, split.id),
        BASE_MODEL: workspace.conversations(model, split.id, base_model=True),
    }
    if not has_chats(paths[FINE_TUNED]):
        raise _without_chats(paths[FINE_TUNED], model, split.id)
    simulations = []
    settings: dict[Predictor, Mapping[str, object]] = {}
    assistants: dict[Predictor, Mapping[str, object]] = {}
    for predictor, path in paths.items():
        if has_chats(path):
            settings[predictor], assistants[predictor] = settings_of(path)
            held_out = question_set_sha256([workspace.study.questions[each] for each in split.question_ids("test")])
            expected = {"questions_sha256": workspace.manifest.questions_sha256, "held_out_sha256": held_out}
            for each in differences(expected, {name: settings[predictor][name] for name in expected}):
                what = "other questions" if each.name == "questions_sha256" else f"another {split.id}"
                raise ChatbenchError(
                    f"{path}: simulated on {what} ({each.name} {str(each.other)[:12]})",
                    expected=f"chats about the prepared data ({each.name} {str(each.one)[:12]})",
                    fix=f"{FIX}, or pass the --data folder that the chats were made with",
                )
            chats = tuple(read_conversations(path))
            if foreign := sorted({chat.question_id for chat in chats} - set(split.question_ids("test"))):
                raise ChatbenchError(
                    f"{path}: {len(foreign)} questions are not held out in {split.id}, such as {foreign[0]}",
                    expected="chats about held-out questions only",
                    fix=FIX,
                )
            count = int(cast(int, settings[predictor]["conversations"]))
            simulations.append(Simulation(called(predictor, settings[predictor], split_id), chats, count))
    return SplitChats(split, tuple(simulations), settings, assistants)


def called(predictor: Predictor, settings: Mapping[str, object], split_id: str) -> Predictor:
    """The predictor with its name: model and style if it is not `tuned`; a split's name becomes `{split}`."""
    if settings.get("simulator_kind", "tuned") == "tuned":
        return predictor
    simulator = cast(Mapping[str, object], settings["simulator"])
    model = str(simulator.get("name")).removesuffix(f" {split_id}").replace(split_id, SPLIT_MARK)
    kind = f"{settings.get('style')}, answer model" if simulator.get("answer_model") else settings.get("style")
    return replace(predictor, name=f"{model} ({kind})")


def settings_of(log: Path) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The settings of the run that wrote a log, and the identity of each of its assistants."""
    path = settings_path(log)
    found = read_json(path, fix=FIX)
    try:
        content = cast(Mapping[str, Mapping[str, object]], found)
        settings, assistants = content["settings"], content["assistants"]
        for name in ("questions_sha256", "held_out_sha256", "conversations", "simulator"):
            settings[name]
    except (KeyError, TypeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="settings of a simulation", fix=FIX) from error
    return settings, assistants


def simulated_splits(workspace: Workspace, model: str, splits: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Ids of the splits to score, and a note on each prepared split without chats.

    Raises:
        ChatbenchError: there are none.
    """
    prepared = workspace.manifest.split_ids
    if splits is not None:
        for split_id in splits:
            workspace.split(split_id)
            if not any(has_chats(workspace.conversations(model, split_id, base_model=base)) for base in (False, True)):
                raise _without_chats(workspace.conversations(model, split_id), model, split_id)
        return list(splits), []
    found = [s for s in prepared if has_chats(workspace.conversations(model, s))]
    if not found:
        raise ChatbenchError(
            f"{workspace.simulations(model)}: no simulated chats of {model}",
            expected="conversations.jsonl in a folder per split",
            fix=f"simulate first: chatbench simulate {model} --assistant SPEC",
        )
    missing = [split_id for split_id in prepared if split_id not in found]
    command = f"chatbench simulate {model} --assistant SPEC"
    return found, [f"{s}: not simulated yet, left out; {command} --split {s}" for s in missing]


def _without_chats(log: Path, model: str, split_id: str) -> ChatbenchError:
    return ChatbenchError(
        f"{log}: missing or empty",
        expected=f"simulated chats of {model} on {split_id}",
        fix=f"simulate first: chatbench simulate {model} --assistant SPEC --split {split_id}",
    )


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
        ChatbenchError: another ending, a file of the study or of results, no chats yet, or a damaged record.
    """
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(to.suffix)
    if write is None:
        raise ChatbenchError(f"--to {to}", expected="a name that ends in .csv or .parquet")
    keep_inputs([to], workspace.inputs())
    if splits is None:  # also those with chats of the base model alone
        log, ids = partial(workspace.conversations, model), workspace.manifest.split_ids
        splits = [each for each in ids if has_chats(log(each)) or has_chats(log(each, base_model=True))] or None
    chosen, _ = simulated_splits(workspace, model, splits)
    study = with_verdicts(workspace.study, workspace)[0]
    rows = (row for split in chosen for row in _rows(workspace, study, model, split, turns=turns))
    with replacing(to) as temporary:
        return write(temporary, TURN if turns else CONVERSATION, rows)


def _rows(workspace: Workspace, study: Study, model: str, split: str, *, turns: bool) -> Iterator[dict[str, Cell]]:
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
            row = _conversation_row(chat, study, split, source.label)
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
    record, score = asdict(chat), study.score(question.id, chat.letter)
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
            "correct": None if score is None or chat.termination == "failed" else score >= RIGHT_FROM,
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
