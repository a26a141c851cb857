"""What can go wrong with an endpoint, and what is done about it: retries, waiting, fewer requests at once.

Each fault has a kind, which says how to handle it (`POLICIES`). The kind of an error response (`fault_of`) follows from
its code, else from its message (`wordings.toml`), else from its status: missing credit comes as 400, 402, 403 or 429, a
context overflow as 400, 413, 422, 429 or 500. A server's message is quoted truncated and without the key.

A request that gets a bad answer is retried with exponential backoff, up to `max_tries` times; then its conversation
fails. Waiting for an endpoint that is busy or does not answer at all counts as no try. The run stops after
`patience_seconds` without a good answer to any request, or once many requests in a row were given up and a small one
(`probe`) is not answered either.

A model may have several addresses. A request goes to the least loaded one. An address that fails it is left out, with
exponential backoff, and the request moves on at once; only when no address is left does it pause and the patience run.

The number of concurrent requests is halved when the endpoint is overloaded, once for all that were in flight together,
and grows by an eighth of the maximum per round of good answers: additive increase and multiplicative decrease, as in
TCP (source: Chiu and Jain 1989). No request is sent before the time of a Retry-After.
"""

from __future__ import annotations

import asyncio
import base64
import html
import random
import re
import tomllib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, cast
from urllib.parse import quote, quote_plus

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import JsonTextError, parse_json
from chatbench.endpoints.address import SECRET, EndpointAddress, EndpointOptions
from chatbench.protocol.dialogue import Reply

FaultKind = Literal[
    "busy", "down", "broken", "unreadable", "thinking", "overflow", "refused", "filtered", "forbidden",
    "absent", "certificate", "key", "header", "streaming", "account", "missing", "moved",
]  # fmt: skip


class Policy(NamedTuple):
    """How to handle a fault: `retry` the request, `counts` it as one of its tries, `overloaded` lowers concurrency.

    `passes`: a later run may get a reply. `stops`: the run ends, because no request would be answered.
    """

    retry: bool = False
    counts: bool = False
    overloaded: bool = False
    passes: bool = False
    stops: bool = False


STOP = Policy(stops=True)
POLICIES: Mapping[FaultKind, Policy] = {
    "busy": Policy(retry=True, overloaded=True, passes=True),
    "down": Policy(retry=True, passes=True),  # no connection, or a lost one
    "broken": Policy(retry=True, counts=True, overloaded=True, passes=True),  # also: no answer in time
    "unreadable": Policy(retry=True, counts=True, passes=True),  # not JSON, a web page, no choice, an empty text
    "thinking": Policy(passes=True),  # nothing but reasoning came, mostly up to the token limit
    "overflow": Policy(),  # the oldest turns are dropped; once none is left, the conversation fails
    "refused": Policy(),  # the conversation fails
    "filtered": Policy(),  # the conversation fails: its content is filtered
    "forbidden": Policy(passes=True),  # a filter, perhaps, in the middle of a run; the key at its start
    "absent": STOP, "certificate": STOP, "key": STOP, "header": STOP, "streaming": STOP, "account": STOP,
    "missing": STOP, "moved": STOP,
}  # fmt: skip

_BY_STATUS: Mapping[int, FaultKind] = {
    401: "key", 402: "account", 403: "forbidden", 404: "missing", 405: "missing", 408: "broken", 409: "broken",
    410: "missing", 413: "overflow", 425: "busy", 429: "busy", 498: "key", 503: "busy", 529: "busy",
}  # fmt: skip
"""Other statuses: "moved" from 300, "refused" from 400, "broken" from 500 on."""
_BY_CODE: Mapping[str, FaultKind] = {
    "insufficient_quota": "account",
    "billing_hard_limit_reached": "account",
    "invalid_api_key": "key",
    "context_length_exceeded": "overflow",
    "exceed_context_size_error": "overflow",
    "content_filter": "filtered",
}
_WORDS = (
    "error", "message", "detail", "errors", "msg", "error_message", "error_msg", "description", "metadata", "raw"
)  # fmt: skip
"""Keys under which servers put error messages, outermost first; a router has its provider's in the last two."""
SHORTEST_KEY = 8
"""Shorter ones are placeholders (1234, none), which occur in ordinary text: they are not masked."""
_MOST_QUOTED = 300
_MOST_MASKED = 10 * _MOST_QUOTED
"""Characters of a message that are searched for the key: an error page may have megabytes."""
_TOKEN_LIMIT = re.compile(r"max_(completion_|output_|new_)?tokens")
CANNOT_CONNECT = "cannot connect"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `reason` describes it, `retry_after` is the wait that the server asks for, in seconds.

    `parameter` is the one that the server refused. Token counts are what was paid for in vain, as far as known. `fix`
    replaces the one of its kind (`FIX`).
    """

    kind: FaultKind
    reason: str
    retry_after: float | None = None
    parameter: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    fix: str = ""

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]


@cache
def wordings() -> tuple[tuple[FaultKind, re.Pattern[str], Mapping[str, object]], ...]:
    """(kind, pattern, entry) of each entry of `wordings.toml`, in file order."""
    entries = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))["wording"]
    return tuple((cast(FaultKind, each["kind"]), re.compile(each["pattern"], re.IGNORECASE), each) for each in entries)


def fault_of(status: int, body: object, headers: Mapping[str, str], *, key: str, now: float) -> Fault:
    """Classify an error response; `now` is the time since the epoch, for dates in headers."""
    objects = list(_objects(body))
    details = {name: value for each in reversed(objects) for name, value in each.items() if value is not None}
    told: object = body if isinstance(body, str) else ""
    for each in objects:  # the innermost message counts; a validator's follows the location that it refers to
        told = next((each[name] for name in _WORDS if isinstance(each.get(name), str) and each[name]), told)
        if isinstance(place := each.get("loc"), list):
            told = f"{'.'.join(map(str, place))}: {told}"
    message = "" if "<html" in str(body)[:500].lower() else " ".join(masked(str(told)[:_MOST_MASKED], key).split())
    message = message[:_MOST_QUOTED]
    codes = [_BY_CODE.get(str(each.get(name))) for name in ("code", "type") for each in objects]
    words = (kind for kind, pattern, _ in wordings() if pattern.search(message))
    other = {3: "moved", 4: "refused"}.get(status // 100, "broken")  # of an error in a good status too
    kind = cast(FaultKind, next(filter(None, codes), None) or next(words, None) or _BY_STATUS.get(status, other))
    if kind == "moved":
        message = f"it redirects to {masked(headers.get('location', 'another address'), key)[:_MOST_QUOTED]}"
    reason = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    if kind == "overflow" and "n_prompt_tokens" in details:  # llama.cpp reports them beside its message
        reason += f" (a prompt of {details['n_prompt_tokens']} tokens in a context of {details.get('n_ctx')})"
    place = details.get("loc")
    named = details.get("param") or (place[-1] if isinstance(place, list) and place else "")
    wait = retry_after(headers, now) if POLICIES[kind].retry else None
    limit = kind == "refused" and _TOKEN_LIMIT.search(f"{named} {message}")
    return Fault(kind, reason, wait, parameter=str(named), fix="choose another --max-tokens" if limit else "")


def _objects(body: object, depth: int = 5) -> Iterator[Mapping[str, object]]:
    """Yield the objects that describe an error, outermost first; of a list its first item, of a text its JSON."""
    body = body[0] if isinstance(body, list) and body else body
    if isinstance(body, str) and body.lstrip().startswith("{"):
        with suppress(JsonTextError):
            body = parse_json(body)
    if isinstance(body, dict) and depth:
        yield body
        for name in _WORDS:
            yield from _objects(body.get(name), depth - 1)


def masked(text: str, key: str) -> str:
    """Mask the key, in any encoding, its beginning and its end, and anything that looks like a key."""
    if len(key) >= SHORTEST_KEY:
        spelt = {
            key,
            quote(key, safe=""),
            quote_plus(key),
            html.escape(key),
            key.replace("/", r"\/"),
            key.encode().hex(),
        }
        for offset in range(3):  # inside a longer base64 text it starts at one of three offsets
            inside = base64.b64encode(b"-" * offset + key.encode())[(0, 2, 3)[offset] :].rstrip(b"=").decode()[:-1]
            spelt |= {inside, inside.translate(str.maketrans("+/", "-_"))}
        for length in range(SHORTEST_KEY, len(key)):
            spelt |= {key[:length], key[-length:]}
        for each in sorted(spelt, key=len, reverse=True):
            text = re.sub(re.escape(each), "***", text, flags=re.IGNORECASE)
    return SECRET.sub("***", text)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The wait that a response asks for, in seconds: `retry-after-ms`, or `retry-after` as seconds or HTTP date.

    >>> retry_after({"retry-after": "2.5"}, now=0)
    2.5
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=20)
    40.0
    >>> retry_after({"retry-after": "soon"}, now=0) is None
    True
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            return float(text) * unit
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


FIX: Mapping[FaultKind, str] = {
    "key": "put a valid key into .env; name its variable with openai:MODEL@URL#NAME",
    "header": "the key goes as 'Authorization: Bearer'; for another header put a proxy before it (docs/endpoints.md)",
    "streaming": "put a proxy before it that collects the stream (docs/endpoints.md), or choose another model",
    "certificate": "use the host's name in the certificate; if self-signed: SSL_CERT_FILE=FILE.pem before the command",
    "account": "add credit to the account or raise its limit; the same command continues",
    "missing": "list its models: curl {where}/models",
    "moved": "if the address that it redirects to is right, give that one: redirects are not followed",
    "unreadable": "check the base URL (it usually ends in /v1); the same command continues",
    "thinking": "raise --max-tokens (of assistants alone: --assistant-max-tokens), or lower --reasoning-effort",
    "overflow": "ask for fewer tokens with --max-tokens, or serve the model with a larger context",
    "absent": "start the endpoint, or check the address",
    "refused": "change what the server objects to, or choose another model; the same command continues",
    "filtered": "choose another model or provider: even a harmless request is filtered",
}
_SERVER_FIX = "check the server's log; the same command continues"


def explained(fault: Fault, address: EndpointAddress, *, served: tuple[str, ...] = ()) -> ChatbenchError:
    """Turn a fault into an error with a fix for the user; `served` lists the endpoint's models."""
    where, kind = address.base_url, "key" if fault.kind == "forbidden" else fault.kind
    kind = "key" if kind == "header" and not address.key_name else kind
    found, expected = f"{where}: {fault.reason} for {address.model!r}", ""
    fix = fault.fix or FIX.get(kind, _SERVER_FIX)
    if kind in ("key", "header"):
        key = f"the key in {address.key_name}" if address.key_name else "a request without a key"
        found = f"{where} refuses {key} ({fault.reason})"
    elif kind == "missing":
        found = f"{where}: no model or adapter {address.model!r}, or no such service at this address ({fault.reason})"
        expected = "a model that the endpoint serves, and its base URL, which usually ends in /v1"
        if served:
            expected = f"one of {', '.join(served[:20])}{', ...' if len(served) > 20 else ''}"
            fix = "serve it (an adapter: vllm serve BASE --enable-lora --lora-modules NAME=FOLDER), or name another"
    elif kind == "overflow":
        found = f"{where}: the context of {address.model!r} is too small: {fault.reason}"
    elif kind == "unreadable":
        expected = "a completion with text"
    return ChatbenchError(found, expected=expected, fix=fix.format(where=where))


Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

GROWTH = 1 / 8
"""Of the maximum, per round: with one stray overload per hundred answers, about 40 of 64 slots then stay open (the
square root of 2 x 8 / 0.01); growth by one slot per round would leave 14."""
GIVEN_UP_IN_A_ROW = 8
"""If this many requests in a row are given up, and then a small one too, the endpoint is considered broken."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
CONTINUES = "check that the endpoint is up, then run the same command again: it continues"


class Replica:
    """One address of a model: first-come, first-served slots for its requests, `limit` of `most` of which are open.

    After a fault it is left out for a pause, until `opens_at`, then tried again, by one request at a time, until one is
    answered. `unchecked` means that a different server may be behind it by then.
    """

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self.most = most
        self.limit = float(most)
        self.unchecked = False
        self.opens_at = float("-inf")
        self._clock = clock
        self._sleep = sleep
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asked_to_wait_until = self._halved_at = float("-inf")
        self._faults = 0  # since the last answer; of requests in flight together only the first counts

    @asynccontextmanager
    async def place(self, leaves: Callable[[], bool] = lambda: False) -> AsyncIterator[float]:
        """Hold a slot; yield the time at which it was acquired (see `leave_out`).

        It is yielded before the time of a Retry-After only to a request that `leaves`: that can go elsewhere.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
            while (pause := self._asked_to_wait_until - self._clock()) > 0 and not leaves():
                await self._sleep(min(pause, LONGEST_PAUSE_SECONDS))
            yield self._clock()
        finally:
            # A request cancelled while it waited has no slot; one cancelled just as it was admitted has.
            if turn.done() and not turn.cancelled():
                self._taken -= 1
                self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._taken += 1

    @property
    def load(self) -> float:
        """Requests that hold a slot or wait for one, per open slot."""
        return (self._taken + len(self._waiting)) / self.limit

    @property
    def is_open(self) -> bool:
        """Whether requests may be sent: it is not left out, or its pause is over and no request is trying it."""
        return not self._faults or (self._clock() >= self.opens_at and not self.load)

    def leave_out(self, fault: Fault, asked_at: float) -> None:
        """Record a fault met by a request that acquired its slot at `asked_at`; an overload halves the open slots."""
        now, wait = self._clock(), fault.retry_after or 0.0
        if fault.policy.overloaded:
            if asked_at > self._halved_at:
                self.limit, self._halved_at = max(1.0, self.limit / 2), now
            self._asked_to_wait_until = max(self._asked_to_wait_until, now + wait)
        if now >= self.opens_at:
            self.opens_at = now + min(FIRST_PAUSE_SECONDS * 2 ** min(self._faults, 10), LONGEST_PAUSE_SECONDS)
            self._faults += 1
        self.opens_at = max(self.opens_at, now + wait)
        self.unchecked |= fault.kind != "busy"

    def answered(self) -> None:
        """Record a good answer."""
        self.limit = min(self.most, self.limit + max(1.0, self.most * GROWTH) / self.limit)
        self._admit()
        self.opens_at, self._faults, self.unchecked = float("-inf"), 0, False


Attempt = Callable[[int, bool], Awaitable[Reply | Fault]]
"""Sends the request to the address with that number; the flag says whether to check the address first."""


class Patience:
    """Retries requests to one model until they are answered or given up; shared by all requests of a participant."""

    def __init__(
        self,
        where: Sequence[str],
        options: EndpointOptions,
        clock: Clock,
        sleep: Sleep,
        probe: Attempt | None = None,
    ) -> None:
        self.replicas = [Replica(options.concurrency, clock, sleep) for _ in where]
        self._where = ", ".join(where)
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._probe = probe
        self._failing_since: float | None = None
        self._good_at = float("-inf")
        self._given_up = 0

    async def answer(self, attempt: Attempt, seed: int) -> Reply | Fault:
        """The reply, or the fault for which the request was given up; `seed` seeds the jitter of the pauses.

        Raises:
            ChatbenchError: the endpoint is down or broken.
        """
        chance = random.Random(seed)
        began, tries, pauses, written, read = None, 0, 0, 0, 0
        asked: set[Replica] = set()  # since the last pause
        while True:
            # An open one if there is any, preferably not asked yet, and the least loaded; else the first to open.
            one = min(
                self.replicas,
                key=lambda each: (not each.is_open, each in asked, each.load if each.is_open else each.opens_at),
            )
            leaves = partial(self._better_elsewhere, one, one.opens_at, {*asked, one})
            async with one.place(leaves) as asked_at:
                if leaves():
                    continue
                began = asked_at if began is None else began  # waiting for a slot is not the server's fault
                found = await attempt(self.replicas.index(one), one.unchecked)
            written, read = written + found.tokens, read + found.prompt_tokens
            found = replace(found, tokens=written, prompt_tokens=read)  # failed replies are paid for too
            if isinstance(found, Reply):
                one.answered()
                self._given_up = 0
            if isinstance(found, Reply) or not found.policy.retry:
                self._failing_since, self._good_at = None, self._clock()
                # Whatever is refused for one request may be refused for all, for a reason with no known wording yet.
                if isinstance(found, Fault) and found.kind in ("forbidden", "thinking", "refused"):
                    await self._give_up(found)
                return found
            one.leave_out(found, asked_at)
            asked.add(one)
            if not (elsewhere := self._elsewhere(asked)):
                self._wait_on(found, asked_at)
            tries += found.policy.counts
            if tries >= self._options.max_tries or self._clock() - began >= self._options.patience_seconds:
                await self._give_up(found)
                return found
            if elsewhere:
                continue
            longest = min(FIRST_PAUSE_SECONDS * 2**pauses, LONGEST_PAUSE_SECONDS)
            named = min(found.retry_after or 0.0, self._opens_in())
            await self._sleep(max(chance.uniform(0.5, 1.0) * longest, named))
            pauses += 1
            asked.clear()

    def _elsewhere(self, asked: Set[Replica]) -> bool:
        return any(one.is_open for one in self.replicas if one not in asked)

    def _better_elsewhere(self, one: Replica, opened_at: float, asked: Set[Replica]) -> bool:
        """Whether to leave the queue for a slot at `one`, which opened or was to open at `opened_at` on joining it."""
        return one.opens_at > min(opened_at, self._clock()) and self._elsewhere(asked)

    def _opens_in(self) -> float:
        """Seconds until the first replica opens."""
        return min(one.opens_at for one in self.replicas) - self._clock()

    def _wait_on(self, fault: Fault, asked_at: float) -> None:
        """Record a transient fault; stop the run if it has lasted, or will last, longer than the patience."""
        now, patience = self._clock(), self._options.patience_seconds
        if self._failing_since is None:
            self._failing_since = max(asked_at, self._good_at)
        if (fault.retry_after or 0.0) > patience and (len(self.replicas) == 1 or self._opens_in() > patience):
            raise ChatbenchError(
                f"{self._where}: asks to wait {fault.retry_after:,.0f} s ({fault.reason})",
                fix="run the same command again after that: it continues",
            )
        if now - self._failing_since >= patience:
            raise ChatbenchError(
                f"{self._where}: no good answer for {patience:g} s ({fault.reason})",
                fix=fault.fix or FIX.get(fault.kind, CONTINUES),
            )

    async def _give_up(self, fault: Fault) -> None:
        self._failing_since = None
        self._given_up += 1
        if self._given_up < GIVEN_UP_IN_A_ROW:
            return
        # Perhaps none but these can be answered (a question that is always filtered): ask something harmless.
        self._given_up = 0
        if self._probe is None or isinstance(await self.answer(self._probe, 0), Fault):
            raise ChatbenchError(
                f"{self._where}: {GIVEN_UP_IN_A_ROW} requests in a row failed ({fault.reason})",
                fix=fault.fix or FIX.get(fault.kind, CONTINUES),
            )
