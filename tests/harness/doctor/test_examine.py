"""The doctor: create each bad state and check the reported status, detail and advice."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.doctor import examine, machine, packages
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.doctor import Env, one, says

# ---------------------------------------------------------------- packages


@pytest.fixture
def install(tmp_path: Path, monkeypatch: Env) -> Callable[..., None]:
    """Return a function that shadows an installed package's metadata."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))

    def write_metadata(name: str, version: str, *requires: str) -> None:
        dist_info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        dist_info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (dist_info / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")

    return write_metadata


@pytest.mark.parametrize(
    ("version", "status", "advice"),
    [
        ("3.10.4", "broken", "new environment"),
        ("3.15.0", "note", "use Python 3.13"),
        ("3.12.1", "ok", ""),
    ],
)
def test_python_version(monkeypatch: Env, version: str, status: str, advice: str) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    says(packages.python(), status, version, advice)


def test_package_version_out_of_range(install: Callable[..., None]) -> None:
    install("transformers", "4.40.0")
    says(
        one(packages.packages(), "transformers"),
        "broken",
        "needs <6,>=5.23",
        "pip install 'transformers<6,>=5.23'",
    )


def test_missing_package(monkeypatch: Env) -> None:
    real = packages.installed
    monkeypatch.setattr(
        packages, "installed", lambda name: None if name == "pyarrow" else real(name)
    )
    says(
        one(packages.packages(), "pyarrow"),
        "broken",
        "not installed",
        "pip install 'pyarrow>=18'",
    )


def test_packages_in_range_are_listed_as_ok() -> None:
    assert one(packages.packages(), "torch").status == "ok"
    assert "more packages as required" in one(packages.packages(), "kdharness").detail
    assert packages.together().status == "ok"


def test_torchvision_built_for_another_torch(install: Callable[..., None]) -> None:
    install("torchvision", "0.1.0", "numpy", "torch==1.13.0")
    says(
        packages.together(),
        "broken",
        "torchvision 0.1.0 needs torch==1.13.0",
        "'torch==1.13.0', or remove the package",
    )


def test_torch_too_old_for_transformers(install: Callable[..., None]) -> None:
    install("torch", "2.1.0")
    says(packages.together(), "broken", "transformers", "pip install 'torch>=")


def test_optional_extras(install: Callable[..., None], monkeypatch: Env) -> None:
    extras = {**packages.EXTRAS, "no-such-extra": ("seeing in the dark", "pip install eyes")}
    with monkeypatch.context() as patched:
        patched.setattr(packages, "EXTRAS", extras)
        says(packages.extras(), "ok", "seeing in the dark", "")
    for name in packages.EXTRAS:
        install(name, "1.0")
    says(
        packages.extras(), "ok", "bitsandbytes, torchao, deepspeed, llama-cpp-python: installed", ""
    )


# ---------------------------------------------------------------- the whole command


def test_doctor_command(kd: CommandLine, paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(machine, "run_checks", lambda: [machine.clock()])
    code, out, _ = kd("doctor", "--offline", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and len(rows) >= 20
    assert len({row["check"] for row in rows}) == len(rows)
    assert all(set(row) == {"check", "status", "detail", "advice"} for row in rows)
    assert all(bool(row["advice"]) == (row["status"] != "ok") for row in rows)
    paths.home.mkdir(exist_ok=True)
    paths.settings.write_text("judge: [", "utf-8")
    code, out, _ = kd("doctor", "--offline")
    assert code == 1 and "suggested fixes:\n  settings (broken): fix or remove" in out
    assert not paths.store.exists(), "looking makes no store"


def test_crashing_check_is_reported_as_a_note(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(machine, "clock", lambda: 1 / 0)
    rows = {row["check"]: row for row in examine.examine(paths, online=False)}
    assert rows["machine"]["status"] == "note" and "ZeroDivisionError" in rows["machine"]["detail"]
    assert rows["settings"]["status"] == "ok"


def test_doctor_imports_no_model_library(paths: Paths, monkeypatch: Env) -> None:
    """Importing them takes seconds, and fails where the doctor is needed most."""
    with Store(paths.store):
        pass
    imported: set[str] = set()
    original = builtins.__import__

    def recording_import(name: str, *args: Any, **options: Any) -> Any:
        imported.add(name.partition(".")[0])
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", recording_import)
    examine.examine(paths, online=False)
    assert "torch" in imported, "the accelerator's row needs it"
    assert not imported & {"transformers", "peft", "datasets", "openai"}
