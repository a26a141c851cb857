"""Blocks of a prefix tree, so that attention costs what the tree needs and not the square of its nodes.

A block is a run of nodes in pre-order whose ancestors outside the block are all of some earlier blocks, its *context*.
Inside a block, and only there, a mask says who descends from whom. A long unbranched stretch is cut into blocks of at
most `limit` nodes, a small subtree is one block, and small neighbours under the same ancestors share one.

    stem ------+-- subtree 1        blocks      context
               +-- subtree 2        stem        -
               `-- subtree 3        1 and 2     stem
                                    3           stem
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbench.models.prefix_tree import Integers, PrefixTree


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes `start` to `stop` (exclusive), and the indices of the blocks all of whose nodes they descend from."""

    start: int
    stop: int
    context: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start


def tree_blocks(tree: PrefixTree, limit: int) -> list[Block]:
    """Blocks that cover the tree in order, each of at most `limit` nodes.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"blocks of {limit} nodes")
    ends = tree.ends
    blocks: list[Block] = []
    waiting: list[tuple[int, int, tuple[int, ...]]] = [(0, len(tree), ())]  # (start, stop, context), last first
    while waiting:
        start, stop, context = waiting.pop()
        if start == stop:
            continue
        taken = _siblings_within(ends, start, stop, limit)
        if taken > start:
            blocks.append(Block(start, taken, context))
            waiting.append((taken, stop, context))
            continue
        stem = _stem(ends, start, limit)
        waiting.append((int(ends[start]), stop, context))
        waiting.append((stem, int(ends[start]), (*context, len(blocks))))
        blocks.append(Block(start, stem, context))
    return blocks


def block_mask(tree: PrefixTree, blocks: list[Block], index: int, window: int | None = None) -> NDArray[np.bool_]:
    """Who of its context and itself each node of a block attends to: shape (nodes, context nodes + nodes).

    Args:
        window: sliding window in tokens, the node itself included; what lies further back on the path is not seen.
    """
    block = blocks[index]
    rows = np.arange(block.start, block.stop)
    seen = [np.arange(blocks[each].start, blocks[each].stop) for each in block.context]
    columns = np.concatenate([*seen, rows])
    allowed: NDArray[np.bool_] = (columns <= rows[:, None]) & (rows[:, None] < tree.ends[columns])
    if window is not None:
        allowed &= tree.depths[rows][:, None] - tree.depths[columns] < window
    return allowed


def attended_pairs(blocks: list[Block]) -> int:
    """Query-key products that the blocks compute, of one head and layer."""
    return sum(len(block) * (len(block) + sum(len(blocks[each]) for each in block.context)) for block in blocks)


def _siblings_within(ends: Integers, start: int, stop: int, limit: int) -> int:
    """End of the whole subtrees that begin at `start` and together have at most `limit` nodes; `start` if none has."""
    taken = start
    while taken < stop and int(ends[taken]) - start <= limit:
        taken = int(ends[taken])
    return taken


def _stem(ends: Integers, start: int, limit: int) -> int:
    """One past the unbranched stretch that begins at `start`, at most `limit` nodes on."""
    stem = start + 1
    while stem < ends[start] and stem - start < limit and ends[stem] == ends[start]:
        stem += 1
    return stem
