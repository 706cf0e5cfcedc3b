"""Doctor: this Python, the packages that `pyproject.toml` requires, and their compatibility.

Everything is read from the installed packages' metadata: nothing is imported, so that a package
that fails at import is still checked.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from kdharness.harness.doctor.finding import CheckResult, fail, ok, warn
from kdharness.harness.registry import BENCHMARKS, ENGINES, TRAINERS, plugin_problems

ALWAYS_SHOWN = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "openai",
    "textual",
    "sqlite-utils",
)
NEWEST_TRIED = (3, 13)
NEIGHBOURS = (
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "huggingface-hub",
    "tokenizers",
    "trl",
    "torchvision",
    "torchaudio",
    "bitsandbytes",
    "deepspeed",
    "vllm",
    "flash-attn",
)
"""Packages that need a certain torch, transformers or numpy, and fail at import with another."""
SHARED = frozenset(
    {
        "torch",
        "transformers",
        "tokenizers",
        "huggingface-hub",
        "numpy",
        "safetensors",
        "accelerate",
    }
)
EXTRAS = {
    "datasets": ("training on hub datasets", "pip install 'datasets>=4'"),
    "bitsandbytes": (
        "8-bit and 4-bit models, and adamw_8bit",
        "pip install 'kdharness[gpu]'",
    ),
    "torchao": ("precision: bf16-sr", "pip install 'kdharness[gpu]'"),
    "deepspeed": ("DeepSpeed through --accelerate", "pip install deepspeed"),
    "llama-cpp-python": ("GGUF judges, llama:FILE.gguf", "pip install 'kdharness[llama]'"),
}


def run_checks() -> list[CheckResult]:
    """Run every check of this module."""
    return [python(), *packages(), together(), extras(), plugins()]


def python() -> CheckResult:
    """Check the interpreter against `requires-python` and the versions tested."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    asked = metadata.metadata("kdharness")["Requires-Python"]
    if not SpecifierSet(asked).contains(version, prereleases=True):
        return fail(
            "python",
            f"{version}, but kdharness needs {asked}",
            "create a new environment: python3.11 -m venv .venv",
        )
    if tuple(int(part) for part in version.split(".")[:2]) > NEWEST_TRIED:
        return warn(
            "python",
            f"{version}: newer than the versions kdharness is tested with",
            "if a package fails, use Python {}.{}".format(*NEWEST_TRIED),
        )
    return ok("python", version)


def packages() -> list[CheckResult]:
    """List the main packages, and every one that is missing or out of range."""
    from packaging.requirements import Requirement

    results, hidden = [], 0
    for text in metadata.requires("kdharness") or []:
        asked = Requirement(text)
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        advice = f"pip install '{asked.name}{asked.specifier}'"
        version = installed(asked.name)
        if version is None:
            results.append(fail(asked.name, "not installed", advice))
        elif not asked.specifier.contains(version, prereleases=True):
            results.append(
                fail(asked.name, f"{version}, but kdharness needs {asked.specifier}", advice)
            )
        elif asked.name in ALWAYS_SHOWN:
            results.append(ok(asked.name, version))
        else:
            hidden += 1
    folder = Path(str(metadata.distribution("kdharness").locate_file("")))
    kdharness = ok(
        "kdharness",
        f"{metadata.version('kdharness')} in {folder}, {hidden} more packages as required",
    )
    return [kdharness, *results]


def installed(name: str) -> str | None:
    """Return the version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def together() -> CheckResult:
    """Check that the installed packages meet each other's version requirements.

    transformers treats a torch that is too old as missing, and a torchvision that was built for
    another torch breaks the import of transformers: both fail far from their cause.
    """
    from packaging.requirements import Requirement

    clashes, advice = [], []
    for name in NEIGHBOURS:
        if installed(name) is None:
            continue
        for text in metadata.requires(name) or []:
            asked = Requirement(text)
            extra = "torch" if name == "transformers" else ""
            if asked.name not in SHARED or (
                asked.marker and not asked.marker.evaluate({"extra": extra})
            ):
                continue
            version = installed(asked.name)
            if version and not asked.specifier.contains(version, prereleases=True):
                wanted = f"{asked.name}{asked.specifier}"
                clash = f"{name} {installed(name)} needs {wanted}, not {version}"
                if clash not in clashes:
                    clashes.append(clash)
                    advice.append(f"'{wanted}'")
    if clashes:
        return fail(
            "versions",
            "; ".join(clashes),
            f"pip install {' '.join(dict.fromkeys(advice))}, or remove the package that requires "
            "it if you don't need it",
        )
    return ok("versions", "torch, transformers and related packages are compatible")


def plugins() -> CheckResult:
    """List what plugins add, and plugins that cannot be used."""
    names = sorted({name for t in (TRAINERS, BENCHMARKS, ENGINES) for name in t.plugins()})
    if problems := plugin_problems():
        return warn(
            "plugins",
            "; ".join(problems),
            "update, rename or uninstall these packages; the rest works without them",
        )
    return ok("plugins", ", ".join(names) or "none installed")


def extras() -> CheckResult:
    """List missing optional packages and what they would add."""
    missing = [name for name in EXTRAS if installed(name) is None]
    if not missing:
        return ok("extras", f"{', '.join(EXTRAS)}: installed")
    return ok(
        "extras",
        "only if you need them: "
        + "; ".join(f"{EXTRAS[name][1]} ({EXTRAS[name][0]})" for name in missing),
    )
