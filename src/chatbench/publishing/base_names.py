"""How the base of a run is called where others read it: a hub id as it is, a folder by its last name only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

Kind = Literal["hub", "chatbench", "folder"]


@dataclass(frozen=True, slots=True)
class BaseName:
    """`name` is fit to be published; `revision` is a hub commit, empty where it is unknown or means nothing.

    `chatbench` bases (`package:NAME`, `random:NAME`) come with this package; a `folder` is known to one machine only.
    """

    kind: Kind
    name: str
    revision: str = ""


def base_name(record: Mapping[str, Any]) -> BaseName:
    """The base that a run's record names.

    >>> base_name({"base": "org/model", "base_weights": "org/model@5c1e"})
    BaseName(kind='hub', name='org/model', revision='5c1e')
    >>> base_name({"base": "/home/me/bases/small", "base_weights": "sha256:00"}).name
    'small'
    """
    base, weights = str(record["base"]), str(record.get("base_weights", ""))
    if base.startswith(("package:", "random:")):
        return BaseName("chatbench", base)
    if is_local_path(base):
        return BaseName("folder", last_name(base))
    revision = weights.partition("@")[2]
    return BaseName("hub", base, "" if revision == "unknown" else revision)


def is_local_path(text: str) -> bool:
    """Whether a text can only be a path of somebody's machine.

    >>> [is_local_path(text) for text in ("/data/x", "~/x", "../x", "C:\\\\x", "org/model", "tiny")]
    [True, True, True, True, False, False]
    """
    return (
        PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
        or text.startswith(("~", "./", "../", ".\\", "..\\"))
    )


def last_name(path: str) -> str:
    """The last part of a path, whichever system it is of."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name or "folder"
