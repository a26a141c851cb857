r"""A rate (a share of yes among cases) whose standard error respects that cases share questions and people.

The error is the linearised one of a ratio, summed by clusters: V = sum over clusters of (sum of (case - rate))^2 / n^2,
for questions, plus people, minus single cases, which both have counted; never below either of the two. With few
clusters it is too small; each part has the factor clusters / (clusters - 1).

Source: Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from chatbench.measures.agreement import Undefined, Value


@dataclass(frozen=True, slots=True)
class Case:
    """One yes or no, with the question and the person that it belongs to."""

    question_id: str
    person: str
    yes: bool


@dataclass(frozen=True, slots=True)
class Rate:
    """`yes` of `cases`, as a share in 0..1 with its standard error."""

    yes: int
    cases: int
    value: Value
    standard_error: Value


def rate(cases: Sequence[Case], nothing: str) -> Rate:
    """The rate; undefined, for the reason `nothing`, where there is no case.

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
