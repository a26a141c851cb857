"""What a simulation costs: prices per million tokens, and a budget in tokens or dollars.

A budget is one for all runs of a command: what earlier runs recorded counts. No conversation begins that would, at
the mean cost so far, end beyond it; once it is spent no further request is made, and what is under way ends as a
transient failure, so that a run with a larger budget tries it again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Usage
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request

PER_MILLION = 1_000_000
SPENT = "the budget is spent"
_PRICE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)/(\d+(?:\.\d+)?|\.\d+)(?:/(\d+(?:\.\d+)?|\.\d+))?")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens read and written, and of read ones that were cached (None: as the others)."""

    read: float
    written: float
    cached: float | None = None

    def usd(self, read: float, written: float, cached: float = 0) -> float:
        cached_price = self.read if self.cached is None else self.cached
        return ((read - cached) * self.read + cached * cached_price + written * self.written) / PER_MILLION


def read_price(option: str, text: str) -> Price:
    """The price in `2.50/10` or `2.50/10/1.25`: in dollars per million tokens read, written, and read from a cache.

    Raises:
        ChatbenchError: it cannot be read.
    """
    match = _PRICE.fullmatch(text)
    if match is None:
        raise ChatbenchError(
            f"{option} {text!r}",
            expected="dollars per million tokens read and written, such as 2.50/10, or 2.50/10/1.25 with cached ones",
        )
    return Price(float(match[1]), float(match[2]), float(match[3]) if match[3] else None)


@dataclass(frozen=True, slots=True)
class Prices:
    """What each side costs; None where that is not known (a model on this machine costs no tokens)."""

    simulator: Price | None = None
    assistant: Price | None = None

    @property
    def known(self) -> bool:
        return self.simulator is not None or self.assistant is not None

    def usd(self, usage: Usage) -> float:
        """Dollars for so many tokens; a side without a price costs nothing."""
        simulator, assistant = (price or Price(0, 0) for price in (self.simulator, self.assistant))
        return simulator.usd(
            usage.simulator_prompt_tokens, usage.simulator_tokens, usage.simulator_cached_tokens
        ) + assistant.usd(usage.assistant_prompt_tokens, usage.assistant_tokens, usage.assistant_cached_tokens)


def read_prices(simulator: str | None, assistant: str | None) -> Prices:
    """The prices in the texts of two options; see `read_price`."""
    return Prices(
        read_price("--simulator-price", simulator) if simulator else None,
        read_price("--assistant-price", assistant) if assistant else None,
    )


class Spending:
    """What was spent in tokens and dollars, against at most so many of either.

    Raises:
        ChatbenchError: a budget of 0 or less, or one in dollars without a price.
    """

    def __init__(self, prices: Prices, *, max_tokens: int | None = None, max_usd: float | None = None) -> None:
        for name, value in (("--budget-tokens", max_tokens), ("--budget-usd", max_usd)):
            if value is not None and value <= 0:
                raise ChatbenchError(f"{name} {value:g}", expected="more than 0")
        if max_usd is not None and not prices.known:
            raise ChatbenchError(
                "--budget-usd without a price", fix="add --simulator-price or --assistant-price, such as 2.50/10"
            )
        self.prices = prices
        self.max_tokens = max_tokens
        self.max_usd = max_usd
        self.metered: frozenset[ParticipantName] = frozenset()
        """Sides that are paid by the token, so that they must say how many they used."""
        self.counted: set[Path] = set()
        """Logs whose conversations of earlier runs are among what was spent."""
        self.tokens = 0
        self.usd = 0.0
        self._ended = 0
        self._share_of_ended = 0.0
        self._under_way = 0

    def recorded(self, usage: Usage) -> None:
        """An earlier run recorded a conversation that cost so much."""
        self._add(usage)
        self.began()
        self.ended(usage)

    def replied(self, request: Request, reply: Reply | Failure) -> None:
        """A participant replied.

        Raises:
            ChatbenchError: there is a budget, and an endpoint that does not say what it used.
        """
        limited = self.max_tokens is not None or self.max_usd is not None
        silent = isinstance(reply, Reply) and not reply.tokens + reply.prompt_tokens
        if limited and silent and request.participant in self.metered:
            raise ChatbenchError(
                f"the {request.participant}'s endpoint does not say how many tokens it used (no usage in its answers)",
                fix="omit the budget, or use an endpoint that reports usage",
            )
        read, written = f"{request.participant}_prompt_tokens", f"{request.participant}_tokens"
        cached = reply.cached_tokens if isinstance(reply, Reply) else 0
        self._add(
            Usage(
                **{
                    read: reply.prompt_tokens,
                    written: reply.tokens,
                    f"{request.participant}_cached_tokens": cached,
                }
            )
        )

    def began(self, count: int = 1) -> None:
        """So many conversations begin."""
        self._under_way += count

    def ended(self, usage: Usage) -> None:
        """A conversation that began ended and cost so much; its replies were counted before."""
        self._under_way -= 1
        self._ended += 1
        self._share_of_ended += self._share(usage.read + usage.written, self.prices.usd(usage))

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be asked."""
        return self._share(self.tokens, self.usd) >= 1

    def leaves_room(self, count: int = 1) -> bool:
        """Whether so many more may begin: they and those under way, at the mean of those that ended, must fit."""
        mean = self._share_of_ended / self._ended if self._ended else 0.0
        return not self.is_spent and self._share_of_ended + (self._under_way + count) * mean <= 1

    def refused(self, _request: Request) -> Failure | None:
        """Why a request is not made; None where it is."""
        return Failure(SPENT, transient=True) if self.is_spent else None

    def _share(self, tokens: float, usd: float) -> float:
        """Which share of the tighter budget so much is."""
        return max(tokens / self.max_tokens if self.max_tokens else 0.0, usd / self.max_usd if self.max_usd else 0.0)

    def _add(self, usage: Usage) -> None:
        self.tokens += usage.read + usage.written
        self.usd += self.prices.usd(usage)
