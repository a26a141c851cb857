"""The step that recomputes what a study says by itself, prints it, and writes it as JSON where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chatbench.core.files import write_json_whole
from chatbench.measures.agreement import Undefined, Value
from chatbench.measures.clustered_rates import Rate
from chatbench.measures.copying import WORDINGS
from chatbench.measures.mixed_effects import Effect, Spread
from chatbench.measures.study_accuracy import EVERY_CONDITION, EVERY_SUBSET, Mean
from chatbench.measures.study_report import Regression, StudyReport, study_report
from chatbench.steps.grids import EMPTY, Grid
from chatbench.steps.plain_values import plain
from chatbench.steps.value_texts import number, percent
from chatbench.studies.reader import open_study


def study(
    path: Path, *, json: Path | None = None, skip_bad_records: bool = False, include_pilots: bool = False
) -> StudyReport:
    """Everything that can be recomputed of the study at `path`; also written to `json`.

    Raises:
        ChatbenchError: as `open_study`.
    """
    report = study_report(open_study(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots))
    if json is not None:
        write_json_whole(json, plain(report))
    return report


def study_grids(report: StudyReport) -> list[Grid]:
    """The report as tables; percentages and percentage points, ± one standard error."""
    parts = (_accuracies, _gaps, _model_gaps, _correlations, _mirrors, _advice)
    grids = [*(part(report) for part in parts), *map(_regression, report.regressions)]
    return [grid for grid in grids if grid.rows]


def study_footnotes(report: StudyReport) -> list[str]:
    """What the study lacks, and which regressions do not exist and why."""
    undefined = [
        f"regression, {regression.method}: {regression.fit}"
        for regression in report.regressions
        if isinstance(regression.fit, Undefined)
    ]
    return [f"study {report.study}", *undefined, *(f"not in this study: {reason}" for reason in report.missing)]


def _accuracies(report: StudyReport) -> Grid:
    """One line per group; columns are all questions and each subset."""
    subsets = list(dict.fromkeys(row.subset for row in report.accuracies))
    subsets = [EVERY_SUBSET, *sorted(set(subsets) - {EVERY_SUBSET})]
    groups = list(dict.fromkeys(row.group for row in report.accuracies))
    cells = {(row.group, row.subset): row for row in report.accuracies}
    rows = []
    for group in groups:
        of_group = [cells.get((group, subset)) for subset in subsets]
        label = ", ".join(part for part in (group.method, *_whose(group.assistant, group.condition)) if part)
        rows.append((label, *(_mean(row.accuracy, percent) if row else EMPTY for row in of_group)))
    return Grid("Accuracy (mean over questions ± standard error)", ("", *subsets), tuple(rows))


def _whose(assistant: str, condition: str) -> Iterator[str]:
    if assistant != "all":
        yield assistant
    if condition not in ("", EVERY_CONDITION):
        yield condition


def _gaps(report: StudyReport) -> Grid:
    rows = [
        (
            ", ".join([row.method, row.assistant, *_whose("all", row.condition)]),
            _mean(row.difference, _points),
            _mean(row.absolute, _distance),
            _distance(row.absolute_by_subset),
            str(row.difference.questions),
        )
        for row in report.gaps
    ]
    header = ("", "minus user-AI", "|difference| per question", "per subset", "questions")
    return Grid("Gap to user-AI accuracy (percentage points)", header, tuple(rows))


def _model_gaps(report: StudyReport) -> Grid:
    rows = [
        (
            f"{row.first} - {row.second}: " + ", ".join([row.method, *_whose("all", row.condition)]),
            _mean(row.difference, _points),
            str(row.difference.questions),
        )
        for row in report.model_gaps
    ]
    return Grid("Gap between assistants (percentage points)", ("", "difference", "questions"), tuple(rows))


def _correlations(report: StudyReport) -> Grid:
    rows = [
        (
            ", ".join([row.method, row.assistant, *_whose("all", row.condition)]),
            number(row.correlation, 2),
            _interval(row.interval),
            str(row.cells),
        )
        for row in report.correlations
    ]
    header = ("", "correlation", "95 % interval", "points")
    return Grid("Correlation with user-AI accuracy over questions (Pearson)", header, tuple(rows))


def _mirrors(report: StudyReport) -> Grid:
    rows = [
        (
            ", ".join([row.assistant, *_whose("all", row.condition)]),
            _rate(row.mirror),
            percent(row.mirror_at_most.value),
            *(percent(row.wordings[name].value) for name in WORDINGS),
            str(row.mirror.cases),
        )
        for row in report.mirrors
    ]
    header = ("chats with", "mirror", "at most", *(f"first: {name}" for name in WORDINGS), "chats")
    return Grid("Mirrors of the benchmark, and how first messages put the question", header, tuple(rows))


def _advice(report: StudyReport) -> Grid:
    rows = [
        (row.assistant, _rate(row.corrected), str(row.corrected.cases), _rate(row.misled), str(row.misled.cases))
        for row in report.advice
    ]
    header = ("", "corrected", "of wrong alone", "misled", "of right alone")
    return Grid("Corrected and misled people (answer-first)", header, tuple(rows))


def _regression(regression: Regression) -> Grid:
    title = f"Mixed-effects logistic regression of being right, {regression.method} (log odds)"
    fit = regression.fit
    if isinstance(fit, Undefined):
        return Grid(title, (), ())
    rows = [_effect(effect) for effect in fit.effects]
    rows += [_spread("sd over questions", fit.question_spread), _spread("sd over people", fit.person_spread)]
    counts = f"{fit.answers:,} answers, {fit.questions:,} questions, {fit.people:,} people"
    return Grid(f"{title}; {counts}", ("", "estimate", "standard error", "95 % interval"), tuple(rows))


def _effect(effect: Effect) -> tuple[str, str, str, str]:
    return effect.name, f"{effect.estimate:+.2f}", f"{effect.standard_error:.2f}", _interval(effect.interval)


def _spread(name: str, spread: Spread) -> tuple[str, str, str, str]:
    return name, f"{spread.estimate:.2f}", EMPTY, _interval(spread.interval)


def _mean(mean: Mean, show: Callable[[Value], str]) -> str:
    if isinstance(mean.value, Undefined) or isinstance(mean.standard_error, Undefined):
        return show(mean.value)
    return f"{show(mean.value)} ± {100 * mean.standard_error:.1f}"


def _rate(rate: Rate) -> str:
    if isinstance(rate.value, Undefined) or isinstance(rate.standard_error, Undefined):
        return percent(rate.value)
    return f"{percent(rate.value)} ± {100 * rate.standard_error:.1f}"


def _points(value: Value) -> str:
    """A difference in percentage points."""
    return f"{100 * value:+.1f}" if isinstance(value, float) else number(value)


def _distance(value: Value) -> str:
    """An absolute difference in percentage points."""
    return _points(value).removeprefix("+")


def _interval(interval: Sequence[float] | Undefined) -> str:
    return "undefined" if isinstance(interval, Undefined) else f"{interval[0]:.2f} to {interval[1]:.2f}"
