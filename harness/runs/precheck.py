"""Checks before a run is created: missing models, benchmarks and data files.

Otherwise a run that cannot start would stay in the store as failed, and block its name for the
next attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdharness.harness.config.evaluation import FOR_EACH, EvalConfig, Spec, parse_spec
from kdharness.harness.config.files import parse_stored
from kdharness.harness.config.references import model_references
from kdharness.harness.config.settings import default_judges
from kdharness.harness.config.tracking import check_trackers
from kdharness.harness.config.training import (
    AnyConfig,
    TrainConfig,
    check_best,
    runs_code_of,
    trains_on_data,
)
from kdharness.harness.errors import ConfigError, DataError, KDHarnessError
from kdharness.harness.evaluation.answerers import choose_answered
from kdharness.harness.evaluation.name_clashes import refuse_namesake
from kdharness.harness.evaluation.pipeline import load_benches
from kdharness.harness.evaluation.points import load_points
from kdharness.harness.evaluation.state import Evaluation, stored_subject
from kdharness.harness.models.engine_files import check_engine, need_llama
from kdharness.harness.models.gguf_models import find_gguf, gguf_source, is_gguf
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.loading import check_adapter
from kdharness.harness.models.resolve import find_source, is_unconverted
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark, MeasuredBenchmark, NullReporter
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.store import Store
from kdharness.harness.types import Run
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.untrusted import CONFIG_BYTES, read_text


def check_request(
    config: AnyConfig, paths: Paths, *, hub: bool = True, begun: bool = False
) -> None:
    """Reject a config that refers to missing models, benchmarks or data.

    Loads no weights and calls no judge; benchmark files are read, so that errors are reported with
    their line numbers.

    Args:
        config: a validated config.
        paths: the home.
        hub: check on the hub that models given by hub ids exist.
        begun: it belongs to a stored run, which may read its rows as older versions did.

    Raises:
        ConfigError, DataError, ModelError, AssetError: what is missing, and which field names it.
    """
    if isinstance(config, EvalConfig):
        _check_evaluation(config, paths, hub=hub)
        check_trackers(config.track, "track", here=hub)
    answered = _answers_alone(config, paths)
    for field, source in model_references(config):
        if source in answered:
            continue
        if field == "checkpoints" and _check_file(field, source, config, paths):
            continue
        if hub or not _is_on_hub(source):
            _check_model(field, source, paths, code=runs_code_of(config, source))
    if isinstance(config, EvalConfig) and config.answer_engine:
        _check_answer_engine(config, config.answer_engine, paths, hub=hub)
    if trains_on_data(config):
        _check_data(config, begun=begun)
        check_best(config)
        check_trackers(config.trainer.track, "trainer.track", here=hub)
        load_points(config.trainer.eval_benches, paths)
        # Where a run is prepared for another machine, that one checks its own GPU.
        if config.trainer.kernels != "reference" and hub:
            check: Any = resolve(TOOLS, "check_kernels", "tool")
            check(config.trainer.kernels, config.trainer.device)


def stored_config(run: Run, paths: Paths) -> AnyConfig:
    """Return a stored run's config, with the paths of a home that was moved here.

    Raises:
        ConfigError: it is of another version, or was changed.
    """
    with Store(paths.store) as store:
        values = store.places.moved(run.config)
    return parse_stored(values, where=f"{run.folder}/config.yaml")


def _is_on_hub(source: str) -> bool:
    """Return whether a model's name can only be looked up on the hub."""
    return bool(split_hub_name(source)) and not exists(local_path(source), folder=True)


def _answers_alone(config: AnyConfig, paths: Paths) -> set[str]:
    """Return the checkpoints of an evaluation that have stored answers but no weights."""
    if not isinstance(config, EvalConfig) or not paths.store.exists():
        return set()
    with Store(paths.store) as store:
        stored = {name: store.checkpoint(name) for name in config.checkpoints}
    return {name for name, known in stored.items() if known is not None and not known.path}


def _check_file(field: str, source: str, config: AnyConfig, paths: Paths) -> bool:
    """Check a model that is a GGUF file; return whether it is one."""
    with naming_field(field):
        if paths.store.exists():
            with Store(paths.store) as store:
                found = gguf_source(source, paths, store) is not None
        else:
            found = is_gguf(source) and bool(find_gguf(source, paths))
        if found and not getattr(config, "answer_engine", None):
            need_llama()
    return found


def _check_model(field: str, source: str, paths: Paths, *, code: bool) -> None:
    """Check that a model exists, and that an adapter would load completely."""
    with naming_field(field):
        folder = find_source(source, paths)
        if folder is not None and exists(Path(folder), folder=True):
            check_adapter(Path(folder), source, paths, trust_remote_code=code)


@contextmanager
def naming_field(field: str) -> Iterator[None]:
    """Name the field in errors that name no place."""
    try:
        yield
    except KDHarnessError as error:
        raise type(error)(error.message, where=error.where or field, hint=error.hint) from error


def _check_data(config: TrainConfig, *, begun: bool) -> None:
    """Check the template and the first row of each local data file; hub data is checked later."""
    template = config.data.chat_template
    if template and template != "chatml":
        if not exists(local_path(template)):
            raise ConfigError(
                f"no such template file: {template[:200]}",
                where="data.chat_template",
                hint="use a Jinja template file, or chatml; the model's own is the default",
            )
        try:
            read_text(local_path(template), "the chat template", limit=CONFIG_BYTES)
        except ConfigError as error:
            where = f"data.chat_template: {error.where}"
            raise ConfigError(error.message, where=where, hint=error.hint) from error
    read: Any = resolve(TOOLS, "read_source", "tool")
    for name, sources in (("train", config.data.train), ("heldout", config.data.heldout)):
        for index, source in enumerate(sources):
            if source.path.startswith("hub:") and source.path != "hub:":
                continue
            try:
                read(source.model_copy(update={"limit": 1}), former=begun)
            except DataError as error:
                field = f"data.{name}.{index}.path"
                where = f"{field}: {error.where}" if error.where else field
                raise DataError(error.message, where=where, hint=error.hint) from error


def _check_evaluation(config: EvalConfig, paths: Paths, *, hub: bool) -> None:
    benches = load_benches(config, paths)
    known: set[str] = set()
    others = {bench.pairwise_with for bench in benches} - {"", "all"}
    if paths.store.exists():
        with Store(paths.store) as store:
            stored = {name: store.checkpoint(name) for name in {*config.imported, *others}}
            known = {name for name in config.imported if stored[name] is not None}
            # Imported answers have no model folder.
            others -= {name for name, side in stored.items() if side and not side.path}
            for bench in benches:
                refuse_namesake(store, bench)
    missing = [name for name in config.imported if name not in known]
    if missing:
        raise ConfigError(
            f"no stored answers of a model named {missing[0]!r}",
            hint="import them: kdharness import fastchat|alpaca-eval PATH",
        )
    for name in sorted(others):
        if _check_file("baseline", name, config, paths):
            continue
        if hub or not _is_on_hub(name):
            _check_model("baseline", name, paths, code=config.trust_remote_code)
    judges = config.judge or default_judges(paths)
    if any(bench.needs_judge for bench in benches):
        _check_engines("judge", judges, paths, hub=hub)


def _check_engines(field: str, specs: Iterable[str], paths: Paths, *, hub: bool) -> None:
    """Refuse engines that could not start."""
    for spec in map(parse_spec, specs):
        if hub or not _is_model_on_hub(spec):
            with naming_field(field):
                check_engine(spec, paths)


def _is_model_on_hub(spec: Spec) -> bool:
    return spec.kind in FOR_EACH and _is_on_hub(spec.model)


def _check_answer_engine(config: EvalConfig, named: str, paths: Paths, *, hub: bool) -> None:
    """Refuse an answering engine that could not give the answers that are missing."""
    benches = load_benches(config, paths)
    if all(isinstance(bench, MeasuredBenchmark) for bench in benches):
        return
    others = sorted({bench.pairwise_with for bench in benches} - {"", "all"})
    sources = [name for name in (*config.checkpoints, *others) if hub or not _is_on_hub(name)]
    if named in FOR_EACH:
        models = _to_answer(config, benches, sources, paths)
        _check_engines("answer_engine", [f"{named}:{name}" for name in models], paths, hub=hub)
        return
    spec = parse_spec(named)
    # Reading the weights takes time: where nothing can be refused, it is left to the run.
    is_left = is_unconverted(spec.model, paths) or (not hub and _is_model_on_hub(spec))
    if spec.kind == "openai":
        is_left = len(set(sources)) == 1
    if is_left or _to_answer(config, benches, sources, paths):
        _check_engines("answer_engine", [named], paths, hub=hub)


def _to_answer(
    config: EvalConfig, benches: Sequence[Benchmark], sources: Sequence[str], paths: Paths
) -> list[str]:
    """Return the models whose answers are missing, after comparing them with the engine's."""
    # Nothing is converted here: what has not been converted yet has not answered either.
    wanted = [name for name in sources if is_unconverted(name, paths)]
    with Store(paths.store) as store:
        job = Evaluation(config, paths, store, NullReporter())
        with naming_field("checkpoints"):
            found = {n: stored_subject(n, paths, store) for n in sources if n not in wanted}
        subjects = {subject.checkpoint.id: subject for subject in found.values()}
        with naming_field("answer_engine"):
            asked = choose_answered(job, list(subjects.values()), benches)
    return wanted + [name for name, subject in found.items() if subject in asked]
