"""The docs site, workflows, hooks and citation are consistent with the repository."""

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


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def site_pages() -> Any:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = site_pages()


# ---------------------------------------------------------------- the site


def nav_pages(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from nav_pages(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    added = [*SITE.REPOSITORY_PAGES.values(), *(f"api/{name}.md" for name in SITE.API)]
    assert sorted(nav_pages(load_yaml(ROOT / "mkdocs.yml")["nav"])) == sorted([*pages, *added])


def test_page_urls_are_unique() -> None:
    pages = list(nav_pages(load_yaml(ROOT / "mkdocs.yml")["nav"]))
    addresses = [re.sub(r"(/?README|/?index)?\.md$", "", page) for page in pages]
    assert len(set(addresses)) == len(pages)


def test_api_reference_lists_existing_modules() -> None:
    for title, names in SITE.API.values():
        assert title
        for name in names:
            assert importlib.import_module(name).__doc__, name
    page = SITE.api_page(*SITE.API["harness"])
    assert page.count("show_submodules: false") == 1
    assert "\n::: kdharness.harness.types\n" in page


@pytest.mark.parametrize(
    ("page", "link", "expected"),
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
def test_links_are_rewritten(page: str, link: str, expected: str) -> None:
    assert SITE.turned(f"see [it]({link}).", page) == f"see [it]({expected})."


def test_site_is_built_strictly_with_unlocked_requirements() -> None:
    recipe = MAKEFILE.split("\nsite:")[1].split("\n\n")[0]
    assert "mkdocs build --strict" in recipe
    constrained = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    )
    requirements = list(map(Requirement, PROJECT["optional-dependencies"]["docs"]))
    assert {"mkdocs", "mkdocs-material", "mkdocstrings"} <= {r.name for r in requirements}
    for requirement in requirements:
        version = constrained.get(requirement.name)
        assert version is None or requirement.specifier.contains(version), requirement


# ---------------------------------------------------------------- workflows


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in load_yaml(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_structure(path: Path) -> None:
    workflow = load_yaml(path)
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True] and workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"]
        assert job.get("needs") in {None, *workflow["jobs"]}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_make_targets_in_workflows_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    used = [
        word
        for step in steps(path)
        for line in re.sub(r"\$\{\{.*?\}\}", "", step.get("run", "")).splitlines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if "=" not in word
    ]
    assert set(used) <= targets


def test_workflows_are_tests_docs_and_release() -> None:
    runs = {path.stem: "\n".join(s.get("run", "") for s in steps(path)) for path in WORKFLOWS}
    assert set(runs) == {"tests", "docs", "release"}
    assert "make PYTHON=python${{ matrix.python }} test" in runs["tests"]
    assert "make site" in runs["docs"]
    assert "python -m build" in runs["release"]


def test_test_matrix_covers_every_supported_python() -> None:
    job = load_yaml(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["test"]
    marker = "Programming Language :: Python :: 3."
    supported = [
        "3." + c.removeprefix(marker) for c in PROJECT["classifiers"] if c.startswith(marker)
    ]
    assert job["strategy"]["matrix"]["python"] == supported


def test_only_the_publish_job_has_an_id_token() -> None:
    jobs = load_yaml(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert (jobs["publish"]["environment"], jobs["publish"]["needs"]) == ("pypi", "build")
    assert "permissions" not in jobs["build"]


@pytest.mark.parametrize(("tag", "accepted"), [(f"v{PROJECT['version']}", True), ("v99.0", False)])
def test_release_rejects_a_tag_that_is_not_the_version(tag: str, accepted: bool) -> None:
    release = ROOT / ".github" / "workflows" / "release.yml"
    (check,) = [step["run"] for step in steps(release) if "GITHUB_REF_NAME" in step.get("run", "")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "GITHUB_REF_NAME": tag}
    done = subprocess.run(
        ["bash", "-e", "-c", check], cwd=ROOT, env=environment, capture_output=True
    )
    assert (done.returncode == 0) is accepted, done.stderr


def test_dependabot_updates_only_github_actions() -> None:
    updates = load_yaml(ROOT / ".github" / "dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions"]


# ---------------------------------------------------------------- hooks and citation


def test_pre_commit_hooks_use_the_projects_tools() -> None:
    (repository,) = load_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    commands = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert set(commands) == {"ruff-format", "ruff-check"}
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system" and program == ".venv/bin/ruff"
        tool = Path(sys.executable).parent / "ruff"
        done = subprocess.run(
            [tool, *arguments, "--no-cache", __file__], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_citation_has_the_current_version() -> None:
    citation = load_yaml(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == [{"name": "kdharness contributors"}]
    (paper,) = citation["references"]
    assert paper["doi"].endswith("2406.19112") and len(paper["authors"]) == 5
