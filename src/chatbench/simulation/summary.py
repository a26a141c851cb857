"""Counts over a log of simulated conversations, made as it is read: endings, failure modes, tokens, dollars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from chatbench.core.records import SimulatedConversation, Termination, Usage
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.log import read_recorded


@dataclass(slots=True)
class Tally:
    """Counts over conversations; `usage` and `lines` cover every line, including failed tries that were repeated.

    `without_letter` ended without a letter; in `lenient_letters` of those, lenient answer extraction finds one.
    `shortened` outgrew a participant's context, so that `turns_dropped` of their turns were not seen at the end.
    """

    terminations: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    without_letter: int = 0
    lenient_letters: int = 0
    shortened: int = 0
    turns_dropped: int = 0
    finish_reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    served_models: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    truncated: Counter[str] = field(default_factory=Counter)

    def add_ending(self, chat: SimulatedConversation) -> None:
        """Counts how a conversation ended."""
        self.terminations[chat.termination] += 1
        self.observed.update(chat.observed)
        self.without_letter += chat.termination != "failed" and chat.letter is None
        self.lenient_letters += chat.lenient_letter is not None
        self.shortened += chat.turns_dropped > 0
        self.turns_dropped += chat.turns_dropped
        self.truncated.update(chat.prompts_truncated)
        for side, counts in chat.finish_reasons.items():
            self.finish_reasons.update({(side, reason): count for reason, count in counts.items()})
        for side, names in chat.served_models.items():
            who = side if side == "simulator" else f"assistant {chat.assistant}"
            asked = (chat.simulator if side == "simulator" else chat.assistant_identity).get("name")
            self.served_models.setdefault((who, str(asked)), Counter()).update(names)

    @property
    def usage(self) -> Usage:
        return Usage(**self.tokens)


def count_earlier(spending: Spending, log: Path, assistants: Container[str]) -> None:
    """Adds the cost of a log's conversations with a command's assistants to what was spent, unless they were counted.

    Those with others are no part of its budget, and may have had another price.
    """
    if log not in spending.counted:
        spending.counted.add(log)
        for _, chat in read_recorded(log):
            if chat.assistant in assistants:
                spending.recorded(chat.usage)


def tally_of(log: Path, planned: Container[str] | None = None) -> Tally:
    """Counts over a log's planned conversations, or over all of them; a missing log counts nothing.

    Raises:
        ChatbenchError: a line does not match its checksum.
    """
    tally = Tally()
    transient: dict[str, SimulatedConversation] = {}
    for _, chat in read_recorded(log):
        if planned is not None and chat.id not in planned:
            continue
        tally.lines += 1
        tally.tokens.update(asdict(chat.usage))
        if chat.transient:
            transient[chat.id] = chat
        else:
            transient.pop(chat.id, None)
            tally.add_ending(chat)
    for chat in transient.values():  # failures that were not tried again count
        tally.add_ending(chat)
    return tally


def replies_otherwise(
    finish_reasons: Mapping[tuple[str, str], int], served_models: Mapping[tuple[str, str], Counter[str]], unit: str
) -> list[str]:
    """How many replies were cut off, and which models answered if not the requested one.

    Args:
        finish_reasons: counts by who replied and what ended the reply.
        served_models: by who replied and the requested model, the models that answered, counted in `unit`.
    """
    lines = []
    for (side, reason), count in sorted(finish_reasons.items()):
        how = {"length": "were cut off at --max-tokens", "content_filter": "were cut off by a content filter"}
        lines.append(f"{count} replies of the {side} {how.get(reason, f'ended with finish reason {reason}')}")
    for (who, asked), names in sorted(served_models.items()):
        # A version of the requested model (gpt-4o-2024-08-06) counts as the requested model.
        if len(names) > 1 or not next(iter(names)).rpartition("/")[2].startswith(asked.rpartition("/")[2]):
            each = ", ".join(f"{name} in {count}" for name, count in names.most_common())
            lines.append(f"the {who}: {asked} was requested; models that answered ({unit}): {each}")
    return lines


@dataclass(frozen=True, slots=True)
class SimulateResult:
    """What is in the log after the run, and how this run went; `simulated` conversations are new.

    `planned` is the number of planned conversations; the log has fewer if the budget was spent.
    """

    path: Path
    tally: Tally
    planned: int
    simulated: int
    seconds: float
    prices: Prices

    @property
    def terminations(self) -> Mapping[str, int]:
        """Conversations by termination, all four named."""
        return {name: self.tally.terminations[name] for name in get_args(Termination)}

    @property
    def conversations(self) -> int:
        """How many of the planned conversations are in the log."""
        return self.tally.terminations.total()

    def lines(self) -> list[str]:
        """Lines to print: counts by termination, conversations per second, what went wrong, and the cost."""
        counts = ", ".join(f"{name} {count}" for name, count in self.terminations.items())
        rate = f", {self.simulated / self.seconds:.1f} conversations/s" if self.simulated else ""
        lines = [
            f"{self.conversations} conversations: {counts}",
            f"{self.simulated} new in {self.seconds:.1f} s{rate} -> {self.path}",
            *self._trouble(),
            *self._cost(),
        ]
        if self.conversations < self.planned:
            missing = self.planned - self.conversations
            lines.append(
                f"{missing} of {self.planned} are missing: the budget is spent; run again with a larger one to continue"
            )
        return lines

    def _trouble(self) -> list[str]:
        tally, lines = self.tally, []
        if tally.without_letter:
            lines.append(
                f"{tally.without_letter} ended without a letter (counted wrong); "
                f"lenient answer extraction finds one in {tally.lenient_letters}"
            )
        if tally.observed:
            seen = ", ".join(f"{name} {count}" for name, count in sorted(tally.observed.items()))
            lines.append(f"messages in which a failure was detected: {seen}")
        if tally.shortened:
            lines.append(
                f"{tally.shortened} conversations outgrew a participant's context, "
                f"which did not see {tally.turns_dropped} of their oldest turns"
            )
        lines += replies_otherwise(tally.finish_reasons, tally.served_models, "conversations")
        for side, count in sorted(tally.truncated.items()):
            lines.append(
                f"{count} prompts of the {side} seem to have been truncated by its server, which read no more tokens "
                "than of a much shorter one: give it a larger context (Ollama: num_ctx), "
                "and simulate again with --overwrite"
            )
        return lines

    def _cost(self) -> list[str]:
        usage, prices = self.tally.usage, self.prices
        if not usage.read + usage.written:
            return []
        reasoning = usage.simulator_reasoning_tokens + usage.assistant_reasoning_tokens
        cached = usage.simulator_cached_tokens + usage.assistant_cached_tokens
        of_those = [f"{count:,} {what}" for count, what in ((cached, "cached"), (reasoning, "reasoning")) if count]
        lines = [f"tokens: {usage.read:,} read, {usage.written:,} written" + "".join(f", {one}" for one in of_those)]
        if prices.known:
            usd = prices.usd(usage)
            lines.append(f"cost: ${usd:,.2f}, ${usd * 1000 / self.tally.lines:,.2f} per 1,000 conversations")
        return lines
