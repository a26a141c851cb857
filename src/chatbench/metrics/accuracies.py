r"""Accuracy per cell (question, assistant) of people and of simulators, and how well the two agree.

A simulated chat without a valid letter is an invalid answer. A chat that broke down (an endpoint that was not there) is
no answer at all, unless it was the simulator that had nothing to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from chatbench.core.records import EMPTY_TURN, SimulatedConversation, Study
from chatbench.metrics.agreement import Outcomes, QuestionAccuracy, Treatment, Value, agreement, mean_value
from chatbench.metrics.names import AGREEMENT_METRICS, EVERY_ASSISTANT, MEAN_OF_ASSISTANTS, WHOLE, Figure

Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one source says about a cell: an accuracy (0..1) from `count` answers."""

    accuracy: float
    count: int


def human_outcomes(study: Study, questions: AbstractSet[str], condition: str | None = None) -> dict[Cell, Outcomes]:
    """Right and wrong user-AI answers per cell, as the study recorded them; of one condition, or of all."""
    outcomes: dict[Cell, Outcomes] = {}
    for answer in study.answers:
        if answer.kind == "user-AI" and answer.question_id in questions and condition in (None, answer.condition):
            cell = (answer.question_id, answer.assistant)
            outcomes[cell] = outcomes.get(cell, Outcomes()) + Outcomes(answer.correct, not answer.correct)
    return outcomes


def simulated_outcomes(study: Study, chats: Iterable[SimulatedConversation]) -> dict[Cell, Outcomes]:
    """Right, wrong and invalid answers per cell; a chat that failed for no fault of the simulator's is no answer."""
    outcomes: dict[Cell, Outcomes] = {}
    for chat in chats:
        if is_lost(chat):
            continue
        right = chat.letter == study.questions[chat.question_id].answer
        invalid = chat.letter is None
        cell = (chat.question_id, chat.assistant)
        outcomes[cell] = outcomes.get(cell, Outcomes()) + Outcomes(right, not right and not invalid, invalid)
    return outcomes


def expected_predictions(chats: Iterable[SimulatedConversation], cells: AbstractSet[Cell]) -> dict[Cell, Prediction]:
    """Accuracy per cell if each chat's last letter counts with its probability instead of being drawn.

    The same mean as the sampled accuracy, and less noise (models/answer_probabilities.py). A chat that ended without an
    answer counts as wrong, as there; a cell in which an answer came without its probabilities is left out.
    """
    shares: dict[Cell, list[float | None]] = {}
    for chat in chats:
        if not is_lost(chat) and (cell := (chat.question_id, chat.assistant)) in cells:
            answered = chat.termination in ("answered", "forced")
            shares.setdefault(cell, []).append(chat.expected_correct if answered else 0.0)
    known = {cell: [share for share in found if share is not None] for cell, found in shares.items()}
    return {
        cell: Prediction(sum(found) / len(found), len(found))
        for cell, found in known.items()
        if len(found) == len(shares[cell])
    }


def is_lost(chat: SimulatedConversation) -> bool:
    """Whether a chat says nothing about the simulator: it failed, and not because the simulator was silent."""
    return chat.termination == "failed" and chat.reason != EMPTY_TURN


def complete_cells(chats: Iterable[SimulatedConversation], conversations: int) -> frozenset[Cell]:
    """Cells that have `conversations` finished chats; failed ones count as finished, transient failures do not."""
    found = Counter((chat.question_id, chat.assistant) for chat in chats if not chat.transient)
    return frozenset(cell for cell, count in found.items() if count >= conversations)


def predictions(outcomes: Mapping[Cell, Outcomes], treatment: Treatment) -> dict[Cell, Prediction]:
    """Accuracy per cell; cells without an answer under this treatment are left out."""
    return {
        cell: Prediction(accuracy, outcome.count(treatment))
        for cell, outcome in outcomes.items()
        if (accuracy := outcome.accuracy(treatment)) is not None
    }


def agreement_figures(
    human: Mapping[Cell, Prediction], predicted: Mapping[Cell, Prediction], source: str, part: str = WHOLE
) -> Iterator[Figure]:
    """Agreement per assistant, pooled, and as mean over assistants, over the cells that both sides have."""
    assistants = sorted({assistant for _, assistant in human})
    per_assistant: dict[str, dict[str, Value]] = {}
    for name in assistants:
        cells = [cell for cell in human if cell[1] == name]
        per_assistant[name] = _agreement_values(human, predicted, cells)
    rows = {**per_assistant, EVERY_ASSISTANT: _agreement_values(human, predicted, list(human))}
    if len(assistants) > 1:
        rows[MEAN_OF_ASSISTANTS] = {
            metric: mean_value([per_assistant[name][metric] for name in assistants])
            for metric in (*AGREEMENT_METRICS[1:], "accuracy")
        }
    for name, values in rows.items():
        yield from (Figure(name, source, metric, value, part) for metric, value in values.items())


def _agreement_values(
    human: Mapping[Cell, Prediction], predicted: Mapping[Cell, Prediction], cells: Sequence[Cell]
) -> dict[str, Value]:
    pairs = pair_up({cell: human[cell] for cell in cells}, predicted)
    scored = agreement(pairs)
    values: dict[str, Value] = {metric: getattr(scored, metric) for metric in AGREEMENT_METRICS}
    return {**values, "accuracy": mean_value([pair.simulated for pair in pairs])}


def pair_up(human: Mapping[Cell, Prediction], predicted: Mapping[Cell, Prediction]) -> list[QuestionAccuracy]:
    """Both accuracies of every cell that both sides have, in the order of `human`."""
    return [
        QuestionAccuracy(*cell, person.accuracy, predicted[cell].accuracy, person.count, predicted[cell].count)
        for cell, person in human.items()
        if cell in predicted
    ]
