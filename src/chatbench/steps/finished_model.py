"""The folder of a finished model, by its path or by the model and split that it was trained for."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.models.run_record import RECORD
from chatbench.steps.finetune import model_folder


def finished_model(model: str, *, results: Path, split: str) -> Path:
    """`model` itself where it is the folder of a finished run or an adapter, else what was trained for it on `split`.

    Raises:
        ChatbenchError: there is none.
    """
    given = Path(model).expanduser()
    if any((given / name).is_file() for name in (RECORD, "adapter_config.json")):
        return given
    folder = model_folder(results, model, split)
    if not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: {model} is not fine-tuned on {split}",
            expected="a model that chatbench finetune has finished, or its folder",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}",
        )
    return folder
