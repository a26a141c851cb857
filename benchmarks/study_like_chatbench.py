"""A made-up study with the shape of ChatBench's chats, for timings: nobody said any of it, and no word means anything.

200 questions with 18 conversations each; 55 % of the conversations have one user turn, the others two or more (1 and a
geometric number), 2.2 in the mean. Lengths are drawn so that the tokens of an epoch come out as was measured for
conversations shaped like ChatBench's (a question: 55.6 thousand padded in fours, 33.5 unpadded, 14.0 as one tree per
conversation, 9.9 as one per question; here 53.9, 32.7, 14.6 and 9.8): a question with its options has about
180 tokens, an assistant's turn 140. One person in seven begins by copying the question word for word. Prompts are the
protocol's own, so what examples share is what they share there.

A token id is a hash of a word, a number, or a mark: equal text has equal ids, and no tokenizer has to be trained or
downloaded. `[END]` is three tokens, as in GPT-2.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbench.core.records import Conversation, Question, Turn
from chatbench.data.examples import ExampleRow, examples_of
from chatbench.models.encoding import EncodedRows
from chatbench.models.loss import scored_sequence
from chatbench.models.prefix_tree import ScoredSequence, prefix_trees
from chatbench.protocol.prompts import EncodedExample, completion_text, prompt_text

QUESTIONS = 200
CHATS = 18
ONE_USER_TURN = 0.55
MEAN_OF_LONGER = 3.67
COPIES_THE_QUESTION = 0.15

_PIECES = re.compile(r"\w+|=+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of each part: a mean, and the standard deviation of its logarithm."""

    question: tuple[float, float] = (105.0, 0.3)
    option: tuple[float, float] = (12.0, 0.3)
    first: tuple[float, float] = (15.0, 0.6)
    follow_up: tuple[float, float] = (11.0, 0.6)
    assistant: tuple[float, float] = (125.0, 0.3)


def word_ids(text: str, vocabulary: int) -> list[int]:
    """One id a word or mark, of `vocabulary` different ones; 0 is left for padding."""
    return [1 + zlib.crc32(piece.encode()) % (vocabulary - 1) for piece in _PIECES.findall(text)]


@dataclass(frozen=True, slots=True)
class _Writer:
    rng: np.random.Generator
    lengths: Lengths

    def text(self, length: tuple[float, float]) -> str:
        mean, spread = length
        words = max(1, round(float(self.rng.lognormal(np.log(mean) - spread**2 / 2, spread))))
        drawn = self.rng.zipf(1.3, size=words) % 20_000
        return " ".join(f"w{number}" + ("," if place % 9 == 8 else "") for place, number in enumerate(drawn)) + "."

    def question(self, number: int) -> Question:
        options = tuple(self.text(self.lengths.option) for _ in range(4))
        return Question(f"q{number}", "synthetic", self.text(self.lengths.question), options, "A")  # type: ignore[arg-type]  # four

    def conversation(self, question: Question, number: int) -> Conversation:
        copies = self.rng.random() < COPIES_THE_QUESTION
        turns = [Turn("user", question.full_text if copies else self.text(self.lengths.first))]
        longer = self.rng.random() >= ONE_USER_TURN
        for _ in range(int(self.rng.geometric(1 / (MEAN_OF_LONGER - 1))) if longer else 0):
            turns += [
                Turn("assistant", self.text(self.lengths.assistant)),
                Turn("user", self.text(self.lengths.follow_up)),
            ]
        turns.append(Turn("assistant", self.text(self.lengths.assistant)))
        letter = "ABCD"[int(self.rng.integers(4))]
        return Conversation(
            f"{question.id}-{number}", question.id, f"p{number}", "synthetic", "direct-to-AI", tuple(turns), letter
        )


def study_rows(questions: Sequence[int], chats: int = CHATS, *, seed: int = 0) -> list[ExampleRow]:
    """The examples of all conversations about the questions of these numbers; each is drawn from its own seed."""
    rows = []
    for number in questions:
        writer = _Writer(np.random.default_rng((seed, number)), Lengths())
        question = writer.question(number)
        for chat in range(chats):
            for example in examples_of(writer.conversation(question, chat), question):
                rows.append(
                    ExampleRow(
                        prompt_text(example.messages), completion_text(example.target), example.messages,
                        example.question_id, example.conversation_id, example.kind,
                    )
                )  # fmt: skip
    return rows


def encoded(rows: list[ExampleRow], vocabulary: int, context: int) -> EncodedRows:
    """Ids of the rows that fit the context; the others are left out, as the package does."""
    pairs = [
        (row, EncodedExample(word_ids(row.prompt, vocabulary), word_ids(row.completion, vocabulary))) for row in rows
    ]
    fit = [(row, example) for row, example in pairs if example.tokens <= context]
    return EncodedRows([e for _, e in fit], [r for r, _ in fit], context, examples_left_out=len(pairs) - len(fit))


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that an epoch reads, by layout; `padded` in random batches of four."""

    examples: int
    left_out: int
    supervised: int
    padded: int
    length_grouped: int
    unpadded: int
    conversation: int
    question: int


def token_counts(rows: EncodedRows, *, batch: int = 4, seed: int = 0) -> TokenCounts:
    lengths = np.array([example.tokens for example in rows.examples])
    order = np.random.default_rng(seed).permutation(len(lengths))
    return TokenCounts(
        examples=len(lengths),
        left_out=rows.examples_left_out,
        supervised=sum(len(example.completion) for example in rows.examples),
        padded=_padded(lengths[order], batch),
        length_grouped=_padded(np.sort(lengths)[::-1], batch),
        unpadded=int(lengths.sum()),
        conversation=_in_trees(rows, [row.conversation_id for row in rows.rows]),
        question=_in_trees(rows, [row.question_id for row in rows.rows]),
    )


def counts_of_questions(vocabulary: int, context: int) -> NDArray[np.int64]:
    """Shape (questions, 4): tokens padded by four, unpadded, by conversation and by question, of each question."""
    counts = [token_counts(encoded(study_rows([number]), vocabulary, context)) for number in range(QUESTIONS)]
    return np.array([(each.padded, each.unpadded, each.conversation, each.question) for each in counts])


def _padded(lengths: NDArray[np.int64], batch: int) -> int:
    parts = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return int(sum(len(part) * part.max() for part in parts))


def _in_trees(rows: EncodedRows, groups: list[str]) -> int:
    by_group: dict[str, list[ScoredSequence]] = {}
    for group, example in zip(groups, rows.examples, strict=True):
        by_group.setdefault(group, []).append(scored_sequence(example))
    return sum(len(tree) for sequences in by_group.values() for tree in prefix_trees(sequences, budget=1 << 30))
