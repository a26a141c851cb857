r"""How often the intervals of the scores hold the truth: simulated studies of simulated people, whose truth is known.

A *world* has questions with a difficulty, two assistants, people with an ability who answer several questions each,
and a simulator that knows part of the difficulty. A figure's truth is its value over a hundred thousand questions, with
as many people and chats per cell as the small studies have. Each replication draws a study and its splits anew.

    python benchmarks/coverage.py                               # 1,000 replications of the size of the demo
    python benchmarks/coverage.py --questions 396 --splits 10   # the size of ChatBench
    python benchmarks/coverage.py --questions 30 --people 6 --per-person 30   # six people, who answer everything

`--paired` compares two simulators that truly differ by 0: both know as much, of different things; with `--opposite`,
one says too much and the other as much too little, so that able or less able people favour one of them.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbench.core.records import Answer
from chatbench.metrics.agreement import METRICS, Undefined, batch_agreement
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, MEAN_OF_ASSISTANTS
from chatbench.metrics.paired import paired_differences, paired_split
from chatbench.metrics.pairs import Pair, Prediction, SplitPairs
from chatbench.metrics.resampling import Bound, Draws, Resampling, predictor_intervals

ASSISTANTS = ("strong", "weak")
SIGNED_BY_BIAS = ("bias", "accuracy")
"""Figures that truly differ between simulators of opposite biases."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """How studies are drawn. Standard deviations are in logits; `knows` is how well the simulator knows difficulty."""

    questions: int = 120
    splits: int = 3
    train_share: float = 0.6
    people: int = 9
    per_person: int = 12
    chats: int = 10
    difficulty: float = 1.3
    ability: float = 1.0
    knows: float = 0.7
    bias: float = 0.3
    opposite: bool = False


@dataclass(frozen=True, slots=True)
class DrawnStudy:
    """The answers of people, and the cells of each split with both simulators."""

    answers: tuple[Answer, ...]
    splits: tuple[SplitPairs, ...]


def chance(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits)))


def draw_levels(world: World, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Logits, shape (questions, assistants): of people of average ability, and of both simulators."""
    shared = rng.normal(0, world.difficulty, (count, 1))
    middle, easier = (0.0, np.array([0.25, -0.25])) if world.opposite else (0.8, np.array([0.0, -0.5]))
    real = middle + shared + rng.normal(0, world.difficulty / 2, (count, len(ASSISTANTS))) + easier
    spread = world.difficulty * np.sqrt(1.25)
    guessed = [
        bias + middle + world.knows * (real - middle) + np.sqrt(1 - world.knows**2) * rng.normal(0, spread, real.shape)
        for bias in (world.bias, -world.bias if world.opposite else world.bias)
    ]
    return real, guessed[0], guessed[1]


def draw_study(world: World, rng: np.random.Generator) -> DrawnStudy:
    """One study: with each assistant, `people` people answer every question, each `per_person` questions."""
    real, *guessed = draw_levels(world, world.questions, rng)
    answers: list[Answer] = []
    right = np.zeros(real.shape)
    for number, assistant in enumerate(ASSISTANTS):
        for turn in range(world.people):
            order = rng.permutation(world.questions)
            batch = np.arange(world.questions) // world.per_person
            ability = rng.normal(0, world.ability, batch[-1] + 1)[batch]
            correct = rng.random(world.questions) < chance(real[order, number] + ability)
            right[order, number] += correct
            answers += [
                Answer(f"q{q}", f"{assistant} {turn} {who}", "user-AI", assistant, "", None, bool(is_right))
                for q, who, is_right in zip(order.tolist(), batch.tolist(), correct.tolist(), strict=True)
            ]
    splits = []
    for _ in range(world.splits):
        held_out = np.sort(rng.permutation(world.questions)[round(world.train_share * world.questions) :])
        simulated = [rng.binomial(world.chats, chance(logits)) for logits in guessed]  # each split simulates anew
        people = _cells(held_out, right, world.people)
        sources = {
            name: _cells(held_out, drawn, world.chats)
            for name, drawn in zip((FINE_TUNED, BASE_MODEL), simulated, strict=True)
        }
        splits.append(SplitPairs(people, sources))
    return DrawnStudy(tuple(answers), tuple(splits))


def _cells(
    held_out: NDArray[np.int64], right: NDArray[np.float64] | NDArray[np.int64], count: int
) -> dict[Pair, Prediction]:
    return {
        (f"q{q}", assistant): Prediction(float(right[q, number]) / count, count)
        for q in held_out.tolist()
        for number, assistant in enumerate(ASSISTANTS)
    }


def true_figures(world: World, rng: np.random.Generator, questions: int = 100_000) -> dict[tuple[str, str], float]:
    """Every figure over so many questions that chance is below the third decimal; by (assistant, metric)."""
    real, guessed, _ = draw_levels(world, questions, rng)
    ability = rng.normal(0, world.ability, (world.people, *real.shape))
    human = (rng.random(ability.shape) < chance(real + ability)).mean(axis=0)
    simulated = rng.binomial(world.chats, chance(guessed)) / world.chats
    ones = np.ones((1, questions))
    per_assistant = [batch_agreement(human[None, :, n], simulated[None, :, n], ones) for n in range(len(ASSISTANTS))]
    pooled = batch_agreement(human.reshape(1, -1), simulated.reshape(1, -1), np.ones((1, human.size)))
    return {(MEAN_OF_ASSISTANTS, m): float(np.mean([each[m][0] for each in per_assistant])) for m in METRICS} | {
        (EVERY_ASSISTANT, m): float(pooled[m][0]) for m in METRICS
    }


def study_intervals(study: DrawnStudy, told: Resampling) -> dict[tuple[str, str], Bound]:
    """The intervals of the first simulator, as eval-chatbench makes them."""
    draws = Draws((pair for split in study.splits for pair in split.human), study.answers, told)
    pairs = [draws.predictor_pairs(split.human, split.predictors[FINE_TUNED]) for split in study.splits]
    return predictor_intervals(draws, pairs)


def study_differences(study: DrawnStudy, told: Resampling) -> dict[tuple[str, str], tuple[Bound, float]]:
    """Interval and p-value of every difference between the two simulators, whose true value is 0."""
    splits = [
        paired_split(split.human, split.predictors[FINE_TUNED], split.predictors[BASE_MODEL]) for split in study.splits
    ]
    draws = Draws((pair for split in splits for pair in split.human), study.answers, told)
    found = paired_differences(draws, splits)
    return {row: (each.interval, each.p) for row, each in found.items() if not isinstance(each.p, Undefined)}


def coverage(world: World, replications: int, told: Resampling, seed: int, *, paired: bool) -> dict[str, Counter[str]]:
    """Per figure, how many intervals there were, held the truth, and (paired) how many p-values were at most 0.05."""
    rng = np.random.default_rng(seed)
    truth = true_figures(world, rng)
    counts: dict[str, Counter[str]] = {}
    for _ in range(replications):
        study = draw_study(world, rng)
        for row, bound in study_intervals(study, told).items():
            if row in truth:
                _count(counts.setdefault(f"{row[1]}, {row[0]}", Counter()), bound, truth[row])
        for row, (bound, p) in study_differences(study, told).items() if paired else ():
            if row in truth and not (world.opposite and row[1] in SIGNED_BY_BIAS):
                counter = counts.setdefault(f"difference of {row[1]}, {row[0]}", Counter())
                _count(counter, bound, 0.0)
                counter["tests"] += 1
                counter["p <= 0.05"] += p <= 0.05
    return counts


def _count(counter: Counter[str], bound: Bound, truth: float) -> None:
    counter["intervals"] += not isinstance(bound, Undefined)
    counter["hold"] += not isinstance(bound, Undefined) and bound.low <= truth <= bound.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    numbers = {"replications": 1000, "questions": 120, "splits": 3, "people": 9, "per-person": 12, "bootstrap": 500}
    for name, default in {**numbers, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ability", type=float, default=1.0, help="sd of people's ability in logits")
    parser.add_argument("--paired", action="store_true", help="differences between two equally good simulators too")
    parser.add_argument("--opposite", action="store_true", help="the two simulators have opposite biases")
    told = parser.parse_args()
    world = World(
        questions=told.questions, splits=told.splits, people=told.people, per_person=told.per_person,
        ability=told.ability, opposite=told.opposite,
    )  # fmt: skip
    began = time.monotonic()
    counts = coverage(world, told.replications, Resampling(told.bootstrap), told.seed, paired=told.paired)
    print(f"{world}\n{told.replications} replications, {time.monotonic() - began:.0f} s\n")
    print(f"{'figure':<45}{'intervals':>10}{'hold the truth':>16}{'p <= 0.05':>11}")
    for name, counter in counts.items():
        share = f"{100 * counter['hold'] / counter['intervals']:.1f} %" if counter["intervals"] else "none"
        small = f"{100 * counter['p <= 0.05'] / counter['tests']:.1f} %" if counter["tests"] else ""
        print(f"{name:<45}{counter['intervals']:>10}{share:>16}{small:>11}")


if __name__ == "__main__":
    main()
