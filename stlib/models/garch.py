"""GARCH: forecasts of how large the next moves will be, for every series of a field at once."""

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, StudentT

from stlib.models._estimates import reserve, unfitted
from stlib.models._volatility import SIZE, Parameters, back_cast, log_likelihood, variance_path
from stlib.models._volatility_fit import EDGE, maximise

KINDS, NOISES, MEANS = ("garch", "gjr", "egarch"), ("normal", "t"), ("zero", "constant")
#: What a number in `GARCH.status` says.
STATUS = ("converged", "at the edge", "not converged", "too short", "constant", "not finite")
LAGGED = ("alpha", "gamma", "beta")
ESTIMATES = ("mu", "omega", "alpha", "gamma", "beta", "nu", "likelihood", "status")
FEWEST = 10  # observed returns for each parameter
BLOCK = 2**18  # values fitted at once, to bound memory


class GARCH(nn.Module):
    r"""The variance of the next return, from the squares of the last ones.

    A return is :math:`x_t = \mu + e_t` with :math:`e_t = \sigma_t\, z_t`. The noise :math:`z_t` has variance 1 and is
    "normal" or "t" (Student's, :math:`\nu` degrees of freedom). The past decides the variance :math:`\sigma_t^2`. For
    ``kind`` "garch", "gjr" (a fall may count more than a rise) and "egarch", in this order,

    .. math:: \sigma_t^2 &= \omega + \sum_{k=1}^{p} \alpha_k e_{t-k}^2 + \sum_{k=1}^{q} \beta_k \sigma_{t-k}^2

              \sigma_t^2 &= \omega + \sum_{k=1}^{p} (\alpha_k + \gamma_k [e_{t-k} < 0])\, e_{t-k}^2
                     + \sum_{k=1}^{q} \beta_k \sigma_{t-k}^2

              \ln \sigma_t^2 &= \omega
                     + \sum_{k=1}^{p} \left(\alpha_k (|z_{t-k}| - \sqrt{2/\pi}) + \gamma_k z_{t-k}\right)
                     + \sum_{k=1}^{q} \beta_k \ln \sigma_{t-k}^2

    As in the package arch, p counts squares and q counts variances (Bollerslev has them the other way round). ``mean``
    is "zero" or "constant": :math:`\mu` is estimated. Squares and variances before the first return are a weighted mean
    of the first 75 squares, with weights :math:`0.94^i`; for a constant mean, of departures from the series' own mean.
    So the first values of `filter` have seen a little of their future. A forecast takes departures from the estimated
    mean instead.

    `fit` finds the maximum of the likelihood of each series by itself, under :math:`\alpha_k \ge 0`,
    :math:`\beta_k \ge 0`, a `persistence` of at most 1 - 1e-6, :math:`2.05 \le \nu \le 500` and, but for "egarch",
    :math:`\omega > 0` and :math:`\alpha_k + \gamma_k \ge 0`.

    A missing return is replaced by its expectation, :math:`e_t^2 := \sigma_t^2`, of which a fall has half (for
    "egarch", :math:`z_t := 0` and :math:`|z_t| := \sqrt{2/\pi}`), and adds nothing to the likelihood. Steps before the
    first return of a series do not count.

    Shapes: ``fit(series (T, C, *S))``, then ``(B, T, C, *S)`` to a distribution of shape ``(B, horizon, C, *S)``,
    `Normal` or `StudentT`. Returns may have any unit; variances have its square. Estimates are buffers: ``mu``,
    ``omega``, ``nu``, ``likelihood`` and ``status`` are ``(C, *S)``, ``alpha`` and ``gamma`` ``(p, C, *S)``, ``beta``
    ``(q, C, *S)``. The status is a place in `STATUS`; "at the edge" is the largest persistence, as of an explosive
    series. A series that cannot be fitted has NaN in all the others, and spoils no other series. A variance too large
    for its numbers, as of "egarch" when a return follows a long run of zeros, is NaN too.
    Beyond one step the variance is exact, also for "egarch", but the shape is not: a mixture of unknown variances has
    heavier tails.
    Raises ValueError for orders below p = 1 or q = 0, unknown names, "egarch" with noise "t" and a horizon beyond 1
    (its variance is infinite), a series or past of another shape, and a forecast before `fit`.
    Source: Bollerslev (1986), doi:10.1016/0304-4076(86)90063-1; Glosten, Jagannathan and Runkle (1993),
    doi:10.1111/j.1540-6261.1993.tb05128.x; Nelson (1991), doi:10.2307/2938260.
    Deviation: arch lets :math:`\alpha_k` of "egarch" be negative, which fits noise with a variance that runs away from
    its start. Of several tops of a likelihood the higher of two is taken, from the best of a grid of sixteen starts.

    >>> noise = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> model = GARCH(horizon=2).set(omega=0.1, alpha=[0.1], beta=[0.8])
    >>> past = torch.tensor([[[2.0]]], dtype=torch.float64)  # variance 0.1 + 0.1 * 4 + 0.8 * 4 = 3.7
    >>> [round(value, 3) for value in model.variance(past).flatten().tolist()]  # 0.1 + 0.1 * 4 + 0.8 * 3.7 on the next
    [3.46, 3.214]
    >>> model.fit(noise).filter(noise).shape
    torch.Size([500, 2])
    """

    def __init__(
        self,
        *,
        p: int = 1,
        q: int = 1,
        kind: str = "garch",
        noise: str = "normal",
        mean: str = "zero",
        horizon: int = 1,
    ):
        super().__init__()
        if p < 1 or q < 0 or horizon < 1:
            raise ValueError(f"p and horizon must be at least 1 and q at least 0, got p={p}, q={q}, horizon={horizon}")
        for name, value, known in (("kind", kind, KINDS), ("noise", noise, NOISES), ("mean", mean, MEANS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if kind == "egarch" and noise == "t" and horizon > 1:
            raise ValueError(
                f"beyond one step the variance of egarch with noise t is infinite: horizon must be 1, got {horizon}"
            )
        self.p, self.q, self.kind, self.noise, self.mean, self.horizon = p, q, kind, noise, mean, horizon
        reserve(self, ESTIMATES, f"p={p}, q={q}, kind={kind}, noise={noise}, mean={mean}")

    @torch.no_grad()
    def fit(self, series: Tensor, *, dtype: torch.dtype = torch.float64) -> "GARCH":
        """Estimate all series ``(T, C, *S)`` by maximum likelihood, in the given precision."""
        if series.ndim < 2:
            raise ValueError(f"series must be (T, C, *S), got shape {tuple(series.shape)}")
        flat = series.flatten(1).to(dtype)
        asymmetry = 0 if self.kind == "garch" else self.p
        parameters = 1 + self.p + asymmetry + self.q + (self.mean == "constant") + (self.noise == "t")
        status = _usable(flat, FEWEST * parameters)
        places = (status == 0).nonzero()[:, 0]
        table = flat.new_full((4 + self.p + asymmetry + self.q, flat.shape[1]), torch.nan)
        options = {name: getattr(self, name) for name in ("p", "q", "kind", "noise", "mean")}
        for block in places.split(max(1, BLOCK // max(1, len(flat)))) if len(places) else ():
            # A mean far from 0 would hide the spread behind the scale.
            centre = flat[:, block].nanmean(0) if self.mean == "constant" else flat.new_zeros(len(block))
            returns = flat[:, block] - centre
            largest = returns.abs().nan_to_num(0.0).amax(0)
            scale = largest * (returns / largest).square().nanmean(0).sqrt()  # in two steps, against overflow
            par, likelihood, converged = maximise(returns / scale, **options)
            factor = 2 * scale.log() * (1 - par.beta.sum(0)) if self.kind == "egarch" else None
            omega = par.omega * scale.square() if factor is None else par.omega + factor
            likelihood = likelihood - scale.log() * (~returns.isnan()).sum(0)
            found = torch.cat(
                [torch.stack([par.mu * scale + centre, omega]), *par[2:5], torch.stack([par.nu, likelihood])]
            )
            usable = likelihood.isfinite()
            table[:, block] = torch.where(usable, found, torch.nan)
            edge = self._sum_of_factors(par) > EDGE - 1e-6
            status[block] = torch.where(usable & converged, edge.long(), STATUS.index("not converged"))
        space = series.shape[1:]
        parts = table.split([1, 1, self.p, asymmetry, self.q, 1, 1])
        for name, part in zip(ESTIMATES[:-1], parts, strict=True):
            setattr(self, name, part.reshape(len(part), *space) if name in LAGGED else part.reshape(space))
        self.status = status.reshape(space)
        return self

    def set(
        self,
        *,
        omega: Tensor | float,
        alpha: Tensor | list[float],
        beta: Tensor | list[float] = (),
        gamma: Tensor | list[float] = (),
        mu: Tensor | float = 0.0,
        nu: Tensor | float = torch.inf,
    ) -> "GARCH":
        """Take given values in place of a fit: ``alpha``, ``gamma`` and ``beta`` a number for each lag, or tensors
        ``(lags, C, *S)``; the others a number or ``(C, *S)``, ``(1,)`` if all are numbers."""
        given = {"mu": mu, "omega": omega, "alpha": alpha, "gamma": gamma, "beta": beta, "nu": nu}
        values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in given.items()}
        lags = {"alpha": self.p, "gamma": 0 if self.kind == "garch" else self.p, "beta": self.q}
        if self.kind != "egarch" and bool((values["omega"] < 0).any()):
            raise ValueError(f"omega must be 0 or more for {self.kind}, got {omega}")
        if self.noise == "t" and not bool((values["nu"] > 2).all() and values["nu"].isfinite().all()):
            raise ValueError(f"nu must be a number above 2 for noise t, got {nu}")
        for name, needed in lags.items():
            if values[name].ndim == 0 or len(values[name]) != needed:
                raise ValueError(f"{name} needs {needed} lags, got {given[name]}")
        space = torch.broadcast_shapes((1,), *(v.shape[1 if n in lags else 0 :] for n, v in values.items()))
        for name, value in values.items():
            if name in lags:
                value = value.reshape(*value.shape, *[1] * (1 + len(space) - value.ndim)).expand(-1, *space)
            else:
                value = value.expand(space)
            setattr(self, name, value.clone())
        self.likelihood, self.status = torch.full(space, torch.nan, dtype=torch.float64), torch.zeros(space).long()
        return self

    @property
    def persistence(self) -> Tensor:
        r"""The part of a departure of the variance that is left a step later, ``(C, *S)``.

        It is :math:`\sum\alpha + \sum\gamma / 2 + \sum\beta` for "garch" and "gjr" and :math:`\sum\beta`, of the
        logarithm, for "egarch". After :math:`\ln 0.5` over its logarithm steps half is left.
        """
        self._check_fitted()
        return self._sum_of_factors(self)

    def _sum_of_factors(self, par: "Parameters | GARCH") -> Tensor:
        total = par.beta.sum(0)
        return total if self.kind == "egarch" else total + par.alpha.sum(0) + par.gamma.sum(0) / 2

    def forward(self, past: Tensor) -> Distribution:
        h = self.variance(past)
        mu, nu = (value.to(past).expand_as(h).masked_fill(h.isnan(), torch.nan) for value in (self.mu, self.nu))
        if self.noise == "normal":
            return Normal(mu, h.sqrt(), validate_args=False)
        return StudentT(nu, mu, (h * (nu - 2) / nu).sqrt(), validate_args=False)

    @torch.no_grad()
    def variance(self, past: Tensor) -> Tensor:
        """The forecast of the variance, ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``."""
        if past.ndim < 3 or past.shape[1] < 1:
            raise ValueError(f"past must be (B, T, C, *S) with at least 1 time step, got shape {tuple(past.shape)}")
        batch, steps = past.shape[:2]
        future = past.new_full((batch, self.horizon, *past.shape[2:]), torch.nan)  # unknown, so missing
        x = torch.cat([past, future], 1).movedim(0, 1)  # (T + horizon, B, C, *S)
        h = self._path(x, ahead=True)[steps:].movedim(0, 1)
        return h * self._mean_growth(past.shape[2:]).to(h) if self.kind == "egarch" else h

    @torch.no_grad()
    def filter(self, series: Tensor) -> Tensor:
        """The variance of each step given the steps before it, ``(T, C, *S)`` to the same: one-step forecasts."""
        if series.ndim < 2:
            raise ValueError(f"series must be (T, C, *S), got shape {tuple(series.shape)}")
        return self._path(series[:, None])[:, 0]

    @torch.no_grad()
    def log_likelihood(self, series: Tensor) -> Tensor:
        """The log-likelihood of a series ``(T, C, *S)`` at the estimates, ``(C, *S)``; missing returns are left out."""
        par = self._flat(series.shape[1:], batch=1)
        flat = series.flatten(1).to(par.omega)
        h = self._path(flat.reshape(len(series), 1, *series.shape[1:])).flatten(1)
        return log_likelihood(flat, h, par, noise=self.noise).reshape(series.shape[1:])

    def _path(self, x: Tensor, *, ahead: bool = False) -> Tensor:
        """Variances of ``(T, B, C, *S)``, computed in the precision of the estimates.

        A forecast starts from departures from the estimated mean: a short past has hardly one of its own.
        """
        if x.numel() == 0:
            return x
        par = self._flat(x.shape[2:], batch=x.shape[1])
        flat = x.flatten(1).to(par.omega)
        start = back_cast(flat - par.mu, centred=False) if ahead else back_cast(flat, centred=self.mean == "constant")
        if ahead and self.kind == "egarch":  # its logarithm: without any departure the usual variance
            start = torch.where(start > 0, start, (par.omega / (1 - par.beta.sum(0))).exp())
        h, _ = variance_path(flat, par, start, kind=self.kind)
        return h.masked_fill(h.isinf(), torch.nan).reshape(x.shape).to(x.dtype)

    def _flat(self, space: torch.Size, *, batch: int) -> Parameters:
        """The estimates for series ``(C, *S)`` of which there are ``batch``, flat."""
        self._check_fitted()
        if self.omega.numel() > 1 and self.omega.shape != space:
            raise ValueError(f"the model was fitted to (C, *S) = {tuple(self.omega.shape)}, got {tuple(space)}")
        rows = []
        for name in Parameters._fields:
            value = getattr(self, name)
            lags = value.shape[:1] if name in LAGGED else ()
            if self.omega.numel() == 1:
                value = value.reshape(*lags, *[1] * len(space))
            rows.append(value.expand(*lags, *space).flatten(len(lags)).repeat(*[1] * len(lags), batch))
        return Parameters(*rows)

    def _mean_growth(self, space: torch.Size) -> Tensor:
        """For "egarch": mean of h over exp(mean of ln h), ``(horizon, C, *S)``, due to the noise still to come."""
        par = self._flat(space, batch=1)
        growth, rise, tilt = [torch.ones_like(par.omega)], [], []  # answers of ln h to |z| and to z, lag by lag
        for lag in range(self.horizon - 1):
            for answer, first in ((rise, par.alpha), (tilt, par.gamma)):
                now = first[lag] if lag < self.p else torch.zeros_like(par.omega)
                answer.append(now + sum(par.beta[k] * answer[-1 - k] for k in range(min(self.q, lag))))
            a, g = rise[-1], tilt[-1]
            up, down = (s.square() / 2 + torch.special.log_ndtr(s) for s in (a + g, a - g))
            growth.append(growth[-1] * (torch.logaddexp(up, down) - a * SIZE).exp())
        return torch.stack(growth).reshape(self.horizon, *space)

    def _check_fitted(self) -> None:
        if unfitted(self.omega):
            raise ValueError("this model is not fitted yet: call fit(train.series) or set(...) first")


def value_at_risk(forecast: Distribution, level: float) -> Tensor:
    r"""The loss that is exceeded with probability ``level``: :math:`-F^{-1}(\alpha)`, in the unit of the returns.

    Shapes: a forecast of shape ``(B, horizon, C, *S)`` to a tensor of the same; NaN where there is no forecast.
    Raises ValueError for a level not between 0 and 1.
    Source: McNeil, Frey and Embrechts (2005), Quantitative Risk Management, section 2.2.

    >>> round(value_at_risk(Normal(0.0, 2.0), 0.01).item(), 3)
    4.653
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if not isinstance(forecast, StudentT):
        return -forecast.icdf(torch.full_like(forecast.mean, level))
    df, back = np.unique(forecast.df.detach().cpu().numpy(), return_inverse=True)  # few series, many forecasts
    quantile = torch.from_numpy(stdtrit(df, level)[back].reshape(forecast.df.shape)).to(forecast.loc)
    return -(forecast.loc + forecast.scale * quantile)


def _usable(flat: Tensor, fewest: int) -> Tensor:
    """The status of each series ``(T, N)`` before it is fitted."""
    if not len(flat):
        return torch.full(flat.shape[1:], STATUS.index("too short"), device=flat.device)
    observed = ~flat.isnan()
    low, high = torch.where(observed, flat, torch.inf).amin(0), torch.where(observed, flat, -torch.inf).amax(0)
    status = torch.zeros(flat.shape[1], dtype=torch.long, device=flat.device)
    status[high - low <= 1e-12 * torch.maximum(high, -low)] = STATUS.index("constant")
    status[observed.sum(0) < fewest] = STATUS.index("too short")
    status[flat.isinf().any(0)] = STATUS.index("not finite")
    return status
