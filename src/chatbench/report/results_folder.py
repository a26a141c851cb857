"""What `RESULTS|MODEL...` on a command line means: whose results are shown, and where they and the splits lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.recipes import model_key, recipes
from chatbench.data.workspace import RESULT_FOLDERS, Workspace


@dataclass(frozen=True, slots=True)
class Shown:
    """Models by their keys in a results folder, and the splits that these results are of."""

    models: tuple[str, ...]
    workspace: Workspace


def shown_results(names: Sequence[str], *, results: Path, data: Path | None) -> Shown:
    """Takes one results folder (all models in it), or models whose results lie in `results`.

    Args:
        names: a results folder, or models; none: everything in `results`.
        data: folder of prepared splits; None: `data` beside the results folder.

    Raises:
        ChatbenchError: a results folder among other names, no folder, or nothing in it.
    """
    folders = [name for name in names if _is_results(name)]
    if folders and len(names) > 1:
        raise ChatbenchError(
            f"{folders[0]} is a results folder, and {len(names) - 1} more were named",
            expected="one results folder, or models",
            fix=f"name the models alone: --results {folders[0]} MODEL MODEL",
        )
    place = Path(folders[0]) if folders else results
    workspace = Workspace(data if data is not None else place.resolve().parent / "data", place)
    keys = dict.fromkeys(map(model_key, names)) if names and not folders else workspace.found_models()
    return Shown(tuple(keys), workspace)


def _is_results(name: str) -> bool:
    """Whether a name means a results folder; a recipe, and a folder with a model in it, do not."""
    folder = Path(name).expanduser()
    if name in recipes() or not folder.is_dir() or (folder / "config.json").exists():
        return False
    return any((folder / part).is_dir() for part in RESULT_FOLDERS)
