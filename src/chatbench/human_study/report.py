"""Analysis of a human study from its records: accuracies, gaps, correlations, chats, advice, regression.

What a study lacks (answers alone, conditions, chats, AI-alone scores) is omitted and listed in `missing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.files import keep_inputs, write_json
from chatbench.core.records import Answer, Study
from chatbench.data.open_study import open_study
from chatbench.human_study.accuracy import (
    ANSWER_FIRST,
    EVERY_CONDITION,
    EVERY_SUBSET,
    USER_AI,
    AccuracyRow,
    AdviceRow,
    CorrelationRow,
    GapRow,
    Mean,
    MirrorRow,
    ModelGapRow,
    Rate,
    accuracies,
    accuracy_rows,
    advice_rows,
    correlation_rows,
    gap_rows,
    mirror_rows,
    model_gap_rows,
)
from chatbench.human_study.regression import AGAINST, MixedEffects, mixed_effects
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.names import EVERY_ASSISTANT, USER_ALONE
from chatbench.realism.chats import WORDINGS
from chatbench.report.grids import EMPTY, Grid, grids_of, number, percent
from chatbench.scoring.score_files import plain


@dataclass(frozen=True, slots=True)
class Regression:
    """Mixed-effects logistic regression of the answers by one method."""

    method: str
    fit: MixedEffects | Undefined


@dataclass(frozen=True, slots=True)
class StudyReport:
    """All results of a study, and what its records do not allow (`missing`)."""

    study: str
    accuracies: list[AccuracyRow]
    gaps: list[GapRow]
    model_gaps: list[ModelGapRow]
    correlations: list[CorrelationRow]
    mirrors: list[MirrorRow]
    advice: list[AdviceRow]
    regressions: list[Regression]
    missing: list[str]


def study_report(study: Study) -> StudyReport:
    """Compute everything that the study's records allow."""
    groups, advice = accuracies(study), advice_rows(study)
    together = [answer for answer in study.answers if answer.kind == "user-AI"]
    alone = [answer for answer in study.answers if answer.kind == "user-alone"]
    columns = [*_columns(together, lambda a: a.assistant), *_columns(together, lambda a: a.condition)]
    regressions = [Regression(USER_AI, mixed_effects(together, columns))] if together else []
    regressions += [Regression(USER_ALONE.label, mixed_effects(alone))] if alone else []
    conditions = sorted({answer.condition for answer in together})
    lacks = {
        "no answers with an assistant: no user-AI accuracy, gaps or correlations": not together,
        "no answers alone: no user-alone accuracy": not alone,
        "no AI-alone scores: no gap to them, no correlation with them, no gap between assistants alone":
            not study.ai_alone,
        f"one condition only ({', '.join(conditions)}): no results by condition": len(conditions) == 1,
        f"nobody answered alone before chatting ({ANSWER_FIRST}): no corrected or misled rates": not advice,
        "no chats: no mirror rate": not study.conversations,
        f"one assistant only ({', '.join(study.assistants)}): no gap between assistants": len(study.assistants) == 1,
    }  # fmt: skip
    return StudyReport(
        study.name, [*accuracy_rows(study, groups)], [*gap_rows(study, groups)], [*model_gap_rows(groups)],
        [*correlation_rows(groups)], [*mirror_rows(study)], advice, regressions,
        [reason for reason, is_so in lacks.items() if is_so],
    )  # fmt: skip


def _columns(answers: Sequence[Answer], of: Callable[[Answer], str]) -> list[tuple[str, list[float]]]:
    """Dummy-code a factor: one column per level except the alphabetically first, the reference level."""
    levels = sorted({of(answer) for answer in answers})
    return [
        (f"{level}{AGAINST}{levels[0]}", [float(of(answer) == level) for answer in answers]) for level in levels[1:]
    ]


def study(
    path: Path,
    *,
    json: Path | None = None,
    skip_bad_records: bool = False,
    include_pilots: bool = False,
    maps: Sequence[str] = (),
) -> StudyReport:
    """Analyse the study at `path`; also writes the report to `json` if given.

    Raises:
        ChatbenchError: as `open_study`.
    """
    keep_inputs([json] if json else [], [path])
    report = study_report(open_study(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps))
    if json is not None:
        write_json(json, plain(report))
    return report


def study_grids(report: StudyReport) -> list[Grid]:
    """Lay out the report as tables, in percentages and percentage points, ± one standard error."""
    wordings = [f"first: {name}" for name in WORDINGS]
    grids = grids_of([
        ("Gap to user-AI accuracy (percentage points)",
         ("", "minus user-AI", "|difference| per question", "per subset", "questions"),
         ((_label(row.method, row.assistant, condition=row.condition), _with_error(row.difference, _points),
           _with_error(row.absolute, _distance), _distance(row.absolute_by_subset), str(row.difference.questions))
          for row in report.gaps)),
        ("Gap between assistants (percentage points)", ("", "difference", "questions"),
         ((f"{row.first} - {row.second}: {_label(row.method, condition=row.condition)}",
           _with_error(row.difference, _points), str(row.difference.questions)) for row in report.model_gaps)),
        ("Correlation with user-AI accuracy over questions (Pearson)",
         ("", "correlation", "95 % interval", "points"),
         ((_label(row.method, row.assistant, condition=row.condition), number(row.correlation, 2),
           _interval(row.interval), str(row.cells)) for row in report.correlations)),
        ("Mirrors of the benchmark, and how first messages put the question",
         ("chats with", "mirror", "at most", *wordings, "chats"),
         ((_label(row.assistant, condition=row.condition), _with_error(row.mirror, percent),
           percent(row.mirror_at_most.value), *(percent(row.wordings[name].value) for name in WORDINGS),
           str(row.mirror.cases)) for row in report.mirrors)),
        ("Corrected and misled people (answer-first)",
         ("", "corrected", "of wrong alone", "misled", "of right alone"),
         ((row.assistant, _with_error(row.corrected, percent), str(row.corrected.cases),
           _with_error(row.misled, percent), str(row.misled.cases)) for row in report.advice)),
    ])  # fmt: skip
    for regression in report.regressions:
        if not isinstance(fit := regression.fit, Undefined):
            counts = f"{fit.answers:,} answers, {fit.questions:,} questions, {fit.people:,} people"
            title = f"Mixed-effects logistic regression of being right, {regression.method} (log odds); {counts}"
            effects = [
                (e.name, f"{e.estimate:+.2f}", f"{e.standard_error:.2f}", _interval(e.interval)) for e in fit.effects
            ]
            spreads = [
                (f"sd over {name}", f"{spread.estimate:.2f}", EMPTY, _interval(spread.interval))
                for name, spread in (("questions", fit.question_spread), ("people", fit.person_spread))
            ]
            grids.append(Grid(title, ("", "estimate", "standard error", "95 % interval"), (*effects, *spreads)))
    return [grid for grid in (_accuracy_grid(report.accuracies), *grids) if grid.rows]


def study_footnotes(report: StudyReport) -> list[str]:
    """List what the study lacks, and why any regression is undefined."""
    undefined = [
        f"regression, {regression.method}: {regression.fit}"
        for regression in report.regressions
        if isinstance(regression.fit, Undefined)
    ]
    return [f"study {report.study}", *undefined, *(f"not in this study: {reason}" for reason in report.missing)]


def _accuracy_grid(rows: Sequence[AccuracyRow]) -> Grid:
    """One row per group; columns are all questions and each subset."""
    subsets = [EVERY_SUBSET, *sorted({row.subset for row in rows} - {EVERY_SUBSET})]
    found = {(row.group, row.subset): _with_error(row.accuracy, percent) for row in rows}
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        assistant = [group.assistant] if group.assistant != EVERY_ASSISTANT else []
        label = _label(group.method, *assistant, condition=group.condition)
        lines.append((label, *(found.get((group, subset), EMPTY) for subset in subsets)))
    return Grid("Accuracy (mean over questions ± standard error)", ("", *subsets), tuple(lines))


def _label(*names: str, condition: str) -> str:
    return ", ".join([*names, *([condition] if condition not in ("", EVERY_CONDITION) else [])])


def _with_error(estimate: Mean | Rate, show: Callable[[Value], str]) -> str:
    if isinstance(estimate.value, Undefined) or isinstance(estimate.standard_error, Undefined):
        return show(estimate.value)
    return f"{show(estimate.value)} ± {100 * estimate.standard_error:.1f}"


def _points(value: Value, sign: str = "+") -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{100 * value:{sign}.1f}" if isinstance(value, float) else number(value)


def _distance(value: Value) -> str:
    """Format an absolute difference in percentage points."""
    return _points(value, sign="")


def _interval(interval: Sequence[float] | Undefined) -> str:
    return "undefined" if isinstance(interval, Undefined) else f"{interval[0]:.2f} to {interval[1]:.2f}"
