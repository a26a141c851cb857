r"""How alike the words of two sets of texts are: BLEU-4 and ROUGE-1/2/L over all pairs (hypothesis, reference).

In ChatBench the hypotheses are a question's simulated first prompts and the references its human first prompts. Every
text is tokenised and counted once; pairs are scored from the shared counts, as *statistics -> sum -> score*: the
statistics of pairs add up to those of a question, and those of questions to those of a corpus.

BLEU is on 0..1, unsmoothed, with mteval-v13a's tokenizer: the value of the `evaluate` package's `bleu`. ROUGE is the F
of the `rouge-score` package without stemmer. Both packages' corner cases are kept, with one difference: where
`evaluate` divides by zero (every hypothesis or every reference empty) BLEU is 0 here, since nothing matches.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators; Papineni et al. 2002 (BLEU); Lin 2004 (ROUGE).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 4
"""BLEU-4: n-grams of one to four tokens."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES_13A = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # symbols and blanks stand alone, except . , - and '
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # . and , do unless they follow a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # ... or precede one
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit does
)
_ROUGE_WORD = re.compile(r"[a-z0-9]+")

Tokens = tuple[str, ...]
Tokenizer = Callable[[str], Tokens]
IntMatrix = NDArray[np.int64]


def tokens_13a(text: str) -> Tokens:
    """Tokens of mteval-v13a, case kept.

    >>> tokens_13a("It's 1,200.5 kg (net), right?")
    ("It's", '1,200.5', 'kg', '(', 'net', ')', ',', 'right', '?')
    """
    line = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        line = line.replace(entity, character)
    line = f" {line} "  # so that the last full stop has a character after it
    for pattern, replacement in _RULES_13A:
        line = pattern.sub(replacement, line)
    return tuple(line.split())


def tokens_rouge(text: str) -> Tokens:
    """Lower-cased runs of a-z and 0-9, not stemmed.

    >>> tokens_rouge("It's 1,200.5 kg")
    ('it', 's', '1', '200', '5', 'kg')
    """
    return tuple(_ROUGE_WORD.findall(text.lower()))


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """What BLEU needs of any number of pairs; counts of pairs and of questions add up.

    `matches[n-1]` are clipped n-gram matches, `possible[n-1]` the n-grams of the hypotheses.
    """

    matches: tuple[int, int, int, int] = (0, 0, 0, 0)
    possible: tuple[int, int, int, int] = (0, 0, 0, 0)
    hypothesis_tokens: int = 0
    reference_tokens: int = 0

    def __add__(self, other: BleuCounts) -> BleuCounts:
        return BleuCounts(
            _add(self.matches, other.matches),
            _add(self.possible, other.possible),
            self.hypothesis_tokens + other.hypothesis_tokens,
            self.reference_tokens + other.reference_tokens,
        )


def _add(left: tuple[int, int, int, int], right: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2], left[3] + right[3]


def bleu(counts: BleuCounts) -> float:
    r"""Corpus BLEU-4 on 0..1, unsmoothed: brevity penalty * (p1 p2 p3 p4)^(1/4), p_n = matches_n / possible_n.

    The penalty is 1 where the hypotheses are at least as long as the references, else exp(1 - references/hypotheses),
    lengths in tokens summed over pairs. It is 0 where no n-gram of some order matches, so also for texts of fewer than
    four tokens and for empty ones. Equals `evaluate`'s `bleu`.

    >>> bleu(BleuCounts((4, 2, 1, 1), (4, 4, 2, 2), 4, 4))  # (1 * 1/2 * 1/2 * 1/2)^(1/4)
    0.5946035575013605
    """
    if not all(counts.matches):
        return 0.0
    log_precisions = (math.log(hit / of) for hit, of in zip(counts.matches, counts.possible, strict=True))
    ratio = counts.hypothesis_tokens / counts.reference_tokens
    penalty = 1.0 if ratio > 1 else math.exp(1 - 1 / ratio)
    return penalty * math.exp(math.fsum(log_precisions) / MAX_ORDER)


def sacrebleu_score(counts: BleuCounts) -> tuple[float, str]:
    """Corpus BLEU on 0..100 with sacrebleu's defaults (13a, exponential smoothing), and its signature.

    Equals the package called on the texts where they end without white space, which sacrebleu strips first.
    """
    from sacrebleu.metrics.bleu import BLEU  # late: not every run needs it

    score = BLEU.compute_bleu(
        list(counts.matches), list(counts.possible), counts.hypothesis_tokens, counts.reference_tokens, "exp"
    ).score
    metric = BLEU(tokenize="13a", smooth_method="exp")
    metric.num_refs = 1
    return float(score), str(metric.get_signature())


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of one question's pairs: counts for BLEU, and ROUGE F (0..1) as means over the pairs."""

    pairs: int
    bleu_counts: BleuCounts
    rouge1: float
    rouge2: float
    rouge_l: float

    @property
    def bleu(self) -> float:
        """BLEU of the question's pairs taken as one corpus."""
        return bleu(self.bleu_counts)


def overlap(
    hypotheses: Sequence[str], references: Sequence[str], *, allowed: NDArray[np.bool_] | None = None
) -> Overlap:
    """Overlap of all pairs (hypothesis, reference), or of those that `allowed` names.

    Args:
        hypotheses: h texts; an empty one has no tokens, so its ROUGE is 0 and it only shortens the BLEU hypotheses.
        references: r texts.
        allowed: shape (h, r); False leaves a pair out (a person with herself, in the human-human reference).

    Raises:
        ValueError: there is no pair.
    """
    pairs = np.ones((len(hypotheses), len(references)), dtype=bool) if allowed is None else allowed
    if not pairs.any():
        raise ValueError(f"no pair among {len(hypotheses)} hypotheses and {len(references)} references")
    words, other_words = [tokens_rouge(text) for text in hypotheses], [tokens_rouge(text) for text in references]
    return Overlap(
        pairs=int(pairs.sum()),
        bleu_counts=_bleu_counts(hypotheses, references, pairs),
        rouge1=_mean_f(_matches(words, other_words, 1), _totals(words, 1), _totals(other_words, 1), pairs),
        rouge2=_mean_f(_matches(words, other_words, 2), _totals(words, 2), _totals(other_words, 2), pairs),
        rouge_l=_mean_f(_subsequences(words, other_words), _totals(words, 1), _totals(other_words, 1), pairs),
    )


def _bleu_counts(hypotheses: Sequence[str], references: Sequence[str], pairs: NDArray[np.bool_]) -> BleuCounts:
    left, right = [tokens_13a(text) for text in hypotheses], [tokens_13a(text) for text in references]
    pairs_of_left, pairs_of_right = pairs.sum(axis=1), pairs.sum(axis=0)
    matches = [int(_matches(left, right, order)[pairs].sum()) for order in range(1, MAX_ORDER + 1)]
    possible = [int(_totals(left, order) @ pairs_of_left) for order in range(1, MAX_ORDER + 1)]
    return BleuCounts(
        (matches[0], matches[1], matches[2], matches[3]),
        (possible[0], possible[1], possible[2], possible[3]),
        possible[0],
        int(_totals(right, 1) @ pairs_of_right),
    )


def _totals(texts: Sequence[Tokens], order: int) -> IntMatrix:
    """Shape (texts,): number of n-grams of each text."""
    return np.array([max(0, len(tokens) - order + 1) for tokens in texts], dtype=np.int64)


def _matches(left: Sequence[Tokens], right: Sequence[Tokens], order: int) -> IntMatrix:
    """Shape (left, right): sum over n-grams of the smaller of both counts (BLEU's clipped, ROUGE's shared n-grams)."""
    left_counts, right_counts = (
        [_ngrams(tokens, order) for tokens in left],
        [_ngrams(tokens, order) for tokens in right],
    )
    shared = set().union(*left_counts) & set().union(*right_counts)
    column = {ngram: index for index, ngram in enumerate(shared)}
    table = _count_table(right_counts, column)
    rows = _count_table(left_counts, column)
    # Row by row: the full (left, right, n-grams) block of a question with long prompts would not fit in cache.
    return np.stack([np.minimum(row, table).sum(axis=1, dtype=np.int64) for row in rows])


def _ngrams(tokens: Tokens, order: int) -> Counter[Tokens]:
    return Counter(tokens[start : start + order] for start in range(len(tokens) - order + 1))


def _count_table(counts: Sequence[Counter[Tokens]], column: Mapping[Tokens, int]) -> NDArray[np.int32]:
    table = np.zeros((len(counts), len(column)), dtype=np.int32)
    for row, counter in enumerate(counts):
        for ngram, count in counter.items():
            if ngram in column:
                table[row, column[ngram]] = count
    return table


def _mean_f(matches: IntMatrix, left: IntMatrix, right: IntMatrix, pairs: NDArray[np.bool_]) -> float:
    """Mean over pairs of F = 2PR/(P+R) = 2 matches / (left + right); 0 where both sides have no n-gram."""
    f = 2 * matches / np.maximum(left[:, None] + right[None, :], 1)
    return float(f[pairs].mean())


def _subsequences(left: Sequence[Tokens], right: Sequence[Tokens]) -> IntMatrix:
    """Shape (left, right): length of the longest common subsequence of tokens."""
    places = {tokens: _places(tokens) for tokens in set(left)}
    length = {(one, two): _common_length(places[one], len(one), two) for one in places for two in set(right)}
    return np.array([[length[one, two] for two in right] for one in left], dtype=np.int64)


def _places(tokens: Tokens) -> dict[str, int]:
    """Bit i of a token's mask is set where the token stands at place i."""
    masks: dict[str, int] = {}
    for place, token in enumerate(tokens):
        masks[token] = masks.get(token, 0) | 1 << place
    return masks


def _common_length(places: Mapping[str, int], length: int, other: Iterable[str]) -> int:
    """Longest common subsequence by bit-parallel steps: one addition per token instead of a row of a table.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited". A zero bit of `row` is a step of the row.
    """
    full = (1 << length) - 1
    row = full
    for token in other:
        hits = row & places.get(token, 0)
        row = ((row + hits) | (row - hits)) & full
    return length - row.bit_count()
