"""How often an assistant corrects or misleads people, and how often a chat mirrors the benchmark.

*Corrected*: of the answers that were wrong alone, the share that is right with the assistant. *Misled*: of those that
were right alone, the share that is wrong with it. Both need the same person's answer to the same question from before
the chat, so only the `answer-first` condition counts. The *mirror rate* is defined in realism/chats.py.

Standard errors are clustered by question and person: V = sum over clusters of (sum of (case - rate))^2 / n^2, by
question, plus by person, minus that of single cases, which both include; never below either of the two. Each term has
the factor clusters / (clusters - 1). With few clusters, V is too small.

Source: ChatBench (arXiv 2504.07114), analysis of the user study; Cameron, Gelbach and Miller 2011, "Robust inference
with multiway clustering".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from chatbench.core.records import RIGHT_FROM, Answer, Study
from chatbench.metrics.agreement import Undefined, Value
from chatbench.metrics.names import EVERY_ASSISTANT
from chatbench.realism.chats import WORDINGS, ChatTraits, real_chats, traits_of

ANSWER_FIRST = "answer-first"
"""The condition in which people answer a question alone before they chat about it."""


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
    by_question, by_person = (
        _variance(cases, share, keys) for keys in ([c.question_id for c in cases], [c.person for c in cases])
    )
    if isinstance(by_question, Undefined) or isinstance(by_person, Undefined):
        return Rate(yes, len(cases), share, Undefined("one question or one person only"))
    single = _variance(cases, share, range(len(cases)))
    both = by_question + by_person - (0.0 if isinstance(single, Undefined) else single)
    return Rate(yes, len(cases), share, math.sqrt(max(both, by_question, by_person)))


def _variance(cases: Sequence[Case], share: float, keys: Sequence[Hashable]) -> Value:
    sums: dict[Hashable, float] = defaultdict(float)
    for case, key in zip(cases, keys, strict=True):
        sums[key] += case.yes - share
    if len(sums) < 2:
        return Undefined("one cluster")
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
    groups = {name: [pair for pair in pairs if pair[1].assistant == name] for name in study.assistants}
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
    groups: dict[tuple[str, str], list[ChatTraits]] = defaultdict(list)
    for chat, of in zip(study.conversations, traits, strict=True):
        groups[chat.assistant, chat.condition].append(of)
    whole = {(EVERY_ASSISTANT, "all"): traits} if traits else {}
    for (assistant, condition), chats in (whole | (dict(sorted(groups.items())) if len(groups) > 1 else {})).items():

        def of_chats(has: Callable[[ChatTraits], bool], chats: Sequence[ChatTraits] = chats) -> Rate:
            return rate([Case(chat.cell[0], chat.person, has(chat)) for chat in chats], "no chats")

        wordings = {str(name): of_chats(lambda chat, name=name: chat.wording == name) for name in WORDINGS}  # type: ignore[misc]
        mirror, at_most = of_chats(lambda chat: chat.mirror), of_chats(lambda chat: chat.may_mirror)
        yield MirrorRow(assistant, condition, mirror, at_most, wordings)
