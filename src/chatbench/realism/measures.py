r"""The list of what is compared: traits of a group of chats, and distances between two groups.

A *trait* is one number of a group (a mean, a share), so two groups are as far apart as their numbers. A *distance* is
taken between two groups as wholes (their distributions). Lexical measures are taken on all that is said about one
question and then averaged over questions: how varied different people are about the same thing.

How far apart two samples or two sets of frequencies are.

Divergences are in bits. Jensen-Shannon is symmetric, at most 1, and needs no smoothing; Kullback-Leibler is infinite
where the second side never does what the first does, so `SMOOTHING` chats are added to every class before it.

How varied language is: measures that do not simply fall as a text grows.

All take a list of words. They are computed here and not by a package: of those for Python, `lexicalrichness` calls
itself pre-alpha and brings textblob, pandas and matplotlib, `lexical-diversity` is from 2020, and each splits words in
its own way, which must be the same for all measures of a table. The tests compare with `lexicalrichness` 0.5.1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.agreement import Undefined, Value
from chatbench.realism.chats import SHORT_MESSAGE, WORDINGS, ChatTraits, Wording

Frequencies = NDArray[np.float64]

SMOOTHING = 0.5
"""Added to the count of every class before a Kullback-Leibler divergence (the prior of Jeffreys)."""
LENGTH_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Classes of lengths in words for divergences: 0, 1, 2-3, 4-7, ..., 256 and more."""


def wasserstein(first: Sequence[float], second: Sequence[float]) -> Value:
    """Earth mover's distance between two samples, in their own unit: the mean shift that turns one into the other."""
    if not first or not second:
        return Undefined("one side has nothing to compare")
    from scipy.stats import wasserstein_distance  # type: ignore[import-untyped]  # late: it takes most of a second; no types

    return float(wasserstein_distance(first, second))


def jensen_shannon(first: Sequence[int], second: Sequence[int]) -> Value:
    """Jensen-Shannon divergence between two counts per class, 0 (alike) to 1 bit (nothing in common).

    >>> jensen_shannon([2, 2], [3, 3])
    0.0
    >>> jensen_shannon([5, 0], [0, 1])
    1.0
    """
    if not sum(first) or not sum(second):
        return Undefined("one side has nothing to compare")
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]  # late, and has no types

    return float(jensenshannon(first, second, base=2)) ** 2  # scipy's distance is the root of the divergence


def kullback_leibler(first: Sequence[int], second: Sequence[int]) -> Value:
    """Bits lost by expecting the classes as `second` has them where they come as in `first`; both smoothed."""
    if not sum(first) or not sum(second):
        return Undefined("one side has nothing to compare")
    p, q = smoothed(first), smoothed(second)
    return float(np.sum(p * np.log2(p / q)))


def smoothed(counts: Sequence[int]) -> Frequencies:
    """Frequencies of classes after adding `SMOOTHING` to each count; they sum to 1."""
    raised = np.asarray(counts, dtype=np.float64) + SMOOTHING
    return np.asarray(raised / raised.sum())


def counts_by_length(lengths: Sequence[int]) -> list[int]:
    """How many lengths fall into each class of `LENGTH_EDGES`.

    >>> counts_by_length([0, 3, 2, 300])[:4], counts_by_length([300])[-1]
    ([1, 0, 2, 0], 1)
    """
    places = np.searchsorted(LENGTH_EDGES, np.asarray(lengths, dtype=np.int64), side="right") - 1
    return [int(count) for count in np.bincount(places, minlength=len(LENGTH_EDGES))]


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


Chats = Sequence[ChatTraits]


@dataclass(frozen=True, slots=True)
class Trait:
    """One number of a group of chats; `shrinks` where it depends on how many chats the group has."""

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


def mean(values: Iterable[float | None], reason: str) -> Value:
    """Mean of the values that exist; undefined, for this reason, where none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else Undefined(reason)


NO_CHATS = "no chats"
NO_FOLLOW_UPS = "nobody wrote a second message"


def _per_follow_up(count: Callable[[ChatTraits], int], chats: Chats) -> Value:
    total = sum(chat.follow_ups for chat in chats)
    return sum(map(count, chats)) / total if total else Undefined(NO_FOLLOW_UPS)


def _per_question(measure: Callable[[list[ChatTraits]], Value], chats: Chats) -> Value:
    """Mean over the questions on which the measure exists."""
    groups: dict[str, list[ChatTraits]] = defaultdict(list)
    for chat in chats:
        groups[chat.cell[0]].append(chat)
    values = [measure(group) for group in groups.values()]
    reason = next((value.reason for value in values if isinstance(value, Undefined)), NO_CHATS)
    return mean((None if isinstance(value, Undefined) else value for value in values), reason)


def _of_all_words(measure: Callable[[Sequence[str]], Value], chats: Chats) -> Value:
    return _per_question(lambda group: measure([w for chat in group for text in chat.words for w in text]), chats)


def _distinct_first_messages(group: Chats) -> Value:
    return len({chat.words[:1] for chat in group}) / len(group)


def _distinct_pairs(group: Chats) -> Value:
    return distinct_ngrams([text for chat in group for text in chat.words], 2)


def _said_by_others(chats: Chats) -> Value:
    """Share of follow-ups that stand word for word in another chat about the same question."""
    holders: Counter[tuple[str, tuple[str, ...]]] = Counter(
        (chat.cell[0], message) for chat in chats for message in set(chat.words[1:])
    )
    return _per_follow_up(lambda chat: sum(holders[chat.cell[0], m] > 1 for m in chat.words[1:]), chats)


def _mean_of(of: Callable[[ChatTraits], float | None], reason: str = NO_CHATS) -> Callable[[Chats], Value]:
    """The mean of a number of each chat, over the chats that have it."""
    return lambda chats: mean(map(of, chats), reason)


def _worded(name: Wording) -> Trait:
    return Trait(f"first message: {name}", "share", _mean_of(lambda chat: float(chat.wording == name)))


NUMBERLESS, WORDLESS = "no question has a number in its text", "no question has a content word"
TRAITS: tuple[Trait, ...] = (
    Trait("user turns", "turns", _mean_of(lambda chat: float(chat.turns))),
    Trait("chats that end after the first reply", "share", _mean_of(lambda chat: float(chat.turns == 1))),
    Trait("length of the first message", "words", _mean_of(lambda chat: float(chat.first_words))),
    Trait("length of a follow-up", "words", partial(_per_follow_up, lambda chat: sum(chat.follow_up_words))),
    Trait(
        f"follow-ups of at most {SHORT_MESSAGE} words",
        "share",
        partial(_per_follow_up, lambda chat: sum(length <= SHORT_MESSAGE for length in chat.follow_up_words)),
    ),
    Trait("chats with polite words", "share", _mean_of(lambda chat: float(chat.polite))),
    *map(_worded, WORDINGS),
    Trait("mirrors of the benchmark", "share", _mean_of(lambda chat: float(chat.mirror))),
    Trait("mirrors, unread replies included", "share", _mean_of(lambda chat: float(chat.may_mirror))),
    Trait("chats that tell the options", "share", _mean_of(lambda chat: float(chat.options_told))),
    Trait("chats with a number from nowhere", "share", _mean_of(lambda chat: float(chat.foreign_numbers))),
    Trait("numbers told at first", "share", _mean_of(lambda chat: chat.at_first.numbers, NUMBERLESS)),
    Trait("numbers told by the end", "share", _mean_of(lambda chat: chat.at_end.numbers, NUMBERLESS)),
    Trait("content words told at first", "share", _mean_of(lambda chat: chat.at_first.words, WORDLESS)),
    Trait("content words told by the end", "share", _mean_of(lambda chat: chat.at_end.words, WORDLESS)),
    Trait("MATTR", "share", partial(_of_all_words, moving_average_ttr)),
    Trait("HD-D", "share", partial(_of_all_words, hypergeometric_diversity)),
    Trait("Yule's K", "", partial(_of_all_words, yules_k)),
    Trait("distinct first messages", "share", partial(_per_question, _distinct_first_messages), shrinks=True),
    Trait("distinct word pairs", "share", partial(_per_question, _distinct_pairs), shrinks=True),
    Trait("follow-ups that repeat the chat", "share", partial(_per_follow_up, lambda chat: chat.repeats)),
    Trait("follow-ups said in other chats", "share", _said_by_others, shrinks=True),
)


def _lengths(name: str, unit: str, of: Callable[[Chats], list[int]], *, by_class: bool) -> list[Distance]:
    """Wasserstein and Jensen-Shannon between two distributions of a count."""

    def divergence(first: Chats, second: Chats) -> Value:
        one, other = of(first), of(second)
        if by_class:
            return jensen_shannon(counts_by_length(one), counts_by_length(other))
        highest = max([*one, *other], default=0)
        return jensen_shannon(*([lengths.count(n) for n in range(highest + 1)] for lengths in (one, other)))

    return [
        Distance(f"{name}, Wasserstein", unit, lambda first, second: wasserstein(of(first), of(second))),
        Distance(f"{name}, Jensen-Shannon", "bits", divergence),
    ]


def _follow_up_lengths(chats: Chats) -> list[int]:
    return [length for chat in chats for length in chat.follow_up_words]


LENGTH_DISTANCES: tuple[Distance, ...] = (
    *_lengths("user turns", "turns", lambda chats: [chat.turns for chat in chats], by_class=False),
    *_lengths("first-message length", "words", lambda chats: [chat.first_words for chat in chats], by_class=True),
    *_lengths("follow-up length", "words", _follow_up_lengths, by_class=True),
)


def behaviour_distances(class_of: Callable[[ChatTraits], int], classes: int | Undefined) -> tuple[Distance, ...]:
    """Divergences between the frequencies of `classes` classes of behaviour, undefined where there are none."""

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
