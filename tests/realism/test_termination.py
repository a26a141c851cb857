"""Where a simulator would stop in people's chats: the points, the scores, and the probability from a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from chatbench.core.records import Conversation, Question, Turn
from chatbench.metrics.agreement import Undefined
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request
from chatbench.protocol.prompts import simulator_messages
from chatbench.realism.termination import (
    Decision,
    answer_probabilities,
    end_shares_by_reply,
    f1_score,
    stopping_points,
    termination,
    would_stop,
)

if TYPE_CHECKING:
    from chatbench.models.loading import Loaded

QUESTION = Question("q", "s", "How many?", ("1", "2", "3", "4"), "B")
TURNS = (Turn("user", " how many? "), Turn("assistant", "2"), Turn("user", "sure?"), Turn("assistant", "yes"))
CHAT = Conversation("q|w", "q", "w", "gpt-4o", "answer-first", TURNS, "B")


def decision(ended: bool, predicted: bool, probability: float | None = None, replies: int = 1) -> Decision:
    return Decision(replies, ended, predicted, probability)


def test_scores_by_hand() -> None:
    # Three ends, of which two are seen; one end too many.
    told = [(True, True, 0.9), (True, True, 0.7), (True, False, 0.2), (False, True, 0.6), (False, False, 0.1)]
    scores = termination([decision(*one) for one in told], {1: 0.5})

    expected = {
        "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "f1_always": 2 * 3 / (5 + 3),
        "f1_by_chance": 2 * 1.5 / (2.5 + 3), "brier": (0.01 + 0.09 + 0.64 + 0.36 + 0.01) / 5, "brier_floor": 0.6 * 0.4,
        "calibration_error": (0.1 + 0.3 + 0.8 + 0.6 + 0.1) / 5,
    }  # fmt: skip
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected)


def test_what_does_not_exist_has_a_reason() -> None:
    # F1 does not count chats that rightly go on. Accuracy would be 0.98 here: the likely mistake.
    decisions = [decision(True, False), decision(False, True), *[decision(False, False)] * 98]
    assert termination(decisions, {}).f1 == 0
    scores = termination([decision(False, False)], {})

    assert scores.precision == Undefined("the simulator never ends a chat")
    assert scores.recall == Undefined("nobody ended a chat")
    for value in (scores.f1, scores.brier, termination([], {}).ended_share, f1_score(0, 0, 0)):
        assert isinstance(value, Undefined)


def test_chance_ends_as_people_do_after_as_many_replies() -> None:
    assert end_shares_by_reply([1, 1, 2, 4]) == {1: 0.5, 2: 0.5, 4: 1.0}
    # After three replies nobody of the training side was seen to stop or not: the share after two stands in.
    late = termination([decision(True, True, replies=3)], end_shares_by_reply([1, 1, 2, 4]))
    assert late.f1_by_chance == pytest.approx(2 * 0.5 / (0.5 + 1))


def test_each_reply_of_a_chat_is_a_point_and_the_last_is_where_the_person_stopped() -> None:
    first, last = stopping_points([CHAT], {"q": QUESTION})

    assert [(first.replies, first.ended), (last.replies, last.ended)] == [(1, False), (2, True)]
    assert first.messages == simulator_messages(
        QUESTION.full_text, (Turn("user", "how many?"), TURNS[1]), asked_for=QUESTION.asked_for
    )
    assert last.messages[1].content.count("SYSTEM: ") == 2

    def answer(request: Request) -> Reply | Failure:
        return Reply(' "YOU: Answer: (B)') if "sure?" in request.messages[1].content else Failure("too long")

    # An output stops where the simulation would read an answer.
    assert would_stop(FunctionParticipant(answer, {}), [first, last]) == [False, True]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from tests.support.tiny_models import save_tiny_model

    from chatbench.models.loading import load

    return load(str(save_tiny_model(tmp_path_factory.mktemp("model"), context=2048)), device="cpu")


def test_the_probability_of_an_answer_is_that_of_its_four_texts(loaded: Loaded) -> None:
    import torch

    from chatbench.models.encoding import PLAIN
    from chatbench.models.loading import context_length
    from chatbench.protocol.prompts import completion_text, encode_completion, encode_prompt, prompt_text

    points = stopping_points([CHAT], {"q": QUESTION})
    found = answer_probabilities(loaded, PLAIN, points)
    prompt = encode_prompt(loaded.tokenizer, prompt_text(points[0].messages))
    total = 0.0
    for letter in "ABCD":
        target = encode_completion(loaded.tokenizer, completion_text(f"Answer: {letter}"))
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        chances = logits.double().log_softmax(-1)[range(len(target)), target]
        total += math.exp(float(chances.sum()))

    assert found[0] == pytest.approx(total, rel=1e-3)
    # A chat that does not fit the context has no probability.
    words = "word " * context_length(loaded.model)
    endless = Conversation("q|v", "q", "v", "gpt-4o", "", (Turn("user", words), Turn("assistant", "ok")), "B")
    again = answer_probabilities(loaded, PLAIN, stopping_points([CHAT, endless], {"q": QUESTION}))
    assert again[2] is None
    assert again[0] == pytest.approx(found[0])
