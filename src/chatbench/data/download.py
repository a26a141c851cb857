"""Public data: download ChatBench (Hugging Face hub) and HALIE (its GitHub repository), and read MMLU's files.

HALIE is pinned to a commit. ChatBench's default revision is the branch `main`, and the commit that it resolves to is
recorded. No checksums were known beforehand: the first download records the SHA-256 of every file in `download.json`,
and later ones refuse different bytes, unless told to accept a change.

Files arrive in `.incoming`, are compared, and only then moved into place; `download.json` is written last. An
interrupted download continues where it stopped: huggingface_hub does so for ChatBench, `fetch` for HALIE.

MMLU's files are CSV without a header, `{dev,val,test}/{subset}_{part}.csv`, with the columns question, A, B, C, D,
answer. The five rows of a subset's `dev` file are the examples of the few-shot letter-only method.

Source of MMLU: Hendrycks et al. 2021; repository hendrycks/test, MIT.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_csv, read_json, sha256_of, write_json
from chatbench.core.records import FOUR_LETTERS, Question
from chatbench.data.tables import four_options

CHATBENCH_DATASET = "microsoft/ChatBench"
HUB = "https://huggingface.co"
HALIE_REPOSITORY = "stanford-crfm/halie"
HALIE_COMMIT = "ec7715243eff3bf481734a6a0a3cac417bddd9c4"
HALIE_PATH = "data/std/question/event_blocks.csv"
GITHUB_RAW = "https://raw.githubusercontent.com"
RECORD = "download.json"
ATTEMPTS = 5
MmluPart = Literal["dev", "val", "test"]
_INCOMING = ".incoming"
_TIMEOUT_SECONDS = 60.0
_REQUESTED_RANGE_NOT_SATISFIABLE = 416
_TRY_AGAIN = {408, _REQUESTED_RANGE_NOT_SATISFIABLE, 429, 500, 502, 503, 504}
_CONTINUES = "check the network and run the same command again; it continues where it stopped"
_MMLU_FIX = "check the folder; it should hold dev/, val/ and test/ as in the MMLU archive"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded study: its source, and the SHA-256 of each file by path."""

    folder: Path
    source: str
    revision: str
    files: dict[str, str]

    @property
    def text(self) -> str:
        """The summary to print."""
        lines = [f"{self.source} at {self.revision} -> {self.folder}"]
        return "\n".join([*lines, *(f"  {sha256}  {name}" for name, sha256 in self.files.items())])


def fetch(url: str, target: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Download `url` to `target`, which appears only when complete; `NAME.part` of an earlier run is continued.

    Args:
        pause: waits the given seconds between attempts.

    Raises:
        ChatbenchError: the server refuses, or five attempts in a row failed without a new byte.
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
            raise ChatbenchError(f"{url}: {problem}", expected="the complete file", fix=_CONTINUES)
        pause(float(2 ** (failures - 1)))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue_part(url: str, part: Path) -> str:
    """Append to the partial file until it is complete; return "" then, else what went wrong."""
    import httpx

    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with httpx.stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True) as response:
            if response.status_code == _REQUESTED_RANGE_NOT_SATISFIABLE:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return ""  # the part was complete already
                part.unlink(missing_ok=True)  # longer than the file, so of another one
            response.raise_for_status()
            with part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status not in _TRY_AGAIN:
            fix = "check the address, or update chatbench"
            raise ChatbenchError(f"{url}: HTTP {status}", expected="a file", fix=fix) from error
        return f"HTTP {status}"
    except (httpx.HTTPError, OSError) as error:  # also for a dropped connection: httpx counts the bytes
        return f"{type(error).__name__} after {_size(part)} bytes: {error}"
    return ""


def download_halie(
    out: Path,
    *,
    base_url: str = GITHUB_RAW,
    allow_other_checksum: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """Download HALIE's `event_blocks.csv`.

    Raises:
        ChatbenchError: the server cannot be reached, or the file differs from an earlier download.
    """
    there = _already_there(out, HALIE_REPOSITORY, HALIE_COMMIT)
    if there is not None:
        return there
    incoming = out / _INCOMING / HALIE_COMMIT
    url = f"{base_url}/{HALIE_REPOSITORY}/{HALIE_COMMIT}/{HALIE_PATH}"
    fetch(url, incoming / Path(HALIE_PATH).name, pause=pause)
    return _accept(out, incoming, HALIE_REPOSITORY, HALIE_COMMIT, allow_other_checksum)


def download_chatbench(
    out: Path,
    *,
    revision: str = "main",
    endpoint: str = HUB,
    token: str | None = None,
    allow_other_checksum: bool = False,
) -> Downloaded:
    """Download the dataset's files at a branch, tag or commit.

    Args:
        token: access token; None takes HF_TOKEN from the environment. It is neither printed nor written.

    Raises:
        ChatbenchError: the hub cannot be reached or refuses, or a file differs from an earlier download.
    """
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Connection errors are not wrapped, and which HTTP client raises them depends on the version of huggingface_hub.
    bases = [base for base in errors.HfHubHTTPError.__mro__ if issubclass(base, Exception)]
    connection_errors: tuple[type[Exception], ...] = (
        OSError,
        *(base for base in bases if base.__name__ == "HTTPError"),
    )
    disable_progress_bars()  # unreadable in log files, and the dataset is only 21 MB
    access = token or os.environ.get("HF_TOKEN") or False  # False: a public dataset needs no other stored token
    try:
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
    except errors.RevisionNotFoundError as error:
        found = f"{CHATBENCH_DATASET}: no revision {revision!r}"
        raise ChatbenchError(found, fix="use --revision main or a commit") from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise ChatbenchError(
            f"{endpoint}: no access to {CHATBENCH_DATASET}",
            expected="a public data set, or a token with read access",
            fix="put HF_TOKEN=... into .env and run the command again",
        ) from error
    except connection_errors as error:
        found = f"{endpoint}: {type(error).__name__} while downloading {CHATBENCH_DATASET}"
        raise ChatbenchError(found, expected="a connection to the hub", fix=_CONTINUES) from error
    return _accept(out, incoming, CHATBENCH_DATASET, commit, allow_other_checksum)


def _accept(out: Path, incoming: Path, source: str, revision: str, allow_other_checksum: bool) -> Downloaded:
    """Compare what arrived with the record of the first download, and move it into place."""
    paths = sorted(path.relative_to(incoming) for path in incoming.rglob("*") if path.is_file())
    # Without the hub's metadata and hidden files such as `.gitattributes`.
    names = sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))
    arrived = {name: sha256_of(incoming / name) for name in names}
    before = _recorded(out)
    changed = sorted(name for name, sha256 in (before.files if before else {}).items() if arrived.get(name) != sha256)
    if changed and not allow_other_checksum:
        raise ChatbenchError(
            f"{source}: {', '.join(changed)} differs from what was downloaded before ({out / RECORD})",
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


def _recorded(folder: Path) -> Downloaded | None:
    """The record of an earlier download in this folder; None if there is none."""
    path, fix = folder / RECORD, "remove the file, or choose another --out"
    content = read_json(path, fix=fix) if path.is_file() else None
    if content is None:
        return None
    sums = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(sums, dict):
        raise ChatbenchError(f"{path}: no 'sha256'", expected="the record of a download", fix=fix)
    files = {str(name): str(sha256) for name, sha256 in sums.items()}
    return Downloaded(folder, str(content.get("source", "")), str(content.get("revision", "")), files)


def _already_there(out: Path, source: str, revision: str) -> Downloaded | None:
    """The study of an earlier download of this revision, if every file still matches its checksum."""
    found = _recorded(out)
    if found is None or (found.source, found.revision) != (source, revision):
        return None
    complete = all((out / name).is_file() and sha256_of(out / name) == sha256 for name, sha256 in found.files.items())
    return found if complete and found.files else None


def downloaded_from(study: Path) -> tuple[str, str]:
    """Source and revision of a downloaded study; two empty strings for any other study."""
    try:
        found = _recorded(study)
    except ChatbenchError:  # a file of the same name that is not ours
        found = None
    return (found.source, found.revision) if found else ("", "")


def download(name: str, out: Path, *, revision: str = "main", allow_other_checksum: bool = False) -> str:
    """Download `chatbench` or `halie` into `out` and return a summary.

    Raises:
        ChatbenchError: unknown name, no connection, or bytes that differ from an earlier download.
    """
    if name == "chatbench":
        return download_chatbench(out, revision=revision, allow_other_checksum=allow_other_checksum).text
    if name == "halie":
        return download_halie(out, allow_other_checksum=allow_other_checksum).text
    raise ChatbenchError(
        f"no such study to download: {name}", expected="chatbench or halie", fix="chatbench download --help"
    )


def read_mmlu(folder: Path, subset: str, part: MmluPart = "test") -> list[Question]:
    """Read the questions of one file in order; ids are `{subset}-{part}-{i}`, i from 0.

    Raises:
        ChatbenchError: the file is missing or damaged; or a row does not have six cells and an answer in A-D.
    """
    path = folder / part / f"{subset}_{part}.csv"
    questions = []
    for index, record in enumerate(read_csv(path, fix=_MMLU_FIX)):
        where = f"{path}, row {index + 1}"
        if len(record) != 2 + len(FOUR_LETTERS):
            raise ChatbenchError(f"{where}: {len(record)} cells", expected="6 cells", fix=_MMLU_FIX)
        text, *choices, answer = (cell.strip() for cell in record)
        options = four_options(choices)
        if not text or options is None:
            found, expected = f"{where}: a blank question or option", "a question and four options"
            raise ChatbenchError(found, expected=expected, fix=_MMLU_FIX)
        if answer not in FOUR_LETTERS:
            found = f"{where}, column 6: {answer!r}"
            raise ChatbenchError(found, expected="A, B, C or D", fix=_MMLU_FIX)
        questions.append(Question(f"{subset}-{part}-{index}", subset, text, options, answer))
    return questions


def few_shot_examples(folder: Path, subset: str) -> list[Question]:
    """Read the five few-shot examples of a subset.

    Raises:
        ChatbenchError: the dev file does not hold five questions.
    """
    examples = read_mmlu(folder, subset, "dev")
    if len(examples) != 5:  # what the protocol's few-shot prompt shows
        raise ChatbenchError(
            f"{folder / 'dev'}: {len(examples)} examples of {subset}", expected="5 examples", fix=_MMLU_FIX
        )
    return examples
