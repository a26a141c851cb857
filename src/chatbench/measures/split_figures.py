r"""All figures of one split, from what people did and what was simulated on the same held-out questions.

A *cell* is a (question, assistant). The scored cells are those with human answers and a full set of simulated chats;
every baseline is computed on exactly these cells, so that all rows of a table speak of the same questions. Text
measures and habits (turns, endings, numbers) use the chats themselves.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators; docs/protocol.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from chatbench.core.records import SimulatedConversation, Study, first_prompts
from chatbench.measures.accuracies import (
    Cell,
    Prediction,
    agreement_figures,
    ai_alone_predictions,
    complete_cells,
    constant_predictions,
    human_outcomes,
    pair_up,
    predictions,
    simulated_outcomes,
    user_alone_predictions,
)
from chatbench.measures.agreement import TREATMENTS, Outcomes, QuestionAccuracy, mean_value
from chatbench.measures.figures import AI_ALONE, CONSTANT, DROPPED, EVERY_ASSISTANT, PEOPLE, USER_ALONE, Figure
from chatbench.measures.first_prompts import number_figures, overlap_figures, simulated_first_prompts
from chatbench.measures.habits import chat_figures, people_figures
from chatbench.measures.overlap import Overlap, overlap


@dataclass(frozen=True, slots=True)
class Simulation:
    """The chats of one simulator on one split, and how many were asked for per cell."""

    source: str
    chats: tuple[SimulatedConversation, ...]
    conversations: int


def split_figures(
    study: Study,
    train: AbstractSet[str],
    test: AbstractSet[str],
    simulations: Sequence[Simulation],
    human_overlaps: Mapping[str, Overlap | None],
) -> list[Figure]:
    """Every figure of one split.

    Args:
        train, test: question ids of the two sides.
        simulations: the scored simulator first, then those to compare it with; each on the test questions only.
        human_overlaps: `human_overlap` of each test question (it does not depend on the split, so it is made once).
    """
    cells = scored_cells(study, test, simulations[0])
    human = {cell: p for cell, p in predictions(human_outcomes(study, test), "counted wrong").items() if cell in cells}
    real = [chat for chat in study.conversations if chat.question_id in test]
    figures = [*_accuracy_figures(study, train, human, simulations), *people_figures(real)]
    prompts = first_prompts(real)
    figures += overlap_figures([o for q in sorted(test) if (o := human_overlaps.get(q))], PEOPLE)
    figures += number_figures(study, prompts, PEOPLE)
    for simulation in simulations:
        spoken = simulated_first_prompts(simulation.chats)
        both = sorted(spoken.keys() & prompts.keys())
        figures += overlap_figures([overlap(spoken[q], prompts[q]) for q in both], simulation.source)
        figures += number_figures(study, spoken, simulation.source)
        figures += chat_figures(simulation.chats, simulation.source)
    return figures


def first_chats(simulation: Simulation, conversations: int) -> Simulation:
    """The simulation as if it had been stopped after `conversations` chats per cell.

    An accuracy from few chats is noisy, which costs correlation and adds error: a simulator with many chats is to be
    compared with one of few by its own first few.
    """
    kept = tuple(chat for chat in simulation.chats if chat.index < conversations)
    noun = "chat" if conversations == 1 else "chats"
    return Simulation(f"{simulation.source}, first {conversations} {noun}", kept, conversations)


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


def _complete_outcomes(study: Study, simulation: Simulation) -> dict[Cell, Outcomes]:
    complete = complete_cells(simulation.chats, simulation.conversations)
    return {cell: o for cell, o in simulated_outcomes(study, simulation.chats).items() if cell in complete}


def _accuracy_figures(
    study: Study, train: AbstractSet[str], human: Mapping[Cell, Prediction], simulations: Sequence[Simulation]
) -> Iterator[Figure]:
    sources: dict[str, Mapping[Cell, Prediction]] = {}
    scored, *others = simulations
    fewer = sorted({other.conversations for other in others if other.conversations < scored.conversations})
    for simulation in (scored, *others):
        outcomes = _complete_outcomes(study, simulation)
        for treatment in TREATMENTS:
            ending = DROPPED if treatment == "dropped" else ""
            sources[simulation.source + ending] = predictions(outcomes, treatment)
    for simulation in (first_chats(scored, conversations) for conversations in fewer):
        sources[simulation.source] = predictions(_complete_outcomes(study, simulation), "counted wrong")
    sources[CONSTANT] = constant_predictions(study, train, human)
    sources[USER_ALONE] = user_alone_predictions(study, human)
    sources |= {AI_ALONE + method: cells for method, cells in ai_alone_predictions(study, human.keys()).items()}
    for source, predicted in sources.items():
        if predicted:
            yield from agreement_figures(human, predicted, source)
    for name in (*sorted({assistant for _, assistant in human}), EVERY_ASSISTANT):
        values = [p.accuracy for (_, assistant), p in human.items() if name in (assistant, EVERY_ASSISTANT)]
        yield Figure(name, PEOPLE, "accuracy", mean_value(list(values)))
