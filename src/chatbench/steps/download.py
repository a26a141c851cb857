"""The step that gets a published study; see `studies.download` for what is pinned and what is recorded."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.studies.download import download_chatbench, download_halie


def download(name: str, out: Path, *, revision: str = "main", allow_other_checksum: bool = False) -> str:
    """Downloads `chatbench` or `halie` into `out` and says what arrived.

    Raises:
        ChatbenchError: another name, no connection, or other bytes than at an earlier download.
    """
    if name == "chatbench":
        return download_chatbench(out, revision=revision, allow_other_checksum=allow_other_checksum).text
    if name == "halie":
        return download_halie(out, allow_other_checksum=allow_other_checksum).text
    raise ChatbenchError(
        f"no such study to download: {name}", expected="chatbench or halie", fix="chatbench download --help"
    )
