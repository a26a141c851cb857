"""What of a finished model's folder is published: the model, its tokenizer, its card and its records, and nothing else.

Checkpoints stay, and so does `training_args.bin`: it is a pickle, and holds paths of the machine. Where our records or
a configuration name a folder of this machine, only its last name is published. What then still holds a secret of the
environment, or a path of this machine, is refused.

Refuses to publish what tells a secret, or where things lie on this machine.

Sends a publication to the Hugging Face hub, in one commit.

A repository that is there already keeps its visibility, so one that is public is not written to when a private one was
asked for, and the other way round. Files of an earlier model in it that this one has not are removed: an adapter beside
a whole model would be loaded in its place.

Publishes a finished model, or says what would be published.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.data.workspace import Workspace
from chatbench.models.loading import check_model_folder
from chatbench.models.run_record import LOG, LOSS_CURVE, RECORD, RESOLVED_SETTINGS, read_record
from chatbench.publishing.merge import finished_model
from chatbench.publishing.model_card import CARD, base_name, is_local_path, last_name, with_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST_SECRET = 8
"""Characters; a shorter value (`test`, `1`) would be found everywhere, and protects nothing."""

_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
_CHUNK_BYTES = 1 << 24


def refuse_leaks(name: str, content: Path | bytes, folder: Path) -> None:
    """Looks for secrets in any file, and for paths in text.

    Args:
        name: the file's name where it is published.
        folder: where the model lies on this machine.

    Raises:
        ChatbenchError: the file holds the value of an environment variable that is named like a secret, the token of
            the hub, or a path of this machine.
    """
    found = _first_of(secrets(), content)
    if found is not None:
        raise ChatbenchError(
            f"{name}: holds the value of {found}", fix="remove it from that file, and withdraw it if others saw it"
        )
    if name.endswith((".safetensors", ".png")) or name in _VOCABULARIES:
        return  # a word of a vocabulary is no path, whatever it looks like
    text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", errors="replace")
    for path in _paths(folder):
        if re.search(re.escape(path) + r"(?![\w.-])", text):
            raise ChatbenchError(
                f"{name}: holds {path}, a path of this machine",
                fix="remove it from that file; a folder's or a base's own name is enough",
            )


def secrets() -> dict[str, bytes]:
    """What must not be published, by where it comes from: secrets of the environment, and the hub's token."""
    from huggingface_hub import get_token

    named = {name: value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
    named["the token of the hub"] = get_token() or ""
    return {name: value.encode() for name, value in named.items() if len(value) >= SHORTEST_SECRET}


def _first_of(needles: Mapping[str, bytes], content: Path | bytes) -> str | None:
    overlap = max(map(len, needles.values()), default=0)
    before = b""
    for chunk in _chunks(content):
        window = before + chunk
        for name, needle in needles.items():
            if needle in window:
                return name
        before = window[-overlap:]  # a value may lie across two chunks
    return None


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _paths(folder: Path) -> list[str]:
    places = (folder.resolve(), folder.absolute(), Path.cwd(), Path.home())
    return sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True)


PUBLISHED = (
    CARD, RECORD, RESOLVED_SETTINGS, LOG, LOSS_CURVE,
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "spiece.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_OUR_RECORDS = (RECORD, RESOLVED_SETTINGS)
_CONFIGURATIONS = ("config.json", "adapter_config.json", "tokenizer_config.json")
_NAMES_OF_FOLDERS = ("_name_or_path", "name_or_path", "base_model_name_or_path")


@dataclass(frozen=True, slots=True)
class Publication:
    """What goes where: files by name, as a path or, where the folder's file names this machine, as changed bytes.

    `left_out` lists what lies in the folder too and stays there; `private` is how the repository is made.
    """

    repo_id: str
    revision: str
    private: bool
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...]

    @property
    def card(self) -> str:
        """The text of the model card, as published."""
        return cast(bytes, self.files[CARD]).decode("utf-8")

    def lines(self) -> list[str]:
        """Target, visibility, and each file with its size in bytes."""
        sizes = {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in self.files.items()
        }
        target = f"{self.repo_id} ({'private' if self.private else 'public'}), revision {self.revision}"
        return [
            f"{len(sizes)} files, {sum(sizes.values()):,} bytes -> {target}",
            *(f"  {size:>15,}  {name}" for name, size in sizes.items()),
            *(["left out: " + ", ".join(self.left_out)] if self.left_out else []),
        ]


def publication(folder: Path, repo_id: str, *, revision: str = "main", private: bool = True) -> Publication:
    """What of `folder` would be published.

    Raises:
        ChatbenchError: the folder holds no finished model, or damaged weights; an adapter whose base nobody else has; a
            secret or a path of this machine in a file.
    """
    _check_repo_id(repo_id)
    record = read_record(folder)
    if record is None or not (folder / CARD).is_file():
        raise ChatbenchError(
            f"{folder}: no {RECORD if record is None else CARD}",
            expected="a folder that chatbench finetune or merge made",
        )
    check_model_folder(folder)
    _refuse_unknown_base(folder, record)
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    published = [path for path in entries if path.is_file() and belongs(path.name)]
    files = {path.name: _content(path, record, repo_id, revision) for path in published}
    for name, content in files.items():
        refuse_leaks(name, content, folder)
    left_out = tuple(path.name + ("/" if path.is_dir() else "") for path in entries if path not in published)
    return Publication(repo_id, revision, private, files, left_out)


def belongs(name: str) -> bool:
    """Whether a file of this name is part of a published model."""
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in its documentation

    try:
        validate_repo_id(repo_id)
        why = "" if "/" in repo_id else "no organisation or account in it"
    except HFValidationError as error:
        why = str(error).splitlines()[0]
    if why:
        raise ChatbenchError(f"--to {repo_id}: {why}", expected="ORG/NAME")


def _refuse_unknown_base(folder: Path, record: Mapping[str, Any]) -> None:
    base = base_name(record)
    if (folder / "adapter_config.json").is_file() and base.kind == "folder":
        raise ChatbenchError(
            f"{folder}: an adapter on {record['base']}, which nobody else has",
            expected="a base from the hub",
            fix=f"publish a whole model: chatbench merge {folder} OUT, then chatbench publish OUT",
        )


def _content(path: Path, record: Mapping[str, Any], repo_id: str, revision: str) -> Path | bytes:
    if path.name == CARD:
        return with_folder(path.read_text(encoding="utf-8"), repo_id, revision).encode("utf-8")
    if path.name in _OUR_RECORDS:
        return _as_bytes(_without_folders(read_json(path)))
    if path.name in _CONFIGURATIONS:
        content = cast(dict[str, Any], read_json(path))
        named = {name: content[name] for name in _NAMES_OF_FOLDERS if is_local_path(str(content.get(name, "")))}
        if named:
            return _as_bytes({**content, **dict.fromkeys(named, _public_base(record))})
    return path


def _public_base(record: Mapping[str, Any]) -> str:
    base = base_name(record)
    return f"./{base.name}" if base.kind == "folder" else base.name


def _without_folders(value: object) -> object:
    """A JSON value in which each path of this machine is `./` and its last name, inside longer texts too."""
    paths = sorted({text for text in _texts(value) if is_local_path(text)}, key=len, reverse=True)

    def cleaned(each: object) -> object:
        if isinstance(each, dict):
            return {name: cleaned(item) for name, item in each.items()}
        if isinstance(each, list):
            return [cleaned(item) for item in each]
        if isinstance(each, str):
            for path in paths:
                each = each.replace(path, f"./{last_name(path)}")
        return each

    return cleaned(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _as_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


MESSAGE = "Model and card by chatbench"


def upload(publication: Publication, *, token: str | None, api: HfApi | None = None) -> str:
    """Makes the repository and the branch where they are missing, and commits the files; gives the commit's address.

    Args:
        api: of another hub than the usual one.

    Raises:
        ChatbenchError: no token, one that may not write there, another visibility than asked for, no connection.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub import HfApi as UsualHub

    if not token:
        raise ChatbenchError(
            "no token of the hub",
            expected="a token that may write",
            fix="make one at https://huggingface.co/settings/tokens and put HF_TOKEN into .env, or run: hf auth login",
        )
    repo_id, revision = publication.repo_id, publication.revision
    hub = api or UsualHub()
    with _named_errors(repo_id):
        hub.create_repo(repo_id, token=token, private=publication.private, exist_ok=True)
        is_private = bool(hub.repo_info(repo_id, token=token).private)
        if is_private != publication.private:
            there, asked = ("private", "public") if is_private else ("public", "private")
            raise ChatbenchError(
                f"{repo_id} is {there} already, and --{asked} was asked for",
                fix=f"add --{there}, change it in the repository's settings, or choose another name",
            )
        if revision != "main":
            hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        there_now = hub.list_repo_files(repo_id, revision=revision, token=token)
        stale = [name for name in there_now if belongs(name) and name not in publication.files]
        commit = hub.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, content) for name, content in publication.files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=MESSAGE,
            token=token,
            revision=revision,
        )
    return str(commit.commit_url)


@contextmanager
def _named_errors(repo_id: str) -> Iterator[None]:
    """Turns what the hub answers, or that it does not answer, into one clear error."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refused(repo_id, error) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # that of the HTTP library it uses
        raise ChatbenchError(
            f"the hub cannot be reached: {error}",
            fix="connect, unset HF_HUB_OFFLINE, and run the same command again; what was sent is not sent twice",
        ) from error


def _refused(repo_id: str, error: Exception) -> ChatbenchError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = str(getattr(error, "server_message", None) or str(error).strip().splitlines()[0])
    if status == 401:
        return ChatbenchError(
            f"the hub does not know the token: {said}", fix="put a valid HF_TOKEN into .env, or run: hf auth login"
        )
    if status in (403, 404):
        return ChatbenchError(
            f"{repo_id}: the token may not write there: {said}",
            expected="a token with write access to that account or organisation",
            fix="check --to, and the token's rights at https://huggingface.co/settings/tokens",
        )
    return ChatbenchError(f"{repo_id}: the hub answers {status}: {said}", fix="run the same command again later")


Say = Callable[[str], None]


def publish(
    model: str,
    *,
    to: str,
    workspace: Workspace,
    split: str = "split_0",
    revision: str = "main",
    private: bool = True,
    dry_run: bool = False,
    api: HfApi | None = None,
    say: Say = print,
) -> None:
    """Pushes one split's model or adapter, with its card, to the repository `to`; `dry_run` only says what it would.

    Raises:
        ChatbenchError: no such model, something in it that must not be published, or the hub refuses.
    """
    from huggingface_hub import get_token

    folder = finished_model(model, workspace=workspace, split=split)
    planned = publication(folder, to, revision=revision, private=private)
    for line in planned.lines():
        say(line)
    if dry_run:
        say(f"\nThe card:\n\n{planned.card}")
        say("dry run: nothing was sent")
        return
    say(f"published: {upload(planned, token=get_token(), api=api)}")
