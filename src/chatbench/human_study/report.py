"""The step that recomputes what a study says by itself, prints it, and writes it as JSON where that is asked for.

What a study says by itself, recomputed from its records: accuracies, gaps, correlations, chats, advice, regression.

Whatever a study lacks (answers alone, conditions, chats, AI-alone scores) is said in `missing` and left out; nothing is
put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.files import write_json
from chatbench.core.records import Answer, Study
from chatbench.data.open_study import open_study
from chatbench.human_study.accuracy import (
    EVERY_CONDITION,
    EVERY_SUBSET,
    USER_AI,
    AccuracyRow,
    CorrelationRow,
    GapRow,
    Mean,
    ModelGapRow,
    accuracies,
    accuracy_rows,
    correlation_rows,
    gap_rows,
    model_gap_rows,
)
from chatbench.human_study.advice import ANSWER_FIRST, AdviceRow, MirrorRow, Rate, advice_rows, mirror_rows
from chatbench.human_study.regression import Effect, MixedEffects, Spread, mixed_effects
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.names import USER_ALONE
from chatbench.realism.chats import WORDINGS
from chatbench.report.grids import EMPTY, Grid, number, percent
from chatbench.scoring.score_files import plain


@dataclass(frozen=True, slots=True)
class Regression:
    """Mixed-effects logistic regression of the answers by one method."""

    method: str
    fit: MixedEffects | Undefined


@dataclass(frozen=True, slots=True)
class StudyReport:
    """Everything that can be recomputed of a study, and what cannot."""

    study: str
    accuracies: tuple[AccuracyRow, ...]
    gaps: tuple[GapRow, ...]
    model_gaps: tuple[ModelGapRow, ...]
    correlations: tuple[CorrelationRow, ...]
    mirrors: tuple[MirrorRow, ...]
    advice: tuple[AdviceRow, ...]
    regressions: tuple[Regression, ...]
    missing: tuple[str, ...]


def study_report(study: Study) -> StudyReport:
    """All parts that the study's records allow."""
    groups = accuracies(study)
    advice = tuple(advice_rows(study))
    return StudyReport(
        study=study.name,
        accuracies=tuple(accuracy_rows(study, groups)),
        gaps=tuple(gap_rows(study, groups)),
        model_gaps=tuple(model_gap_rows(groups)),
        correlations=tuple(correlation_rows(groups)),
        mirrors=tuple(mirror_rows(study)),
        advice=advice,
        regressions=tuple(_regressions(study)),
        missing=tuple(_missing(study, advice)),
    )


def _regressions(study: Study) -> Iterator[Regression]:
    """User-AI answers on assistant and condition, and answers alone; each only where there are any."""
    together = [answer for answer in study.answers if answer.kind == "user-AI"]
    alone = [answer for answer in study.answers if answer.kind == "user-alone"]
    if together:
        columns = [*_columns(together, lambda a: a.assistant), *_columns(together, lambda a: a.condition)]
        yield Regression(USER_AI, mixed_effects(together, columns))
    if alone:
        yield Regression(USER_ALONE.label, mixed_effects(alone))


def _columns(answers: Sequence[Answer], of: Callable[[Answer], str]) -> list[tuple[str, list[float]]]:
    """One column per level but the first in alphabetical order, which the others are set against."""
    first, *others = sorted({of(answer) for answer in answers})
    return [(f"{level}, against {first}", [float(of(answer) == level) for answer in answers]) for level in others]


def _missing(study: Study, advice: Sequence[AdviceRow]) -> Iterator[str]:
    kinds = {answer.kind for answer in study.answers}
    conditions = sorted({answer.condition for answer in study.answers if answer.kind == "user-AI"})
    if "user-AI" not in kinds:
        yield "no answers with an assistant: no user-AI accuracy, gaps or correlations"
    if "user-alone" not in kinds:
        yield "no answers alone: no user-alone accuracy"
    if not study.ai_alone:
        yield "no AI-alone scores: no gap to them, no correlation with them, no gap between assistants alone"
    if len(conditions) == 1:
        yield f"one condition only ({conditions[0]}): nothing by condition"
    if not advice:
        yield f"nobody answered alone before chatting ({ANSWER_FIRST}): no corrected or misled rates"
    if not study.conversations:
        yield "no chats: no mirror rate"
    if len(study.assistants) == 1:
        yield f"one assistant only ({study.assistants[0]}): no gap between assistants"


def study(
    path: Path, *, json: Path | None = None, skip_bad_records: bool = False, include_pilots: bool = False
) -> StudyReport:
    """Everything that can be recomputed of the study at `path`; also written to `json`.

    Raises:
        ChatbenchError: as `open_study`.
    """
    report = study_report(open_study(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots))
    if json is not None:
        write_json(json, plain(report))
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
