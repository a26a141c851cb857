r"""Accuracy per cell (question, assistant) of people, of simulators and of the baselines that they must beat.

A simulated chat without a valid letter is an invalid answer. A chat that broke down (an endpoint that was not there) is
no answer at all, unless it was the simulator that had nothing to say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from chatbench.core.records import SimulatedConversation, Study
from chatbench.measures.agreement import Outcomes, QuestionAccuracy, Treatment, Value, agreement, mean_value
from chatbench.measures.figures import AGREEMENT_METRICS, EVERY_ASSISTANT, MEAN_OF_ASSISTANTS, Figure

SILENT_SIMULATOR = "the simulator said nothing"
"""Reason of a failed chat that is the simulator's own doing."""

Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one source says about a cell: an accuracy (0..1) from `count` answers."""

    accuracy: float
    count: int


def human_outcomes(study: Study, questions: AbstractSet[str]) -> dict[Cell, Outcomes]:
    """Right and wrong user-AI answers per cell, as the study recorded them."""
    outcomes: dict[Cell, Outcomes] = {}
    for answer in study.answers:
        if answer.kind == "user-AI" and answer.question_id in questions:
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


def is_lost(chat: SimulatedConversation) -> bool:
    """Whether a chat says nothing about the simulator: a speaker broke down, and it was not the simulator's silence."""
    return chat.termination == "failed" and chat.reason != SILENT_SIMULATOR


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


def constant_predictions(study: Study, train: AbstractSet[str], cells: Iterable[Cell]) -> dict[Cell, Prediction]:
    """The same guess for every question: the mean human accuracy of the train questions with that assistant."""
    by_assistant: dict[str, list[float]] = {}
    for (_, assistant), prediction in predictions(human_outcomes(study, train), "counted wrong").items():
        by_assistant.setdefault(assistant, []).append(prediction.accuracy)
    guess = {assistant: math.fsum(values) / len(values) for assistant, values in by_assistant.items()}
    counts = {assistant: len(values) for assistant, values in by_assistant.items()}
    return {cell: Prediction(guess[cell[1]], counts[cell[1]]) for cell in cells if cell[1] in guess}


def user_alone_predictions(study: Study, cells: Iterable[Cell]) -> dict[Cell, Prediction]:
    """How often people are right alone, whichever assistant they were to work with later."""
    outcomes: dict[str, Outcomes] = {}
    for answer in study.answers:
        if answer.kind == "user-alone":
            known = outcomes.get(answer.question_id, Outcomes())
            outcomes[answer.question_id] = known + Outcomes(answer.correct, not answer.correct)
    by_cell = {cell: outcomes[cell[0]] for cell in cells if cell[0] in outcomes}
    return predictions(by_cell, "counted wrong")


def ai_alone_predictions(study: Study, cells: AbstractSet[Cell]) -> dict[str, dict[Cell, Prediction]]:
    """Per method, how often the assistant alone is right (invalid answers are counted wrong by the study)."""
    by_method: dict[str, dict[Cell, Prediction]] = {}
    for score in study.ai_alone:
        cell = (score.question_id, score.assistant)
        if cell in cells and score.count > 0:
            by_method.setdefault(score.method, {})[cell] = Prediction(score.accuracy, score.count)
    return dict(sorted(by_method.items()))


def agreement_figures(
    human: Mapping[Cell, Prediction], predicted: Mapping[Cell, Prediction], source: str
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
        yield from (Figure(name, source, metric, value) for metric, value in values.items())


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
