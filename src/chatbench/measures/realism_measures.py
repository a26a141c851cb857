"""The list of what is compared: traits of a group of chats, and distances between two groups.

A *trait* is one number of a group (a mean, a share), so two groups are as far apart as their numbers. A *distance* is
taken between two groups as wholes (their distributions). Lexical measures are taken on all that is said about one
question and then averaged over questions: how varied different people are about the same thing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.chat_traits import SHORT_MESSAGE, ChatTraits
from chatbench.measures.copying import WORDINGS, Wording
from chatbench.measures.distances import counts_by_length, jensen_shannon, kullback_leibler, wasserstein
from chatbench.measures.diversity import distinct_ngrams, hypergeometric_diversity, moving_average_ttr, yules_k

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
