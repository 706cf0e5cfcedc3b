"""Models with code of their own: `trust_remote_code` holds for all that reads them, or for none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import runs_code_of
from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.runs.estimate import estimate
from kdharness.trainers.data.dataset import config_tokenizer
from kdharness.trainers.pairs.check import check_pair
from support.commands import CommandLine
from support.remote_code import make_remote
from support.training_runs import train

TWO_STEPS = {"max_steps": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return two models of one tokenizer, each with classes of its own."""
    folder = tmp_path_factory.mktemp("remote")
    return {name: str(make_remote(folder / name, seed=seed)) for seed, name in enumerate("ab")}


def a_config(models: dict[str, str], method: str, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "method": method,
        "student": {"model": models["a"], "trust_remote_code": True},
        "data": {"train": [{"path": "general:train", "limit": 8}], "max_length": 48},
        "trainer": TWO_STEPS,
    }
    other = {"model": models["b"], "trust_remote_code": True}
    if method == "kd":
        values["teacher"] = other
    if method == "dae":
        values["expert"] = other
        values["data"]["train"].append({"path": "shop:train", "kind": "domain", "limit": 8})
    return parse_config({**values, **changes})


def test_whose_code_runs(models: dict[str, str]) -> None:
    a, b = models["a"], models["b"]
    config = a_config(models, "kd", teacher=b)
    assert runs_code_of(config, a) and not runs_code_of(config, b)
    config = a_config(models, "kd", student=a)
    assert runs_code_of(config, b) and not runs_code_of(config, a)
    cut = {"from": "teacher", "keep_layers": 2, "trust_remote_code": True}
    assert runs_code_of(a_config(models, "kd", teacher=b, student=cut), b)
    assert not runs_code_of(a_config(models, "sft"), "another")
    for trusted in (True, False):
        config = parse_config({"method": "eval", "checkpoints": [a], "trust_remote_code": trusted})
        assert runs_code_of(config, a) is trusted


CUT = {"from": "teacher", "keep_layers": 2, "trust_remote_code": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "kd": ("kd", {}),
    "cut": ("kd", {"student": CUT}),
    "dae": ("dae", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trusted_code_runs_in_every_part(case: str, models: dict[str, str], tmp_path: Path) -> None:
    """Tokenizers, configs, plans and checks did not trust what the config trusts."""
    method, changes = CASES[case]
    config, paths = a_config(models, method, **changes), Paths(tmp_path / "home")
    rows = resolve(TOOLS, "planned_rows", "tool")(config, paths, 1)
    plan = estimate(config, paths, rows, engine="single", processes=1, tflops=None)
    assert plan.parameters["student"] > 0
    checks = check_pair(config, paths)
    assert not [c for c in checks if c["status"] == "stop" or "not checked" in str(c["detail"])]
    folder, _ = train(config, paths, case)
    # The checkpoint brings its code along.
    assert {"configuration_own.py", "modeling_own.py"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_adapters_of_trusted_models(
    models: dict[str, str], kd: CommandLine, tmp_path: Path
) -> None:
    """An adapter is trained on, merged and evaluated where its base's code may run."""
    paths = Paths(kd.home)
    student = {"model": models["a"], "trust_remote_code": True, "lora": {"r": 4}}
    folder, _ = train(a_config(models, "kd", student=student), paths, "first")
    again = {**student, "model": str(folder)}
    train(a_config(models, "kd", student=again), paths, "second")
    merged = str(tmp_path / "merged")
    kd.ok("merge-adapter", str(folder), merged, "--trust-remote-code")
    code, _, err = kd("merge-adapter", str(folder), str(tmp_path / "no"))
    assert code != 0 and "trust" in err
    kd.ok("eval", "--ckpt", merged, "--bench", "shop", "--limit", "2", "--trust-remote-code")


def test_code_that_is_not_trusted_does_not_run(models: dict[str, str], tmp_path: Path) -> None:
    config = a_config(models, "kd", student=models["a"])
    with pytest.raises(ModelError, match="custom code") as caught:
        config_tokenizer(config, config.data, Paths(tmp_path))
    assert "trust_remote_code: true" in str(caught.value.hint)
    with pytest.raises(ModelError, match="custom code"):
        train(config, Paths(tmp_path), "no")
