r"""The exact Gaussian likelihood of seasonal ARMA models, for many series at once.

Everything here works on ``(T, N)``: time first, then one column a series, each with its own coefficients. The last dim
is the long one, so a Python loop over time costs little next to the work in it. `stlib.models.arima` is the way in.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Orders(NamedTuple):
    """Orders of the model :math:`\\phi(B)\\Phi(B^m)\\, w_t = \\vartheta(B)\\Theta(B^m)\\, \\varepsilon_t`."""

    p: int
    q: int
    P: int
    Q: int
    season: int

    @property
    def ar(self) -> int:
        return self.p + self.season * self.P

    @property
    def ma(self) -> int:
        return self.q + self.season * self.Q

    @property
    def sizes(self) -> list[int]:
        """How the coefficients are laid out: ar, ma, seasonal ar, seasonal ma."""
        return [self.p, self.q, self.P, self.Q]


def difference_weights(d: int, seasonal: int, season: int) -> list[int]:
    """Weights of :math:`y_{t-1}, y_{t-2}, \\dots` in :math:`y_t = w_t + \\sum_i \\delta_i y_{t-i}`.

    >>> difference_weights(1, 1, 4)
    [1, 0, 0, 1, -1]
    """
    weights = [1]
    for lag in [1] * d + [season] * seasonal:
        shifted = [0] * lag + weights
        weights = [a - b for a, b in zip(weights + [0] * lag, shifted, strict=True)]
    return [-weight for weight in weights[1:]]


def difference(x: Tensor, d: int, seasonal: int, season: int) -> Tensor:
    """Differences along the first dim; the result is shorter by d + seasonal · season steps."""
    for lag in [season] * seasonal + [1] * d:
        x = x[lag:] - x[:-lag]
    return x


# Coefficients --------------------------------------------------------------------------------------------------------


def stationary(x: Tensor) -> Tensor:
    r"""Coefficients of a stationary autoregression from any real numbers, ``(..., p)`` to ``(..., p)``.

    :math:`\tanh x_k` is the partial autocorrelation at lag k; the Durbin-Levinson recursion gives the rest.
    Source: Monahan (1984), doi:10.1093/biomet/71.2.403; deviation: tanh for the map onto (-1, 1).

    >>> stationary(torch.tensor([0.0, 0.0])).tolist()
    [0.0, 0.0]
    """
    partial = x.tanh()
    coefficients = partial[..., :0]
    for k in range(x.shape[-1]):
        last = partial[..., k : k + 1]
        coefficients = torch.cat([coefficients - last * coefficients.flip(-1), last], -1)
    return coefficients


def unbounded(coefficients: Tensor) -> Tensor:
    """The inverse of `stationary`. Coefficients outside the stationary region are first drawn towards 0, until inside.

    >>> x = torch.tensor([0.3, -1.2, 0.5])
    >>> torch.allclose(unbounded(stationary(x)), x, atol=1e-6)
    True
    """
    order = coefficients.shape[-1]
    result, done = torch.zeros_like(coefficients), torch.zeros_like(coefficients[..., :1], dtype=torch.bool)
    for shrink in (1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.0):
        powers = shrink ** torch.arange(1, order + 1, dtype=coefficients.dtype, device=coefficients.device)
        rest, partial = coefficients * powers, []
        for _ in range(order):
            last = rest[..., -1:]
            partial.insert(0, last)
            rest = rest[..., :-1]
            rest = (rest + last * rest.flip(-1)) / (1 - last * last)
        partial = torch.cat(partial, -1) if partial else coefficients
        inside = (partial.abs() < (1 if shrink == 1 else 0.99)).all(-1, keepdim=True)
        result = torch.where(inside & ~done, partial, result)
        done = done | inside
    return result.clamp(-1 + 1e-7, 1 - 1e-7).atanh()


def natural(x: Tensor, orders: Orders) -> Tensor:
    """Coefficients of a stationary and invertible model from any real numbers, ``(N, k)`` to ``(N, k)``."""
    ar, ma, seasonal_ar, seasonal_ma = x.split(orders.sizes, -1)
    return torch.cat([stationary(ar), -stationary(ma), stationary(seasonal_ar), -stationary(seasonal_ma)], -1)


def unnatural(coefficients: Tensor, orders: Orders) -> Tensor:
    """The inverse of `natural`."""
    ar, ma, seasonal_ar, seasonal_ma = coefficients.split(orders.sizes, -1)
    return torch.cat([unbounded(ar), unbounded(-ma), unbounded(seasonal_ar), unbounded(-seasonal_ma)], -1)


def multiplied(short: Tensor, seasonal: Tensor, season: int) -> Tensor:
    """:math:`(1 + \\sum c_i B^i)(1 + \\sum C_j B^{mj}) - 1`: ``(N, p)`` and ``(N, P)`` to ``(N, p + m P)``."""
    order = short.shape[-1] + season * seasonal.shape[-1]
    base = F.pad(short, (1, 0), value=1.0)
    total = F.pad(base, (0, order + 1 - base.shape[-1]))
    for j in range(seasonal.shape[-1]):
        lag = season * (j + 1)
        total = total + F.pad(seasonal[..., j : j + 1] * base, (lag, order + 1 - base.shape[-1] - lag))
    return total[..., 1:]


def polynomials(coefficients: Tensor, orders: Orders) -> tuple[Tensor, Tensor]:
    """All of :math:`\\phi` and :math:`\\vartheta`, seasonal parts included: ``(N, orders.ar)``, ``(N, orders.ma)``."""
    ar, ma, seasonal_ar, seasonal_ma = coefficients.split(orders.sizes, -1)
    return -multiplied(-ar, -seasonal_ar, orders.season), multiplied(ma, seasonal_ma, orders.season)


# Filters -------------------------------------------------------------------------------------------------------------


def delayed(x: Tensor, lag: int) -> Tensor:
    """:math:`x_{t-\\mathrm{lag}}` along the first dim, 0 before the start."""
    return x if lag == 0 else torch.cat([torch.zeros_like(x[:lag]), x[:-lag]]) if lag < len(x) else torch.zeros_like(x)


def weighted(x: Tensor, weights: Tensor, lag: int) -> Tensor:
    """:math:`x_t + \\sum_i c_i x_{t - i\\,\\mathrm{lag}}`: x ``(T, ..., N)``, weights ``(N, order)``."""
    result = x.clone()
    for i in range(weights.shape[-1]):
        shift = lag * (i + 1)
        if shift < len(x):
            result[shift:].addcmul_(x[:-shift], weights[:, i])
    return result


def inverted(x: Tensor, weights: Tensor, lag: int) -> Tensor:
    """The inverse of `weighted`, from a zero start: :math:`y_t = x_t - \\sum_i c_i y_{t - i\\,\\mathrm{lag}}`."""
    result = x.clone()
    if weights.shape[-1] == 0:
        return result
    pieces = result.split(lag)
    columns = [column.contiguous() for column in weights.unbind(-1)]
    for t in range(1, len(pieces)):
        for i, column in enumerate(columns[:t]):
            before, now = pieces[t - i - 1], pieces[t]
            now.addcmul_(before[: len(now)] if len(now) < lag else before, column, value=-1)
    return result


def both(x: Tensor, short: Tensor, seasonal: Tensor, season: int, operation) -> Tensor:
    return operation(operation(x, short, 1), seasonal, season)


# What happened before the series began -------------------------------------------------------------------------------


def autocovariances(ar: Tensor, ma: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    r""":math:`\gamma_0, \dots, \gamma_{\mathrm{lags}}` of an ARMA process with noise of variance 1, and its weights
    :math:`\psi_0, \dots, \psi_{\mathrm{lags}}`; ``(N, lags + 1)`` each.

    Source: Brockwell and Davis (1991), section 3.3, doi:10.1007/978-1-4419-0320-4.

    >>> autocovariances(torch.tensor([[0.5]]), torch.zeros(1, 0), 2)[0].tolist()  # 1 / (1 - 0.25), then halved
    [[1.3333333730697632, 0.6666666865348816, 0.3333333432674408]]
    """
    p, q, n = ar.shape[-1], ma.shape[-1], len(ar)
    ones = torch.ones(n, 1, dtype=ar.dtype, device=ar.device)
    theta = torch.cat([ones, ma, ones.new_zeros(n, max(0, max(p, lags) - q))], -1)
    psi = [ones[:, 0]]
    for j in range(1, max(lags, q) + 1):
        value = theta[:, j]
        if reach := min(j, p):
            value = value + (ar[:, :reach] * torch.stack(psi[-1 : -reach - 1 : -1], -1)).sum(-1)
        psi.append(value)
    psi = torch.stack(psi, -1)
    right = torch.stack(
        [
            (theta[:, k : q + 1] * psi[:, : q + 1 - k]).sum(-1) if k <= q else 0 * psi[:, 0]
            for k in range(max(p, lags) + 1)
        ],
        -1,
    )
    if p == 0:
        return right[:, : lags + 1], psi[:, : lags + 1]
    step = torch.arange(p + 1, device=ar.device)
    delta = (step[:, None] - step[None, 1:]).abs()  # (p + 1, p): which autocovariance lag i meets in equation k
    place = F.one_hot(delta, p + 1).to(ar.dtype)  # (p + 1, p, p + 1)
    matrix = torch.eye(p + 1, dtype=ar.dtype, device=ar.device) - torch.einsum("ni,kij->nkj", ar, place)
    solved = torch.linalg.solve_ex(matrix, right[:, : p + 1]).result
    gamma = list(solved.unbind(-1))
    for k in range(p + 1, lags + 1):
        gamma.append((ar * torch.stack(gamma[-1 : -p - 1 : -1], -1)).sum(-1) + right[:, k])
    return torch.stack(gamma[: lags + 1], -1), psi[:, : lags + 1]


def initial_covariance(ar: Tensor, ma: Tensor) -> Tensor:
    r"""Covariance ``(N, r, r)`` of what the past before the series adds to its first r = max(p, q) equations,

    .. math:: g_t = \sum_{i \ge t} \phi_i w_{t-i} + \sum_{j \ge t} \vartheta_j \varepsilon_{t-j}, \qquad t = 1, \dots, r

    in units of the noise variance.
    """
    r = max(ar.shape[-1], ma.shape[-1])
    gamma, psi = autocovariances(ar, ma, max(r - 1, 0))
    step = torch.arange(r, device=ar.device)
    hankel = step[:, None] + step  # entry [t, m]: the weight of what lies m + 1 steps before t = 1
    of_w, of_noise = (F.pad(c, (0, 2 * r - c.shape[-1]))[:, hankel] for c in (ar, ma))
    apart = step - step[:, None]
    cross = torch.where(apart >= 0, psi[:, apart.clamp_min(0)], 0.0)  # of w_{-m} and noise_{-n}
    mixed = of_w @ cross @ of_noise.mT
    return of_w @ gamma[:, apart.abs()] @ of_w.mT + mixed + mixed.mT + of_noise @ of_noise.mT


# The likelihood of complete series -----------------------------------------------------------------------------------


def dot(x: Tensor, y: Tensor, late_x: int = 0, late_y: int = 0) -> Tensor:
    r""":math:`\sum_t x_{t - \mathrm{late_x}}\, y_{t - \mathrm{late_y}}` for each series: two ``(T, N)`` to ``(N,)``."""
    first, steps = max(late_x, late_y), len(x)
    if first >= steps:
        return torch.zeros_like(x[0])
    return (x[first - late_x : steps - late_x] * y[first - late_y : steps - late_y]).sum(0)


def shifted_products(x: Tensor, y: Tensor, size: int) -> Tensor:
    r""":math:`\sum_t x_{t-j}\, y_{t-k}` for j and k below ``size``: two ``(T, N)`` to ``(N, size, size)``.

    Only the last row and column are sums over time: going up a diagonal adds one product.
    """
    last = size - 1
    tail_x, tail_y = (F.pad(z[max(0, len(z) - size) :].flip(0), (0, 0, 0, max(0, size - len(z)))).T for z in (x, y))
    rows = [torch.stack([dot(x, y, last, k) for k in range(size)], -1)]
    for j in range(last - 1, -1, -1):
        inner = rows[0][:, 1:] + tail_x[:, j, None] * tail_y[:, :last]
        rows.insert(0, torch.cat([inner, dot(x, y, j, last)[:, None]], -1))
    return torch.stack(rows, 1)


class Likelihood(NamedTuple):
    """What `exact` finds; n is the number of differenced steps of each series."""

    deviance: Tensor  # (N,) n log(sum / n) + log determinant: -2 log likelihood less n (1 + log 2 pi); inf if undefined
    sum: Tensor  # (N,) weighted sum of squares, n times the noise variance
    beta: Tensor  # (N, K) coefficients of the regressors
    beta_precision: Tensor  # (N, K, K) inverse of their covariance, in units of 1 / noise variance
    noise: Tensor  # (T, N) the noise, as far as the whole series tells
    pulse: Tensor  # (T, N) response of -noise to the first element of g; one step later for each further one
    start: Tensor  # (N, r) posterior mean of g
    start_covariance: Tensor  # (N, r, r) posterior covariance of g, in units of the noise variance
    gradient: Tensor | None = None  # (N, k) of the deviance
    curvature: Tensor | None = None  # (N, k, k) its Gauss-Newton Hessian


def exact(
    w: Tensor,
    regressors: Tensor,
    coefficients: Tensor,
    orders: Orders,
    *,
    begin: Tensor | None = None,
    beta: Tensor | None = None,
    slopes: bool = False,
) -> Likelihood:
    r"""The exact Gaussian likelihood of complete series, with the noise variance and the regression concentrated out.

    From a zero start the noise is linear in what the past before the series adds, g (see `initial_covariance`):
    :math:`\varepsilon = \varepsilon^0 - F g`, with :math:`F` the columns of :math:`1 / \vartheta(B)`. Integrating
    :math:`g \sim N(0, \sigma^2 \Sigma)` out gives

    .. math:: -2 \log L = n \log 2\pi\sigma^2 + S / \sigma^2 + \log\lvert I + F^\top F\, \Sigma \rvert, \qquad
       S = \varepsilon^{0\top} (I - F P F^\top)\, \varepsilon^0, \quad P = \Sigma (I + F^\top F\, \Sigma)^{-1}

    Shapes: w ``(T, N)``, regressors ``(T, K)``, coefficients ``(N, k)``; ``begin`` ``(N,)`` is the first step of each
    series, before which it is not looked at; ``beta`` ``(N, K)`` if known. With ``slopes`` the gradient and the
    Gauss-Newton matrix by the coefficients come along.
    Source: Ljung and Box (1979), doi:10.1093/biomet/66.2.265.
    """
    ar, ma, seasonal_ar, seasonal_ma = coefficients.split(orders.sizes, -1)
    season, (length, number), columns = orders.season, w.shape, regressors.shape[1]
    begin = torch.zeros(number, dtype=torch.long, device=w.device) if begin is None else begin
    steps = (length - begin).to(w.dtype)
    r = max(orders.ar, orders.ma)

    time = torch.arange(length, device=w.device)[:, None]
    started = time >= begin
    stacked = torch.stack([w, *regressors.T[..., None].expand(-1, -1, number), (time == begin).to(w.dtype)], 1)
    stacked[:, :-1] *= started[:, None]
    filtered = both(stacked, ma, seasonal_ma, season, inverted)
    through, pulse = filtered[:, :-1], filtered[:, -1]
    zero_start = both(through, -ar, -seasonal_ar, season, weighted).unbind(1)  # 1 + K of (T, N)

    own = torch.stack([torch.stack([dot(x, y) for x in zero_start], -1) for y in zero_start], -1)
    cross = (
        torch.stack([torch.stack([dot(pulse, x, k) for k in range(r)], -1) for x in zero_start], -1)
        if r
        else own[:, :0]
    )  # (N, r, 1 + K)
    gram = shifted_products(pulse, pulse, r) if r else w.new_zeros(number, 0, 0)
    sigma = initial_covariance(*polynomials(coefficients, orders))
    spread = torch.eye(r, dtype=w.dtype, device=w.device) + gram @ sigma
    factors, pivots, _ = torch.linalg.lu_factor_ex(spread)
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    swaps = (pivots != torch.arange(1, r + 1, device=w.device)).sum(-1)
    positive = ((diagonal < 0).sum(-1) + swaps) % 2 == 0
    posterior = torch.linalg.lu_solve(factors, pivots, sigma, left=False)
    posterior = (posterior + posterior.mT) / 2
    reduced = own - cross.mT @ posterior @ cross
    if beta is None:
        beta = torch.linalg.solve_ex(reduced[:, 1:, 1:], reduced[:, 1:, 0]).result
    contrast = F.pad(-beta, (1, 0), value=1.0)  # (N, 1 + K)
    total = torch.einsum("ni,nij,nj->n", contrast, reduced, contrast)
    deviance = steps * (total / steps).log() + diagonal.abs().log().sum(-1)
    deviance = torch.where(positive & (total > 0) & deviance.isfinite(), deviance, torch.inf)
    start = (posterior @ cross @ contrast[..., None])[..., 0]
    noise = zero_start[0].clone()
    for k in range(columns):
        noise.addcmul_(zero_start[1 + k], beta[:, k], value=-1)
    for k in range(min(r, length)):
        noise[k:].addcmul_(pulse[: length - k], start[:, k], value=-1)
    found = Likelihood(deviance, total, beta, reduced[:, 1:, 1:], noise, pulse, start, posterior)
    if not slopes:
        return found

    residual = through[:, 0].clone()
    for k in range(columns):
        residual.addcmul_(through[:, 1 + k], beta[:, k], value=-1)
    # Derivatives of the noise, and of the pulse, by each coefficient: a series and the number of steps it is late by.
    again = both(torch.stack([noise, pulse], 1), ma, seasonal_ma, season, inverted) if orders.ma else None
    late = []
    for count, x, other, lag in (
        (orders.p, residual, -seasonal_ar, season),
        (orders.q, again, seasonal_ma, season),
        (orders.P, residual, -ar, 1),
        (orders.Q, again, ma, 1),
    ):
        own_lag = season if lag == 1 else 1
        filtered = weighted(x, other, lag) if count else x
        late += [(filtered, own_lag * (i + 1)) for i in range(count)]
    of_noise = [(x if x.ndim == 2 else x[:, 0], lag) for x, lag in late]  # each with a minus sign
    of_pulse = [None if x.ndim == 2 else delayed(x[:, 1], lag) for x, lag in late]

    scale = steps / total
    inner = torch.stack([dot(x, noise, lag) for x, lag in of_noise], -1)
    zero = torch.zeros_like(total)
    by_response = [zero if x is None else (shifted_products(x, pulse, r) * posterior).sum((-2, -1)) for x in of_pulse]
    gradient = -2 * scale[:, None] * inner - 2 * torch.stack(by_response, -1)
    kappa = (cross @ contrast[..., None])[..., 0] - (gram @ start[..., None])[..., 0]  # the inverse of Sigma times g
    weight = torch.linalg.lu_solve(factors, pivots, gram) - scale[:, None, None] * kappa[:, :, None] * kappa[:, None]
    with torch.enable_grad():
        free = coefficients.detach().requires_grad_()
        by_sigma = (weight * initial_covariance(*polynomials(free, orders))).sum()
        gradient = gradient + torch.autograd.grad(by_sigma, free)[0]

    size = len(of_noise)
    upper = {
        (i, j): dot(of_noise[i][0], of_noise[j][0], of_noise[i][1], of_noise[j][1])
        for i in range(size)
        for j in range(i, size)
    }
    square = [torch.stack([upper[min(i, j), max(i, j)] for j in range(size)], -1) for i in range(size)]
    curvature = torch.stack(square, 1)
    onto = curvature[..., :0]  # (N, k, r)
    if r:
        onto = torch.stack([torch.stack([dot(pulse, x, k, lag) for k in range(r)], -1) for x, lag in of_noise], 1)
        curvature = curvature - onto @ posterior @ onto.mT
    if columns:
        along = torch.stack([torch.stack([dot(x, z, lag) for z in zero_start[1:]], -1) for x, lag in of_noise], 1)
        along = along - onto @ posterior @ cross[..., 1:]
        curvature = curvature - along @ torch.linalg.solve_ex(found.beta_precision, along.mT).result
    return found._replace(gradient=gradient, curvature=2 * scale[:, None, None] * curvature)


def ahead(
    y: Tensor, coefficients: Tensor, orders: Orders, d: int, seasonal: int, horizon: int, *, begin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Forecasts of complete series ``(T, N)``: their mean and their variance in units of the noise's, ``(horizon, N)``.

    A series may begin late, at step ``begin``, if it is longer than the orders of its model. Exact for any length:
    what the past before the series may have been is part of the variance.
    """
    w, y = difference(y, d, seasonal, orders.season).nan_to_num(), y.nan_to_num()
    none = w.new_zeros(len(w), 0), coefficients, orders
    found = exact(w, *none, begin=begin, beta=w.new_zeros(w.shape[1], 0))
    phi, theta = (c.T.contiguous() for c in polynomials(coefficients, orders))
    weights = difference_weights(d, seasonal, orders.season)
    r, length = found.start.shape[1], len(w)
    blank = w.new_zeros(2 + r, w.shape[1])  # the data, each element of g, and a shock one step ahead

    def with_data(x: Tensor, t: int) -> Tensor:
        return torch.cat([x[t : t + 1], blank[1:]]) if t >= 0 else blank

    late_w = [with_data(w, t) for t in range(length - 1, length - 1 - len(phi), -1)]  # the latest first
    late_y = [with_data(y, t) for t in range(len(y) - 1, len(y) - 1 - len(weights), -1)]
    late_noise = []
    for t in range(length - 1, length - 1 - len(theta), -1):
        of_g = [-found.pulse[t - k] if 0 <= k <= t else blank[0] for k in range(r)]
        late_noise.append(torch.stack([found.noise[t] if t >= 0 else blank[0], *of_g, blank[0]]))
    means, variances, shocks = [], [], torch.zeros_like(blank[0])
    for h in range(horizon):
        now = blank.clone()
        for coefficient, before in zip((*phi, *theta), (*late_w, *late_noise), strict=True):
            now.addcmul_(before, coefficient)
        if length + h < r:
            now[0] += found.start[:, length + h]
            now[1 + length + h] += 1
        noise = blank.clone()
        noise[-1] = h == 0
        now += noise
        late_w, late_noise = [now, *late_w][: len(phi)], [noise, *late_noise][: len(theta)]
        for weight, before in zip(weights, late_y, strict=True):
            now = now + weight * before
        late_y = [now, *late_y][: len(weights)]
        shocks = shocks + now[-1].square()
        of_g = now[1:-1].T
        means.append(now[0])
        variances.append(shocks + torch.einsum("ni,nij,nj->n", of_g, found.start_covariance, of_g))
    return torch.stack(means), torch.stack(variances)
