"""What went wrong between us and an endpoint, classified in one place (`fault_of`) by what is to be done about it.

A server's message is quoted without the key, and truncated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

import openai

from chatbench.core.errors import ChatbenchError
from chatbench.endpoints.address import EndpointAddress

FaultKind = Literal["busy", "down", "broken", "unreadable", "overflow", "refused", "forbidden", "unusable"]


class Policy(NamedTuple):
    """Whether a request is tried again, whether that counts as one of its tries, whether to ask less at once."""

    retry: bool = False
    counts: bool = False
    overloaded: bool = False


POLICIES: Mapping[FaultKind, Policy] = {
    "busy": Policy(retry=True, overloaded=True),
    "down": Policy(retry=True),  # no connection, or a lost one
    "broken": Policy(retry=True, counts=True, overloaded=True),  # also: no answer in time
    "unreadable": Policy(retry=True, counts=True),  # not JSON, a web page, no choice, an empty text
    "overflow": Policy(),  # the oldest turns are dropped; where there are none, the conversation fails
    "refused": Policy(),  # the conversation fails
    "forbidden": Policy(),  # the conversation fails: mid-run it may be a filter, at the beginning it is the key
    "unusable": Policy(),  # the run stops
}

_BY_STATUS: Mapping[int, FaultKind] = {
    401: "unusable", 403: "forbidden", 404: "unusable", 408: "broken", 409: "broken",
    429: "busy", 503: "busy", 529: "busy",
}  # fmt: skip
"""Other statuses: "broken" from 500 on, else "refused"."""
_BY_CODE: Mapping[str, FaultKind] = {
    "insufficient_quota": "unusable",
    "billing_hard_limit_reached": "unusable",
    "context_length_exceeded": "overflow",
    "exceed_context_size_error": "overflow",
}
"""By an error's `code` or `type`, whatever its status: no credit comes as 429, an overflow of llama.cpp as 500."""
_MAY_OVERFLOW = (400, 413, 422)
"""Statuses of which only the message says that it is an overflow."""
_OVERFLOW_WORDS = re.compile(
    r"context (?:length|size|window)|max(?:imum)? (?:input|model|sequence) length|prompt is too long|"
    r"max_new_tokens`? must be",
    re.IGNORECASE,
)
_SECRET = re.compile(r"\b(?:sk|org|proj)[-_][\w*.-]{6,}")
"""What providers' keys and account names look like; servers like to repeat them."""
_MOST_QUOTED = 300
CANNOT_CONNECT = "cannot connect"


class NoAnswerError(Exception):
    """The endpoint answered, but not with a text."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `reason` says what was found, `retry_after` how many seconds the server asks to wait."""

    kind: FaultKind
    reason: str
    retry_after: float | None = None
    status: int | None = None

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]


def fault_of(error: Exception, *, timeout_seconds: float, key: str, now: float) -> Fault:
    """The fault that an exception of the client stands for; `now` is the time since the epoch, for dates in headers."""
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Fault("broken", f"no answer within {timeout_seconds:g} s")
    if isinstance(error, openai.APIConnectionError):
        # By name: the client's HTTP library is httpx or httpx2, depending on its version.
        return Fault("down", CANNOT_CONNECT if type(error.__cause__).__name__ == "ConnectError" else "connection lost")
    if not isinstance(error, openai.APIStatusError):
        return Fault("unreadable", str(error) if isinstance(error, NoAnswerError) else "unreadable answer")
    status, message = error.status_code, _message(error.body, key)
    kind = _BY_CODE.get(str(error.code)) or _BY_CODE.get(str(error.type)) or _BY_STATUS.get(status)
    if kind is None and status in _MAY_OVERFLOW and _OVERFLOW_WORDS.search(message):
        kind = "overflow"
    kind = kind or ("broken" if status >= 500 else "refused")
    reason = f"HTTP {status}"
    if kind == "overflow":
        reason = message or reason
        if isinstance(error.body, dict) and "n_prompt_tokens" in error.body:  # llama.cpp says it beside its message
            reason += f" (a prompt of {error.body['n_prompt_tokens']} tokens in a context of {error.body.get('n_ctx')})"
    elif message and kind not in ("busy", "forbidden"):
        reason += f": {message}"
    wait = retry_after(error.response.headers, now) if POLICIES[kind].retry else None
    return Fault(kind, reason, wait, status)


def _message(body: object, key: str) -> str:
    """The message in an error's body, however nested: one line, without what looks like a key; "" for a web page."""
    while isinstance(body, dict):
        body = body.get("message") or body.get("error") or body.get("detail")
    text = _SECRET.sub("***", body.replace(key, "***")) if isinstance(body, str) else ""
    text = " ".join(text.split())
    return "" if text.startswith("<") else text[:_MOST_QUOTED]


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


_EXPLANATIONS: Mapping[FaultKind | int, tuple[str, str, str]] = {
    401: (
        "{where} refuses {key} (HTTP {status})",
        "",
        "put a valid key into .env; name its variable with openai:MODEL@URL#NAME",
    ),
    404: (
        "{where}: no model or adapter {model!r}, or no such service at this address (HTTP 404)",
        "a model of the endpoint, and a base URL that ends in /v1 mostly",
        "look at the list: curl {where}/models",
    ),
    "unusable": ("{where}: {reason}", "", "add credit to the account; the same command continues"),
    "unreadable": ("{where}: {reason}", "a completion with a text", "check the base URL (often it ends in /v1)"),
    "overflow": (
        "{where}: {model!r} has too small a context: {reason}",
        "",
        "ask for fewer tokens with --max-tokens, or serve the model with a larger context",
    ),
    "down": ("{where}: {reason}", "", "start the endpoint, or check the address"),
    "refused": (
        "{where}: {reason} for {model!r}",
        "",
        "see whether the endpoint is up, try again later, or another model",
    ),
}
"""By status or kind: what was found, what was expected, and the fix."""


def explained(fault: Fault, address: EndpointAddress, *, served: tuple[str, ...] = ()) -> ChatbenchError:
    """What is wrong with the endpoint, and what to do, in the user's words; `served` are the models it lists."""
    status = 401 if fault.status == 403 else fault.status
    texts = _EXPLANATIONS.get(status or 0) or _EXPLANATIONS.get(fault.kind, _EXPLANATIONS["refused"])
    found, expected, fix = (
        text.format(
            where=address.base_url,
            model=address.model,
            reason=fault.reason,
            status=fault.status,
            key=f"the key in {address.key_name}" if address.key_name else "a request without a key",
        )
        for text in texts
    )
    if served and status == 404:
        expected = f"one of {', '.join(served[:20])}{', ...' if len(served) > 20 else ''}"
        fix = "serve it (an adapter: vllm serve BASE --enable-lora --lora-modules NAME=FOLDER), or name another"
    return ChatbenchError(found, expected=expected, fix=fix)
