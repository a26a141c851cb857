"""The two-step loop with speakers of a few lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatbench.core.records import Question, Turn
from chatbench.protocol import prompts
from chatbench.protocol.dialogue import (
    EMPTY_TURN,
    Failure,
    FunctionSpeaker,
    Outcome,
    Reply,
    Request,
    derive_seed,
    dialogue,
)
from chatbench.protocol.driving import hold_together
from chatbench.protocol.prompts import PromptVariant

QUESTION = Question("q1", "maths", "What is 2+2?", ("3", "4", "5", "6"), "B")


def held(
    says: Callable[[int], Reply | Failure],
    replies: Callable[[int], Reply | Failure] = lambda turn: Reply(f"reply {turn}"),
    *,
    max_user_turns: int = 10,
    variant: PromptVariant = "two-step",
) -> tuple[Outcome, list[Request]]:
    """The outcome and all requests of one dialogue; speakers are told how often they were asked before."""
    requests: list[Request] = []

    def asked(request: Request) -> Reply | Failure:
        before = sum(earlier.speaker == request.speaker for earlier in requests)
        requests.append(request)
        return says(before) if request.speaker == "simulator" else replies(before)

    speaker = FunctionSpeaker(asked, {})
    one = dialogue(QUESTION, "q1|bot|0", base_seed=0, max_user_turns=max_user_turns, variant=variant)
    return hold_together([one], {"simulator": speaker, "assistant": speaker})[0], requests


def test_the_published_loop_word_for_word() -> None:
    outcome, requests = held(lambda turn: Reply(['"YOU: what is 2+2"', "Answer: B"][turn], 3), lambda _: Reply("4", 5))

    system = prompts.system_message("What is 2+2?\nA. 3\nB. 4\nC. 5\nD. 6")
    assert [message.content for message in requests[0].messages] == [system, prompts.FIRST_TURN]
    assert [message.content for message in requests[1].messages] == ["You are a helpful AI assistant.", "what is 2+2"]
    assert (
        requests[2]
        .messages[1]
        .content.startswith(
            "Here is your conversation so far with the AI system:\n========================\n"
            "YOU: what is 2+2\n\nSYSTEM: 4\n========================\nIf your question is answered"
        )
    )
    assert outcome == Outcome(
        turns=(Turn("user", "what is 2+2"), Turn("assistant", "4")),
        termination="answered",
        answer_text="B",
        letter="B",
        simulator_tokens=6,
        assistant_tokens=5,
    )


def test_an_answer_in_the_first_turn_is_an_ordinary_message() -> None:
    outcome, _ = held(lambda _: Reply("Answer: B"))

    assert outcome.turns == (Turn("user", "Answer: B"), Turn("assistant", "reply 0"))
    assert outcome.termination == "answered"


def test_an_invalid_answer_ends_the_chat_and_is_kept_as_it_was() -> None:
    outcome, _ = held(lambda turn: Reply(["hi", "Answer: (A)"][turn]))

    assert (outcome.termination, outcome.answer_text, outcome.letter) == ("answered", "(A)", None)


def test_after_ten_free_turns_the_eleventh_request_forces_the_answer() -> None:
    # Forcing the tenth turn, or asking freely once more before, are the likely mistakes.
    outcome, requests = held(lambda turn: Reply("Answer: C" if turn == 10 else f"more {turn}"))

    purposes = [request.purpose for request in requests if request.speaker == "simulator"]
    assert purposes == ["turn"] * 10 + ["forced"]
    assert requests[-1].messages[1].content.endswith(prompts.FORCED_ANSWER)
    assert (outcome.termination, outcome.letter, outcome.forced_text) == ("forced", "C", "Answer: C")
    assert len(outcome.turns) == 20


def test_no_answer_even_when_forced_keeps_what_was_said_outside_the_turns() -> None:
    outcome, requests = held(lambda _: Reply("I do not know"), max_user_turns=2)

    assert (outcome.termination, outcome.answer_text, outcome.letter) == ("no_answer", None, None)
    assert outcome.forced_text == "I do not know"
    assert len(outcome.turns) == 4
    assert requests[-1].speaker == "simulator"  # the assistant is not asked once more


def test_the_help_variant_says_its_first_turn_without_asking_the_simulator() -> None:
    outcome, requests = held(lambda _: Reply("Answer: A"), variant="two-step-help")

    assert requests[0].speaker == "assistant"
    assert outcome.turns[0].text == prompts.FIRST_TURN_HELP
    assert outcome.termination == "answered"


def test_the_problem_variant_asks_for_the_problem_statement() -> None:
    _, requests = held(lambda turn: Reply(["hi", "Answer: A"][turn]), variant="two-step-problem")

    assert requests[0].messages[1].content == prompts.FIRST_TURN_PROBLEM


@pytest.mark.parametrize("nothing", ["", "  \n", '""', "YOU: "])
def test_a_simulator_that_says_nothing_fails_for_good(nothing: str) -> None:
    outcome, requests = held(lambda _: Reply(nothing))

    # "YOU: " loses its space to the cleaning of white space first, so it is the message "YOU:".
    if nothing.strip() == "YOU:":
        assert outcome.turns[0].text == "YOU:"
    else:
        assert (outcome.termination, outcome.reason, outcome.transient) == ("failed", EMPTY_TURN, False)
        assert len(requests) == 1


def test_a_failing_assistant_ends_its_own_conversation_and_keeps_the_unanswered_message() -> None:
    outcome, _ = held(lambda _: Reply("hi"), lambda _: Failure("HTTP 503", transient=True))

    assert (outcome.termination, outcome.reason, outcome.transient) == ("failed", "HTTP 503", True)
    assert outcome.turns == (Turn("user", "hi"),)


def test_seeds_differ_by_speaker_turn_and_conversation_and_are_the_same_everywhere() -> None:
    _, requests = held(lambda turn: Reply(["a", "b", "Answer: A"][turn]))

    assert len({request.seed for request in requests}) == len(requests) == 5
    assert derive_seed(0, "q1|bot|0", 0, "simulator") == requests[0].seed
    # printf '0|q|0|simulator' | sha256sum: the number is its first 8 bytes, halved.
    assert derive_seed(0, "q", 0, "simulator") == 0x5A206263927E872B // 2
    assert derive_seed(0, "q", 0, "simulator") != derive_seed(1, "q", 0, "simulator")


def test_dialogues_held_together_are_asked_in_waves() -> None:
    rounds: list[int] = []

    class Counting:
        identity: dict[str, object] = {}  # noqa: RUF012  (a fake)

        def reply_all(self, requests: object) -> list[Reply | Failure]:
            rounds.append(len(requests))  # type: ignore[arg-type]  # a fake
            return [Reply("Answer: A") for _ in requests]  # type: ignore[attr-defined]

    ended: list[int] = []
    dialogues = [dialogue(QUESTION, f"q1|bot|{index}", base_seed=0) for index in range(5)]
    outcomes = hold_together(dialogues, {"simulator": Counting(), "assistant": Counting()}, ended.append)

    assert rounds == [5, 5, 5]
    assert sum(ended) == 5
    assert all(outcome.termination == "answered" for outcome in outcomes)


def test_no_turn_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        next(dialogue(QUESTION, "id", base_seed=0, max_user_turns=0))
