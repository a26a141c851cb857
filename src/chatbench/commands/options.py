"""Options that several commands share: each is described once, and numbers beyond all use are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatbench.core.texts import printable

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A recipe (chatbench recipes lists them), a hub id, or a folder."),
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
