"""Hostile model folders: claims that contradict the files, and invalid paths."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.errors import ConfigError, KDHarnessError, ModelError
from kdharness.harness.models.identity import identify
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.models.validate import tensor_shapes, validate_model_dir
from kdharness.harness.paths import Paths
from support.mutations import MALFORMED_FILES, corrupted, error_of, mutated

FAST = settings(settings.get_profile("hostile"), max_examples=120)


def loading_error(folder: Path, paths: Paths) -> KDHarnessError | None:
    """Return the first loading error, if any."""
    for load in (load_config_of, load_tokenizer, load_model):
        error = error_of(lambda load=load: load(str(folder), paths))
        if error is not None:
            return error
    return None


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
CLAIMS = {
    "header of 2^60 bytes": header({"a": TENSOR}, bytes(16), 1 << 60),
    "header of 2^64 - 1 bytes": header({"a": TENSOR}, bytes(16), (1 << 64) - 1),
    "header past the file": header({"a": TENSOR}, bytes(16), 500),
    "tensor of 2^60 bytes": header(
        {"a": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}}, bytes(16)
    ),
    "offsets outside": header({"a": {**TENSOR, "data_offsets": [1000, 1016]}}, bytes(16)),
    "offsets the wrong way": header({"a": {**TENSOR, "data_offsets": [16, 0]}}, bytes(16)),
    "overlap": header({"a": TENSOR, "b": {**TENSOR, "data_offsets": [8, 24]}}, bytes(24)),
    "negative shape": header({"a": {**TENSOR, "shape": [-2, -2]}}, bytes(16)),
    "negative offset": header({"a": {**TENSOR, "data_offsets": [-16, 0]}}, bytes(16)),
    "shape of texts": header({"a": {**TENSOR, "shape": ["2", "2"]}}, bytes(16)),
    "shape that is true": header({"a": {**TENSOR, "shape": [True, 4]}}, bytes(16)),
    "shape that overflows": header({"a": {**TENSOR, "shape": [1 << 63, 1 << 63, 4]}}, bytes(16)),
    "wrong size": header({"a": {**TENSOR, "shape": [3, 3]}}, bytes(16)),
    "no entry": header({"a": None}, bytes(16)),
    "a list": header([TENSOR], bytes(16)),
    "recursion": header(b'{"a":' * 50_000),
    "recursion that fits": header(b'{"__metadata__":' + b"[" * 300 + b"]" * 300 + b"}"),
    "long number": header(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "empty": b"",
    "short": b"\x01\x00",
    "pickle": pickle.dumps({"a": 1}),
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_malformed_safetensors_are_rejected(name: str, model_folder: Path, paths: Paths) -> None:
    (model_folder / "model.safetensors").write_bytes(CLAIMS[name])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(model_folder), paths)
    error_of(lambda: identify(model_folder))


@FAST
@given(
    entries=mutated(
        {
            "__metadata__": {"format": "pt"},
            "a": TENSOR,
            "b": {"dtype": "I8", "shape": [4], "data_offsets": [16, 20]},
        }
    )
)
def test_mutated_safetensors_headers(entries: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header(entries, bytes(20)))
    if error_of(lambda: tensor_shapes(path)) is None:
        # safetensors must read what passes our check without harm.
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as opened:
                for key in opened.keys():  # noqa: SIM118
                    assert opened.get_tensor(key).nbytes <= 20
        except (SafetensorError, TypeError, AttributeError):
            pass


CONFIGS: dict[str, dict[str, Any]] = {
    "a million layers": {"num_hidden_layers": 10**6},
    "10^30 layers": {"num_hidden_layers": 10**30},
    "a vocabulary of 10^12": {"vocab_size": 10**12},
    "wide as a planet": {"hidden_size": 10**9},
    "10^9 heads": {"num_attention_heads": 10**9, "head_dim": 10**6},
    "an inner size of 10^12": {"intermediate_size": 10**12},
    "one layer more": {"num_hidden_layers": 5},
    "as much as the margins allow": {
        "num_hidden_layers": 16,
        "hidden_size": 512,
        "intermediate_size": 64,
    },
    "layers of text": {"num_hidden_layers": "many"},
    "negative sizes": {"hidden_size": -32},
    "no model type": {"model_type": "no-such-thing"},
    "a type that is a list": {"model_type": ["llama"]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_model_configs_contradicting_the_weights_are_rejected(
    name: str, model_folder: Path, paths: Paths
) -> None:
    config = json.loads((model_folder / "config.json").read_text("utf-8"))
    (model_folder / "config.json").write_text(json.dumps(config | CONFIGS[name]), "utf-8")
    assert isinstance(error_of(lambda: load_model(str(model_folder), paths)), ModelError)


@pytest.mark.slow
@settings(FAST, max_examples=25)
@given(data=st.data())
def test_mutated_model_configs(
    data: st.DataObject, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_teacher, folder)
    name = data.draw(st.sampled_from(["config.json", "generation_config.json"]))
    config = json.loads((folder / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps(data.draw(mutated(config))), "utf-8")
    error_of(lambda: load_model(str(folder), paths))


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_model_files_are_rejected(raw: bytes, model_folder: Path, paths: Paths) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        original = (model_folder / name).read_bytes()
        (model_folder / name).write_bytes(raw)
        loading_error(model_folder, paths)
        (model_folder / name).write_bytes(original)
    (model_folder / "config.json").write_bytes(raw)
    assert error_of(lambda: load_model(str(model_folder), paths)) is not None
    error_of(lambda: identify(model_folder))


@settings(FAST, max_examples=25)
@given(data=st.data())
def test_corrupted_tokenizers(
    data: st.DataObject, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_teacher, folder)
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    (folder / name).write_bytes(data.draw(corrupted((folder / name).read_bytes())))
    error_of(lambda: load_tokenizer(str(folder), paths))


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "/tmp/outside.safetensors",
        "..",
        "",
        ".",
        "a/b",
        "sub/../../x.safetensors",
        "model.bin",
        "pytorch_model.bin",
        "..\\x.safetensors",
        "x\x00.safetensors",
        "missing.safetensors",
        None,
        5,
        ["a"],
        {"a": 1},
    ],
)
def test_shard_paths_outside_the_folder_are_rejected(
    shard: Any, model_folder: Path, paths: Paths
) -> None:
    shutil.copy(model_folder / "model.safetensors", model_folder.parent / "outside.safetensors")
    (model_folder / "model.safetensors").unlink()
    (model_folder / "model.bin").write_bytes(b"x")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(ModelError, match="shard"):
        load_model(str(model_folder), paths)


def test_missing_tensors_are_not_randomly_initialized(model_folder: Path, paths: Paths) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    missing = next(name for name in tensors if "mlp" in name)
    del tensors[missing]
    save_file(tensors, model_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="tensors are missing"):
        load_model(str(model_folder), paths)


def test_run_names_leaving_the_home_are_rejected(paths: Paths) -> None:
    from kdharness.harness.config.files import parse_config

    base = {"method": "sft", "student": "a/b", "data": {"train": "x.jsonl"}}
    for name in ("..", ".", "../x", "a/b", "/etc", "a\\b", "", "x\0y", "-rf", ".hidden", "a" * 65):
        with pytest.raises(ConfigError, match="name"):
            parse_config({**base, "name": name})
    for name in ("..", ".", "../x", "/etc", "a/b", "a\\b", "", "x\0y"):
        with pytest.raises(ConfigError, match="invalid run name"):
            paths.run(name)


def test_valid_model_folder_passes_validation(model_folder: Path) -> None:
    validate_model_dir(model_folder)


LOADERS: list[Callable[..., Any]] = [load_model, load_tokenizer, load_config_of]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\0",
        "a" * 5000,
        "~nobody/model",
        "../..",
        "/",
        "\ud800",
        "org/../../x",
        "//",
        "a/b\n",
    ],
)
def test_hostile_model_names_are_rejected(source: str, paths: Paths) -> None:
    for load in LOADERS:
        assert error_of(lambda load=load: load(source, paths)) is not None
