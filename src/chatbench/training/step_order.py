"""Which examples make up each optimiser step of an epoch: a function of settings, seed and epoch alone.

That is what makes a resumed run equal an undisturbed one, and N processes equal one. What is shuffled is the *unit*, so
that examples which share tokens share a step:

    none            an example
    conversation    the k+1 examples of a conversation
    question        conversations about one question, as many as fill a step, dealt anew in each epoch

An epoch holds every example once, in the same number of steps whatever the unit, as long as there are that many units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from chatbench.core.settings import Packing

LENGTHS_SORTED_TOGETHER = 50
"""Steps whose examples are sorted by length together: enough to save most padding, few enough to stay random."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the order depends on beside seed and epoch.

    Attributes:
        lengths: tokens of each example.
        conversations, questions: ids of each example.
        step_examples: examples of one optimiser step, over all processes.
        by_length: sort stretches by length, so that a padded step pads little; only where nothing is packed.
    """

    lengths: Sequence[int]
    conversations: Sequence[str]
    questions: Sequence[str]
    packing: Packing
    step_examples: int
    by_length: bool = False

    def steps(self, seed: int, epoch: int) -> list[list[int]]:
        """Indices of the examples of each step of one epoch; every index once."""
        rng = np.random.default_rng((seed, epoch))
        if self.packing == "none":
            order = self._by_length(rng) if self.by_length else rng.permutation(len(self.lengths)).tolist()
            return [order[start : start + self.step_examples] for start in range(0, len(order), self.step_examples)]
        units = self._conversation_units() if self.packing == "conversation" else self._question_units(rng)
        units = [units[place] for place in rng.permutation(len(units))]
        count = min(math.ceil(len(self.lengths) / self.step_examples), len(units))
        return [[index for unit in run for index in unit] for run in even_runs(units, count)]

    def _conversation_units(self) -> list[list[int]]:
        return _grouped(self.conversations, range(len(self.conversations)))

    def _question_units(self, rng: np.random.Generator) -> list[list[int]]:
        units = []
        for of_question in _grouped(self.questions, range(len(self.questions))):
            chats = _grouped(self.conversations, of_question)
            chats = [chats[place] for place in rng.permutation(len(chats))]
            count = min(math.ceil(len(of_question) / self.step_examples), len(chats))
            units += [[index for chat in run for index in chat] for run in even_runs(chats, count)]
        return units

    def _by_length(self, rng: np.random.Generator) -> list[int]:
        """Steps of about equal lengths in random order; an incomplete step comes last, so that others stay whole."""
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
    """The steps of the current epoch, for a data loader; `epoch` tells which that is whenever iteration starts."""

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
    """The units in order, as `count` runs of about equal numbers of examples, none empty.

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
    """The indices by name, in the order in which names first come."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(names[index], []).append(index)
    return list(groups.values())
