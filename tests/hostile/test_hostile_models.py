"""Model folders from anyone: claims held against the files, and names that lead nowhere."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
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
from support.mutations import ALWAYS_HOSTILE, damaged, spoilt, told

FAST = settings(settings.get_profile("hostile"), max_examples=120)


def loads(folder: Path, paths: Paths) -> KDHarnessError | None:
    """The error of whichever refuses first."""
    for load in (load_config_of, load_tokenizer, load_model):
        error = told(lambda load=load: load(str(folder), paths))
        if error is not None:
            return error
    return None


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
CLAIMS = {
    "header of 2^60 bytes": header({"a": ONE}, bytes(16), 1 << 60),
    "header of 2^64 - 1 bytes": header({"a": ONE}, bytes(16), (1 << 64) - 1),
    "header past the file": header({"a": ONE}, bytes(16), 500),
    "tensor of 2^60 bytes": header(
        {"a": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}}, bytes(16)
    ),
    "offsets outside": header({"a": {**ONE, "data_offsets": [1000, 1016]}}, bytes(16)),
    "offsets the wrong way": header({"a": {**ONE, "data_offsets": [16, 0]}}, bytes(16)),
    "overlap": header({"a": ONE, "b": {**ONE, "data_offsets": [8, 24]}}, bytes(24)),
    "negative shape": header({"a": {**ONE, "shape": [-2, -2]}}, bytes(16)),
    "negative offset": header({"a": {**ONE, "data_offsets": [-16, 0]}}, bytes(16)),
    "shape of texts": header({"a": {**ONE, "shape": ["2", "2"]}}, bytes(16)),
    "shape that is true": header({"a": {**ONE, "shape": [True, 4]}}, bytes(16)),
    "shape that overflows": header({"a": {**ONE, "shape": [1 << 63, 1 << 63, 4]}}, bytes(16)),
    "wrong size": header({"a": {**ONE, "shape": [3, 3]}}, bytes(16)),
    "no entry": header({"a": None}, bytes(16)),
    "a list": header([ONE], bytes(16)),
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
def test_safetensors_that_claim_too_much(name: str, model_folder: Path, paths: Paths) -> None:
    (model_folder / "model.safetensors").write_bytes(CLAIMS[name])
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(model_folder), paths)
    assert time.monotonic() - began < 2
    told(lambda: identify(model_folder))


@FAST
@given(
    entries=spoilt(
        {
            "__metadata__": {"format": "pt"},
            "a": ONE,
            "b": {"dtype": "I8", "shape": [4], "data_offsets": [16, 20]},
        }
    )
)
def test_spoilt_safetensors_headers(entries: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header(entries, bytes(20)))
    if told(lambda: tensor_shapes(path)) is None:
        # What passes here, the library reads without harm.
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
def test_configs_that_promise_more_than_there_is(
    name: str, model_folder: Path, paths: Paths
) -> None:
    config = json.loads((model_folder / "config.json").read_text("utf-8"))
    (model_folder / "config.json").write_text(json.dumps(config | CONFIGS[name]), "utf-8")
    began = time.monotonic()
    assert isinstance(told(lambda: load_model(str(model_folder), paths)), ModelError)
    assert time.monotonic() - began < 5


@settings(FAST, max_examples=25)
@given(data=st.data())
def test_spoilt_configs_of_models(
    data: st.DataObject, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tiny_teacher, place)
    name = data.draw(st.sampled_from(["config.json", "generation_config.json"]))
    config = json.loads((place / name).read_text("utf-8"))
    (place / name).write_text(json.dumps(data.draw(spoilt(config))), "utf-8")
    told(lambda: load_model(str(place), paths))


@pytest.mark.parametrize("raw", ALWAYS_HOSTILE, ids=lambda raw: repr(raw[:12]))
def test_files_that_are_no_part_of_a_model(raw: bytes, model_folder: Path, paths: Paths) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        whole = (model_folder / name).read_bytes()
        (model_folder / name).write_bytes(raw)
        loads(model_folder, paths)
        (model_folder / name).write_bytes(whole)
    (model_folder / "config.json").write_bytes(raw)
    assert told(lambda: load_model(str(model_folder), paths)) is not None
    told(lambda: identify(model_folder))


@settings(FAST, max_examples=25)
@given(data=st.data())
def test_damaged_tokenizers(
    data: st.DataObject, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tiny_teacher, place)
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    (place / name).write_bytes(data.draw(damaged((place / name).read_bytes())))
    told(lambda: load_tokenizer(str(place), paths))


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
def test_shards_stay_in_their_folder(shard: Any, model_folder: Path, paths: Paths) -> None:
    shutil.copy(model_folder / "model.safetensors", model_folder.parent / "outside.safetensors")
    (model_folder / "model.safetensors").unlink()
    (model_folder / "model.bin").write_bytes(b"x")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(ModelError, match="shard"):
        load_model(str(model_folder), paths)


def test_missing_tensors_are_not_drawn_by_chance(model_folder: Path, paths: Paths) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    gone = next(name for name in tensors if "mlp" in name)
    del tensors[gone]
    save_file(tensors, model_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="tensors are missing"):
        load_model(str(model_folder), paths)


def test_names_that_lead_out_of_the_home(paths: Paths) -> None:
    from kdharness.harness.config.files import parse_config

    base = {"method": "sft", "student": "a/b", "data": {"train": "x.jsonl"}}
    for name in ("..", ".", "../x", "a/b", "/etc", "a\\b", "", "x\0y", "-rf", ".hidden", "a" * 65):
        with pytest.raises(ConfigError, match="name"):
            parse_config({**base, "name": name})
    for name in ("..", ".", "../x", "/etc", "a/b", "a\\b", "", "x\0y"):
        with pytest.raises(ConfigError, match="invalid run name"):
            paths.run(name)


def test_a_folder_of_a_model_is_checked_as_it_is(model_folder: Path) -> None:
    validate_model_dir(model_folder)


USES: list[Callable[..., Any]] = [load_model, load_tokenizer, load_config_of]


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
def test_models_named_by_anything(source: str, paths: Paths) -> None:
    for use in USES:
        assert told(lambda use=use: use(source, paths)) is not None
