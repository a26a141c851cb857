r"""Traits measured once per chat, real or simulated; measures of a group are means and distributions of these.

A first message is one of four, tried in this order (words and numbers count, letter case and punctuation do not):

    copy      it contains at least 90 % of the words of the question's text, in the question's order
    rephrase  it restates the question (half of its content words or numbers) and misses none of its numbers
    partial   it contains at least one number or content word of the question
    other     none of these ("can you help me?")

The published annotation of first prompts states no threshold, so these are this project's own. A *mirror* of the
benchmark, after the paper, is a chat whose first message is a copy, with one reply, whose answer the user adopts. The
answer of a reply is extracted from its text in this order, the last match winning within each step:

    1. a letter that is called the answer ("The answer is B", "**C**", "\boxed{D}", "option A is correct"),
       or with which the reply begins ("B. 12")
    2. the one option whose text is in the last sentence that names any option; if all options are numbers, in the
       last sentence with a number ("8 * 7 = 54. The answer is 54." does not answer 8)

A sentence that names several options decides nothing. An answer that cannot be extracted is unknown, not wrong;
whether such a chat is a mirror is unknown too.

Only chats of (question, assistant) pairs that both sides have are compared: what people say depends on the question
and, from the second message on, on the assistant. Chats lost to an endpoint failure are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from chatbench.core.records import Conversation, Question, SimulatedConversation
from chatbench.metrics.first_prompts import content_words, numbers, restates, words, words_in_order
from chatbench.metrics.pairs import Pair, is_lost

Wording = Literal["copy", "rephrase", "partial", "other"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

COPY_SHARE = 0.9
"""Share of its words, in order, from which a text counts as copied: typos and dropped articles are tolerated."""


def copied_share(message: str, text: str) -> float:
    """Share of the words of `text` that `message` contains in the same order, 0..1; 0 if it has no words."""
    wanted = words(text)
    return words_in_order(wanted, words(message)) / len(wanted) if wanted else 0.0


def wording_of(message: str, question: Question) -> Wording:
    """Classify a first message; without numbers or content words in the question, it is "copy" or "other"."""
    if copied_share(message, question.text) >= COPY_SHARE:
        return "copy"
    if restates(message, question) and numbers(question.text) <= numbers(message):
        return "rephrase"
    told = coverage([message], question)
    return "partial" if told.numbers or told.words else "other"


def tells_options(message: str, question: Question) -> bool:
    """Whether a message lists the options: it contains at least 90 % of all options' words, in order."""
    return bool(question.options) and copied_share(message, " ".join(question.options)) >= COPY_SHARE


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares in 0..1 of a question's numbers and content words that some messages contain; None if it has none.

    Numbers are compared by value and counted once; options are measured separately (`tells_options`).
    """

    numbers: float | None
    words: float | None


def coverage(messages: Iterable[str], question: Question) -> Coverage:
    """How much of the question's text the messages contain together."""
    text = "\n".join(messages)
    return Coverage(
        _share(numbers(question.text), numbers(text)), _share(content_words(question.text), content_words(text))
    )


def _share(wanted: frozenset[object], found: frozenset[object]) -> float | None:
    return len(wanted & found) / len(wanted) if wanted else None


_CALLED = (
    r"(?:\b(?:answer|choice|option|choose|select|pick)\b(?:\s+(?:would be|should be|is|are|to|was))?"
    r"[\s:]*[(\[*\"'`]*([LETTERS])(?![\w'’])"  # noqa: RUF001  (people type both apostrophes)
    r"|\b([LETTERS])[)\]*\"'`]*\s+is\s+(?:the\s+)?(?:correct|right)\b"
    r"|\\boxed\{\s*(?:\\text\{)?\(?([LETTERS])\b"
    r"|\*\*\(?([LETTERS])\)?[.):]?(?:\*\*|\s))"
)
"""Pattern of a letter that a reply calls its answer; LETTERS stands for those of the options."""
_BEGINNING = r"\W*([LETTERS])(?:[.):]|\s*$)"
"""Pattern of a letter that a reply begins with."""
_ARTICLE = re.compile(r"^(?:the|an?) ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def answer_in_reply(reply: str, question: Question) -> str | None:
    """The letter of the option that a reply gives as its answer; None if it gives none or there are no options."""
    if not question.options:
        return None
    called, beginning = (each.replace("LETTERS", "".join(question.letters)) for each in (_CALLED, _BEGINNING))
    matches = re.findall(called, reply, re.IGNORECASE)
    if letters := [str(letter) for groups in matches for letter in groups if letter in question.letters]:
        return letters[-1]
    if first := re.match(beginning, reply):
        return str(first[1])
    is_number = [len(words(option)) == 1 and len(numbers(option)) == 1 for option in question.options]
    for sentence in reversed(_SENTENCE.split(reply)):
        found, text = numbers(sentence), f" {' '.join(words(sentence))} "
        named = []  # options whose text is in the sentence: numbers by value, others by their words, article aside
        for letter, option, number in zip(question.letters, question.options, is_number, strict=True):
            option_words = _ARTICLE.sub("", " ".join(words(option)))
            if option_words and (numbers(option) <= found if number else f" {option_words} " in text):
                named.append(letter)
        if named or (all(is_number) and found):
            return named[0] if len(named) == 1 else None
    return None


@dataclass(frozen=True, slots=True)
class UserChat:
    """A chat about `question`: the user's messages, stripped, the replies, and the chosen letter.

    `person` identifies the people of a study; each simulated chat is a person of its own. `messages` is empty if a
    simulator said nothing.
    """

    question: Question
    assistant: str
    person: str
    messages: tuple[str, ...]
    replies: tuple[str, ...]
    answer: str | None


def real_chats(conversations: Iterable[Conversation], questions: Mapping[str, Question]) -> list[UserChat]:
    """People's chats; in a study without worker ids, each chat counts as a person of its own."""
    return [_user_chat(chat, questions, chat.worker_id or chat.id, chat.answer) for chat in conversations]


def simulated_chats(chats: Iterable[SimulatedConversation], questions: Mapping[str, Question]) -> list[UserChat]:
    """Simulated chats that are not lost."""
    return [_user_chat(chat, questions, chat.id, chat.letter) for chat in chats if not is_lost(chat)]


def _user_chat(
    chat: Conversation | SimulatedConversation, questions: Mapping[str, Question], person: str, answer: str | None
) -> UserChat:
    messages = tuple(turn.text.strip() for turn in chat.turns if turn.role == "user")
    replies = tuple(turn.text for turn in chat.turns if turn.role == "assistant")
    return UserChat(questions[chat.question_id], chat.assistant, person, messages, replies, answer)


REPEAT_SHARE = 0.8
"""Two messages repeat each other if their common words, in order, make up this share of the longer one."""
SHORT_MESSAGE = 3
"""A follow-up of at most this many words is short."""
_POLITE = re.compile(r"\b(please|pls|plz|thanks|thank you|thx|kindly|could you|would you|can you)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ChatTraits:
    """Traits of one chat; lengths in words, shares in 0..1.

    `wording`, `first_words`, `copied` and `at_first` are of the first message, which is empty if the simulator said
    nothing. `foreign_numbers`: the user wrote a number that is in neither question nor replies. `repeats` counts
    follow-ups (later messages) that repeat an earlier message, `asking` those that end in a question mark.
    """

    chat: UserChat
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
    def cell(self) -> Pair:
        """Question id and assistant."""
        return self.chat.question.id, self.chat.assistant

    @property
    def person(self) -> str:
        return self.chat.person

    @property
    def turns(self) -> int:
        """Number of the user's messages."""
        return len(self.words)

    @property
    def first_words(self) -> int:
        return len(self.words[0]) if self.words else 0

    @property
    def follow_up_words(self) -> tuple[int, ...]:
        return tuple(len(message) for message in self.words[1:])


def traits_of(chat: UserChat) -> ChatTraits:
    """Measure one chat."""
    first, everything = chat.messages[0] if chat.messages else "", "\n".join(chat.messages)
    split = tuple(tuple(words(message)) for message in chat.messages)
    wording = wording_of(first, chat.question)
    copied_once = wording == "copy" and len(chat.replies) == 1
    adopted = answer_in_reply(chat.replies[0], chat.question) if copied_once else None
    return ChatTraits(
        chat=chat,
        words=split,
        wording=wording,
        copied=copied_share(first, chat.question.text),
        at_first=coverage([first], chat.question),
        at_end=coverage(chat.messages, chat.question),
        options_told=tells_options(everything, chat.question),
        foreign_numbers=not numbers(everything) <= numbers("\n".join([chat.question.full_text, *chat.replies])),
        mirror=copied_once and adopted is not None and adopted == chat.answer,
        may_mirror=copied_once and (adopted is None or adopted == chat.answer),
        repeats=sum(
            any(
                0 < REPEAT_SHARE * max(len(earlier), len(later)) <= words_in_order(earlier, later)
                for earlier in split[:place]
            )
            for place, later in enumerate(split)
        ),
        asking=sum(message.endswith("?") for message in chat.messages[1:]),
        polite=bool(_POLITE.search(everything)),
    )


def on_common_cells(
    real: Iterable[ChatTraits], simulated: Iterable[ChatTraits]
) -> tuple[list[ChatTraits], list[ChatTraits]]:
    """Restrict both sides to the (question, assistant) pairs that both have."""
    people, simulators = list(real), list(simulated)
    common = {chat.cell for chat in people} & {chat.cell for chat in simulators}
    return [chat for chat in people if chat.cell in common], [chat for chat in simulators if chat.cell in common]
