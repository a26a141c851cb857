"""Halves of the people, classes of behaviour, the classifier, and all comparisons together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from tests.support.realism_chats import TRAINS, chat

from chatbench.metrics.agreement import Undefined
from chatbench.realism.chats import ChatTraits, UserChat, real_chats, traits_of
from chatbench.realism.comparison import Comparison, Halving, Realism, halvings, realism
from chatbench.realism.detectability import (
    area_under_curve,
    behaviour_classes,
    detection,
    out_of_fold_scores,
)
from chatbench.sample.participants import STUDY_HABITS, draw_person
from chatbench.sample.participants import chat as hold_chat
from chatbench.sample.study import SampleSettings, SampleStudy, make_sample
from chatbench.scoring.score_files import plain


def _halved(real: Sequence[ChatTraits], simulated: Sequence[ChatTraits]) -> list[Halving]:
    return list(halvings(real, simulated, np.random.default_rng(0)))


def test_a_person_is_never_in_both_halves_and_sides_have_equally_many_chats_of_each_cell() -> None:
    # Halving chats instead of people would compare people with themselves: the likely mistake.
    questions = [replace(TRAINS, id=f"q{n}") for n in range(4)]
    real = [chat(["hi"], question=q, person=f"w{p}") for p in range(10) for q in questions]
    simulated = [chat(["yo"], question=q, person=f"s{q.id}{i}") for q in questions for i in range(3)]
    halves = _halved(real, simulated)

    assert len(halves) == 20
    for half in halves:
        people = [{c.person for c in side} for side in (half.first, half.second)]
        assert people[0].isdisjoint(people[1])
        assert len(people[1]) == 5
        assert sorted(c.cell for c in half.first) == sorted(c.cell for c in half.simulated)
        assert len(half.first) == 12  # three simulated chats of each of four cells, though five people wrote


def test_people_of_each_assistant_are_spread_over_both_halves_and_one_person_cannot_be_halved() -> None:
    real = [chat(["hi"], person=f"{name}{p}", assistant=name) for name in "ab" for p in range(10)]
    for half in _halved(real, real):
        assert [sum(c.cell[1] == name for c in half.second) for name in "ab"] == [5, 5]
    assert _halved([chat(["hi"]), chat(["ho"])], [chat(["yo"])]) == []


@pytest.fixture(scope="module")
def sample() -> SampleStudy:
    return make_sample(SampleSettings(questions=40, chats=6))


@pytest.fixture(scope="module")
def people(sample: SampleStudy) -> list[ChatTraits]:
    return [traits_of(one) for one in real_chats(sample.study.conversations, sample.study.questions)]


@pytest.fixture(scope="module")
def others(sample: SampleStudy) -> list[ChatTraits]:
    """Chats of other people of the same population: the perfect simulator."""
    rng, chats = Random(1), []
    for problem in sample.problems.values():
        for assistant in sample.study.assistants:
            for index in range(5):
                one = hold_chat(draw_person("", STUDY_HABITS, rng), problem, assistant, STUDY_HABITS, rng)
                messages, replies = (tuple(turn.text for turn in one.turns[start::2]) for start in (0, 1))
                person = f"{problem.question.id}|{assistant}|{index}"
                of_person = UserChat(problem.question, assistant, person, messages, replies, one.letter)
                chats.append(traits_of(of_person))
    return chats


def lowered(chats: Sequence[ChatTraits]) -> list[ChatTraits]:
    """The same chats typed without capital letters."""
    return [traits_of(replace(c.chat, messages=tuple(text.lower() for text in c.chat.messages))) for c in chats]


def test_classes_are_found_in_people_and_every_chat_falls_into_one(people: list[ChatTraits]) -> None:
    classes = behaviour_classes(people, seed=0)
    found = classes.classes_of(people)

    assert len(classes.centres) == 8 == len(classes.names())
    assert len(set(found)) == 8
    assert found.count(0) == max(found.count(place) for place in range(8))


@pytest.mark.parametrize("count", [0, 49, 100])  # the hundred are all alike
def test_too_few_chats_have_no_classes_and_are_not_classified(count: int) -> None:
    assert isinstance(behaviour_classes([chat(["hi"])] * count, seed=0), Undefined)
    assert isinstance(detection([chat(["hi"])] * min(count, 3), [chat(["ho"])] * 3, seed=0), Undefined)


def test_a_classifier_sees_capital_letters_and_names_them(people: list[ChatTraits]) -> None:
    found = detection(people[:240], lowered(people[240:]), seed=0)

    # Pairs (0.5 against 0.5, 0.1): one tie, which counts half, and one win.
    assert area_under_curve(np.array([0, 0, 1]), np.array([0.5, 0.1, 0.5])) == pytest.approx(0.75)
    assert found.auc > 0.7
    assert found.p_value == pytest.approx(0.001)
    assert any("I" in one.feature or "H" in one.feature for one in found.telling_first)


def test_a_classifier_is_asked_about_questions_that_it_has_not_seen() -> None:
    # Every side of every question has a feature of its own. Folds that part a question's chats would know them all.
    questions, labels = np.repeat(np.arange(10), 8), np.tile([0, 0, 0, 0, 1, 1, 1, 1], 10)
    rows = 10 * np.eye(20)[2 * questions + labels]
    scores = out_of_fold_scores(rows, labels, questions)

    assert np.ptp(scores) < 0.1


def test_resamples_of_one_side_only_are_left_out_and_many_of_them_leave_no_interval() -> None:
    # Their area under the curve is 0 / 0: one NaN, and the file could not be written.
    questions = [replace(TRAINS, id=f"q{n}") for n in range(6)]
    first = [chat(["hi there"], question=q) for q in questions for _ in range(8)]
    some, few = (
        detection(first, [chat(["yo friend"], question=q) for q in questions[:n] for _ in range(8)], seed=0)
        for n in (3, 2)
    )

    json.dumps(plain(some), allow_nan=False)  # 1 in 64 resamples has none of the three questions
    assert isinstance(some.auc_interval, tuple)
    assert isinstance(few.auc_interval, Undefined)  # 1 in 11 has none of the two
    assert few.accuracy_interval == few.auc_interval


def by_name(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    return {one.measure: one for one in comparisons}


def against(people: Sequence[ChatTraits], simulated: Sequence[ChatTraits]) -> Realism:
    """Compared on every other question; the classes are of the others."""
    held_out = set(sorted({one.cell[0] for one in people})[::2])
    real, chats = ([one for one in side if one.cell[0] in held_out] for side in (people, simulated))
    return realism(real, chats, [one for one in people if one.cell[0] not in held_out], seed=0)


def test_other_people_are_as_near_as_people_are(people: list[ChatTraits], others: list[ChatTraits]) -> None:
    found = against(people, others)
    further = [one.further for one in found.comparisons if isinstance(one.further, float)]
    rows = by_name(found.comparisons)

    assert 0.3 < sum(further) / len(further) < 0.65
    accuracy = rows["real-or-simulated classifier, accuracy"]
    assert abs(accuracy.apart - 0.5) < 0.1
    assert all(isinstance(one.apart, float) for one in found.comparisons)


def test_with_few_simulated_chats_the_classifier_is_at_chance_too() -> None:
    # All chats of the second half against a few simulated ones: answering "a person" was right in five of six cases.
    rng = Random(0)
    questions = [replace(TRAINS, id=f"q{n}") for n in range(40)]

    words = ["what", "is", "the", "sum", "of", "these", "please", "help", "me", "with", "it"]

    def draw(count: int, prefix: str) -> list[ChatTraits]:
        return [
            chat([" ".join(rng.choices(words, k=8))], question=of, person=f"{prefix}{of.id}{n}")
            for of in questions
            for n in range(count)
        ]

    found = realism(draw(10, "w"), draw(1, "s"), [], seed=0).detected

    assert 40 <= found.chats <= 80
    assert found.accuracy < 0.65


def test_chats_cut_after_one_message_are_far_from_people(people: list[ChatTraits]) -> None:
    short = [
        traits_of(replace(one.chat, messages=one.chat.messages[:1], replies=one.chat.replies[:1])) for one in people
    ]
    rows = by_name(against(people, short).comparisons)
    turns = rows["user turns, Wasserstein"]

    assert rows["chats that end after the first reply"].simulated == 1
    assert turns.further == 1
    assert turns.apart > 3 * turns.people_apart
    assert rows["first-message length, Wasserstein"].further != 1
    assert rows["length of a follow-up"].simulated == Undefined("nobody wrote a second message")
    assert rows["behaviour, forward KL"].further == 1


def test_a_tie_counts_half_so_that_what_all_do_alike_tells_nobody_apart() -> None:
    # Identical sides were further from people in 0 % of the halvings, which looks closer than people are.
    found = realism([chat(["hi"], person=f"w{n}") for n in range(8)], [chat(["hi"])] * 4, [], seed=0)

    assert by_name(found.comparisons)["user turns"].further == 0.5
    # A single person gives reasons and no numbers.
    found = realism([chat(["hi"])], [chat([])], [], seed=0)
    assert {type(one.apart) for one in found.comparisons} == {Undefined}
    assert by_name(found.comparisons)["user turns"].simulated == 0
    assert isinstance(found.detected, Undefined)


def test_a_measure_that_shrinks_with_size_is_taken_on_equally_many_chats(people: list[ChatTraits]) -> None:
    # With all chats, ten times as many simulated ones would look ten times as repetitive.
    real = [chat([f"message {n}"], person=f"w{n}") for n in range(8)]
    simulated = [chat([f"message {n % 8}"], person=f"s{n}") for n in range(80)]
    row = by_name(realism(real, simulated, people, seed=0).comparisons)["distinct first messages"]

    assert row.people == 1
    assert row.simulated > 0.6  # four of eight messages drawn at random; of all 80 it would be 0.1
