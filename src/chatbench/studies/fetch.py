"""One file over HTTP that may be cut off at any byte: what came is kept in `NAME.part`, the rest asked for by Range."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from chatbench.core.errors import ChatbenchError

ATTEMPTS = 5
_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_REQUESTED_RANGE_NOT_SATISFIABLE = 416
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}


def fetch(url: str, target: Path, *, pause: Callable[[float], None] | None = None) -> None:
    """Downloads `url` to `target`, which appears only when it is complete; a part from an earlier run is continued.

    Args:
        pause: waits the given seconds between attempts; the default sleeps.

    Raises:
        ChatbenchError: the server refuses, or the connection failed in five attempts in a row without a new byte.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        problem = _continue_part(url, part)
        if not problem:
            part.replace(target)
            return
        failures = 1 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise ChatbenchError(
                f"{url}: {problem}",
                expected="the whole file",
                fix="check the network and run the same command again; it continues where it stopped",
            )
        (pause or time.sleep)(float(2 ** (failures - 1)))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue_part(url: str, part: Path) -> str:
    """Adds to the part until the file is complete; "" then, else what went wrong."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
            total = _total(response, have if resumed else 0)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code == _REQUESTED_RANGE_NOT_SATISFIABLE and error.headers.get("Content-Range") == f"bytes */{have}":
            return ""  # the part was whole already
        if error.code == _REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # longer than the file: from another one
        elif error.code not in _TRY_AGAIN:
            raise ChatbenchError(
                f"{url}: HTTP {error.code}", expected="a file", fix="check the address, or update chatbench"
            ) from error
        return f"HTTP {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return "" if total is None or _size(part) == total else f"cut off after {_size(part)} of {total} bytes"


def _total(response: http.client.HTTPResponse, offset: int) -> int | None:
    """Bytes of the whole file, or None where the server does not say."""
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if match:
        return int(match.group(1))
    length = response.headers.get("Content-Length")
    return None if length is None else offset + int(length)
