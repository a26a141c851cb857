"""The one small request before a run: can the endpoint be used with these settings, and which dialect does it speak?

What would meet every request is told here, once. A stray fault is not: the request is repeated a few times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.models.endpoint import read_address
from chatbench.models.endpoint_client import DIALECTS, EndpointClient
from chatbench.models.endpoint_faults import CANNOT_CONNECT, PASSING, Fault, explained
from chatbench.protocol.dialogue import Reply
from chatbench.protocol.driving import run_to_end
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
