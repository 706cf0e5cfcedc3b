"""Token-adaptive loss reweighting (TALR): improbable tokens count for less in SFT's loss.

Lin et al., *SFT Doesn't Always Hurt General Capabilities*, arXiv 2509.20758. With ℓ_i = −log p_i,
the weights w on the simplex that minimise Σ w_i ℓ_i + τ Σ w_i log w_i are proportional to
p_i^(1/τ). As it is trained: w_i = max(p_i^(1/τ), w_min), without a gradient, and τ the median over
the step's rows of their mean token loss, so that it falls as the model learns
(docs/method.md#token-weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-6
"""τ of rows that the model predicts without any loss: p^(1/0) is not a number."""


@dataclass(frozen=True)
class TokenWeights:
    """Down-weight improbable tokens; none gets less than `floor` (w_min)."""

    floor: float = 0.01


def talr_weights(losses: Tensor, tau: Tensor, floor: float) -> Tensor:
    """Return max(p^(1/τ), floor) for each token.

    Args:
        losses: −log p of the tokens [n], in nats.
        tau: the step's temperature, see `batch_temperature`.
        floor: the smallest weight.
    """
    return torch.exp(-losses / tau).clamp(min=floor)


def row_means(losses: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean token loss of each row that has a labelled token; NaN if none has.

    Args:
        losses: of the labelled tokens [n], row by row.
        sizes: labelled tokens of each row.
    """
    means = [part.mean() for part in losses.split(list(sizes)) if part.numel()]
    return torch.stack(means) if means else losses.new_full((1,), torch.nan)


def batch_temperature(means: Tensor) -> Tensor:
    """Return τ: the median of the rows' mean losses, NaN left out.

    Of an even number of rows it is the mean of the middle two.
    """
    return torch.nanquantile(means, 0.5).clamp(min=LEAST_TEMPERATURE)
