r"""Results in the terminal: the main table and small plots, all from files that are there; nothing is computed anew.

Tables for papers: grids as booktabs tables that compile, whatever text stands in their cells.

pdflatex with its default fonts is the measure: a character that it does not have is written as `[U+4E2D]`. Unrounded
figures follow their row as a comment.

What `chatbench show` shows, for other programs and for papers: JSON, CSV and LaTeX with unrounded figures.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import QuestionAccuracy, Undefined, Value
from chatbench.metrics.intervals import Interval
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, PEOPLE, TERMINATIONS
from chatbench.report.grids import EMPTY, Grid, print_grids
from chatbench.report.page_data import pooled_accuracies
from chatbench.report.plots import TurnCounts, scatter_lines, split_grid, termination_grid, turn_grid
from chatbench.report.results_folder import Shown
from chatbench.report.tables import (
    AGREEMENT_COLUMNS,
    TEXT_COLUMNS,
    MainFigure,
    bounds_grid,
    footnotes,
    main_figures,
    main_grids,
    published_grid,
    row_name,
    together,
)
from chatbench.scoring.score_files import bound_as_json, read_question_files, read_score_table, value_as_json
from chatbench.scoring.score_table import ScoreTable, comparable
from chatbench.simulation.log import read_conversations

if TYPE_CHECKING:
    from rich.console import Console

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # the default fonts have other signs in the places of < > and |
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\texttt{\char34}",  # in other fonts, and with babel, it is another sign or a command
    "[": "{[}",  # behind \\ a bracket would be read as a distance, an asterisk as part of the command
    "*": "{*}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2013": r"\textendash{}",  # not --: hyphens that stand together are kept apart below
    "\u2014": r"\textemdash{}",
    "…": r"\dots{}",
}
LONGEST_NAME = 24
"""Characters of a row's name up to which no name is broken into lines."""
LONGEST_HEADER = 12
"""The same of a column's name."""
_LIGATURES = re.compile(r"([-',])(?=\1)")
"""Two of these would become one other sign: a dash in mistralai--Mistral-7B."""
_LATIN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ")
"""Letters beyond ASCII that the default fonts can set."""


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it, in a cell or anywhere else.

    >>> escaped("50 % of $x_1$"), escaped("--"), escaped("中")
    ('50 \\% of \\$x\\_1\\$', '-{}-', '{[}U+4E2D]')
    """
    plain = "".join(map(_escaped_character, unicodedata.normalize("NFC", text)))
    return _LIGATURES.sub(r"\1{}", plain)


def _escaped_character(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isspace():
        return " "
    if " " < character <= "~" or character in _LATIN:
        return character
    return f"{{[}}U+{ord(character):04X}]"


def latex_table(grid: Grid, label: str, exact: Mapping[str, str] | None = None) -> str:
    """One `table` environment, which needs `\\usepackage{booktabs}`; a rule stands where the kind of rows changes.

    Args:
        label: what `\\ref` calls it; letters, digits, colons and hyphens.
        exact: by row name, its figures unrounded; each goes into a comment behind its row.
    """
    widest = max((len(row[0]) for row in grid.rows), default=0)
    broken = widest > LONGEST_NAME
    columns = (r"p{0.27\linewidth}" if broken else "l") + "r" * (len(grid.header) - 1)
    lines = [
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(grid.title)}.}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join([escaped(grid.header[0]), *map(_header, grid.header[1:])]) + r" \\",
        r"\midrule",
    ]
    kind = _kind(grid.rows[0][0]) if grid.rows else ""
    for row in grid.rows:
        if _kind(row[0]) != kind:
            kind = _kind(row[0])
            lines.append(r"\midrule")
        lines.append(r"\raggedright " * broken + _line(row))
        lines += [f"% {_one_line(exact[row[0]])}"] if exact and row[0] in exact else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"])


def _kind(name: str) -> str:
    """`baseline` of `baseline: user alone`, `ceiling` of `ceiling, 10 chats`; all others are one kind."""
    return name.partition(":")[0] if name.startswith("baseline: ") else "ceiling" * name.startswith("ceiling, ")


def _line(cells: Sequence[str]) -> str:
    return " & ".join("--" if cell == EMPTY else _numbers(escaped(cell)) for cell in cells) + r" \\"


def _header(name: str) -> str:
    """A long name of a column on two lines, parted at the blank nearest its middle."""
    blanks = [place for place, character in enumerate(name) if character == " "]
    if len(name) <= LONGEST_HEADER or not blanks:
        return escaped(name)
    middle = min(blanks, key=lambda place: abs(place - len(name) / 2))
    return rf"\shortstack[r]{{{escaped(name[:middle])}\\{escaped(name[middle + 1 :])}}}"


def _numbers(cell: str) -> str:
    """A cell that begins with a minus sign gets one, not a hyphen."""
    return re.sub(r"^-(?=\d)", "$-$", cell)


def _one_line(text: str) -> str:
    """A comment ends where its line does, whichever character ends it."""
    return "".join(character if character.isprintable() and character.isascii() else "?" for character in text)


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
    scored = [key for key in shown.models if shown.workspace.scores(key).exists()]
    if not scored:
        raise ChatbenchError(
            f"{shown.workspace.results}: no scores of {', '.join(shown.models)}",
            fix=f"chatbench eval-chatbench {shown.models[0]} --results {shown.workspace.results}",
        )
    left_out = [f"{key}: not scored yet; chatbench eval-chatbench {key}" for key in shown.models if key not in scored]
    tables = [read_score_table(shown.workspace.scores(key).parent, key) for key in scored]
    comparable(tables)
    found = [_results_of(key, table, shown) for key, table in zip(scored, tables, strict=True)]
    first = found[0]
    found[0] = ModelResults(first.key, first.table, first.cells, first.turns, (*first.missing, *left_out))
    return found


def _results_of(key: str, table: ScoreTable, shown: Shown) -> ModelResults:
    cells, missing = question_accuracies(shown.workspace.scores(key).parent, key)
    people, no_people = _people_turns(shown.workspace, table.splits)
    simulated = {
        source: _simulated_turns(shown.workspace, key, table.splits, base_model=source == BASE_MODEL)
        for source in (FINE_TUNED, BASE_MODEL)
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


def _people_turns(workspace: Workspace, splits: Sequence[str]) -> tuple[Counter[int], list[str]]:
    """User turns of people's chats about questions that a split holds out, each chat once, as on the page."""
    if not workspace.is_prepared:
        return Counter(), [f"{workspace.data}: no prepared splits there, so no turns of people's chats; give --data"]
    try:
        chats = workspace.study.conversations
    except ChatbenchError as error:
        return Counter(), [f"no turns of people's chats: {error.found}"]
    held_out = {question_id for split_id in splits for question_id in workspace.split(split_id).question_ids("test")}
    return Counter(chat.user_turns for chat in chats if chat.question_id in held_out), []


def _simulated_turns(workspace: Workspace, key: str, splits: Sequence[str], *, base_model: bool) -> Counter[int]:
    """User turns of simulated chats that did not fail, over all splits."""
    paths = [workspace.conversations(key, split_id, base_model=base_model) for split_id in splits]
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
    notes = ["floor: the best baseline of each score, or the base model; chatbench table names it"]
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


CSV_COLUMNS = (
    "model", "source", "kind", "assistant", "metric", "mean", "standard_error", "corrected_standard_error", "splits",
    "low", "high", "floor", "ceiling", "undefined_because", "signature_id",
)  # fmt: skip


def as_json(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """Everything that is shown: figures with their values per split, questions, endings, turns, notes."""
    tables = [model.table for model in found]
    content = {
        "figures": [_figure(figure) for figure in main_figures(tables, with_published=published)],
        "models": [
            {
                "model": model.table.model,
                "signature_id": model.table.signature_id,
                "signature": dict(model.table.signature),
                "splits": list(model.table.splits),
                "questions": [asdict(cell) for cell in model.cells],
                "endings": _endings(model),
                "user_turns": {s: {str(n): c for n, c in sorted(each.items())} for s, each in model.turns.items()},
                "notes": [*model.missing, *footnotes(model.table)],
            }
            for model in found
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _figure(figure: MainFigure) -> dict[str, object]:
    written: dict[str, object] = {
        "model": figure.model,
        "source": figure.source,
        "kind": figure.kind,
        "assistant": figure.assistant,
        "metric": figure.metric,
        "mean": value_as_json(figure.estimate.mean),
        "standard_error": value_as_json(figure.estimate.standard_error),
        "corrected_standard_error": value_as_json(figure.estimate.corrected_error),
        "per_split": {split: value_as_json(value) for split, value in figure.by_split.items()},
    }
    if figure.interval is not None:
        written["interval"] = bound_as_json(figure.interval)
    if figure.bounds is not None:
        written["floor"] = value_as_json(figure.bounds.floor)
        written["floor_source"] = figure.bounds.floor_source
        written["ceiling"] = value_as_json(figure.bounds.ceiling)
    return written


def _endings(model: ModelResults) -> dict[str, dict[str, object]]:
    """Mean shares over splits, by source."""
    estimates = model.table.estimates()
    found: dict[str, dict[str, object]] = {}
    for source in (FINE_TUNED, BASE_MODEL):
        for ending in TERMINATIONS:
            estimate = estimates.get((EVERY_ASSISTANT, source, f"{ending}_share"))
            if estimate is not None:
                found.setdefault(source, {})[ending] = value_as_json(estimate.mean)
    return found


def as_csv(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """One figure a line; a cell is empty where a value does not exist or does not apply."""
    signatures = {model.table.model: model.table.signature_id for model in found}
    every = signatures[found[0].table.model] if len(found) == 1 else ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for figure in main_figures([model.table for model in found], with_published=published):
        of_ours = figure.kind != "published"
        estimate, interval, bounds = figure.estimate, figure.interval, figure.bounds
        ends = (interval.low, interval.high) if isinstance(interval, Interval) else (None, None)
        limits = (bounds.floor, bounds.ceiling) if bounds else (None, None)
        values = [estimate.mean, estimate.standard_error, estimate.corrected_error]
        why = estimate.mean.reason if isinstance(estimate.mean, Undefined) else ""
        writer.writerow(
            [figure.model, figure.source, figure.kind, figure.assistant, figure.metric, *map(_exact, values),
             estimate.n if of_ours else "", *map(_exact, (*ends, *limits)), why,
             signatures.get(figure.model, every) if of_ours else ""]
        )  # fmt: skip
    return text.getvalue()


def _exact(value: Value | None) -> str:
    """All digits, so that it reads back as the same number."""
    return "" if value is None or isinstance(value, Undefined) else repr(value)


def as_latex(found: Sequence[ModelResults], *, published: bool = False) -> str:
    """The main table as two booktabs tables, agreement and texts, and the published rows as a third."""
    tables = [model.table for model in found]
    figures = main_figures(tables)
    grids = [*main_grids(tables, with_errors=True), *([published_grid()] if published else [])]
    lines = [r"% needs \usepackage{booktabs}; errors are standard errors over splits"]
    lines += [f"% signature {table.signature_id}" for table in tables]
    for number, grid in enumerate(grids, start=1):
        is_agreement = set(grid.header) & {column.header for column in AGREEMENT_COLUMNS}
        exact = _exact_agreement(figures, together(tables[0])) if is_agreement else _exact_texts(figures)
        lines.append(latex_table(_short_headers(grid), f"tab:chatbench-{number}", exact))
    return "\n".join([*lines, ""])


def _short_headers(grid: Grid) -> Grid:
    """A paper's column is narrow, and its readers know the abbreviation."""
    return Grid(grid.title, tuple("MAE" if name == "mean absolute error" else name for name in grid.header), grid.rows)


def _exact_agreement(figures: Sequence[MainFigure], assistant: str) -> dict[str, str]:
    """By row of the table of agreement, its figures unrounded."""
    names = {column.metric: column.header for column in AGREEMENT_COLUMNS}
    rows: dict[str, list[str]] = {}
    for figure in figures:
        if figure.assistant == assistant and figure.metric in names:
            rows.setdefault(row_name(figure), []).append(
                f"{names[figure.metric]} {_exact(figure.estimate.mean) or 'undefined'}"
            )
    return {row: ", ".join(texts) for row, texts in rows.items()}


def _exact_texts(figures: Sequence[MainFigure]) -> dict[str, str]:
    """By row of the table of texts, whichever way round it stands, its figures unrounded."""
    names = {column.metric: column.header for column in TEXT_COLUMNS}
    rows: dict[str, list[str]] = {}
    for figure in figures:
        if figure.assistant == EVERY_ASSISTANT and figure.metric in names:
            mean = _exact(figure.estimate.mean) or "undefined"
            rows.setdefault(names[figure.metric], []).append(f"{figure.label} {mean}")
            rows.setdefault(figure.label, []).append(f"{names[figure.metric]} {mean}")
    return {row: ", ".join(texts) for row, texts in rows.items()}
