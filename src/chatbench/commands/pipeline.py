"""Pipeline: every step in one command, and what this machine can do."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatbench.commands import options
from chatbench.commands.options import names, refuse_given, show, takes
from chatbench.core.errors import ChatbenchError
from chatbench.core.texts import printable

if TYPE_CHECKING:
    from chatbench.data.workspace import Workspace
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.budget import Spending
    from chatbench.simulation.simulate import ChatSettings
    from chatbench.workflow.units import RunSettings

commands = typer.Typer()

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Recipes (see chatbench recipes), Hub ids, model folders or GGUF files; with --simulator, any name.",
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        help="GPUs per unit that loads a model: 0.25 shares one; with 2 or more, fine-tuning uses all.", min=0, max=64
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of a run ask for."""

    context: typer.Context
    models: list[str]
    study: Path | None
    workspace: Workspace
    settings: RunSettings
    steps: list[str]
    spending: Spending
    gpus: float | None

    def without_budget(self, what: str, instead: str = "chatbench run") -> None:
        """Refuses a budget: units that run elsewhere do not know what the others have spent."""
        if self.spending.max_tokens is not None or self.spending.max_usd is not None:
            raise ChatbenchError(
                f"a budget for {what} is not supported",
                expected="a run in one process, which can count what is spent",
                fix=f"omit the budget, or use {instead}",
            )


@takes(options.chats, options.endpoint, options.spending, options.folders)
def asked_run(
    chats: ChatSettings,
    endpoint: EndpointOptions,
    spending: Spending,
    workspace: Workspace,
    context: typer.Context,
    models: Models,
    study: Annotated[
        Path | None, typer.Option(help="Study to split; default: the splits in --data, as they are.")
    ] = None,
    steps: Annotated[str, typer.Option(help=f"Steps to run, of {options.ALL_STEPS}.")] = options.ALL_STEPS,
    splits: Annotated[int, typer.Option(help="Number of random splits by question.", max=options.MOST_SPLITS)] = 10,
    split: Annotated[list[str] | None, typer.Option(help="Run only this split, e.g. split_1; repeatable.")] = None,
    train_share: Annotated[float, typer.Option(help="Share of questions for training, in 0..1.")] = 0.6,
    assistant: Annotated[list[str] | None, typer.Option(help="As in simulate; default: those of the study.")] = None,
    simulator: options.Simulator = "tuned",
    base_conversations: Annotated[
        int, typer.Option(help="Like --conversations, for the base model; 0 omits it.", min=0, max=options.MOST_CHATS)
    ] = 3,
    config: options.Config = None,
    skip_bad_records: options.SkipBad = False,
    include_pilots: options.Pilots = False,
    maps: options.Maps = None,
    gpus: Gpus = None,
) -> Asked:
    """What the options say that `run`, `plan` and `run-unit` share."""
    if study is None:
        reason = "without --study: the splits in --data are used as they are"
        refuse_given(context, reason, "splits", "train_share", "maps", "skip_bad_records", "include_pilots")
    from chatbench.simulation.participants import read_simulator_spec
    from chatbench.workflow.units import RunSettings

    spec = read_simulator_spec(simulator)
    if spec.kind != "tuned":
        refuse_given(context, f"with --simulator {spec.style}:{spec.kind}, which is not fine-tuned", "config")
    settings = RunSettings(
        splits=splits, only=tuple(split or ()), train_share=train_share, seed=chats.seed, config=config,
        skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=tuple(maps or ()),
        assistants=tuple(assistant or ()), chats=chats, base_conversations=base_conversations, simulator=spec,
        gpus=gpus or 0.0, options=endpoint,
    )  # fmt: skip
    return Asked(context, models, study, workspace, settings, names(steps), spending, gpus)


@commands.command()
@takes(asked_run)
def run(
    asked: Asked,
    on: Annotated[str, typer.Option(metavar="ray[:ADDRESS]", help="Run units on Ray; see docs/cluster.md.")] = "",
    collect: Annotated[
        bool, typer.Option("--collect", help="Copy files to and from nodes that share no folder.")
    ] = False,
) -> None:
    """Run every step for all splits (resumes).

    Prepare splits, fine-tune, measure perplexity, simulate chats, score. A budget covers all splits. With several
    models, a failed unit does not stop the others (exit code 2 at the end). Exit code 3 if most chats have no
    answer, 4 if the budget is spent before the end.

    Example: chatbench run tiny --study studies/sample --splits 3
    """
    from chatbench.report.tables import print_tables
    from chatbench.workflow.run_all import run_all

    if asked.gpus and asked.gpus < 2 and not on:
        raise ChatbenchError(f"--gpus {asked.gpus:g} without --on", fix="add --on ray, or omit --gpus")
    if collect and not on:
        raise ChatbenchError("--collect without --on", fix="add --on ray:ADDRESS, or omit --collect")
    given: dict[str, Any] = {"settings": asked.settings}
    if on:
        from chatbench.workflow.on_ray import RayExecutor

        asked.without_budget("units on a cluster", "chatbench run without --on")
        executor = RayExecutor(on, asked.workspace, asked.settings, gpus=asked.gpus, collect=collect, say=show)
        given = {"settings": executor.settings, "execute": executor}
    report = run_all(
        asked.models, study=asked.study, workspace=asked.workspace, steps=asked.steps, spending=asked.spending,
        say=show, **given,
    )  # fmt: skip
    if report.tables:
        print_tables(report.tables)
        words = [asked.models[0], "--data", str(asked.workspace.data), "--results", str(asked.workspace.results)]
        show(f"\nHow realistic the chats are: chatbench realism {shlex.join(words)}")
    show("\n" + "\n".join(report.lines()))
    if report.failed:
        raise typer.Exit(2)
    if asked.spending.left:
        raise typer.Exit(options.BUDGET_SPENT)
    if any(table.warning for table in report.tables):
        raise typer.Exit(options.NO_ANSWERS)


@commands.command()
@takes(asked_run)
def plan(
    asked: Asked,
    as_json: Annotated[bool, typer.Option("--json", help="Print every unit as JSON.")] = False,
    slurm: Annotated[Path | None, typer.Option(help="Write the plan to this file, as Slurm array jobs.")] = None,
) -> None:
    """List the units of a run.

    Show what each unit needs, what it waits for and whether it is done. Takes the options of run. Prepares the splits
    if there are none, because the units follow from them.

    Example: chatbench plan tiny --study studies/sample --splits 3 --slurm sweep.sbatch
    """
    from chatbench.core.files import read_text, write_text
    from chatbench.report.grids import print_grids
    from chatbench.workflow.run_all import Clock, planned_units
    from chatbench.workflow.units import array_jobs, plan_grid, plan_json

    if as_json:
        refuse_given(asked.context, "with --json", "slurm")
    clock = Clock(lambda line: typer.echo(printable(line), err=True))
    settings = asked.settings
    units = planned_units(
        asked.models, asked.study, asked.workspace, settings, asked.steps, clock, in_blocks=True, shown=not slurm
    )
    if as_json:
        show(plan_json(units, asked.workspace, settings))
    elif slurm:
        asked.without_budget("array jobs")
        script = array_jobs(units, _given(asked.context))
        if slurm.is_file() and slurm.parent != Path("/dev") and read_text(slurm) != script:
            found = f"{slurm}: is there, and may be corrected by hand"
            raise ChatbenchError(found, expected="a new file, or this plan", fix="choose another name, or remove it")
        write_text(slurm, script)
        show(f"{len(units)} units -> {slurm}; edit it for your site, then: bash {shlex.quote(str(slurm))}")
    else:
        print_grids([plan_grid(units, asked.workspace, settings)], [])


@commands.command("run-unit")
@takes(asked_run)
def run_unit(
    asked: Asked, unit: Annotated[str, typer.Argument(metavar="ID", help="Unit id, as chatbench plan lists it.")]
) -> None:
    """Run one unit of a plan; takes the options of run.

    Example: chatbench run-unit tiny/split_0/finetune tiny --study studies/sample --splits 3
    """
    from chatbench.workflow.run_all import Clock, planned_units
    from chatbench.workflow.units import run_unit as step
    from chatbench.workflow.units import unit_called

    asked.without_budget("one unit")
    units = planned_units(
        asked.models, asked.study, asked.workspace, asked.settings, asked.steps, Clock(show), in_blocks=True
    )
    step(unit_called(unit, units), asked.workspace, asked.settings, say=show)


def _given(context: typer.Context) -> list[str]:
    """The words of the command line that `run-unit` accepts too."""
    words: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in ("as_json", "slurm"):
            continue
        value = context.params[parameter.name or ""]
        name = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
        for each in value if isinstance(value, list | tuple) else [value]:
            words += name if each is True else [*name, str(each)]
    return words


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write study, data and results to.")] = Path("demo"),
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
    """Report what this machine can and cannot run.

    Check versions, GPUs, precision, 8-bit weights, token, disk space and every recipe.

    Example: chatbench doctor
    """
    from chatbench.workflow.doctor import doctor as step
    from chatbench.workflow.doctor import print_doctor

    print_doctor(step(results))
