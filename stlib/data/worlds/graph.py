"""Diffusion on a graph: a vector autoregression whose edges, weights and lags are known."""

import numpy as np
import torch
import xarray as xr
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn


class GraphDiffusion:
    r"""Nodes on a map that pass what they have to their neighbours, later the further away, and are stirred by noise.

    .. math:: x_t = \sum_{\tau=1}^{\tau_{\max}} A_\tau x_{t-\tau} + \varepsilon_t,
       \qquad \varepsilon_t \sim N(0, \sigma^2 I)

    Nodes lie at random in the unit square. Each receives from itself with lag 1 and from its ``neighbours`` nearest
    nodes, with a lag that grows with the distance and is ``max_lag`` for the longest edge. The weights into a node are
    drawn between 1 and 3, made to sum to 1, and an edge of lag :math:`\tau` is multiplied by :math:`\rho^\tau`.
    Weighted averages have spectral radius 1, so the companion matrix :math:`F` of all lags has spectral radius exactly
    :math:`\rho`, given as ``spectral_radius``: below 1 the world is stable.

    Known to the reader: ``adjacency`` (N, N), whose entry ``[i, j]`` is the weight with which node j acts on node i,
    0 where there is no edge, and ``lags`` (N, N) in steps, 0 where there is no edge. The graph is directed.

    With the moving-average weights :math:`\Psi_k`, the upper left block of :math:`F^k`, no forecaster has a smaller
    mean squared error over the nodes than

    .. math:: \mathrm{MSE}^*(h) = \frac{\sigma^2}{N} \sum_{k=0}^{h-1} \lVert \Psi_k \rVert_F^2.

    :math:`\sigma` is such that the variance is 1 on average over the nodes: climatology's RMSE is 1. It is not 1 at
    each node: see ``variance`` (N,).

    Units: lags in steps, coordinates ``y`` and ``x`` of the nodes in sides of the square, values without unit.
    Raises ValueError for fewer than 2 nodes, fewer than 1 or more than ``nodes - 1`` neighbours, a ``max_lag`` below 1
    or a spectral radius outside (0, 1).
    Source: the vector autoregression and its forecast errors as in Lütkepohl (2005), New Introduction to Multiple Time
    Series Analysis, doi:10.1007/978-3-540-27752-1, chapter 2. The rule for the graph is ours.

    >>> world = GraphDiffusion(nodes=10)
    >>> field = world.simulate(100, seed=0)
    >>> field.sizes["node"], int((world.lags > 0).sum())  # 3 neighbours and itself
    (10, 40)
    >>> bool(world.optimal_rmse(3)[0] < world.persistence_rmse(3)[0])
    True
    """

    def __init__(
        self,
        *,
        nodes: int = 20,
        neighbours: int = 3,
        max_lag: int = 3,
        spectral_radius: float = 0.95,
        graph_seed: int = 0,
    ):
        if nodes < 2 or not 1 <= neighbours < nodes or max_lag < 1 or not 0 < spectral_radius < 1:
            raise ValueError(
                "needs nodes >= 2, 1 <= neighbours < nodes, max_lag >= 1 and 0 < spectral_radius < 1, "
                f"got {nodes}, {neighbours}, {max_lag} and {spectral_radius}"
            )
        generator = np.random.default_rng(graph_seed)
        self.positions = generator.uniform(size=(nodes, 2))  # y, x
        distance = np.linalg.norm(self.positions[:, None] - self.positions, axis=-1)
        # A node is the nearest to itself, so that it always is among its own sources.
        edge = distance.argsort(1).argsort(1) <= neighbours
        self.lags = np.where(edge, np.ceil(max_lag * distance / distance[edge].max()).clip(1), 0).astype(int)
        weight = np.where(edge, generator.uniform(1, 3, size=edge.shape), 0)
        self.adjacency = weight / weight.sum(1, keepdims=True) * spectral_radius**self.lags

        self.coefficients = np.stack([np.where(self.lags == lag, self.adjacency, 0) for lag in range(1, max_lag + 1)])
        self.companion = np.eye(max_lag * nodes, k=-nodes)  # of the state (x_t, x_{t-1}, ..., x_{t-max_lag+1})
        self.companion[:nodes] = np.hstack(self.coefficients)
        noise = np.zeros_like(self.companion)
        noise[:nodes, :nodes] = np.eye(nodes)
        covariance = solve_discrete_lyapunov(self.companion, noise)
        self.noise_variance = 1 / covariance.diagonal()[:nodes].mean()
        self.covariance = self.noise_variance * covariance  # of the state
        self.variance = self.covariance.diagonal()[:nodes]

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """A run of the world that starts in its steady state, ``(time, channel, node)``."""
        nodes, max_lag = len(self.adjacency), len(self.coefficients)
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((steps, nodes)) * self.noise_variance**0.5
        state = np.linalg.cholesky(self.covariance) @ generator.standard_normal(nodes * max_lag)
        values = np.empty((steps, nodes), dtype=np.float32)
        for step in range(steps):
            values[step] = state[:nodes]
            state = self.companion @ state
            state[:nodes] += noise[step]
        y, x = self.positions.T
        return xr.DataArray(
            values[:, None],
            dims=("time", "channel", "node"),
            coords={
                "time": np.arange(steps),
                "channel": ["x"],
                "node": np.arange(nodes),
                "y": ("node", y),
                "x": ("node", x),
            },
            attrs={"units": "1", "long_name": "graph diffusion world", "licence": "CC0", "source": "simulated"},
        )

    def optimal_rmse(self, horizon: int) -> np.ndarray:
        """The smallest RMSE over all nodes that any forecaster can reach on average, at leads 1 to ``horizon``."""
        nodes = len(self.adjacency)
        psi = np.stack([power[:nodes, :nodes] for power in self._powers(range(horizon))])
        return np.sqrt(self.noise_variance * np.square(psi).sum((1, 2)).cumsum() / nodes)

    def persistence_rmse(self, horizon: int) -> np.ndarray:
        r"""The expected RMSE of "nothing changes": :math:`\sqrt{2 (1 - \mathrm{tr}\,\Gamma(h) / N)}`."""
        nodes = len(self.adjacency)
        autocovariance = [(power @ self.covariance)[:nodes, :nodes] for power in self._powers(range(1, horizon + 1))]
        return np.sqrt(2 * (1 - np.trace(autocovariance, axis1=1, axis2=2) / nodes))

    def optimal_forecaster(self, horizon: int) -> nn.Module:
        """The conditional mean itself: the upper rows of :math:`F^h` times the last ``max_lag`` steps."""
        return OptimalGraph(self._powers(range(1, horizon + 1))[:, : len(self.adjacency)], len(self.coefficients))

    def _powers(self, leads: range) -> np.ndarray:
        return np.stack([np.linalg.matrix_power(self.companion, lead) for lead in leads])


class OptimalGraph(nn.Module):
    """The best forecaster of a `GraphDiffusion` world: ``(B, T, C, N)`` to ``(B, horizon, C, N)``.

    Raises ValueError for a past shorter than the longest lag, or another number of nodes. A missing value in the last
    ``max_lag`` steps makes missing what depends on it and everything else: the world's past is complete.
    """

    def __init__(self, powers: np.ndarray, max_lag: int):
        super().__init__()
        self.max_lag = max_lag
        self.register_buffer("powers", torch.from_numpy(powers))  # (horizon, N, max_lag * N)

    def forward(self, past: Tensor) -> Tensor:
        nodes = self.powers.shape[1]
        if past.ndim != 4 or past.shape[1] < self.max_lag or past.shape[3] != nodes:
            raise ValueError(
                f"past must be (B, T, C, N) with T >= {self.max_lag} and N = {nodes}, got shape {tuple(past.shape)}"
            )
        state = past[:, -self.max_lag :].flip(1).transpose(1, 2).flatten(2)  # (B, C, max_lag * N), the newest first
        return torch.einsum("hns,bcs->bhcn", self.powers.to(past.dtype), state)
