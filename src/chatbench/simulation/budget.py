"""What a simulation costs, and what came of it: prices, a budget, estimates, and counts over a log.

Prices are per million tokens. One budget covers all runs of a command: what earlier runs recorded counts. No
conversation is started that would, at the mean cost so far, exceed it. Once it is spent, no further request is made,
and active conversations end as a transient failure, so that a run with a larger budget tries it again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Conversation, Question, SimulatedConversation, Termination, Usage
from chatbench.endpoints.client import CHARACTERS_PER_TOKEN
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request
from chatbench.protocol.prompt_styles import Style
from chatbench.protocol.prompts import ANSWER_PREFIX, ASSISTANT_SYSTEM
from chatbench.simulation.log import failure_lines, read_recorded

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
        self._add(self._used(request, reply, request.participant))

    def judged(self, request: Request, reply: Reply | Failure) -> None:
        """Counts a judge's reply, which is part of no conversation.

        Raises:
            ChatbenchError: as `replied`.
        """
        used = self._used(request, reply, "judge")
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

    def _used(self, request: Request, reply: Reply | Failure, whose: str) -> Usage:
        silent = isinstance(reply, Reply) and not reply.tokens + reply.prompt_tokens
        if self.limited and silent and request.participant in self.metered:
            raise ChatbenchError(
                f"the {whose}'s endpoint does not report how many tokens it used (replies have no usage)",
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


def usage_each(
    questions: Sequence[Question], chats: Sequence[Conversation], style: Style, tally: Tally
) -> tuple[dict[str, float], str]:
    """Mean tokens per conversation, by field of `Usage`, and what they are based on: the tally, or people's chats."""
    if tally.ended and any(tally.ended_tokens.values()):
        means = {name: count / tally.ended for name, count in tally.ended_tokens.items()}
        return means, f"{tally.ended} recorded conversations"
    by_id = {question.id: question for question in questions}
    chats = [chat for chat in chats if chat.question_id in by_id]
    characters: Counter[str] = Counter()
    first = 2 if style.opening else 0
    for chat in chats:  # what both sides would read and write if the simulator wrote this very chat
        turns, question = chat.turns, by_id[chat.question_id]
        for end in range(first, len(turns) + 1, 2):
            asked = style.messages(question.full_text, turns[:end], asked_for=question.asked_for)
            characters["simulator_prompt_tokens"] += sum(len(message.content) for message in asked)
        for end in range(1, len(turns), 2):
            characters["assistant_prompt_tokens"] += len(ASSISTANT_SYSTEM) + sum(len(turn.text) for turn in turns[:end])
        characters["simulator_tokens"] += sum(len(turn.text) for turn in turns[first::2]) + len(ANSWER_PREFIX) + 1
        characters["assistant_tokens"] += sum(len(turn.text) for turn in turns[1::2])
    tokens = {name: count / CHARACTERS_PER_TOKEN / max(1, len(chats)) for name, count in characters.items()}
    return (
        tokens,
        f"{len(chats)} chats of people, at {CHARACTERS_PER_TOKEN} characters per token; reasoning comes on top",
    )


def usage_at_most(
    questions: Sequence[Question], style: Style, turns: int, longest: int, longest_reply: int
) -> dict[str, float]:
    """Tokens of a conversation with all user turns and the forced answer, if every message is as long as allowed."""
    asked = [message for one in questions for message in style.messages(one.full_text, (), asked_for=one.asked_for)]
    prompt = sum(len(message.content) for message in asked) / CHARACTERS_PER_TOKEN / max(1, len(questions))
    system = len(ASSISTANT_SYSTEM) / CHARACTERS_PER_TOKEN
    return {  # k user turns have 2k messages after them; the assistant reads one fewer
        "simulator_prompt_tokens": (turns + 1) * (prompt + turns * (longest + longest_reply) / 2),
        "simulator_tokens": (turns + 1) * longest,
        "assistant_prompt_tokens": turns * (system + ((turns + 1) * longest + (turns - 1) * longest_reply) / 2),
        "assistant_tokens": turns * longest_reply,
    }


@dataclass(slots=True)
class Tally:
    """Counts over conversations; `usage` and `lines` cover every line, including failed tries that were repeated.

    `ended` and `ended_tokens` leave out transient failures and conversations of which an endpoint reported no tokens,
    which `silent` counts by side; `cut_off` are those that the spent budget ended. `failures` are the others, by reason
    and whether they are transient.
    `without_letter` ended without a letter; in `lenient_letters` of those, lenient answer extraction finds one.
    `shortened` outgrew a participant's context, so that `turns_dropped` of their turns were not seen at the end.
    """

    terminations: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, bool]] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    ended_tokens: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    cut_off: int = 0
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
        if chat.termination == "failed" and chat.reason != SPENT:
            self.failures[chat.reason, chat.transient] += 1
        self.observed.update(chat.observed)
        self.without_letter += chat.termination != "failed" and chat.letter is None
        self.lenient_letters += chat.lenient_letter is not None
        self.shortened += chat.turns_dropped > 0
        self.turns_dropped += chat.turns_dropped
        self.truncated.update(chat.prompts_truncated)
        whose = {"assistant": f"assistant {chat.assistant}"}
        for side, counts in chat.finish_reasons.items():
            self.finish_reasons.update({(whose.get(side, side), reason): count for reason, count in counts.items()})
        for side, names in chat.served_models.items():
            who = whose.get(side, side)
            asked = (chat.simulator if side == "simulator" else chat.assistant_identity).get("name")
            self.served_models.setdefault((who, str(asked)), Counter()).update(names)

    @property
    def usage(self) -> Usage:
        return Usage(**self.tokens)


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
        tally.silent.update(silent := _silent_sides(chat))
        if chat.transient:
            transient[chat.id] = chat
        else:
            transient.pop(chat.id, None)
            tally.add_ending(chat)
            if not silent:
                tally.ended += 1
                tally.ended_tokens.update(asdict(chat.usage))
    for chat in transient.values():  # failures that were not tried again count
        tally.add_ending(chat)
        tally.cut_off += chat.reason == SPENT
    return tally


def _silent_sides(chat: SimulatedConversation) -> list[str]:
    """The sides whose endpoint replied and reported no tokens."""
    used, spoke = chat.usage, any(turn.role == "assistant" for turn in chat.turns)
    simulator = chat.final_output is not None and not used.simulator_prompt_tokens + used.simulator_tokens
    assistant = spoke and not used.assistant_prompt_tokens + used.assistant_tokens
    sides = {"simulator": simulator and chat.simulator, "assistant": assistant and chat.assistant_identity}
    return [side for side, silent in sides.items() if silent and "base_url" in silent]


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
        how = {
            "length": "were cut off at --max-tokens",
            "content_filter": "were cut off by a content filter",
            "refusal": "were refusals",
        }
        lines.append(f"{count} replies of the {side} {how.get(reason, f'ended with finish reason {reason}')}")
    for (who, asked), names in sorted(served_models.items()):
        if len(names) > 1 or any(not _is_version(name, asked) for name in names):
            each = ", ".join(f"{name} in {count}" for name, count in names.most_common())
            lines.append(f"the {who}: {asked} was requested; models that answered ({unit}): {each}")
    return lines


def _is_version(name: str, asked: str) -> bool:
    """Whether a model that answered is the requested one, or a version of it.

    >>> _is_version("gpt-4o-2024-08-06", "gpt-4o"), _is_version("gpt-4o-mini", "gpt-4o")
    (True, False)
    """
    served, wanted = (each.rpartition("/")[2].casefold() for each in (name, asked))
    wanted = wanted.removesuffix("-latest")
    return served.startswith(wanted) and bool(re.fullmatch(r"([-@:](latest|\d{2}[\d-]*))?", served[len(wanted) :]))


@dataclass(frozen=True, slots=True)
class SimulateResult:
    """What is in the log after the run, and how this run went; `simulated` conversations are new.

    `planned` is the number of planned conversations; the log has fewer if the budget was spent. `letters`: all
    questions have options, so that an answer is a letter.
    """

    path: Path
    tally: Tally
    planned: int
    simulated: int
    seconds: float
    prices: Prices
    letters: bool = True

    @property
    def terminations(self) -> Mapping[str, int]:
        """Conversations by termination, all four named."""
        return {name: self.tally.terminations[name] for name in get_args(Termination)}

    @property
    def conversations(self) -> int:
        """How many of the planned conversations are in the log."""
        return self.tally.terminations.total()

    @property
    def left(self) -> int:
        """How many the spent budget left: not begun, or cut off."""
        return self.planned - self.conversations + self.tally.cut_off

    def lines(self) -> list[str]:
        """Lines to print: counts by termination, conversations per second, what went wrong, and the cost."""
        counts = ", ".join(f"{name} {count}" for name, count in self.terminations.items())
        rate = f", {self.simulated / self.seconds:.1f} conversations/s" if self.simulated else ""
        lines = [
            f"{self.conversations} conversations: {counts}",
            f"{self.simulated} new in {self.seconds:.1f} s{rate} -> {self.path}",
            *self._trouble(),
        ]
        usage = self.tally.usage
        priced = [side for side in self.tally.silent if getattr(self.prices, side)]
        if usage.read + usage.written:
            reasoning = usage.simulator_reasoning_tokens + usage.assistant_reasoning_tokens
            cached = usage.simulator_cached_tokens + usage.assistant_cached_tokens
            of_those = [f"{count:,} {what}" for count, what in ((cached, "cached"), (reasoning, "reasoning")) if count]
            lines.append(", ".join([f"tokens: {usage.read:,} read, {usage.written:,} written", *of_those]))
            if self.prices.known and not priced:
                usd = self.prices.usd(usage)
                lines.append(f"cost: {dollars(usd)}, {dollars(usd * 1000 / self.tally.lines)} per 1,000 conversations")
        if priced:
            known = self.prices.usd(usage)
            lines.append(f"cost: unknown{f', at least {dollars(known)}' if known else ''}")
        for side, count in sorted(self.tally.silent.items()):
            lines.append(
                f"the {side}'s endpoint reported no tokens in {count} conversations: tokens and cost do not include it"
            )
        missing, cut_off = self.planned - self.conversations, self.tally.cut_off
        if self.left:
            lines.append(
                f"the budget is spent: {missing} of {self.planned} were not begun, {cut_off} were cut off; "
                "run again with a larger one to continue"
            )
        return lines

    def _trouble(self) -> list[str]:
        tally, lines = self.tally, failure_lines(self.tally.failures)
        if tally.without_letter:
            what = "a letter" if self.letters else "an answer"
            lenient = f"; lenient answer extraction finds one in {tally.lenient_letters}" * self.letters
            lines.append(f"{tally.without_letter} ended without {what} (counted wrong){lenient}")
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
