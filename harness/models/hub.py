"""Models of the hub, pinned: a name and a branch mean another model tomorrow, a commit does not.

A hub model is resolved to the commit it is at, loaded from that commit's files, and known by it.
Its files come into the hub client's own cache and are read from there as a local folder, so that
they pass the same checks as any other folder.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from kdharness.harness.assets import hub_reachable
from kdharness.harness.errors import ModelError
from kdharness.harness.util.redact import redact

_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]{0,200}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_WEIGHTS = ["*.safetensors"]
# Weights again, in layouts that transformers does not read.
_branches: dict[tuple[str, str], str] = {}
"""(repository, commit) -> the branch or tag that this process found it under."""
_OTHER_LAYOUTS = ["*/*.safetensors", "consolidated*", "original/*", "metal/*", "onnx/*"]


def split_hub_name(text: str) -> tuple[str, str | None] | None:
    """(repository, revision or None) of `org/name` or `org/name@revision`; None for other text."""
    found = _NAME.fullmatch(text)
    return (found["repo"], found["revision"]) if found else None


def pinned(text: str) -> str:
    """`org/name@commit` of a hub name: the commit its revision (by default main) is at now.

    Raises:
        ModelError: no such model or revision, no access, or no network and no cached copy.
    """
    named = split_hub_name(text)
    if named is None:
        raise ModelError(f"{text[:200]!r} is not a hub id", hint="hub ids look like org/name")
    repo, revision = named
    if revision and _COMMIT.fullmatch(revision):
        return text
    commit = _commit(repo, revision or "main")
    _branches[repo, commit] = revision or "main"
    return f"{repo}@{commit}"


def short_name(name: str) -> str:
    """A pinned name as people read it: seven digits of the commit."""
    repo, at, commit = name.partition("@")
    return f"{repo}{at}{commit[:7]}"


@cache
def _commit(repo: str, revision: str) -> str:
    if not hub_reachable():
        known = _cached_commit(repo, revision)
        if known is None:
            raise ModelError(
                f"the hub cannot be reached, and {repo} is not in its cache on this machine",
                hint="check the network (HF_ENDPOINT, HTTPS_PROXY), or give a local folder",
            )
        return known
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(repo, revision=revision, timeout=30).sha)
    except Exception as error:  # the hub client has a family of errors for each layer below
        raise _explain(error, repo, revision) from error


def _cached_commit(repo: str, revision: str) -> str | None:
    """The commit a branch or tag was at when it was last downloaded."""
    try:
        found = _reference(repo, revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return found if _COMMIT.fullmatch(found) else None


def _reference(repo: str, revision: str) -> Path:
    """Where the hub client's cache keeps the commit of a branch."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    return folder / "refs" / revision


def snapshot(name: str, *, weights: bool, code: bool) -> Path:
    """The local folder with a pinned model's files, downloaded where they are not there yet.

    Args:
        name: `org/name@commit`.
        weights: the safetensors weights too, not only configs and tokenizer.
        code: Python files too, for models that run code of their own.

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
            # Asked for by commit, the client leaves this out; without it, later work without a
            # network would not know which commit the branch was at.
            _reference(repo, branch).parent.mkdir(parents=True, exist_ok=True)
            _reference(repo, branch).write_text(commit, "utf-8")
        return folder
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise  # a full disk, no permission: said as such by whoever catches those
        raise _explain(error, repo, commit) from error
    except Exception as error:  # as above
        raise _explain(error, repo, commit) from error


def _explain(error: Exception, repo: str, revision: str) -> ModelError:
    """The hub client's error as one of ours, with what to do."""
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return ModelError(
            f"access to {repo} must be asked for on the hub",
            hint="accept its licence there, then: hf auth login (or set HF_TOKEN)",
        )
    if kind == "RevisionNotFoundError":
        return ModelError(f"{repo} has no revision {revision}", hint="use a branch, tag or commit")
    if kind == "RepositoryNotFoundError":
        token = "" if os.environ.get("HF_TOKEN") else "; a private one needs HF_TOKEN"
        return ModelError(f"the hub has no model {repo}", hint=f"check the name{token}")
    first = (redact(str(error), shapes=True).strip() or kind).splitlines()[0][:300]
    return ModelError(
        f"could not get {repo} from the hub: {first}",
        hint="check the network, or give a local folder",
    )
