"""A server for one page on this machine: nobody else's requests, two addresses, nothing from the disk.

It listens on 127.0.0.1 alone. A request must name this server as its host: a page from elsewhere whose name was made to
lead here (DNS rebinding) names its own, and is refused.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chatbench.core.errors import ChatbenchError
from chatbench.steps.live_page import LivePage

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # a page in a frame could be made to look like something else
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class PageServer(ThreadingHTTPServer):
    """Serves `live` at `/`, and the version on offer at `/version`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, live: LivePage, port: int) -> None:
        """Listens; port 0 takes any free one.

        Raises:
            ChatbenchError: the port is taken, or not allowed.
        """
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Answers)
        except (OSError, OverflowError) as error:
            raise ChatbenchError(
                f"port {port}: {error}", expected="a free port of this machine", fix="--port 0 takes any free one"
            ) from error

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader who went away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as socketserver passes them on


class _Answers(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "chatbench"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
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
        """Says nothing: the terminal is the reader's."""
