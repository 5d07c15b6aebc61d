"""The least of many functions at once by damped Newton steps, each from one start or from several that compete."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stlib.models._climb import secant_update

LIMIT = 8.0  # of the unbounded coordinates: a partial autocorrelation of 1 - 2e-7
ROUNDS = 24  # steps before the true Hessian takes over
SHORT = 0.1  # length of a step that is safe without a look at where it leads
HOPE = 4.0  # times what the next step promises is the most that a start is believed to gain, less from round to round
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Minimum(NamedTuple):
    x: Tensor  # (N, k)
    value: Tensor  # (N,)
    done: Tensor  # (N,) whether nothing more is to be gained
    promise: Tensor  # (N,) what the last step promised to gain


def minimise(
    objective: Objective, x: Tensor, *, tolerance: float, rounds: int = 60, rivals: Tensor | None = None
) -> Minimum:
    r"""The minimum of each of N functions by the Levenberg-Marquardt method; a function that is done costs no more.

    ``objective(x, which)`` gives the value ``(n,)``, the gradient ``(n, k)`` and a positive Hessian ``(n, k, k)`` of
    the functions ``which`` at x ``(n, k)``. What this Hessian lacks is learnt from the gradients of successive steps,
    or they would zigzag along a curved valley. A function is done when the next step promises less than ``tolerance``.
    The few that are left after ``ROUNDS`` steps go on with the true Hessian.
    Source: Moré (1978), doi:10.1007/BFb0067700; Dennis, Gay and Welsch (1981), doi:10.1145/355958.355965.
    """
    x = x.clamp(-LIMIT, LIMIT)
    index = torch.arange(len(x), device=x.device)
    value, slope, bend = objective(x, index)
    found = Minimum(x.clone(), value.clone(), torch.zeros_like(index).bool(), torch.full_like(value, torch.inf))
    state = [index, x, value, slope, bend, torch.zeros_like(bend), torch.full_like(value, 1e-3)]
    for round_ in range(rounds):
        if round_ == ROUNDS:
            objective = newton(objective)
            state[2:6] = *objective(state[1], state[0]), torch.zeros_like(state[5])
        index, here, best, slope, bend, learnt, damping = state
        # A coordinate at its limit whose slope leads outwards stays there.
        held = (here.abs() >= LIMIT) & (slope * here < 0)
        slope = slope.masked_fill(held, 0.0)
        hessian = bend + learnt
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        floor = (diagonal.amax(-1, keepdim=True) + 1e-30) * torch.where(held, 1e12, 1e-12)
        last = torch.linalg.solve_ex(hessian + torch.diag_embed(floor), slope).result
        promise = (slope * last).sum(-1) / 2
        plain = (slope * torch.linalg.solve_ex(bend + torch.diag_embed(floor), slope).result).sum(-1) / 2
        found.promise[index] = promise
        finished = (torch.maximum(promise, plain) < tolerance) & best.isfinite()
        found.done[index[finished]] = True
        # The step that is not worth an evaluation is taken all the same, if it is short.
        taken = finished & (last.abs().amax(-1) < SHORT)
        found.x[index[taken]], found.value[index[taken]] = (here - last)[taken], (best - promise)[taken]
        if rivals is not None:
            bar = best.new_full((int(rivals.max()) + 1,), torch.inf).scatter_reduce(0, rivals, found.value, "amin")
            finished |= best - HOPE / (1 + round_ / 5) * torch.maximum(promise, plain) > bar[rivals[index]]
        if finished.all():
            break
        if finished.any():
            state = [part[~finished] for part in (*state, slope, hessian, diagonal, floor)]
            index, here, best, _, bend, learnt, damping, slope, hessian, diagonal, floor = state
        step = torch.linalg.solve_ex(hessian + torch.diag_embed(floor + damping[:, None] * diagonal), slope).result
        step = step * (2 / step.abs().amax(-1, keepdim=True)).clamp_max(1.0)
        there = (here - step).clamp(-LIMIT, LIMIT)
        value, *slopes = objective(there, index)
        better = value < best
        damping = torch.where(better, (damping / 8).clamp_min(1e-9), damping * 8)
        update = secant_update(slopes[1] + learnt, there - here, slopes[0] - state[3]) - slopes[1]
        update = update if round_ < ROUNDS else torch.zeros_like(learnt)
        chosen = [
            torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip((there, value, *slopes, update), (here, best, state[3], bend, 0 * learnt), strict=True)
        ]
        state = [index, *chosen, damping]
        found.x[index], found.value[index] = chosen[0], chosen[1]
    return found


def best_of_starts(objective: Objective, x: Tensor, *, tolerance: float) -> Minimum:
    """The least of the minima from several starts ``(S, N, k)``, NaN where there are fewer."""
    number = x.shape[1]
    usable = ~x[..., :1].isnan().any(-1).flatten()
    which = torch.arange(number, device=x.device).repeat(len(x))
    found = minimise(
        lambda z, i: objective(z, which[usable][i]), x.flatten(0, 1)[usable], tolerance=tolerance, rivals=which[usable]
    )
    value = torch.full(usable.shape, torch.inf, dtype=x.dtype, device=x.device)
    value[usable] = found.value
    winner = value.unflatten(0, (-1, number)).argmin(0) * number + torch.arange(number, device=x.device)
    winner = usable.cumsum(0)[winner] - 1
    return Minimum(*(part[winner] for part in found))


def newton(objective: Objective) -> Objective:
    """The same objective with its true Hessian, made positive by the size of its eigenvalues."""

    def curved(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, slope, hessian = hessian_of(objective, x, which)
        values, vectors = torch.linalg.eigh(hessian)
        return value, slope, vectors * values.abs().clamp_min(1e-9)[:, None] @ vectors.mT

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
