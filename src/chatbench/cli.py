"""The command line: reads arguments, calls one step, prints one result.

Every option lives here and only here; the steps are plain functions. A `ChatbenchError` is printed without a traceback
and ends with exit code 2, as a wrong option does. Heavy imports happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from chatbench.core.errors import ChatbenchError

app = typer.Typer(
    name="chatbench",
    help="User simulators for human-AI evaluation: prepare chats, fine-tune, simulate, and compare with people.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would double the time of --help
)

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A recipe (tiny, distilgpt2, mistral-7b, llama3-8b), a hub id, or a folder."),
]
Data = Annotated[Path, typer.Option(help="Folder that prepare-splits wrote.")]
Results = Annotated[Path, typer.Option(help="Folder of models, logs and scores.")]
Split = Annotated[str, typer.Option(envvar="SPLIT_ID", help="Which split, e.g. split_1.")]
Config = Annotated[Path | None, typer.Option(help="JSON file with training arguments that override the recipe.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad-records", help="Leave bad records out, and count them.")]
OneOrAll = Annotated[
    str | None, typer.Option("--split", envvar="SPLIT_ID", help="Which split; default: every trained one.")
]
Conversations = Annotated[int, typer.Option(help="Conversations per held-out question and assistant.")]
MaxUserTurns = Annotated[int, typer.Option(help="Free user turns before the forced answer.")]
MaxTokens = Annotated[int, typer.Option(help="Longest message, in tokens.")]
ALL_STEPS = "prepare,finetune,ppl,simulate,untrained,scores"
Pilots = Annotated[bool, typer.Option("--include-pilots", help="Read the pilots of a ChatBench folder too.")]


def entry() -> None:
    """The installed command."""
    raise SystemExit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a check did not pass, 2 wrong input, 130 interrupted."""
    _keep_quiet()
    try:
        return app(list(arguments), standalone_mode=False, prog_name="chatbench") or 0
    except ChatbenchError as error:
        print(f"chatbench: {error}", file=sys.stderr)
        return 2
    except typer.Exit as done:
        return int(done.exit_code)
    except KeyboardInterrupt:
        print("\nchatbench: interrupted; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        if (show := getattr(error, "show", None)) is None:
            raise  # not a usage error: a bug of ours, whose traceback is wanted
        show()
        return int(getattr(error, "exit_code", 2))


def _keep_quiet() -> None:
    """Telemetry off and tokens from .env in, before any library reads the environment."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if Path(".env").is_file():
        from dotenv import load_dotenv

        load_dotenv(Path(".env"))


def _print(text: str) -> None:
    print(text, flush=True)


@app.command()
def download(
    name: Annotated[Literal["chatbench", "halie"], typer.Argument(help="Which study.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default studies/NAME.")] = None,
    revision: Annotated[str, typer.Option(help="Commit or branch of the data set (chatbench only).")] = "main",
    allow_other_checksum: Annotated[
        bool, typer.Option("--allow-other-checksum", help="Take a file that is not the known one.")
    ] = False,
) -> None:
    """Downloads a published study; continues a download that was cut off.

    Example: chatbench download chatbench
    """
    from chatbench.steps.download import download as step

    _print(step(name, out or Path("studies") / name, revision=revision, allow_other_checksum=allow_other_checksum))


@app.command()
def sample(
    study: Annotated[Path, typer.Argument(help="Folder to write, in the ChatBench layout.")],
    questions: Annotated[int, typer.Option(help="Number of questions.")] = 120,
    chats: Annotated[int, typer.Option(help="Conversations per question and assistant.")] = 10,
    seed: Seed = 0,
) -> None:
    """Writes the sample study: generated problems, people and assistants, whose truth is known.

    Example: chatbench sample studies/sample --questions 120
    """
    from chatbench.steps.check_study import summarise, summary_text
    from chatbench.studies.sample.study import SampleSettings, write_sample

    _print(summary_text(summarise(write_sample(study, SampleSettings(questions, chats, seed)).study)))


@app.command("check-study")
def check_study(
    study: Annotated[
        Path, typer.Argument(help="A ChatBench folder, HALIE's event_blocks.csv, or chats as JSON Lines.")
    ],
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
) -> None:
    """Validates a study and summarises it.

    Example: chatbench check-study my_chats.jsonl
    """
    from chatbench.steps.check_study import check_study as step
    from chatbench.steps.check_study import summary_text

    _print(summary_text(step(study, skip_bad_records=skip_bad_records, include_pilots=include_pilots)))


@app.command("prepare-splits")
def prepare_splits(
    study: Annotated[Path, typer.Option(help="The study to split.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data"),
    splits: Annotated[int, typer.Option(help="Number of random splits by question.")] = 10,
    train_share: Annotated[float, typer.Option(help="Share of each subset's questions for training, in 0..1.")] = 0.6,
    seed: Seed = 0,
    format_: Annotated[
        Literal["messages", "prompt-completion", "context"], typer.Option("--format", help="Shape of the examples.")
    ] = "messages",
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
) -> None:
    """Splits a study by question and turns its chats into training examples.

    Example: chatbench prepare-splits --study studies/sample --splits 3
    """
    from chatbench.steps.prepare_splits import prepare_splits as step

    prepared = step(
        study, out, splits=splits, train_share=train_share, seed=seed, format=format_,
        skip_bad_records=skip_bad_records, include_pilots=include_pilots,
    )  # fmt: skip
    _print(prepared.audit)


@app.command()
def finetune(
    model: Model,
    split: Split = "split_0",
    data: Data = Path("data"),
    results: Results = Path("results"),
    config: Config = None,
    learning_rate: Annotated[float | None, typer.Option(help="Overrides the recipe.")] = None,
    num_train_epochs: Annotated[float | None, typer.Option(help="Overrides the recipe.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    per_device_train_batch_size: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a killed run from its last checkpoint.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where another run's result stands.")
    ] = False,
) -> None:
    """Fine-tunes a simulator on one split; continues a run that was killed.

    Example: SPLIT_ID=split_1 chatbench finetune distilgpt2
    """
    from chatbench.steps.finetune import finetune as step

    flags = {
        "learning_rate": learning_rate, "num_train_epochs": num_train_epochs, "max_steps": max_steps,
        "per_device_train_batch_size": per_device_train_batch_size, "seed": seed,
    }  # fmt: skip
    step(
        model, data=data, results=results, split=split, config=config, flags=flags, resume=resume, overwrite=overwrite,
        say=_print,
    )  # fmt: skip


@app.command("eval-ppl")
def eval_ppl(
    model: Model,
    split: OneOrAll = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
) -> None:
    """Perplexity of the held-out human turns, before and after fine-tuning.

    Example: chatbench eval-ppl tiny --split split_0
    """
    from chatbench.steps.eval_ppl import eval_ppl as step

    step(model, data=data, results=results, split=split)


@app.command()
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
        _print(f"{split_id}: " + "\n".join(result.lines()))


@app.command("eval-chatbench")
def eval_chatbench(
    model: Model,
    split: OneOrAll = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
) -> None:
    """BLEU, ROUGE, and agreement with people's accuracy, per split and over splits, beside the baselines.

    Example: chatbench eval-chatbench tiny
    """
    from chatbench.steps.eval_chatbench import eval_chatbench as step
    from chatbench.steps.results_table import print_tables

    print_tables([step(model, data=data, results=results, splits=[split] if split else None)])


@app.command()
def table(
    models: Annotated[list[str], typer.Argument(help="Models that eval-chatbench has scored.")],
    results: Results = Path("results"),
    published: Annotated[bool, typer.Option("--published", help="Add the rows of the paper, marked as such.")] = False,
) -> None:
    """The table of scores of one or more models, from the files that eval-chatbench wrote.

    Example: chatbench table tiny distilgpt2 --published
    """
    from chatbench.steps.results_table import print_tables, results_table

    print_tables(results_table(models, results=results), with_published=published)


@app.command()
def run(
    model: Model,
    study: Annotated[Path | None, typer.Option(help="What to split; default: the splits that lie in --data.")] = None,
    steps: Annotated[str, typer.Option(help="Which of prepare,finetune,ppl,simulate,untrained,scores.")] = ALL_STEPS,
    splits: Annotated[int, typer.Option(help="Number of random splits by question.")] = 10,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this split, e.g. split_1: one job each on a cluster.")
    ] = None,
    train_share: Annotated[float, typer.Option(help="Share of questions for training, in 0..1.")] = 0.6,
    assistant: Annotated[list[str] | None, typer.Option(help="As in simulate; default: those of the study.")] = None,
    conversations: Conversations = 10,
    untrained_conversations: Annotated[int, typer.Option(help="The same for the base model; 0 leaves it out.")] = 3,
    max_user_turns: MaxUserTurns = 10,
    max_tokens: MaxTokens = 1000,
    config: Config = None,
    seed: Seed = 0,
    data: Data = Path("data"),
    results: Results = Path("results"),
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
) -> None:
    """Everything, for all splits: prepare, fine-tune, perplexity, simulated chats, scores. Run again = continue.

    Example: chatbench run tiny --study studies/sample --splits 3
    """
    from chatbench.steps.results_table import print_tables
    from chatbench.steps.run_all import RunSettings, run_all

    settings = RunSettings(
        splits=splits, only=tuple(only or ()), train_share=train_share, seed=seed, skip_bad_records=skip_bad_records,
        include_pilots=include_pilots, assistants=tuple(assistant or ()), conversations=conversations,
        untrained_conversations=untrained_conversations, max_user_turns=max_user_turns, max_tokens=max_tokens,
        config=config,
    )  # fmt: skip
    report = run_all(model, study=study, data=data, results=results, settings=settings, steps=_names(steps), say=_print)
    if report.table:
        print_tables([report.table])
    _print("\n" + "\n".join(report.lines()))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for study, data and results.")] = Path("demo"),
    splits: Annotated[int, typer.Option(help="Number of splits.")] = 3,
) -> None:
    """The whole pipeline on the sample study with the tiny model, in a few minutes on a laptop.

    Example: chatbench demo
    """
    from chatbench.steps.demo import demo as step

    step(out, splits=splits, say=_print)


@app.command()
def sanity(model: Model, data: Data = Path("data"), results: Results = Path("results")) -> None:
    """One screen that tells whether a trained model is sane; exit code 1 if something wants a look.

    Example: chatbench sanity tiny
    """
    from chatbench.steps.sanity import print_sanity
    from chatbench.steps.sanity import sanity as step

    report = step(model, data=data, results=results)
    print_sanity(report)
    raise typer.Exit(report.exit_code)


@app.command("show-mask")
def show_mask(
    file: Annotated[Path, typer.Argument(help="train.jsonl or test.jsonl of a split.")],
    row: Annotated[int, typer.Option(help="Which example, from 1.")] = 1,
    model: Annotated[str, typer.Option(help="Whose tokenizer.")] = "tiny",
) -> None:
    """The exact text of an example, with the tokens that carry loss coloured.

    Example: chatbench show-mask data/split_0/train.jsonl --row 3
    """
    from rich.console import Console

    from chatbench.steps.show_mask import show_mask as step

    Console().print(step(file, row, model), soft_wrap=True)


@app.command()
def doctor(results: Results = Path("results")) -> None:
    """What will and will not work on this machine, and why: GPUs, precision, 8-bit, token, disk, versions.

    Example: chatbench doctor
    """
    from chatbench.steps.doctor import doctor as step
    from chatbench.steps.doctor import print_doctor

    print_doctor(step(results))


@app.command("make-tiny-base")
def make_tiny_base(
    out: Annotated[Path, typer.Argument(help="Folder to write; also holds the checkpoint of a run that was killed.")],
    threads: Annotated[int, typer.Option(help="CPU threads; the packaged base was made with one.")] = 1,
) -> None:
    """Pretrains the base of the tiny recipe from nothing, on generated text; about 45 minutes on one CPU core.

    Example: chatbench make-tiny-base results/tiny_base
    """
    from chatbench.models.tiny_base import TinyBaseSettings
    from chatbench.steps.make_tiny_base import make_tiny_base as step

    step(out, TinyBaseSettings(), threads=threads, report=_print)


@app.command("make-scratch-base")
def make_scratch_base(
    shape: Annotated[str, typer.Argument(metavar="SHAPE", help="gpt2, mistral or llama.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    train: Annotated[Path, typer.Option(help="train.jsonl whose text the tokenizer is trained on.")],
    vocabulary: Annotated[int, typer.Option(help="Size of the tokenizer's vocabulary.")] = 4000,
    width: Annotated[int, typer.Option(help="Width of the model, a multiple of 32.")] = 128,
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 4,
    seed: Seed = 0,
) -> None:
    """Writes a small base with random weights, to fine-tune from nothing where no pretrained one can be had.

    Example: chatbench make-scratch-base mistral bases/split_0/mistral-small --train data/split_0/train.jsonl
    """
    from chatbench.steps.make_scratch_base import make_scratch_base as step

    _print(step(shape, out, train=train, vocabulary=vocabulary, width=width, layers=layers, seed=seed))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    entry()
