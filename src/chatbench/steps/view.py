"""Opens the page of results on this machine, and follows the run that writes them."""

from __future__ import annotations

import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from chatbench.page.content import PageContent
from chatbench.page.document import render
from chatbench.steps.live_page import LivePage, files_version
from chatbench.steps.page_server import PageServer
from chatbench.steps.report import gather
from chatbench.steps.results_folder import shown_results

Say = Callable[[str], None]
Clock = Callable[[], float]
"""Seconds."""


def view(
    names: Sequence[str], *, results: Path, data: Path | None, port: int, open_browser: bool, say: Say = print
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        names: a results folder, or models; none: everything in `results`. Models that come later join a folder's page.
        data: folder of prepared splits; None: `data` beside the results folder.
        port: 0 takes any free one.

    Raises:
        ChatbenchError: there are no results, or the port is taken.
    """
    shown = shown_results(names, results=results, data=data)
    live = live_page(names, results=results, data=data, place=shown.results)
    with PageServer(live, port) as server:
        try:
            say(f"{', '.join(shown.models)}: {server.address} (only this machine; follows the run; Ctrl-C ends it)")
            if open_browser:  # in a thread: a browser in the terminal would keep the server waiting
                threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


def live_page(
    names: Sequence[str], *, results: Path, data: Path | None, place: Path, clock: Clock = time.monotonic
) -> LivePage:
    """The page of these results, with the version that it was built from in `FIRST.built`; `place` is followed."""

    def build(version: str) -> str:
        shown = shown_results(names, results=results, data=data)
        content = gather(shown.models, data=shown.data, results=shown.results).content
        return render(PageContent(content.title, {**content.first, "built": version}, content.later), live=True)

    return LivePage(build, lambda: files_version(place), clock)
