"""What MODEL can be (a recipe, a hub id, a folder, a GGUF file), and the name of its results folder.

A recipe is a base model with the settings that suit it, one TOML file each, with the source of every value.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import typed_value

_GGUF_OF_BASE = re.compile(r"(?P<base>.+)[.-](?:I?Q\d\w*|B?F16|F32)\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named base model with the settings that suit it; `sources` says where each value comes from."""

    name: str
    base: str
    summary: str
    values: Mapping[str, object]
    sources: Mapping[str, str]


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    folder = resources.files("chatbench.core") / "recipe_files"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda file: file.name)
    found = {}
    for file in files:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        lines: Mapping[str, Mapping[str, object]] = content["settings"]
        values = {name: typed_value(name, line["value"], file.name) for name, line in lines.items()}
        sources = {name: str(line["source"]) for name, line in lines.items()}
        name = file.name.removesuffix(".toml")
        found[name] = Recipe(name, content["base"], content["summary"], values, sources)
    return found


def recipe_of(model: str) -> Recipe | None:
    """The recipe that `model` names, by its own name or by the hub id of its base; None for any other model.

    GGUF files of a recipe's base match too, if named as llama.cpp names them (`SmolLM2-135M-Instruct.Q4_1.gguf`).
    """
    known = recipes()
    by_base = {recipe.base: recipe for recipe in known.values()}
    file = _GGUF_OF_BASE.fullmatch(Path(model).name)
    by_file = {recipe.base.rpartition("/")[2].lower(): recipe for recipe in known.values()} if file else {}
    return known.get(model) or by_base.get(model) or by_file.get(file["base"].lower() if file else "")


def model_key(model: str) -> str:
    """Name of a model's results folder: the recipe, the hub id with `/` as `--`, or the folder or file name.

    Raises:
        ChatbenchError: `model` is none of these.

    >>> model_key("mistralai/Mistral-7B-v0.1")
    'mistralai--Mistral-7B-v0.1'
    """
    if model in recipes():
        return model
    if is_local(model):
        # Later commands (chatbench report) are given the key itself, and no folder of that name has to exist then.
        written = re.sub(r"\.gguf$", "", Path(model).expanduser().resolve().name, flags=re.IGNORECASE)
        name = re.sub(r"[^\w.-]+", "_", written)
        if name != written:
            name += f"-{hashlib.sha256(written.encode()).hexdigest()[:8]}"
        return f"folder--{name}" if name in recipes() or "--" in name else name
    return model.replace("/", "--")


def is_local(model: str) -> bool:
    """Whether MODEL is a local folder or GGUF file; an existing one takes precedence over a hub id of the same name.

    Raises:
        ChatbenchError: MODEL is empty, or can only be local and does not exist.
    """
    expected = f"a recipe ({', '.join(recipes())}), a hub id such as mistralai/Mistral-7B-v0.1, a folder or a GGUF file"
    if not model.strip():
        raise ChatbenchError("MODEL is empty", expected=expected)
    if model in recipes():
        return False
    path = Path(model).expanduser()
    if path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file()):
        return True
    if path.suffix.lower() != ".gguf" and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        return False
    raise ChatbenchError(
        f"{model}: no such folder or file, and neither a recipe nor a hub id", expected=expected, fix="check the path"
    )


def recipe_lines() -> list[str]:
    """One line per recipe, in aligned columns: name, base and summary."""
    rows = [(recipe.name, recipe.base, recipe.summary) for recipe in recipes().values()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {base:<{widths[1]}}  {summary}" for name, base, summary in rows]
