"""The models of which a results folder holds anything."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.errors import ChatbenchError

BY_MODEL = ("models", "ppl", "realism", "simulations")
"""Folders of a results folder that have one folder per model."""


def found_models(results: Path) -> list[str]:
    """Keys of the models that have scores, chats or training of their own in the results folder, in order.

    Raises:
        ChatbenchError: there is none.
    """
    names = {path.stem for path in (results / "scores").glob("*.json")}
    names |= {path.name for kind in BY_MODEL for path in (results / kind).glob("*") if path.is_dir()}
    if not names:
        raise ChatbenchError(
            f"{results}: no results",
            expected="a folder that chatbench wrote into",
            fix="make some: chatbench demo; or name it: --results FOLDER",
        )
    return sorted(names)
