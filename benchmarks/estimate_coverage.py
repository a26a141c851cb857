r"""How often the intervals of `chatbench estimate` hold the truth, on generated studies whose truth is known.

Each replication draws questions, people, assistants and simulators anew:

- accuracy of a question with assistant a: level(a) + question effect (sd 0.2) + question x assistant (sd 0.05), in
  0.02..0.98; a person adds an effect (`person_sd`), and right or wrong is drawn;
- a simulator says that accuracy, shrunk towards its mean by `signal`, plus its bias, plus its error on the assistant,
  plus noise per question, in 0..1, of which `chats` chats are drawn.

    python benchmarks/estimate_coverage.py                          # 1,000 replications of every case
    python -P benchmarks/estimate_coverage.py --ppi-python          # equality with ppi-python, to be installed
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chatbench.estimation.new_assistant import (
    HeldOut,
    RealAnswers,
    Rectified,
    predict,
    predict_difference,
    published,
    rectified,
)
from chatbench.metrics.agreement import Undefined

Array = NDArray[np.float64]
NORMAL_95 = 1.959964
LEVELS = (0.45, 0.55, 0.65, 0.75)
"""Mean accuracy with the known assistants; that with the new one is drawn from the same range."""


@dataclass(frozen=True, slots=True)
class World:
    """A kind of study: its size, its people, and its simulator."""

    name: str = ""
    questions: int = 120
    answers: int = 100
    answers_per_person: int = 1
    answers_per_question: int = 1
    question_sd: float = 0.2
    person_sd: float = 0.0
    signal: float = 1.0
    noise: float = 0.05
    bias: float = 0.1
    error_sd: float = 0.05
    chats: int = 10
    assistants: int = 4


RECTIFIED = (
    World("good simulator, independent answers"),
    World("good, few answers", answers=30),
    World("useless", signal=0.0),
    World("useless, few answers", signal=0.0, answers=30),
    World("biased by 0.3", bias=0.3),
    World("people differ, 5 answers a person", person_sd=0.15, answers_per_person=5),
    World("4 answers a question", answers_per_question=4, answers=160),
    World("both clusters", person_sd=0.15, answers_per_person=5, answers_per_question=4, answers=200),
)
NEW = (
    World("4 assistants"),
    World("3 assistants", assistants=3),
    World("6 assistants", assistants=6),
    World("4, errors of 0.1", error_sd=0.1),
    World("4, errors of 0", error_sd=0.0),
    World("4, biased by 0.3", bias=0.3),
    World("4, useless", signal=0.0),
    World("4, 30 questions", questions=30),
)


def accuracies(world: World, levels: Array, rng: np.random.Generator) -> Array:
    """Accuracy of average people, shape (assistants, questions)."""
    question = rng.normal(0, world.question_sd, world.questions)
    single = rng.normal(0, 0.05, (len(levels), world.questions))
    return np.clip(levels[:, None] + question + single, 0.02, 0.98)


def simulate(world: World, accuracy: Array, rng: np.random.Generator, errors: Array) -> Array:
    """Simulated accuracies, shape (assistants, questions)."""
    mean = accuracy.mean(axis=1, keepdims=True)
    chance = mean + world.signal * (accuracy - mean) + world.bias + errors[:, None]
    chance = np.clip(chance + rng.normal(0, world.noise, accuracy.shape), 0, 1)
    return rng.binomial(world.chats, chance) / world.chats


def real_answers(world: World, accuracy: Array, rng: np.random.Generator) -> RealAnswers:
    """Answers of people, each about as many random questions as the world says."""
    people = world.answers // world.answers_per_person
    pool = rng.permutation(world.questions)
    if world.answers_per_question > 1:
        pool = pool[: world.answers // world.answers_per_question]
    question = np.concatenate([rng.choice(pool, world.answers_per_person, replace=False) for _ in range(people)])
    person = np.repeat(np.arange(people), world.answers_per_person)
    chance = np.clip(accuracy[question] + rng.normal(0, world.person_sd, people)[person], 0, 1)
    return RealAnswers((rng.random(len(question)) < chance).astype(float), question.astype(np.int64), person)


def truth(world: World, level: float) -> float:
    """Mean accuracy over all questions and people of that kind."""
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(3, 400_000))
    accuracy = np.clip(level + world.question_sd * normal[0] + 0.05 * normal[1], 0.02, 0.98)
    return float(np.clip(accuracy + world.person_sd * normal[2], 0, 1).mean())


def rectified_row(world: World, replications: int, seed: int = 0) -> dict[str, float]:
    """Coverage and width of the intervals for one assistant, with the published interval on the same data."""
    true, rng = truth(world, 0.6), np.random.default_rng(seed)
    found: list[Rectified] = []
    naive = []
    for _ in range(replications):
        accuracy = accuracies(world, np.array([0.6]), rng)
        simulated = simulate(world, accuracy, rng, np.zeros(1))[0]
        real = real_answers(world, accuracy[0], rng)
        one = rectified(real, simulated)
        assert isinstance(one, Rectified)
        found.append(one)
        _, estimate, error = published(real.correct, simulated[real.question], simulated)
        naive.append(abs(estimate - true) <= NORMAL_95 * error)
    alone, both = ([getattr(one, name) for one in found] for name in ("alone", "rectified"))
    widths = [np.mean([one.high - one.low for one in each]) for each in (alone, both)]
    spreads = [np.mean([(one.value - true) ** 2 for one in each]) for each in (alone, both)]
    return {
        "rectified": float(np.mean([one.low <= true <= one.high for one in both])),
        "people alone": float(np.mean([one.low <= true <= one.high for one in alone])),
        "published PPI++": float(np.mean(naive)),
        "width / people alone": float(widths[1] / widths[0]),
        "effective": float(np.mean([one.effective_answers for one in found])) / world.answers,
        "effective, true": float(spreads[0] / spreads[1]),
        "loses": float(np.mean([one.loses for one in found])),
    }


def new_row(world: World, replications: int, seed: int = 0) -> dict[str, float]:
    """Coverage and width of the prediction for a new assistant, and of its difference to a known one."""
    rng = np.random.default_rng(seed)
    held, differences, widths = [], [], []
    known = tuple(f"q{number}" for number in range(world.questions))
    for _ in range(replications):
        levels = rng.uniform(LEVELS[0], LEVELS[-1], world.assistants + 1)
        accuracy = accuracies(world, levels, rng)
        errors = rng.normal(0, world.error_sd, world.assistants + 1)
        simulated = simulate(world, accuracy, rng, errors)
        human = rng.binomial(10, accuracy) / 10
        outs = [HeldOut(str(a), known, human[a], simulated[a]) for a in range(world.assistants)]
        new, old = (dict(zip(known, simulated[at].tolist(), strict=True)) for at in (-1, 0))
        level, difference = predict(new, outs), predict_difference(new, old, outs)
        assert not isinstance(level, Undefined)
        assert not isinstance(difference, Undefined)
        true = [fast_truth(world, float(levels[at])) for at in (-1, 0)]
        held.append(level.estimate.low <= true[0] <= level.estimate.high)
        differences.append(difference.low <= true[0] - true[1] <= difference.high)
        widths.append((level.estimate.high - level.estimate.low, difference.high - difference.low))
    width = np.mean(widths, axis=0)
    return {
        "level": float(np.mean(held)),
        "width": float(width[0]),
        "difference": float(np.mean(differences)),
        "its width": float(width[1]),
    }


_TRUTHS: dict[World, tuple[Array, Array]] = {}


def fast_truth(world: World, level: float) -> float:
    """`truth`, interpolated between levels."""
    like = World(question_sd=world.question_sd, person_sd=world.person_sd)
    if like not in _TRUTHS:
        at = np.linspace(0.3, 0.9, 13)
        _TRUTHS[like] = at, np.array([truth(like, float(one)) for one in at])
    return float(np.interp(level, *_TRUTHS[like]))


def print_rows(title: str, rows: dict[str, dict[str, float]]) -> None:
    """A Markdown table."""
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.3f}' for column in columns)} |")


def compare_with_ppi_python() -> None:
    """Prints the largest difference of weight-free results on random independent data."""
    # Started with -P: the scripts of this folder, of which one is called coverage, would hide modules that it imports.
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate  # type: ignore[import-not-found]  # installed for this only

    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(200):
        n, others = int(rng.integers(20, 200)), int(rng.integers(20, 2000))
        chance = rng.random(n + others)
        correct = (rng.random(n) < chance[:n]).astype(float)
        noise = rng.normal(rng.normal(0.2, 0.3), 0.1, n + others)
        predicted = np.clip(rng.choice([0, 0.5, 1]) * chance + noise, 0, 1)
        _, estimate, error = published(correct, predicted[:n], predicted[n:])
        low, high = ppi_mean_ci(correct, predicted[:n], predicted[n:], alpha=0.05)
        theirs = float(np.squeeze(ppi_mean_pointestimate(correct, predicted[:n], predicted[n:])))
        from scipy.stats import norm

        half = norm.ppf(0.975) * error
        ends = [float(np.squeeze(low)) - estimate + half, float(np.squeeze(high)) - estimate - half]
        largest = max(largest, abs(theirs - estimate), *map(abs, ends))
    print(f"largest difference from ppi-python in 200 data sets: {largest:.1e}")


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--ppi-python", action="store_true")
    told = parser.parse_args(arguments)
    if told.ppi_python:
        compare_with_ppi_python()
        return
    began = time.monotonic()
    print_rows("rectified", {w.name: rectified_row(w, told.replications) for w in RECTIFIED})
    print_rows("new assistant", {w.name: new_row(replace(w), told.replications) for w in NEW})
    print(f"\n{told.replications} replications, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
