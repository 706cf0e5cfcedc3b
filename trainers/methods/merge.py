"""Merging weights without training: the baseline for a trained checkpoint.

The formulas and their sources are in `merge_weights`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.config.merging import SPARSE, MergeConfig, alpha_label
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ModelError
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.lm_head import give_own_head, has_own_head
from kdharness.harness.models.loading import (
    load_config_of,
    load_model,
    load_tokenizer,
    stored_dtype,
)
from kdharness.harness.models.unused import unused_note_of
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.types import Checkpoint
from kdharness.trainers.methods.merge_configs import check_configs
from kdharness.trainers.methods.merge_weights import (
    State,
    average,
    check_states,
    dare,
    interpolate,
    task_arithmetic,
    ties,
)
from kdharness.trainers.saving import MARGIN, refuse_without_room, saved_bytes
from kdharness.trainers.students.folder import save_folder
from kdharness.trainers.teachers.online import check_tokenizers


def train(config: MergeConfig, job: Job) -> Outcome:
    """Make and store the merged checkpoints; the run's own is the one nearest to α = 0.5.

    A checkpoint that exists already (from before a stop) is not made again.

    Raises:
        ModelError: the models cannot be merged, with what differs.
    """
    sources = config.sources
    names = list(sources.values())
    job.reporter.stage("loading", len(sources))
    parents = {role: model_checkpoint(job.paths, source) for role, source in sources.items()}
    check_parents(parents, config, job.paths)
    models = []
    for number, source in enumerate(names, 1):
        dtype = (
            "float32"
            if number > 1
            else stored_dtype(names[0], job.paths, trust_remote_code=config.trust_remote_code)
        )
        models.append(
            load_model(
                source,
                job.paths,
                dtype=dtype,
                device="cpu",
                trust_remote_code=config.trust_remote_code,
            )
        )
        if unused := unused_note_of(models[-1]):
            job.reporter.say(unused, kind="warning")
        job.reporter.advance(number)
        job.reporter.check()
    if any(map(has_own_head, models)):
        # What it shares with its embedding gets apart in the merge.
        give_own_head(models[0])
    states = [model.state_dict() for model in models]
    wanted = recipes(config)
    new = [label for label, _ in wanted if not _made(job.folder / (label or "final"))]
    refuse_without_room(int(len(new) * saved_bytes(models[0]) * MARGIN), job.folder)
    check_states(states, names)
    tokenizer = merged_tokenizer(names, job, trust=config.trust_remote_code)
    job.reporter.stage("merging", len(wanted))
    made = []
    vessel = copy.deepcopy(models[0])
    for number, (label, info) in enumerate(wanted, 1):
        job.reporter.check()
        folder = job.folder / (label or "final")
        if not _made(folder):
            vessel.load_state_dict(_combine(config, states, names, info))
            save_folder(vessel, tokenizer, folder, {**info, "parents": sources})
        made.append((folder, info))
        _store(config, job, folder, label, {r: c.id for r, c in parents.items()}, info)
        job.reporter.advance(number)
    middle = min(made, key=lambda entry: abs(float(entry[1].get("alpha", 0.5)) - 0.5))
    return Outcome(
        middle[0], len(wanted), {role: parent.id for role, parent in parents.items()}, middle[1]
    )


def merged_tokenizer(names: Sequence[str], job: Job, *, trust: bool) -> Any:
    """Return the first model's tokenizer, with the chat template of the first that has one.

    A base model often has none, and a merge without one could not answer a chat.
    """
    tokenizers = [load_tokenizer(name, job.paths, trust_remote_code=trust) for name in names]
    first = tokenizers[0]
    having = {
        name: tokenizer.chat_template
        for name, tokenizer in zip(names, tokenizers, strict=True)
        if tokenizer.chat_template
    }
    if not having:
        return first
    name, template = next(iter(having.items()))
    other = next((source for source, text in having.items() if text != template), "")
    if not first.chat_template:
        first.chat_template = template
        job.reporter.say(f"{names[0]} has no chat template: the merged model has that of {name}")
    if other:
        job.reporter.say(
            f"the chat templates of {name} and {other} differ: the merged model has that of {name}",
            kind="warning",
        )
    return first


def _made(folder: Path) -> bool:
    return (folder / "config.json").exists()


def recipes(config: MergeConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, info) of each checkpoint to make; a single one has no label."""
    if config.kind != "wise-ft":
        more: dict[str, float] = {} if config.kind == "average" else {"scale": config.scale}
        if config.kind in SPARSE:
            more["density"] = config.density
        if config.kind == "dare":
            more["seed"] = config.seed
        return [("", {"kind": config.kind, "weights": list(config.weights), **more})]
    several = len(config.alphas) > 1
    return [
        (alpha_label(alpha) if several else "", {"kind": config.kind, "alpha": alpha})
        for alpha in config.alphas
    ]


def _combine(
    config: MergeConfig, states: Sequence[State], names: Sequence[str], info: Mapping[str, Any]
) -> dict[str, Any]:
    if config.kind == "wise-ft":
        return interpolate(states[0], states[1], float(info["alpha"]), names)
    if config.kind == "average":
        return average(states, config.weights, names)
    reference, others = states[0], states[1:]
    if config.kind == "ties":
        return ties(reference, others, config.weights, config.scale, config.density, names)
    if config.kind == "dare":
        return dare(
            reference, others, config.weights, config.scale, config.density, config.seed, names
        )
    return task_arithmetic(reference, others, config.weights, config.scale, names)


def _store(
    config: MergeConfig,
    job: Job,
    folder: Path,
    label: str,
    parents: dict[str, str],
    info: dict[str, Any],
) -> None:
    """Store the checkpoint under the run's name and alpha; the run finds it by its weights."""
    if not job.is_main:
        return
    add_made(
        job.paths,
        folder,
        name=f"{job.run}-{label}" if label else job.run,
        method=config.method,
        run=job.run,
        step=1,
        parents=parents,
        config_hash=config_hash(config),
        info=info,
    )


# ---------------------------------------------------------------- compatibility


def check_parents(parents: Mapping[str, Checkpoint], config: MergeConfig, paths: Paths) -> None:
    """Refuse models that differ in architecture or tokens, before any weights are loaded.

    Raises:
        ModelError: what differs, with both names.
    """
    sources = list(config.sources.values())
    ids = [parent.model for parent in parents.values()]
    for source, identity in zip(sources[1:], ids[1:], strict=True):
        if identity == ids[0]:
            raise ModelError(
                f"{sources[0]} and {source} have the same weights",
                hint="there is nothing to merge; give two different checkpoints",
            )
    trust = config.trust_remote_code
    first, *others = [load_config_of(source, paths, trust_remote_code=trust) for source in sources]
    for source, other in zip(sources[1:], others, strict=True):
        check_configs(first, other, sources[0], source)
    _check_tokens(sources, paths, trust)


def _check_tokens(sources: Sequence[str], paths: Paths, trust: bool) -> None:
    """Refuse tokenizers that differ in any token."""
    first = load_tokenizer(sources[0], paths, trust_remote_code=trust)
    for source in sources[1:]:
        other = load_tokenizer(source, paths, trust_remote_code=trust)
        hint = "merging combines embeddings by token id: use models with the same tokenizer"
        try:
            check_tokenizers(first, other, sources[0], source)
        except ModelError as error:
            raise ModelError(error.message, hint=hint) from error
        alone = sorted(set(first.get_vocab()) ^ set(other.get_vocab()))
        if alone:
            raise ModelError(
                f"the tokenizers of {sources[0]} and {source} differ: only one of them has "
                f"{alone[0]!r} ({len(alone)} such tokens)",
                hint=hint,
            )
