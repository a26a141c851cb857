"""Group examples into optimizer steps, and steps into batches: padded rectangles or prefix trees.

The order depends only on settings, seed and epoch. So a resumed run equals an uninterrupted one, and N processes equal
one. The order shuffles *units*, so that examples with common tokens are in the same step:

    none            an example
    conversation    the k+1 examples of a conversation
    question        conversations about one question, as many as fill a step, regrouped in each epoch

An epoch contains every example once, in the same number of steps for every unit, provided there are enough units.

Every process computes the same plan, so each knows the number of scored tokens in the whole step without communication,
and all run the same number of forward passes: a process with no batch left runs a dummy batch whose loss is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from chatbench.core.settings import Packing, Settings
from chatbench.models.encoding import EncodedRows
from chatbench.models.loss import PaddedBatch, TreeBatch, padded_batch, scored_sequence, tree_batch
from chatbench.models.prefix_tree import Kernel, PrefixTree, prefix_trees
from chatbench.protocol.prompts import EncodedExample

LENGTHS_SORTED_TOGETHER = 50
"""Steps per length-sorted window: enough to avoid most padding, few enough to stay random."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What determines the order of examples besides seed and epoch.

    Attributes:
        lengths: tokens of each example.
        conversations, questions: conversation and question id of each example.
        step_examples: examples per optimizer step, over all processes.
        by_length: sort windows of examples by length to reduce padding; only used without packing.
    """

    lengths: Sequence[int]
    conversations: Sequence[str]
    questions: Sequence[str]
    packing: Packing
    step_examples: int
    by_length: bool = False

    def steps(self, seed: int, epoch: int) -> list[list[int]]:
        """Return the example indices of each step of one epoch; every index occurs once."""
        rng = np.random.default_rng((seed, epoch))
        if self.packing == "none":
            order = self._by_length(rng) if self.by_length else rng.permutation(len(self.lengths)).tolist()
            return [order[start : start + self.step_examples] for start in range(0, len(order), self.step_examples)]
        if self.packing == "conversation":
            units = _grouped(self.conversations, range(len(self.conversations)))
        else:
            units = []
            for of_question in _grouped(self.questions, range(len(self.questions))):
                chats = _grouped(self.conversations, of_question)
                chats = [chats[place] for place in rng.permutation(len(chats))]
                parts = min(math.ceil(len(of_question) / self.step_examples), len(chats))
                units += [[index for chat in run for index in chat] for run in even_runs(chats, parts)]
        units = [units[place] for place in rng.permutation(len(units))]
        count = min(math.ceil(len(self.lengths) / self.step_examples), len(units))
        return [[index for unit in run for index in unit] for run in even_runs(units, count)]

    def _by_length(self, rng: np.random.Generator) -> list[int]:
        """Group similar lengths into steps, in random order; an incomplete step comes last, so all others are full."""
        shuffled: list[int] = rng.permutation(len(self.lengths)).tolist()
        size = self.step_examples
        whole = len(shuffled) - len(shuffled) % size
        steps: list[list[int]] = []
        for start in range(0, whole, size * LENGTHS_SORTED_TOGETHER):
            stretch = shuffled[start : min(start + size * LENGTHS_SORTED_TOGETHER, whole)]
            near = sorted(stretch, key=lambda index: -self.lengths[index])
            steps += [near[i : i + size] for i in range(0, len(near), size)]
        return [index for place in rng.permutation(len(steps)) for index in steps[place]] + shuffled[whole:]


class StepOrder(Sampler[list[int]]):
    """Batch sampler of the current epoch's steps; `epoch` is called whenever iteration starts."""

    def __init__(self, plan: StepPlan, seed: int, epoch: Callable[[], int]) -> None:
        self._plan = plan
        self._seed = seed
        self._epoch = epoch
        self._count = len(plan.steps(seed, 0))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._plan.steps(self._seed, self._epoch()))


def even_runs(units: Sequence[list[int]], count: int) -> list[Sequence[list[int]]]:
    """Split units, in order, into `count` non-empty runs with about equal numbers of examples.

    >>> even_runs([[0], [1], [2, 3, 4], [5], [6]], 3)
    [[[0], [1]], [[2, 3, 4]], [[5], [6]]]
    """
    before = np.cumsum([0, *map(len, units)])
    borders = [0]
    for run in range(1, count):
        nearest = int(np.abs(before - before[-1] * run / count).argmin())
        borders.append(min(max(nearest, borders[-1] + 1), len(units) - (count - run)))
    return [units[start:end] for start, end in zip(borders, [*borders[1:], len(units)], strict=True)]


def _grouped(names: Sequence[str], indices: Sequence[int]) -> list[list[int]]:
    """Group indices by name, in order of first occurrence."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(names[index], []).append(index)
    return list(groups.values())


PACK_TOKENS_CPU, PACK_TOKENS_GPU = 2048, 8192
"""Nodes per forward pass: enough to keep the device busy with bounded memory (benchmarks/prefix_tree.py)."""

Share = PrefixTree | list[EncodedExample]
QUESTION_EXAMPLES = 20
"""Minimum examples per step with question packing: those of about six conversations."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One process's share of an optimizer step.

    Attributes:
        batches: one forward and backward pass each.
        counts: for each batch, whether its loss counts; False for a dummy batch.
        weights: for each batch, the weight of each scored token, in the order of `completion_nats`; None for all 1.
        scored_tokens: weighted count over the whole step and all processes, by which the summed loss is divided.
        examples: indices of the examples in the whole step.
        forward_tokens: tokens that this process reads, including padding.
    """

    batches: tuple[PaddedBatch | TreeBatch, ...]
    counts: tuple[bool, ...]
    weights: tuple[Tensor | None, ...]
    scored_tokens: float
    examples: tuple[int, ...]
    forward_tokens: int


@dataclass(frozen=True, slots=True)
class StepMaker:
    """Build the share of process `rank` of `processes` in a step from the indices of the step's examples."""

    examples: Sequence[EncodedExample]
    packing: Packing
    pack_tokens: int
    batch_examples: int
    pad_id: int
    device: torch.device
    rank: int = 0
    processes: int = 1
    kernel: Kernel = "blocks"

    def __call__(self, indices: Sequence[int]) -> TrainingStep:
        chosen = [self.examples[index] for index in indices]
        if self.packing == "none":  # deal batches round-robin, in the step's order
            starts = range(0, len(chosen), self.batch_examples)
            batches: list[Share] = [chosen[start : start + self.batch_examples] for start in starts]
            shares = [batches[rank :: self.processes] for rank in range(self.processes)]
        else:
            shares = self._packed(chosen)
        passes = max(map(len, shares))
        own = shares[self.rank]
        filled = own + [shares[0][0]] * (passes - len(own))
        return TrainingStep(
            batches=tuple(
                tree_batch(share, self.device, self.kernel)
                if isinstance(share, PrefixTree)
                else padded_batch(share, self.pad_id).to(self.device)
                for share in filled
            ),
            counts=tuple(place < len(own) for place in range(passes)),
            weights=tuple(self._weights(each, chosen) for each in filled),
            scored_tokens=sum(example.weight for example in chosen),
            examples=tuple(indices),
            forward_tokens=sum(
                len(share) * (1 if isinstance(share, PrefixTree) else max(example.tokens for example in share))
                for share in own
            ),
        )

    def _packed(self, chosen: list[EncodedExample]) -> list[list[Share]]:
        """Assign trees, largest first, to the least loaded process; use smaller trees if there are too few."""
        sequences = [scored_sequence(example) for example in chosen]
        packed = prefix_trees(sequences, self.pack_tokens)
        if len(packed) < self.processes:
            packed = prefix_trees(sequences, max(1, min(self.pack_tokens, sum(map(len, packed)) // self.processes)))
        shares: list[list[Share]] = [[] for _ in range(self.processes)]
        load = [0] * self.processes
        for tree in sorted(packed, key=len, reverse=True):
            least = load.index(min(load))
            shares[least].append(tree)
            load[least] += len(tree)
        return shares

    def _weights(self, share: Share, chosen: Sequence[EncodedExample]) -> Tensor | None:
        if not any(example.weights for example in chosen):
            return None
        order = [chosen[i] for i in dict.fromkeys(share.edge_sequences)] if isinstance(share, PrefixTree) else share
        weights = [weight for each in order for weight in each.weights or [1.0] * len(each.completion)]
        return torch.tensor(weights, device=self.device)


def step_plan(settings: Settings, encoded: EncodedRows, processes: int) -> StepPlan:
    """Plan the steps of a run; `examples_per_step` defaults to the examples of its batches over all processes.

    With question packing the default is at least `QUESTION_EXAMPLES`: a question's chats share little in small steps.
    """
    of_batches = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * processes
    least = QUESTION_EXAMPLES if settings.packing == "question" else 1
    return StepPlan(
        lengths=[example.tokens for example in encoded.examples],
        conversations=[row.conversation_id for row in encoded.rows],
        questions=[row.question_id for row in encoded.rows],
        packing=settings.packing,
        step_examples=settings.examples_per_step or max(of_batches, least),
        by_length=settings.train_sampling_strategy == "group_by_length",
    )


def weighed(encoded: EncodedRows, answer_weight: float) -> EncodedRows:
    """Weight the loss of the option letter in answer examples by `answer_weight`.

    Only that token, the first at which answers differ, is weighted: a higher weight on the words before it would teach
    the model to answer earlier than people do.
    """
    if answer_weight == 1:
        return encoded
    pairs = list(zip(encoded.rows, encoded.examples, strict=True))
    places = zip(*(each.completion for row, each in pairs if row.kind == "answer"), strict=False)
    letter = next((place for place, tokens in enumerate(places) if len(set(tokens)) > 1), None)
    examples = [
        replace(each, weights=tuple(answer_weight if at == letter else 1.0 for at, _ in enumerate(each.completion)))
        if row.kind == "answer"
        else each
        for row, each in pairs
    ]
    return replace(encoded, examples=examples)


def default_pack_tokens(device: torch.device) -> int:
    return PACK_TOKENS_GPU if device.type == "cuda" else PACK_TOKENS_CPU
