"""Simulation on several splits with one budget, and what it would hold and cost if it were run.

What a simulation would hold and cost, before any model is loaded or any endpoint is asked.

Tokens a conversation are the mean of what the log has recorded, where it has any and keeps it; else they are guessed
from people's own chats about the same questions, at four characters a token: as many turns, as long, each request with
the whole chat so far. A simulator that talks more than people do costs more; once the first conversations are recorded,
the next estimate knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from chatbench.core.records import Conversation, Question, Usage
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.protocol.prompts import ANSWER_PREFIX, ASSISTANT_SYSTEM
from chatbench.simulation.budget import Prices, Spending, all_tokens
from chatbench.simulation.log import read_recorded, refuse_other_settings
from chatbench.simulation.participants import SPLIT_MARK, TUNED, SimulatorSpec, refuse_impossible
from chatbench.simulation.run import Planned, blocks, plan
from chatbench.simulation.simulate import ChatSettings, Task, settings_known_before, simulate, task_of
from chatbench.simulation.summary import Tally, count_earlier, tally_of

CHARACTERS_PER_TOKEN = 4
ENDPOINTS = ("openai", "completions")
"""Kinds of participants that are asked over the network; what they hold is not cut into blocks."""

WITHOUT_TOKENS = ("scripted", "replay")
"""Kinds of assistants that read and write no tokens."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The conversations with one assistant: planned, in the log, and in how many blocks the rest is held.

    `blocks` is None where they are held one by one.
    """

    assistant: str
    planned: int
    recorded: int
    blocks: int | None

    def line(self) -> str:
        missing = self.planned - self.recorded
        how = "one by one" if self.blocks is None else f"in {self.blocks} block{'s' * (self.blocks != 1)}"
        held = f"{missing} to hold, {how}" if missing else "nothing to hold"
        return f"{self.assistant}: {self.planned} conversations, {self.recorded} recorded, {held}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run on one split would do; `usage` is for all that is missing, guessed from `basis`."""

    task: Task
    pending: tuple[Pending, ...]
    usage: Usage
    basis: str
    prices: Prices

    @property
    def missing(self) -> int:
        """Conversations to hold."""
        return sum(one.planned - one.recorded for one in self.pending)

    @property
    def asks_endpoints(self) -> bool:
        """Whether anything would be held one by one."""
        return any(one.blocks is None for one in self.pending)

    def lines(self) -> list[str]:
        """What to print: per assistant, tokens, dollars, and where it would be written."""
        return [*(one.line() for one in self.pending), *self.cost_lines(), f"to be written to {self.task.log}"]

    def cost_lines(self) -> list[str]:
        """Tokens and dollars; none where there is nothing to hold."""
        if not self.missing:
            return []
        each = 1000 / self.missing
        usage = self.usage
        read = usage.simulator_prompt_tokens + usage.assistant_prompt_tokens
        lines = [f"about {read:,} tokens read, {all_tokens(usage) - read:,} written (from {self.basis})"]
        if self.prices.known:
            usd = self.prices.usd(usage)
            lines.append(f"about ${usd * each:,.2f} per 1,000 conversations, ${usd:,.2f} for these {self.missing:,}")
        return lines


def estimate(
    task: Task, told: ChatSettings, simulator: SimulatorSpec, prices: Prices, *, overwrite: bool = False
) -> Estimate:
    """What `simulate` would do with the same arguments.

    Raises:
        ChatbenchError: the log is damaged, or was made with other settings.
    """
    held: set[str] = set()
    if not overwrite:
        refuse_other_settings(task.log, settings_known_before(task, told, simulator))
        held = {recorded.chat.id for _, recorded in read_recorded(task.log) if not recorded.chat.transient}
    pending = []
    for spec in task.assistants:
        planned = plan(task.questions, spec.name, told.conversations)
        by_itself = not {simulator.kind, spec.kind}.isdisjoint(ENDPOINTS)
        pending.append(_pending(spec.name, planned, held, None if by_itself else told.block_size))
    # What is overwritten may be damaged, or of another version: it is not read.
    each, basis = _usage_each(task, STYLES[simulator.style], Tally() if overwrite else tally_of(task.log))
    tokens: Counter[str] = Counter()
    for spec, one in zip(task.assistants, pending, strict=True):
        counted = {name for name in each if spec.kind not in WITHOUT_TOKENS or name.startswith("simulator")}
        tokens.update({name: round((one.planned - one.recorded) * each[name]) for name in counted})
    return Estimate(task, tuple(pending), Usage(**tokens), basis, prices)


def _pending(name: str, planned: Sequence[Planned], held: Container[str], block_size: int | None) -> Pending:
    recorded = sum(one.id in held for one in planned)
    if block_size is None:
        return Pending(name, len(planned), recorded, None)
    unfinished = sum(any(one.id not in held for one in block) for block in blocks(planned, block_size))
    return Pending(name, len(planned), recorded, unfinished)


def _usage_each(task: Task, style: Style, tally: Tally) -> tuple[dict[str, float], str]:
    """Mean tokens of one conversation, by field of `Usage`, and what they were taken from."""
    if all_tokens(tally.usage):
        means = {name: count / tally.lines for name, count in tally.tokens.items()}
        return means, f"{tally.lines} recorded conversations"
    asked = {question.id: question for question in task.questions}
    chats = [chat for chat in task.study.conversations if chat.question_id in asked]
    sums: Counter[str] = Counter()
    for chat in chats:
        sums.update(_characters(chat, asked[chat.question_id], style))
    tokens = {name: count / CHARACTERS_PER_TOKEN / max(1, len(chats)) for name, count in sums.items()}
    return tokens, f"{len(chats)} chats of people, at {CHARACTERS_PER_TOKEN} characters a token"


def _characters(chat: Conversation, question: Question, style: Style) -> dict[str, int]:
    """Characters that both sides would read and write if the simulator held this very chat, by field of `Usage`."""
    turns = chat.turns
    system = len(ASSISTANT_SYSTEM)
    first = 2 if style.opening else 0
    asked = [style.messages(question.full_text, turns[:end]) for end in range(first, len(turns) + 1, 2)]
    heard = [system + sum(len(turn.text) for turn in turns[:end]) for end in range(1, len(turns), 2)]
    return {
        "simulator_prompt_tokens": sum(len(message.content) for messages in asked for message in messages),
        "simulator_tokens": sum(len(turn.text) for turn in turns[first::2]) + len(ANSWER_PREFIX) + 1,
        "assistant_prompt_tokens": sum(heard),
        "assistant_tokens": sum(len(turn.text) for turn in turns[1::2]),
    }


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Simulations:
    """Which simulations a command asks for: `split` None means every split that this simulator can be held on."""

    model: str
    assistants: Sequence[str]
    workspace: Workspace
    settings: ChatSettings
    split: str | None = None
    simulator: SimulatorSpec = TUNED
    base_model: bool = False

    def splits(self) -> list[str]:
        """The asked split, else those that the simulator was trained on, else (no training needed) every one.

        Raises:
            ChatbenchError: nothing is prepared, or nothing is trained.
        """
        if self.split:
            return [self.split]
        if self.simulator.trained_per_split and not self.base_model:
            return self.workspace.trained_splits(self.model)
        return list(self.workspace.manifest.split_ids)

    def estimate(self, split: str, spending: Spending, *, overwrite: bool = False) -> Estimate:
        """What one split would hold and cost; no model is loaded and no endpoint is asked."""
        expected = self.settings.expected_answers
        refuse_impossible(self.simulator, base_model=self.base_model, expected_answers=expected)
        task = task_of(self.model, self.assistants, workspace=self.workspace, split=split, base_model=self.base_model)
        return estimate(task, self.settings, self.simulator, spending.prices, overwrite=overwrite)


def dry_run(asked: Simulations, spending: Spending, say: Say, *, overwrite: bool = False) -> None:
    """Says what `simulate_splits` would do.

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
    say(f"in all {missing:,} conversations to hold{cost}; nothing was held (--dry-run)")


def simulate_splits(
    asked: Simulations, spending: Spending, say: Say, *, options: EndpointOptions, overwrite: bool = False
) -> None:
    """Simulates split by split; what all of them have recorded counts towards the budget from the beginning.

    Raises:
        ChatbenchError: as `simulate`.
    """
    splits = asked.splits()
    if asked.simulator.kind in ("openai", "completions"):
        from chatbench.endpoints.participant import refuse_missing_adapters

        refuse_missing_adapters([asked.simulator.argument.replace(SPLIT_MARK, split) for split in splits])
    if not overwrite:
        for split in splits:
            log = asked.workspace.conversations(asked.model, split, base_model=asked.base_model)
            count_earlier(spending, log)
    for split in splits:
        before = asked.estimate(split, spending, overwrite=overwrite)
        if spending.prices.known or before.asks_endpoints:
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
