"""The maximum of the likelihood of a volatility model, for many series at once.

Each round replaces the log-likelihood of a series by a quadratic with its gradient and its information, corrected by a
secant update, and goes to the maximum of that within the bounds of the parameters, or less far where the quadratic was
wrong. A series leaves the batch when it is done.
"""

from itertools import product
from math import exp

import torch
from torch import Tensor

from stlib.models._volatility import Parameters, back_cast, log_likelihood, slope_and_information, variance_path

GAIN = 1e-6  # a series is done when the next round promises less than this in log-likelihood
ROUNDS = 100
DAMPING = 0.3
NEARLY = 20.0  # a start whose log-likelihood is this much below the best is tried too
EDGE = 1 - 1e-6  # the largest sum of the factors of past variances
DEGREES = 2.05, 500.0  # of freedom, fewest and most
WIDEST = 20.0  # a variance beyond exp(±20) times its mean is no fit


def maximise(returns: Tensor, *, p: int, q: int, kind: str, noise: str, mean: str) -> tuple[Parameters, Tensor, Tensor]:
    """Parameters, log-likelihood and whether it converged, of returns (T, N) with a mean square of about 1."""
    start = back_cast(returns, centred=mean == "constant")
    a, b = (bound.to(returns) for bound in _bounds(p, q, kind))
    free = torch.ones(a.shape[1], dtype=torch.bool, device=returns.device)
    free[0], free[-1] = mean == "constant", noise == "t"
    a, b = a[(a[:, free] != 0).any(1)], b[(a[:, free] != 0).any(1)]

    def climb(vector: Tensor, x: Tensor, x_start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, best_value = vector.clone(), torch.full_like(x_start, -torch.inf)
        converged = torch.zeros_like(x_start, dtype=torch.bool)
        active = torch.arange(len(x_start), device=x_start.device)
        value, gradient, information = evaluate(vector, x, x_start)
        secant = torch.zeros_like(information)
        damping = torch.full_like(x_start, DAMPING)
        for round_ in range(ROUNDS + 1):
            hessian = information + secant
            hessian = hessian + torch.diag_embed(hessian.diagonal(dim1=1, dim2=2) * damping[:, None])
            sound = (hessian.isfinite().all(-1) & gradient.isfinite()).all(-1) & value.isfinite()
            step = _bounded_step(
                torch.where(sound[:, None, None], hessian, torch.eye(hessian.shape[1]).to(hessian)),
                torch.where(sound[:, None], gradient, 0.0),
                a[:, free],
                (b[:, None] - a @ vector).T.clamp_max(0.0),
            )
            promise = (step * (gradient - (hessian @ step[..., None])[..., 0] / 2)).sum(1)
            enough = (10 * torch.finfo(value.dtype).eps * value.abs()).clamp_min(GAIN)
            done = (promise < enough) & (damping < 0.1)
            over = done | ~sound | (damping > 1e12) | (round_ == ROUNDS)
            if over.any():
                places = active[over]
                best[:, places], best_value[places], converged[places] = vector[:, over], value[over], done[over]
                if over.all():
                    break
                rest = ~over
                active, x, x_start, vector = active[rest], x[:, rest], x_start[rest], vector[:, rest]
                value, gradient, information = value[rest], gradient[rest], information[rest]
                secant, damping, step, promise = secant[rest], damping[rest], step[rest], promise[rest]
            trial = vector.clone()
            trial[free] += step.T
            trial = _kept(trial, p, kind)
            new_value, new_gradient, new_information = evaluate(trial, x, x_start)
            gain = new_value - value
            better = gain > 0
            update = _secant(new_information + secant, (trial - vector)[free].T, gradient - new_gradient)
            secant = torch.where(better[:, None, None], update - new_information, 0.0)
            vector, value = torch.where(better, trial, vector), torch.where(better, new_value, value)
            gradient = torch.where(better[:, None], new_gradient, gradient)
            information = torch.where(better[:, None, None], new_information, information)
            trusted = torch.where(gain > promise / 2, (damping / 10).clamp_min(1e-9), damping)
            damping = torch.where(better, trusted, damping.clamp_min(1e-6) * 10)
        return best, best_value, converged

    def evaluate(vector: Tensor, x: Tensor, x_start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        par = _parameters(vector, p, kind, noise)
        h, slopes = variance_path(x, par, x_start, kind=kind, slopes=mean)
        value = _usable(log_likelihood(x, h, par, noise=noise), h)
        gradient, information = slope_and_information(x, h, slopes, par, kind=kind, noise=noise, mean=mean)
        if noise == "t":  # the last free value is 1 / nu
            gradient[-1] *= -par.nu.square()
            information[:, -1] *= -par.nu.square()[:, None]
            information[:, :, -1] *= -par.nu.square()[:, None]
        return value, gradient.T, information

    centre = returns.nanmean(0) if mean == "constant" else torch.zeros_like(start)
    size = (returns - centre).square().nanmean(0)
    tops, heights = [], []
    for group in _starts(centre, size, p, q, kind):
        values = []
        for vector in group:
            par = _parameters(vector, p, kind, noise)
            h, _ = variance_path(returns, par, start, kind=kind)
            values.append(_usable(log_likelihood(returns, h, par, noise=noise), h).nan_to_num(-torch.inf))
        height, choice = torch.stack(values).max(0)
        tops.append(torch.stack(group).gather(0, choice.expand(1, len(group[0]), -1))[0])
        heights.append(height)
    second = (heights[1] > heights[0]).long()
    first, other = (torch.where(turn == 1, tops[1], tops[0]) for turn in (second, 1 - second))
    again = ((heights[0] - heights[1]).abs() < NEARLY).nonzero()[:, 0]  # the likelihood may have two tops
    columns = torch.cat([torch.arange(len(start), device=start.device), again])
    vector, value, converged = climb(torch.cat([first, other[:, again]], 1), returns[:, columns], start[columns])
    higher = value[len(start) :] > value[again]
    winner = torch.arange(len(start), device=start.device)
    winner[again[higher]] = len(start) + higher.nonzero()[:, 0]
    return _parameters(vector[:, winner], p, kind, noise), value[winner], converged[winner]


def _parameters(vector: Tensor, p: int, kind: str, noise: str) -> Parameters:
    """From the vector of the search: mu, omega, alpha, gamma, beta, 1 / nu."""
    asymmetry = 0 if kind == "garch" else p
    alpha, gamma, beta = vector[2:-1].split([p, asymmetry, len(vector) - 3 - p - asymmetry])
    nu = 1 / vector[-1] if noise == "t" else torch.full_like(vector[-1], torch.inf)
    return Parameters(vector[0], vector[1], alpha, gamma, beta, nu)


def _bounds(p: int, q: int, kind: str) -> tuple[Tensor, Tensor]:
    """Rows A and bounds b of A v >= b."""
    asymmetry = 0 if kind == "garch" else p
    size = 3 + p + asymmetry + q
    unit = torch.eye(size, dtype=torch.float64)
    alpha, gamma, beta = unit[2:-1].split([p, asymmetry, q])
    rows = [(row, 0.0) for row in beta] + [(unit[-1], 1 / DEGREES[1]), (-unit[-1], -1 / DEGREES[0])]
    total = beta.sum(0)
    if kind != "egarch":
        total = total + alpha.sum(0) + gamma.sum(0) / 2
        rows += [(unit[1], 1e-8), *((row, 0.0) for row in alpha)]
        rows += [(rise + more, 0.0) for rise, more in zip(alpha[:asymmetry], gamma, strict=True)]
    if total.any():
        rows.append((-total, -EDGE))
    a, b = zip(*rows, strict=True)
    return torch.stack(a), torch.tensor(b, dtype=torch.float64)


def _kept(vector: Tensor, p: int, kind: str) -> Tensor:
    """The vector without the last rounding error beyond its bounds."""
    asymmetry = 0 if kind == "garch" else p
    vector[2 + p + asymmetry : -1].clamp_min_(0.0)
    if kind != "egarch":
        vector[1].clamp_min_(1e-8)
        alpha = vector[2 : 2 + p].clamp_min_(0.0)
        if kind == "gjr":
            vector[2 + p : 2 + 2 * p].copy_(torch.maximum(vector[2 + p : 2 + 2 * p], -alpha))
    return vector


def _starts(centre: Tensor, size: Tensor, p: int, q: int, kind: str) -> list[list[Tensor]]:
    """Two groups of vectors to start from: variances that soon forget, and such that remember long."""
    groups = []
    for persistences in ((0.5, 0.8), (0.95, 0.99)):
        group = []
        for alpha, persistence in product((0.02, 0.05, 0.1, 0.25), persistences):
            asymmetry = 0 if kind == "garch" else p
            if kind == "egarch":
                beta = persistence if q else 0.0
                omega = (1 - beta) * size.log()
            else:
                beta = persistence - alpha if q else 0.0
                omega = (1 - alpha - beta) * size
            gamma = alpha if kind == "gjr" else 0.0
            rows = [(alpha - gamma / 2) / p] * p + [gamma / p] * asymmetry + [beta / q for _ in range(q)] + [1 / 8]
            group.append(torch.stack([centre, omega, *(torch.full_like(size, value) for value in rows)]))
        groups.append(group)
    return groups


def _usable(value: Tensor, h: Tensor) -> Tensor:
    low, high = h.aminmax(dim=0)
    middle = h.mean(0)
    return torch.where((low > exp(-WIDEST) * middle) & (high < exp(WIDEST) * middle), value, torch.nan)


def _secant(hessian: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The BFGS update: a Hessian that maps the last step to the change of the gradient; as it was where it cannot."""
    mapped = (hessian @ step[..., None])[..., 0]
    along, curvature = (step * mapped).sum(1)[:, None, None], (step * change).sum(1)[:, None, None]
    update = hessian - mapped[:, :, None] * mapped[:, None] / along + change[:, :, None] * change[:, None] / curvature
    sound = (along > 0) & (curvature > 1e-8 * along) & update.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    sound = (
        sound
        & (torch.linalg.cholesky_ex(torch.where(sound, update, torch.eye(len(step.T)).to(update)))[1] == 0)[
            :, None, None
        ]
    )
    return torch.where(sound, update, hessian)


def _bounded_step(hessian: Tensor, gradient: Tensor, a: Tensor, b: Tensor) -> Tensor:
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
    """The same by a primal-dual interior point method, whose error falls tenfold in a round."""
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


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
