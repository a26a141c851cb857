r"""What is measured once on each chat; the measures of a group of chats are means and distributions of these.

The *mirror* of a benchmark, after the paper, is a chat whose first message is a near-exact copy of the question, with
one reply, whose answer the user adopts. Where the reply's answer cannot be read, adoption is unknown: such a chat may
be a mirror, and is none for certain.

How a person puts a question to an assistant: copied, rephrased, told in part, or not told at all.

Every first message is one of four, tried in this order (words and numbers count, letter case and punctuation do not):

    copy      at least 90 % of the words of the question's text stand in it, in the question's order
    rephrase  it restates the question (half of its content words or numbers) and misses none of its numbers
    partial   it holds at least one number or content word of the question
    other     none of these ("can you help me?")

The published annotation of first prompts has no stated threshold, so these are this project's own; they are applied to
people and simulators alike.

Which parts of a question a user has conveyed: its numbers, its content words.

Numbers count by value and once each; words are those of `content_words`. A share is of the question's text without
its options: whether the options were told is counted apart (`copying.tells_options`).

The option at which an assistant's reply arrives, read off its text; None where the reply does not say.

In this order, the later place in the reply winning within each:

    1. a letter that is called the answer ("The answer is B", "**C**", "\boxed{D}", "option A is correct"),
       or with which the reply begins ("B. 12")
    2. the one option whose text stands in the last sentence that names any option; where all options are numbers, in
       the last sentence with a number ("8 * 7 = 54. The answer is 54." does not answer 8)

A sentence that names several options decides nothing. What cannot be read is unknown, not wrong.

Real and simulated chats in one form, so that every measure is computed in the same way on both.

Compared are the chats of the *cells* (question, assistant) on which both sides have some: what people say depends on
the question and, from the second message on, on the assistant. Lost chats (an endpoint that broke down) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args

from chatbench.core.records import LETTERS, Conversation, Question, SimulatedConversation
from chatbench.metrics.accuracies import Cell, is_lost
from chatbench.metrics.first_prompts import content_words, numbers, restates, share_in_order, words, words_in_order

Wording = Literal["copy", "rephrase", "partial", "other"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

COPY_SHARE = 0.9
"""From this share of its words, in their order, a text counts as copied: typing errors and dropped articles pass."""


def copied_share(message: str, text: str) -> float:
    """Share of the words of `text` that `message` holds in the same order, 0..1."""
    return share_in_order(words(text), words(message))


def wording_of(message: str, question: Question) -> Wording:
    """Which of the four a first message is; a question without numbers or content words can only be copied or not."""
    if copied_share(message, question.text) >= COPY_SHARE:
        return "copy"
    if restates(message, question) and numbers(question.text) <= numbers(message):
        return "rephrase"
    told = (numbers(message) & numbers(question.text)) | (content_words(message) & content_words(question.text))
    return "partial" if told else "other"


def tells_options(message: str, question: Question) -> bool:
    """Whether a message lists the options: it holds at least 90 % of all options' words, in their order."""
    return copied_share(message, " ".join(question.options)) >= COPY_SHARE


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares in 0..1 of a question's numbers and content words; None where the question has none."""

    numbers: float | None
    words: float | None


def coverage(messages: Iterable[str], question: Question) -> Coverage:
    """What the messages together convey."""
    said = "\n".join(messages)
    return Coverage(
        _share(numbers(question.text), numbers(said)), _share(content_words(question.text), content_words(said))
    )


def _share(wanted: frozenset[object], found: frozenset[object]) -> float | None:
    return len(wanted & found) / len(wanted) if wanted else None


_LETTER = r"[(\[*\"'`]*([A-D])(?![\w'’])"  # noqa: RUF001  (people type both apostrophes)
_CALLED = re.compile(
    rf"(?:\b(?:answer|choice|option|choose|select|pick)\b(?:\s+(?:would be|should be|is|are|to|was))?[\s:]*{_LETTER}"
    r"|\b([A-D])[)\]*\"'`]*\s+is\s+(?:the\s+)?(?:correct|right)\b"
    rf"|\\boxed\{{\s*(?:\\text\{{)?\(?([A-D])\b"
    rf"|\*\*\(?([A-D])\)?[.):]?(?:\*\*|\s))",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\W*([A-D])(?:[.):]|\s*$)")
_ARTICLE = re.compile(r"^(?:the|an?) ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def answer_in_reply(reply: str, question: Question) -> str | None:
    """The letter of the option that a reply gives as its answer."""
    called = [str(letter) for groups in _CALLED.findall(reply) for letter in groups if letter in LETTERS]
    if called:
        return called[-1]
    if first := _FIRST.match(reply):
        return str(first[1])
    only_numbers = all(_is_number(option) for option in question.options)
    for sentence in reversed(_SENTENCE.split(reply)):
        named = _named(sentence, question)
        if named or (only_numbers and numbers(sentence)):
            return named[0] if len(named) == 1 else None
    return None


def _named(sentence: str, question: Question) -> list[str]:
    """Letters of the options whose text stands in a sentence: a number by its value, else the words, article aside."""
    found, said = numbers(sentence), f" {' '.join(words(sentence))} "
    named = []
    for letter, option in zip(LETTERS, question.options, strict=True):
        option_words = _ARTICLE.sub("", " ".join(words(option)))
        stands = numbers(option) <= found if _is_number(option) else f" {option_words} " in said
        if option_words and stands:
            named.append(letter)
    return named


def _is_number(option: str) -> bool:
    return len(words(option)) == 1 and len(numbers(option)) == 1


class OfCell(Protocol):
    """A chat, or what was measured on one."""

    @property
    def cell(self) -> Cell:
        """Question id and assistant."""
        ...


Chat = TypeVar("Chat", bound=OfCell)


@dataclass(frozen=True, slots=True)
class SpokenChat:
    """A chat about `question`: the user's messages without surrounding white space, the replies, the chosen letter.

    `person` tells the people of a study apart; each simulated chat is a person of its own. `said` is empty where a
    simulator had nothing to say.
    """

    question: Question
    assistant: str
    person: str
    said: tuple[str, ...]
    replies: tuple[str, ...]
    answer: str | None

    @property
    def cell(self) -> Cell:
        return self.question.id, self.assistant


def real_chats(conversations: Iterable[Conversation], questions: Mapping[str, Question]) -> list[SpokenChat]:
    """People's chats; where a study has no worker ids, each chat counts as a person of its own."""
    return [
        SpokenChat(
            questions[chat.question_id],
            chat.assistant,
            chat.worker_id or chat.id,
            tuple(turn.text.strip() for turn in chat.turns if turn.role == "user"),
            tuple(turn.text for turn in chat.turns if turn.role == "assistant"),
            chat.answer,
        )
        for chat in conversations
    ]


def simulated_chats(chats: Iterable[SimulatedConversation], questions: Mapping[str, Question]) -> list[SpokenChat]:
    """Simulated chats that are not lost."""
    return [
        SpokenChat(
            questions[chat.question_id],
            chat.assistant,
            chat.id,
            tuple(turn.text.strip() for turn in chat.turns if turn.role == "user"),
            tuple(turn.text for turn in chat.turns if turn.role == "assistant"),
            chat.letter,
        )
        for chat in chats
        if not is_lost(chat)
    ]


def on_common_cells(real: Iterable[Chat], simulated: Iterable[Chat]) -> tuple[list[Chat], list[Chat]]:
    """Both sides, reduced to the cells that both have."""
    people, simulators = list(real), list(simulated)
    common = {chat.cell for chat in people} & {chat.cell for chat in simulators}
    return [chat for chat in people if chat.cell in common], [chat for chat in simulators if chat.cell in common]


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
