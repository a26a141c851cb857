"""Which questions are so alike that they must stay on one side of a split.

Two texts are compared by the runs of three tokens that they share, each run weighing the more the fewer questions hold
it: w = ln((N + 1) / questions that hold it), similarity = weight shared / weight of either (weighted Jaccard, 0..1).
Wording that a whole subset shares (the preamble of every moral_scenarios question) thus weighs next to nothing.

Questions with the same numbers are near duplicates from 0.5 on. With other numbers they are other questions, made from
one template or not, until the texts are all but the same: from 0.8 on. On the five MMLU test files of ChatBench's
subsets (1,878 questions) this joins 16 pairs, all of them the same question to a reader except two of stock phrases
("Which statement is true?") and one that asks for another number of the same event; "Write the prime factorization of
77" and "... of 48" stay apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator

from chatbench.core.records import Question

SAME_NUMBERS_THRESHOLD = 0.5
OTHER_NUMBERS_THRESHOLD = 0.8
RUN = 3
FEWEST_QUESTIONS = 100
"""N of the weights is at least this: among five questions, being shared by two says nothing about rarity."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]")
_NUMBER_WORDS = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen|"
    "(twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million"
)

_Run = tuple[str, ...]


def near_duplicate_groups(questions: Collection[Question]) -> list[tuple[str, ...]]:
    """Groups of question ids, each sorted, in the order of their first id; a question like no other is its own group.

    Likeness is passed on: where a is like b and b like c, the three are one group.
    """
    ordered = sorted(questions, key=lambda question: question.id)
    parent = list(range(len(ordered)))
    for left, right in _similar_pairs([question.text for question in ordered]):
        low, high = sorted((_root(parent, left), _root(parent, right)))
        parent[high] = low
    groups: dict[int, list[str]] = {}
    for index, question in enumerate(ordered):
        groups.setdefault(_root(parent, index), []).append(question.id)
    return [tuple(group) for group in groups.values()]


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _similar_pairs(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of indices of near-duplicate texts.

    Two texts of similarity t share a run among the rarest of either, those without which less than t of its weight is
    left; only texts that share such a run are compared.
    """
    tokens = [_TOKEN.findall(text.lower()) for text in texts]
    numbers = [
        Counter(token for token in words if token[0].isdigit() or _NUMBER_WORDS.fullmatch(token)) for words in tokens
    ]
    runs = [_runs(words) for words in tokens]
    holders = Counter(run for of_text in runs for run in of_text)
    total = max(FEWEST_QUESTIONS, len(texts)) + 1
    weights = {run: math.log(total / count) for run, count in holders.items()}
    rarest_first = [sorted(of_text, key=lambda run: (holders[run], run)) for of_text in runs]
    sums = [math.fsum(weights[run] for run in of_text) for of_text in rarest_first]
    seen: dict[_Run, list[int]] = {}
    for index, of_text in enumerate(rarest_first):
        candidates: set[int] = set()
        left = sums[index]
        for run in of_text:
            if left < SAME_NUMBERS_THRESHOLD * sums[index]:
                break
            candidates.update(seen.get(run, ()))
            seen.setdefault(run, []).append(index)
            left -= weights[run]
        for other in sorted(candidates):
            shared = math.fsum(weights[run] for run in runs[index] & runs[other])
            threshold = SAME_NUMBERS_THRESHOLD if numbers[index] == numbers[other] else OTHER_NUMBERS_THRESHOLD
            if shared >= threshold * (sums[index] + sums[other] - shared):
                yield other, index


def _runs(words: list[str]) -> set[_Run]:
    """All runs of three tokens; a shorter text is one run."""
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
