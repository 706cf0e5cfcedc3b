"""IFEval as a benchmark: its file, its judgments, its scores, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.analysis.prompts import bench_texts
from kdharness.harness.analysis.tradeoff import trade_off_view
from kdharness.harness.assets import AssetFile, file_sha256, find_asset, manifest
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import AssetError, DataError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.reports.transcripts import largest_differences
from kdharness.harness.stats.rows import ScoreContext, from_judgments
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    MetricValue,
)
from kdharness.judges.audit.gaming import gaming_flags
from kdharness.judges.benchmarks.ifeval import IFEval
from kdharness.judges.scoring.ifeval import Instruction
from kdharness.judges.scoring.ifeval_outcome import Arguments
from kdharness.judges.scoring.ifeval_scores import score_ifeval
from kdharness.tui.viewmodels.transcripts import read_transcript, verdict_lines
from support.commands import CommandLine
from support.evaluations import scores
from support.ifeval import BAD, GOOD, PROMPTS, make, write_ifeval


@pytest.fixture
def home(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    write_ifeval(paths.assets, monkeypatch)
    return paths


def values(judgments: Sequence[Judgment]) -> dict[tuple[str, str, int], float | None]:
    return {(j.item, j.metric, j.order): j.value for j in judgments}


def scored(judgments: Sequence[Judgment]) -> dict[str, MetricValue]:
    return {s.metric: s for s in score_ifeval(from_judgments(judgments), ScoreContext())}


# ---------------------------------------------------------------- the file


def test_items_are_greedy_and_have_the_published_limit(home: Paths) -> None:
    bench = IFEval.load(home, EvalConfig())
    assert [item.id for item in bench.items] == ["7", "8", "9", "10"]
    assert {(i.temperature, i.max_new_tokens) for i in bench.items} == {(0.0, 1280)}
    assert {i.messages for i in bench.items} == {()}
    assert bench.items[0].category == "no_comma" and bench.flags == ()
    short = IFEval.load(home, EvalConfig(limit=2, max_new_tokens=9))
    assert short.flags == ("subset:2", "max_new_tokens:9") and short.total == 4
    assert short.revision != bench.revision


def test_other_arguments_are_another_revision(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    before = IFEval.load(home, EvalConfig()).revision
    changed = [dict(row) for row in PROMPTS]
    changed[0]["kwargs"] = [{}, {"num_words": 4, "relation": "at least"}]
    write_ifeval(home.assets, monkeypatch, changed)
    assert IFEval.load(home, EvalConfig()).revision != before


def test_an_added_argument_of_another_kind_keeps_the_revision(home: Paths) -> None:
    bench = IFEval.load(home, EvalConfig())
    more = make_dataclass("More", [("sign", str, "")], bases=(Arguments,), frozen=True)
    instructions = {
        item: tuple(Instruction(part.kind, more(**vars(part.arguments))) for part in parts)
        for item, parts in bench.instructions.items()
    }
    assert IFEval(bench.items, instructions, home.assets).revision == bench.revision


def test_all_missing_assets_are_named_at_once(paths: Paths) -> None:
    with pytest.raises(AssetError, match="ifeval is missing, language-profiles is") as caught:
        IFEval.load(paths, EvalConfig())
    assert caught.value.hint == ("run: kdharness data pull ifeval language-profiles sentence-model")


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change(path: Path) -> None:
    """Change one byte; the size remains."""
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("damage", [_remove, _shorten, _change])
@pytest.mark.parametrize(
    "file",
    [
        "ifeval/ifeval_input_data.jsonl",
        "language-profiles/profiles/hi",
        "language-profiles/messages.properties",
        "sentence-model/ortho_context.tab",
    ],
)
def test_damaged_assets_are_refused_before_any_answer(
    home: Paths, file: str, damage: Callable[[Path], None]
) -> None:
    damage(home.assets / file)
    asset = file.partition("/")[0]
    with pytest.raises(AssetError, match="damaged") as caught:
        IFEval.load(home, EvalConfig())
    assert caught.value.message == f"{asset} is damaged"
    assert caught.value.hint == f"run: kdharness data pull {asset}"


@pytest.mark.parametrize("asset", ["language-profiles", "sentence-model"])
def test_other_models_are_another_revision(
    home: Paths, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    before = IFEval.load(home, EvalConfig()).revision
    file = {"language-profiles": "profiles/de", "sentence-model": "abbrev_types.txt"}[asset]
    (home.assets / asset / file).write_text("dr\n")
    listed = AssetFile(file_sha256(home.assets / asset / file), 3)
    files = {**find_asset(asset).files, file: listed}
    monkeypatch.setitem(manifest(), asset, replace(find_asset(asset), files=files))
    assert IFEval.load(home, EvalConfig()).revision != before
    # The order of the manifest says nothing.
    files = dict(reversed(find_asset(asset).files.items()))
    after = IFEval.load(home, EvalConfig()).revision
    monkeypatch.setitem(manifest(), asset, replace(find_asset(asset), files=files))
    assert IFEval.load(home, EvalConfig()).revision == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_dash"], "kwargs": [{}]}, "unknown kind"),
        ({"kwargs": [{}]}, "list has 2 entries, kwargs has 1"),
        ({"kwargs": None}, "must be lists"),
        ({"kwargs": [{}, None]}, "must be an object"),
        ({"kwargs": [{}, {"num_words": 3}]}, "number_words: missing argument 'relation'"),
        ({"instruction_id_list": [], "kwargs": []}, "instruction_id_list is empty"),
        ({"prompt": None}, "missing key or prompt"),
        (
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "zz"}]},
            "unsupported language 'zz'",
        ),
    ],
)
def test_a_line_that_cannot_be_checked_is_refused_by_its_number(
    home: Paths, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ifeval(home.assets, monkeypatch, [PROMPTS[1], {**PROMPTS[0], **change}])
    with pytest.raises(DataError, match=message) as caught:
        IFEval.load(home, EvalConfig())
    assert "line 2" in caught.value.where


# ---------------------------------------------------------------- judgments and scores


def test_each_instruction_has_a_strict_and_a_loose_judgment(home: Paths) -> None:
    judgments = IFEval.load(home, EvalConfig()).exact(make(BAD))
    found = values(judgments)
    assert found["7", "inst_strict", 1] == 0 and found["7", "inst_strict", 2] == 0
    assert found["8", "inst_strict", 1] == 0 and found["8", "inst_loose", 1] == 1
    assert found["8", "prompt_strict", 0] == 0 and found["8", "prompt_loose", 0] == 1
    assert found["9", "prompt_loose", 0] == 0
    said = {(j.item, j.metric, j.order): j.raw for j in judgments}
    assert said["7", "inst_strict", 1] == "punctuation:no_comma: no comma; found: 1 comma"
    assert said["7", "inst_strict", 2] == (
        "length_constraints:number_words: at least 3 words; found: 2 words"
    )
    assert said["8", "inst_loose", 1] == "followed without first line"
    assert len({j.id for j in judgments}) == len(judgments) == 2 * 5 + 2 * 4


def test_scores_are_the_four_accuracies_and_one_per_kind(home: Paths) -> None:
    texts = {**GOOD, "7": BAD["7"], "8": BAD["8"]}
    got = scored(IFEval.load(home, EvalConfig()).exact(make(texts)))
    assert list(got)[:4] == ["prompt_strict", "prompt_loose", "inst_strict", "inst_loose"]
    assert [(got[m].value, got[m].n) for m in list(got)[:4]] == [
        (0.5, 4),
        (0.75, 4),
        (2 / 5, 5),
        (3 / 5, 5),
    ]
    kinds = [name for name in got if name.startswith("category:")]
    assert len(kinds) == 5 and got["category:startend:quotation"].value == 0
    assert all(score.n_failed == 0 for score in got.values())


def test_intervals_are_over_prompts(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 24 prompts half follow both instructions and half neither: 48 instructions are no more
    # evidence than 24.
    rows = [{**PROMPTS[0], "key": n} for n in range(24)]
    write_ifeval(home.assets, monkeypatch, rows)
    texts = {str(n): GOOD["7"] if n % 2 else BAD["7"] for n in range(24)}
    got = scored(IFEval.load(home, EvalConfig()).exact(make(texts)))
    prompt, inst = got["prompt_strict"], got["inst_strict"]
    assert prompt.value == inst.value == 0.5
    assert (prompt.ci_low, prompt.ci_high) == pytest.approx((inst.ci_low, inst.ci_high), abs=0.02)


def test_empty_cut_off_and_failed_answers(home: Paths) -> None:
    bench = IFEval.load(home, EvalConfig())
    empty = bench.exact(make({"7": " "}))
    assert {j.value for j in empty} == {0.0}
    cut = bench.exact(make({"7": GOOD["7"]}, Finish.LENGTH))
    assert {j.value for j in cut} == {1.0} and all(j.info["truncated"] for j in cut)
    failed = bench.exact(make({"7": ""}, Finish.ERROR))
    assert {j.status for j in failed} == {JudgmentStatus.FAILED}
    assert {j.value for j in failed} == {None}
    assert scored(failed)["prompt_strict"].n_failed == 1


def test_reasoning_is_no_part_of_the_answer(home: Paths) -> None:
    bench = IFEval.load(home, EvalConfig())
    thought = bench.exact(make({"7": f"<think>Well, a comma, then.</think>{GOOD['7']}"}))
    assert {j.value for j in thought} == {1.0}
    endless = bench.exact(make({"7": "<think>apples and pears and plums"}, Finish.LENGTH))
    assert {j.value for j in endless} == {0.0}


def test_an_answer_in_the_language_asked_for_is_no_red_flag(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**PROMPTS[2], "key": n, "prompt": "Answer in Kannada."} for n in range(3)]
    write_ifeval(home.assets, monkeypatch, rows)
    bench = IFEval.load(home, EvalConfig())
    kannada = "ಇದು ಕನ್ನಡದಲ್ಲಿ ಬರೆದ ಒಂದು ಉದ್ದವಾದ ಉತ್ತರ"
    flags = gaming_flags(bench, make({str(n): f"{kannada} {n}" for n in range(3)}))
    assert flags["flags"] == []


# ---------------------------------------------------------------- from store to screen


@pytest.fixture
def evaluated(home: Paths, store: Store) -> Paths:
    """Return a home with two models' scores."""
    for name, texts in (("good", GOOD), ("bad", BAD)):
        store.add_checkpoint(Checkpoint(id=name, name=name, method="import", path="", created=1.0))
        store.add_answers(make(texts, of=name))
    config = EvalConfig(imported=["good", "bad"], benches=["ifeval"])
    done = pipeline.run(config, home, store, NullReporter())
    assert (done["judgments"], done["failed_judgments"], done["waiting"]) == (36, 0, [])
    assert pipeline.run(config, home, store, NullReporter())["judgments"] == 0
    return home


def test_a_missing_answer_is_one_failure(home: Paths, store: Store) -> None:
    """It has no judgment of each instruction nor of the prompt: 6 of one item."""
    store.add_checkpoint(Checkpoint(id="f", name="f", method="import", path="", created=1.0))
    store.add_answers(make({"7": ""}, Finish.ERROR, of="f") + make({"8": '"yes"'}, of="f"))
    config = EvalConfig(imported=["f"], benches=["ifeval"])
    done = pipeline.run(config, home, store, NullReporter())
    assert (done["judgments"], done["failed_judgments"]) == (6 + 4, 1)


def test_leaderboard_compare_and_trade_off(evaluated: Paths, store: Store) -> None:
    board = scores(store, evaluated)
    assert board["good", "ifeval", "prompt_strict"].value == 1
    assert board["bad", "ifeval", "prompt_strict"].value == 0
    compared = {
        c.metric: c for c in compare_sides(store, evaluated, sides_of(store, ["bad", "good"]))
    }
    assert {"prompt_strict", "prompt_loose", "inst_strict", "inst_loose"} <= set(compared)
    assert compared["inst_strict"].gap.n == 4
    assert compared["inst_strict"].gap.value == pytest.approx(1.0)
    view = trade_off_view(store, evaluated, None, "ifeval:inst_loose", None, None)
    assert view.general.label == "ifeval:prompt_strict"
    assert {point.point.checkpoint for point in view.points} == {"good", "bad"}


def test_transcripts_say_which_instruction_failed_and_why(evaluated: Paths, store: Store) -> None:
    prompts = bench_texts(evaluated, "ifeval").prompts
    assert prompts["7"] == (PROMPTS[0]["prompt"],)
    transcript = read_transcript(store, "ifeval", ("good", "bad"), prompts)
    exchange = next(e for e in transcript.exchanges if e.item == "7")
    assert exchange.category == "no_comma"
    lines = ["".join(text for text, _ in line) for line in verdict_lines(exchange.second)]
    assert lines[0].startswith("prompt_loose 0") and lines[1].startswith("prompt_strict 0")
    assert "punctuation:no_comma: no comma; found: 1 comma" in lines
    assert not any("other order" in line for line in lines)
    (block,) = largest_differences(store, evaluated, ("good", "bad"), 1)
    said = [side[2] for side in block.sides]  # type: ignore[union-attr]
    assert "found" not in said[0] and "found" in said[1]


def test_the_command_needs_no_judge(evaluated: Paths, kd: CommandLine) -> None:
    rows = kd.json("leaderboard", "--bench", "ifeval", "--metric", "prompt_strict")
    assert {row["checkpoint"]: row["value"] for row in rows} == {"good": 1.0, "bad": 0.0}
    assert {row["judge"] for row in rows} == {"exact"}


@pytest.mark.slow
def test_eval_command_refuses_damaged_assets(home: Paths, store: Store, kd: CommandLine) -> None:
    # The command's own process has the manifest of the package: all three have other checksums.
    store.add_checkpoint(Checkpoint(id="m", name="m", method="import", path="", created=1.0))
    store.add_answers(make(GOOD, of="m"))
    code, _, err = kd("eval", "--answers", "m", "--bench", "ifeval")
    assert code and "ifeval is damaged, language-profiles is damaged" in err
    assert "run: kdharness data pull ifeval language-profiles sentence-model" in err
    assert store.judgments("m") == []
