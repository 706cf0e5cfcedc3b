"""Code and pickles shipped with a model: rejected by name, and never executed."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kdharness.harness.errors import ModelError
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.paths import Paths
from support.locations import ROOT
from support.mutations import error_of
from support.pickles import Bomb

FAST = settings(settings.get_profile("hostile"), max_examples=120)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt"])
def test_pickled_model_is_rejected_and_never_executed(
    name: str, model_folder: Path, paths: Paths
) -> None:
    marker = model_folder.parent / "ran"
    (model_folder / "model.safetensors").unlink()
    (model_folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError):
        load_model(str(model_folder), paths)
    import torch

    (model_folder / name).unlink()
    torch.save({"lm_head.weight": Bomb(marker)}, model_folder / name)
    with pytest.raises(ModelError):
        load_model(str(model_folder), paths)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb of this test is none"


def test_pickled_adapter_is_rejected_and_never_executed(
    model_folder: Path, paths: Paths, tmp_path: Path
) -> None:
    marker, adapter = tmp_path / "ran", tmp_path / "adapter"
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(model_folder),
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
        assert error_of(lambda: load_model(str(adapter), paths)), base
        assert error_of(lambda: load_config_of(str(adapter), paths)), base
    assert not marker.exists()


def test_model_code_runs_only_with_trust_remote_code(
    model_folder: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = model_folder.parent / "ran"
    asked: list[object] = []

    def agree(*prompt: object) -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr("builtins.input", agree)
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py"):
        (model_folder / name).write_text(code + "class X: ...\n", "utf-8")
    config = json.loads((model_folder / "config.json").read_text("utf-8"))
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"},
    }
    (model_folder / "config.json").write_text(json.dumps(config), "utf-8")
    for load in (load_model, load_config_of):
        with pytest.raises(ModelError, match="trust_remote_code"):
            load(str(model_folder), paths)
    tokenizer_config = json.loads((model_folder / "tokenizer_config.json").read_text("utf-8"))
    tokenizer_config |= {
        "tokenizer_class": "X",
        "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]},
    }
    (model_folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    error_of(lambda: load_tokenizer(str(model_folder), paths))
    assert not asked, "it asked on the terminal"
    assert not marker.exists()
    error_of(lambda: load_model(str(model_folder), paths, trust_remote_code=True))
    assert marker.exists(), "with the flag the code runs: the test's bait works"


def test_trust_remote_code_defaults_to_false_and_is_reported() -> None:
    from kdharness.harness.config.files import parse_config
    from kdharness.harness.config.training import CONFIGS, trusted_code

    def trust_defaults(schema: Any) -> list[Any]:
        if isinstance(schema, dict):
            own = schema.get("properties", {}).get("trust_remote_code")
            return ([own.get("default")] if own else []) + [
                flag for part in schema.values() for flag in trust_defaults(part)
            ]
        return (
            [flag for part in schema for flag in trust_defaults(part)]
            if isinstance(schema, list)
            else []
        )

    for model in CONFIGS.values():
        defaults = trust_defaults(model.model_json_schema())
        assert defaults and not any(defaults), model
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
    names: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(name.name.split(".")[0], "*") for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = node.module.split(".")[0]
            names |= {(base, "*")} | {(base, name.name) for name in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add((node.value.id, node.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.add(("builtins", node.func.id))
    return names


def test_product_code_never_unpickles() -> None:
    files = [
        path
        for name in ("harness", "trainers", "judges", "tui", "data")
        for path in (ROOT / name).rglob("*.py")
    ]
    assert len(files) > 100
    used: set[tuple[str, str]] = set()
    loads: list[ast.Call] = []
    for path in files:
        tree = ast.parse(path.read_text("utf-8"))
        used |= {
            (str(path.relative_to(ROOT)), f"{module}.{name}")
            for module, name in _calls(tree) & BANNED
        }
        loads += [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "load"
            and ast.unparse(node.func) == "torch.load"
        ]
    # Texts that ship with the package or that we have just written.
    allowed = {
        ("harness/cli/replicate.py", "yaml.safe_load"),
        ("tui/screens/new_run.py", "yaml.safe_load"),
        # The scheduler of a resumed training run: only tensors and numbers.
        ("trainers/trainer.py", "torch.load"),
    }
    assert used <= allowed, used - allowed
    assert len(loads) == 1
    assert "weights_only=True" in [ast.unparse(keyword) for keyword in loads[0].keywords]
    assert _calls(ast.parse("import pickle\ntorch.load(x)\neval('1')")) & BANNED == {
        ("pickle", "*"),
        ("torch", "load"),
        ("builtins", "eval"),
    }
