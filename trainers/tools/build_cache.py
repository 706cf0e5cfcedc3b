"""Building teacher caches before training: `kdharness cache build`."""

from __future__ import annotations

from collections.abc import Callable

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import AnyConfig, DAEConfig, KDConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.loop import prepare_setting
from kdharness.trainers.teachers.build import parent_of, shared_vocab
from kdharness.trainers.teachers.cached import cached_teacher, taught_rows

Progress = Callable[[int, int], None]


def build_caches(
    config: AnyConfig, paths: Paths, say: Callable[[str], None], progress: Progress
) -> int:
    """Fill every teacher cache of a config; return the number of rows that were run.

    Args:
        say: called with messages.
        progress: called with (rows run, rows to run).

    Raises:
        ConfigError: the config has no cached teacher.
    """
    if not isinstance(config, (KDConfig, DAEConfig)):
        raise ConfigError(f"a {config.method} config has no teacher to cache")
    specs = config.teacher_specs
    wanted = {kind: spec for kind, spec in specs.items() if spec is not None and spec.cache}
    if not wanted:
        raise ConfigError(
            "no teacher in this config uses a cache",
            hint="set teacher.cache: {k: 64} or {kind: hidden}",
        )
    setting = prepare_setting(config, paths, config.main_teacher.model, say)
    ran = 0
    for kind, spec in wanted.items():
        ran += _build(setting, spec, kind, progress)
    return ran


def _build(setting: TrainContext, spec: TeacherSpec, kind: str | None, progress: Progress) -> int:
    vocab = shared_vocab(setting, spec)
    parent = parent_of(spec, setting.job.paths)
    teacher = cached_teacher(setting, spec, parent.model, vocab, kind)
    rows = [
        index
        for index in taught_rows(setting.train.rows, kind)
        if teacher.key(index) not in teacher.cache
    ]
    rows.sort(key=lambda index: len(setting.train.rows[index]))
    collate = Collator(setting.pad_id, setting.kinds)
    size = setting.config.trainer.batch_size
    for start in range(0, len(rows), size):
        batch = collate([setting.train[index] for index in rows[start : start + size]])
        batch = {name: value.to(setting.device) for name, value in batch.items()}
        teacher.targets_for(batch, batch["layout"].every, None)
        progress(min(start + size, len(rows)), len(rows))
    return len(rows)
