"""What the Experiments screen shows, as plain data, read in a thread: files, plans, how all stands.

A file is read again when it was changed, so that one can mend it in an editor beside the app.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import ConfigError
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.text import DASH, figure, safe_text
from kdharness.tui.viewmodels.marks import bar
from kdharness.tui.viewmodels.rows import STATUS_MARKS, Column, Line, Part, Row, text_lines

if TYPE_CHECKING:
    from kdharness.harness.experiments.claims import ClaimSpec
    from kdharness.harness.experiments.expand import PlannedRun
    from kdharness.harness.experiments.library import Experiment
    from kdharness.harness.paths import Paths
    from kdharness.harness.store import Store

TO_DO, OTHER = "to do", "other settings"
MARKS = {**STATUS_MARKS, TO_DO: ("·", "dim"), OTHER: ("✗", "bad")}


@dataclass(frozen=True)
class ExperimentPlan:
    """A file's text and the runs it comes to, or what is wrong with it: line -> messages."""

    text: str
    planned: list[tuple[PlannedRun, str]] = field(default_factory=list)
    wrong: Mapping[int, Sequence[str]] = field(default_factory=dict)
    claims: Sequence[ClaimSpec] = ()


@dataclass(frozen=True)
class View:
    """All that is on the screen."""

    rows: list[dict[str, Any]]
    chosen: Experiment | None
    plan: ExperimentPlan
    runs: list[dict[str, Any]]
    sweep: Run | None
    status: RunStatus | None
    live: list[Run]

    @property
    def at_work(self) -> bool:
        """Whether the experiment has a process of its own."""
        return self.status is not None and self.status.is_live


class PlanCache:
    """Reads files and plans, each again only when it was changed."""

    def __init__(self) -> None:
        self.opened: list[Path] = []
        self._listed: tuple[Any, list[Experiment]] = (None, [])
        self._plans: dict[Path, tuple[Any, ExperimentPlan]] = {}

    def forget(self) -> None:
        """Read everything anew: a file that a plan leans on may have changed, too."""
        self._plans.clear()

    def listed(self, paths: Paths) -> list[Experiment]:
        """Opened files first, then those kept and shipped; an opened one stands for its copy."""
        from kdharness.harness.experiments.expand import sweeps_folder
        from kdharness.harness.experiments.library import experiments, read_experiment

        files = [*self.opened, *sorted(sweeps_folder(paths).glob("*.yaml"))]
        stamps = [(file, _stamp(file)) for file in files]
        if self._listed[0] == stamps:
            return self._listed[1]
        opened = [read_experiment(file, "opened") for file in self.opened]
        names = {one.name for one in opened}
        known = {one.file for one in opened}
        rest = [
            one
            for one in experiments(paths)
            if one.file not in known and not (one.origin == "kept" and one.name in names)
        ]
        self._listed = (stamps, [*opened, *rest])
        return self._listed[1]

    def plan(self, file: Path) -> ExperimentPlan:
        """The file's plan."""
        stamp = _stamp(file)
        known = self._plans.get(file)
        if known is None or known[0] != stamp:
            known = (stamp, read_plan(file))
            self._plans[file] = known
        return known[1]


def _stamp(file: Path) -> Any:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def load(book: PlanCache, paths: Paths, store: Store, chosen: Path | None) -> View:
    """Everything the screen shows, from the files and the store."""
    from kdharness.harness.experiments.detached import sweep_run_id
    from kdharness.harness.runs.status import effective_status

    listed = book.listed(paths)
    # What was kept of a shipped one is that very file: then the name says which is meant.
    same = [e for e in listed if e.file == chosen]
    same += [e for e in listed if chosen is not None and e.name == chosen.stem]
    one = next(iter([*same, *listed]), None)
    sweeps = {run.id: run for run in store.runs("sweep")}
    rows = []
    for each in listed:
        run = sweeps.get(sweep_run_id(each.name))
        rows.append(
            {
                "id": str(each.file),
                "name": each.name,
                "question": each.question,
                "from": str(each.file.parent) if each.origin == "opened" else each.origin,
                "status": effective_status(run).value if run else "",
                "step": run.step if run else 0,
                "max_steps": run.max_steps if run else 0,
            }
        )
    plan = book.plan(one.file) if one else ExperimentPlan("")
    found = {
        name: run
        for name in (planned.name for planned, _ in plan.planned)
        if (run := store.run(name)) is not None
    }
    sweep = sweeps.get(sweep_run_id(one.name)) if one else None
    live = [run for run in [*found.values(), *([sweep] if sweep else [])] if run.status.is_live]
    return View(
        rows,
        one,
        plan,
        plan_rows(plan.planned, found),
        sweep,
        effective_status(sweep) if sweep else None,
        live,
    )


def plan_rows(
    planned: Sequence[tuple[PlannedRun, str]], found: Mapping[str, Run]
) -> list[dict[str, Any]]:
    """The runs of a plan as rows, each with how it stands."""
    from kdharness.harness.runs.status import effective_status

    rows = []
    for one, identity in planned:
        run = found.get(one.name)
        status = TO_DO if run is None else effective_status(run).value
        if run is not None and run.config_hash != identity:
            status = OTHER
        rows.append(
            {
                "id": one.name,
                "step_name": one.step,
                "needs": ", ".join(one.needs),
                "settings": ", ".join(f"{key} {value}" for key, value in one.settings.items()),
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
    """One cell of either list."""
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
        return [(str(row["error"]) or "failed", "bad")]
    if not row["max_steps"]:
        return [(str(row["stage"]) or DASH, "dim")]
    share = f"{row['progress']:4.0%} "
    if status in ("finished", OTHER):
        return [(f"{share}{row['step']} steps", "dim")]
    return [(share, ""), (bar(row["progress"], width - len(share)), MARKS[status][1])]


def start_words(view: View) -> str:
    """How many runs a start begins, goes on with, and leaves alone."""
    states = [str(row["status"]) for row in view.runs]
    fresh, done = states.count(TO_DO), states.count("finished")
    rest = len(states) - fresh - done
    parts = [f"{fresh} to start"] if fresh else []
    parts += [f"{rest} to go on with"] if rest else []
    parts += [f"{done} finished before"] if done else []
    total = f"{len(states)} run{'s' * (len(states) != 1)}"
    return (
        f"{total}: {', '.join(parts)}.\n\nThey run one after another in a process of their own: "
        "closing the app leaves it running. A run that fails stops only those that need it."
    )


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """`24 runs: 3 finished, 1 running, 20 to do`."""
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

VERDICTS = {"holds": ("✓", "good"), "does not hold": ("✗", "bad"), "can't tell": ("?", "dim")}


def claim_lines(store: Store, plan: ExperimentPlan) -> list[Line]:
    """What holds of the claims so far, as lines."""
    from kdharness.harness.experiments.claim_judge import judge_claims
    from kdharness.harness.experiments.claims import claim_parts

    lines: list[Line] = []
    for one in judge_claims(store, plan.claims, [planned for planned, _ in plan.planned]):
        mark, role = VERDICTS[one.verdict]
        text = safe_text(one.claim.text, 400)
        lines.append([(f"{mark} {one.verdict}: ", role), (text, "strong")])
        lines += [[(f"  {safe_text(part, 400)}", "dim")] for part in claim_parts(one)]
        lines.append([("", "")])
    return lines


# ---------------------------------------------------------------- what is wrong, and where


def read_plan(file: Path) -> ExperimentPlan:
    """Plan a file; what is wrong stands at the lines it is about."""
    from kdharness.harness.config.training import config_hash
    from kdharness.harness.experiments.expand import load_sweep
    from kdharness.harness.experiments.library import experiment_text

    text = ""
    try:
        text = experiment_text(file)
        sweep, planned = load_sweep(file)
    except ConfigError as error:
        return ExperimentPlan(text, wrong=places(text, error, str(file)))
    except Exception as error:  # any file may be opened: what it breaks is its own fault
        problem = f"this is no experiment: {type(error).__name__}: {error}"
        return ExperimentPlan(text, wrong={0: [problem]})
    identified = [(one, config_hash(one.config)) for one in planned]
    return ExperimentPlan(text, identified, claims=sweep.claims)


def places(text: str, error: ConfigError, file: str) -> dict[int, list[str]]:
    """The error's sentences by line of the text; line 0 where no line is known."""
    where = error.where.removeprefix(file)
    line = re.fullmatch(r":(\d+)", where)
    if line:
        return {int(line[1]): [error.message]}
    above = [part for part in where.removeprefix(":").strip().split(".") if part]
    found: dict[int, list[str]] = {}
    sentences = [part.strip() for part in error.message.splitlines() if part.strip()]
    for sentence in [*sentences, *([error.hint] if error.hint else [])]:
        name, colon, _ = sentence.partition(":")
        below = name.split(".") if colon and re.fullmatch(r"[\w.-]+", name) else []
        number = line_of(text, [*above, *below])
        found.setdefault(number, []).append(sentence)
    return found


def line_of(text: str, place: Sequence[str]) -> int:
    """The line of a field, or of the nearest field above it that is written; 0 if none is."""
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
    """The file with what is wrong below the lines it is about, and where the first of it stands."""
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


EXPERIMENT_COLUMNS = [
    Column("name", "experiment", 12, grow=2),
    Column("status", "status", 18),
    Column("from", "from", 8, grow=1, leave=1),
    Column("question", "question", 20, grow=5),
]


PLAN_COLUMNS = [
    Column("id", "run", 14, grow=2, frozen=True),
    Column("status", "status", 16),
    Column("progress", "progress", 11, grow=1),
    Column("loss", "loss", 6, right=True),
    Column("needs", "needs", 14, grow=2, leave=1),
]
