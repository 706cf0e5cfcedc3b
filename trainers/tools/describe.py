"""What `kdharness data show` prints of a config's rows."""

from __future__ import annotations

from collections import Counter

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.training import AnyConfig, trains_on_data
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers.data.dataset import (
    config_tokenizer,
    load_chats,
    marked,
    tokenizer_source,
)
from kdharness.trainers.data.own_rows import known_rows


def describe_data(config: AnyConfig, paths: Paths, examples: int) -> list[str]:
    """Return the lines of `kdharness data show`: reports, then example rows with labels marked.

    Raises:
        ConfigError: a config without data.
    """
    spec: DataSpec | None = getattr(config, "data", None)
    if spec is None:
        raise ConfigError(f"a {config.method} config has no training data")
    tokenizer = config_tokenizer(config, spec, paths)
    lines = [f"tokenizer: {tokenizer_source(config)}"]
    if spec.self_written and trains_on_data(config):
        config, written = known_rows(config, config.student.model, tokenizer, paths)
        spec = config.data
        if not written:
            lines.append("general rows: the reference writes them when the run starts")
    train, heldout = load_chats(spec, tokenizer)
    lines += [report.line() for report in train.reports]
    lines += [f"held out: {report.line()}" for report in heldout.reports]
    warnings = [text for report in [*train.reports, *heldout.reports] for text in report.warnings]
    lines += [f"warning: {text}" for text in dict.fromkeys(warnings)]
    by_kind = Counter(row.kind for row in train.rows)
    lines.append("rows by kind: " + ", ".join(f"{k} {n}" for k, n in sorted(by_kind.items())))
    lines.append("labelled parts are between ⟦ and ⟧:")
    step = max(1, len(train.rows) // max(examples, 1))
    for row in train.rows[::step][:examples]:
        lines += ["", f"{row.where} ({row.kind}, {len(row)} tokens)", marked(row, tokenizer)]
    return lines
