"""Recipes: a base model and the settings that suit it, one TOML file each, with the source of every value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import cast

from chatbench.core.setting_values import typed_value


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named base model with the settings that suit it; `sources` says where each value is from."""

    name: str
    base: str
    summary: str
    values: Mapping[str, object]
    sources: Mapping[str, str]


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    folder = resources.files("chatbench.core.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda file: file.name)
    return {recipe.name: recipe for recipe in (_read_recipe(f.name, f.read_text(encoding="utf-8")) for f in files)}


def recipe_of(model: str) -> Recipe | None:
    """The recipe that `model` names, by its own name or by the hub id of its base; None for any other model."""
    known = recipes()
    by_base = {recipe.base: recipe for recipe in known.values()}
    return known.get(model) or by_base.get(model)


def _read_recipe(file_name: str, text: str) -> Recipe:
    content = tomllib.loads(text)
    lines = cast(Mapping[str, Mapping[str, object]], content["settings"])
    values = {name: typed_value(name, line["value"], file_name) for name, line in lines.items()}
    sources = {name: str(line["source"]) for name, line in lines.items()}
    return Recipe(file_name.removesuffix(".toml"), content["base"], content["summary"], values, sources)
