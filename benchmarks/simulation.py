"""How many conversations a second the engine holds with a local model, against holding them one at a time.

    python benchmarks/simulation.py                                        the packaged tiny model, about five minutes
    python benchmarks/simulation.py --model results/models/tiny/split_0 --assistant local
    python benchmarks/simulation.py --conversations 256 --alone 16 --rounds 1
    python benchmarks/simulation.py --data data --model results/models/MODEL/split_0 --conversations 100 --alone 8

With `--data`, the held-out questions of split_0 of these prepared splits, and the replies of each of its assistants,
replayed, instead of the sample study's; ten conversations of each question and assistant.

Four ways, in one process, in turns, round by round; the table shows medians:

    engine               whole blocks of conversations: a batch that stays full, each distinct token read once
    continuous batching  the same blocks through transformers' continuous batching (paged cache, prefix sharing)
    one at a time        the engine's code, one conversation after the other
    generate             one conversation after the other, each turn by the model's own `generate` (with its cache)

The last two hold `--alone` of the conversations, spread over the questions. Before anything is timed, all four hold
some conversations with greedy decoding; how many come out word for word the same is printed, and the engine's must.

`--assistant local` lets the same model play the assistant too, with at most `--max-tokens` tokens a turn. `--profile`
also prints where the engine's time goes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from chatbench.core.records import Question, SimulatedConversation, Study
from chatbench.data.workspace import Workspace
from chatbench.models import generation
from chatbench.models.encoding import PlainForm
from chatbench.models.kv_cache import Step
from chatbench.models.loading import Loaded, load, named_dtype
from chatbench.models.local_participants import LocalAssistant, LocalSimulator
from chatbench.protocol.dialogue import (
    Dialogue,
    Failure,
    FunctionParticipant,
    Participant,
    Reply,
    Request,
    dialogue,
)
from chatbench.protocol.dialogue_runner import Sides, run_together
from chatbench.protocol.prompts import END
from chatbench.sample.participants import scripted_reply
from chatbench.sample.study import SampleSettings, make_sample
from chatbench.simulation.participants import replay_assistant
from chatbench.simulation.run import BLOCK_SIZE

WAYS = ("engine", "continuous", "one", "generate")
PER_PAIR = 10
"""Conversations of a question and an assistant."""
MARKER = END.strip()


@dataclass(frozen=True, slots=True)
class Timing:
    """What one way of holding conversations took: seconds by the clock, and of the CPU."""

    conversations: int
    simulator_tokens: int
    seconds: float
    processor_seconds: float

    @property
    def conversations_a_second(self) -> float:
        return self.conversations / self.seconds

    @property
    def processor_seconds_each(self) -> float:
        return self.processor_seconds / self.conversations

    @property
    def tokens_a_second(self) -> float:
        return self.simulator_tokens / self.seconds


class TransformersSimulator:
    """The simulator by the model's own `generate`, one prompt at a time."""

    def __init__(self, loaded: Loaded, *, temperature: float, max_tokens: int) -> None:
        self.identity: dict[str, object] = {"kind": "local", "name": "transformers"}
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._form = PlainForm(loaded.tokenizer)
        self._temperature, self._max_tokens = temperature, max_tokens

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        ids = torch.tensor([self._form.prompt_ids(request.messages)])
        torch.manual_seed(request.seed)
        sampling = {"do_sample": True, "temperature": self._temperature, "top_k": 0} if self._temperature else {}
        with torch.inference_mode():
            found = self._model.generate(  # type: ignore[operator]  # transformers has no types here
                ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=self._tokenizer.eos_token_id,
                max_new_tokens=self._max_tokens,
                stopping_criteria=StoppingCriteriaList([EndMarker(self._tokenizer)]),
                **(sampling or {"do_sample": False}),
            )[0, ids.shape[1] :]
        text = str(self._tokenizer.decode(found, skip_special_tokens=True))
        return Reply(text.partition(MARKER)[0].strip(), tokens=len(found))


class ContinuousBatching:
    """The simulator by transformers' continuous batching: what `generate_batch` runs on, with requests that join late.

    `generate_batch` itself takes whole lists of prompts, and stops at token ids only; so the tokens are streamed, and a
    request is cancelled at the end marker. All rows draw from one generator, so a chat depends on its neighbours.
    """

    def __init__(self, loaded: Loaded, *, temperature: float, max_tokens: int) -> None:
        self.identity: dict[str, object] = {"kind": "local", "name": "transformers, continuous batching"}
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._form = PlainForm(loaded.tokenizer)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        self._generation = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers has no types here
            max_new_tokens=max_tokens,
            eos_token_id=loaded.tokenizer.eos_token_id,
            pad_token_id=loaded.tokenizer.eos_token_id,
            **sampling,
        )
        self._batching = ContinuousBatchingConfig(page_size=32, num_blocks=2048, max_batch_tokens=512, seed=0)
        self._manager: Any = None
        self._waiting: dict[str, int] = {}

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        raise NotImplementedError("requests join one by one")

    def share_memory(self, gib: float | None, models: int) -> None:
        """Does nothing: the number of blocks is set above."""

    def join(self, key: int, request: Request) -> None:
        ids = self._form.prompt_ids(request.messages)
        self._waiting[self._manager.add_request(ids, streaming=True)] = key

    def step(self) -> list[tuple[int, Reply | Failure]]:
        output = self._manager.get_result(timeout=60)
        if output is None or output.error:
            raise SystemExit(f"continuous batching: {output.error if output else 'no token for a minute'}")
        key = self._waiting.get(output.request_id)
        tail = self._tokenizer.decode(output.generated_tokens[-len(MARKER) :])
        if key is None or not (output.is_finished() or MARKER in tail):
            return []
        del self._waiting[output.request_id]
        if not output.is_finished():
            self._manager.cancel_request(output.request_id)
        text = str(self._tokenizer.decode(output.generated_tokens, skip_special_tokens=True))
        return [(key, Reply(text.partition(MARKER)[0].strip(), tokens=len(output.generated_tokens)))]

    def forget(self) -> None:
        """Begin anew, with nothing cached."""
        self.close()
        self._manager = self._model.init_continuous_batching(self._generation, self._batching)  # type: ignore[operator]
        self._manager.start()

    def close(self) -> None:
        if self._manager is not None:
            self._manager.destroy()
        self._manager, self._waiting = None, {}


class EndMarker(StoppingCriteria):
    """Stops where the end marker is written; `stop_strings` of transformers does the same, more slowly."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: object) -> torch.Tensor:
        # A token is at least a byte; the prompt, which has no marker at its very end, may be seen.
        done = [MARKER in self._tokenizer.decode(row[-len(MARKER) :]) for row in input_ids]
        return torch.tensor(done, device=input_ids.device)


@dataclass(frozen=True, slots=True)
class Bench:
    """The simulators of the four ways at one temperature, the assistants, and the questions."""

    ours: Participant
    continuous: ContinuousBatching
    theirs: Participant
    assistants: Sequence[Participant]
    questions: Sequence[Question]

    def dialogue(self, index: int, seed: int) -> Dialogue:
        question = self.questions[index // (PER_PAIR * len(self.assistants))]
        return dialogue(question, f"{seed}|{index}", base_seed=seed)

    def sides(self, simulator: Participant, index: int) -> Sides:
        assistant = self.assistants[index // PER_PAIR % len(self.assistants)]
        return {"simulator": simulator, "assistant": assistant}

    def in_blocks(self, simulator: Participant, indices: Sequence[int], seed: int) -> list[SimulatedConversation]:
        outcomes: list[SimulatedConversation] = []
        for start in range(0, len(indices), BLOCK_SIZE):
            block = indices[start : start + BLOCK_SIZE]
            sides = [self.sides(simulator, index) for index in block]
            outcomes += run_together([self.dialogue(index, seed) for index in block], sides)
        self.continuous.close()  # and with it its threads and its attention
        return outcomes

    def one_at_a_time(self, simulator: Participant, indices: Sequence[int], seed: int) -> list[SimulatedConversation]:
        return [run_together([self.dialogue(i, seed)], self.sides(simulator, i))[0] for i in indices]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(options.model, device="cpu")
    total = options.conversations
    study = Workspace(options.data).study if options.data else make_sample(SampleSettings(questions=120, chats=1)).study
    held_out = Workspace(options.data).split("split_0").question_ids("test") if options.data else study.questions
    questions = [study.questions[question_id] for question_id in held_out]
    alone = [round(index * (total - 1) / max(options.alone - 1, 1)) for index in range(options.alone)]
    sampled = _bench(loaded, questions, study, options, temperature=1.0)
    if total > (most := PER_PAIR * len(questions) * len(sampled.assistants)):
        raise SystemExit(f"--conversations {total}: at most {most}")
    check_greedy(_bench(loaded, questions, study, options, temperature=0.0), alone[: options.checked])
    ways: dict[str, Callable[[int], list[SimulatedConversation]]] = {
        "engine": lambda seed: sampled.in_blocks(sampled.ours, range(total), seed),
        "continuous batching of transformers": lambda seed: sampled.in_blocks(sampled.continuous, range(total), seed),
        "one at a time": lambda seed: sampled.one_at_a_time(sampled.ours, alone, seed),
        "generate, one at a time": lambda seed: sampled.one_at_a_time(sampled.theirs, alone, seed),
    }
    if options.dtype != "float32":
        rounded = load(options.model, device="cpu", dtype=named_dtype(options.dtype))
        ours = _bench(rounded, questions, study, options, temperature=1.0).ours
        ways[f"engine, {options.dtype}"] = lambda seed: sampled.in_blocks(ours, range(total), seed)
    ways = {name: hold for name, hold in ways.items() if name.replace(",", " ").split()[0] in options.ways}
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, hold in ways.items():
            with seconds_by_part() if options.profile and name.startswith("engine") else nullcontext():
                timings[name].append(_timed(hold, seed=number))
            rate = timings[name][-1].conversations_a_second
            print(f"round {number + 1}/{options.rounds}  {name}: {rate:.2f} conversations/s", flush=True)
    print(table(timings))


@contextmanager
def seconds_by_part() -> Iterator[None]:
    """Prints how long the engine's parts take inside: on a CPU, where a call ends when its work is done."""
    parts = {
        "forward pass": (generation.LocalGenerator, "_forward"),
        "  of it linear layers and head": (torch.nn.functional, "linear"),
        "  of it attention": (Step, "attend"),
        "sampling": (generation, "draw"),
        "cache: prompts": (generation.LocalGenerator, "_admit"),
        "cache: rows": (generation.LocalGenerator, "_continue"),
        "all steps": (generation.LocalGenerator, "_step"),
    }
    seconds: Counter[str] = Counter()

    def timed(part: str, called: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return called(*arguments, **named)
            finally:
                seconds[part] += time.perf_counter() - began

        return call

    with ExitStack() as stack:
        for part, (owner, name) in parts.items():
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield
    for part in parts:
        print(f"  {part:32s}{seconds[part]:8.1f} s", flush=True)


def check_greedy(bench: Bench, indices: Sequence[int]) -> None:
    """How many greedy conversations are those of `generate`, word for word.

    Raises:
        SystemExit: not all of the engine's.
    """
    expected = [outcome.turns for outcome in bench.one_at_a_time(bench.theirs, indices, 0)]
    for name, outcomes in {
        "engine": bench.in_blocks(bench.ours, indices, 0),
        "engine, one at a time": bench.one_at_a_time(bench.ours, indices, 0),
        "continuous batching": bench.in_blocks(bench.continuous, indices, 0),
    }.items():
        same = sum(outcome.turns == turns for outcome, turns in zip(outcomes, expected, strict=True))
        print(f"greedy, {name}: {same} of {len(expected)} conversations word for word those of generate", flush=True)
        if same != len(expected) and name.startswith("engine"):
            raise SystemExit(1)


def table(timings: dict[str, list[Timing]]) -> str:
    """Medians over the rounds; a ratio is the median of the rounds' ratios."""
    lines = [
        "| way | conversations/s | simulator tokens/s | engine over it (range) | by CPU time (range) |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in timings.items():
        pairs = list(zip(timings["engine"], rounds, strict=True))
        by_clock = [ours.conversations_a_second / theirs.conversations_a_second for ours, theirs in pairs]
        of_processor = [theirs.processor_seconds_each / ours.processor_seconds_each for ours, theirs in pairs]
        rates = median(one.conversations_a_second for one in rounds), median(one.tokens_a_second for one in rounds)
        lines.append(f"| {name} | {rates[0]:.2f} | {rates[1]:,.0f} | {_spread(by_clock)} | {_spread(of_processor)} |")
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def _timed(hold: Callable[[int], list[SimulatedConversation]], seed: int) -> Timing:
    began, began_processor = time.perf_counter(), time.process_time()
    outcomes = hold(seed)
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
    tokens = sum(outcome.usage.simulator_tokens for outcome in outcomes)
    return Timing(len(outcomes), tokens, seconds, processor_seconds)


def _bench(
    loaded: Loaded, questions: Sequence[Question], study: Study, options: argparse.Namespace, *, temperature: float
) -> Bench:
    limit = options.max_tokens
    if options.assistant == "local":
        assistants: list[Participant] = [
            LocalAssistant(loaded, "same", temperature=0.7 * temperature, max_tokens=limit)
        ]
    elif options.data:
        assistants = [replay_assistant(study.conversations, name) for name in study.assistants]
    else:
        assistants = [FunctionParticipant(_scripted, {"kind": "scripted"})]
    return Bench(
        ours=LocalSimulator(loaded, "model", temperature=temperature, max_tokens=limit),
        continuous=ContinuousBatching(loaded, temperature=temperature, max_tokens=limit),
        theirs=TransformersSimulator(loaded, temperature=temperature, max_tokens=limit),
        assistants=assistants,
        questions=questions,
    )


def _scripted(request: Request) -> Reply:
    return Reply(scripted_reply("scripted-strong", request.messages, request.seed))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:tiny_base", help="fine-tuned, in plain text form")
    parser.add_argument("--dtype", default="float32", help="another: also the engine with weights of this type")
    parser.add_argument("--data", type=Path, help="prepared splits instead of the sample study")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS, help="those to time, by their first word; engine is needed"
    )
    parser.add_argument("--assistant", choices=("scripted", "local"), default="scripted")
    parser.add_argument("--conversations", type=int, default=1024, help="ten of each question and assistant")
    parser.add_argument("--alone", type=int, default=64, help="conversations held one at a time")
    parser.add_argument("--checked", type=int, default=16, help="of those, compared with greedy decoding")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens of a turn at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also where the engine's time goes")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes, like chatbench simulate")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
