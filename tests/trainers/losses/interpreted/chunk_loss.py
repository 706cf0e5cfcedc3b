"""The head's kernel against the definitions in float64, and against the reference chunk."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdharness.harness.config.trainer import Divergence
from kdharness.harness.models.lm_head import Head
from kdharness.trainers.losses import fused
from kdharness.trainers.losses import triton_head as kernels
from kdharness.trainers.losses.fused import ChunkLoss, Mix, fused_loss
from kdharness.trainers.losses.top_k import TopK, top_k

pytestmark = pytest.mark.usefixtures("small_tiles")
KINDS = get_args(Divergence)
POSITIONS, VOCAB = 7, 41


def divergence(p: Tensor, q: Tensor, kind: str, beta: float) -> Tensor:
    """Return the divergence by its definition, on probabilities."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a.log() - b.log())).sum()

    m = beta * p + (1 - beta) * q
    parts = {"forward_kl": (p, q), "reverse_kl": (q, p), "skew_kl": (p, m)}
    if kind == "js":
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(*parts.get(kind, (q, m)))


class Case:
    """Hidden states and heads of two models, the teacher's with fewer ids if `shared`."""

    def __init__(
        self,
        mix: Mix,
        *,
        scale: float = 1.0,
        cap: float = 0.0,
        shared: int = 0,
        targets: bool = False,
        teacher: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        g = torch.Generator().manual_seed(7)

        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g).to(dtype)

        self.mix, self.scale, self.cap, self.shared = mix, scale, cap, shared
        self.mine = [rand(POSITIONS, 12), rand(VOCAB, 12), rand(VOCAB)]
        self.theirs = (rand(POSITIONS, 20), rand(shared + 2 if shared else VOCAB, 20))
        every = torch.randint(0, VOCAB, (POSITIONS,), generator=g)
        self.targets = every if targets else None
        self.teacher = teacher

    def logits(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        z = (x @ w.T + (0 if b is None else b)) * self.scale
        return self.cap * torch.tanh(z / self.cap) if self.cap else z

    def exact(self) -> tuple[float, list[Tensor]]:
        """Return loss and gradients in float64, by autograd."""
        mine = [part.double().requires_grad_() for part in self.mine]
        zs, mix = self.logits(mine[0], mine[1], mine[2]), self.mix
        total = zs.new_zeros(())
        if self.teacher:
            zt = self.logits(*(part.double() for part in self.theirs), None)
            ids, t = self.shared or VOCAB, mix.temperature
            p, q = (zt[:, :ids] / t).softmax(-1), (zs[:, :ids] / t).softmax(-1)
            total = mix.kl_weight * t * t * divergence(p, q, mix.divergence, mix.beta)
        if self.targets is not None:
            ce = F.cross_entropy(zs, self.targets, reduction="sum")
            total = total + mix.ce_weight * ce
        return float(total.detach()), list(torch.autograd.grad(total, mine))

    def run(self, inner: ChunkLoss) -> tuple[float, list[Tensor], fused.Parts]:
        """Return loss, gradients and parts of the fused loss."""
        mine = [part.detach().clone().requires_grad_() for part in self.mine]
        head = Head(mine[1], mine[2], self.scale, self.cap, self.shared)
        states, weight = self.theirs
        teacher = (Head(weight, None, self.scale, self.cap, self.shared), states)
        got, parts = fused_loss(
            mine[0],
            head,
            mix=self.mix,
            teacher=teacher if self.teacher else None,
            targets=self.targets,
            inner=inner,
        )
        grads = torch.autograd.grad(got, mine)
        return float(got.detach()), [grad.double() for grad in grads], parts


def distance(got: Tensor, want: Tensor) -> float:
    return float(torch.linalg.norm(got - want) / torch.linalg.norm(want))


def cases(kind: str) -> dict[str, Case]:
    return {
        "plain": Case(Mix(1.0, kind, 0.3, 0.7, chunk=5)),
        "everything": Case(
            Mix(2.5, kind, 0.3, 0.7, 0.3, chunk=5), scale=0.6, cap=4.0, shared=35, targets=True
        ),
        "bf16": Case(Mix(1.0, kind, 0.3, 0.7, 0.3), targets=True, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plain", "everything", "bf16"])
def test_loss_and_gradients_match_the_definition(kind: str, name: str) -> None:
    case = cases(kind)[name]
    (want, exact), (got, grads, parts) = case.exact(), case.run(kernels.chunk_loss)
    other, others, other_parts = case.run(fused.chunk_loss)
    assert got == pytest.approx(want, rel=1e-6)
    for mine, loop, true in zip(grads, others, exact, strict=True):
        assert distance(mine, true) <= max(1.5 * distance(loop, true), 2e-6)
    for ours, theirs in ((parts.kl, other_parts.kl), (parts.ce, other_parts.ce)):
        assert ours is not None and theirs is not None
        assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    assert other == pytest.approx(want, rel=1e-6)


def test_cross_entropy_alone() -> None:
    case = Case(Mix(kl_weight=0.0, ce_weight=1.0), targets=True, teacher=False)
    (want, exact), (got, grads, parts) = case.exact(), case.run(kernels.chunk_loss)
    assert got == pytest.approx(want, rel=1e-6)
    assert all(distance(m, t) <= 1e-6 for m, t in zip(grads, exact, strict=True))
    assert parts.kl is not None and float(parts.kl) == 0


def test_cached_teachers_are_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(Mix(1.5))
    states, weight = case.theirs
    cached = top_k(Head(weight), states, k=5, temperature=1.5, chunk=None, vocab=0)
    calls: list[Any] = []

    def counted(*args: Any) -> Any:
        calls.append(args[2])
        return fused.chunk_loss(*args)

    monkeypatch.setattr(kernels, "reference", counted)
    hidden, matrix, _ = case.mine
    got, _ = fused_loss(
        hidden, Head(matrix), mix=case.mix, teacher=cached, inner=kernels.chunk_loss
    )
    want, _ = fused_loss(hidden, Head(matrix), mix=case.mix, teacher=cached)
    assert float(got) == float(want) and len(calls) == 1 and isinstance(calls[0], TopK)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind: str) -> None:
    case = Case(Mix(divergence=kind))
    case.mine[1], case.theirs = case.mine[1] * 1e4, (case.theirs[0], case.theirs[1] * 1e4)
    loss, grads, _ = case.run(kernels.chunk_loss)
    want, others, _ = case.run(fused.chunk_loss)
    assert loss == pytest.approx(want, rel=1e-5)
    assert all(grad.isfinite().all() for grad in grads)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(grads, others, strict=True))


def test_a_divergence_without_a_kernel_is_an_error() -> None:
    with pytest.raises(ValueError, match="the kernels have no divergence 'total_variation'"):
        Case(Mix(divergence="total_variation")).run(kernels.chunk_loss)


@pytest.mark.parametrize("kind", KINDS)
def test_low_temperature_and_ids_without_probability_on_both_sides(kind: str) -> None:
    """Public reports: NaN where an id underflows in both models, or at temperature 0.05."""
    case = Case(Mix(0.05, kind, 0.4))
    lq = (case.logits(*case.mine) / 0.05).log_softmax(-1)
    lp = (case.logits(*case.theirs, None) / 0.05).log_softmax(-1)
    assert (torch.maximum(lp, lq) < -104).any()  # below the smallest number in fp32
    loss, grads, _ = case.run(kernels.chunk_loss)
    want, others, _ = case.run(fused.chunk_loss)
    assert loss == pytest.approx(want, rel=1e-5) and loss > 0
    assert all(grad.isfinite().all() for grad in grads)
    assert all(distance(a, b) <= 1e-4 for a, b in zip(grads, others, strict=True))


@pytest.mark.parametrize("kind", ["forward_kl", "js"])
def test_a_common_offset_of_logits_changes_nothing(kind: str) -> None:
    """A public report: a log-sum-exp as one number rounds the offset into the loss."""
    case = Case(Mix(1.0, kind, 0.4, ce_weight=0.5), targets=True)
    case.mine[2] *= 0
    plain = case.run(kernels.chunk_loss)
    case.mine[2] += 1024.0
    moved, loop = case.run(kernels.chunk_loss), case.run(fused.chunk_loss)
    assert moved[0] == pytest.approx(plain[0], rel=2e-4)  # the logits themselves are rounded
    assert moved[0] == pytest.approx(loop[0], rel=1e-6)
    assert distance(moved[1][0], loop[1][0]) <= 2e-6


def test_inputs_stay_as_they_are_and_an_upstream_factor_counts() -> None:
    """Public reports: logits or states overwritten for a second loss, a factor that was lost."""
    case = Case(Mix(ce_weight=0.5), targets=True)
    states, weight = case.theirs
    before = [part.clone() for part in (*case.mine, states, weight)]
    hidden, matrix, bias = (part.requires_grad_() for part in case.mine)

    def loss() -> Tensor:
        head, teacher = Head(matrix, bias), (Head(weight), states)
        options = {"mix": case.mix, "teacher": teacher, "targets": case.targets}
        return fused_loss(hidden, head, inner=kernels.chunk_loss, **options)[0]  # type: ignore[arg-type]

    once = torch.autograd.grad(loss(), (hidden, matrix, bias))
    twice = torch.autograd.grad(0.25 * loss() + loss(), (hidden, matrix, bias))
    for one, two in zip(once, twice, strict=True):
        assert distance(two, 1.25 * one) <= 1e-6
    after = (hidden, matrix, bias, states, weight)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    beta=st.floats(0.05, 0.95),
    weights=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    cap=st.sampled_from([0.0, 2.0]),
    shared=st.integers(0, VOCAB - 2),
)
def test_any_mix_matches_the_definition(
    kind: str,
    temperature: float,
    beta: float,
    weights: tuple[float, float],
    cap: float,
    shared: int,
) -> None:
    mix = Mix(temperature, kind, beta, *weights, chunk=6)
    case = Case(mix, cap=cap, shared=shared, targets=True)
    (want, exact), (got, grads, _) = case.exact(), case.run(kernels.chunk_loss)
    rounding = 1e-7 * POSITIONS * temperature**2
    assert got == pytest.approx(want, rel=2e-6, abs=1e-6 + rounding)
    for mine, true in zip(grads, exact, strict=True):
        assert torch.linalg.norm(mine - true) <= 5e-6 * torch.linalg.norm(true) + 1e-6
