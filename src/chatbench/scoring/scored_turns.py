"""Loss per token of held-out human turns: `results/ppl/MODEL/split_i.tokens.jsonl`.

The first line identifies the model and the examples; then follows one scored turn per line. The texts of a turn's
tokens, joined, are what the person wrote followed by the end marker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import parse_json, read_jsonl, write_jsonl
from chatbench.data.examples import ExampleRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chatbench.models.encoding import EncodedRows

DECIMALS = 3
"""Decimals of nats: enough for a probability to 0.1 %."""


@dataclass(frozen=True, slots=True)
class ScoredTurn:
    """One scored turn: `texts[i]` has a loss of `nats[i]`; the end marker is last.

    `turn` counts the person's messages from 0; the final answer comes after the last message.
    """

    conversation_id: str
    turn: int
    texts: tuple[str, ...]
    nats: tuple[float, ...]


def scored_turns_path(perplexity_file: Path) -> Path:
    """Path of the scored turns that belong to a perplexity file."""
    return perplexity_file.with_suffix(".tokens.jsonl")


def write_scored_turns(path: Path, origin: Mapping[str, object], turns: Iterable[ScoredTurn]) -> None:
    """Write the turns of one model and split; `origin` identifies the model and examples."""
    rows = (
        {
            "conversation_id": turn.conversation_id,
            "turn": turn.turn,
            "texts": turn.texts,
            "nats": [round(value, DECIMALS) for value in turn.nats],
        }
        for turn in turns
    )
    write_jsonl(path, chain([{"origin": dict(origin)}], rows))


def holds_scored_turns(path: Path, origin: Mapping[str, object]) -> bool:
    """Whether the file exists and has turns of that origin."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(parse_json(file.readline()) == {"origin": dict(origin)})
    except (FileNotFoundError, ValueError):
        return False


def read_scored_turns(path: Path, origin: Mapping[str, object], fix: str) -> Iterator[ScoredTurn]:
    """Read the turns, in the order of the file.

    Raises:
        ChatbenchError: the file is missing or damaged, or of another model or other examples than `origin`.
    """
    lines = read_jsonl(path, fix=fix)
    _, head = next(lines, (0, {}))
    found = head.get("origin")
    if not isinstance(found, Mapping) or differences(found, origin):
        raise ChatbenchError(f"{path}: scored turns of {found}", expected=f"{dict(origin)}", fix=fix)
    for number, row in lines:
        try:
            texts, nats = cast("list[str]", row["texts"]), cast("list[float]", row["nats"])
            if len(texts) != len(nats):
                raise ValueError(f"{len(texts)} texts, {len(nats)} nats")
            yield ScoredTurn(str(row["conversation_id"]), int(cast(int, row["turn"])), tuple(texts), tuple(nats))
        except (KeyError, TypeError, ValueError) as error:
            raise ChatbenchError(f"{path}, line {number}: {error!r}", expected="a scored turn", fix=fix) from error


def scored_turns(
    rows: Sequence[ExampleRow],
    encoded: EncodedRows,
    nats: Mapping[int, Sequence[float]],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[ScoredTurn]:
    """Yield the scored turns.

    Args:
        rows: all held-out examples, in the order of the file, including those that did not fit the context.
        encoded: the rows that fit.
        nats: loss per token, by index in `encoded`.
    """
    from chatbench.models.encoding import TokenPieces

    pieces = TokenPieces(tokenizer)
    seen: Counter[str] = Counter()  # examples so far, by conversation
    fitting = iter(zip(encoded.rows, encoded.examples, range(len(encoded.rows)), strict=True))
    following = next(fitting, None)
    for row in rows:
        turn = seen[row.conversation_id]
        seen[row.conversation_id] += 1
        if following is None or _key(following[0]) != _key(row):
            continue
        _, example, place = following
        scored = pieces.scored(example.completion, nats[place], row.completion)
        yield ScoredTurn(row.conversation_id, turn, scored.texts, scored.nats)
        following = next(fitting, None)


def _key(row: ExampleRow) -> tuple[str, str, str]:
    """The fields of a row that do not change when its oldest turns are dropped."""
    return row.conversation_id, row.kind, row.completion
