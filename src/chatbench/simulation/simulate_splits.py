"""Simulates several splits on one budget, and the dry run: what that would do and cost.

The estimate is made before any model is loaded or any endpoint is asked. Tokens per conversation are the mean over
the recorded conversations with these assistants, if the log has any and keeps them; otherwise they are estimated from
people's chats about the same questions, at four characters per token: as many turns, as long, each request with the
whole chat so far. A simulator that talks more than people costs more; once conversations are recorded, the next
estimate uses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatbench.core.records import Usage
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.protocol.prompts import ANSWER_PREFIX, ASSISTANT_SYSTEM
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.judge import needs_judge
from chatbench.simulation.log import read_recorded, refuse_other_settings
from chatbench.simulation.participants import SPLIT_MARK, TUNED, SimulatorSpec, refuse_impossible
from chatbench.simulation.run import blocks
from chatbench.simulation.simulate import ChatSettings, Task, settings_known_before, simulate, specs_in, task_of
from chatbench.simulation.summary import Tally, count_earlier, tally_of

CHARACTERS_PER_TOKEN = 4
ENDPOINTS = ("openai", "completions")
"""Kinds of participants behind an endpoint; their conversations are not divided into blocks."""
WITHOUT_TOKENS = ("scripted", "replay")
"""Kinds of assistants that use no tokens."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """The conversations with one assistant: planned, in the log, and the blocks in which the rest is simulated.

    `blocks` is None if they are simulated one by one.
    """

    assistant: str
    planned: int
    recorded: int
    blocks: int | None

    def line(self) -> str:
        missing = self.planned - self.recorded
        how = "one by one" if self.blocks is None else f"in {self.blocks} block{'s' * (self.blocks != 1)}"
        rest = f"{missing} to simulate, {how}" if missing else "nothing to simulate"
        return f"{self.assistant}: {self.planned} conversations, {self.recorded} recorded, {rest}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run on one split would do; `usage` is for everything missing, estimated from `basis`."""

    task: Task
    pending: tuple[Pending, ...]
    usage: Usage
    basis: str
    prices: Prices

    @property
    def missing(self) -> int:
        """Conversations to simulate."""
        return sum(one.planned - one.recorded for one in self.pending)

    def lines(self) -> list[str]:
        """Lines to print: per assistant, tokens, dollars, and where it would be written."""
        return [*(one.line() for one in self.pending), *self.cost_lines(), f"to be written to {self.task.log}"]

    def cost_lines(self) -> list[str]:
        """Tokens and dollars; none if there is nothing to simulate."""
        if not self.missing:
            return []
        lines = [f"about {self.usage.read:,} tokens read, {self.usage.written:,} written (estimated from {self.basis})"]
        if self.prices.known:
            usd = self.prices.usd(self.usage)
            each = usd * 1000 / self.missing
            lines.append(f"about ${each:,.2f} per 1,000 conversations, ${usd:,.2f} for these {self.missing:,}")
        return lines


def estimate(
    task: Task, settings: ChatSettings, simulator: SimulatorSpec, prices: Prices, *, overwrite: bool = False
) -> Estimate:
    """What `simulate` would do with the same arguments.

    Raises:
        ChatbenchError: the log is damaged, or was made with other settings.
    """
    needs_judge(task.questions, settings.judge)
    recorded: set[str] = set()
    if not overwrite:
        refuse_other_settings(task.log, settings_known_before(task, settings, simulator))
        recorded = {chat.id for _, chat in read_recorded(task.log) if not chat.transient}
    # A log to be overwritten may be damaged, or of another version: it is not read.
    plans = task.plans(settings.conversations)
    ids = {one.id for planned in plans.values() for one in planned}
    each, basis = _usage_each(task, STYLES[simulator.style], Tally() if overwrite else tally_of(task.log, ids))
    pending = []
    tokens: Counter[str] = Counter()
    for spec, planned in zip(task.assistants, plans.values(), strict=True):
        done = sum(one.id in recorded for one in planned)
        open_blocks = sum(
            any(one.id not in recorded for one in block) for block in blocks(planned, settings.block_size)
        )
        by_itself = not {simulator.kind, spec.kind}.isdisjoint(ENDPOINTS)
        pending.append(Pending(spec.name, len(planned), done, None if by_itself else open_blocks))
        counted = [name for name in each if spec.kind not in WITHOUT_TOKENS or name.startswith("simulator")]
        tokens.update({name: round((len(planned) - done) * each[name]) for name in counted})
    return Estimate(task, tuple(pending), Usage(**tokens), basis, prices)


def _usage_each(task: Task, style: Style, tally: Tally) -> tuple[dict[str, float], str]:
    """Mean tokens per conversation, by field of `Usage`, and what they are based on."""
    if tally.usage.read + tally.usage.written:
        means = {name: count / tally.lines for name, count in tally.tokens.items()}
        return means, f"{tally.lines} recorded conversations"
    questions = {question.id: question for question in task.questions}
    chats = [chat for chat in task.study.conversations if chat.question_id in questions]
    characters: Counter[str] = Counter()
    first = 2 if style.opening else 0
    for chat in chats:  # what both sides would read and write if the simulator wrote this very chat
        turns, question = chat.turns, questions[chat.question_id]
        for end in range(first, len(turns) + 1, 2):
            asked = style.messages(question.full_text, turns[:end], asked_for=question.asked_for)
            characters["simulator_prompt_tokens"] += sum(len(message.content) for message in asked)
        for end in range(1, len(turns), 2):
            characters["assistant_prompt_tokens"] += len(ASSISTANT_SYSTEM) + sum(len(turn.text) for turn in turns[:end])
        characters["simulator_tokens"] += sum(len(turn.text) for turn in turns[first::2]) + len(ANSWER_PREFIX) + 1
        characters["assistant_tokens"] += sum(len(turn.text) for turn in turns[1::2])
    tokens = {name: count / CHARACTERS_PER_TOKEN / max(1, len(chats)) for name, count in characters.items()}
    return tokens, f"{len(chats)} chats of people, at {CHARACTERS_PER_TOKEN} characters per token"


@dataclass(frozen=True, slots=True)
class Simulations:
    """The simulations that a command asks for; `split` None means every split that this simulator can play on."""

    model: str
    assistants: Sequence[str]
    workspace: Workspace
    settings: ChatSettings
    split: str | None = None
    simulator: SimulatorSpec = TUNED
    base_model: bool = False

    def splits(self) -> list[str]:
        """The requested split; else those that the simulator was trained on; else (no training needed) all.

        Raises:
            ChatbenchError: nothing is prepared, or nothing is trained.
        """
        if self.split:
            return [self.split]
        if self.simulator.kind == "tuned" and not self.base_model:
            return self.workspace.trained_splits(self.model)
        return list(self.workspace.manifest.split_ids)

    def estimate(self, split: str, spending: Spending, *, overwrite: bool = False) -> Estimate:
        """What one split would do and cost; no model is loaded and no endpoint is asked."""
        expected, fitted = self.settings.expected_answers, self.settings.answer_model
        refuse_impossible(self.simulator, base_model=self.base_model, expected_answers=expected, answer_model=fitted)
        task = task_of(self.model, self.assistants, workspace=self.workspace, split=split, base_model=self.base_model)
        return estimate(task, self.settings, self.simulator, spending.prices, overwrite=overwrite)


def dry_run(asked: Simulations, spending: Spending, say: Say, *, overwrite: bool = False) -> None:
    """Prints what `simulate_splits` would do.

    Raises:
        ChatbenchError: nothing is prepared or trained, an assistant cannot be read, or a log is damaged or was made
            with other settings.
    """
    estimates = [(split, asked.estimate(split, spending, overwrite=overwrite)) for split in asked.splits()]
    for split, one in estimates:
        say(f"{split}: " + "\n".join(one.lines()))
    missing = sum(one.missing for _, one in estimates)
    usd = sum(spending.prices.usd(one.usage) for _, one in estimates)
    cost = f", about ${usd:,.2f}" if spending.prices.known else ""
    say(f"total: {missing:,} conversations to simulate{cost}; nothing was simulated (--dry-run)")


def simulate_splits(
    asked: Simulations, spending: Spending, say: Say, *, options: EndpointOptions, overwrite: bool = False
) -> None:
    """Simulates split by split; what any of them has recorded counts towards the budget from the start.

    Raises:
        ChatbenchError: as `simulate`.
    """
    splits = asked.splits()
    if asked.simulator.kind in ENDPOINTS:
        from chatbench.endpoints.participant import refuse_missing_adapters

        refuse_missing_adapters([asked.simulator.argument.replace(SPLIT_MARK, split) for split in splits])
    if not overwrite:
        names = {spec.name for spec in specs_in(asked.workspace.study, asked.assistants)}
        for split in splits:
            log = asked.workspace.conversations(asked.model, split, base_model=asked.base_model)
            count_earlier(spending, log, names)
    for split in splits:
        before = asked.estimate(split, spending, overwrite=overwrite)
        if spending.prices.known or any(one.blocks is None for one in before.pending):
            for line in before.cost_lines():
                say(f"{split}: {line}")
        result = simulate(
            asked.model,
            assistants=asked.assistants,
            workspace=asked.workspace,
            split=split,
            settings=asked.settings,
            simulator=asked.simulator,
            base_model=asked.base_model,
            options=options,
            spending=spending,
            overwrite=overwrite,
        )
        say(f"{split}: " + "\n".join(result.lines()))
