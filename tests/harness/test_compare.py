"""Two checkpoints side by side: no winner by chance, settings, flips, costs, and the command."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness import cli
from kdharness.harness.analysis.compare import PairedComparison, compare_all, sides_of
from kdharness.harness.analysis.costs import costs_of, flops_text, training_cost
from kdharness.harness.analysis.side_by_side import NO_RUN, flip_counts, flips, settings_that_differ
from kdharness.harness.paths import Paths
from kdharness.harness.stats.inference import Difference
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Run, RunStatus

HOSTILE = "=x|[bold]\x1b]52;c;aGk=\x07\u202egnp\n| <b>"
Result = tuple[int, str, str]


def add_run(store: Store, name: str, method: str = "kd", **more: Any) -> None:
    config = {"method": method, "name": name, **more.pop("config", {})}
    store.add_run(
        Run(
            id=name,
            method=method,
            status=RunStatus.FINISHED,
            config=config,
            config_hash=name,
            folder=f"/runs/{name}",
            created=1.0,
            started=10.0,
            finished=70.0,
            checkpoint=name,
            **more,
        )
    )


def add_checkpoint(store: Store, name: str, method: str = "kd", **more: Any) -> Checkpoint:
    fields = {"run": name if store.run(name) else None, "path": f"/runs/{name}/final", **more}
    return store.add_checkpoint(
        Checkpoint(id=f"id-{name}", name=name, method=method, created=1.0, **fields)
    )


def verdict(checkpoint: str, item: int, value: float | None, **rest: Any) -> Judgment:
    fields: dict[str, Any] = {
        "turn": 1,
        "judge": "exact",
        "created": 1.0,
        "bench": "shop",
        "revision": "r",
        "metric": "accuracy",
        "category": "math" if item % 2 else "words",
        **rest,
    }
    status = JudgmentStatus.OK if value is not None else JudgmentStatus.UNREADABLE
    parts = [checkpoint, item, fields["bench"], fields["metric"], fields["turn"], fields["created"]]
    return Judgment(
        id="/".join(map(str, parts)),
        checkpoint=f"id-{checkpoint}",
        item=f"i{item}",
        value=value,
        status=status,
        **fields,
    )


@pytest.fixture
def store(paths: Paths) -> Any:
    with Store(paths.store) as opened:
        yield opened


# ---------------------------------------------------------------- verdicts


def compared(low: float, high: float, p: float, metric: str = "score") -> PairedComparison:
    gap = Difference((low + high) / 2, low, high, p, 20, 10)
    return PairedComparison("shop", metric, "exact", "a", "b", 0.0, 0.0, gap, p)


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.1, 0.5, 0.001, "better"),
        (-0.5, -0.1, 0.001, "worse"),
        # The sign flips find what the bootstrap does not, and the other way round: nobody wins.
        (-0.01, 0.5, 0.001, "not told apart"),
        (-0.5, 0.01, 0.001, "not told apart"),
        (0.0, 0.5, 0.001, "not told apart"),
        (0.1, 0.5, 0.05, "not told apart"),
    ],
)
def test_a_winner_needs_the_interval_and_the_corrected_p(
    low: float, high: float, p: float, said: str
) -> None:
    assert compared(low, high, p).verdict == said
    turned = {"better": "worse", "worse": "better"}.get(said, said)
    assert compared(low, high, p, "domain_loss").verdict == turned


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_winner_where_the_interval_holds_zero(low: float, width: float, p: float) -> None:
    one = compared(low, low + width, p)
    if low <= 0 <= low + width or p >= 0.05:
        assert one.verdict == "not told apart"
        assert one.as_dict()["verdict"] == "not told apart"


def test_holm_counts_a_benchmarks_figures_and_all_checkpoints_together(store: Store) -> None:
    for name, right in (("a", 2), ("b", 14), ("c", 15)):
        add_checkpoint(store, name)
        store.add_judgments([verdict(name, i, float(i < right)) for i in range(16)])
        store.add_judgments(
            [
                verdict(
                    name,
                    i,
                    3.0 + right / 4 + i % 3,
                    bench="mt-bench",
                    metric="rating",
                    judge="openai:j",
                )
                for i in range(10)
            ]
        )
    pair = {(c.bench, c.metric): c for c in compare_all(store, None, ["a", "b"])}
    three = {
        (c.bench, c.metric): c for c in compare_all(store, None, ["a", "b", "c"]) if c.other == "b"
    }
    shop = [c for c in compare_all(store, None, ["a", "b"]) if c.bench == "shop"]
    assert len(shop) > 1 and pair["shop", "score"].verdict == "better"
    assert pair["shop", "score"].p_holm <= len(shop) * pair["shop", "score"].gap.p + 1e-12
    assert all(three[key].p_holm >= pair[key].p_holm for key in pair)
    store.add_judgments([verdict(n, i, 1.0, bench="other") for n in "ab" for i in range(9)])
    again = {(c.bench, c.metric): c for c in compare_all(store, None, ["a", "b"])}
    assert all(again[key].p_holm == pair[key].p_holm for key in pair)


# ---------------------------------------------------------------- settings


def test_settings_name_fields_runs_and_what_has_no_run(store: Store) -> None:
    add_run(store, "one", config={"seed": 1, "trainer": {"lr": 1e-5, "layers": [1, 2]}})
    add_run(store, "two", config={"seed": 1, "trainer": {"lr": 2e-5, "layers": [1, 3]}})
    found = [add_checkpoint(store, "one"), add_checkpoint(store, "two")]
    assert dict(settings_that_differ(store, found)) == {
        "run": ["/runs/one", "/runs/two"],
        "trainer.lr": [1e-5, 2e-5],
        "trainer.layers": [[1, 2], [1, 3]],
    }
    found.append(add_checkpoint(store, "found", "import", info={"kept": [1]}))
    shown = dict(settings_that_differ(store, found))
    assert shown["run"] == ["/runs/one", "/runs/two", NO_RUN]
    assert shown["trainer.lr"] == [1e-5, 2e-5, NO_RUN] and shown["kept"] == [None, None, [1]]
    assert "trainer.lr" not in dict(settings_that_differ(store, found[1:]))
    assert settings_that_differ(store, [found[0], found[0]]) == []


def test_merges_of_one_run_differ_in_their_alpha(store: Store) -> None:
    add_run(store, "wise", "merge")
    found = [
        add_checkpoint(store, f"w{a}", "merge", run="wise", info={"alpha": a}) for a in (0.2, 0.7)
    ]
    assert settings_that_differ(store, found) == [("alpha", [0.2, 0.7])]


# ---------------------------------------------------------------- flips


def test_flips_cross_the_middle_and_count_each_verdict_once(store: Store) -> None:
    for name in "ab":
        add_checkpoint(store, name)
    before, after = [0, 1, 0, 1, 0.4, 1, None], [1, 0, 1, 1, 0.45, 1, 1]
    for name, values in (("a", before), ("b", after)):
        store.add_judgments([verdict(name, i, v) for i, v in enumerate(values)])
        store.add_judgments(
            [
                verdict(name, i, 100.0 * (name == "a"), bench="heldout", metric="domain_loss")
                for i in range(3)
            ]
        )
    # A second asking replaces the first: b's item 5 was right, and is wrong now.
    store.add_judgments([verdict("b", 5, 0.0, created=2.0)])
    ratings = {"a": [3.0, 7.0, 5.0], "b": [5.0, 6.0, 1.0]}
    for name, values in ratings.items():
        store.add_judgments(
            [
                verdict(name, i, v, bench="mt-bench", metric="rating", judge="openai:j")
                for i, v in enumerate(values)
            ]
        )
    base, other = sides_of(store, ["a", "b"])
    rated, shop = flip_counts(base, other)
    assert (shop.bench, shop.n, shop.wrong_to_right, shop.right_to_wrong) == ("shop", 6, 2, 2)
    assert (rated.judge, rated.n, rated.wrong_to_right, rated.right_to_wrong) == (
        "openai:j",
        3,
        1,
        1,
    )
    assert [i.item for i in rated.items] == ["i2", "i0"]
    assert len(shop.as_dict(1)["items"]) == 1  # type: ignore[arg-type]
    moved = flips(base.table, other.table)
    assert {f.item for f in moved if not f.flipped} == {"i1", "i4"}  # 7 to 6, and 0.4 to 0.45
    assert [f.flipped for f in moved] == sorted((f.flipped for f in moved), reverse=True)


def test_one_item_with_two_metrics_is_two_verdicts(store: Store) -> None:
    for name, rated in (("a", 2.0), ("b", 8.0)):
        add_checkpoint(store, name)
        store.add_judgments(
            [
                verdict(name, 1, 1.0, bench="mine"),
                verdict(name, 1, rated, bench="mine", metric="rating"),
            ]
        )
    (found,) = flip_counts(*sides_of(store, ["a", "b"]))
    assert (found.n, found.wrong_to_right, found.items[0].metric) == (2, 1, "rating")


# ---------------------------------------------------------------- costs


def lineage(store: Store) -> dict[str, Checkpoint]:
    """teacher -> kd -> expert, and dae from kd (twice) and expert: a diamond; a merge on top."""
    made: dict[str, Checkpoint] = {"hub": add_checkpoint(store, "hub", "model")}
    for name, method, flops, parents in (
        ("teacher", "sft", 1e12, {"student": "hub"}),
        ("cut", "cut", None, {"teacher": "teacher"}),
        ("kd", "kd", 2e12, {"student": "cut", "teacher": "teacher"}),
        ("expert", "sft", 4e12, {"student": "kd"}),
        ("dae", "dae", 8e12, {"student": "kd", "reference": "kd", "expert": "expert"}),
        ("wise", "merge", None, {"reference": "kd", "expert": "expert"}),
    ):
        if method != "cut":
            add_run(store, name, method)
        info = {"flops": flops, "tokens": 1000} if flops else {}
        made[name] = add_checkpoint(
            store,
            name,
            method,
            info=info,
            parents={role: f"id-{parent}" for role, parent in parents.items()},
        )
    return made


def test_a_diamond_counts_each_training_once(store: Store) -> None:
    made = lineage(store)
    dae = training_cost(store, made["dae"])
    assert (dae.flops, dae.flops_total, dae.trainings) == (8e12, 15e12, 4)
    assert (dae.tokens, dae.seconds) == (1000, 60.0)
    kd = training_cost(store, made["kd"])
    assert (kd.flops, kd.flops_total, kd.trainings) == (2e12, 3e12, 2)


def test_merges_cuts_and_what_was_found_elsewhere(store: Store) -> None:
    made = lineage(store)
    wise = training_cost(store, made["wise"])
    assert (wise.flops, wise.tokens, wise.seconds, wise.flops_total) == (0, 0, 0, 7e12)
    assert training_cost(store, made["cut"]).flops_total == 1e12
    hub = training_cost(store, made["hub"])
    assert (hub.flops, hub.tokens, hub.seconds, hub.flops_total) == (None, None, None, None)
    assert hub.texts()["flops_total"] == "–"


def test_the_best_and_the_last_weights_are_one_training(store: Store) -> None:
    made = lineage(store)
    best = add_checkpoint(
        store, "kd@best", run="kd", info={"flops": 2e12}, parents=made["kd"].parents
    )
    both = add_checkpoint(store, "both", "merge", parents={"a": best.id, "b": made["kd"].id})
    assert training_cost(store, both).flops_total == 3e12


def test_a_sum_that_is_not_whole_says_so(store: Store) -> None:
    made = lineage(store)
    add_run(store, "old")
    old = add_checkpoint(
        store,
        "old",
        info={"flops": float("nan")},
        parents={"teacher": made["teacher"].id, "gone": "id-nobody"},
    )
    cost = training_cost(store, old)
    assert (cost.flops, cost.flops_total, cost.flops_known) == (None, None, 1e12)
    assert cost.texts()["flops_total"] == "≥ 1e12" and cost.texts()["tokens"] == "–"


def test_a_circle_of_parents_ends(store: Store) -> None:
    for name, parent in (("x", "y"), ("y", "x")):
        add_run(store, name)
        add_checkpoint(store, name, info={"flops": 1.0}, parents={"student": f"id-{parent}"})
    one = store.checkpoint("x")
    assert one is not None and training_cost(store, one).flops_total == 2.0


def test_judges_are_paid_for_what_was_asked_from_here(store: Store) -> None:
    one = add_checkpoint(store, "a")
    asked: dict[str, Any] = {"judge": "openai:j", "metric": "rating", "raw": "7", "usd": 0.25}
    store.add_judgments(
        [
            verdict("a", 1, 7.0, **asked),
            verdict("a", 2, None, **{**asked, "raw": "", "error": "time", "usd": 0.0}),
            verdict("a", 3, 7.0, **{**asked, "info": {"copied": "x"}, "usd": 0.0}),
            verdict("a", 4, 7.0, **{**asked, "info": {"mirrored": "x"}, "usd": 0.0}),
            verdict("a", 5, 0.5, **{**asked, "raw": "", "usd": 0.0}),
            verdict("a", 6, 7.0, **{**asked, "judge": "imported:gpt-4"}),
            verdict("a", 7, 1.0),
            verdict("b", 8, 7.0, **asked),
        ]
    )
    (cost,) = costs_of(store, [one])
    assert (cost.judge_calls, cost.judge_usd) == (2, 0.25)
    assert [row["calls"] for row in store.judge_spending()] == [3]


def test_flops_are_told_in_three_digits() -> None:
    shown = [flops_text(v) for v in (None, 0, 1.2345e15, 3.0e9, 12)]
    assert shown == ["–", "0", "1.23e15", "3e09", "12"]


# ---------------------------------------------------------------- the command


@pytest.fixture
def kd(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The entry point on a home with two trained checkpoints and an imported one."""
    with Store(paths.store) as store:
        made = lineage(store)
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
        assert made["dae"].name == "dae"

    def call(*args: str) -> Result:
        capsys.readouterr()
        code = cli.run(["--home", str(paths.home), "compare", *args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def harmless(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cf") for c in text.replace("\n", ""))


def test_the_table_tells_all_four_parts(kd: Callable[..., Result]) -> None:
    code, out, err = kd("kd", "dae", "--flips", "2")
    assert code == 0 and "p_holm" in err
    differences, settings, flipped, cost = out.split("\n\n")
    assert differences.startswith("Paired differences\nbench") and "better" in differences
    assert "seed" in settings and "/runs/dae" in settings and "[0.9, 0.99]" in settings
    assert "13" in flipped.splitlines()[3] and flipped.count("wrong to right") == 2 + 2
    assert "1.5e13" in cost and "8e12" in cost and "0.10" in cost and "1:00" in cost


def test_every_part_is_a_list_in_json(kd: Callable[..., Result]) -> None:
    def rows(*args: str) -> list[dict[str, Any]]:
        code, out, _ = kd("kd", "dae", "--format", "json", *args)
        assert code == 0
        found = json.loads(out)
        assert isinstance(found, list) and found
        return found

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


@pytest.mark.parametrize("what", ["differences", "settings", "flips", "cost"])
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_hostile_names_are_harmless_in_every_part_and_format(
    kd: Callable[..., Result], what: str, form: str
) -> None:
    code, out, err = kd("kd", HOSTILE, "dae", "--what", what, "--format", form, "--all")
    assert code == 0 and out.strip() and harmless(out + err)
    if form == "json":
        assert len(json.loads(out)) > 1
    elif form == "csv":
        table = list(csv.reader(io.StringIO(out)))
        assert len({len(row) for row in table}) == 1
        assert not [cell for row in table for cell in row if cell.startswith("=")]
    elif form == "md":
        bars = {line.replace("\\|", "").count("|") for line in out.splitlines()}
        assert len(bars) == 1


def test_one_checkpoint_or_an_unknown_one_is_told(kd: Callable[..., Result]) -> None:
    assert kd("kd")[0] == 2
    code, _, err = kd("kd", "nobody")
    assert code == 2 and "nobody" in err
    code, out, _ = kd("kd", "kd", "--what", "settings", "--format", "table")
    assert (code, out.strip()) == (0, "none")
    assert kd("kd", "hub")[1].count("nothing that both were judged on") == 2
