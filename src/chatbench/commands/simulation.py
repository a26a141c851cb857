"""Simulate: chats with assistants, assistants alone, one chat in the terminal, chats as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from chatbench.commands import options
from chatbench.commands.options import names, show, takes

if TYPE_CHECKING:
    from chatbench.data.workspace import Workspace
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.budget import Spending
    from chatbench.simulation.simulate import ChatSettings

commands = typer.Typer()

Named = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="MODEL as passed to finetune; with --simulator, any name to store the results under.",
    ),
]


def _list_simulators(asked: bool) -> None:
    if asked:
        from chatbench.simulation.participants import simulator_lines

        show("\n".join(simulator_lines()))
        raise typer.Exit()


@commands.command()
@takes(options.chats, options.endpoint, options.spending, options.folders)
def simulate(
    settings: ChatSettings,
    endpoint: EndpointOptions,
    spending: Spending,
    workspace: Workspace,
    model: Named,
    assistant: Annotated[
        list[str],
        typer.Option(help="[NAME=]KIND:ARG, e.g. scripted:all, replay:all, local:FOLDER, openai:gpt-4o; repeatable."),
    ],
    simulator: options.Simulator = "tuned",
    split: options.OneOrAll = None,
    base_model: Annotated[bool, typer.Option("--base", help="Simulate with the base model instead.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard conversations of other settings.")] = False,
    dry_run: options.DryRun = False,
    list_simulators: Annotated[  # noqa: ARG001  # its callback prints, and ends the command
        bool,
        typer.Option(
            "--list-simulators", is_eager=True, callback=_list_simulators, help="List the simulators and exit."
        ),
    ] = False,
) -> None:
    """Simulate chats about held-out questions (resumes).

    Exit code 4 if the budget is spent before the end.

    Example: chatbench simulate tiny --assistant scripted:all --conversations 10
    """
    from chatbench.simulation import simulate as step
    from chatbench.simulation.participants import read_simulator_spec

    asked = step.Simulations(model, assistant, workspace, settings, split, read_simulator_spec(simulator), base_model)
    if dry_run:
        step.dry_run(asked, spending, show, overwrite=overwrite)
    else:
        step.simulate_splits(asked, spending, show, options=endpoint, overwrite=overwrite)
    if spending.left:
        raise typer.Exit(options.BUDGET_SPENT)


@commands.command("ai-alone")
@takes(options.endpoint, options.folders)
def ai_alone(
    endpoint: EndpointOptions,
    workspace: Workspace,
    study: Annotated[Path, typer.Option(help="Study whose questions are asked.")],
    assistant: Annotated[str, typer.Option(help="[NAME=]KIND:ARG of one assistant, as in simulate.")],
    method: Annotated[
        Literal["letter-only-zero-shot", "letter-only-few-shot", "free-text"], typer.Option(help="Prompting method.")
    ],
    samples: Annotated[int, typer.Option(help="Answers to sample per question.", max=options.MOST_CHATS)] = 50,
    questions: Annotated[str, typer.Option(metavar="ID,ID...", help="Ask only these questions; default: all.")] = "",
    split: Annotated[str | None, typer.Option(help="Ask only questions held out in this split of --data.")] = None,
    extractor: Annotated[str | None, typer.Option(help="KIND:ARG of the model that reads free-text replies.")] = None,
    mmlu: Annotated[Path | None, typer.Option(help="Folder with MMLU's dev/, for the few-shot examples.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the assistant; 0 is greedy.")] = 0.7,
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum tokens per reply, with reasoning; default: 10, or 1000 for free-text.")
    ] = None,
    reasoning_effort: options.ReasoningEffort = "",
    budget_tokens: options.BudgetTokens = None,
    budget_usd: options.BudgetUsd = None,
    assistant_price: options.Dollars = None,
    extractor_price: options.Dollars = None,
    seed: options.Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard replies of other settings.")] = False,
    skip_bad_records: options.SkipBad = False,
    include_pilots: options.Pilots = False,
    maps: options.Maps = None,
) -> None:
    """Measure the accuracy of an assistant alone (resumes).

    Exit code 4 if the budget is spent before the end.

    Example: chatbench ai-alone --study sample --assistant local:FOLDER --method letter-only-zero-shot
    """
    from chatbench.core.errors import ChatbenchError
    from chatbench.data.open_study import open_study
    from chatbench.simulation import ai_alone as step
    from chatbench.simulation.budget import Prices, Spending, read_price

    if extractor_price and not extractor:
        raise ChatbenchError("--extractor-price without an extractor", fix="omit it")
    options_and_prices = ("--assistant-price", assistant_price), ("--extractor-price", extractor_price)
    one, other = (read_price(option, price) if price else None for option, price in options_and_prices)
    opened = open_study(study, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps or ())
    spending = Spending(Prices(other, one), max_tokens=budget_tokens, max_usd=budget_usd)
    result = step.ai_alone(
        assistant, step.AiAloneSettings(method, samples, temperature, seed, max_tokens, reasoning_effort), study=opened,
        questions=step.questions_of(opened, ids=names(questions), split=split, workspace=workspace),
        workspace=workspace, extractor=extractor, mmlu=mmlu, options=endpoint, spending=spending, overwrite=overwrite,
        say=show,
    )  # fmt: skip
    show("\n".join(result.lines()))
    if spending.left:
        raise typer.Exit(options.BUDGET_SPENT)


@commands.command()
@takes(options.folders)
def chat(
    workspace: Workspace,
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="MODEL as passed to finetune.")],
    question: Annotated[str, typer.Option(metavar="ID", help="Id of a question in the prepared study.")],
    assistant: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Model that plays the assistant; default: you do.")
    ] = None,
    simulator: options.Simulator = "tuned",
    split: Annotated[str | None, typer.Option(help="Split to use; default: one that holds the question out.")] = None,
    base_model: Annotated[bool, typer.Option("--base", help="Chat with the base model instead.")] = False,
    save: Annotated[Path | None, typer.Option(help="Append the chat to this log (JSON Lines).")] = None,
    end_on: options.EndOn = None,
    max_user_turns: options.MaxUserTurns = 10,
    max_tokens: options.MaxTokens = 1000,
    assistant_max_tokens: options.AssistantMaxTokens = None,
    simulator_temperature: options.SimulatorTemperature = 1.0,
    assistant_temperature: options.AssistantTemperature = 0.7,
    answer_model: options.AnswerModel = False,
    reasoning_effort: options.ReasoningEffort = "",
    dtype: options.Dtype = "auto",
    timeout: options.Timeout = 120.0,
    patience: options.Patience = 300.0,
    seed: options.Seed = 0,
) -> None:
    """Take part in one chat in the terminal, or watch it.

    You play the assistant, or a model does.

    Example: chatbench chat tiny --question sample_counting-redux-0 --assistant scripted:strong
    """
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.participants import read_simulator_spec
    from chatbench.simulation.simulate import ChatSettings
    from chatbench.simulation.terminal_chat import chat as step

    if assistant is None:
        of_assistants = ("assistant_temperature", "assistant_max_tokens")
        options.refuse_given(context, "without --assistant: you play the assistant", *of_assistants)
    options.refuse_without_endpoint(context)
    settings = ChatSettings(
        seed=seed, max_user_turns=max_user_turns, max_tokens=max_tokens, end_on=tuple(end_on or ()),
        simulator_temperature=simulator_temperature, assistant_temperature=assistant_temperature,
        answer_model=answer_model, reasoning_effort=reasoning_effort, dtype=dtype,
        assistant_max_tokens=assistant_max_tokens,
    )  # fmt: skip
    step(
        model, question, workspace=workspace, assistant=assistant, simulator=read_simulator_spec(simulator),
        settings=settings, base_model=base_model, split=split, save=save,
        options=EndpointOptions(timeout_seconds=timeout, patience_seconds=patience),
    )  # fmt: skip


@commands.command()
@takes(options.folders)
def export(
    workspace: Workspace,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name under which the chats are stored.")],
    to: Annotated[Path, typer.Option(help="File to write, .csv or .parquet.")],
    split: options.OneOrAll = None,
    turns: Annotated[bool, typer.Option("--turns", help="Write a row per turn, not per conversation.")] = False,
) -> None:
    """Export simulated chats to CSV or Parquet.

    One row per conversation, or per turn.

    Example: chatbench export tiny --to chats.parquet
    """
    from chatbench.simulation.split_chats import export_chats

    rows = export_chats(model, workspace=workspace, to=to, splits=[split] if split else None, turns=turns)
    show(f"{rows:,} rows -> {to}")
    if to.suffix == ".csv":
        show(
            "texts that look like spreadsheet formulas, or begin with an apostrophe, have one extra leading apostrophe"
        )
