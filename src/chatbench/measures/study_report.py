"""What a study says by itself, recomputed from its records: accuracies, gaps, correlations, chats, advice, regression.

Whatever a study lacks (answers alone, conditions, chats, AI-alone scores) is said in `missing` and left out; nothing is
put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from chatbench.core.records import Answer, Study
from chatbench.measures.advice import ANSWER_FIRST, AdviceRow, MirrorRow, advice_rows, mirror_rows
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import USER_ALONE
from chatbench.measures.mixed_effects import MixedEffects, mixed_effects
from chatbench.measures.study_accuracy import USER_AI, AccuracyRow, accuracies, accuracy_rows
from chatbench.measures.study_differences import (
    CorrelationRow,
    GapRow,
    ModelGapRow,
    correlation_rows,
    gap_rows,
    model_gap_rows,
)


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
        yield Regression(USER_ALONE, mixed_effects(alone))


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
