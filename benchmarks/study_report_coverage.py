r"""How often the errors of `chatbench study` hold the truth, on sample studies, whose truth is known.

Alone, the people of the sample study are right with log odds ability - difficulty, abilities being standard normal. So
the true constant is minus the mean difficulty, the true spread over people is 1, and that over questions is the spread
of the difficulties; the true accuracy alone follows by integrating over abilities. Truths are of the same questions
that a study has, while the errors are for other questions of the kind too: their intervals should hold the truth more
often than 95 %. Only the spread over people is of a population that every study draws anew.

    python benchmarks/study_report_coverage.py                    # 100 studies of 120 questions, 10 chats a cell
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chatbench.human_study.accuracy import EVERY_SUBSET, accuracies, accuracy_rows
from chatbench.human_study.regression import MixedEffects, Spread, mixed_effects
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import USER_ALONE
from chatbench.sample.study import SampleSettings, SampleStudy, make_sample

NORMAL_95 = 1.959964


@dataclass(slots=True)
class Tally:
    """How often an interval held the truth, and the standardised errors."""

    held: list[bool] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, error: float) -> None:
        """Adds (estimate - truth) / standard error."""
        self.held.append(abs(error) < NORMAL_95)
        self.errors.append(error)

    def line(self, name: str) -> str:
        share = 100 * float(np.mean(self.held))
        return (
            f"{name:<24} {share:5.1f} %   mean error {np.mean(self.errors):+.2f}, sd {np.std(self.errors):.2f} "
            f"standard errors ({len(self.held)} studies)"
        )


def main() -> None:
    """Prints the share of intervals that hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--chats", type=int, default=10)
    told = parser.parse_args()
    began = time.monotonic()
    tallies = {name: Tally() for name in ("accuracy alone", "constant", "sd over questions", "sd over people")}
    for seed in range(told.studies):
        sample = make_sample(SampleSettings(told.questions, told.chats, seed))
        add_accuracy(tallies["accuracy alone"], sample)
        add_regression(tallies, sample)
    for name, tally in tallies.items():
        print(tally.line(name))
    print(f"{time.monotonic() - began:.0f} s")


def difficulties(sample: SampleStudy) -> NDArray[np.float64]:
    """In logits, shape (questions,)."""
    return np.array([problem.difficulty for problem in sample.problems.values()])


def add_accuracy(tally: Tally, sample: SampleStudy) -> None:
    """The accuracy alone over all questions."""
    ability, weight = np.polynomial.hermite_e.hermegauss(40)
    chance = 1 / (1 + np.exp(difficulties(sample)[:, None] - ability[None, :]))
    truth = float((chance @ weight / weight.sum()).mean())
    rows = accuracy_rows(sample.study, accuracies(sample.study))
    row = next(row for row in rows if row.group.method == USER_ALONE and row.subset == EVERY_SUBSET)
    if not isinstance(row.accuracy.value, Undefined) and not isinstance(row.accuracy.standard_error, Undefined):
        tally.add((row.accuracy.value - truth) / row.accuracy.standard_error)


def add_regression(tallies: dict[str, Tally], sample: SampleStudy) -> None:
    """The constant and both spreads of the regression of answers alone."""
    fit = mixed_effects([answer for answer in sample.study.answers if answer.kind == "user-alone"])
    if not isinstance(fit, MixedEffects):
        return
    constant = fit.effects[0]
    tallies["constant"].add((constant.estimate + difficulties(sample).mean()) / constant.standard_error)
    add_spread(tallies["sd over questions"], fit.question_spread, float(difficulties(sample).std(ddof=1)))
    add_spread(tallies["sd over people"], fit.person_spread, 1.0)


def add_spread(tally: Tally, spread: Spread, truth: float) -> None:
    """A standard deviation, on the logarithmic scale of its interval."""
    if not isinstance(spread.interval, Undefined):
        error = np.log(spread.interval[1] / spread.interval[0]) / (2 * NORMAL_95)
        tally.add(float(np.log(spread.estimate / truth) / error))


if __name__ == "__main__":
    main()
