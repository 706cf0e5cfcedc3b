"""Uploading what is published: one commit that keeps what people have added on the hub."""

from __future__ import annotations

from fnmatch import fnmatch
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.reports.eval_results import check_registered, with_other_tasks
from kdharness.harness.reports.hub_card import with_additions
from kdharness.harness.reports.publish import (
    CARD,
    TEMPLATES,
    WEIGHTS,
    Publication,
    is_model_file,
)
from kdharness.harness.util.redact import redact

PICKLED = ("pytorch_model*.bin", "pytorch_model*.bin.index.json", "adapter_model.bin")
"""Weights as other tools save them: never published, but a former model may have them."""
LARGEST_TEXT = 5_000_000
"""Bytes of a model card that is merged with a new one."""


def publish(
    publication: Publication, *, private: bool = False, force: bool = False
) -> tuple[str, int]:
    """Upload what was prepared as one commit; return its address and the number of new files.

    An upload that was cut off is begun again by the same call: files that the hub has are not sent
    twice, and nothing is visible before the commit.

    Raises:
        ConfigError: the repository has other contents under these names (without `force`), or is
            public and was to be private; a benchmark is not registered on the hub.
        ModelError: no access, or the hub cannot be reached.
    """
    repo, api = publication.repo, HfApi()
    check_registered(api, publication.results)
    try:
        parent, present = _present(api, repo)
        if parent and private and not api.model_info(repo).private:
            raise ConfigError(f"{repo} exists and is public", hint="make it private on the hub")
        files = publication.files
        changed = [n for n, part in files.items() if not _same(part, present.get(n))]
        stale = [n for n in present if _is_of_the_model(n) and n not in files]
        had = any(map(_is_of_the_weights, present))
        replaced = had and any(map(_is_of_the_weights, (*changed, *stale)))
        if replaced:  # scores of the former weights
            stale += [n for n in present if _is_result(n) and n not in files]
        new = {name: files[name] for name in changed}
        for name in set(changed) & present.keys():
            if name == CARD or (_is_result(name) and not replaced):
                former = _text_of(api, repo, present[name], parent)
                new[name] = _merged(publication, name, former, replaced)
                if _same(new[name], present[name]):
                    del new[name]
        taken = sorted([n for n in new if n in present] + stale)
        if taken and not force:
            raise ConfigError(
                f"{repo} has other contents already: {', '.join(taken[:5])}",
                hint="publish under another name, or replace them: --force",
            )
        if not new and not stale:
            return f"{api.endpoint}/{repo}", 0
        if not parent:
            api.create_repo(repo, private=private or None, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(n, part) for n, part in new.items()),
            *(CommitOperationDelete(n) for n in stale),
        ]
        # Refused by the hub if somebody else has committed in the meantime.
        api.create_commit(
            repo, operations, commit_message="Publish with kdharness", parent_commit=parent or None
        )
    except (ConfigError, ModelError):
        raise
    except Exception as error:  # the hub client has a family of errors per layer below it
        raise _explain(error, repo) from error
    return f"{api.endpoint}/{repo}", len(new)


def _present(api: HfApi, repo: str) -> tuple[str, dict[str, RepoFile]]:
    """Return the newest commit of a repository and its files; nothing if it does not exist."""
    try:
        commit = str(api.model_info(repo).sha or "")
    except RepositoryNotFoundError:
        return "", {}
    tree = api.list_repo_tree(repo, recursive=True, revision=commit) if commit else []
    return commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _same(part: Path | bytes, present: RepoFile | None) -> bool:
    """Return whether a file of the repository has these contents."""
    if present is None:
        return False
    size = len(part) if isinstance(part, bytes) else part.stat().st_size
    if size != present.size:
        return False
    if present.lfs is not None:
        return _hash(part, sha256()) == present.lfs.sha256
    return _hash(part, sha1(f"blob {size}\0".encode())) == present.blob_id


def _hash(part: Path | bytes, state: Any) -> str:
    if isinstance(part, bytes):
        state.update(part)
        return str(state.hexdigest())
    with part.open("rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return str(state.hexdigest())


def _is_of_the_model(name: str) -> bool:
    """Return whether a file of a repository belongs to its model: libraries load it unasked."""
    if "/" in name:
        return fnmatch(name, TEMPLATES)
    return is_model_file(name) or any(fnmatch(name, pattern) for pattern in PICKLED)


def _is_result(name: str) -> bool:
    """Return whether a file of a repository has scores for leaderboards of the hub."""
    return fnmatch(name, f"{EVAL_RESULTS_FOLDER}/*.yaml")


def _is_of_the_weights(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in (*WEIGHTS, *PICKLED))


def _merged(publication: Publication, name: str, former: str, replaced: bool) -> bytes:
    """Return the card, or a file of results, with what is kept of the one that it replaces."""
    if name == CARD:
        return with_additions(publication.card, former, replaced).encode()
    return with_other_tasks(publication.eval_results[name], former).encode()


def _text_of(api: HfApi, repo: str, entry: RepoFile, commit: str) -> str:
    """Return a text file of a repository.

    Raises:
        ConfigError: it is too large. The hub client's errors besides.
    """
    if entry.size > LARGEST_TEXT:
        raise ConfigError(
            f"{entry.path} of {repo} is too large to be merged with the new one",
            hint="shorten it on the hub, or delete it there",
        )
    path = Path(api.hf_hub_download(repo, entry.path, revision=commit))
    return path.read_bytes().decode("utf-8-sig", "replace")


def _explain(error: Exception, repo: str) -> ModelError:
    """Translate the hub client's error, with what to do."""
    causes = [error]
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    found = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes)
    status = next(filter(None, found), None)
    texts = [(str(c).strip() or type(c).__name__).splitlines()[0] for c in causes[:2]]
    first = redact(": ".join(dict.fromkeys(texts)), shapes=True)[:300]
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return ModelError(
            f"no access to write {repo}: {first}",
            hint="run hf auth login with a token that may write (or set HF_TOKEN)",
        )
    if status in (409, 412):
        return ModelError(
            f"{repo} has changed meanwhile: {first}", hint="look at it, and try again"
        )
    return ModelError(
        f"could not publish {repo}: {first}",
        hint="check the network and try again: files that arrived are not sent twice",
    )
