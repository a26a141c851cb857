"""Output of `chatbench show`: the main table and plots in the terminal, or the scores as JSON, CSV and LaTeX.

Everything is read from existing files; nothing is recomputed. Plots are text: bars in the cells of a table, and a
scatter plot whose digits count points. LaTeX tables need booktabs and compile whatever text is in their cells, under
pdflatex with its default fonts: a character that these lack is written as `[U+4E2D]`. JSON, CSV and the comments of
LaTeX contain unrounded numbers.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.core.texts import csv_text, printable
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import QuestionAccuracy, Undefined, Value
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, PEOPLE, TERMINATIONS, Predictor
from chatbench.metrics.pairs import pair_up
from chatbench.report.estimate_table import Entry, estimate_grids, estimate_lines, estimate_notes, read_estimates
from chatbench.report.grids import EMPTY, Grid, build, pieces, print_grids
from chatbench.report.page_chats import run_chats
from chatbench.report.page_data import MOST_TURNS, pooled_accuracies
from chatbench.report.report import Shown, outdated_scores
from chatbench.report.tables import (
    AGREEMENT_COLUMNS,
    TEXT_COLUMNS,
    Column,
    MainScore,
    bar,
    bounds_grid,
    detail_grids,
    footnotes,
    held_out_questions,
    main_grids,
    main_scores,
    published_grid,
    row_name,
    score_grids,
    scored,
    together,
    warnings,
)
from chatbench.scoring.score_files import bounds_as_json, estimate_as_json, plain, read_question_files, read_score_table
from chatbench.scoring.score_table import ScoreTable, comparable

if TYPE_CHECKING:
    from rich.console import Console

SCATTER_ROWS, SCATTER_COLUMNS = 11, 41
"""Vertically tenths of people's accuracy, horizontally fortieths of the simulated one."""

TurnCounts = Mapping[str, Mapping[int, int]]
"""Number of chats by number of user turns, by predictor."""


def scatter_lines(points: Sequence[tuple[float, float]]) -> list[str]:
    """Plot people's accuracy (vertical) against simulated accuracy (horizontal), each in 0..1.

    Args:
        points: (simulated, people's).

    Returns:
        Lines in which a digit is the number of points there, `+` means ten or more, and `/` marks equal accuracies.
    """
    at = Counter((round(y * (SCATTER_ROWS - 1)), round(x * (SCATTER_COLUMNS - 1))) for x, y in points)
    lines = []
    for row in reversed(range(SCATTER_ROWS)):
        drawn = [
            "/" if row * (SCATTER_COLUMNS - 1) == column * (SCATTER_ROWS - 1) else " "
            for column in range(SCATTER_COLUMNS)
        ]
        for column in range(SCATTER_COLUMNS):
            if found := at[row, column]:
                drawn[column] = "+" if found > 9 else str(found)
        lines.append(f"  {row / (SCATTER_ROWS - 1):.1f} │{''.join(drawn)}│")
    lines.append(f"      └{'─' * SCATTER_COLUMNS}┘")
    half = SCATTER_COLUMNS // 2
    lines.append(" " * 6 + "0.0".ljust(half) + "0.5".ljust(half - 1) + "1.0  simulated")
    return lines


def split_grid(tables: Sequence[ScoreTable]) -> Grid:
    """Correlation, error and perplexity of the scored simulator on every split."""
    columns = [(column.header, (together(tables[0]), column)) for column in AGREEMENT_COLUMNS]
    columns += [(column.header, (EVERY_ASSISTANT, column)) for column in TEXT_COLUMNS if column.metric == "perplexity"]
    rows = [
        (f"{table.model}, {split}" if len(tables) > 1 else split, (table, split))
        for table in tables
        for split in table.splits
    ]

    def values(table: ScoreTable, assistant: str, metric: str) -> Mapping[str, Value]:
        return table.values().get((assistant, FINE_TUNED, metric), {})

    def cell(row: tuple[ScoreTable, str], of: tuple[str, Column]) -> str:
        (table, split), (assistant, column) = row, of
        value = values(table, assistant, column.metric).get(split)
        if value is None or isinstance(value, Undefined):
            return EMPTY if value is None else "undefined"
        every = [each for one in tables for each in values(one, assistant, column.metric).values()]
        largest = max(each for each in every if not isinstance(each, Undefined))
        return f"{bar(value, 1.0 if column.metric == 'pearson' else largest)} {column.show(value)}"

    title = f"The simulator on each split (a bar is full at a correlation of 1, else at the largest; {scored(tables)})"
    return build(title, rows, columns, cell)


def termination_grid(table: ScoreTable) -> Grid:
    """How the chats of each simulator ended, as shares of its chats."""
    estimates = table.estimates()
    sources = [s for s in (table.simulator, BASE_MODEL) if (EVERY_ASSISTANT, s, "answered_share") in estimates]

    def cell(ending: str, source: Predictor) -> str:
        mean = estimates[EVERY_ASSISTANT, source, f"{ending}_share"].mean
        return EMPTY if isinstance(mean, Undefined) else _bar_share(mean)

    rows = [(ending.replace("_", " "), ending) for ending in TERMINATIONS] if sources else []
    title = f"{table.model}: how the chats ended ({held_out_questions([table])} held-out questions per split)"
    return build(title, rows, [(source.label, source) for source in sources], cell)


def turn_grid(table: ScoreTable, counts: TurnCounts) -> Grid:
    """Shares of chats by number of user turns, people's and simulated."""
    columns = [(f"{label} ({sum(chats.values())} chats)", chats) for label, chats in counts.items() if chats]
    most = max((turns for _, each in columns for turns in each), default=0)
    rows = [(str(turns), range(turns, turns + 1)) for turns in range(1, min(most, MOST_TURNS) + 1)]
    if most > MOST_TURNS:
        rows[-1] = (f"{MOST_TURNS} or more", range(MOST_TURNS, most + 1))

    def cell(turns: range, chats: Mapping[int, int]) -> str:
        return _bar_share(sum(chats.get(n, 0) for n in turns) / sum(chats.values()))

    title = f"{table.model}: user turns of a chat ({held_out_questions([table])} held-out questions per split)"
    return build(title, rows, columns, cell, corner="turns")


def _bar_share(share: float) -> str:
    return f"{bar(share)} {100 * share:5.1f} %"


@dataclass(frozen=True, slots=True)
class ModelResults:
    """Results of one model to show; `missing` says what could not be found, and why."""

    key: str
    table: ScoreTable
    pairs: tuple[QuestionAccuracy, ...]
    turns: TurnCounts
    missing: tuple[str, ...] = ()


def show(shown: Shown) -> list[ModelResults]:
    """Load the results of the models that are scored; empty if none is and there are `estimates`.

    Raises:
        ChatbenchError: none is scored and none has an estimate, or two differ in data, splits or protocol.
    """
    workspace, models = shown.workspace, shown.models
    keys = [key for key in models if workspace.scores(key).exists()]
    if not keys:
        if estimates(shown):
            return []
        raise ChatbenchError(
            f"{workspace.results}: no scores of {', '.join(models)}",
            fix=f"chatbench eval-chatbench {models[0]} --results {shlex.quote(str(workspace.results))}",
        )
    tables = [read_score_table(workspace.scores(key).parent, key) for key in keys]
    comparable(tables)
    study: Study | None = None
    no_study: list[str] = []
    if not workspace.is_prepared:
        no_study.append(f"{workspace.data}: no prepared splits, so no turns of people's chats; give --data")
    else:
        try:
            study = workspace.study
        except ChatbenchError as error:
            no_study.append(f"no turns of people's chats: {error.found}")
    found = []
    for key, table in zip(keys, tables, strict=True):
        pairs, missing = question_accuracies(workspace, key, table)
        logs = list(run_chats(key, workspace))
        missing += [*outdated_scores(table, key, logs, workspace), *no_study]
        # People's chats about held-out questions count once; simulated ones if they did not fail and, as far as the
        # study can be read, have an assistant that people worked with.
        turns: dict[str, Counter[int]] = {}
        if study is not None:
            held_out = {question for split in table.splits for question in workspace.split(split).question_ids("test")}
            people = (chat for chat in study.conversations if chat.question_id in held_out)
            turns[PEOPLE.label] = Counter(chat.user_turns for chat in people)
        for source in (table.simulator, BASE_MODEL):
            ours = [each for each in logs if each.split in table.splits and each.predictor == source]
            chats = [chat for each in ours for chat in each.chats]
            turns[source.label] = Counter(
                sum(turn.role == "user" for turn in chat.turns)
                for chat in (chats if study is None else study.comparable(chats))
                if chat.termination != "failed"
            )
        counts = {source: each for source, each in turns.items() if each}
        found.append(ModelResults(key, table, tuple(pairs), counts, tuple(missing)))
    unscored = [f"{key}: not scored yet; chatbench eval-chatbench {key}" for key in models if key not in keys]
    return [replace(found[0], missing=(*found[0].missing, *unscored)), *found[1:]]


def question_accuracies(workspace: Workspace, key: str, table: ScoreTable) -> tuple[list[QuestionAccuracy], list[str]]:
    """The fine-tuned simulator's accuracy beside people's, per question and assistant, and what is missing.

    A question that several splits hold out is one point, with the chats of all of them.
    """
    path = workspace.scores(key, ".questions.csv")
    if not path.exists():
        return [], [f"{key}: no {path.name}, so no plot of the questions; chatbench eval-chatbench {key}"]
    pooled = pooled_accuracies(read_question_files(path.parent, key, table, f"chatbench eval-chatbench {key}"))
    people, simulated = pooled.get(PEOPLE, {}), pooled.get(FINE_TUNED, {})
    return pair_up({pair: people[pair] for pair in simulated if pair in people}, simulated), []


def estimates(shown: Shown) -> list[Entry]:
    """The estimates of all models, which need no scores."""
    return [one for key in shown.models for one in read_estimates(shown.workspace.estimate(key))]


def print_results(
    found: Sequence[ModelResults], console: Console | None = None, *, published: bool = False, details: bool = False
) -> None:
    """Print the main table, bounds, plots and footnotes, within the width of the terminal.

    Args:
        details: show every assistant, condition, subset and cause of uncertainty instead of main table and plots.
    """
    from rich.console import Console as RichConsole
    from rich.text import Text

    screen, tables = console or RichConsole(), [model.table for model in found]
    reference = [published_grid()] if published else []
    leading = warnings(tables)
    print_grids((), leading, screen)
    notes = [line for model in found for line in (*model.missing, *footnotes(model.table)) if line not in leading]
    if details:
        print_grids([*score_grids(tables), *detail_grids(tables), *reference], notes, screen)
        return
    # Without the last column, which names the floors and is too wide for most terminals.
    bounds = [Grid(b.title, b.header[:-1], tuple(row[:-1] for row in b.rows)) for b in map(bounds_grid, tables)]
    print_grids([*main_grids(tables), *bounds], (), screen)
    for model in (each for each in found if each.pairs):
        title = f"{model.table.model}: accuracy of people (upwards) and of simulated users (to the right)"
        screen.print(Text(printable(title), style="bold"))
        for line in scatter_lines([(pair.simulated, pair.human) for pair in model.pairs]):
            screen.print(Text(line))
        note = "  digits count questions, once per assistant; + ten and more; / both agree"
        screen.print(Text(note, style="dim"), end="\n\n")
    plots = [split_grid(tables)]
    for model in found:
        plots += [termination_grid(model.table), turn_grid(model.table, model.turns)]
    floor = "floor: the best baseline of each score, or the base model; chatbench show --details names it"
    print_grids([grid for grid in (*plots, *reference) if grid.rows], [floor, *notes], screen)


# JSON and CSV


CSV_COLUMNS = (
    "model", "source", "kind", "assistant", "metric", "mean", "standard_error", "corrected_standard_error", "splits",
    "low", "high", "floor", "ceiling", "undefined_because", "signature_id", "subset",
)  # fmt: skip


def as_json(found: Sequence[ModelResults], made: Sequence[Entry] = (), *, published: bool = False) -> str:
    """Everything as JSON: scores with their values per split, questions, endings, turns, notes, estimates `made`."""
    scores = main_scores([model.table for model in found], with_published=published)
    models: list[dict[str, object]] = []
    for model in found:
        endings: dict[str, dict[str, object]] = {}  # mean shares over splits, by predictor
        for (assistant, source, metric), estimate in model.table.estimates().items():
            ending = metric.removesuffix("_share")
            if assistant == EVERY_ASSISTANT and source in (FINE_TUNED, BASE_MODEL) and ending in TERMINATIONS:
                endings.setdefault(source.label, {})[ending] = plain(estimate.mean)
        models.append(
            {
                "model": model.table.model,
                "signature_id": model.table.signature_id,
                "signature": dict(model.table.signature),
                "splits": list(model.table.splits),
                "questions": plain(model.pairs),
                "endings": endings,
                "user_turns": {s: {str(n): c for n, c in sorted(each.items())} for s, each in model.turns.items()},
                "notes": [*model.missing, *footnotes(model.table)],
            }
        )
    for key in dict.fromkeys(one["model"] for one in made if one["model"] not in [m["model"] for m in models]):
        models.append({"model": key})  # without scores
    for each in models:
        each["estimates"] = [dict(one) for one in made if one["model"] == each["model"]]
    content = {"figures": [_score_json(score) for score in scores], "models": models}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _score_json(score: MainScore) -> dict[str, object]:
    return {
        "model": score.model, "source": score.name, "kind": score.kind, "assistant": score.assistant,
        "metric": score.metric, **estimate_as_json(score.estimate), "per_split": plain(score.by_split),
        **({} if score.interval is None else {"interval": plain(score.interval)}),
        **({} if score.bounds is None else bounds_as_json(score.bounds)),
    }  # fmt: skip


def as_csv(found: Sequence[ModelResults], made: Sequence[Entry] = (), *, published: bool = False) -> str:
    """One score or estimate per line; a field is empty if a value does not exist or does not apply."""
    signatures = {model.table.model: model.table.signature_id for model in found}
    shared = found[0].table.signature_id if len(found) == 1 else ""
    rows = []
    for score in main_scores([model.table for model in found], with_published=published):
        written = _score_json(score)
        interval, mean = written.pop("interval", None), score.estimate.mean
        written |= interval if isinstance(interval, dict) else {}
        written["undefined_because"] = mean.reason if isinstance(mean, Undefined) else ""
        if score.kind != "published":
            written |= {"splits": score.estimate.n, "signature_id": signatures.get(score.model, shared)}
        written["standard_error"] = plain(score.estimate.standard_error)  # overwrites the interval's
        fields = [written.get(name, "") for name in CSV_COLUMNS]
        rows.append(["" if isinstance(field, dict) else field for field in fields])
    rows += [[line.get(name, "") for name in CSV_COLUMNS] for one in made for line in estimate_lines(one)]
    return csv_text(CSV_COLUMNS, rows)


# LaTeX


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
    "<": r"\textless{}",  # the default fonts have other glyphs in the places of < > and |
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\texttt{\char34}",  # in other fonts, and with babel, it is another glyph or a command
    "[": "{[}",  # after \\ a bracket would be parsed as a length, an asterisk as part of the command
    "*": "{*}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2013": r"\textendash{}",  # not --: adjacent hyphens are kept apart below
    "\u2014": r"\textemdash{}",
    "…": r"\dots{}",
}
LONGEST_NAME = 24
"""Characters of a row's name up to which names are not broken into lines."""
LONGEST_HEADER = 12
"""The same for a column's name."""
LATEX_WIDTH = 80
"""Characters of a row, with `MARGIN`, that fit on a page (345 pt, digits of 4.25 pt); wider estimates are divided."""
_LIGATURES = re.compile(r"([-',])(?=\1)")
"""Two of these would form a ligature, such as the dash in mistralai--Mistral-7B."""
_LATIN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ")
"""Non-ASCII letters in the default fonts."""


def escaped(text: str) -> str:
    r"""Escape text for LaTeX, in a cell or elsewhere.

    >>> escaped("50 % of $x_1$"), escaped("--"), escaped("中")
    ('50 \\% of \\$x\\_1\\$', '-{}-', '{[}U+4E2D]')
    """
    characters = [
        " " if c.isspace()
        else _ESCAPED.get(c) or (c if " " < c <= "~" or c in _LATIN else f"{{[}}U+{ord(c):04X}]")
        for c in unicodedata.normalize("NFC", text)
    ]  # fmt: skip
    return _LIGATURES.sub(r"\1{}", "".join(characters))


def latex_table(grid: Grid, label: str, exact: Mapping[str, str] | None = None) -> str:
    """Format a grid as one `table*` environment, with a rule between kinds of rows.

    Args:
        label: the name for `\\ref`; letters, digits, colons and hyphens.
        exact: unrounded scores by row name; each becomes a comment after its row.
    """
    import pandas as pd  # type: ignore[import-untyped]  # late: takes a second

    broken = max((len(row[0]) for row in grid.rows), default=0) > LONGEST_NAME
    first = r"p{0.27\linewidth}" if broken else "l"
    rows = [["--" if cell == EMPTY else re.sub(r"^-(?=\d)", "$-$", escaped(cell)) for cell in row] for row in grid.rows]
    names = [escaped(grid.header[0]), *map(_header, grid.header[1:])]
    layout, caption = first + "r" * (len(names) - 1), f"{escaped(grid.title)}."
    frame = pd.DataFrame(rows, columns=names)
    lines = frame.to_latex(index=False, escape=False, caption=caption, label=label, column_format=layout).splitlines()
    begin = lines.index(r"\midrule") + 1
    table = [line.replace("{table}", "{table*}") for line in lines[:begin]]
    table.insert(1, r"\centering\footnotesize\setlength{\tabcolsep}{3pt}")
    kind = _kind(grid.rows[0][0]) if grid.rows else ""
    for (name, *_), line in zip(grid.rows, lines[begin:], strict=False):
        if _kind(name) != kind:
            kind = _kind(name)
            table.append(r"\midrule")
        table.append(r"\raggedright " * broken + line)
        if exact and name in exact:
            table.append(_comment(exact[name]))
    return "\n".join([*table, r"\bottomrule", r"\end{tabular}", r"\end{table*}"])


def _comment(text: str) -> str:
    """A comment of one line, whichever characters the text has."""
    return "% " + "".join(c if c.isprintable() and c.isascii() else "?" for c in text)


def _kind(name: str) -> str:
    """Kind of a row: `baseline` for `baseline: user alone`, `ceiling` for `ceiling, 10 chats`, "" for all others."""
    return name.partition(":")[0] if name.startswith("baseline: ") else "ceiling" * name.startswith("ceiling, ")


def _header(name: str) -> str:
    """Set a long column name on two lines, split at the blank nearest its middle."""
    blanks = [place for place, character in enumerate(name) if character == " "]
    if len(name) <= LONGEST_HEADER or not blanks:
        return escaped(name)
    middle = min(blanks, key=lambda place: abs(place - len(name) / 2))
    return rf"\shortstack[r]{{{escaped(name[:middle])}\\{escaped(name[middle + 1 :])}}}"


def as_latex(found: Sequence[ModelResults], made: Sequence[Entry] = (), *, published: bool = False) -> str:
    """The main table as two booktabs tables, agreement and text metrics, the published rows, and estimates."""
    tables = [model.table for model in found]
    exact: dict[str, list[str]] = {}
    names = {column.metric: column.header for column in (*AGREEMENT_COLUMNS, *TEXT_COLUMNS)}
    agreement = {column.metric for column in AGREEMENT_COLUMNS}
    assistant = together(tables[0]) if tables else EVERY_ASSISTANT
    for score in main_scores(tables):
        if score.metric not in names:
            continue
        value, name = score.estimate.mean, names[score.metric]
        mean = "undefined" if isinstance(value, Undefined) else repr(value)
        if score.metric in agreement and score.assistant == assistant:
            exact.setdefault(f"agreement {row_name(score)}", []).append(f"{name} {mean}")
        elif score.metric not in agreement and score.assistant == EVERY_ASSISTANT:
            exact.setdefault(f"texts {score.label}", []).append(f"{name} {mean}")
            exact.setdefault(f"texts {name}", []).append(f"{score.label} {mean}")  # where metrics are the rows
    lines = [r"% needs \usepackage{booktabs}; errors are standard errors over splits"]
    lines += map(_comment, (*warnings(tables), *(f"signature {table.signature_id}" for table in tables)))
    grids = main_grids(tables, with_errors=True) if tables else []
    grids += [published_grid()] if published else []
    for number, grid in enumerate(grids, 1):
        kind = "agreement" if "mean absolute error" in grid.header else "texts"
        # A paper's column is narrow.
        short = tuple(name.replace("mean absolute error", "MAE") for name in grid.header)
        of_rows = {row: ", ".join(exact[f"{kind} {row}"]) for row, *_ in grid.rows if f"{kind} {row}" in exact}
        lines.append(latex_table(Grid(grid.title, short, grid.rows), f"tab:chatbench-{number}", of_rows))
    for at, one in enumerate(made, 1):
        lines += map(_comment, estimate_notes(one))
        parts = (piece for grid in estimate_grids(one) for piece in pieces(grid, LATEX_WIDTH))
        lines += [latex_table(grid, f"tab:estimate-{at}-{number}") for number, grid in enumerate(parts, 1)]
    return "\n".join([*lines, ""])
