"""Metrics of text: perplexity and bits per byte of human turns, and lexical overlap of two sets of texts (BLEU, ROUGE).

Perplexity says how well a model predicts held-out human turns. Everything is per scored token, or per byte of scored
text; conversations and examples only group them. Losses are sums of -ln p (nats), so they add up over examples, kinds
and splits without weights.

Overlap is BLEU-4 and ROUGE-1/2/L over all (hypothesis, reference) pairs. In ChatBench the hypotheses are a question's
simulated first prompts and the references its human first prompts. Every text is tokenised and counted once. Pairs are
scored from the shared counts, as *statistics -> sum -> score*: the statistics of pairs add up to those of a question,
and those of questions to those of a corpus.

The published tokenizers handle only Latin letters and digits (ROUGE) or words separated by spaces (BLEU). Where they
cannot read what people wrote about a question, the metric is undefined, not 0, for every predictor, so that all rows
cover the same questions. The tokenizer `unicode` reads all scripts.

BLEU is in 0..1, unsmoothed, with sacrebleu's mteval-v13a tokenizer, as the `evaluate` package's `bleu`; it is 0 if all
hypotheses or all references are empty. ROUGE is the F-measure of the `rouge-score` package without stemmer.

Source: Chang, Anderson, Hofman, ACL 2025 (ChatBench, arXiv 2504.07114), evaluation of simulators; docs/protocol.md,
section 6 (perplexity); Papineni et al. 2002 (BLEU); Lin 2004 (ROUGE).
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from operator import add
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.pairs import grouped

KINDS = ("first", "follow_up", "answer")
"""Kinds of human turns, in the order of the tables."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Summed loss over the scored tokens of one example: `nats` = sum of -ln p.

    `utf8_bytes` is the UTF-8 length of the scored text, including the end marker.
    """

    nats: float
    tokens: int
    utf8_bytes: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.utf8_bytes < 0 or not self.nats >= 0:  # `not >=` also catches NaN
            raise ValueError(f"a loss of {self.nats} nats over {self.tokens} tokens and {self.utf8_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a group of examples, with the sums it is computed from."""

    perplexity: float
    bits_per_byte: float
    nats: float
    tokens: int
    utf8_bytes: int
    examples: int


@dataclass(frozen=True, slots=True)
class TunedAndBase:
    """Perplexity of a fine-tuned model and of its base model on the same turns."""

    finetuned: Perplexity
    base: Perplexity


def summarise(losses: Sequence[TokenLoss]) -> Perplexity:
    r"""Compute perplexity per scored token and bits per byte of a group of examples, in any order.

    Perplexity is exp(sum nats / sum tokens). Every token has the same weight, so long turns count more than short ones,
    and only models with the same tokenizer can be compared. Bits per byte, sum nats / (ln 2 * sum bytes), also compare
    models with different tokenizers; lower is better.

    Raises:
        ValueError: there are no scored tokens.

    >>> found = summarise([TokenLoss(nats=2 * math.log(4), tokens=2, utf8_bytes=8)])
    >>> found.perplexity, found.bits_per_byte
    (4.0, 0.5)
    """
    tokens, size = sum(loss.tokens for loss in losses), sum(loss.utf8_bytes for loss in losses)
    if not tokens or not size:
        raise ValueError(f"{tokens} tokens of {size} bytes are scored, so there is no perplexity")
    nats = math.fsum(loss.nats for loss in losses)  # exactly rounded, hence independent of the order of examples
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size, nats, tokens, size, len(losses))


def perplexity_by_kind(losses: Iterable[tuple[str, TokenLoss]]) -> dict[str, Perplexity]:
    """Compute the perplexity of each kind of turn from (kind, loss) pairs.

    The kinds of the protocol come first, in their order, then any others in alphabetical order.
    """
    groups = grouped(losses)
    order = [kind for kind in KINDS if kind in groups] + sorted(groups.keys() - set(KINDS))
    return {kind: summarise(groups[kind]) for kind in order}


MAX_ORDER = 4
"""BLEU-4: n-grams of one to four tokens."""

_ROUGE_WORD = re.compile(r"[a-z0-9]+")
_WITHOUT_BLANKS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of scripts written without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
READ_SHARE = 0.5
"""A metric is undefined if its tokenizer would lose more than this share of the letters and digits."""

CACHED_TEXTS = 1 << 15
"""Cache size: human prompts are compared in every split and with every simulator, but tokenised once."""

Tokens = Sequence[str]
Tokenizer = Callable[[str], Tokens]
IntArray = NDArray[np.int64]


@lru_cache(CACHED_TEXTS)
def tokens_13a(text: str) -> Tokens:
    """Tokenise with mteval-v13a, preserving case.

    >>> tokens_13a("It's 1,200.5 kg (net), right?")
    ("It's", '1,200.5', 'kg', '(', 'net', ')', ',', 'right', '?')
    """
    words = _tokenizer_13a()(text).split()
    return tuple(map(sys.intern, words))  # interned: a cached text then costs eight bytes per token


@cache
def _tokenizer_13a() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # late: not every run needs it

    return Tokenizer13a()  # type: ignore[no-untyped-call]  # its constructor has no annotations


@lru_cache(CACHED_TEXTS)
def tokens_rouge(text: str) -> Tokens:
    """Lower-cased runs of a-z and 0-9, not stemmed.

    >>> tokens_rouge("It's 1,200.5 kg")
    ('it', 's', '1', '200', '5', 'kg')
    """
    return tuple(map(sys.intern, _ROUGE_WORD.findall(text.lower())))


@lru_cache(CACHED_TEXTS)
def tokens_unicode(text: str) -> Tokens:
    """Lower-cased words of any script; each character of a script without spaces is a word.

    >>> tokens_unicode("Größe: 3,5 m! 多少?")
    ('größe', '3', '5', 'm', '多', '少')
    """
    words: list[str] = []
    inside = False  # within a word, which the next letter continues
    for character in unicodedata.normalize("NFC", text.lower()):
        category = unicodedata.category(character)[0]
        alone = bool(_WITHOUT_BLANKS.match(character))
        if (category == "M" and words) or (category in "LN" and inside and not alone):
            words[-1] += character
        elif category in "LN":
            words.append(character)
        inside = category in "LNM" and not alone
    return tuple(map(sys.intern, words))


TokenizerName = Literal["published", "unicode"]
TOKENIZERS: dict[TokenizerName, tuple[Tokenizer, Tokenizer]] = {
    "published": (tokens_13a, tokens_rouge),
    "unicode": (tokens_unicode, tokens_unicode),
}
"""The tokenizers of BLEU and of ROUGE."""


def unread(texts: Sequence[str]) -> dict[str, Undefined]:
    """Which of `bleu` and `rouge` cannot read the texts with the published tokenizers, and why."""
    characters = [character for text in texts for character in text.lower() if character.isalnum()]
    lost = {
        "bleu": ("of scripts without spaces between words", sum(map(bool, map(_WITHOUT_BLANKS.match, characters)))),
        "rouge": ("not a-z or 0-9", sum(not character.isascii() for character in characters)),
    }
    return {
        name: Undefined(
            f"{name.upper()} cannot read what people wrote: {count / len(characters):.0%} of the letters are {what}; "
            "eval-chatbench --tokenizer unicode can"
        )
        for name, (what, count) in lost.items()
        if count > READ_SHARE * len(characters)
    }


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """Sufficient statistics of BLEU for any number of pairs; they add up over pairs and questions.

    `matches[n-1]` are clipped n-gram matches, `possible[n-1]` the n-grams of the hypotheses (n=1: their tokens).
    """

    matches: tuple[int, ...] = (0,) * MAX_ORDER
    possible: tuple[int, ...] = (0,) * MAX_ORDER
    reference_tokens: int = 0

    def __add__(self, other: BleuCounts) -> BleuCounts:
        return BleuCounts(
            tuple(map(add, self.matches, other.matches)),
            tuple(map(add, self.possible, other.possible)),
            self.reference_tokens + other.reference_tokens,
        )


def bleu(counts: BleuCounts) -> float:
    r"""Corpus BLEU-4 in 0..1, unsmoothed: brevity penalty * (p1 p2 p3 p4)^(1/4), p_n = matches_n / possible_n.

    The penalty is 1 if the hypotheses are at least as long as the references, else exp(1 - references/hypotheses), with
    lengths in tokens summed over pairs. BLEU is 0 if some order has no match, as for texts of fewer than four tokens.
    Equals `evaluate`'s `bleu`.

    >>> bleu(BleuCounts((4, 2, 1, 1), (4, 4, 2, 2), 4))  # (1 * 1/2 * 1/2 * 1/2)^(1/4)
    0.5946035575013605
    """
    if not all(counts.matches):
        return 0.0
    log_precisions = (math.log(hit / of) for hit, of in zip(counts.matches, counts.possible, strict=True))
    ratio = counts.possible[0] / counts.reference_tokens
    penalty = 1.0 if ratio > 1 else math.exp(1 - 1 / ratio)
    return penalty * math.exp(math.fsum(log_precisions) / MAX_ORDER)


def sacrebleu_score(counts: BleuCounts, tokenizer: TokenizerName = "published") -> tuple[float, str]:
    """Corpus BLEU in 0..100 with sacrebleu's defaults (13a, exponential smoothing), and its signature.

    Equals sacrebleu on the texts themselves, except that sacrebleu first strips trailing whitespace.
    """
    from sacrebleu.metrics.bleu import BLEU  # late: not every run needs it

    score = BLEU.compute_bleu(
        list(counts.matches), list(counts.possible), counts.possible[0], counts.reference_tokens, "exp"
    ).score
    metric = BLEU(tokenize="13a", smooth_method="exp")
    metric.num_refs = 1
    signature = str(metric.get_signature())
    return float(score), signature if tokenizer == "published" else signature.replace("tok:13a", f"tok:{tokenizer}")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of one question's pairs: counts for BLEU, and mean ROUGE F (0..1) over the pairs."""

    pairs: int
    bleu_counts: BleuCounts
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815  (its name in files and tables)
    unread: Mapping[str, Undefined] = field(default_factory=dict)

    @property
    def bleu(self) -> float:
        """BLEU of the question's pairs as one corpus."""
        return bleu(self.bleu_counts)

    def value(self, metric: str) -> Value:
        """Value of a metric, by its name in files and tables."""
        return self.unread.get(metric.rstrip("12L")) or float(getattr(self, metric))


def overlap(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    allowed: NDArray[np.bool_] | None = None,
    tokenizer: TokenizerName = "published",
) -> Overlap:
    """Compute the overlap of all (hypothesis, reference) pairs, or of those that `allowed` selects.

    Args:
        hypotheses: h texts; an empty one has no tokens, so its ROUGE is 0 and it only shortens the BLEU hypotheses.
        references: r texts.
        allowed: shape (h, r); False excludes a pair (two texts of one person, in the human-human reference).

    Raises:
        ValueError: there is no pair.
    """
    pairs = np.ones((len(hypotheses), len(references)), dtype=bool) if allowed is None else allowed
    if not pairs.any():
        raise ValueError(f"no pair among {len(hypotheses)} hypotheses and {len(references)} references")
    bleu_tokens, rouge_tokens = TOKENIZERS[tokenizer]
    left, right = [*map(rouge_tokens, hypotheses)], [*map(rouge_tokens, references)]
    words = _Ngrams(left, right)
    shared_words, shared_pairs = words.matches(1), words.matches(2)
    grams = _Ngrams([*map(bleu_tokens, hypotheses)], [*map(bleu_tokens, references)])
    pairs_of_left, pairs_of_right = pairs.sum(axis=1), pairs.sum(axis=0)
    orders = range(1, MAX_ORDER + 1)
    return Overlap(
        pairs=int(pairs.sum()),
        bleu_counts=BleuCounts(
            tuple(int(grams.matches(order)[pairs].sum()) for order in orders),
            tuple(int(grams.totals(order)[0] @ pairs_of_left) for order in orders),
            int(grams.totals(1)[1] @ pairs_of_right),
        ),
        rouge1=_mean_f(shared_words, *words.totals(1), pairs),
        rouge2=_mean_f(shared_pairs, *words.totals(2), pairs),
        rougeL=_mean_f(common_lengths(left, right), *words.totals(1), pairs),
        unread=unread(references) if tokenizer == "published" else {},
    )


class _Ngrams:
    """The n-grams of two sets of texts as integer ids, to count them in arrays rather than dictionaries.

    Request orders in increasing order, 1, 2, ...: the ids of each order are built from those of the previous one.
    """

    def __init__(self, left: Sequence[Tokens], right: Sequence[Tokens]) -> None:
        texts = [*left, *right]
        number: dict[str, int] = {}
        self._tokens = np.array([number.setdefault(t, len(number)) for text in texts for t in text], dtype=np.int64)
        self._sizes = np.array([len(text) for text in texts], dtype=np.int64)
        self._text = np.repeat(np.arange(len(texts)), self._sizes)
        self._left = len(left)
        self._grams, self._order = self._tokens, 1

    def totals(self, order: int) -> tuple[IntArray, IntArray]:
        """Number of n-grams of each text, shapes (left,) and (right,)."""
        counts = np.maximum(self._sizes - order + 1, 0)
        return counts[: self._left], counts[self._left :]

    def matches(self, order: int) -> IntArray:
        """Sum over n-grams of the smaller count (BLEU's clipped, ROUGE's shared matches); shape (left, right)."""
        while self._order < order:  # extend by one token; ids are compacted first so that they stay small
            _, gram = np.unique(self._grams, return_inverse=True)
            following = self._tokens[self._order :]
            self._grams = gram[: len(following)] * (int(self._tokens.max(initial=0)) + 1) + following
            self._order += 1
        same_text = self._text[order - 1 :] == self._text[: len(self._grams)]
        kinds, gram = np.unique(self._grams[same_text], return_inverse=True)
        flat = self._text[: len(self._grams)][same_text] * len(kinds) + gram
        table = np.bincount(flat, minlength=len(self._sizes) * len(kinds)).reshape(len(self._sizes), len(kinds))
        left, right = table[: self._left], table[self._left :]
        shared = left.any(axis=0) & right.any(axis=0)
        left, right = left[:, shared].astype(np.int32), right[:, shared].astype(np.int32)
        # Row by row: the full (left, right, n-grams) array of a question with long prompts would not fit in cache.
        rows = [np.minimum(row, right).sum(axis=1, dtype=np.int64) for row in left]
        return np.array(rows, dtype=np.int64).reshape(len(left), len(right))


def _mean_f(matches: IntArray, left: IntArray, right: IntArray, pairs: NDArray[np.bool_]) -> float:
    """Mean over pairs of F = 2PR/(P+R) = 2 matches / (left + right); 0 if neither side has an n-gram."""
    f = 2 * matches / np.maximum(left[:, None] + right[None, :], 1)
    return float(f[pairs].mean())


def common_lengths(left: Sequence[Tokens], right: Sequence[Tokens]) -> IntArray:
    """Length of the longest common subsequence of tokens, shape (left, right).

    Bit-parallel: one addition per token of the right text replaces a row of the dynamic programming table, for all left
    texts at once. Their bits are packed into one integer, each text followed by a bit that absorbs the carry. A zero
    bit is an increment within the row.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    >>> common_lengths([("a", "b", "c"), ("c",)], [("b", "c", "a")]).tolist()
    [[2], [1]]
    """
    starts, full, places = [0], 0, dict[str, int]()
    for tokens in left:
        for place, token in enumerate(tokens, start=starts[-1]):
            places[token] = places.get(token, 0) | 1 << place
        full |= ((1 << len(tokens)) - 1) << starts[-1]
        starts.append(starts[-1] + len(tokens) + 1)
    lengths = np.zeros((len(left), len(right)), dtype=np.int64)
    for column, other in enumerate(right):
        row = full
        for token in other:
            if token in places:
                hits = row & places[token]
                row = ((row + hits) | (row - hits)) & full
        steps = full & ~row
        for number, tokens in enumerate(left):
            lengths[number, column] = (steps >> starts[number] & ((1 << len(tokens)) - 1)).bit_count()
    return lengths
