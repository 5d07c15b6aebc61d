"""Space-time ARMA: one autoregression shared by all places, that asks each place and the mean of its neighbours."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from stlib.models._estimates import reserve, unfitted
from stlib.models._lagged import spectral_radius
from stlib.models._starma_fit import autoregression, gauss_newton
from stlib.models.baselines import carry_forward


class STARMA(nn.Module):
    r"""Space-time autoregressive moving average: the same few coefficients at every place.

    .. math:: z_t = \sum_{k=1}^{p} \sum_{l=0}^{\Lambda} \phi_{kl} W_l\, z_{t-k} + \varepsilon_t
       - \sum_{k=1}^{q} \sum_{l=0}^{\Lambda} \vartheta_{kl} W_l\, \varepsilon_{t-k},
       \qquad z_t = (1 - B)^d (x_t - \mu), \quad W_0 = I

    :math:`W_l z` is what a place takes from its neighbours of order l: with rows that sum to 1, their mean.
    ``weights`` are :math:`W_1, W_2, \dots`, stacked, or one matrix, as they are: take ``neighbour_orders(adjacency)``,
    powers of a matrix, or one matrix for each direction. :math:`\mu` is the training mean of each place, B takes a
    series one step back. ``ar`` is p, ``ma`` q, ``difference`` d.

    The fit minimises the sum of squared :math:`\varepsilon` over all places and steps after the first p, with
    :math:`\varepsilon` zero before: maximum likelihood, given those steps, for noise of one variance. Scale the places
    first if theirs differ much. Without moving average it is least squares in closed form, by Gauss-Newton otherwise.

    After the fit ``phi`` (C, p, orders + 1) and ``theta`` (C, q, orders + 1) hold the coefficients of each channel,
    ``phi_error`` and ``theta_error`` their standard errors (for independent noise of one variance), and ``variance``
    (C, N) that of the noise at each place, in squared units of the series.

    A row of the least squares is left out if it, or a neighbour in it, is missing. With a moving average, and in
    ``forward``, a missing value is replaced by the model's own forecast of it and its residual is 0; the first p + d
    steps carry observed values. A place that is never observed counts as its mean to its neighbours, and its forecast
    is NaN. So is that of a place with nothing observed in the past given. A channel whose regressors are exact copies
    of one another has NaN coefficients and forecasts; a spatial order without any edge has the coefficient 0, and no
    standard error. With differences :math:`\mu` falls out and a drift is not modelled: take it off first.

    Shapes: ``weights`` (N, N) or (orders, N, N); ``fit(series (T, C, *S))`` with N places in the order of
    ``series.flatten(2)``; then ``(B, T, C, *S)`` with ``T >= p + d`` to ``(B, horizon, C, *S)``. Give a model with a
    moving average a long past: its residuals are found step by step from the first on.
    Raises ValueError for weights of another shape or not finite, negative orders or ``ar = ma = 0``, ``horizon`` below
    1, a series or past of another size, too short or infinite, a series in which no channel can be fitted, a state of
    another model, and use before ``fit``.
    Source: Pfeifer & Deutsch (1980), doi:10.2307/1268381.
    Deviations: every lag has all spatial orders; the noise has a variance at each place, which changes the spread of
    the forecasts and not the coefficients.

    >>> ring = torch.eye(20).roll(1, 0)  # each place takes from the one before it
    >>> x = torch.randn(500, 1, 20, generator=torch.Generator().manual_seed(0))
    >>> for t in range(1, 500):
    ...     x[t] += 0.5 * x[t - 1] + 0.4 * x[t - 1] @ ring.T
    >>> STARMA(weights=ring, ar=1, horizon=2).fit(x).phi.round(decimals=1).flatten().tolist()
    [0.5, 0.4]
    """

    def __init__(self, *, weights: Tensor, ar: int, ma: int = 0, difference: int = 0, horizon: int):
        super().__init__()
        weights = weights[None] if weights.ndim == 2 else weights
        if weights.ndim != 3 or weights.shape[1] != weights.shape[2] or not weights.isfinite().all():
            raise ValueError(f"weights must be finite, (N, N) or (orders, N, N), got shape {tuple(weights.shape)}")
        if min(ar, ma, difference) < 0 or ar + ma < 1 or horizon < 1:
            raise ValueError(
                "needs ar, ma and difference of at least 0, ar + ma of at least 1 and horizon of at least 1, "
                f"got {ar}, {ma}, {difference} and {horizon}"
            )
        self.ar, self.ma, self.difference, self.horizon = ar, ma, difference, horizon
        self.register_buffer("weights", torch.cat([torch.eye(weights.shape[1])[None].to(weights), weights]).double())
        reserve(self, ("mean", "phi", "theta", "phi_error", "theta_error", "variance"))

    @torch.no_grad()
    def fit(self, series: Tensor) -> "STARMA":
        start = max(self.ar, 1) + self.difference
        if series.ndim < 2 or len(series) <= start + self.ma:
            raise ValueError(
                f"series must be (T, C, *S) with more than {start + self.ma} steps, got shape {tuple(series.shape)}"
            )
        if series.isinf().any():
            raise ValueError(f"the series holds {int(series.isinf().sum())} infinite values: make them missing first")
        x = self._flat(series[None])[0].double()  # (T, C, N)
        mean = x.nanmean(0)
        z = torch.where(mean.isnan(), 0.0, x - mean)
        z = z.masked_fill(z.abs() <= 1e-12 * mean.abs(), 0.0)  # the rounding of a constant
        for _ in range(self.difference):
            z = z.diff(dim=0)
        weights = self.weights = self.weights.to(z)
        observed = (~z.isnan())[self.ar :] & ~mean.isnan()
        phi, gram, residual = autoregression(z, weights, ar=self.ar)
        theta = phi.new_zeros(len(phi), 0, phi.shape[2])
        if self.ma:
            phi, theta, gram, residual = gauss_newton(z, weights, phi, ma=self.ma)
        residual = torch.where(observed & ~residual.isnan(), residual, torch.nan)
        squares, count = residual.square(), (~residual.isnan()).sum((0, 2))
        size = (self.ar + self.ma) * len(weights)
        pooled = squares.nansum((0, 2)) / (count - size)  # (C,)
        failed = phi.isnan().flatten(1).any(1) | ~gram.isfinite().flatten(1).all(1)
        gram = gram.masked_fill(failed[:, None, None], 0.0)
        error = (torch.linalg.pinv(gram, hermitian=True).diagonal(dim1=1, dim2=2) * pooled[:, None]).sqrt()
        error = error.masked_fill(gram.diagonal(dim1=1, dim2=2) == 0, torch.nan)
        error = error.unflatten(1, (self.ar + self.ma, -1))
        failed = failed | (count <= size)
        if failed.all():
            raise ValueError(
                f"no channel can be fitted: {size} coefficients ask for more than {size} complete rows of regressors "
                f"that are not copies of one another, got {count.tolist()} rows"
            )
        here = squares.nanmean(0) * (count / (count - size))[:, None]  # (C, N)
        variance = torch.where(here.isnan(), pooled[:, None], here).masked_fill(mean.isnan(), torch.nan)
        self.mean = mean
        fitted = {"phi": phi, "theta": theta, "phi_error": error[:, : self.ar], "theta_error": error[:, self.ar :]}
        for name, value in (fitted | {"variance": variance}).items():
            setattr(self, name, value.masked_fill(failed.reshape(-1, *[1] * (value.ndim - 1)), torch.nan).contiguous())
        return self

    def forward(self, past: Tensor) -> Tensor:
        self._check_fitted()
        lags = self.ar + self.difference
        if past.ndim < 3 or past.shape[1] < max(lags, 1):
            raise ValueError(
                f"past must be (B, T, C, *S) with at least {max(lags, 1)} time steps, got shape {tuple(past.shape)}"
            )
        if past.isinf().any():
            raise ValueError(f"the past holds {int(past.isinf().sum())} infinite values: make them missing first")
        x = self._flat(past if past.is_floating_point() else past.to(self.mean.dtype))
        if x.shape[2:] != self.mean.shape:
            raise ValueError(f"past has {tuple(x.shape[2:])} channels and places, the fit {tuple(self.mean.shape)}")
        unknown = x.isnan().all(1) | self.mean.isnan() | self.phi.isnan().flatten(1).any(1)[:, None]
        mean = self.mean.nan_to_num().to(x.dtype)
        x = x - mean
        first = carry_forward(x)[:, :lags].nan_to_num()
        if not self.ma and not x.isnan().any():
            first, x = x[:, x.shape[1] - lags :], x[:, x.shape[1] - lags :]
        weights, theta = self.weights.to(x.dtype), self.theta.nan_to_num().to(x.dtype)
        levels = self._level_coefficients().to(x.dtype)
        values = [torch.einsum("lnm,bcm->blcn", weights, first[:, t]) for t in range(lags)]
        errors = [torch.zeros_like(torch.einsum("lnm,bcm->blcn", weights, x[:, 0]))] * self.ma
        forecasts = []
        for t in range(lags, x.shape[1] + self.horizon):
            guess = torch.zeros_like(x[:, 0])
            if lags:
                guess = guess + torch.einsum("ckl,bklcn->bcn", levels, torch.stack(values[::-1], 1))
            if self.ma:
                guess = guess - torch.einsum("ckl,bklcn->bcn", theta, torch.stack(errors[::-1], 1))
            guess = guess.masked_fill(self.mean.isnan(), 0.0)  # as in the fit
            known = t < x.shape[1]
            value = torch.where(x[:, t].isnan(), guess, x[:, t]) if known else guess
            values = [*values[1:], torch.einsum("lnm,bcm->blcn", weights, value)] if lags else []
            errors = [*errors[1:], torch.einsum("lnm,bcm->blcn", weights, value - guess)] if self.ma else []
            if not known:
                forecasts.append(guess + mean)
        forecast = torch.stack(forecasts, 1).masked_fill(unknown[:, None], torch.nan)
        return forecast.reshape(len(past), self.horizon, *past.shape[2:])

    def distribution(self, past: Tensor) -> Normal:
        """The forecast with its spread: independent normals of the exact variance, ``(B, horizon, C, *S)``.

        That of a model whose coefficients are known, and of a past without gaps.
        """
        mean = self(past)
        levels, theta = _dense(self._level_coefficients(), self.weights), _dense(self.theta.nan_to_num(), self.weights)
        alive = (~self.mean.isnan())[..., None].to(levels)  # (C, N, 1): a place never observed passes nothing on
        psi = [alive * torch.eye(levels.shape[-1]).to(levels)]
        for h in range(1, self.horizon):
            new = sum((levels[:, k - 1] @ psi[h - k] for k in range(1, min(h, levels.shape[1]) + 1)), 0 * psi[0])
            psi.append(alive * (new - theta[:, h - 1] if h <= self.ma else new))
        variance = (torch.stack(psi, 1).square() * self.variance.nan_to_num()[:, None, None]).sum(-1).cumsum(1)
        variance = variance.masked_fill(self.variance.isnan()[:, None], torch.nan).movedim(1, 0)  # (horizon, C, N)
        spread = variance.sqrt().reshape(mean.shape[1:]).to(mean.dtype)
        return Normal(mean, spread.expand_as(mean), validate_args=False)

    def matrices(self) -> tuple[Tensor, Tensor]:
        r"""What acts at each lag, :math:`\sum_l \phi_{kl} W_l` (C, p, N, N), and the same of theta (C, q, N, N)."""
        self._check_fitted()
        return _dense(self.phi, self.weights), _dense(self.theta, self.weights)

    def spectral_radius(self) -> Tensor:
        """Largest modulus of an eigenvalue of the autoregression, (C,): below 1 the differenced field is stationary."""
        return spectral_radius(self.matrices()[0]) if self.ar else torch.zeros_like(self.mean[:, 0])

    def _level_coefficients(self) -> Tensor:
        """The autoregression of the series itself, (C, p + d, orders + 1): that of its differences, multiplied out."""
        one = torch.zeros_like(self.weights[:, 0, 0])
        one[0] = 1
        polynomial = torch.cat([one.expand(len(self.mean), 1, -1), -self.phi.nan_to_num()], 1)
        for _ in range(self.difference):
            polynomial = nn.functional.pad(polynomial, (0, 0, 0, 1)) - nn.functional.pad(polynomial, (0, 0, 1, 0))
        return -polynomial[:, 1:]

    def _flat(self, x: Tensor) -> Tensor:
        x = x.flatten(3) if x.ndim > 3 else x[..., None]  # (B, T, C, N)
        if x.shape[3] != self.weights.shape[1]:
            raise ValueError(f"the weights are for {self.weights.shape[1]} places, got {x.shape[3]}")
        return x

    def _check_fitted(self) -> None:
        if unfitted(self.phi):
            raise ValueError("this space-time model is not fitted yet: call fit(train.series) first")
        found = self.phi.shape[1], self.theta.shape[1], self.phi.shape[2] - 1
        if found != (self.ar, self.ma, len(self.weights) - 1):
            raise ValueError(
                f"the state loaded is of a fit with ar, ma and orders of {found}, "
                f"got {(self.ar, self.ma, len(self.weights) - 1)}"
            )


def neighbour_orders(adjacency: Tensor, *, orders: int) -> Tensor:
    """The mean over the neighbours of each order: those that are 1, 2, ... ``orders`` edges away and no fewer.

    An entry of order 1 keeps its weight in the adjacency, others count alike; each row is divided by its sum. A place
    without neighbours of an order has a row of zeros. The diagonal is not looked at.

    Shapes: (N, N), ``[i, j]`` the weight with which j acts on i, to (orders, N, N).
    Raises ValueError for an adjacency of another shape, missing or negative, or ``orders`` below 1.
    Source: Pfeifer & Deutsch (1980), doi:10.2307/1268381, on spatial orders.

    >>> line = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> neighbour_orders(line, orders=2)[1]
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [1., 0., 0.]])
    """
    if adjacency.ndim != 2 or len(adjacency) != adjacency.shape[1] or not (adjacency >= 0).all() or orders < 1:
        raise ValueError(
            "needs an (N, N) adjacency with weights of 0 or more and orders of at least 1, "
            f"got shape {tuple(adjacency.shape)} and {orders}"
        )
    edge = ((adjacency > 0) & ~torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)).to(adjacency)
    reached = torch.eye(len(adjacency)).to(adjacency)
    found, weights = reached, []
    for order in range(orders):
        found = ((edge @ found > 0) & (reached == 0)).to(adjacency)
        reached = reached + found
        weight = found * adjacency if order == 0 else found
        total = weight.sum(1, keepdim=True)
        weights.append(weight / torch.where(total > 0, total, 1.0))
    return torch.stack(weights)


def _dense(coefficients: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("ckl,lnm->cknm", coefficients, weights)
