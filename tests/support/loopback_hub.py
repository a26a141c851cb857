"""A hub on this machine: the six requests of a publication, answered from memory, so that the real client is tested."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the hub holds: per revision, files by name. `rights` is the status of every request for writing.

    `broken` says what it does instead of answering: "cut" ends the connection, "page" sends a page, "list" a list.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: bool | None = None
    rights: int = 200
    broken: str = ""
    tokens: set[str] = field(default_factory=set)
    endpoint: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of one request."""
        if method == "POST" and self.rights != 200:
            return self.rights, {"error": "not with this token"}
        if path == "/api/repos/create":
            if self.private is not None:
                return 409, {"error": "exists", "url": f"{self.endpoint}/org/name"}
            self.private = json.loads(body)["visibility"] == "private"
            self.files["main"] = {".gitattributes": b""}
            return 200, {"url": f"{self.endpoint}/org/name"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if self.private is None:
            return 404, {"error": "Repository not found"}
        verb, _, revision = path.removeprefix("/api/models/org/name").lstrip("/").partition("/")
        if verb == "":
            return 200, {"id": "org/name", "private": self.private, "sha": COMMIT, "tags": [], "siblings": []}
        if verb == "branch":
            self.files.setdefault(revision, dict(self.files["main"]))
            return 200, {}
        if verb == "tree":
            return 200, [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files[revision].items()
            ]
        if verb == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
        return self._commit(revision, [json.loads(line) for line in body.splitlines()])

    def _commit(self, revision: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[revision][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[revision][value["path"]]
        return 200, {"commitUrl": f"{self.endpoint}/org/name/commit/{COMMIT}", "commitOid": COMMIT}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            if hub.broken == "cut":
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length") or 0)
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, content = hub.answer(self.command, self.path.partition("?")[0], self.rfile.read(length))
            encoded = json.dumps([] if hub.broken == "list" else content).encode()
            if hub.broken == "page":
                encoded = b"<html>Log in to the guest network</html>"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = reply  # noqa: N815  (the server's own names)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
