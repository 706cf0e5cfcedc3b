"""A model's identity by content: its weights, and its interface from chats to tokens.

There are two hashes, because different things depend on them. The weights decide which base an
adapter fits, which models a merge interpolates, and whose distributions a teacher cache contains.
Answers also depend on tokenizer, chat template, special tokens and generation config: a fixed
template leaves the weights unchanged and changes every answer.

Every byte of every tensor is read (BLAKE3, in threads: 5 GB/s from memory on two cores, and at
disk speed from a disk). Digests are cached by a file's path, size, times and inode, so that
identifying an unchanged folder only takes a few calls of `stat`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdharness.harness.assets import file_sha256
from kdharness.harness.errors import AssetError, KDHarnessError, ModelError
from kdharness.harness.models.adapters import no_base_error
from kdharness.harness.models.validate import tensor_entries, weight_files
from kdharness.harness.types import digest
from kdharness.harness.util.process import usable_cores
from kdharness.harness.util.untrusted import FILE_BYTES, parse_json, read_json_object

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read)."""

INTERFACE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_INTERFACE_PATTERNS = ("*.tiktoken", "additional_chat_templates/*.jinja")
# Fields that saving changes with the path, or from one release of a library to the next.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "base_model_name_or_path",
        "peft_version",
        "tokenizer_file",
        "special_tokens_map_file",
        "_from_model_config",
    }
)
CHUNK = 8 * 2**20
PROGRESS_SECONDS = 0.2
"""Seconds between progress reports."""
RACY_SECONDS = 2.0
"""A file younger than this may change again without a change of its times."""


@dataclass(frozen=True)
class ModelIdentity:
    """The two content hashes of a model folder, and their combined hash."""

    weights: str
    interface: str

    @property
    def id(self) -> str:
        """The id of its checkpoint: what its answers and scores depend on."""
        return digest("model", self.weights, self.interface)


class Memory(Protocol):
    """A cache of file digests."""

    def file_digest(self, path: str, stamp: str) -> str | None:
        """Return the digests stored for this path and stamp."""
        ...

    def keep_file_digest(self, path: str, stamp: str, digests: str) -> None:
        """Store digests; a newer stamp of the same path replaces an older one."""
        ...


class Forgetful:
    """A cache that stores nothing."""

    def file_digest(self, path: str, stamp: str) -> str | None:
        """Return None."""
        return None

    def keep_file_digest(self, path: str, stamp: str, digests: str) -> None:
        """Do nothing."""


def identify(
    folder: str | os.PathLike[str],
    memory: Memory | None = None,
    *,
    base: Callable[[str], ModelIdentity] | None = None,
    progress: Progress | None = None,
) -> ModelIdentity:
    """Identify a model folder by its content, independent of its path and of how it is sharded.

    Args:
        folder: a folder that `save_pretrained` wrote: a full model, or a PEFT adapter.
        memory: cache of file digests.
        base: identifies an adapter's base model; needed for adapters only.
        progress: called with the bytes read, if any have to be.

    Raises:
        AssetError: no safetensors weights in the folder.
        ModelError: damaged files, or an adapter whose base cannot be identified.
    """
    root, keep = Path(folder), memory or Forgetful()
    base_identity = None
    if (root / "adapter_config.json").exists():
        named = _object(root / "adapter_config.json").get("base_model_name_or_path")
        if base is None or not isinstance(named, str) or not named:
            raise no_base_error(root)
        base_identity = base(named)
    return ModelIdentity(
        _weights(root, keep, base_identity.weights if base_identity else "", progress),
        _interface(root, keep, base_identity.interface if base_identity else ""),
    )


def _weights(root: Path, memory: Memory, base: str, progress: Progress | None) -> str:
    files = weight_files(root)
    if not files:
        raise AssetError(
            f"no safetensors weights in {root}",
            hint="pickled weights are never loaded; convert them once with save_pretrained",
        )
    configs = {
        name: _stable(_object(root / name))
        for name in ("config.json", "adapter_config.json")
        if (root / name).exists()
    }
    # The answers of a model with custom code depend on that code.
    code = {path.name: _bytes_digest(path, memory) for path in sorted(root.glob("*.py"))}
    tensors = sorted(_tensors(files, memory, progress))
    return digest("weights", configs, code, tensors, base)


def _tensors(
    files: Iterable[Path], memory: Memory, progress: Progress | None
) -> list[tuple[str, str, list[int], str]]:
    """Return (name, stored dtype, shape, hash of the bytes) of every tensor in some files."""
    tensors: list[tuple[str, str, list[int], str]] = []
    unread: list[Path] = []
    for path in files:
        known = memory.file_digest(str(path.resolve()), _stamp(path))
        if known is None:
            unread.append(path)
        else:
            tensors += [
                (name, dtype, shape, value) for name, dtype, shape, value in json.loads(known)
            ]
    total, done = sum(path.stat().st_size for path in unread), 0
    for path in unread:
        before = _stamp(path)

        def report(read: int, start: int = done) -> None:
            if progress is not None:
                progress(start + read, total)

        rows = hash_tensors(path, report)
        done += path.stat().st_size
        _remember(memory, path, before, json.dumps(rows))
        tensors += rows
    return tensors


def hash_tensors(
    path: Path, progress: Callable[[int], None] | None = None
) -> list[tuple[str, str, list[int], str]]:
    """Hash each tensor of a safetensors file.

    Returns:
        (name, stored type, shape, BLAKE3 of its bytes in hex) of each, in the file's own order.

    Raises:
        ModelError: a damaged header, or a file that ends before its tensors do.
    """
    import blake3

    entries = tensor_entries(path)
    descriptor = os.open(path, os.O_RDONLY)
    read, lock, stopped = 0, threading.Lock(), threading.Event()

    def hash_one(name: str) -> str:
        nonlocal read
        entry, hasher = entries[name], blake3.blake3()
        position = entry.begin
        while position < entry.end and not stopped.is_set():
            part = os.pread(descriptor, min(CHUNK, entry.end - position), position)
            if not part:
                raise ModelError(f"the tensor {name[:120]!r} is truncated", where=str(path))
            hasher.update(part)
            position += len(part)
            with lock:
                read += len(part)
        return hasher.hexdigest(length=16)

    try:
        # Threads share the file: hashing and reading both release the GIL.
        with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
            hashed = [pool.submit(hash_one, name) for name in entries]
            try:
                waiting: set[Future[str]] = set(hashed)
                while waiting:
                    done, waiting = wait(waiting, PROGRESS_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if progress is not None:
                        # Call it in this thread: the callback may not be thread-safe.
                        progress(read)
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            digests = [future.result() for future in hashed]
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    finally:
        os.close(descriptor)
    return [
        (name, entry.dtype, list(entry.shape), value)
        for (name, entry), value in zip(entries.items(), digests, strict=True)
    ]


def interface_files(folder: Path) -> list[Path]:
    """Return the files of a folder that define how chats become tokens and where answers end."""
    named = [folder / name for name in INTERFACE_FILES]
    more = [path for pattern in _INTERFACE_PATTERNS for path in sorted(folder.glob(pattern))]
    return [path for path in [*named, *more] if path.is_file()]


def _interface(root: Path, memory: Memory, base: str) -> str:
    made = {
        path.relative_to(root).as_posix(): _bytes_digest(path, memory)
        for path in interface_files(root)
    }
    return digest("interface", made, base)


def _bytes_digest(path: Path, memory: Memory) -> str:
    """Hash a file; JSON is hashed by its content, without the fields that saving changes."""
    stamp = _stamp(path)
    known = memory.file_digest(str(path.resolve()), stamp)
    if known is not None:
        return known
    import blake3

    try:
        if path.stat().st_size > FILE_BYTES:
            raise ModelError(f"larger than {FILE_BYTES:,} bytes", where=str(path))
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if path.suffix == ".json":
        try:
            value = parse_json(raw)
            if isinstance(value, dict):
                raw = json.dumps(_stable(value), sort_keys=True).encode()
        except ValueError:
            pass  # loading the file reports what is wrong with it
    hashed: str = blake3.blake3(raw).hexdigest(length=16)
    _remember(memory, path, stamp, hashed)
    return hashed


def file_identity(path: Path, memory: Memory) -> str:
    """Return the sha256 of a file in hex, cached as a model's other digests are.

    Raises:
        ModelError: it cannot be read.
    """
    stamp = _stamp(path)
    known = memory.file_digest(str(path.resolve()), stamp)
    if known is None:
        try:
            known = file_sha256(path)
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
        _remember(memory, path, stamp, known)
    return known


def _remember(memory: Memory, path: Path, before: str, value: str) -> None:
    """Cache a digest, unless the file has changed since or is so new that it still may."""
    stat = path.stat()
    young = time.time() - max(stat.st_mtime, stat.st_ctime) < RACY_SECONDS
    if not young and _stamp(path) == before:
        memory.keep_file_digest(str(path.resolve()), before, value)


def _stamp(path: Path) -> str:
    """Return size, times and inode. The change time reveals a file whose mtime was restored."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"


def _object(path: Path) -> dict[str, object]:
    error: type[KDHarnessError] = ModelError
    return read_json_object(path, path.name, error)


def _stable(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in _VOLATILE}
