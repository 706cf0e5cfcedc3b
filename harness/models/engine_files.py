"""What engines on this machine need: a GGUF file, a model folder, their own packages.

Checked before a run is stored, and without loading anything.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from kdharness.harness.config.evaluation import Spec
from kdharness.harness.config.settings import load_settings
from kdharness.harness.errors import JudgeError, ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.gguf_models import find_gguf
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
