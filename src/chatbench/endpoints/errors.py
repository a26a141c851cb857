"""Classification of everything that can go wrong with an endpoint, by how to handle it (`fault_of`).

An error is classified by its code, else by its message (`wordings.toml`), else by its status: missing credit comes as
400, 402, 403 or 429, a context overflow as 400, 413, 422, 429 or 500. A server's message is quoted truncated and
without the key.
"""

from __future__ import annotations

import base64
import html
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, cast
from urllib.parse import quote, quote_plus

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import JsonTextError, parse_json
from chatbench.endpoints.address import SECRET, EndpointAddress

FaultKind = Literal[
    "busy", "down", "broken", "unreadable", "thinking", "overflow", "refused", "filtered", "forbidden",
    "absent", "key", "account", "missing", "moved",
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
    "absent": STOP, "key": STOP, "account": STOP, "missing": STOP, "moved": STOP,
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
CANNOT_CONNECT = "cannot connect"


class NoAnswerError(Exception):
    """The endpoint answered, but without a usable text."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `reason` describes it, `retry_after` is the wait that the server asks for, in seconds.

    `parameter` is the one that the server refused. Token counts are what was paid for in vain, as far as known.
    """

    kind: FaultKind
    reason: str
    retry_after: float | None = None
    status: int | None = None
    parameter: str = ""
    tokens: int = 0
    prompt_tokens: int = 0

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
    message = "" if "<html" in str(body)[:500].lower() else " ".join(masked(_text(body), key).split())[:_MOST_QUOTED]
    codes = [_BY_CODE.get(str(each.get(name))) for name in ("code", "type") for each in objects]
    words = (kind for kind, pattern, _ in wordings() if pattern.search(message))
    other: FaultKind = "moved" if status < 400 else "refused" if status < 500 else "broken"
    kind = cast(FaultKind, next(filter(None, codes), None) or next(words, None) or _BY_STATUS.get(status, other))
    if kind == "moved":
        message = f"it redirects to {masked(headers.get('location', 'another address'), key)[:_MOST_QUOTED]}"
    reason = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    if kind == "overflow" and "n_prompt_tokens" in details:  # llama.cpp reports them beside its message
        reason += f" (a prompt of {details['n_prompt_tokens']} tokens in a context of {details.get('n_ctx')})"
    place = details.get("loc")
    named = details.get("param") or (place[-1] if isinstance(place, list) and place else "")
    wait = retry_after(headers, now) if POLICIES[kind].retry else None
    return Fault(kind, reason, wait, status, parameter=str(named))


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


def _text(body: object) -> str:
    """The message of an error, however nested; a validator's with the location that it refers to."""
    told: object = body if isinstance(body, str) else ""
    for each in _objects(body):
        told = next((each[name] for name in _WORDS if isinstance(each.get(name), str) and each[name]), told)
        place = each.get("loc")
        if isinstance(place, list):
            told = f"{'.'.join(map(str, place))}: {told}"
    return str(told)


def masked(text: str, key: str) -> str:
    """Mask the key, in any encoding, and anything that looks like a key."""
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
    "account": "add credit to the account or raise its limit; the same command continues",
    "missing": "list its models: curl {where}/models",
    "moved": "if the address that it redirects to is right, give that one: redirects are not followed",
    "unreadable": "check the base URL (it usually ends in /v1)",
    "thinking": "raise --max-tokens, or reduce its reasoning with --reasoning-effort low",
    "overflow": "ask for fewer tokens with --max-tokens, or serve the model with a larger context",
    "absent": "start the endpoint, or check the address",
    "refused": "change what the server objects to, or choose another model; the same command continues",
    "filtered": "choose another model or provider: even a harmless request is filtered",
}
_SERVER_FIX = "check the server's log; the same command continues"


def explained(fault: Fault, address: EndpointAddress, *, served: tuple[str, ...] = ()) -> ChatbenchError:
    """Turn a fault into an error with a fix for the user; `served` lists the endpoint's models."""
    where, kind = address.base_url, "key" if fault.kind == "forbidden" else fault.kind
    found, expected, fix = f"{where}: {fault.reason} for {address.model!r}", "", FIX.get(kind, _SERVER_FIX)
    if kind == "key":
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
