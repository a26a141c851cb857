"""The two-step loop between a simulated user and an assistant, as a pure generator of requests.

`dialogue` says what it needs next (a `Request`) and is sent what came back (a `Reply` or a `Failure`); it calls no
model itself, so one loop serves one chat, a batch of local chats, or many concurrent requests to an endpoint. In the
end it returns an `Outcome`. Up to `max_user_turns` free user turns, each answered by the assistant, then one forced
answer; a first turn that reads "Answer: B" is an ordinary message.

What the simulator is asked, and how its output is read, is its style's matter (`styles.py`).

Where the published loop is silent: a simulator that says nothing ends the conversation as `failed` with the reason
`EMPTY_TURN`, because many assistants refuse an empty message, and one that accepts it would answer a question that
nobody asked. What else goes wrong in simulators is counted (`guards.py`) and changes nothing, unless `end_on` names it:
then that message is not sent, and the answer is forced at once. Before there is a chat to answer from, nothing ends it.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), simulation with the two-step simulator.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from chatbench.core.records import (
    EMPTY_TURN,
    LETTERS,
    AnswerProbabilities,
    Message,
    Question,
    Termination,
    Turn,
    Usage,
)
from chatbench.protocol.answers import FinalAnswer, Said, lenient_letter
from chatbench.protocol.failure_modes import Guard, observed_in
from chatbench.protocol.prompt_styles import TWO_STEP, Style
from chatbench.protocol.prompts import ASSISTANT_SYSTEM

MAX_USER_TURNS = 10

ParticipantName = Literal["simulator", "assistant"]
Purpose = Literal["turn", "forced", "reply"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a conversation needs next: `participant` continues `messages`; `seed` fixes its random choices."""

    participant: ParticipantName
    messages: tuple[Message, ...]
    question_id: str
    seed: int
    purpose: Purpose
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A participant's text; `stopped` is False where the token limit, not the participant, ended it.

    `tokens` were written and `prompt_tokens` read, in `seconds` from request to reply; 0 where the participant cannot tell.
    `turns_dropped` of the oldest turns did not fit the participant's context: it did not see them. `answer` is there where
    a simulator was asked for its probabilities.
    """

    text: str
    tokens: int = 0
    stopped: bool = True
    turns_dropped: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    answer: AnswerProbabilities | None = None


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
    `final_output` is what the simulator's style read that from, as it came; None where the chat failed.
    `lenient_letter` is what a patient reader makes of an answer that has no letter; it never stands for `letter`.
    `turns_dropped` is the largest number of turns that a participant did not see; `seconds` is how long both participants took,
    added up. `observed` counts what the guards saw, only what they saw. `answer_probabilities` are the simulator's, one
    per reply of its, in order, and none where it gave none; `expected_correct` is the probability that the answer it
    ended with was right, None where it gave no probability of it or did not end with an answer.
    """

    turns: tuple[Turn, ...]
    termination: Termination
    reason: str = ""
    transient: bool = False
    answer_text: str | None = None
    letter: str | None = None
    forced_text: str | None = None
    final_output: str | None = None
    lenient_letter: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    turns_dropped: int = 0
    observed: Mapping[str, int] = field(default_factory=dict)
    answer_probabilities: tuple[AnswerProbabilities | None, ...] = ()
    expected_correct: float | None = None


class Participant(Protocol):
    """Somebody who can continue conversations, several at once; the order of requests does not change a reply."""

    @property
    def identity(self) -> dict[str, object]:
        """Kind, name, weights or revision, decoding: what a result must state, and no secret."""
        ...

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """One reply or failure per request, in the order of the requests."""
        ...


@runtime_checkable
class ConcurrentParticipant(Protocol):
    """Somebody who is best asked by many conversations at once, each by itself: a model behind an endpoint."""

    @property
    def identity(self) -> dict[str, object]:
        """As a `Participant`'s."""
        ...

    async def reply(self, request: Request) -> Reply | Failure:
        """The reply to one request, or why there is none."""
        ...

    async def close(self) -> None:
        """Lets go of what belongs to the running event loop (connections); it can be asked again in another."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionParticipant:
    """A participant that is a function of one request: scripted assistants, recorded ones, and fakes in tests."""

    function: Callable[[Request], Reply | Failure]
    identity: dict[str, object]

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return [self.function(request) for request in requests]


def derive_seed(base_seed: int, conversation_id: str, turn: int, participant: str) -> int:
    """A seed in 0..2^63-1 that only depends on its arguments, the same on any machine (first bytes of a SHA-256)."""
    key = f"{base_seed}|{conversation_id}|{turn}|{participant}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


@dataclass(slots=True)
class _State:
    """What a running conversation has gathered so far."""

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

    def request(
        self, participant: ParticipantName, messages: Sequence[Message], purpose: Purpose, draw: str = ""
    ) -> Request:
        """`draw` tells two requests to one participant at the same point of the chat apart."""
        seed = derive_seed(self.base_seed, self.conversation_id, len(self.turns) // 2, participant + draw)
        return Request(participant, tuple(messages), self.question.id, seed, purpose, self.conversation_id)

    def count(self, participant: ParticipantName, reply: Reply) -> None:
        self.tokens[f"{participant}_tokens"] += reply.tokens
        self.tokens[f"{participant}_prompt_tokens"] += reply.prompt_tokens
        self.seconds += reply.seconds
        self.turns_dropped = max(self.turns_dropped, reply.turns_dropped)

    def end(
        self,
        termination: Termination,
        *,
        failure: Failure | None = None,
        answer: FinalAnswer | None = None,
        forced_text: str | None = None,
    ) -> Outcome:
        text = answer.text if answer else forced_text
        strict = answer.letter if answer else None
        return Outcome(
            turns=tuple(self.turns),
            termination=termination,
            reason=failure.reason if failure else "",
            transient=failure.transient if failure else False,
            answer_text=answer.text if answer else None,
            letter=strict,
            forced_text=forced_text,
            final_output=None if failure else self.last_output,
            lenient_letter=lenient_letter(text, self.question.options) if text and strict is None else None,
            usage=Usage(**self.tokens),
            seconds=self.seconds,
            turns_dropped=self.turns_dropped,
            observed=dict(self.observed),
            answer_probabilities=tuple(self.probabilities) if any(self.probabilities) else (),
            expected_correct=self._expected_correct() if answer else None,
        )

    def _expected_correct(self) -> float | None:
        last = self.probabilities[-1]
        return None if last is None else last.letters[LETTERS.index(self.question.answer)]


Dialogue = Generator[Request, Reply | Failure, Outcome]
_Read = Generator[Request, Reply | Failure, Said | FinalAnswer | Failure]
_Asked = Generator[Request, Reply | Failure, str | Failure]


def dialogue(
    question: Question,
    conversation_id: str,
    *,
    base_seed: int,
    max_user_turns: int = MAX_USER_TURNS,
    style: Style = TWO_STEP,
    end_on: frozenset[Guard] = frozenset(),
) -> Dialogue:
    """Yields requests, is sent a reply or a failure for each, returns the `Outcome`.

    Args:
        end_on: what, once a guard sees it in a message from the second on, ends the free turns.

    Raises:
        ValueError: `max_user_turns` is below 1.
    """
    if max_user_turns < 1:
        raise ValueError(f"max_user_turns is {max_user_turns}, expected at least 1")
    state = _State(question, conversation_id, base_seed, style)
    for turn in range(max_user_turns):
        before = state.observed.copy()
        said = Said(style.opening) if style.opening and turn == 0 else (yield from _user(state))
        if isinstance(said, Failure):
            return state.end("failed", failure=said)
        if isinstance(said, FinalAnswer):
            return state.end("answered", answer=said)
        if turn > 0 and (end_on & (state.observed - before).keys() or (said.last and not said.text.strip())):
            return (yield from _forced_answer(state, early=True))
        if not said.text.strip():
            return state.end("failed", failure=Failure(EMPTY_TURN))
        replied = yield from _assistant(state, said.text)
        if isinstance(replied, Failure):
            state.turns.append(Turn("user", said.text))
            return state.end("failed", failure=replied)
        state.turns += [Turn("user", said.text), Turn("assistant", replied)]
        if said.last:
            break
    return (yield from _forced_answer(state))


def _forced_answer(state: _State, *, early: bool = False) -> Dialogue:
    """`early` where the simulator was asked freely at this very point before."""
    said = yield from _user(state, forced=True, draw=" forced" if early else "")
    if isinstance(said, Failure):
        return state.end("failed", failure=said)
    if isinstance(said, FinalAnswer):
        return state.end("forced", answer=said, forced_text=said.message)
    return state.end("no_answer", forced_text=said.text)


def _user(state: _State, *, forced: bool = False, draw: str = "") -> _Read:
    messages = state.style.messages(state.question.full_text, state.turns, forced=forced)
    reply = yield state.request("simulator", messages, "forced" if forced else "turn", draw)
    if isinstance(reply, Failure):
        return reply
    state.count("simulator", reply)
    state.probabilities.append(reply.answer)
    state.last_output = reply.text
    said = state.style.read(reply.text, state.turns, forced=forced)
    state.observed.update(observed_in(said, state.turns, state.question, forced=forced))
    return said


def _assistant(state: _State, said: str) -> _Asked:
    history = [Message(turn.role, turn.text) for turn in (*state.turns, Turn("user", said))]
    reply = yield state.request("assistant", (Message("system", ASSISTANT_SYSTEM), *history), "reply")
    if isinstance(reply, Failure):
        return reply
    state.count("assistant", reply)
    return reply.text
