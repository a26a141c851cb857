"""Results: tables, plots and pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chatbench.commands.options import Results, takes
from chatbench.commands.options import show as say
from chatbench.core.texts import printable

if TYPE_CHECKING:
    from chatbench.report.report import Shown

commands = typer.Typer()


def named(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RESULTS|MODEL...]", help="Results folder, or models in --results; default: all."),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Add the paper's rows, marked as such.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder written by prepare-splits; default: data beside the results.")
    ] = None,
    results: Results = Path("results"),
) -> Shown:
    """What is shown."""
    from chatbench.report.report import shown_results

    return shown_results(names or (), results=results, data=data, published=published)


@commands.command()
@takes(named)
def report(
    shown: Shown,
    out: Annotated[Path, typer.Option(help="File to write; with --folder, a folder.")] = Path("report.html"),
    folder: Annotated[
        bool, typer.Option("--folder", help="Write chats to separate files beside the page, for large runs.")
    ] = False,
) -> None:
    """Write the results as one HTML page.

    With scores, figures, questions and every chat; works offline. Scores on ChatBench's data have the paper's beside
    them, others only with --published.

    Example: chatbench report results --out report.html
    """
    from chatbench.report.report import report as step

    for line in step(shown, out, folder=folder).lines():
        say(line)


@commands.command()
@takes(named)
def view(
    shown: Shown,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 8417,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
) -> None:
    """Serve the results page while a run goes on.

    The page reloads by itself. Stop with Ctrl-C.

    Example: chatbench view results
    """
    from chatbench.report.server import view as step

    step(shown, port=port, open_browser=not no_browser, say=say)


@commands.command()
@takes(named)
def show(
    shown: Shown,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, unrounded.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the scores as CSV, one per line, unrounded.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print the table as LaTeX (booktabs).")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Print every assistant, condition, subset and source of uncertainty.")
    ] = False,
) -> None:
    """Print tables and plots, or LaTeX, CSV or JSON.

    Example: chatbench show tiny --latex
    """
    from chatbench.core.errors import ChatbenchError
    from chatbench.report import show as show_files
    from chatbench.report.estimate_table import estimate_grids, estimate_notes
    from chatbench.report.grids import print_grids
    from chatbench.report.show import print_results
    from chatbench.report.show import show as step

    forms = {"json": show_files.as_json, "csv": show_files.as_csv, "latex": show_files.as_latex}
    chosen = {"json": as_json, "csv": as_csv, "latex": as_latex, "details": details}
    asked = [form for form, wanted in chosen.items() if wanted]
    if len(asked) > 1:
        raise ChatbenchError(f"--{' and --'.join(asked)}", expected="one format", fix=f"choose one: --{asked[0]}")
    found, estimates = step(shown), show_files.estimates(shown)
    if asked and not details:
        text = forms[asked[0]](found, estimates, published=shown.published)
        print("\r\n".join(map(printable, text.split("\r\n"))), end="")  # the line ends of CSV stay
        return
    if found:
        print_results(found, published=shown.published, details=details)
    for one in estimates:
        print_grids(estimate_grids(one), estimate_notes(one))
