"""Collect: run a study with people and export its files."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from chatbench.commands.options import show

if TYPE_CHECKING:
    from chatbench.collect.config import CollectedStudy
    from chatbench.collect.store import Store

T = TypeVar("T")
commands = typer.Typer()
collect = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
commands.add_typer(
    collect,
    name="collect",
    help="Collect a study: web pages where people answer and chat.\n\n"
    "Example: chatbench collect init my_study --questions sample --assistant scripted:strong",
    short_help="Collect a study: web pages where people answer and chat.",
)

StudyDir = Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Study folder, with study.toml.")]
Rehearsed = Annotated[bool, typer.Option("--rehearsed", help="Use rehearsals instead of people.")]


@collect.command()
def init(
    study: StudyDir,
    questions: Annotated[Path, typer.Option(help="Questions to ask: questions.csv, JSON Lines, or a study.")],
    assistant: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="openai:, local: or scripted: as in simulate; repeatable.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="direct-to-AI, answer-first or user-alone; repeatable. Default: the first two."),
    ] = None,
    people: Annotated[int, typer.Option(help="People per question, assistant and condition.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Questions per person in phase 2.")] = 6,
    phase_1_questions: Annotated[int, typer.Option(help="Questions per person in phase 1 (alone).")] = 3,
) -> None:
    """Write a study folder and check it.

    Example: chatbench collect init my_study --questions sample --assistant scripted:strong
    """
    from chatbench.collect.config import Texts, init_study

    kept = [name for name in Texts().model_dump().values() if (study / name).exists()]
    made = init_study(
        study, questions, assistant or [], conditions=condition or ["direct-to-AI", "answer-first"], people=people,
        batch_size=batch_size, phase_1_questions=phase_1_questions,
    )  # fmt: skip
    if kept:
        show(f"kept as found: {', '.join(kept)}")
    show(
        f"{study}: {len(made.questions)} questions in {len(made.batches)} batches, {len(made.cells)} cells, "
        f"{len(made.cells) * people} people. Next: complete consent.md, then "
        f"chatbench collect serve {shlex.quote(str(study))}"
    )


@collect.command()
def serve(
    study: StudyDir,
    host: Annotated[
        str, typer.Option(help="Address to listen on; people must come through an HTTPS proxy.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 8420,
) -> None:
    """Serve the study until Ctrl-C.

    Example: chatbench collect serve my_study
    """
    opened = _opened(study)
    from chatbench.collect.server import serve as step

    step(opened, host=host, port=port, say=show)


@collect.command()
def status(study: StudyDir, rehearsed: Rehearsed = False) -> None:
    """Print the progress of the study.

    Example: chatbench collect status my_study
    """
    opened = _opened(study)
    from chatbench.collect.results import figures

    found = _with_store(opened, lambda store: figures(opened, store, "rehearsal" if rehearsed else "person"))
    show("\n".join(found.lines()))


@collect.command("set")
def set_state(
    study: StudyDir,
    state: Annotated[
        Literal["open", "paused", "stopped"], typer.Argument(help="paused: nobody joins; stopped: nobody answers.")
    ],
) -> None:
    """Open, pause or stop the study.

    Example: chatbench collect set my_study paused
    """
    _with_store(_opened(study), lambda store: store.set_state(state))
    show(f"{study} is {state}")


@collect.command()
def rehearse(
    study: StudyDir,
    people: Annotated[int, typer.Option(help="Number of simulated people.", min=1)] = 20,
    url: Annotated[str, typer.Option(help="Address where the study is served.")] = "http://127.0.0.1:8420",
    simulator: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="STYLE:local:FOLDER, STYLE:openai:ADDRESS, ...; default: scripted people."),
    ] = None,
    pause: Annotated[float, typer.Option(help="Mean pause between a person's actions, in seconds.", min=0)] = 0.5,
) -> None:
    """Let simulated people take a study that is being served.

    Example: chatbench collect rehearse my_study --people 20
    """
    opened = _opened(study)
    from chatbench.collect.rehearse import Habits, Simulator, rehearse_async

    plays = None
    if simulator:
        from chatbench.core.errors import ChatbenchError
        from chatbench.data.workspace import Workspace
        from chatbench.simulation.participants import open_simulator, read_simulator_spec

        spec = read_simulator_spec(simulator)
        if spec.kind == "tuned":
            raise ChatbenchError(f"--simulator {simulator}", expected="a model folder: two-step:local:FOLDER")
        workspace = Workspace(Path("data"), Path("results"))
        plays = Simulator(spec.style, open_simulator(spec, model="", workspace=workspace, split=""))

    async def run(store: Store) -> list[str]:
        key, habits = store.settings["token"], Habits(pause=pause)
        pilot = await rehearse_async(opened, url, key, people=people, habits=habits, simulator=plays, say=show)
        return pilot.lines()

    show("\n".join(_with_store(opened, run)))


@collect.command()
def export(
    study: StudyDir,
    out: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.")],
    rehearsed: Rehearsed = False,
) -> None:
    """Export the collected data as a study for other commands.

    Example: chatbench collect export my_study studies/mine
    """
    opened = _opened(study)
    from chatbench.collect.results import export as step

    found = _with_store(opened, lambda store: step(opened, store, out, "rehearsal" if rehearsed else "person"))
    show("\n".join(found.lines(out)))


@collect.command()
def remove(
    study: StudyDir,
    person: Annotated[str, typer.Option(metavar="ID", help="The person's id, as passed by the recruiting service.")],
) -> None:
    """Delete all data of one person.

    Example: chatbench collect remove my_study --person 5f1e
    """
    count = _with_store(_opened(study), lambda store: store.remove(person.strip()))
    show(f"deleted: {count} session{'s' * (count != 1)}" if count else "no session under this id: nothing was deleted")


def _opened(folder: Path) -> CollectedStudy:
    from chatbench.core.errors import ChatbenchError

    try:
        import sqlalchemy  # noqa: F401
        import starlette  # noqa: F401
    except ImportError as error:
        raise ChatbenchError(f"{error.name} is not installed", fix="pip install 'chatbench[collect]'") from None
    from chatbench.collect.config import CollectedStudy

    return CollectedStudy(folder)


def _with_store(study: CollectedStudy, work: Callable[[Store], Awaitable[T]]) -> T:
    from chatbench.collect.store import Store

    async def run() -> T:
        async with Store(study) as store:
            return await work(store)

    return asyncio.run(run())
