"""The scored turns of a split, token by token, from what scoring told of each example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from chatbench.protocol.example_rows import ExampleRow
from chatbench.studies.scored_turns import ScoredTurn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chatbench.models.encoding import EncodedRows


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
    from chatbench.models.token_pieces import TokenPieces

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
