"""What a study's people and assistants reach: accuracy by method, assistant, condition and subset.

All accuracies are shares in 0..1, means of per-question accuracies, each question weighing the same, with the standard
error sd / sqrt(questions), as in the paper's tables (sd with n - 1).

Source: ChatBench (arXiv 2504.07114), analysis of the user study; docs/protocol.md, section 9.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbench.core.records import Study
from chatbench.measures.agreement import Undefined, Value, mean_value
from chatbench.measures.figures import AI_ALONE, EVERY_ASSISTANT, USER_ALONE
from chatbench.measures.uncertainty import standard_deviation

USER_AI = "user-AI"
EVERY_CONDITION = "all"
EVERY_SUBSET = "all"


@dataclass(frozen=True, slots=True)
class Group:
    """Who answered: a method, with which assistant, in which condition (`all`: together; "": has none)."""

    method: str
    assistant: str
    condition: str


@dataclass(frozen=True, slots=True)
class QuestionAnswers:
    """Accuracy in 0..1 from `count` answers or samples to one question."""

    accuracy: float
    count: int


ByQuestion = Mapping[str, QuestionAnswers]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `questions` questions and its standard error, in the unit of what is averaged."""

    value: Value
    standard_error: Value
    questions: int


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """Accuracy of a group on one subset of questions."""

    group: Group
    subset: str
    accuracy: Mean
    answers: int


def mean_over_questions(values: Sequence[float]) -> Mean:
    """Mean and sd / sqrt(n)."""
    sd = standard_deviation(values)
    error = sd if isinstance(sd, Undefined) else sd / math.sqrt(len(values))
    return Mean(mean_value(list(values)), error, len(values))


def accuracies(study: Study) -> dict[Group, ByQuestion]:
    """Per-question accuracy of every group that the study has: user-AI and AI-alone per assistant, people alone.

    User-AI stands there for each condition and, where there are several, for all together.
    """
    flags: dict[Group, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for answer in study.answers:
        if answer.kind == "user-alone":
            flags[Group(USER_ALONE, EVERY_ASSISTANT, EVERY_CONDITION)][answer.question_id].append(answer.correct)
            continue
        for condition in (EVERY_CONDITION, answer.condition):
            flags[Group(USER_AI, answer.assistant, condition)][answer.question_id].append(answer.correct)
    found: dict[Group, ByQuestion] = {
        group: {q: QuestionAnswers(sum(right) / len(right), len(right)) for q, right in by_question.items()}
        for group, by_question in flags.items()
    }
    alone: dict[Group, dict[str, QuestionAnswers]] = defaultdict(dict)
    for score in study.ai_alone:
        if score.count:
            group = Group(AI_ALONE + score.method, score.assistant, "")
            alone[group][score.question_id] = QuestionAnswers(score.accuracy, score.count)
    several = len({group.condition for group in found if group.method == USER_AI} - {EVERY_CONDITION}) > 1
    kept = {g: v for g, v in found.items() if several or g.method == USER_ALONE or g.condition == EVERY_CONDITION}
    return {**kept, **alone}


def accuracy_rows(study: Study, groups: Mapping[Group, ByQuestion]) -> Iterator[AccuracyRow]:
    """Every group on all questions and on each subset."""
    for group in sorted(groups, key=lambda g: (g.method, g.assistant, g.condition)):
        by_subset: dict[str, list[QuestionAnswers]] = defaultdict(list)
        for question_id, answers in groups[group].items():
            by_subset[EVERY_SUBSET].append(answers)
            by_subset[study.questions[question_id].subset].append(answers)
        for subset in (EVERY_SUBSET, *sorted(by_subset.keys() - {EVERY_SUBSET})):
            mean = mean_over_questions([answers.accuracy for answers in by_subset[subset]])
            yield AccuracyRow(group, subset, mean, sum(answers.count for answers in by_subset[subset]))
