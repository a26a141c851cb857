"""What prompts share is computed once, and forward passes waste little on padding."""

from __future__ import annotations

from chatbench.models.kv_cache import passes, shared_starts


def test_a_prompt_joins_the_ones_it_shares_more_with() -> None:
    # Two questions with the same instruction (two tokens): one start for all would throw away what each question has.
    first, second = [(1, 2, 3, 4, 5, end) for end in (6, 7)], [(1, 2, 8, 9, 10, end) for end in (6, 7)]

    assert set(shared_starts([*first, *second], least=2).values()) == {5}
    # A newcomer that shares less costs what the others save: 2 of 3 members times 3 tokens are 6, 2 x 3 are no less.
    assert shared_starts([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 9)], least=2)[1, 2, 3, 9] == 3
    assert shared_starts([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 9, 9, 9)], least=1)[1, 9, 9, 9] == 0
    assert shared_starts([(1, 2), (1, 2, 3)], least=2) == {(1, 2): 0, (1, 2, 3): 0}  # one token stays out


def test_passes_hold_every_row_once_within_their_tokens_and_waste_little_on_padding() -> None:
    # One pass of all rows, as long as the longest, is the likely mistake: 4,000 columns in place of 1,390.
    lengths = [1000] + [10] * 39

    assert passes(lengths) == [[0], [*range(1, 40)]]
    assert [len(each) for each in passes([3000, 3000, 3000])] == [1, 1, 1]
    assert [len(each) for each in passes([10, 11, 12])] == [3]
