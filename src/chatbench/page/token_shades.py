"""The probabilities of scored tokens as parts of a page: what each token of a person's message cost a model.

A part holds some consecutive chats of one model and split, by row of the index of chats: per message, the lengths of
its tokens' texts in UTF-16 code units (as a browser counts) and their nats in hundredths.

    shades-0, shades-1    {"row": [[lengths, hundredths], [lengths, hundredths], ...], ...}; the answer's comes last
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatbench.page.chats import PageChat
from chatbench.page.packing import packed

CHATS_PER_PART = 400
HUNDREDTHS = 100


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """One scored message or answer: the texts of its tokens, and what they cost (nats)."""

    texts: Sequence[str]
    nats: Sequence[float]


@dataclass(frozen=True, slots=True)
class Shades:
    """What one model made of people's chats in one split: by row of the page, the costs by turn.

    The number after the last message's is the answer's.
    """

    model: str
    split: str
    rows: Mapping[int, Mapping[int, TokenCosts]]


def shade_parts(shades: Iterable[Shades]) -> tuple[list[dict[str, object]], dict[str, str]]:
    """What the page must know at once (model, split, the parts and their first rows), and the parts."""
    known: list[dict[str, object]] = []
    parts: dict[str, str] = {}
    for each in shades:
        rows = sorted(each.rows)
        starts = range(0, len(rows), CHATS_PER_PART)
        known.append(
            {
                "model": each.model,
                "split": each.split,
                "first_part": len(parts),
                "starts": [rows[start] for start in starts],
            }
        )
        for start in starts:
            some = {str(row): _turns(each.rows[row]) for row in rows[start : start + CHATS_PER_PART]}
            parts[f"shades-{len(parts)}"] = packed(some)
    return known, parts


def _turns(turns: Mapping[int, TokenCosts]) -> list[object]:
    """By turn; None where one was not scored, for example because it was longer than the model's context."""
    return [_costs(turns[turn]) if turn in turns else None for turn in range(max(turns) + 1)]


def _costs(costs: TokenCosts) -> list[list[int]]:
    return [[_units(text) for text in costs.texts], [round(HUNDREDTHS * nats) for nats in costs.nats]]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def belongs_to(costs: TokenCosts, chat: PageChat, turn: int) -> bool:
    """Whether these are the tokens of that message of the chat: joined, they begin with what the person wrote.

    The turn after the last message is the answer, which is no message: any text will do.
    """
    messages = [each.text.strip() for each in chat.turns if each.role == "user"]
    return turn == len(messages) or (turn < len(messages) and "".join(costs.texts).startswith(messages[turn]))
