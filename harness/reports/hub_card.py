"""The README of a published model: what the hub reads, and what people read."""

from __future__ import annotations

import json
import math
import ntpath
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import explained, is_bookkeeping, is_headline
from kdharness.harness.assets import manifest
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import TRAINED, weight_ancestors
from kdharness.harness.types import Checkpoint, Score
from kdharness.harness.util.redact import redact
from kdharness.harness.util.tables import cell, format_rows
from kdharness.harness.util.text import safe_text

FEW = 8
"""Scores of fewer items are in the text alone, not in the metadata that the hub ranks by."""
_ENDPOINT = re.compile(r"@https?://\S+")
_URL = re.compile(r"https?://\S+")
_PATH_IN_PROSE = re.compile(
    r"(?<![\w/\\.:~])(?:(?:~\w*|\.{1,2})?/[^\s/]+/\S*|[A-Za-z]:\\\S*)(?<![/\\])"
)
PROSE = ("prompt",)
"""Fields whose slashes stand between words."""
_PATH = re.compile(r"^(~|[A-Za-z]:)?[/\\]|^file:|^local:[/\\~.]|[/\\].*[/\\]")


def hub_card(store: Store, paths: Paths, checkpoint: Checkpoint, *, adapter: bool) -> str:
    """Return a checkpoint's README for the hub, without secrets and local paths.

    Its metadata have the base model, tags, and a `model-index` of the scores that are on enough
    items and from a judge that was not found wanting. Its text has the
    method, the lineage, fingerprints of the data, the scores with intervals and the config.

    Args:
        store: the home's store.
        paths: the home.
        checkpoint: what is published.
        adapter: whether it is published as an adapter.
    """
    scores = [s for s in leaderboard(store, paths, checkpoints=[checkpoint.id]) if _is_told(s)]
    bases = [hub for one in weight_ancestors(store, checkpoint)[1:] if (hub := hub_id(one))]
    name = safe_text(checkpoint.name)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.bench,
            dataset_name=score.bench,
            dataset_args={
                "n": score.n,
                "judge": judge_without_places(score),
                "flags": list(score.flags),
            },
            metric_type=score.metric,
            metric_value=_number(score.value),
            metric_name=_metric_name(score),
        )
        for score in scores
        if score.n >= FEW
        and math.isfinite(score.value or 0.0)
        and not any(flag.startswith("judge:") for flag in score.flags)
    ]
    metadata = ModelCardData(
        base_model=list(dict.fromkeys(bases)) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["kdharness", checkpoint.method],
        model_name=name,
        eval_results=results or None,
    )
    run = store.run(checkpoint.run) if checkpoint.run else None
    parts = ["---", metadata.to_yaml(), "---", "", f"# {name}", "", _how(checkpoint), ""]
    parts += [f"- {role}: {_shown(known, key)}" for role, key, known in _parents(store, checkpoint)]
    if data := checkpoint.info.get("data"):
        parts.append(f"- training data: fingerprint `{data}`")
    for key, title in (("tokens", "tokens trained on"), ("labelled", "of them with a loss")):
        if number := checkpoint.info.get(key):
            parts.append(f"- {title}: {number:,}")
    if flops := checkpoint.info.get("flops"):
        parts.append(f"- compute: {flops:.3g} FLOPs")
    parts += [f"- weights: `{checkpoint.model}`", "", "## Scores", "", _table(scores)]
    if run is not None:
        config = json.dumps(without_places(run.config), indent=2, ensure_ascii=False)
        parts += ["", "## Training config", "", "```json", config, "```"]
    parts += ["", "Trained and scored with kdharness."]
    return redact("\n".join(parts) + "\n", shapes=True)


def hub_id(checkpoint: Checkpoint) -> str:
    """Return the hub repository of a model that came from there; empty for any other."""
    named = split_hub_name(checkpoint.name)
    if named is not None and checkpoint.method not in TRAINED and not checkpoint.run:
        return named[0]
    asset = manifest().get(Path(checkpoint.path).name if checkpoint.path else "")
    return str(asset.hub.get("repo", "")) if asset is not None and not checkpoint.run else ""


def without_places(value: object) -> object:
    """Return plain data with the last part of every local path, and no address of an endpoint."""
    if isinstance(value, Mapping):
        return {
            key: _prose(part) if key in PROSE and isinstance(part, str) else without_places(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_places(part) for part in value]
    if not isinstance(value, str):
        return value
    text = _ENDPOINT.sub("", value)
    if re.match(r"^https?://", text):
        return "(an endpoint)"
    if "\n" in text:
        return _prose(text)
    if _PATH.search(text):
        return _last_part(text)
    return text


def _prose(text: str) -> str:
    """Return a text for people or models without the paths and addresses among its words."""
    plain = _URL.sub("(an endpoint)", _ENDPOINT.sub("", text))
    return _PATH_IN_PROSE.sub(lambda found: _last_part(found[0]), plain)


def _last_part(path: str) -> str:
    return ntpath.basename(posixpath.basename(path.rstrip("/\\")))


def _is_told(score: Score) -> bool:
    """Return whether the table has a score: categories of few items would fill it."""
    if score.value is None or is_bookkeeping(score.metric):
        return False
    return is_headline(score.metric) or score.n >= FEW


def _number(value: float | None) -> float:
    return float(f"{value or 0.0:.6g}")


def judge_without_places(score: Score) -> str:
    """Return a score's judge without the address of its endpoint, and without local paths."""
    return str(without_places(score.judge))


def _metric_name(score: Score) -> str:
    """Return the metric with its interval, which the hub's format has no field for."""
    if score.ci_low is None or score.ci_high is None:
        return f"{score.metric} (n = {score.n}, no interval)"
    return f"{score.metric} (95 % {cell(score.ci_low)} to {cell(score.ci_high)}, n = {score.n})"


def _table(scores: Sequence[Score]) -> str:
    if not scores:
        return "Not scored."
    rows = [
        {
            "benchmark": score.bench,
            "metric": score.metric,
            "value": score.value,
            "95 % interval": (
                f"{cell(score.ci_low)} to {cell(score.ci_high)}"
                if score.ci_low is not None
                else "–"
            ),
            "n": score.n,
            "judge": judge_without_places(score),
            "flags": " ".join(score.flags),
        }
        for score in scores
    ]
    lines = [format_rows(rows, list(rows[0]), "md")]
    if notes := explained(flag for score in scores for flag in score.flags):
        lines += ["", *(f"- `{name}`: {text}" for name, text in notes.items())]
    return "\n".join(lines)


def _how(checkpoint: Checkpoint) -> str:
    names = {
        "sft": "Trained by supervised fine-tuning",
        "kd": "Trained by knowledge distillation",
        "dae": "Trained by domain alignment from an expert",
        "merge": "Merged from other models' weights",
    }
    day = time.strftime("%Y-%m-%d", time.gmtime(checkpoint.created))
    return f"{names.get(checkpoint.method, f'Made by {checkpoint.method}')}, {day}."


def _parents(store: Store, checkpoint: Checkpoint) -> list[tuple[str, str, Checkpoint | None]]:
    return [(r, key, store.checkpoint(key)) for r, key in sorted(checkpoint.parents.items())]


def _shown(known: Checkpoint | None, key: str) -> str:
    if known is None:
        return f"`{key}`"
    name = safe_text(str(without_places(known.name)))
    hub = hub_id(known)
    return f"[{hub}](https://huggingface.co/{hub})" if hub else f"{name} (`{known.model}`)"
