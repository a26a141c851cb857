"""Command lines as text (in documentation, in help, in scripts), checked against the commands that exist.

Nothing is run: a line is parsed as the command line's parser does it, up to where the command would be called.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer.main

from chatbench.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
_GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = dict(_GROUP.commands)

_DOOR = re.compile(r"main\(\[(?P<words>.*), \*sys\.argv\[1:\]\]\)")
_FIRST_ARGUMENT = re.compile(r"\$\{1:[-?](?P<default>[^}]*)\}")


def problem_with(line: str) -> str | None:
    """What is wrong with a command line, None where nothing is or where it is none of this project's."""
    try:
        words = [word for word in shlex.split(line, comments=True) if word != "..."]
    except ValueError as error:
        return str(error)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)  # VARIABLE=value before the command
    if not words:
        return None
    program = words[0].rpartition("/")[2]
    if program == "chatbench":
        return problem_with_chatbench(words[1:])
    if words[0].startswith("./"):
        return _problem_with_script(words)
    if program in ("python", "python3") or words[:2] == ["accelerate", "launch"]:
        return _problem_with_door(words)
    if program == "make":
        known = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and not word.startswith("-") and word not in known]
        return f"make has no {', '.join(unknown)}" if unknown else None
    return None


def problem_with_chatbench(words: list[str]) -> str | None:
    """What is wrong with the arguments of `chatbench`."""
    if not words or words == ["--help"]:
        return None
    name, arguments = words[0], words[1:]
    if name not in COMMANDS:
        return f"no command {name!r}"
    if "--help" in arguments:
        return None
    try:
        COMMANDS[name].make_context(name, [_first_of(word) for word in arguments])
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return f"{name}: {error.format_message()}"
    return None


def _first_of(word: str) -> str:
    """`a` of `a|b`: documentation offers choices so."""
    return word.partition("|")[0]


def _problem_with_script(words: list[str]) -> str | None:
    script = REPOSITORY / words[0]
    if not script.is_file():
        return f"no file {words[0]}"
    called = [line for line in script.read_text().splitlines() if line.startswith("chatbench ")]
    if not called:
        return None
    arguments = words[1:]
    first = _FIRST_ARGUMENT.search(called[-1])
    if first is None:
        return None
    needed = called[-1][first.start() + 3] == "?"
    if needed and not arguments:
        return f"{words[0]} needs an argument"
    line = called[-1].replace(f'"{first.group()}"', arguments[0] if arguments else first["default"])
    return problem_with_chatbench([*shlex.split(line.replace('"${@:2}"', ""))[1:], *arguments[1:]])


def _problem_with_door(words: list[str]) -> str | None:
    places = [place for place, word in enumerate(words) if word.endswith(".py")]
    if not places:
        return None  # python -m ..., python -c ...
    door = REPOSITORY / words[places[0]]
    if not door.is_file():
        return f"no file {words[places[0]]}"
    called = _DOOR.search(door.read_text())
    if called is None:
        return None
    return problem_with_chatbench([*re.findall(r'"([^"]+)"', called["words"]), *words[places[0] + 1 :]])
