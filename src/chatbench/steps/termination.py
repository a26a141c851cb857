"""Asks a simulator, at every point of the real held-out chats at which a person could stop, whether it would.

Two things are taken at each point: one output, drawn as in a simulation but cut after `OPENING_TOKENS` tokens, since an
answer shows in its first words; and the probability of `Answer: A` ... `Answer: D` together, each with its end marker,
as the product of its tokens' probabilities. The probability is of whole valid answers, so it is a little below that of
an output that merely begins like one.

Stored as `results/realism/<model>/split_i_termination.json` with what it depends on; computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json_whole
from chatbench.core.model_names import model_key
from chatbench.core.records import LETTERS, Conversation, Message, Question, Study
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import FINE_TUNED, UNTRAINED
from chatbench.measures.termination import Decision, Termination, end_shares_by_reply, termination
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.dialogue import Failure, Request, Speaker, derive_seed
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.examples import seen_turns
from chatbench.protocol.prompts import ANSWER_PREFIX, simulator_messages
from chatbench.protocol.transcript import completion_text, prompt_text
from chatbench.steps.plain_values import plain
from chatbench.steps.simulation_files import SplitChats
from chatbench.steps.simulators import load_simulator

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.loading import Loaded

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


def termination_of(
    model: str, study: Study, entry: SplitChats, results: Path, *, untrained: bool, say: Say
) -> Termination:
    """Asks the model of a split and stores the scores.

    Raises:
        ChatbenchError: the model is not there any more, or is another than the one that was simulated.
    """
    from chatbench.models.speakers import LocalSimulator

    test = set(entry.split.question_ids("test"))
    points = stopping_points((chat for chat in study.conversations if chat.question_id in test), study.questions)
    loaded, form = load_simulator(model, results, entry.split.id, untrained=untrained)
    depends_on = _depends_on(entry, untrained=untrained, points=len(points))
    if loaded.weights != depends_on["weights"]:
        raise ChatbenchError(
            f"{entry.split.id}: the model is another than the one that was simulated",
            expected=f"weights {depends_on['weights']}",
            fix="simulate again with --overwrite",
        )
    say(f"{entry.split.id}: asking {model} at {len(points):,} points of real chats whether to stop")
    speaker = LocalSimulator(
        loaded, model, temperature=_temperature(entry, untrained), max_tokens=OPENING_TOKENS, template=form.template
    )
    decisions = decisions_at(points, would_stop(speaker, points), answer_probabilities(loaded, form, points))
    training = [chat.user_turns for chat in study.conversations if chat.question_id not in test]
    scores = termination(decisions, end_shares_by_reply(training))
    content = {"depends_on": depends_on, "scores": plain(scores)}
    write_json_whole(_path(model, entry, results, untrained=untrained), content)
    return scores


def would_stop(speaker: Speaker, points: Sequence[StoppingPoint]) -> list[bool]:
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
        for reply in speaker.reply_all(requests)
    ]


def answer_probabilities(loaded: Loaded, form: TextForm, points: Sequence[StoppingPoint]) -> list[float | None]:
    """The probability of a valid answer at each point; None where the chat so far does not fit the context."""
    from chatbench.models.encoding import encode_rows
    from chatbench.models.loading import context_length
    from chatbench.models.scoring import score_rows

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


def stored_termination(
    model: str, study: Study, entry: SplitChats, results: Path, *, untrained: bool
) -> Termination | None:
    """The scores on disk if they are of this simulator and these chats."""
    path = _path(model, entry, results, untrained=untrained)
    if not path.exists():
        return None
    content = cast("dict[str, dict[str, object]]", read_json(path, fix=f"delete {path} and run again"))
    test = set(entry.split.question_ids("test"))
    points = sum(chat.user_turns for chat in study.conversations if chat.question_id in test)
    if content.get("depends_on") != _depends_on(entry, untrained=untrained, points=points):
        return None
    return Termination(**{name: _read(value) for name, value in content["scores"].items()})  # type: ignore[arg-type]  # as written


def _read(value: object) -> object:
    return Undefined(str(value["undefined"])) if isinstance(value, dict) else value


def _path(model: str, entry: SplitChats, results: Path, *, untrained: bool) -> Path:
    ending = "_untrained" if untrained else ""
    return results / "realism" / model_key(model) / f"{entry.split.id}_termination{ending}.json"


def _source(untrained: bool) -> str:
    return UNTRAINED if untrained else FINE_TUNED


def _temperature(entry: SplitChats, untrained: bool) -> float:
    simulator = cast("Mapping[str, object]", entry.settings[_source(untrained)]["simulator"])
    return float(cast(float, simulator.get("temperature", 1.0)))


def _depends_on(entry: SplitChats, *, untrained: bool, points: int) -> dict[str, object]:
    settings = entry.settings[_source(untrained)]
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
