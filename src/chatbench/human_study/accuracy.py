"""Accuracies of a study's people and assistants, with gaps and correlations between them.

All accuracies are shares in 0..1: unweighted means of per-question accuracies, with the standard error sd /
sqrt(questions), as in the paper's tables (sd with n - 1). Differences are paired by question, over the questions that
both sides have, so that question difficulty cancels.

Source: ChatBench (arXiv 2504.07114), analysis of the user study; docs/protocol.md, section 9.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from chatbench.core.records import Study
from chatbench.metrics.agreement import Undefined, Value, agreement, mean_value
from chatbench.metrics.estimates import NORMAL_95, standard_deviation
from chatbench.metrics.names import EVERY_ASSISTANT, USER_ALONE, ai_alone
from chatbench.metrics.pairs import Prediction

FEWEST_FOR_FISHER = 4
USER_AI = "user-AI"
EVERY_CONDITION = "all"
EVERY_SUBSET = "all"


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Who answered: a method, with which assistant, in which condition (`all`: pooled; "": not applicable)."""

    method: str
    assistant: str
    condition: str


ByQuestion = dict[str, Prediction]
"""Accuracy in 0..1 and its number of answers or samples, by question id."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `questions` questions with its standard error, in the unit of the values."""

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
    """Mean and its standard error sd / sqrt(n)."""
    sd = standard_deviation(values)
    error = sd if isinstance(sd, Undefined) else sd / math.sqrt(len(values))
    return Mean(mean_value(list(values)), error, len(values))


def accuracies(study: Study) -> dict[Group, ByQuestion]:
    """Per-question accuracy of every group in the study: user-AI and AI-alone per assistant, and people alone.

    User-AI accuracy is pooled over conditions and, if there are several, also given for each.
    """
    several = len({answer.condition for answer in study.answers if answer.kind == "user-AI"}) > 1
    flags: dict[Group, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for answer in study.answers:
        alone = answer.kind == "user-alone"
        who = (USER_ALONE.label, EVERY_ASSISTANT) if alone else (USER_AI, answer.assistant)
        for condition in (EVERY_CONDITION, *([answer.condition] if several and not alone else [])):
            flags[Group(*who, condition)][answer.question_id].append(answer.correct)
    found = {
        group: {question_id: Prediction(sum(right) / len(right), len(right)) for question_id, right in of_group.items()}
        for group, of_group in flags.items()
    }
    for score in study.ai_alone:
        if score.count:
            of_method = found.setdefault(Group(ai_alone(score.method).label, score.assistant, ""), {})
            of_method[score.question_id] = Prediction(score.accuracy, score.count)
    return found


def accuracy_rows(study: Study, groups: Mapping[Group, ByQuestion]) -> Iterator[AccuracyRow]:
    """Accuracy of every group on all questions and on each subset."""
    for group in sorted(groups):
        by_subset: dict[str, list[Prediction]] = defaultdict(list)
        for question_id, answers in groups[group].items():
            by_subset[EVERY_SUBSET].append(answers)
            by_subset[study.questions[question_id].subset].append(answers)
        for subset in (EVERY_SUBSET, *sorted(by_subset.keys() - {EVERY_SUBSET})):
            mean = mean_over_questions([answers.accuracy for answers in by_subset[subset]])
            yield AccuracyRow(group, subset, mean, sum(answers.count for answers in by_subset[subset]))


@dataclass(frozen=True, slots=True)
class GapRow:
    """Difference of a method's accuracy from user-AI accuracy with the same assistant (method minus user-AI).

    `difference`: mean over questions. `absolute`: mean absolute difference per question. `absolute_by_subset`: mean
    absolute difference between subset means, in which chance differences of single questions average out.
    """

    method: str
    assistant: str
    condition: str
    difference: Mean
    absolute: Mean
    absolute_by_subset: Value


@dataclass(frozen=True, slots=True)
class ModelGapRow:
    """Accuracy of a method with assistant `first` minus that with `second`: mean difference over questions."""

    method: str
    condition: str
    first: str
    second: str
    difference: Mean


@dataclass(frozen=True, slots=True)
class CorrelationRow:
    """Pearson correlation over questions of a method's accuracy with user-AI accuracy, with Fisher's 95 % interval.

    `cells` is the number of points: (question, assistant) pairs if pooled over assistants. The interval is based on the
    number of questions, so it is conservative for pooled rows.
    """

    method: str
    assistant: str
    condition: str
    correlation: Value
    interval: tuple[float, float] | Undefined
    cells: int
    questions: int


Beside = tuple[str, str, str, dict[str, tuple[float, float]]]
"""Method, assistant, condition, and by question the (user-AI, method) accuracies."""


def gap_rows(study: Study, groups: Mapping[Group, ByQuestion]) -> Iterator[GapRow]:
    """Compare every other method with user-AI, per condition, for each assistant and pooled."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for method, assistant, condition, both in _beside_user_ai(groups):
        if both:
            found[method, condition][assistant] = {q: other - people for q, (people, other) in both.items()}
    for (method, condition), by_assistant in found.items():
        pooled = {EVERY_ASSISTANT: list(by_assistant.values())} if len(by_assistant) > 1 else {}
        for assistant, differences in ({name: [one] for name, one in by_assistant.items()} | pooled).items():
            of_question: dict[str, list[float]] = defaultdict(list)  # over assistants: questions remain the unit
            of_subset: dict[tuple[int, str], list[float]] = defaultdict(list)
            for place, by_question in enumerate(differences):
                for question_id, difference in by_question.items():
                    of_question[question_id].append(difference)
                    of_subset[place, study.questions[question_id].subset].append(difference)
            yield GapRow(
                method,
                assistant,
                condition,
                mean_over_questions([fmean(values) for values in of_question.values()]),
                mean_over_questions([fmean(map(abs, values)) for values in of_question.values()]),
                mean_value([abs(fmean(values)) for values in of_subset.values()]),
            )


def _beside_user_ai(groups: Mapping[Group, ByQuestion]) -> Iterator[Beside]:
    """Pair every method with user-AI with the same assistant (people alone: with every assistant)."""
    for other in sorted(groups):
        for people in sorted(groups):
            if other.method != USER_AI == people.method and other.assistant in (people.assistant, EVERY_ASSISTANT):
                yield other.method, people.assistant, people.condition, _paired(groups, people, other)


def _paired(groups: Mapping[Group, ByQuestion], first: Group, second: Group) -> dict[str, tuple[float, float]]:
    one, other = groups[first], groups[second]
    return {q: (one[q].accuracy, other[q].accuracy) for q in sorted(one.keys() & other.keys())}


def model_gap_rows(groups: Mapping[Group, ByQuestion]) -> Iterator[ModelGapRow]:
    """Compare every two assistants, alone and with users."""
    with_one = sorted(group for group in groups if group.method != USER_ALONE.label)
    pairs = [(a, b) for a, b in combinations(with_one, 2) if (a.method, a.condition) == (b.method, b.condition)]
    for one, other in sorted(pairs, key=lambda pair: (pair[0].method, pair[0].condition)):
        if both := _paired(groups, one, other):
            difference = mean_over_questions([first - second for first, second in both.values()])
            yield ModelGapRow(one.method, one.condition, one.assistant, other.assistant, difference)


def correlation_rows(groups: Mapping[Group, ByQuestion]) -> Iterator[CorrelationRow]:
    """Correlate every other method with user-AI over questions, per condition, for each assistant and pooled."""
    pooled: dict[tuple[str, str], list[tuple[str, float, float]]] = defaultdict(list)
    for method, assistant, condition, both in _beside_user_ai(groups):
        points = [(q, *accuracies) for q, accuracies in both.items()]
        pooled[method, condition] += points
        yield _correlation(method, assistant, condition, points)
    if len({group.assistant for group in groups if group.method == USER_AI}) > 1:
        for (method, condition), points in pooled.items():
            yield _correlation(method, EVERY_ASSISTANT, condition, points)


def _correlation(
    method: str, assistant: str, condition: str, points: Sequence[tuple[str, float, float]]
) -> CorrelationRow:
    questions = len({question_id for question_id, _, _ in points})
    r = agreement([human for _, human, _ in points], [alone for _, _, alone in points])["pearson"]
    interval: tuple[float, float] | Undefined
    if isinstance(r, Undefined):
        interval = r
    elif questions < FEWEST_FOR_FISHER:
        interval = Undefined(f"{questions} questions, {FEWEST_FOR_FISHER} are needed")
    elif abs(r) >= 1:
        interval = Undefined("the correlation is exact")
    else:
        half = NORMAL_95 / math.sqrt(questions - 3)
        interval = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return CorrelationRow(method, assistant, condition, r, interval, len(points), questions)
