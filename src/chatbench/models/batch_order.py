"""The order in which training sees its examples: a function of seed and epoch alone.

That is what makes a resumed run equal an undisturbed one, and N processes equal one process with N times the batch. The
Trainer's own length-grouping draws from the global generator, which a resumed epoch finds in another state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

GROUPS_SORTED_TOGETHER = 50
"""Steps whose examples are sorted by length together: enough to save most padding, few enough to stay random."""


class BatchOrder(Sampler[int]):
    """Indices of one epoch at a time; `set_epoch` chooses which.

    Args:
        lengths: tokens of each example.
        step_examples: examples of one optimiser step, over all processes and accumulated batches.
        by_length: sort stretches by length, so that a step pads little; the steps then come in random order.
    """

    def __init__(self, lengths: Sequence[int], *, step_examples: int, seed: int, by_length: bool) -> None:
        self._lengths = lengths
        self._step_examples = step_examples
        self._seed = seed
        self._by_length = by_length
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self._lengths, self._step_examples, (self._seed, self._epoch), self._by_length))


def epoch_order(lengths: Sequence[int], step_examples: int, seed: tuple[int, int], by_length: bool) -> list[int]:
    """Every index once, in the order of one epoch; `seed` is (seed, epoch).

    An incomplete step comes last, so that the steps before it keep together what was sorted together.
    """
    rng = np.random.default_rng(seed)
    shuffled: list[int] = rng.permutation(len(lengths)).tolist()
    if not by_length:
        return shuffled
    whole = len(shuffled) - len(shuffled) % step_examples
    stretch = step_examples * GROUPS_SORTED_TOGETHER
    steps: list[list[int]] = []
    for start in range(0, whole, stretch):
        near = sorted(shuffled[start : min(start + stretch, whole)], key=lambda index: -lengths[index])
        steps += [near[i : i + step_examples] for i in range(0, len(near), step_examples)]
    order = rng.permutation(len(steps))
    return [index for place in order for index in steps[place]] + shuffled[whole:]
