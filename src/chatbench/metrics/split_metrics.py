r"""All figures of one split, from what people did and what was simulated on the same held-out questions.

Agreement is measured on the scored cells (`split_cells`), for every source alike. Text measures and habits (turns,
endings, numbers) use the chats themselves.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators; docs/protocol.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from chatbench.core.records import Conversation, Study, first_prompts
from chatbench.metrics.accuracies import Cell, Prediction, agreement_figures, human_outcomes, predictions
from chatbench.metrics.agreement import Value, mean_value
from chatbench.metrics.ceilings import ceilings
from chatbench.metrics.cells import Simulation, SplitCells, gap_values, split_cells
from chatbench.metrics.first_prompts import (
    chat_figures,
    number_figures,
    overlap_figures,
    overlap_values,
    people_figures,
    question_copied,
    simulated_first_prompts,
)
from chatbench.metrics.names import (
    CONDITION,
    CONSTANT,
    DROPPED,
    EVERY_ASSISTANT,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    QUESTION_COPIED,
    SUBSET,
    WHOLE,
    Figure,
    MetricKey,
    ceiling_source,
)
from chatbench.metrics.overlap import Overlap, overlap


@dataclass(frozen=True, slots=True)
class SplitMeasures:
    """What was measured on one split: its figures, and what their uncertainty is computed from.

    `parts` are the cells of each condition and subset. `question_values` are the values of each question of the figures
    that are means over questions.
    """

    figures: tuple[Figure, ...]
    cells: SplitCells
    parts: Mapping[str, SplitCells]
    question_values: Mapping[MetricKey, Mapping[str, float]]


def split_measures(
    study: Study,
    train: AbstractSet[str],
    test: AbstractSet[str],
    simulations: Sequence[Simulation],
    human_overlaps: Mapping[str, Overlap | None],
) -> SplitMeasures:
    """Everything about one split.

    Args:
        train, test: question ids of the two sides.
        simulations: the scored simulator first, then those to compare it with; each on the test questions only.
        human_overlaps: `human_overlap` of each test question (it does not depend on the split, so it is made once).
    """
    cells = split_cells(study, train, test, simulations)
    parts = part_cells(study, test, cells)
    chats = [simulation.conversations for simulation in simulations]
    real = [chat for chat in study.conversations if chat.question_id in test]
    overlaps = _overlaps(study, real, simulations, {q: o for q in sorted(test) if (o := human_overlaps.get(q))})
    gaps = dict(gap_values(cells))
    figures = [
        *(
            figure
            for source, predicted in cells.sources.items()
            for figure in agreement_figures(cells.human, predicted, source)
        ),
        *_people_accuracy(cells.human, WHOLE),
        *ceiling_figures(cells, chats, WHOLE),
        *(Figure(*row, mean_value(list(values.values()))) for row, values in gaps.items()),
        *(figure for source, found in overlaps.items() for figure in overlap_figures(found, source)),
        *_chat_figures(study, real, simulations),
        *(figure for part, of_part in parts.items() for figure in _part_figures(of_part, chats, simulations, part)),
    ]
    texts: dict[MetricKey, Mapping[str, float]] = {
        (EVERY_ASSISTANT, source, metric): values
        for source, found in overlaps.items()
        for metric, values in overlap_values(found).items()
        if values
    }
    return SplitMeasures(tuple(figures), cells, parts, {**texts, **gaps})


def part_cells(study: Study, test: AbstractSet[str], cells: SplitCells) -> dict[str, SplitCells]:
    """The scored cells of each condition (its answers only) and each subset, where there are several."""
    parts: dict[str, SplitCells] = {}
    conditions = sorted({answer.condition for answer in study.answers if answer.kind == "user-AI"})
    for condition in conditions if len(conditions) > 1 else []:
        human = predictions(human_outcomes(study, test, condition), "counted wrong")
        parts[CONDITION + condition] = cells.among(human)
    subset_of = {question_id: study.questions[question_id].subset for question_id, _ in cells.human}
    subsets = sorted(set(subset_of.values()))
    for subset in subsets if len(subsets) > 1 else []:
        parts[SUBSET + subset] = cells.among({c: p for c, p in cells.human.items() if subset_of[c[0]] == subset})
    return {part: of_part for part, of_part in parts.items() if of_part.human}


def ceiling_figures(cells: SplitCells, conversations: Sequence[int], part: str) -> Iterator[Figure]:
    """The human noise ceiling per assistant, pooled, and as mean of assistants, by number of chats per cell."""
    chats: list[int | None] = [*dict.fromkeys(conversations), None]
    rows: dict[str, list[dict[str, Value]]] = {}
    for name in (*cells.assistants, EVERY_ASSISTANT):
        rows[name] = ceilings(_of(cells.human, name), chats, seed=0)
    if len(cells.assistants) > 1:
        rows[MEAN_OF_ASSISTANTS] = [
            {metric: mean_value([rows[name][place][metric] for name in cells.assistants]) for metric in values}
            for place, values in enumerate(rows[EVERY_ASSISTANT])
        ]
    for name, per_count in rows.items():
        for count, values in zip(chats, per_count, strict=True):
            yield from (Figure(name, ceiling_source(count), metric, value, part) for metric, value in values.items())


def _of(human: Mapping[Cell, Prediction], assistant: str) -> dict[Cell, Prediction]:
    return {cell: person for cell, person in human.items() if assistant in (EVERY_ASSISTANT, cell[1])}


def _people_accuracy(human: Mapping[Cell, Prediction], part: str) -> Iterator[Figure]:
    for name in (*sorted({assistant for _, assistant in human}), EVERY_ASSISTANT):
        people = [person.accuracy for person in _of(human, name).values()]
        yield Figure(name, PEOPLE, "accuracy", mean_value(list(people)), part)


def _part_figures(
    cells: SplitCells, chats: Sequence[int], simulations: Sequence[Simulation], part: str
) -> Iterator[Figure]:
    """Agreement on a part: of the simulators, of the constant, and the ceiling; all others only on the whole."""
    for source in [*(s.source + ending for s in simulations for ending in ("", DROPPED)), CONSTANT]:
        if source in cells.sources:
            yield from agreement_figures(cells.human, cells.sources[source], source, part)
    yield from _people_accuracy(cells.human, part)
    yield from ceiling_figures(cells, chats, part)


def _overlaps(
    study: Study, real: Sequence[Conversation], simulations: Sequence[Simulation], people: Mapping[str, Overlap]
) -> dict[str, dict[str, Overlap]]:
    """Overlap of first prompts with people's, by source and question."""
    prompts = first_prompts(real)
    found = {PEOPLE: dict(people), QUESTION_COPIED: question_copied(study, prompts)}
    for simulation in simulations:
        spoken = simulated_first_prompts(simulation.chats)
        both = sorted(spoken.keys() & prompts.keys())
        found[simulation.source] = {
            question_id: overlap(spoken[question_id], prompts[question_id]) for question_id in both
        }
    return found


def _chat_figures(study: Study, real: Sequence[Conversation], simulations: Sequence[Simulation]) -> Iterator[Figure]:
    yield from people_figures(real)
    yield from number_figures(study, first_prompts(real), PEOPLE)
    for simulation in simulations:
        yield from number_figures(study, simulated_first_prompts(simulation.chats), simulation.source)
        yield from chat_figures(simulation.chats, simulation.source)
