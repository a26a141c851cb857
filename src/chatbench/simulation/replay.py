"""An assistant that replays recorded responses, so a simulator can be scored without any assistant model.

For a simulated prompt it returns the recorded response whose recorded prompt, to the same assistant about the same
question, is nearest by cosine of the prompts' words, weighted by TF-IDF over that question's recorded prompts, so
that words in every prompt about the question count little. Among equally near ones, those at the same depth of
the chat come first (a preference, not a condition: an early prompt may be repeated late). If several are still equal,
as when ten people pasted the question, one of them is drawn by the request's seed: always taking the first
would show one recorded answer and hide how often the assistant was right.

It uses all recorded chats about the question, held out or not: they are the assistant's record, not the simulator's
training text. It cannot answer a question without a record: the conversation then ends as failed.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbench.core.records import Conversation
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request

NO_RECORD = "no recorded reply"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """One recorded prompt and what the assistant answered; `depth` counts the user turns before it."""

    prompt: str
    response: str
    depth: int


class RecordedQuestion:
    """Everything one assistant was recorded to answer about one question, with its prompts' word weights."""

    def __init__(self, replies: Sequence[RecordedReply]) -> None:
        self.replies = tuple(replies)
        words = [word_counts(reply.prompt) for reply in replies]
        spread = Counter(word for counts in words for word in counts)
        # Smoothed: a word in every prompt still has some weight, and one in no prompt does not divide by zero.
        self._rarity = {word: 1 + math.log((1 + len(words)) / (1 + count)) for word, count in spread.items()}
        self._unseen = 1 + math.log(1 + len(words))
        self._weights = [self._weighted(counts) for counts in words]

    def nearest(self, prompt: str, depth: int, seed: int) -> RecordedReply:
        """The recorded reply to the nearest prompt; `seed` breaks ties."""
        sought = self._weighted(word_counts(prompt))
        # Rounded, so that equal word counts stay equal in whatever order their products are summed.
        ranks = [
            (round(cosine(sought, weights), 9), -abs(reply.depth - depth))
            for reply, weights in zip(self.replies, self._weights, strict=True)
        ]
        best = max(ranks)
        equal = [reply for reply, rank in zip(self.replies, ranks, strict=True) if rank == best]
        return equal[seed % len(equal)]

    def _weighted(self, counts: Mapping[str, int]) -> dict[str, float]:
        return {word: count * self._rarity.get(word, self._unseen) for word, count in counts.items()}


def replay_assistant(conversations: Sequence[Conversation], assistant: str) -> FunctionParticipant:
    """A participant that answers for `assistant` from its recorded conversations."""
    by_question: dict[str, list[RecordedReply]] = {}
    for conversation in conversations:
        if conversation.assistant == assistant:
            replies = by_question.setdefault(conversation.question_id, [])
            turns = zip(conversation.turns[::2], conversation.turns[1::2], strict=True)
            replies += [RecordedReply(user.text, answer.text, depth) for depth, (user, answer) in enumerate(turns)]
    digest = hashlib.sha256()
    for question_id in sorted(by_question):
        for each in by_question[question_id]:
            digest.update(repr((question_id, each.prompt, each.response, each.depth)).encode())
    record = {question_id: RecordedQuestion(replies) for question_id, replies in by_question.items()}

    def reply(request: Request) -> Reply | Failure:
        if request.question_id not in record:
            return Failure(NO_RECORD)
        depth = sum(message.role == "user" for message in request.messages) - 1
        nearest = record[request.question_id].nearest(request.messages[-1].content, depth, request.seed)
        return Reply(nearest.response)

    return FunctionParticipant(
        reply,
        {
            "kind": "replay",
            "name": assistant,
            "replies": sum(map(len, by_question.values())),
            "record_sha256": digest.hexdigest(),
            "choice": "nearest prompt by TF-IDF cosine, then depth, then seed",
        },
    )


def word_counts(text: str) -> Counter[str]:
    """Counts of words and punctuation marks, ignoring case."""
    return Counter(_WORD.findall(text.lower()))


def cosine(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Cosine of two sparse vectors; 0 if one is empty.

    >>> cosine({"a": 1.0, "b": 1.0}, {"a": 1.0})
    0.7071067811865475
    """
    norm = math.hypot(*first.values()) * math.hypot(*second.values())
    return sum(weight * second[word] for word, weight in first.items() if word in second) / norm if norm else 0.0
