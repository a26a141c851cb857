"""Commands that let simulators chat with assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chatbench.commands.options import (
    Conversations,
    Data,
    MaxTokens,
    MaxUserTurns,
    Model,
    OneOrAll,
    Results,
    Seed,
    show,
)

commands = typer.Typer()


@commands.command()
def simulate(
    model: Model,
    assistant: Annotated[
        list[str], typer.Option(help="[NAME=]KIND:ARG, e.g. scripted:all, replay:all, local:FOLDER, openai:gpt-4o.")
    ],
    split: OneOrAll = None,
    conversations: Conversations = 10,
    untrained: Annotated[bool, typer.Option("--untrained", help="Simulate with the base model instead.")] = False,
    max_user_turns: MaxUserTurns = 10,
    max_tokens: MaxTokens = 1000,
    simulator_temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    assistant_temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    variant: Annotated[
        Literal["two-step", "two-step-problem", "two-step-help"], typer.Option(help="Simulator prompt.")
    ] = "two-step",
    seed: Seed = 0,
    data: Data = Path("data"),
    results: Results = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop the conversations of other settings.")] = False,
) -> None:
    """Lets the simulator chat with assistants about the held-out questions; continues where it stopped.

    Example: chatbench simulate tiny --assistant scripted:all --conversations 10
    """
    from chatbench.protocol.prepared_data import load_manifest
    from chatbench.steps.eval_ppl import trained_splits
    from chatbench.steps.simulate import simulate as step

    # The base needs no training, so it can be simulated on every split that is prepared.
    every = load_manifest(data).split_ids if untrained else trained_splits(model, data, results)
    for split_id in [split] if split else every:
        result = step(
            model, assistants=assistant, data=data, results=results, split=split_id, conversations=conversations,
            untrained=untrained, seed=seed, max_user_turns=max_user_turns, simulator_temperature=simulator_temperature,
            assistant_temperature=assistant_temperature, max_tokens=max_tokens, variant=variant, overwrite=overwrite,
        )  # fmt: skip
        show(f"{split_id}: " + "\n".join(result.lines()))
