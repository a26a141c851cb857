"""One request to an OpenAI-compatible endpoint: a chat completion, or the completion of a plain text.

The plain text is the form of protocol/plain_text.py: a model that was fine-tuned with it and stands behind
`/v1/completions` is asked for exactly the text of its training. The server tokenises the prompt by itself, apart from
the completion and led by the tokenizer's first special token, which is what training does.

Connections are pooled, and belong to the event loop in which they were opened. Nothing is tried again here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import openai

from chatbench.core.records import Message
from chatbench.endpoints.address import EndpointAddress
from chatbench.endpoints.errors import Fault, NoAnswerError, fault_of
from chatbench.protocol.dialogue import Reply
from chatbench.protocol.plain_text import END, prompt_text, read_completion

EndpointKind = Literal["chat", "completions"]
DIALECTS = (("max_tokens", True), ("max_tokens", False), ("max_completion_tokens", False))
"""Most common first: the name of the token limit, and whether the endpoint takes a seed."""
_SEEDS = 2**31
"""Some servers keep the seed in 32 bits."""


@dataclass
class EndpointClient:
    """One model behind one address, with its decoding. `dialect` is found out by `check_endpoint`."""

    address: EndpointAddress
    kind: EndpointKind
    temperature: float
    max_tokens: int
    timeout_seconds: float
    dialect: tuple[str, bool] = DIALECTS[0]

    def __post_init__(self) -> None:
        self._key = self.address.key()
        self._client: openai.AsyncOpenAI | None = None

    async def complete(self, messages: Sequence[Message], seed: int, *, may_be_empty: bool) -> Reply | Fault:
        """The reply to one request, or what went wrong; without `may_be_empty` a reply without text is a fault."""
        # The body is made here: the client's typed methods take twice as long for each request and check nothing.
        limit_name, takes_seed = self.dialect
        body = {"model": self.address.model, "temperature": self.temperature, limit_name: self.max_tokens}
        body |= {"seed": seed % _SEEDS} if takes_seed else {}
        if self.kind == "chat":
            path, body = "/chat/completions", body | {"messages": [message.as_dict() for message in messages]}
        else:
            path, body = "/completions", body | {"prompt": prompt_text(messages), "stop": [END.strip()]}
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_seconds):  # the client's own limits the wait for each piece only
                answer = await self._opened().post(path, body=body, cast_to=object)
            text, stopped = self._read(answer)
            if not (may_be_empty or text.strip()):
                raise NoAnswerError("an empty text" if stopped else "an empty text (the token limit was reached)")
        except (openai.OpenAIError, NoAnswerError, TimeoutError, ValueError) as error:
            # A ValueError is an answer that is no JSON, or no UTF-8.
            return fault_of(error, timeout_seconds=self.timeout_seconds, key=self._key, now=time.time())
        return Reply(
            text.encode("utf-8", "replace").decode(),  # half a surrogate pair could not be written to a file
            tokens=_count(answer, "completion_tokens"),
            stopped=stopped,
            prompt_tokens=_count(answer, "prompt_tokens"),
            seconds=time.monotonic() - began,
        )

    async def served(self) -> tuple[str, ...]:
        """Names of the models that the endpoint lists; empty where it lists none."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                listed = _item(await self._opened().get("/models", cast_to=object), "data")
        except (openai.OpenAIError, TimeoutError, ValueError):
            return ()
        names = [_item(model, "id") for model in listed] if isinstance(listed, list) else []
        return tuple(name for name in names if isinstance(name, str))

    async def close(self) -> None:
        """Closes the connections; the next request opens others."""
        client, self._client = self._client, None
        if client:
            await client.close()

    def _opened(self) -> openai.AsyncOpenAI:
        if self._client is None:
            self._client = openai.AsyncOpenAI(
                api_key=self._key, base_url=self.address.base_url, timeout=self.timeout_seconds, max_retries=0
            )
        return self._client

    def _read(self, answer: object) -> tuple[str, bool]:
        """The text, and whether it ended by itself. A server may send anything, so nothing is taken for granted."""
        if not isinstance(answer, dict):  # the client hands a web page over as text
            raise NoAnswerError("a web page or other text in place of a completion")
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise NoAnswerError("an answer without a choice")
        choice = choices[0]
        text = _item(_item(choice, "message"), "content") if self.kind == "chat" else _item(choice, "text")
        if not isinstance(text, str):
            raise NoAnswerError("an answer without a text")
        return text if self.kind == "chat" else read_completion(text)[0], _item(choice, "finish_reason") != "length"


def _item(content: object, name: str) -> object:
    return content.get(name) if isinstance(content, dict) else None


def _count(answer: object, name: str) -> int:
    tokens = _item(_item(answer, "usage"), name)
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
