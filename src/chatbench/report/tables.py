"""Tables of scores, with the same rows and columns for the terminal, Markdown, CSV, JSON and LaTeX.

A cell is `mean ± standard error` over splits, without the error if there is one split, and in words if the value does
not exist. Baselines that are the same for all models appear once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from chatbench.core.files import Row, write_text
from chatbench.core.texts import markdown_text
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Estimate, Undefined, Value
from chatbench.metrics.baselines import published
from chatbench.metrics.names import (
    BASE_MODEL,
    CONDITION,
    CONSTANT,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    QUESTION_COPIED,
    SUBSET,
    TEXT_METRICS,
    WHOLE,
    MetricKey,
    Predictor,
    ceiling,
    chats_text,
)
from chatbench.metrics.resampling import Bound, Interval
from chatbench.metrics.uncertainty import CAUSES, Spread
from chatbench.report.grids import EMPTY, Grid, build, grids_of, markdown, number, percent, print_grids, upright
from chatbench.scoring.compare import ComparedMetric, Comparison
from chatbench.scoring.score_files import plain
from chatbench.scoring.score_table import Bounds, ScoreTable, resampling_text, signature_line

if TYPE_CHECKING:
    from rich.console import Console

Format = Callable[[float], str]
Kind = Literal["people", "simulator", "baseline", "ceiling", "published"]
Estimates = Mapping[MetricKey, Estimate]

AGREEMENT = {"pearson": "correlation", "spearman": "rank correlation", "mae": "mean absolute error",
             "rmse": "root mean square error", "ece": "calibration error"}  # fmt: skip
TEXTS = {"bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
         "perplexity": "perplexity", "bits_per_byte": "bits per byte"}  # fmt: skip
NAMES = {**AGREEMENT, "bias": "bias", **TEXTS}
BAR = 10
OVERLAP = "Perplexity of people's turns, and overlap of first prompts"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of one metric, for one assistant or all together."""

    header: str
    metric: str
    show: Format
    assistant: str = EVERY_ASSISTANT


WHOLE_NUMBER, HUNDREDTHS, THOUSANDTHS = "{:.0f}".format, "{:.2f}".format, "{:.3f}".format
AGREEMENT_COLUMNS = (Column("correlation", "pearson", THOUSANDTHS), Column("mean absolute error", "mae", THOUSANDTHS))
TEXT_COLUMNS = (
    Column("perplexity", "perplexity", lambda value: f"{value:.2f}" if value < 100 else f"{value:.0f}"),
    *(Column(TEXTS[metric], metric, THOUSANDTHS) for metric in ("bits_per_byte", *TEXT_METRICS)),
)
NUMBER_COLUMNS = (
    Column("restate the problem", "restatement_share", percent),
    Column("of these: every number", "all_numbers_share", percent),
    Column("no foreign number", "no_foreign_number_share", percent),
)
CHAT_COLUMNS = (
    Column("chats per split", "conversations", WHOLE_NUMBER),
    Column("user turns", "user_turns", HUNDREDTHS),
    Column("answered", "answered_share", percent),
    Column("forced", "forced_share", percent),
    Column("no answer", "no_answer_share", percent),
    Column("failed", "failed_share", percent),
    Column("invalid or none", "invalid_share", percent),
)
LEVEL_COLUMN = Column("levels off", "level_error", HUNDREDTHS)
"""For questions with ordered options, if the study has any."""


# Cells


def cell_text(estimate: Estimate | None, show: Format) -> str:
    """Mean ± standard error over splits, each formatted by `show`."""
    if estimate is None:
        return EMPTY
    if isinstance(estimate.mean, Undefined):
        return "undefined"
    text = show(estimate.mean)
    if not isinstance(estimate.standard_error, Undefined):
        mean, blank, unit = text.partition(" ")
        text = f"{mean} ± {show(estimate.standard_error).partition(' ')[0]}{blank}{unit}"
    return f"{text} ({_splits(estimate.n)})" if estimate.undefined else text


def _splits(count: int) -> str:
    return f"{count} split{'s' * (count != 1)}"


def interval_text(bound: Bound | None) -> str:
    """Format a confidence interval: `0.412 to 0.655`."""
    return f"{bound.low:.3f} to {bound.high:.3f}" if isinstance(bound, Interval) else EMPTY


def with_interval(value: Value, bound: Bound | None) -> str:
    """Format a value with its interval: `0.512 (0.412 to 0.655)`."""
    interval = interval_text(bound)
    return number(value) if interval == EMPTY else f"{number(value)} ({interval})"


def way_text(way: Value) -> str:
    """Format a normalised score (0 at the floor, 1 at the ceiling): a bar between the two, and the percentage.

    >>> way_text(0.42), way_text(-0.3), way_text(1.3)
    ('████······ 42 %', '◀········· -30 %', '█████████▶ 130 %')
    """
    return EMPTY if isinstance(way, Undefined) else f"{bar(way, width=BAR)} {100 * way:.0f} %"


def bar(value: float, top: float = 1.0, width: int = 12) -> str:
    """A bar of `width` characters that is full at `top`; values above 0 always show, cut-off ones end in an arrow.

    >>> bar(0.5, width=4), bar(0.01, width=4), bar(-1.0, width=4), bar(1.2, width=4)
    ('██··', '▏···', '◀···', '███▶')
    """
    share = value / top if top > 0 else 0.0
    full = round(min(1.0, max(0.0, share)) * width)
    drawn = "█" * full + "·" * (width - full)
    if full == 0 and share != 0:
        return ("▏" if share > 0 else "◀") + drawn[1:]
    return drawn[:-1] + "▶" if share > 1 else drawn


def deviation_text(variance: float) -> str:
    """Format the square root of an estimated variance, which may be negative.

    >>> deviation_text(0.0004), deviation_text(-0.0004)
    ('0.0200', 'not above 0')
    """
    return f"{math.sqrt(variance):.4f}" if variance >= 0 else "not above 0"


def p_text(p: Value) -> str:
    """Format a p-value with three decimals, the precision of the permutations; never as 0.

    >>> p_text(0.0004), p_text(0.0312)
    ('< 0.001', '0.031')
    """
    if isinstance(p, Undefined):
        return EMPTY
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# Rows


@dataclass(frozen=True, slots=True)
class Label:
    """A row: its name, and the table (by index) and the predictor that it shows."""

    text: str
    table: int
    source: Predictor


def row_labels(tables: Sequence[ScoreTable], estimates: Sequence[Estimates]) -> list[Label]:
    """One row per predictor and model; a predictor with the same scores for all models gets a single row."""
    labels: list[Label] = []
    for source in dict.fromkeys(row[1] for table in estimates for row in table):
        of_source = {
            index: found
            for index, table in enumerate(estimates)
            if (found := {row: estimate for row, estimate in table.items() if row[1] == source})
        }
        own = {index: next(iter(found))[1] for index, found in of_source.items()}  # a simulator goes by its own name
        (first, *others), names = of_source, {each.label for each in own.values()}
        alike = len(names) == 1 and all(of_source[index] == of_source[first] for index in others)
        if alike and len(of_source) == len(tables):
            labels.append(Label(source.title, first, source))
        else:
            shown = {index: each.title for index, each in own.items()}
            labels += [Label(f"{tables[index].model}, {shown[index]}", index, each) for index, each in own.items()]
    return labels


def together(table: ScoreTable, part: str = WHOLE) -> str:
    """The row for all assistants: their mean if there are several, so that their differences do not count."""
    several = any(score.assistant == MEAN_OF_ASSISTANTS and score.stratum == part for score in table.scores)
    return MEAN_OF_ASSISTANTS if several else EVERY_ASSISTANT


def held_out_questions(tables: Sequence[ScoreTable]) -> str:
    """Number of questions that a split of these tables holds out: `50`, or `48 to 50`."""
    counts = [table.test_questions for table in tables]
    return " to ".join(dict.fromkeys(f"{count:.4g}" for count in (min(counts), max(counts))))


def scored(tables: Sequence[ScoreTable], stratum: str = WHOLE) -> str:
    """What the simulators are scored on per split: `8 questions`, or a number of (question, assistant) pairs."""
    rows = [(key, estimate) for table in tables for key, estimate in table.estimates(stratum).items()]
    counts = {e.mean for (who, source, metric), e in rows
              if (who, metric) == (EVERY_ASSISTANT, "questions") and source in (FINE_TUNED, BASE_MODEL)
              and not isinstance(e.mean, Undefined)}  # fmt: skip
    several = any(assistant == MEAN_OF_ASSISTANTS for (assistant, *_), _ in rows)
    if not counts:
        return "no question scored"
    ends = dict.fromkeys(f"{count:.4g}" for count in (min(counts), max(counts)))
    return f"{' to '.join(ends)} {'pairs of question and assistant' if several else 'questions'} per split"


# Tables of everything that was scored


def score_grids(tables: Sequence[ScoreTable]) -> list[Grid]:
    """Grids of eval-chatbench: agreement by assistant, floors and ceilings, gaps, first prompts, numbers, chats."""
    estimates = [table.estimates() for table in tables]
    labels = row_labels(tables, estimates)
    levels = [LEVEL_COLUMN] * any(metric == LEVEL_COLUMN.metric for found in estimates for _, _, metric in found)
    order = {PEOPLE: 0, FINE_TUNED: 1, BASE_MODEL: 2, QUESTION_COPIED: 3}
    of_chats = sorted((label for label in labels if label.source in order), key=lambda label: order[label.source])

    def cell(label: Label, column: Column) -> str:
        key = (column.assistant, label.source, column.metric)
        return cell_text(estimates[label.table].get(key), column.show)

    def scores(title: str, rows: Sequence[Label], columns: Sequence[Column]) -> Grid:
        return build(title, [(row.text, row) for row in rows], [(one.header, one) for one in columns], cell)

    def by_assistant(title: str, metric: str) -> Grid:
        names = sorted({row[0] for table in estimates for row in table if row[2] == metric})
        single = [name for name in names if name not in (MEAN_OF_ASSISTANTS, EVERY_ASSISTANT)]
        combined = [name for name in (MEAN_OF_ASSISTANTS, EVERY_ASSISTANT) if name in names and len(single) > 1]
        show = WHOLE_NUMBER if metric == "questions" else THOUSANDTHS
        columns = [
            Column("all pairs" if name == EVERY_ASSISTANT else name, metric, show, name) for name in single + combined
        ]
        return scores(title, labels, columns)

    counted, held_out = scored(tables), f"{held_out_questions(tables)} held-out questions per split"
    sacrebleu = Column("sacrebleu", "sacrebleu", "{:.1f}".format)
    grids = [
        by_assistant(f"Correlation with people's accuracy (Pearson, per question; {counted})", "pearson"),
        by_assistant(f"Mean absolute error of accuracy (per question; {counted})", "mae"),
        by_assistant("Questions scored in per split", "questions"),
        *map(bounds_grid, tables),
        *map(gap_grid, tables),
        upright(scores(f"{OVERLAP} ({held_out})", of_chats, (*TEXT_COLUMNS, sacrebleu))),
        upright(scores(f"Numbers in first prompts ({held_out})", of_chats, NUMBER_COLUMNS)),
        upright(scores(f"How the chats went ({held_out})", of_chats, (*CHAT_COLUMNS, *levels))),
    ]
    return [grid for grid in grids if grid.rows]


def bounds_grid(table: ScoreTable) -> Grid:
    """Scores of the simulator between floor and ceiling."""
    assistant, estimates, bounds = together(table), table.estimates(), table.bounds()
    intervals = table.uncertainty.intervals.get(WHOLE, {})
    rows = [(shown, (assistant, FINE_TUNED, metric)) for metric, shown in AGREEMENT.items()]
    rows += [(shown, (EVERY_ASSISTANT, FINE_TUNED, metric)) for metric, shown in TEXTS.items()]
    columns: list[tuple[str, Callable[[MetricKey], str]]] = [
        ("score", lambda row: number(estimates[row].mean)),
        ("interval", lambda row: interval_text(intervals.get(row))),
        ("floor", lambda row: number(bounds[row].floor)),
        ("ceiling", lambda row: number(bounds[row].ceiling)),
        ("normalised score", lambda row: way_text(bounds[row].normalised)),
        ("the floor is", lambda row: floor.title if (floor := bounds[row].floor_predictor) else EMPTY),
    ]
    whose = f"{assistant}; " if assistant == MEAN_OF_ASSISTANTS else ""
    title = f"{table.model}, {table.simulator}: scores between floor and ceiling ({whose}{scored([table])})"
    return build(title, [(name, row) for name, row in rows if row in bounds], columns, lambda row, show: show(row))


def gap_grid(table: ScoreTable) -> Grid:
    """Gaps in accuracy between assistants, for people and simulated users."""
    intervals = table.uncertainty.intervals.get(WHOLE, {})
    gaps = {
        (row[1], row[0]): (estimate.mean, intervals.get(row))
        for row, estimate in table.estimates().items()
        if row[2] == "gap"
    }
    sources = [source for source in dict.fromkeys(key[0] for key in gaps) if source in (PEOPLE, FINE_TUNED, BASE_MODEL)]
    pairs = [(pair, pair) for pair in dict.fromkeys(key[1] for key in gaps)]
    title = f"{table.model}: gap in accuracy between assistants ({scored([table])})"
    return build(title, [(source.label, source) for source in sources], pairs,
                 lambda *key: with_interval(*gaps[key]) if key in gaps else EMPTY)  # fmt: skip


def detail_grids(tables: Sequence[ScoreTable]) -> list[Grid]:
    """Grids shown only in Markdown and by `show --details`: conditions and subsets, and standard errors by cause."""
    of_part = ("", "pairs", "people", "simulated", "mean absolute error", "ceiling", "correlation", "ceiling")
    of_cause = ("", *CAUSES, "all", "bootstrap over questions", "over splits", "over splits, corrected")
    grids = []
    for table in tables:
        name = f"{table.model}, {table.simulator}"
        title = f"{name}: standard errors by cause ({scored([table])})"
        parts = (f"{name}: agreement by condition and subset", of_part, _part_rows(table))
        grids += grids_of([parts, (title, of_cause, _cause_rows(table))])
    return grids


def _part_rows(table: ScoreTable) -> Iterator[list[str]]:
    """Agreement of the scored simulator, by condition and subset."""
    for part in table.strata:
        estimates, bounds = table.estimates(part), table.bounds(part)
        intervals = table.uncertainty.intervals.get(part, {})
        line = [part.removeprefix(CONDITION).removeprefix(SUBSET).replace("_", " ") or "everything"]
        for source, metric in ((FINE_TUNED, "questions"), (PEOPLE, "accuracy"), (FINE_TUNED, "accuracy")):
            found = estimates.get((EVERY_ASSISTANT, source, metric))
            line.append(number(found.mean if found else None, 0 if metric == "questions" else 3))
        for metric in ("mae", "pearson"):
            row = (together(table, part), FINE_TUNED, metric)
            line.append(with_interval(estimates[row].mean, intervals.get(row)) if row in estimates else EMPTY)
            line.append(number(bounds[row].ceiling if row in bounds else None))
        yield line


def _cause_rows(table: ScoreTable) -> Iterator[list[str]]:
    """Standard errors of the scored simulator's scores, by cause and method."""
    assistant, estimates = together(table), table.estimates()
    intervals = table.uncertainty.intervals.get(WHOLE, {})
    for metric, shown in {**AGREEMENT, "bias": "bias"}.items():
        row = (assistant, FINE_TUNED, metric)
        spread, bound = table.uncertainty.spreads.get(row), intervals.get(row)
        if isinstance(spread, Spread) and row in estimates:
            causes = [deviation_text(spread.by_cause[each]) if each in spread.by_cause else EMPTY for each in CAUSES]
            bootstrap = bound.standard_error if isinstance(bound, Interval) else None
            errors = (bootstrap, estimates[row].standard_error, estimates[row].corrected_error)
            yield [shown, *causes, deviation_text(spread.total), *(number(error, 4) for error in errors)]


def published_grid() -> Grid:
    """The published results as reference rows, marked as not computed here."""
    table = published()
    return build(
        "Reference: published scores on ChatBench",
        [(row.method, row.metrics) for row in table.rows],
        [(f"{name}: r / MAE", name) for name in table.assistants],
        lambda scores, name: f"{scores[name][0]:.2f} / {scores[name][1]:.2f}",
        corner="published, not computed here",
    )


def footnotes(table: ScoreTable) -> list[str]:
    """Notes on the scores of a table: splits, errors, undefined values, notes, signature."""
    count, intervals, ceilings = len(table.splits), [], []
    errors = f"mean ± standard error over {count} splits" if count > 1 else "1 split, so there are no standard errors"
    if count > 1 and table.train_questions > 0:
        factor = math.sqrt(1 + count * table.test_questions / table.train_questions)
        errors += (
            f"; splits share questions: corrected for that (Nadeau-Bengio) every error is {factor:.2f} times as large"
        )
    if table.uncertainty.intervals:
        resampling = table.signature.get("resampling")
        intervals = [f"intervals: {resampling}; the trained simulators and the splits are taken as they are"]
    if table.bounds():
        chats = table.signature.get("conversations")
        as_many = chats_text(chats) if isinstance(chats, int) else f"{chats} chats"
        ceilings = [
            f"{ceiling(chats if isinstance(chats, int) else None)}: as well as other people, {as_many} per "
            "question and assistant, would agree with the people of the study; a predictor without the noise of so "
            "few chats (a regression, expected answers) can exceed it"
        ]
    undefined = [
        f"undefined: {reason} ({'; '.join(map(str, having))}){where}"
        for (reason, where), having in _undefined(table).items()
    ]
    pooled = table.estimates().get((EVERY_ASSISTANT, CONSTANT, "pearson"))
    if pooled and not isinstance(pooled.mean, Undefined):
        undefined.append(f"{CONSTANT.title}, all pairs pooled: its correlation comes from the assistants' means alone")
    if partial := dict.fromkeys(other.title for each in table.bounds().values() for other in each.partial):
        ceilings.append(f"a floor only where they cover the same pairs as the simulator: {'; '.join(partial)}")
    signed = f"signature {table.signature_id} {signature_line(table.signature)}"
    scored = f"{table.model}: {table.scored_questions} questions scored; {errors}"
    return [*filter(None, [table.warning]), scored, *intervals, *ceilings, *undefined, *table.notes, signed]


def _undefined(table: ScoreTable) -> dict[tuple[str, str], dict[Predictor, None]]:
    """The predictors of which no split defines a main score, by reason and by where it holds.

    Where: the assistants and splits of the reason, `: gpt-4o in split_0`, or nothing if it holds for all of them.
    """
    places: dict[tuple[str, Predictor], dict[str, set[str]]] = {}  # by reason and predictor: splits by assistant
    single = {row[0] for row in table.values() if row[2] == "pearson"} - {EVERY_ASSISTANT, MEAN_OF_ASSISTANTS}
    shown = {
        (source, metric)
        for (_, source, metric), values in table.values().items()
        if metric in ("pearson", "mae", *TEXT_METRICS) and all(isinstance(v, Undefined) for v in values.values())
    }
    for (assistant, source, metric), values in table.values().items():
        for split, value in values.items():
            if isinstance(value, Undefined) and (source, metric) in shown:
                places.setdefault((value.reason, source), {}).setdefault(assistant, set()).add(split)
    found: dict[tuple[str, str], dict[Predictor, None]] = {}
    for (reason, source), assistants in places.items():
        named = {name: splits for name, splits in assistants.items() if name in single} or assistants
        ordered = {name: ", ".join(sorted(splits, key=table.splits.index)) for name, splits in named.items()}
        parts = [n if splits == ", ".join(table.splits) else f"{n} in {splits}" for n, splits in ordered.items()]
        everywhere = parts == [*named] and {*named} in (single, {EVERY_ASSISTANT})
        found.setdefault((reason, "" if everywhere else f": {'; '.join(parts)}"), {})[source] = None
    return found


def warnings(tables: Sequence[ScoreTable]) -> list[str]:
    """Warnings to show before all numbers."""
    return [table.warning for table in tables if table.warning]


def as_markdown(tables: Sequence[ScoreTable], *, with_published: bool = True) -> str:
    """Format all grids and footnotes as Markdown."""
    grids = [*score_grids(tables), *detail_grids(tables), *([published_grid()] if with_published else [])]
    notes = [f"- {markdown_text(line)}" for table in tables for line in footnotes(table)]
    if with_published:
        notes.append(f"- reference rows: {published().source}")
    return "\n\n".join([*map(markdown_text, warnings(tables)), *map(markdown, grids), "\n".join(notes)]) + "\n"


def write_markdown(table: ScoreTable, workspace: Workspace) -> None:
    """Write the grids of one model's scores to `results/scores/MODEL.md`."""
    head = f"# Scores of {markdown_text(table.model)}"
    write_text(workspace.scores(table.model, ".md"), f"{head}\n\n{as_markdown([table])}")


def print_tables(tables: Sequence[ScoreTable], console: Console | None = None) -> None:
    """Print all score grids and footnotes."""
    print_grids((), warnings(tables), console)
    notes = [line for table in tables for line in footnotes(table) if line != table.warning]
    print_grids(score_grids(tables), notes, console)


# The main table


@dataclass(frozen=True, slots=True)
class MainScore:
    """One unrounded number of the main table: `label` names its row, `model` is "" if it is the same for all models."""

    model: str
    label: str
    predictor: Predictor | None
    assistant: str
    metric: str
    estimate: Estimate
    interval: Bound | None = None
    bounds: Bounds | None = None
    by_split: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The predictor's label, or the name of a published method."""
        return self.predictor.label if self.predictor else self.label

    @property
    def kind(self) -> Kind:
        """The kind of row."""
        if self.predictor is None:
            return "published"
        if self.predictor.is_simulator:
            return "simulator"
        return self.predictor.kind if self.predictor.kind in ("people", "ceiling") else "baseline"


def main_scores(tables: Sequence[ScoreTable], *, with_published: bool = False) -> list[MainScore]:
    """Scores of all main metrics, predictors in the order of `score_grids`, published ones last."""
    estimates = [table.estimates() for table in tables]
    bounds, values = [table.bounds() for table in tables], [table.values() for table in tables]
    metrics = {column.metric for column in (*TEXT_COLUMNS, *AGREEMENT_COLUMNS)} | {"questions"}
    found = []
    for label in row_labels(tables, estimates):
        at, source = label.table, label.source
        model = tables[at].model if label.text != source.title or len(tables) == 1 else ""
        intervals = tables[at].uncertainty.intervals.get(WHOLE, {})
        found += [
            MainScore(
                model, label.text, source, row[0], row[2], estimate,
                intervals.get(row), bounds[at].get(row), values[at][row],
            )
            for row, estimate in estimates[at].items()
            if row[1] == source and row[2] in metrics
        ]  # fmt: skip
    if with_published:
        none = Undefined("published without one")
        found += [
            MainScore("", row.method, None, assistant, metric, Estimate(value, none, none, 0))
            for row in published().rows
            for assistant, both in row.metrics.items()
            for metric, value in zip(("pearson", "mae"), both, strict=True)
        ]
    return found


def main_grids(tables: Sequence[ScoreTable], *, with_errors: bool = False) -> list[Grid]:
    """The main table as two grids, agreement and text metrics, because one would be wider than a terminal or a page.

    Agreement comes with intervals and, `with_errors`, also with standard errors, for which a terminal is too narrow.

    Left to `show --details`, CSV and JSON: single assistants, invalid answers dropped, simulators with only their
    first chats, and ceilings for other numbers of chats.
    """
    chats = {table.signature.get("conversations") for table in tables} - {None}
    shown = (FINE_TUNED, BASE_MODEL, replace(FINE_TUNED, expected=True), replace(BASE_MODEL, expected=True))
    assistant = together(tables[0])
    agreement: dict[str, dict[str, MainScore]] = {}
    texts: dict[str, dict[str, MainScore]] = {}
    for score in main_scores(tables):
        if score.kind == "simulator" and score.predictor not in shown:
            continue
        if score.kind == "ceiling" and score.predictor and score.predictor.chats not in chats:
            continue
        if score.assistant == assistant:
            agreement.setdefault(row_name(score), {})[score.metric] = score
        if score.assistant == EVERY_ASSISTANT:
            texts.setdefault(score.label, {})[score.metric] = score

    def value(row: Mapping[str, MainScore], column: Column) -> str:
        estimate = row[column.metric].estimate if column.metric in row else None
        if with_errors or column in TEXT_COLUMNS:
            return cell_text(estimate, column.show)
        return number(estimate.mean if estimate else None)

    def bound(row: Mapping[str, MainScore], column: Column) -> str:
        return interval_text(row[column.metric].interval if column.metric in row else None)

    whose = "mean of assistants; " if assistant == MEAN_OF_ASSISTANTS else ""
    columns = [
        pair for each in AGREEMENT_COLUMNS for pair in ((each.header, (value, each)), ("interval", (bound, each)))
    ]
    text_columns = [(column.header, column) for column in TEXT_COLUMNS]
    title = f"Agreement with people's accuracy per question ({whose}{scored(tables)})"
    of_texts = f"{OVERLAP} ({held_out_questions(tables)} held-out questions per split)"
    grids = [
        build(title, [*agreement.items()], columns, lambda row, of: of[0](row, of[1])),
        upright(build(of_texts, [*texts.items()], text_columns, value)),
    ]
    return [grid for grid in grids if grid.rows]


def row_name(score: MainScore) -> str:
    """The name of a row of agreement, with baselines marked."""
    return f"baseline: {score.label}" if score.kind == "baseline" else score.label


# Comparison of runs


def shown_metrics(comparison: Comparison) -> list[ComparedMetric]:
    """The compared metrics; without the rows pooled over all pairs if those are one assistant's."""
    several = len({each.assistant for each in comparison.metrics} - {EVERY_ASSISTANT}) > 1
    shown = comparison.metrics
    return [each for each in shown if several or each.assistant != EVERY_ASSISTANT or each.metric in TEXT_METRICS]


def comparison_grids(comparison: Comparison) -> list[Grid]:
    """One grid per pair of runs: each metric of both, their difference, its interval and p-value."""
    pairs = dict.fromkeys((each.first, each.second) for each in comparison.metrics)

    def assistant(each: ComparedMetric) -> str:
        pooled = each.assistant == EVERY_ASSISTANT and each.metric not in TEXT_METRICS
        return "all pairs" if pooled else each.assistant

    columns: list[tuple[str, Callable[[ComparedMetric], str]]] = [
        ("of", assistant),
        ("first", lambda each: number(each.found.first)),
        ("second", lambda each: number(each.found.second)),
        ("difference", lambda each: number(each.found.difference)),
        ("interval", lambda each: interval_text(each.found.interval)),
        ("p", lambda each: p_text(each.found.p)),
    ]
    if len(pairs) > 1:
        columns.append(("p, Holm", lambda each: p_text(each.holm_p)))
    grids = []
    for first, second in pairs:
        of_pair = [each for each in shown_metrics(comparison) if (each.first, each.second) == (first, second)]
        rows = [(NAMES[each.metric], each) for each in sorted(of_pair, key=lambda each: list(NAMES).index(each.metric))]
        ignored = ", ".join(each.name for each in comparison.ignored.get((first, second), ()))
        title = f"{first} (first) and {second} (second), {comparison.questions} questions" + (
            f" (DIFFERS IN {ignored})" if ignored else ""
        )
        grids.append(build(title, rows, columns, lambda each, show: show(each)))
    return grids


def comparison_notes(comparison: Comparison) -> list[str]:
    """Notes on a comparison; ignored differences come first."""
    ignored = [
        f"IGNORED: {first} and {second} differ in {difference}"
        for (first, second), differences in comparison.ignored.items()
        for difference in differences
    ]
    if any(each.name == "conversations" for found in comparison.ignored.values() for each in found):
        ignored.append(
            "fewer conversations are noisier: this alone raises MAE, RMSE and ECE and lowers correlations, which "
            "intervals and p-values do not know; bias is free of it. To compare like with like, simulate equally many "
            "(run: --base-conversations)"
        )
    undefined = {
        f"undefined: {each.found.difference.reason}: {NAMES[each.metric]}, {each.assistant}"
        for each in shown_metrics(comparison)
        if isinstance(each.found.difference, Undefined)
    } | {
        f"{NAMES[each.metric]}, {each.assistant}: {_splits(each.found.splits)} only, in which both have a value"
        for each in shown_metrics(comparison)
        if each.found.undefined and each.found.splits
    }
    averaged = any(each.assistant == MEAN_OF_ASSISTANTS for each in comparison.metrics)
    return [
        *ignored,
        f"{comparison.questions} questions, {comparison.pairs_per_split:.0f} (question, assistant) pairs per split, "
        f"{_splits(len(comparison.splits))}; differences are first - second, means over splits",
        f"intervals: {resampling_text(comparison.resampling)}; p: exchanges of the two simulators by question",
        *([f"{MEAN_OF_ASSISTANTS}: each assistant weighs the same; all pairs: pooled"] if averaged else []),
        *sorted(undefined),
        *(f"signature of {run}: {signature_id}" for run, signature_id in comparison.signature_ids.items()),
    ]


def comparison_json(comparison: Comparison) -> Row:
    """The whole comparison as JSON values with full precision."""
    values = {"first_value": "first", "second_value": "second"} | {n: n for n in ("difference", "interval", "p")}
    return {
        "runs": [{"run": run, "signature_id": comparison.signature_ids[run]} for run in comparison.runs],
        "splits": list(comparison.splits),
        "questions": comparison.questions,
        "resampling": resampling_text(comparison.resampling),
        "ignored": [
            {"first": pair[0], "second": pair[1], "part": each.name, "values": [each.one, each.other]}
            for pair, differences in comparison.ignored.items()
            for each in differences
        ],
        "figures": [
            {
                **{name: getattr(each, name) for name in ("first", "second", "assistant", "metric")},
                **{written: plain(getattr(each.found, name)) for written, name in values.items()},
                "p_holm": plain(each.holm_p),
                "splits_left_out": each.found.undefined,
            }
            for each in comparison.metrics
        ],
    }
