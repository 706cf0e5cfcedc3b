"""A teacher whose targets come from a cache; later epochs, seeds and sweeps run no teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.config.evaluation import plain_http_warning
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import DistillSpec
from kdharness.harness.models.lm_head import Head
from kdharness.harness.models.loading import load_config_of, meta_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import digest
from kdharness.trainers.attention_hook import check_packing
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.data.layout import Batch, Part
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.top_k import TopK
from kdharness.trainers.teachers.build import load_frozen, runs_on
from kdharness.trainers.teachers.cache_hidden import HiddenCache
from kdharness.trainers.teachers.cache_store import row_key
from kdharness.trainers.teachers.cache_top_k import TopKCache
from kdharness.trainers.teachers.online import OnlineTeacher
from kdharness.trainers.teachers.served import ServedTeacher

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from kdharness.trainers.context import TrainContext


class CachedTeacher:
    """A teacher that runs only for rows that are not cached yet."""

    def __init__(
        self,
        cache: TopKCache | HiddenCache,
        data: Dataset,
        load: Callable[[], OnlineTeacher],
        served: ServedTeacher | None = None,
        head_shape: tuple[int, int] | None = None,
    ) -> None:
        """Create a cached teacher.

        Args:
            cache: what is stored, and where new rows go.
            data: the rows.
            load: creates the teacher when a row is missing; it may never be called.
            served: queried instead, if the teacher runs on a server.
            head_shape: tokens and width of the head that the loss applies to cached states.
        """
        self.cache, self.data, self.load = cache, data, load
        self.served, self.head_shape = served, head_shape
        self.keys: dict[int, str] = {}
        self.online: OnlineTeacher | None = None

    def targets_for(
        self, batch: Batch, part: Part, tape: AttentionTape | None
    ) -> TopK | tuple[Head, Tensor]:
        """Return cached targets at labelled positions; run and store missing rows first."""
        keys = [self.key(index) for index in part.index]
        if any(key not in self.cache for key in keys):
            self.cache.refresh()  # another process may have stored it
        # Of rows that are the same the first is run.
        missing = [
            part.rows[n]
            for n, key in enumerate(keys)
            if key not in self.cache and key not in keys[:n]
        ]
        if missing:
            self._fill(batch, batch["layout"].part(missing))
        self.cache.hold_sizes(keys, part.sizes)
        return self.cache.targets(keys, part.at.device)

    def key(self, index: int) -> str:
        """Return the cache's key of a row of the data, hashed once."""
        if index not in self.keys:
            self.keys[index] = row_key(self.data.rows[index])
        return self.keys[index]

    def _fill(self, batch: Batch, part: Part) -> None:
        keys = [self.key(index) for index in part.index]
        if self.served is not None and isinstance(self.cache, TopKCache):
            self.cache.put(keys, self.served.distributions(batch, part.rows))
            return
        if self.online is None:
            self.online = self.load()
        head, hidden = self.online.targets_for(batch, part, None)
        self.cache.add(keys, part.sizes, head, hidden)


# ---------------------------------------------------------------- which cache


@dataclass(frozen=True)
class CacheAddress:
    """A cache's folder, the note in it, and the vocabulary that student and teacher share."""

    folder: Path
    note: dict[str, object]
    vocab: int = 0

    def open(self, rank: int = 0, chunk: int | None = None) -> TopKCache | HiddenCache:
        """Open or create it.

        Raises:
            DataError: damaged, or built with other settings.
        """
        if self.note.get("kind") == "hidden":
            return HiddenCache(self.folder, self.note, rank, self.vocab)
        return TopKCache(self.folder, self.note, rank, chunk)


def cache_address(
    spec: TeacherSpec,
    trainer: DistillSpec,
    paths: Paths,
    *,
    teacher: str,
    tokenizer: PreTrainedTokenizerBase,
    vocab: int,
) -> CacheAddress:
    """Return where a teacher's cache is: the folder's name is the hash of its note.

    Args:
        spec: the config's teacher, with a cache.
        trainer: the training's settings.
        paths: the home.
        teacher: the identity of its weights.
        tokenizer: the student's.
        vocab: the ids that student and teacher share; 0 if their heads have the same width.
    """
    assert spec.cache is not None
    hidden = spec.cache.kind == "hidden"
    note: dict[str, object] = {
        "teacher": teacher,
        "tokenizer": digest(sorted(tokenizer.get_vocab().items())),
    }
    if hidden:
        # States and head depend on neither temperature nor student.
        note |= {"kind": "hidden", "stored": spec.cache.dtype}
    else:
        note |= {
            "temperature": trainer.temperature,
            "k": spec.cache.k,
            "tail": spec.cache.tail,
            "vocab": vocab,
        }
    # Not at their defaults, so that caches of older versions are still found.
    if spec.dtype != "auto":
        note["dtype"] = spec.dtype
    if spec.quantization:
        note["quantization"] = spec.quantization.method
    folder = paths.cache / digest(note)
    if spec.cache.sampled and not folder.exists():
        # Caches of older versions have no probabilities of the sampled tokens; they are still read.
        note["draws"] = "probability within the tail"
        folder = paths.cache / digest(note)
    return CacheAddress(folder, note, vocab)


def head_shape_of(spec: TeacherSpec, paths: Paths) -> tuple[int, int]:
    """Return tokens and width of a teacher's output head, from its config alone."""
    model = meta_model(spec.model, paths, trust_remote_code=spec.trust_remote_code)
    tokens, width = model.get_output_embeddings().weight.shape
    return int(tokens), int(width)


def taught_rows(rows: Sequence[TrainRow], kind: str | None) -> list[int]:
    """Return the rows that follow the teacher of a kind; None stands for all rows."""
    return [index for index, row in enumerate(rows) if kind is None or row.kind == kind]


def cached_teacher(
    setting: TrainContext,
    spec: TeacherSpec,
    teacher_weights: str,
    vocab: int,
    kind: str | None = None,
) -> CachedTeacher:
    """Return the cached teacher of a training run; log its size and how much is stored.

    Raises:
        ConfigError: rows are packed, which the architecture of a teacher that has to run does not
            support.
        DataError: the cache is damaged.
    """
    trainer, job = setting.config.trainer, setting.job
    assert spec.cache is not None and isinstance(trainer, DistillSpec)
    cache = cache_address(
        spec,
        trainer,
        job.paths,
        teacher=teacher_weights,
        tokenizer=setting.tokenizer,
        vocab=vocab,
    ).open(job.rank, trainer.chunk)
    shape, form = None, ""
    if isinstance(cache, HiddenCache):
        shape = cache.head_shape or head_shape_of(spec, job.paths)
        form = f" of hidden states in {spec.cache.dtype}"

    def load() -> OnlineTeacher:
        model = load_frozen(spec, setting)
        if isinstance(cache, HiddenCache) and cache.dtype.itemsize < model.dtype.itemsize:
            job.reporter.say(
                f"{spec.model} computes in {str(model.dtype).removeprefix('torch.')}: its hidden "
                f"states are rounded in the cache (teacher.cache.dtype)"
            )
        return OnlineTeacher(model, vocab, runs_on=runs_on(spec, setting))

    teacher = CachedTeacher(
        cache,
        setting.train,
        load,
        ServedTeacher(spec.model, spec.served, spec.cache.k, vocab) if spec.served else None,
        shape,
    )
    rows = setting.train.rows
    taught = taught_rows(rows, kind)
    stored = sum(teacher.key(index) in cache for index in taught)
    if job.run and trainer.packing and stored < len(taught) and not spec.served:
        code = spec.trust_remote_code
        check_packing(load_config_of(spec.model, job.paths, trust_remote_code=code), spec.model)
    cut = sum(teacher.key(index) in cache.cut for index in taught)
    each = spec.cache.position_bytes(shape[1] if shape else 0)
    size = sum(rows[index].labelled for index in taught) * each
    if spec.served and (warning := plain_http_warning(f"openai:{spec.model}@{spec.served}")):
        job.reporter.say(warning, kind="warning")
    job.reporter.say(
        f"teacher cache: {size / 1e6:.1f} MB{form} for {len(taught)} rows, {stored} already "
        f"stored, in {cache.folder}"
    )
    if cut:
        job.reporter.say(
            f"the data of {cut} rows in this teacher cache is cut short, as after an incomplete "
            "copy: they are computed again",
            kind="warning",
        )
    return teacher
