"""The docs site, the workflows and the rest of the repository's furniture fit what they name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def site_pages() -> Any:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = site_pages()


# ---------------------------------------------------------------- the site


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    for part in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from leaves(part)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    added = [*SITE.REPOSITORY_PAGES.values(), *(f"api/{name}.md" for name in SITE.API)]
    assert sorted(leaves(read(ROOT / "mkdocs.yml")["nav"])) == sorted([*pages, *added])


def test_no_two_pages_have_one_address() -> None:
    pages = list(leaves(read(ROOT / "mkdocs.yml")["nav"]))
    addresses = [re.sub(r"(/?README|/?index)?\\.md$", "", page) for page in pages]
    assert len(set(addresses)) == len(pages)


def test_the_api_reference_names_modules_that_exist() -> None:
    for title, names in SITE.API.values():
        assert title
        for name in names:
            assert importlib.import_module(name).__doc__, name
    page = SITE.api_page(*SITE.API["harness"])
    assert page.count("show_submodules: false") == 1
    assert "\n::: kdharness.harness.types\n" in page


@pytest.mark.parametrize(
    ("page", "link", "turned"),
    [
        ("docs/reliability.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/extending.md", "../trainers/README.md", "extending-methods.md"),
        ("docs/training.md", "method.md#losses", "method.md#losses"),
        ("docs/app.md", "images/runs.png", "images/runs.png"),
        ("CONTRIBUTING.md", "docs/glossary.md", "glossary.md"),
        ("CONTRIBUTING.md", "judges/README.md", "extending-benchmarks.md"),
        ("trainers/README.md", "../docs/extending.md#a-method", "extending.md#a-method"),
        ("trainers/README.md", "https://x.org/a.md", "https://x.org/a.md"),
    ],
)
def test_links_are_turned(page: str, link: str, turned: str) -> None:
    assert SITE.turned(f"see [it]({link}).", page) == f"see [it]({turned})."


def test_the_site_is_built_strictly_and_without_the_lock() -> None:
    recipe = MAKEFILE.split("\nsite:")[1].split("\n\n")[0]
    assert "mkdocs build --strict" in recipe
    constrained = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    )
    named = list(map(Requirement, PROJECT["optional-dependencies"]["docs"]))
    assert {"mkdocs", "mkdocs-material", "mkdocstrings"} <= {r.name for r in named}
    for requirement in named:
        version = constrained.get(requirement.name)
        assert version is None or requirement.specifier.contains(version), requirement


# ---------------------------------------------------------------- workflows


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path: Path) -> None:
    workflow = read(path)
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True] and workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"]
        assert job.get("needs") in {None, *workflow["jobs"]}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_targets_that_a_workflow_makes_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    made = [
        word
        for step in steps(path)
        for line in re.sub(r"\$\{\{.*?\}\}", "", step.get("run", "")).splitlines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if "=" not in word
    ]
    assert set(made) <= targets


def test_the_workflows_are_tests_docs_and_release() -> None:
    runs = {path.stem: "\n".join(s.get("run", "") for s in steps(path)) for path in WORKFLOWS}
    assert set(runs) == {"tests", "docs", "release"}
    assert "make PYTHON=python${{ matrix.python }} test" in runs["tests"]
    assert "make site" in runs["docs"]
    assert "python -m build" in runs["release"]


def test_tests_run_on_every_python_that_is_supported() -> None:
    job = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["test"]
    marker = "Programming Language :: Python :: "
    supported = [c.removeprefix(marker) for c in PROJECT["classifiers"] if c.startswith(marker)]
    assert job["strategy"]["matrix"]["python"] == supported


def test_only_the_publishing_job_gets_a_token() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert (jobs["publish"]["environment"], jobs["publish"]["needs"]) == ("pypi", "build")
    assert "permissions" not in jobs["build"]


@pytest.mark.parametrize(("tag", "fits"), [(f"v{PROJECT['version']}", True), ("v99.0", False)])
def test_a_tag_that_is_not_the_version_is_refused(tag: str, fits: bool) -> None:
    release = ROOT / ".github" / "workflows" / "release.yml"
    (check,) = [step["run"] for step in steps(release) if "GITHUB_REF_NAME" in step.get("run", "")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "GITHUB_REF_NAME": tag}
    done = subprocess.run(
        ["bash", "-e", "-c", check], cwd=ROOT, env=environment, capture_output=True
    )
    assert (done.returncode == 0) is fits, done.stderr


def test_updates_leave_the_locked_packages_alone() -> None:
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions"]


# ---------------------------------------------------------------- hooks and citation


def test_hooks_use_the_tools_of_the_project() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    commands = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert set(commands) == {"ruff-format", "ruff-check"}
    for hook in repository["hooks"]:
        program, *words = hook["entry"].split()
        assert hook["language"] == "system" and program == ".venv/bin/ruff"
        tool = Path(sys.executable).parent / "ruff"
        done = subprocess.run(
            [tool, *words, "--no-cache", __file__], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == [{"name": "kdharness contributors"}]
    (paper,) = citation["references"]
    assert paper["doi"].endswith("2406.19112") and len(paper["authors"]) == 5
