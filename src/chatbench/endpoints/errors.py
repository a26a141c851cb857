"""What went wrong between us and an endpoint, sorted by what is to be done about it.

| kind | found as | what is done |
|---|---|---|
| busy | HTTP 429, 503, 529 | wait, ask less at once, try again |
| down | no connection, a reset | wait, try again |
| broken | no answer in time, HTTP 408, 409, 5xx | ask less at once, try again a few times |
| unreadable | not JSON, a web page, no choice, an empty text | try again a few times |
| overflow | the prompt does not fit the model's context | drop the oldest turns, or fail that conversation |
| refused | HTTP 400, 413, 422 and the like | fail that conversation |
| forbidden | HTTP 403 | fail that conversation; in mid-run it may be a filter, at the beginning it is the key |
| unusable | HTTP 401, 404, no credit left | stop the run |

Words of the server are quoted without the key and cut short.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import openai

from chatbench.core.errors import ChatbenchError
from chatbench.endpoints.address import EndpointAddress

FaultKind = Literal["busy", "down", "broken", "unreadable", "overflow", "refused", "forbidden", "unusable"]
PASSING: frozenset[FaultKind] = frozenset({"busy", "down", "broken", "unreadable"})
"""Kinds that may be gone at the next try."""

CANNOT_CONNECT = "cannot connect"
_BUSY = (429, 503, 529)
_BROKEN = (408, 409)
_REFUSED = (400, 413, 422)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
_OVERFLOW_CODES = ("context_length_exceeded", "exceed_context_size_error")
_OVERFLOW_WORDS = re.compile(
    r"context (?:length|size|window)|max(?:imum)? (?:input|model|sequence) length|prompt is too long|"
    r"max_new_tokens`? must be",
    re.IGNORECASE,
)
_SECRET = re.compile(r"\b(?:sk|org|proj)[-_][\w*.-]{6,}")
"""What providers' keys and account names look like; servers like to repeat them."""
_MOST_QUOTED = 300


class NoAnswerError(Exception):
    """The endpoint answered, but not with a text."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `reason` says what was found, `retry_after` how many seconds the server asks to wait."""

    kind: FaultKind
    reason: str
    retry_after: float | None = None
    status: int | None = None


def fault_of(error: Exception, *, timeout_seconds: float, key: str, now: float) -> Fault:
    """The fault that an exception of the client stands for; `now` is the time since the epoch, for dates in headers."""
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Fault("broken", f"no answer within {timeout_seconds:g} s")
    if isinstance(error, openai.APIConnectionError):
        # By name: the client's HTTP library is httpx or httpx2, depending on its version.
        return Fault("down", CANNOT_CONNECT if type(error.__cause__).__name__ == "ConnectError" else "connection lost")
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, key, now)
    return Fault("unreadable", str(error) if isinstance(error, NoAnswerError) else "unreadable answer")


def _status_fault(error: openai.APIStatusError, key: str, now: float) -> Fault:
    status, said = error.status_code, quoted(_words(error.body), key)
    reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    known = (error.code or "", error.type or "")
    if status == 401 or status == 404 or any(word in _NO_CREDIT for word in known):
        return Fault("unusable", reason, status=status)
    if status == 403:
        return Fault("forbidden", f"HTTP {status}", status=status)
    # Some servers tell of an overflow as an error of their own, and another try would find the same.
    if any(word in _OVERFLOW_CODES for word in known) or (status in _REFUSED and _OVERFLOW_WORDS.search(said)):
        return Fault("overflow", (said or reason) + _numbers(error.body), status=status)
    if status in _BUSY:
        return Fault("busy", f"HTTP {status}", retry_after(error.response.headers, now), status)
    if status in _BROKEN or status >= 500:
        return Fault("broken", reason, retry_after(error.response.headers, now), status)
    return Fault("refused", reason, status=status)


def _numbers(body: object) -> str:
    """What llama.cpp says beside its message."""
    prompt, room = (body.get(name) if isinstance(body, dict) else None for name in ("n_prompt_tokens", "n_ctx"))
    return f" (a prompt of {prompt} tokens, room for {room})" if isinstance(prompt, int) else ""


def _words(body: object) -> str:
    """The message in an error's body: servers nest it in different ways."""
    while isinstance(body, dict):
        body = body.get("message") or body.get("error") or body.get("detail")
    return body if isinstance(body, str) else ""


def quoted(message: str, key: str) -> str:
    """What a server said, on one line, without the key or what looks like one, and cut short; "" for a web page."""
    said = re.sub(r"\s+", " ", _SECRET.sub("***", message.replace(key, "***"))).strip()
    return "" if said.startswith("<") else said[:_MOST_QUOTED]


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date.

    >>> retry_after({"retry-after": "2.5"}, now=0)
    2.5
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=20)
    40.0
    >>> retry_after({"retry-after": "soon"}, now=0) is None
    True
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) * unit
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now, 0.0)
    except (TypeError, ValueError):
        return None


def explained(fault: Fault, address: EndpointAddress, *, served: tuple[str, ...] = ()) -> ChatbenchError:
    """What is wrong with the endpoint, and what to do, in the user's words; `served` are the models it lists."""
    where, model = address.base_url, address.model
    if fault.status in (401, 403):
        key = f"the key in {address.key_name}" if address.key_name else "a request without a key"
        return ChatbenchError(
            f"{where} refuses {key} (HTTP {fault.status})",
            fix="put a valid key into .env; name its variable with openai:MODEL@URL#NAME",
        )
    if fault.status == 404:
        names = ", ".join(served[:20]) + (", ..." if len(served) > 20 else "")
        return ChatbenchError(
            f"{where}: no model or adapter {model!r}, or no such service at this address (HTTP 404)",
            expected=f"one of {names}" if served else "a model of the endpoint, and a base URL that ends in /v1 mostly",
            fix="serve it (an adapter: vllm serve BASE --enable-lora --lora-modules NAME=FOLDER), or name another"
            if served
            else f"look at the list: curl {where}/models",
        )
    if fault.kind == "unusable":
        return ChatbenchError(f"{where}: {fault.reason}", fix="add credit to the account; the same command continues")
    if fault.kind == "unreadable":
        return ChatbenchError(
            f"{where}: {fault.reason}",
            expected="a completion with a text",
            fix="check the base URL (often it ends in /v1)",
        )
    if fault.kind == "overflow":
        return ChatbenchError(
            f"{where}: {model!r} has too small a context: {fault.reason}",
            fix="ask for fewer tokens with --max-tokens, or serve the model with a larger context",
        )
    if fault.kind == "down":
        return ChatbenchError(f"{where}: {fault.reason}", fix="start the endpoint, or check the address")
    return ChatbenchError(
        f"{where}: {fault.reason} for {model!r}",
        fix="see whether the endpoint is up, try again later, or another model",
    )
