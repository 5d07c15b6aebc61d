"""Maximum likelihood for many ARMA models at once: a start for each, then damped Gauss-Newton steps until each is done."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stlib.models.arima_likelihood import Orders, natural, unnatural

LIMIT = 8.0  # of the unbounded coordinates: a partial autocorrelation of 1 - 2e-7
class Minimum(NamedTuple):
    x: Tensor  # (N, k)
    value: Tensor  # (N,)
    done: Tensor  # (N,) whether nothing more is to be gained


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
    """Least-squares coefficients ``(N, k)`` of w on lags of other series, 0 before the start, and the fit ``(T, N)``."""
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
        rows = [
            torch.autograd.grad(coefficients[:, i].sum(), free, retain_graph=True)[0] for i in range(x.shape[1])
        ]
    return coefficients.detach(), torch.stack(rows, 1)


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


def hessian_of(objective: Objective, x: Tensor, which: Tensor, *, width: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian ``(n, k, k)`` of an objective, the last by central differences of its gradient."""
    number, size = x.shape
    shifts = width * torch.cat([torch.eye(size, dtype=x.dtype, device=x.device) * sign for sign in (1, -1)])
    points = torch.cat([x[None], x + shifts[:, None]]).flatten(0, 1)
    value, slope, _ = objective(points, which.repeat(2 * size + 1))
    slope = slope.unflatten(0, (2 * size + 1, number))
    hessian = (slope[1 : size + 1] - slope[size + 1 :]).movedim(0, -1) / (2 * width)
    return value[:number], slope[0], ((hessian + hessian.mT) / 2).nan_to_num()


def minimise(objective: Objective, x: Tensor, *, tolerance: float, rounds: tuple[int, int] = (12, 40)) -> Minimum:
    r"""The minimum of each of N functions by the Levenberg-Marquardt method; a function that is done costs no more.

    ``objective(x, which)`` gives the value ``(n,)``, the gradient ``(n, k)`` and a positive Hessian ``(n, k, k)`` of the
    functions ``which`` at x ``(n, k)``. After the first of ``rounds`` the functions that are left go on with the true
    Hessian (see `newton`). A function is done when the next step promises less than ``tolerance``.
    Source: Moré (1978), doi:10.1007/BFb0067700.
    """
    x = x.clamp(-LIMIT, LIMIT)
    value, done = torch.full_like(x[:, 0], torch.inf), torch.zeros_like(x[:, 0], dtype=torch.bool)
    for function, count in zip((objective, newton(objective)), rounds, strict=True):
        active = (~done).nonzero()[:, 0]
        if len(active) == 0:
            break
        here, best, finished = _descend(function, x[active], active, count, tolerance)
        x[active], value[active], done[active] = here, best, finished
    return Minimum(x, value, done)


def _descend(objective: Objective, x: Tensor, which: Tensor, rounds: int, tolerance: float) -> tuple[Tensor, ...]:
    state = [torch.arange(len(x), device=x.device), x.clone(), *objective(x, which), torch.full_like(x[:, 0], 1e-3)]
    x, value, done = x.clone(), state[2].clone(), torch.zeros_like(which, dtype=torch.bool)
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
    return x, value, done
