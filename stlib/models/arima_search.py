"""The orders of an ARIMA model, chosen for each series of a field by itself."""

import itertools

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from stlib.models._arima_likelihood import difference, partials, polynomials
from stlib.models._arima_starts import errors
from stlib.models.arima import ARIMA, STATUS, departures

CRITICAL = 0.463  # of the KPSS statistic about a level, at 5 %
AWAY = 1.001  # least size of a root of a model that may be chosen
NEAR = 100.0  # of the AICc: what lacks more in the approximation is not fitted
STRONG = 0.64  # a season stronger than this is differenced


def kpss(series: Tensor) -> Tensor:
    r"""The KPSS statistic: large if a series does not stay about a level.

    .. math:: \frac{1}{n^2 s^2} \sum_t \Bigl( \sum_{\tau \le t} (x_\tau - \bar x) \Bigr)^2, \qquad
       s^2 = \gamma_0 + 2 \sum_{\tau=1}^{l} \Bigl( 1 - \frac{\tau}{l+1} \Bigr) \gamma_\tau

    with :math:`l = \lfloor 3 \sqrt n / 13 \rfloor` lags. Above 0.463 the level is doubtful at 5 %. Missing values are
    left out of the sums. A constant series gives NaN.

    Shapes: ``(T, C, *S)`` to ``(C, *S)``.
    Source: Kwiatkowski, Phillips, Schmidt and Shin (1992), doi:10.1016/0304-4076(92)90104-Y; number of lags: Hyndman
    and Khandakar (2008), doi:10.18637/jss.v027.i03.

    >>> noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    >>> kpss(noise).item() < 0.463 < kpss(noise.cumsum(0)).item()
    True
    """
    seen = ~series.isnan()
    count = seen.sum(0)
    x = torch.where(seen, departures(series), 0.0)
    lags = (3 * count.sqrt() / 13).floor()
    spread = x.square().sum(0)
    for lag in range(1, int(lags.max()) + 1):
        spread = spread + 2 * (1 - lag / (lags + 1)).clamp_min(0) * (x[lag:] * x[:-lag]).sum(0)
    sums = torch.where(seen, x.cumsum(0), 0.0)
    return sums.square().sum(0) / (count * spread)


def seasonal_strength(series: Tensor, *, season: int) -> Tensor:
    r"""How much of what is not trend is season, from 0 to 1.

    .. math:: \max\Bigl( 0,\; 1 - \frac{\mathrm{var}(R)}{\mathrm{var}(S + R)} \Bigr)

    The trend is a centred moving average over one season, :math:`S` the mean of each phase of what it leaves, and
    :math:`R` the rest. Less than two seasons give 0.

    Shapes: ``(T, C, *S)`` to ``(C, *S)``. Raises ValueError for a season of fewer than 2 steps.
    Source: Wang, Smith and Hyndman (2006), doi:10.1007/s10618-005-0039-x. Deviation: a classical decomposition in place
    of a local regression.

    >>> week = torch.tensor([1.0, 2, 3, 4, 5, 9, 9]).repeat(10)[:, None]
    >>> seasonal_strength(week, season=7).item()
    1.0
    """
    if season < 2:
        raise ValueError(f"season must be at least 2 steps, got {season}")
    half, series = season // 2, departures(series)
    if len(series) < 2 * season:
        return torch.zeros_like(series[0])
    kernel = torch.ones(2 * half + 1, dtype=series.dtype, device=series.device)
    if season % 2 == 0:
        kernel[0] = kernel[-1] = 0.5
    windows = series.unfold(0, 2 * half + 1, 1)
    rest = series[half : len(series) - half] - (windows * kernel).sum(-1) / season
    padded = torch.cat([rest, rest.new_full((-len(rest) % season, *rest.shape[1:]), torch.nan)])
    phases = padded.unflatten(0, (-1, season))
    usual = phases.nanmean(0)
    usual = usual.repeat(len(phases), *[1] * (series.ndim - 1))[: len(rest)]
    around = rest - rest.nanmean(0)
    left = rest - usual
    share = 1 - (left - left.nanmean(0)).square().nanmean(0) / around.square().nanmean(0)
    return share.clamp_min(0).nan_to_num()


class OwnOrders(nn.Module):
    """ARIMA models of several orders, of which each series has its own.

    ``which``, ``(C, *S)``, is an index into ``models``; model i is fitted to ``series[:, which == i]`` as one channel.

    Shapes: as `ARIMA`, without regressors.
    """

    def __init__(self, *, models: list[ARIMA], which: Tensor):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.register_buffer("which", which)

    def forward(self, past: Tensor) -> Tensor:
        return self.distribution(past).mean

    def distribution(self, past: Tensor) -> Normal:
        """The forecast with its exact standard deviation, as `ARIMA.distribution`."""
        if past.ndim < 3 or past.shape[2:] != self.which.shape:
            raise ValueError(f"past must be (B, T, *{tuple(self.which.shape)}), got shape {tuple(past.shape)}")
        mean = past.new_full((len(past), self.models[0].horizon, *self.which.shape), torch.nan)
        spread = mean.clone()
        for i, model in enumerate(self.models):
            own = self.which == i
            found = model.distribution(past[:, :, own][:, :, None])
            mean[:, :, own], spread[:, :, own] = found.mean[:, :, 0], found.stddev[:, :, 0]
        return Normal(mean, spread, validate_args=False)

    def orders(self) -> list[tuple[tuple[int, int, int], tuple[int, int, int], str]]:
        """Order, seasonal order and trend of each series, row by row of ``which``."""
        kinds = [(model.order, model.seasonal, model.trend) for model in self.models]
        return [kinds[i] for i in self.which.flatten().tolist()]


@torch.no_grad()
def search(
    series: Tensor, *, horizon: int, season: int = 1, p: int = 2, q: int = 2, P: int = 1, Q: int = 1, together: int = 4
) -> OwnOrders:
    r"""The model of each series with the least AICc, among all orders up to (p, q)(P, Q).

    The number of differences comes first: a seasonal one where `seasonal_strength` is above 0.64, then up to two plain
    ones while `kpss` is above 0.463. A level (without differences) or a drift (with one) is tried both ways. At most
    ``together`` coefficients of all four kinds take part, and those of a season only for ``season`` of 2 or more.
    A model with a root within 0.001 of the unit circle is not chosen. Models that the spectral approximation of the
    likelihood puts far behind are not fitted; the winner is fitted again, to the end. All series are fitted at once,
    order by order.

    Shapes: ``(T, C, *S)``. A series that no model fits (constant, too short, all missing) gets the first and smallest
    one. Raises ValueError as `ARIMA`.
    Source: Hyndman and Khandakar (2008), doi:10.18637/jss.v027.i03. Deviation: the whole grid in place of steps through
    it, and exact likelihoods.

    >>> _ = torch.manual_seed(0)
    >>> walks = torch.randn(150, 1, 3).cumsum(0)
    >>> model = search(walks, horizon=2, p=1, q=1)
    >>> len(model.orders()), model(walks[None]).shape
    (3, torch.Size([1, 2, 1, 3]))
    """
    y = series.double().flatten(1)
    number = y.shape[1]
    seasonal = torch.zeros(number, dtype=torch.long, device=y.device)
    if season > 1:
        seasonal = (seasonal_strength(y, season=season) > STRONG).long()
    plain = torch.zeros_like(seasonal)
    for i in (0, 1):
        for j in (0, 1):
            if len(y) > i * season + 2:
                level = kpss(difference(y, j, i, season)) > CRITICAL
                plain = torch.where((seasonal == i) & (plain == j) & level, j + 1, plain)

    best = y.new_full((number,), torch.inf)
    choice = [((0, int(d), 0), (0, int(s), 0), "none") for d, s in zip(plain, seasonal, strict=True)]
    for d, s in sorted({(int(a), int(b)) for a, b in zip(plain, seasonal, strict=True)}):
        group = ((plain == d) & (seasonal == s)).nonzero()[:, 0]
        trends = ("none", "mean") if d + s == 0 else ("none", "drift") if d + s == 1 else ("none",)
        ranges = [range(p + 1), range(q + 1), *((range(P + 1), range(Q + 1)) if season > 1 else ((0,), (0,)))]
        kinds = [
            ((ar, d, ma), (seasonal_ar, s, seasonal_ma), trend)
            for trend, (ar, ma, seasonal_ar, seasonal_ma) in itertools.product(trends, itertools.product(*ranges))
            if ar + ma + seasonal_ar + seasonal_ma <= together
        ]
        rough = torch.stack([_rough_aicc(y[:, group], kind, season) for kind in kinds])  # (kinds, n)
        near = (rough <= rough.amin(0) + NEAR) | rough.isnan().any(0)
        for kind, own in zip(kinds, near, strict=True):
            own = group[own]
            if len(own) == 0:
                continue
            model = _model(kind, season, horizon).fit(y[:, None, own], effort="rough")
            fitted = (model.status[0] == STATUS.index("ok")) | (model.status[0] == STATUS.index("not converged"))
            fitted &= _steady(model)
            aicc = torch.where(fitted, model.aicc[0], torch.inf).nan_to_num(torch.inf)
            for i in (aicc < best[own]).nonzero()[:, 0].tolist():
                choice[int(own[i])] = kind
            best[own] = torch.minimum(best[own], aicc)
    kinds = sorted(set(choice))
    which = torch.tensor([kinds.index(kind) for kind in choice], device=y.device)
    models = [
        _model(kind, season, horizon).fit(y[:, None, which == i], effort="one start") for i, kind in enumerate(kinds)
    ]
    return OwnOrders(models=models, which=which.reshape(series.shape[1:]))


def _rough_aicc(y: Tensor, kind: tuple, season: int) -> Tensor:
    """The AICc of series ``(T, N)``, up to a constant, with the spectral approximation of the likelihood."""
    order, seasonal, trend = kind
    orders = _model(kind, season, 1).orders
    w = difference(y, order[1], seasonal[1], season)
    steps = (~w.isnan()).sum(0)
    w = torch.where(w.isnan(), 0.0, w - w.nanmean(0) if trend != "none" else w)
    scale = w.abs().amax(0).clamp_min(1e-300)
    error = errors(w / scale, orders)[0].amin(1) * scale.square()
    k = sum(orders.sizes) + (trend != "none") + 1
    return steps * error.log() + 2 * k * steps / (steps - k - 1).clamp_min(1)


def _steady(model: ARIMA) -> Tensor:
    """Whether all roots of a model's polynomials, ``(1, N)`` series, are away from the unit circle."""
    own = model.coefficients[: sum(model.orders.sizes)].flatten(1).T
    ar, ma = polynomials(own, model.orders)
    powers = [AWAY ** torch.arange(1, part.shape[1] + 1).to(part) for part in (ar, ma)]
    found = [partials(sign * part * power) for sign, part, power in zip((1, -1), (ar, ma), powers, strict=True)]
    return (torch.cat(found, -1).abs() < 1).all(-1)


def _model(kind: tuple, season: int, horizon: int) -> ARIMA:
    order, seasonal, trend = kind
    return ARIMA(order=order, seasonal=seasonal, season=season, trend=trend, horizon=horizon)
