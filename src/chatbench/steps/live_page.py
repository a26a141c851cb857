"""The page of results that may still grow: built anew when somebody asks for it after files have changed."""

from __future__ import annotations

import hashlib
import html
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError

FOLLOWED = ("scores", "ppl", "realism", "simulations")
"""Folders of results of which every file is followed; of models, only the logs of training."""
LEAST_SECONDS = 5.0
"""Between two pages that are offered to a reader: a log grows with every chat, and nobody reads that fast."""
BUILD_SHARE = 0.1
"""At most this share of the time goes into building pages, so that the run that is watched keeps its processors."""

Build = Callable[[str], str]
"""The page of a version."""


@dataclass(frozen=True, slots=True)
class _Built:
    version: str
    page: bytes
    next_at: float


class LivePage:
    """Hands out the page; asked by several threads at once, it builds once."""

    def __init__(
        self, build: Build, files_version: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._build = build
        self._files_version = files_version
        self._clock = clock
        self._lock = threading.Lock()
        self._built: _Built | None = None

    def version(self) -> str:
        """The version on offer: that of the last page until files have changed and it is time for a new one."""
        built = self._built
        if built is not None and self._clock() < built.next_at:
            return built.version
        return self._files_version()

    def page(self) -> bytes:
        """The page of the files as they are now."""
        with self._lock:
            version = self._files_version()
            if self._built is None or self._built.version != version:
                self._built = self._newly_built(version)
            return self._built.page

    def _newly_built(self, version: str) -> _Built:
        began = self._clock()
        try:
            page = self._build(version)
        except (
            ChatbenchError,
            OSError,
            ValueError,
        ) as error:  # files on the move, results at odds
            page = _page_of_error(str(error))
        ended = self._clock()
        pause = max(LEAST_SECONDS, (ended - began) / BUILD_SHARE)
        return _Built(version, page.encode("utf-8", "replace"), ended + pause)


def _page_of_error(message: str) -> str:
    """Says what is wrong, and asks again by itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><link rel="icon" href="data:,"><title>chatbench: no page yet</title></head><body><main>'
        f"<h1>No page yet</h1><pre>{html.escape(message)}</pre><p>Tried again every five seconds.</p></main></body>"
        "</html>"
    )


def files_version(results: Path) -> str:
    """Sixteen hexadecimal digits that change when a file of the results does: names, sizes and times of change."""
    found = hashlib.sha256()
    for path in sorted(_followed(results)):
        try:
            state = path.stat()
        except FileNotFoundError:  # a run has just moved it
            continue
        found.update(f"{path.relative_to(results)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "replace"))
    return found.hexdigest()[:16]


def _followed(results: Path) -> Iterator[Path]:
    for name in FOLLOWED:
        yield from (path for path in (results / name).rglob("*") if path.is_file())
    yield from results.glob("models/*/*/trainer_log.jsonl")
