"""What a pane shows of a run: its curves, scores, changed settings and last log lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_headline
from kdharness.harness.config.summary import config_diff, flat, models_of
from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_tail
from kdharness.harness.runs.status import effective_status
from kdharness.harness.runs.summary import eta
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Run, Score
from kdharness.harness.util.text import DASH, clock, figure, safe_text
from kdharness.tui.viewmodels.curves import curve_order
from kdharness.tui.viewmodels.drawings import HELDOUT, Around, Block, Drawing, Series
from kdharness.tui.viewmodels.experiments import MARKS
from kdharness.tui.viewmodels.form import text_of
from kdharness.tui.viewmodels.leaderboard import FEW, interval_width, is_weak, leading, marks_of
from kdharness.tui.viewmodels.log import ROLES, level_of
from kdharness.tui.viewmodels.marks import sparkline
from kdharness.tui.viewmodels.rows import STATUS_MARKS, Line, Row
from kdharness.tui.viewmodels.selection import shortened

BUCKETS, SPARKS = 120, 16
"""Outline points of a chart, and of a curve on one line."""
MOST_SPARKS, MOST_CURVES = 4, 6
FEWEST, SMALL_PANE = 5, 36
"""Lines of scores, of settings and of the log in a pane of that many rows; higher ones show more.
"""
SPREAD = 20
"""Cells of a score's name."""
PARENT_ROLES = ("student", "reference", "expert", "teacher")
"""Whose settings a run is compared with: the first of these that a run here made."""


def run_overview(store: Store, paths: Paths, run: Run, around: Around) -> list[Block]:
    """Return everything about a run that fits beside a list."""
    most = FEWEST + max(around.rows - SMALL_PANE, 0) // 3
    blocks = _head(run, around.now)
    blocks += _curves(store, run, around, most)
    blocks += _scores(store, paths, run, around.primary, most)
    blocks += _changes(store, run, most)
    blocks += _log(store, paths, run, most)
    return blocks


def group_overview(store: Store, name: str, runs: Sequence[str], around: Around) -> list[Block]:
    """Return the losses of a group's runs in one chart, each in its colour."""
    series: list[Series] = []
    lines: list[Line] = []
    for run in runs:
        points = store.curve_outline(run, "loss", BUCKETS)
        role = around.colours.get(run, "")
        stored = store.run(run)
        if stored is None:
            continue
        mark, mark_role = STATUS_MARKS[effective_status(stored).value]
        loss = figure(stored.loss)
        swatch = "▍" if role else " "
        told: Line = [(swatch, role), (f"{mark} ", mark_role), (f"{shortened(run, 30):<30} ", "")]
        lines.append([*told, (f"{loss:>8}", "dim")])
        if points and len(series) < MOST_CURVES:
            series.append(Series(run, points, role or "series-1"))
    blocks: list[Block] = [[(safe_text(name, 80), "strong"), (f"  {len(runs)} runs", "dim")]]
    return [*blocks, *([Drawing(series, "loss")] if series else []), *lines]


def step_overview(
    store: Store, paths: Paths, row: Row, others: Sequence[Row], around: Around
) -> list[Block]:
    """Return the state of an experiment's step: what it waits for, and its run if there is one.

    Args:
        row: of the plan.
        others: all rows of the plan.
    """
    run = store.run(str(row["id"])) if row["there"] else None
    blocks: list[Block] = []
    if run is None:
        mark, role = MARKS[str(row["status"])]
        name = safe_text(str(row["id"]), 80)
        blocks.append([(name, "strong"), (f"  {mark} {row['status']}", role)])
    settings = f" with {row['settings']}" if row["settings"] else ""
    blocks.append([(safe_text(f"step {row['step_name']}{settings}", 300), "")])
    needs = str(row["needs"]).split(", ") if row["needs"] else []
    states = {str(other["id"]): str(other["status"]) for other in others}
    for name in needs:
        mark, role = MARKS.get(states.get(name, ""), ("·", "dim"))
        blocks.append([("needs ", "dim"), (f"{mark} ", role), (safe_text(name, 80), "")])
    if run is not None:
        return [*run_overview(store, paths, run, around), *heading("Step"), *blocks]
    waits = [name for name in needs if states.get(name) != "finished"]
    told = f"it waits for {', '.join(waits)}" if waits else "it can start"
    return [*blocks, [(safe_text(told, 300), "dim")]]


def heading(text: str, tail: str = "") -> list[Block]:
    """Return a heading, with a name after it."""
    return [[(f"── {text}", "strong"), (f"  {safe_text(tail, 80)}" if tail else "", "dim")]]


def _head(run: Run, now: float) -> list[Block]:
    status = effective_status(run)
    mark, role = STATUS_MARKS[status.value]
    name: Line = [(safe_text(run.id, 80), "strong"), (f"  {mark} {status.value}", role)]
    count = f"{run.step} of {run.max_steps}" if run.max_steps else ""
    left = eta(run, now) if status.value == "running" else None
    took = (run.finished or now) - run.started if run.started else None
    tokens = run.info.get("tokens")
    facts = [
        run.method,
        models_of(run.config),
        f"{'runs' if run.method == Method.SWEEP else 'steps'} {count}" if count else "",
        f"ETA {clock(left)}" if left is not None else clock(took) if run.finished else "",
        f"{tokens:,} tokens" if isinstance(tokens, int) else "",
    ]
    lines: list[Block] = [name, [(safe_text(" · ".join(filter(None, facts)), 300), "")]]
    if run.error:
        lines.append([(safe_text(run.error.replace("\n", " "), 400), "bad")])
    return lines


# ---------------------------------------------------------------- curves


def _curves(store: Store, run: Run, around: Around, most: int) -> list[Block]:
    """Return the loss as a chart with the held-out losses over it, and others on a line each."""
    names = curve_order(
        store.curve_names(run.id), [label.partition(":")[2] for label in around.primary]
    )
    if not names:
        return []
    main = "loss" if "loss" in names else names[0]
    role = around.colours.get(run.id, "series-1")
    series = [Series(run.id, store.curve_outline(run.id, main, BUCKETS), role)]
    if main == "loss":
        series += heldout_marks(
            {name: store.curve_outline(run.id, name, BUCKETS) for name in HELDOUT if name in names}
        )
    last = store.last_point(run.id, main)
    title = main.replace("_", " ")
    drawing = Drawing(series, title, value=figure(last[1]) if last else "")
    lines: list[Block] = [drawing]
    rest = [name for name in names if name != main and not (main == "loss" and name in HELDOUT)]
    for name in rest[: MOST_SPARKS + most - FEWEST]:
        points = store.curve_outline(run.id, name, SPARKS)
        newest = store.last_point(run.id, name)
        lines.append(
            [
                (f"{name.replace('_', ' '):<18} ", ""),
                (f"{sparkline([y for _, y in points], SPARKS):<{SPARKS}} ", role),
                (figure(newest[1]) if newest else DASH, ""),
            ]
        )
    return lines


def heldout_marks(points: Mapping[str, Sequence[tuple[float, float]]]) -> list[Series]:
    """Return held-out losses as marks to draw over the training loss."""
    roles = dict(zip(HELDOUT, ("accent", "good"), strict=True))
    return [
        Series(name.replace("_", " "), known, roles[name], glyph)
        for name, glyph in HELDOUT.items()
        if (known := points.get(name))
    ]


# ---------------------------------------------------------------- scores


def _scores(store: Store, paths: Paths, run: Run, primary: Sequence[str], most: int) -> list[Block]:
    """Return the scores of the run's checkpoint, or of the checkpoints that it evaluated."""
    if run.method == Method.EVAL:
        names = [str(name) for name in run.config.get("checkpoints") or []]
        benches = [str(name) for name in run.config.get("benches") or []]
    else:
        names, benches = [run.checkpoint] if run.checkpoint else [], []
    if not names:
        return []
    found = leaderboard(store, paths, checkpoints=names, benches=benches or None)
    scores = [score for score in found if is_headline(score.metric) and score.value is not None]
    lead = primary or leading(found, {})
    scores.sort(key=lambda score: (_rank(score, lead), is_weak([score])))
    lines = heading("Scores", "" if run.method == Method.EVAL else run.checkpoint or "")
    if not scores:
        lines.append([("none yet", "dim")])
    for score in scores[:most]:
        lines.append(_score_line(score, several=run.method == Method.EVAL))
    return lines + _more(len(scores) - most, "on the Leaderboard")


def _rank(score: Score, primary: Sequence[str]) -> int:
    label = f"{score.bench}:{score.metric}"
    return primary.index(label) if label in primary else len(primary)


def _score_line(score: Score, *, several: bool) -> Line:
    name = f"{score.bench} {score.metric.replace('_', ' ')}"
    name = f"{score.checkpoint} {name}" if several else name
    return [
        (f"{shortened(name, SPREAD):<{SPREAD}} ", "dim"),
        (f"{figure(score.value):>7}", "strong"),
        (f" {interval_width(score):<8}", "dim"),
        (f" {marks_of(score, close=False)}", "warn"),
        (f" n {score.n}" if score.n < FEW else "", "dim"),
    ]


def _more(count: int, where: str) -> list[Block]:
    return [[(f"… and {count} more {where}", "dim")]] if count > 0 else []


# ---------------------------------------------------------------- settings


def parent_of(store: Store, run: Run) -> Run | None:
    """Return the run that made the model which this run starts from, or learns from."""
    made = store.checkpoint(run.checkpoint) if run.checkpoint else None
    names = dict(made.parents) if made is not None else {}
    for role in PARENT_ROLES:
        spec = run.config.get(role)
        if isinstance(spec, Mapping):
            spec = spec.get("model") or spec.get("from")
        for name in (names.get(role), spec):
            parent = store.checkpoint(str(name)) if name else None
            if parent is not None and parent.run and parent.run != run.id:
                return store.run(parent.run)
    return None


def _changes(store: Store, run: Run, most: int) -> list[Block]:
    """Return the settings in which a run differs from its parent."""
    if run.method in (Method.EVAL, Method.SWEEP):
        return []
    parent = parent_of(store, run)
    if parent is None:
        return [*heading("Settings", "no parent among the runs here"), *_settings(run, 2 * most)]
    changed = [c for c in config_diff(parent.config, run.config) if c[0] != "name"]
    lines = heading("Settings that differ from", parent.id)
    for name, (before, after) in changed[:most]:
        values = f"{text_of(before) or DASH} → {text_of(after) or DASH}"
        lines.append([(f"{safe_text(name, 40)}  ", "dim"), (safe_text(values, 80), "")])
    if not changed:
        lines.append([("none", "dim")])
    return lines + _more(len(changed) - most, "(on its screen, under Config)")


def _settings(run: Run, most: int) -> list[Block]:
    """Return the settings of a run that are set at all."""
    values = [(name, value) for name, value in flat(run.config).items() if value not in (None, "")]
    lines: list[Block] = [
        [(f"{safe_text(name, 40)}  ", "dim"), (safe_text(text_of(value), 80), "")]
        for name, value in values[:most]
        if name != "method"
    ]
    return lines + _more(len(values) - most, "(on its screen, under Config)")


# ---------------------------------------------------------------- log


def _log(store: Store, paths: Paths, run: Run, most: int) -> list[Block]:
    """Return the last events of a run, or else the last lines of its worker's log."""
    lines: list[Block] = []
    for event in store.last_events(run.id, most):
        when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        kind, message = str(event["kind"]), str(event["message"])
        text = safe_text((message or kind).replace("\n", " "), 200)
        lines.append([(f"{when} ", "dim"), (text, ROLES[level_of(kind, message)])])
    if not lines:
        tail = log_tail(paths, run.id, most).splitlines()
        lines = [[(safe_text(line, 200), "dim")] for line in tail]
    return [*heading("Log"), *lines] if lines else []
