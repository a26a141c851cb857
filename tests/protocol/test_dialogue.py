"""The two-step loop with participants of a few lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatbench.core.records import EMPTY_TURN, Question, SimulatedConversation, Turn
from chatbench.protocol import prompts
from chatbench.protocol.dialogue import (
    AnswerProbabilities,
    Failure,
    FunctionParticipant,
    Reply,
    Request,
    Usage,
    derive_seed,
    dialogue,
)
from chatbench.protocol.dialogue_runner import run_together
from chatbench.protocol.failure_modes import FailureMode
from chatbench.protocol.prompt_styles import STYLES, StyleName

QUESTION = Question("q1", "maths", "What is 2+2?", ("3", "4", "5", "6"), "B")


def simulated(
    says: Callable[[int], Reply | Failure],
    replies: Callable[[int], Reply | Failure] = lambda turn: Reply(f"reply {turn}"),
    *,
    max_user_turns: int = 10,
    style: StyleName = "two-step",
    end_on: frozenset[FailureMode] = frozenset(),
) -> tuple[SimulatedConversation, list[Request]]:
    """The outcome and all requests of one dialogue; participants are told how often they were asked before."""
    requests: list[Request] = []

    def asked(request: Request) -> Reply | Failure:
        before = sum(earlier.participant == request.participant for earlier in requests)
        requests.append(request)
        return says(before) if request.participant == "simulator" else replies(before)

    participant = FunctionParticipant(asked, {})
    one = dialogue(QUESTION, "q1|bot|0", base_seed=0, max_user_turns=max_user_turns, style=STYLES[style], end_on=end_on)
    return run_together([one], {"simulator": participant, "assistant": participant})[0], requests


def test_the_published_loop_word_for_word() -> None:
    outcome, requests = simulated(
        lambda turn: Reply(['"YOU: what is 2+2"', "Answer: B"][turn], 3), lambda _: Reply("4", 5)
    )

    system = prompts.SYSTEM.replace("{question}", "What is 2+2?\nA. 3\nB. 4\nC. 5\nD. 6")
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
    assert outcome == SimulatedConversation(
        id="q1|bot|0",
        question_id="q1",
        assistant="",
        index=0,
        style="two-step",
        turns=(Turn("user", "what is 2+2"), Turn("assistant", "4")),
        termination="answered",
        answer_text="B",
        letter="B",
        final_output="Answer: B",
        usage=Usage(simulator_tokens=6, assistant_tokens=5),
    )


def test_after_ten_free_turns_the_eleventh_request_forces_the_answer() -> None:
    # Forcing the tenth turn, or asking freely once more before, are the likely mistakes.
    outcome, requests = simulated(lambda turn: Reply("Answer: C" if turn == 10 else f"more {turn}"))

    purposes = [request.purpose for request in requests if request.participant == "simulator"]
    assert purposes == ["turn"] * 10 + ["forced"]
    assert requests[-1].messages[1].content.endswith(prompts.FORCED_ANSWER.replace("{answer}", prompts.FOUR_OPTIONS))
    assert (outcome.termination, outcome.letter, outcome.forced_text) == ("forced", "C", "Answer: C")
    assert len(outcome.turns) == 20


def test_no_answer_even_when_forced_keeps_what_was_said_outside_the_turns() -> None:
    outcome, requests = simulated(lambda _: Reply("I do not know"), max_user_turns=2)

    assert (outcome.termination, outcome.answer_text, outcome.letter) == ("no_answer", None, None)
    assert outcome.forced_text == "I do not know"
    assert len(outcome.turns) == 4
    assert requests[-1].participant == "simulator"  # the assistant is not asked once more


def test_the_help_variant_says_its_first_turn_without_asking_the_simulator() -> None:
    outcome, requests = simulated(lambda _: Reply("Answer: A"), style="two-step-help")

    assert requests[0].participant == "assistant"
    assert outcome.turns[0].text == prompts.FIRST_TURN_HELP
    assert outcome.termination == "answered"


@pytest.mark.parametrize("nothing", ["", "  \n", '""'])
def test_a_simulator_that_says_nothing_fails_for_good(nothing: str) -> None:
    outcome, requests = simulated(lambda _: Reply(nothing))

    assert (outcome.termination, outcome.reason, outcome.transient) == ("failed", EMPTY_TURN, False)
    assert len(requests) == 1


def test_a_failing_assistant_ends_its_own_conversation_and_keeps_the_unanswered_message() -> None:
    outcome, _ = simulated(lambda _: Reply("hi"), lambda _: Failure("HTTP 503", transient=True))

    assert (outcome.termination, outcome.reason, outcome.transient) == ("failed", "HTTP 503", True)
    assert outcome.turns == (Turn("user", "hi"),)


def test_seeds_differ_by_participant_turn_and_conversation_and_are_the_same_everywhere() -> None:
    _, requests = simulated(lambda turn: Reply(["a", "b", "Answer: A"][turn]))

    assert {request.conversation_id for request in requests} == {"q1|bot|0"}
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

    ended: list[SimulatedConversation] = []
    dialogues = [dialogue(QUESTION, f"q1|bot|{index}", base_seed=0) for index in range(5)]
    outcomes = run_together(dialogues, {"simulator": Counting(), "assistant": Counting()}, ended.append)

    assert rounds == [5, 5, 5]
    assert ended == outcomes
    assert all(outcome.termination == "answered" for outcome in outcomes)


# ---- beside the published loop: what is counted, and what may be asked of it ----

GLUED = ["what is 2+2", "thanks, it is 4 then. Answer: B", "Answer: B", "Answer: C"]


def test_failures_are_counted_and_change_nothing() -> None:
    outcome, requests = simulated(lambda turn: Reply(GLUED[turn]))

    assert outcome.observed == {"glued_answer": 1}
    assert [turn.text for turn in outcome.turns[::2]] == GLUED[:2]
    assert [request.purpose for request in requests if request.participant == "simulator"] == ["turn"] * 3
    assert (outcome.termination, outcome.letter) == ("answered", "B")


def test_a_failure_mode_that_is_named_forces_the_answer_in_place_of_its_message() -> None:
    outcome, requests = simulated(lambda turn: Reply(GLUED[turn]), end_on=frozenset({"glued_answer"}))

    assert [turn.text for turn in outcome.turns] == ["what is 2+2", "reply 0"]
    assert [request.purpose for request in requests if request.participant == "simulator"] == ["turn", "turn", "forced"]
    assert (outcome.termination, outcome.letter) == ("forced", "B")
    # At the same point of the chat the simulator is asked twice: with one seed both would draw alike.
    assert requests[-1].seed != requests[-2].seed


def test_a_named_failure_mode_ends_no_chat_before_there_is_one_nor_one_that_has_its_answer() -> None:
    first, _ = simulated(
        lambda turn: Reply(["SYSTEM: hi", "Answer: A"][turn]), end_on=frozenset({"role_flip", "glued_answer"})
    )
    answered, _ = simulated(lambda turn: Reply(["hi", "Answer: A. Why?"][turn]), end_on=frozenset({"glued_answer"}))

    assert (first.termination, first.observed, len(first.turns)) == ("answered", {"role_flip": 1}, 2)
    assert (answered.termination, answered.observed) == ("answered", {"glued_answer": 1})


def test_silence_fails_the_chat_unless_it_is_named_to_end_it() -> None:
    silent, _ = simulated(lambda turn: Reply(["hi", "", "Answer: B"][turn]))
    forced, _ = simulated(lambda turn: Reply(["hi", "", "Answer: B"][turn]), end_on=frozenset({"empty_turn"}))

    assert (silent.termination, silent.reason, silent.observed) == ("failed", EMPTY_TURN, {"empty_turn": 1})
    assert (forced.termination, forced.letter, forced.observed) == ("forced", "B", {"empty_turn": 1})


def test_the_lenient_letter_stands_beside_the_strict_one_and_never_for_it() -> None:
    cases = {"Answer: (C)": (None, "C"), "Answer: B": ("B", None), "Answer: maybe": (None, None)}
    for said, letters in cases.items():
        outcome, _ = simulated(lambda turn, said=said: Reply(["hi", said][turn]))  # type: ignore[misc]  # bound in the loop
        assert (outcome.letter, outcome.lenient_letter) == letters

    forced, _ = simulated(lambda turn: Reply(["hi", "the answer is D"][turn]), max_user_turns=1)
    assert (forced.termination, forced.letter, forced.lenient_letter) == ("no_answer", None, "D")
    # A chat that goes on is not read: "5" is the third option, but also a message.
    ongoing, _ = simulated(lambda turn: Reply(["hi", "5"][turn]), lambda turn: [Reply("4"), Failure("gone")][turn])
    assert (ongoing.termination, ongoing.lenient_letter) == ("failed", None)


def test_tokens_and_seconds_are_summed_by_side() -> None:
    outcome, _ = simulated(
        lambda turn: Reply(["hi", "Answer: A"][turn], tokens=2, prompt_tokens=10, seconds=0.5),
        lambda _: Reply("4", tokens=3, prompt_tokens=7, seconds=0.25),
    )

    assert outcome.usage == Usage(20, 4, 7, 3)
    assert outcome.seconds == 1.25


def test_what_a_server_says_of_its_replies_is_kept_and_its_reasoning_is_told_to_nobody() -> None:
    outcome, requests = simulated(
        lambda turn: Reply(["hi", "and then? " * 20, "<think>B it is</think>Answer: B"][turn], prompt_tokens=90),
        lambda turn: Reply(
            "<think>Answer: C?</think>four", finish=["length", "stop"][turn], model=["m-1", "m-2"][turn],
            prompt_tokens=60, tokens=9, reasoning_tokens=5, cached_tokens=40,
        ),
    )  # fmt: skip

    assert outcome.letter == "B"
    assert [(each.participant, each.text) for each in outcome.reasoning] == [
        ("assistant", "Answer: C?"), ("assistant", "Answer: C?"), ("simulator", "B it is"),
    ]  # fmt: skip
    said = [message.content for request in requests for message in request.messages]
    assert not any("think>" in text or "C?" in text for text in [*said, *(turn.text for turn in outcome.turns)])
    assert outcome.finish_reasons == {"assistant": {"length": 1}}
    assert outcome.served_models == {"assistant": ("m-1", "m-2")}
    assert (outcome.usage.assistant_reasoning_tokens, outcome.usage.assistant_cached_tokens) == (10, 80)
    # The prompts grew by hundreds of characters, and the servers read no more tokens than before.
    assert outcome.prompts_truncated == {"assistant": 1, "simulator": 2}


def test_the_expected_score_is_the_right_letters_probability_where_the_chat_ended() -> None:
    first = AnswerProbabilities(0.1, (0.7, 0.1, 0.1, 0.1))
    last = AnswerProbabilities(0.9, (0.2, 0.5, 0.2, 0.1))  # B is right
    answers = [None, first, last]

    outcome, _ = simulated(lambda turn: Reply(["a", "b", "Answer: C"][turn], answer=answers[turn]))
    gone, _ = simulated(
        lambda turn: Reply(["a", "b"][turn], answer=answers[turn]), lambda turn: [Reply("x"), Failure("y")][turn]
    )

    assert outcome.answer_probabilities == (None, first, last)
    assert outcome.expected_correct == 0.5
    assert gone.expected_correct is None
    assert gone.answer_probabilities == (None, first)


def test_a_forced_simulator_that_gives_no_answer_has_no_expected_score() -> None:
    # What it would have been worth, had it answered, is not what it was worth.
    given = AnswerProbabilities(0.5, (0.0, 1.0, 0.0, 0.0))

    outcome, _ = simulated(lambda _: Reply("no idea", answer=given), max_user_turns=1)

    assert (outcome.termination, outcome.expected_correct) == ("no_answer", None)
