"""The replay assistant on a record worked out by hand."""

from __future__ import annotations

from chatbench.core.records import Conversation, Message, Turn
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.simulation.participants import NO_RECORD, RecordedQuestion, RecordedReply, replay_assistant


def chat(number: int, assistant: str, *texts: str, question: str = "q1") -> Conversation:
    turns = tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))
    return Conversation(f"c{number}", question, "w", assistant, "direct", turns, None)


RECORD = [
    chat(0, "big", "what is 12 plus 30", "It is 42.", "are you sure", "Yes, 42."),
    chat(1, "big", "what is a plus sign", "A symbol."),
    chat(2, "small", "what is 12 plus 30", "It is 41."),
]


def ask(
    text: str, *, before: tuple[str, ...] = (), question: str = "q1", assistant: str = "big", seed: int = 0
) -> object:
    roles = ("user", "assistant")
    history = [Message(roles[place % 2], said) for place, said in enumerate((*before, text))]  # type: ignore[arg-type]
    request = Request("assistant", (Message("system", "S"), *history), question, seed, "reply")
    return replay_assistant(RECORD, assistant).reply_all([request])[0]


def test_the_nearest_recorded_prompt_of_the_same_assistant_answers() -> None:
    assert ask("12 plus 30?") == Reply("It is 42.")
    assert ask("what does the plus sign mean") == Reply("A symbol.")
    assert ask("12 plus 30?", assistant="small") == Reply("It is 41.")


def test_a_question_without_a_record_fails_for_good() -> None:
    assert ask("hello", question="q2") == Failure(NO_RECORD)
    assert ask("hello", assistant="nobody") == Failure(NO_RECORD)


def test_words_that_every_prompt_shares_count_little() -> None:
    # Plain counts would choose the first by its three common words: the likely mistake.
    record = RecordedQuestion(
        [RecordedReply("solve this for me now", "common", 0), RecordedReply("solve this for me integral", "rare", 0)]
        + [RecordedReply(f"solve this for me word{number}", "other", 0) for number in range(8)]
    )

    assert record.nearest("integral solve", 0, 0).response == "rare"


def test_depth_decides_only_between_equally_near_prompts() -> None:
    record = RecordedQuestion(
        [
            RecordedReply("and now", "early", 0),
            RecordedReply("and now", "late", 3),
            RecordedReply("what is 7", "seven", 0),
        ]
    )

    assert record.nearest("and now", 2, 0).response == "late"
    assert record.nearest("and now", 0, 0).response == "early"
    assert record.nearest("What is 7", 3, 0).response == "seven"


def test_equal_prompts_share_the_draws_so_that_the_record_keeps_its_accuracy() -> None:
    # Three of four recorded answers to the same prompt are right; always the first would make it all or nothing.
    record = RecordedQuestion([RecordedReply("2+2", answer, 0) for answer in ("4", "4", "5", "4")])

    answers = [record.nearest("2+2", 0, seed).response for seed in range(400)]

    assert answers.count("4") == 300
    assert answers == [record.nearest("2+2", 0, seed).response for seed in range(400)]


def test_without_a_common_word_the_depth_decides() -> None:
    assert ask("xyzzy", before=("hm", "hm")) == Reply("Yes, 42.")
