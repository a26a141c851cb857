"""Give a finished model to others: merge its adapter into the base, and upload it to the Hugging Face hub.

Merging gives a plain model folder, for vLLM and other programs without adapter support. The adapter's weight updates
are computed in float32, added to the base weights and rounded once to the stored format. The merged model must give the
same logits as base and adapter, up to rounding, or nothing is written.

With a share below 1, the weights are interpolated between base and fine-tuned model, `base + share * update` (WiSE-FT;
Wortsman et al. 2022, arXiv 2109.01903), which keeps more of the base's abilities. This works for fully fine-tuned
models too.

Publishing uploads weights, tokenizer, card and records in one commit. Checkpoints are not uploaded, nor is
`training_args.bin`, a pickle with local paths. Local folder names in our records and in configurations are reduced to
their last component. Publishing is refused if a file still contains a secret from the environment or a local path.

An existing repository keeps its visibility, so publishing is refused if it is public and a private one was requested,
or vice versa. Files of an earlier model that this one does not have are deleted: an adapter beside a full model would
be loaded instead of it.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import PreTrainedModel

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_text
from chatbench.data.workspace import Workspace
from chatbench.models.loading import (
    Loaded,
    base_of_adapter,
    check_model_folder,
    configuration,
    load,
    load_base_of,
    sample_without_filters,
    save_special_tokens,
    untie_where_adapted,
    weights_hash,
)
from chatbench.models.run_record import (
    LOG,
    LOSS_CURVE,
    RECORD,
    RESOLVED_SETTINGS,
    add_checksums,
    new_folder,
    read_record,
    refuse_unless_new,
    write_record,
)  # fmt: skip
from chatbench.publishing.model_card import CARD, base_name, is_local_path, last_name, model_card, with_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def finished_model(model: str, *, workspace: Workspace, split: str | None) -> Path:
    """Return `model` if it is a finished run's or an adapter's folder, else what was trained for it on `split`.

    Raises:
        ChatbenchError: there is no such model, or the folder's is of another split.
    """
    given = Path(model).expanduser()
    if any((given / name).is_file() for name in (RECORD, "adapter_config.json")):
        trained = (read_record(given) or {}).get("split", split)
        if split and trained != split:
            raise ChatbenchError(f"{given}: fine-tuned on {trained}", expected=split, fix="omit --split (or SPLIT_ID)")
        return given
    split = split or "split_0"
    folder = workspace.model_folder(model, split)
    if not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: {model} has not been fine-tuned on {split}",
            expected="a model that chatbench finetune has finished, or its folder",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}",
        )
    return folder


MergeType = Literal["auto", "float32", "bfloat16", "float16"]

PROBE = "You are a human user interacting with an AI system. What is 6 x 7? A. 36 B. 42 C. 48 D. 67"
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of logits, relative to the largest logit, that can be due to rounding."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of a merge: both folders, the format of the weights, and the largest difference of a logit."""

    adapter: Path
    folder: Path
    dtype: str
    largest_difference: float

    def line(self) -> str:
        """Summary to print."""
        return (
            f"{self.adapter} merged -> {self.folder}, weights in {self.dtype}; "
            f"largest logit difference {self.largest_difference:.1g}"
        )


def merge_adapter(folder: Path, out: Path, *, dtype: MergeType = "auto", share: float = 1.0) -> Merged:
    """Merge the adapter in `folder` into its (unquantised) base and write `out` atomically.

    Args:
        dtype: format of the weights; `auto` is the format of the base.
        share: weight of the fine-tuned model in the interpolation, in 0..1; below 1, `folder` may hold a full model.

    Raises:
        ChatbenchError: a share outside 0..1, no adapter, a base other than in training or one that cannot be merged
            into, `out` is not empty, or another process is writing there.
    """
    if not 0 <= share <= 1:
        raise ChatbenchError(f"share = {share}", expected="0 (the base) to 1 (the fine-tuned model)")
    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter and (share == 1 or read_record(folder) is None):
        raise ChatbenchError(
            f"{folder}: no adapter",
            expected="a folder with adapter_config.json, or, with --share, a full model fine-tuned by chatbench",
            fix="a full model needs no merging",
        )
    refuse_unless_new(out)
    record = read_record(folder)
    stored = _stored_dtype(folder, record) if is_adapter else torch.float32
    target = stored if dtype == "auto" else cast(torch.dtype, getattr(torch, dtype))
    # To round to 16 bits only once, a base in another format is merged into in float32 first.
    held = target if target == stored else torch.float32
    loaded = load(str(folder), device="cpu", dtype=held, quantise=False, merge=False)
    if is_adapter:
        model, difference = _merged_model(loaded, target, folder, share)
    else:
        averaged: Any = _averaged(loaded.model, cast(dict[str, Any], record), share)
        model, difference = averaged.to(target), 0.0
    name = str(target).removeprefix("torch.")
    merged = {"adapter_weights": weights_hash(folder), "dtype": name, **({"share": share} if share < 1 else {})}
    extended = {**record, "merged": merged} if record else None
    _write(replace(loaded, model=model), out, folder, extended)
    return Merged(folder, out, name, difference)


def _stored_dtype(folder: Path, record: Mapping[str, Any] | None) -> torch.dtype:
    base, revision = base_of_adapter(folder, record or {})
    if base.startswith("random:"):
        return torch.float32
    described = configuration(base, revision=revision)
    if getattr(described, "quantization_config", None) is not None:
        raise ChatbenchError(
            f"{base}: its weights are stored quantised, so an adapter cannot be merged into them exactly",
            fix="fine-tune the unquantised model; load_in_8bit or load_in_4bit quantises it for training",
        )
    return described.dtype if isinstance(described.dtype, torch.dtype) else torch.float32


@torch.inference_mode()
def _merged_model(loaded: Loaded, target: torch.dtype, folder: Path, share: float) -> tuple[PreTrainedModel, float]:
    from peft.tuners.lora import LoraLayer

    ids = torch.tensor([loaded.tokenizer.encode(PROBE)])
    adapted: Any = loaded.model
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scaling = {name: scaling * share for name, scaling in module.scaling.items()}
    before = adapted(input_ids=ids).logits.float()
    untie_where_adapted(adapted)
    # Not `safe_merge`, which rounds the update to 16 bits before adding it; the check below also finds NaN.
    model: Any = adapted.merge_and_unload().to(target)
    after = model(input_ids=ids).logits.float()
    difference = float((after - before).abs().max())
    if not difference <= _TOLERANCE[target] * float(before.abs().max()):  # `not <=` also catches NaN
        raise ChatbenchError(
            f"{folder}: the logits of the merged model differ by {difference:.3g}",
            expected="the same logits as base and adapter together, up to rounding",
            fix="merge with --dtype float32; if that is refused too, use the adapter as it is",
        )
    return cast(PreTrainedModel, model), difference


@torch.inference_mode()
def _averaged(tuned: PreTrainedModel, record: Mapping[str, Any], share: float) -> PreTrainedModel:
    """Interpolate all weights, in place, with those of the base."""
    base = load_base_of(str(record["base"]), record, dtype=torch.float32, device="cpu")
    of_base = dict(base.model.named_parameters())  # tied weights occur once
    for name, weight in tuned.named_parameters():
        weight.lerp_(of_base[name], 1 - share)
    return tuned


def _write(merged: Loaded, out: Path, adapter: Path, record: Mapping[str, Any] | None) -> None:
    cast(Any, merged.model.config).use_cache = True
    sample_without_filters(merged.model)
    with new_folder(out) as work:
        merged.model.save_pretrained(work)
        merged.tokenizer.save_pretrained(work)
        save_special_tokens(merged.tokenizer, work)
        for name in (RESOLVED_SETTINGS, LOG, LOSS_CURVE):  # the merged model comes from the same run
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, work / name)
        if record is not None:
            write_record(work, record)
            write_text(work / CARD, model_card(record, adapter=False))
        add_checksums(work, ignored=[CARD])


Say = Callable[[str], None]

PUBLISHED = (
    CARD, RECORD, RESOLVED_SETTINGS, LOG, LOSS_CURVE,
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "spiece.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
_NAMES_OF_FOLDERS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
SHORTEST_SECRET = 8
"""Minimum length in characters; shorter values (`test`, `1`) would match everywhere and protect nothing."""


def publish(
    model: str,
    *,
    to: str,
    workspace: Workspace,
    split: str | None = None,
    revision: str = "main",
    private: bool = True,
    dry_run: bool = False,
    api: HfApi | None = None,
    say: Say = print,
) -> None:
    """Upload one split's model or adapter, with its card, to the repository `to`; `dry_run` only shows the plan.

    Raises:
        ChatbenchError: no such model, content that must not be published, or an error of the hub.
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


@dataclass(frozen=True, slots=True)
class Publication:
    """Files to publish and where to: each is a path or, if its text had local paths, the changed bytes.

    `left_out` lists what is in the folder but not published; `private` is the repository's visibility.
    """

    repo_id: str
    revision: str
    private: bool
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...]

    @property
    def card(self) -> str:
        """Text of the model card as published."""
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
    """Plan what to publish from `folder`.

    Raises:
        ChatbenchError: an invalid `repo_id`; no finished model or damaged weights in the folder; an adapter on a base
            that only exists locally; a secret or local path in a file.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is documented

    try:
        validate_repo_id(repo_id)
        why = "" if "/" in repo_id else "no organisation or account in it"
    except HFValidationError as error:
        why = str(error).splitlines()[0]
    if why:
        raise ChatbenchError(f"--to {repo_id}: {why}", expected="ORG/NAME")
    record = read_record(folder)
    if record is None or not (folder / CARD).is_file():
        raise ChatbenchError(
            f"{folder}: no {RECORD if record is None else CARD}",
            expected="a folder written by chatbench finetune or merge",
        )
    check_model_folder(folder)
    if (folder / "adapter_config.json").is_file() and base_name(record).kind == "folder":
        raise ChatbenchError(
            f"{folder}: an adapter for {record['base']}, which nobody else has",
            expected="an adapter for a base on the hub",
            fix=f"publish a full model instead: chatbench merge {folder} OUT, then chatbench publish OUT",
        )
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    published = [path for path in entries if path.is_file() and _belongs(path.name)]
    files = {path.name: _content(path, record, repo_id, revision) for path in published}
    for name, content in files.items():
        refuse_leaks(name, content, folder)
    left_out = tuple(path.name + ("/" if path.is_dir() else "") for path in entries if path not in published)
    return Publication(repo_id, revision, private, files, left_out)


def _belongs(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _content(path: Path, record: Mapping[str, Any], repo_id: str, revision: str) -> Path | bytes:
    """Return the path, or changed content for the card and for files with local paths."""
    if path.name == CARD:
        return with_folder(path.read_text(encoding="utf-8"), repo_id, revision).encode()
    if path.name in (RECORD, RESOLVED_SETTINGS):
        content = read_json(path)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for place in sorted(filter(is_local_path, _texts(content)), key=len, reverse=True):  # longest first
            inside, public = (json.dumps(each, ensure_ascii=False)[1:-1] for each in (place, f"./{last_name(place)}"))
            text = text.replace(inside, public)
        return text.encode()
    if path.name in ("config.json", "adapter_config.json", "tokenizer_config.json"):
        configuration = cast(dict[str, Any], read_json(path))
        named = [name for name in _NAMES_OF_FOLDERS if is_local_path(str(configuration.get(name, "")))]
        if named:
            base = base_name(record)
            public = f"./{base.name}" if base.kind == "folder" else base.name
            return (
                json.dumps(configuration | dict.fromkeys(named, public), indent=2, ensure_ascii=False) + "\n"
            ).encode()
    return path


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def refuse_leaks(name: str, content: Path | bytes, folder: Path) -> None:
    """Refuse a file that contains a secret or, unless it is binary or a vocabulary, a local path.

    Args:
        name: the file's name in the repository.
        folder: the model folder on this machine.

    Raises:
        ChatbenchError: the file contains the hub token, the value of an environment variable named like a secret, or a
            path of this machine.
    """
    from huggingface_hub import get_token

    secret = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
    secrets = {variable: value for variable, value in os.environ.items() if secret.search(variable)}
    secrets["the hub token"] = get_token() or ""
    searched: bytes | mmap.mmap = content if isinstance(content, bytes) else b""
    with ExitStack() as opened:
        if isinstance(content, Path) and content.stat().st_size:  # mapped into memory instead of read as a whole
            file = opened.enter_context(content.open("rb"))
            searched = opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for origin, value in secrets.items():
            if len(value) >= SHORTEST_SECRET and searched.find(value.encode()) >= 0:
                raise ChatbenchError(
                    f"{name}: contains the value of {origin}",
                    fix="remove it from that file, and revoke it if others may have seen it",
                )
    if name.endswith((".safetensors", ".png")) or name in _VOCABULARIES:
        return  # weights, images, and vocabularies, whose entries may look like paths
    text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", errors="replace")
    places = (folder.resolve(), folder.absolute(), Path.cwd(), Path.home())
    for path in sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True):
        if re.search(re.escape(path) + r"(?![\w.-])", text):
            raise ChatbenchError(
                f"{name}: contains {path}, a path on this machine",
                fix="remove it from that file; the name of the folder or base is enough",
            )


def upload(publication: Publication, *, token: str | None, api: HfApi | None = None) -> str:
    """Create the repository and branch if missing and commit the files; return the commit's URL.

    Args:
        api: client of a hub other than the default.

    Raises:
        ChatbenchError: no token, one without write access, a visibility other than requested, or no connection.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub import HfApi as UsualHub

    if not token:
        raise ChatbenchError(
            "no token for the hub",
            expected="a token with write access",
            fix="create one at https://huggingface.co/settings/tokens and set HF_TOKEN in .env, or run: hf auth login",
        )
    repo_id, revision = publication.repo_id, publication.revision
    hub = api or UsualHub()
    with _named_errors(repo_id):
        hub.create_repo(repo_id, token=token, private=publication.private, exist_ok=True)
        is_private = bool(hub.repo_info(repo_id, token=token).private)
        if is_private != publication.private:
            there, asked = ("private", "public") if is_private else ("public", "private")
            raise ChatbenchError(
                f"{repo_id} is already {there}, but --{asked} was requested",
                fix=f"add --{there}, change the visibility in the repository's settings, or choose another name",
            )
        if revision != "main":
            hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        there_now = hub.list_repo_files(repo_id, revision=revision, token=token)
        stale = [name for name in there_now if _belongs(name) and name not in publication.files]
        commit = hub.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, content) for name, content in publication.files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message="Model and card by chatbench",
            token=token,
            revision=revision,
        )
    return str(commit.commit_url)


@contextmanager
def _named_errors(repo_id: str) -> Iterator[None]:
    """Turn HTTP errors, a missing connection, or a malformed reply of the hub into a `ChatbenchError`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = error.server_message or str(error).strip().splitlines()[0]
        if status == 401:
            found, expected = f"the hub rejects the token: {said}", ""
            fix = "put a valid HF_TOKEN into .env, or run: hf auth login"
        elif status in (403, 404):
            found = f"{repo_id}: the token has no write access: {said}"
            expected = "a token with write access to that account or organisation"
            fix = "check --to and the token's permissions at https://huggingface.co/settings/tokens"
        else:
            found, expected = f"{repo_id}: the hub returned {status}: {said}", ""
            fix = "run the same command again later"
        raise ChatbenchError(found, expected=expected, fix=fix) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # the underlying HTTP library's error
        raise ChatbenchError(
            f"the hub cannot be reached: {error}",
            fix="connect, unset HF_HUB_OFFLINE, and run the same command again; uploaded files are not sent twice",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a reply that is not from a hub
        raise ChatbenchError(
            f"{repo_id}: what answered is not a hub, or not one that this huggingface_hub understands: {error}",
            expected="the Hugging Face hub",
            fix="check HF_ENDPOINT, and whether a network's login page answers instead",
        ) from error
