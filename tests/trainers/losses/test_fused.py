"""The fused loss against plain formulas written here, in float64, with autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.models.lm_head import Head, apply_head
from kdharness.trainers.losses.divergences import divergence_rows
from kdharness.trainers.losses.fused import Mix, fused_loss, labelled_positions
from kdharness.trainers.losses.top_k import TopK, share_tail, top_k

KINDS = ["forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl"]


def plain_divergence(p: torch.Tensor, q: torch.Tensor, kind: str, beta: float) -> torch.Tensor:
    """Return the divergence by its definition, on probabilities."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a.log() - b.log())).sum()

    m = beta * p + (1 - beta) * q
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "js": lambda: beta * kl(p, m) + (1 - beta) * kl(q, m),
        "skew_kl": lambda: kl(p, m),
        "skew_reverse_kl": lambda: kl(q, m),
    }[kind]()


def plain_logits(x: torch.Tensor, w: torch.Tensor, b: Any, scale: float, cap: float) -> Any:
    z = x @ w.T
    z = z if b is None else z + b
    z = z * scale
    return cap * torch.tanh(z / cap) if cap else z


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, 0.0), (0.6, 4.0)])
@pytest.mark.parametrize("ce_weight", [0.0, 0.3])
def test_loss_and_gradients_match_the_reference_formula(
    kind: str, temperature: float, scale: float, cap: float, ce_weight: float
) -> None:
    g = torch.Generator().manual_seed(7)
    n, h, ht, v = 23, 12, 20, 41

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    hidden, w, b = (rand(*shape).requires_grad_() for shape in ((n, h), (v, h), (v,)))
    teacher_hidden, wt = rand(n, ht), rand(v, ht)
    targets = torch.randint(0, v, (n,), generator=g)
    beta = 0.3
    zs = plain_logits(hidden, w, b, scale, cap)
    zt = plain_logits(teacher_hidden, wt, None, scale, cap)
    p, q = (zt / temperature).softmax(-1), (zs / temperature).softmax(-1)
    kl = temperature**2 * plain_divergence(p, q, kind, beta)
    ce = F.cross_entropy(zs, targets, reduction="sum")
    want = 0.7 * kl + ce_weight * ce
    want_grads = torch.autograd.grad(want, (hidden, w, b))

    mix = Mix(temperature, kind, beta, 0.7, ce_weight, chunk=5)
    got, parts = fused_loss(
        hidden,
        Head(w, b, scale, cap),
        mix=mix,
        teacher=(Head(wt, None, scale, cap), teacher_hidden),
        targets=targets,
    )
    grads = torch.autograd.grad(3 * got, (hidden, w, b))
    assert float(got) == pytest.approx(float(want), rel=2e-6)
    assert parts.kl is not None and float(parts.kl) == pytest.approx(float(kl), rel=2e-6)
    assert parts.ce is not None and float(parts.ce) == pytest.approx(float(ce), rel=2e-6)
    for ours, theirs in zip(grads, want_grads, strict=True):
        assert torch.linalg.norm(ours - 3 * theirs) <= 5e-6 * torch.linalg.norm(3 * theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_loss_matches_the_divergence_over_k_plus_one_buckets(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    n, h, v, k, beta, t = 11, 8, 30, 6, 0.4, 1.5
    hidden = torch.randn(n, h, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(v, h, generator=g, dtype=torch.float64, requires_grad=True)
    zt = torch.randn(n, v, generator=g, dtype=torch.float64)
    p = (zt / t).softmax(-1)
    best = p.topk(k, -1)
    p_buckets = torch.cat([best.values, 1 - best.values.sum(-1, keepdim=True)], -1)
    q = ((hidden @ w.T) / t).softmax(-1)
    q_top = q.gather(-1, best.indices)
    q_buckets = torch.cat([q_top, 1 - q_top.sum(-1, keepdim=True)], -1)
    want = t * t * plain_divergence(p_buckets, q_buckets, kind, beta)
    want_grads = torch.autograd.grad(want, (hidden, w))
    got, _ = fused_loss(
        hidden,
        Head(w),
        mix=Mix(t, kind, beta, chunk=4),
        teacher=TopK(best.indices, best.values.log().float()),
    )
    grads = torch.autograd.grad(got, (hidden, w))
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    for ours, theirs in zip(grads, want_grads, strict=True):
        assert torch.linalg.norm(ours - theirs) <= 2e-5 * torch.linalg.norm(theirs)


def test_full_vocabulary_cache_matches_the_online_loss() -> None:
    g = torch.Generator().manual_seed(5)
    head = Head(torch.randn(17, 6, generator=g))
    teacher_hidden, hidden = torch.randn(9, 6, generator=g), torch.randn(9, 6, generator=g)
    cached = top_k(head, teacher_hidden, k=17, temperature=2.0, chunk=4, vocab=0)
    student = Head(torch.randn(17, 6, generator=g))
    online, _ = fused_loss(hidden, student, mix=Mix(2.0), teacher=(head, teacher_hidden))
    offline, _ = fused_loss(hidden, student, mix=Mix(2.0), teacher=cached)
    assert float(offline) == pytest.approx(float(online), rel=1e-5)


def sampled_case(
    distance: float, scale: float = 1.0
) -> tuple[Head, Head, torch.Tensor, torch.Tensor, torch.Generator]:
    """Return (teacher's head, student's head, teacher's states, student's states, generator)."""
    g = torch.Generator().manual_seed(2)
    n, v, h = 40, 300, 6
    head = Head(scale * torch.randn(v, h, generator=g))
    theirs = torch.randn(n, h, generator=g)
    ours = (theirs + distance * torch.randn(n, h, generator=g)).requires_grad_()
    student = Head(head.weight + distance * torch.randn(v, h, generator=g))
    return head, student, theirs, ours, g


@pytest.mark.parametrize("distance", [1.0, 0.1])
@pytest.mark.parametrize("older", [False, True])
def test_sampled_tail_gives_an_unbiased_loss_and_gradient(older: bool, distance: float) -> None:
    """The mean over many draws matches the exact loss and gradient."""
    head, student, theirs, ours, g = sampled_case(distance)
    want, _ = fused_loss(ours, student, mix=Mix(1.5), teacher=(head, theirs))
    (want_grad,) = torch.autograd.grad(want, ours)
    values, grads = [], []
    for _ in range(200):
        cached = top_k(head, theirs, 64, 1.5, 16, 0, sampled=32, generator=g)
        assert (cached.logp <= 0).all() and cached.drawn == 32
        cached = share_tail(cached) if older else cached
        loss, _ = fused_loss(ours, student, mix=Mix(1.5), teacher=cached)
        values.append(float(loss))
        grads.append(torch.autograd.grad(loss, ours)[0])
    mean = sum(values) / len(values)
    spread = (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5
    assert abs(mean - float(want)) < 4 * spread / len(values) ** 0.5 + 1e-5 * float(want)
    error, noise = torch.stack(grads).mean(0) - want_grad, torch.stack(grads).std(0)
    assert error.norm() < 2 * noise.norm() / len(values) ** 0.5 + 1e-5 * want_grad.norm()


@pytest.mark.parametrize(("distance", "share"), [(1.0, 1.05), (0.3, 0.95), (0.1, 0.5), (0.03, 0.2)])
def test_noise_of_a_draw_shrinks_near_the_teacher(distance: float, share: float) -> None:
    """The student's own tail is the control variate, as far as it resembles the teacher's."""
    head, student, theirs, ours, g = sampled_case(distance)
    want, _ = fused_loss(ours, student, mix=Mix(), teacher=(head, theirs))
    (want_grad,) = torch.autograd.grad(want, ours)

    def error(cached: TopK) -> float:
        loss, _ = fused_loss(ours, student, mix=Mix(), teacher=cached)
        grad = torch.autograd.grad(loss, ours)[0] - want_grad
        return float(grad.norm() / want_grad.norm())

    draws = [top_k(head, theirs, 64, 1.0, 16, 0, sampled=32, generator=g) for _ in range(5)]
    older = [error(share_tail(cached)) for cached in draws]
    assert sum(map(error, draws)) < share * sum(older)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sampled_tail_is_finite_without_a_tail(scale: float) -> None:
    """The kept tokens may hold all the mass, of either model."""
    head, student, theirs, ours, g = sampled_case(0.5, scale)
    cached = top_k(head, theirs, 64, 1.0, 16, 0, sampled=32, generator=g)
    for student_head in (student, Head(30 * student.weight)):
        loss, _ = fused_loss(ours, student_head, mix=Mix(), teacher=cached)
        (grad,) = torch.autograd.grad(loss, ours)
        assert torch.isfinite(loss) and torch.isfinite(grad).all()
        want, _ = fused_loss(ours, student_head, mix=Mix(), teacher=(head, theirs))
        if scale == 30.0:
            assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=0.02)


def test_frozen_head_gets_no_gradient_but_hidden_states_do() -> None:
    weight, hidden = torch.randn(10, 4), torch.randn(3, 4, requires_grad=True)
    loss, _ = fused_loss(
        hidden, Head(weight), mix=Mix(kl_weight=0, ce_weight=1), targets=torch.tensor([1, 2, 3])
    )
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_padded_vocabularies_are_compared_on_shared_ids_only() -> None:
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 4, generator=g, requires_grad=True)
    ws = torch.randn(12, 4, generator=g, requires_grad=True)
    wt, ht = torch.randn(16, 4, generator=g), torch.randn(5, 4, generator=g)
    got, _ = fused_loss(hidden, Head(ws, vocab=10), mix=Mix(), teacher=(Head(wt, vocab=10), ht))
    p, q = (ht @ wt[:10].T).softmax(-1), (hidden @ ws[:10].T).softmax(-1)
    want = (p * (p.log() - q.log())).sum()
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    mine = torch.autograd.grad(got, ws)[0]
    theirs = torch.autograd.grad(want, ws)[0]
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert mine[10:].abs().sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    beta=st.floats(0.05, 0.95),
    size=st.floats(0.1, 20.0),
)
def test_divergences_are_positive_and_zero_only_for_equal_distributions(
    seed: int, kind: str, beta: float, size: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    a = torch.log_softmax(size * torch.randn(4, 9, generator=g, dtype=torch.float64), -1)
    b = torch.log_softmax(size * torch.randn(4, 9, generator=g, dtype=torch.float64), -1)
    value, _ = divergence_rows(a, b, kind, beta)
    same, slope = divergence_rows(a, a, kind, beta)
    # Positive wherever the two differ (Pinsker's inequality, for every one of them).
    distance = (a.exp() - b.exp()).abs().sum(-1)
    assert (value >= 0.4 * min(beta, 1 - beta) ** 2 * distance**2).all()
    assert same.abs().max() < 1e-9
    q = a.exp()
    assert (slope - q * slope.sum(-1, keepdim=True)).abs().max() < 1e-9


def test_labels_are_shifted_by_one() -> None:
    """The position before the first answer token predicts it; the last position has no target."""
    labels = torch.tensor([[-100, -100, 7, 8, 9], [-100, 5, -100, 6, -100]])
    assert labelled_positions(labels).tolist() == [
        [False, True, True, True, False],
        [True, False, True, False, False],
    ]


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    head, teacher = Head(torch.tensor([[1.0], [-1.0]])), Head(torch.tensor([[-1.0], [1.0]]))
    for kind in KINDS:
        loss, _ = fused_loss(
            hidden, head, mix=Mix(divergence=kind), teacher=(teacher, hidden.detach())
        )
        (grad,) = torch.autograd.grad(loss, hidden)
        assert math.isfinite(float(loss))
        assert torch.isfinite(grad).all()


def test_apply_head_applies_bias_scale_and_softcap() -> None:
    head = Head(torch.eye(2), torch.tensor([1.0, 0.0]), scale=2.0, softcap=3.0)
    got = apply_head(head, torch.tensor([[1.0, -1.0]]))
    assert got.tolist()[0] == pytest.approx([3 * math.tanh(4 / 3), 3 * math.tanh(-2 / 3)])


# ---------------------------------------------------------------- bf16


@pytest.mark.parametrize("kl", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_bf16_gradients_are_right_near_the_teacher(kl: float, trained: str) -> None:
    """Close to the teacher the gradient is a small difference: logits rounded to bf16 lose it."""
    g = torch.Generator().manual_seed(4)
    n, h, v = 64, 128, 800
    weight = (torch.randn(v, h, generator=g) / h**0.5 * 2).bfloat16()
    theirs = torch.randn(n, h, generator=g).bfloat16()
    # A distance that gives about this divergence: KL grows with its square.
    ours = (theirs.float() + 0.7 * kl**0.5 * torch.randn(n, h, generator=g)).bfloat16()

    def gradient(dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        states, matrix = (
            part.detach().clone().to(dtype).requires_grad_() for part in (ours, weight)
        )
        teacher = (Head(weight.to(dtype)), theirs.to(dtype))
        loss, _ = fused_loss(states, Head(matrix), mix=Mix(chunk=16), teacher=teacher)
        loss.backward()
        grad = states.grad if trained == "hidden" else matrix.grad
        assert grad is not None
        return grad.float(), float(loss.detach()) / n

    want, exact = gradient(torch.float32)
    got, rounded = gradient(torch.bfloat16)
    assert 0.3 * kl < exact < 3 * kl
    assert rounded == pytest.approx(exact, rel=1e-3)
    assert torch.linalg.norm(got - want) <= 0.02 * torch.linalg.norm(want)
