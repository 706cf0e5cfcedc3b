"""The README of a published model: what the hub reads, and what people read."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import explained, is_bookkeeping, is_headline
from kdharness.harness.assets import manifest
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import weight_ancestors
from kdharness.harness.types import Checkpoint, Score
from kdharness.harness.util.filesystem import exists
from kdharness.harness.util.redact import redact
from kdharness.harness.util.scrub import judge_without_places, without_places
from kdharness.harness.util.tables import cell, format_rows
from kdharness.harness.util.text import safe_text
from kdharness.harness.util.untrusted import parse_yaml

FEW = 8
"""Scores of fewer items are in the text alone, not in the metadata that the hub ranks by."""
BEGIN, END = "<!-- kdharness: begin -->", "<!-- kdharness: end -->"
"""Around what is written here, in a card that people may have added to."""
OF_THE_REPOSITORY = ("license*", "language", "extra_gated_*", "thumbnail")
"""Metadata that are not about the weights."""
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def hub_card(
    store: Store, paths: Paths, checkpoint: Checkpoint, *, adapter: bool, license: str = ""
) -> str:
    """Return a checkpoint's README for the hub, without secrets and local paths.

    Its metadata have the base model, tags, and a `model-index` of the scores that are on enough
    items and from a judge that was not found wanting. Its text has the
    method, the lineage, fingerprints of the data, the scores with intervals and the config.

    Args:
        store: the home's store.
        paths: the home.
        checkpoint: what is published.
        adapter: whether it is published as an adapter.
        license: as the hub spells it; empty for none.
    """
    scores = [s for s in leaderboard(store, paths, checkpoints=[checkpoint.id]) if _is_told(s)]
    ancestors = weight_ancestors(store, checkpoint)[1:]
    bases = [hub for one in ancestors if (hub := _repository(one, paths))]
    name = safe_text(checkpoint.name)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.bench,
            dataset_name=score.bench,
            metric_type=score.metric,
            metric_value=_number(score.value),
            metric_name=_metric_name(score),
            # The metric's, not the dataset's: the hub has one entry for all scores of a dataset.
            metric_args={
                "n": score.n,
                "judge": judge_without_places(score.judge),
                "flags": list(score.flags),
            },
        )
        for score in scores
        if score.n >= FEW
        and math.isfinite(score.value or 0.0)
        and not any(flag.startswith("judge:") for flag in score.flags)
    ]
    metadata = ModelCardData(
        base_model=list(dict.fromkeys(bases)) or None,
        license=license or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["kdharness", checkpoint.method],
        model_name=name,
        eval_results=results or None,
    )
    run = store.run(checkpoint.run) if checkpoint.run else None
    parts = ["---", metadata.to_yaml(), "---", "", BEGIN, f"# {name}", "", _how(checkpoint), ""]
    for role, key in sorted(checkpoint.parents.items()):
        parts.append(f"- {role}: {_shown(store.checkpoint(key), key, paths)}")
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
    parts += ["", "Trained and scored with kdharness.", END]
    return redact("\n".join(parts) + "\n", shapes=True)


def with_additions(card: str, former: str, replaced: bool) -> str:
    """Return a card with what people have added to the repository's former one.

    Text before and after the part that was written here stays. Of the metadata, terms, language
    and access rules are the repository's; the other fields describe the former model, and are kept
    if its weights are not replaced. Scores never are.

    Args:
        card: the new README.
        former: the README that it replaces.
        replaced: whether the weights are other ones.

    Raises:
        ConfigError: the former card's metadata cannot be read.
    """
    block, found = _FRONT_MATTER.match(card), _FRONT_MATTER.match(former)
    assert block is not None
    ours = parse_yaml(block[1], "the metadata of the new card")
    theirs = _metadata_of(found[1]) if found else {}
    merged = ours | _kept(ours, theirs, replaced)
    head = card[: block.end()]
    if found and merged == theirs:
        head = former[: found.end()]
    elif merged != ours:
        text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
        head = f"---\n{text}---\n"
    before, begin, rest = (former[found.end() :] if found else former).partition(BEGIN)
    _, end, after = rest.partition(END)
    body = card[block.end() :]
    if begin and end:
        body = f"{before}{body[body.index(BEGIN) : body.index(END)]}{END}{after}"
    # An editor may have saved it with the line ends of another system.
    is_same = "".join(f"{head}{body}".splitlines()) == "".join(former.splitlines())
    return former if is_same else f"{head}{body}"


def _metadata_of(text: str) -> Mapping[str, Any]:
    """Return the metadata of a repository's card.

    Raises:
        ConfigError: they cannot be read: terms and access rules might be lost.
    """
    try:
        found = parse_yaml(text, "README.md")
    except ConfigError as error:
        raise ConfigError(
            f"the metadata of the repository's README.md cannot be read: {error.message}",
            hint="correct them on the hub, or delete the file there: its license would be lost",
        ) from error
    return found if isinstance(found, Mapping) else {}


def _kept(ours: Mapping[str, Any], theirs: Mapping[str, Any], replaced: bool) -> dict[str, Any]:
    """Return the fields of a former card's metadata that are kept; see `with_additions`."""
    licensed = "license" in ours and ours["license"] != theirs.get("license")
    kept = {
        key: value
        for key, value in theirs.items()
        if key not in ours
        and key != "model-index"
        and (not replaced or any(fnmatch(key, pattern) for pattern in OF_THE_REPOSITORY))
        and not (licensed and key.startswith("license"))
    }
    tags = theirs.get("tags")
    if isinstance(tags, list) and not replaced:
        kept["tags"] = [*tags, *(tag for tag in ours["tags"] if tag not in tags)]
    return kept


def hub_source(checkpoint: Checkpoint) -> tuple[str, str | None] | None:
    """Return (repository, commit) of a model that was loaded from the hub; None for any other.

    Its path says so, not its name: `org/model-cut8` is a local model that was made of one.
    """
    named = split_hub_name(checkpoint.path)
    return None if named is None or exists(Path(checkpoint.path), folder=True) else named


def _repository(checkpoint: Checkpoint, paths: Paths) -> str:
    """Return the hub repository that a model's weights are from; empty for a local model."""
    named = hub_source(checkpoint)
    if named is not None:
        return named[0]
    folder = Path(checkpoint.path)
    asset = manifest().get(folder.name) if folder.parent == paths.models.resolve() else None
    return str(asset.hub.get("repo", "")) if asset is not None and not checkpoint.run else ""


def _is_told(score: Score) -> bool:
    """Return whether the table has a score: categories of few items would fill it."""
    if score.value is None or is_bookkeeping(score.metric):
        return False
    return is_headline(score.metric) or score.n >= FEW


def _number(value: float | None) -> float:
    return float(f"{value or 0.0:.6g}")


def _metric_name(score: Score) -> str:
    """Return the metric with its interval and judge, which the hub's format has no field for."""
    judge = "" if score.judge == "exact" else f", {judge_without_places(score.judge)}"
    if score.ci_low is None or score.ci_high is None:
        return f"{score.metric} (n = {score.n}, no interval{judge})"
    interval = f"95 % {cell(score.ci_low)} to {cell(score.ci_high)}"
    return f"{score.metric} ({interval}, n = {score.n}{judge})"


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
            "judge": judge_without_places(score.judge),
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


def _shown(known: Checkpoint | None, key: str, paths: Paths) -> str:
    if known is None:
        return f"`{key}`"
    name = safe_text(str(without_places(known.name)))
    hub = _repository(known, paths)
    return f"[{hub}](https://huggingface.co/{hub})" if hub else f"{name} (`{known.model}`)"
