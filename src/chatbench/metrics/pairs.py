r"""The scored (question, assistant) pairs of a split, with human and simulated accuracy per pair.

A simulated chat without a valid letter is an invalid answer. A failed chat (such as an unreachable endpoint) is no
answer at all, unless it failed because the simulator produced an empty turn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

from chatbench.core.records import EMPTY_TURN, SimulatedConversation, Study
from chatbench.metrics.agreement import Outcomes, QuestionAccuracy, Treatment
from chatbench.metrics.names import Predictor

Key = TypeVar("Key")
T = TypeVar("T")
Pair = tuple[str, str]
"""(question id, assistant)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predictor's accuracy (0..1) for one pair, from `count` answers."""

    accuracy: float
    count: int


Predictions = Mapping[Pair, Prediction]


@dataclass(frozen=True, slots=True)
class Simulation:
    """The chats of one simulator on one split, and the number requested per pair (`conversations`)."""

    predictor: Predictor
    chats: tuple[SimulatedConversation, ...]
    conversations: int

    def first_chats(self, conversations: int) -> Simulation:
        """Keep the first `conversations` chats of each pair.

        Accuracy from few chats is noisy, which lowers correlations and raises errors, so a simulator with many chats is
        compared with one that has fewer on the same number of chats.
        """
        kept = tuple(chat for chat in self.chats if chat.index < conversations)
        return Simulation(replace(self.predictor, chats=conversations), kept, conversations)

    def with_assistants(self, names: AbstractSet[str], *, others: bool = False) -> Simulation:
        """Keep the chats with these assistants, or with all others."""
        return replace(self, chats=tuple(chat for chat in self.chats if (chat.assistant in names) != others))

    def complete_pairs(self) -> frozenset[Pair]:
        """Pairs with all requested chats; failed chats count, except transient failures, which are simulated again."""
        found = Counter((chat.question_id, chat.assistant) for chat in self.chats if not chat.transient)
        return frozenset(pair for pair, count in found.items() if count >= self.conversations)

    def outcomes(self, study: Study) -> dict[Pair, Outcomes]:
        """Count right, wrong and invalid answers per pair, without lost chats (`is_lost`).

        Answers that cannot be scored (`Study.score`) are not counted either.
        """
        kept = ((chat, study.score(chat.question_id, chat.letter)) for chat in self.chats if not is_lost(chat))
        return add_up(
            (
                (chat.question_id, chat.assistant),
                Outcomes(invalid=1) if chat.letter is None else Outcomes(score, 1 - score),
            )
            for chat, score in kept
            if score is not None
        )


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """Human accuracy of the scored pairs, sorted, and each predictor's accuracies, which may lack some pairs."""

    human: Predictions
    predictors: Mapping[Predictor, Predictions]

    @property
    def assistants(self) -> list[str]:
        """Assistants of the scored pairs, in alphabetical order."""
        return assistants_of(self.human)

    def among(self, human: Predictions) -> SplitPairs:
        """Replace the human accuracies, keeping only pairs that are in both."""
        return SplitPairs({pair: human[pair] for pair in self.human if pair in human}, self.predictors)


def add_up(outcomes: Iterable[tuple[Key, Outcomes]]) -> dict[Key, Outcomes]:
    """Sum the outcomes of each key."""
    sums: dict[Key, Outcomes] = {}
    for key, outcome in outcomes:
        sums[key] = sums.get(key, Outcomes()) + outcome
    return sums


def grouped(values: Iterable[tuple[Key, T]]) -> dict[Key, list[T]]:
    """Collect the values of each key, both in the order given."""
    groups: dict[Key, list[T]] = {}
    for key, value in values:
        groups.setdefault(key, []).append(value)
    return groups


def assistants_of(pairs: Iterable[Pair]) -> list[str]:
    """Assistants of the pairs, in alphabetical order."""
    return sorted({assistant for _, assistant in pairs})


def human_outcomes(study: Study, questions: AbstractSet[str], condition: str | None = None) -> dict[Pair, Outcomes]:
    """Count right and wrong user-AI answers per pair, in one condition or in all."""
    return add_up(
        ((answer.question_id, answer.assistant), Outcomes(answer.correct, 1 - answer.correct))
        for answer in study.answers
        if answer.kind == "user-AI" and answer.question_id in questions and condition in (None, answer.condition)
    )


def expected_predictions(chats: Iterable[SimulatedConversation], pairs: AbstractSet[Pair]) -> dict[Pair, Prediction]:
    """Accuracy per pair from the probability of the right letter instead of the sampled letter.

    It has the same expectation as sampled accuracy and less noise (models/answer_probabilities.py). Chats without an
    answer count as wrong; pairs with an answer that lacks probabilities are omitted.
    """
    shares: dict[Pair, list[float]] = {}
    for chat in chats:
        if not is_lost(chat) and (pair := (chat.question_id, chat.assistant)) in pairs:
            share = chat.expected_correct if chat.termination in ("answered", "forced") else 0.0
            shares.setdefault(pair, []).append(math.nan if share is None else share)
    means = {pair: Prediction(sum(found) / len(found), len(found)) for pair, found in shares.items()}
    return {pair: mean for pair, mean in means.items() if not math.isnan(mean.accuracy)}


def is_lost(chat: SimulatedConversation) -> bool:
    """Whether a chat failed for a reason other than an empty turn of the simulator, and so is not scored."""
    return chat.termination == "failed" and chat.reason != EMPTY_TURN


def predictions(outcomes: Mapping[Pair, Outcomes], treatment: Treatment = "counted wrong") -> dict[Pair, Prediction]:
    """Accuracy per pair, omitting pairs without an answer under this treatment."""
    return {
        pair: Prediction(accuracy, outcome.count(treatment))
        for pair, outcome in outcomes.items()
        if (accuracy := outcome.accuracy(treatment)) is not None
    }


def scored_pairs(study: Study, test: AbstractSet[str], simulation: Simulation) -> frozenset[Pair]:
    """Held-out pairs with a human answer, all requested chats, and at least one scored chat."""
    return simulation.complete_pairs() & simulation.outcomes(study).keys() & human_outcomes(study, test).keys()


def pair_up(human: Predictions, predicted: Predictions) -> list[QuestionAccuracy]:
    """Join human and predicted accuracies on their common pairs, in the order of `human`."""
    return [
        QuestionAccuracy(*pair, person.accuracy, predicted[pair].accuracy, person.count, predicted[pair].count)
        for pair, person in human.items()
        if pair in predicted
    ]
