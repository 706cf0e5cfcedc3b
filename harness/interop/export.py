"""Export results to other tools' formats: FastChat, alpaca_eval."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.analysis.compared_with import stored_texts
from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.interop.exported import Say, judge_names, results_of
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS, resolve
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


def _write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path | None:
    listed = list(rows)
    if not listed:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    atomic_write_text(path, text)
    return path


# ---------------------------------------------------------------- FastChat


def export_fastchat(
    paths: Paths, folder: Path, names: Sequence[str] = (), say: Say = lambda _: None
) -> list[Path]:
    """Write `model_answer/MODEL.jsonl`, `model_judgment/JUDGE_single.jsonl` and `_pair.jsonl`.

    Args:
        paths: the home.
        folder: where to.
        names: only these checkpoints.
        say: is told what is left out.

    Returns:
        The written files.
    """
    written: list[Path | None] = []
    singles: list[tuple[Checkpoint, list[Judgment]]] = []
    pairs: list[tuple[Checkpoint, list[Judgment]]] = []
    prompts: dict[str, dict[tuple[str, int], tuple[str, str]]] = {}
    with Store(paths.store) as store:
        notes = store.bench_notes()
        known = {c.name for c in store.checkpoints()}
        for checkpoint in chosen(store, names):
            answers, judgments = results_of(store, checkpoint, "mt-bench", notes, say)
            written.append(
                _write_lines(
                    folder / "model_answer" / f"{file_name(checkpoint.name)}.jsonl",
                    answer_rows(checkpoint, answers),
                )
            )
            prompts[checkpoint.id] = _prompts(paths, answers)
            singles.append((checkpoint, judgments))
            pairs.append(
                (checkpoint, results_of(store, checkpoint, "mt-bench-pair", notes, say).judgments)
            )
    judges = judge_names({j.judge for _, found in (*singles, *pairs) for j in found})
    single_rows = [
        single_row(checkpoint, judgment, prompts[checkpoint.id], judges[judgment.judge])
        for checkpoint, found in singles
        for judgment in found
    ]
    matches = [
        row for checkpoint, found in pairs for row in pair_rows(checkpoint, found, known, judges)
    ]
    for kind, rows in (("single", single_rows), ("pair", matches)):
        by_judge: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: (row.get("model", ""), row["tstamp"])):
            by_judge.setdefault(row["judge"][0], []).append(row)
        for judge, part in by_judge.items():
            path = folder / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl"
            written.append(_write_lines(path, part))
    return [path for path in written if path is not None]


def answer_rows(checkpoint: Checkpoint, answers: Sequence[Answer]) -> list[dict[str, object]]:
    """Return answers as FastChat rows."""
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
    checkpoint: Checkpoint,
    judgment: Judgment,
    prompts: Mapping[tuple[str, int], tuple[str, str]],
    judge: str,
) -> dict[str, Any]:
    """Return a judgment as a FastChat row; a missing verdict is -1."""
    name, prompt = prompts.get((judgment.item, judgment.turn), ("", ""))
    name = str(judgment.info.get("prompt", name))
    value = judgment.value if judgment.value is not None else judgment.info.get("published", -1)
    whole = float(value).is_integer()
    return {
        "question_id": int(judgment.item),
        "model": checkpoint.name,
        "judge": [judge, name],
        "user_prompt": prompt,
        "judgment": judgment.raw or judgment.error,
        "score": int(value) if whole else value,
        "turn": judgment.turn,
        "tstamp": judgment.created,
    }


def pair_rows(
    checkpoint: Checkpoint,
    judgments: Sequence[Judgment],
    known: Collection[str],
    judges: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the matches of a checkpoint as FastChat rows, each match once.

    Args:
        checkpoint: model_1.
        judgments: of both orders.
        known: the names of all stored checkpoints.
        judges: the judges' names in the rows.
    """
    matches: dict[tuple[str, str, str, int], dict[int, Judgment]] = {}
    for judgment in judgments:
        key = (judgment.judge, judgment.baseline, judgment.item, judgment.turn)
        matches.setdefault(key, {})[judgment.order] = judgment
    rows = []
    for (judge, baseline, item, turn), games in sorted(matches.items()):
        # Imported matches are stored from both sides: only the alphabetically first writes them.
        if judge.startswith("imported:") and baseline in known and baseline < checkpoint.name:
            continue
        if set(games) != {0, 1}:
            continue
        rows.append(
            {
                "question_id": int(item),
                "model_1": checkpoint.name,
                "model_2": baseline,
                "g1_winner": _winner(games[0]),
                "g2_winner": _winner(games[1]),
                "judge": [judges[judge], str(games[0].info.get("prompt", ""))],
                "g1_user_prompt": "",
                "g1_judgment": games[0].raw,
                "g2_user_prompt": "",
                "g2_judgment": games[1].raw,
                "turn": turn,
                "tstamp": games[0].created,
            }
        )
    return rows


def _winner(game: Judgment) -> str:
    if game.status is not JudgmentStatus.OK or game.value is None:
        return "error"
    return {1.0: "model_1", 0.0: "model_2"}.get(game.value, "tie")


# ---------------------------------------------------------------- AlpacaEval


def export_alpaca_eval(
    paths: Paths, folder: Path, names: Sequence[str] = (), say: Say = lambda _: None
) -> list[Path]:
    """Write `MODEL/model_outputs.json` and, if any, `MODEL/JUDGE/annotations.json`.

    Needs the `alpaca-eval` asset. Annotations against another baseline than its own are in
    `MODEL/JUDGE-BASELINE/annotations.json`.

    Args:
        paths: the home.
        folder: where to.
        names: only these checkpoints.
        say: is told what is left out.
    """
    entries = json.loads(
        asset_file(paths, "alpaca-eval", "alpaca_eval_gpt4_baseline.json").read_text("utf-8")
    )
    written: list[Path] = []
    with Store(paths.store) as store:
        notes = store.bench_notes()
        for checkpoint in chosen(store, names):
            answers, judgments = results_of(store, checkpoint, "alpaca-eval-2", notes, say)
            texts = {answer.item: answer.text for answer in answers}
            outputs = [
                {
                    "dataset": entry.get("dataset", ""),
                    "instruction": entry["instruction"],
                    "output": texts[str(index)],
                    "generator": checkpoint.name,
                }
                for index, entry in enumerate(entries)
                if str(index) in texts
            ]
            if outputs:
                target = folder / file_name(checkpoint.name)
                written.append(_write_json(target / "model_outputs.json", outputs))
                for name, rows in annotation_rows(
                    store, checkpoint, texts, judgments, entries, say
                ).items():
                    written.append(_write_json(target / file_name(name) / "annotations.json", rows))
    return written


def annotation_rows(
    store: Store,
    checkpoint: Checkpoint,
    texts: Mapping[str, str],
    judgments: Sequence[Judgment],
    entries: Sequence[Mapping[str, Any]],
    say: Say,
) -> dict[str, list[dict[str, object]]]:
    """Return the rows of each judge, or of each judge and baseline that is not the asset's own.

    Args:
        store: has the answers of baselines.
        checkpoint: the second side.
        texts: its answers by item.
        judgments: of these answers.
        entries: the asset's instructions, with its own baseline's answers.
        say: is told of baselines whose answers are not stored.
    """
    judges = judge_names({judgment.judge for judgment in judgments})
    own = {str(index): str(entry["output"]) for index, entry in enumerate(entries)}
    shipped = {str(entry.get("generator", "")) for entry in entries}
    opponents = {
        name: own if name in shipped else stored_texts(store, name, "alpaca-eval-2")
        for name in {judgment.baseline for judgment in judgments}
    }
    tables: dict[str, dict[int, dict[str, object]]] = {}
    for judgment in judgments:
        theirs = opponents[judgment.baseline].get(judgment.item)
        if not judgment.item.isdigit() or judgment.item not in texts or theirs is None:
            continue
        judge = judges[judgment.judge]
        name = judge if judgment.baseline in shipped else f"{judge}-{judgment.baseline}"
        entry = entries[int(judgment.item)]
        tables.setdefault(name, {})[int(judgment.item)] = {
            "instruction": entry["instruction"],
            "output_1": theirs,
            "generator_1": judgment.baseline,
            "dataset": entry.get("dataset", ""),
            "output_2": texts[judgment.item],
            "generator_2": checkpoint.name,
            "annotator": judge,
            "preference": judgment.value,
            "raw_completion": judgment.raw,
            "price_per_example": judgment.usd,
        }
    for name in sorted(name for name, found in opponents.items() if not found):
        say(f"{checkpoint.name}: comparisons with {name or '?'} are left out: its answers are gone")
    return {name: [rows[index] for index in sorted(rows)] for name, rows in tables.items()}


def _write_json(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(rows, indent=2, ensure_ascii=False))
    return path
