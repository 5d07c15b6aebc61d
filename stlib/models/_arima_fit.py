"""Maximum likelihood for many ARMA models at once: starts for each, then damped Newton steps until each is done."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stlib.models._arima_kalman import kalman
from stlib.models._arima_likelihood import (
    Orders,
    difference,
    difference_weights,
    exact,
    natural,
    polynomials,
    unnatural,
)
from stlib.models._arima_starts import at_the_edge, starts
from stlib.models._descent import LIMIT, best_of_starts, hessian_of, minimise
from stlib.models.baselines import carry_forward

TOLERANCE = 1e-3  # of the deviance: half of it is what the log likelihood can still gain


NUMBER = 8  # starts of each series
NEAR = 6.0  # no more than this in deviance worse than the first start: a start at the edge that is tried
BLOCK = 2**21, 2**18  # values worked on at once: in all, and in a processor's cache


def with_chain(x: Tensor, orders: Orders) -> tuple[Tensor, Tensor]:
    """The coefficients at unbounded coordinates x ``(N, k)``, and their derivatives ``(N, k, k)`` by them."""
    (number, size), one = x.shape, torch.eye(x.shape[1]).to(x)
    with torch.enable_grad():
        free = x.detach().expand(size, number, size).clone().requires_grad_()
        coefficients = natural(free, orders)
    rows = torch.autograd.grad(coefficients, free, one[:, None].expand_as(free))[0]
    return coefficients[0].detach(), rows.movedim(0, 1)


class Optimum(NamedTuple):
    """The likelihood at given coefficients, for n series."""

    deviance: Tensor  # (n,) -2 log likelihood less steps (1 + log 2 pi)
    steps: Tensor  # (n,) how many values count
    variance: Tensor  # (n,) of the noise
    beta: Tensor  # (n, K) of the regressors
    beta_precision: Tensor  # (n, K, K) inverse covariance of beta, in units of 1 / variance


class Complete:
    """The deviance of series without gaps: differenced ``(T, N)``, each from its own step ``begin`` on."""

    def __init__(self, w: Tensor, regressors: Tensor, begin: Tensor, orders: Orders):
        self.w, self.regressors, self.begin, self.orders = w, regressors, begin, orders
        self.size = block_size(len(w), w.device, cached=True)

    def at(self, coefficients: Tensor, which: Tensor) -> Optimum:
        return Optimum(*_in_parts(self._at, self.size, coefficients, which))

    def __call__(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _in_parts(self._slopes, self.size, x, which)

    def _at(self, coefficients: Tensor, which: Tensor) -> Optimum:
        w, begin = self.w.index_select(1, which), self.begin[which]
        found = exact(w, self.regressors, coefficients, self.orders, begin=begin)
        steps = (len(self.w) - self.begin[which]).to(self.w.dtype)
        return Optimum(found.deviance, steps, found.sum / steps, found.beta, found.beta_precision)

    def _slopes(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coefficients, chain = with_chain(x, self.orders)
        w, begin = self.w.index_select(1, which), self.begin[which]
        found = exact(w, self.regressors, coefficients, self.orders, begin=begin, slopes=True)
        gradient = (found.gradient[:, None] @ chain)[:, 0]
        return found.deviance, gradient.nan_to_num(), (chain.mT @ found.curvature @ chain).nan_to_num()


class Gappy:
    """The deviance of series with gaps, ``(T, N)`` before differencing; its slopes are central differences."""

    def __init__(self, y: Tensor, regressors: Tensor, weights: list[int], orders: Orders):
        self.y, self.regressors, self.weights, self.orders = y, regressors, weights, orders
        points = 2 * sum(orders.sizes) + 1
        self.size = filter_size(len(y) * (1 + regressors.shape[1]), orders, weights, y.device, points=points)

    def _filtered(self, coefficients: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standardised innovations ``(T, 1 + K, n)``, 0 where missing, log variances, log determinant and count."""
        found = kalman(self.y[:, which], self.regressors, *polynomials(coefficients, self.orders), self.weights)
        logs = torch.where(found.innovations[:, 0].isnan(), 0.0, found.variances.log())
        return (found.innovations / found.variances.sqrt()[:, None]).nan_to_num(), logs, found.logdet, found.observed

    def at(self, coefficients: Tensor, which: Tensor) -> Optimum:
        parts = _in_parts(lambda *part: self._optimum(*self._filtered(*part)), self.size, coefficients, which)
        return Optimum(*parts)

    def __call__(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _in_parts(self._slopes, self.size, x, which)

    def _optimum(self, rows: Tensor, logs: Tensor, logdet: Tensor, observed: Tensor) -> Optimum:
        steps = observed.to(rows.dtype)
        moments = torch.einsum("tin,tjn->nij", rows, rows)
        beta = torch.linalg.solve_ex(moments[:, 1:, 1:], moments[:, 1:, 0]).result
        total = moments[:, 0, 0] - (moments[:, 0, 1:] * beta).sum(-1)
        deviance = steps * (total / steps).log() + logs.sum(0) + logdet
        deviance = torch.where((total > 0) & deviance.isfinite(), deviance, torch.inf)
        return Optimum(deviance, steps, total / steps, beta, moments[:, 1:, 1:])

    def _slopes(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (number, size), width = x.shape, torch.finfo(x.dtype).eps ** (1 / 4)
        shifts = width * torch.cat([torch.eye(size, dtype=x.dtype, device=x.device) * sign for sign in (1, -1)])
        points = torch.cat([x[None], x + shifts[:, None]]).flatten(0, 1)
        rows, logs, logdet, observed = self._filtered(natural(points, self.orders), which.repeat(2 * size + 1))
        all_points = self._optimum(rows, logs, logdet, observed)
        value = all_points.deviance.unflatten(0, (-1, number))
        gradient = (value[1 : size + 1] - value[size + 1 :]).T / (2 * width)
        rows, logs = rows.unflatten(-1, (-1, number)), logs.unflatten(-1, (-1, number))
        regressors = rows[:, 1:, 0]  # (T, K, n)
        contrast = torch.cat([torch.ones_like(all_points.beta[:number, :1]), -all_points.beta[:number]], -1)
        noise = torch.einsum("tisn,ni->tsn", rows, contrast)
        slopes = (noise[:, 1 : size + 1] - noise[:, size + 1 :]) / (2 * width)  # (T, k, n)
        of_logs = (logs[:, 1 : size + 1] - logs[:, size + 1 :]) / (2 * width)
        along = torch.einsum("tin,tjn->nij", slopes, regressors)
        square = torch.einsum("tin,tjn->nij", slopes, slopes)
        square = square - along @ torch.linalg.solve_ex(all_points.beta_precision[:number], along.mT).result
        curvature = 2 * square / all_points.variance[:number, None, None]
        curvature = curvature + torch.einsum("tin,tjn->nij", of_logs, of_logs)
        return value[0], gradient.nan_to_num(), curvature.nan_to_num()


def _in_parts(function: Callable, size: int, x: Tensor, which: Tensor) -> tuple[Tensor, ...]:
    """The results of a function of series, at most ``size`` of them at once."""
    parts = [function(*part) for part in zip(x.split(size), which.split(size), strict=True)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))


class Estimates(NamedTuple):
    """What `estimate` finds for N series; NaN where nothing could be found."""

    coefficients: Tensor  # (N, k + K): of the model, then of the regressors
    variance: Tensor  # (N,) of the noise
    loglik: Tensor  # (N,)
    converged: Tensor  # (N,)
    perfect: Tensor  # (N,) the regressors alone leave nothing to be modelled


def estimate(
    y: Tensor, regressors: Tensor, orders: Orders, d: int, seasonal: int, *, effort: str = "best"
) -> Estimates:
    """Maximum-likelihood estimates of series ``(T, N)`` with regressors ``(T, K)`` that are independent of each other
    after differencing. The effort is "rough", for comparing models, "one start", or "best", several.
    """
    number, k = y.shape[1], sum(orders.sizes) + regressors.shape[1]
    found = Estimates(
        y.new_full((number, k), torch.nan), *y.new_full((2, number), torch.nan), *y.new_zeros(2, number).bool()
    )
    for which, begin in _blocks(y):
        part = _Problem(y[begin:, which], regressors[begin:], orders, d, seasonal)
        for whole, values in zip(found, part.solve(effort), strict=True):
            whole[which] = values
    return found


def covariance(y: Tensor, regressors: Tensor, coefficients: Tensor, orders: Orders, d: int, seasonal: int) -> Tensor:
    """Covariance ``(N, k + K, k + K)`` of the estimates: the inverse Hessian of the exact log likelihood.

    ``coefficients`` ``(N, k)`` are those of `estimate`, without the regressors'. NaN where the Hessian is not positive.
    """
    size = coefficients.shape[1] + regressors.shape[1]
    found = y.new_full((y.shape[1], size, size), torch.nan)
    for which, begin in _blocks(y):
        part = _Problem(y[begin:, which], regressors[begin:], orders, d, seasonal)
        found[which] = part.covariance(coefficients[which])
    return found


def _blocks(y: Tensor) -> list[tuple[Tensor, int]]:
    """Series that are worked on together, with the first step that any of them has: those of like length."""
    first = (~y.isnan()).int().argmax(0)
    return [
        (which, int(first[which].min()))
        for which in first.argsort(stable=True).split(block_size(len(y), y.device))
        if len(which)
    ]


def block_size(length: int, device: torch.device, *, cached: bool = False) -> int:
    """How many series of a length to work on at once: few enough for its memory, many enough for the loop over time.

    With ``cached`` few enough for a processor's cache.
    """
    if device.type != "cpu":
        return max(1, 2**25 // length)
    return max(1, BLOCK[cached] // length)


def filter_size(length: int, orders: Orders, weights: list[int], device: torch.device, *, points: int = 1) -> int:
    """The same for the Kalman filter, which holds a covariance of the state of each series too."""
    state = max(orders.ar, orders.ma + 1) + len(weights)
    return block_size(points * (length + 4 * state**2), device)


class _Problem:
    """Series ``(T, N)`` in units of their own spread, with the objectives that fit them: complete, or with gaps."""

    def __init__(self, y: Tensor, regressors: Tensor, orders: Orders, d: int, seasonal: int):
        self.orders = orders
        largest = y.nan_to_num().abs().amax(0).clamp_min(1e-300)
        w = difference(y / largest, d, seasonal, orders.season)
        spread = (w - w.nanmean(0)).square().nanmean(0).sqrt()
        self.scale = largest * torch.where(spread > 0, spread, 1.0)
        self.rounding = 1e-12 * largest / self.scale
        y = y / self.scale
        self.size = difference(regressors, d, seasonal, orders.season).square().mean(0).sqrt()
        regressors = regressors / self.size

        seen = ~difference(y, d, seasonal, orders.season).isnan()
        begin = seen.int().argmax(0)
        gaps = (~seen).sum(0) != begin  # anything missing but a late start
        late = torch.arange(len(seen), device=y.device)[:, None] < begin
        filled = difference(carry_forward(y[None])[0], d, seasonal, orders.season)
        self.complete = Complete(
            torch.where(gaps | ~late, filled, 0.0),
            difference(regressors, d, seasonal, orders.season),
            torch.where(gaps, 0, begin),
            orders,
        )
        self.gaps = gaps.nonzero()[:, 0]
        self.gappy = Gappy(y[:, gaps], regressors, difference_weights(d, seasonal, orders.season), orders)

    def at(self, coefficients: Tensor) -> Optimum:
        found = self.complete.at(coefficients, torch.arange(len(coefficients), device=coefficients.device))
        if len(self.gaps):
            own = self.gappy.at(coefficients[self.gaps], torch.arange(len(self.gaps), device=coefficients.device))
            for whole, part in zip(found, own, strict=True):
                whole[self.gaps] = part
        return found

    def solve(self, effort: str) -> Estimates:
        complete, number, k = self.complete, len(self.scale), sum(self.orders.sizes)
        x, done = complete.w.new_zeros(number, k), torch.ones(number, dtype=torch.bool, device=self.scale.device)
        plain = exact(complete.w, complete.regressors, x, self.orders, begin=complete.begin)
        perfect = plain.sum / len(complete.w) <= self.rounding.square()
        if k:
            x = starts(plain.noise, self.orders, NUMBER if effort == "best" else 1)
            if effort == "best" and self.orders.q:
                everyone = torch.arange(number, device=x.device)
                edges = at_the_edge(plain.noise, complete.begin, self.orders)
                here, *there = (complete.at(natural(z, self.orders), everyone).deviance for z in (x[0], *edges))
                near = torch.stack(there) < here + NEAR
                x = torch.cat([x, torch.where(near[..., None], edges, torch.nan)])
            if effort == "rough":
                x, _, done, _ = minimise(complete, x[0], tolerance=20 * TOLERANCE, rounds=12)
            else:
                x, _, done, _ = best_of_starts(complete, x, tolerance=TOLERANCE)
            x = self._to_the_edge(x)
            if len(self.gaps):
                x[self.gaps], _, done[self.gaps], _ = minimise(self.gappy, x[self.gaps], tolerance=TOLERANCE)
        coefficients = natural(x, self.orders)
        found = self.at(coefficients)
        loglik = -(found.deviance + found.steps * (1 + math.log(2 * math.pi))) / 2 - found.steps * self.scale.log()
        beta = found.beta * self.scale[:, None] / self.size
        usable = found.deviance.isfinite() & ~perfect
        coefficients = torch.where(perfect[:, None], 0.0, coefficients)
        variance = torch.where(perfect, 0.0, found.variance * self.scale.square())
        return Estimates(torch.cat([coefficients, beta], 1), variance, loglik, done & usable, perfect)

    def _to_the_edge(self, x: Tensor) -> Tensor:
        """x, moved to the edge where it is close to it and the likelihood is no less there."""
        which = (x.abs().amax(1) > 3).nonzero()[:, 0]
        moved = torch.where(x[which].abs() > 3, LIMIT * x[which].sign(), x[which])
        here, there = (self.complete.at(natural(z, self.orders), which).deviance for z in (x[which], moved))
        x[which] = torch.where((there <= here)[:, None], moved, x[which])
        return x

    def covariance(self, coefficients: Tensor) -> Tensor:
        x = unnatural(coefficients, self.orders)
        number, k = x.shape
        everyone = torch.arange(number, device=x.device)
        of_beta = self.scale[:, None] / self.size
        found = self.at(coefficients)
        inverse = torch.linalg.inv_ex(found.beta_precision).inverse * found.variance[:, None, None]
        if k == 0:
            return inverse * of_beta[:, :, None] * of_beta[:, None]
        hessian = hessian_of(self.complete, x, everyone)[2]
        if len(self.gaps):
            hessian[self.gaps] = hessian_of(self.gappy, x[self.gaps], everyone[: len(self.gaps)])[2]
        own = torch.linalg.inv_ex(hessian / 2).inverse
        width = torch.finfo(x.dtype).eps ** (1 / 3)
        moved = [
            (self.at(natural(x + shift, self.orders)).beta - self.at(natural(x - shift, self.orders)).beta)
            / (2 * width)
            for shift in width * torch.eye(k).to(x)
        ]
        slope = torch.stack(moved, -1) if moved else x.new_zeros(number, 0, k)  # (N, K, k)
        # The coefficients move with x, and the regressors' with them: both have the errors of x, and beta its own.
        chain = torch.cat([with_chain(x, self.orders)[1], slope * of_beta[..., None]], 1)
        total = chain @ own @ chain.mT
        total[:, k:, k:] += inverse * of_beta[:, :, None] * of_beta[:, None]
        positive = (torch.linalg.eigvalsh(hessian)[:, 0] > 0) & (x.abs().amax(1) < LIMIT - 0.5)
        return torch.where(positive[:, None, None], total, torch.nan)
