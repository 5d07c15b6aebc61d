"""Where to start the search for an ARMA model's likelihood: the local minima of its spectral approximation on a grid.

Given the moving average, the best autoregression solves linear equations in the autocovariances of the filtered series,
and these are linear in the periodogram. So one matrix product over a grid of moving averages, the same for all series,
shows the whole likelihood of each of them, local minima included, for less than one evaluation of the exact one.
"""

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from stlib.models._arima_likelihood import Orders, multiplied, polynomials, stationary, unbounded

ANGLES, COARSE = 32, 12  # values of the first partial autocorrelation: cosines; with a season fewer
SECOND = (-0.97, -0.88, -0.7, -0.4, 0.0, 0.4, 0.8)  # partial autocorrelations of the moving average
EDGE = 0.98  # what a root next to the circle is inverse to
LIKELY = 15.0  # a minimum that lacks more of the deviance than this never won, on simulated and real series
SEASONAL = (-0.4, 0.0, 0.4, 0.8)


def grid(orders: Orders, like: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Moving averages ``(G, q + Q)`` in unbounded coordinates, and how many values each of the first three takes."""
    count = COARSE if orders.Q else ANGLES
    first = ((torch.arange(count) + 0.5) * math.pi / count).cos() if orders.q else torch.zeros(1)
    second = torch.tensor(SECOND) if orders.q > 1 else torch.zeros(1)
    seasonal = torch.tensor(SEASONAL) if orders.Q else torch.zeros(1)
    points = torch.cartesian_prod(first, second, seasonal).to(like).atanh()
    parts = F.pad(points[:, :2], (0, max(0, orders.q - 2)))[:, : orders.q], F.pad(points[:, 2:], (0, orders.Q))
    return torch.cat([parts[0], parts[1][:, : orders.Q]], -1), (len(first), len(second), len(seasonal))


def errors(w: Tensor, orders: Orders) -> tuple[Tensor, dict[int, Tensor]]:
    r"""The noise variance of series ``(T, N)`` at each moving average of the grid, ``(N, G)``, with the autoregression
    that is best for it; and by lag the autocovariances ``(N, G)`` of the series filtered by that moving average.

    The variance is the integral, I the periodogram, of
    :math:`I(\lambda)\, \lvert\phi(e^{i\lambda})\rvert^2 / \lvert\vartheta(e^{i\lambda})\rvert^2`. Its
    logarithm times the number of steps is an approximation of the deviance.
    Source: Whittle (1953), doi:10.1007/BF02590998.
    """
    lags = [0, *_lags(orders)]
    apart = sorted({abs(a - b) for a in lags for b in lags})
    places = grid(orders, w)[0]
    none = places.new_zeros(len(places), orders.p), places.new_zeros(len(places), orders.P)
    ma = -stationary(places[:, : orders.q]), -stationary(places[:, orders.q :])
    theta = polynomials(torch.cat([none[0], ma[0], none[1], ma[1]], -1), orders)[1]  # (G, orders.ma)

    size = next_fast_len(len(w) + len(w) // 2 + orders.ma, real=True)
    power = torch.view_as_real(torch.fft.rfft(w.T.contiguous(), n=size)).square().sum(-1) / (size * len(w))  # (N, F)
    gain = torch.fft.rfft(F.pad(theta, (1, 0), value=1.0), n=size).abs().square()
    angle = 2 * math.pi / size * torch.arange(power.shape[1], dtype=w.dtype, device=w.device)
    waves = torch.stack([(angle * lag).cos() for lag in apart])
    waves[:, 1 : (size + 1) // 2] *= 2  # for the negative frequencies
    kernel = waves[:, None] / gain  # (lags, G, F)
    gamma = dict(zip(apart, (power @ kernel.flatten(0, 1).T).unflatten(1, kernel.shape[:2]).unbind(1), strict=True))

    rows = [[gamma[abs(a - b)] for b in reversed(lags)] for a in reversed(lags)]  # of (N, G), eliminated one by one
    while len(rows) > 1:
        first, *rest = rows
        rows = [[x - row[0] / first[0] * y for x, y in zip(row[1:], first[1:], strict=True)] for row in rest]
    return rows[0][0], gamma


def _lags(orders: Orders) -> list[int]:
    return [*range(1, orders.p + 1), *(orders.season * (i + 1) for i in range(orders.P))]


def starts(w: Tensor, orders: Orders, number: int) -> Tensor:
    """Up to ``number`` starts of each series ``(T, N)``: ``(number, N, k)`` in unbounded coordinates, best first.

    They are the local minima of `errors`. Where there are fewer likely ones than asked for, the rest is NaN.
    """
    lags = _lags(orders)
    error, gamma = errors(w, orders)
    places, shape = grid(orders, w)
    error = error.unflatten(1, shape)
    lowest = -F.max_pool3d(-error, 3, stride=1, padding=1)
    error = torch.where(error <= lowest, error, torch.inf).flatten(1)
    value, place = error.topk(min(number, error.shape[1]), dim=1, largest=False)  # (N, S)

    right = torch.stack([gamma[lag].gather(1, place) for lag in lags], -1) if lags else value[..., None][..., :0]
    if lags:
        left = torch.stack([torch.stack([gamma[abs(a - b)].gather(1, place) for a in lags], -1) for b in lags], -1)
        right = torch.linalg.solve_ex(left, right[..., None]).result[..., 0]
    ar, seasonal_ar = (unbounded(part) for part in right.split([orders.p, orders.P], -1))
    plain, seasonal_ma = places[place].split([orders.q, orders.Q], -1)
    found = torch.cat([ar, plain, seasonal_ar, seasonal_ma], -1)
    likely = len(w) * (value / value[:, :1]).log() < LIKELY
    found = torch.where(likely[..., None], found, torch.nan)
    found[:, 0] = torch.cat([ar, plain, seasonal_ar, seasonal_ma], -1)[:, 0].nan_to_num()
    return found.movedim(1, 0)


def at_the_edge(w: Tensor, begin: Tensor, orders: Orders) -> Tensor:
    """The best start of each series ``(T, N)`` with a root of the moving average near 1, and that with one near -1:
    ``(2, N, k)``. Such a series is all but the difference of another one, and that one has the rest of the model.
    """
    found, time = [], torch.arange(len(w), device=w.device)[:, None]
    seen = time >= begin
    for sign in (1.0, -1.0):
        swing = sign ** time.to(w)
        total = torch.where(seen, (w * swing).cumsum(0), 0.0)
        total = torch.where(seen, total - total.sum(0) / seen.sum(0), 0.0) * swing
        ar, ma, *rest = starts(total, orders._replace(q=orders.q - 1), 1)[0].split(
            [orders.p, orders.q - 1, orders.P + orders.Q], -1
        )
        ma = multiplied(-stationary(ma), torch.full_like(w[0], -EDGE * sign)[:, None], 1)
        found.append(torch.cat([ar, unbounded(-ma), *rest], -1))
    return torch.stack(found)
