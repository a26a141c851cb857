"""Simulation on several splits with one budget, and what it would hold and cost if it were run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.model_names import model_key
from chatbench.models.endpoint import EndpointOptions
from chatbench.protocol.prepared_data import load_manifest
from chatbench.steps.eval_ppl import trained_splits
from chatbench.steps.simulate import ChatSettings, simulate, task_of
from chatbench.steps.simulation_budget import Spending
from chatbench.steps.simulation_estimate import Estimate, estimate
from chatbench.steps.simulation_result import count_earlier
from chatbench.steps.simulators import SPLIT_MARK, TUNED, SimulatorSpec, refuse_impossible
from chatbench.studies.simulations import log_path

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Simulations:
    """Which simulations a command asks for: `split` None means every split that this simulator can be held on."""

    model: str
    assistants: Sequence[str]
    data: Path
    results: Path
    settings: ChatSettings
    split: str | None = None
    simulator: SimulatorSpec = TUNED
    untrained: bool = False

    def splits(self) -> list[str]:
        """The asked split, else those that the simulator was trained on, else (no training needed) every one.

        Raises:
            ChatbenchError: nothing is prepared, or nothing is trained.
        """
        if self.split:
            return [self.split]
        if self.simulator.trained_per_split and not self.untrained:
            return trained_splits(self.model, self.data, self.results)
        return list(load_manifest(self.data).split_ids)

    def estimate(self, split: str, spending: Spending, *, overwrite: bool = False) -> Estimate:
        """What one split would hold and cost; no model is loaded and no endpoint is asked."""
        expected = self.settings.expected_answers
        refuse_impossible(self.simulator, untrained=self.untrained, expected_answers=expected)
        task = task_of(
            self.model, self.assistants, data=self.data, results=self.results, split=split, untrained=self.untrained
        )
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
        from chatbench.models.endpoint_check import refuse_missing_adapters

        refuse_missing_adapters([asked.simulator.argument.replace(SPLIT_MARK, split) for split in splits])
    if not overwrite:
        for split in splits:
            log = log_path(asked.results, model_key(asked.model), split, untrained=asked.untrained)
            count_earlier(spending, log)
    for split in splits:
        before = asked.estimate(split, spending, overwrite=overwrite)
        if spending.prices.known or before.asks_endpoints:
            for line in before.cost_lines():
                say(f"{split}: {line}")
        result = simulate(
            asked.model,
            assistants=asked.assistants,
            data=asked.data,
            results=asked.results,
            split=split,
            settings=asked.settings,
            simulator=asked.simulator,
            untrained=asked.untrained,
            options=options,
            spending=spending,
            overwrite=overwrite,
        )
        say(f"{split}: " + "\n".join(result.lines()))
