"""kdharness docs: pages, sections and schemas of listings, from a source tree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from kdharness.harness.cli.docs import anchor, pages, section
from kdharness.harness.cli.listing_schemas import LISTINGS, SAME, all_schemas, listing_schema
from kdharness.harness.cli.main import cli
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claims import Budget, ClaimResult, ClaimSpec
from kdharness.harness.stats import Effect
from support.commands import CommandLine
from support.listings import check_listing, closed, listing_of

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests/fixtures/frozen/listings.json").read_text("utf-8"))


def test_every_page_is_listed_and_printed_as_it_is(kd: CommandLine) -> None:
    out = kd.ok("docs")
    assert set(pages()) == {path.stem for path in (ROOT / "docs").glob("*.md")}
    for name in pages():
        assert re.search(rf"^{name} +\S", out, re.MULTILINE)
    page = (ROOT / "docs" / "outputs.md").read_text("utf-8")
    assert kd.ok("docs", "outputs") == page


@pytest.mark.parametrize("part", ["kdharness runs --format json", "runs", "RUNS"])
def test_a_section_is_found_by_its_heading(kd: CommandLine, part: str) -> None:
    out = kd.ok("docs", f"outputs#{part}")
    assert out.startswith("## `kdharness runs --format json`") and "`tags` (a list)" in out
    assert "kdharness show RUN" not in out


def test_a_section_has_its_subsections_and_no_code_comments_as_headings() -> None:
    text = "# A\n\n## B\nx\n```\n# not a heading\n```\n### C\ny\n## D\nz\n"
    assert section(text, "b", "p") == "## B\nx\n```\n# not a heading\n```\n### C\ny\n"
    assert section(text, "C", "p") == "### C\ny\n"
    assert anchor("What a step costs: FLOPs") == "what-a-step-costs-flops"
    with pytest.raises(ConfigError, match="no section 'not a heading' on the page p"):
        section(text, "not a heading", "p")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("trainin",), "no page 'trainin'; did you mean training?"),
        (("ollama",), "did you mean exporting?"),
        (("training#kernel-s",), "no section 'kernel-s' on the page training; did you mean"),
        (("--schema", "runz"), "no listing 'runz'; did you mean runs?"),
    ],
)
def test_near_names_are_suggested(kd: CommandLine, args: tuple[str, ...], words: str) -> None:
    code, _, err = kd("docs", *args)
    assert code == 2 and words in err and "available: " in err


def test_installed_pages_are_used_without_a_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdharness.harness.cli import docs

    class File:
        def __init__(self, name: str) -> None:
            self.name = name

        def as_posix(self) -> str:
            return f"../../../share/kdharness/docs/{self.name}"

        def locate(self) -> Path:
            return tmp_path / self.name

    class Installed:
        files = [File("app.md"), File("training.md")]

    monkeypatch.setattr(docs, "SOURCE", tmp_path / "gone" / "docs")
    monkeypatch.setattr(docs, "distribution", lambda _: Installed)
    assert docs.pages() == {
        "app": tmp_path / "app.md",
        "training": tmp_path / "training.md",
    }
    Installed.files = []
    with pytest.raises(ConfigError, match="documentation is not installed"):
        docs.pages()


def test_it_is_laid_out_on_a_terminal() -> None:
    code = (
        "import sys; sys.stdout.isatty = lambda: True\n"
        "from kdharness.harness import cli; sys.exit(cli.run(['docs', 'index']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "# kdharness" not in done.stdout and "kdharness" in done.stdout
    assert "|---" not in done.stdout


# ---------------------------------------------------------------- schemas


@pytest.mark.parametrize("name", [*LISTINGS, *SAME])
def test_schemas_are_schemas(kd: CommandLine, name: str) -> None:
    found = json.loads(kd.ok("docs", "--schema", name))
    Draft202012Validator.check_schema(found)
    assert found == listing_schema(name) and found["$schema"].endswith("2020-12/schema")


def test_all_schemas_are_one_document(kd: CommandLine) -> None:
    found = json.loads(kd.ok("docs", "--schema"))
    Draft202012Validator.check_schema(found)
    assert found == all_schemas() and set(found["$defs"]) == {*LISTINGS, *SAME}


NAMES = {
    "leaderboard as published": "leaderboard",
    "show of a merge": "show",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_listings_are_as_their_schemas_say(name: str) -> None:
    listing, value = NAMES.get(name, name), GOLDEN[name]
    check_listing(listing, value)
    rows = value if isinstance(value, list) else [value]
    for row in rows[:1]:
        for key in row:
            if key in required(listing):
                short = {other: part for other, part in row.items() if other != key}
                with pytest.raises(AssertionError, match=key):
                    check_listing(listing, [short] if isinstance(value, list) else short)


def required(name: str) -> list[str]:
    schema: Any = LISTINGS[name]
    return list((schema.get("items") or schema)["required"])


def test_wrong_values_are_found() -> None:
    row = dict(GOLDEN["runs"][0])
    for key, value in (("step", "four"), ("loss", "low"), ("new", 1)):
        with pytest.raises(AssertionError, match="runs: "):
            check_listing("runs", [{**row, key: value}])
    assert closed(listing_schema("runs"))["items"]["additionalProperties"] is False


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "outputs.md").read_text("utf-8")
    quoted = " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.DOTALL))
    documented = set(re.findall(r"\w+", quoted))

    def keys(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(keys, schema))
        if not isinstance(schema, dict):
            return set()
        own = set(schema.get("properties", {}))
        return {key.rstrip("?") for key in own}.union(*map(keys, schema.values()))

    missing = {
        name: sorted(left) for name, part in LISTINGS.items() if (left := keys(part) - documented)
    }
    assert missing == {}


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["compare", "a", "b", "--what", "cost"], "compare cost"),
        (["compare", "a", "b", "--what", "differences"], "compare differences"),
        (["eval", "--ckpt", "x", "--dry-run"], "eval --dry-run"),
        (["sweep", "x.yaml", "--dry-run"], "sweep --dry-run"),
        (["replicate", "--list"], "replicate --list"),
        (["replicate", "frontier", "--dry-run"], "replicate --dry-run"),
        (["judge", "list"], "judge list"),
        (["tag", "x"], ""),
    ],
)
def test_commands_are_told_apart(args: list[str], name: str) -> None:
    assert listing_of(args) == name


@pytest.mark.parametrize(
    "args",
    [
        ["replicate", "--list"],
        ["replicate", "forgetting", "--dry-run"],
        ["sweep", "forgetting", "--dry-run"],
    ],
)
def test_listings_of_experiments_are_as_their_schemas_say(kd: CommandLine, args: list[str]) -> None:
    assert listing_of(args)
    assert kd.json(*args)


@pytest.mark.parametrize("equal", [{}, {"tokens": 1.2}])
@pytest.mark.parametrize("effect", [None, Effect(0.1, 0.0, 0.2, 20, (0.1,), 0.01)])
def test_results_of_claims_are_as_their_schema_says(
    effect: Effect | None, equal: dict[Budget, float]
) -> None:
    claim = ClaimSpec(text="x", of="kd", than="sft", metric="shop:score")
    for p_holm in (None, 0.01):
        row = ClaimResult(claim, {"seed": 1}, effect, p_holm=p_holm, equal=equal).as_dict()
        check_listing("replicate", [row])
        for key in row:
            with pytest.raises(AssertionError, match=key):
                check_listing("replicate", [{k: v for k, v in row.items() if k != key}])


def formatted(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the commands with --format, by the words after `kdharness`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from formatted(command, f"{above}{name} ")
        elif any(option.name == "form" for option in command.params):
            yield f"{above}{name}", command


def test_whatever_a_command_lists_has_a_schema() -> None:
    known, found = {*LISTINGS, *SAME}, dict(formatted(cli))
    del found["config show"]  # prints a config, whose schema is that of `config schema`
    assert len(found) > 20
    for name, command in found.items():
        options = {option for part in command.params for option in part.opts}
        ways = {f"{name} {way}" for way in ("--dry-run", "--list") if way in options}
        assert {name, *ways} <= known, name
