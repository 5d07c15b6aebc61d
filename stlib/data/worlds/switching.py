"""Regime switching: a series that jumps between two kinds of behaviour, and does not say when."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

SPIN_UP = 500  # steps that bring the series, whose steady state has no closed form, from 0 into it


class RegimeSwitching:
    r"""A first-order autoregression whose intercept, coefficient and noise depend on a hidden regime.

    .. math:: x_t = c_{s_t} + \phi_{s_t} x_{t-1} + \sigma_{s_t} \varepsilon_t, \qquad \varepsilon_t \sim N(0, 1)

    The regime :math:`s_t \in \{0, 1\}` is a Markov chain that stays in regime :math:`s` with probability ``stay[s]``.
    The best forecast given the past weighs both regimes by how likely they are now, which the Hamilton filter works
    out (`OptimalSwitching`). It is not linear in the past: this is what a nonlinear model can win here.

    `optimal_rmse` needs Monte Carlo: no closed form exists. `known_regime_rmse` is a closed form and a bound from
    below: the error of a forecaster that is told the regime up to now, but not the next ones. Closed forms are also
    ``mean`` and ``variance`` of :math:`x_t`, whose root is climatology's RMSE, and ``share``, the share of time in
    each regime. Each pair of numbers is (regime 0, regime 1).

    Raises ValueError for a noise of 0 or below, a ``stay`` outside (0, 1), or coefficients too large for a finite
    variance: the spectral radius of the matrix with entries :math:`P(s_t = k \mid s_{t-1} = j)\,\phi_k^2` must be
    below 1.
    Source: Hamilton (1989), doi:10.2307/1912559. Deviation: there the mean switches, here the intercept, so that the
    past matters through :math:`x_{t-1}` alone.

    >>> world = RegimeSwitching()
    >>> series = world.simulate(200, seed=0)
    >>> series.dims, sorted(set(series["regime"].values.tolist()))
    (('time', 'channel'), [0, 1])
    >>> bool(world.known_regime_rmse(1)[0] < world.optimal_rmse(1, seed=0)[0] < world.variance**0.5)
    True
    """

    def __init__(
        self,
        *,
        intercept: tuple[float, float] = (0.2, -0.5),
        coefficient: tuple[float, float] = (0.9, -0.7),
        noise: tuple[float, float] = (0.3, 0.6),
        stay: tuple[float, float] = (0.97, 0.93),
    ):
        if min(noise) <= 0 or min(stay) <= 0 or max(stay) >= 1:
            raise ValueError(f"needs noise > 0 and 0 < stay < 1 in both regimes, got {noise} and {stay}")
        c, phi, self.noise = np.array(intercept), np.array(coefficient), np.array(noise)
        self.intercept, self.coefficient = c, phi
        to_1, to_0 = 1 - stay[0], 1 - stay[1]
        self.transition = np.array([[stay[0], to_0], [to_1, stay[1]]])  # from the column's regime to the row's
        growth = self.transition * phi[:, None] ** 2
        if np.abs(np.linalg.eigvals(growth)).max() >= 1:
            raise ValueError(f"coefficient {coefficient} with stay {stay} has no finite variance: make it smaller")
        self.share = np.array([to_0, to_1]) / (to_0 + to_1)
        # E[x 1{s=k}] and E[x^2 1{s=k}], from the same expectations one step before.
        self.first = np.linalg.solve(np.eye(2) - self.transition * phi[:, None], c * self.share)
        before = self.transition @ self.first
        self.second = np.linalg.solve(np.eye(2) - growth, (c**2 + self.noise**2) * self.share + 2 * c * phi * before)
        self.mean = float(self.first.sum())
        self.variance = float(self.second.sum() - self.mean**2)

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """A run of the world in its steady state, ``(time, channel)``, with the hidden ``regime`` as a coordinate."""
        values, regimes = self._run(1, steps, seed)
        return xr.DataArray(
            values.astype(np.float32),
            dims=("time", "channel"),
            coords={"time": np.arange(steps), "channel": ["x"], "regime": ("time", regimes[:, 0])},
            attrs={"units": "1", "long_name": "regime-switching world", "licence": "CC0", "source": "simulated"},
        )

    def optimal_rmse(self, horizon: int, *, seed: int, runs: int = 10_000, past: int = 100) -> np.ndarray:
        r"""The smallest RMSE that any forecaster can reach, at leads 1 to ``horizon``, from ``runs`` random pasts.

        Not knowing the regime adds to the error of the forecast :math:`\tilde x` that knows it, exactly

        .. math:: \mathrm{MSE}^*(h) = \mathrm{MSE}(h) + E[(\tilde x_{t+h} - \hat x_{t+h})^2],

        and only the last term is drawn. The forecaster sees ``past`` steps.
        """
        values, regimes = self._run(runs, past, seed)
        values = torch.from_numpy(values.T[..., None])  # (runs, past, 1)
        told = torch.from_numpy(np.eye(2)[regimes[-1], None])  # (runs, 1, 2)
        best = self.optimal_forecaster(horizon)
        added = (best(values) - best.mean_ahead(told, values[:, -1])).square().mean((0, 2))
        return np.sqrt(self.known_regime_rmse(horizon) ** 2 + added.numpy())

    def known_regime_rmse(self, horizon: int) -> np.ndarray:
        r"""The RMSE of the best forecaster that is told :math:`s_t`, at leads 1 to ``horizon``: a bound from below.

        Given regime :math:`j` now, the best forecast is :math:`\alpha_j(h) + \beta_j(h) x_t`, and
        :math:`\mathrm{MSE}(h) = E[x^2] - \sum_j E[(\alpha_j(h) + \beta_j(h) x)^2 1\{s = j\}]`.
        """
        alpha, beta, mse = np.zeros(2), np.ones(2), []
        for _ in range(horizon):
            alpha, beta = (alpha + beta * self.intercept) @ self.transition, beta * self.coefficient @ self.transition
            explained = alpha**2 * self.share + 2 * alpha * beta * self.first + beta**2 * self.second
            mse.append(self.second.sum() - explained.sum())
        return np.sqrt(mse)

    def optimal_forecaster(self, horizon: int) -> nn.Module:
        """The Hamilton filter, followed by the exact mean of what comes."""
        return OptimalSwitching(
            self.intercept, self.coefficient, self.noise, self.transition, self.share, horizon=horizon
        )

    def _run(self, runs: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and regimes of independent runs, both ``(steps, runs)``."""
        generator = np.random.default_rng(seed)
        regime = (generator.uniform(size=runs) < self.share[1]).astype(int)
        x = np.full(runs, self.mean)
        values, regimes = np.empty((steps, runs)), np.empty((steps, runs), dtype=int)
        for step in range(-SPIN_UP, steps):
            regime = (generator.uniform(size=runs) < self.transition[1, regime]).astype(int)
            epsilon = generator.standard_normal(runs)
            x = self.intercept[regime] + self.coefficient[regime] * x + self.noise[regime] * epsilon
            if step >= 0:
                values[step], regimes[step] = x, regime
        return values, regimes


class OptimalSwitching(nn.Module):
    r"""The best forecaster of a `RegimeSwitching` world: ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``.

    The Hamilton filter turns the past into :math:`p_k = P(s_t = k \mid x_{1:t})`:

    .. math:: p_k \propto N(x_t; c_k + \phi_k x_{t-1}, \sigma_k^2) \sum_j P_{kj}\, p_j

    and with :math:`a_k(h) = E[x_{t+h} 1\{s_{t+h} = k\}]`, which starts from :math:`a_k(0) = p_k x_t`, the forecast is

    .. math:: a_k(h) = \sum_j P_{kj} (c_k\, p_j(h-1) + \phi_k\, a_j(h-1)), \qquad \hat x_{t+h} = \sum_k a_k(h).

    The past is what is given: before its first step nothing is known, and the regime there has the long-run shares.
    This leaves out the little that the first value says about the first regime, and is forgotten within some steps of
    past. A missing value makes the forecast missing.
    """

    def __init__(
        self,
        intercept: np.ndarray,
        coefficient: np.ndarray,
        noise: np.ndarray,
        transition: np.ndarray,
        share: np.ndarray,
        *,
        horizon: int,
    ):
        super().__init__()
        self.horizon = horizon
        self.register_buffer("intercept", torch.from_numpy(intercept))
        self.register_buffer("coefficient", torch.from_numpy(coefficient))
        self.register_buffer("noise", torch.from_numpy(noise))
        self.register_buffer("transition", torch.from_numpy(transition))
        self.register_buffer("share", torch.from_numpy(share))

    def regime_probabilities(self, past: Tensor) -> Tensor:
        """The filtered probability of each regime after each step, ``(B, T, C, *S)`` to ``(B, T, C, *S, 2)``."""
        x = past[..., None].to(self.share.dtype)  # two columns, one for each regime
        mean = self.intercept + self.coefficient * x[:, :-1]
        log_density = -0.5 * ((x[:, 1:] - mean) / self.noise) ** 2 - self.noise.log()
        probabilities = [self.share + 0 * x[:, 0]]  # missing where x is
        for log_likelihood in log_density.unbind(1):
            prior = probabilities[-1] @ self.transition.T
            probabilities.append(torch.softmax(prior.log() + log_likelihood, -1))
        return torch.stack(probabilities, 1)

    def mean_ahead(self, probability: Tensor, last: Tensor) -> Tensor:
        """The mean of what follows ``last``, ``(B, C, *S)``, given the regime's probabilities, ``(B, C, *S, 2)``."""
        weighted = probability * last[..., None]
        means = []
        for _ in range(self.horizon):
            probability, weighted = probability @ self.transition.T, weighted @ self.transition.T
            weighted = self.intercept * probability + self.coefficient * weighted
            means.append(weighted.sum(-1))
        return torch.stack(means, 1)

    def forward(self, past: Tensor) -> Tensor:
        return self.mean_ahead(self.regime_probabilities(past)[:, -1], past[:, -1]).to(past.dtype)
