"""Advection and diffusion on a grid: a linear world whose best possible forecast is known in closed form."""

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn


class AdvectionDiffusion:
    r"""A field on a ring in both directions that drifts, spreads, fades and is stirred by random forcing.

    .. math:: x_{t+1} = G x_t + \varepsilon_t, \qquad \varepsilon_t \sim N(0, Q)

    One step of :math:`G` moves the field by ``velocity``, smooths it and damps it. On a periodic grid :math:`G` and
    :math:`Q` are diagonal in Fourier space, so each wave :math:`k` is an AR(1) process with factor
    :math:`g_k = e^{-d - \nu |k|^2 - i k \cdot v}` and forcing variance :math:`q_k \propto e^{-\ell^2 |k|^2}`.
    The best forecast is :math:`G^h x_t`; no forecaster, however large, has a smaller expected squared error than

    .. math:: \mathrm{MSE}^*(h) = \sum_k q_k \frac{1 - |g_k|^{2h}}{1 - |g_k|^2}.

    The forcing is scaled so that every cell has mean 0 and variance 1: in the long run climatology's RMSE is 1.

    Units: ``velocity`` :math:`v` (rows, columns) in cells per step, ``diffusion`` :math:`\nu` in cells² per step,
    ``damping`` :math:`d` per step, ``forcing_length`` :math:`\ell` in cells.
    Raises ValueError for a grid of fewer than 4 cells a side, negative diffusion or forcing length, or damping <= 0.
    Source: the AR(1) spectrum is standard, e.g. Lindgren, Rue & Lindström (2011), doi:10.1111/j.1467-9868.2011.00777.x,
    for fields given by stochastic partial differential equations; the closed forms are derived from it in two lines.

    >>> world = AdvectionDiffusion(size=16)
    >>> field = world.simulate(100, seed=0)
    >>> bool(world.optimal_rmse(3)[0] < world.persistence_rmse(3)[0])
    True
    """

    def __init__(
        self,
        *,
        size: int = 32,
        velocity: tuple[float, float] = (0.4, 0.8),
        diffusion: float = 0.05,
        damping: float = 0.03,
        forcing_length: float = 1.5,
    ):
        if size < 4 or diffusion < 0 or forcing_length < 0 or damping <= 0:
            raise ValueError(
                "needs size >= 4, diffusion >= 0, forcing_length >= 0 and damping > 0, "
                f"got {size}, {diffusion}, {forcing_length} and {damping}"
            )
        self.size = size
        k = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)
        rows, columns = k[:, None], k[None, :]
        squared = rows**2 + columns**2
        drift = rows * velocity[0] + columns * velocity[1]
        factor = torch.exp(-damping - diffusion * squared) * torch.polar(torch.ones_like(drift), -drift)
        # A real field needs a real kernel; only the shortest waves, whose direction is ambiguous, are changed by this.
        self.factor = torch.fft.fft2(torch.fft.ifft2(factor).real)
        shape = torch.exp(-(forcing_length**2) * squared)
        spectrum = shape / (1 - self.factor.abs() ** 2)
        self.forcing_variance = shape / spectrum.sum()  # q_k, which sums to the variance put into a cell at each step
        self.variance = spectrum / spectrum.sum()  # of each wave; sums to 1

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """A run of the world that starts in its steady state, ``(time, channel, y, x)``."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(steps, self.size, self.size, dtype=torch.float64, generator=generator)
        waves = torch.fft.fft2(noise, norm="ortho") * self.size  # white noise: each wave has variance size**2
        state = waves[0] * self.variance.sqrt()
        waves = waves * self.forcing_variance.sqrt()
        states = [state]
        for forcing in waves[1:]:
            states.append(self.factor * states[-1] + forcing)
        values = torch.fft.ifft2(torch.stack(states)).real * self.size
        return xr.DataArray(
            values[:, None].float().numpy(),
            dims=("time", "channel", "y", "x"),
            coords={"time": np.arange(steps), "channel": ["x"], "y": np.arange(self.size), "x": np.arange(self.size)},
            attrs={"units": "1", "long_name": "advection-diffusion world", "licence": "CC0", "source": "simulated"},
        )

    def optimal_rmse(self, horizon: int) -> np.ndarray:
        """The smallest RMSE that any forecaster can reach on average, at leads 1 to ``horizon``."""
        squared, lead = self.factor.abs() ** 2, torch.arange(1, horizon + 1)[:, None, None]
        lost = self.forcing_variance * (1 - squared**lead) / (1 - squared)
        return lost.sum((1, 2)).sqrt().numpy()

    def persistence_rmse(self, horizon: int) -> np.ndarray:
        r"""The expected RMSE of "nothing changes": :math:`\sqrt{2 \sum_k s_k (1 - \mathrm{Re}\,g_k^h)}`.

        :math:`s_k = q_k / (1 - |g_k|^2)` is the variance of wave k.
        """
        lead = torch.arange(1, horizon + 1)[:, None, None]
        return (2 * self.variance * (1 - (self.factor**lead).real)).sum((1, 2)).sqrt().numpy()

    def optimal_forecaster(self, horizon: int) -> nn.Module:
        """The forecaster :math:`G^h x_t` itself."""
        return OptimalAdvection(self.factor, horizon)


class OptimalAdvection(nn.Module):
    """The best forecaster of an `AdvectionDiffusion` world: ``(B, T, C, H, W)`` to ``(B, horizon, C, H, W)``."""

    def __init__(self, factor: Tensor, horizon: int):
        super().__init__()
        powers = torch.stack([factor**lead for lead in range(1, horizon + 1)])
        self.register_buffer("powers", torch.view_as_real(powers))  # (horizon, H, W, 2)

    def forward(self, past: Tensor) -> Tensor:
        waves = torch.fft.fft2(past[:, -1:].to(self.powers.dtype))  # (B, 1, C, H, W)
        moved = waves * torch.view_as_complex(self.powers)[:, None]
        return torch.fft.ifft2(moved).real.to(past.dtype)
