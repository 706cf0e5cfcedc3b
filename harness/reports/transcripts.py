"""Transcripts with the largest differences between two checkpoints, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdharness.harness.analysis.scorebook import groups_of, read_group
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS, resolve
from kdharness.harness.reports.blocks import Block, Paragraph, Transcript, number
from kdharness.harness.stats.rows import question_sums
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish

LONGEST = 3000


def largest_differences(
    store: Store, paths: Paths, names: tuple[str, str], count: int
) -> list[Block]:
    """Return the items whose scores differ most, alternating between gains and losses."""
    first, second = (store.checkpoint(name) for name in names)
    if first is None or second is None:
        return []
    candidates: list[tuple[str, str, float, float]] = []
    for bench, tables in _means(store, first, second).items():
        shared = sorted(set(tables[0]) & set(tables[1]))
        gaps = sorted(shared, key=lambda item: tables[1][item] - tables[0][item])
        chosen = [item for pair in zip(reversed(gaps), gaps, strict=True) for item in pair]
        chosen = [i for i in dict.fromkeys(chosen) if tables[0][i] != tables[1][i]]
        candidates += [(bench, item, tables[0][item], tables[1][item]) for item in chosen[:count]]
    transcripts: list[Block] = []
    prompts: dict[str, dict[str, str]] = {}
    for bench, item, before, after in _in_turn(candidates, count):
        prompts.setdefault(bench, read_prompts(paths, bench))
        transcripts.append(
            Transcript(
                f"{bench}, {item}",
                prompts[bench].get(item, "(prompt not available)"),
                tuple(
                    (
                        checkpoint.name,
                        _text(store.answers(checkpoint.id, bench), item),
                        f"scored {number(value)}{_failed(store, checkpoint.id, bench, item)}",
                    )
                    for checkpoint, value in ((first, before), (second, after))
                ),
            )
        )
    if not transcripts:
        return [
            Paragraph(f"{names[0]} and {names[1]} have no answered items with different scores.")
        ]
    return transcripts


def _in_turn(
    candidates: Sequence[tuple[str, str, float, float]], count: int
) -> list[tuple[str, str, float, float]]:
    """Interleave the items of all benchmarks."""
    lists: dict[str, list[tuple[str, str, float, float]]] = {}
    for entry in candidates:
        lists.setdefault(entry[0], []).append(entry)
    longest = max(map(len, lists.values()), default=0)
    mixed = [rows[n] for n in range(longest) for rows in lists.values() if n < len(rows)]
    return mixed[:count]


def _means(
    store: Store, first: Checkpoint, second: Checkpoint
) -> dict[str, tuple[Mapping[str, float], Mapping[str, float]]]:
    """Map each benchmark to the mean per item of both checkpoints, for their first common judge."""
    tables = [
        {(group.bench, group.revision, group.judge): group for group in groups_of(store, [one.id])}
        for one in (first, second)
    ]
    out: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {}
    for key in tables[0]:
        if key not in tables[1] or key[0] in out or not store.answers(first.id, key[0]):
            continue
        sides = []
        for table in tables:
            sums = question_sums(read_group(store, table[key]), "")
            sides.append({item: v / w for item, (v, w) in sums.items() if w})
        out[key[0]] = (sides[0], sides[1])
    return out


def _failed(store: Store, checkpoint: str, bench: str, item: str) -> str:
    """Return what a program says about the checks that an answer failed."""
    said = [
        judgment.raw
        for judgment in store.judgments(checkpoint, bench, "exact")
        if judgment.item == item and judgment.value == 0 and judgment.raw
    ]
    return "".join(f"; {text}" for text in said)


def _text(answers: Sequence[Answer], item: str) -> str:
    """Return all turns of an answer, marking failed and truncated ones."""
    turns = {a.turn: a for a in answers if a.item == item}
    texts = []
    for turn in sorted(turns):
        answer = turns[turn]
        text = answer.text or "(empty)"
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}… (+{len(text) - LONGEST} characters)"
        marks = {Finish.LENGTH: "\n(truncated at the token limit)", Finish.ERROR: "\n(failed)"}
        texts.append(text + marks.get(answer.finish, ""))
    return "\n\n—— next turn ——\n\n".join(texts) or "(no answer)"


def read_prompts(paths: Paths, bench: str) -> dict[str, str]:
    """Map each item to its prompt, if the benchmark's files are available."""
    if bench not in BENCHMARKS or bench == "file":
        return {}
    try:
        loaded = resolve(BENCHMARKS, bench, "benchmark").load(
            paths, EvalConfig(benches=[bench], baseline="all")
        )
    except Exception:  # not pulled, or another version: show the answers without prompts
        return {}
    return {item.id: "\n\n—— next turn ——\n\n".join(item.turns) for item in loaded.items}
