"""Scheduled sampling: a network that feeds on itself is shown the truth at first, and less and less of it."""

import math

import torch
from torch import Tensor, nn


class ScheduledSampling(nn.Module):
    r"""The truth, missing where the throw of a coin says that the network has to listen to itself.

    Each sequence throws a coin for each step. It is shown the truth with probability

    .. math:: s = d / (d + e^{k / d})

    after :math:`k` training batches, with the number of batches :math:`d` given as ``decay``. ``decay=math.inf`` always
    shows the truth, ``decay=0`` never does.

    Shapes: ``(B, T, ...)`` to the same; the coins are ``(B, T)``.
    Raises ValueError for a negative ``decay``.
    Source: Bengio et al. (2015), doi:10.48550/arXiv.1506.03099, "inverse sigmoid decay".

    >>> ScheduledSampling(math.inf)(torch.ones(1, 2, 1)).flatten().tolist()
    [1.0, 1.0]
    """

    def __init__(self, decay: float):
        super().__init__()
        if not decay >= 0:
            raise ValueError(f"decay must be a number of batches from 0, got {decay}")
        self.decay = decay
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @property
    def share(self) -> float:
        """The share of the truth that is shown in the next training batch."""
        if self.decay in (0, math.inf):
            return float(self.decay > 0)
        return 1 / (1 + math.exp(min(self.batches.item() / self.decay, 700.0)) / self.decay)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"

    def forward(self, truth: Tensor) -> Tensor:
        coin = torch.rand(*truth.shape[:2], *[1] * (truth.ndim - 2), device=truth.device)
        shown = truth.masked_fill(coin >= self.share, torch.nan)
        if self.training:
            self.batches += 1
        return shown


def check_truth(truth: Tensor, past: Tensor, horizon: int) -> None:
    """Raise ValueError unless the truth has the shape of the forecast of ``horizon`` steps."""
    due = (len(past), horizon, *past.shape[2:])
    if truth.shape != due:
        raise ValueError(f"truth must have the forecast's shape {due}, got {tuple(truth.shape)}")
