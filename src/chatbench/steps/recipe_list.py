"""The list of recipes."""

from __future__ import annotations

from chatbench.core.recipe_files import recipes


def recipe_lines() -> list[str]:
    """A line for each recipe: its name, its base, and what it does; the columns aligned."""
    rows = [(recipe.name, recipe.base, recipe.summary) for recipe in recipes().values()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {base:<{widths[1]}}  {summary}" for name, base, summary in rows]
