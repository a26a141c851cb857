"""A model behind an endpoint as a dialogue participant, checked before the run.

The check sends one small request: a problem that every request would meet is reported once, with its fix, and
parameters that the endpoint refuses are dropped. If the model has several addresses, each gets that request at the
start, and again after it was left out for a fault, because a different server may be behind it by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.data.examples import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with
from chatbench.endpoints.address import EndpointAddress, EndpointOptions, read_addresses
from chatbench.endpoints.client import EndpointClient, EndpointKind
from chatbench.endpoints.errors import CANNOT_CONNECT, Clock, Fault, Patience, Sleep, explained
from chatbench.protocol.dialogue import Failure, Heard, ParticipantName, Reply, Request
from chatbench.protocol.dialogue_runner import run_to_end
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

T = TypeVar("T")
LIST_TIMEOUT_SECONDS = 30.0
SMALL_PROMPT = (Message("system", ASSISTANT_SYSTEM), Message("user", "Reply with the word: ready"))
SMALL_TRIES = 3
"""Of the small request, if only reasoning comes: of models that reason, a few replies in a hundred are like that."""


def refuse_missing_adapters(addresses: Sequence[str]) -> None:
    """Check an endpoint's model list once, before the first of several runs that each ask for their own adapter.

    An endpoint that lists none of the adapters may use other names or no list: each run's own check finds that out.

    Raises:
        ChatbenchError: it lists some of them but not all.
    """
    texts = dict.fromkeys(addresses)
    if len(texts) < 2:
        return
    for wanted in zip(*map(read_addresses, texts), strict=True):  # one address at a time
        client = EndpointClient(
            wanted[0], "completions", temperature=0, max_tokens=1, timeout_seconds=LIST_TIMEOUT_SECONDS
        )
        served = run_to_end(_then_close([client], client.served()))
        missing = [address.model for address in wanted if address.model not in served]
        if 0 < len(missing) < len(wanted):
            raise ChatbenchError(
                f"{wanted[0].base_url} does not serve {', '.join(missing)}",
                expected=f"all {len(wanted)} models, one per split; it serves {', '.join(served)}",
                fix="serve the others too (scripts/serve_vllm.sh), or simulate one split with --split",
            )


async def _then_close(clients: Iterable[EndpointClient], work: Awaitable[T]) -> T:
    try:
        return await work
    finally:
        for client in clients:
            await client.close()


class EndpointParticipant:
    """A model behind an endpoint: a `ConcurrentParticipant` (`reply`) and, outside an event loop, a `Participant`.

    If a prompt exceeds the model's context, the oldest turns are dropped and counted in the reply. With several
    clients, one for each address of the model, the reply's `model` says which one replied: MODEL@BASE_URL.
    """

    def __init__(
        self,
        clients: Sequence[EndpointClient],
        role: ParticipantName,
        options: EndpointOptions,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._clients = clients
        self._role = role
        self._patient = partial(Patience, options=options, clock=clock, sleep=sleep)
        urls = [each.address.base_url for each in clients]
        self._patience = self._patient(urls, probe=lambda number, _unchecked: _small(self._clients[number]))
        self.unreachable: list[str] = []

    @property
    def identity(self) -> dict[str, object]:
        """What was actually sent: a temperature of None is the server's default; `left_out` lists what it refused.

        Several addresses make one `base_url`, sorted; a run with other addresses is a different run.
        """
        client = self._clients[0]
        found: dict[str, object] = {
            "kind": "openai" if client.kind == "chat" else client.kind,
            "name": client.address.model,
            "base_url": ",".join(sorted(each.address.base_url for each in self._clients)),
            "temperature": client.parameters.get("temperature"),
            "max_tokens": client.max_tokens,
            "reproducible": False,
        }
        found |= {"reasoning_effort": client.parameters.get("reasoning_effort")} if client.reasoning_effort else {}
        return found | ({"left_out": sorted(client.left_out)} if client.left_out else {})

    async def check(self) -> None:
        """Send a small request with the settings of the run to find out which parameters the server accepts.

        Of several addresses, those where nothing listens are left out (`unreachable`) as if they had died mid-run.

        Raises:
            ChatbenchError: the endpoint cannot be used; the message says why.
        """
        absent: dict[str, Fault] = {}
        sent: tuple[list[str], list[str]] | None = None
        # An earlier address may require what a later one refuses.
        while sent != (sent := ([*self._clients[0].parameters], [*self._clients[0].left_out])):
            for client in self._clients:
                if client.address.base_url not in absent and (fault := await self._fault(client)):
                    absent[client.address.base_url] = fault
            if len(self._clients) == 1:
                break
        if len(absent) == len(self._clients):
            raise explained(next(iter(absent.values())), self._clients[0].address)
        self.unreachable = [*absent]
        for client, replica in zip(self._clients, self._patience.replicas, strict=True):
            if fault := absent.get(client.address.base_url):
                replica.leave_out(fault, 0.0)

    async def _fault(self, client: EndpointClient) -> Fault | None:
        """Check one address: None once the small request is answered, a fault if nothing listens there."""

        async def attempt(*_: object) -> Reply | Fault:
            found = await _small(client)
            nobody = isinstance(found, Fault) and found.reason.startswith(CANNOT_CONNECT)
            return replace(found, kind="absent") if isinstance(found, Fault) and nobody else found  # not retried

        patience = self._patient([client.address.base_url])
        while isinstance(found := await patience.answer(attempt, 0), Fault) and found.kind != "absent":
            if found.kind != "refused" or not client.adapt(found):
                raise explained(found, client.address, served=await client.served() if found.kind == "missing" else ())
        return found if isinstance(found, Fault) else None

    async def reply(self, request: Request) -> Reply | Failure:
        """The reply to one request, or a failure with its reason.

        Raises:
            ChatbenchError: the endpoint is down, or refuses the key or the model.
        """
        return await self.reply_in_pieces(request, None)

    async def reply_in_pieces(self, request: Request, heard: Heard | None) -> Reply | Failure:
        """Like `reply`; `heard` is called with the text so far, which starts over if the request is retried.

        Raises:
            ChatbenchError: as `reply`.
        """
        may_be_empty = self._role == "simulator"  # the dialogue handles a simulator that says nothing
        dropped, exchanges = 0, exchanges_asked_with(request.messages)
        client = self._clients[0]

        async def attempt(number: int, unchecked: bool) -> Reply | Fault:
            nonlocal client
            client, several = self._clients[number], len(self._clients) > 1
            if several and unchecked and isinstance(fault := await _small(client), Fault):
                return replace(fault, kind="down")  # whatever the fault: this is not the server it was before
            messages = asked_without_oldest(request.messages, dropped)
            reply = await client.complete(messages, request.seed, may_be_empty=may_be_empty, heard=heard)
            if isinstance(reply, Reply) and several:
                return replace(reply, model=f"{reply.model or client.address.model}@{client.address.base_url}")
            return reply

        while True:
            found = await self._patience.answer(attempt, request.seed)
            if isinstance(found, Reply):
                return replace(found, turns_dropped=TURNS_PER_EXCHANGE * dropped)
            if found.kind != "overflow" or dropped == exchanges:
                break
            dropped += 1
        if found.policy.stops:
            raise explained(found, client.address)
        return Failure(f"endpoint: {found.reason}", found.policy.passes, found.tokens, found.prompt_tokens)

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """As a `Participant`: send all requests concurrently; replies are in their order."""

        async def replies() -> list[Reply | Failure]:
            return list(await asyncio.gather(*map(self.reply, requests)))

        return run_to_end(_then_close(self._clients, replies()))

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        for client in self._clients:
            await client.close()


async def _small(client: EndpointClient) -> Reply | Fault:
    for seed in range(SMALL_TRIES):
        # A base model may have nothing to add to a plain text; a chat model always has.
        found = await client.complete(SMALL_PROMPT, seed, may_be_empty=client.kind == "completions")
        if not (isinstance(found, Fault) and found.kind == "thinking"):
            break
    return found


def open_endpoint_participant(
    address: EndpointAddress | str,
    *,
    kind: EndpointKind,
    role: ParticipantName,
    temperature: float,
    max_tokens: int,
    reasoning_effort: str = "",
    options: EndpointOptions | None = None,
) -> EndpointParticipant:
    """Open a participant and check it with one small request, unless the `options` know that it was checked.

    `address` may be a text in the format of `read_addresses`; `kind` is "completions" for a plain-text model.

    Raises:
        ChatbenchError: the endpoint cannot be used; the message says why.
    """
    options = options or EndpointOptions()
    addresses = read_addresses(address) if isinstance(address, str) else (address,)
    asked = (addresses, kind, temperature, max_tokens, reasoning_effort)
    client = options.checked.get(asked) or EndpointClient(
        addresses[0],
        kind,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout_seconds=options.timeout_seconds,
        reasoning_effort=reasoning_effort,
    )
    clients = [*map(client.at, addresses)]
    participant = EndpointParticipant(clients, role, options)
    if asked not in options.checked:
        run_to_end(_then_close(clients, participant.check()))
        options.checked.update({} if participant.unreachable else {asked: client})
    return participant
