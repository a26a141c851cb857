"""Score: perplexity, agreement with people, comparisons, realism, sanity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from chatbench.commands import options
from chatbench.commands.options import show, takes

if TYPE_CHECKING:
    from chatbench.data.workspace import Workspace

commands = typer.Typer()


@commands.command("eval-ppl")
@takes(options.folders)
def eval_ppl(workspace: Workspace, model: options.Model, split: options.OneOrAll = None) -> None:
    """Measure perplexity on held-out human turns.

    For the fine-tuned model and for its base.

    Example: chatbench eval-ppl tiny --split split_0
    """
    from chatbench.scoring.eval_ppl import eval_ppl as step

    step(model, workspace=workspace, split=split)


@commands.command("eval-chatbench")
@takes(options.folders)
def eval_chatbench(
    workspace: Workspace,
    model: options.Model,
    split: options.OneOrAll = None,
    bootstrap: options.Bootstrap = 1000,
    confidence: options.Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Random seed of the resamples.", min=0, max=options.MOST_SEED)] = 0,
    tokenizer: Annotated[
        Literal["published", "unicode"], typer.Option(help="Tokenizer for BLEU and ROUGE; unicode handles all scripts.")
    ] = "published",
) -> None:
    """Score a simulator: BLEU, ROUGE, agreement with people.

    Report scores per split and over splits, each beside its floor and ceiling. Every chat is verified first: exit code
    1 if one does not match its record; exit code 3 if most chats have no answer.

    Example: chatbench eval-chatbench tiny
    """
    from chatbench.metrics.resampling import Resampling
    from chatbench.report.tables import print_tables, write_markdown
    from chatbench.scoring.eval_chatbench import Verified
    from chatbench.scoring.eval_chatbench import eval_chatbench as step

    verified, resampling = Verified(), Resampling(bootstrap, confidence, seed)
    splits = [split] if split else None
    table = step(
        model, workspace=workspace, splits=splits, resampling=resampling, verified=verified, tokenizer=tokenizer
    )
    write_markdown(table, workspace)
    print_tables([table])
    show("\n".join(verified.lines()))
    if verified.differences or table.warning:
        raise typer.Exit(1 if verified.differences else options.NO_ANSWERS)


@commands.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="MODEL, FOLDER:MODEL or a scores file; add #base for its base model."),
    ],
    ignore: Annotated[
        list[str] | None, typer.Option(help="Signature entry that may differ, e.g. assistant_decoding; repeatable.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamples for intervals and p-values, at least 100.", max=100_000)
    ] = 2000,
    confidence: options.Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Random seed of the resamples.", min=0, max=options.MOST_SEED)] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the comparison to this JSON file.")] = None,
    results: options.Results = Path("results"),
) -> None:
    """Compare simulators: differences, intervals, p-values.

    On the same questions; runs with incompatible configurations are refused.

    Example: chatbench compare tiny distilgpt2
    """
    from chatbench.core.files import keep_inputs, write_json
    from chatbench.data.workspace import Workspace
    from chatbench.metrics.resampling import Resampling
    from chatbench.report.grids import print_grids
    from chatbench.report.tables import comparison_grids, comparison_json, comparison_notes
    from chatbench.scoring.compare import compare as step

    resampling, workspace = Resampling(bootstrap, confidence, seed), Workspace(results=results)
    if out:
        keep_inputs([out], workspace.inputs())
    comparison = step(runs, workspace=workspace, ignore=ignore or (), resampling=resampling)
    print_grids(comparison_grids(comparison), comparison_notes(comparison))
    if out:
        write_json(out, comparison_json(comparison))


@commands.command()
@takes(options.folders)
def realism(
    workspace: Workspace,
    model: options.Model,
    split: options.OneOrAll = None,
    base_model: Annotated[bool, typer.Option("--base", help="Use the base model's chats instead.")] = False,
    termination: Annotated[
        bool, typer.Option("--termination", help="Also test where the model would end people's chats.")
    ] = False,
    seed: options.Seed = 0,
) -> None:
    """Compare simulated chats with people's chats.

    Each metric comes with people compared with people as its reference.

    Example: chatbench realism tiny --termination
    """
    from chatbench.realism.realism import RealismSettings, realism_footnotes, realism_grids
    from chatbench.realism.realism import realism as step
    from chatbench.report.grids import print_grids

    settings = RealismSettings(base_model=base_model, termination=termination, seed=seed)
    found = step(model, workspace=workspace, splits=[split] if split else None, settings=settings, say=show)
    print_grids(realism_grids(found), realism_footnotes(found))


@commands.command()
@takes(options.folders)
def sanity(workspace: Workspace, model: options.Model) -> None:
    """Check a fine-tuned model on one screen.

    Exit code 1 if there is a warning.

    Example: chatbench sanity tiny
    """
    from chatbench.workflow.demo import print_sanity
    from chatbench.workflow.demo import sanity as step

    report = step(model, workspace=workspace)
    print_sanity(report)
    raise typer.Exit(report.exit_code)
