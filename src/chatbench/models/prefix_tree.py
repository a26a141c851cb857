"""Prefix trees: what many token sequences share is laid out, and paid for, once.

The k+1 examples of a conversation repeat its history, and all conversations about a question repeat instruction and
question. Here three examples, scored tokens in capitals (`X` and `Y` are two answers to the same prompt):

    a b c X .          laid out in pre-order     index    0  1  2  3  4  5  6
    a b c Y Z .                                  tokens   a  b  c  X  Y  Z  d
    a b d W                                      depths   0  1  2  3  3  4  2
                                                 ends     7  7  6  4  6  6  7
           c -- X
          /  `- Y -- Z         edges (parent -> target)   2->X  3->.   2->Y  4->Z  5->.   6->W
    a -- b
          `-- d

Node i descends from node j, or is j, exactly when `j <= i < ends[j]`; that is whom i attends to. A node's depth is
its position. The loss sits on *edges*: each scored token is predicted from its parent's hidden state, so a branch point
(`c` above) predicts one target for every branch, and a scored token that nothing follows (`.`, `W`) needs no node at
all. The sum over edges of `-ln p(target | path to parent)` is the sum over the sequences one by one.

This module is arithmetic on integers (numpy, no torch). `prefix_trees` cuts what exceeds a budget of nodes into several
trees, where the fewest tokens are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
_NONE: Integers = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ScoredSequence:
    """Token ids, and which of them carry loss (same length).

    Raises:
        ValueError: the lengths differ, or the first token is scored: nothing predicts it.
    """

    tokens: Sequence[int]
    scored: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.scored):
            raise ValueError(f"{len(self.tokens)} tokens, but {len(self.scored)} marks of what is scored")
        if self.scored and self.scored[0]:
            raise ValueError("the first token is scored, but nothing comes before it that could predict it")


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A tree, or several side by side, in pre-order.

    Attributes:
        tokens: shape (nodes,), token ids.
        depths: shape (nodes,), 0 at a root; the position id.
        ends: shape (nodes,), one past the node's last descendant.
        edge_parents: shape (edges,), the node whose hidden state predicts.
        edge_targets: shape (edges,), the token it should predict.
        edge_sequences: shape (edges,), index of the sequence that it came from. Edges of one sequence are together, in
            its order; sequences in the order in which they were laid out.
    """

    tokens: Integers
    depths: Integers
    ends: Integers
    edge_parents: Integers
    edge_targets: Integers
    edge_sequences: Integers

    def __len__(self) -> int:
        return len(self.tokens)


def prefix_tree(sequences: Sequence[ScoredSequence]) -> PrefixTree:
    """One tree of all sequences, however large.

    >>> tree = prefix_tree([ScoredSequence([7, 8, 9], [False, True, True]), ScoredSequence([7, 5], [False, True])])
    >>> tree.tokens.tolist(), tree.ends.tolist()
    ([7, 8], [2, 2])
    >>> list(zip(tree.edge_parents.tolist(), tree.edge_targets.tolist()))
    [(0, 5), (0, 8), (1, 9)]
    """
    return _laid_out(_sorted(sequences))


def prefix_trees(sequences: Sequence[ScoredSequence], budget: int) -> list[PrefixTree]:
    """Trees of at most `budget` nodes each, cut where the least is repeated.

    A single sequence longer than the budget is a tree of its own; one without a scored token is left out.

    Raises:
        ValueError: the budget is below 1.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} nodes")
    entries = [entry for entry in _sorted(sequences) if len(entry.inputs)]
    if not entries:
        return []
    starts = _cuts(np.array([len(e.inputs) for e in entries]), np.array([e.shared for e in entries]), budget)
    for start in starts:
        entries[start].shared = 0  # laid out again from the root
    return [_laid_out(entries[start:end]) for start, end in pairwise([*starts, len(entries)])]


class _Entry:
    """A sequence in sorted order. `inputs` ends before the last scored token, which is only ever a target."""

    __slots__ = ("index", "inputs", "scored", "sequence", "shared")

    def __init__(self, index: int, sequence: ScoredSequence) -> None:
        self.index, self.sequence, self.shared = index, sequence, 0
        self.scored: Integers = np.flatnonzero(np.asarray(sequence.scored, dtype=bool))
        last = int(self.scored[-1]) if len(self.scored) else 0
        self.inputs: Integers = np.asarray(sequence.tokens[:last], dtype=np.int64)


def _sorted(sequences: Sequence[ScoredSequence]) -> list[_Entry]:
    """Sorted by their inputs, so that each shares its longest prefix with the one before, whose length is noted."""
    entries = [_Entry(index, sequence) for index, sequence in enumerate(sequences)]
    entries.sort(key=lambda entry: (entry.inputs.tolist(), entry.index))
    for before, entry in pairwise(entries):
        size = min(len(before.inputs), len(entry.inputs))
        differ = np.flatnonzero(before.inputs[:size] != entry.inputs[:size])
        entry.shared = int(differ[0]) if len(differ) else size
    return entries


def _laid_out(entries: Sequence[_Entry]) -> PrefixTree:
    """Appends what each sequence does not share with the one before; a node ends where a sequence leaves its path."""
    total = sum(len(entry.inputs) - entry.shared for entry in entries)
    tokens, depths, ends = (np.empty(total, dtype=np.int64) for _ in range(3))
    parents: list[Integers] = []
    path = _NONE
    count = 0
    for entry in entries:
        fresh = len(entry.inputs) - entry.shared
        ends[path[entry.shared :]] = count
        path = np.concatenate([path[: entry.shared], np.arange(count, count + fresh)])
        tokens[count : count + fresh] = entry.inputs[entry.shared :]
        depths[count : count + fresh] = np.arange(entry.shared, len(entry.inputs))
        parents.append(path[entry.scored - 1])
        count += fresh
    ends[path] = count
    return PrefixTree(
        tokens,
        depths,
        ends,
        np.concatenate([_NONE, *parents]),
        np.concatenate([_NONE, *(np.asarray(e.sequence.tokens, dtype=np.int64)[e.scored] for e in entries)]),
        np.concatenate([_NONE, *(np.full(len(e.scored), e.index) for e in entries)]),
    )


def _cuts(lengths: Integers, shared: Integers, budget: int) -> list[int]:
    """Starts of the groups of consecutive sequences that fit the budget and together repeat the fewest tokens.

    A group costs its first sequence whole and of each other what is new; a cut repeats what the sequence after it
    shares with the one before. Shortest path over the places to cut, fewer groups where equal.
    """
    fresh = lengths - shared
    count = len(lengths)
    best: list[tuple[int, int]] = [(0, 0)] + [(-1, 0)] * count
    came_from = [0] * (count + 1)
    for end in range(1, count + 1):
        size = 0  # of the group start..end, without what `start` shares with the sequence before it
        for start in range(end - 1, -1, -1):
            size += int(fresh[start])
            if size > budget and start < end - 1:
                break
            if size + int(shared[start]) > budget and start < end - 1:
                continue
            repeated = int(shared[start]) if start else 0
            cost = (best[start][0] + repeated, best[start][1] + 1)
            if best[end][0] < 0 or cost < best[end]:
                best[end], came_from[end] = cost, start
    starts = [came_from[count]]
    while starts[0]:
        starts.insert(0, came_from[starts[0]])
    return starts
