"""Publishing a checkpoint on the hub: its files, a model card with scores, and nothing local."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub.constants import EVAL_RESULTS_FOLDER

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
from kdharness.harness.reports.eval_results import EvalResultSpec, parse_spec, result_files
from kdharness.harness.reports.hub_card import hub_card, hub_source
from kdharness.harness.store import Store
from kdharness.harness.util.filesystem import exists
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
    "*processor_config.json",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
)
"""What is published of a folder. Optimizer states, notes and logs stay."""
TERMS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
"""The terms of a model: published too, but never deleted from a repository."""
KINDS = frozenset({".json", ".jinja", ".model", ".py", ".safetensors", ".tiktoken", ".txt", ".v3"})
"""What ends the names of such files: `tokenizer-notes.md` is none."""
MAPPED = ("config.json", "tokenizer_config.json", "*processor_config.json")
"""Configs that may name code of a model's own."""
TEMPLATES = "additional_chat_templates/*.jinja"
"""Further chat templates of a tokenizer."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_CLASS = re.compile(r"(\w+)\.\w+")
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
    license: str = "",
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
        license: the model's license as the hub spells it, such as `apache-2.0`.

    Raises:
        ConfigError: not a hub id or license, no such checkpoint, an adapter whose base is not on
            the hub, a score that there is not or that a leaderboard should not have.
        ModelError: its weights are gone or other ones by now, or a file names a local path or
            holds a secret.
    """
    named = split_hub_name(repo)
    if named is None or named[1] is not None:
        raise ConfigError(f"{repo[:200]!r} is not a hub id", hint="hub ids look like org/name")
    if license and not _LICENSE.fullmatch(license):
        raise ConfigError(
            f"{license[:60]!r} is not a license of the hub",
            where="--license",
            hint="write it as https://huggingface.co/docs/hub/repositories-licenses does: "
            "apache-2.0, mit, llama3.2, other",
        )
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
            files[path.relative_to(folder).as_posix()] = _cleaned(path, paths)
        if not any(fnmatch(file, "*.safetensors") for file in files):
            raise ModelError(f"{name} has no safetensors weights", where=str(folder))
        own = checkpoint.path
        if checkpoint.weights and identity_of(own, paths, store).id != checkpoint.id:
            raise ModelError(
                f"the model has changed since {name} was stored: its scores are those of another",
                where=own,
                hint="evaluate it again (kdharness eval --ckpt); earlier scores are kept",
            )
        card = hub_card(store, paths, checkpoint, adapter=is_adapter(folder), license=license)
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
        if (is_model_file(path.name) or _is_of_terms(path.name)) and path.is_file()
    }
    found |= {path for path in folder.glob(TEMPLATES) if path.is_file()}
    found |= {path for path in map(folder.joinpath, _own_code(folder)) if path.is_file()}
    unread = [path for path in found if path.suffix == ".py"]
    while unread:
        text = unread.pop().read_text("utf-8", "replace")
        for name in _IMPORTED.findall(text):
            path = folder / f"{name}.py"
            if path not in found and path.is_file():
                found.add(path)
                unread.append(path)
    return sorted(found)


def is_model_file(name: str) -> bool:
    """Return whether a file of a model folder is published with it, by its name."""
    return Path(name).suffix in KINDS and any(fnmatch(name, pattern) for pattern in FILES)


def _is_of_terms(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in TERMS)


def _own_code(folder: Path) -> set[str]:
    """Return the files of a model's own code that its configs name in `auto_map`."""
    names: set[str] = set()
    for config in (path for pattern in MAPPED for path in folder.glob(pattern)):
        classes = read_json_object(config, config.name, ModelError).get("auto_map")
        for value in classes.values() if isinstance(classes, Mapping) else ():
            # A tokenizer has two classes: the slow and the fast one.
            for name in value if isinstance(value, list) else [value]:
                # Code of another repository is REPOSITORY--module.Class.
                if isinstance(name, str) and (own := _CLASS.fullmatch(name)):
                    names.add(f"{own[1]}.py")
    return names


def _cleaned(path: Path, paths: Paths) -> Path | bytes:
    """Return a file as it is, or its contents without the local paths that libraries note.

    Raises:
        ConfigError, ModelError: see `prepare`.
    """
    if path.suffix == ".safetensors":
        return path
    terms = _is_of_terms(path.name)
    if path.suffix not in (".json", ".jinja", ".txt", ".py") and not terms:
        return path
    try:
        text = path.read_text("utf-8", errors="replace" if terms else None)
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
        values["base_model_name_or_path"], revision = _base_on_hub(path.parent, paths)
        values["revision"] = revision or values.get("revision")
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


def _base_on_hub(folder: Path, paths: Paths) -> tuple[str, str | None]:
    """Return the hub id of an adapter's base, and the revision that it was trained on."""
    with naming_base(folder) as base:
        named = split_hub_name(base)
        if named is None or exists(Path(base), folder=True):
            known = model_checkpoint(paths, base)
        else:
            with Store(paths.store) as store:
                stored = store.checkpoint(base)
            # What was made here of a hub model has a name like one.
            if stored is None or not stored.path or hub_source(stored):
                return named
            known = stored
    found = hub_source(known)
    if found is None:
        raise ConfigError(
            f"the adapter's base is a local model ({known.name}): others could not load it",
            hint="publish it merged (--merged), or publish the base first and name it by hub id",
        )
    return found
