"""Options that several commands share: each is described once, and numbers beyond all use are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatbench.core.texts import printable

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A recipe (see chatbench recipes), a hub id, a folder, or a GGUF file."),
]
FinishedModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="The folder of a fine-tuned model, or MODEL as in finetune.")
]
Data = Annotated[Path, typer.Option(help="Folder that prepare-splits wrote.")]
Results = Annotated[Path, typer.Option(help="Folder of models, logs and scores.")]
Split = Annotated[str, typer.Option(envvar="SPLIT_ID", help="Which split, e.g. split_1.")]
Config = Annotated[Path | None, typer.Option(help="JSON of training arguments; default: configs/training_args.json.")]
MOST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""
MOST_SPLITS = 1_000
MOST_CHATS = 100_000
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=MOST_SEED)]
SkipBad = Annotated[bool, typer.Option("--skip-bad-records", help="Leave bad records out, and count them.")]
OneOrAll = Annotated[
    str | None, typer.Option("--split", envvar="SPLIT_ID", help="Which split; default: every trained one.")
]
Conversations = Annotated[int, typer.Option(help="Conversations per held-out question and assistant.", max=MOST_CHATS)]
MaxUserTurns = Annotated[int, typer.Option(help="Free user turns before the forced answer.", max=1_000)]
Bootstrap = Annotated[int, typer.Option(help="Resamples behind the intervals; 0 leaves them out.", max=100_000)]
Confidence = Annotated[float, typer.Option(help="How sure the intervals are to be, in 0..1.")]
MaxTokens = Annotated[int, typer.Option(help="Longest message, in tokens.", max=10_000_000)]
Simulator = Annotated[
    str, typer.Option(metavar="SPEC", help="What plays the user; simulate --list-simulators lists the kinds.")
]
SimulatorTemperature = Annotated[float, typer.Option(help="0 is greedy.")]
AssistantTemperature = Annotated[float, typer.Option(help="0 is greedy.")]
EndOn = Annotated[
    list[str] | None, typer.Option(metavar="DETECTOR", help="Force the answer once this failure detector fires.")
]
ExpectedAnswers = Annotated[bool, typer.Option("--expected-answers", help="Also read the probability of each answer.")]
AnswerModel = Annotated[
    bool, typer.Option("--answer-model", help="Draw answers from a model of what people chose after chats.")
]
Concurrency = Annotated[int, typer.Option(help="Requests that an endpoint gets at once.")]
Timeout = Annotated[float, typer.Option(help="Seconds that one request to an endpoint may take.")]
Patience = Annotated[float, typer.Option(help="Seconds to wait for an endpoint that does not answer.")]
BudgetTokens = Annotated[int | None, typer.Option(help="Stop after so many tokens, read and written.")]
BudgetUsd = Annotated[float | None, typer.Option(help="Stop after so many dollars.")]
ReasoningEffort = Annotated[
    str, typer.Option(metavar="EFFORT", help="Sent to endpoints, such as low; left out where refused.")
]
CacheGib = Annotated[
    float | None, typer.Option(help="Memory for what local models have read; default: a third of what is free.")
]
Judge = Annotated[
    str, typer.Option(metavar="SPEC", help="What scores answers of kind outcome: openai:MODEL@URL, or later.")
]
Rubric = Annotated[Path | None, typer.Option(help="Text file that says what the judge is to take for right.")]
Dollars = Annotated[
    str | None,
    typer.Option(metavar="IN/OUT", help="Dollars per million tokens, such as 2.50/10 (or 2.50/10/1.25: cached)."),
]
NO_ANSWERS = 3
"""Exit code where most of the chats that were scored have no answer."""
ALL_STEPS = "prepare,finetune,ppl,simulate,base,scores,realism"
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", help="What a value means, as in answer_type.userAnswer=user-alone; may be repeated."),
]
Pilots = Annotated[bool, typer.Option("--include-pilots", help="Read the pilots of a ChatBench folder too.")]


def show(text: str) -> None:
    """Prints a line at once, also where the output is a file; nothing in it steers the terminal."""
    print(printable(text), flush=True)


def names(text: str) -> list[str]:
    """The names in `a, b,c`."""
    return [name.strip() for name in text.split(",") if name.strip()]
