r"""Whether a simulator stops where people stop, at every point of real held-out chats where a person could stop.

A *decision* follows each reply of the assistant in a person's chat: the person either ended the chat and answered, or
went on. The simulator is prompted with the same chat up to that reply, so people and simulator decide at the same
points; in its own simulated chats the points would differ. Two things are measured at each point: whether an output,
sampled as in a simulation but truncated to `OPENING_TOKENS` tokens, is an answer; and the total probability of
`Answer: ` with each letter of the question (`done` without an answer; none for numbers and texts) and the end marker,
as the product of its tokens' probabilities. It covers complete valid answers only, so it is slightly below that of an
output that merely begins like one.

F1 takes ending as the positive class. It has no human ceiling, since no second person decided at the same point; its
floors are to end always, and to end at random as often as people of the training side do after as many replies.

Stored as `results/realism/<model>/split_i_termination.json` with what it depends on; computed once.

Source: turn-level termination F1 as in UserLM (arXiv 2510.06552), there with an end-of-conversation token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatbench.core.answer_kinds import DONE, NoAnswer
from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.core.progress import WorkProgress
from chatbench.core.records import Conversation, Message, Question
from chatbench.data.examples import ExampleRow, seen_turns
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined, Value, agreement
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, share
from chatbench.metrics.pairs import grouped
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.dialogue import Failure, Participant, Request, derive_seed
from chatbench.protocol.dialogue_runner import Asking, Sides, run_together
from chatbench.protocol.prompts import ANSWER_PREFIX, completion_text, prompt_text, simulator_messages
from chatbench.scoring.score_files import plain
from chatbench.simulation.participants import load_simulator
from chatbench.simulation.split_chats import SplitChats

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.loading import Loaded

Say = Callable[[str], None]

OPENING_TOKENS = 16
"""Enough for white space, a quotation mark, `YOU: ` and `Answer: `, even with one token per character."""
NO_DECISIONS, NO_PROBABILITIES = "no decisions", "probabilities were not computed"


@dataclass(frozen=True, slots=True)
class Decision:
    """One point at which a person could stop.

    `replies`: number of replies so far, from 1. `ended`: the person stopped here. `predicted`: the simulator's output
    was an answer. `probability`: the simulator's probability of a valid answer here, 0..1; None if it was not computed.
    """

    replies: int
    ended: bool
    predicted: bool
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Termination:
    """Scores over decisions; shares are in 0..1.

    `brier` (mean squared difference of probability and outcome, 0 is perfect) and `calibration_error` are of the
    probability; `brier_floor` is the Brier score of always predicting people's overall share of endings.
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
    """Compute all scores.

    Args:
        end_shares: by number of replies, the share of training-side chats that end there among those that get there.
    """
    total = len(decisions)
    ended = sum(decision.ended for decision in decisions)
    predicted = sum(decision.predicted for decision in decisions)
    both = sum(decision.ended and decision.predicted for decision in decisions)
    # By chance: the share after as many replies or, if the training side has none, after the nearest smaller number.
    nearest = [max((n for n in end_shares if n <= decision.replies), default=0) for decision in decisions]
    chance = [end_shares.get(replies, 0.0) for replies in nearest]
    known = [(one.probability, float(one.ended)) for one in decisions if one.probability is not None]
    probabilities, outcomes = ([pair[side] for pair in known] for side in (0, 1))
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
        brier=share(math.fsum((p - outcome) ** 2 for p, outcome in known), len(known), NO_PROBABILITIES),
        brier_floor=base if isinstance(base, Undefined) else base * (1 - base),
        calibration_error=agreement(outcomes, probabilities)["ece"] if known else Undefined(NO_PROBABILITIES),
    )


def f1_score(both: float, predicted: float, actual: float) -> Value:
    """2 both / (predicted + actual), the harmonic mean of precision and recall, 0..1.

    >>> f1_score(both=2, predicted=3, actual=5)  # precision 2/3, recall 2/5
    0.5
    """
    return share(2 * both, predicted + actual, "nobody ended a chat, and the simulator never would")


def end_shares_by_reply(user_turns: Iterable[int]) -> dict[int, float]:
    """Share of chats that end at the n-th reply, among those that reach it.

    >>> end_shares_by_reply([1, 1, 2])
    {1: 0.6666666666666666, 2: 1.0}
    """
    ends = Counter(user_turns)
    return {
        turns: ends[turns] / sum(count for other, count in ends.items() if other >= turns) for turns in sorted(ends)
    }


@dataclass(frozen=True, slots=True)
class StoppingPoint:
    """A real chat up to a reply; `ended` if the person stopped there. `answers`: the valid ones, if they are few."""

    question_id: str
    conversation_id: str
    replies: int
    ended: bool
    messages: tuple[Message, Message]
    answers: tuple[str, ...]


def stopping_points(chats: Iterable[Conversation], questions: Mapping[str, Question]) -> list[StoppingPoint]:
    """One point for each reply of each chat, in order: k replies give k - 1 points of going on and one end."""
    points = []
    for chat in chats:
        question = questions[chat.question_id]
        answers = (DONE,) if question.kind == NoAnswer() else question.letters
        for replies in range(1, chat.user_turns + 1):
            seen = seen_turns(chat)[: 2 * replies]
            messages = simulator_messages(question.full_text, seen, asked_for=question.asked_for)
            points.append(StoppingPoint(question.id, chat.id, replies, replies == chat.user_turns, messages, answers))
    return points


def termination_of(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool, say: Say) -> Termination:
    """Query the model of a split at every stopping point and store the scores.

    Raises:
        ChatbenchError: the model is missing, is not the one that was simulated, or was not prompted as here.
    """
    from chatbench.models.local_participants import LocalSimulator

    study, split = workspace.study, entry.split
    chats = {part: [chat for chat in study.conversations if split.part_of(chat) == part] for part in ("train", "test")}
    points = stopping_points(chats["test"], study.questions)
    depends_on = _depends_on(entry, base_model=base_model, points=len(points))
    if not str(depends_on["style"]).startswith("two-step"):
        raise ChatbenchError(
            f"{entry.split.id}: --termination, but the simulator was prompted in the style {depends_on['style']}",
            expected="a two-step style: these share the prompt of every point and the form of an answer",
            fix=f"chatbench realism {model}, without --termination",
        )
    loaded, form = load_simulator(workspace, model, entry.split.id, base_model=base_model)
    if loaded.weights != depends_on["weights"]:
        raise ChatbenchError(
            f"{entry.split.id}: the model differs from the one that was simulated",
            expected=f"weights {depends_on['weights']}",
            fix="simulate again with --overwrite",
        )
    say(f"{entry.split.id}: asking {model} at {len(points):,} points of real chats whether to stop")
    recorded = depends_on["temperature"]
    temperature = 1.0 if recorded is None else float(cast(float, recorded))
    participant = LocalSimulator(
        loaded, model, temperature=temperature, max_tokens=OPENING_TOKENS, template=form.template
    )
    stops, probabilities = would_stop(participant, points), answer_probabilities(loaded, form, points)
    decisions = [
        Decision(point.replies, point.ended, stop, probability)
        for point, stop, probability in zip(points, stops, probabilities, strict=True)
    ]
    scores = termination(decisions, end_shares_by_reply([chat.user_turns for chat in chats["train"]]))
    content = {"depends_on": depends_on, "scores": plain(scores)}
    write_json(_path(workspace, model, entry, base_model=base_model), content)
    return scores


def would_stop(participant: Participant, points: Sequence[StoppingPoint]) -> list[bool]:
    """Whether the simulator's output at each point is an answer; silence and failures are not."""
    done = count(1)

    def asked(point: StoppingPoint) -> Asking[bool]:
        seed = derive_seed(0, point.conversation_id, point.replies, "termination")
        reply = yield Request("simulator", point.messages, point.question_id, seed, "turn")
        return not isinstance(reply, Failure) and read_answer(clean_output(reply.text)) is not None

    with WorkProgress("whether to stop", "points") as progress:
        sides: Sides = {"simulator": participant}
        return run_together([*map(asked, points)], sides, lambda _stops: progress(next(done), len(points)))


def answer_probabilities(loaded: Loaded, form: TextForm, points: Sequence[StoppingPoint]) -> list[float | None]:
    """Probability of a valid answer at each point; None if the context is exceeded or answers cannot be listed."""
    from chatbench.models.encoding import encode_rows
    from chatbench.models.loading import context_length
    from chatbench.models.loss import score_rows

    rows = []
    for place, point in enumerate(points):
        for answer in (ANSWER_PREFIX + answer for answer in point.answers):
            messages = (*point.messages, Message("assistant", answer))
            prompt, completion = prompt_text(messages), completion_text(answer)
            rows.append(ExampleRow(prompt, completion, messages, point.question_id, str(place), "answer"))
    encoded = encode_rows(loaded.tokenizer, rows, context_length(loaded.model), form)
    with WorkProgress("probability of stopping", "tokens") as progress:
        losses = score_rows(loaded.model, encoded, advanced=progress)
    places = (int(row.conversation_id) for row in encoded.rows)
    found = grouped(zip(places, (math.exp(-loss.nats) for loss in losses), strict=True))
    return [
        min(1.0, math.fsum(found[place])) if len(found.get(place, ())) == len(point.answers) > 0 else None
        for place, point in enumerate(points)
    ]


def stored_termination(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool) -> Termination | None:
    """The stored scores, if they are of this simulator and these chats."""
    path = _path(workspace, model, entry, base_model=base_model)
    if not path.exists():
        return None
    content = cast("dict[str, dict[str, object]]", read_json(path, fix=f"delete {path} and run again"))
    points = sum(chat.user_turns for chat in workspace.study.conversations if entry.split.part_of(chat) == "test")
    if differences(content.get("depends_on", {}), _depends_on(entry, base_model=base_model, points=points)):
        return None
    scores = {
        name: Undefined(str(value["undefined"])) if isinstance(value, dict) else value
        for name, value in content["scores"].items()
    }
    return Termination(**scores)  # type: ignore[arg-type]  # as written


def _path(workspace: Workspace, model: str, entry: SplitChats, *, base_model: bool) -> Path:
    ending = "_base" if base_model else ""
    return workspace.realism(model) / f"{entry.split.id}_termination{ending}.json"


def _depends_on(entry: SplitChats, *, base_model: bool, points: int) -> dict[str, object]:
    settings = entry.settings[BASE_MODEL if base_model else FINE_TUNED]
    simulator = cast("Mapping[str, object]", settings["simulator"])
    return {
        **{name: simulator.get(name) for name in ("weights", "form", "temperature")},
        **{name: settings.get(name) for name in ("questions_sha256", "held_out_sha256", "style")},
        "points": points,
        "opening_tokens": OPENING_TOKENS,
    }
