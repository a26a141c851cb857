"""Prefix trees: nothing shared is laid out twice, nothing is lost, and every branch has its own target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbench.models.prefix_tree import PrefixTree, ScoredSequence, block_mask, prefix_tree, prefix_trees, tree_blocks


def sequence(tokens: str) -> ScoredSequence:
    """Letters as tokens; capitals and stops are scored."""
    return ScoredSequence([ord(each) for each in tokens], [each.isupper() or each == "." for each in tokens])


@st.composite
def scored_sequences(draw: st.DrawFn) -> list[ScoredSequence]:
    # Three tokens only, so that sequences share prefixes, branch, and repeat each other.
    tokens = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12))
    return [
        ScoredSequence(each, [False, *draw(st.lists(st.booleans(), min_size=len(each) - 1, max_size=len(each) - 1))])
        for each in tokens
    ]


def path(tree: PrefixTree, node: int) -> list[int]:
    """Tokens from the root to a node, by the rule that says who descends from whom."""
    return [int(tree.tokens[j]) for j in range(node + 1) if node < tree.ends[j]]


def edges_of(trees: list[PrefixTree]) -> list[tuple[int, tuple[int, ...], int]]:
    """(sequence, what comes before, target) of every edge."""
    return sorted(
        (int(which), tuple(path(tree, int(parent))), int(target))
        for tree in trees
        for which, parent, target in zip(tree.edge_sequences, tree.edge_parents, tree.edge_targets, strict=True)
    )


def expected_edges(sequences: list[ScoredSequence]) -> list[tuple[int, tuple[int, ...], int]]:
    """The same, one sequence at a time."""
    return sorted(
        (which, tuple(each.tokens[:place]), each.tokens[place])
        for which, each in enumerate(sequences)
        for place, scored in enumerate(each.scored)
        if scored
    )


def inputs_of(each: ScoredSequence) -> list[int]:
    """What a model must read to score a sequence: all before its last scored token."""
    last = max((place for place, scored in enumerate(each.scored) if scored), default=0)
    return list(each.tokens[:last])


def test_the_drawn_example_is_laid_out_as_drawn() -> None:
    tree = prefix_tree([sequence("abcX."), sequence("abcYZ."), sequence("abdW")])

    assert "".join(map(chr, tree.tokens)) == "abcXYZd"
    assert tree.depths.tolist() == [0, 1, 2, 3, 3, 4, 2]
    assert tree.ends.tolist() == [7, 7, 6, 4, 6, 6, 7]
    # A branch point has a target for every branch: a row of shifted labels would lose one of X and Y.
    edges = zip(tree.edge_parents.tolist(), map(chr, tree.edge_targets), strict=True)
    assert list(edges) == [(2, "X"), (3, "."), (2, "Y"), (4, "Z"), (5, "."), (6, "W")]


@given(scored_sequences())
def test_edges_are_those_of_the_sequences_one_by_one(sequences: list[ScoredSequence]) -> None:
    assert edges_of([prefix_tree(sequences)]) == expected_edges(sequences)


@given(scored_sequences())
def test_every_distinct_prefix_is_one_node(sequences: list[ScoredSequence]) -> None:
    distinct = {tuple(inputs_of(each)[:end]) for each in sequences for end in range(1, len(inputs_of(each)) + 1)}

    tree = prefix_tree(sequences)

    assert {tuple(path(tree, node)) for node in range(len(tree))} == distinct
    assert len(tree) == len(distinct)
    assert all(tree.depths[node] == len(path(tree, node)) - 1 for node in range(len(tree)))


@given(scored_sequences(), st.integers(1, 12))
def test_a_budget_cuts_but_loses_nothing(sequences: list[ScoredSequence], budget: int) -> None:
    trees = prefix_trees(sequences, budget)

    assert edges_of(trees) == expected_edges(sequences)
    for tree in trees:
        longest = max(len(inputs_of(sequences[which])) for which in set(tree.edge_sequences.tolist()))
        assert len(tree) <= max(budget, longest)


def test_the_cut_is_where_the_least_is_repeated() -> None:
    # Greedy filling would put the first three together and cut where eight tokens are shared.
    apart = sequence("qX")
    family = [sequence(f"abcdefgh{each}X") for each in "ijk"]

    assert sorted(map(len, prefix_trees([*family, apart], budget=11))) == [1, 11]
    # A sequence longer than the budget is a tree of its own.
    assert sorted(map(len, prefix_trees([sequence("abcdefX"), sequence("aY")], budget=3))) == [1, 6]


def test_sequences_without_a_scored_token_need_no_nodes() -> None:
    assert prefix_trees([sequence("abc")], budget=5) == []
    assert len(prefix_tree([sequence("abc")])) == 0


@pytest.mark.parametrize(
    ("tokens", "scored", "message"), [([1, 2], [False], "2 tokens, but 1"), ([1, 2], [True, True], "the first token")]
)
def test_sequences_that_cannot_be_scored_are_refused(tokens: list[int], scored: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoredSequence(tokens, scored)


@given(scored_sequences(), st.integers(1, 12), st.sampled_from([None, 1, 2, 4]))
def test_blocks_let_every_node_see_its_ancestors_and_nobody_else(
    sequences: list[ScoredSequence], limit: int, window: int | None
) -> None:
    tree = prefix_tree(sequences)
    blocks = tree_blocks(tree, limit)

    seen = np.zeros((len(tree), len(tree)), dtype=bool)
    for index, block in enumerate(blocks):
        columns = [node for each in (*block.context, index) for node in range(blocks[each].start, blocks[each].stop)]
        seen[block.start : block.stop, columns] = block_mask(tree, blocks, index, window)

    for node in range(len(tree)):
        ancestors = [j for j in range(node + 1) if node < tree.ends[j]]
        reach = ancestors if window is None else [j for j in ancestors if tree.depths[node] - tree.depths[j] < window]
        assert np.flatnonzero(seen[node]).tolist() == reach
    assert [place for block in blocks for place in range(block.start, block.stop)] == list(range(len(tree)))
    assert all(len(block) <= limit for block in blocks)


def test_blocks_cost_what_the_tree_needs_and_not_the_square_of_its_nodes() -> None:
    stem = list(range(100))
    tree = prefix_tree([ScoredSequence([*stem, *([200 + chat] * 51)], [False] * 150 + [True]) for chat in range(10)])
    needed = 100 * 101 // 2 + 10 * (50 * 100 + 50 * 51 // 2)

    assert len(tree) == 600
    blocks = tree_blocks(tree, 64)
    products = sum(len(block) * (len(block) + sum(len(blocks[i]) for i in block.context)) for block in blocks)
    assert needed <= products < 1.3 * needed < 0.25 * 600 * 600
