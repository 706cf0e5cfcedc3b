"""What `kdharness plan` needs of the data."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kdharness.harness.config.training import AnyConfig, check_best, trains_on_data
from kdharness.harness.errors import AssetError, ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.trainers.data.batches import plan_batches
from kdharness.trainers.data.dataset import config_tokenizer, load_chats
from kdharness.trainers.data.own_rows import (
    known_rows,
    longest_rows,
    prompt_tokens,
    with_rows,
)
from kdharness.trainers.preflight import check_layers, check_rows, missed_modules
from kdharness.trainers.teachers.planned import planned_facts


def planned_rows(config: AnyConfig, paths: Paths, world: int = 1) -> dict[str, Any]:
    """Return steps, tokens, labelled tokens, padding share and longest row of a training config.

    The data is read, tokenized and checked against the models' shapes; no weights are loaded.
    `cached` maps each kind of rows that has a cached teacher to its positions; `writing` is there
    where the reference has rows to write: their number, and tokens of each.

    Raises:
        ConfigError: a config without training data, a benchmark or a `best` that the run would
            refuse.
        DataError: a token or a length that a model does not support, held-out rows that are also
            trained on, or a damaged teacher cache.
    """
    if not trains_on_data(config):
        raise ConfigError(f"a {config.method} config has no training data")
    check_best(config)
    check_layers(config, paths)
    missed_modules(config, paths)
    with suppress(AssetError):  # its files may be on the machine that trains
        resolve(TOOLS, "load_points", "tool")(config.trainer.eval_benches, paths)
    own, written = config.data.self_written, True
    tokenizer = config_tokenizer(config, config.data, paths)
    if own is not None:
        config, written = known_rows(config, config.student.model, tokenizer, paths)
    data = config.data
    rows, heldout = load_chats(data, tokenizer)
    check_rows(config, rows, heldout, tokenizer, paths)
    if own is not None and not written:
        # As long as they can get, from a source that does not exist yet.
        config = with_rows(config, paths.rows)
        data = config.data
        rows.rows += longest_rows(own, tokenizer, data.max_length, len(data.train) - 1)
    plan = plan_batches(rows.rows, data, config.trainer, config.seed, world)
    facts = planned_facts(config, rows, plan, tokenizer, paths)
    if own is not None and not written:
        prompt = prompt_tokens(own, tokenizer)
        facts["writing"] = {"rows": own.rows, "prompt": prompt, "tokens": own.max_new_tokens}
    return facts
