"""Results: tables, plots and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatbench.commands.options import Results
from chatbench.commands.options import show as say
from chatbench.core.texts import printable

commands = typer.Typer()

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RESULTS|MODEL...]", help="Results folder, or models in --results; default: all."),
]
SplitsFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder written by prepare-splits; default: data beside the results.")
]
Published = Annotated[bool, typer.Option("--published", help="Add the paper's rows, marked as such.")]


@commands.command()
def report(
    names: Names = None,
    out: Annotated[Path, typer.Option(help="File to write; with --folder, a folder.")] = Path("report.html"),
    folder: Annotated[
        bool, typer.Option("--folder", help="Write chats to separate files beside the page, for large runs.")
    ] = False,
    published: Published = False,
    data: SplitsFolder = None,
    results: Results = Path("results"),
) -> None:
    """Write the results as one HTML page.

    With scores, figures, questions and every chat; works offline. Scores on ChatBench's data have the paper's beside
    them, others only with --published.

    Example: chatbench report results --out report.html
    """
    from chatbench.report.report import report as step
    from chatbench.report.report import shown_results

    shown = shown_results(names or (), results=results, data=data, published=published)
    for line in step(shown, out, folder=folder).lines():
        say(line)


@commands.command()
def view(
    names: Names = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 8417,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
    published: Published = False,
    data: SplitsFolder = None,
    results: Results = Path("results"),
) -> None:
    """Serve the results page while a run goes on.

    The page reloads by itself. Stop with Ctrl-C.

    Example: chatbench view results
    """
    from chatbench.report.report import shown_results
    from chatbench.report.server import view as step

    shown = shown_results(names or (), results=results, data=data, published=published)
    step(shown, port=port, open_browser=not no_browser, say=say)


@commands.command()
def show(
    names: Names = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, unrounded.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the scores as CSV, one per line, unrounded.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print the table as LaTeX (booktabs).")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Print every assistant, condition, subset and source of uncertainty.")
    ] = False,
    published: Published = False,
    data: SplitsFolder = None,
    results: Results = Path("results"),
) -> None:
    """Print tables and plots, or LaTeX, CSV or JSON.

    Example: chatbench show tiny --latex
    """
    from chatbench.core.errors import ChatbenchError
    from chatbench.report import show as show_files
    from chatbench.report.estimate_table import estimate_grids, estimate_notes
    from chatbench.report.grids import print_grids
    from chatbench.report.report import shown_results
    from chatbench.report.show import print_results
    from chatbench.report.show import show as step

    forms = {"json": show_files.as_json, "csv": show_files.as_csv, "latex": show_files.as_latex}
    chosen = {"json": as_json, "csv": as_csv, "latex": as_latex, "details": details}
    asked = [form for form, wanted in chosen.items() if wanted]
    if len(asked) > 1:
        raise ChatbenchError(f"--{' and --'.join(asked)}", expected="one format", fix=f"choose one: --{asked[0]}")
    shown = shown_results(names or (), results=results, data=data)
    found, estimates = step(shown), show_files.estimates(shown)
    if asked and not details:
        text = forms[asked[0]](found, estimates, published=published)
        print("\r\n".join(map(printable, text.split("\r\n"))), end="")  # the line ends of CSV stay
        return
    if found:
        print_results(found, published=published, details=details)
    for one in estimates:
        print_grids(estimate_grids(one), estimate_notes(one))
