"""ARIMA on every series of a field at once: exact maximum likelihood, forecasts with exact intervals, diagnostics."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from stlib.models._arima_fit import block_size, covariance, estimate, filter_size
from stlib.models._arima_kalman import kalman
from stlib.models._arima_likelihood import Orders, ahead, difference, difference_weights, polynomials
from stlib.models._estimates import reserve, unfitted

STATUS = ("ok", "constant", "too short", "all missing", "not converged")
EFFORTS = ("rough", "one start", "best")
TRENDS = ("none", "mean", "drift")


class ARIMA(nn.Module):
    r"""Seasonal ARIMA with regressors, fitted to each series by itself, all of them at once.

    .. math:: \phi(B)\,\Phi(B^m)\,\Delta^d \Delta_m^D\,(x_t - \beta^\top z_t) = \vartheta(B)\,\Theta(B^m)\,\varepsilon_t

    B is the step back, :math:`B x_t = x_{t-1}`; :math:`\phi(B) = 1 - \phi_1 B - \dots`, and
    :math:`\vartheta(B) = 1 + \vartheta_1 B + \dots`. ``order`` is (p, d, q), ``seasonal`` is (P, D, Q) and ``season``
    is m, in steps. ``trend`` "mean" adds a level (for d = D = 0), "drift" a constant rise per step (for d + D = 1).

    `fit` finds the maximum of the exact Gaussian likelihood, missing values included, over the stationary and
    invertible models. It keeps in buffers, for each series: ``coefficients`` (in the order of ``names``), ``variance``
    of the noise, ``loglik``, ``steps`` (the values that count: observed less those that differencing takes) and
    ``status``, an index into ``STATUS``. A series that is constant, or that trend and regressors leave nothing of, is
    forecast as such; one that is too short (for `aicc` to exist) or all missing is forecast as missing; one that is not
    converged has the best estimates found. The ``effort`` of `fit` is "best", from up to ten starts where the
    likelihood may have several tops; "one start", faster and now and then at a lesser top; or "rough", to compare
    models.

    Shapes: ``fit(series (T, C, *S), regressors (T, K))``; ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, for a past of
    any length above d + m D, with regressors ``(T + horizon, K)`` or ``(B, T + horizon, K)`` if fitted with any. The
    past may have gaps. Units: those of the series; ``coefficients`` of the mean and drift too, the drift per step.
    Raises ValueError for orders that are not whole numbers of 0 or more, an unknown trend or one that differencing
    removes, regressors that are missing, collinear or of another size, infinite values, a past that is too short, other
    channels and places than those of ``fit``, or use before it.
    Source: Box and Jenkins (1970), Time Series Analysis; likelihood: Ljung and Box (1979), doi:10.1093/biomet/66.2.265.
    Deviation: with gaps and differences the likelihood is the exact diffuse one less its constant, d + m D times
    log(2π) / 2, so that it does not jump when the first gap appears.

    >>> _ = torch.manual_seed(0)
    >>> walks = torch.randn(200, 1, 5).cumsum(0)
    >>> model = ARIMA(order=(0, 1, 1), horizon=3).fit(walks)
    >>> model(walks[None]).shape, model.names, model.coefficients.shape
    (torch.Size([1, 3, 1, 5]), ('ma1',), torch.Size([1, 1, 5]))
    """

    def __init__(
        self,
        *,
        order: tuple[int, int, int],
        seasonal: tuple[int, int, int] = (0, 0, 0),
        season: int = 1,
        trend: str = "none",
        horizon: int,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        numbers = (*order, *seasonal)
        if len(order) != 3 or len(seasonal) != 3 or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(f"order and seasonal must be three whole numbers of 0 or more, got {order} and {seasonal}")
        if any(seasonal) and season < 2:
            raise ValueError(f"season must be at least 2 steps for seasonal={seasonal}, got {season}")
        if trend not in TRENDS:
            raise ValueError(f"trend must be one of {', '.join(TRENDS)}, got {trend!r}")
        differences = order[1] + seasonal[1]
        if (trend == "mean" and differences != 0) or (trend == "drift" and differences != 1):
            raise ValueError(f"trend {trend!r} does not go with {differences} differences: mean needs 0, drift needs 1")
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1 step, got {horizon}")
        self.order, self.seasonal, self.season = tuple(order), tuple(seasonal), season
        self.trend, self.horizon, self.dtype = trend, horizon, dtype
        self.orders = Orders(order[0], order[2], seasonal[0], seasonal[2], season if any(seasonal) else 1)
        self.weights = difference_weights(order[1], seasonal[1], season)
        settings = f"order={self.order}, seasonal={self.seasonal}, season={self.orders.season}, trend={trend}"
        reserve(self, ("coefficients", "variance", "loglik", "steps", "status", "level"), settings)
        self.register_buffer("regressors", torch.tensor(0))  # how many it was fitted with

    @property
    def names(self) -> tuple[str, ...]:
        """What each row of ``coefficients`` is."""
        kinds = zip(("ar", "ma", "seasonal ar", "seasonal ma"), self.orders.sizes, strict=True)
        terms = [f"{kind}{i + 1}" for kind, count in kinds for i in range(count)]
        terms += [] if self.trend == "none" else [self.trend]
        return (*terms, *(f"x{i + 1}" for i in range(int(self.regressors))))

    @property
    def aicc(self) -> Tensor:
        r"""Akaike's criterion for small samples, ``(C, *S)``: :math:`-2 \log L + 2k n / (n - k - 1)`.

        k counts the noise variance too. Less is better, among models with the same differences.
        Source: Hurvich and Tsai (1989), doi:10.1093/biomet/76.2.297.
        """
        if unfitted(self.loglik):
            raise ValueError("this ARIMA is not fitted yet: call fit(series) first")
        k = len(self.coefficients) + 1
        room = self.steps - k - 1
        return torch.where(room > 0, -2 * self.loglik + 2 * k * self.steps / room, torch.inf)

    @torch.no_grad()
    def fit(self, series: Tensor, regressors: Tensor | None = None, *, effort: str = "best") -> "ARIMA":
        if effort not in EFFORTS:
            raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, got {effort!r}")
        y, z = self._checked(series, regressors)
        given = 0 if regressors is None else regressors.shape[1]
        observed = ~y.isnan()
        count, size = observed.sum(0), sum(self.orders.sizes) + z.shape[1]
        steps = (count - len(self.weights)).clamp_min(0)
        first = y.gather(0, observed.int().argmax(0, keepdim=True))[0]
        level = y.new_zeros(y.shape[1])
        status = torch.zeros_like(count)
        status[steps <= size + 2] = STATUS.index("too short")
        if self.trend == "none" and not self.weights:
            same = (status == 0) & (torch.where(observed, y, first) == first).all(0)
            level[same] = first[same]
        status[count == 0] = STATUS.index("all missing")

        todo = (status == 0).nonzero()[:, 0]
        model = self.orders, self.order[1], self.seasonal[1]
        shift, effect = self._shift(y)
        found = estimate((y - effect)[:, todo] - level[todo], z, *model, effort=effort)
        status[todo[~found.converged]] = STATUS.index("not converged")
        status[todo[found.perfect]] = STATUS.index("constant")
        coefficients, variance, loglik = (y.new_full((y.shape[1], *x.shape[1:]), torch.nan) for x in found[:3])
        coefficients[todo], variance[todo], loglik[todo] = found[:3]
        if self.trend != "none":
            coefficients[:, sum(self.orders.sizes)] += shift

        shape = series.shape[1:]
        self.regressors = torch.tensor(given)
        self.coefficients = coefficients.T.reshape(size, *shape)
        self.variance, self.loglik, self.level = (x.reshape(shape) for x in (variance, loglik, level))
        self.steps, self.status = steps.reshape(shape), status.reshape(shape)
        return self

    def forward(self, past: Tensor, regressors: Tensor | None = None) -> Tensor:
        return self.distribution(past, regressors).mean

    @torch.no_grad()
    def distribution(self, past: Tensor, regressors: Tensor | None = None) -> Normal:
        """The forecast with its exact standard deviation at the estimated coefficients, ``(B, horizon, C, *S)``.

        A forecast that cannot be made is NaN in both. A constant series has the standard deviation 0.
        """
        batch, length, shape = len(past), past.shape[1] if past.ndim > 1 else 0, past.shape[2:]
        if past.ndim < 3 or length <= len(self.weights):
            raise ValueError(
                f"past must be (B, T, C, *S) with more than {len(self.weights)} steps, got shape {tuple(past.shape)}"
            )
        self._check_like(past.flatten(0, 1))
        coefficients = self._rows(self.coefficients).repeat(batch, 1)
        effect = self._effect(length + self.horizon, batch, regressors)  # (T + horizon, B * N)
        y = past.to(self.coefficients).movedim(1, 0).reshape(length, -1) - effect[:length]
        mean, variance = y.new_full((2, self.horizon, y.shape[1]), torch.nan).unbind(0)
        block, slow = block_size(length, y.device), filter_size(length, self.orders, self.weights, y.device)
        possible = ~self.variance.flatten().isnan().repeat(batch)
        missing = y.isnan()
        begin = (~missing).int().argmax(0)
        # What is shorter than the orders of its model needs the filter too, unless it is the whole past.
        reach = len(self.weights) + max(self.orders.ar, self.orders.ma, 1)
        gaps = (missing.sum(0) != begin) | ((begin > 0) & (length - begin < reach))
        own = coefficients[:, : sum(self.orders.sizes)]
        for which in _split(possible & ~gaps, block):
            model = self.orders, self.order[1], self.seasonal[1], self.horizon
            mean[:, which], variance[:, which] = ahead(y[:, which], own[which], *model, begin=begin[which])
        for which in _split(possible & gaps, slow):
            ar, ma = polynomials(own[which], self.orders)
            found = kalman(y[:, which], y.new_zeros(length, 0), ar, ma, self.weights, horizon=self.horizon)
            mean[:, which], variance[:, which] = found.ahead, found.ahead_variances
        mean = mean + effect[length:]
        spread = (variance * self.variance.flatten().repeat(batch)).sqrt().masked_fill(mean.isnan(), torch.nan)
        dtype = past.dtype if past.is_floating_point() else self.coefficients.dtype
        mean, spread = (x.unflatten(1, (batch, *shape)).movedim(1, 0).to(dtype) for x in (mean, spread))
        return Normal(mean, spread, validate_args=False)

    @torch.no_grad()
    def residuals(self, series: Tensor, regressors: Tensor | None = None) -> Tensor:
        """Standardised one-step forecast errors of a series, ``(T, C, *S)`` to the same.

        They are white noise of variance 1 if the model is right. No residual depends on later values of the series. NaN
        for the first d + m D values, until enough is known for a forecast, and where the series is missing.
        """
        self._check_like(series)
        y = series.to(self.coefficients).flatten(1) - self._effect(len(series), 1, regressors)
        result = torch.full_like(y, torch.nan)
        own = self._rows(self.coefficients)[:, : sum(self.orders.sizes)]
        possible = ~own.isnan().any(1) & (self.variance.flatten() > 0)
        for which in _split(possible, filter_size(len(y), self.orders, self.weights, y.device)):
            ar, ma = polynomials(own[which], self.orders)
            found = kalman(y[:, which], y.new_zeros(len(y), 0), ar, ma, self.weights, causal=True)
            deviation = (found.variances * self.variance.flatten()[which]).sqrt()
            result[len(self.weights) :, which] = found.innovations[:, 0] / deviation
        return result.reshape(series.shape).to(series.dtype if series.is_floating_point() else result.dtype)

    @torch.no_grad()
    def standard_errors(self, series: Tensor, regressors: Tensor | None = None) -> Tensor:
        """Standard errors of ``coefficients``, in the same shape, from the series that they were fitted to.

        They are the root of the diagonal of the inverse Hessian of the exact log likelihood; NaN where that is not
        positive, as where an estimate lies at the edge of the stationary or invertible models.
        """
        self._check_like(series)
        y, z = (x.double() for x in self._checked(series, regressors))  # differences of gradients need the precision
        y = y - self._shift(y)[1]
        usable = (self.status == STATUS.index("ok")) | (self.status == STATUS.index("not converged"))
        result = torch.full_like(self._rows(self.coefficients), torch.nan)
        todo = usable.flatten().nonzero()[:, 0]
        own = self._rows(self.coefficients)[todo][:, : sum(self.orders.sizes)].double()
        found = covariance(y[:, todo], z, own, self.orders, self.order[1], self.seasonal[1])
        result[todo] = found.diagonal(dim1=-2, dim2=-1).sqrt().to(result)
        return result.T.reshape(self.coefficients.shape)

    def _checked(self, series: Tensor, regressors: Tensor | None) -> tuple[Tensor, Tensor]:
        """The series as ``(T, N)`` and all regressors, those of the trend first, ``(T, K)``."""
        if series.ndim < 2 or len(series) == 0:
            raise ValueError(f"series must be (T, C, *S) with at least one step, got shape {tuple(series.shape)}")
        if series.isinf().any():
            raise ValueError(
                f"series has {int(series.isinf().sum())} infinite values: make them NaN if they are missing"
            )
        y = series.to(self.dtype).flatten(1)
        trend = {"none": [], "mean": [torch.ones_like(y[:, 0])], "drift": [torch.arange(len(y)).to(y)]}[self.trend]
        if regressors is not None:
            if regressors.ndim != 2 or len(regressors) != len(series) or not regressors.isfinite().all():
                raise ValueError(
                    f"regressors must be (T, K) with T={len(series)} and nothing missing, got shape "
                    f"{tuple(regressors.shape)} with {int((~regressors.isfinite()).sum())} missing or infinite values"
                )
            trend = [*trend, *regressors.to(y).unbind(1)]
        z = torch.stack(trend, 1) if trend else y.new_zeros(len(y), 0)
        if z.shape[1] and len(z) > len(self.weights):
            w = difference(z, self.order[1], self.seasonal[1], self.orders.season)
            rank = int(torch.linalg.matrix_rank(w / w.norm(dim=0).clamp_min(1e-300)))
            if rank < z.shape[1]:
                raise ValueError(
                    f"regressors must be independent of each other and of the trend {self.trend!r} after differencing, "
                    f"got {z.shape[1]} columns of rank {rank}"
                )
        return y, z

    def _shift(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A rough mean or drift of each series, ``(N,)``, and its effect; sums without it keep their digits."""
        shift = torch.zeros_like(y[0])
        if self.trend == "mean":
            shift = y.nanmean(0).nan_to_num()
            return shift, shift.expand_as(y)
        time = torch.arange(len(y)).to(y)[:, None]
        if self.trend == "drift":
            seen = torch.where(y.isnan(), 0.0, 1.0)
            x, line = y.nan_to_num(), time * seen
            count = seen.sum(0).clamp_min(1)
            varied = (line * time).sum(0) - line.sum(0).square() / count
            shift = ((line * x).sum(0) - line.sum(0) * x.sum(0) / count) / varied
            shift = torch.where(varied > 0, shift, 0.0)
        return shift, shift * time

    def _check_like(self, series: Tensor) -> None:
        if unfitted(self.coefficients):
            raise ValueError("this ARIMA is not fitted yet: call fit(series) first")
        if series.shape[1:] != self.variance.shape:
            raise ValueError(
                f"fitted to channels and places {tuple(self.variance.shape)}, got {tuple(series.shape[1:])}"
            )
        if series.isinf().any():
            raise ValueError(
                f"the past has {int(series.isinf().sum())} infinite values: make them NaN if they are missing"
            )

    def _rows(self, buffer: Tensor) -> Tensor:
        """``(k, C, *S)`` as ``(N, k)``."""
        return buffer.flatten(1).T

    def _effect(self, length: int, batch: int, regressors: Tensor | None) -> Tensor:
        """What level, trend and regressors add, ``(length, B * N)``."""
        given = int(self.regressors)
        if (regressors is None) != (given == 0):
            raise ValueError(f"fitted with {given} regressors, got {'none' if regressors is None else 'some'}")
        beta = self._rows(self.coefficients)[:, sum(self.orders.sizes) :]  # (N, K)
        effect = self.level.flatten().expand(length, batch, -1)
        if self.trend != "none":
            time = torch.arange(length).to(beta) if self.trend == "drift" else beta.new_ones(length)
            effect = effect + time[:, None, None] * beta[:, 0]
        if given:
            z = regressors if regressors.ndim == 3 else regressors[None]
            if z.shape[1:] != (length, given) or len(z) not in (1, batch) or not z.isfinite().all():
                raise ValueError(
                    f"regressors must be ({length}, {given}) or ({batch}, {length}, {given}) with nothing missing, "
                    f"past and horizon together, got shape {tuple(regressors.shape)}"
                )
            effect = effect + torch.einsum("btk,nk->tbn", z.to(beta), beta[:, beta.shape[1] - given :])
        return effect.reshape(length, -1)


def _split(chosen: Tensor, size: int) -> tuple[Tensor, ...]:
    """The places where ``chosen`` is true, at most ``size`` at a time."""
    places = chosen.nonzero()[:, 0]
    return places.split(size) if len(places) else ()


def departures(x: Tensor) -> Tensor:
    """Departures from the mean of each series ``(T, ...)`` in units of the largest; NaN for a constant series."""
    seen = ~x.isnan()
    low, high = torch.where(seen, x, torch.inf).amin(0), torch.where(seen, x, -torch.inf).amax(0)
    size = torch.frexp(torch.maximum(high, -low)).exponent - 1  # a power of two costs no digits
    x = torch.where(high > low, torch.ldexp(x, -size), torch.nan)
    x = x - x.nanmean(0)
    return x / x.abs().nan_to_num().amax(0)


class Verdict(NamedTuple):
    """A statistic and its p value, ``(C, *S)`` each."""

    statistic: Tensor
    p_value: Tensor


def ljung_box(residuals: Tensor, *, lags: int, fitted: int = 0) -> Verdict:
    r"""Is anything left in the residuals' autocorrelations up to ``lags``?

    .. math:: Q = n (n + 2) \sum_{\tau=1}^{\mathrm{lags}} \frac{\rho_\tau^2}{n - \tau}

    which is chi-squared with ``lags - fitted`` degrees of freedom under white noise; ``fitted`` is the number of ar and
    ma coefficients. Missing residuals are left out, of the mean of products too. A
    constant series gives NaN.

    Shapes: ``(T, C, *S)`` to ``(C, *S)`` each. Raises ValueError unless ``fitted < lags < T``.
    Source: Ljung and Box (1978), doi:10.1093/biomet/65.2.297.

    >>> white = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    >>> bool(ljung_box(white, lags=10).p_value > 0.01), bool(ljung_box(white.cumsum(0), lags=10).p_value > 0.01)
    (True, False)
    """
    if not 0 <= fitted < lags < len(residuals):
        raise ValueError(f"needs fitted < lags < T, got fitted={fitted}, lags={lags} and T={len(residuals)}")
    seen = ~residuals.isnan()
    count = seen.sum(0)
    x = torch.where(seen, departures(residuals), 0.0)
    power = x.square().sum(0)
    rho = torch.stack([(x[lag:] * x[:-lag]).sum(0) / power for lag in range(1, lags + 1)])
    lag = torch.arange(1, lags + 1, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
    statistic = count * (count + 2) * (rho.square() / (count - lag)).sum(0)
    return Verdict(statistic, torch.special.gammaincc(torch.full_like(statistic, (lags - fitted) / 2), statistic / 2))


def jarque_bera(residuals: Tensor) -> Verdict:
    r"""Are the residuals normal, by their skewness and kurtosis?

    .. math:: J = \frac{n}{6} \Bigl( \mathrm{skew}^2 + \frac{(\mathrm{kurt} - 3)^2}{4} \Bigr)

    which is chi-squared with 2 degrees of freedom for a long normal series. Missing residuals are left
    out. A constant series gives NaN.

    Shapes: ``(T, C, *S)`` to ``(C, *S)`` each.
    Source: Jarque and Bera (1980), doi:10.1016/0165-1765(80)90024-5.

    >>> normal = torch.special.ndtri(torch.arange(1, 500) / 500)[:, None]
    >>> bool(jarque_bera(normal).p_value > 0.5), bool(jarque_bera(normal.exp()).p_value > 0.5)
    (True, False)
    """
    x = departures(residuals)
    second, third, fourth = (x.pow(power).nanmean(0) for power in (2, 3, 4))
    skew, kurtosis = third / second.pow(1.5), fourth / second.square()
    statistic = (~x.isnan()).sum(0) / 6 * (skew.square() + (kurtosis - 3).square() / 4)
    return Verdict(statistic, (-statistic / 2).exp())
