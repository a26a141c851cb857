"""Commands that show results."""

from __future__ import annotations

import typer

commands = typer.Typer()
