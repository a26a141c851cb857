"""Options shared by several commands: each is described once, and absurdly large numbers are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from chatbench.core.errors import BudgetSpentError, ChatbenchError
from chatbench.core.texts import printable

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Recipe (see chatbench recipes), Hub id, model folder or GGUF file."),
]
FinishedModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model, or MODEL as passed to finetune.")
]
FinishedSplit = Annotated[
    str | None, typer.Option("--split", envvar="SPLIT_ID", help="Split to use; default: split_0, or the folder's own.")
]
Data = Annotated[Path, typer.Option(help="Folder written by prepare-splits.")]
Results = Annotated[Path, typer.Option(help="Folder for models, logs and scores.")]
Split = Annotated[str, typer.Option(envvar="SPLIT_ID", help="Split to use, e.g. split_1.")]
Config = Annotated[Path | None, typer.Option(help="JSON of training arguments; default: configs/training_args.json.")]
MOST_SEED = 2**32 - 1
"""The largest seed that every random number generator accepts."""
MOST_SPLITS = 1_000
MOST_CHATS = 100_000
Seed = Annotated[int, typer.Option(help="Random seed.", min=0, max=MOST_SEED)]
SkipBad = Annotated[bool, typer.Option("--skip-bad-records", help="Skip invalid records and count them.")]
OneOrAll = Annotated[
    str | None, typer.Option("--split", envvar="SPLIT_ID", help="Split to use, e.g. split_1; default: all available.")
]
Conversations = Annotated[int, typer.Option(help="Conversations per held-out question and assistant.", max=MOST_CHATS)]
MaxUserTurns = Annotated[int, typer.Option(help="Maximum user turns before the answer is forced.", max=1_000)]
Bootstrap = Annotated[int, typer.Option(help="Bootstrap resamples for the intervals; 0 omits them.", max=100_000)]
Confidence = Annotated[float, typer.Option(help="Confidence level of the intervals, in 0..1.")]
MaxTokens = Annotated[int, typer.Option(help="Maximum tokens per message.", max=10_000_000)]
AssistantMaxTokens = Annotated[
    int | None, typer.Option(help="Maximum tokens per assistant message, with reasoning; default: --max-tokens.")
]
Simulator = Annotated[
    str, typer.Option(metavar="SPEC", help="What plays the user; see chatbench simulate --list-simulators.")
]
SimulatorTemperature = Annotated[float, typer.Option(help="Sampling temperature of the simulator; 0 is greedy.")]
AssistantTemperature = Annotated[float, typer.Option(help="Sampling temperature of the assistant; 0 is greedy.")]
EndOn = Annotated[
    list[str] | None,
    typer.Option(metavar="DETECTOR", help="Force the answer when this failure detector fires; repeatable."),
]
ExpectedAnswers = Annotated[
    bool, typer.Option("--expected-answers", help="Also record the probability of each answer.")
]
AnswerModel = Annotated[
    bool, typer.Option("--answer-model", help="Draw answers from a choice model fitted on people's answers.")
]
Concurrency = Annotated[int, typer.Option(help="Maximum concurrent requests per endpoint address.")]
Timeout = Annotated[float, typer.Option(help="Seconds after which a request to an endpoint times out.")]
Patience = Annotated[float, typer.Option(help="Seconds to wait for an endpoint that does not answer before stopping.")]
BudgetTokens = Annotated[int | None, typer.Option(help="Stop after this many tokens, input plus output.")]
BudgetUsd = Annotated[float | None, typer.Option(help="Stop after this cost in US dollars; needs a price.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would run and its cost.")]
ReasoningEffort = Annotated[
    str, typer.Option(metavar="EFFORT", help="Reasoning effort sent to endpoints, e.g. low; omitted if refused.")
]
CacheGib = Annotated[
    float | None, typer.Option(help="GiB for cached keys and values of local models; default: a third of free memory.")
]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Dtype = Annotated[
    DtypeName,
    typer.Option(help="Data type of local models' weights; auto: float32, on GPUs 16 bits from a billion parameters."),
]
Judge = Annotated[
    str,
    typer.Option(metavar="SPEC", help="Judge of outcomes, texts: openai:MODEL@URL, local:FOLDER or later (in Python)."),
]
Rubric = Annotated[Path | None, typer.Option(help="Text file that tells the judge which answers are right.")]
Dollars = Annotated[
    str | None,
    typer.Option(metavar="IN/OUT", help="US dollars per million tokens, e.g. 2.50/10; 2.50/10/1.25 adds cached input."),
]
NO_ANSWERS = 3
"""Exit code when most of the scored chats have no answer."""
BUDGET_SPENT = BudgetSpentError.exit_code
"""Exit code when the budget is spent and something is left to do."""
ALL_STEPS = "prepare,finetune,ppl,simulate,base,scores,realism"
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", help="Meaning of an unknown value, e.g. answer_type.userAnswer=user-alone; repeatable."),
]
Pilots = Annotated[bool, typer.Option("--include-pilots", help="Also read the pilots in a ChatBench folder.")]


def refuse_given(context: typer.Context, reason: str, *parameters: str) -> None:
    """Refuses options that would do nothing, if the command line has them; `reason` follows their name.

    Raises:
        ChatbenchError: one of them was given.
    """
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        if each.name in parameters and source is not None and source.name == "COMMANDLINE":
            option = each.opts[0] if each.param_type_name == "option" else each.opts[0].upper()
            raise ChatbenchError(f"{option} {reason}", fix=f"omit {option}")


def refuse_without_endpoint(context: typer.Context, *specs: str | None) -> None:
    """Refuses options for endpoints if none of the participants' specs names one.

    Raises:
        ChatbenchError: such an option was given.
    """
    kinds = {part for spec in specs if spec for part in re.split("[=:]", spec)}
    if not kinds & {"openai", "completions"}:
        for_endpoints = ("reasoning_effort", "concurrency", "timeout", "patience")
        refuse_given(context, "without an endpoint among the participants: it would do nothing", *for_endpoints)


def show(text: str) -> None:
    """Prints a line and flushes it, even when the output is a file; control characters in it are made harmless."""
    print(printable(text), flush=True)


def names(text: str) -> list[str]:
    """The names in `a, b,c`."""
    return [name.strip() for name in text.split(",") if name.strip()]
