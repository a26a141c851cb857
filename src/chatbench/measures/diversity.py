r"""How varied language is: measures that do not simply fall as a text grows.

All take a list of words. They are computed here and not by a package: of those for Python, `lexicalrichness` calls
itself pre-alpha and brings textblob, pandas and matplotlib, `lexical-diversity` is from 2020, and each splits words in
its own way, which must be the same for all measures of a table. The tests compare with `lexicalrichness` 0.5.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from chatbench.measures.agreement import Undefined, Value

WINDOW = 50
"""Words per window of the moving average; a shorter text has no MATTR."""
DRAW = 42
"""Words per draw of HD-D, the customary number; a shorter text has no HD-D."""


def moving_average_ttr(words: Sequence[str], window: int = WINDOW) -> Value:
    """MATTR: mean share of distinct words in all windows of `window` neighbouring words, 0..1.

    Source: Covington and McFall 2010, "Cutting the Gordian knot: the moving-average type-token ratio".

    >>> moving_average_ttr("a b a a".split(), window=2)  # (2 + 2 + 1) / 3 windows / 2
    0.8333333333333334
    """
    if len(words) < window:
        return Undefined(f"fewer than {window} words")
    held = Counter(words[:window])
    distinct = total = len(held)
    for leaving, entering in zip(words, words[window:], strict=False):
        held[entering] += 1
        distinct += held[entering] == 1
        held[leaving] -= 1
        distinct -= held[leaving] == 0
        total += distinct
    return total / (len(words) - window + 1) / window


def hypergeometric_diversity(words: Sequence[str], draw: int = DRAW) -> Value:
    """HD-D: expected share of distinct words among `draw` words drawn without replacement, 0..1.

    A word that stands n times among N is missed with probability C(N - n, draw) / C(N, draw).

    Source: McCarthy and Jarvis 2007, "vocd: a theoretical and empirical evaluation".

    >>> hypergeometric_diversity("a a b".split(), draw=2)  # a: 1 - 0, b: 1 - C(2,2)/C(3,2); together 5/3 of 2
    0.8333333333333334
    """
    total = len(words)
    if total < draw:
        return Undefined(f"fewer than {draw} words")
    whole = math.comb(total, draw)
    words_by_count = Counter(Counter(words).values())
    return math.fsum(m * (1 - math.comb(total - n, draw) / whole) for n, m in words_by_count.items()) / draw


def yules_k(words: Sequence[str]) -> Value:
    """Yule's K: 10,000 (sum n^2 - N) / N^2 over words that stand n times among N; 0 where none repeats.

    Higher is poorer. It is the chance that two words drawn with replacement are the same by more than being drawn
    twice, times 10,000.

    Source: Yule 1944, "The statistical study of literary vocabulary", as in Tweedie and Baayen 1998.

    >>> yules_k("a b c d d e e f f f".split())
    1000.0
    """
    if not words:
        return Undefined("no words")
    return 10_000 * (sum(n * n for n in Counter(words).values()) - len(words)) / len(words) ** 2


def distinct_ngrams(texts: Sequence[Sequence[str]], n: int) -> Value:
    """Share of distinct ones among the runs of `n` words of all texts, none across two texts, 0..1.

    Falls as there are more texts: compare equally many.

    Source: Li et al. 2016, "A diversity-promoting objective function for neural conversation models" (distinct-n).

    >>> distinct_ngrams(["a b c".split(), "a b".split()], 2)
    0.6666666666666666
    """
    runs = [tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)]
    return len(set(runs)) / len(runs) if runs else Undefined(f"no text has {n} words")
