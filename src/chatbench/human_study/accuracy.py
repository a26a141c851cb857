"""What a study's people and assistants reach, and how that differs: accuracies, gaps, correlations.

All accuracies are shares in 0..1, means of per-question accuracies, each question weighing the same, with the standard
error sd / sqrt(questions), as in the paper's tables (sd with n - 1). Differences are taken question by question, over
the questions that both sides have, so that what makes questions hard for both cancels.

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
    """Who answered: a method, with which assistant, in which condition (`all`: together; "": has none)."""

    method: str
    assistant: str
    condition: str


ByQuestion = dict[str, Prediction]
"""Accuracy in 0..1, and from how many answers or samples, per question id."""


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
    """Every group on all questions and on each subset."""
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
    """How far a method's accuracy is from user-AI accuracy with the same assistant (method minus user-AI).

    `difference`: mean over questions. `absolute`: mean of the absolute difference per question. `absolute_by_subset`:
    the mean absolute difference between means of subsets, in which chance differences of single questions cancel.
    """

    method: str
    assistant: str
    condition: str
    difference: Mean
    absolute: Mean
    absolute_by_subset: Value


@dataclass(frozen=True, slots=True)
class ModelGapRow:
    """How much better people, or a method, do with `better` than with `worse`: mean difference over questions."""

    method: str
    condition: str
    first: str
    second: str
    difference: Mean


@dataclass(frozen=True, slots=True)
class CorrelationRow:
    """Pearson correlation over questions of a method's accuracy with user-AI accuracy, with Fisher's 95 % interval.

    `cells` is the number of points: for all assistants together, pairs of question and assistant. The interval counts
    questions, so there it is on the safe side.
    """

    method: str
    assistant: str
    condition: str
    correlation: Value
    interval: tuple[float, float] | Undefined
    cells: int
    questions: int


Beside = tuple[str, str, str, dict[str, tuple[float, float]]]
"""A method, an assistant and a condition, and per question the accuracy of user-AI and that of the method."""


def gap_rows(study: Study, groups: Mapping[Group, ByQuestion]) -> Iterator[GapRow]:
    """Every other method against user-AI, per condition, for each assistant and all together."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for method, assistant, condition, both in _beside_user_ai(groups):
        if both:
            found[method, condition][assistant] = {q: other - people for q, (people, other) in both.items()}
    for (method, condition), by_assistant in found.items():
        pooled = {EVERY_ASSISTANT: list(by_assistant.values())} if len(by_assistant) > 1 else {}
        for assistant, differences in ({name: [one] for name, one in by_assistant.items()} | pooled).items():
            of_question: dict[str, list[float]] = defaultdict(list)  # over assistants: questions stay the unit
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
    """Every method beside user-AI with the same assistant (people alone have none)."""
    for other in sorted(groups):
        for people in sorted(groups):
            if other.method != USER_AI == people.method and other.assistant in (people.assistant, EVERY_ASSISTANT):
                yield other.method, people.assistant, people.condition, _paired(groups, people, other)


def _paired(groups: Mapping[Group, ByQuestion], first: Group, second: Group) -> dict[str, tuple[float, float]]:
    one, other = groups[first], groups[second]
    return {q: (one[q].accuracy, other[q].accuracy) for q in sorted(one.keys() & other.keys())}


def model_gap_rows(groups: Mapping[Group, ByQuestion]) -> Iterator[ModelGapRow]:
    """The difference between every two assistants, alone and with users."""
    with_one = sorted(group for group in groups if group.method != USER_ALONE.label)
    pairs = [(a, b) for a, b in combinations(with_one, 2) if (a.method, a.condition) == (b.method, b.condition)]
    for one, other in sorted(pairs, key=lambda pair: (pair[0].method, pair[0].condition)):
        if both := _paired(groups, one, other):
            difference = mean_over_questions([first - second for first, second in both.values()])
            yield ModelGapRow(one.method, one.condition, one.assistant, other.assistant, difference)


def correlation_rows(groups: Mapping[Group, ByQuestion]) -> Iterator[CorrelationRow]:
    """Every other method against user-AI over questions, per condition, for each assistant and all together."""
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
