"""A model behind an endpoint as a participant of dialogues, checked before the run.

The check sends one small request: what would meet every request is reported once, with its fix, and the dialect that
the endpoint speaks is found out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.data.truncation import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with
from chatbench.endpoints.address import EndpointAddress, EndpointOptions, read_address
from chatbench.endpoints.client import DIALECTS, EndpointClient, EndpointKind
from chatbench.endpoints.errors import CANNOT_CONNECT, Fault, explained
from chatbench.endpoints.retry import Clock, Pace, Patience, Sleep
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request
from chatbench.protocol.dialogue_runner import run_to_end
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

T = TypeVar("T")
TRIES = 4
PAUSE_SECONDS = 0.5
LIST_TIMEOUT_SECONDS = 30.0
SMALL_PROMPT = (Message("system", ASSISTANT_SYSTEM), Message("user", "Reply with the word: ready"))


async def check_endpoint(client: EndpointClient) -> None:
    """Sends a small request with the settings of the run, and sets the client's dialect.

    Raises:
        ChatbenchError: the endpoint cannot be used, and why.
    """
    for dialect in DIALECTS:
        client.dialect = dialect
        found = await _small_request(client)
        if isinstance(found, Reply):
            return
        if found.kind != "refused" or dialect == DIALECTS[-1]:
            raise explained(found, client.address, served=await client.served() if found.status == 404 else ())


async def _small_request(client: EndpointClient) -> Reply | Fault:
    """Tried a few times: a stray fault at the beginning stops nothing."""
    began = time.monotonic()
    for attempt in range(1, TRIES + 1):
        # A base model may have nothing to add to a plain text; a chat model always has.
        found = await client.complete(SMALL_PROMPT, seed=0, may_be_empty=client.kind == "completions")
        # Nobody listening is reported at once, and a server that lets us wait is not waited for more than twice.
        if isinstance(found, Reply) or not found.policy.retry or found.reason == CANNOT_CONNECT:
            break
        if attempt == TRIES or time.monotonic() - began > 2 * client.timeout_seconds:
            break
        await asyncio.sleep(max(PAUSE_SECONDS * 2**attempt, min(found.retry_after or 0.0, 60.0)))
    return found


def refuse_missing_adapters(addresses: Sequence[str]) -> None:
    """Looks once at what an endpoint lists, before the first of several runs that ask it for one adapter each.

    An endpoint that has none of them may go by other names, or by none: each run's own request finds that out.

    Raises:
        ChatbenchError: it has some of them and not others.
    """
    wanted = [read_address(text) for text in dict.fromkeys(addresses)]
    if len(wanted) < 2:
        return
    client = EndpointClient(wanted[0], "completions", temperature=0, max_tokens=1, timeout_seconds=LIST_TIMEOUT_SECONDS)
    served = run_to_end(_then_close(client, client.served()))
    missing = [address.model for address in wanted if address.model not in served]
    if 0 < len(missing) < len(wanted):
        raise ChatbenchError(
            f"{wanted[0].base_url} has not {', '.join(missing)}",
            expected=f"all of {len(wanted)}, one per split; it has {', '.join(served)}",
            fix="serve the others too (scripts/serve_vllm.sh), or simulate one split with --split",
        )


async def _then_close(client: EndpointClient, work: Awaitable[T]) -> T:
    try:
        return await work
    finally:
        await client.close()


class EndpointParticipant:
    """A model behind an endpoint: a `ConcurrentParticipant` (`reply`) and, where there is no loop, a `Participant`.

    A prompt that outgrows the model's context loses the oldest turns of the conversation, which the reply says.
    """

    def __init__(
        self,
        client: EndpointClient,
        role: ParticipantName,
        options: EndpointOptions,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
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
        may_be_empty = self._role == "simulator"  # it may say nothing, which the dialogue knows how to take
        dropped, exchanges = 0, exchanges_asked_with(request.messages)
        while True:
            messages = asked_without_oldest(request.messages, dropped)
            attempt = partial(self._client.complete, messages, request.seed, may_be_empty=may_be_empty)
            found = await self._patience.answer(attempt, request.seed)
            if isinstance(found, Reply):
                return replace(found, turns_dropped=TURNS_PER_EXCHANGE * dropped)
            if found.kind != "overflow" or dropped == exchanges:
                break
            dropped += 1
        if found.kind == "unusable":
            raise explained(found, self._client.address)
        return Failure(f"endpoint: {found.reason}", transient=found.policy.retry or found.kind == "forbidden")

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """As a `Participant`: all requests side by side, replies in their order."""

        async def replies() -> list[Reply | Failure]:
            return list(await asyncio.gather(*map(self.reply, requests)))

        return run_to_end(_then_close(self._client, replies()))

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        await self._client.close()


def open_endpoint_participant(
    address: EndpointAddress | str,
    *,
    kind: EndpointKind,
    role: ParticipantName,
    temperature: float,
    max_tokens: int,
    options: EndpointOptions | None = None,
) -> EndpointParticipant:
    """A participant that is known to work: one small request is sent.

    `address` may be a text as `read_address` takes it; `kind` is "completions" for a model of the plain-text form.

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
    run_to_end(_then_close(client, check_endpoint(client)))
    return EndpointParticipant(client, role, options)
