"""What a simulation costs: prices per million tokens, and a budget in tokens or dollars.

One budget covers all runs of a command: what earlier runs recorded counts. No conversation is started that would, at
the mean cost so far, exceed it. Once it is spent, no further request is made, and active conversations end as a
transient failure, so that a run with a larger budget tries it again.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Usage
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request

PER_MILLION = 1_000_000
SPENT = "the budget is spent"
_PRICE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)/(\d+(?:\.\d+)?|\.\d+)(?:/(\d+(?:\.\d+)?|\.\d+))?")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million input tokens, output tokens and cached input tokens (None: the price of other input)."""

    read: float
    written: float
    cached: float | None = None

    def usd(self, read: float, written: float, cached: float = 0) -> float:
        cached_price = self.read if self.cached is None else self.cached
        return ((read - cached) * self.read + cached * cached_price + written * self.written) / PER_MILLION


def read_price(option: str, text: str) -> Price:
    """Parses `2.50/10` or `2.50/10/1.25`: dollars per million input, output and cached input tokens.

    Raises:
        ChatbenchError: it cannot be read.
    """
    match = _PRICE.fullmatch(text)
    if match is None:
        raise ChatbenchError(
            f"{option} {text!r}",
            expected="dollars per million input and output tokens, e.g. 2.50/10; 2.50/10/1.25 adds cached input",
        )
    return Price(float(match[1]), float(match[2]), float(match[3]) if match[3] else None)


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of each side; None if it is unknown (a model on this machine costs nothing per token)."""

    simulator: Price | None = None
    assistant: Price | None = None

    @property
    def known(self) -> bool:
        return self.simulator is not None or self.assistant is not None

    def usd(self, usage: Usage) -> float:
        """Dollars for this usage; a side without a price costs nothing."""
        simulator, assistant = (price or Price(0, 0) for price in (self.simulator, self.assistant))
        return simulator.usd(
            usage.simulator_prompt_tokens, usage.simulator_tokens, usage.simulator_cached_tokens
        ) + assistant.usd(usage.assistant_prompt_tokens, usage.assistant_tokens, usage.assistant_cached_tokens)


def dollars(usd: float) -> str:
    """An amount in cents, or below one in hundredths of a cent.

    >>> dollars(1234.5), dollars(0.0042)
    ('$1,234.50', '$0.0042')
    """
    return f"${usd:,.4f}" if 0 < usd < 0.01 else f"${usd:,.2f}"


def read_prices(simulator: str | None, assistant: str | None) -> Prices:
    """Parses the prices of two options; see `read_price`."""
    return Prices(
        read_price("--simulator-price", simulator) if simulator else None,
        read_price("--assistant-price", assistant) if assistant else None,
    )


class Spending:
    """What was spent in tokens and dollars, against a maximum for either.

    Raises:
        ChatbenchError: a budget of 0 or less, or one in dollars without a price.
    """

    def __init__(self, prices: Prices, *, max_tokens: int | None = None, max_usd: float | None = None) -> None:
        for name, value in (("--budget-tokens", max_tokens), ("--budget-usd", max_usd)):
            if value is not None and value <= 0:
                raise ChatbenchError(f"{name} {value:g}", expected="more than 0")
        if max_usd is not None and not prices.known:
            raise ChatbenchError("--budget-usd without a price", fix="add a price, such as --assistant-price 2.50/10")
        self.prices = prices
        self.max_tokens = max_tokens
        self.max_usd = max_usd
        self.metered: frozenset[ParticipantName] = frozenset()
        """Sides that are paid per token, and must therefore report their usage."""
        self.counted: set[Path] = set()
        """Logs whose earlier conversations are already counted as spent."""
        self.tokens = 0
        self.usd = 0.0
        self.left = 0
        """Conversations, or samples, that were not done because the budget is spent."""
        self._judge: Counter[str] = Counter()
        self._ended = 0
        self._share_of_ended = 0.0
        self._under_way = 0
        self._expected = 0.0

    def expect(self, usage: Usage, conversations: int) -> None:
        """Sets what a conversation is assumed to cost until one has ended: an estimate for as many conversations."""
        total = self._share(usage.read + usage.written, self.prices.usd(usage))
        self._expected = total / conversations if conversations else 0.0

    def recorded(self, usage: Usage) -> None:
        """Counts a conversation that an earlier run recorded."""
        self._add(usage)
        self.began()
        self.ended(usage)

    def replied(self, request: Request, reply: Reply | Failure) -> None:
        """Counts a participant's reply.

        Raises:
            ChatbenchError: there is a budget, but an endpoint does not report its usage.
        """
        self._add(self._used(request, reply))

    def judged(self, request: Request, reply: Reply | Failure) -> None:
        """Counts a judge's reply, which is part of no conversation.

        Raises:
            ChatbenchError: as `replied`.
        """
        used = self._used(request, reply)
        self._add(used)
        self._judge.update(asdict(used))

    @property
    def judge(self) -> Usage:
        """What a judge read and wrote, as an assistant's."""
        return Usage(**self._judge)

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.max_tokens is not None or self.max_usd is not None

    def outlook(self, tokens: int, usd: float, missing: int) -> str:
        """How much of the budget is spent, and for how many of the missing conversations, at this cost, the rest is."""
        limits = (
            (self.max_usd, self.usd, usd, f"{dollars(self.usd)} of {dollars(self.max_usd or 0)}"),
            (self.max_tokens, self.tokens, tokens, f"{self.tokens:,} of {self.max_tokens or 0:,} tokens"),
        )
        spent = " and ".join(text for most, _, _, text in limits if most)
        share = min(((most - spent) / needed for most, spent, needed, _ in limits if most and needed), default=1.0)
        part = "" if share >= 1 else f" for about {max(0, int(share * missing)):,} of the {missing:,} conversations"
        return f"budget: {spent} spent; the rest is enough{part}"

    def _used(self, request: Request, reply: Reply | Failure) -> Usage:
        silent = isinstance(reply, Reply) and not reply.tokens + reply.prompt_tokens
        if self.limited and silent and request.participant in self.metered:
            raise ChatbenchError(
                f"the {request.participant}'s endpoint does not report how many tokens it used (replies have no usage)",
                fix="omit the budget, or use an endpoint that reports usage",
            )
        read, written = f"{request.participant}_prompt_tokens", f"{request.participant}_tokens"
        cached = reply.cached_tokens if isinstance(reply, Reply) else 0
        counts = {read: reply.prompt_tokens, written: reply.tokens, f"{request.participant}_cached_tokens": cached}
        return Usage(**counts)

    def began(self, count: int = 1) -> None:
        """Counts conversations that begin."""
        self._under_way += count

    def ended(self, usage: Usage) -> None:
        """Counts a conversation that ended; its replies were counted before."""
        self._under_way -= 1
        self._ended += 1
        self._share_of_ended += self._share(usage.read + usage.written, self.prices.usd(usage))

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent, so that no more requests are made."""
        return self._share(self.tokens, self.usd) >= 1

    def leaves_room(self, count: int = 1) -> bool:
        """Whether this many more may begin: with those active, at the mean cost of those that ended, they must fit.

        What the judge used is not theirs. Until one has ended, the mean is as expected; but if none is active, some may
        begin whatever is expected.
        """
        expected = self._expected if self._under_way else 0.0
        mean = self._share_of_ended / self._ended if self._ended else expected
        judge = self.judge
        over = self._share_of_ended + self._share(judge.read + judge.written, self.prices.usd(judge))
        return not self.is_spent and over + (self._under_way + count) * mean <= 1

    def refused(self, _request: Request) -> Failure | None:
        """Why a request is not made; None if it is."""
        return Failure(SPENT, transient=True) if self.is_spent else None

    def _share(self, tokens: float, usd: float) -> float:
        """The share of the tighter budget that this amount takes."""
        return max(tokens / self.max_tokens if self.max_tokens else 0.0, usd / self.max_usd if self.max_usd else 0.0)

    def _add(self, usage: Usage) -> None:
        self.tokens += usage.read + usage.written
        self.usd += self.prices.usd(usage)
