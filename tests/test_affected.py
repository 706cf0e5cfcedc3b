"""Which tests `make check` runs."""

from __future__ import annotations

import pytest
from tools.affected import ROOT, affected

TESTS = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]


@pytest.mark.parametrize(
    ("changed", "first", "also"),
    [
        (
            "harness/util/ticks.py",
            "harness/reports/test_report.py",
            ["harness/reports/test_svg.py"],
        ),
        # By name: a test of a command imports no module of it.
        ("harness/cli/eval.py", "harness/cli/test_eval.py", []),
        ("harness/util/scrub.py", "harness/util/test_scrub.py", []),
        ("tests/tui/test_keys.py", "tui/test_keys.py", []),
        ("tests/support/hub_server.py", "harness/reports/test_publish.py", []),
        ("docs/judges.md", "test_docs.py", []),
        ("data/presets/kd-laptop.yaml", "data", []),
    ],
)
def test_the_tests_of_a_change(changed: str, first: str, also: list[str]) -> None:
    found = affected([changed], TESTS)
    assert f"tests/{first}" in (found if "support" in changed else found[:1])
    assert {f"tests/{name}" for name in also} <= set(found)
    assert not {name for name in found if not (ROOT / name).exists()}


def test_a_change_of_nothing_that_is_tested_has_no_tests() -> None:
    assert affected(["LICENSE"], TESTS) == []
