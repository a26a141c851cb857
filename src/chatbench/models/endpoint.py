"""Chat completions from an OpenAI-compatible endpoint: a provider, vLLM, llama.cpp.

A fault that every request would meet (wrong key, wrong model, a web page in place of an answer, nobody listening) is
found by one small request before the run begins and stops it. A fault that one request meets in mid-run, after the
client's own retries with growing pauses, is a `Failure` of that conversation: data, not a crash. Where a whole round of
requests meets it, the endpoint is down and the run stops; what was recorded stays.

The key is read from an environment variable, told by its name; it is in no message and no result.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_NAME = "OPENAI_API_KEY"
ROUND_THAT_TELLS = 4
"""So many requests that all fail at once mean that the endpoint is down; fewer may be bad luck."""

_SPEC = re.compile(r"(?P<model>[^#]+?)(?:@(?P<url>https?://[^#]*))?(?:#(?P<key_name>.*))?")
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_LIMITS = (("max_tokens", True), ("max_tokens", False), ("max_completion_tokens", False))
"""Dialects, most common first: the name of the token limit, and whether the endpoint takes a seed."""


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """Which model, where, and the name of the environment variable that holds the key ("" for none)."""

    model: str
    base_url: str
    key_name: str

    def key(self) -> str:
        """The key itself.

        Raises:
            ChatbenchError: the variable is not set.
        """
        if not self.key_name:
            return "none"
        value = os.environ.get(self.key_name, "").strip()
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


class ChatEndpoint:
    """One model behind one address, with its decoding; at most `concurrency` requests are under way at once."""

    def __init__(
        self,
        address: EndpointAddress,
        *,
        temperature: float,
        max_tokens: int,
        timeout_seconds: float = 120.0,
        max_retries: int = 5,
        concurrency: int = 8,
    ) -> None:
        self.address = address
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.timeout_seconds = timeout_seconds
        self.concurrency = concurrency
        self._limit_name, self._takes_seed = _LIMITS[0]
        self._client = openai.OpenAI(
            api_key=address.key(), base_url=address.base_url, timeout=timeout_seconds, max_retries=max_retries
        )

    def check(self) -> None:
        """Sends one small request with the settings of the run, and learns which dialect the endpoint speaks.

        Raises:
            ChatbenchError: the endpoint cannot be used, and why.
        """
        messages = (Message("system", ASSISTANT_SYSTEM), Message("user", "Reply with the word: ready"))
        for dialect in _LIMITS:
            self._limit_name, self._takes_seed = dialect
            try:
                self._ask(messages, seed=0)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = self._explained(error)
            except (openai.OpenAIError, _NoAnswerError) as error:
                raise self._explained(error) from None  # the cause may quote the request
            else:
                return
        raise refused

    def complete_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """One reply or failure per request, in their order.

        Raises:
            ChatbenchError: the key or the model is refused, or no request at all got through.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            replies = list(pool.map(self._complete, requests))
        failures = [reply for reply in replies if isinstance(reply, Failure) and reply.transient]
        if len(failures) == len(replies) >= ROUND_THAT_TELLS:
            raise ChatbenchError(
                f"{self.address.base_url}: all of {len(replies)} requests failed ({failures[0].reason})",
                fix="see whether the endpoint is up, then run the same command again: it continues",
            )
        return replies

    def _complete(self, request: Request) -> Reply | Failure:
        try:
            return self._ask(request.messages, request.seed)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise self._explained(error) from None
        except _NoAnswerError as error:
            return Failure(f"endpoint: {error}", transient=True)
        except openai.APITimeoutError:
            return Failure(f"endpoint: no answer within {self.timeout_seconds:g} s", transient=True)
        except openai.APIConnectionError:
            return Failure("endpoint: no connection", transient=True)
        except openai.APIStatusError as error:
            transient = error.status_code in (408, 409, 429) or error.status_code >= 500
            return Failure(f"endpoint: HTTP {error.status_code}", transient=transient)
        except openai.APIError:
            return Failure("endpoint: unreadable answer", transient=True)

    def _ask(self, messages: Sequence[Message], seed: int) -> Reply:
        dialogue: list[ChatCompletionMessageParam] = [message.as_dict() for message in messages]  # type: ignore[misc]  # a union per role
        limits: dict[str, int] = {self._limit_name: self.max_tokens}
        if self._takes_seed:
            limits["seed"] = seed % 2**31  # some servers keep it in 32 bits
        try:
            completion = self._client.chat.completions.create(
                model=self.address.model,
                messages=dialogue,
                temperature=self.temperature,
                **limits,  # type: ignore[call-overload]  # the names depend on the dialect
            )
        except json.JSONDecodeError:
            raise _NoAnswerError("not JSON") from None
        if not isinstance(completion, ChatCompletion):  # the client hands a web page over as text
            raise _NoAnswerError("a web page or other text in place of a chat completion")
        return _reply(completion)

    def _explained(self, error: Exception) -> ChatbenchError:
        """What is wrong with the endpoint, in the user's words; the key never appears in it."""
        where, model = self.address.base_url, self.address.model
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            key = f"the key in {self.address.key_name}" if self.address.key_name else "a request without a key"
            return ChatbenchError(
                f"{where} refuses {key} (HTTP {error.status_code})",
                fix="put a valid key into .env; name its variable with openai:MODEL@URL#NAME",
            )
        if isinstance(error, openai.NotFoundError):
            return ChatbenchError(
                f"{where}: no model {model!r}, or no chat endpoint at this address (HTTP 404)",
                expected="a model that the endpoint lists, and a base URL that ends before /chat/completions",
                fix=f"look at the list: curl {where}/models",
            )
        if isinstance(error, _NoAnswerError):
            return ChatbenchError(
                f"{where}: {error}",
                expected="a chat completion with a text",
                fix="check the base URL (it often ends in /v1)",
            )
        if isinstance(error, openai.APITimeoutError):
            return ChatbenchError(
                f"{where}: no answer within {self.timeout_seconds:g} s", fix="see whether the endpoint is up"
            )
        if isinstance(error, openai.APIConnectionError):
            return ChatbenchError(f"{where}: cannot connect", fix="start the endpoint, or check the address")
        if isinstance(error, openai.APIStatusError):
            said = re.sub(r"\s+", " ", error.message.replace(self._client.api_key, "***"))[:300]
            return ChatbenchError(
                f"{where}: HTTP {error.status_code} for {model!r}: {said}", fix="try again later, or another model"
            )
        return ChatbenchError(f"{where}: {type(error).__name__}", expected="a chat completion")


class _NoAnswerError(Exception):
    """The endpoint answered, but not with a text."""


def _reply(completion: ChatCompletion) -> Reply:
    if not completion.choices or completion.choices[0].message is None:
        raise _NoAnswerError("an answer without a choice")
    choice = completion.choices[0]
    if not (choice.message.content or "").strip():
        raise _NoAnswerError("an empty text")
    tokens = completion.usage.completion_tokens if completion.usage else 0
    return Reply(choice.message.content or "", tokens, choice.finish_reason != "length")
