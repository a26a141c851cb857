"""Holds what is missing of a plan, and records it.

Where both participants are reproducible, the conversations of a fixed block are held together, so that local models work in
batches, and are appended to the log in the order of the plan when the block ends. A run that was killed continues: a
block that is not wholly in the log is held again in the same composition, and only what is missing is appended, so the
conversations are those of an undisturbed run.

Where one may answer differently each time (an endpoint), only the missing conversations are held, many side by side,
each appended as soon as it ends: nothing would be gained by paying twice, and a kill loses only those under way.

Other processes may write the same log: what they recorded meanwhile is not begun, and not written twice.

Which conversations a simulation holds, and how each is begun: the same for every run of the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbench.core.errors import StoppedError
from chatbench.core.records import Question, SimulatedConversation
from chatbench.core.stop import StopRequest
from chatbench.protocol.dialogue import (
    MAX_USER_TURNS,
    ConcurrentParticipant,
    Dialogue,
    Failure,
    Outcome,
    Participant,
    ParticipantName,
    Reply,
    Request,
    dialogue,
)
from chatbench.protocol.dialogue_runner import hold_concurrently, hold_together
from chatbench.protocol.failure_modes import Guard
from chatbench.protocol.prompt_styles import TWO_STEP, Style, prompts_sha256
from chatbench.simulation.budget import Spending
from chatbench.simulation.log import ConversationLog, Recorded
from chatbench.simulation.progress import ConversationProgress

BLOCK_SIZE = 512
"""Conversations that are held together where both participants are reproducible."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One conversation to hold."""

    id: str
    question: Question
    assistant: str
    index: int


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the dialogue loop is told, the same for all conversations of a log; see `dialogue`."""

    seed: int = 0
    max_user_turns: int = MAX_USER_TURNS
    style: Style = TWO_STEP
    end_on: frozenset[Guard] = frozenset()

    def begin(self, planned: Planned) -> Dialogue:
        """The dialogue of a planned conversation, before its first request."""
        return dialogue(
            planned.question,
            planned.id,
            base_seed=self.seed,
            max_user_turns=self.max_user_turns,
            style=self.style,
            end_on=self.end_on,
        )


def plan(questions: Sequence[Question], assistant: str, conversations: int) -> list[Planned]:
    """All conversations with one assistant, by question, then by repetition."""
    return [
        Planned(f"{question.id}|{assistant}|{index}", question, assistant, index)
        for question in questions
        for index in range(conversations)
    ]


def is_reproducible(*identities: Mapping[str, object]) -> bool:
    """Whether all of these participants say the same to the same request every time; an endpoint may not."""
    return all(bool(identity.get("reproducible", True)) for identity in identities)


def blocks(planned: Sequence[Planned], size: int = BLOCK_SIZE) -> list[Sequence[Planned]]:
    """The plan in pieces of a fixed size: what is held together must not depend on what is there already."""
    return [planned[start : start + size] for start in range(0, len(planned), size)]


AnyParticipant = Participant | ConcurrentParticipant


@dataclass(frozen=True, slots=True)
class Run:
    """What holding a plan needs: participants, where to write, whom to tell, and when it has cost enough.

    `active` is the most conversations under way at once where they are held one by one.
    """

    log: ConversationLog
    simulator: AnyParticipant
    assistants: Mapping[str, AnyParticipant]
    loop: LoopSettings
    progress: ConversationProgress
    spending: Spending
    block_size: int = BLOCK_SIZE
    active: int = 1

    def hold(self, plans: Mapping[str, Sequence[Planned]]) -> int:
        """Holds what is missing, one assistant after another; how many conversations were recorded.

        Raises:
            ChatbenchError: a participant cannot go on, or the log cannot be written; what ended before is recorded.
            StoppedError: SIGTERM came while conversations were held one by one; those under way were brought to an end.
        """
        held = 0
        for name, planned in plans.items():
            self.progress.with_assistant(name)
            one, other = self.simulator, self.assistants[name]
            self.spending.metered = _metered(one, other)
            if (
                isinstance(one, ConcurrentParticipant)
                or isinstance(other, ConcurrentParticipant)
                or not is_reproducible(one.identity, other.identity)
            ):
                held += self._hold_one_by_one(name, planned)
            else:
                held += self._hold_blocks({"simulator": one, "assistant": other}, planned)
        return held

    # ---- blocks ----

    def _hold_blocks(self, participants: Mapping[ParticipantName, Participant], planned: Sequence[Planned]) -> int:
        held = 0
        wanted = {one.id for one in self._missing(planned)}
        for block in blocks(planned, self.block_size):
            missing = {one.id for one in self._missing(block)}
            self.progress.elsewhere(sum(one.id in wanted for one in block) - len(missing))
            if not missing:
                continue
            if not self.spending.leaves_room(len(missing)):
                break
            outcomes = self._hold_block(participants, block, len(missing))
            ended = [(one, outcome) for one, outcome in zip(block, outcomes, strict=True) if one.id in missing]
            held += self.log.append([self._record(one, outcome) for one, outcome in ended])
            self.progress.ended(0, failed=sum(outcome.termination == "failed" for _, outcome in ended))
            self.progress.say()
        return held

    def _hold_block(
        self, participants: Mapping[ParticipantName, Participant], block: Sequence[Planned], missing: int
    ) -> list[Outcome]:
        self.progress.begun(missing)
        self.spending.began(len(block))
        left = missing

        def ended(count: int) -> None:
            nonlocal left  # in a block held again, some of those that end are in the log already
            self.progress.ended(min(left, count))
            left -= min(left, count)

        outcomes = hold_together([self.loop.begin(one) for one in block], participants, ended, self._heard)
        for outcome in outcomes:
            self.spending.ended(outcome.usage)
        return outcomes

    # ---- one by one ----

    def _hold_one_by_one(self, name: str, planned: Sequence[Planned]) -> int:
        by_id = {one.id: one for one in planned}
        held = 0

        def finished(conversation_id: str, outcome: Outcome) -> None:
            nonlocal held
            held += self.log.append([self._record(by_id[conversation_id], outcome)])
            self.spending.ended(outcome.usage)
            self.progress.ended(failed=outcome.termination == "failed")

        with StopRequest() as stop:
            hold_concurrently(
                self._begun(planned),
                {"simulator": self.simulator, "assistant": self.assistants[name]},
                active=self.active,
                finished=finished,
                may_begin=lambda: not stop.asked and self.spending.leaves_room(),
                refused=self.spending.refused,
                heard=self._heard,
            )
        self.progress.say()
        if stop.asked:
            raise StoppedError(
                "stopped by SIGTERM; every conversation that began is recorded", fix="the same command continues"
            )
        return held

    def _begun(self, planned: Sequence[Planned]) -> Iterator[tuple[str, Dialogue]]:
        for one in self._missing(planned):
            if self._missing([one]):
                self.spending.began()
                self.progress.begun()
                yield one.id, self.loop.begin(one)
            else:
                self.progress.elsewhere(1)

    # ---- both ----

    def _missing(self, planned: Sequence[Planned]) -> list[Planned]:
        self.log.catch_up()
        return [one for one in planned if one.id not in self.log.held]

    def _heard(self, request: Request, reply: Reply | Failure) -> None:
        self.spending.heard(request, reply)
        self.progress.heard(request, reply)

    def _record(self, planned: Planned, outcome: Outcome) -> Recorded:
        return Recorded(
            conversation_of(planned, outcome, self.loop.seed),
            simulator=self.simulator.identity,
            assistant_identity=self.assistants[planned.assistant].identity,
            style=self.loop.style.name,
            prompts_sha256=prompts_sha256(self.loop.style),
        )


def _metered(simulator: AnyParticipant, assistant: AnyParticipant) -> frozenset[ParticipantName]:
    """The sides that are paid by the token: those behind endpoints."""
    sides: dict[ParticipantName, AnyParticipant] = {"simulator": simulator, "assistant": assistant}
    return frozenset(side for side, participant in sides.items() if not is_reproducible(participant.identity))


def conversation_of(planned: Planned, outcome: Outcome, seed: int) -> SimulatedConversation:
    """The record of a planned conversation that came to its end."""
    return SimulatedConversation(
        id=planned.id,
        question_id=planned.question.id,
        assistant=planned.assistant,
        index=planned.index,
        turns=outcome.turns,
        termination=outcome.termination,
        reason=outcome.reason,
        answer_text=outcome.answer_text,
        letter=outcome.letter,
        forced_text=outcome.forced_text,
        final_output=outcome.final_output,
        seed=seed,
        transient=outcome.transient,
        turns_dropped=outcome.turns_dropped,
        lenient_letter=outcome.lenient_letter,
        observed=outcome.observed,
        usage=outcome.usage,
        seconds=outcome.seconds,
        answer_probabilities=outcome.answer_probabilities,
        expected_correct=outcome.expected_correct,
    )
