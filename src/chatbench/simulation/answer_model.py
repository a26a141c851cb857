r"""An answer model: which option a person chooses after a chat, instead of the letter that the simulator writes.

A small language model learns to say "gamma rays", and then writes the letter of another option. With an answer model
the simulator only says *when* it answers, at the latest when it is forced to. *What* is drawn from a conditional logit
(McFadden 1974): option k has the score `w . x_k`, with one weight for each feature, and its probability is the softmax
of the scores. Its features:

    in_last_reply, in_replies, in_messages    share of the option's words in the last reply, in all replies, and in what
                                              the person wrote; words are those that no other option has
    phrase                                    1 if the last reply contains the option word for word
    named                                     1 if the last reply names the option's letter (`lenient_letter`), in a
                                              chat in which the person wrote two options or more: otherwise letters in a
                                              reply stand for something else ("Q: ... A: ...")
    right                                     1 for the right option: people often know it without the assistant

The last feature gives simulated people the knowledge that the people on the training side had on average, however
little the language model knows. It needs the answer key, as scoring does; an answer to a question whose key is unknown
cannot be simulated this way.

The weights maximise the likelihood of what people on the training side chose, right or wrong, minus half their
squares, with each feature in units of its spread within a chat. The probabilities are thus calibrated on people, who
often do not follow a reply. Fitting and using it needs no language model, so any two-step simulator can have one.

The position of an option is not a feature: with a few dozen questions it learns where their right answers are, and was
worse on others (docs/experiments.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # SciPy has no types
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]

from chatbench.core.answer_kinds import LETTERS
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Question
from chatbench.data.examples import ExampleRow, read_history
from chatbench.protocol.answers import clean_output, lenient_letter, read_answer
from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    Reply,
    Request,
    SteppedParticipant,
)
from chatbench.protocol.prompts import ANSWER_PREFIX

FEATURES = ("in_last_reply", "in_replies", "in_messages", "phrase", "named", "right")
_BEGINNING = 5
"""Letters of a word that are compared: "emission" and "emitted" count as one."""
Floats = NDArray[np.float64]
_Draw = Callable[[Request, Reply | Failure], Reply | Failure]


@dataclass(frozen=True, slots=True)
class AnswerModel:
    """Weights of `FEATURES`, fitted on the choices of `people` people."""

    weights: tuple[float, ...]
    people: int

    def probabilities(self, features: Floats) -> Floats:
        """Probabilities of a chat's options, shape (options,), from their features of shape (options, features)."""
        return cast(Floats, softmax(features @ np.array(self.weights)))


def fitted_on(rows: Sequence[ExampleRow], questions: Mapping[str, Question]) -> AnswerModel:
    """Fits the answer model on the people in a split's training examples, which are about these questions.

    Raises:
        ChatbenchError: none of the examples is a choice between options in the form of messages.
    """
    features, chosen = [], []
    for row in rows:
        said = row.messages[2].content.removeprefix(ANSWER_PREFIX) if row.messages else ""
        letters = LETTERS[: len(options_of(row.messages[0]))] if row.messages and row.kind == "answer" else ()
        if row.messages and said in letters:
            features.append(option_features(row.messages[0], row.messages[1], questions[row.question_id].answer))
            chosen.append(letters.index(said))
    if not chosen:
        raise ChatbenchError(
            "no human answers to fit an answer model to",
            expected="training examples with messages, some of which are answers: letters of options",
            fix="prepare the splits with --format messages, from a study in which people chose between options",
        )
    return fit(features, chosen)


def fit(features: Sequence[Floats], chosen: Sequence[int]) -> AnswerModel:
    """Fits the answer model on choices.

    Args:
        features: one array per chat, shape (options, features); the number of options may differ.
        chosen: shape (chats,), the index of the chosen option.
    """
    inside = np.zeros((len(features), max(map(len, features)), features[0].shape[1]))
    there = np.zeros(inside.shape[:2], dtype=bool)
    for chat, each in enumerate(features):  # only differences between the options of a chat matter
        inside[chat, : len(each)] = each - each.mean(axis=0)
        there[chat, : len(each)] = True
    scale = np.sqrt((inside[there] ** 2).mean(axis=0))
    scale[scale < 1e-9] = 1.0  # all equal: the weight stays 0
    inside /= scale
    rows, picked = np.arange(len(chosen)), np.array(chosen)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = np.where(there, inside @ weights, -np.inf)
        nats = -log_softmax(scores, axis=1)[rows, picked].sum() + weights @ weights / 2
        expected = (softmax(scores, axis=1)[:, :, None] * inside).sum(axis=1)
        return float(nats), (expected - inside[rows, picked]).sum(axis=0) + weights

    found = minimize(loss, np.zeros(inside.shape[2]), jac=True, method="L-BFGS-B")
    return AnswerModel(tuple((found.x / scale).tolist()), len(chosen))


def option_features(system: Message, asked: Message, right: str) -> Floats:
    """Features of the options when a simulator is asked for its next turn, shape (options, features).

    `right` is the letter of the right option.
    """
    options = options_of(system)
    exchanges = [each.partition("\n\nSYSTEM: ") for each in read_history(asked.content).exchanges]
    replies = [reply for _, _, reply in exchanges] or [""]
    places = [
        set(_words(text)) for text in (replies[-1], " ".join(replies), " ".join(said for said, _, _ in exchanges))
    ]
    last = f" {' '.join(_words(replies[-1]))} "
    told = sum(bool(words) and set(words) <= places[2] for words in map(_words, options))
    named = lenient_letter(replies[-1], options) if told > 1 else None
    features = []
    for letter, option in zip(LETTERS, options, strict=False):
        words = _words(option)
        others = {word for each in options if each is not option for word in _words(each)}
        own = [word for word in words if word not in others] or words
        shares = [sum(word in there for word in own) / max(1, len(own)) for there in places]
        phrase = bool(words) and f" {' '.join(words)} " in last
        features.append([*shares, float(phrase), float(letter == named), float(letter == right)])
    return np.array(features)


def options_of(system: Message) -> tuple[str, ...]:
    """The texts of the options at the end of a system message; none for a question without options."""
    _, first, rest = system.content.rpartition("\nA. ")
    return tuple(re.split(r"\n[B-Z]\. ", rest)) if first else ()


def _words(text: str) -> list[str]:
    words: list[str] = re.findall(r"\w+", text.casefold())
    return [word if any(map(str.isdigit, word)) else word[:_BEGINNING] for word in words]


def answering(
    participant: AnyParticipant, model: AnswerModel, questions: Mapping[str, Question], *, temperature: float = 1.0
) -> AnyParticipant:
    """The simulator, with its answers drawn from the answer model (at temperature 0: the likeliest one).

    Its identity names the features and not the weights, which follow from them and the split's training side.
    """
    draw = partial(_drawn, model, questions, temperature)
    identity = {**participant.identity, "answer_model": list(FEATURES)}
    if isinstance(participant, ConcurrentParticipant):
        return _ConcurrentAnswering(participant, identity, draw, getattr(participant, "unreachable", []))
    return _LocalAnswering(cast(SteppedParticipant, participant), identity, draw)


def _drawn(
    model: AnswerModel, questions: Mapping[str, Question], temperature: float, request: Request, reply: Reply | Failure
) -> Reply | Failure:
    """The reply, with a letter of the answer model in place of the one that it answers with."""
    if isinstance(reply, Failure) or len(request.messages) != 2:
        return reply
    system, asked = request.messages
    # Before there is a conversation, `Answer: B` is a message. Without options, an answer stays as written.
    answers = request.purpose == "forced" or read_answer(clean_output(reply.text)) is not None
    if not answers or not read_history(asked.content).exchanges or not options_of(system):
        return reply
    probabilities = model.probabilities(option_features(system, asked, questions[request.question_id].answer))
    drawn = np.random.default_rng((request.seed, len(LETTERS))).choice(len(probabilities), p=probabilities)
    letter = LETTERS[int(drawn if temperature else probabilities.argmax())]
    letters = (*probabilities.tolist(), *[0.0] * (len(LETTERS) - len(probabilities)))
    return replace(
        reply, text=ANSWER_PREFIX + letter, answer=replace(reply.answer, letters=letters) if reply.answer else None
    )


@dataclass(slots=True)
class _LocalAnswering:
    _participant: SteppedParticipant
    identity: dict[str, object]
    _drawn: _Draw
    _asked: dict[int, Request] = field(default_factory=dict)

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return list(map(self._drawn, requests, self._participant.reply_all(requests)))

    def join(self, key: int, request: Request) -> None:
        self._asked[key] = request
        self._participant.join(key, request)

    def step(self) -> list[tuple[int, Reply | Failure]]:
        return [(key, self._drawn(self._asked.pop(key), reply)) for key, reply in self._participant.step()]

    def share_memory(self, gib: float | None, models: int) -> None:
        self._participant.share_memory(gib, models)

    def forget(self) -> None:
        self._asked.clear()
        self._participant.forget()


@dataclass(slots=True)
class _ConcurrentAnswering:
    _participant: ConcurrentParticipant
    identity: dict[str, object]
    _drawn: _Draw
    unreachable: list[str]

    async def reply(self, request: Request) -> Reply | Failure:
        return self._drawn(request, await self._participant.reply(request))

    async def close(self) -> None:
        await self._participant.close()
