"""Models behind OpenAI-compatible endpoints as speakers of a dialogue, in either role.

A fault that every request would meet (wrong key, wrong model, a web page in place of an answer, nobody listening) is
found by one small request before the run begins and stops it. A fault that one request meets in mid-run is a `Failure`
of that conversation: data, not a crash (see endpoint_faults.py and endpoint_patience.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from chatbench.core.records import Message
from chatbench.models.endpoint import EndpointAddress, EndpointOptions, read_address
from chatbench.models.endpoint_check import check_endpoint
from chatbench.models.endpoint_client import EndpointClient, EndpointKind
from chatbench.models.endpoint_faults import PASSING, Fault, explained
from chatbench.models.endpoint_pace import Pace
from chatbench.models.endpoint_patience import Patience
from chatbench.protocol.dialogue import Failure, Reply, Request, SpeakerName
from chatbench.protocol.driving import run_to_end
from chatbench.protocol.history import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with


class EndpointSpeaker:
    """A model behind an endpoint. Both a `ConcurrentSpeaker` (`reply`) and, where there is no loop, a `Speaker`.

    A prompt that outgrows the model's context loses the oldest turns of the conversation, which the reply says.
    """

    def __init__(
        self,
        client: EndpointClient,
        role: SpeakerName,
        options: EndpointOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._role = role
        self.pace = Pace(options.concurrency, clock, sleep)
        self._patience = Patience(client.address.base_url, options, self.pace, clock, sleep)
        self.identity: dict[str, object] = {
            "kind": "openai" if client.kind == "chat" else client.kind,
            "name": client.address.model,
            "base_url": client.address.base_url,
            "temperature": client.temperature,
            "max_tokens": client.max_tokens,
            "reproducible": False,
        }

    async def reply(self, request: Request) -> Reply | Failure:
        """The reply to one request, or why there is none.

        Raises:
            ChatbenchError: the endpoint is dead, or refuses the key or the model.
        """
        dropped, exchanges = 0, exchanges_asked_with(request.messages)
        while True:
            found = await self._asked(asked_without_oldest(request.messages, dropped), request.seed)
            if isinstance(found, Reply):
                return replace(found, turns_dropped=TURNS_PER_EXCHANGE * dropped)
            if found.kind != "overflow" or dropped == exchanges:
                break
            dropped += 1
        if found.kind == "unusable":
            raise explained(found, self._client.address)
        return Failure(f"endpoint: {found.reason}", transient=found.kind in PASSING or found.kind == "forbidden")

    async def _asked(self, messages: Sequence[Message], seed: int) -> Reply | Fault:
        # A simulator may say nothing, which the dialogue knows how to take.
        empty = self._role == "simulator"
        return await self._patience.answer(lambda: self._client.complete(messages, seed, may_be_empty=empty), seed)

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """As a `Speaker`: all requests side by side, replies in their order."""

        async def all_replies() -> list[Reply | Failure]:
            try:
                return list(await asyncio.gather(*map(self.reply, requests)))
            finally:
                await self.close()

        return run_to_end(all_replies())

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        await self._client.close()


def open_endpoint_speaker(
    address: EndpointAddress | str,
    *,
    kind: EndpointKind,
    role: SpeakerName,
    temperature: float,
    max_tokens: int,
    options: EndpointOptions | None = None,
) -> EndpointSpeaker:
    """A speaker that is known to work; `address` may be the text MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE].

    `kind` is "chat", or "completions" for a model fine-tuned on the plain-text form. One small request is sent.

    Raises:
        ChatbenchError: the endpoint cannot be used, and why.
    """
    options = options or EndpointOptions()
    client = EndpointClient(
        read_address(address) if isinstance(address, str) else address,
        kind,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout_seconds=options.timeout_seconds,
    )
    run_to_end(check_endpoint(client))
    return EndpointSpeaker(client, role, options)
