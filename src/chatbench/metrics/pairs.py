r"""The scored pairs (question, assistant) of a split, and how often people and simulated users are right in each.

A simulated chat without a valid letter is an invalid answer. A chat that broke down (an endpoint that was not there) is
no answer at all, unless it was the simulator that had nothing to say.
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
Pair = tuple[str, str]
"""(question id, assistant)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one predictor says about a pair: an accuracy (0..1) from `count` answers."""

    accuracy: float
    count: int


Predictions = Mapping[Pair, Prediction]


@dataclass(frozen=True, slots=True)
class Simulation:
    """The chats of one simulator on one split, and how many were asked for per pair."""

    predictor: Predictor
    chats: tuple[SimulatedConversation, ...]
    conversations: int

    def first_chats(self, conversations: int) -> Simulation:
        """As if it had been stopped after `conversations` chats per pair.

        An accuracy from few chats is noisy, which costs correlation and adds error: a simulator with many chats is to
        be compared with one of few by its own first few.
        """
        kept = tuple(chat for chat in self.chats if chat.index < conversations)
        return Simulation(replace(self.predictor, chats=conversations), kept, conversations)

    def with_assistants(self, names: AbstractSet[str], *, others: bool = False) -> Simulation:
        """Its chats with these assistants, or with all others."""
        return replace(self, chats=tuple(chat for chat in self.chats if (chat.assistant in names) != others))

    def complete_pairs(self) -> frozenset[Pair]:
        """Pairs with all their chats; failed ones count, but for transient failures, which are simulated again."""
        found = Counter((chat.question_id, chat.assistant) for chat in self.chats if not chat.transient)
        return frozenset(pair for pair, count in found.items() if count >= self.conversations)

    def outcomes(self, study: Study) -> dict[Pair, Outcomes]:
        """Right, wrong and invalid answers per pair; a chat that failed through no fault of the simulator is none.

        Nor is one whose answer nothing judges (`Study.score`).
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
    """Human accuracy of the scored pairs, sorted, and what each predictor says about them; it may lack a pair."""

    human: Predictions
    predictors: Mapping[Predictor, Predictions]

    @property
    def assistants(self) -> list[str]:
        """The assistants of the scored pairs, in alphabetical order."""
        return assistants_of(self.human)

    def among(self, human: Predictions) -> SplitPairs:
        """The same predictions against these people's accuracies, over the pairs that both have."""
        return SplitPairs({pair: human[pair] for pair in self.human if pair in human}, self.predictors)


def add_up(outcomes: Iterable[tuple[Key, Outcomes]]) -> dict[Key, Outcomes]:
    """The sum of the outcomes of each key."""
    sums: dict[Key, Outcomes] = {}
    for key, outcome in outcomes:
        sums[key] = sums.get(key, Outcomes()) + outcome
    return sums


def assistants_of(pairs: Iterable[Pair]) -> list[str]:
    """The assistants of some pairs, in alphabetical order."""
    return sorted({assistant for _, assistant in pairs})


def human_outcomes(study: Study, questions: AbstractSet[str], condition: str | None = None) -> dict[Pair, Outcomes]:
    """Right and wrong user-AI answers per pair, as the study recorded them; of one condition, or of all."""
    return add_up(
        ((answer.question_id, answer.assistant), Outcomes(answer.correct, 1 - answer.correct))
        for answer in study.answers
        if answer.kind == "user-AI" and answer.question_id in questions and condition in (None, answer.condition)
    )


def expected_predictions(chats: Iterable[SimulatedConversation], pairs: AbstractSet[Pair]) -> dict[Pair, Prediction]:
    """Accuracy per pair if each chat's last letter counts with its probability instead of being sampled.

    The same mean as the sampled accuracy, and less noise (models/answer_probabilities.py). A chat that ended without an
    answer counts as wrong, as there; a pair in which an answer came without its probabilities is left out.
    """
    shares: dict[Pair, list[float]] = {}
    for chat in chats:
        if not is_lost(chat) and (pair := (chat.question_id, chat.assistant)) in pairs:
            share = chat.expected_correct if chat.termination in ("answered", "forced") else 0.0
            shares.setdefault(pair, []).append(math.nan if share is None else share)
    means = {pair: Prediction(sum(found) / len(found), len(found)) for pair, found in shares.items()}
    return {pair: mean for pair, mean in means.items() if not math.isnan(mean.accuracy)}


def is_lost(chat: SimulatedConversation) -> bool:
    """Whether a chat says nothing about the simulator: a participant failed, and not by the simulator's silence."""
    return chat.termination == "failed" and chat.reason != EMPTY_TURN


def predictions(outcomes: Mapping[Pair, Outcomes], treatment: Treatment = "counted wrong") -> dict[Pair, Prediction]:
    """Accuracy per pair; pairs without an answer under this treatment are left out."""
    return {
        pair: Prediction(accuracy, outcome.count(treatment))
        for pair, outcome in outcomes.items()
        if (accuracy := outcome.accuracy(treatment)) is not None
    }


def scored_pairs(study: Study, test: AbstractSet[str], simulation: Simulation) -> frozenset[Pair]:
    """Held-out pairs with at least one human answer, all their chats, and at least one that did not break down."""
    return simulation.complete_pairs() & simulation.outcomes(study).keys() & human_outcomes(study, test).keys()


def pair_up(human: Predictions, predicted: Predictions) -> list[QuestionAccuracy]:
    """Both accuracies of every pair that both sides have, in the order of `human`."""
    return [
        QuestionAccuracy(*pair, person.accuracy, predicted[pair].accuracy, person.count, predicted[pair].count)
        for pair, person in human.items()
        if pair in predicted
    ]
