"""What the word MODEL can mean (a recipe, a hub id, a folder), and how its results are called."""

from __future__ import annotations

import re
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.recipe_files import recipes


def model_key(model: str) -> str:
    """Name of the results folder of a model: the recipe, the hub id with `/` as `--`, or the folder's name.

    Raises:
        ChatbenchError: `model` is none of these.

    >>> model_key("mistralai/Mistral-7B-v0.1")
    'mistralai--Mistral-7B-v0.1'
    """
    if model in recipes():
        return model
    if is_folder(model):
        # A key names results again later (chatbench report), where no folder of that name has to be.
        name = re.sub(r"[^\w.-]+", "_", Path(model).expanduser().resolve().name)
        return f"folder--{name}" if name in recipes() else name
    return model.replace("/", "--")


def is_folder(model: str) -> bool:
    """Whether MODEL means a local folder; a folder that exists wins over a hub id of the same name.

    Raises:
        ChatbenchError: it can only be a folder, and there is none.
    """
    if not model.strip():
        raise ChatbenchError("MODEL is empty", expected=f"a recipe ({', '.join(recipes())}), a hub id or a folder")
    if model in recipes():
        return False
    if Path(model).expanduser().is_dir():
        return True
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        return False
    raise ChatbenchError(
        f"{model}: no such folder, and neither a recipe nor a hub id",
        expected=f"a recipe ({', '.join(recipes())}), a hub id such as mistralai/Mistral-7B-v0.1, or a folder",
        fix="check the path",
    )
