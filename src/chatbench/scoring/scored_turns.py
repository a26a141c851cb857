"""What each token of a held-out human turn cost a model: `results/ppl/MODEL/split_i.tokens.jsonl`.

The first line says of which model and which examples; then one scored turn a line. The texts of a turn's tokens,
joined, begin with what the person wrote; the end marker follows.
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
    write_jsonl(path, chain([{"origin": dict(origin)}], rows))


def holds_scored_turns(path: Path, origin: Mapping[str, object]) -> bool:
    """Whether the turns of that origin lie there already."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(parse_json(file.readline()) == {"origin": dict(origin)})
    except (FileNotFoundError, ValueError):
        return False


def read_scored_turns(path: Path, origin: Mapping[str, object], fix: str) -> Iterator[ScoredTurn]:
    """The turns, in the order of the file.

    Raises:
        ChatbenchError: the file is missing or damaged, or is of another model or other examples than `origin` says.
    """
    lines = read_jsonl(path, fix=fix)
    _, head = next(lines, (0, {}))
    found = head.get("origin")
    if not isinstance(found, Mapping) or differences(found, origin):
        raise ChatbenchError(f"{path}: of {found}", expected=f"{dict(origin)}", fix=fix)
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
    """The turns of the rows that were scored.

    Args:
        rows: all held-out examples, in the order of the file; those that did not fit the context are among them.
        encoded: those of `rows` that did.
        nats: by place in `encoded`, per token.
    """
    from chatbench.models.encoding import TokenPieces

    pieces = TokenPieces(tokenizer)
    seen: Counter[str] = Counter()  # of each conversation, the examples so far
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
    """What a row keeps when it loses its oldest turns."""
    return row.conversation_id, row.kind, row.completion
