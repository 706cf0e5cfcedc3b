"""Validation of untrusted model folders before any library reads them.

A header can claim anything: exabytes of tensors, a million layers, a shard at `../../x`.
Libraries allocate first and complain later, or never. Here such claims are checked against the
files: a folder must not claim more than it contains. Pickled weights are refused, whatever their
file name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.harness.errors import ModelError
from kdharness.harness.models.adapters import no_base_error
from kdharness.harness.util.untrusted import parse_json_object, read_json_object

HEADER_BYTES = 100 * 2**20
"""The limit of the safetensors format itself."""
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "C64": 64,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}
MARGIN, MARGIN_QUANTISED = 4, 16
"""How many times more elements a config may claim than exist: unused fields, packed bits."""
SLACK = 2**18
LAYERS = 16
"""Up to this many layers are always accepted: some models share one layer's weights."""
_LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_PRODUCTS = (
    ("vocab_size", "hidden_size"),
    ("vocab_size", "n_embd"),
    ("hidden_size", "intermediate_size"),
    ("hidden_size", "num_attention_heads", "head_dim"),
    ("hidden_size", "num_key_value_heads"),
    ("hidden_size", "num_local_experts"),
    ("hidden_size", "num_experts"),
    ("hidden_size", "moe_intermediate_size"),
    ("hidden_size",),
    ("n_embd", "n_inner"),
    ("num_hidden_layers", "hidden_size", "intermediate_size"),
    ("num_hidden_layers", "hidden_size", "hidden_size"),
    ("n_layer", "n_embd", "n_embd"),
    ("num_experts", "hidden_size", "moe_intermediate_size"),
    ("num_local_experts", "hidden_size", "intermediate_size"),
)


def validate_model_dir(folder: Path) -> None:
    """Refuse a model folder whose files contain less than they claim.

    Raises:
        ModelError: damaged or hostile, with the file and what is wrong with it.
    """
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        _check_adapter(folder, read_json_object(adapter, "adapter_config.json", ModelError))
    if (folder / INDEX).exists():
        _check_index(folder)
    elements = tensors = 0
    for path in sorted(folder.glob("*.safetensors")):
        for shape in tensor_shapes(path).values():
            elements += math.prod(shape)
            tensors += 1
    if (folder / "config.json").exists():
        config = read_json_object(folder / "config.json", "config.json", ModelError)
        if tensors and not adapter.exists():
            check_config(config, elements, tensors, str(folder / "config.json"))


def _check_adapter(folder: Path, config: Mapping[str, object]) -> None:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise no_base_error(folder)
    if not (folder / ADAPTER).is_file():
        raise ModelError(
            "this adapter has no adapter_model.safetensors; pickled weights are never loaded",
            where=str(folder),
            hint="convert it once with peft's save_pretrained",
        )


def _check_index(folder: Path) -> set[str]:
    """Return the shards an index names: safetensors files of this folder only."""
    where = str(folder / INDEX)
    table = read_json_object(folder / INDEX, "the index of the weights", ModelError)
    shards = table.get("weight_map")
    if not isinstance(shards, dict):
        raise ModelError("the index has no weight_map", where=where)
    names = {str(shard)[:300] for shard in shards.values()}
    for name in names:
        plain = Path(name).name == name and name not in ("", ".", "..") and "\\" not in name
        if not plain or not name.endswith(".safetensors") or "\0" in name:
            raise ModelError(
                f"the shard {name[:120]!r} is not a safetensors file of this folder", where=where
            )
        if not (folder / name).is_file():
            raise ModelError(f"the shard {name[:120]!r} is missing", where=where)
    return names


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file: its stored dtype, shape, and byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Read a safetensors header: name -> entry, with offsets from the start of the file.

    Raises:
        ModelError: a header that is damaged or claims more than the file contains.
    """
    where = str(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(HEADER_BYTES, size - 8):
                raise ModelError(
                    f"its header claims {length:,} bytes, but the file has {size:,}", where=where
                )
            raw = stream.read(length)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=where) from error
    try:
        header = parse_json_object(raw)
    except ValueError as error:
        raise ModelError(f"its header is damaged: {error}", where=where) from error
    entries = {
        name: _entry(entry, name, 8 + length, where)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if entry.begin < end:
            raise ModelError(f"the tensor {name[:120]!r} overlaps another one", where=where)
        end = max(end, entry.end)
    if end > size:
        raise ModelError(
            f"its tensors need {end - 8 - length:,} bytes, but the file has {size - 8 - length:,}",
            where=where,
            hint="is the download complete?",
        )
    return entries


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a safetensors file holds.

    Raises:
        ModelError: as `tensor_entries`.
    """
    return {name: entry.shape for name, entry in tensor_entries(path).items()}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that loading a folder reads, sorted by name.

    An adapter's own file; else `model.safetensors`; else the shards of its index; else every
    safetensors file. Copies in another layout (`consolidated.safetensors`) are ignored.

    Raises:
        ModelError: an index that names files outside the folder or missing ones.
    """
    if (folder / "adapter_config.json").exists():
        return [path for path in [folder / ADAPTER] if path.is_file()]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).exists():
        return sorted({folder / name for name in _check_index(folder)})
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def _entry(entry: object, name: str, start: int, where: str) -> TensorEntry:
    shape, kind, offsets = (
        (entry.get("shape"), entry.get("dtype"), entry.get("data_offsets"))
        if isinstance(entry, dict)
        else (None, None, None)
    )
    valid = (
        isinstance(shape, list)
        and all(type(part) is int and part >= 0 for part in shape)
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(part) is int and part >= 0 for part in offsets)
        and isinstance(kind, str)
    )
    if not valid or shape is None or offsets is None:
        raise ModelError(f"the tensor {name[:120]!r} has an invalid header entry", where=where)
    begin, end = offsets
    bits = BITS.get(str(kind))
    if end < begin or (bits and math.prod(shape) * bits != (end - begin) * 8):
        raise ModelError(
            f"size mismatch in the tensor {name[:120]!r}: {max(0, end - begin):,} bytes for shape "
            f"{shape} of {kind}"[:400],
            where=where,
        )
    return TensorEntry(str(kind), tuple(shape), start + begin, start + end)


def check_config(config: Mapping[str, object], elements: int, tensors: int, where: str) -> None:
    """Refuse a config, which the library allocates by, that claims more than the weights hold.

    Raises:
        ModelError: with the field, its value, and what the weights contain.
    """
    most = elements * (MARGIN_QUANTISED if config.get("quantization_config") else MARGIN) + SLACK
    for part in _mappings(config):
        for field in _LAYER_FIELDS:
            layers = part.get(field)
            if isinstance(layers, int) and layers > max(tensors, LAYERS):
                raise ModelError(
                    f"{field} is {_figure(layers)}, but the weights have only {tensors} tensors",
                    where=where,
                )
        for fields in _PRODUCTS:
            numbers = [part.get(field) for field in fields]
            if not all(isinstance(number, int) for number in numbers):
                continue
            wanted = math.prod(abs(number) for number in numbers if isinstance(number, int))
            if wanted > most:
                raise ModelError(
                    f"{' × '.join(fields)} is {_figure(wanted)}, but the weights have only "
                    f"{elements:,} elements",
                    where=where,
                )


def _figure(number: int) -> str:
    return f"{number:,}" if abs(number) < 10**15 else "absurdly large"


def _mappings(config: Mapping[str, object]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _mappings(value)
