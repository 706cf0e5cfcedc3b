"""Held-out loss in nats per labelled token, and agreement with a teacher.

No generation and no judge: one forward pass per batch. A judgment is one row under one measure,
its value the sum over the row's labelled tokens and its weight their number, so that the score is
a mean over tokens and its interval a ratio bootstrap over rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig, in_shard
from kdharness.harness.config.shipped_data import shipped_file
from kdharness.harness.errors import AssetError, DataError
from kdharness.harness.models.gguf_models import is_gguf
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import MeasuredBenchmark, Reporter
from kdharness.harness.types import Item, Judgment, JudgmentStatus, digest
from kdharness.harness.util.filesystem import local_path
from kdharness.harness.util.text import listed
from kdharness.harness.util.untrusted import parse_json, read_text
from kdharness.judges.benchmarks.base import Benchmark, revision_flags, subset
from kdharness.judges.benchmarks.domain import EXACT
from kdharness.judges.benchmarks.heldout_forward import EncodedRow, Scorer, encode
from kdharness.judges.benchmarks.heldout_rows import HeldoutRow, read_chats
from kdharness.judges.engines.llama_forward import source_of

OTHER_WRITER = "other_writer"
OTHER_ROWS = 24
OTHER_TOKENS = 128
OTHER_CHARACTERS = 200


class Heldout(Benchmark):
    """`general_loss`, `domain_loss`, losses of extra sets; with a teacher, KL and agreement."""

    name: ClassVar[str] = "heldout"
    answers_as: ClassVar[str] = ""

    def __init__(self, rows: Sequence[HeldoutRow], teacher: str | None, **rest: Any) -> None:
        self.rows = tuple(rows)
        self.teacher = teacher
        self.teacher_states: dict[str, object] = {}
        own = [row for row in rows if row.set != OTHER_WRITER]
        items = [Item(id=row.key, category=row.category, turns=()) for row in own]
        super().__init__(items, **rest)

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> Heldout:
        """Load the config's files, or the test splits that ship."""
        options = config.heldout
        files = {"general": options.general, "domain": options.domain, **options.extra}
        shipped = {"general": "general:test", "domain": "shop:test"}
        rows: list[HeldoutRow] = []
        total = 0
        for name, path in files.items():
            file = local_path(path) if path else shipped_file(shipped[name])
            assert file is not None
            chats = read_chats(file, name, options.max_length)
            total += len(chats)
            rows += _limited(chats, config.limit)
        flags = revision_flags(config, rows_as_items(rows), total)
        rows += other_writer(paths)
        flags = [flag for flag in flags if flag.startswith("subset")]
        flags += [f"{name}:{Path(path).stem}" for name, path in files.items() if path]
        bench = cls(rows, options.teacher, fixed=[cls.name], flags=flags, total=total)
        bench.sources = {n: str(local_path(p).resolve()) for n, p in files.items() if p}
        return bench

    def measure(
        self,
        checkpoint: str,
        source: str,
        paths: Paths,
        config: EvalConfig,
        reporter: Reporter,
        known: set[str],
        teacher: str = "",
    ) -> Iterator[list[Judgment]]:
        """Yield judgments of the model `source`, one batch at a time.

        Args:
            known: identities that are already stored; their rows are not measured again.
            teacher: the id of the teacher's checkpoint, if the config has one.
        """
        missing = [
            row
            for row in self.rows
            if in_shard(config.shard, row.key)
            and not self._wanted(checkpoint, row, teacher) <= known
        ]
        if not missing:
            return
        words = source_of(source, paths) if is_gguf(source) else source
        if not words:
            reporter.say(
                f"held-out loss of {Path(source).name} is not measured: the model that it was made "
                "from, whose tokenizer is needed, is not in this home",
                kind="warning",
            )
            return

        scorer = Scorer(
            source, words, paths, config, self.teacher if teacher else None, self.teacher_states
        )
        encoded = [encode(scorer.tokenizer, row, config.heldout.max_length) for row in missing]
        empty = [e.row.id for e in encoded if not e.positions]
        if len(empty) == len(encoded):
            scorer.close()
            if known:
                # The rows that can be scored have been, by an earlier evaluation.
                return
            raise DataError(
                "no held-out row has an assistant token to score", where=", ".join(empty[:3])
            )
        if empty:
            limit = config.heldout.max_length
            reporter.say(
                f"{len(empty)} of {len(encoded)} held-out rows cannot be scored: nothing is left "
                f"of their answers within heldout.max_length, {limit} tokens ({listed(empty, 3)})",
                kind="warning",
            )
        reporter.stage("held-out loss", len(encoded))
        done, unmeasured = 0, 0
        for batch in scorer.batches([e for e in encoded if e.positions]):
            reporter.check()
            judgments: list[Judgment] = []
            for entry, values in zip(batch, scorer.measure(batch), strict=True):
                if not math.isfinite(values["loss"]):
                    # What is derived from such logits means nothing either.
                    unmeasured += 1
                    values = dict.fromkeys(values, math.nan)
                for name, value in values.items():
                    judgments.append(self._judgment(checkpoint, entry, name, value, teacher))
            done += len(batch)
            yield judgments
            reporter.advance(done)
        scorer.close()
        if unmeasured:
            reporter.say(
                f"{unmeasured} of {len(encoded)} held-out rows failed: the model's loss is not a "
                "finite number there, so its weights may be damaged",
                kind="warning",
            )

    def _measures(self, teacher: str) -> tuple[str, ...]:
        return ("loss", "kl", "agreement") if teacher else ("loss",)

    def _wanted(self, checkpoint: str, row: HeldoutRow, teacher: str) -> set[str]:
        return {
            self._identity(checkpoint, row, measure, teacher) for measure in self._measures(teacher)
        }

    def measured(self, checkpoint: str, stored: Iterable[Judgment], teacher: str) -> set[str]:
        """Return the identities of judgments that are already stored.

        A judgment from an older version may have another id: it is identified by its item, metric
        and teacher.
        """
        have = {
            (j.item, j.metric, j.baseline)
            for j in stored
            if j.status is JudgmentStatus.OK and j.value is not None
        }
        return {
            self._identity(checkpoint, row, measure, teacher)
            for row in self.rows
            for measure in self._measures(teacher)
            if (row.item, f"{row.set}_{measure}", teacher if measure != "loss" else "") in have
        }

    def _identity(self, checkpoint: str, row: HeldoutRow, measure: str, teacher: str) -> str:
        other = "" if measure == "loss" else teacher
        return digest(EXACT, checkpoint, self.name, self.revision, row.key, measure, other)

    def _judgment(
        self, checkpoint: str, entry: EncodedRow, measure: str, value: float, teacher: str
    ) -> Judgment:
        row, finite = entry.row, math.isfinite(value)
        return Judgment(
            id=self._identity(checkpoint, row, measure, teacher),
            checkpoint=checkpoint,
            bench=self.name,
            revision=self.revision,
            item=row.item,
            turn=1,
            category=row.category,
            judge=EXACT,
            metric=f"{row.set}_{measure}",
            status=JudgmentStatus.OK if finite else JudgmentStatus.FAILED,
            created=time.time(),
            value=value if finite else None,
            weight=float(len(entry.positions)),
            error="" if finite else f"the {measure} is not a finite number",
            baseline="" if measure == "loss" else teacher,
        )


def rows_as_items(rows: Sequence[HeldoutRow]) -> list[Item]:
    """Return rows as items, for subsets and their flags."""
    return [Item(id=row.item, category=row.category, turns=()) for row in rows]


def _limited(rows: list[HeldoutRow], limit: int | None) -> list[HeldoutRow]:
    kept = {item.id for item in subset(rows_as_items(rows), limit)}
    return [row for row in rows if row.item in kept]


def other_writer(paths: Paths) -> list[HeldoutRow]:
    """Return short answers of another writer (AlpacaEval's baseline), if that asset is pulled.

    General rows answered by the teacher favour models that imitate it; these do not.
    """
    try:
        path = asset_file(paths, "alpaca-eval", "alpaca_eval_gpt4_baseline.json")
    except AssetError:
        return []
    entries = parse_json(read_text(path, "the baseline's answers", error=DataError))
    lengths = [(len(str(row["output"])), index) for index, row in enumerate(entries)]
    # Not the very shortest, which say little about a writer, and none whose prompt would use up
    # the row's token limit.
    long_enough = [
        (length, index)
        for length, index in sorted(lengths)
        if length >= OTHER_CHARACTERS and len(str(entries[index]["instruction"])) < OTHER_CHARACTERS
    ]
    chosen = sorted(index for _, index in long_enough[:OTHER_ROWS])
    return [
        HeldoutRow(
            OTHER_WRITER,
            str(index),
            str(entries[index].get("dataset", "")),
            (
                {"role": "user", "content": str(entries[index]["instruction"])},
                {"role": "assistant", "content": str(entries[index]["output"])},
            ),
            False,
            OTHER_TOKENS,
        )
        for index in chosen
    ]


def _as_the_harness_sees_it(bench: Heldout) -> MeasuredBenchmark:
    """Let the type checker compare the class with the harness's protocol."""
    return bench
