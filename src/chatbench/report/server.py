"""Local server of the results page, which rebuilds the page on request once files have changed.

The server listens on 127.0.0.1 only, serves two paths, and reads no file named by a request. A request must name this
server as its host: one from a foreign page whose name was made to resolve here (DNS rebinding) names its own host and
is refused.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from chatbench.core.errors import ChatbenchError
from chatbench.report.page import PageContent, from_template, render
from chatbench.report.report import Shown, gather

FOLLOWED = ("scores", "ppl", "realism", "simulations", "estimates", "judge")
"""Results folders in which every file is tracked; in `models`, only the training logs are."""
LEAST_SECONDS = 5.0
"""Least time between two versions offered to a reader: a log grows with every chat, and nobody reads that fast."""
BUILD_SHARE = 0.1
"""Largest share of the time spent on building pages, so that the run being watched keeps its CPU."""

Clock = Callable[[], float]
"""Seconds."""


class _Built(NamedTuple):
    version: str
    page: bytes
    next_at: float


class LivePage:
    """Holds the page, which `build` makes for a version; concurrent requests from several threads build it once."""

    def __init__(
        self, build: Callable[[str], str], files_version: Callable[[], str], clock: Clock = time.monotonic
    ) -> None:
        self._build = build
        self._files_version = files_version
        self._clock = clock
        self._lock = threading.Lock()
        self._built: _Built | None = None

    def version(self) -> str:
        """The version on offer: the last page's until files have changed and a new page is due."""
        built = self._built
        if built is not None and self._clock() < built.next_at:
            return built.version
        return self._files_version()

    def page(self) -> bytes:
        """The page of the version on offer, built if it is not there yet."""
        with self._lock:
            version = self.version()
            if self._built is None or self._built.version != version:
                began = self._clock()
                try:
                    page = self._build(version)
                except (ChatbenchError, OSError, ValueError) as error:  # files being moved, inconsistent results
                    page = from_template("error.html.j2", error=str(error))
                ended = self._clock()
                pause = max(LEAST_SECONDS, (ended - began) / BUILD_SHARE)
                self._built = _Built(version, page.encode("utf-8", "replace"), ended + pause)
            return self._built.page


def files_version(results: Path) -> str:
    """Sixteen hexadecimal digits that change with the name, size or modification time of any tracked file."""
    found = hashlib.sha256()
    followed = [path for name in FOLLOWED for path in (results / name).rglob("*") if path.is_file()]
    for path in sorted([*followed, *results.glob("models/*/*/trainer_log.jsonl")]):
        try:
            state = path.stat()
        except FileNotFoundError:  # a run has just moved it
            continue
        found.update(f"{path.relative_to(results)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "replace"))
    return found.hexdigest()[:16]


LOOPBACK = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # a framed page could be disguised as something else (clickjacking)
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class PageServer(ThreadingHTTPServer):
    """Serves `live` at `/`, and the version on offer at `/version`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, live: LivePage, port: int) -> None:
        """Start listening; port 0 takes any free one.

        Raises:
            ChatbenchError: the port is taken, or not allowed.
        """
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Answers)
        except (OSError, OverflowError) as error:
            raise ChatbenchError(
                f"port {port}: {error}", expected="a free port on this machine", fix="--port 0 picks a free one"
            ) from error

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore readers who disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as socketserver passes them on


class _Answers(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "chatbench"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept open

    def do_GET(self) -> None:
        port = self.server.server_port
        path = self.path.partition("?")[0]
        if self.headers.get_all("Host") not in ([f"{LOOPBACK}:{port}"], [f"localhost:{port}"]):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"another host\n")
        elif path == "/":
            self._send(HTTPStatus.OK, "text/html", self.server.live.page())
        elif path == "/version":
            self._send(HTTPStatus.OK, "text/plain", self.server.live.version().encode("ascii"))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")

    do_HEAD = do_GET  # noqa: N815  (the name that http.server expects)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name that http.server has)
        """Log nothing: the terminal belongs to the user."""


def view(shown: Shown, *, port: int, open_browser: bool, say: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C; if no model is named, models that appear later are added to it.

    Args:
        port: 0 takes any free one.

    Raises:
        ChatbenchError: there are no results, or the port is taken.
    """
    models = ", ".join(shown.models)
    with PageServer(live_page(shown), port) as server:
        try:
            say(f"{models}: {server.address} (only this machine; follows the run; press Ctrl-C to stop)")
            if open_browser:  # in a thread: a text browser in the terminal would block the server
                threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


def live_page(shown: Shown, clock: Clock = time.monotonic) -> LivePage:
    """The page of these results, with the version that it was built from in `FIRST.built`."""

    def build(version: str) -> str:
        content = gather(shown)
        return render(PageContent(content.title, {**content.first, "built": version}, content.later), live=True)

    return LivePage(build, lambda: files_version(shown.workspace.results), clock)
