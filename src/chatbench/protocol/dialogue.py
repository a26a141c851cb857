"""The two-step loop between a simulated user and an assistant, as a pure generator of requests.

`dialogue` yields what it needs next (a `Request`) and is sent the result (a `Reply` or a `Failure`); it calls no model
itself, so the same loop serves one chat, a batch of local chats, or many concurrent requests to an endpoint. At the end
it returns the record of the chat. There are up to `max_user_turns` free user turns, each answered by the assistant,
then one forced answer; "Answer: B" in the first turn is an ordinary message. The simulator's style
(`prompt_styles.py`) decides how it is prompted and how its output is parsed.

Where the published loop does not say: a simulator that writes nothing ends the conversation as `failed` with the reason
`EMPTY_TURN`, because many assistants refuse an empty message, and one that accepts it would answer a question that
nobody asked. Other failure modes of simulators are counted (`failure_modes.py`) and change nothing, unless `end_on`
names them: then that message is not sent, and the answer is forced at once. This does not apply to the first message,
since there is no chat to answer from yet.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), simulation with the two-step simulator.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol, cast, runtime_checkable

from chatbench.core.records import (
    EMPTY_TURN,
    AnswerProbabilities,
    Message,
    Question,
    Reasoning,
    SimulatedConversation,
    Termination,
    Turn,
    Usage,
)
from chatbench.protocol.answers import FinalAnswer, Said, lenient_letter, split_reasoning
from chatbench.protocol.failure_modes import FailureMode, observed_in
from chatbench.protocol.prompt_styles import TWO_STEP, Style
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

MAX_USER_TURNS = 10
MUCH_LONGER = 100
"""A prompt that is this many characters longer has more tokens, whatever the tokenizer."""

ParticipantName = Literal["simulator", "assistant"]
Purpose = Literal["turn", "forced", "reply"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a dialogue needs next: `participant` continues `messages`; `seed` fixes its sampling."""

    participant: ParticipantName
    messages: tuple[Message, ...]
    question_id: str
    seed: int
    purpose: Purpose
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A participant's text without its `reasoning`; tagged reasoning is moved out of the text.

    `finish` is "stop", or why the reply was cut short, such as "length" (the token limit). `tokens` were written and
    `prompt_tokens` read, in `seconds` from request to reply; 0 if unknown. `turns_dropped` is how many of the oldest
    turns did not fit the participant's context. `answer` is set if a simulator was asked for its probabilities, `model`
    if an endpoint says which one it served.
    """

    text: str
    tokens: int = 0
    finish: str = "stop"
    turns_dropped: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    answer: AnswerProbabilities | None = None
    reasoning: str = ""
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        inside, said = split_reasoning(self.text)
        object.__setattr__(self, "text", said)
        object.__setattr__(self, "reasoning", "\n".join(filter(None, (self.reasoning, inside))))

    @property
    def only_thought(self) -> bool:
        """Whether the token limit was reached before anything but reasoning was written."""
        return bool(self.reasoning or self.reasoning_tokens) and self.finish == "length" and not self.text.strip()


ONLY_THOUGHT = "the token limit was used up by reasoning (raise --max-tokens)"
"""Failure reason for a reply that holds only reasoning."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply; a `transient` failure (a busy endpoint) may not recur in the next run.

    Tokens may have been charged all the same.
    """

    reason: str
    transient: bool = False
    tokens: int = 0
    prompt_tokens: int = 0


class Participant(Protocol):
    """Continues several conversations at once; the order of requests does not change a reply."""

    @property
    def identity(self) -> dict[str, object]:
        """Kind, name, weights or revision, decoding: what a result must state, without secrets."""
        ...

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """Return one reply or failure per request, in the order of the requests."""
        ...


@runtime_checkable
class SteppedParticipant(Participant, Protocol):
    """Advances many conversations step by step, with new ones joining between steps: a local model."""

    def join(self, key: int, request: Request) -> None:
        """Queue a request; among those waiting for room, the one with the lowest key goes first."""
        ...

    def step(self) -> list[tuple[int, Reply | Failure]]:
        """Run one step; return keys and replies of the requests that it finished, perhaps none."""
        ...

    def share_memory(self, gib: float | None, models: int) -> None:
        """Limit its cache of prompts to `gib` GiB divided by the number of `models`; None: a third of free memory."""
        ...

    def forget(self) -> None:
        """Drop what is cached of earlier requests, so that a run does not depend on what ran before."""
        ...


@runtime_checkable
class ConcurrentParticipant(Protocol):
    """Serves many conversations concurrently, one request each: a model behind an endpoint."""

    @property
    def identity(self) -> dict[str, object]:
        """As in `Participant`."""
        ...

    async def reply(self, request: Request) -> Reply | Failure:
        """Return the reply to one request, or why there is none."""
        ...

    async def close(self) -> None:
        """Release what belongs to the running event loop (connections); it can be used again in another loop."""
        ...


AnyParticipant = Participant | ConcurrentParticipant


Heard = Callable[[str], None]
"""Called with the text of a reply so far; each call extends the text, or replaces it if the reply started over."""


@runtime_checkable
class StreamingParticipant(Protocol):
    """Streams its replies."""

    async def reply_in_pieces(self, request: Request, heard: Heard) -> Reply | Failure:
        """Return the complete reply to one request, like `ConcurrentParticipant.reply`; meanwhile `heard` is called."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionParticipant:
    """A participant made from a function of one request: scripted or recorded assistants, and fakes in tests."""

    function: Callable[[Request], Reply | Failure]
    identity: dict[str, object]

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return [self.function(request) for request in requests]


def function_identity(function: object) -> dict[str, object]:
    """What a log records of a person's own function: name and source, so that an edited one is another function.

    Of a `functools.partial` its arguments count too; of an object with a `__repr__` of its own (a dataclass), and of
    its methods, that. Addresses in them do not.
    """
    state = ""
    while isinstance(function, partial):
        state += repr((function.args, sorted(function.keywords.items())))
        function = function.func
    named = cast(type, function if inspect.isroutine(function) else type(function))
    owner = function if named is type(function) else getattr(function, "__self__", None)
    if owner is not None and type(owner).__repr__ is not object.__repr__:
        state += repr(owner)
    state = re.sub(" at 0x[0-9a-fA-F]+", "", state)  # addresses: others in each process
    try:
        source = inspect.getsource(named) + state
    except (OSError, TypeError):  # typed at a prompt that keeps no source
        source = state
    source_sha256 = hashlib.sha256(source.encode()).hexdigest()
    return {"kind": "python", "name": named.__name__, "source_sha256": source_sha256, "reproducible": False}


def derive_seed(base_seed: int, conversation_id: str, turn: int, participant: str) -> int:
    """Derive a seed in 0..2^63-1 from the arguments alone, the same on any machine (first bytes of a SHA-256)."""
    key = f"{base_seed}|{conversation_id}|{turn}|{participant}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


@dataclass(slots=True)
class _State:
    question: Question
    conversation_id: str
    base_seed: int
    style: Style
    turns: list[Turn] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    turns_dropped: int = 0
    observed: Counter[str] = field(default_factory=Counter)
    probabilities: list[AnswerProbabilities | None] = field(default_factory=list)
    last_output: str | None = None
    reasoning: list[Reasoning] = field(default_factory=list)
    finish_reasons: dict[str, Counter[str]] = field(default_factory=dict)
    served_models: dict[str, list[str]] = field(default_factory=dict)
    truncated: Counter[str] = field(default_factory=Counter)
    last_prompt: dict[str, tuple[int, int]] = field(default_factory=dict)

    def request(
        self, participant: ParticipantName, messages: Sequence[Message], purpose: Purpose, draw: str = ""
    ) -> Request:
        """Build a request; `draw` gives a second request at the same point of the chat another seed."""
        seed = derive_seed(self.base_seed, self.conversation_id, len(self.turns) // 2, participant + draw)
        return Request(participant, tuple(messages), self.question.id, seed, purpose, self.conversation_id)

    def count(self, request: Request, reply: Reply | Failure) -> None:
        """Record what a reply cost and what the server says about it."""
        side = request.participant
        self.tokens.update({f"{side}_tokens": reply.tokens, f"{side}_prompt_tokens": reply.prompt_tokens})
        if isinstance(reply, Failure):
            return
        self.tokens[f"{side}_reasoning_tokens"] += reply.reasoning_tokens
        self.tokens[f"{side}_cached_tokens"] += reply.cached_tokens
        self.seconds += reply.seconds
        self.turns_dropped = max(self.turns_dropped, reply.turns_dropped)
        if reply.reasoning:
            self.reasoning.append(Reasoning(side, len(self.turns), reply.reasoning))
        if reply.finish != "stop":
            self.finish_reasons.setdefault(side, Counter())[reply.finish] += 1
        if reply.model and reply.model not in (served := self.served_models.setdefault(side, [])):
            served.append(reply.model)
        # A server that truncates prompts silently reads no more tokens of a longer one.
        length = sum(len(message.content) for message in request.messages)
        before, read = self.last_prompt.get(side, (length, 0))
        if 0 < reply.prompt_tokens <= read and length >= before + MUCH_LONGER and not reply.turns_dropped:
            self.truncated[side] += 1
        self.last_prompt[side] = (length, reply.prompt_tokens)

    def end(self, last: Said | FinalAnswer | Failure, *, forced: bool = False) -> SimulatedConversation:
        """Build the record of a chat that ends with a failure or with what was said, freely or when `forced`."""
        failure = last if isinstance(last, Failure) else None
        answer = last if isinstance(last, FinalAnswer) else None
        termination: Termination = "failed" if failure else "no_answer"
        if answer:
            termination = "forced" if forced else "answered"
        forced_text = last.text if isinstance(last, Said) else answer.message if answer and forced else None
        text = answer.text if answer else forced_text
        letter = self.question.read(answer.text) if answer else None
        return SimulatedConversation(
            id=self.conversation_id,
            question_id=self.question.id,
            assistant="",
            index=0,
            style=self.style.name,
            seed=self.base_seed,
            turns=tuple(self.turns),
            termination=termination,
            reason=failure.reason if failure else "",
            transient=failure.transient if failure else False,
            answer_text=answer.text if answer else None,
            letter=letter,
            lenient_letter=lenient_letter(text, self.question.options) if text and letter is None else None,
            forced_text=forced_text,
            final_output=None if failure else self.last_output,
            turns_dropped=self.turns_dropped,
            observed=dict(self.observed),
            usage=Usage(**self.tokens),
            seconds=round(self.seconds, 3),
            answer_probabilities=tuple(self.probabilities) if any(self.probabilities) else (),
            expected_correct=expected_correct(self.question, self.probabilities[-1] if answer else None),
            reasoning=tuple(self.reasoning),
            finish_reasons={side: dict(counts) for side, counts in self.finish_reasons.items()},
            served_models={side: tuple(names) for side, names in self.served_models.items()},
            prompts_truncated=dict(self.truncated),
        )


def expected_correct(question: Question, last: AnswerProbabilities | None) -> float | None:
    """Probability of the right letter if a chat ended with an answer; None if it is not known."""
    return last.letters[question.letters.index(question.answer)] if last and question.options else None


Dialogue = Generator[Request, Reply | Failure, SimulatedConversation]
_Read = Generator[Request, Reply | Failure, Said | FinalAnswer | Failure]


def dialogue(
    question: Question,
    conversation_id: str,
    *,
    base_seed: int,
    max_user_turns: int = MAX_USER_TURNS,
    style: Style = TWO_STEP,
    end_on: frozenset[FailureMode] = frozenset(),
) -> Dialogue:
    """Yield requests, receive a reply or failure for each, and return the record; the caller fills in the participants.

    Args:
        end_on: failure modes that end the free turns when detected in any message after the first.
    """
    state = _State(question, conversation_id, base_seed, style)
    for turn in range(max_user_turns):
        before = state.observed.copy()
        said = Said(style.opening) if style.opening and turn == 0 else (yield from _user(state))
        if not isinstance(said, Said):
            return state.end(said)
        if turn > 0 and (end_on & (state.observed - before).keys() or (said.last and not said.text.strip())):
            # The simulator was already asked at this point of the chat: use another seed.
            return state.end((yield from _user(state, forced=True, draw=" forced")), forced=True)
        if not said.text.strip():
            return state.end(Failure(EMPTY_TURN))
        state.turns.append(Turn("user", said.text))
        chat = [Message(each.role, each.text) for each in state.turns]
        request = state.request("assistant", (Message("system", ASSISTANT_SYSTEM), *chat), "reply")
        reply = yield request
        state.count(request, reply)
        if isinstance(reply, Failure):
            return state.end(reply)
        state.turns.append(Turn("assistant", reply.text))
        if said.last:
            break
    return state.end((yield from _user(state, forced=True)), forced=True)


def _user(state: _State, *, forced: bool = False, draw: str = "") -> _Read:
    question = state.question
    messages = state.style.messages(question.full_text, state.turns, forced=forced, asked_for=question.asked_for)
    request = state.request("simulator", messages, "forced" if forced else "turn", draw)
    reply = yield request
    state.count(request, reply)
    if isinstance(reply, Failure):
        return reply
    shares = reply.answer
    state.probabilities.append(shares and replace(shares, letters=shares.letters[: len(question.options)]))
    state.last_output = reply.text
    said = state.style.read(reply.text, state.turns, forced=forced)
    state.observed.update(observed_in(said, state.turns, state.question, forced=forced))
    return said
