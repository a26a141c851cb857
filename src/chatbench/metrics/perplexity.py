r"""Perplexity of held-out human turns: how well a model predicts what people wrote.

Everything is per scored token, or per byte of scored text; conversations and examples only group them. Losses are sums
of -ln p (nats), so they add up over examples, kinds and splits without weights.

Source: protocol section 6 (docs/protocol.md); Chang, Anderson, Hofman, ACL 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("first", "follow_up", "answer")
"""Kinds of human turns, in the order of the tables."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Summed loss over the scored tokens of one example: `nats` = sum of -ln p.

    `utf8_bytes` is the UTF-8 length of the scored text, including the end marker.
    """

    nats: float
    tokens: int
    utf8_bytes: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.utf8_bytes < 0 or not self.nats >= 0:  # `not >=` also catches NaN
            raise ValueError(f"a loss of {self.nats} nats over {self.tokens} tokens and {self.utf8_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a group of examples, with the sums it is computed from."""

    perplexity: float
    bits_per_byte: float
    nats: float
    tokens: int
    utf8_bytes: int
    examples: int


@dataclass(frozen=True, slots=True)
class TunedAndBase:
    """Perplexity of a fine-tuned model and of its base model on the same turns."""

    finetuned: Perplexity
    base: Perplexity


def summarise(losses: Sequence[TokenLoss]) -> Perplexity:
    r"""Compute perplexity per scored token and bits per byte of a group of examples, in any order.

    Perplexity is exp(sum nats / sum tokens). Every token has the same weight, so long turns count more than short ones,
    and only models with the same tokenizer can be compared. Bits per byte, sum nats / (ln 2 * sum bytes), also compare
    models with different tokenizers; lower is better.

    Raises:
        ValueError: there are no scored tokens.

    >>> found = summarise([TokenLoss(nats=2 * math.log(4), tokens=2, utf8_bytes=8)])
    >>> found.perplexity, found.bits_per_byte
    (4.0, 0.5)
    """
    tokens, size = sum(loss.tokens for loss in losses), sum(loss.utf8_bytes for loss in losses)
    if not tokens or not size:
        raise ValueError(f"{tokens} tokens of {size} bytes are scored, so there is no perplexity")
    nats = math.fsum(loss.nats for loss in losses)  # exactly rounded, hence independent of the order of examples
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size, nats, tokens, size, len(losses))


def perplexity_by_kind(losses: Iterable[tuple[str, TokenLoss]]) -> dict[str, Perplexity]:
    """Compute the perplexity of each kind of turn from (kind, loss) pairs.

    The kinds of the protocol come first, in their order, then any others in alphabetical order.
    """
    groups: dict[str, list[TokenLoss]] = {}
    for kind, loss in losses:
        groups.setdefault(kind, []).append(loss)
    order = [kind for kind in KINDS if kind in groups] + sorted(groups.keys() - set(KINDS))
    return {kind: summarise(groups[kind]) for kind in order}
