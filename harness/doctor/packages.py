"""Doctor: this Python, the packages that `pyproject.toml` asks for, and whether they go together.

Everything is read from the installed packages' own metadata: nothing is imported, so that a
package which fails at import is still looked at.
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
"""Packages that ask for a certain torch, transformers or numpy, and fail at import with another."""
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
    "datasets": ("hub data sets as training rows", "pip install 'datasets>=4'"),
    "bitsandbytes": ("teachers in 8 or 4 bits, on a GPU", "pip install bitsandbytes"),
    "deepspeed": ("DeepSpeed through --accelerate", "pip install deepspeed"),
}


def run_checks() -> list[CheckResult]:
    """Every finding of this file."""
    return [python(), *packages(), together(), extras(), plugins()]


def python() -> CheckResult:
    """The interpreter against `requires-python` and what the tests ran with."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    asked = metadata.metadata("kdharness")["Requires-Python"]
    if not SpecifierSet(asked).contains(version, prereleases=True):
        return fail(
            "python",
            f"{version}, but kdharness needs {asked}",
            "make a new environment: python3.11 -m venv .venv",
        )
    if tuple(int(part) for part in version.split(".")[:2]) > NEWEST_TRIED:
        return warn(
            "python",
            f"{version}: newer than what kdharness was tried with",
            "if a package misbehaves, use Python {}.{}".format(*NEWEST_TRIED),
        )
    return ok("python", version)


def packages() -> list[CheckResult]:
    """One row for each package that matters most, and for each that is missing or out of range."""
    from packaging.requirements import Requirement

    found, quiet = [], 0
    for text in metadata.requires("kdharness") or []:
        asked = Requirement(text)
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        advice = f"pip install '{asked.name}{asked.specifier}'"
        version = installed(asked.name)
        if version is None:
            found.append(fail(asked.name, "not installed", advice))
        elif not asked.specifier.contains(version, prereleases=True):
            found.append(
                fail(asked.name, f"{version}, but kdharness needs {asked.specifier}", advice)
            )
        elif asked.name in ALWAYS_SHOWN:
            found.append(ok(asked.name, version))
        else:
            quiet += 1
    place = Path(str(metadata.distribution("kdharness").locate_file("")))
    mine = ok(
        "kdharness", f"{metadata.version('kdharness')} in {place}, {quiet} more packages as asked"
    )
    return [mine, *found]


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def together() -> CheckResult:
    """Whether the installed packages ask each other for versions that are here.

    transformers takes a torch that is too old for none at all, and a torchvision that was built
    for another torch breaks the import of transformers: both fail far from their cause.
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
            f"pip install {' '.join(dict.fromkeys(advice))}, or remove what asks for it "
            "and is not needed",
        )
    return ok("versions", "torch, transformers and their neighbours go together")


def plugins() -> CheckResult:
    """What other packages add, and names of theirs that are taken."""
    names = sorted({name for t in (TRAINERS, BENCHMARKS, ENGINES) for name in t.plugins()})
    if problems := plugin_problems():
        return warn(
            "plugins", "; ".join(problems), "the built-in one is used: ask for another name there"
        )
    return ok("plugins", ", ".join(names) or "none installed")


def extras() -> CheckResult:
    """What optional packages would add."""
    missing = [name for name in EXTRAS if installed(name) is None]
    if not missing:
        return ok("extras", f"{', '.join(EXTRAS)}: installed")
    return ok(
        "extras",
        "only if you need them: "
        + "; ".join(f"{EXTRAS[name][1]} ({EXTRAS[name][0]})" for name in missing),
    )
