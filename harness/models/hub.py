"""Hub models, pinned to a commit: a branch may change, a commit does not.

A hub model is resolved to its current commit, loaded from that commit's files, and identified by
it. Its files are downloaded to the hub client's own cache and read from there as a local folder,
so that they pass the same checks as any other folder.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from kdharness.harness.assets import hub_reachable, hub_switched_off
from kdharness.harness.errors import ModelError
from kdharness.harness.util.redact import redact

_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]{0,200}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_WEIGHTS = ["*.safetensors"]
# Copies of the weights in layouts that transformers does not read.
_OTHER_LAYOUTS = ["*/*.safetensors", "consolidated*", "original/*", "metal/*", "onnx/*"]
_branches: dict[tuple[str, str], str] = {}
"""(repository, commit) -> the branch or tag that this process resolved to it."""


def split_hub_name(text: str) -> tuple[str, str | None] | None:
    """Split `org/name` or `org/name@revision` into (repository, revision or None), else None."""
    match = _NAME.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def pinned(text: str) -> str:
    """Return `org/name@commit`: the commit that its revision (default: main) is at now.

    Raises:
        ModelError: no such model or revision, no access, or no network and no cached copy.
    """
    named = split_hub_name(text)
    if named is None:
        raise ModelError(f"{text[:200]!r} is not a hub id", hint="hub ids look like org/name")
    repo, revision = named
    if revision and _COMMIT.fullmatch(revision):
        return text
    commit = commit_of(repo, revision or "main")
    _branches[repo, commit] = revision or "main"
    return f"{repo}@{commit}"


def short_name(name: str) -> str:
    """Shorten a pinned name for display: seven digits of the commit."""
    repo, at, commit = name.partition("@")
    return f"{repo}{at}{commit[:7]}"


@cache
def commit_of(repo: str, revision: str) -> str:
    """Return the commit of a branch or tag, asked once per process.

    Raises:
        ModelError: no such model or revision, no access, or no network and no cached copy.
    """
    if not hub_reachable():
        known = _cached_commit(repo, revision)
        if known is None:
            if hub_switched_off():
                raise ModelError(
                    f"the hub is switched off (HF_HUB_OFFLINE), and {repo} is not in the local "
                    "cache",
                    hint="unset HF_HUB_OFFLINE, or use a local folder",
                )
            raise ModelError(
                f"the hub is unreachable, and {repo} is not in the local cache",
                hint="check the network (HF_ENDPOINT, HTTPS_PROXY), or use a local folder",
            )
        return known
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(repo, revision=revision, timeout=30).sha)
    except Exception as error:  # the hub client has a family of errors per layer below it
        raise _explain(error, repo, revision) from error


def _cached_commit(repo: str, revision: str) -> str | None:
    """Return the commit a branch or tag was at when it was last downloaded."""
    try:
        commit = _reference(repo, revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _reference(repo: str, revision: str) -> Path:
    """Return the path at which the hub client's cache keeps the commit of a branch."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    return folder / "refs" / revision


def snapshot(name: str, *, weights: bool, code: bool) -> Path:
    """Return the local folder with a pinned model's files; download what is missing.

    Args:
        name: `org/name@commit`.
        weights: download the safetensors weights too, not only configs and tokenizer.
        code: download Python files too, for models with custom code.

    Raises:
        ModelError: it cannot be downloaded, or is not cached and there is no network.
    """
    from huggingface_hub import snapshot_download

    repo, _, commit = name.partition("@")
    options: dict[str, Any] = {
        "allow_patterns": [*_SMALL, *(_WEIGHTS if weights else []), *(["*.py"] if code else [])],
        "ignore_patterns": _OTHER_LAYOUTS,
        "revision": commit,
        "etag_timeout": 10,
    }
    try:
        folder = Path(snapshot_download(repo, local_files_only=not hub_reachable(), **options))
        branch = _branches.get((repo, commit))
        if branch is not None and _cached_commit(repo, branch) != commit:
            # The client does not write this reference for a download by commit; without it, the
            # branch could not be resolved offline later.
            _reference(repo, branch).parent.mkdir(parents=True, exist_ok=True)
            _reference(repo, branch).write_text(commit, "utf-8")
        return folder
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise  # a full disk, no permission: reported as such by the caller
        raise _explain(error, repo, commit) from error
    except Exception as error:  # as above
        raise _explain(error, repo, commit) from error


def _explain(error: Exception, repo: str, revision: str) -> ModelError:
    """Translate the hub client's error into one of ours, with a hint."""
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return ModelError(
            f"{repo} is gated: request access on the hub",
            hint="accept its licence there, then run: hf auth login (or set HF_TOKEN)",
        )
    if kind == "RevisionNotFoundError":
        return ModelError(f"{repo} has no revision {revision}", hint="use a branch, tag or commit")
    if kind == "RepositoryNotFoundError":
        return ModelError(
            f"the hub has no model {repo}, or not for this token",
            hint="check the name; a private model needs a token that may read it: hf auth login, "
            "or HF_TOKEN",
        )
    first = (redact(str(error), shapes=True).strip() or kind).splitlines()[0][:300]
    return ModelError(
        f"could not download {repo} from the hub: {first}",
        hint="check the network, or use a local folder",
    )
