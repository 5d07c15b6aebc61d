"""Scaling: zero mean and unit spread, fitted on the training part and on nothing else."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from stlib._forward import asks_for
from stlib.data.windows import Batch, Windows


class Scaler(nn.Module):
    r"""Standardise a field: :math:`z = (x - \mu) / \sigma`, with both estimated on the training part.

    ``per="channel"`` has one :math:`\mu` and :math:`\sigma` for each channel, over all its places; ``per="place"`` one
    for each channel and place. NaN stays NaN and is left out of both estimates; a spread of zero counts as one.

    Shapes: any ``(..., C, *S)`` with the channels and places of the field it was fitted on.
    Raises ValueError when fitted on a validation or test part, which would leak the future into the forecast.

    >>> from stlib.data import datasets, windows
    >>> train = windows.split(datasets.load("storm"), past=4, horizon=4).train
    >>> scaled = Scaler().fit(train).windows(train)
    >>> round(scaled.series.nanmean().item(), 3)
    0.0
    """

    def __init__(self, *, per: str = "channel"):
        super().__init__()
        if per not in ("channel", "place"):
            raise ValueError(f'per must be "channel" or "place", got {per!r}')
        self.per = per
        self.register_buffer("mean", UninitializedBuffer())
        self.register_buffer("spread", UninitializedBuffer())

    def fit(self, train: Windows) -> "Scaler":
        if train.part != "train":
            raise ValueError(
                f"a scaler is fitted on the training part only, got the {train.part} part: that would leak"
            )
        x = train.series.double()  # (T, C, *S)
        dims = (0,) if self.per == "place" else (0, *range(2, x.ndim))
        mean = x.nanmean(dims, keepdim=True)
        spread = (x - mean).square().nanmean(dims, keepdim=True).sqrt()
        spread = torch.where(spread > 1e-12 * mean.abs(), spread, 1.0)
        self.mean, self.spread = mean[0].to(train.series.dtype), spread[0].to(train.series.dtype)  # (C, *S) or (C, 1..)
        return self

    def forward(self, x: Tensor) -> Tensor:
        self._check_fitted()
        return (x - self.mean) / self.spread

    def inverse(self, z: Tensor) -> Tensor:
        """Back to physical units: :math:`x = \\mu + \\sigma z`."""
        self._check_fitted()
        return self.mean + self.spread * z

    def windows(self, windows: Windows) -> Windows:
        """The same windows in scaled units: what a network is trained on."""
        return windows.map(self)

    def _check_fitted(self) -> None:
        if isinstance(self.mean, UninitializedBuffer):
            raise ValueError("this scaler is not fitted yet: call fit(parts.train) first")


class Scaled(nn.Module):
    """A forecaster that works in scaled units, wrapped so that it takes and returns physical ones.

    In training it hands the ``truth``, scaled, to a forecaster that asks for it.

    Shapes: ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, both in the units of the data.

    >>> from stlib.models.linear import NLinear
    >>> forecaster = Scaled(NLinear(past=4, horizon=2), Scaler())
    """

    def __init__(self, model: nn.Module, scaler: Scaler):
        super().__init__()
        self.model, self.scaler = model, scaler

    def forward(
        self,
        past: Tensor,
        calendar: Tensor | None = None,
        regressors: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> Tensor:
        inputs = Batch(self.scaler(past), past, calendar, regressors).inputs(self.model)
        told = {} if truth is None or not asks_for(self.model, "truth") else {"truth": self.scaler(truth)}
        return self.scaler.inverse(self.model(*inputs, **told))
