"""Drifting: a series whose rule changes slowly, so that what was learned in training goes out of date."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn


class Drifting:
    r"""A first-order autoregression whose mean and coefficient move slowly, along known straight lines.

    .. math:: x_t = \mu_t + y_t, \qquad y_t = \phi_t y_{t-1} + \sqrt{1 - \phi_t^2}\, \varepsilon_t,
       \qquad \varepsilon_t \sim N(0, 1)

    :math:`\mu_t` goes from ``mean[0]`` to ``mean[1]`` and :math:`\phi_t` from ``coefficient[0]`` to
    ``coefficient[1]`` in ``drift_steps`` steps, and then both stay. The noise keeps the variance of :math:`y_t` at
    exactly 1 at every step, whatever the coefficient. With the correlation
    :math:`\rho_{t,h} = \prod_{i=1}^h \phi_{t+i}`, no forecaster has a smaller expected squared error at origin
    :math:`t` than

    .. math:: \mathrm{MSE}^*(t, h) = 1 - \rho_{t,h}^2,

    and a forecaster with a fixed mean :math:`\mu` and coefficient :math:`\phi` has

    .. math:: \mathrm{MSE}(t, h) = \bigl(\mu_{t+h} - \mu - \phi^h (\mu_t - \mu)\bigr)^2
       + 1 - 2 \phi^h \rho_{t,h} + \phi^{2h}.

    Units: ``drift_steps`` in steps, values without unit.
    Raises ValueError for a coefficient that is not between -1 and 1 or fewer than 1 drift step.
    Source: the two errors follow from the covariance :math:`\rho` in a line; Clements & Hendry (1998),
    doi:10.1017/CBO9780511599286, on forecasts whose parameters have shifted.

    >>> world = Drifting(drift_steps=1000)
    >>> stale = world.training_fit_rmse(3, train=500, origins=[100, 900])
    >>> best = world.optimal_rmse(3, origins=[100, 900])
    >>> (stale / best).round(2)[:, 0].tolist()
    [1.02, 1.14]
    """

    def __init__(
        self,
        *,
        mean: tuple[float, float] = (0.0, 2.0),
        coefficient: tuple[float, float] = (0.9, 0.3),
        drift_steps: int = 2000,
    ):
        if max(map(abs, coefficient)) >= 1 or drift_steps < 1:
            raise ValueError(
                f"needs coefficient between -1 and 1 and drift_steps >= 1, got {coefficient} and {drift_steps}"
            )
        self.mean, self.coefficient, self.drift_steps = mean, coefficient, drift_steps

    def mean_at(self, step: np.ndarray | int) -> np.ndarray:
        r""":math:`\mu_t` at any steps."""
        return np.interp(step, (0, self.drift_steps), self.mean)

    def coefficient_at(self, step: np.ndarray | int) -> np.ndarray:
        r""":math:`\phi_t` at any steps."""
        return np.interp(step, (0, self.drift_steps), self.coefficient)

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """A run of the world from step 0, ``(time, channel)``."""
        epsilon = np.random.default_rng(seed).standard_normal(steps)
        phi = self.coefficient_at(np.arange(steps))
        forcing = np.sqrt(1 - phi**2) * epsilon
        forcing[:1] = epsilon[:1]  # variance 1 from the start
        y = [0.0]
        for own_phi, own_forcing in zip(phi, forcing, strict=True):
            y.append(own_phi * y[-1] + own_forcing)
        return xr.DataArray(
            (self.mean_at(np.arange(steps)) + y[1:]).astype(np.float32)[:, None],
            dims=("time", "channel"),
            coords={"time": np.arange(steps), "channel": ["x"]},
            attrs={"units": "1", "long_name": "drifting world", "licence": "CC0", "source": "simulated"},
        )

    def correlation(self, horizon: int, *, origins: Sequence[int]) -> np.ndarray:
        r""":math:`\rho_{t,h}` of :math:`y_t` and :math:`y_{t+h}`, ``(origins, horizon)``."""
        return self.coefficient_at(_ahead(origins, horizon)).cumprod(1)

    def optimal_rmse(self, horizon: int, *, origins: Sequence[int]) -> np.ndarray:
        """The smallest RMSE that any forecaster can reach on average from each origin, ``(origins, horizon)``.

        An origin is the last step seen, counted from 0. Over all origins take the root of the mean square.
        """
        return np.sqrt(1 - self.correlation(horizon, origins=origins) ** 2)

    def fixed_rmse(self, horizon: int, *, mean: float, coefficient: float, origins: Sequence[int]) -> np.ndarray:
        """The expected RMSE of a forecaster with a mean and coefficient that stay, ``(origins, horizon)``."""
        ahead = _ahead(origins, horizon)
        kept = coefficient ** np.arange(1, horizon + 1)
        bias = self.mean_at(ahead) - mean - kept * (self.mean_at(origins)[:, None] - mean)
        return np.sqrt(bias**2 + 1 - 2 * kept * self.correlation(horizon, origins=origins) + kept**2)

    def training_fit(self, train: int) -> tuple[float, float]:
        r"""The mean and coefficient that least squares finds in the first ``train`` steps, where sums are expectations.

        .. math:: \bar\mu = \frac1n \sum_t \mu_t, \qquad \bar\phi =
           \frac{\sum_t \phi_t + (\mu_t - \bar\mu)(\mu_{t-1} - \bar\mu)}{\sum_t 1 + (\mu_{t-1} - \bar\mu)^2}

        The drift of the mean inside the training part passes for memory: it raises the coefficient.
        """
        if train < 2:
            raise ValueError(f"train must be at least 2 steps, got {train}")
        step = np.arange(train)
        mean = self.mean_at(step).mean()
        away = self.mean_at(step) - mean
        shared = (self.coefficient_at(step[1:]) + away[1:] * away[:-1]).sum()
        return float(mean), float(shared / (1 + away[:-1] ** 2).sum())

    def training_fit_rmse(self, horizon: int, *, train: int, origins: Sequence[int]) -> np.ndarray:
        """The expected RMSE of the forecaster that has `training_fit` for ever, ``(origins, horizon)``."""
        mean, coefficient = self.training_fit(train)
        return self.fixed_rmse(horizon, mean=mean, coefficient=coefficient, origins=origins)

    def optimal_forecaster(self, horizon: int, *, origins: Sequence[int]) -> nn.Module:
        """The conditional mean itself, for a batch of windows whose last steps are ``origins``.

        A window does not say when it is, so the forecaster is told: one origin for each window, in order, such as
        ``windows.split(...).test.origins``.
        """
        return OptimalDrifting(self, horizon, origins)


class OptimalDrifting(nn.Module):
    r"""The best forecaster of a `Drifting` world: :math:`\mu_{t+h} + \rho_{t,h} (x_t - \mu_t)`.

    Shapes: ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, for the ``B`` origins it was made with.
    Raises ValueError for another number of windows.
    """

    def __init__(self, world: Drifting, horizon: int, origins: Sequence[int]):
        super().__init__()
        self.register_buffer("mean_now", torch.tensor(world.mean_at(origins)))  # (B,)
        self.register_buffer("mean_ahead", torch.tensor(world.mean_at(_ahead(origins, horizon))))  # (B, horizon)
        self.register_buffer("correlation", torch.tensor(world.correlation(horizon, origins=origins)))

    def forward(self, past: Tensor) -> Tensor:
        if len(past) != len(self.mean_now):
            raise ValueError(f"made for {len(self.mean_now)} origins, got a past of {len(past)} windows")
        one = [1] * (past.ndim - 2)  # channel and space
        anomaly = past[:, -1:] - self.mean_now.reshape(-1, 1, *one)
        shape = *self.correlation.shape, *one
        return (self.mean_ahead.reshape(shape) + self.correlation.reshape(shape) * anomaly).to(past.dtype)


def _ahead(origins: Sequence[int], horizon: int) -> np.ndarray:
    """The steps that are forecast, ``(origins, horizon)``."""
    return np.asarray(origins)[:, None] + np.arange(1, horizon + 1)
