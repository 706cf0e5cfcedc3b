"""Export results to other tools' formats: FastChat, alpaca_eval."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS, resolve
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Judgment, JudgmentStatus, digest
from kdharness.harness.util.atomic import atomic_write_text

LONGEST_FILE_NAME = 200
"""In bytes; file systems allow 255, and suffixes are added."""


def file_name(text: str) -> str:
    """Return a safe file name: no path separator, no leading dash, not too long."""
    name = re.sub(r"[^\w.+-]+", "_", text).lstrip("-").strip("._") or "unnamed"
    if len(name.encode()) <= LONGEST_FILE_NAME:
        return name
    head = name.encode()[: LONGEST_FILE_NAME - 9].decode("utf-8", "ignore")
    return f"{head}-{digest(text)[:8]}"


def chosen(store: Store, names: Sequence[str]) -> list[Checkpoint]:
    """Return the named checkpoints, or all.

    Raises:
        ConfigError: an unknown name.
    """
    if not names:
        return store.checkpoints()
    checkpoints = []
    for name in names:
        checkpoint = store.checkpoint(name)
        if checkpoint is None:
            names_known = ", ".join(c.name for c in store.checkpoints()[:10]) or "none"
            raise ConfigError(f"no checkpoint named {name!r}", hint=f"available: {names_known}")
        checkpoints.append(checkpoint)
    return checkpoints


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> Path | None:
    listed = list(rows)
    if not listed:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    atomic_write_text(path, text)
    return path


# ---------------------------------------------------------------- FastChat


def export_fastchat(paths: Paths, folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write `model_answer/MODEL.jsonl`, `model_judgment/JUDGE_single.jsonl` and `_pair.jsonl`.

    Returns:
        The written files.
    """
    written: list[Path | None] = []
    singles: dict[str, list[dict[str, object]]] = {}
    pairs: dict[str, list[dict[str, object]]] = {}
    with Store(paths.store) as store:
        for checkpoint in chosen(store, names):
            answers = store.answers(checkpoint.id, "mt-bench")
            written.append(
                _write_lines(
                    folder / "model_answer" / f"{file_name(checkpoint.name)}.jsonl",
                    answer_rows(checkpoint, answers),
                )
            )
            prompts = _prompts(paths, answers)
            for judgment in store.judgments(checkpoint.id, "mt-bench"):
                if judgment.metric == EXPECTED_RATING:
                    continue  # FastChat has no such protocol: its rows would be taken for parsed
                judge = _plain(judgment.judge)
                singles.setdefault(judge, []).append(single_row(checkpoint, judgment, prompts))
            for judge, rows in pair_rows(checkpoint, store).items():
                pairs.setdefault(judge, []).extend(rows)
    for kind, table in (("single", singles), ("pair", pairs)):
        for judge, rows in table.items():
            rows.sort(key=lambda row: (row.get("model", ""), row["tstamp"]))
            path = folder / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl"
            written.append(_write_lines(path, rows))
    return [path for path in written if path is not None]


def _plain(judge: str) -> str:
    """Return a judge's model name alone, as FastChat writes it."""
    name = judge.split("@http")[0]
    return name.split(":", 1)[1] if ":" in name else name


def answer_rows(checkpoint: Checkpoint, answers: Sequence[Answer]) -> list[dict[str, object]]:
    """Return answers as FastChat rows; the newest one per turn."""
    table: dict[str, dict[int, Answer]] = {}
    for answer in answers:
        table.setdefault(answer.item, {})[answer.turn] = answer
    return [
        {
            "question_id": int(item),
            "answer_id": turns[min(turns)].id,
            "model_id": checkpoint.name,
            "choices": [{"index": 0, "turns": [turns[turn].text for turn in sorted(turns)]}],
            "tstamp": turns[max(turns)].created,
        }
        for item, turns in sorted(table.items(), key=lambda pair: int(pair[0]))
    ]


def _prompts(paths: Paths, answers: Sequence[Answer]) -> dict[tuple[str, int], tuple[str, str]]:
    """Map (item, turn) to (prompt name, judge's user prompt); empty if the asset is not pulled."""
    try:
        bench = resolve(BENCHMARKS, "mt-bench", "benchmark").load(paths, EvalConfig())
    except KDHarnessError:
        return {}
    return {
        (call.item, call.turn): (str(call.info["prompt"]), call.messages[-1]["content"])
        for call in bench.judge_calls([a for a in answers if a.item in bench._by_id])
    }


def single_row(
    checkpoint: Checkpoint, judgment: Judgment, prompts: dict[tuple[str, int], tuple[str, str]]
) -> dict[str, object]:
    """Return a judgment as a FastChat row; a missing verdict is -1."""
    name, prompt = prompts.get((judgment.item, judgment.turn), ("", ""))
    name = str(judgment.info.get("prompt", name))
    value = judgment.value if judgment.value is not None else judgment.info.get("published", -1)
    whole = float(value).is_integer()
    return {
        "question_id": int(judgment.item),
        "model": checkpoint.name,
        "judge": [_plain(judgment.judge), name],
        "user_prompt": prompt,
        "judgment": judgment.raw or judgment.error,
        "score": int(value) if whole else value,
        "turn": judgment.turn,
        "tstamp": judgment.created,
    }


def pair_rows(checkpoint: Checkpoint, store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return the matches of a checkpoint as FastChat rows by judge, each match once."""
    matches: dict[tuple[str, str, str, int], dict[int, Judgment]] = {}
    for judgment in store.judgments(checkpoint.id, "mt-bench-pair"):
        if "mirrored" in judgment.info:
            continue
        key = (judgment.judge, judgment.baseline, judgment.item, judgment.turn)
        matches.setdefault(key, {})[judgment.order] = judgment
    known = {c.name: c for c in store.checkpoints()}
    rows_by_judge: dict[str, list[dict[str, object]]] = {}
    for (judge, baseline, item, turn), games in sorted(matches.items()):
        other = known.get(baseline)
        # Imported matches are stored from both sides: only the alphabetically first writes them.
        if judge.startswith("imported:") and other is not None and baseline < checkpoint.name:
            continue
        if set(games) != {0, 1}:
            continue
        row: dict[str, object] = {
            "question_id": int(item),
            "model_1": checkpoint.name,
            "model_2": baseline,
            "g1_winner": _winner(games[0]),
            "g2_winner": _winner(games[1]),
            "judge": [_plain(judge), str(games[0].info.get("prompt", ""))],
            "g1_user_prompt": "",
            "g1_judgment": games[0].raw,
            "g2_user_prompt": "",
            "g2_judgment": games[1].raw,
            "turn": turn,
            "tstamp": games[0].created,
        }
        rows_by_judge.setdefault(_plain(judge), []).append(row)
    return rows_by_judge


def _winner(game: Judgment) -> str:
    if game.status is not JudgmentStatus.OK or game.value is None:
        return "error"
    return {1.0: "model_1", 0.0: "model_2"}.get(game.value, "tie")


# ---------------------------------------------------------------- AlpacaEval


def export_alpaca_eval(paths: Paths, folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write `MODEL/model_outputs.json` and, if any, `MODEL/JUDGE/annotations.json`.

    Needs the `alpaca-eval` asset.
    """
    entries = json.loads(
        asset_file(paths, "alpaca-eval", "alpaca_eval_gpt4_baseline.json").read_text("utf-8")
    )
    written: list[Path] = []
    with Store(paths.store) as store:
        for checkpoint in chosen(store, names):
            answers = {a.item: a for a in store.answers(checkpoint.id, "alpaca-eval")}
            outputs = [
                {
                    "dataset": entry.get("dataset", ""),
                    "instruction": entry["instruction"],
                    "output": answers[str(index)].text,
                    "generator": checkpoint.name,
                }
                for index, entry in enumerate(entries)
                if str(index) in answers
            ]
            if outputs:
                target = folder / file_name(checkpoint.name)
                written.append(_write_json(target / "model_outputs.json", outputs))
                written += _annotations(store, checkpoint, answers, entries, target)
    return written


def _annotations(
    store: Store,
    checkpoint: Checkpoint,
    answers: dict[str, Answer],
    entries: Sequence[dict[str, object]],
    folder: Path,
) -> list[Path]:
    """Write one file per judge; the baseline answers of version 2 come from the asset."""
    by_judge: dict[str, dict[int, dict[str, Any]]] = {}
    texts = {answer.id: answer.text for answer in answers.values()}
    for judgment in store.judgments(checkpoint.id, "alpaca-eval-2"):
        if not judgment.item.isdigit() or judgment.answer not in texts:
            continue
        entry = entries[int(judgment.item)]
        by_judge.setdefault(_plain(judgment.judge), {})[int(judgment.item)] = {
            "instruction": entry["instruction"],
            "output_1": entry["output"],
            "generator_1": judgment.baseline,
            "dataset": entry.get("dataset", ""),
            "output_2": texts[judgment.answer],
            "generator_2": checkpoint.name,
            "annotator": _plain(judgment.judge),
            "preference": judgment.value,
            "raw_completion": judgment.raw,
            "price_per_example": judgment.usd,
        }
    return [
        _write_json(folder / file_name(judge) / "annotations.json", [rows[i] for i in sorted(rows)])
        for judge, rows in by_judge.items()
    ]


def _write_json(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(rows, indent=2, ensure_ascii=False))
    return path
