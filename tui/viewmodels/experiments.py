"""The data of the Experiments screen, read in a thread: files, plans and statuses.

A file is read again when it changes, so that it can be fixed in an editor next to the app.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import kept_experiments
from kdharness.harness.runs.status import effective_status
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.text import DASH, figure, safe_text
from kdharness.tui.viewmodels.marks import bar
from kdharness.tui.viewmodels.rows import (
    STATUS_MARKS,
    Column,
    Line,
    Part,
    Row,
    reason_of,
    text_lines,
)

if TYPE_CHECKING:
    from kdharness.harness.experiments.claims import ClaimSpec
    from kdharness.harness.experiments.expand import PlannedRun
    from kdharness.harness.experiments.library import Experiment
    from kdharness.harness.paths import Paths
    from kdharness.harness.store import Store

TO_DO, OTHER = "to do", "other settings"
MARKS = {**STATUS_MARKS, TO_DO: ("·", "dim"), OTHER: ("✗", "bad")}
URGENCY = (
    "running",
    "starting",
    "paused",
    "failed",
    "interrupted",
    "stopped",
    OTHER,
    TO_DO,
    "finished",
)
"""Statuses of runs, the one that describes the whole experiment first."""


@dataclass(frozen=True)
class ExperimentPlan:
    """A file's text and its planned runs, or its errors: line -> messages."""

    text: str
    planned: list[tuple[PlannedRun, str]] = field(default_factory=list)
    wrong: Mapping[int, Sequence[str]] = field(default_factory=dict)
    claims: Sequence[ClaimSpec] = ()


@dataclass(frozen=True)
class View:
    """The data on the screen."""

    rows: list[dict[str, Any]]
    chosen: Experiment | None
    plan: ExperimentPlan
    runs: list[dict[str, Any]]
    sweep: Run | None
    status: RunStatus | None
    live: list[Run]

    @property
    def at_work(self) -> bool:
        """Whether the experiment's own process is live."""
        return self.status is not None and self.status.is_live


class PlanCache:
    """Reads files and plans, again only if they changed."""

    def __init__(self) -> None:
        self.opened: list[Path] = []
        self._listed: tuple[Any, list[Experiment]] = (None, [])
        self._plans: dict[Path, tuple[Any, ExperimentPlan]] = {}

    def forget(self) -> None:
        """Drop all plans: a file that a plan refers to may have changed, too."""
        self._plans.clear()

    def listed(self, paths: Paths) -> list[Experiment]:
        """Return opened files, then kept and built-in ones; an opened one hides its copy."""
        from kdharness.harness.experiments.library import experiments, read_experiment

        files = [*self.opened, *kept_experiments(paths)]
        stamps = [(file, _stamp(file)) for file in files]
        if self._listed[0] == stamps:
            return self._listed[1]
        opened = [read_experiment(file, "opened") for file in self.opened]
        names = {experiment.name for experiment in opened}
        known = {experiment.file for experiment in opened}
        rest = [
            experiment
            for experiment in experiments(paths)
            if experiment.file not in known
            and not (experiment.origin == "kept" and experiment.name in names)
        ]
        self._listed = (stamps, [*opened, *rest])
        return self._listed[1]

    def plan(self, file: Path) -> ExperimentPlan:
        """Return the file's plan."""
        stamp = _stamp(file)
        cached = self._plans.get(file)
        if cached is None or cached[0] != stamp:
            cached = (stamp, read_plan(file))
            self._plans[file] = cached
        return cached[1]


def _stamp(file: Path) -> object:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def load(book: PlanCache, paths: Paths, store: Store, chosen: Path | None) -> View:
    """Read the screen's data from the files and the store."""
    from kdharness.harness.experiments.detached import sweep_run_id

    listed = book.listed(paths)
    # The kept copy of a built-in experiment is listed under its name.
    same = [e for e in listed if e.file == chosen]
    same += [e for e in listed if chosen is not None and e.name == chosen.stem]
    experiment = next(iter([*same, *listed]), None)
    sweeps = {run.id: run for run in store.runs("sweep")}
    plan = book.plan(experiment.file) if experiment else ExperimentPlan("")
    runs = _runs_of(plan, store)
    sweep = sweeps.get(sweep_run_id(experiment.name)) if experiment else None
    live = [run for run in [*runs.values(), *([sweep] if sweep else [])] if run.status.is_live]
    shown, rows = plan_rows(plan.planned, runs), []
    for entry in listed:
        if own := sweeps.get(sweep_run_id(entry.name)):
            status = _process_status(own)
        else:
            is_chosen, other = entry is experiment, book.plan(entry.file)
            found = shown if is_chosen else plan_rows(other.planned, _runs_of(other, store))
            status = _planned_status(found)
        rows.append(
            {
                "id": str(entry.file),
                "name": entry.name,
                "question": entry.question,
                "from": str(entry.file.parent) if entry.origin == "opened" else entry.origin,
                **status,
            }
        )
    return View(
        rows,
        experiment,
        plan,
        shown,
        sweep,
        effective_status(sweep) if sweep else None,
        live,
    )


def _runs_of(plan: ExperimentPlan, store: Store) -> dict[str, Run]:
    """Return the runs of a plan that exist, by name."""
    found = ((entry.name, store.run(entry.name)) for entry, _ in plan.planned)
    return {name: run for name, run in found if run is not None}


def _process_status(sweep: Run) -> dict[str, Any]:
    """Return the status of an experiment with a process of its own."""
    return {
        "status": effective_status(sweep).value,
        "step": sweep.step,
        "max_steps": sweep.max_steps,
    }


def _planned_status(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the status of an experiment that ran in a terminal: its runs are all that is stored.

    It is the most urgent status of its runs; empty if there are none.
    """
    if not any(row["there"] for row in rows):
        return {"status": "", "step": 0, "max_steps": 0}
    statuses = [row["status"] for row in rows]
    return {
        "status": min(statuses, key=URGENCY.index),
        "step": statuses.count(RunStatus.FINISHED.value),
        "max_steps": len(rows),
    }


def plan_rows(
    planned: Sequence[tuple[PlannedRun, str]], found: Mapping[str, Run]
) -> list[dict[str, Any]]:
    """Return the runs of a plan as rows with their status."""
    rows = []
    for entry, identity in planned:
        run = found.get(entry.name)
        status = TO_DO if run is None else effective_status(run).value
        if run is not None and run.config_hash != identity:
            status = OTHER
        rows.append(
            {
                "id": entry.name,
                "step_name": entry.step,
                "needs": ", ".join(entry.needs),
                "settings": ", ".join(f"{key} {value}" for key, value in entry.settings.items()),
                "status": status,
                "there": run is not None,
                "step": run.step if run else 0,
                "max_steps": run.max_steps if run else 0,
                "progress": run.step / run.max_steps if run and run.max_steps else 0.0,
                "loss": run.loss if run else None,
                "error": run.error if run else "",
                "stage": str(run.info.get("stage", "")) if run else "",
            }
        )
    return rows


def plan_cell(row: Row, column: Column, width: int) -> list[Part]:
    """Return the parts of one cell of either list."""
    key, status = column.key, str(row["status"])
    if key == "status":
        mark, role = MARKS.get(status, ("", ""))
        count = f" {row['step']}/{row['max_steps']}" if "name" in row and status else ""
        return [(f"{mark} {status}{count}" if status else "", role)]
    if key == "progress":
        return _progress(row, status, width)
    if key == "loss":
        return [(figure(row["loss"]), "" if row["loss"] is not None else "dim")]
    strong = key in ("id", "name")
    return [
        (
            str(row.get(key) or ("" if key == "question" else DASH)),
            "strong" if strong else "dim" if key in ("from", "needs") else "",
        )
    ]


def _progress(row: Row, status: str, width: int) -> list[Part]:
    if status == "failed":
        return [(reason_of(str(row["error"]), width) or "failed", "bad")]
    if not row["max_steps"]:
        return [(str(row["stage"]) or DASH, "dim")]
    share = f"{row['progress']:4.0%} "
    if status in ("finished", OTHER):
        return [(f"{row['step']} steps", "dim")]
    return [(share, ""), (bar(row["progress"], width - len(share)), MARKS[status][1])]


def start_words(view: View) -> str:
    """Return how many runs a start would start, resume and skip."""
    states = [str(row["status"]) for row in view.runs]
    fresh, done = states.count(TO_DO), states.count("finished")
    rest = len(states) - fresh - done
    parts = [f"{fresh} to start"] if fresh else []
    parts += [f"{rest} to resume"] if rest else []
    parts += [f"{done} already finished"] if done else []
    total = f"{len(states)} run{'s' * (len(states) != 1)}"
    return (
        f"{total}: {', '.join(parts)}.\n\nThey run one after another in a separate process: "
        "closing the app does not stop it. A failed run stops only the runs that need it."
    )


def counted(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a summary such as `24 runs: 3 finished, 1 running, 20 to do`."""
    names = [str(row["status"]) for row in rows]
    parts = [f"{names.count(name)} {name}" for name in dict.fromkeys(sorted(names, key=_order))]
    total = f"{len(rows)} run{'s' * (len(rows) != 1)}"
    return f"{total}: {', '.join(parts)}" if parts else total


def _order(status: str) -> int:
    known = [status.value for status in RunStatus]
    first = ["finished", "running", "starting", "paused"]
    order = [*first, *(name for name in known if name not in first), OTHER, TO_DO]
    return order.index(status)


# ---------------------------------------------------------------- claims

VERDICTS = {
    "holds": ("✓", "good"),
    "does not hold": ("✗", "bad"),
    "can't tell": ("?", "dim"),
    "no result": ("–", "dim"),
}


def claim_lines(store: Store, plan: ExperimentPlan) -> list[Line]:
    """Return the current results of the claims, as lines."""
    from kdharness.harness.experiments.claim_judge import judge_claims
    from kdharness.harness.experiments.claims import claim_parts

    lines: list[Line] = []
    for result in judge_claims(store, plan.claims, [planned for planned, _ in plan.planned]):
        mark, role = VERDICTS[result.heading]
        text = safe_text(result.claim.text, 400)
        lines.append([(f"{mark} {result.heading}: ", role), (text, "strong")])
        lines += [[(f"  {safe_text(part, 400)}", "dim")] for part in claim_parts(result)]
        lines.append([("", "")])
    return lines


# ---------------------------------------------------------------- errors and their lines


def read_plan(file: Path) -> ExperimentPlan:
    """Plan a file; errors are assigned to their lines."""
    from kdharness.harness.config.training import config_hash
    from kdharness.harness.experiments.expand import load_sweep
    from kdharness.harness.experiments.library import experiment_text

    text = ""
    try:
        text = experiment_text(file)
        sweep, planned = load_sweep(file)
    except ConfigError as error:
        return ExperimentPlan(text, wrong=places(text, error, str(file)))
    except Exception as error:  # any file may be opened: whatever it causes is reported, not raised
        problem = f"not an experiment: {type(error).__name__}: {error}"
        return ExperimentPlan(text, wrong={0: [problem]})
    identified = [(run, config_hash(run.config)) for run in planned]
    return ExperimentPlan(text, identified, claims=sweep.claims)


def places(text: str, error: ConfigError, file: str) -> dict[int, list[str]]:
    """Return the error's sentences by line of the text; line 0 if unknown."""
    where = error.where.removeprefix(file)
    line = re.fullmatch(r":(\d+)", where)
    if line:
        return {int(line[1]): [error.message]}
    above = [part for part in where.removeprefix(":").strip().split(".") if part]
    messages: dict[int, list[str]] = {}
    sentences = [part.strip() for part in error.message.splitlines() if part.strip()]
    for sentence in [*sentences, *([error.hint] if error.hint else [])]:
        name, colon, _ = sentence.partition(":")
        below = name.split(".") if colon and re.fullmatch(r"[\w.-]+", name) else []
        number = line_of(text, [*above, *below])
        messages.setdefault(number, []).append(sentence)
    return messages


def line_of(text: str, place: Sequence[str]) -> int:
    """Return the line of a field, or of its nearest written ancestor; 0 if there is none."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return 0
    line = 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if getattr(p[0], "value", None) == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit():
            if int(part) >= len(node.value):
                break
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def file_lines(plan: ExperimentPlan) -> tuple[list[Line], int]:
    """Return the file with errors below their lines, and the index of the first one."""
    lines: list[Line] = []
    first = 0
    for sentence in plan.wrong.get(0, []):
        lines += [[("✗ ", "bad"), *row] for row in text_lines(sentence, "bad")]
    for number, row in enumerate(text_lines(plan.text), 1):
        marked = number in plan.wrong
        lines.append([(f"{number:>4} {'✗' if marked else '│'} ", "bad" if marked else "dim"), *row])
        if marked and not first:
            first = len(lines) - 1
        for sentence in plan.wrong.get(number, []):
            lines.append([("     ╰ ", "bad"), (safe_text(sentence, 600), "bad")])
    return lines, first
