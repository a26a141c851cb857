"""Everything at once, and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatbench.commands import options
from chatbench.commands.options import names, show

commands = typer.Typer()


@commands.command()
def run(
    model: options.Model,
    study: Annotated[Path | None, typer.Option(help="What to split; default: the splits that lie in --data.")] = None,
    steps: Annotated[str, typer.Option(help=f"Which of {options.ALL_STEPS}.")] = options.ALL_STEPS,
    splits: Annotated[int, typer.Option(help="Number of random splits by question.", max=options.MOST_SPLITS)] = 10,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this split, e.g. split_1: one job each on a cluster.")
    ] = None,
    train_share: Annotated[float, typer.Option(help="Share of questions for training, in 0..1.")] = 0.6,
    assistant: Annotated[list[str] | None, typer.Option(help="As in simulate; default: those of the study.")] = None,
    simulator: options.Simulator = "tuned",
    conversations: options.Conversations = 10,
    base_conversations: Annotated[
        int, typer.Option(help="The same for the base model; 0 leaves it out.", max=options.MOST_CHATS)
    ] = 3,
    max_user_turns: options.MaxUserTurns = 10,
    max_tokens: options.MaxTokens = 1000,
    simulator_temperature: options.SimulatorTemperature = 1.0,
    assistant_temperature: options.AssistantTemperature = 0.7,
    end_on: options.EndOn = None,
    expected_answers: options.ExpectedAnswers = False,
    concurrency: options.Concurrency = 32,
    timeout: options.Timeout = 120.0,
    patience: options.Patience = 300.0,
    budget_tokens: options.BudgetTokens = None,
    budget_usd: options.BudgetUsd = None,
    simulator_price: options.Dollars = None,
    assistant_price: options.Dollars = None,
    reasoning_effort: options.ReasoningEffort = "",
    config: options.Config = None,
    seed: options.Seed = 0,
    data: options.Data = Path("data"),
    results: options.Results = Path("results"),
    skip_bad_records: options.SkipBad = False,
    include_pilots: options.Pilots = False,
    maps: options.Maps = None,
) -> None:
    """Run every step for all splits (resumes).

    Prepare, fine-tune, perplexity, simulated chats, scores. A budget is one for all splits. Exit code 3 where most
    chats have no answer.

    Example: chatbench run tiny --study studies/sample --splits 3
    """
    from chatbench.data.workspace import Workspace
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.report.tables import print_tables
    from chatbench.simulation.budget import Spending, read_prices
    from chatbench.simulation.participants import read_simulator_spec
    from chatbench.simulation.simulate import ChatSettings
    from chatbench.workflow.run_all import RunSettings, run_all

    chats = ChatSettings(
        conversations=conversations, seed=seed, max_user_turns=max_user_turns, max_tokens=max_tokens,
        simulator_temperature=simulator_temperature, assistant_temperature=assistant_temperature,
        end_on=tuple(end_on or ()), expected_answers=expected_answers, reasoning_effort=reasoning_effort,
    )  # fmt: skip
    settings = RunSettings(
        splits=splits, only=tuple(only or ()), train_share=train_share, seed=seed, skip_bad_records=skip_bad_records,
        include_pilots=include_pilots, maps=tuple(maps or ()), assistants=tuple(assistant or ()), chats=chats,
        base_conversations=base_conversations, simulator=read_simulator_spec(simulator), config=config,
        options=EndpointOptions(concurrency=concurrency, timeout_seconds=timeout, patience_seconds=patience),
    )  # fmt: skip
    spending = Spending(read_prices(simulator_price, assistant_price), max_tokens=budget_tokens, max_usd=budget_usd)
    report = run_all(
        model, study=study, workspace=Workspace(data, results), settings=settings, steps=names(steps),
        spending=spending, say=show,
    )  # fmt: skip
    if report.table:
        print_tables([report.table])
    if report.realism:
        show(f"\nHow realistic its chats are: chatbench realism {model} --data {data} --results {results}")
    show("\n" + "\n".join(report.lines()))
    if report.table and report.table.warning:
        raise typer.Exit(options.NO_ANSWERS)


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for study, data and results.")] = Path("demo"),
    splits: Annotated[int, typer.Option(help="Number of splits.", max=options.MOST_SPLITS)] = 3,
) -> None:
    """Run the whole pipeline on the sample study.

    With the tiny model, in a few minutes on a laptop.

    Example: chatbench demo
    """
    from chatbench.workflow.demo import demo as step

    step(out, splits=splits, say=show)


@commands.command()
def doctor(results: options.Results = Path("results")) -> None:
    """Report what this machine can and cannot do.

    GPUs, precision, 8-bit, token, disk, versions.

    Example: chatbench doctor
    """
    from chatbench.workflow.doctor import doctor as step
    from chatbench.workflow.doctor import print_doctor

    print_doctor(step(results))
