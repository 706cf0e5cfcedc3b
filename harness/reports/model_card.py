"""The model card of a checkpoint: lineage, settings and scores."""

from __future__ import annotations

import json
import time

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import explained, is_bookkeeping
from kdharness.harness.interop.export import chosen
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import cell, format_rows
from kdharness.harness.util.text import safe_text


def model_card(paths: Paths, name: str) -> str:
    """Return a checkpoint's lineage, settings and scores with intervals, judges and flags."""
    with Store(paths.store) as store:
        checkpoint = chosen(store, [name])[0]
        judged = next(iter(store.judgment_groups([checkpoint.id])), None) is not None
        scores = leaderboard(store, paths, checkpoints=[checkpoint.id]) if judged else []
        run = store.run(checkpoint.run) if checkpoint.run else None
        parents = {
            role: parent.name if (parent := store.checkpoint(key)) else key
            for role, key in checkpoint.parents.items()
        }
    created = time.strftime("%Y-%m-%d", time.localtime(checkpoint.created))
    lines = [f"# {safe_text(checkpoint.name)}", "", f"- created: {created}, by {checkpoint.method}"]
    lines.append(f"- identity of the weights: `{checkpoint.model}`")
    lines += [f"- {role}: {safe_text(parent)}" for role, parent in sorted(parents.items())]
    if checkpoint.config_hash:
        lines.append(f"- config: `{checkpoint.config_hash}`, step {checkpoint.step}")
    rows = [score.as_dict() for score in scores if not is_bookkeeping(score.metric)]
    for row in rows:
        row["95 % interval"] = (
            f"{cell(row['ci_low'])} – {cell(row['ci_high'])}" if row["ci_low"] is not None else "–"
        )
    columns = ["bench", "metric", "value", "95 % interval", "n", "n_failed", "judge", "flags"]
    lines += ["", "## Scores", ""]
    lines.append(format_rows(rows, columns, "md") if rows else "No scores yet.")
    if notes := explained(flag for row in rows for flag in row["flags"]):
        lines += ["", *(f"- `{name}`: {text}" for name, text in notes.items())]
    if run is not None:
        config = json.dumps(run.config, indent=2, ensure_ascii=False)
        lines += ["", "## Training config", "", "```json", config, "```"]
    return "\n".join(lines) + "\n"
