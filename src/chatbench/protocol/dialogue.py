"""The two-step loop between a simulated user and an assistant, as a pure generator of requests.

`dialogue` says what it needs next (a `Request`) and is sent what came back (a `Reply` or a `Failure`); it calls no
model itself, so one loop serves one chat, a batch of local chats, or many concurrent requests to an endpoint. In the
end it returns an `Outcome`. Up to `max_user_turns` free user turns, each answered by the assistant, then one forced
answer; a first turn that reads "Answer: B" is an ordinary message.

Where the published loop is silent: a simulator that says nothing ends the conversation as `failed` with the reason
`EMPTY_TURN`, because many assistants refuse an empty message, and one that accepts it would answer a question that
nobody asked.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), simulation with the two-step simulator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from chatbench.core.records import Message, Question, Termination, Turn
from chatbench.protocol.answers import FinalAnswer, clean_output, read_answer
from chatbench.protocol.prompts import ASSISTANT_SYSTEM, FIRST_TURN_HELP, PromptVariant, simulator_messages

MAX_USER_TURNS = 10
EMPTY_TURN = "the simulator said nothing"

SpeakerName = Literal["simulator", "assistant"]
Purpose = Literal["turn", "forced", "reply"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a conversation needs next: `speaker` continues `messages`; `seed` fixes its random choices."""

    speaker: SpeakerName
    messages: tuple[Message, ...]
    question_id: str
    seed: int
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Reply:
    """A speaker's text; `stopped` is False where the token limit, not the speaker, ended it.

    `turns_dropped` of the oldest turns did not fit the speaker's context: it did not see them.
    """

    text: str
    tokens: int = 0
    stopped: bool = True
    turns_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no reply came. A `transient` fault (a busy endpoint) may be gone at the next run, any other stays."""

    reason: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished conversation: `turns` alternate from the user; the final answer is given outside them.

    `answer_text` is what followed `Answer: `, valid or not; `letter` is None where it is invalid or missing;
    `forced_text` is what the simulator said when it was forced to answer, None where it was not forced.
    `turns_dropped` is the largest number of turns that a speaker did not see.
    """

    turns: tuple[Turn, ...]
    termination: Termination
    reason: str = ""
    transient: bool = False
    answer_text: str | None = None
    letter: str | None = None
    forced_text: str | None = None
    simulator_tokens: int = 0
    assistant_tokens: int = 0
    turns_dropped: int = 0


class Speaker(Protocol):
    """Somebody who can continue conversations, several at once; the order of requests does not change a reply."""

    @property
    def identity(self) -> dict[str, object]:
        """Kind, name, weights or revision, decoding: what a result must state, and no secret."""
        ...

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """One reply or failure per request, in the order of the requests."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionSpeaker:
    """A speaker that is a function of one request: scripted assistants, recorded ones, and fakes in tests."""

    function: Callable[[Request], Reply | Failure]
    identity: dict[str, object]

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return [self.function(request) for request in requests]


def derive_seed(base_seed: int, conversation_id: str, turn: int, speaker: str) -> int:
    """A seed in 0..2^63-1 that only depends on its arguments, the same on any machine (first bytes of a SHA-256)."""
    key = f"{base_seed}|{conversation_id}|{turn}|{speaker}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


@dataclass(slots=True)
class _State:
    """What a running conversation has gathered so far."""

    question: Question
    conversation_id: str
    base_seed: int
    turns: list[Turn] = field(default_factory=list)
    simulator_tokens: int = 0
    assistant_tokens: int = 0
    turns_dropped: int = 0

    def request(self, speaker: SpeakerName, messages: Sequence[Message], purpose: Purpose) -> Request:
        seed = derive_seed(self.base_seed, self.conversation_id, len(self.turns) // 2, speaker)
        return Request(speaker, tuple(messages), self.question.id, seed, purpose)

    def end(
        self,
        termination: Termination,
        *,
        failure: Failure | None = None,
        answer: FinalAnswer | None = None,
        forced_text: str | None = None,
    ) -> Outcome:
        return Outcome(
            turns=tuple(self.turns),
            termination=termination,
            reason=failure.reason if failure else "",
            transient=failure.transient if failure else False,
            answer_text=answer.text if answer else None,
            letter=answer.letter if answer else None,
            forced_text=forced_text,
            simulator_tokens=self.simulator_tokens,
            assistant_tokens=self.assistant_tokens,
            turns_dropped=self.turns_dropped,
        )


Dialogue = Generator[Request, Reply | Failure, Outcome]
_Asked = Generator[Request, Reply | Failure, str | Failure]


def dialogue(
    question: Question,
    conversation_id: str,
    *,
    base_seed: int,
    max_user_turns: int = MAX_USER_TURNS,
    variant: PromptVariant = "two-step",
) -> Dialogue:
    """Yields requests, is sent a reply or a failure for each, returns the `Outcome`.

    Raises:
        ValueError: `max_user_turns` is below 1.
    """
    if max_user_turns < 1:
        raise ValueError(f"max_user_turns is {max_user_turns}, expected at least 1")
    state = _State(question, conversation_id, base_seed)
    for turn in range(max_user_turns):
        said = FIRST_TURN_HELP if variant == "two-step-help" and turn == 0 else (yield from _user(state, variant))
        if isinstance(said, Failure):
            return state.end("failed", failure=said)
        if turn > 0 and (answer := read_answer(said)):
            return state.end("answered", answer=answer)
        if not said.strip():
            return state.end("failed", failure=Failure(EMPTY_TURN))
        replied = yield from _assistant(state, said)
        if isinstance(replied, Failure):
            state.turns.append(Turn("user", said))
            return state.end("failed", failure=replied)
        state.turns += [Turn("user", said), Turn("assistant", replied)]
    return (yield from _forced_answer(state, variant))


def _forced_answer(state: _State, variant: PromptVariant) -> Dialogue:
    said = yield from _user(state, variant, forced=True)
    if isinstance(said, Failure):
        return state.end("failed", failure=said)
    answer = read_answer(said)
    return state.end("forced" if answer else "no_answer", answer=answer, forced_text=said)


def _user(state: _State, variant: PromptVariant, *, forced: bool = False) -> _Asked:
    messages = simulator_messages(state.question.full_text, state.turns, forced=forced, variant=variant)
    reply = yield state.request("simulator", messages, "forced" if forced else "turn")
    if isinstance(reply, Failure):
        return reply
    state.simulator_tokens += reply.tokens
    state.turns_dropped = max(state.turns_dropped, reply.turns_dropped)
    return clean_output(reply.text)


def _assistant(state: _State, said: str) -> _Asked:
    history = [Message(turn.role, turn.text) for turn in (*state.turns, Turn("user", said))]
    reply = yield state.request("assistant", (Message("system", ASSISTANT_SYSTEM), *history), "reply")
    if isinstance(reply, Failure):
        return reply
    state.assistant_tokens += reply.tokens
    state.turns_dropped = max(state.turns_dropped, reply.turns_dropped)
    return reply.text
