"""What answers are compared with: a baseline's answers, and reference answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kdharness.harness.analysis.judged_answers import FAMILIES
from kdharness.harness.analysis.prompts import BenchTexts, bench_texts
from kdharness.harness.paths import Paths
from kdharness.harness.registry import LM_EVAL
from kdharness.harness.store import BenchNotes, Store
from kdharness.harness.types import Finish

NEXT_TURN = "\n\n—— next turn ——\n\n"
REFERENCE = "reference"


class OtherText(NamedTuple):
    """A text shown beside the answers to an item: whose it is, and the text."""

    title: str
    text: str


Others = dict[str, list[OtherText]]
"""Item -> what its answers were compared with."""


def texts_and_others(
    store: Store, paths: Paths, bench: str, names: Collection[str], notes: BenchNotes
) -> tuple[BenchTexts, Others]:
    """Return a benchmark's texts, and what the answers of some checkpoints were compared with.

    Baselines come first, by their names, then references. Checkpoints that are shown themselves
    are left out, and so is what is not available.
    """
    ids = [c.id for name in names if (c := store.checkpoint(name)) is not None]
    baselines = [name for name in store.baselines(ids, bench) if name not in names]
    others: Others = {}
    published = [name for name in baselines if store.checkpoint(name) is None]
    loaded = [bench_texts(paths, bench, notes, baseline=name) for name in published]
    loaded = [texts for texts in loaded if texts.prompts] or [bench_texts(paths, bench, notes)]
    for baseline in baselines:
        for item, text in stored_texts(store, baseline, bench).items():
            others.setdefault(item, []).append(OtherText(baseline, text))
    for texts in loaded:
        for item, text in texts.baselines.items():
            shown = OtherText(texts.baseline_names.get(item, ""), text)
            if shown not in others.setdefault(item, []):
                others[item].append(shown)
    for item, references in loaded[0].references.items():
        turns = len(loaded[0].prompts[item]) - loaded[0].systems[item]
        # References of several turns are one each; of one turn, each is as good as another.
        each = references if turns == 1 else (NEXT_TURN.join(references),)
        others.setdefault(item, []).extend(OtherText(REFERENCE, text) for text in each)
    if bench.startswith(LM_EVAL):
        return _imported(store, ids, bench)
    return loaded[0], others


def _imported(store: Store, checkpoints: Collection[str], bench: str) -> tuple[BenchTexts, Others]:
    """Return the prompts and targets that were imported with the answers."""
    prompts: dict[str, tuple[str, ...]] = {}
    others: Others = {}
    for checkpoint in checkpoints:
        for answer in store.answers(checkpoint, bench):
            prompts[answer.item] = (str(answer.info.get("prompt", "")),)
            if target := answer.info.get("target"):
                others[answer.item] = [OtherText(REFERENCE, str(target))]
    return BenchTexts(prompts, dict.fromkeys(prompts, 0)), others


def stored_texts(store: Store, baseline: str, bench: str) -> dict[str, str]:
    """Return a stored checkpoint's newest answers by item, all turns together."""
    checkpoint = store.checkpoint(baseline)
    if checkpoint is None:
        return {}
    turns: dict[str, dict[int, str]] = {}
    for answer in store.answers(checkpoint.id, FAMILIES.get(bench, bench)):
        if answer.finish is not Finish.ERROR:
            turns.setdefault(answer.item, {})[answer.turn] = answer.text
    return {item: NEXT_TURN.join(found[n] for n in sorted(found)) for item, found in turns.items()}
