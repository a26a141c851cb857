"""What transformers and the hub raise for a user's mistake, as one clear error each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from chatbench.core.errors import ChatbenchError


@contextmanager
def named_errors(source: str) -> Iterator[None]:
    """Turns what transformers and the hub raise for a user's mistake into one clear error."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise _explained(source, error) from error


def _explained(source: str, error: Exception) -> ChatbenchError:
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {type(cause).__name__ for cause in chain}
    if any(isinstance(cause, hub.GatedRepoError) for cause in chain):
        return ChatbenchError(
            f"{source}: the hub gives this model only to those who accepted its licence",
            fix=f"accept it at https://huggingface.co/{source} and put HF_TOKEN into .env",
        )
    if any(isinstance(cause, hub.RepositoryNotFoundError) for cause in chain):
        return ChatbenchError(
            f"{source}: no such model on the hub, or it is private",
            expected="a recipe, a hub id or a local folder",
            fix="check the name; for a private model put HF_TOKEN into .env",
        )
    offline = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout", "ConnectionError"}
    if names & offline or "couldn't connect" in str(error):
        return ChatbenchError(
            f"{source}: the hub cannot be reached and the model is not on this machine",
            expected="a network connection, or a folder with the model",
            fix="connect, or download the model elsewhere and give its folder as MODEL",
        )
    first_line = str(error).strip().split("\n")[0]
    return ChatbenchError(
        f"{source}: cannot be loaded: {first_line}", expected="a causal language model in safetensors"
    )
