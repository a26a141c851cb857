"""The scripts and styles of the page, as they lie in `assets/`: our own ones, and those of others under `vendor/`."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

VENDOR_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
"""In the order in which they need each other."""
OWN_SCRIPTS = (
    "text.js",
    "numbers.js",
    "parts.js",
    "tables.js",
    "figure_card.js",
    "cells.js",
    "figures.js",
    "figure_pairs.js",
    "figure_agreement.js",
    "figure_chats.js",
    "figure_training.js",
    "overview.js",
    "question.js",
    "comparison.js",
    "chat_store.js",
    "chat_messages.js",
    "chat_reader.js",
    "chat_list.js",
    "chat_keys.js",
    "chats.js",
    "router.js",
    "live.js",
    "main.js",
)
"""All run inside one function, so that they see each other and leave nothing outside; `main.js` starts the page."""
STYLES = ("page.css", "chats.css")


@dataclass(frozen=True, slots=True)
class Vendored:
    """A file that others wrote: whence it came, under which licence, and the SHA-256 that it must have."""

    file: str
    package: str
    version: str
    licence: str
    licence_file: str
    sha256: str


@cache
def asset(name: str) -> str:
    """The text of a file below `assets/`."""
    return resources.files("chatbench.page").joinpath("assets", *name.split("/")).read_text("utf-8")


@cache
def vendored() -> tuple[Vendored, ...]:
    """What `vendor/VENDORED.toml` lists."""
    return tuple(Vendored(**entry) for entry in tomllib.loads(asset("vendor/VENDORED.toml"))["file"])


def sha256_of_asset(name: str) -> str:
    """Of its bytes, in hexadecimal."""
    return hashlib.sha256(asset(name).encode("utf-8")).hexdigest()


@cache
def own_script() -> str:
    """Our scripts as one."""
    return "(() => {\n" + '"use strict";\n' + "\n".join(asset(name) for name in OWN_SCRIPTS) + "\n})();\n"


@cache
def style() -> str:
    """Our styles as one."""
    return "\n".join(asset(name) for name in STYLES)
