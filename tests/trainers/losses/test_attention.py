"""The attention loss in bf16 against fp32 on the same queries and keys."""

from __future__ import annotations

import pytest
import torch

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
    rows = [torch.arange(4, length), torch.arange(10, length)]
    keys = torch.ones(2, length, dtype=torch.bool)

    def gradients(dtype: torch.dtype) -> tuple[list[torch.Tensor], float]:
        q, k = (part.detach().clone().to(dtype).requires_grad_() for part in ours)
        tape = AttentionTape({0: 0}, rows, keys, block=8)
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
