"""Maximum likelihood for many ARMA models at once: starts for each, then damped Newton steps until each is done."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stlib.models.arima_kalman import kalman
from stlib.models.arima_likelihood import (
    Orders,
    difference,
    difference_weights,
    exact,
    natural,
    polynomials,
    unnatural,
)
from stlib.models.baselines import carry_forward

TOLERANCE = 5e-4  # of the deviance: half of it is what the log likelihood can still gain
LIMIT = 8.0  # of the unbounded coordinates: a partial autocorrelation of 1 - 2e-7


class Minimum(NamedTuple):
    x: Tensor  # (N, k)
    value: Tensor  # (N,)
    done: Tensor  # (N,) whether nothing more is to be gained
    promise: Tensor  # (N,) what the last step promised to gain


# First partial autocorrelations of further starts: ar, ma (with the sign of ar), and both of the seasonal part.
STARTS = (
    (0.9, 0.8, 0.9, 0.8),
    (0.0, -0.8, 0.0, 0.4),
    (-0.9, -0.8, 0.0, 0.4),
    (-0.4, 0.3, 0.0, 0.4),
    (0.85, 0.97, 0.0, 0.4),
    (0.0, 0.8, 0.0, 0.4),
    (0.4, 0.3, 0.0, 0.4),
)
ROUGH = (3, 4)  # steps from each further start, after which those without hope are given up
HOPE = 2.0  # times what the last step promised is the most that a start is believed to gain
CYCLES = 2  # further starts at the strongest cycles of the noise
DOUBT = 0.07, 2.0  # least eigenvalue of a unit curvature, and most distance from 0, of an optimum beyond doubt
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def hannan_rissanen(w: Tensor, orders: Orders) -> Tensor:
    """Starting coefficients ``(N, k)`` of series ``(T, N)``: least squares on lags of the series and of its noise.

    The noise is what a long autoregression leaves.
    Source: Hannan and Rissanen (1982), doi:10.1093/biomet/69.1.81. Deviation: of a seasonal model's product only the
    plain and the seasonal lags take part.
    """
    of_w = [*range(1, orders.p + 1)], [orders.season * (i + 1) for i in range(orders.P)]
    of_noise = [*range(1, orders.q + 1)], [orders.season * (i + 1) for i in range(orders.Q)]
    noise = w
    if orders.ma:
        long = max(1, min(max(orders.ar, orders.ma) + 4 + len(w) // 100, len(w) // 3))
        noise = w - _regression(w, [(w, range(1, long + 1))])[1]
    found, _ = _regression(w, [(w, of_w[0]), (noise, of_noise[0]), (w, of_w[1]), (noise, of_noise[1])])
    return found


def _regression(w: Tensor, lagged: list[tuple[Tensor, list[int]]]) -> tuple[Tensor, Tensor]:
    """Least-squares coefficients ``(N, k)`` of w on lags of series that are 0 before the start; the fit ``(T, N)``."""
    columns = [torch.cat([x.new_zeros(min(lag, len(x)), x.shape[1]), x[:-lag]]) for x, lags in lagged for lag in lags]
    design = torch.stack(columns, -1).movedim(1, 0)  # (N, T, k)
    gram = design.mT @ design
    gram = gram + 1e-6 * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1) + 1)
    found = torch.linalg.solve_ex(gram, design.mT @ w.T[..., None]).result
    return found[..., 0].nan_to_num(), (design @ found)[..., 0].T


def with_chain(x: Tensor, orders: Orders) -> tuple[Tensor, Tensor]:
    """The coefficients at unbounded coordinates x ``(N, k)``, and their derivatives ``(N, k, k)`` by them."""
    with torch.enable_grad():
        free = x.detach().requires_grad_()
        coefficients = natural(free, orders)
        rows = [torch.autograd.grad(coefficients[:, i].sum(), free, retain_graph=True)[0] for i in range(x.shape[1])]
    return coefficients.detach(), torch.stack(rows, 1)


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

    def at(self, coefficients: Tensor, which: Tensor) -> Optimum:
        found = exact(self.w[:, which], self.regressors, coefficients, self.orders, begin=self.begin[which])
        steps = (len(self.w) - self.begin[which]).to(self.w.dtype)
        return Optimum(found.deviance, steps, found.sum / steps, found.beta, found.beta_precision)

    def __call__(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coefficients, chain = with_chain(x, self.orders)
        w, begin = self.w[:, which], self.begin[which]
        found = exact(w, self.regressors, coefficients, self.orders, begin=begin, slopes=True)
        gradient = (found.gradient[:, None] @ chain)[:, 0]
        return found.deviance, gradient.nan_to_num(), (chain.mT @ found.curvature @ chain).nan_to_num()


class Gappy:
    """The deviance of series with gaps, ``(T, N)`` before differencing; its slopes are central differences."""

    def __init__(self, y: Tensor, regressors: Tensor, weights: list[int], orders: Orders):
        self.y, self.regressors, self.weights, self.orders = y, regressors, weights, orders

    def _filtered(self, coefficients: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standardised innovations ``(T, 1 + K, n)``, 0 where missing, log variances, log determinant and count."""
        found = kalman(self.y[:, which], self.regressors, *polynomials(coefficients, self.orders), self.weights)
        logs = torch.where(found.innovations[:, 0].isnan(), 0.0, found.variances.log())
        return (found.innovations / found.variances.sqrt()[:, None]).nan_to_num(), logs, found.logdet, found.observed

    def at(self, coefficients: Tensor, which: Tensor) -> Optimum:
        return self._optimum(*self._filtered(coefficients, which))

    def _optimum(self, rows: Tensor, logs: Tensor, logdet: Tensor, observed: Tensor) -> Optimum:
        steps = observed.to(rows.dtype)
        moments = torch.einsum("tin,tjn->nij", rows, rows)
        beta = torch.linalg.solve_ex(moments[:, 1:, 1:], moments[:, 1:, 0]).result
        total = moments[:, 0, 0] - (moments[:, 0, 1:] * beta).sum(-1)
        deviance = steps * (total / steps).log() + logs.sum(0) + logdet
        deviance = torch.where((total > 0) & deviance.isfinite(), deviance, torch.inf)
        return Optimum(deviance, steps, total / steps, beta, moments[:, 1:, 1:])

    def __call__(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def newton(objective: Objective) -> Objective:
    """The same objective with its true Hessian, by differences of the gradient, made positive by the size of its
    eigenvalues: where Gauss-Newton steps zigzag along a curved valley, these do not.
    """

    def curved(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, slope, hessian = hessian_of(objective, x, which)
        values, vectors = torch.linalg.eigh(hessian)
        size = values.abs().clamp_min(1e-9)
        return value, slope, vectors * size[:, None] @ vectors.mT

    return curved


def hessian_of(objective: Objective, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian ``(n, k, k)`` of an objective, the last by central differences of its gradient."""
    (number, size), width = x.shape, torch.finfo(x.dtype).eps ** (1 / 3)
    shifts = width * torch.cat([torch.eye(size, dtype=x.dtype, device=x.device) * sign for sign in (1, -1)])
    points = torch.cat([x[None], x + shifts[:, None]]).flatten(0, 1)
    value, slope, _ = objective(points, which.repeat(2 * size + 1))
    slope = slope.unflatten(0, (2 * size + 1, number))
    hessian = (slope[1 : size + 1] - slope[size + 1 :]).movedim(0, -1) / (2 * width)
    return value[:number], slope[0], ((hessian + hessian.mT) / 2).nan_to_num()


def starts(objective: Complete, x: Tensor, which: Tensor) -> Tensor:
    """Other places to start from, ``(S, n, k)``: fixed ones, and cycles that the optimum x left in the noise."""
    orders = objective.orders
    offsets = [sum(orders.sizes[:i]) for i in range(4)]
    points = x.new_zeros(len(STARTS), 1, x.shape[1])
    for point, start in zip(points, STARTS, strict=True):
        for offset, count, partial in zip(offsets, orders.sizes, start, strict=True):
            point[:, offset : offset + min(count, 1)] = math.atanh(partial)
    points = points.expand(-1, len(x), -1)
    if min(orders.p, orders.q) < 2:
        return points
    noise = exact(objective.w[:, which], objective.regressors, natural(x, orders), orders, begin=objective.begin[which])
    power = torch.fft.rfft(noise.noise.to(x), dim=0).abs()
    power[[0, 1, -1]] = 0
    peaks = []
    for _ in range(CYCLES):
        peak = power.argmax(0)
        angle = 2 * math.pi * peak / len(noise.noise)
        power[(torch.arange(len(power), device=x.device)[:, None] - peak).abs() <= 2] = 0
        point = torch.zeros_like(x)
        for offset, radius in ((0, 0.97), (orders.p, 0.9)):  # complex roots of this radius and angle
            partial = torch.stack(
                [2 * radius * angle.cos() / (1 + radius**2), torch.full_like(x[:, 0], -(radius**2))], -1
            )
            point[:, offset : offset + 2] = partial.atanh()
        peaks.append(point)
    return torch.cat([points, torch.stack(peaks)])


def best_of_starts(objective: Complete, x: Tensor) -> Minimum:
    """The minimum from x ``(N, k)``; where it lies at the edge or in a long valley, the best of several starts.

    That is where other optima were found, on simulated and on real series.
    """
    best = minimise(objective, x, tolerance=TOLERANCE)
    curvature = objective(best.x, torch.arange(len(x), device=x.device))[2]
    unit = curvature.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    flattest = torch.linalg.eigvalsh(curvature * unit[:, :, None] * unit[:, None])[:, 0]
    doubtful = (flattest < DOUBT[0]) | (best.x.abs().amax(1) > DOUBT[1]) | ~best.done | best.value.isinf()
    again = doubtful.nonzero()[:, 0]
    if len(again) == 0:
        return best
    points = starts(objective, best.x[again], again)  # (S, n, k)
    number = len(points)
    which, points = again.repeat(number), points.flatten(0, 1)
    bar, reached = best.value[which] - 0.01, torch.full_like(points[:, 0], torch.inf)
    alive = torch.arange(len(which), device=x.device)
    for rounds in ROUGH:
        part = which[alive]
        rough = minimise(
            lambda x, i, part=part: objective(x, part[i]), points[alive], tolerance=0.05, rounds=(rounds, 0)
        )
        points[alive], reached[alive] = rough.x, rough.value
        # A start that only goes where the first one went promises no more than it lacks.
        hopeless = rough.value - HOPE * rough.promise > bar[alive]
        reached[alive[hopeless]] = torch.inf
        alive = alive[~hopeless]
    value, winner = reached.unflatten(0, (number, -1)).min(0)
    hopeful = value.isfinite()
    start = points.unflatten(0, (number, -1))[winner, torch.arange(len(again), device=x.device)][hopeful]
    again = again[hopeful]
    polished = minimise(lambda x, i: objective(x, again[i]), start, tolerance=TOLERANCE)
    better = polished.value < best.value[again]
    for whole, part in zip(best, polished, strict=True):
        whole[again[better]] = part[better]
    return best


def minimise(objective: Objective, x: Tensor, *, tolerance: float, rounds: tuple[int, int] = (20, 40)) -> Minimum:
    r"""The minimum of each of N functions by the Levenberg-Marquardt method; a function that is done costs no more.

    ``objective(x, which)`` gives the value ``(n,)``, the gradient ``(n, k)`` and a positive Hessian ``(n, k, k)`` of
    the functions ``which`` at x ``(n, k)``. After the first of ``rounds`` those that are left go on with the true
    Hessian (see `newton`). A function is done when the next step promises less than ``tolerance``.
    Source: Moré (1978), doi:10.1007/BFb0067700.
    """
    x = x.clamp(-LIMIT, LIMIT)
    value, done = torch.full_like(x[:, 0], torch.inf), torch.zeros_like(x[:, 0], dtype=torch.bool)
    promise = value.clone()
    for function, count in zip((objective, newton(objective)), rounds, strict=True):
        active = (~done).nonzero()[:, 0]
        if len(active) == 0 or count == 0:
            break
        x[active], value[active], done[active], promise[active] = _descend(
            function, x[active], active, count, tolerance
        )
    return Minimum(x, value, done, promise)


def _descend(objective: Objective, x: Tensor, which: Tensor, rounds: int, tolerance: float) -> tuple[Tensor, ...]:
    state = [torch.arange(len(x), device=x.device), x.clone(), *objective(x, which), torch.full_like(x[:, 0], 1e-3)]
    x, value, done = x.clone(), state[2].clone(), torch.zeros_like(which, dtype=torch.bool)
    promises = torch.full_like(value, torch.inf)
    for _ in range(rounds):
        index, here, best, slope, bend, damping = state
        diagonal = bend.diagonal(dim1=-2, dim2=-1)
        largest = diagonal.amax(-1, keepdim=True) + 1e-30
        # A coordinate at its limit whose slope leads outwards stays there.
        held = (here.abs() >= LIMIT) & (slope * here < 0)
        slope = slope.masked_fill(held, 0.0)
        floor = torch.diag_embed(largest * torch.where(held, 1e12, 1e-12))
        promise = (slope * torch.linalg.solve_ex(bend + floor, slope).result).sum(-1) / 2
        finished = (promise < tolerance) & best.isfinite()
        promises[index] = promise
        done[index[finished]] = True
        state = [part[~finished] for part in (index, here, best, slope, bend, damping, floor, diagonal)]
        if len(state[0]) == 0:
            break
        index, here, best, slope, bend, damping, floor, diagonal = state
        step = torch.linalg.solve_ex(bend + floor + torch.diag_embed(damping[:, None] * diagonal), slope).result
        step = step * (2 / step.abs().amax(-1, keepdim=True)).clamp_max(1.0)
        there = (here - step).clamp(-LIMIT, LIMIT)
        found = objective(there, which[index])
        better = found[0] < best
        damping = torch.where(better, (damping / 8).clamp_min(1e-9), damping * 8)
        chosen = [
            torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip((there, *found), (here, best, slope, bend), strict=True)
        ]
        state = [index, *chosen, damping]
        x[index], value[index] = chosen[0], chosen[1]
    return x, value, done, promises


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
    after differencing. The effort is "rough", for comparing models, "one start", or "best", several where in doubt.
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


def block_size(length: int, device: torch.device) -> int:
    """How many series of a length to work on at once: few enough for its memory, many enough for the loop over time."""
    if device.type != "cpu":
        return max(1, 2**25 // length)
    return max(1, 2**19 // length)


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
            x = unnatural(hannan_rissanen(plain.noise, self.orders), self.orders)
            if effort == "best":
                x, _, done, _ = best_of_starts(complete, x)
            elif effort == "one start":
                x, _, done, _ = minimise(complete, x, tolerance=TOLERANCE)
            else:
                x, _, done, _ = minimise(complete, x, tolerance=100 * TOLERANCE, rounds=(12, 0))
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
