"""Lorenz-96: a ring of weather that is fully determined and yet cannot be forecast far ahead."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

SPIN_UP = 50.0  # time units, after which a random start is on the attractor


class Lorenz96:
    r"""Variables on a ring that advect each other, are damped, and are forced: small errors double, again and again.

    .. math:: \frac{dx_j}{dt} = (x_{j+1} - x_{j-2})\, x_{j-1} - d\, x_j + F

    integrated with the fourth-order Runge-Kutta method at a fixed step. Nothing is random after the start, so
    **the best possible error is 0** for a forecaster that knows the equation and the state exactly. It hangs on
    "exactly": with the default numbers the leading Lyapunov exponent is 1.68 per time unit, measured by
    `lyapunov_exponent`, so a small error doubles every 0.41 time units, about 8 steps. The honest reference for a model
    that sees the state with an error is `perfect_model_rmse`. With rounding to float32 even the perfect model loses the
    default world after about 200 steps: runs are in float64, and should be kept so where that matters.

    With the default numbers a variable has mean 2.34 and standard deviation 3.64: climatology's RMSE.

    Units: ``step`` in time units (a unit is called 5 days, so the default step is 6 hours), values without unit. The
    ``time`` of a run counts steps.
    Raises ValueError for fewer than 4 variables, a step outside (0, 0.1], where the method is no longer accurate,
    negative damping, or forcing without damping, which has no bound.
    Source: Lorenz & Emanuel (1998), doi:10.1175/1520-0469(1998)055<0399:OSSFSW>2.0.CO;2, who give a doubling time of
    2.1 days (0.42 time units). Their damping is 1; here it is a number, so that energy can be conserved.

    >>> world = Lorenz96(variables=8)
    >>> run = world.simulate(20, seed=0)
    >>> last = world.optimal_forecaster(9)(torch.from_numpy(run.values[None, :11]))[0, -1]
    >>> bool(np.abs(last.numpy() - run.values[-1]).max() < 1e-9)
    True
    """

    def __init__(self, *, variables: int = 40, forcing: float = 8.0, damping: float = 1.0, step: float = 0.05):
        if variables < 4 or not 0 < step <= 0.1 or damping < 0 or (damping == 0 and forcing != 0):
            raise ValueError(
                "needs variables >= 4, 0 < step <= 0.1, damping >= 0, and damping > 0 where there is forcing, "
                f"got {variables}, {step}, {damping} and forcing {forcing}"
            )
        self.variables, self.forcing, self.damping, self.step = variables, forcing, damping, step

    def tendency(self, state: Tensor) -> Tensor:
        """The right-hand side of the equation, ``(..., N)`` to ``(..., N)``."""
        ahead, behind, two_behind = state.roll(-1, -1), state.roll(1, -1), state.roll(2, -1)
        return (ahead - two_behind) * behind - self.damping * state + self.forcing

    def advance(self, state: Tensor) -> Tensor:
        """One Runge-Kutta step, ``(..., N)`` to ``(..., N)``."""
        k1 = self.tendency(state)
        k2 = self.tendency(state + self.step / 2 * k1)
        k3 = self.tendency(state + self.step / 2 * k2)
        k4 = self.tendency(state + self.step * k3)
        return state + self.step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """A run of the world after its spin-up, float64 ``(time, channel, node)``."""
        states = [self._spun_up(1, torch.Generator().manual_seed(seed))[0]]
        for _ in range(steps - 1):
            states.append(self.advance(states[-1]))
        return xr.DataArray(
            torch.stack(states)[:, None].numpy(),
            dims=("time", "channel", "node"),
            coords={"time": np.arange(steps), "channel": ["x"], "node": np.arange(self.variables)},
            attrs={
                "units": "1",
                "long_name": "Lorenz-96 world",
                "licence": "CC0",
                "source": "simulated",
                "step": self.step,
            },
        )

    def optimal_rmse(self, horizon: int) -> np.ndarray:
        """The smallest RMSE that any forecaster can reach: 0 at leads 1 to ``horizon``, given the exact state."""
        return np.zeros(horizon)

    def perfect_model_rmse(self, initial_error: float, horizon: int, *, seed: int, runs: int = 200) -> np.ndarray:
        r"""The RMSE of the true equation started with an error, at leads 1 to ``horizon``.

        A twin experiment: ``runs`` states on the attractor, each beside a twin that is off by
        :math:`N(0, \mathrm{initial\_error}^2)` in every variable. The error first has to turn into the growing
        direction, then grows exponentially, and ends at :math:`\sqrt 2` times the standard deviation, as two strangers
        differ. While small it grows faster than :math:`e^{\lambda t}`, the typical run: the worst runs rule a mean of
        squares.

        Raises ValueError for an initial error of 0 or below.
        """
        if initial_error <= 0:
            raise ValueError(f"initial_error must be above 0, got {initial_error}")
        generator = torch.Generator().manual_seed(seed)
        truth = self._spun_up(runs, generator)
        twin = truth + initial_error * torch.randn(truth.shape, dtype=truth.dtype, generator=generator)
        errors = []
        for _ in range(horizon):
            truth, twin = self.advance(truth), self.advance(twin)
            errors.append(twin - truth)
        return torch.stack(errors).square().mean((1, 2)).sqrt().numpy()

    def lyapunov_exponent(self, steps: int = 2000, *, seed: int, runs: int = 20) -> float:
        """The mean growth rate of a tiny error per time unit, shrunk back after every step.

        A doubling time is ``log(2)`` over it. The first half of the ``steps`` is for turning into the growing
        direction.
        Source: Benettin, Galgani & Strelcyn (1976), doi:10.1103/PhysRevA.14.2338.
        """
        generator = torch.Generator().manual_seed(seed)
        truth, tiny = self._spun_up(runs, generator), 1e-7
        error = torch.randn(truth.shape, dtype=truth.dtype, generator=generator)
        growth = []
        for _ in range(steps):
            error = tiny * error / error.norm(dim=-1, keepdim=True)
            twin = self.advance(truth + error)
            truth = self.advance(truth)
            error = twin - truth
            growth.append((error.norm(dim=-1) / tiny).log().mean())
        return float(torch.stack(growth[steps // 2 :]).mean() / self.step)

    def optimal_forecaster(self, horizon: int) -> nn.Module:
        """The equation itself, started from the last step."""
        return PerfectModel(self, horizon)

    def _spun_up(self, runs: int, generator: torch.Generator) -> Tensor:
        state = self.forcing + torch.randn(runs, self.variables, dtype=torch.float64, generator=generator)
        for _ in range(round(SPIN_UP / self.step)):
            state = self.advance(state)
        return state


class PerfectModel(nn.Module):
    """The best forecaster of a `Lorenz96` world: ``(B, T, C, N)`` to ``(B, horizon, C, N)``."""

    def __init__(self, world: Lorenz96, horizon: int):
        super().__init__()
        self.world, self.horizon = world, horizon

    def forward(self, past: Tensor) -> Tensor:
        states = [past[:, -1]]
        for _ in range(self.horizon):
            states.append(self.world.advance(states[-1]))
        return torch.stack(states[1:], 1)
