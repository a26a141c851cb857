"""Which model behind an OpenAI-compatible endpoint: a provider, Azure, vLLM, llama.cpp, Ollama.

Of the key only the name of its environment variable is given; the key itself is in no message and no result.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from chatbench.core.errors import ChatbenchError

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_NAME = "OPENAI_API_KEY"

_SPEC = re.compile(r"(?P<model>[^#]+?)(?:@(?P<url>https?://[^#]*))?(?:#(?P<key_name>.*))?")
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """Which model, where, and the name of the environment variable that holds the key ("" for none)."""

    model: str
    base_url: str
    key_name: str

    def key(self) -> str:
        """The key itself; a `ChatbenchError` where the variable is not set."""
        value = os.environ.get(self.key_name, "").strip() if self.key_name else "none"
        if not value:
            raise ChatbenchError(
                f"no key for {self.base_url}: the environment variable {self.key_name} is not set",
                fix=f"put {self.key_name}=... into .env, or name another variable: openai:MODEL@URL#NAME",
            )
        return value


def read_address(text: str) -> EndpointAddress:
    """Reads `MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE]`; OpenAI's own address needs a key, another only if it is named.

    >>> read_address("gpt-4o")
    EndpointAddress(model='gpt-4o', base_url='https://api.openai.com/v1', key_name='OPENAI_API_KEY')
    >>> read_address("llama@http://localhost:8000/v1")
    EndpointAddress(model='llama', base_url='http://localhost:8000/v1', key_name='')

    Raises:
        ChatbenchError: no model, a URL that holds a password, or a key where its name should stand (never shown).
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ChatbenchError("openai: no model named", expected="openai:MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE]")
    url = (match["url"] or DEFAULT_URL).rstrip("/")
    try:
        parts = urlsplit(url)
        holds_secret = bool(parts.username or parts.password or parts.query)
        _ = parts.port  # raises ValueError where it is not a port
    except ValueError:
        raise ChatbenchError("openai: unreadable base URL", expected="https://HOST/v1") from None
    if holds_secret:
        raise ChatbenchError(
            "openai: the base URL holds a user name, a password or a query", fix="use #NAME_OF_KEY_VARIABLE"
        )
    key_name = match["key_name"]
    if key_name is None:
        key_name = DEFAULT_KEY_NAME if url == DEFAULT_URL else ""
    elif not _ENVIRONMENT_NAME.fullmatch(key_name):
        raise ChatbenchError(
            "openai: what stands after # is not the name of an environment variable",
            expected="a name such as OPENAI_API_KEY, in capitals; never the key itself",
        )
    return EndpointAddress(match["model"], url, key_name)


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How an endpoint is asked: not part of any result.

    At most `concurrency` requests are under way at once. Each takes at most `timeout_seconds`, and is tried `max_tries`
    times where the endpoint answers badly. An endpoint that does not answer at all is waited for `patience_seconds`.
    """

    concurrency: int = 32
    timeout_seconds: float = 120.0
    max_tries: int = 6
    patience_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("max_tries", 1), ("timeout_seconds", 0.001), ("patience_seconds", 0)):
            if not getattr(self, name) >= least:
                raise ChatbenchError(f"{name} is {getattr(self, name)}", expected=f"at least {least}")
