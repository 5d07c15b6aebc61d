"""Conditional variance of many series at once: its path, and the likelihood with its slope and its information.

Everything is flat here: returns are ``(T, N)``, NaN where missing; a parameter is ``(N)`` or, with lags, ``(K, N)``.
"""

from math import log, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from stlib.models._recursion import linear_recursion

SIZE = sqrt(2 / pi)  # the mean of |z| for a standard normal z
START_STEPS, START_DECAY = 75, 0.94
PIECE = 2**15  # values worked on at once, few enough to stay in a processor's cache


class Parameters(NamedTuple):
    mu: Tensor  # (N)
    omega: Tensor  # (N)
    alpha: Tensor  # (p, N)
    gamma: Tensor  # (p, N), or (0, N) without asymmetry
    beta: Tensor  # (q, N)
    nu: Tensor  # (N), infinite for normal noise


def missing_of(returns: Tensor) -> Tensor | None:
    """Where returns are missing; None where nothing is, which spares the rest some work."""
    return returns.isnan() if returns.sum().isnan() else None


def back_cast(returns: Tensor, *, centred: bool) -> Tensor:
    """The variance before the first step, (N): squares of the first 75 observed returns, with weights 0.94^i."""
    observed = ~returns.isnan()
    count = observed.cumsum(0) - 1  # how many came before
    weight = torch.where(observed & (count < START_STEPS), START_DECAY ** count.to(returns.dtype), 0.0)
    e = returns - returns.nanmean(0) if centred else returns
    return (weight * e.nan_to_num(0.0).square()).sum(0) / weight.sum(0)


def variance_path(
    returns: Tensor, par: Parameters, start: Tensor, *, kind: str, slopes: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """The conditional variance h of each step, (T, N), and its slopes, (T, J, N).

    ``slopes`` is None, "zero" or "constant": the slopes are those of h, or of ln h for "egarch", by omega, each alpha,
    gamma and beta, and for "constant" by mu before them.
    """
    missing = missing_of(returns)
    e, before, gap = returns - par.mu, None, None
    if missing is not None:
        e = e.masked_fill_(missing, 0.0)
        before = (~missing).cumsum(0) == 0  # the steps before the first return belong to the start
        gap = missing & ~before
    path = _log_path if kind == "egarch" else _linear_path
    return path(e, par, start, before, gap, slopes)


def _linear_path(
    e: Tensor, par: Parameters, start: Tensor, before: Tensor | None, gap: Tensor | None, slopes: str | None
) -> tuple[Tensor, Tensor | None]:
    square, negative, half = e.square(), None, start / 2
    if len(par.gamma):
        negative = torch.where(e < 0, square, 0.0)
    if before is not None:
        square = torch.where(before, start, square)
        negative = None if negative is None else torch.where(before, half, negative)
    u = par.omega.repeat(len(e), 1)
    for k, factor in enumerate(par.alpha):
        _add_lagged(u, factor, square, k + 1, start)
    for k, factor in enumerate(par.gamma):
        _add_lagged(u, factor, negative, k + 1, half)
    lags = max(len(par.alpha), len(par.beta))
    c = torch.cat([par.beta, par.beta.new_zeros(lags - len(par.beta), len(start))])[:, None]
    if gap is not None:  # a missing square is replaced by its expectation, the variance of that step
        c = c.repeat(1, len(e), 1)
        for k, factor in enumerate(par.alpha):
            expected = factor + par.gamma[k] / 2 if len(par.gamma) else factor
            _add_lagged(c[k], expected, gap.to(e.dtype), k + 1, 0.0)
        u, c = torch.where(before, start, u), c.masked_fill(before, 0.0)
    h = linear_recursion(u[:, None], c, start.expand(lags, 1, -1))[:, 0]
    if slopes is None:
        return h, None
    if gap is not None:
        square = torch.where(gap, h, square)
        negative = None if negative is None else torch.where(gap, h / 2, negative)
    rows = [(None, 0, 1.0)]
    rows += [(square, k + 1, start) for k in range(len(par.alpha))]
    rows += [(negative, k + 1, half) for k in range(len(par.gamma))]
    rows += [(h, k + 1, start) for k in range(len(par.beta))]
    by_mean = torch.zeros_like(e) if slopes == "constant" else None
    for k, factor in enumerate(par.alpha if slopes == "constant" else ()):
        slope = factor + par.gamma[k] * (e < 0) if len(par.gamma) else factor
        _add_lagged(by_mean, -2.0, slope * e, k + 1, 0.0)
    return h, _solved(e, by_mean, rows, c, before)


def _log_path(
    e: Tensor, par: Parameters, start: Tensor, before: Tensor | None, gap: Tensor | None, slopes: str | None
) -> tuple[Tensor, Tensor | None]:
    first = start.clamp_min(torch.finfo(start.dtype).tiny).log()
    lags = max(len(par.alpha), len(par.beta))
    nothing = torch.zeros_like(start)
    log_h, z, surprise = [first] * lags, [nothing] * lags, [nothing] * lags
    for step in range(len(e)):
        now = par.omega
        for k in range(len(par.alpha)):
            now = torch.addcmul(now, par.alpha[k], surprise[-1 - k]).addcmul_(par.gamma[k], z[-1 - k])
        for k in range(len(par.beta)):
            now = torch.addcmul(now, par.beta[k], log_h[-1 - k])
        if before is not None:
            now = torch.where(before[step], first, now)
        shock = e[step] * (now * -0.5).exp_()
        size = shock.abs().sub_(SIZE)
        if gap is not None:  # a missing shock is replaced by its expectation
            size = size.masked_fill_(before[step] | gap[step], 0.0)
        log_h.append(now), z.append(shock), surprise.append(size)
    log_h, z, surprise = (torch.stack(rows[lags:]) for rows in (log_h, z, surprise))
    h = log_h.exp()
    if slopes is None:
        return h, None
    c = par.beta.new_zeros(lags, *e.shape)
    by_mean = torch.zeros_like(e) if slopes == "constant" else None
    for k in range(len(par.alpha)):
        _add_lagged(c[k], -0.5, par.alpha[k] * z.abs() + par.gamma[k] * z, k + 1, 0.0)
        if slopes == "constant":
            slope = (par.alpha[k] * z.sign() + par.gamma[k]) / h.sqrt()
            slope = slope if gap is None else slope.masked_fill(before | gap, 0.0)
            _add_lagged(by_mean, -1.0, slope, k + 1, 0.0)
    for k in range(len(par.beta)):
        c[k] += par.beta[k]
    if before is not None:
        c = c.masked_fill(before, 0.0)
    rows = [(None, 0, 1.0)]
    rows += [(values, k + 1, 0.0) for values in (surprise, z) for k in range(len(par.alpha))]
    rows += [(log_h, k + 1, first) for k in range(len(par.beta))]
    return h, _solved(e, by_mean, rows, c, before)


def _add_lagged(total: Tensor, factor: Tensor | float, values: Tensor, lag: int, start: Tensor | float) -> None:
    total[:lag] += factor * start
    total[lag:] += factor * values[:-lag]


def _solved(e: Tensor, by_mean: Tensor | None, rows: list, c: Tensor, before: Tensor | None) -> Tensor:
    """The recursion of the slopes: one row (values, lag, start) for each parameter, by_mean in front of them."""
    offset = 0 if by_mean is None else 1
    u = e.new_empty(len(e), offset + len(rows), e.shape[1])
    if by_mean is not None:
        u[:, 0] = by_mean
    for row, (values, lag, start) in enumerate(rows, offset):
        if values is None:
            u[:, row] = start
        else:
            u[:lag, row] = start
            u[lag:, row] = values[:-lag]
    if before is not None:
        u.masked_fill_(before[:, None], 0.0)
    return linear_recursion(u, c, u.new_zeros(len(c), *u.shape[1:]))


def log_likelihood(returns: Tensor, h: Tensor, par: Parameters, *, noise: str) -> Tensor:
    """The log-likelihood of the observed returns, (N)."""
    v = (returns - par.mu).square_().div_(h)
    if noise == "t":
        nu = par.nu
        constant = ((nu + 1) / 2).lgamma() - (nu / 2).lgamma() - (pi * (nu - 2)).log() / 2
        value = constant - (h.log() + (nu + 1) * v.div_(nu - 2).log1p_()) / 2
    else:
        value = (h.log().add_(v).add_(log(2 * pi))).mul_(-0.5)
    missing = missing_of(returns)
    return (value if missing is None else value.masked_fill_(missing, 0.0)).sum(0)


def slope_and_information(
    returns: Tensor, h: Tensor, slopes: Tensor, par: Parameters, *, kind: str, noise: str, mean: str
) -> tuple[Tensor, Tensor]:
    """The gradient of the log-likelihood, (J, N), and its expected information, (N, J, J).

    ``slopes`` are those of `variance_path`; for noise "t" a row for nu follows theirs.
    """
    missing = missing_of(returns)
    e, count = returns - par.mu, len(returns)
    if missing is not None:
        e, count = e.masked_fill_(missing, 0.0), (~missing).sum(0)
    v = e.square() / h
    nu, one = par.nu, torch.ones_like(par.omega)
    if noise == "t":
        rest = nu - 2 + v
        by_log_h = ((nu + 1) * v / rest - 1) / 2
        by_location = (nu + 1) * e / (h * rest)
        by_nu = (nu + 1) * v / ((nu - 2) * rest) - torch.log1p(v / (nu - 2))
        by_nu = by_nu.sum(0) + count * (((nu + 1) / 2).digamma() - (nu / 2).digamma() - 1 / (nu - 2))
        of_log_h, of_location = nu / (2 * (nu + 3)), nu * (nu + 1) / ((nu + 3) * (nu - 2))
        of_both = 3 / ((nu - 2) * (nu + 1) * (nu + 3))
        trigamma = torch.special.polygamma(1, nu / 2) - torch.special.polygamma(1, (nu + 1) / 2)
        of_nu = trigamma / 4 - (nu + 4) * (nu - 3) / (2 * (nu - 2) ** 2 * (nu + 1) * (nu + 3))
    else:
        by_log_h, by_location, of_log_h, of_location = (v - 1) / 2, e / h, one / 2, one
    rows, series = slopes.shape[1:]
    width = rows + (noise == "t")
    gradient, information = h.new_zeros(width, series), h.new_zeros(width, width, series)
    total = h.new_zeros(rows, series)
    length = max(1, PIECE // series)
    for first in range(0, len(h), length):
        part = slice(first, first + length)
        x = slopes[part]
        if kind != "egarch":
            x = x / h[part, None]
        if missing is not None:
            x = x.masked_fill(missing[part, None], 0.0)
        gradient[:rows] += (by_log_h[part, None] * x).sum(0)
        total += x.sum(0)
        for row in range(rows):
            information[row, row:rows] += (x[:, row, None] * x[:, row:]).sum(0)
    information *= of_log_h
    if noise == "t":
        gradient[-1] = by_nu / 2
        information[:rows, -1] = of_both * total
        information[-1, -1] = of_nu * count
    if mean == "constant":
        gradient[0] += by_location.sum(0)
        precision = 1 / h if missing is None else (1 / h).masked_fill_(missing, 0.0)
        information[0, 0] += of_location * precision.sum(0)
    information = information.permute(2, 0, 1)
    return gradient, information.triu() + information.triu(1).mT
