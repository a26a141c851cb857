"""Sends a publication to the Hugging Face hub, in one commit.

A repository that is there already keeps its visibility, so one that is public is not written to when a private one was
asked for, and the other way round. Files of an earlier model in it that this one has not are removed: an adapter beside
a whole model would be loaded in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.publishing.publication import Publication, belongs

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
