"""First prompts about sample problems, judged against the problem."""

from __future__ import annotations

from random import Random

import pytest

from chatbench.core.records import Question, first_prompts
from chatbench.sample.study import SampleSettings, StatedFacts, make_sample, stated_facts

QUESTION = Question(
    "q",
    "sample_counting",
    "Mia packs 6 boxes. Each box holds 14 pencils. Sadly, 2 of them are empty. How many pencils does Mia have in all?",
    ("84", "56", "57", "55"),
    "B",
)


def test_people_of_the_sample_study_never_change_a_number() -> None:
    study = make_sample(SampleSettings(questions=60, chats=3)).study
    counts = [stated_facts(messages, study.questions[q]) for q, messages in first_prompts(study.conversations).items()]
    total = sum(counts, StatedFacts())
    assert total.right == total.messages == 360
    assert 0.7 < total.shares()["facts stated"] < 0.95


@pytest.mark.parametrize(
    ("message", "right", "stated"),
    [
        ("6 boxes, 14 pencils in each, 2 empty, how many pencils in all", 1, 3),
        ("6 boxes, 14 pencils in each, how many pencils in all", 1, 2),
        ("6 boxes, 15 pencils in each, how many pencils in all", 0, 2),  # a number that is not the problem's
        ("14 boxes, 6 pencils in each, how many pencils in all", 0, 2),  # its numbers, in the wrong places
        ("how many pencils in all", 0, 0),
        ("16 boxes, how many in all", 0, 1),  # "6 boxes" stands in "16 boxes"
    ],
)
def test_every_number_stated_must_be_the_problems_in_its_place(message: str, right: int, stated: int) -> None:
    counts = stated_facts([message], QUESTION)
    assert (counts.right, counts.stated, counts.facts) == (right, stated, 3)


def test_the_place_called_square_is_told_apart_from_square_meters() -> None:
    question = Question(
        "q",
        "sample_shapes",
        "The camp measures 16 meters long and 15 meters wide. How many square meters can be planted?",
        ("240", "241", "242", "243"),
        "A",
    )
    assert stated_facts(["camp 16 meters long, 15 meters wide. how much area to plant?"], question).right == 1


def test_any_other_question_is_refused() -> None:
    with pytest.raises(ValueError, match="not a question of the sample study"):
        stated_facts(["hi"], Question("q", "physics", "What is mass?", ("a", "b", "c", "d"), "A"))


def test_a_name_may_be_any_name() -> None:
    # The simulator may call Mia by another name: names are not what is judged.
    rng = Random(0)
    name = rng.choice(["Ada", "Vera"])
    assert stated_facts([f"{name} packs 6 boxes. Each box holds 14 pencils."], QUESTION).right == 1
