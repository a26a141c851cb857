r"""How sure the figures of a model are: intervals of all that rest on questions, and where the uncertainty comes from.

All figures share one set of draws per part, so that equal data gives equal intervals, whatever else is in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chatbench.core.records import Answer
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import CONDITION, FINE_TUNED, UNTRAINED, WHOLE, Row
from chatbench.measures.intervals import Bound, mean_intervals, source_intervals
from chatbench.measures.resampling import Draws, Resampling
from chatbench.measures.split_cells import SplitCells
from chatbench.measures.split_figures import SplitMeasures
from chatbench.measures.spread import Spread, source_spreads

SIMULATORS = (FINE_TUNED, UNTRAINED)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Intervals by part and row, and the causes of each simulator's uncertainty on the whole."""

    intervals: Mapping[str, Mapping[Row, Bound]] = field(default_factory=dict)
    spreads: Mapping[Row, Spread | Undefined] = field(default_factory=dict)


def score_uncertainty(splits: Sequence[SplitMeasures], answers: Sequence[Answer], told: Resampling) -> Uncertainty:
    """Intervals of every source on the whole and of the simulators on each part; spreads on the whole.

    Args:
        answers: of the study; those about other cells are passed over.
    """
    if told.replicates == 0:
        return Uncertainty()
    whole = [split.cells for split in splits]
    with_texts = {question_id for split in splits for each in split.question_values.values() for question_id in each}
    draws = Draws(whole, answers, told, with_texts)
    sources = list(dict.fromkeys(source for cells in whole for source in cells.sources))
    intervals, spreads = _of_sources(draws, whole, sources, SIMULATORS)
    values: dict[Row, list[Mapping[str, float]]] = {}
    for split in splits:
        for row, of_questions in split.question_values.items():
            values.setdefault(row, []).append(of_questions)
    intervals |= mean_intervals(draws, values)
    found: dict[str, Mapping[Row, Bound]] = {WHOLE: intervals}
    for part in dict.fromkeys(part for split in splits for part in split.parts):
        cells = [split.parts[part] for split in splits if part in split.parts]
        draws = Draws(cells, _answers_of(part, answers), told)
        found[part], _ = _of_sources(draws, cells, [s for s in SIMULATORS if s in sources], ())
    return Uncertainty(found, spreads)


def _answers_of(part: str, answers: Sequence[Answer]) -> Sequence[Answer]:
    if not part.startswith(CONDITION):
        return answers
    return [answer for answer in answers if answer.condition == part.removeprefix(CONDITION)]


def _of_sources(
    draws: Draws, splits: Sequence[SplitCells], sources: Sequence[str], taken_apart: Sequence[str]
) -> tuple[dict[Row, Bound], dict[Row, Spread | Undefined]]:
    by_worker = draws.accuracies_by_worker() if draws.shares_people else None
    by_answer = draws.accuracies_by_answer() if draws.shares_people else None
    intervals: dict[Row, Bound] = {}
    spreads: dict[Row, Spread | Undefined] = {}
    for source in sources:
        cells = [draws.source_cells(split, source) for split in splits if source in split.sources]
        of_source = source_intervals(draws, cells, by_worker, by_answer)
        intervals |= {(name, source, metric): bound for (name, metric), bound in of_source.items()}
        if source in taken_apart:
            found = source_spreads(draws, cells, by_worker, by_answer)
            spreads |= {(name, source, metric): each for (name, metric), each in found.items()}
    return intervals, spreads
