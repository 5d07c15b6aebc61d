"""The maximum of the likelihood of a volatility model, for many series at once.

The search is over vectors (m, N) with the rows mu (for a constant mean), omega, alpha, gamma, beta, 1 / nu (for noise
"t").
"""

from itertools import product
from math import exp

import torch
from torch import Tensor

from stlib.models._climb import climb
from stlib.models._volatility import Parameters, back_cast, log_likelihood, slope_and_information, variance_path

NEARLY = 5.0  # a second start whose log-likelihood is at most this much below the first is tried too
SMALLEST = 1e-8  # the smallest omega, for returns with a mean square of 1
EDGE = 1 - 1e-6  # the largest persistence
DEGREES = 2.05, 500.0  # of freedom, fewest and most
WIDEST = 20.0  # a variance beyond exp(±20) times its mean is no fit


def maximise(returns: Tensor, *, p: int, q: int, kind: str, noise: str, mean: str) -> tuple[Parameters, Tensor, Tensor]:
    """Parameters, log-likelihood and whether it converged, of returns (T, N) with a mean square of about 1."""
    names = {"p": p, "q": q, "kind": kind, "noise": noise, "mean": mean}
    start = back_cast(returns, centred=mean == "constant")
    everything = torch.arange(len(start), device=start.device)

    def evaluate(vector: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        par, x = _parameters(vector, **names), returns[:, places]
        h, slopes = variance_path(x, par, start[places], kind=kind, slopes=mean)
        gradient, information = slope_and_information(x, h, slopes, par, kind=kind, noise=noise, mean=mean)
        if noise == "t":
            gradient[-1] *= -par.nu.square()
            information[:, -1] *= -par.nu.square()[:, None]
            information[:, :, -1] *= -par.nu.square()[:, None]
        return value(x, h, par), gradient.T, information

    def height(vector: Tensor) -> Tensor:
        par = _parameters(vector, **names)
        h, _ = variance_path(returns, par, start, kind=kind)
        return value(returns, h, par).nan_to_num(-torch.inf)

    def value(x: Tensor, h: Tensor, par: Parameters) -> Tensor:
        height = log_likelihood(x, h, par, noise=noise)
        if kind != "egarch":
            return height
        low, high, middle = *h.aminmax(dim=0), h.mean(0)
        return torch.where((low > exp(-WIDEST) * middle) & (high < exp(WIDEST) * middle), height, torch.nan)

    tops, heights = [], []
    for group in _starts(returns, **names):
        highest, which = torch.stack([height(vector) for vector in group]).max(0)
        tops.append(torch.stack(group).gather(0, which.expand(1, len(group[0]), -1))[0])
        heights.append(highest)
    swap = heights[1] > heights[0]
    first, second = torch.where(swap, tops[1], tops[0]), torch.where(swap, tops[0], tops[1])
    again = everything[(heights[0] - heights[1]).abs() < NEARLY]  # the likelihood may have two tops
    columns = torch.cat([everything, again])
    vector, top, converged = climb(
        lambda trial, places: evaluate(trial, columns[places]),
        torch.cat([first, second[:, again]], 1),
        *(bound.to(returns) for bound in _bounds(**names)),
    )
    higher = (top[len(start) :] > top[again]) | top[again].isnan()
    winner = everything.clone()
    winner[again[higher]] = len(start) + higher.nonzero()[:, 0]
    return _parameters(vector[:, winner], **names), top[winner], converged[winner]


def _parameters(vector: Tensor, *, p: int, q: int, kind: str, noise: str, mean: str) -> Parameters:
    """The parameters of a vector, without the last rounding error beyond their bounds."""
    mu, omega, alpha, gamma, beta, inverse = vector.split(_rows(p, q, kind, noise, mean))
    alpha, beta = alpha.clamp_min(0.0), beta.clamp_min(0.0)
    if kind != "egarch":
        omega = omega.clamp_min(SMALLEST)
        gamma = torch.maximum(gamma, -alpha) if len(gamma) else gamma
    mu = mu[0] if mean == "constant" else torch.zeros_like(omega[0])
    nu = 1 / inverse[0] if noise == "t" else torch.full_like(omega[0], torch.inf)
    return Parameters(mu, omega[0], alpha, gamma, beta, nu)


def _rows(p: int, q: int, kind: str, noise: str, mean: str) -> list[int]:
    return [int(mean == "constant"), 1, p, 0 if kind == "garch" else p, q, int(noise == "t")]


def _bounds(*, p: int, q: int, kind: str, noise: str, mean: str) -> tuple[Tensor, Tensor]:
    """Rows A and bounds b of A v >= b."""
    rows = _rows(p, q, kind, noise, mean)
    _, omega, alpha, gamma, beta, inverse = torch.eye(sum(rows), dtype=torch.float64).split(rows)
    bounds = [(row, 0.0) for row in (*alpha, *beta)]
    if noise == "t":
        bounds += [(inverse[0], 1 / DEGREES[1]), (-inverse[0], -1 / DEGREES[0])]
    total = beta.sum(0)
    if kind != "egarch":
        total = total + alpha.sum(0) + gamma.sum(0) / 2
        bounds += [(omega[0], SMALLEST), *((alpha[k] + row, 0.0) for k, row in enumerate(gamma))]
    bounds.append((-total, -EDGE))
    a, b = zip(*bounds, strict=True)
    return torch.stack(a), torch.tensor(b, dtype=torch.float64)


def _starts(returns: Tensor, *, p: int, q: int, kind: str, noise: str, mean: str) -> list[list[Tensor]]:
    """Two groups of vectors to start from: variances that soon forget, and such that remember long."""
    centre = returns.nanmean(0) if mean == "constant" else torch.zeros_like(returns[0])
    size = (returns - centre).square().nanmean(0)
    groups = []
    for persistences in ((0.5, 0.8), (0.95, 0.99)):
        group = []
        for alpha, persistence in product((0.02, 0.05, 0.1, 0.25), persistences):
            gamma = alpha if kind == "gjr" else 0.0
            if kind == "egarch":
                beta = persistence if q else 0.0
                omega = (1 - beta) * size.log()
            else:
                beta = persistence - alpha if q else 0.0
                omega = (1 - alpha - beta) * size
            values = [1.0, 1.0, (alpha - gamma / 2) / p, gamma / p, beta / max(q, 1), 1 / 8]
            rows = zip(_rows(p, q, kind, noise, mean), values, strict=True)
            vector = torch.tensor([value for count, value in rows for _ in range(count)]).to(returns)
            vector = vector[:, None].repeat(1, len(size))
            vector[int(mean == "constant")] = omega
            if mean == "constant":
                vector[0] = centre
            group.append(vector)
        groups.append(group)
    return groups
