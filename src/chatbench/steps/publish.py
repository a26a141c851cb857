"""Publishes a finished model, or says what would be published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.steps.finished_model import finished_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Say = Callable[[str], None]


def publish(
    model: str,
    *,
    to: str,
    results: Path,
    split: str = "split_0",
    revision: str = "main",
    private: bool = True,
    dry_run: bool = False,
    api: HfApi | None = None,
    say: Say = print,
) -> None:
    """Pushes one split's model or adapter, with its card, to the repository `to`; `dry_run` only says what it would.

    Raises:
        ChatbenchError: no such model, something in it that must not be published, or the hub refuses.
    """
    from huggingface_hub import get_token

    from chatbench.publishing.hub_upload import upload
    from chatbench.publishing.publication import publication

    folder = finished_model(model, results=results, split=split)
    planned = publication(folder, to, revision=revision, private=private)
    for line in planned.lines():
        say(line)
    if dry_run:
        say(f"\nThe card:\n\n{planned.card}")
        say("dry run: nothing was sent")
        return
    say(f"published: {upload(planned, token=get_token(), api=api)}")
