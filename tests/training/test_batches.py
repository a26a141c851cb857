"""Which examples make up a step: every example once, what shares tokens together, the same in any process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chatbench.core.records import ExampleKind
from chatbench.core.settings import Packing
from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import EncodedRows
from chatbench.models.loss import PaddedBatch, TreeBatch, scored_sequence
from chatbench.models.prefix_tree import prefix_tree
from chatbench.protocol.prompts import EncodedExample
from chatbench.training.batches import StepMaker, StepPlan, TrainingStep, even_runs, weighed

TURNS = [2, 3, 2, 4, 2, 2, 3, 2, 5, 2]
"""Examples of each conversation; ten conversations of each of three questions."""


def plan(packing: Packing, step_examples: int, *, by_length: bool = False) -> StepPlan:
    names = [(question, chat) for question in range(3) for chat in range(10) for _ in range(TURNS[chat])]
    return StepPlan(
        lengths=[place * 37 % 101 + 1 for place in range(len(names))],
        conversations=[f"{question}-{chat}" for question, chat in names],
        questions=[str(question) for question, _ in names],
        packing=packing,
        step_examples=step_examples,
        by_length=by_length,
    )


@pytest.mark.parametrize("step_examples", [1, 4, 16, 1000])
@pytest.mark.parametrize("packing", ["none", "conversation", "question"])
def test_an_epoch_holds_every_example_once_and_depends_on_seed_and_epoch_alone(
    packing: Packing, step_examples: int
) -> None:
    each = plan(packing, step_examples)
    steps = each.steps(0, 0)

    assert sorted(index for step in steps for index in step) == list(range(81))
    assert all(steps)
    assert each.steps(0, 0) == steps
    assert len(each.steps(0, 1)) == len(each.steps(5, 0)) == len(steps)
    if step_examples < 1000:
        assert each.steps(0, 1) != steps
        assert each.steps(1, 0) != steps


@pytest.mark.parametrize("packing", ["conversation", "question"])
def test_packing_makes_as_many_steps_as_the_plain_recipe_and_tears_no_conversation(packing: Packing) -> None:
    # Whole conversations fill steps unevenly, so steps closed when full would be more, or fewer.
    each = plan(packing, 6)
    steps = each.steps(0, 0)

    assert len(steps) == len(plan("none", 6).steps(0, 0)) == 14
    assert 2 <= min(map(len, steps)) <= max(map(len, steps)) <= 11
    of_step = [{each.conversations[index] for index in step} for step in steps]
    assert sum(map(len, of_step)) == len(set(each.conversations))


def test_conversations_are_shuffled_over_questions_unless_questions_are_packed() -> None:
    def questions_a_step(packing: Packing) -> float:
        each = plan(packing, 13)
        return float(np.mean([len({each.questions[index] for index in step}) for step in each.steps(0, 0)]))

    assert questions_a_step("conversation") > 2
    assert questions_a_step("question") < 1.3


def test_lengths_are_grouped_where_that_is_asked_for() -> None:
    def padded(by_length: bool) -> int:
        each = plan("none", 4, by_length=by_length)
        return sum(len(step) * max(each.lengths[index] for index in step) for step in each.steps(0, 1))

    assert padded(by_length=True) < 0.75 * padded(by_length=False)


def test_runs_are_even_even_where_one_unit_is_as_large_as_all_the_others() -> None:
    assert [len(run) for run in even_runs([[0] * 9, [1], [2], [3]], 3)] == [1, 1, 2]
    assert even_runs([[0], [1]], 2) == [[[0]], [[1]]]


def maker(packing: Packing, rank: int = 0, processes: int = 1, pack_tokens: int = 40) -> StepMaker:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 50, 20).tolist()
    examples = [
        EncodedExample([*shared, *rng.integers(0, 50, place).tolist()], rng.integers(0, 50, 1 + place % 3).tolist())
        for place in range(9)
    ]
    return StepMaker(examples, packing, pack_tokens, 4, 0, torch.device("cpu"), rank, processes)


def scored(step: TrainingStep) -> list[int]:
    """The targets whose loss counts, in ascending order."""
    found: list[int] = []
    for batch, counts in zip(step.batches, step.counts, strict=True):
        if counts and isinstance(batch, TreeBatch):
            found += batch.targets.tolist()
        elif counts and isinstance(batch, PaddedBatch):
            found += batch.labels[batch.labels >= 0].tolist()
    return sorted(found)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("packing", ["none", "conversation"])
def test_the_processes_share_a_step_out_and_agree_on_its_size(packing: Packing, processes: int) -> None:
    # A stand-in that counted, or a process without a batch, would make the shares differ from the whole.
    indices = [0, 3, 4, 5, 8]
    whole = maker(packing)(indices)

    shares = [maker(packing, rank, processes)(indices) for rank in range(processes)]

    assert sorted(token for share in shares for token in scored(share)) == scored(whole)
    assert {share.scored_tokens for share in shares} == {len(scored(whole))}
    assert len({len(share.batches) for share in shares}) == 1


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("packing", ["none", "conversation"])
def test_the_letter_of_an_answer_counts_as_often_as_asked(packing: Packing, processes: int) -> None:
    # Answers are 91 92 LETTER 93. The likely mistakes: weights in the order of the examples where a tree has sorted
    # them, and an answer's other tokens weighed too, which would teach it to answer early.
    prompts = [[1, 2], [1, 3], [1, 4], [1, 2, 5], [1, 2, 6], [1, 3, 7]]
    kinds: list[ExampleKind] = ["answer", "follow_up", "answer", "answer", "follow_up", "answer"]
    ends = [[91, 92, 10, 93], [80, 81], [91, 92, 11, 93], [91, 92, 12, 93], [82], [91, 92, 13, 93]]
    rows = [ExampleRow("", "", None, "q", "c", kind) for kind in kinds]
    plain = EncodedRows([EncodedExample(*each) for each in zip(prompts, ends, strict=True)], rows, 99)
    examples = weighed(plain, 4.0).examples

    seen: dict[int, set[float]] = {}
    for rank in range(processes):
        step = StepMaker(examples, packing, 6, 2, 0, torch.device("cpu"), rank, processes)([5, 0, 3, 1, 2, 4])
        for batch, counts, weights in zip(step.batches, step.counts, step.weights, strict=True):
            targets = batch.targets if isinstance(batch, TreeBatch) else batch.labels[batch.labels >= 0]
            for target, weight in zip(targets.tolist(), weights if weights is not None else [1.0] * 9, strict=False):
                if counts:
                    seen.setdefault(target, set()).add(float(weight))
    assert step.scored_tokens == sum(map(len, ends)) + 4 * 3
    assert seen == {token: {4.0 if 10 <= token <= 13 else 1.0} for end in ends for token in end}
    assert weighed(plain, 1.0) is plain


def test_what_a_step_shares_is_read_once_within_the_budget() -> None:
    each = maker("conversation", pack_tokens=1000)
    step = each(range(9))

    assert len(step.batches) == 1
    assert step.forward_tokens == len(prefix_tree([scored_sequence(example) for example in each.examples]))
    assert all(len(batch.plan.tokens[0]) <= 40 for batch in maker("conversation")(range(9)).batches)
    assert maker("none")(range(9)).forward_tokens > 3 * step.forward_tokens
