"""Publishing a checkpoint on the hub: its files, a model card with scores, and nothing local."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.gguf_models import refuse_gguf
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.older_readers import older_config, older_notes, older_tokenizer
from kdharness.harness.models.resolve import identity_of, naming_base
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.reports.eval_results import (
    EvalResultSpec,
    check_registered,
    parse_spec,
    result_files,
)
from kdharness.harness.reports.hub_card import hub_card, hub_id
from kdharness.harness.store import Store
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import read_json_object

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
FILES = (
    *WEIGHTS,
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*",
    "tekken.json",
    "chat_template.json",
    "*.jinja",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "LICENSE*",
)
"""What is published of a folder. Optimizer states, notes and logs stay."""
TEMPLATES = "additional_chat_templates/*.jinja"
"""Further chat templates of a tokenizer."""
_IMPORTED = re.compile(r"^\s*from\s+\.(\w+)\s+import\b", re.MULTILINE)
NAMES = ("_name_or_path", "name_or_path")
"""Where libraries note the place that a model was loaded from: dropped if it is local."""
CARD = "README.md"


@dataclass(frozen=True)
class Publication:
    """What is to be published: name in the repository -> a file, or its new contents."""

    repo: str
    files: dict[str, Path | bytes]
    notes: list[str] = field(default_factory=list)
    """What the publisher should know about them."""
    results: tuple[EvalResultSpec, ...] = ()
    """Which of them are listed by which benchmarks of the hub."""

    @property
    def card(self) -> str:
        """The model card."""
        part = self.files[CARD]
        return part.decode() if isinstance(part, bytes) else part.read_text("utf-8")

    @property
    def eval_results(self) -> dict[str, str]:
        """The files for leaderboards of the hub: name -> text."""
        return {
            name: part.decode()
            for name, part in self.files.items()
            if name.startswith(f"{EVAL_RESULTS_FOLDER}/") and isinstance(part, bytes)
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return name and size of each file."""
        return [
            {"file": name, "bytes": len(part) if isinstance(part, bytes) else part.stat().st_size}
            for name, part in self.files.items()
        ]


def prepare(
    paths: Paths,
    name: str,
    repo: str,
    *,
    merged: bool = False,
    trust_remote_code: bool = False,
    results: Sequence[str] = (),
    percent: bool = False,
) -> Publication:
    """Collect what is published of a checkpoint, without any network access.

    Args:
        paths: the home.
        name: a stored checkpoint.
        repo: `org/name` on the hub.
        merged: publish an adapter merged into its base.
        trust_remote_code: whether the base's own code may run to merge it.
        results: scores for leaderboards of the hub, each as `BENCH:METRIC=ORG/DATASET:TASK`.
        percent: write those as percent.

    Raises:
        ConfigError: not a hub id, no such checkpoint, an adapter whose base is not on the hub, a
            score that there is not or that a leaderboard should not have.
        ModelError: its weights are gone or other ones by now, or a file names a local path or
            holds a secret.
    """
    named = split_hub_name(repo)
    if named is None or named[1] is not None:
        raise ConfigError(f"{repo[:200]!r} is not a hub id", hint="hub ids look like org/name")
    specs = tuple(parse_spec(text) for text in results)
    with Store(paths.store) as store:
        checkpoint = store.checkpoint(name) or model_checkpoint(paths, name)
        refuse_gguf(checkpoint.path)
        folder = Path(checkpoint.path) if checkpoint.path else None
        if folder is None or not folder.is_dir():
            raise ModelError(
                f"the weights of {name} are not on this machine", hint="publish where they are"
            )
        if merged and not is_adapter(folder):
            raise ConfigError(f"{name} is not an adapter: leave out --merged")
        if merged:
            target = paths.models / f"merged-{checkpoint.id[:16]}"
            if not target.is_dir():
                merge = resolve(TOOLS, "merge_adapter", "tool")
                merge(name, str(target), paths, trust_remote_code=trust_remote_code)
            folder = target
        files: dict[str, Path | bytes] = {}
        for path in published_files(folder):
            files[path.relative_to(folder).as_posix()] = _cleaned(path, store, paths)
        if not any(fnmatch(file, "*.safetensors") for file in files):
            raise ModelError(f"{name} has no safetensors weights", where=str(folder))
        own = checkpoint.path
        if checkpoint.weights and identity_of(own, paths, store).id != checkpoint.id:
            raise ModelError(
                f"the model has changed since {name} was stored: its scores are those of another",
                where=own,
                hint="evaluate it again (kdharness eval --ckpt); earlier scores are kept",
            )
        card = hub_card(store, paths, checkpoint, adapter=is_adapter(folder))
        files[CARD] = card.encode()
        if specs:
            scores = leaderboard(store, paths, checkpoints=[checkpoint.id])
            files |= result_files(specs, scores, repo, percent=percent)
    config = folder / "config.json"
    known = read_json_object(config, config.name, ModelError) if "config.json" in files else {}
    return Publication(repo, files, older_notes(known), specs)


def published_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that are published, sorted.

    Code of its own brings the modules beside it that it imports: without them it cannot be loaded.
    """
    found = {
        path
        for path in folder.iterdir()
        if any(fnmatch(path.name, pattern) for pattern in FILES) and path.is_file()
    }
    found |= {path for path in folder.glob(TEMPLATES) if path.is_file()}
    unread = [path for path in found if path.suffix == ".py"]
    while unread:
        text = unread.pop().read_text("utf-8", "replace")
        for name in _IMPORTED.findall(text):
            path = folder / f"{name}.py"
            if path not in found and path.is_file():
                found.add(path)
                unread.append(path)
    return sorted(found)


def _cleaned(path: Path, store: Store, paths: Paths) -> Path | bytes:
    """Return a file as it is, or its contents without the local paths that libraries note.

    Raises:
        ConfigError, ModelError: see `prepare`.
    """
    if path.suffix == ".safetensors":
        return path
    if path.suffix not in (".json", ".jinja", ".txt", ".py"):
        return path
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            "this file is not UTF-8, so it cannot be searched for keys",
            where=str(path),
            hint="convert it, or remove it from the model's folder",
        ) from error
    if redact(text) != text:
        raise ModelError("this file holds a key of this environment", where=str(path))
    if path.suffix != ".json" or path.name in ("tokenizer.json", "vocab.json"):
        return path
    values = read_json_object(path, path.name, ModelError)
    before = json.dumps(values)
    if path.name == "adapter_config.json":
        values["base_model_name_or_path"] = _base_on_hub(path.parent, store, paths)
    for key in NAMES:
        if key in values and split_hub_name(str(values[key])) is None:
            del values[key]
    older = {"config.json": older_config, "tokenizer_config.json": older_tokenizer}
    values = older.get(path.name, dict)(values)
    for place, value in _texts(values):
        if value.startswith(("/", "~/", "file:")) and (os.sep in value[1:] or Path(value).exists()):
            raise ModelError(
                f"{place} of {path.name} names a local path: {value}",
                where=str(path),
                hint="remove it, or give a hub id",
            )
    if json.dumps(values) == before:
        return path
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _texts(values: object, field: str = "") -> Iterable[tuple[str, str]]:
    """Yield (field, text) of every text in plain data but templates, which have lines."""
    if isinstance(values, str) and "\n" not in values:
        yield field, values
    if isinstance(values, Mapping):
        for key, part in values.items():
            if key not in ("added_tokens_decoder", "additional_special_tokens"):
                yield from _texts(part, f"{field}.{key}" if field else str(key))
    if isinstance(values, list):
        for part in values:
            yield from _texts(part, field)


def _base_on_hub(folder: Path, store: Store, paths: Paths) -> str:
    """Return the hub id of an adapter's base."""
    with naming_base(folder) as base:
        if split_hub_name(base) is not None and not Path(base).exists():
            return base.partition("@")[0]
        known = model_checkpoint(paths, base)
    found = hub_id(known)
    if not found:
        raise ConfigError(
            f"the adapter's base is a local model ({known.name}): others could not load it",
            hint="publish it merged (--merged), or publish the base first and name it by hub id",
        )
    return found


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
        new = {n: part for n, part in publication.files.items() if not _same(part, present.get(n))}
        stale = [n for n in present if _is_of_the_model(n) and n not in publication.files]
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
    return any(fnmatch(name, pattern) for pattern in FILES if pattern != "LICENSE*") or fnmatch(
        name, "adapter_model.bin"
    )


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
