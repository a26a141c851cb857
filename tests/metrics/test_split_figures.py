"""All figures of one split, from a study of four questions and two assistants made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chatbench.core.records import (
    EMPTY_TURN,
    AiAloneScore,
    Answer,
    Conversation,
    Question,
    SimulatedConversation,
    Study,
    Turn,
)
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.first_prompts import human_overlap
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED
from chatbench.metrics.pairs import Simulation, human_outcomes, pair_up, predictions, scored_pairs
from chatbench.metrics.split_metrics import split_metrics

TRAIN, TEST = {"q0"}, {"q1", "q2", "q3"}
QUESTIONS = {
    f"q{i}": Question(f"q{i}", "s", f"Ann has {i + 10} pens and buys {i + 20} pens.", ("1", "2", "3", "4"), "A")
    for i in range(4)
}
RIGHT_OF_FOUR = {"strong": {"q0": 3, "q1": 4, "q2": 2, "q3": 3}, "weak": {"q0": 1, "q1": 2, "q2": 0, "q3": 1}}


def answer(question_id: str, assistant: str, correct: bool, kind: str = "user-AI") -> Answer:
    return Answer(question_id, "w", kind, assistant, "c", "A" if correct else "B", correct)  # type: ignore[arg-type]


def human_answers() -> list[Answer]:
    return [
        answer(question_id, assistant, person < right)
        for assistant, per_question in RIGHT_OF_FOUR.items()
        for question_id, right in per_question.items()
        for person in range(4)
    ]


def chat(question_id: str, worker: str, prompt: str) -> Conversation:
    turns = (Turn("user", prompt), Turn("assistant", "1"))
    return Conversation(f"{question_id}{worker}", question_id, worker, "strong", "c", turns, "A")


STUDY = Study(
    name="by hand",
    questions=QUESTIONS,
    conversations=(
        chat("q1", "w1", "Ann has 11 pens and buys 21 pens."),
        chat("q1", "w2", "Ann has 11 pens and buys 21 pens."),
        chat("q2", "w1", "help me"),
    ),
    answers=(*human_answers(), *(answer(f"q{i}", "", i == 1, "user-alone") for i in range(4))),
    ai_alone=tuple(AiAloneScore(f"q{i}", "strong", "free_text", 10, i / 10) for i in range(4)),
)


PROMPT = "Ann has 11 pens and buys 21 pens."


def simulated(question_id: str, assistant: str, letters: str, *, prompt: str = PROMPT) -> list[SimulatedConversation]:
    """One chat per letter; `-` is an invalid answer."""
    turns = (Turn("user", prompt), Turn("assistant", "1"))
    return [
        SimulatedConversation(
            f"{question_id}|{assistant}|{index}", question_id, assistant, index, turns, "answered",
            letter=None if letter == "-" else letter,
        )
        for index, letter in enumerate(letters)
    ]  # fmt: skip


def failed(question_id: str, assistant: str, index: int, reason: str) -> SimulatedConversation:
    return SimulatedConversation("f", question_id, assistant, index, (), "failed", reason)


def full_simulation() -> Simulation:
    letters = {"strong": ("AA", "AB", "A-"), "weak": ("BB", "BB", "AB")}
    chats = [simulated(f"q{n}", name, said) for name, of in letters.items() for n, said in enumerate(of, 1)]
    return Simulation(FINE_TUNED, tuple(one for each in chats for one in each), conversations=2)


def figures(simulation: Simulation, *others: Simulation) -> dict[tuple[str, str, str], Value]:
    groups = {q: [c for c in STUDY.conversations if c.question_id == q] for q in TEST}
    overlaps = {q: human_overlap(chats) for q, chats in groups.items()}
    found = [f for f in split_metrics(STUDY, TRAIN, TEST, [simulation, *others], overlaps).metrics if f.stratum == ""]
    assert len({(f.assistant, str(f.predictor), f.metric) for f in found}) == len(found)
    return {(f.assistant, str(f.predictor), f.metric): f.value for f in found}


def test_people_are_those_who_worked_with_the_simulated_assistants() -> None:
    # Pooled with people of an assistant that was not simulated, a simulator may look better than it is, or worse.
    ours = Simulation(FINE_TUNED, tuple(simulated("q1", "weak", "BB")), conversations=2)
    found = figures(ours)

    assert ("strong", "people", "user_turns") not in found
    assert ("all", "people", "user_turns") not in found  # only "strong" has chats of people
    assert figures(full_simulation())["all", "people", "conversations"] == 3


STRONG, WEAK, ALL, MEAN, GAP = "strong", "weak", "all", "mean of assistants", "strong minus weak"
OURS, DROPPED, CONSTANT, ALONE = "fine-tuned", "fine-tuned, invalid dropped", "constant (train mean)", "user alone"
AI = "AI alone, free_text"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # strong: human 1 .5 .75, simulated 1 .5 .5 (the invalid answer is wrong); weak: .5 0 .25 and 0 0 .5.
        ((STRONG, OURS, "mae"), 0.25 / 3),
        ((WEAK, OURS, "mae"), 0.75 / 3),
        ((MEAN, OURS, "mae"), 1 / 6),
        ((ALL, OURS, "mae"), 1 / 6),
        ((WEAK, OURS, "pearson"), 0),
        ((STRONG, OURS, "bias"), -0.25 / 3),
        ((STRONG, OURS, "questions"), 3),
        ((ALL, OURS, "questions"), 6),
        # Dropped: q3 with strong has one valid answer, right: 1 instead of 1/2, so 1/4 too high and not too low.
        ((STRONG, DROPPED, "bias"), 0.25 / 3),
        ((WEAK, DROPPED, "mae"), 0.75 / 3),
        # Train question q0: 3 of 4 with strong. Held out 1 .5 .75: errors .25 .25 0. A mean over all would leak.
        ((STRONG, CONSTANT, "mae"), 0.5 / 3),
        ((STRONG, AI, "mae"), (0.9 + 0.3 + 0.45) / 3),
        ((WEAK, AI, "questions"), 0),
        ((WEAK, ALONE, "mae"), (0.5 + 0 + 0.25) / 3),
        # Simulated prompts equal people's on q1 (BLEU 1) and share no word on q2; q3 has no real prompt.
        ((ALL, OURS, "bleu"), 0.5),
        ((ALL, OURS, "bleu_sd_over_questions"), 0.5**0.5),
        ((ALL, OURS, "prompt_pairs"), 4 * 2 + 4),
        ((ALL, "people", "bleu"), 1),  # two people on q1; one person alone on q2 has no pair
        ((ALL, "people", "prompt_pairs"), 2),
        ((ALL, "question copied", "rouge1"), 0.5),  # people wrote the text of q1 as it is, and "help me" on q2
        # The prompt's numbers are q1's; all restate by their words, so 4 of 12 hold every number.
        ((ALL, OURS, "restatement_share"), 1),
        ((ALL, OURS, "all_numbers_share"), 4 / 12),
        ((ALL, OURS, "no_foreign_number_share"), 4 / 12),
        ((ALL, "people", "restatement_share"), 2 / 3),
        ((ALL, OURS, "answered_share"), 1),
        ((ALL, OURS, "invalid_share"), 1 / 12),
        ((STRONG, "people", "user_turns"), 1),
        ((WEAK, OURS, "user_turns"), 1),
        # People: (1 - .5 + .5 - 0 + .75 - .25) / 3 = .5; simulated: (1 - 0 + .5 - 0 + .5 - .5) / 3 = .5.
        ((GAP, "people", "gap"), 0.5),
        ((GAP, OURS, "gap"), 0.5),
        ((GAP, OURS, "gap_error"), 0),
        ((GAP, DROPPED, "gap_error"), 0.5 / 3),  # q3 with strong is 1 instead of .5
    ],
)
def test_a_figure_worked_by_hand(row: tuple[str, str, str], expected: float) -> None:
    assert figures(full_simulation())[row] == pytest.approx(expected, abs=1e-12)


def test_what_has_no_value_is_undefined_or_not_there() -> None:
    assert human_overlap([chat("q1", "w1", "a b c d")] * 2) is None  # one person writing twice is no pair of people
    rows = figures(full_simulation())

    for assistant in (STRONG, MEAN):
        assert isinstance(rows[assistant, CONSTANT, "pearson"], Undefined)
    assert isinstance(rows[ALL, CONSTANT, "pearson"], float)  # two levels, one per assistant
    assert rows[WEAK, AI, "mae"] == Undefined("no question is left")
    assert (GAP, AI, "gap") not in rows  # the study has none with weak
    assert not any("first" in predictor for _, predictor, _ in rows)


def test_only_cells_with_all_their_chats_are_scored_and_baselines_follow() -> None:
    # One chat of two is missing for (q3, weak): the run was stopped there.
    chats = tuple(c for c in full_simulation().chats if c.id != "q3|weak|1")
    rows = figures(Simulation(FINE_TUNED, chats, conversations=2))

    assert rows["weak", "fine-tuned", "questions"] == rows["weak", "user alone", "questions"] == 2
    assert rows["weak", "people", "accuracy"] == pytest.approx(0.25)


def test_a_broken_endpoint_is_no_answer_but_a_silent_simulator_is_an_invalid_one() -> None:
    chats = [*simulated("q1", "strong", "A"), failed("q1", "strong", 1, "endpoint down")]
    silent = [*simulated("q2", "strong", "A"), failed("q2", "strong", 1, EMPTY_TURN)]
    simulation = Simulation(FINE_TUNED, (*chats, *silent), conversations=2)
    human = predictions(human_outcomes(STUDY, TEST))
    scored = {pair: human[pair] for pair in sorted(scored_pairs(STUDY, TEST, simulation))}
    pairs = pair_up(scored, predictions(simulation.outcomes(STUDY)))

    assert [(p.question_id, p.simulated, p.n_simulated) for p in pairs] == [("q1", 1.0, 1), ("q2", 0.5, 2)]
    assert [(p.human, p.n_human) for p in pairs] == [(1.0, 4), (0.5, 4)]


def test_the_base_model_is_scored_on_the_same_cells_and_compared_with_the_first_chats_of_the_other() -> None:
    # First chats with strong: right, right, right against 1 .5 .75; all chats: 1 .5 .5.
    base_model = Simulation(BASE_MODEL, tuple(simulated("q1", "strong", "B", prompt="")), conversations=1)
    rows = figures(full_simulation(), base_model)

    own = {metric: rows["strong", "base model", metric] for metric in ("questions", "mae")}
    assert own == {"questions": 1, "mae": 1.0}
    assert rows["all", "base model", "bleu"] == 0.0
    assert rows["strong", "fine-tuned, first 1 chat", "mae"] == pytest.approx(0.75 / 3)
    assert ("strong", "fine-tuned, first 1 chat", "pearson") in rows
    ceilings = [f"ceiling, {chats}" for chats in ("unlimited chats", "2 chats", "1 chat")]
    assert all(("mean of assistants", name, "mae") in rows for name in ceilings)
    unlimited, two, one = (rows["all", name, "rmse"] for name in ceilings)
    assert unlimited < two < one  # type: ignore[operator]


def parts() -> dict[str, dict[tuple[str, str, str], Value]]:
    """As `figures`, by part: two subsets, and two of the four answers to each question of another condition."""
    answers = [
        replace(one, condition="first" if index % 4 < 2 else "then") for index, one in enumerate(human_answers())
    ]
    questions = {**QUESTIONS, "q3": replace(QUESTIONS["q3"], subset="t")}
    study = replace(STUDY, answers=tuple(answers), questions=questions)
    found: dict[str, dict[tuple[str, str, str], Value]] = {}
    for f in split_metrics(study, TRAIN, TEST, [full_simulation()], {}).metrics:
        found.setdefault(f.stratum, {})[f.assistant, str(f.predictor), f.metric] = f.value
    return found


def test_a_condition_has_its_own_people_and_a_subset_its_own_questions() -> None:
    # q2 with strong: two of four right, both among the first: 1 in `first`, 0 in `then`. q1 4 of 4, q3 3 of 4.
    found = parts()

    assert found["condition first"]["strong", "people", "accuracy"] == pytest.approx(1)
    assert found["condition then"]["strong", "people", "accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["condition then"]["strong", "fine-tuned", "bias"] == pytest.approx((0 + 0.5 + 0) / 3)
    assert found["condition first"]["strong", "fine-tuned", "accuracy"] == found[""]["strong", "fine-tuned", "accuracy"]
    assert [found[f"subset {name}"]["all", "fine-tuned", "questions"] for name in "st"] == [4, 2]
    assert found["subset t"]["strong", "fine-tuned", "mae"] == pytest.approx(0.25)
    assert isinstance(found["subset t"]["strong", "fine-tuned", "pearson"], Undefined)
    assert set(found) == {"", "condition first", "condition then", "subset s", "subset t"}
    assert split_metrics(STUDY, TRAIN, TEST, [full_simulation()], {}).strata == {}  # one condition and one subset
