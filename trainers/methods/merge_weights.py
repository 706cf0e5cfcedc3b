"""How merged weights are computed, as pure functions of state dicts.

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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdharness.harness.errors import ModelError

State = Mapping[str, Any]


def interpolate(
    reference: State,
    expert: State,
    alpha: float,
    names: Sequence[str] = ("reference", "expert"),
) -> dict[str, Any]:
    """Return (1 − α) reference + α expert (WiSE-FT); the ends equal the parents bit for bit."""
    return _each(
        [reference, expert],
        names,
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
    return _added(reference, states, weights, scale, names)


def _added(
    reference: State,
    states: Sequence[State],
    weights: Sequence[float],
    scale: float,
    names: Sequence[str],
    kept: Callable[[Any], Any] = lambda difference: difference,
) -> dict[str, Any]:
    """Return reference + scale · Σ weight · kept(state − reference)."""
    given = list(weights) or [1.0] * len(states)

    def add(tensors: list[Any]) -> Any:
        base, *others = tensors
        learnt = sum(w * kept(other - base) for w, other in zip(given, others, strict=True))
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
    generator = torch.Generator().manual_seed(seed)

    def thinned(difference: Any) -> Any:
        chosen = torch.rand(difference.shape, generator=generator) < density
        return torch.where(chosen, difference, 0.0) / density

    return _added(reference, states, weights, scale, names, thinned)


def _each(
    states: Sequence[State], names: Sequence[str], combine: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """Apply `combine` to each tensor of all states; one tensor with two names once.

    Raises:
        ModelError: states that do not fit, and values that are not finite, given or computed.
    """
    names = names or [f"model {n}" for n in range(1, len(states) + 1)]
    check_states(states, names)
    merged: dict[str, Any] = {}
    done: dict[tuple[object, ...], str] = {}
    for key, first in states[0].items():
        tensors = [state[key] for state in states]
        if not first.is_floating_point():
            merged[key] = first.clone()
            continue
        # One tensor under two names in every model: embedding and head, where all of them tie them.
        place = (first.shape, *(tensor.data_ptr() for tensor in tensors))
        if first.numel() and place in done:
            merged[key] = merged[done[place]]
            continue
        done[place] = key
        given = [t.detach().float().cpu() for t in tensors]
        for name, tensor in zip(names, given, strict=True):
            if not is_finite(tensor):
                raise ModelError(
                    f"{key} of {name} has NaN or infinite values",
                    hint="its training diverged, or its file is damaged",
                )
        merged[key] = combine(given).to(first.dtype)
        if not is_finite(merged[key]):
            dtype = str(first.dtype).removeprefix("torch.")
            raise ModelError(
                f"{key} of the merged model has values beyond {dtype}",
                hint="lower scale or weights",
            )
    return merged


def is_finite(tensor: Any) -> bool:
    """Return whether a tensor has no NaN and no infinite value."""
    # The extremes need no copy of a tensor, and a NaN is both of them.
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


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
