"""`kdharness compare`: its four parts in every format, and hostile names."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine, Result
from support.scored_store import add_checkpoint, lineage, verdict

HOSTILE = "=x|[bold]\x1b]52;c;aGk=\x07\u202egnp\n| <b>"


@pytest.fixture
def compare(paths: Paths, kd: CommandLine) -> Callable[..., Result]:
    """Return a function that runs `kdharness compare` on a home with three checkpoints."""
    with Store(paths.store) as store:
        checkpoints = lineage(store)
        add_checkpoint(store, HOSTILE, "import", path="")
        store.update_run("kd", config={"method": "kd", "seed": 1, HOSTILE: HOSTILE})
        store.update_run("dae", config={"method": "dae", "seed": 2, "betas": [0.9, 0.99]})
        for name, right in (("kd", 4), ("dae", 17), (HOSTILE, 4)):
            rows = [verdict(name, i, float(i < right)) for i in range(20)]
            rows += [
                verdict(
                    name,
                    i,
                    3.0 + right / 4,
                    bench="mt-bench",
                    metric="rating",
                    raw="x",
                    judge=f"openai:{HOSTILE}",
                    category=HOSTILE,
                    usd=0.01,
                )
                for i in range(10)
            ]
            store.add_judgments(rows)
        assert checkpoints["dae"].name == "dae"

    return lambda *args: kd("compare", *args)


def has_no_control_characters(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cf") for c in text.replace("\n", ""))


def test_table_has_all_four_parts(compare: Callable[..., Result]) -> None:
    code, out, err = compare("kd", "dae", "--flips", "2")
    assert code == 0 and "p_holm" in err
    differences, settings, flipped, cost = out.split("\n\n")
    assert differences.startswith("Paired differences\nbench") and "▲" in differences
    assert "seed" in settings and "/runs/dae" in settings and "[0.9, 0.99]" in settings
    assert "13" in flipped.splitlines()[3] and flipped.count("wrong to right") == 2 + 2
    assert "1.5e13" in cost and "8e12" in cost and "0.10" in cost and "1:00" in cost


def test_one_line_per_metric_within_the_terminal(
    compare: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = compare("kd", "dae", "--what", "differences")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80
    metrics = [line.split()[0] for line in lines[2:] if line.startswith("  ")]
    assert metrics == ["score", "turn_1", "score"]
    shop = lines[next(n for n, line in enumerate(lines) if line == "shop") + 1]
    assert shop.split()[:3] == ["score", "0.2", "0.85"] and "▲" in shop
    assert "[1] openai:" in err and "▼" not in out
    # Each of several others has columns of its own, below if they do not fit.
    out = compare("kd", "dae", HOSTILE, "--what", "differences")[1]
    assert out.count("difference") == 2 and out.count("bench  ") == out.count(" kd ") == 2
    err = compare("kd", "dae", "expert", "--what", "differences")[2]
    assert "expert: no items judged for both checkpoints" in err
    long = compare("kd", "dae", "--what", "differences", "--long")[1]
    assert long.startswith("bench") and "p_holm" in long and "better" in long


def test_json_output_of_every_part_is_a_list(compare: Callable[..., Result]) -> None:
    def rows(*args: str) -> list[dict[str, Any]]:
        code, out, _ = compare("kd", "dae", "--format", "json", *args)
        assert code == 0
        parsed = json.loads(out)
        assert isinstance(parsed, list) and parsed
        return parsed

    assert rows() == rows("--what", "differences")
    assert {"bench", "metric", "verdict", "p_holm", "ci_low"} <= set(rows()[0])
    assert {r["verdict"] for r in rows("--bench", "shop", "--metric", "score")} == {"better"}
    assert {"field": "seed", "checkpoint": "dae", "value": 2} in rows("--what", "settings")
    shop = {r["bench"]: r for r in rows("--what", "flips", "--flips", "3")}["shop"]
    assert (shop["n"], shop["wrong_to_right"], shop["right_to_wrong"]) == (20, 13, 0)
    assert len(shop["items"]) == 3 and shop["items"][0]["flip"] == "wrong to right"
    assert rows("--what", "cost")[1] == {
        "checkpoint": "dae",
        "tokens": 1000,
        "flops": 8e12,
        "flops_total": 15e12,
        "flops_known": 15e12,
        "trainings": 4,
        "seconds": 60.0,
        "judge_calls": 10,
        "judge_usd": pytest.approx(0.1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", ["differences", "settings", "flips", "cost"])
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_hostile_names_are_escaped_in_every_part_and_format(
    compare: Callable[..., Result], what: str, form: str
) -> None:
    code, out, err = compare("kd", HOSTILE, "dae", "--what", what, "--format", form, "--all")
    assert code == 0 and out.strip() and has_no_control_characters(out + err)
    if form == "json":
        assert len(json.loads(out)) > 1
    elif form == "csv":
        table = list(csv.reader(io.StringIO(out)))
        assert len({len(row) for row in table}) == 1
        assert not [cell for row in table for cell in row if cell.startswith("=")]
    elif form == "md":
        bars = {line.replace("\\|", "").count("|") for line in out.splitlines()}
        assert len(bars) == 1


def test_compare_rejects_one_checkpoint_and_unknown_names(compare: Callable[..., Result]) -> None:
    assert compare("kd")[0] == 2
    code, _, err = compare("kd", "nobody")
    assert code == 2 and "nobody" in err
    code, out, _ = compare("kd", "kd", "--what", "settings", "--format", "table")
    assert (code, out.strip()) == (0, "none")
    assert compare("kd", "hub")[1].count("no items judged for both checkpoints") == 2
