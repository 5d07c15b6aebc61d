r"""The exact Gaussian likelihood of seasonal ARMA models, for many series at once.

Everything here works on ``(T, N)``: time first, then one column a series, each with its own coefficients. The last dim
is the long one, so a Python loop over time costs little next to the work in it. `stlib.models.arima` is the way in.
"""

import itertools
import math
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


def partials(coefficients: Tensor) -> Tensor:
    """Partial autocorrelations of an autoregression ``(..., p)``: all in (-1, 1) just if it is stationary."""
    rest, found = coefficients, []
    for _ in range(coefficients.shape[-1]):
        last = rest[..., -1:]
        found.insert(0, last)
        rest = rest[..., :-1]
        rest = (rest + last * rest.flip(-1)) / (1 - last * last)
    return torch.cat(found, -1) if found else coefficients


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
        partial = partials(coefficients * powers)
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


WIDE = 3000  # values: a row that keeps a processor busy


# Filters -------------------------------------------------------------------------------------------------------------


def weighted(x: Tensor, weights: Tensor, lag: int) -> Tensor:
    """:math:`x_t + \\sum_i c_i x_{t - i\\,\\mathrm{lag}}`: x ``(T, ..., N)``, weights ``(N, order)``.

    It is x itself if there are no weights.
    """
    result = x.clone() if weights.shape[-1] else x
    for i in range(weights.shape[-1]):
        shift = lag * (i + 1)
        if shift < len(x):
            result[shift:].addcmul_(x[:-shift], weights[:, i])
    return result


def invert_(x: Tensor, weights: Tensor, lag: int) -> Tensor:
    """`weighted` inverted in place from a zero start, :math:`y_t = x_t - \\sum_i c_i y_{t - i\\,\\mathrm{lag}}`.

    Short rows are filtered in many pieces of time at once, and what each piece hands on to the next is added then.
    """
    order, done = weights.shape[-1], 0
    if order == 0:
        return x
    columns = [-column for column in weights.unbind(-1)]
    length = max(order, math.isqrt(len(x) // lag))
    number = len(x) // (lag * length)
    if number > 2 and (x.is_cuda or lag * x[0].numel() < WIDE):
        done = number * length
        pieces = x[: lag * done].unflatten(0, (number, length, lag))
        answers = x.new_zeros(length + order, order, x.shape[-1])  # to a 1 at each of the last steps before
        answers[:order] = torch.eye(order).to(x).flip(0)[..., None]
        for part, first in ((pieces.unbind(1), 1), (answers.unbind(0), order)):
            for t in range(first, len(part)):
                for before, column in zip(reversed(part[max(0, t - order) : t]), columns, strict=False):
                    part[t].addcmul_(before, column)
        answers = answers[order:].unflatten(-1, (*[1] * (x.ndim - 1), -1))  # (length, order, 1, ..., N)
        for before, now in itertools.pairwise(pieces.unbind(0)):
            for j in range(order):
                now.addcmul_(before[-1 - j], answers[:, j])
    first = max(0, done - order)
    rows = x[first:].unbind(0) if lag == 1 else x[lag * first :].split(lag)
    for t in range(max(1, done - first), len(rows)):
        for before, column in zip(reversed(rows[max(0, t - order) : t]), columns, strict=False):
            rows[t].addcmul_(before[: len(rows[t])] if lag > 1 else before, column)
    return x


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


def products(x: Tensor, y: Tensor, rows: int, columns: int, *, late_x: int = 0, late_y: int = 0) -> Tensor:
    r""":math:`\sum_t x_{t-a-j}\, y_{t-b-k}` for j < ``rows`` and k < ``columns``, ``(N, rows, columns)``.

    a and b are ``late_x`` and ``late_y``.

    Only the last row and column are sums over time: going up a diagonal adds one product.
    """
    end, mirrored = len(x) - 1, x is y and late_x == late_y and rows == columns
    last = [dot(x, y, late_x + rows - 1, late_y + k) for k in range(columns)]
    found = [torch.stack(last, -1)]
    for j in range(rows - 2, -1, -1):
        row = last[j : j + 1] if mirrored else [dot(x, y, late_x + j, late_y + columns - 1)]
        if columns > 1:
            inner, steps = found[0][:, 1:], min(columns - 1, max(0, end - late_y + 1))
            if steps and late_x + j <= end:
                ends = y[end - late_y - steps + 1 : end - late_y + 1].flip(0) * x[end - late_x - j]
                inner = inner + F.pad(ends.T, (0, columns - 1 - steps))
            row.insert(0, inner)
            found.insert(0, torch.cat([row[0], row[1][:, None]], -1))
        else:
            found.insert(0, row[0][:, None])
    return torch.stack(found, 1)


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

    stacked = w.new_zeros(length, 2 + columns, number)
    stacked[:, 0] = w
    stacked[:, 1:-1] = regressors[..., None]
    if begin.any():
        stacked[:, :-1] *= (torch.arange(length, device=w.device)[:, None] >= begin)[:, None]
    stacked[:, -1].scatter_(0, begin[None], 1.0)
    filtered = both(stacked, ma, seasonal_ma, season, invert_)
    through, pulse = filtered[:, :-1], filtered[:, -1]
    zero_start = both(through, -ar, -seasonal_ar, season, weighted).unbind(1)  # 1 + K of (T, N)

    own = [[dot(x, y) for y in zero_start[: i + 1]] for i, x in enumerate(zero_start)]
    own = torch.stack(
        [torch.stack([own[max(i, j)][min(i, j)] for i in range(1 + columns)], -1) for j in range(1 + columns)], -1
    )
    cross = torch.cat([products(pulse, x, r, 1) for x in zero_start], -1) if r else own[:, :0]  # (N, r, 1 + K)
    gram = products(pulse, pulse, r, r) if r else w.new_zeros(number, 0, 0)
    with torch.set_grad_enabled(slopes):
        free = coefficients.detach().requires_grad_(slopes)
        before = initial_covariance(*polynomials(free, orders))
    sigma = before.detach()
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
    # Derivatives, each with a minus sign, of the noise and of the pulse by the coefficients.
    again = both(torch.stack([noise, pulse], 1), ma, seasonal_ma, season, invert_) if orders.ma else None
    late = []  # series, whether of a moving average, the least lag, and how many coefficients
    for count, x, other in ((orders.p, residual, -seasonal_ar), (orders.q, again, seasonal_ma)):
        late += [(weighted(x, other, season), x is again, 1, count)] if count else []
    for count, x, other in ((orders.P, residual, -ar), (orders.Q, again, ma)):
        part = weighted(x, other, 1) if count else x
        late += [(part, x is again, season * (i + 1), 1) for i in range(count)]
    of_noise = [(x[:, 0] if moving else x, lag, count) for x, moving, lag, count in late]

    scale = steps / total
    inner = torch.cat([products(x, noise, count, 1, late_x=lag) for x, lag, count in of_noise], 1)[..., 0]
    by_response = []
    for x, moving, lag, count in late:
        both_late = (
            products(x[:, 1], pulse, count + r - 1, r, late_x=lag) if moving else w.new_zeros(number, count + r - 1, r)
        )
        by_response += [(both_late[:, i : i + r] * posterior).sum((-2, -1)) for i in range(count)]
    gradient = -2 * scale[:, None] * inner - 2 * torch.stack(by_response, -1)
    kappa = (cross @ contrast[..., None])[..., 0] - (gram @ start[..., None])[..., 0]  # the inverse of Sigma times g
    weight = torch.linalg.lu_solve(factors, pivots, gram) - scale[:, None, None] * kappa[:, :, None] * kappa[:, None]
    gradient = gradient + torch.autograd.grad(before, free, weight)[0]

    blocks = {}
    for i, (x, lag, count) in enumerate(of_noise):
        for j, (y, other_lag, other_count) in enumerate(of_noise[i:], i):
            blocks[i, j] = products(x, y, count, other_count, late_x=lag, late_y=other_lag)
            blocks[j, i] = blocks[i, j].mT
    size = range(len(of_noise))
    curvature = torch.cat([torch.cat([blocks[i, j] for j in size], -1) for i in size], 1)
    onto = torch.cat([products(x, pulse, count, r, late_x=lag) for x, lag, count in of_noise], 1)  # (N, k, r)
    curvature = curvature - onto @ posterior @ onto.mT
    if columns:
        along = [
            torch.cat([products(x, z, count, 1, late_x=lag) for z in zero_start[1:]], -1) for x, lag, count in of_noise
        ]
        along = torch.cat(along, 1) - onto @ posterior @ cross[..., 1:]
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
