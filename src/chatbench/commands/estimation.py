"""Estimate: people's accuracy with a new assistant, and how large a study has to be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatbench.commands import options
from chatbench.commands.options import Model, names, show, takes

if TYPE_CHECKING:
    from chatbench.data.workspace import Workspace
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.simulation.budget import Spending
    from chatbench.simulation.simulate import ChatSettings

commands = typer.Typer()


@commands.command()
@takes(options.chats, options.endpoint, options.spending, options.folders)
def estimate(
    settings: ChatSettings,
    endpoint: EndpointOptions,
    spending: Spending,
    workspace: Workspace,
    context: typer.Context,
    model: Model,
    assistant: Annotated[str, typer.Option(metavar="NEW=SPEC", help="The new assistant, specified as in simulate.")],
    people: Annotated[
        Path | None, typer.Option(help="Real chats with the new assistant (JSON Lines), to rectify the simulation.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Questions to use instead of the study's: JSON Lines, one per line.")
    ] = None,
    skip_bad_records: options.SkipBad = False,
    maps: options.Maps = None,
    dry_run: options.DryRun = False,
) -> None:
    """Estimate people's accuracy with a new assistant.

    The fine-tuned simulators chat with it (resumes); splits by assistant show how far to trust them. Use the same chat
    settings as in the simulate runs of the held-out assistants. Exit code 3 if most simulated chats with the new or a
    held-out assistant have no answer, 4 if the budget is spent before the end.

    Example: chatbench estimate tiny --assistant new=scripted:0.5 --people new_chats.jsonl
    """
    from chatbench.estimation import estimate as step
    from chatbench.report.estimate_table import estimate_grids, estimate_notes
    from chatbench.report.grids import print_grids
    from chatbench.scoring.score_files import plain

    if people is None:
        options.refuse_given(context, "without --people, whose file it is about", "skip_bad_records", "maps")
    given: dict[str, Any] = {
        "assistant": assistant, "workspace": workspace, "questions": questions, "people": people,
        "settings": settings, "skip_bad_records": skip_bad_records, "maps": maps or (), "spending": spending,
        "say": show,
    }  # fmt: skip
    if dry_run:
        step.dry_run(model, **given)
        return
    made = step.estimate(model, options=endpoint, **given)
    entry = plain(made)
    assert isinstance(entry, dict)
    if made.warning:
        show(made.warning)
    print_grids(estimate_grids(entry), [note for note in estimate_notes(entry) if note != made.warning])
    if made.warning:
        raise typer.Exit(options.NO_ANSWERS)


@commands.command("plan-study")
def plan_study(
    context: typer.Context,
    study: Annotated[Path | None, typer.Option(help="A study whose answers vary as yours will.")] = None,
    components: Annotated[
        str | None, typer.Option(metavar="Q,P,E", help="Instead of --study: variances by question, person, residual.")
    ] = None,
    half_width: Annotated[float, typer.Option(help="Half-width of one assistant's 95 % interval, in 0..1.")] = 0.05,
    difference: Annotated[float, typer.Option(help="Difference between two assistants to detect, in 0..1.")] = 0.1,
    power: Annotated[float, typer.Option(help="Probability of detecting that difference.")] = 0.8,
    questions: Annotated[
        int | None, typer.Option(help="Questions in the planned study; default: as many as --study has, else 120.")
    ] = None,
    answers_per_person: Annotated[
        str, typer.Option(metavar="N,N...", help="Answers per person; a row each, up to --questions.")
    ] = "1,5,10",
    correlation: Annotated[float, typer.Option(help="PPI correlation of a simulator, as printed by estimate.")] = 0.0,
    people: Annotated[int | None, typer.Option(help="Divide this many people between training and correction.")] = None,
    trained_on: Annotated[int, typer.Option(help="People that this simulator was trained on; for --people.")] = 0,
    price: Annotated[float | None, typer.Option(help="Price of one real chat, in US dollars.")] = None,
    skip_bad_records: options.SkipBad = False,
    include_pilots: options.Pilots = False,
    maps: options.Maps = None,
) -> None:
    """Plan a study: people, answers and cost.

    For the interval of one assistant and for telling two apart, without a simulator and with one.

    Example: chatbench plan-study --study studies/sample --half-width 0.05 --correlation 0.3 --price 0.50
    """
    from chatbench.core.errors import ChatbenchError
    from chatbench.data.open_study import open_study
    from chatbench.estimation.study_plan import Design, divide, plan_rows, read_components, read_numbers
    from chatbench.report.grids import Grid, print_grids

    if study is None:
        options.refuse_given(context, "without --study", "skip_bad_records", "include_pilots", "maps")
    if people is None:
        options.refuse_given(context, "without --people, which it is for", "trained_on")
    if (study is None) == (components is None):
        raise ChatbenchError("plan-study needs either --study or --components", fix="add --components 0.04,0.01,0.17")
    opened = (
        open_study(study, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps or ())
        if study
        else None
    )
    found = read_components(components, opened)
    count = (len(opened.questions) if opened else 120) if questions is None else questions
    numbers = read_numbers(names(answers_per_person))
    if (source := context.get_parameter_source("answers_per_person")) and source.name == "DEFAULT":
        numbers = [number for number in numbers if number <= max(1, count)]
    designs = [Design(found, count, each, correlation) for each in numbers]
    header, rows = plan_rows(designs, half_width=half_width, difference=difference, power=power, price=price)
    title = f"People needed for ±{100 * half_width:g} points, and per assistant to detect {100 * difference:g} points"
    notes = [
        f"variance of answers: by question {found.question:.4f}, by person {found.person:.4f}, rest {found.rest:.4f}",
        f"{count} questions, each person answers a random subset; power {power:g}; PPI correlation {correlation:g}",
    ]
    for design in designs:
        if people is not None:
            best, rest = divide(design, people, trained_on)
            notes.append(
                f"{design.answers_per_person} answers per person: of {rest.correction} people, {best.training} for "
                f"fine-tuning and {best.correction} for correction: ±{100 * best.half_width:.1f} points; "
                f"all for correction: ±{100 * rest.half_width:.1f}"
            )
    print_grids([Grid(title, header, rows)], notes)
