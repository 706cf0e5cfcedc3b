"""Merging weights without training: the baseline for a trained checkpoint.

WiSE-FT (Wortsman et al., *Robust fine-tuning of zero-shot models*, arXiv 2109.01903, eq. 1):

    θ(α) = (1 − α) θ_reference + α θ_expert

Average, also called a uniform soup (Wortsman et al., *Model soups*, arXiv 2203.05482), with
weights that add up to 1: θ = Σ w_i θ_i.

Task arithmetic (Ilharco et al., *Editing models with task arithmetic*, arXiv 2212.04089):

    θ = θ_reference + s Σ w_i (θ_i − θ_reference)

TIES (Yadav et al., *TIES-Merging*, arXiv 2306.01708): of each difference only the largest `density`
of its values are kept, the sign of their sum is elected, and the mean is over those that have it.

DARE (Yu et al., *Language models are super Mario*, arXiv 2311.03099): of each difference a random
`density` of its values are kept and divided by it, so that the sum is the same on average.

Both take a tensor as the unit, as mergekit does.

Everything is computed in fp32, tensor by tensor, and stored in the first model's precision.
Tensors that are not floating-point must be equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdharness.harness.config.merging import SPARSE, MergeConfig, alpha_label
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.types import Checkpoint
from kdharness.trainers.saving import MARGIN, refuse_without_room, saved_bytes
from kdharness.trainers.students.folder import save_folder
from kdharness.trainers.teachers.online import check_tokenizers

State = Mapping[str, Any]


# ---------------------------------------------------------------- pure functions of weights


def interpolate(reference: State, expert: State, alpha: float) -> dict[str, Any]:
    """Return (1 − α) reference + α expert (WiSE-FT); the ends equal the parents bit for bit."""
    return _each(
        [reference, expert],
        ["reference", "expert"],
        lambda tensors: torch.lerp(tensors[0], tensors[1], alpha),
    )


def average(
    states: Sequence[State], weights: Sequence[float] = (), names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the weighted mean; weights are normalised to sum to 1, and equal by default."""
    given = list(weights) or [1.0] * len(states)
    shares = [weight / sum(given) for weight in given]

    def mean(tensors: list[Any]) -> Any:
        return sum(share * tensor for share, tensor in zip(shares, tensors, strict=True))

    return _each(states, names, mean)


def task_arithmetic(
    reference: State,
    states: Sequence[State],
    weights: Sequence[float] = (),
    scale: float = 1.0,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return reference + scale · Σ weight (state − reference); weights are 1 by default."""
    given = list(weights) or [1.0] * len(states)

    def add(tensors: list[Any]) -> Any:
        base, *others = tensors
        learnt = sum(w * (other - base) for w, other in zip(given, others, strict=True))
        return base + scale * learnt

    return _each([reference, *states], names, add)


def ties(
    reference: State,
    states: Sequence[State],
    weights: Sequence[float] = (),
    scale: float = 1.0,
    density: float = 0.2,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return reference + scale · the mean of trimmed differences with the elected sign."""
    given = torch.tensor(list(weights) or [1.0] * len(states))

    def merge(tensors: list[Any]) -> Any:
        base, *others = tensors
        shares = given.view(-1, *[1] * base.dim())
        learnt = torch.stack([trim(other - base, density) for other in others]) * shares
        # A sum of 0 elects the positive sign.
        elected = torch.where(learnt.sum(0) >= 0, 1.0, -1.0)
        agree = learnt.sign() == elected
        total = (shares * agree).sum(0)
        return base + scale * (learnt * agree).sum(0) / torch.where(total == 0, 1.0, total)

    return _each([reference, *states], names, merge)


def trim(difference: Any, density: float) -> Any:
    """Return a tensor with the largest `density` of its values by size, at least one; 0 elsewhere.

    Of equal sizes at the border, those that come first are kept.
    """
    count = difference.numel()
    if count == 0:
        return difference
    size = difference.abs().flatten()
    kept = size.argsort(descending=True, stable=True)[: max(1, int(density * count))]
    mask = torch.zeros(count, dtype=torch.bool).index_fill_(0, kept, True)
    return torch.where(mask.view_as(difference), difference, 0.0)


def dare(
    reference: State,
    states: Sequence[State],
    weights: Sequence[float] = (),
    scale: float = 1.0,
    density: float = 0.2,
    seed: int = 42,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return reference + scale · Σ weight · (kept values of state − reference) / density."""
    given = list(weights) or [1.0] * len(states)
    generator = torch.Generator().manual_seed(seed)

    def merge(tensors: list[Any]) -> Any:
        base, *others = tensors
        learnt = torch.zeros_like(base)
        for weight, other in zip(given, others, strict=True):
            kept = torch.rand(base.shape, generator=generator) < density
            learnt += weight * torch.where(kept, other - base, 0.0) / density
        return base + scale * learnt

    return _each([reference, *states], names, merge)


def _each(
    states: Sequence[State], names: Sequence[str], combine: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """Apply `combine` to each tensor of all states; one tensor with two names once."""
    check_states(states, names or [f"model {n}" for n in range(1, len(states) + 1)])
    merged: dict[str, Any] = {}
    done: dict[tuple[int, Any], str] = {}
    for key, first in states[0].items():
        tensors = [state[key] for state in states]
        if not first.is_floating_point():
            merged[key] = first.clone()
            continue
        place = (first.data_ptr(), first.shape)
        if first.numel() and place in done:
            merged[key] = merged[done[place]]
            continue
        done[place] = key
        merged[key] = combine([t.detach().float().cpu() for t in tensors]).to(first.dtype)
    return merged


def check_states(states: Sequence[State], names: Sequence[str]) -> None:
    """Refuse state dicts that differ in keys, shapes or integer tensors.

    Raises:
        ModelError: the first tensor that differs, with both models' names.
    """
    first, name = states[0], names[0]
    for state, other in zip(states[1:], names[1:], strict=True):
        hint = (
            "only models of the same architecture and size can be merged: train from the same start"
        )
        alone = sorted(set(first) ^ set(state))
        if alone:
            owner, lacking = (name, other) if alone[0] in first else (other, name)
            raise ModelError(
                f"{owner} has {alone[0]}, which is missing from {lacking} "
                f"({len(alone)} such tensors in total)",
                hint=hint,
            )
        for key, tensor in first.items():
            theirs = state[key]
            if tensor.shape != theirs.shape:
                raise ModelError(
                    f"{key} is {_shape(tensor)} in {name} and {_shape(theirs)} in {other}",
                    hint=hint,
                )
            if not tensor.is_floating_point() and not torch.equal(tensor, theirs):
                raise ModelError(
                    f"the integer tensor {key} differs between {name} and {other}", hint=hint
                )


def _shape(tensor: Any) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


# ---------------------------------------------------------------- the run


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
            "auto"
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
        job.reporter.advance(number)
        job.reporter.check()
    states = [model.state_dict() for model in models]
    wanted = recipes(config)
    new = [label for label, _ in wanted if not _made(job.folder / (label or "final"))]
    refuse_without_room(int(len(new) * saved_bytes(models[0]) * MARGIN), job.folder)
    check_states(states, names)
    tokenizer = load_tokenizer(names[0], job.paths, trust_remote_code=config.trust_remote_code)
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
        return interpolate(states[0], states[1], float(info["alpha"]))
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
    properties = {}
    for source in sources:
        shape = load_config_of(source, paths, trust_remote_code=trust)
        text = shape.get_text_config()
        properties[source] = (shape.model_type, bool(getattr(text, "tie_word_embeddings", False)))
    for source in sources[1:]:
        for what, ours, theirs in zip(
            ("model type", "tie_word_embeddings"),
            properties[sources[0]],
            properties[source],
            strict=True,
        ):
            if ours != theirs:
                raise ModelError(
                    f"{what} is {ours} in {sources[0]} and {theirs} in {source}",
                    hint="only models of the same architecture can be merged: "
                    "train from the same start",
                )
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


def stored_dtype(source: str, paths: Paths, *, trust_remote_code: bool = False) -> str:
    """Return the name of the precision a model is stored in; `auto` for an adapter."""
    if is_adapter(Path(resolve_model(source, paths))):
        return "auto"
    config = load_config_of(source, paths, trust_remote_code=trust_remote_code)
    dtype = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return dtype if dtype in ("float32", "bfloat16", "float16") else "auto"
