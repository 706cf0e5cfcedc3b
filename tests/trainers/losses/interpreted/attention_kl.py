"""The attention kernels against the formula in float64, and against the reference loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdharness.harness.errors import ModelError
from kdharness.trainers.losses import attention as reference
from kdharness.trainers.losses import triton_attention as kernels
from kdharness.trainers.losses.attention import AttentionKL, AttentionTape, Rows

pytestmark = pytest.mark.usefixtures("small_tiles")


@dataclass
class Case:
    """Two models' attention: (student's, teacher's) heads, key heads, head sizes and settings."""

    heads: tuple[int, int] = (2, 2)
    groups: tuple[int, int] = (1, 2)
    sizes: tuple[int, int] = (16, 16)
    windows: tuple[int, int] = (0, 0)
    caps: tuple[float, float] = (0.0, 0.0)
    scales: tuple[float, float] = (0.3, 0.2)
    length: int = 37
    distance: float | None = None
    dtype: torch.dtype = torch.float32
    teacher_dtype: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)
        sides = []
        for heads, groups, size in zip(self.heads, self.groups, self.sizes, strict=True):
            # As models have them: heads within a position, seen as [B, H, T, d].
            shapes = ((2, self.length, n, size) for n in (heads, groups))
            sides.append([torch.randn(shape, generator=g).transpose(1, 2) for shape in shapes])
        ours, theirs = sides
        if self.distance is not None:
            ours = [t + self.distance * s for s, t in zip(ours, theirs, strict=True)]
        self.q, self.k = (part.to(self.dtype) for part in ours)
        self.qt, self.kt = (part.to(self.teacher_dtype or self.dtype) for part in theirs)
        self.keys = torch.ones(2, self.length, dtype=torch.bool)
        self.keys[0, : self.length // 5] = False  # padding on the left
        self.keys[1, self.length - self.length // 6 :] = False  # and on the right
        self.mask = (torch.rand(2, self.length, generator=g) < 0.6) & self.keys

    def rows(self) -> list[Tensor]:
        """Return the labelled positions of each sample."""
        return [row.nonzero().squeeze(-1) for row in self.mask]

    def run(self, kl: AttentionKL) -> tuple[float, Tensor, Tensor]:
        """Return the loss and the gradients of the student's queries and keys."""
        q, k = (part.detach().clone().requires_grad_() for part in (self.q, self.k))
        student = Rows(q, k, self.scales[0], self.windows[0], self.caps[0])
        teacher = Rows(self.qt, self.kt, self.scales[1], self.windows[1], self.caps[1])
        loss = kl(student, teacher, AttentionTape({0: 0}, self.rows(), self.keys, block=8))
        (3 * loss).backward()
        assert q.grad is not None and k.grad is not None
        assert q.grad.dtype == k.grad.dtype == self.dtype
        return float(loss.detach()), q.grad.double() / 3, k.grad.double() / 3

    def exact(self) -> tuple[float, Tensor, Tensor]:
        """Return the same by the definition, in float64 with autograd."""
        q, k = (part.detach().double().requires_grad_() for part in (self.q, self.k))
        window = min((w for w in self.windows if w), default=0)
        ours = self._attention(q, k, 0, window)
        theirs = self._attention(self.qt.double(), self.kt.double(), 1, window)
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        tiny = torch.finfo(torch.float64).tiny
        logs = theirs.clamp(min=tiny).log() - ours.clamp(min=tiny).log()
        loss = ((theirs * logs).sum(-1) * self.mask[:, None]).sum()
        loss.backward()
        assert q.grad is not None and k.grad is not None
        return float(loss.detach()), q.grad, k.grad

    def _attention(self, q: Tensor, k: Tensor, side: int, window: int) -> Tensor:
        scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2)
        scores = scores * self.scales[side]
        if cap := self.caps[side]:
            scores = cap * torch.tanh(scores / cap)
        at = torch.arange(self.length)
        see = at[None] <= at[:, None]
        if window:
            see &= at[None] > at[:, None] - window
        seen = (see & self.keys[:, None])[:, None]
        # Rows of padding see nothing; they are not labelled.
        return scores.masked_fill(~seen, -1e30).softmax(-1) * seen


def distance(got: Tensor, want: Tensor) -> float:
    return float(torch.linalg.norm(got - want) / torch.linalg.norm(want).clamp(min=1e-30))


CASES = {
    "grouped queries, sizes that are no powers of two": Case((4, 4), (2, 1), (24, 80)),
    "a window on one side, soft-caps": Case((2, 2), (1, 2), (96, 128), (0, 7), (5.0, 3.0)),
    "other windows on both sides": Case((2, 2), (2, 2), (64, 64), (9, 20)),
    "one head, one key head": Case((1, 1), (1, 1), (40, 16), length=16),
    "more heads in the teacher": Case((2, 3), (1, 3), (16, 24), length=21),
    "fewer heads in the teacher, window, soft-caps": Case(
        (3, 2), (3, 1), windows=(9, 0), caps=(4.0, 3.0), length=21
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_match_the_formula(name: str) -> None:
    case = CASES[name]
    want, got = case.exact(), case.run(kernels.attention_kl)
    assert got[0] == pytest.approx(want[0], rel=1e-6)
    for ours, exact in zip(got[1:], want[1:], strict=True):
        assert distance(ours, exact) <= 1e-6


def test_slopes_of_averaged_rows_in_slabs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 1), (1, 1), windows=(0, 11))
    whole = case.run(kernels.attention_kl)
    monkeypatch.setattr(kernels, "SLOPE_BYTES", 4 * 2 * 16 * case.length)
    parts = case.run(kernels.attention_kl)
    assert parts[0] == whole[0] and torch.equal(parts[1], whole[1])
    assert distance(parts[2], whole[2]) <= 1e-6


@pytest.mark.parametrize("name", ["far", "near", "averaged", "fp32 student"])
def test_bf16_is_as_close_to_the_formula_as_the_reference(name: str) -> None:
    half = torch.bfloat16
    case = {
        "far": Case((2, 2), (1, 1), dtype=half),
        "near": Case((2, 2), (1, 1), dtype=half, distance=0.03),
        "averaged": Case((2, 1), (1, 1), dtype=half, length=21),
        # What a training in mixed precision records.
        "fp32 student": Case((2, 2), (1, 1), teacher_dtype=half),
    }[name]
    want = case.exact()
    got, loop = case.run(kernels.attention_kl), case.run(reference.attention_kl)
    rows = int(case.mask.sum()) * case.heads[0]
    assert got[0] == pytest.approx(want[0], rel=1e-6, abs=2e-7 * rows)
    for ours, other, exact in zip(got[1:], loop[1:], want[1:], strict=True):
        assert distance(ours, exact) <= max(1.2 * distance(other, exact), 1e-6)


def test_equal_models_have_no_loss_and_no_gradient() -> None:
    case = Case((2, 2), (1, 1), scales=(0.3, 0.3), distance=0.0, caps=(4.0, 4.0))
    loss, grad_q, grad_k = case.run(kernels.attention_kl)
    assert loss == grad_q.abs().max() == grad_k.abs().max() == 0


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_shape_matches_the_formula(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    groups = (draw(1, 2), draw(1, 2))
    same = data.draw(st.booleans())
    heads = (groups[0] * groups[1],) * 2 if same else (groups[0] * draw(1, 2), groups[1])
    case = Case(
        heads,
        groups,
        (draw(3, 20), draw(3, 20)),
        (draw(0, 5), draw(0, 30)),
        data.draw(st.sampled_from([(0.0, 0.0), (3.0, 0.0), (0.0, 2.0)])),
        length=draw(2, 20),
        seed=draw(0, 99),
    )
    case.mask &= torch.tensor(data.draw(st.lists(st.booleans(), min_size=2, max_size=2)))[:, None]
    want, got = case.exact(), case.run(kernels.attention_kl)
    assert got[0] == pytest.approx(want[0], rel=2e-6, abs=2e-6)
    for ours, exact in zip(got[1:], want[1:], strict=True):
        assert torch.linalg.norm(ours - exact) <= 3e-6 * torch.linalg.norm(exact) + 1e-6
        assert ours.isfinite().all()
    assert not got[1][~case.mask[:, None].expand(got[1].shape[:3])].any()


class Ops(TorchDispatchMode):
    """Counts calls of torch by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        """Return how often the host needs a value from the device."""
        return sum(name in ("_local_scalar_dense", "nonzero", "is_nonzero") for name in self.names)


def test_kernels_are_launched_three_times_and_never_wait(launches: list[str]) -> None:
    case = Case(length=12)
    tape = AttentionTape({0: 0}, case.rows(), case.keys)
    with Ops() as counted:
        q = case.q.clone().requires_grad_()
        kernels.attention_kl(Rows(q, case.k, 0.3), Rows(case.qt, case.kt, 0.2), tape).backward()
    with Ops() as loop:
        case.run(reference.attention_kl)
    assert launches == ["row_kl", "query_gradient", "key_gradient"]
    assert counted.waits() == 0 and loop.waits() > 0


def test_unknown_number_format_is_refused() -> None:
    case = Case(dtype=torch.float64)
    with pytest.raises(ModelError, match=r"kernels: triton does not support queries in .*float64"):
        case.run(kernels.attention_kl)
