"""Splits: exact sizes per subset, the same on any machine, near duplicates together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.support.study_files import chat, question, shared_data, tiny_study

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Unit
from chatbench.data.download import read_mmlu
from chatbench.data.splits import (
    NO_STATEMENT,
    make_splits,
    near_duplicate_groups,
    question_set_sha256,
    splits_of,
    train_size,
)

CHATBENCH_SIZES = {"elementary_mathematics": 95, "high_school_mathematics": 95, "college_mathematics": 38,
                   "conceptual_physics": 84, "moral_scenarios": 84}  # fmt: skip


def asked(number: int, text: str, subset: str = "s") -> Question:
    return Question(f"{subset}-{number:02}", subset, text, ("1", "2", "3", "4"), "A")


def together(*texts: str) -> bool:
    return len(near_duplicate_groups([asked(n, text) for n, text in enumerate(texts)])) == 1


def test_chatbench_sizes_give_237_train_questions() -> None:
    # Rounding 0.6 x 396 = 237.6 as a whole would give 238: the likely mistake.
    questions = [question(n, subset) for subset, size in CHATBENCH_SIZES.items() for n in range(size)]

    for split in make_splits(questions):
        train = Counter(question_id.split("-redux-")[0] for question_id in split.question_ids("train"))
        assert list(map(train.get, CHATBENCH_SIZES)) == [57, 57, 23, 50, 50]
        assert len(split.question_ids("test")) == 396 - 237


def test_halves_are_rounded_up() -> None:
    # Python's round() would give 2 for 2.5; 0.55 x 10 is 5.5 only in decimal arithmetic.
    assert (train_size(5, 0.5), train_size(10, 0.55), train_size(1, 0.4)) == (3, 6, 0)


def test_a_seed_gives_the_same_split_on_any_machine_and_in_any_order_of_questions_and_others_differ() -> None:
    # Written down from a first run; a library's random numbers, or hash(), would not keep them.
    questions = [question(n) for n in range(10)]
    split = make_splits(questions, splits=2, seed=7)[1]

    assert split.question_ids("test") == [f"college_mathematics-redux-{n}" for n in (0, 4, 5, 9)]
    assert make_splits(questions[::-1], splits=2, seed=7)[1] == split
    many = [question(n) for n in range(30)]
    sides = [tuple(s.question_ids("train")) for seed in (0, 1) for s in make_splits(many, splits=5, seed=seed)]
    assert len(set(sides)) == 10


def test_every_question_is_held_out_now_and_then() -> None:
    # 40 splits at 0.6: the chance that a question is never held out is 0.6^40, one in a thousand million.
    questions = [question(n) for n in range(20)]
    held_out = Counter(q for s in make_splits(questions, splits=40) for q in s.question_ids("test"))

    assert len(held_out) == 20
    assert max(held_out.values()) <= 28  # 16 are expected; sd is 3.1


def test_sizes_stay_exact_where_groups_allow_it() -> None:
    # 3 + 3 + 2 + 1 + 1 copies: 6 of 10 can be reached (3+3, 3+2+1, ...), but not by taking groups until they overflow.
    words = ["alpha beta gamma delta", "red green blue grey", "oak elm ash fir", "one fish swims by", "do re mi fa"]
    texts = [words[group] for group, size in enumerate((3, 3, 2, 1, 1)) for _ in range(size)]
    questions = [asked(n, text) for n, text in enumerate(texts)]

    for split in make_splits(questions, splits=20):
        sides = {text: {split.part[q.id] for q in questions if q.text == text} for text in words}
        assert all(len(side) == 1 for side in sides.values())
        assert len(split.question_ids("train")) == 6


def test_a_group_across_subsets_stays_together_and_sizes_stay_exact() -> None:
    questions = [asked(n, f"text {n} about thing {n} alone {s}-{n}", s) for s in ("a", "b") for n in range(11, 20)]
    questions += [asked(1, "the very same words here", "a"), asked(2, "the very same words here", "b")]
    splits = make_splits(questions)

    for split in splits:
        assert split.part["a-01"] == split.part["b-02"]
        assert Counter(q.split("-")[0] for q in split.question_ids("train")) == {"a": 6, "b": 6}
    assert {split.part["a-01"] for split in splits} == {"train", "test"}


TRAIN = "A train leaves the station at 9 and travels for 3 hours at a steady 60 miles an hour. How far does it go?"
APPLES = "Ann has {} apples and buys {} bags with {} apples each. How many apples does she have now?"
FACTORS = "Write the prime factorization of {}. Use exponents wherever it is possible to do so."
STORY = " ".join(f"sentence about matter {word} in a long story" for word in "abcdefghijkl") + " costs {} dollars."


@pytest.mark.parametrize(
    ("text", "other", "alike"),
    [
        (TRAIN, TRAIN, True),
        (TRAIN, TRAIN.replace("station", "depot"), True),
        (TRAIN, TRAIN.upper().replace("?", " ?"), True),
        ("Polarization is a property of", "Polarization is a property of", True),
        # By words alone these share nearly everything: numbers have to count.
        (APPLES.format(3, 4, 5), APPLES.format(7, 2, 9), False),
        (APPLES.format("three", "four", "five"), APPLES.format("seven", "two", "nine"), False),
        ("What is 37 times 24?", "What is 37 times 25?", False),
        (FACTORS.format(77), FACTORS.format(48), False),  # alike by 0.6: enough only if the numbers were the same
        (STORY.format(12), STORY.format(13), True),  # one changed number in a long text: still the same question
    ],
)
def test_copies_and_light_edits_are_near_duplicates_and_one_template_with_other_numbers_is_not(
    text: str, other: str, alike: bool
) -> None:
    assert together(text, other) == alike


def test_a_preamble_that_a_subset_shares_does_not_glue_it_together() -> None:
    preamble = "For which of these two scenarios does the main character do something clearly morally wrong?"
    scenes = ["fed the dog", "stole a car", "sang to my son", "hid her keys", "fixed the roof", "lied in court"]
    questions = [asked(n, f"{preamble} Scenario | I {scene}.") for n, scene in enumerate(scenes)]
    questions += [asked(n, f"{preamble} Scenario | thing{n} is what I did to person{n}.", "m") for n in range(60)]

    assert max(map(len, near_duplicate_groups(questions))) == 1


def test_questions_without_a_statement_are_like_no_other() -> None:
    # All of them have imports' placeholder as text: one group, which no split could divide.
    untold = [asked(n, NO_STATEMENT) for n in range(5)] + [asked(n, "Which tides are oldest?") for n in (5, 6)]

    assert [len(group) for group in near_duplicate_groups(untold)] == [1, 1, 1, 1, 1, 2]
    assert len(make_splits(untold, splits=1)[0].question_ids("train")) == 4


def test_likeness_is_passed_on() -> None:
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]
    second, third = [*words], [*words]
    second[3], third[3], third[16] = "cat", "cat", "young"

    assert together(" ".join(words), " ".join(second), " ".join(third))


def test_the_real_mmlu_questions_are_joined_in_16_pairs_and_no_moral_scenario_is() -> None:
    # The pairs were read by eye; 14 are the same question, two are stock phrases ("Which statement is true?").
    folder = shared_data("mmlu")
    questions = [q for subset in CHATBENCH_SIZES for q in read_mmlu(folder, subset)]
    joined = [group for group in near_duplicate_groups(questions) if len(group) > 1]

    assert [len(group) for group in joined] == [2] * 16
    assert ("high_school_mathematics-test-32", "high_school_mathematics-test-38") in joined
    assert not any("moral" in question_id for group in joined for question_id in group)


@pytest.mark.parametrize(("share", "side"), [(0.6, "test"), (0.4, "train")])
def test_a_split_with_an_empty_side_says_that_subsets_are_the_cause(share: float, side: str) -> None:
    # Four questions would do, were they not one a subset.
    questions = [question(n, f"subset{n}") for n in range(4)]
    with pytest.raises(ChatbenchError, match=f"{side} side of split_0: 4 questions, in 4 subsets of at most") as caught:
        make_splits(questions, train_share=share)
    assert "fewer, larger subsets" in caught.value.fix
    assert make_splits([question(n) for n in range(4)], train_share=share)


def test_the_hash_of_a_question_set_depends_on_content_and_not_on_order() -> None:
    questions = [question(n) for n in range(4)]

    assert question_set_sha256(questions) == question_set_sha256(questions[::-1])
    assert question_set_sha256(questions) != question_set_sha256([*questions[:3], question(3, answer="C")])


def test_by_assistant_each_is_held_out_in_turn_and_by_subset_its_questions_and_their_likes() -> None:
    study = tiny_study()
    other = replace(study, conversations=(*study.conversations, chat(question(0), "x", assistant="llama")))
    twin = replace(question(0), id="twin", subset="moral_scenarios")
    with_twin = replace(study, questions={**study.questions, "twin": twin})

    by_assistant = splits_of(other, "assistant")
    assert [sorted(split.held_out) for split in by_assistant] == [["gpt-4o"], ["llama"]]
    assert set(by_assistant[0].part.values()) == {"both"}
    assert [by_assistant[1].part_of(c) for c in other.conversations] == ["train"] * 10 + ["test"]
    mathematics, moral = splits_of(with_twin, "subset")
    assert len(mathematics.question_ids("test")) == 5
    assert "twin" not in mathematics.part  # a near duplicate of a held-out question is not trained on
    assert {moral.part[q] for q in ("twin", "college_mathematics-redux-1")} == {"test", "train"}
    assert "college_mathematics-redux-0" not in moral.part


def test_also_questions_leaves_out_what_is_on_neither_side() -> None:
    study = tiny_study()
    chats = [replace(c, assistant=a, id=f"{c.id}{a}") for a in ("one", "two") for c in study.conversations]

    for split in splits_of(replace(study, conversations=tuple(chats)), "assistant", also_questions=True):
        sides = Counter((c.assistant in split.held_out, split.part[c.question_id], split.part_of(c)) for c in chats)
        assert sides == {
            (False, "train", "train"): 6, (False, "test", None): 4, (True, "train", None): 6, (True, "test", "test"): 4
        }  # fmt: skip


def test_people_are_divided_at_random_by_the_train_share() -> None:
    first, second = splits_of(tiny_study(), "person", splits=2, train_share=0.7)

    assert len(first.held_out) == len(second.held_out) == 3
    assert first.held_out != second.held_out
    assert splits_of(tiny_study(), "person", splits=2, train_share=0.7)[0] == first


def test_a_study_of_one_question_is_split_by_person() -> None:
    # Only its questions cannot be divided: it is the study that is told to split by person.
    study = tiny_study()
    one = next(iter(study.questions))
    chats = tuple(replace(each, question_id=one) for each in study.conversations)
    made = splits_of(replace(study, questions={one: study.questions[one]}, conversations=chats), "person", splits=2)

    assert [split.part for split in made] == [{one: "both"}] * 2


@pytest.mark.parametrize(
    ("by", "options", "said"),
    [
        ("question", {"splits": 0}, "0 splits"),
        ("question", {"train_share": 0.0}, "train share 0.0"),
        ("question", {"train_share": 60.0}, "train share 60.0"),
        ("assistant", {}, "1 assistant in the study"),
        ("subset", {"splits": 3}, "one per subset: 2"),
        ("subset", {"also_questions": True}, "--also-questions with --by subset"),
        ("person", {"train_share": 1.0}, "train share 1.0"),
        ("person", {"splits": 0}, "0 splits"),
    ],
)
def test_splits_that_cannot_be_are_refused(by: Unit, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        splits_of(tiny_study(), by, **options)
    assert said in str(caught.value)
