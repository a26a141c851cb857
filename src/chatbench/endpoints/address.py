"""Specification of a model behind an OpenAI-compatible endpoint: a provider, Azure, vLLM, llama.cpp, Ollama.

A specification names the environment variable of the API key; the key itself is in no message and no result. An
ambiguous address is refused, so that no request goes to a host other than the one that was named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from chatbench.core.errors import ChatbenchError

DEFAULT_URL = "https://api.openai.com/v1"
EXPECTED = "openai:MODEL[@BASE_URL[,BASE_URL...]][#NAME_OF_KEY_VARIABLE]"

SECRET = re.compile(r"\b(?:sk|org|proj|gsk)[-_][\w*.-]{6,}|\bAIza[\w-]{20,}")
"""Patterns of API keys and account names, which servers and users tend to repeat in messages."""
_SPEC = re.compile(r"(?P<model>[^#]+?)(?:@(?P<url>https?://[^#]*))?(?:#(?P<key_name>.*))?", re.DOTALL)
_ADDRESS = re.compile(r"\w+:/+.*|localhost(?:[:/].*)?|(?:\d+\.){3}\d+(?:[:/].*)?|\[?[\w.-]+\]?:\d{2,5}/.*", re.DOTALL)
"""Matches an address in place of a model name."""
_HOST = re.compile(r".*[:/].*|[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}", re.DOTALL)
"""Matches an address after an @."""

SYSTEM_ROLE = "system role"
"""What a model without one does not accept: its system message is put before the user's (models/chat_template.py)."""


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """A model, its base URL, and the environment variable that holds its key ("" for none)."""

    model: str
    base_url: str
    key_name: str

    def key(self) -> str:
        """Return the API key, "" if none is needed; raise `ChatbenchError` if its variable is unset or malformed."""
        value = os.environ.get(self.key_name, "").strip()
        if self.key_name and not value:
            raise ChatbenchError(
                f"no key for {self.base_url}: the environment variable {self.key_name} is not set",
                fix=f"put {self.key_name}=... into .env, or name another variable: openai:MODEL@URL#NAME",
            )
        if not re.fullmatch(r"[!-~]*", value):
            raise ChatbenchError(
                f"the environment variable {self.key_name} contains characters not allowed in a key (a line break?)",
                fix="copy the key again, on one line",
            )
        return value


def without_secrets(text: str) -> str:
    """Mask whatever may be a key or a password in a specification, so that a message can show it.

    >>> without_secrets("openia:gpt-4o@https://me:pass@host/v1?key=x#sk-12345678")
    'openia:gpt-4o@https://***@host/v1?***'
    """
    text = re.sub(r"//[^/\s]*@", "//***@", text.partition("#")[0])
    return SECRET.sub("***", re.sub(r"\?.*", "?***", text, flags=re.DOTALL))


def read_addresses(text: str) -> tuple[EndpointAddress, ...]:
    """Parse `MODEL[@BASE_URL[,BASE_URL...]][#NAME_OF_KEY_VARIABLE]`: a model and every address that serves it.

    >>> [each.base_url for each in read_addresses("llama@http://one:8000/v1,http://two:8000/v1")]
    ['http://one:8000/v1', 'http://two:8000/v1']

    Raises:
        ChatbenchError: as `read_address`, or an address is missing, lacks http://, or appears twice.
    """
    match = _SPEC.fullmatch(text)
    if match is None or "," not in (match["url"] or ""):
        return (read_address(text),)
    urls, key = match["url"].split(","), "" if match["key_name"] is None else f"#{match['key_name']}"
    for number, url in enumerate(urls, 1):
        if not re.match("https?://", url):
            found = f"address {number} of {len(urls)}, {without_secrets(url)!r},"
            raise ChatbenchError(f"openai: {found} does not start with http:// or https://", expected=EXPECTED)
    addresses = tuple(read_address(f"{match['model']}@{url}{key}") for url in urls)
    for address in addresses:
        if addresses.count(address) > 1:
            raise ChatbenchError(f"openai: {address.base_url} is given twice", expected="each address once")
    return addresses


def read_address(text: str) -> EndpointAddress:
    """Parse `MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE]`; only OpenAI's own URL implies a key (OPENAI_API_KEY).

    >>> read_address("gpt-4o")
    EndpointAddress(model='gpt-4o', base_url='https://api.openai.com/v1', key_name='OPENAI_API_KEY')
    >>> read_address("llama@http://localhost:8000/v1")
    EndpointAddress(model='llama', base_url='http://localhost:8000/v1', key_name='')

    Raises:
        ChatbenchError: no model, an address that is malformed or includes a service, a URL that holds a password, or
            a key in place of its variable's name (never shown).
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ChatbenchError("openai: no model named", expected=EXPECTED)
    model, url, key_name = match["model"], (match["url"] or DEFAULT_URL).rstrip("/"), match["key_name"]
    name, _, place = model.rpartition("@")
    if _ADDRESS.fullmatch(place) or (name and not match["url"] and _HOST.fullmatch(place)):
        place = re.sub(r"^\w*:?/+", "", without_secrets(place))
        scheme = "http" if re.match(r"localhost|\d|\[|[\w-]+:", place) else "https"
        raise ChatbenchError(
            f"openai: {without_secrets(model)!r} contains an address without http:// or https://, or names no model",
            expected=EXPECTED,
            fix=f"did you mean {without_secrets(name) or 'MODEL'}@{scheme}://{place}{'' if '/' in place else '/v1'}?",
        )
    if re.match(r"(?:sk-|gsk_|AIza)[\w-]{16,}", model) or not model.isprintable():
        raise ChatbenchError(
            "openai: the model name looks like an API key, or contains unprintable characters", expected=EXPECTED
        )
    _check_url(url)
    if key_name is None:
        key_name = "OPENAI_API_KEY" if url == DEFAULT_URL else ""
    elif not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_name):
        raise ChatbenchError(
            "openai: the part after # is not the name of an environment variable",
            expected="a name such as OPENAI_API_KEY, in capitals; never the key itself",
        )
    return EndpointAddress(model, url, key_name)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is not a port
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not re.fullmatch(r"[\w.-]+|[\da-f:.]+", host, re.ASCII) or not re.fullmatch(r"[!#-+\--;=?-\[\]_a-z~%]+", url):
        raise ChatbenchError("openai: unreadable base URL", expected="https://HOST/v1, in ASCII characters")
    if "openai.azure.com" in host and ("/deployments/" in parts.path or parts.query):
        raise ChatbenchError(
            f"openai: {without_secrets(url)} is the address of a single Azure deployment",
            expected="the v1 address, with the deployment as the model",
            fix=f"openai:DEPLOYMENT@https://{host.partition('.')[0]}.openai.azure.com/openai/v1#AZURE_OPENAI_API_KEY",
        )
    if parts.username or parts.password or parts.query:
        raise ChatbenchError(
            "openai: the base URL contains a user name, a password or a query",
            fix="remove it; name the environment variable that holds the key: #NAME_OF_KEY_VARIABLE",
        )
    services = "chat/completions|completions|responses|messages|models|embeddings"
    if service := re.search(f"/(?:{services})$", parts.path):
        raise ChatbenchError(
            f"openai: the base URL ends in {service[0]}, which is the path of a service, not part of the base",
            fix=f"did you mean {url.removesuffix(service[0])}?",
        )


MOST = 1_000_000
"""The largest number of requests, tries and seconds that is accepted."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How requests are sent to an endpoint; not part of any result.

    Each address gets at most `concurrency` requests at once. A request times out after `timeout_seconds`, and is tried
    up to `max_tries` times if it gets a bad answer. `patience_seconds` is how long to wait for an endpoint that does
    not answer at all. A command has one: what is `checked` is not asked the small request again with the same settings.
    """

    concurrency: int = 32
    timeout_seconds: float = 120.0
    max_tries: int = 6
    patience_seconds: float = 300.0
    checked: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--concurrency", self.concurrency, 1),
            ("max_tries", self.max_tries, 1),
            ("--timeout", self.timeout_seconds, 0.001),
            ("--patience", self.patience_seconds, 0),
        ):
            if not least <= value <= MOST:
                raise ChatbenchError(f"{name} is {value:g}", expected=f"from {least} to {MOST:,}")

    def untold(self, notes: Iterable[str]) -> list[str]:
        """Those of a command's notes that were not asked for before: each is said once."""
        new = [note for note in dict.fromkeys(notes) if note not in self._told]
        self._told.update(new)
        return new
