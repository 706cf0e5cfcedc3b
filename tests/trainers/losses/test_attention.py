"""The attention loss in bf16 against fp32, and labelled rows as flat indices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdharness.trainers.losses.attention import AttentionTape, Rows, attention_kl


@pytest.mark.parametrize("distance", [0.3, 0.1, 0.03])
def test_bf16_gradients_are_right_near_the_teacher(distance: float) -> None:
    g = torch.Generator().manual_seed(1)
    heads, groups, length, size = 4, 2, 24, 16
    shapes = ((2, heads, length, size), (2, groups, length, size))
    theirs = [torch.randn(shape, generator=g).bfloat16() for shape in shapes]
    ours = [
        (part.float() + distance * torch.randn(part.shape, generator=g)).bfloat16()
        for part in theirs
    ]
    mask = torch.arange(length) >= torch.tensor([[4], [10]])
    keys = torch.ones(2, length, dtype=torch.bool)

    def gradients(dtype: torch.dtype) -> tuple[list[torch.Tensor], float]:
        q, k = (part.detach().clone().to(dtype).requires_grad_() for part in ours)
        tape = AttentionTape({0: 0}, mask, keys, block=8)
        teacher = Rows(theirs[0].to(dtype), theirs[1].to(dtype), size**-0.5)
        loss = attention_kl(Rows(q, k, size**-0.5), teacher, tape)
        loss.backward()
        assert q.grad is not None and k.grad is not None
        return [q.grad.float(), k.grad.float()], float(loss.detach())

    want, exact = gradients(torch.float32)
    got, rounded = gradients(torch.bfloat16)
    assert rounded == pytest.approx(exact, rel=1e-4)
    for mine, true in zip(got, want, strict=True):
        assert torch.linalg.norm(mine - true) <= 0.02 * torch.linalg.norm(true)


@given(data=st.data(), samples=st.integers(1, 4), length=st.integers(1, 9))
def test_flat_rows_are_the_labelled_rows(data: st.DataObject, samples: int, length: int) -> None:
    cells = st.lists(st.booleans(), min_size=samples * length, max_size=samples * length)
    mask = torch.tensor(data.draw(cells)).view(samples, length)
    tape = AttentionTape({0: 0}, mask, torch.ones_like(mask))
    positions, counts = tape.flat
    assert positions.dtype == counts.dtype == torch.int32
    for sample, rows in enumerate(tape.rows):
        first, last = (int(counts[(sample + end) * length]) for end in (0, 1))
        assert positions[first:last].tolist() == rows.tolist()
        before = [int(counts[sample * length + at]) - first for at in range(length)]
        assert before == [int(mask[sample, :at].sum()) for at in range(length)]
