"""Gets the published studies: ChatBench from the Hugging Face hub, HALIE from its GitHub repository.

What is pinned, honestly: HALIE's commit is, and a commit's content cannot change. ChatBench's default revision is the
branch `main`, because no commit of it could be looked up when this was written; the commit that it resolved to is
recorded. No checksum of either was known beforehand. The first download therefore records the SHA-256 of every file in
`download.json`, and later ones refuse other bytes, unless they are told that a change is expected.

Files arrive beside the study (`.incoming`), are compared, and only then take their places; `download.json` comes last.
A download that was cut off goes on where it stopped.

One file over HTTP that may be cut off at any byte: what came is kept in `NAME.part`, the rest asked for by Range.

The step that gets a published study; see `studies.download` for what is pinned and what is recorded.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, sha256_of, write_json

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


CHATBENCH_DATASET = "microsoft/ChatBench"
HUB = "https://huggingface.co"
HALIE_REPOSITORY = "stanford-crfm/halie"
HALIE_COMMIT = "ec7715243eff3bf481734a6a0a3cac417bddd9c4"
HALIE_PATH = "data/std/question/event_blocks.csv"
GITHUB_RAW = "https://raw.githubusercontent.com"
RECORD = "download.json"
_INCOMING = ".incoming"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A study on disk: where it came from, and the SHA-256 of each of its files by path."""

    folder: Path
    source: str
    revision: str
    files: dict[str, str]

    @property
    def text(self) -> str:
        """What to print."""
        lines = [f"{self.source} at {self.revision} -> {self.folder}"]
        return "\n".join([*lines, *(f"  {sha256}  {name}" for name, sha256 in self.files.items())])


def download_halie(
    out: Path,
    *,
    base_url: str = GITHUB_RAW,
    allow_other_checksum: bool = False,
    pause: Callable[[float], None] | None = None,
) -> Downloaded:
    """Gets `event_blocks.csv`; resumes a part that is there.

    Raises:
        ChatbenchError: the server cannot be reached, or the file is not the one that was downloaded before.
    """
    there = _already_there(out, HALIE_REPOSITORY, HALIE_COMMIT)
    if there is not None:
        return there
    url = f"{base_url}/{HALIE_REPOSITORY}/{HALIE_COMMIT}/{HALIE_PATH}"
    incoming = out / _INCOMING / HALIE_COMMIT
    name = HALIE_PATH.rsplit("/", 1)[-1]
    fetch(url, incoming / name, pause=pause)
    return _accept(out, incoming, HALIE_REPOSITORY, HALIE_COMMIT, allow_other_checksum)


def download_chatbench(
    out: Path,
    *,
    revision: str = "main",
    endpoint: str = HUB,
    token: str | None = None,
    allow_other_checksum: bool = False,
) -> Downloaded:
    """Gets the data set's files at a branch, tag or commit; huggingface_hub resumes what is there in part.

    Args:
        token: access token; None takes HF_TOKEN from the environment. It is neither printed nor written.

    Raises:
        ChatbenchError: the hub cannot be reached or refuses; or a file is not the one that was downloaded before.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # their drawing in log files is unreadable; the data set is 21 MB
    access = token or os.environ.get("HF_TOKEN") or False  # False: a public data set needs no other stored token
    with _hub_errors(endpoint, revision):
        commit = HfApi(endpoint=endpoint, token=access).dataset_info(CHATBENCH_DATASET, revision=revision).sha
        if commit is None:
            raise ChatbenchError(f"{endpoint}: no commit for revision {revision}", fix="name a commit with --revision")
        there = _already_there(out, CHATBENCH_DATASET, commit)
        if there is not None:
            return there
        incoming = out / _INCOMING / commit
        snapshot_download(
            CHATBENCH_DATASET, repo_type="dataset", revision=commit, local_dir=incoming, endpoint=endpoint, token=access
        )
    return _accept(out, incoming, CHATBENCH_DATASET, commit, allow_other_checksum)


@contextmanager
def _hub_errors(endpoint: str, revision: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into an error for people."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # Connection errors pass through huggingface_hub unwrapped, as those of its HTTP client, which differs by version.
    bases = (base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception))
    errors: tuple[type[Exception], ...] = (OSError, *(base for base in bases if base.__name__ == "HTTPError"))
    try:
        yield
    except RevisionNotFoundError as error:
        raise ChatbenchError(
            f"{CHATBENCH_DATASET}: no revision {revision!r}", fix="use --revision main or a commit"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise ChatbenchError(
            f"{endpoint}: no access to {CHATBENCH_DATASET}",
            expected="a public data set, or a token that may read it",
            fix="put HF_TOKEN=... into .env and run the command again",
        ) from error
    except errors as error:
        raise ChatbenchError(
            f"{endpoint}: {type(error).__name__} while downloading {CHATBENCH_DATASET}",
            expected="a connection to the hub",
            fix="check the network and run the same command again; it continues where it stopped",
        ) from error


def _accept(out: Path, incoming: Path, source: str, revision: str, allow_other_checksum: bool) -> Downloaded:
    """Compares what arrived with what was recorded at the first download, and moves it to its place."""
    names = sorted(str(path.relative_to(incoming)) for path in _files(incoming))
    arrived = {name: sha256_of(incoming / name) for name in names}
    recorded = _recorded(out)
    changed = sorted(name for name in recorded if arrived.get(name) != recorded[name])
    if changed and not allow_other_checksum:
        raise ChatbenchError(
            f"{source}: {', '.join(changed)} is not what was downloaded before ({out / RECORD})",
            expected="the same SHA-256",
            fix="choose another --out, or accept the change with --allow-other-checksum",
        )
    if changed:
        (out / RECORD).unlink()
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (incoming / name).replace(out / name)
    write_json(out / RECORD, {"source": source, "revision": revision, "sha256": arrived})
    shutil.rmtree(out / _INCOMING, ignore_errors=True)
    return Downloaded(out, source, revision, arrived)


def _files(folder: Path) -> list[Path]:
    """The files of a data set; not the hub's own notes, nor hidden files such as `.gitattributes`."""
    return [
        p
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]


def downloaded_from(study: Path) -> tuple[str, str]:
    """Source and revision of a study that was downloaded here; two empty texts for any other study."""
    content = read_json(study / RECORD) if (study / RECORD).is_file() else {}
    record = content if isinstance(content, dict) else {}
    return str(record.get("source", "")), str(record.get("revision", ""))


def _recorded(out: Path) -> dict[str, str]:
    if not (out / RECORD).exists():
        return {}
    content = read_json(out / RECORD, fix="remove the file, or choose another --out")
    sums = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(sums, dict):
        raise ChatbenchError(f"{out / RECORD}: no 'sha256'", fix="remove the file, or choose another --out")
    return {str(name): str(value) for name, value in sums.items()}


def _already_there(out: Path, source: str, revision: str) -> Downloaded | None:
    """The study of an earlier download of this revision, if every file still is what was recorded."""
    recorded = _recorded(out)
    record = read_json(out / RECORD) if recorded else {}
    whole = all((out / name).is_file() and sha256_of(out / name) == sha256 for name, sha256 in recorded.items())
    if not recorded or not whole or not isinstance(record, dict) or record.get("revision") != revision:
        return None
    return Downloaded(out, source, revision, recorded)


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
