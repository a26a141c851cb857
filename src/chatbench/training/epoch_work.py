"""What the forward passes of one epoch read, counted without making a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.core.settings import Settings
from chatbench.models.completion_loss import scored_sequence
from chatbench.models.encoding import EncodedRows
from chatbench.models.prefix_tree import prefix_trees
from chatbench.protocol.transcript import EncodedExample
from chatbench.training.memory import ForwardPass
from chatbench.training.plan import Work
from chatbench.training.steps import step_plan


@dataclass(frozen=True, slots=True)
class EpochWork:
    """One epoch's optimizer steps and forward passes, the largest of them, and what they read together."""

    steps: int
    passes: int
    largest: ForwardPass
    work: Work


def epoch_work(settings: Settings, encoded: EncodedRows, *, pack_tokens: int) -> EpochWork:
    """The first epoch of a run in one process; later ones differ in their order only."""
    steps = step_plan(settings, encoded, 1).steps(settings.seed, 0)
    passes: list[Work] = []
    for indices in steps:
        chosen = [encoded.examples[index] for index in indices]
        batch = settings.per_device_train_batch_size
        passes += padded_passes(chosen, batch) if settings.packing == "none" else packed_passes(chosen, pack_tokens)
    return EpochWork(
        steps=len(steps),
        passes=len(passes),
        largest=ForwardPass(max(each.tokens for each in passes), max(each.scored_rows for each in passes)),
        work=Work(
            tokens=sum(each.tokens for each in passes),
            scored_rows=sum(each.scored_rows for each in passes),
            attended_pairs=sum(each.attended_pairs for each in passes),
        ),
    )


def padded_passes(examples: Sequence[EncodedExample], batch: int) -> Iterator[Work]:
    """Rectangles of `batch` examples; padding is read and attended to like any token."""
    for start in range(0, len(examples), batch):
        rows = examples[start : start + batch]
        longest = max(example.tokens for example in rows)
        scored = sum(len(example.completion) for example in rows)
        yield Work(len(rows) * longest, scored, len(rows) * longest * (longest + 1) // 2)


def packed_passes(examples: Sequence[EncodedExample], pack_tokens: int) -> Iterator[Work]:
    """Prefix trees of at most `pack_tokens` tokens; a token attends to those on its path."""
    for tree in prefix_trees([scored_sequence(example) for example in examples], pack_tokens).trees:
        yield Work(len(tree), len(np.unique(tree.edge_parents)), int(tree.depths.sum()) + len(tree))
