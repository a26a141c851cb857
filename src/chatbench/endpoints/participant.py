"""Models behind OpenAI-compatible endpoints as participants of a dialogue, in either role.

A fault that every request would meet (wrong key, wrong model, a web page in place of an answer, nobody listening) is
found by one small request before the run begins and stops it. A fault that one request meets in mid-run is a `Failure`
of that conversation: data, not a crash (see endpoint_faults.py and endpoint_patience.py).

The one small request before a run: can the endpoint be used with these settings, and which dialect does it speak?

What would meet every request is told here, once. A stray fault is not: the request is repeated a few times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.data.truncation import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with
from chatbench.endpoints.address import EndpointAddress, EndpointOptions, read_address
from chatbench.endpoints.client import DIALECTS, EndpointClient, EndpointKind
from chatbench.endpoints.errors import CANNOT_CONNECT, PASSING, Fault, explained
from chatbench.endpoints.retry import Pace, Patience
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request
from chatbench.protocol.dialogue_runner import run_to_end
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

TRIES = 4
PAUSE_SECONDS = 0.5
LIST_TIMEOUT_SECONDS = 30.0
SMALL_PROMPT = (Message("system", ASSISTANT_SYSTEM), Message("user", "Reply with the word: ready"))


async def check_endpoint(client: EndpointClient) -> None:
    """Sends a small request with the settings of the run, and sets the client's dialect.

    Raises:
        ChatbenchError: the endpoint cannot be used, and why.
    """
    try:
        for dialect in DIALECTS:
            client.dialect = dialect
            found = await _small_request(client)
            if isinstance(found, Reply):
                return
            fault = found
            if fault.kind != "refused":
                break
        served = await client.served() if fault.status == 404 else ()
        raise explained(fault, client.address, served=served)
    finally:
        await client.close()


def refuse_missing_adapters(addresses: Sequence[str]) -> None:
    """Looks once at what an endpoint lists, before the first of several runs that ask it for one adapter each.

    An endpoint that has none of them may go by other names, or by none: each run's own request finds that out.

    Args:
        addresses: MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE], one per run, at one endpoint.

    Raises:
        ChatbenchError: it has some of them and not others.
    """
    wanted = [read_address(text) for text in dict.fromkeys(addresses)]
    if len(wanted) < 2:
        return
    client = EndpointClient(wanted[0], "completions", temperature=0, max_tokens=1, timeout_seconds=LIST_TIMEOUT_SECONDS)

    async def listed() -> tuple[str, ...]:
        try:
            return await client.served()
        finally:
            await client.close()

    served = run_to_end(listed())
    missing = [address.model for address in wanted if address.model not in served]
    if 0 < len(missing) < len(wanted):
        raise ChatbenchError(
            f"{wanted[0].base_url} has not {', '.join(missing)}",
            expected=f"all of {len(wanted)}, one per split; it has {', '.join(served)}",
            fix="serve the others too (scripts/serve_vllm.sh), or simulate one split with --split",
        )


async def _small_request(client: EndpointClient) -> Reply | Fault:
    began, attempt = time.monotonic(), 0
    while True:
        # A base model may have nothing to add to a plain text; a chat model always has.
        found = await client.complete(SMALL_PROMPT, seed=0, may_be_empty=client.kind == "completions")
        attempt += 1
        # Nobody listening is told at once, and a server that lets us wait is not waited for more than twice.
        if isinstance(found, Reply) or found.kind not in PASSING or found.reason == CANNOT_CONNECT:
            return found
        if attempt == TRIES or time.monotonic() - began > 2 * client.timeout_seconds:
            return found
        await asyncio.sleep(max(PAUSE_SECONDS * 2**attempt, min(found.retry_after or 0.0, 60.0)))


class EndpointParticipant:
    """A model behind an endpoint. Both a `ConcurrentParticipant` (`reply`) and, where there is no loop, a `Participant`.

    A prompt that outgrows the model's context loses the oldest turns of the conversation, which the reply says.
    """

    def __init__(
        self,
        client: EndpointClient,
        role: ParticipantName,
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
        """As a `Participant`: all requests side by side, replies in their order."""

        async def all_replies() -> list[Reply | Failure]:
            try:
                return list(await asyncio.gather(*map(self.reply, requests)))
            finally:
                await self.close()

        return run_to_end(all_replies())

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
    """A participant that is known to work; `address` may be the text MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE].

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
    return EndpointParticipant(client, role, options)
