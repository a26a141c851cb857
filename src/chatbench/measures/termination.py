r"""Whether a simulator stops where people stop, asked at every point of real chats at which a person could stop.

A *decision* comes after each reply of the assistant in a person's chat: the person either ended the chat and answered,
or went on. The simulator is shown the same chat up to that reply and writes one output; an answer means that it would
have ended. So people and simulator decide at the same points, which simulated chats of their own cannot give: there the
points differ. From records alone only the distribution of user turns can be compared.

F1 takes ending as the positive class. It has no human ceiling, since no second person was asked at the same point; its
floors are to end always, and to end by chance as often as people of the training side do after so many replies.

Source: turn-level termination F1 as in UserLM (arXiv 2510.06552), there with an end-of-conversation token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatbench.measures.agreement import Undefined, Value, calibration_error
from chatbench.measures.figures import share

NO_DECISIONS = "no decisions"


@dataclass(frozen=True, slots=True)
class Decision:
    """One point at which a person could stop.

    `replies`: how many the person had heard, from 1. `ended`: the person stopped here. `predicted`: the simulator's
    output was an answer. `probability`: the simulator's probability of answering A, B, C or D here, 0..1; None where it
    was not computed.
    """

    question_id: str
    replies: int
    ended: bool
    predicted: bool
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Termination:
    """Scores over decisions, shares in 0..1; `brier` and `calibration_error` are of the probability.

    `brier_floor` is the score of giving people's overall share of endings as the probability everywhere.
    """

    decisions: int
    ended_share: Value
    predicted_share: Value
    precision: Value
    recall: Value
    f1: Value
    f1_always: Value
    f1_by_chance: Value
    brier: Value
    brier_floor: Value
    calibration_error: Value


def termination(decisions: Sequence[Decision], end_shares: Mapping[int, float]) -> Termination:
    """All scores.

    Args:
        end_shares: share of training-side chats that end after that many replies, given that they got there.
    """
    total = len(decisions)
    ended = sum(decision.ended for decision in decisions)
    predicted = sum(decision.predicted for decision in decisions)
    both = sum(decision.ended and decision.predicted for decision in decisions)
    chance = [_chance(end_shares, decision.replies) for decision in decisions]
    known = [(one.probability, float(one.ended)) for one in decisions if one.probability is not None]
    base = share(ended, total, NO_DECISIONS)
    return Termination(
        decisions=total,
        ended_share=base,
        predicted_share=share(predicted, total, NO_DECISIONS),
        precision=share(both, predicted, "the simulator never ends a chat"),
        recall=share(both, ended, "nobody ended a chat"),
        f1=f1_score(both, predicted, ended),
        f1_always=f1_score(ended, total, ended),
        f1_by_chance=f1_score(
            math.fsum(p for p, decision in zip(chance, decisions, strict=True) if decision.ended),
            math.fsum(chance),
            ended,
        ),
        brier=_brier(known),
        brier_floor=base if isinstance(base, Undefined) else base * (1 - base),
        calibration_error=calibration_error([ended for _, ended in known], [p for p, _ in known])
        if known
        else Undefined("probabilities were not computed"),
    )


def f1_score(both: float, predicted: float, actual: float) -> Value:
    """2 both / (predicted + actual), the harmonic mean of precision and recall, 0..1.

    >>> f1_score(both=2, predicted=3, actual=5)  # precision 2/3, recall 2/5
    0.5
    """
    whole = predicted + actual
    return 2 * both / whole if whole else Undefined("nobody ended a chat, and the simulator never would")


def end_shares_by_reply(user_turns: Iterable[int]) -> dict[int, float]:
    """Of the chats that got to the n-th reply, the share that ended there.

    >>> end_shares_by_reply([1, 1, 2])
    {1: 0.6666666666666666, 2: 1.0}
    """
    ends = Counter(user_turns)
    return {
        turns: ends[turns] / sum(count for other, count in ends.items() if other >= turns) for turns in sorted(ends)
    }


def _chance(end_shares: Mapping[int, float], replies: int) -> float:
    """The share after so many replies; where the training side has none, that of the nearest smaller number."""
    known = [number for number in end_shares if number <= replies]
    return end_shares[max(known)] if known else 0.0


def _brier(known: Sequence[tuple[float, float]]) -> Value:
    """Mean squared difference of probability and outcome, 0 (certain and right) to 1."""
    if not known:
        return Undefined("probabilities were not computed")
    return math.fsum((probability - ended) ** 2 for probability, ended in known) / len(known)
