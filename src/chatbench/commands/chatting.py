"""Commands for looking at simulators: which there are, and what it is like to chat with one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatbench.commands.options import Data, MaxTokens, MaxUserTurns, Results, Seed, show

commands = typer.Typer()


@commands.command()
def simulators() -> None:
    """Lists what can play the user in a simulation, what each needs, and how it is named.

    Example: chatbench simulators
    """
    from chatbench.simulation.participants import simulator_lines

    show("\n".join(simulator_lines()))


@commands.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What was fine-tuned, as in finetune.")],
    question: Annotated[str, typer.Option(metavar="ID", help="Which question of the prepared study.")],
    assistant: Annotated[
        str | None, typer.Option(metavar="SPEC", help="A model as the assistant; without it, that is you.")
    ] = None,
    simulator: Annotated[
        str, typer.Option(metavar="SPEC", help="What plays the user; chatbench simulators lists the kinds.")
    ] = "tuned",
    split: Annotated[str | None, typer.Option(help="Default: a split that holds the question out.")] = None,
    base_model: Annotated[bool, typer.Option("--base", help="Chat with the base model instead.")] = False,
    save: Annotated[Path | None, typer.Option(help="Append the chat to this log.")] = None,
    end_on: Annotated[
        list[str] | None, typer.Option(metavar="GUARD", help="Force the answer once this guard sees something.")
    ] = None,
    max_user_turns: MaxUserTurns = 10,
    max_tokens: MaxTokens = 1000,
    simulator_temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    assistant_temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    seed: Seed = 0,
    data: Data = Path("data"),
    results: Results = Path("results"),
) -> None:
    """Holds one chat in the terminal: you are the assistant, or watch a model be it.

    Example: chatbench chat tiny --question sample_counting-redux-0 --assistant scripted:strong
    """
    from chatbench.data.workspace import Workspace
    from chatbench.simulation.participants import read_simulator_spec
    from chatbench.simulation.simulate import ChatSettings
    from chatbench.simulation.terminal_chat import chat as step

    settings = ChatSettings(
        seed=seed, max_user_turns=max_user_turns, max_tokens=max_tokens, end_on=tuple(end_on or ()),
        simulator_temperature=simulator_temperature, assistant_temperature=assistant_temperature,
    )  # fmt: skip
    step(
        model, question, workspace=Workspace(data, results), assistant=assistant, simulator=read_simulator_spec(simulator),
        settings=settings, base_model=base_model, split=split, save=save,
    )  # fmt: skip
