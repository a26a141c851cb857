"""How much less expected answers vary than sampled ones, at equal conversations, and what reading them costs.

    python benchmarks/expected_answers.py --model results/models/tiny/split_0
    python benchmarks/expected_answers.py --model FOLDER --questions 20 --conversations 8 --rounds 1

A fine-tuned simulator talks about questions of the sample study with both scripted assistants. Of each conversation
there are three estimates of being right: the drawn letter (0 or 1), the probability of the right letter given an answer
where the conversation ended (see models/answer_probabilities.py), and the sum of p(answering) * p(right letter) over
all steps. A cell is a question with an assistant; the variance of its simulated accuracy is that between its
conversations over their number, so a ratio of the former is one of the latter. Intervals: cells drawn anew.

Every round holds the conversations twice, with other seeds than the round before: reading the probabilities, and not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from chatbench.core.records import FOUR_LETTERS, Question, SimulatedConversation
from chatbench.models.loading import load
from chatbench.models.local_participants import LocalSimulator
from chatbench.protocol.dialogue import FunctionParticipant, Reply, Request, dialogue
from chatbench.protocol.dialogue_runner import run_together
from chatbench.sample.participants import STRENGTHS, scripted_reply
from chatbench.sample.study import SampleSettings, make_sample
from chatbench.simulation.run import BLOCK_SIZE

Floats = NDArray[np.float64]
ESTIMATES = ("drawn letter", "p(right letter, given an answer)", "sum of p(answering) p(right letter)")
REPLICATES = 2000


@dataclass(frozen=True, slots=True)
class Held:
    """Conversations, and the seconds that all took: by the clock, and of the CPU."""

    outcomes: list[SimulatedConversation]
    seconds: float
    processor_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    every = list(make_sample(SampleSettings(questions=120, chats=1)).study.questions.values())
    questions = [every[round(place)] for place in np.linspace(0, len(every) - 1, options.questions)]
    loaded = load(options.model, device="cpu")

    def simulator(*, read: bool) -> LocalSimulator:
        return LocalSimulator(loaded, "x", temperature=1.0, max_tokens=options.max_tokens, expected_answers=read)

    reading, plain = simulator(read=True), simulator(read=False)
    took: dict[bool, list[Held]] = {True: [], False: []}
    outcomes: list[SimulatedConversation] = []
    for number in range(options.rounds):
        for read, one in ((True, reading), (False, plain)):
            held = hold(one, questions, options.conversations, seed=number)
            took[read].append(held)
            outcomes += held.outcomes if read else []
            print(
                f"round {number + 1}/{options.rounds}  {'reading' if read else 'plain'}: {held.seconds:.1f} s",
                flush=True,
            )
    # Rounds are further conversations of the same cells: (cells, conversations, estimates).
    answers = [question.answer for question in questions for _ in STRENGTHS for _ in range(options.conversations)]
    shape = (options.rounds, len(questions) * len(STRENGTHS), options.conversations, len(ESTIMATES))
    values = np.array([estimates(one, answer) for one, answer in zip(outcomes, answers * options.rounds, strict=True)])
    values = values.reshape(shape).transpose(1, 0, 2, 3).reshape(shape[1], -1, len(ESTIMATES))
    print(table(values))
    by_clock = median(r.seconds / p.seconds for r, p in zip(took[True], took[False], strict=True))
    of_processor = median(
        r.processor_seconds / p.processor_seconds for r, p in zip(took[True], took[False], strict=True)
    )
    print(f"reading adds {by_clock - 1:+.1%} by the clock, {of_processor - 1:+.1%} CPU time (medians of rounds)")


def hold(simulator: LocalSimulator, questions: Sequence[Question], conversations: int, *, seed: int) -> Held:
    """All conversations of all cells, in the order of questions, assistants and repetitions."""
    began, began_processor = time.perf_counter(), time.process_time()
    found: dict[tuple[int, str, int], SimulatedConversation] = {}
    for name in STRENGTHS:
        planned = [(place, name, index) for place in range(len(questions)) for index in range(conversations)]
        assistant = FunctionParticipant(_scripted(name), {"kind": "scripted"})
        for start in range(0, len(planned), BLOCK_SIZE):
            block = planned[start : start + BLOCK_SIZE]
            dialogues = [
                dialogue(questions[place], f"{questions[place].id}|{name}|{index}", base_seed=seed)
                for place, name, index in block
            ]
            ended = run_together(dialogues, {"simulator": simulator, "assistant": assistant})
            found.update(zip(block, ended, strict=True))
    outcomes = [found[key] for key in sorted(found)]
    return Held(outcomes, time.perf_counter() - began, time.process_time() - began_processor)


def estimates(outcome: SimulatedConversation, answer: str) -> tuple[float, float, float]:
    """The three estimates of one conversation; without an answer the first two are 0: counted wrong."""
    right = FOUR_LETTERS.index(answer)
    summed = sum(one.answering * one.letters[right] for one in outcome.answer_probabilities if one is not None)
    return float(outcome.letter == answer), outcome.expected_correct or 0.0, summed


def table(values: Floats) -> str:
    """Means, variances and their ratios.

    Args:
        values: shape (cells, conversations, estimates).
    """
    within = values.var(axis=1, ddof=1)
    drawn = np.random.default_rng(0).integers(len(values), size=(REPLICATES, len(values)))
    differences = (values - values[:, :, :1]).mean(axis=1)
    lines = [
        f"{values.shape[0]} cells, {values.shape[1]} conversations each",
        "| estimate | mean | minus drawn (95 %) | variance between conversations | over drawn (95 %) |",
        "|---|---|---|---|---|",
    ]
    for place, name in enumerate(ESTIMATES):
        ratios = within[drawn, place].mean(axis=1) / within[drawn, 0].mean(axis=1)
        low, high = np.quantile(ratios, (0.025, 0.975))
        off = 1.96 * differences[:, place].std(ddof=1) / len(values) ** 0.5
        ratio = within[:, place].mean() / within[:, 0].mean()
        lines.append(
            f"| {name} | {values[:, :, place].mean():.4f} | {differences[:, place].mean():+.4f} ± {off:.4f} "
            f"| {within[:, place].mean():.4f} | {ratio:.3f} ({low:.3f} to {high:.3f}) |"
        )
    return "\n".join(lines)


def _scripted(name: str) -> Callable[[Request], Reply]:
    def reply(request: Request) -> Reply:
        return Reply(scripted_reply(name, request.messages, request.seed))

    return reply


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a simulator fine-tuned on the sample study")
    parser.add_argument("--questions", type=int, default=60, help="of the sample study's 120")
    parser.add_argument("--conversations", type=int, default=10, help="per question, assistant and round")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens of a turn at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
