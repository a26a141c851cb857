"""Options shared by several commands: each is described once, and absurdly large numbers are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from chatbench.core.errors import BudgetSpentError, ChatbenchError
from chatbench.core.texts import printable

if TYPE_CHECKING:
    from chatbench.data.workspace import Workspace
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.budget import Spending
    from chatbench.simulation.simulate import ChatSettings

T = TypeVar("T")
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


def takes(*groups: Callable[..., object]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Adds the options of `groups` to a command, which is called with what each group makes of them, then its own."""

    def adding(command: Callable[..., T]) -> Callable[..., T]:
        own, shared = _parameters(command, len(groups)), [_parameters(group) for group in groups]

        @wraps(command)
        def taking(**given: Any) -> T:
            made = [
                group(**{name: given[name] for name in options}) for group, options in zip(groups, shared, strict=True)
            ]
            return command(*made, **{name: given[name] for name in own})

        every = {name: one for options in (own, *shared) for name, one in options.items()}
        needed_first = sorted(every.values(), key=lambda one: one.default is not one.empty)
        taking.__signature__ = Signature(needed_first)  # type: ignore[attr-defined]  # what typer reads
        taking.__annotations__ = {name: one.annotation for name, one in every.items()}
        return taking

    return adding


def _parameters(function: Callable[..., object], first: int = 0) -> dict[str, Parameter]:
    """Its parameters from the `first` on, annotations evaluated; those before it may have types that are not loaded."""
    found = list(signature(function).parameters.values())[first:]
    names = getattr(function, "__globals__", {})
    return {
        one.name: one.replace(annotation=eval(one.annotation, names)) if isinstance(one.annotation, str) else one
        for one in found
    }


def folders(data: Data = Path("data"), results: Results = Path("results")) -> Workspace:
    """Where a command reads and writes."""
    from chatbench.data.workspace import Workspace

    return Workspace(data, results)


def chats(
    conversations: Conversations = 10,
    max_user_turns: MaxUserTurns = 10,
    max_tokens: MaxTokens = 1000,
    assistant_max_tokens: AssistantMaxTokens = None,
    simulator_temperature: SimulatorTemperature = 1.0,
    assistant_temperature: AssistantTemperature = 0.7,
    end_on: EndOn = None,
    expected_answers: ExpectedAnswers = False,
    answer_model: AnswerModel = False,
    reasoning_effort: ReasoningEffort = "",
    cache_gib: CacheGib = None,
    dtype: Dtype = "auto",
    judge: Judge = "",
    rubric: Rubric = None,
    seed: Seed = 0,
) -> ChatSettings:
    """What shapes simulated chats."""
    from chatbench.simulation.simulate import ChatSettings

    return ChatSettings(
        conversations=conversations, seed=seed, max_user_turns=max_user_turns, max_tokens=max_tokens,
        simulator_temperature=simulator_temperature, assistant_temperature=assistant_temperature,
        end_on=tuple(end_on or ()), expected_answers=expected_answers, answer_model=answer_model,
        reasoning_effort=reasoning_effort, cache_gib=cache_gib, dtype=dtype, judge=judge,
        rubric=rubric, assistant_max_tokens=assistant_max_tokens,
    )  # fmt: skip


def endpoint(
    context: typer.Context, concurrency: Concurrency = 32, timeout: Timeout = 120.0, patience: Patience = 300.0
) -> EndpointOptions:
    """How endpoints are asked; refused if no participant is one."""
    from chatbench.endpoints.address import EndpointOptions

    refuse_without_endpoint(context)
    return EndpointOptions(concurrency, timeout, patience_seconds=patience)


def spending(
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    simulator_price: Dollars = None,
    assistant_price: Dollars = None,
) -> Spending:
    """What simulated chats may cost."""
    from chatbench.simulation.budget import Spending, read_prices

    return Spending(read_prices(simulator_price, assistant_price), max_tokens=budget_tokens, max_usd=budget_usd)


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


def refuse_without_endpoint(context: typer.Context) -> None:
    """Refuses options for endpoints if none of the command's participants is one.

    Raises:
        ChatbenchError: such an option was given.
    """
    given = (context.params.get(name) or () for name in ("simulator", "assistant", "judge", "extractor"))
    specs = [spec for each in given for spec in ((each,) if isinstance(each, str) else each)]
    if not {"openai", "completions"} & {part for spec in specs for part in re.split("[=:]", spec)}:
        for_endpoints = ("reasoning_effort", "concurrency", "timeout", "patience")
        refuse_given(context, "without an endpoint among the participants: it would do nothing", *for_endpoints)


def show(text: str) -> None:
    """Prints a line and flushes it, even when the output is a file; control characters in it are made harmless."""
    print(printable(text), flush=True)


def names(text: str) -> list[str]:
    """The names in `a, b,c`."""
    return [name.strip() for name in text.split(",") if name.strip()]
