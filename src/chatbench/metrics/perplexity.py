r"""Perplexity of held-out human turns: how surprised a model is by what people really wrote.

The unit of everything here is the scored token, or the byte of scored text; a conversation or an example is only a
group of them. Losses are sums of -ln p (nats), so they add up over examples, kinds and splits without weights.

Source: protocol section 6 (docs/protocol.md); Chang, Anderson, Hofman, ACL 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("first", "follow_up", "answer")
"""The kinds of human turns, in the order in which tables show them."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Summed loss over the scored tokens of one example: `nats` = sum of -ln p.

    `utf8_bytes` is the length of the scored text in UTF-8, the end marker included.
    """

    nats: float
    tokens: int
    utf8_bytes: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.utf8_bytes < 0 or not self.nats >= 0:  # `not >=` also catches NaN
            raise ValueError(f"a loss of {self.nats} nats over {self.tokens} tokens and {self.utf8_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a group of examples, with the sums it was made of."""

    perplexity: float
    bits_per_byte: float
    nats: float
    tokens: int
    utf8_bytes: int
    examples: int


@dataclass(frozen=True, slots=True)
class TunedAndBase:
    """Perplexity of a fine-tuned model, and of its base, on the same turns."""

    finetuned: Perplexity
    base: Perplexity


def summarise(losses: Sequence[TokenLoss]) -> Perplexity:
    r"""Perplexity per scored token and bits per byte of a group of examples, in any order.

    Perplexity is exp(sum nats / sum tokens), each token weighing the same: a long turn counts more than a short one,
    and two models compare only if they share a tokenizer. Bits per byte, sum nats / (ln 2 * sum bytes), lower is
    better, compare models with different tokenizers.

    Raises:
        ValueError: nothing is scored, so the quotients are 0/0.

    >>> found = summarise([TokenLoss(nats=2 * math.log(4), tokens=2, utf8_bytes=8)])
    >>> found.perplexity, found.bits_per_byte
    (4.0, 0.5)
    """
    tokens, size = sum(loss.tokens for loss in losses), sum(loss.utf8_bytes for loss in losses)
    if not tokens or not size:
        raise ValueError(f"{tokens} tokens of {size} bytes are scored, so there is no perplexity")
    nats = math.fsum(loss.nats for loss in losses)  # exactly rounded: the order of the examples cannot show
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size, nats, tokens, size, len(losses))


def perplexity_by_kind(losses: Iterable[tuple[str, TokenLoss]]) -> dict[str, Perplexity]:
    """Perplexity of each kind of turn that occurs; `losses` are pairs (kind, loss).

    The kinds of the protocol come first, in their order, then any other in alphabetical order.
    """
    groups: dict[str, list[TokenLoss]] = {}
    for kind, loss in losses:
        groups.setdefault(kind, []).append(loss)
    order = [kind for kind in KINDS if kind in groups] + sorted(groups.keys() - set(KINDS))
    return {kind: summarise(groups[kind]) for kind in order}
