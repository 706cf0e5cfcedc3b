"""Remove and rename runs, checkpoints and evaluations; for commands and the app.

Removing is planned first: the plan names everything that would go, and what depends on it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdharness.harness.errors import ConfigError, RunError, StoreError, did_you_mean
from kdharness.harness.maintenance.kept_experiments import kept_runs
from kdharness.harness.maintenance.removed_folders import (
    folders_of,
    made_in,
    moved_weights,
    set_aside,
)
from kdharness.harness.maintenance.renamed_bases import adapters_on, name_bases
from kdharness.harness.maintenance.upkeep import folder_bytes
from kdharness.harness.paths import Paths, kept_experiments
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.store.checkpoints import BEST
from kdharness.harness.store.lineage import descendants
from kdharness.harness.types import Checkpoint, Method, Run, RunStatus
from kdharness.harness.util.filesystem import exists
from kdharness.harness.util.text import listed, texts_in

AGAIN = "nothing was removed: review the plan again, then repeat the command"


@dataclass(frozen=True)
class Removal:
    """What would be removed, and what prevents it.

    Attributes:
        runs, checkpoints: what goes.
        benches: only the results on these benchmarks go, and everything else stays.
        results: benchmark -> kind of result -> how many.
        files: folders that are deleted, all of them inside the home.
        kept_files: folders that are never deleted -> why.
        bytes: the size of the folders.
        children: checkpoints that descend from what goes; they stay, without these ancestors.
        users: unfinished runs whose configs name what goes.
        twins: other runs that made the same weights: they would lose their checkpoint.
        moved: checkpoint id -> where its weights are, of those that stay while the folder of their
            path goes; empty where they are nowhere else.
        opponents: checkpoint -> how many judgments of others compare with it; those stay.
        experiments: experiments that would run a removed run again.
    """

    runs: tuple[Run, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    benches: tuple[str, ...] = ()
    results: dict[str, dict[str, int]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    kept_files: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    children: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    moved: dict[str, str] = field(default_factory=dict)
    opponents: dict[str, int] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()

    @property
    def dependents(self) -> tuple[str, ...]:
        """What stays and depends on what goes."""
        return (*self.children, *self.users, *self.twins)

    def refuse(self, force: bool) -> None:
        """Raise StoreError if something depends on what goes, without `force`."""
        if self.dependents and not force:
            ending = "s" if len(self.dependents) == 1 else ""
            raise StoreError(
                f"{listed(self.dependents)} depend{ending} on it",
                hint="--cascade removes descendants too, --force leaves them without it",
            )

    def lines(self) -> Iterator[str]:
        """Yield the plan for people, one line per kind of thing."""
        if self.runs:
            yield f"runs: {', '.join(run.id for run in self.runs)}"
        if self.checkpoints and not self.benches:
            yield f"checkpoints: {', '.join(c.name for c in self.checkpoints)}"
        for bench, counts in sorted(self.results.items()):
            parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
            yield f"results on {bench}: {parts}"
        if self.files:
            yield f"files: {', '.join(map(str, self.files))} ({self.bytes / 2**20:,.1f} MiB)"
        for folder, why in self.kept_files.items():
            yield f"not deleted, {why}: {folder}"
        if any(run.method == Method.EVAL for run in self.runs):
            yield "answers and scores of an evaluation stay with its checkpoints"
        if self.children:
            yield f"checkpoints that descend from it: {', '.join(self.children)}"
        if self.users:
            yield f"unfinished runs that need it: {', '.join(self.users)}"
        if self.twins:
            yield f"runs that made the same weights: {', '.join(self.twins)}"
        for name, count in self.opponents.items():
            yield f"{count:,} judgments of others that compare with {name} stay"
        for name in self.experiments:
            yield f"the experiment {name} would run it again"


def find(store: Store, name: str) -> tuple[Run | None, Checkpoint | None]:
    """Return the run of a name, else the checkpoint of that name, id or path.

    Raises:
        ConfigError: there is neither.
    """
    if (run := store.run(name)) is not None:
        return run, None
    if (checkpoint := store.checkpoint(name)) is not None:
        return None, checkpoint
    known = [run.id for run in store.runs()] + [c.name for c in store.checkpoints()]
    raise ConfigError(
        f"no run or checkpoint named {name!r}{did_you_mean(name, known)}",
        hint="see: kdharness runs, kdharness leaderboard",
    )


# ---------------------------------------------------------------- removing


def plan_removal(
    paths: Paths,
    store: Store,
    names: Sequence[str],
    *,
    cascade: bool = False,
    benches: Iterable[str] = (),
) -> Removal:
    """Plan the removal of runs (with their checkpoints, results and files) and of checkpoints.

    Args:
        names: runs or checkpoints.
        cascade: what descends from them goes too.
        benches: remove only the results of checkpoints on these benchmarks.

    Raises:
        ConfigError: an unknown name, or a benchmark without results.
        RunError: a run is live.
    """
    runs: dict[str, Run] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for name in names:
        run, checkpoint = find(store, name)
        if run is not None:
            runs[run.id] = run
            checkpoints |= made_in(paths, store, run.id)
        elif checkpoint is not None:
            checkpoints[checkpoint.id] = checkpoint
    wanted = tuple(benches)
    if wanted:
        return _plan_results(store, names, list(checkpoints.values()), wanted)
    younger = descendants(store, checkpoints)
    if cascade:
        checkpoints |= younger
        for key in sorted({c.run for c in younger.values() if c.run} - set(runs)):
            made = {c.id for c in store.checkpoints(key)}
            if (run := store.run(key)) is not None and made <= set(checkpoints):
                runs[key] = run
                checkpoints |= made_in(paths, store, key)
        younger = {}
    _refuse_live(runs.values())
    files, kept_files = folders_of(paths, store, runs, checkpoints)
    going = {c.name for c in checkpoints.values()}
    opponents = {name: store.baseline_of(name) for name in sorted(going)}
    moved = moved_weights(paths, store, runs, checkpoints)
    lost = [c.name for c in store.checkpoints() if moved.get(c.id) == ""]
    return Removal(
        runs=tuple(runs.values()),
        checkpoints=tuple(checkpoints.values()),
        results=_results(store, checkpoints),
        files=tuple(files),
        kept_files=kept_files,
        bytes=sum(map(folder_bytes, files)),
        children=tuple(c.name for c in younger.values()),
        users=tuple(_users(store, runs, checkpoints.values())),
        twins=tuple(dict.fromkeys([*_twins(store, runs, checkpoints.values()), *lost])),
        moved=moved,
        opponents={name: count for name, count in opponents.items() if count},
        experiments=_experiments(paths, runs),
    )


def _plan_results(
    store: Store, names: Sequence[str], checkpoints: Sequence[Checkpoint], benches: tuple[str, ...]
) -> Removal:
    results = _results(store, {c.id: c for c in checkpoints})
    for bench in benches:
        if bench not in results:
            raise ConfigError(
                f"{', '.join(names)}: no results on {bench!r}{did_you_mean(bench, results)}",
                hint=f"stored: {', '.join(sorted(results)) or 'none'}",
            )
    list(_users(store, (), checkpoints))  # refuses while one of them is live
    chosen = {bench: results[bench] for bench in benches}
    return Removal(checkpoints=tuple(checkpoints), benches=benches, results=chosen)


def _results(store: Store, checkpoints: Iterable[str]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for key in checkpoints:
        for bench, counts in store.result_counts(key).items():
            sums = total.setdefault(bench, {})
            for kind, count in counts.items():
                sums[kind] = sums.get(kind, 0) + count
    return total


def _refuse_live(runs: Iterable[Run], why: str = "") -> None:
    for run in runs:
        if (status := effective_status(run)).is_live:
            raise RunError(
                f"{run.id} is {status.value}{why}", hint=f"stop it first: kdharness stop {run.id}"
            )


def _users(store: Store, going: Iterable[str], checkpoints: Iterable[Checkpoint]) -> Iterator[str]:
    """Yield unfinished runs whose configs name a run or checkpoint; refuse if one is live."""
    leaving, known = set(going), list(checkpoints)
    names = leaving.union(*({c.name, c.path} - {""} for c in known))
    # One that is also the best has a second name.
    names |= {f"{name}{BEST}" for c in known if c.is_best for name in (c.name, c.run)}
    for run in store.runs():
        if run.id in leaving or run.status is RunStatus.FINISHED:
            continue
        if names & set(texts_in(store.places.moved(run.config))):
            _refuse_live([run], " and needs it")
            yield run.id


def _twins(store: Store, going: Iterable[str], checkpoints: Iterable[Checkpoint]) -> Iterator[str]:
    """Yield other runs that made the same weights, and so have the same checkpoint."""
    leaving, names = set(going), {c.name for c in checkpoints}
    for run in store.runs():
        if run.id not in leaving and run.checkpoint in names:
            yield run.id


def _experiments(paths: Paths, run_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the experiments kept in the home that runs seem to be of, by their names."""
    kept = [kept_runs(file) for file in kept_experiments(paths)]
    return tuple(one.name for one in kept if any(map(one.names, run_ids)))


def _check_again(paths: Paths, store: Store, plan: Removal) -> dict[str, str]:
    """Look again at what a plan names, in the transaction that removes it.

    Returns:
        Where weights are that stay while the folder of their path goes.

    Raises:
        RunError: a run that goes or needs what goes is live by now.
        StoreError: more goes or depends on it than the plan says.
    """
    going, checkpoints = [run.id for run in plan.runs], {c.id: c for c in plan.checkpoints}
    stored = [store.run(name) for name in going]
    if None in stored:
        raise StoreError(f"{going[stored.index(None)]} was removed or renamed", hint=AGAIN)
    _refuse_live(filter(None, stored))
    users = set(_users(store, going, plan.checkpoints))
    if plan.benches:
        return {}
    moved = moved_weights(paths, store, going, checkpoints)
    made = [c for name in going for c in made_in(paths, store, name).values()]
    depend = {c.name for c in descendants(store, checkpoints).values()}
    depend |= {*users, *_twins(store, going, plan.checkpoints)}
    depend |= {c.name for c in store.checkpoints() if moved.get(c.id) == ""}
    depend -= {*plan.children, *plan.users, *plan.twins}
    if fresh := sorted(depend | {c.name for c in made if c.id not in checkpoints}):
        raise StoreError(f"{listed(fresh)}: not there when this was planned", hint=AGAIN)
    return moved


def remove_records(
    paths: Paths, store: Store, plan: Removal, *, force: bool = False, keep_files: bool = False
) -> list[str]:
    """Remove what a plan names; return checkpoints that are kept, without results, as ancestors.

    Args:
        force: although something depends on it.
        keep_files: leave the folders.

    Raises:
        RunError: a run that goes or needs what goes is live by now.
        StoreError: something depends on it, more than the plan says goes or depends on it by now,
            or the store is read-only.
    """
    if store.read_only:
        raise StoreError("the store is read-only", where=str(store.path))
    if plan.benches:
        with store.writing():
            _check_again(paths, store, plan)
            for checkpoint in plan.checkpoints:
                store.forget_results(checkpoint.id, plan.benches)
        return []
    plan.refuse(force)
    aside: list[Path] = []
    with store.writing():
        moved = _check_again(paths, store, plan)
        kept = store.forget_runs(
            [run.id for run in plan.runs], [checkpoint.id for checkpoint in plan.checkpoints]
        )
        for key, path in {**moved, **dict.fromkeys(kept, "")}.items():
            if not keep_files:
                store.set_checkpoint_path(key, path)
        if not keep_files:
            store.free_names_of(kept)
            aside = set_aside(plan.files)
    for left in aside:
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    return [c.name for c in plan.checkpoints if c.id in kept]


# ---------------------------------------------------------------- renaming


def rename_record(paths: Paths, store: Store, old: str, new: str, *, force: bool = False) -> None:
    """Give a run (with its folder and checkpoints) or a checkpoint another name.

    Raises:
        ConfigError: an unknown, invalid or taken name.
        RunError: it is live.
        StoreError: an unfinished run or an experiment refers to it by name, without `force`.
    """
    run, checkpoint = find(store, old)
    folder = check_new_name(paths, store, new, is_run=run is not None)
    if run is not None:
        _refuse_live([run])
    made = store.checkpoints(run.id) if run is not None else []
    named = [*made, *filter(None, [checkpoint])]
    users = list(_users(store, [run.id] if run else [], named))
    if run is not None and (named_by := _experiments(paths, [run.id])) and not force:
        ending, verb = ("s", "would each") if len(named_by) > 1 else ("", "would")
        raise StoreError(
            f"{old} is a run of the experiment{ending} {listed(named_by)}, which {verb} run it "
            "again",
            hint="--force renames it nevertheless; a tag or a note changes nothing",
        )
    if users and not force:
        raise StoreError(
            f"unfinished runs refer to it by name: {listed(users)}",
            hint="finish or remove them first, or use --force",
        )
    try:
        if run is None and checkpoint is not None:
            store.rename_model(checkpoint, new)
        elif run is not None:
            source = Path(run.folder)
            is_here = source.resolve() == paths.run(run.id).resolve()
            if is_here and exists(folder):
                raise ConfigError(
                    "the folder exists", where=str(folder), hint="choose another name"
                )
            adapters = adapters_on(paths, store, source) if is_here else []
            store.rename_run(run.id, new, source, folder if is_here else None)
            name_bases(adapters, source.resolve(), folder.resolve())
    except sqlite3.IntegrityError as error:
        raise ConfigError(f"the name {new!r} is taken", hint="choose another name") from error


def check_new_name(paths: Paths, store: Store, new: str, *, is_run: bool) -> Path:
    """Return the folder that a run of this name would have.

    Raises:
        ConfigError: the name is invalid for a run, or for a checkpoint, or taken.
    """
    folder = paths.run(new)
    if not is_run and ("@" in new or new.startswith("home:")):
        raise ConfigError(f"invalid name {new!r}", hint="use letters, digits, . - and _")
    if store.run(new) is not None or _holder(store, new):
        raise ConfigError(f"the name {new!r} is taken", hint="choose another name")
    return folder


def _holder(store: Store, name: str) -> bool:
    found = store.checkpoint(name)
    return found is not None and found.name == name
