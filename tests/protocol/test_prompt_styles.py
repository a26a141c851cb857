"""What each style of simulator is asked, and how its output is read."""

from __future__ import annotations

import pytest
from tests.protocol.test_dialogue import simulated as simulated_by

from chatbench.core.records import EMPTY_TURN, Message, SimulatedConversation, Turn
from chatbench.data.examples import asked_without_oldest, exchanges_asked_with
from chatbench.protocol import prompts
from chatbench.protocol.answers import FinalAnswer, Said
from chatbench.protocol.dialogue import Reply, Request
from chatbench.protocol.prompt_styles import STYLES, TWO_STEP, StyleName, prompts_sha256
from chatbench.protocol.prompts import FOUR_OPTIONS

TURNS = (Turn("user", "first"), Turn("assistant", "reply"))
LONGER = (*TURNS, Turn("user", "second"), Turn("assistant", "another"))


def simulated(style: StyleName, *says: str, max_user_turns: int = 10) -> tuple[SimulatedConversation, list[Request]]:
    """The outcome and the simulator's requests of a dialogue in which it says these one after the other."""
    outcome, requests = simulated_by(
        lambda turn: Reply(says[turn]), lambda _: Reply("4"), max_user_turns=max_user_turns, style=style
    )
    return outcome, [request for request in requests if request.participant == "simulator"]


# ---- two-step ----


@pytest.mark.parametrize(
    ("output", "first", "later"),
    [
        ("Answer: B", Said("Answer: B"), FinalAnswer("B")),
        (' "YOU: Answer: B"\n', Said("Answer: B"), FinalAnswer("B")),
        # Quotes go before the participant's name, so those behind it stay and hide the prefix.
        ('YOU: "Answer: B', Said('"Answer: B'), Said('"Answer: B')),
        # White space goes before the participant's name, which is then no longer followed by any.
        ("YOU: ", Said("YOU:"), Said("YOU:")),
        ("YOU: YOU: Answer: B", Said("YOU: Answer: B"), Said("YOU: Answer: B")),
        ("Answer: (A)", Said("Answer: (A)"), FinalAnswer("(A)")),
        ("thanks. Answer: B", Said("thanks. Answer: B"), Said("thanks. Answer: B")),
    ],
)
def test_a_two_step_output_is_read_in_the_published_order(output: str, first: Said, later: Said | FinalAnswer) -> None:
    # Cleaning until nothing changes any more would read more of these as answers: the likely mistake.
    assert TWO_STEP.read(output, ()) == first
    assert TWO_STEP.read(output, TURNS) == later


def test_the_variants_differ_in_the_first_turn_alone() -> None:
    names: tuple[StyleName, ...] = ("two-step", "two-step-problem", "two-step-help")
    first = [STYLES[name].messages("Q", (), asked_for=FOUR_OPTIONS)[1].content for name in names[:2]]
    later = {STYLES[name].messages("Q", TURNS, asked_for=FOUR_OPTIONS)[1].content for name in names}

    assert first == [prompts.FIRST_TURN, prompts.FIRST_TURN_PROBLEM]
    assert len(later) == 1
    assert [STYLES[name].opening for name in names] == [None, None, prompts.FIRST_TURN_HELP]


# ---- IQA-EVAL ----


def test_iqa_eval_is_asked_in_one_system_message_word_for_word() -> None:
    free, forced = (
        STYLES["iqa-eval"].messages("{Q} \\frac{1}{2}", TURNS, asked_for=FOUR_OPTIONS, forced=flag)
        for flag in (False, True)
    )

    assert [message.role for message in (*free, *forced)] == ["system", "system"]
    assert free[0].content == (
        "You are mimicking a human. You are trying to choose the correct answer to the given question. Please ask an "
        "assistant sub-questions for help approaching answers. In each turn, please only ask one sub-question to "
        "interact with an assistant. In the sub-questions, please include all necessary information, such as the "
        "question and options, in the original question. If you know the answer, please output "
        '"So, the answer is: A, B, C, or D."\n\n{Q} \\frac{1}{2}\n\nYOU: first\n\nASSISTANT: reply'
    )
    assert forced[0].content == (
        "You are mimicking a human. You are trying to choose the correct answer to the given question. Please choose "
        'the correct answer to the given question. Please output "So, the answer is: A, B, C, or D."\n\n'
        "{Q} \\frac{1}{2}\n\nYOU: first\n\nASSISTANT: reply"
    )
    assert STYLES["iqa-eval"].messages("Q", (), asked_for=FOUR_OPTIONS)[0].content.endswith('or D."\n\nQ')


def test_iqa_eval_may_answer_before_it_asked_anything() -> None:
    # The two-step rule, by which the first turn is always a message, is the likely mistake.
    outcome, _ = simulated("iqa-eval", "Easy. So, the answer is: B.")

    assert (outcome.termination, outcome.letter, outcome.turns) == ("answered", "B", ())


def test_iqa_eval_asks_then_answers_and_its_other_words_are_messages() -> None:
    outcome, asked = simulated("iqa-eval", '"YOU: What is 2+2?"', "Answer: C", "I see. So, the answer is: (B)")

    assert [turn.text for turn in outcome.turns] == ["What is 2+2?", "4", "Answer: C", "4"]
    assert (outcome.termination, outcome.answer_text, outcome.letter) == ("answered", "(B)", None)
    assert outcome.lenient_letter == "B"
    assert len(asked) == 3


def test_iqa_eval_that_only_asks_is_forced() -> None:
    outcome, asked = simulated("iqa-eval", "a?", "b?", "So, the answer is: D", max_user_turns=2)

    assert (outcome.termination, outcome.letter, outcome.forced_text) == ("forced", "D", "So, the answer is: D")
    assert asked[-1].messages[0].content.startswith(prompts.IQA_EVAL_FORCED.partition("{answer}")[0])


# ---- UserLM ----


def test_a_userlm_sees_the_intent_and_the_chat_with_its_roles() -> None:
    # Flipped roles, as a prompted assistant needs them, are the likely mistake.
    assert STYLES["userlm"].messages("Q\nA. 1", TURNS, asked_for=FOUR_OPTIONS) == (
        Message("system", "You are a user who is trying to answer the following question:\n\nQ\nA. 1"),
        Message("user", "first"),
        Message("assistant", "reply"),
    )


def test_a_userlm_ends_its_chat_by_a_token_and_is_then_asked_for_the_letter() -> None:
    outcome, asked = simulated("userlm", "what is 2+2", "<|endconversation|>", "Answer: B")

    assert [request.purpose for request in asked] == ["turn", "turn", "forced"]
    assert (
        asked[2]
        .messages[0]
        .content.endswith("B. 4\nC. 5\nD. 6\n\n" + prompts.FORCED_ANSWER.replace("{answer}", prompts.FOUR_OPTIONS))
    )
    assert asked[2].messages[1:] == asked[1].messages[1:]
    assert asked[2].seed != asked[1].seed
    assert (outcome.termination, outcome.letter, len(outcome.turns)) == ("forced", "B", 2)


def test_last_words_before_the_token_are_sent_and_answered_and_nothing_is_asked_after() -> None:
    outcome, asked = simulated("userlm", "what is 2+2", "thanks!<|endconversation|>", "4 I think")

    assert [turn.text for turn in outcome.turns] == ["what is 2+2", "4", "thanks!", "4"]
    assert [request.purpose for request in asked] == ["turn", "turn", "forced"]
    assert (outcome.termination, outcome.letter, outcome.forced_text) == ("no_answer", None, "4 I think")


def test_silence_ends_a_userlms_chat_as_the_token_does() -> None:
    # A server that leaves special tokens out of its texts sends nothing in the token's place.
    outcome, _ = simulated("userlm", "what is 2+2", "", "Answer: B")

    assert (outcome.termination, outcome.letter, outcome.observed) == ("forced", "B", {})


def test_an_answer_in_a_userlms_chat_is_a_message_like_any_other() -> None:
    outcome, _ = simulated("userlm", "hi", "Answer: B", "<|endconversation|>", "Answer: C<|endconversation|>")

    assert outcome.turns[2] == Turn("user", "Answer: B")
    assert (outcome.termination, outcome.letter) == ("forced", "C")


def test_a_userlm_that_ends_before_it_began_said_nothing() -> None:
    outcome, _ = simulated("userlm", "<|endconversation|>")

    assert (outcome.termination, outcome.reason, outcome.observed) == ("failed", EMPTY_TURN, {})


# ---- all ----


@pytest.mark.parametrize("name", ["two-step", "iqa-eval", "userlm"])
@pytest.mark.parametrize("forced", [False, True])
def test_the_oldest_exchanges_leave_what_any_style_is_asked(name: StyleName, forced: bool) -> None:
    style = STYLES[name]
    question = "Is YOU: a word?\nA. 1"
    asked = style.messages(question, LONGER, asked_for=FOUR_OPTIONS, forced=forced)

    assert exchanges_asked_with(asked) == 2
    assert asked_without_oldest(asked, 0) == asked
    assert asked_without_oldest(asked, 1) == style.messages(question, LONGER[2:], asked_for=FOUR_OPTIONS, forced=forced)
    assert "second" not in str(asked_without_oldest(asked, 2))
    assert exchanges_asked_with(style.messages(question, (), asked_for=FOUR_OPTIONS)) == 0


def test_the_hash_of_the_prompts_tells_styles_and_words_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: prompts_sha256(style) for name, style in STYLES.items()}
    assert len(set(hashes.values())) == len(STYLES) == 5
    assert {name: sha256[:8] for name, sha256 in hashes.items()} == {
        "two-step": "946685cf", "two-step-problem": "adbf7a77", "two-step-help": "29907a78", "iqa-eval": "89f7b601",
        "userlm": "db307cbd",
    }  # fmt: skip  # as in every log and score so far

    monkeypatch.setattr(prompts, "FORCED_ANSWER", "Answer now.")
    assert prompts_sha256(TWO_STEP) != hashes["two-step"]
    assert prompts_sha256(STYLES["iqa-eval"]) == hashes["iqa-eval"]
