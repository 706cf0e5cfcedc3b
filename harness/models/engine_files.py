"""What engines on this machine need: a GGUF file, a model folder, their own packages.

Checked before a run is stored, and without loading anything.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

from kdharness.harness import assets
from kdharness.harness.config.evaluation import Spec
from kdharness.harness.config.settings import load_settings
from kdharness.harness.errors import JudgeError, ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.loading import check_adapter
from kdharness.harness.models.resolve import find_source
from kdharness.harness.paths import Paths
from kdharness.harness.util.filesystem import exists, local_path

LLAMA = "llama_cpp"
INSTALL_LLAMA = "pip install 'kdharness[llama]' (builds llama.cpp: needs a C++ compiler and CMake)"
INSTALL_VLLM = (
    "vllm needs other versions of transformers and torch: install it in an environment of its own "
    "(python -m venv ~/vllm && ~/vllm/bin/pip install vllm), and set "
    "`vllm: {command: ~/vllm/bin/vllm}` in"
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


def check_engine(spec: Spec, paths: Paths) -> None:
    """Refuse an engine that could not start.

    Raises:
        JudgeError: a package or a program that is not installed.
        ModelError, AssetError: a model that is missing, damaged, or not of the engine's kind.
    """
    if spec.kind == "local":
        found = find_source(spec.model, paths)
        if found is not None and exists(Path(found), folder=True):
            check_adapter(Path(found), spec.model, paths)
    elif spec.kind == "llama":
        need_llama()
        find_gguf(spec.model, paths)
    elif spec.kind == "vllm":
        vllm_program(paths)
        found = find_source(spec.model, paths)
        if found is not None and is_adapter(Path(found)):
            raise ModelError(
                f"{spec.model} is an adapter, and vllm: serves whole models",
                hint=f"merge it first: kdharness merge-adapter {spec.model} FOLDER; "
                "then use vllm:FOLDER",
            )


def need_llama() -> None:
    """Refuse llama: without its package."""
    if importlib.util.find_spec(LLAMA) is None:
        raise JudgeError("llama: needs llama-cpp-python", hint=INSTALL_LLAMA)


def find_gguf(source: str, paths: Paths) -> list[Path]:
    """Return the parts of a GGUF model, checked; most models have one.

    Args:
        source: a file, or a pulled asset that is a GGUF file.

    Raises:
        ModelError, AssetError: no such file, not a GGUF file, or one that was cut short.
    """
    path = local_path(source)
    if not exists(path) and source in assets.manifest():
        name = next(iter(assets.manifest()[source].files))
        if not name.endswith(".gguf"):
            raise ModelError(f"{source} is not a GGUF file", hint="use the path of a .gguf file")
        path = assets.asset_file(paths, source, name)
    if exists(path, folder=True):
        names = sorted(entry.name for entry in path.glob("*.gguf"))[:4]
        raise ModelError(
            f"{path} is a folder, and llama: takes a file",
            hint=f"it contains {', '.join(names)}" if names else "for a folder use local: or vllm:",
        )
    if not exists(path):
        raise ModelError(
            f"no such GGUF file: {source[:200]}",
            hint="use the path of a .gguf file, or a pulled asset (kdharness data list)",
        )
    parts = _parts(path)
    for part in parts:
        check_gguf(part)
    return [part.resolve() for part in parts]


def _parts(path: Path) -> list[Path]:
    """Return all parts of a split model, which is named by its first one."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
    if path.name not in names:
        raise ModelError(
            f"{path.name} is not a name under which llama.cpp finds the parts of a model",
            where=str(path),
            hint=f"rename the parts: {names[0]} and so on, with -of- and .gguf in lower case",
        )
    if path.name != names[0]:
        raise ModelError(f"{path.name} is a later part of a model", hint=f"use {names[0]}")
    missing = [name for name in names if not exists(path.with_name(name), folder=False)]
    if missing:
        raise ModelError(
            f"{len(missing)} of the model's {count} parts are missing, such as {missing[0]}",
            where=str(path),
            hint="put all parts into one folder",
        )
    return [path.with_name(name) for name in names]


def vllm_program(paths: Paths) -> str:
    """Return the program that serves vllm: models.

    Raises:
        JudgeError: it is not installed, or not where the settings say.
    """
    named = load_settings(paths).vllm.command
    if named:
        found = shutil.which(str(local_path(named)))
        if found is None:
            raise JudgeError(
                f"no such program: {named}",
                where=f"{paths.settings}: vllm.command",
                hint="set it to the vllm program, such as ~/vllm/bin/vllm",
            )
        return found
    beside = shutil.which("vllm", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("vllm")
    if program is None:
        raise JudgeError("vllm is not installed", hint=f"{INSTALL_VLLM} {paths.settings}")
    return program
