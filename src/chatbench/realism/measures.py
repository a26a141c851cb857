r"""Realism measures: traits of a group of chats, and distances between two groups.

A *trait* is one number of a group (a mean, a share); two groups are as far apart as their numbers. A *distance*
compares the distributions of two groups. Lexical measures are computed on all that is said about one question and then
averaged over questions: how varied different people are about the same thing. They do not simply fall as a text grows,
and are implemented here because all measures of a table must split words in the same way; the tests compare them with
`lexicalrichness` 0.5.1.

Divergences are in bits. Jensen-Shannon is symmetric, at most 1, and needs no smoothing; Kullback-Leibler is infinite
if the second side never does what the first does, so `SMOOTHING` is added to the count of each class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.pairs import grouped
from chatbench.realism.chats import SHORT_MESSAGE, WORDINGS, ChatTraits

Chats = Sequence[ChatTraits]

NOTHING_TO_COMPARE = Undefined("one side has nothing to compare")
NO_CHATS, NO_FOLLOW_UPS = "no chats", "nobody wrote a second message"
NUMBERLESS, WORDLESS = "no question has a number in its text", "no question has a content word"
WINDOW = 50
"""Words per window of the moving average; a shorter text has no MATTR."""
DRAW = 42
"""Words per draw of HD-D, the customary number; a shorter text has no HD-D."""
SMOOTHING = 0.5
"""Added to the count of each class before a Kullback-Leibler divergence (Jeffreys prior)."""
LENGTH_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Length classes in words, for divergences: 0, 1, 2-3, 4-7, ..., 256 and more."""


def wasserstein(first: Sequence[float], second: Sequence[float]) -> Value:
    """Earth mover's distance between two samples, in their own unit: the mean shift that turns one into the other."""
    if not first or not second:
        return NOTHING_TO_COMPARE
    from scipy.stats import wasserstein_distance  # type: ignore[import-untyped]  # late: it takes most of a second; no types

    return float(wasserstein_distance(first, second))


def jensen_shannon(first: Sequence[int], second: Sequence[int]) -> Value:
    """Jensen-Shannon divergence between two lists of counts per class, 0 (identical) to 1 bit (disjoint).

    >>> jensen_shannon([2, 2], [3, 3])
    0.0
    >>> jensen_shannon([5, 0], [0, 1])
    1.0
    """
    if not sum(first) or not sum(second):
        return NOTHING_TO_COMPARE
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]  # late, and has no types

    return float(jensenshannon(first, second, base=2)) ** 2  # scipy's distance is the root of the divergence


def kullback_leibler(first: Sequence[int], second: Sequence[int]) -> Value:
    """KL(first || second) in bits, between counts per class, both smoothed."""
    if not sum(first) or not sum(second):
        return NOTHING_TO_COMPARE
    raised = [np.asarray(counts, dtype=np.float64) + SMOOTHING for counts in (first, second)]
    p, q = (counts / counts.sum() for counts in raised)
    return float(np.sum(p * np.log2(p / q)))


def counts_by_length(lengths: Sequence[int]) -> list[int]:
    """How many lengths fall into each class of `LENGTH_EDGES`.

    >>> counts_by_length([0, 3, 2, 300])[:4], counts_by_length([300])[-1]
    ([1, 0, 2, 0], 1)
    """
    places = np.searchsorted(LENGTH_EDGES, np.asarray(lengths, dtype=np.int64), side="right") - 1
    return [int(count) for count in np.bincount(places, minlength=len(LENGTH_EDGES))]


def moving_average_ttr(words: Sequence[str], window: int = WINDOW) -> Value:
    """MATTR: mean share of distinct words over all windows of `window` consecutive words, 0..1.

    Source: Covington and McFall 2010, "Cutting the Gordian knot: the moving-average type-token ratio".

    >>> moving_average_ttr("a b a a".split(), window=2)  # (2 + 2 + 1) / 3 windows / 2
    0.8333333333333334
    """
    if len(words) < window:
        return Undefined(f"fewer than {window} words")
    counts = Counter(words[:window])
    distinct = total = len(counts)
    for leaving, entering in zip(words, words[window:], strict=False):
        counts[entering] += 1
        distinct += counts[entering] == 1
        counts[leaving] -= 1
        distinct -= counts[leaving] == 0
        total += distinct
    return total / (len(words) - window + 1) / window


def hypergeometric_diversity(words: Sequence[str], draw: int = DRAW) -> Value:
    """HD-D: expected share of distinct words among `draw` words drawn without replacement, 0..1.

    A word that occurs n times among N is missed with probability C(N - n, draw) / C(N, draw).

    Source: McCarthy and Jarvis 2007, "vocd: a theoretical and empirical evaluation".

    >>> hypergeometric_diversity("a a b".split(), draw=2)  # a: 1 - 0, b: 1 - C(2,2)/C(3,2); together 5/3 of 2
    0.8333333333333334
    """
    total = len(words)
    if total < draw:
        return Undefined(f"fewer than {draw} words")
    draws = math.comb(total, draw)
    words_by_count = Counter(Counter(words).values())
    return math.fsum(m * (1 - math.comb(total - n, draw) / draws) for n, m in words_by_count.items()) / draw


def yules_k(words: Sequence[str]) -> Value:
    """Yule's K: 10,000 (sum n^2 - N) / N^2 over words that occur n times among N; 0 if none repeats.

    Higher means less varied. It is 10,000 times the probability that two draws with replacement give different
    occurrences of the same word.

    Source: Yule 1944, "The statistical study of literary vocabulary", as in Tweedie and Baayen 1998.

    >>> yules_k("a b c d d e e f f f".split())
    1000.0
    """
    if not words:
        return Undefined("no words")
    return 10_000 * (sum(n * n for n in Counter(words).values()) - len(words)) / len(words) ** 2


def distinct_ngrams(texts: Sequence[Sequence[str]], n: int) -> Value:
    """Share of distinct n-grams among the n-grams of all texts, none of which spans two texts, 0..1.

    Falls with the number of texts: compare equally many.

    Source: Li et al. 2016, "A diversity-promoting objective function for neural conversation models" (distinct-n).

    >>> distinct_ngrams(["a b c".split(), "a b".split()], 2)
    0.6666666666666666
    """
    runs = [tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)]
    return len(set(runs)) / len(runs) if runs else Undefined(f"no text has {n} words")


@dataclass(frozen=True, slots=True)
class Trait:
    """One number of a group of chats; `shrinks` if it depends on the size of the group."""

    name: str
    unit: str
    of: Callable[[Chats], Value]
    shrinks: bool = False


@dataclass(frozen=True, slots=True)
class Distance:
    """One number between two groups: `between(simulated or first half, second half of the people)`."""

    name: str
    unit: str
    between: Callable[[Chats, Chats], Value]


def _mean(values: Iterable[float | None], reason: str) -> Value:
    """Mean of the values that exist; undefined, with this reason, if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else Undefined(reason)


def _per_chat(
    name: str, of: Callable[[ChatTraits], float | None], unit: str = "share", reason: str = NO_CHATS
) -> Trait:
    """Mean of a per-chat number, over the chats that have it."""
    return Trait(name, unit, lambda chats: _mean(map(of, chats), reason))


def _per_follow_up(name: str, count: Callable[[ChatTraits], int], unit: str = "share") -> Trait:
    def of(chats: Chats) -> Value:
        total = sum(len(chat.follow_up_words) for chat in chats)
        return sum(map(count, chats)) / total if total else Undefined(NO_FOLLOW_UPS)

    return Trait(name, unit, of)


def _per_question(
    name: str, measure: Callable[[list[ChatTraits]], Value], unit: str = "share", *, shrinks: bool = False
) -> Trait:
    """Mean of a measure over the questions for which it is defined."""

    def of(chats: Chats) -> Value:
        values = [measure(group) for group in grouped((chat.cell[0], chat) for chat in chats).values()]
        reason = next((value.reason for value in values if isinstance(value, Undefined)), NO_CHATS)
        return _mean((None if isinstance(value, Undefined) else value for value in values), reason)

    return Trait(name, unit, of, shrinks)


def _lexical(name: str, measure: Callable[[Sequence[str]], Value], unit: str = "share") -> Trait:
    return _per_question(name, lambda group: measure([w for chat in group for text in chat.words for w in text]), unit)


def _worded_as(wording: str) -> Trait:
    return _per_chat(f"first message: {wording}", lambda chat: float(chat.wording == wording))


def _copied_follow_ups(chats: Chats) -> Value:
    """Share of follow-ups that appear verbatim in another chat about the same question."""
    holders = Counter((chat.cell[0], message) for chat in chats for message in set(chat.words[1:]))
    trait = _per_follow_up("", lambda chat: sum(holders[chat.cell[0], message] > 1 for message in chat.words[1:]))
    return trait.of(chats)


TRAITS: tuple[Trait, ...] = (
    _per_chat("user turns", lambda chat: float(chat.turns), "turns"),
    _per_chat("chats that end after the first reply", lambda chat: float(chat.turns == 1)),
    _per_chat("length of the first message", lambda chat: float(chat.first_words), "words"),
    _per_follow_up("length of a follow-up", lambda chat: sum(chat.follow_up_words), "words"),
    _per_follow_up(
        f"follow-ups of at most {SHORT_MESSAGE} words",
        lambda chat: sum(length <= SHORT_MESSAGE for length in chat.follow_up_words),
    ),
    _per_chat("chats with polite words", lambda chat: float(chat.polite)),
    *map(_worded_as, WORDINGS),
    _per_chat("mirrors of the benchmark", lambda chat: float(chat.mirror)),
    _per_chat("mirrors, unread replies included", lambda chat: float(chat.may_mirror)),
    _per_chat("chats that tell the options", lambda chat: float(chat.options_told)),
    _per_chat("chats with a number from nowhere", lambda chat: float(chat.foreign_numbers)),
    _per_chat("numbers told at first", lambda chat: chat.at_first.numbers, reason=NUMBERLESS),
    _per_chat("numbers told by the end", lambda chat: chat.at_end.numbers, reason=NUMBERLESS),
    _per_chat("content words told at first", lambda chat: chat.at_first.words, reason=WORDLESS),
    _per_chat("content words told by the end", lambda chat: chat.at_end.words, reason=WORDLESS),
    _lexical("MATTR", moving_average_ttr),
    _lexical("HD-D", hypergeometric_diversity),
    _lexical("Yule's K", yules_k, ""),
    _per_question(
        "distinct first messages", lambda group: len({chat.words[:1] for chat in group}) / len(group), shrinks=True
    ),
    _per_question(
        "distinct word pairs",
        lambda group: distinct_ngrams([text for chat in group for text in chat.words], 2),
        shrinks=True,
    ),
    _per_follow_up("follow-ups that repeat the chat", lambda chat: chat.repeats),
    Trait("follow-ups said in other chats", "share", _copied_follow_ups, shrinks=True),
)


def _lengths(name: str, unit: str, of: Callable[[ChatTraits], Iterable[int]], *, by_class: bool) -> list[Distance]:
    """Wasserstein and Jensen-Shannon distances between the distributions of a count."""

    def counts(chats: Chats) -> list[int]:
        return [count for chat in chats for count in of(chat)]

    def divergence(first: Chats, second: Chats) -> Value:
        one, other = counts(first), counts(second)
        if by_class:
            return jensen_shannon(counts_by_length(one), counts_by_length(other))
        highest = max([*one, *other], default=0)
        return jensen_shannon(*([lengths.count(n) for n in range(highest + 1)] for lengths in (one, other)))

    return [
        Distance(f"{name}, Wasserstein", unit, lambda first, second: wasserstein(counts(first), counts(second))),
        Distance(f"{name}, Jensen-Shannon", "bits", divergence),
    ]


LENGTH_DISTANCES: tuple[Distance, ...] = (
    *_lengths("user turns", "turns", lambda chat: [chat.turns], by_class=False),
    *_lengths("first-message length", "words", lambda chat: [chat.first_words], by_class=True),
    *_lengths("follow-up length", "words", lambda chat: chat.follow_up_words, by_class=True),
)


def behaviour_distances(class_of: Callable[[ChatTraits], int], classes: int | Undefined) -> tuple[Distance, ...]:
    """Divergences between the frequencies of `classes` behaviour classes; undefined if there are none."""

    def counted(divergence: Callable[[Sequence[int], Sequence[int]], Value]) -> Callable[[Chats, Chats], Value]:
        def between(first: Chats, second: Chats) -> Value:
            if isinstance(classes, Undefined):
                return classes
            found = [Counter(map(class_of, chats)) for chats in (first, second)]
            return divergence(*([of_side[number] for number in range(classes)] for of_side in found))

        return between

    return (
        Distance("behaviour, forward KL", "bits", counted(lambda first, second: kullback_leibler(second, first))),
        Distance("behaviour, backward KL", "bits", counted(kullback_leibler)),
        Distance("behaviour, Jensen-Shannon", "bits", counted(jensen_shannon)),
    )
