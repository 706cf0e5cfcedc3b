"""Model folders, GGUF files and teacher caches from anyone; and nothing is ever unpickled."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.errors import ConfigError, DataError, KDHarnessError, ModelError
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.identity import identify
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.models.resolve import convert_gguf
from kdharness.harness.models.validate import tensor_shapes, validate_model_dir
from kdharness.harness.paths import Paths
from kdharness.trainers.teachers.cached import TeacherCache

from .mutations import ALWAYS_HOSTILE, damaged, spoilt, told

FAST = settings(settings.get_profile("hostile"), max_examples=120)
ROOT = Path(__file__).parents[2]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.marker}'",))


@pytest.fixture
def folder(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A whole model to spoil."""
    return Path(shutil.copytree(tiny_teacher, tmp_path / "model"))


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
def test_safetensors_that_claim_too_much(name: str, folder: Path, paths: Paths) -> None:
    (folder / "model.safetensors").write_bytes(CLAIMS[name])
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(folder), paths)
    assert time.monotonic() - began < 2
    told(lambda: identify(folder))


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
def test_configs_that_promise_more_than_there_is(name: str, folder: Path, paths: Paths) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | CONFIGS[name]), "utf-8")
    began = time.monotonic()
    assert isinstance(told(lambda: load_model(str(folder), paths)), ModelError)
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
def test_files_that_are_no_part_of_a_model(raw: bytes, folder: Path, paths: Paths) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(raw)
        loads(folder, paths)
        (folder / name).write_bytes(whole)
    (folder / "config.json").write_bytes(raw)
    assert told(lambda: load_model(str(folder), paths)) is not None
    told(lambda: identify(folder))


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
def test_shards_stay_in_their_folder(shard: Any, folder: Path, paths: Paths) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.bin").write_bytes(b"x")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(ModelError, match="shard"):
        load_model(str(folder), paths)


def test_missing_tensors_are_not_drawn_by_chance(folder: Path, paths: Paths) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "mlp" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="tensors are missing"):
        load_model(str(folder), paths)


# ---------------------------------------------------------------- code and pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt"])
def test_a_pickled_model_is_refused_and_never_run(name: str, folder: Path, paths: Paths) -> None:
    marker = folder.parent / "ran"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError):
        load_model(str(folder), paths)
    import torch

    (folder / name).unlink()
    torch.save({"lm_head.weight": Bomb(marker)}, folder / name)
    with pytest.raises(ModelError):
        load_model(str(folder), paths)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb of this test is none"


def test_a_pickled_adapter_is_refused_and_never_run(
    folder: Path, paths: Paths, tmp_path: Path
) -> None:
    marker, adapter = tmp_path / "ran", tmp_path / "adapter"
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(folder),
        "r": 2,
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match="never loaded"):
        load_model(str(adapter), paths)
    for base in (None, 5, "", str(adapter), ["x"]):
        config["base_model_name_or_path"] = base  # type: ignore[assignment]
        (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        assert told(lambda: load_model(str(adapter), paths)), base
        assert told(lambda: load_config_of(str(adapter), paths)), base
    assert not marker.exists()


def test_code_of_a_model_runs_with_the_flag_alone(
    folder: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = folder.parent / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py"):
        (folder / name).write_text(code + "class X: ...\n", "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"},
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    began = time.monotonic()
    for load in (load_model, load_config_of):
        with pytest.raises(ModelError, match="trust_remote_code"):
            load(str(folder), paths)
    named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    named |= {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), "utf-8")
    told(lambda: load_tokenizer(str(folder), paths))
    assert time.monotonic() - began < 10, "it asked on the terminal"
    assert not marker.exists()
    told(lambda: load_model(str(folder), paths, trust_remote_code=True))
    assert marker.exists(), "with the flag the code runs: the test's bait works"


def test_trust_is_never_a_default_and_is_told() -> None:
    from kdharness.harness.config.files import parse_config
    from kdharness.harness.config.training import CONFIGS, trusted_code

    def flags(schema: Any) -> list[Any]:
        if isinstance(schema, dict):
            own = schema.get("properties", {}).get("trust_remote_code")
            return ([own.get("default")] if own else []) + [
                flag for part in schema.values() for flag in flags(part)
            ]
        return [flag for part in schema for flag in flags(part)] if isinstance(schema, list) else []

    for model in CONFIGS.values():
        found = flags(model.model_json_schema())
        assert found and not any(found), model
    values: dict[str, Any] = {
        "method": "kd",
        "student": "a/s",
        "data": {"train": "x.jsonl"},
        "teacher": {"model": "a/t", "trust_remote_code": True},
    }
    assert trusted_code(parse_config(values)) == ["a/t"]
    values["teacher"] = "a/t"
    assert trusted_code(parse_config(values)) == []
    evaluated = {"method": "eval", "checkpoints": ["a/x"], "trust_remote_code": True}
    assert trusted_code(parse_config(evaluated)) == ["a/x"]


BANNED = {
    ("pickle", "*"),
    ("cPickle", "*"),
    ("dill", "*"),
    ("cloudpickle", "*"),
    ("joblib", "*"),
    ("shelve", "*"),
    ("marshal", "*"),
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("yaml", "safe_load"),
    ("np", "load"),
    ("numpy", "load"),
    ("pandas", "read_pickle"),
    ("builtins", "eval"),
    ("builtins", "exec"),
}


def _calls(tree: ast.AST) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(name.name.split(".")[0], "*") for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = node.module.split(".")[0]
            found |= {(base, "*")} | {(base, name.name) for name in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add((node.value.id, node.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(("builtins", node.func.id))
    return found


def test_our_code_has_no_way_to_unpickle() -> None:
    files = [
        path
        for name in ("harness", "trainers", "judges", "tui", "data")
        for path in (ROOT / name).rglob("*.py")
    ]
    assert len(files) > 100
    used = {
        (str(path.relative_to(ROOT)), f"{module}.{name}")
        for path in files
        for module, name in _calls(ast.parse(path.read_text("utf-8"))) & BANNED
    }
    # Texts that ship with the package or that we wrote ourselves a moment ago.
    ours = {
        ("harness/cli/replicate.py", "yaml.safe_load"),
        ("tui/screens/new_run.py", "yaml.safe_load"),
        # The scheduler of a resumed training: tensors and numbers alone.
        ("trainers/trainer.py", "torch.load"),
    }
    assert used <= ours, used - ours
    loads = [
        node
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(loads) == 1
    assert "weights_only=True" in [ast.unparse(word) for word in loads[0].keywords]
    assert _calls(ast.parse("import pickle\ntorch.load(x)\neval('1')")) & BANNED == {
        ("pickle", "*"),
        ("torch", "load"),
        ("builtins", "eval"),
    }


# ---------------------------------------------------------------- GGUF


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(
    entries: bytes = b"",
    count: int = 0,
    tensors: bytes = b"",
    of: int = 0,
    data: bytes = b"",
    version: int = 3,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, of, count) + entries + tensors
    return head + bytes(-len(head) % 32) + data


TENSOR = text(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
SETTING = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
HUGE = struct.pack("<Q", 1 << 60)
GGUFS = {
    "2^60 settings": gguf(SETTING, 1 << 60),
    "2^60 tensors": gguf(SETTING, 1, TENSOR, 1 << 60, bytes(64)),
    "more settings than bytes": gguf(SETTING, 9000),
    "a name of 2^60 bytes": gguf(HUGE + b"x", 1),
    "a text of 2^60 bytes": gguf(text(b"k") + struct.pack("<I", 8) + HUGE, 1),
    "a list of 2^60 numbers": gguf(text(b"k") + struct.pack("<II", 9, 4) + HUGE, 1),
    "a list of 2^60 texts": gguf(text(b"k") + struct.pack("<II", 9, 8) + HUGE, 1),
    "lists in lists": gguf(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, 1),
    "an unknown kind": gguf(text(b"k") + struct.pack("<II", 99, 0), 1),
    "a tensor past the end": gguf(
        SETTING, 1, text(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 1 << 50), 1, bytes(64)
    ),
    "a tensor of 2^120 numbers": gguf(
        SETTING, 1, text(b"a") + struct.pack("<IQQIQ", 2, 1 << 60, 1 << 60, 0, 0), 1, bytes(64)
    ),
    "2^31 dimensions": gguf(SETTING, 1, text(b"a") + struct.pack("<I", 1 << 31), 1),
    "an unknown format": gguf(SETTING, 1, text(b"a") + struct.pack("<IQIQ", 1, 4, 9999, 0), 1),
    "version 99": gguf(SETTING, 1, version=99),
    "no magic": b"FUGG" + bytes(64),
    "empty": b"",
    "cut": gguf(SETTING, 1)[:30],
    "an alignment of 0": gguf(text(b"general.alignment") + struct.pack("<II", 4, 0), 1, TENSOR, 1),
}


@pytest.mark.parametrize("name", GGUFS)
def test_gguf_that_claims_too_much(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUFS[name])
    began = time.monotonic()
    with pytest.raises(ModelError, match="damaged"):
        check_gguf(path)
    with pytest.raises(ModelError, match=r"model\.gguf"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and time.monotonic() - began < 3


def test_a_sound_gguf_passes_and_its_nonsense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(SETTING, 1, TENSOR, 1, bytes(64)))
    assert check_gguf(path) == (16, 1)
    error = told(lambda: convert_gguf(path, tmp_path / "out"))
    assert isinstance(error, ModelError) and "model.gguf" in str(error)
    assert "num_hidden_layers is 32, but the weights are 1 tensors" in str(error)


@FAST
@given(raw=damaged(gguf(SETTING * 3, 3, TENSOR, 1, bytes(64))))
def test_damaged_gguf(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    told(lambda: check_gguf(path))


# ---------------------------------------------------------------- teacher caches


NOTE = {"teacher": "t", "k": 4, "vocab": 10, "temperature": 1.0}
INDEX = [json.dumps(["row", 0, 2]), json.dumps(["next", 72, 1])]


@FAST
@given(entry=spoilt(["row", 0, 2]), note=spoilt(NOTE), write=st.booleans())
def test_spoilt_caches(entry: Any, note: Any, write: bool, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "index-0.jsonl").write_text(json.dumps(entry) + "\n", "utf-8")
    (place / "data-0.bin").write_bytes(bytes(72))
    if write:
        (place / "note.json").write_text(json.dumps(note), "utf-8")

    def go() -> None:
        cache = TeacherCache(place, NOTE)
        for key in cache.index:
            ids, logp, entropy = cache.get(key)
            assert ids.shape == logp.shape == (len(entropy), 4) and (ids < 10).all()

    told(go)


@pytest.mark.parametrize("raw", ALWAYS_HOSTILE, ids=lambda raw: repr(raw[:12]))
def test_files_that_are_no_cache(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "index-0.jsonl").write_bytes(raw)
    (tmp_path / "data-0.bin").write_bytes(bytes(72))
    assert TeacherCache(tmp_path, NOTE).index == {}
    (tmp_path / "note.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"note|made for something else"):
        TeacherCache(tmp_path, NOTE)


def test_a_cache_of_other_tokens_or_of_no_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index-0.jsonl").write_text(INDEX[0] + "\n", "utf-8")
    ids = np.full(8, 99, np.int32).tobytes()
    (tmp_path / "data-0.bin").write_bytes(ids + bytes(40))
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(tmp_path, NOTE).get("row")
    (tmp_path / "data-0.bin").write_bytes(
        bytes(32) + np.full(8, np.nan, np.float32).tobytes() + bytes(8)
    )
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(tmp_path, NOTE).get("row")


def test_names_that_lead_out_of_the_home(paths: Paths) -> None:
    from kdharness.harness.config.files import parse_config

    base = {"method": "sft", "student": "a/b", "data": {"train": "x.jsonl"}}
    for name in ("..", ".", "../x", "a/b", "/etc", "a\\b", "", "x\0y", "-rf", ".hidden", "a" * 65):
        with pytest.raises(ConfigError, match="name"):
            parse_config({**base, "name": name})
    for name in ("..", ".", "../x", "/etc", "a/b", "a\\b", "", "x\0y"):
        with pytest.raises(ConfigError, match="no run's name"):
            paths.run(name)


def test_a_folder_of_a_model_is_checked_as_it_is(folder: Path) -> None:
    validate_model_dir(folder)


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
