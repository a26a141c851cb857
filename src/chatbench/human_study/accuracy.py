"""How accurate a study's people and assistants are, and what the assistants' advice does.

All accuracies are shares in 0..1: unweighted means of per-question accuracies, with the standard error sd /
sqrt(questions), as in the paper's tables (sd with n - 1). Differences are paired by question, over the questions that
both sides have, so that question difficulty cancels; correlations are over questions, too.

How often an assistant corrects or misleads people is counted in answers. *Corrected*: of those that were wrong alone,
the share that is right with the assistant. *Misled*: of those that were right alone, the share that is wrong with it.
Both need the same person's answer to the same question from before the chat, so only the `answer-first` condition
counts. The *mirror rate*, how often a chat mirrors the benchmark, is defined in realism/chats.py.

The standard errors of these rates are clustered by question and person: V = sum over clusters of (sum of
(case - rate))^2 / n^2, by question, plus by person, minus that of single cases, which both include; never below either
of the two. Each term has the factor clusters / (clusters - 1). With few clusters, V is too small.

Source: ChatBench (arXiv 2504.07114), analysis of the user study, and docs/protocol.md, section 9; Cameron, Gelbach and
Miller 2011, "Robust inference with multiway clustering".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from chatbench.core.records import RIGHT_FROM, Answer, Study
from chatbench.metrics.agreement import NORMAL_95, Undefined, Value, agreement, mean_value, standard_deviation
from chatbench.metrics.names import EVERY_ASSISTANT, USER_ALONE, ai_alone, apart_from_all
from chatbench.metrics.pairs import Prediction, grouped
from chatbench.realism.chats import WORDINGS, ChatTraits, real_chats, traits_of

FEWEST_FOR_FISHER = 4
USER_AI = "user-AI"
ANSWER_FIRST = "answer-first"
"""The condition in which people answer a question alone before they chat about it."""
EVERY_CONDITION = "all"
EVERY_SUBSET = "all"


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Who answered: a method, with which assistant, in which condition (`all`: pooled; "": not applicable).

    Names are `apart_from_all`, also those of subsets in `AccuracyRow`.
    """

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
        who = (USER_ALONE.label, EVERY_ASSISTANT) if alone else (USER_AI, apart_from_all(answer.assistant))
        for condition in (EVERY_CONDITION, *([apart_from_all(answer.condition)] if several and not alone else [])):
            flags[Group(*who, condition)][answer.question_id].append(answer.correct)
    found = {
        group: {question_id: Prediction(sum(right) / len(right), len(right)) for question_id, right in of_group.items()}
        for group, of_group in flags.items()
    }
    for score in study.ai_alone:
        if score.count:
            of_method = found.setdefault(Group(ai_alone(score.method).label, apart_from_all(score.assistant), ""), {})
            of_method[score.question_id] = Prediction(score.accuracy, score.count)
    return found


def accuracy_rows(study: Study, groups: Mapping[Group, ByQuestion]) -> Iterator[AccuracyRow]:
    """Accuracy of every group on all questions and, if the study has several subsets, on each."""
    several = len(study.questions_per_subset) > 1
    for group in sorted(groups):
        by_subset: dict[str, list[Prediction]] = defaultdict(list)
        for question_id, answers in groups[group].items():
            for subset in (EVERY_SUBSET, *[apart_from_all(study.questions[question_id].subset)] * several):
                by_subset[subset].append(answers)
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
            each = [(place, q, value) for place, of in enumerate(differences) for q, value in of.items()]
            of_question = grouped((q, value) for _, q, value in each)  # over assistants: questions remain the unit
            of_subset = grouped(((place, study.questions[q].subset), value) for place, q, value in each)
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


@dataclass(frozen=True, slots=True)
class Case:
    """A binary outcome, with its question and person."""

    question_id: str
    person: str
    yes: bool


@dataclass(frozen=True, slots=True)
class Rate:
    """`yes` out of `cases`, as a share in 0..1 with its standard error."""

    yes: int
    cases: int
    value: Value
    standard_error: Value


def rate(cases: Sequence[Case], nothing: str) -> Rate:
    """Compute the rate; undefined, for the reason `nothing`, if there are no cases.

    >>> rate([Case("q1", "w1", True), Case("q2", "w2", False)], "no case").value
    0.5
    """
    if not cases:
        return Rate(0, 0, Undefined(nothing), Undefined(nothing))
    yes = sum(case.yes for case in cases)
    share = yes / len(cases)
    questions, people = [case.question_id for case in cases], [case.person for case in cases]
    if min(len({*questions}), len({*people})) < 2:
        return Rate(yes, len(cases), share, Undefined("one question or one person only"))
    by_question, by_person, single = (
        _variance(cases, share, clusters) for clusters in (questions, people, range(len(cases)))
    )
    both = by_question + by_person - single
    return Rate(yes, len(cases), share, math.sqrt(max(both, by_question, by_person)))


def _variance(cases: Sequence[Case], share: float, clusters: Sequence[Hashable]) -> float:
    sums: dict[Hashable, float] = defaultdict(float)
    for case, cluster in zip(cases, clusters, strict=True):
        sums[cluster] += case.yes - share
    return len(sums) / (len(sums) - 1) * math.fsum(total**2 for total in sums.values()) / len(cases) ** 2


@dataclass(frozen=True, slots=True)
class AdviceRow:
    """Rates of corrected and misled people with one assistant, or all."""

    assistant: str
    corrected: Rate
    misled: Rate


@dataclass(frozen=True, slots=True)
class MirrorRow:
    """Rate of chats that mirror the benchmark, with one assistant in one condition, or all.

    `mirror_at_most` also counts one-turn copies with a reply whose answer could not be read. `wordings` has the share
    of each kind of first message.
    """

    assistant: str
    condition: str
    mirror: Rate
    mirror_at_most: Rate
    wordings: dict[str, Rate]


def advice_rows(study: Study) -> list[AdviceRow]:
    """Corrected and misled rates per assistant and pooled; empty if nobody answered alone before chatting."""
    alone = {(a.worker_id, a.question_id): a for a in study.answers if a.kind == "user-alone"}
    pairs = [
        (before, answer)
        for answer in study.answers
        if answer.kind == "user-AI"
        and answer.condition == ANSWER_FIRST
        and (before := alone.get((answer.worker_id, answer.question_id))) is not None
    ]
    groups = {apart_from_all(name): [p for p in pairs if p[1].assistant == name] for name in study.assistants}
    if len(groups) > 1:
        groups[EVERY_ASSISTANT] = pairs

    def changed(group: Sequence[tuple[Answer, Answer]], *, right_before: bool) -> Rate:
        cases = [
            Case(after.question_id, after.worker_id, (after.correct >= RIGHT_FROM) != right_before)
            for before, after in group
            if (before.correct >= RIGHT_FROM) == right_before
        ]
        return rate(cases, f"nobody was {'right' if right_before else 'wrong'} alone")

    return [
        AdviceRow(name, changed(group, right_before=False), changed(group, right_before=True))
        for name, group in groups.items()
        if group
    ]


def mirror_rows(study: Study) -> Iterator[MirrorRow]:
    """Mirror rates of all chats, then of each assistant and condition; yields nothing if the study has no chats."""
    traits = [traits_of(chat) for chat in real_chats(study.conversations, study.questions)]
    names = ((apart_from_all(chat.assistant), apart_from_all(chat.condition)) for chat in study.conversations)
    groups = grouped(zip(names, traits, strict=True))
    whole = {(EVERY_ASSISTANT, EVERY_CONDITION): traits} if traits else {}
    for (assistant, condition), chats in (whole | (dict(sorted(groups.items())) if len(groups) > 1 else {})).items():

        def of_chats(has: Callable[[ChatTraits], bool], chats: Sequence[ChatTraits] = chats) -> Rate:
            return rate([Case(chat.cell[0], chat.person, has(chat)) for chat in chats], "no chats")

        wordings = {str(name): of_chats(lambda chat, name=name: chat.wording == name) for name in WORDINGS}  # type: ignore[misc]
        mirror, at_most = of_chats(lambda chat: chat.mirror), of_chats(lambda chat: chat.may_mirror)
        yield MirrorRow(assistant, condition, mirror, at_most, wordings)
