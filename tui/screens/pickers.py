"""Pickers for fields that take a model, a file, a benchmark or a judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdharness.harness import assets
from kdharness.harness.config.evaluation import SPECS
from kdharness.harness.config.settings import default_judges
from kdharness.harness.config.shipped_data import SHIPPED_NAMES
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import BENCHMARKS
from kdharness.tui.screens.dialogs import Choose, PickFile
from kdharness.tui.viewmodels.form import Field
from kdharness.tui.viewmodels.judges import can_be_called, card_words, judge_names
from kdharness.tui.viewmodels.rows import Column, Part, Row

if TYPE_CHECKING:
    from kdharness.tui.protocol import AppProtocol

BENCH_HELP = {
    "mt-bench": "80 questions of two turns, rated 1-10 by a judge",
    "mt-bench-pair": "the same questions, two models against each other",
    "alpaca-eval-2": "805 instructions, win rate against GPT-4 Turbo, length-controlled",
    "alpaca-eval-1": "805 instructions, win rate against text-davinci-003",
    "arena-hard-v2": "750 hard and creative prompts, against o3-mini and Gemini 2.0 Flash",
    "ifeval": "541 prompts with instructions that programs check, no judge",
    "shop": "the built-in shop domain, exact metrics, no judge",
    "heldout": "loss on held-out rows, agreement with a teacher, no judge",
}
LOCAL = "a folder …"
FILE = "a file …"
COLUMNS = [Column("id", "name", 26, grow=1), Column("what", "", 30, grow=1)]


def pick(app: AppProtocol, field: Field, value: object, take: Callable[[Any], None]) -> None:
    """Open the picker of a field, and pass on what was chosen."""
    if field.pick == "file":
        _pick_file(app, field, take)
        return
    many = field.kind == "list"
    rows = _rows(app, field.pick)
    marked = [str(v) for v in value] if many and isinstance(value, list) else []
    for name in marked:
        if all(row["id"] != name for row in rows):
            rows.append({"id": name, "what": ""})

    def chosen(names: list[str] | None) -> None:
        if names is None:
            return
        if LOCAL in names or FILE in names:
            rest = [name for name in names if name not in (LOCAL, FILE)]
            dialog = PickFile(field.title, suffixes=(".jsonl",) if FILE in names else ())
            _pick_from_disk(app, dialog, lambda p: take([*rest, p] if many else p))
            return
        take(names if many else names[0])

    other = SPECS if field.pick == "judges" else "types another"
    app.push_screen(
        Choose(
            field.title,
            rows,
            COLUMNS,
            many=many,
            marked=marked,
            cell=_cell,
            other=other,
            current=str(value),
        ),
        chosen,
    )


def _pick_from_disk(app: AppProtocol, dialog: PickFile, take: Callable[[object], None]) -> None:
    def chosen(path: str | None) -> None:
        if path:
            take(path)

    app.push_screen(dialog, chosen)


def _cell(row: Row, column: Column, width: int) -> list[Part]:
    return [(str(row[column.key]), "" if column.key == "id" else "dim")]


def _rows(app: AppProtocol, kind: str) -> list[dict[str, str]]:
    if kind == "benches":
        benches = [
            {"id": name, "what": BENCH_HELP.get(name, "")} for name in BENCHMARKS if name != "file"
        ]
        return [*benches, {"id": FILE, "what": "your own benchmark, as .jsonl"}]
    if kind == "judges":
        return _judges(app)
    models = [
        {"id": c.name, "what": f"{c.method} checkpoint" + (f" of {c.run}" if c.run else "")}
        for c in reversed(app.store.checkpoints())
    ]
    known = {row["id"] for row in models}
    for asset in assets.manifest().values():
        if asset.kind == "model" and asset.name not in known:
            state = assets.status(app.paths, asset)
            models.append({"id": asset.name, "what": f"asset, {state}: {asset.title}"})
    return [*models, {"id": LOCAL, "what": "with config.json and safetensors"}]


def _judges(app: AppProtocol) -> list[dict[str, str]]:
    cards = app.store.cards()
    defaults: list[str] = []
    try:
        defaults = default_judges(app.paths)
    except ConfigError as error:
        app.complain(str(error))
    known = judge_names(cards, defaults, app.store.judgment_groups())
    models = [asset.name for asset in assets.manifest().values() if asset.kind == "model"]
    names = dict.fromkeys([*filter(can_be_called, known), *(f"local:{name}" for name in models)])
    return [{"id": name, "what": card_words(cards.get(name))} for name in names]


def _pick_file(app: AppProtocol, field: Field, take: Callable[[object], None]) -> None:
    """Offer built-in data first, then files on this machine."""

    def from_disk() -> None:
        suffixes = (".jsonl", ".parquet") if field.place[-1] != "chat_template" else ()
        _pick_from_disk(app, PickFile(field.title, suffixes=suffixes), take)

    if field.place[-1] != "path":
        from_disk()
        return
    rows = [{"id": name, "what": "built in"} for name in SHIPPED_NAMES]
    rows.append({"id": FILE, "what": ".jsonl or .parquet"})

    def chosen(names: list[str] | None) -> None:
        if names and names[0] in SHIPPED_NAMES:
            take(names[0])
        elif names and names[0] == FILE:
            from_disk()
        elif names:
            take(names[0])

    app.push_screen(
        Choose(field.title, rows, COLUMNS, cell=_cell, other="hub:NAME or a path"), chosen
    )
