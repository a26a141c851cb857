r"""BLEU and ROUGE of all pairs of first prompts: shared counting against the packages pair by pair, in one process.

The size is ChatBench's: 159 held-out questions, 10 simulated and 18 human first prompts each, 28,620 pairs. Prompts are
made up: of questions of about 70 words, two people in five copy all, the others a part of it, with words of their own.
The packages get every pair's texts, as their documentation has it: sacrebleu (unsmoothed, 13a) with all pairs of a
question as one corpus, and rouge-score for each pair. They are run on the first `--naive` questions only and scaled by
the number of pairs; `--naive 159` runs them on all.

    python benchmarks/overlap.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from chatbench.metrics.text import overlap

Prompts = list[tuple[list[str], list[str]]]
"""Per question, the simulated and the human first prompts."""
ROUGE = ["rouge1", "rouge2", "rougeL"]


def made_up_prompts(questions: int, simulated: int, human: int, seed: int) -> Prompts:
    """First prompts about made-up questions."""
    rng = np.random.default_rng(seed)

    def words(count: int) -> list[str]:
        return [f"w{number}" for number in rng.zipf(1.3, count) % 5000]

    def prompt(question: list[str]) -> str:
        if rng.random() < 0.4:
            return " ".join(question) + "?"
        start, stop = np.sort(rng.integers(0, len(question), 2))
        return " ".join([*words(int(rng.integers(0, 12))), *question[start : stop + 1]]) + "?"

    prompts = []
    for _ in range(questions):
        question = words(int(np.clip(rng.lognormal(np.log(62), 0.45), 10, 250)))
        prompts.append(([prompt(question) for _ in range(simulated)], [prompt(question) for _ in range(human)]))
    return prompts


def shared(prompts: Prompts) -> list[list[float]]:
    """BLEU, ROUGE-1, ROUGE-2 and ROUGE-L of each question, as eval-chatbench computes them."""
    scored = [overlap(simulated, human) for simulated, human in prompts]
    return [[each.bleu, each.rouge1, each.rouge2, each.rougeL] for each in scored]


def pair_by_pair(prompts: Prompts) -> list[list[float]]:
    """The same by the packages."""
    bleu, rouge = BLEU(smooth_method="none", tokenize="13a"), RougeScorer(ROUGE, use_stemmer=False)
    rows = []
    for simulated, human in prompts:
        pairs = [(one, other) for one in simulated for other in human]
        corpus = bleu.corpus_score([one for one, _ in pairs], [[other for _, other in pairs]])
        scores = [rouge.score(other, one) for one, other in pairs]
        rows.append([corpus.score / 100, *(float(np.mean([s[name].fmeasure for s in scores])) for name in ROUGE)])
    return rows


def seconds(score: object, prompts: Prompts) -> tuple[float, list[list[float]]]:
    began = time.process_time()
    rows = score(prompts)  # type: ignore[operator]
    return time.process_time() - began, rows


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    return float(np.abs(np.array(one) - np.array(other)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    for name, default in (("questions", 159), ("simulated", 10), ("human", 18), ("naive", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    told = parser.parse_args()
    prompts = made_up_prompts(told.questions, told.simulated, told.human, told.seed)
    pairs, part = told.simulated * told.human, prompts[: told.naive]
    shared(made_up_prompts(2, 2, 2, told.seed + 1))  # imports and first calls are not what is measured
    ours, rows = seconds(shared, prompts)
    theirs, expected = seconds(pair_by_pair, part)
    scaled = theirs * len(prompts) / len(part)
    print(f"shared counting: {ours:.2f} s CPU for {len(prompts) * pairs:,} pairs of {len(prompts)} questions")
    print(f"pair by pair:    {theirs:.2f} s CPU for {len(part) * pairs:,} pairs, so {scaled:.1f} s for all")
    print(f"ratio {scaled / ours:.0f}, largest difference {largest_difference(rows[: len(part)], expected):.1e}")


if __name__ == "__main__":
    main()
