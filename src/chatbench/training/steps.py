"""One optimiser step as batches: padded rectangles or prefix trees, dealt to the processes.

Every process computes the same plan, so each knows how many tokens the whole step scores without asking the others, and
all make the same number of forward passes: one that has none left makes a stand-in, which counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chatbench.core.settings import Packing, Settings
from chatbench.models.completion_loss import PaddedBatch, TreeBatch, padded_batch, scored_sequence, tree_batch
from chatbench.models.encoding import EncodedRows
from chatbench.models.prefix_tree import PrefixTree, prefix_trees
from chatbench.models.tree_attention import Kernel
from chatbench.protocol.transcript import EncodedExample
from chatbench.training.step_order import StepPlan

PACK_TOKENS_CPU = 2048
"""Nodes of one forward pass on a processor: enough to fill it, and memory in bounds (benchmarks/prefix_tree.py)."""

PACK_TOKENS_GPU = 8192

QUESTION_EXAMPLES = 20
"""Examples of about six conversations."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One process's share of a step.

    Attributes:
        batches: each one forward and backward pass.
        counts: for each batch, whether its loss counts (a stand-in's does not).
        scored_tokens: of the whole step, over all processes: what the summed loss is divided by.
        examples: indices of the examples of the whole step.
        forward_tokens: tokens that this process reads, padding included.
    """

    batches: tuple[PaddedBatch | TreeBatch, ...]
    counts: tuple[bool, ...]
    scored_tokens: int
    examples: tuple[int, ...]
    forward_tokens: int


@dataclass(frozen=True, slots=True)
class StepMaker:
    """Makes the share of process `rank` of `processes` in a step, from the indices of its examples."""

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
        shares = self._padded(chosen) if self.packing == "none" else self._packed(chosen)
        passes = max(map(len, shares))
        own = shares[self.rank]
        filled = own + [shares[0][0]] * (passes - len(own))
        return TrainingStep(
            batches=tuple(self._batch(each) for each in filled),
            counts=tuple(place < len(own) for place in range(passes)),
            scored_tokens=sum(len(example.completion) for example in chosen),
            examples=tuple(indices),
            forward_tokens=sum(map(_tokens_read, own)),
        )

    def _padded(self, chosen: list[EncodedExample]) -> list[list[PrefixTree | list[EncodedExample]]]:
        """Batches of `batch_examples` in the step's order, dealt one by one."""
        shares: list[list[PrefixTree | list[EncodedExample]]] = [[] for _ in range(self.processes)]
        for place, start in enumerate(range(0, len(chosen), self.batch_examples)):
            shares[place % self.processes].append(chosen[start : start + self.batch_examples])
        return shares

    def _packed(self, chosen: list[EncodedExample]) -> list[list[PrefixTree | list[EncodedExample]]]:
        """Trees, the largest first, each to the process that has least; cut smaller where some would have none."""
        sequences = [scored_sequence(example) for example in chosen]
        packed = prefix_trees(sequences, self.pack_tokens)
        if len(packed.trees) < self.processes:
            packed = prefix_trees(sequences, max(1, min(self.pack_tokens, packed.nodes // self.processes)))
        shares: list[list[PrefixTree | list[EncodedExample]]] = [[] for _ in range(self.processes)]
        load = [0] * self.processes
        for tree in sorted(packed.trees, key=len, reverse=True):
            least = load.index(min(load))
            shares[least].append(tree)
            load[least] += len(tree)
        return shares

    def _batch(self, share: PrefixTree | list[EncodedExample]) -> PaddedBatch | TreeBatch:
        if isinstance(share, PrefixTree):
            return tree_batch(share, self.device, self.kernel)
        return padded_batch(share, self.pad_id).to(self.device)


def step_plan(settings: Settings, encoded: EncodedRows, processes: int) -> StepPlan:
    """The order of a run; without `examples_per_step` a step holds what the batches hold, over all processes.

    Where questions are packed it holds at least `QUESTION_EXAMPLES`: a question's chats share little with a small step.
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


def default_pack_tokens(device: torch.device) -> int:
    return PACK_TOKENS_GPU if device.type == "cuda" else PACK_TOKENS_CPU


def _tokens_read(share: PrefixTree | list[EncodedExample]) -> int:
    return len(share) if isinstance(share, PrefixTree) else len(share) * max(example.tokens for example in share)
