"""Answers drawn from what people chose after chats: features, fit, and what is left as the simulator wrote it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import numpy as np
import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AnswerProbabilities, Message, Question, Turn
from chatbench.data.examples import ExampleRow
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Purpose, Reply, Request, SteppedParticipant
from chatbench.protocol.dialogue_runner import Asking, run_together
from chatbench.protocol.prompts import simulator_messages
from chatbench.simulation.answer_model import FEATURES, AnswerModel, answering, fit, fitted_on, option_features

QUESTION = Question(
    "q", "physics", "What does cobalt-60 emit?", ("alpha particles", "gamma rays", "only beta rays", "60, 61"), "B"
)


def asked(*texts: str) -> tuple[Message, Message]:
    """What a two-step simulator is asked after these messages of person and assistant in turn."""
    turns = [Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    return simulator_messages(QUESTION.full_text, turns, asked_for=QUESTION.asked_for)


def features(*texts: str) -> dict[str, list[float]]:
    return dict(zip(FEATURES, option_features(*asked(*texts), QUESTION.answer).T.tolist(), strict=True))


def test_an_option_is_looked_up_by_the_words_that_no_other_option_has() -> None:
    # "rays" is in two options and tells nothing. The likely mistake: it makes B and C alike.
    found = features(
        "what about beta", "Only.", "and what does it emit", "It emits Gamma-rays, says a particle physicist."
    )

    assert found["in_last_reply"] == [0.5, 1.0, 0.0, 0.0]  # particles -> "parti", as in particle
    assert found["in_replies"] == [0.5, 1.0, 0.5, 0.0]
    assert found["in_messages"] == [0.0, 0.0, 0.5, 0.0]
    assert found["phrase"] == [0.0, 1.0, 0.0, 0.0]


def test_numbers_are_compared_in_full_and_phrases_at_the_borders_of_words() -> None:
    assert features("x", "60 or 61000, 60 or 615.")["in_last_reply"][3] == 0.5
    assert features("x", "60 and 615.")["phrase"] == [0.0] * 4


def test_a_letter_counts_where_the_person_told_the_options() -> None:
    told = "alpha particles, gamma rays or beta?"

    assert features(told, "The answer is B.")["named"] == [0, 1, 0, 0]
    assert features("what does it emit", "The answer is B.")["named"] == [0] * 4


def test_the_fit_gives_the_share_of_people_who_followed() -> None:
    # 700 of 1,000 chose the option with the feature, the others any other: softmax(w, 0, 0, 0)[0] = 0.7. The likely
    # mistake is a penalty on the mean loss, which would pull it far towards a quarter.
    rng = np.random.default_rng(0)
    marked = rng.integers(4, size=1000)
    x = np.eye(4)[marked][:, :, None]
    chosen = [int(m) if place < 700 else int((m + 1 + place % 3) % 4) for place, m in enumerate(marked)]

    features = list(np.concatenate([x, np.ones_like(x)], axis=2))
    model = fit(features, chosen)

    assert model.probabilities(features[0])[marked[0]] == pytest.approx(0.7, abs=0.005)
    assert model.weights[1] == 0.0  # the same for all options


def test_questions_may_have_different_numbers_of_options() -> None:
    # 80 % choose the one of two with the feature. The likely mistake: options that are not there share in the softmax
    # as soon as one chat has five, and p of the two is fitted as p of five.
    two, five = np.eye(2)[:, :1], np.eye(5)[:, :1]

    model = fit([two] * 1000 + [five] * 2, [0] * 800 + [1] * 200 + [0] * 2)

    assert model.probabilities(two)[0] == pytest.approx(0.8, abs=0.005)
    assert model.probabilities(five)[0] == pytest.approx(4 / (4 + 4), abs=0.01)  # odds of 4 to 1 against each other


def test_it_is_fitted_on_the_answers_among_the_training_examples() -> None:
    def row(kind: str, reply: str, said: str) -> ExampleRow:
        return ExampleRow("", "", (*asked("q", reply), Message("assistant", said)), "q", "c", kind)  # type: ignore[arg-type]

    rows = [row("follow_up", "x", "and then?"), *[row("answer", "gamma rays", "Answer: B")] * 5]

    assert fitted_on(rows, QUESTIONS).people == 5
    with pytest.raises(ChatbenchError, match="no human answers"):
        fitted_on(rows[:1], QUESTIONS)


def test_people_who_know_the_answer_choose_it_whatever_the_reply_says() -> None:
    # B is right; 60 % choose it after a reply that says nothing. The likely mistake: the key of another question.
    def row(said: str) -> ExampleRow:
        messages = (*asked("q", "I do not know."), Message("assistant", f"Answer: {said}"))
        return ExampleRow("", "", messages, "q", "c", "answer")

    model = fitted_on([row("B")] * 600 + [row("A"), row("C"), row("D")] * 133, QUESTIONS)
    other = Question("r", "physics", QUESTION.text, QUESTION.options, "D")
    silent = asked("q", "Who knows?")

    assert model.probabilities(option_features(*silent, QUESTION.answer))[1] == pytest.approx(0.6, abs=0.01)
    drawn = answering(simulator("Answer: A"), model, {"q": other}).reply_all([request(silent, n) for n in range(2000)])  # type: ignore[union-attr]
    assert [reply.text for reply in drawn].count("Answer: D") / 2000 == pytest.approx(0.6, abs=0.04)


MODEL = AnswerModel((3.0, 0.0, 0.0, 0.0, 0.0, 0.0), 9)
QUESTIONS = {QUESTION.id: QUESTION}
AFTER = asked("what does it emit", "gamma rays")


def simulator(text: str, answer: AnswerProbabilities | None = None) -> FunctionParticipant:
    return FunctionParticipant(lambda _request: Reply(text, answer=answer), {"name": "x"})


def request(messages: tuple[Message, ...], seed: int = 0, purpose: Purpose = "turn") -> Request:
    return Request("simulator", messages, "q", seed, purpose)


def test_letters_are_drawn_from_the_model_whatever_the_simulator_wrote() -> None:
    learnt = AnswerProbabilities(0.6, (1.0, 0.0, 0.0, 0.0))

    replies = answering(simulator("Answer: A", learnt), MODEL, QUESTIONS).reply_all(
        [request(AFTER, seed) for seed in range(2000)]
    )  # type: ignore[union-attr]

    drawn = [reply.text for reply in replies]
    p = np.e**3 / (np.e**3 + 3)  # of B, by hand
    assert drawn.count("Answer: B") / 2000 == pytest.approx(p, abs=0.03)
    assert set(drawn) == {f"Answer: {letter}" for letter in "ABCD"}
    assert replies[0].answer.letters[1] == pytest.approx(p)
    assert replies[0].answer.answering == 0.6


@pytest.mark.parametrize(
    ("text", "messages"),
    [("what about beta?", AFTER), ("the Answer: B", AFTER), ("Answer: C", asked())],  # the last: before there is a chat
)
def test_what_is_no_answer_is_left_as_it_is(text: str, messages: tuple[Message, Message]) -> None:
    assert answering(simulator(text), MODEL, QUESTIONS).reply_all([request(messages)])[0].text == text  # type: ignore[union-attr]


def test_at_the_limit_of_turns_an_option_is_chosen_even_if_the_simulator_talks_on() -> None:
    # People always answered in the end. The likely mistake: the chat has no answer and counts as wrong.
    forced = answering(simulator("and what about beta?"), MODEL, QUESTIONS, temperature=0)
    without_options = asked("what does it emit", "gamma rays")[0].content.partition("\nA. ")[0]

    assert forced.reply_all([request(AFTER, purpose="forced")])[0].text == "Answer: B"  # type: ignore[union-attr]
    unknown = (Message("system", without_options), AFTER[1])
    assert forced.reply_all([request(unknown, purpose="forced")])[0].text == "and what about beta?"  # type: ignore[union-attr]


def test_without_chance_the_likeliest_option_is_chosen_and_failures_pass() -> None:
    greedy = answering(simulator("Answer: ?"), MODEL, QUESTIONS, temperature=0)
    failing = answering(FunctionParticipant(lambda _request: Failure("no"), {}), MODEL, QUESTIONS)

    assert {reply.text for reply in greedy.reply_all([request(AFTER, n) for n in range(20)])} == {"Answer: B"}  # type: ignore[union-attr]
    assert failing.reply_all([request(AFTER)]) == [Failure("no")]  # type: ignore[union-attr]


def test_a_local_simulator_goes_on_in_steps_and_its_letters_are_drawn_too() -> None:
    class Stepped(FunctionParticipant):
        waiting: ClassVar[dict[int, Request]] = {}
        called: ClassVar[list[object]] = []

        def join(self, key: int, request: Request) -> None:
            self.waiting[key] = request

        def step(self) -> list[tuple[int, Reply | Failure]]:
            key, one = self.waiting.popitem()
            return [(key, self.function(one))]

        def share_memory(self, gib: float | None, models: int) -> None:
            self.called.append((gib, models))

        def forget(self) -> None:
            self.called.append("forget")

    one = answering(Stepped(lambda _: Reply("Answer: A"), {}), MODEL, QUESTIONS, temperature=0)
    assert isinstance(one, SteppedParticipant)
    one.share_memory(0.5, 2)

    def chat(seed: int) -> Asking[Reply | Failure]:
        return (yield request(AFTER, seed))

    assert run_together([chat(0), chat(1)], {"simulator": one}) == [Reply("Answer: B")] * 2
    assert Stepped.called == [(0.5, 2), "forget"]


def test_a_simulator_behind_an_endpoint_can_have_one() -> None:
    class Served:
        identity: dict[str, object] = {"name": "served"}  # noqa: RUF012
        closed = False

        async def reply(self, request: Request) -> Reply | Failure:  # noqa: ARG002
            return Reply("Answer: A")

        async def close(self) -> None:
            self.closed = True

    served = Served()
    one = answering(served, MODEL, QUESTIONS, temperature=0)

    assert asyncio.run(one.reply(request(AFTER))) == Reply("Answer: B")  # type: ignore[union-attr]
    asyncio.run(one.close())  # type: ignore[union-attr]
    assert served.closed
    assert one.identity == {"name": "served", "answer_model": list(FEATURES)}
