r"""Asks a simulator, at every point of the real held-out chats at which a person could stop, whether it would.

Two things are taken at each point: one output, drawn as in a simulation but cut after `OPENING_TOKENS` tokens, since an
answer shows in its first words; and the probability of `Answer: A` ... `Answer: D` together, each with its end marker,
as the product of its tokens' probabilities. The probability is of whole valid answers, so it is a little below that of
an output that merely begins like one.

Stored as `results/realism/<model>/split_i_termination.json` with what it depends on; computed once.

Whether a simulator stops where people stop, asked at every point of real chats at which a person could stop.

A *decision* comes after each reply of the assistant in a person's chat: the person either ended the chat and answered,
or went on. The simulator is shown the same chat up to that reply and writes one output; an answer means that it would
have ended. So people and simulator decide at the same points, which simulated chats of their own cannot give: there the
points differ. From records alone only the distribution of user turns can be compared.

F1 takes ending as the positive class. It has no human ceiling, since no second person was asked at the same point; its
floors are to end always, and to end by chance as often as people of the training side do after so many replies.

Source: turn-level termination F1 as in UserLM (arXiv 2510.06552), there with an end-of-conversation token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.records import LETTERS, Conversation, Message, Question
from chatbench.data.examples import ExampleRow, seen_turns
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined, Value, calibration_error
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, share
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.dialogue import Failure, Participant, Request, derive_seed
from chatbench.protocol.plain_text import completion_text, prompt_text
from chatbench.protocol.prompts import ANSWER_PREFIX, simulator_messages
from chatbench.scoring.score_files import plain
from chatbench.simulation.participants import load_simulator
from chatbench.simulation.split_chats import SplitChats

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.loading import Loaded

NO_DECISIONS = "no decisions"


@dataclass(frozen=True, slots=True)
class Decision:
    """One point at which a person could stop.

    `replies`: how many the person had heard, from 1. `ended`: the person stopped here. `predicted`: the simulator's
    output was an answer. `probability`: the simulator's probability of answering A, B, C or D here, 0..1; None where it
    was not computed.
    """

    question_id: str
    replies: int
    ended: bool
    predicted: bool
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Termination:
    """Scores over decisions, shares in 0..1; `brier` and `calibration_error` are of the probability.

    `brier_floor` is the score of giving people's overall share of endings as the probability everywhere.
    """

    decisions: int
    ended_share: Value
    predicted_share: Value
    precision: Value
    recall: Value
    f1: Value
    f1_always: Value
    f1_by_chance: Value
    brier: Value
    brier_floor: Value
    calibration_error: Value


def termination(decisions: Sequence[Decision], end_shares: Mapping[int, float]) -> Termination:
    """All scores.

    Args:
        end_shares: share of training-side chats that end after that many replies, given that they got there.
    """
    total = len(decisions)
    ended = sum(decision.ended for decision in decisions)
    predicted = sum(decision.predicted for decision in decisions)
    both = sum(decision.ended and decision.predicted for decision in decisions)
    chance = [_chance(end_shares, decision.replies) for decision in decisions]
    known = [(one.probability, float(one.ended)) for one in decisions if one.probability is not None]
    base = share(ended, total, NO_DECISIONS)
    return Termination(
        decisions=total,
        ended_share=base,
        predicted_share=share(predicted, total, NO_DECISIONS),
        precision=share(both, predicted, "the simulator never ends a chat"),
        recall=share(both, ended, "nobody ended a chat"),
        f1=f1_score(both, predicted, ended),
        f1_always=f1_score(ended, total, ended),
        f1_by_chance=f1_score(
            math.fsum(p for p, decision in zip(chance, decisions, strict=True) if decision.ended),
            math.fsum(chance),
            ended,
        ),
        brier=_brier(known),
        brier_floor=base if isinstance(base, Undefined) else base * (1 - base),
        calibration_error=calibration_error([ended for _, ended in known], [p for p, _ in known])
        if known
        else Undefined("probabilities were not computed"),
    )


def f1_score(both: float, predicted: float, actual: float) -> Value:
    """2 both / (predicted + actual), the harmonic mean of precision and recall, 0..1.

    >>> f1_score(both=2, predicted=3, actual=5)  # precision 2/3, recall 2/5
    0.5
    """
    whole = predicted + actual
    return 2 * both / whole if whole else Undefined("nobody ended a chat, and the simulator never would")


def end_shares_by_reply(user_turns: Iterable[int]) -> dict[int, float]:
    """Of the chats that got to the n-th reply, the share that ended there.

    >>> end_shares_by_reply([1, 1, 2])
    {1: 0.6666666666666666, 2: 1.0}
    """
    ends = Counter(user_turns)
    return {
        turns: ends[turns] / sum(count for other, count in ends.items() if other >= turns) for turns in sorted(ends)
    }


def _chance(end_shares: Mapping[int, float], replies: int) -> float:
    """The share after so many replies; where the training side has none, that of the nearest smaller number."""
    known = [number for number in end_shares if number <= replies]
    return end_shares[max(known)] if known else 0.0


def _brier(known: Sequence[tuple[float, float]]) -> Value:
    """Mean squared difference of probability and outcome, 0 (certain and right) to 1."""
    if not known:
        return Undefined("probabilities were not computed")
    return math.fsum((probability - ended) ** 2 for probability, ended in known) / len(known)


Say = Callable[[str], None]

OPENING_TOKENS = 16
"""Enough for white space, a quotation mark, `YOU: ` and `Answer: ` even where each character is a token of its own."""


@dataclass(frozen=True, slots=True)
class StoppingPoint:
    """A real chat up to a reply; `ended` where the person stopped there."""

    question_id: str
    conversation_id: str
    replies: int
    ended: bool
    messages: tuple[Message, Message]


def stopping_points(chats: Iterable[Conversation], questions: Mapping[str, Question]) -> list[StoppingPoint]:
    """One point for each reply of each chat, in their order: k replies make k - 1 times going on and one end."""
    return [
        StoppingPoint(
            chat.question_id,
            chat.id,
            replies,
            replies == chat.user_turns,
            simulator_messages(questions[chat.question_id].full_text, seen_turns(chat)[: 2 * replies]),
        )
        for chat in chats
        for replies in range(1, chat.user_turns + 1)
    ]


def termination_of(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool, say: Say) -> Termination:
    """Asks the model of a split and stores the scores.

    Raises:
        ChatbenchError: the model is not there any more, or is another than the one that was simulated.
    """
    from chatbench.models.local_participants import LocalSimulator

    study, test = workspace.study, set(entry.split.question_ids("test"))
    points = stopping_points((chat for chat in study.conversations if chat.question_id in test), study.questions)
    loaded, form = load_simulator(workspace, model, entry.split.id, base_model=base_model)
    depends_on = _depends_on(entry, base_model=base_model, points=len(points))
    if loaded.weights != depends_on["weights"]:
        raise ChatbenchError(
            f"{entry.split.id}: the model is another than the one that was simulated",
            expected=f"weights {depends_on['weights']}",
            fix="simulate again with --overwrite",
        )
    say(f"{entry.split.id}: asking {model} at {len(points):,} points of real chats whether to stop")
    participant = LocalSimulator(
        loaded, model, temperature=_temperature(entry, base_model), max_tokens=OPENING_TOKENS, template=form.template
    )
    decisions = decisions_at(points, would_stop(participant, points), answer_probabilities(loaded, form, points))
    training = [chat.user_turns for chat in study.conversations if chat.question_id not in test]
    scores = termination(decisions, end_shares_by_reply(training))
    content = {"depends_on": depends_on, "scores": plain(scores)}
    write_json(_path(workspace, model, entry, base_model=base_model), content)
    return scores


def would_stop(participant: Participant, points: Sequence[StoppingPoint]) -> list[bool]:
    """Whether one output of the simulator at each point is an answer; silence and failures are none."""
    requests = [
        Request(
            "simulator",
            point.messages,
            point.question_id,
            derive_seed(0, point.conversation_id, point.replies, "termination"),
            "turn",
        )
        for point in points
    ]
    return [
        not isinstance(reply, Failure) and read_answer(clean_output(reply.text)) is not None
        for reply in participant.reply_all(requests)
    ]


def answer_probabilities(loaded: Loaded, form: TextForm, points: Sequence[StoppingPoint]) -> list[float | None]:
    """The probability of a valid answer at each point; None where the chat so far does not fit the context."""
    from chatbench.models.encoding import encode_rows
    from chatbench.models.loading import context_length
    from chatbench.models.loss import score_rows

    rows = [_answer_row(point, place, letter) for place, point in enumerate(points) for letter in LETTERS]
    encoded = encode_rows(loaded.tokenizer, rows, context_length(loaded.model), form)
    found: dict[int, list[float]] = {}
    for row, loss in zip(encoded.rows, score_rows(loaded.model, encoded), strict=True):
        found.setdefault(int(row.conversation_id), []).append(math.exp(-loss.nats))
    return [
        min(1.0, math.fsum(found[place])) if len(found.get(place, ())) == len(LETTERS) else None
        for place in range(len(points))
    ]


def _answer_row(point: StoppingPoint, place: int, letter: str) -> ExampleRow:
    """The example in which a person ends the chat here with this letter; its id says at which point."""
    answer = ANSWER_PREFIX + letter
    messages = (*point.messages, Message("assistant", answer))
    return ExampleRow(prompt_text(messages), completion_text(answer), messages, point.question_id, str(place), "answer")


def decisions_at(
    points: Sequence[StoppingPoint], stops: Sequence[bool], probabilities: Sequence[float | None]
) -> list[Decision]:
    """What people and simulator did at each point."""
    return [
        Decision(point.question_id, point.replies, point.ended, stop, probability)
        for point, stop, probability in zip(points, stops, probabilities, strict=True)
    ]


def stored_termination(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool) -> Termination | None:
    """The scores on disk if they are of this simulator and these chats."""
    path = _path(workspace, model, entry, base_model=base_model)
    if not path.exists():
        return None
    content = cast("dict[str, dict[str, object]]", read_json(path, fix=f"delete {path} and run again"))
    study, test = workspace.study, set(entry.split.question_ids("test"))
    points = sum(chat.user_turns for chat in study.conversations if chat.question_id in test)
    if content.get("depends_on") != _depends_on(entry, base_model=base_model, points=points):
        return None
    return Termination(**{name: _read(value) for name, value in content["scores"].items()})  # type: ignore[arg-type]  # as written


def _read(value: object) -> object:
    return Undefined(str(value["undefined"])) if isinstance(value, dict) else value


def _path(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool) -> Path:
    ending = "_base" if base_model else ""
    return workspace.realism(model) / f"{entry.split.id}_termination{ending}.json"


def _source(base_model: bool) -> str:
    return BASE_MODEL if base_model else FINE_TUNED


def _temperature(entry: SplitChats, base_model: bool) -> float:
    simulator = cast("Mapping[str, object]", entry.settings[_source(base_model)]["simulator"])
    return float(cast(float, simulator.get("temperature", 1.0)))


def _depends_on(entry: SplitChats, *, base_model: bool, points: int) -> dict[str, object]:
    settings = entry.settings[_source(base_model)]
    simulator = cast("Mapping[str, object]", settings["simulator"])
    return {
        "weights": simulator.get("weights"),
        "form": simulator.get("form"),
        "temperature": simulator.get("temperature"),
        "questions_sha256": settings["questions_sha256"],
        "held_out_sha256": settings["held_out_sha256"],
        "points": points,
        "opening_tokens": OPENING_TOKENS,
    }
