"""What is measured once on each chat; the measures of a group of chats are means and distributions of these.

The *mirror* of a benchmark, after the paper, is a chat whose first message is a near-exact copy of the question, with
one reply, whose answer the user adopts. Where the reply's answer cannot be read, adoption is unknown: such a chat may
be a mirror, and is none for certain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatbench.measures.accuracies import Cell
from chatbench.measures.copying import Wording, copied_share, tells_options, wording_of
from chatbench.measures.coverage import Coverage, coverage
from chatbench.measures.number_copy import numbers
from chatbench.measures.reply_answers import answer_in_reply
from chatbench.measures.spoken_chats import SpokenChat
from chatbench.measures.word_order import words, words_in_order

REPEAT_SHARE = 0.8
"""Two messages repeat each other if their common words, in order, are this share of the longer one."""
SHORT_MESSAGE = 3
"""A follow-up of at most this many words is short."""
_POLITE = re.compile(r"\b(please|pls|plz|thanks|thank you|thx|kindly|could you|would you|can you)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ChatTraits:
    """Traits of one chat; lengths in words, shares in 0..1.

    `wording`, `first_words`, `copied`, `at_first` and `foreign_numbers` are of the first message, which is empty where
    the simulator said nothing. `follow_ups` holds the words of each later message. `repeats` counts follow-ups that
    repeat an earlier message, `asking` those that end in a question mark.
    """

    chat: SpokenChat
    words: tuple[tuple[str, ...], ...]
    wording: Wording
    copied: float
    at_first: Coverage
    at_end: Coverage
    options_told: bool
    foreign_numbers: bool
    mirror: bool
    may_mirror: bool
    repeats: int
    asking: int
    polite: bool

    @property
    def cell(self) -> Cell:
        return self.chat.cell

    @property
    def person(self) -> str:
        return self.chat.person

    @property
    def turns(self) -> int:
        """How many messages the user wrote."""
        return len(self.words)

    @property
    def first_words(self) -> int:
        return len(self.words[0]) if self.words else 0

    @property
    def follow_up_words(self) -> tuple[int, ...]:
        return tuple(len(message) for message in self.words[1:])

    @property
    def follow_ups(self) -> int:
        return max(0, len(self.words) - 1)


def traits_of(chat: SpokenChat) -> ChatTraits:
    """Measures one chat."""
    first, everything = chat.said[0] if chat.said else "", "\n".join(chat.said)
    spoken = tuple(tuple(words(message)) for message in chat.said)
    wording = wording_of(first, chat.question)
    copied_once = wording == "copy" and len(chat.replies) == 1
    adopted = answer_in_reply(chat.replies[0], chat.question) if copied_once else None
    return ChatTraits(
        chat=chat,
        words=spoken,
        wording=wording,
        copied=copied_share(first, chat.question.text),
        at_first=coverage([first], chat.question),
        at_end=coverage(chat.said, chat.question),
        options_told=tells_options(everything, chat.question),
        foreign_numbers=not numbers(everything) <= numbers(chat.question.full_text + "\n" + "\n".join(chat.replies)),
        mirror=copied_once and adopted is not None and adopted == chat.answer,
        may_mirror=copied_once and (adopted is None or adopted == chat.answer),
        repeats=sum(_repeats_earlier(spoken, place) for place in range(1, len(spoken))),
        asking=sum(message.endswith("?") for message in chat.said[1:]),
        polite=bool(_POLITE.search(everything)),
    )


def _repeats_earlier(spoken: tuple[tuple[str, ...], ...], place: int) -> bool:
    return any(_alike(spoken[earlier], spoken[place]) for earlier in range(place))


def _alike(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    longest = max(len(first), len(second))
    return longest > 0 and words_in_order(first, second) >= REPEAT_SHARE * longest
