"""Results in the terminal: the main table and small plots, all from files that are there; nothing is computed anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.measures.agreement import QuestionAccuracy
from chatbench.measures.figures import FINE_TUNED, PEOPLE, UNTRAINED
from chatbench.protocol.prepared_data import load_manifest, read_split
from chatbench.steps.detail_grids import bounds_grid
from chatbench.steps.grids import Grid, print_grids
from chatbench.steps.main_table import main_grids
from chatbench.steps.question_files import read_question_files
from chatbench.steps.report_questions import pooled_accuracies
from chatbench.steps.results_folder import Shown, is_prepared
from chatbench.steps.results_table import footnotes, published_grid
from chatbench.steps.score_files import read_score_table
from chatbench.steps.score_table import ScoreTable, comparable
from chatbench.steps.simulate import study_of
from chatbench.steps.terminal_plots import TurnCounts, scatter_lines, split_grid, termination_grid, turn_grid
from chatbench.studies.simulations import log_path, read_conversations

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class ModelResults:
    """What is shown of one model; `missing` says what could not be found, and why."""

    key: str
    table: ScoreTable
    cells: tuple[QuestionAccuracy, ...]
    turns: TurnCounts
    missing: tuple[str, ...] = ()


def show(shown: Shown) -> list[ModelResults]:
    """The results of the models that are scored.

    Raises:
        ChatbenchError: none is scored, or two are of different data, splits or protocol.
    """
    scored = [key for key in shown.models if (shown.results / "scores" / f"{key}.json").exists()]
    if not scored:
        raise ChatbenchError(
            f"{shown.results}: no scores of {', '.join(shown.models)}",
            fix=f"chatbench eval-chatbench {shown.models[0]} --results {shown.results}",
        )
    left_out = [f"{key}: not scored yet; chatbench eval-chatbench {key}" for key in shown.models if key not in scored]
    tables = [read_score_table(shown.results / "scores", key) for key in scored]
    comparable(tables)
    found = [_results_of(key, table, shown) for key, table in zip(scored, tables, strict=True)]
    first = found[0]
    found[0] = ModelResults(first.key, first.table, first.cells, first.turns, (*first.missing, *left_out))
    return found


def _results_of(key: str, table: ScoreTable, shown: Shown) -> ModelResults:
    cells, missing = question_accuracies(shown.results / "scores", key)
    people, no_people = _people_turns(shown.data, table.splits)
    simulated = {
        source: _simulated_turns(shown.results, key, table.splits, untrained=source == UNTRAINED)
        for source in (FINE_TUNED, UNTRAINED)
    }
    turns: TurnCounts = {source: counts for source, counts in {PEOPLE: people, **simulated}.items() if counts}
    return ModelResults(key, table, tuple(cells), turns, (*missing, *no_people))


def question_accuracies(scores: Path, key: str) -> tuple[list[QuestionAccuracy], list[str]]:
    """The fine-tuned simulator's accuracy beside people's, per question and assistant, and what is missing.

    A question that several splits hold out is one point, with the chats of all of them.
    """
    if not (scores / f"{key}.questions.csv").exists():
        return [], [f"{key}: no {key}.questions.csv, so no figure of single questions; chatbench eval-chatbench {key}"]
    pooled = pooled_accuracies(read_question_files(scores, key, f"chatbench eval-chatbench {key}"))
    people, simulated = pooled.get(PEOPLE, {}), pooled.get(FINE_TUNED, {})
    cells = [cell for cell in simulated if cell in people]
    return [
        QuestionAccuracy(
            *cell, people[cell].accuracy, simulated[cell].accuracy, people[cell].count, simulated[cell].count
        )
        for cell in cells
    ], []


def _people_turns(data: Path, splits: Sequence[str]) -> tuple[Counter[int], list[str]]:
    """User turns of people's chats about questions that a split holds out, each chat once, as on the page."""
    if not is_prepared(data):
        return Counter(), [f"{data}: no prepared splits there, so no turns of people's chats; give --data"]
    manifest = load_manifest(data)
    try:
        chats = study_of(manifest).conversations
    except ChatbenchError as error:
        return Counter(), [f"no turns of people's chats: {error.found}"]
    held_out = {question_id for split_id in splits for question_id in read_split(data, split_id).question_ids("test")}
    return Counter(chat.user_turns for chat in chats if chat.question_id in held_out), []


def _simulated_turns(results: Path, key: str, splits: Sequence[str], *, untrained: bool) -> Counter[int]:
    """User turns of simulated chats that did not fail, over all splits."""
    paths = [log_path(results, key, split_id, untrained=untrained) for split_id in splits]
    return Counter(
        sum(turn.role == "user" for turn in chat.turns)
        for path in paths
        if path.exists()
        for chat in read_conversations(path)
        if chat.termination != "failed"
    )


def print_results(found: Sequence[ModelResults], console: Console | None = None, *, published: bool = False) -> None:
    """Prints main table, bounds, plots and footnotes, within the width of the terminal."""
    from rich.console import Console as RichConsole

    screen = console or RichConsole()
    tables = [model.table for model in found]
    print_grids([*main_grids(tables), *map(_bounds, tables)], (), screen)
    for model in found:
        _print_scatter(model, screen)
    plots: list[Grid] = [split_grid(tables)]
    for model in found:
        plots += [termination_grid(model.table), turn_grid(model.table.model, model.turns)]
    if published:
        plots.append(published_grid())
    notes = ["floor: the best baseline of each score, or the untrained simulator; chatbench table names it"]
    notes += [line for model in found for line in (*model.missing, *footnotes(model.table))]
    print_grids([grid for grid in plots if grid.rows], notes, screen)


def _bounds(table: ScoreTable) -> Grid:
    """Without its last column, which says whose the floors are and is too wide for most terminals."""
    grid = bounds_grid(table)
    return Grid(grid.title, grid.header[:-1], tuple(row[:-1] for row in grid.rows))


def _print_scatter(model: ModelResults, screen: Console) -> None:
    from rich.text import Text

    if not model.cells:
        return
    title = f"{model.table.model}: accuracy of people (upwards) and of simulated users (to the right)"
    screen.print(Text(title, style="bold"))
    for line in scatter_lines([(cell.simulated, cell.human) for cell in model.cells]):
        screen.print(Text(line))
    note = "  digits count questions, once per assistant; + ten and more; / both agree"
    screen.print(Text(note, style="dim"), end="\n\n")
