"""Train: make simulators, inspect what they learn from, publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chatbench.commands.options import (
    MOST_SEED,
    Config,
    Data,
    DtypeName,
    FinishedModel,
    FinishedSplit,
    Model,
    Results,
    Seed,
    Split,
    show,
)

commands = typer.Typer()


@commands.command()
def finetune(
    model: Model,
    split: Split = "split_0",
    data: Data = Path("data"),
    results: Results = Path("results"),
    config: Config = None,
    method: Annotated[Literal["full", "lora"] | None, typer.Option(help="Train all weights, or LoRA adapters.")] = None,
    template: Annotated[
        Literal["plain", "chat"] | None, typer.Option(help="Plain text, or the tokenizer's chat template.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    num_train_epochs: Annotated[float | None, typer.Option(help="Passes over the training examples.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Number of optimizer steps, instead of epochs.")] = None,
    per_device_train_batch_size: Annotated[int | None, typer.Option(help="Examples per batch and process.")] = None,
    gradient_accumulation_steps: Annotated[int | None, typer.Option(help="Batches per optimizer step.")] = None,
    examples_per_step: Annotated[
        int | None, typer.Option(help="Examples per optimizer step, over all processes; 0: set by batch size.")
    ] = None,
    packing: Annotated[
        Literal["none", "conversation", "question"] | None, typer.Option(help="Which examples share a prefix tree.")
    ] = None,
    pack_tokens: Annotated[int | None, typer.Option(help="Maximum tokens per forward pass; 0: automatic.")] = None,
    long_examples: Annotated[
        Literal["leave_out", "drop_oldest_turns"] | None, typer.Option(help="What to do with overlong examples.")
    ] = None,
    answer_weight: Annotated[
        float | None, typer.Option(help="Loss weight of an answer's letter; every other token weighs 1.")
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"] | None, typer.Option(help="Precision of matrix products.")
    ] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option(help="Less memory, for a third more time.")] = None,
    load_in_8bit: Annotated[
        bool | None, typer.Option("--load-in-8bit/--no-load-in-8bit", help="Quantise the frozen base to 8 bits.")
    ] = None,
    load_in_4bit: Annotated[
        bool | None, typer.Option("--load-in-4bit/--no-load-in-4bit", help="Quantise the frozen base to 4 bits (nf4).")
    ] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="Tracker: tensorboard, wandb, trackio or none; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", min=0, max=MOST_SEED)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the settings and the estimated cost.")] = False,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run from its last checkpoint.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result of another run.")] = False,
) -> None:
    """Fine-tune a simulator on one split (resumes).

    Settings come from these options, else from --config, the recipe or the defaults.

    Example: SPLIT_ID=split_1 chatbench finetune distilgpt2
    """
    from chatbench.data.workspace import Workspace
    from chatbench.training.finetune import finetune as step
    from chatbench.training.finetune import plan_finetune

    flags = {
        "method": method, "template": template, "learning_rate": learning_rate, "num_train_epochs": num_train_epochs,
        "max_steps": max_steps, "per_device_train_batch_size": per_device_train_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps, "examples_per_step": examples_per_step,
        "packing": packing, "pack_tokens": pack_tokens, "long_examples": long_examples, "answer_weight": answer_weight,
        "precision": precision, "gradient_checkpointing": gradient_checkpointing, "load_in_8bit": load_in_8bit,
        "load_in_4bit": load_in_4bit, "report_to": report_to or None, "seed": seed,
    }  # fmt: skip
    place = Workspace(data, results)
    if dry_run:
        plan_finetune(model, workspace=place, split=split, config=config, flags=flags, overwrite=overwrite, say=show)
        return
    step(model, workspace=place, split=split, config=config, flags=flags, resume=resume, overwrite=overwrite, say=show)


@commands.command("show-mask")
def show_mask(
    file: Annotated[Path, typer.Argument(help="train.jsonl or test.jsonl of a split.")],
    row: Annotated[int, typer.Option(help="Number of the example, from 1.")] = 1,
    model: Annotated[str, typer.Option(help="Model whose tokenizer is used.")] = "tiny",
    template: Annotated[
        Literal["plain", "chat"] | None, typer.Option(help="Plain text, or the chat template; default: the recipe's.")
    ] = None,
) -> None:
    """Print an example with its loss tokens marked.

    Example: chatbench show-mask data/split_0/train.jsonl --row 3 --model Qwen/Qwen3-0.6B --template chat
    """
    from rich.console import Console

    from chatbench.training.finetune import show_mask as step

    Console().print(step(file, row, model, template), soft_wrap=True)


@commands.command()
def recipes() -> None:
    """List the recipes: base models with their settings.

    Example: chatbench recipes
    """
    from chatbench.core.settings import recipe_lines

    show("\n".join(recipe_lines()))


@commands.command()
def merge(
    model: FinishedModel,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new or empty.")],
    split: FinishedSplit = None,
    results: Results = Path("results"),
    dtype: Annotated[
        DtypeName,
        typer.Option(help="Data type of the written weights; auto: that of the base."),
    ] = "auto",
    share: Annotated[
        float,
        typer.Option(help="Weight of the fine-tuned model in 0..1; below 1, weights are averaged with the base's."),
    ] = 1.0,
) -> None:
    """Merge an adapter and its base into one folder.

    The result is an ordinary model folder that vLLM and other programs load.

    Example: chatbench merge mistral-7b merged/mistral-7b --split split_0
    """
    from chatbench.data.workspace import Workspace
    from chatbench.publishing.upload import finished_model, merge_adapter

    folder = finished_model(model, workspace=Workspace(results=results), split=split)
    show(merge_adapter(folder, out, dtype=dtype, share=share).line())


@commands.command()
def publish(
    model: FinishedModel,
    to: Annotated[str, typer.Option(metavar="ORG/NAME", help="Repository on the Hugging Face Hub.")],
    split: FinishedSplit = None,
    revision: Annotated[str, typer.Option(help="Branch to write, e.g. one per split.")] = "main",
    private: Annotated[bool, typer.Option("--private/--public", help="Visibility of a new repository.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be uploaded.")] = False,
    results: Results = Path("results"),
) -> None:
    """Push a fine-tuned model and its card to the Hub.

    Example: chatbench publish distilgpt2 --to my-lab/user-simulator --dry-run
    """
    from chatbench.data.workspace import Workspace
    from chatbench.publishing.upload import publish as step

    step(
        model, to=to, workspace=Workspace(results=results), split=split, revision=revision, private=private,
        dry_run=dry_run, say=show,
    )  # fmt: skip


@commands.command("make-scratch-base")
def make_scratch_base(
    shape: Annotated[str, typer.Argument(metavar="SHAPE", help="Architecture: gpt2, mistral or llama.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    train: Annotated[Path, typer.Option(help="train.jsonl to train the tokenizer on.")],
    vocabulary: Annotated[int, typer.Option(help="Vocabulary size of the tokenizer.", min=257, max=1_000_000)] = 4000,
    width: Annotated[int, typer.Option(help="Hidden size of the model; a multiple of 32.", max=100_000)] = 128,
    layers: Annotated[int, typer.Option(help="Number of layers.", min=1, max=1_000)] = 4,
    seed: Seed = 0,
) -> None:
    """Write a small base model with random weights.

    For fine-tuning from scratch where no pretrained base is available.

    Example: chatbench make-scratch-base mistral bases/split_0/mistral-small --train data/split_0/train.jsonl
    """
    from chatbench.models.weights import make_scratch_base as step

    show(step(shape, out, train=train, vocabulary=vocabulary, width=width, layers=layers, seed=seed))
