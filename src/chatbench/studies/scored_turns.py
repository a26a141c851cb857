"""What each token of a held-out human turn cost a model: `results/ppl/MODEL/split_i.tokens.jsonl`.

The first line says of which model and which examples; then one scored turn a line. The texts of a turn's tokens,
joined, begin with what the person wrote; the end marker follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl, write_jsonl_whole

DECIMALS = 3
"""Of nats: a probability is told to a thousandth of itself."""


@dataclass(frozen=True, slots=True)
class ScoredTurn:
    """One scored turn: `texts[i]` cost `nats[i]`, the end marker's last.

    `turn` counts the person's messages from 0; the final answer comes after the last of them.
    """

    conversation_id: str
    turn: int
    texts: tuple[str, ...]
    nats: tuple[float, ...]


def scored_turns_path(perplexity_file: Path) -> Path:
    """Where the scored turns of a stored perplexity lie."""
    return perplexity_file.with_suffix(".tokens.jsonl")


def write_scored_turns(path: Path, origin: Mapping[str, object], turns: Iterable[ScoredTurn]) -> None:
    """Writes the turns of one model and split; `origin` says what they are of."""
    rows = (
        {
            "conversation_id": turn.conversation_id,
            "turn": turn.turn,
            "texts": turn.texts,
            "nats": [round(value, DECIMALS) for value in turn.nats],
        }
        for turn in turns
    )
    write_jsonl_whole(path, chain([{"origin": dict(origin)}], rows))


def holds_scored_turns(path: Path, origin: Mapping[str, object]) -> bool:
    """Whether the turns of that origin lie there already."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(json.loads(file.readline()) == {"origin": dict(origin)})
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def read_scored_turns(path: Path, origin: Mapping[str, object], fix: str) -> Iterator[ScoredTurn]:
    """The turns, in the order of the file.

    Raises:
        ChatbenchError: the file is missing or damaged, or is of another model or other examples than `origin` says.
    """
    lines = read_jsonl(path, fix=fix)
    _, head = next(lines, (0, {}))
    if head.get("origin") != dict(origin):
        raise ChatbenchError(f"{path}: of {head.get('origin')}", expected=f"{dict(origin)}", fix=fix)
    for number, row in lines:
        try:
            texts, nats = cast("list[str]", row["texts"]), cast("list[float]", row["nats"])
            if len(texts) != len(nats):
                raise ValueError(f"{len(texts)} texts, {len(nats)} nats")
            yield ScoredTurn(str(row["conversation_id"]), int(cast(int, row["turn"])), tuple(texts), tuple(nats))
        except (KeyError, TypeError, ValueError) as error:
            raise ChatbenchError(f"{path}, line {number}: {error!r}", expected="a scored turn", fix=fix) from error
