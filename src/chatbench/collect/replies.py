"""The assistants of a study: opened once, prompted by many people at once, stopped at the spending limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from chatbench.collect.config import CollectedStudy
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Study
from chatbench.endpoints.address import EndpointOptions
from chatbench.endpoints.client import CHARACTERS_PER_TOKEN
from chatbench.endpoints.errors import masked
from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    Heard,
    Reply,
    Request,
    StreamingParticipant,
    derive_seed,
)
from chatbench.protocol.prompts import ASSISTANT_SYSTEM
from chatbench.simulation.participants import open_assistant

PATIENCE = EndpointOptions(concurrency=64, timeout_seconds=60, max_tries=3, patience_seconds=60)
"""People wait for the reply, so an assistant is given up sooner than in a simulation."""
SPENT = "the study's limit of tokens or dollars is reached"
log = logging.getLogger("chatbench.collect")


def open_assistants(study: CollectedStudy) -> dict[str, AnyParticipant]:
    """Open and check the study's assistants, by name."""
    questions = Study("collected", study.questions, (), (), ())
    return {
        spec.name: open_assistant(
            spec, questions, temperature=each.temperature, max_tokens=each.max_tokens, options=PATIENCE
        )
        for spec, each in zip(study.specs, study.config.assistants, strict=True)
    }


class Assistants:
    """Sends people's chats to the assistants; `spent` is (input, output) tokens so far, by assistant."""

    def __init__(
        self, study: CollectedStudy, participants: Mapping[str, AnyParticipant], spent: Mapping[str, tuple[int, int]]
    ) -> None:
        self._study = study
        self._participants = participants
        self.spent = dict(spent)
        self._local = asyncio.Lock()  # a local model replies to one request at a time

    @property
    def exhausted(self) -> bool:
        """Whether the study's limit of tokens or dollars is reached."""
        limits = self._study.config.limits
        tokens = sum(map(sum, self.spent.values()))
        usd = self._study.usd(self.spent)
        return bool((limits.tokens and tokens >= limits.tokens) or (limits.usd and usd >= limits.usd))

    async def reply(
        self, name: str, session: str, question: str, turns: Sequence[str], heard: Heard | None
    ) -> Reply | Failure:
        """Reply to a chat, given as alternating texts of person and assistant; failures are logged.

        `heard` is called with the reply so far, if the assistant can stream.
        """
        if self.exhausted:
            return Failure(SPENT)
        chat = [Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)]
        seed = derive_seed(0, f"{session}|{question}", len(turns), "assistant")
        request = Request(
            "assistant", (Message("system", ASSISTANT_SYSTEM), *chat), question, seed, "reply", f"{session}|{question}"
        )
        participant = self._participants[name]
        try:
            if heard and isinstance(participant, StreamingParticipant):
                found = await participant.reply_in_pieces(request, heard)
            elif isinstance(participant, ConcurrentParticipant):
                found = await participant.reply(request)
            else:
                async with self._local:
                    (found,) = await asyncio.to_thread(participant.reply_all, [request])
        except ChatbenchError as error:  # fails this chat only; the study goes on
            found = Failure(str(error.found), transient=True)
        except Exception as error:  # a local model without memory, for example: likewise
            log.exception("assistant %s", name)
            found = Failure(masked(f"{type(error).__name__}: {error}", ""))
        if isinstance(found, Failure):
            log.warning("assistant %s: %s", name, found.reason)
        elif not found.prompt_tokens:  # the server does not count tokens: estimate them, so that limits still hold
            read = sum(len(message.content) for message in request.messages) // CHARACTERS_PER_TOKEN
            found = replace(found, prompt_tokens=read, tokens=found.tokens or len(found.text) // CHARACTERS_PER_TOKEN)
        read, written = self.spent.get(name, (0, 0))
        self.spent[name] = read + found.prompt_tokens, written + found.tokens
        return found

    async def close(self) -> None:
        """Close all connections."""
        for participant in self._participants.values():
            if isinstance(participant, ConcurrentParticipant):
                await participant.close()
