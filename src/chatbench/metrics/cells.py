r"""The scored cells of one split: how often people were right in each, and what every source says about it.

A *cell* is a (question, assistant). The scored cells are those with human answers and a full set of simulated chats;
every baseline is asked about exactly these, so that all rows of a table speak of the same questions.

The gap between two assistants: how much more often people are right with the one than with the other.

A benchmark is read for such gaps, so a simulator should preserve them. A gap is the mean difference of accuracy over
the questions for which both assistants' cells are there, with people and with the source; its error is the source's gap
minus that of people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import combinations

from chatbench.core.records import SimulatedConversation, Study
from chatbench.metrics.accuracies import (
    Cell,
    Prediction,
    complete_cells,
    expected_predictions,
    human_outcomes,
    pair_up,
    predictions,
    simulated_outcomes,
)
from chatbench.metrics.agreement import TREATMENTS, Outcomes, QuestionAccuracy
from chatbench.metrics.baselines import baseline_predictions
from chatbench.metrics.names import DROPPED, EXPECTED, PEOPLE, first_chats_source


@dataclass(frozen=True, slots=True)
class Simulation:
    """The chats of one simulator on one split, and how many were asked for per cell."""

    source: str
    chats: tuple[SimulatedConversation, ...]
    conversations: int


@dataclass(frozen=True, slots=True)
class SplitCells:
    """Human accuracy of the scored cells, sorted; per source, what it predicts for them; per simulator, its outcomes.

    A source may lack a cell.
    """

    human: Mapping[Cell, Prediction]
    sources: Mapping[str, Mapping[Cell, Prediction]]
    outcomes: Mapping[str, Mapping[Cell, Outcomes]]

    @property
    def assistants(self) -> list[str]:
        """The assistants of the scored cells, in alphabetical order."""
        return sorted({assistant for _, assistant in self.human})

    def among(self, human: Mapping[Cell, Prediction]) -> SplitCells:
        """The same predictions against these people's accuracies, over the cells that both have."""
        return SplitCells({cell: human[cell] for cell in self.human if cell in human}, self.sources, self.outcomes)


def split_cells(
    study: Study, train: AbstractSet[str], test: AbstractSet[str], simulations: Sequence[Simulation]
) -> SplitCells:
    """The scored cells of a split; the first simulation says which they are.

    A simulator is there twice, with invalid answers counted wrong and dropped, and once more where the probabilities of
    its answers were recorded, by these. Where a later one has fewer chats, the
    first is there once more with its first few only, as the fair match.
    """
    scored, *others = simulations
    wanted = scored_cells(study, test, scored)
    people = predictions(human_outcomes(study, test), "counted wrong")
    human = {cell: people[cell] for cell in sorted(wanted)}
    sources: dict[str, Mapping[Cell, Prediction]] = {}
    outcomes: dict[str, Mapping[Cell, Outcomes]] = {}
    for simulation in simulations:
        outcomes[simulation.source] = found = _complete_outcomes(study, simulation)
        for treatment in TREATMENTS:
            ending = DROPPED if treatment == "dropped" else ""
            sources[simulation.source + ending] = predictions(found, treatment)
        if any(chat.expected_correct is not None for chat in simulation.chats):
            sources[simulation.source + EXPECTED] = expected_predictions(simulation.chats, found.keys())
    fewer = sorted({other.conversations for other in others if other.conversations < scored.conversations})
    for simulation in (first_chats(scored, conversations) for conversations in fewer):
        sources[simulation.source] = predictions(_complete_outcomes(study, simulation), "counted wrong")
    sources |= baseline_predictions(study, train, human.keys())
    return SplitCells(human, {name: cells for name, cells in sources.items() if cells}, outcomes)


def scored_cells(study: Study, test: AbstractSet[str], simulation: Simulation) -> frozenset[Cell]:
    """Held-out cells with at least one human answer, all their chats, and at least one that did not break down."""
    complete = complete_cells(simulation.chats, simulation.conversations)
    return complete & simulated_outcomes(study, simulation.chats).keys() & human_outcomes(study, test).keys()


def accuracy_pairs(study: Study, test: AbstractSet[str], simulation: Simulation) -> list[QuestionAccuracy]:
    """Human and simulated accuracy of the scored cells, sorted; invalid answers are counted wrong."""
    cells = sorted(scored_cells(study, test, simulation))
    human = predictions(human_outcomes(study, test), "counted wrong")
    simulated = predictions(simulated_outcomes(study, simulation.chats), "counted wrong")
    return pair_up({cell: human[cell] for cell in cells}, simulated)


def first_chats(simulation: Simulation, conversations: int) -> Simulation:
    """The simulation as if it had been stopped after `conversations` chats per cell.

    An accuracy from few chats is noisy, which costs correlation and adds error: a simulator with many chats is to be
    compared with one of few by its own first few.
    """
    kept = tuple(chat for chat in simulation.chats if chat.index < conversations)
    return Simulation(first_chats_source(simulation.source, conversations), kept, conversations)


def _complete_outcomes(study: Study, simulation: Simulation) -> dict[Cell, Outcomes]:
    complete = complete_cells(simulation.chats, simulation.conversations)
    return {cell: o for cell, o in simulated_outcomes(study, simulation.chats).items() if cell in complete}


GAP_METRICS = ("gap", "gap_error")

QuestionValues = dict[str, float]
"""A value per question id."""


def gap_values(cells: SplitCells) -> Iterator[tuple[tuple[str, str, str], QuestionValues]]:
    """((assistants, source, metric), value per question), for every pair of assistants that share a question."""
    for first, second in combinations(cells.assistants, 2):
        name = f"{first} minus {second}"
        people = _differences(cells.human, first, second)
        if people:
            yield (name, PEOPLE, "gap"), people
        for source, predicted in cells.sources.items():
            found = {q: value for q, value in _differences(predicted, first, second).items() if q in people}
            if found:
                yield (name, source, "gap"), found
                yield (name, source, "gap_error"), {q: value - people[q] for q, value in found.items()}


def _differences(accuracies: Mapping[Cell, Prediction], first: str, second: str) -> QuestionValues:
    return {
        question_id: accuracies[question_id, first].accuracy - accuracies[question_id, second].accuracy
        for question_id, assistant in accuracies
        if assistant == first and (question_id, second) in accuracies
    }
