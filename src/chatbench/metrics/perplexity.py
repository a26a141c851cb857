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

    def as_dict(self) -> dict[str, float | int]:
        return {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "nats": self.nats,
            "tokens": self.tokens,
            "utf8_bytes": self.utf8_bytes,
            "examples": self.examples,
        }


def corpus_perplexity(losses: Sequence[TokenLoss]) -> float:
    r"""Perplexity per scored token, each token weighing the same: exp(sum nats / sum tokens).

    A long turn therefore counts more than a short one, and two models compare only if they share a tokenizer.

    Args:
        losses: shape (n_examples,), any order.

    Raises:
        ValueError: no token is scored, so the quotient is 0/0.

    >>> corpus_perplexity([TokenLoss(nats=2 * math.log(4), tokens=2)])
    4.0
    """
    tokens = sum(loss.tokens for loss in losses)
    if tokens == 0:
        raise ValueError("no token is scored, so there is no perplexity")
    # fsum: exactly rounded, so the order of the examples cannot show in the last digit.
    return math.exp(math.fsum(loss.nats for loss in losses) / tokens)


def bits_per_byte(losses: Sequence[TokenLoss]) -> float:
    r"""Bits that the model needs per byte of scored text: sum nats / (ln 2 * sum bytes); lower is better.

    Unlike perplexity it compares models with different tokenizers.

    Raises:
        ValueError: the scored text is empty.

    >>> bits_per_byte([TokenLoss(nats=8 * math.log(2), tokens=1, utf8_bytes=4)])
    2.0
    """
    size = sum(loss.utf8_bytes for loss in losses)
    if size == 0:
        raise ValueError("the scored text has no bytes, so there are no bits per byte")
    return math.fsum(loss.nats for loss in losses) / math.log(2) / size


def summarise(losses: Sequence[TokenLoss]) -> Perplexity:
    """Perplexity and bits per byte of a group of examples.

    Raises:
        ValueError: the group is empty.
    """
    return Perplexity(
        perplexity=corpus_perplexity(losses),
        bits_per_byte=bits_per_byte(losses),
        nats=math.fsum(loss.nats for loss in losses),
        tokens=sum(loss.tokens for loss in losses),
        utf8_bytes=sum(loss.utf8_bytes for loss in losses),
        examples=len(losses),
    )


def perplexity_by_kind(losses: Iterable[tuple[str, TokenLoss]]) -> dict[str, Perplexity]:
    """Perplexity of each kind of turn that occurs; `losses` are pairs (kind, loss).

    The kinds of the protocol come first, in their order, then any other in alphabetical order.
    """
    groups: dict[str, list[TokenLoss]] = {}
    for kind, loss in losses:
        groups.setdefault(kind, []).append(loss)
    order = [kind for kind in KINDS if kind in groups] + sorted(groups.keys() - set(KINDS))
    return {kind: summarise(groups[kind]) for kind in order}
