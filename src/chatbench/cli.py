"""The command line: reads arguments, calls one step, prints one result.

The commands are in `commands/`, where each option is defined once; the steps are plain functions. A `ChatbenchError` or
a system error about a file is printed without a traceback and ends with exit code 2, as a wrong option does. Heavy
imports are inside the commands, so `--help` is fast.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from chatbench import __version__
from chatbench.commands import collect, estimation, pages, pipeline, scoring, simulation, studies, training
from chatbench.core.errors import ChatbenchError, process_count
from chatbench.core.files import file_error, read_text, write_json
from chatbench.core.texts import printable

LEAST_WIDTH = 40
"""Characters per line, whatever COLUMNS says; with fewer, tables lose columns."""
GROUPS = {
    "Study": studies.commands,
    "Collect": collect.commands,
    "Train": training.commands,
    "Simulate": simulation.commands,
    "Score": scoring.commands,
    "Estimate": estimation.commands,
    "Look": pages.commands,
    "Pipeline": pipeline.commands,
}
"""The commands under each heading of `chatbench --help`."""


class GroupedHelp(TyperGroup):
    """Lists the commands of each group under its heading, and reports Ctrl-C, about which typer says nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            return _interrupted(stopped)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # click gives it
        for heading, group in GROUPS.items():
            names = [str(one.name or one.callback.__name__) for one in group.registered_commands if one.callback]
            names += [str(one.name) for one in group.registered_groups]
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<17}", self.commands[name].get_short_help_str(150)) for name in names])


app = typer.Typer(
    name="chatbench",
    cls=GroupedHelp,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would double the time of --help
)

for commands in GROUPS.values():
    app.add_typer(commands)


def _version(asked: bool) -> None:
    if asked:
        print(f"chatbench {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[  # its callback prints, and ends the command
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """User simulators for human-AI evaluation: prepare chats, fine-tune, simulate, and compare with people."""


def entry() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without these characters shows "?", not a traceback
    raise SystemExit(main(sys.argv[1:]))


def _read_env(path: Path) -> None:
    if (width := os.environ.get("COLUMNS", "")).isdecimal() and int(width) < LEAST_WIDTH:
        os.environ["COLUMNS"] = str(LEAST_WIDTH)
    if path.is_file():
        from dotenv import load_dotenv

        for name in [each for each, value in os.environ.items() if not value and each.endswith(("_KEY", "_TOKEN"))]:
            del os.environ[name]  # an empty one would hide that of the file
        load_dotenv(stream=io.StringIO(read_text(path)))


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code.

    0 done, 1 a check failed, 2 wrong input or a file that cannot be written, 3 most chats have no answer, 4 the
    budget is spent and something is left to do, 130 interrupted (Ctrl-C), 141 the reader of the output has closed it,
    143 stopped by SIGTERM after saving.
    """
    try:
        _read_env(Path(".env"))  # tokens and keys, before any library reads the environment
        code = app(list(arguments), standalone_mode=False, prog_name="chatbench") or 0
        sys.stdout.flush()
        return code
    except ChatbenchError as error:
        return _told(error)
    except (BrokenPipeError, SystemExit) as left:
        return _closed(left)
    except OSError as error:
        if error.errno is None:
            raise  # not about a file
        return _told(file_error(error))
    except typer.Exit as done:
        return int(done.exit_code)
    except KeyboardInterrupt as stopped:
        return _interrupted(stopped)
    except Exception as error:
        if (show := getattr(error, "show", None)) is None:
            raise  # not a usage error but a bug of ours: show the traceback
        if meant := _meant(error):
            error.possibilities = [meant]  # type: ignore[attr-defined]  # what it names after "No such option"
        show(told := io.StringIO())
        print(printable(told.getvalue()), end="", file=sys.stderr, flush=True)
        return int(getattr(error, "exit_code", 2))


def _meant(error: Any) -> str:
    """The option of the command that other programs call like the one that it does not have; "" if there is none."""
    from chatbench.core.settings import RENAMED, Settings

    if not hasattr(error, "possibilities"):
        return ""
    name = error.option_name.lstrip("-").replace("-", "_")
    name = {**RENAMED, "output_dir": "results", "limit": "conversations"}.get(name, name)
    flags = ["--" + name.replace("_", "-"), *["--config"] * hasattr(Settings, name)]
    return next((flag for flag in flags if any(flag in each.opts for each in error.ctx.command.params)), "")


def _interrupted(stopped: KeyboardInterrupt) -> int:
    kept = str(stopped) or "files are as they were, or complete; run the same command again"
    print(f"\nchatbench: interrupted; {printable(kept)}", file=sys.stderr, flush=True)
    return 130


def _closed(left: BrokenPipeError | SystemExit) -> int:
    """The reader of our output has closed it, which click and rich turn into `SystemExit`: nothing more is written."""
    if isinstance(left, SystemExit) and not isinstance(left.__context__, BrokenPipeError):
        raise left
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _told(error: ChatbenchError) -> int:
    count = process_count()
    process = f" (process {os.environ.get('RANK', '0')} of {count})" if count > 1 else ""
    print(f"chatbench{process}: {printable(str(error))}", file=sys.stderr, flush=True)
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # what torchrun ends with, below its own traceback
        write_json(Path(report), {"message": f"chatbench: {printable(str(error))}", "timestamp": int(time.time())})
    return error.exit_code


if __name__ == "__main__":
    entry()
