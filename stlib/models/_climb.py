"""The top of a likelihood within linear bounds, for many series at once.

Each round replaces the log-likelihood of a series by a quadratic with its gradient and its information, corrected by a
secant update, and goes to the top of that within the bounds, or less far where the last quadratic was wrong. A series
leaves the batch when it is done.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GAIN = 1e-6  # a series is done when the next round promises less than this in log-likelihood
ROUNDS = 100
DAMPING = 0.3  # of the first step, so that it stays near its start

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def climb(evaluate: Evaluate, vector: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From ``vector`` (m, N) to the next top: vectors, values (N), and whether they are tops (N).

    ``evaluate(vector, places)`` gives the value (n), the gradient (n, m) and the information (n, m, m) of the series at
    the given places. The bounds are A v >= b, A (k, m) and b (k), and hold for the start.
    """
    best, converged = vector.clone(), torch.zeros_like(vector[0], dtype=torch.bool)
    best_value = torch.full_like(vector[0], torch.nan)
    places = torch.arange(vector.shape[1], device=vector.device)
    value, gradient, information = evaluate(vector, places)
    secant, damping = torch.zeros_like(information), torch.full_like(value, DAMPING)
    for round_ in range(ROUNDS + 1):
        sound = (information.isfinite().all(-1) & gradient.isfinite()).all(-1) & value.isfinite()
        information = torch.where(sound[:, None, None], information, torch.eye(len(vector)).to(information))
        gradient = torch.where(sound[:, None], gradient, 0.0)
        room = (b[:, None] - a @ vector).T.clamp_max(0.0)
        step, promise = _step(information + secant, damping, gradient, a, room)
        enough = (10 * torch.finfo(value.dtype).eps * value.abs()).clamp_min(GAIN)
        done = sound & (promise < enough) & (damping < 0.1)
        if done.any():  # the information alone must agree: a secant can be far off
            plain, least = _step(information[done], damping[done], gradient[done], a, room[done])
            step[done], promise[done], secant[done] = plain, least, 0.0
            done &= promise < enough
        over = done | ~sound | (damping > 1e12) | (round_ == ROUNDS)
        if over.any():
            best[:, places[over]], best_value[places[over]] = vector[:, over], value[over]
            converged[places[over]] = done[over]
            if over.all():
                break
            rest = ~over
            places, vector, value, gradient = places[rest], vector[:, rest], value[rest], gradient[rest]
            information, secant, damping = information[rest], secant[rest], damping[rest]
            step, promise = step[rest], promise[rest]
        trial = vector + step.T
        new_value, new_gradient, new_information = evaluate(trial, places)
        better = new_value > value
        trusted = torch.where(new_value - value > promise / 2, (damping / 10).clamp_min(1e-9), damping)
        damping = torch.where(better, trusted, 10 * damping.clamp_min(1e-6))
        update = secant_update(new_information + secant, step, gradient - new_gradient)
        secant = torch.where(better[:, None, None], update - new_information, 0.0)
        vector, value = torch.where(better, trial, vector), torch.where(better, new_value, value)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        information = torch.where(better[:, None, None], new_information, information)
    return best, best_value, converged


def _step(hessian: Tensor, damping: Tensor, gradient: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The damped step and how much higher it promises to lead."""
    hessian = hessian + torch.diag_embed(hessian.diagonal(dim1=1, dim2=2) * damping[:, None])
    step = bounded_step(hessian, gradient, a, b)
    return step, (step * (gradient - _times(hessian, step) / 2)).sum(1)


def bounded_step(hessian: Tensor, gradient: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""The step d with the largest :math:`g^\top d - d^\top H d / 2` among those with :math:`A d \ge b`, for b <= 0.

    H (N, m, m), g (N, m), A (k, m), b (N, k).
    """
    kind = gradient.dtype
    hessian, gradient, a, b = (part.double() for part in (hessian, gradient, a, b))
    step = torch.linalg.solve_ex(hessian, gradient)[0]
    outside = ~(step @ a.T >= b).all(1)
    if outside.any():
        step[outside] = _interior_point(hessian[outside], gradient[outside], a, b[outside])
    return step.to(kind)


def _interior_point(hessian: Tensor, gradient: Tensor, a: Tensor, b: Tensor, rounds: int = 16) -> Tensor:
    """The same by a primal-dual interior point method, whose error falls about tenfold in a round."""
    scale = hessian.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    hessian, gradient, a = hessian * scale[:, :, None] * scale[:, None], gradient * scale, a * scale[:, None]
    norm = a.abs().amax(2)
    a, b = a / norm[:, :, None], b / norm
    step = torch.zeros_like(gradient)
    slack = (-b).clamp_min(1e-3)
    force = gradient.abs().amax(1, keepdim=True).clamp_min(1e-12).expand_as(slack)
    for _ in range(rounds):
        dual = _times(hessian, step) - gradient - _times(a.mT, force)
        primal = _times(a, step) - b - slack
        target = 0.1 * (slack * force).mean(1, keepdim=True)
        weight = force / slack
        right = _times(a.mT, (target - slack * force) / slack - weight * primal) - dual
        d_step = torch.linalg.solve_ex(hessian + a.mT @ (weight[..., None] * a), right)[0]
        d_slack = _times(a, d_step) + primal
        d_force = (target - slack * force - force * d_slack) / slack
        fastest = torch.cat([-d_slack / slack, -d_force / force], 1).amax(1, keepdim=True)
        length = (0.99 / fastest.clamp_min(1e-12)).clamp_max(1.0)
        step, slack, force = step + length * d_step, slack + length * d_slack, force + length * d_force
        slack, force = slack.clamp_min(1e-14), force.clamp_min(1e-14)
    return step * scale


def secant_update(hessian: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The BFGS update: a Hessian that maps the step to the change of the gradient; the old one where there is none."""
    mapped = _times(hessian, step)
    along, curvature = (step * mapped).sum(1)[:, None, None], (step * change).sum(1)[:, None, None]
    update = hessian - mapped[:, :, None] * mapped[:, None] / along + change[:, :, None] * change[:, None] / curvature
    sound = (along > 0) & (curvature > 1e-8 * along) & update.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    definite = torch.linalg.cholesky_ex(torch.where(sound, update, torch.eye(step.shape[1]).to(update)))[1] == 0
    return torch.where(sound & definite[:, None, None], update, hessian)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
