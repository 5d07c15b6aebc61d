"""Linear maps from the past to the future: small, fast, and hard to beat."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models.baselines import carry_forward

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
BLOCK = 2**24  # values of the window matrix held at once while fitting


class LinearMap(nn.Module):
    r"""One affine map from ``past`` steps to ``horizon`` steps.

    .. math:: \hat x_{t+h \mid t} = b_h + \sum_{\tau=0}^{P-1} \beta_{h\tau}\, x_{t-\tau}

    ``channels`` and ``places`` say how many maps there are: 1 shares one map among all, the full number gives each
    channel or place its own.

    Shapes: ``(B, past, C, N)`` to ``(B, horizon, C, N)``; weight ``(channels, places, horizon, past)``, the oldest
    step first.

    >>> LinearMap(past=8, horizon=4)(torch.zeros(2, 8, 3, 5)).shape
    torch.Size([2, 4, 3, 5])
    """

    def __init__(self, *, past: int, horizon: int, channels: int = 1, places: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, places, horizon, past))
        self.bias = nn.Parameter(torch.zeros(channels, places, horizon))
        nn.init.uniform_(self.weight, -(past**-0.5), past**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[:2] == (1, 1):  # one plain matrix product is much faster than the general case
            return F.linear(x.movedim(1, -1), self.weight[0, 0], self.bias[0, 0]).movedim(-1, 1)
        return torch.einsum("btcp,cpht->bhcp", x, self.weight) + self.bias.movedim(-1, 0)


class NLinear(nn.Module):
    r"""A linear map of the past's departures from its last value.

    .. math:: \hat x_{t+h \mid t} = x_t + b_h + \sum_\tau \beta_{h\tau}\,(x_{t-\tau} - x_t)

    Subtracting the last value makes the map indifferent to the level, so a level never seen in training does no harm.
    Train it by gradient like any network, or solve for the ridge optimum at once with `fit`. Missing steps of the past
    carry the last observed value.

    Shapes: ``(B, T, C, *S)`` with ``T >= past`` (the last ``past`` steps are used) to ``(B, horizon, C, *S)``; one map
    for all channels and places, or ``channels`` and ``places`` of them (``places`` counts the cells of ``*S``).
    Raises ValueError for a shorter past, and from `fit` for a series without one complete window.
    Source: Zeng et al. (2023), doi:10.1609/aaai.v37i9.26317; ridge: Hoerl & Kennard (1970),
    doi:10.1080/00401706.1970.10488634. Deviation: the closed form, the paper trains by gradient.

    >>> line = torch.arange(40.0).reshape(40, 1)
    >>> model = NLinear(past=4, horizon=2).fit(line[:30], line[26:])
    >>> [round(value, 3) for value in model(line[None]).flatten().tolist()]
    [40.0, 41.0]
    """

    def __init__(self, *, past: int, horizon: int, channels: int = 1, places: int = 1):
        super().__init__()
        self.past, self.horizon = past, horizon
        self.map = LinearMap(past=past, horizon=horizon, channels=channels, places=places)

    def forward(self, past: Tensor) -> Tensor:
        x, missing = _last_steps(past, self.past)
        last = x[:, -1:]
        forecast = (self.map(x - last) + last).masked_fill(missing, torch.nan)
        return forecast.reshape(len(past), self.horizon, *past.shape[2:])

    @torch.no_grad()
    def fit(self, series: Tensor, validation: Tensor, *, penalties: tuple[float, ...] = PENALTIES) -> "NLinear":
        r"""Ridge regression on every training window at once, with the penalty that does best on validation windows.

        .. math:: \beta, b = \arg\min \sum_t \|y_t - b - \beta x_t\|^2 + \lambda\, \bar g\, \|\beta\|^2

        :math:`\bar g` is the mean of the diagonal of :math:`\sum_t x_t x_t^\top` (about the mean), so that a penalty
        :math:`\lambda` means the same for any units and length; the bias is not penalised. A window with a missing
        target is left out. One :math:`\lambda` is chosen for each channel's map. Both series are ``(T, C, *S)``: pass
        ``train.series`` and ``validation.series``.
        """
        train, held_out = self._moments(series), self._moments(validation)
        observed = (~series.isnan()).any(0).reshape(series.shape[1], -1)
        for dim, maps in enumerate(self.map.weight.shape[:2]):
            observed = observed if maps > 1 else observed.any(dim, keepdim=True)
        starved = (train[0] == 0) | (held_out[0].sum(1, keepdim=True) == 0)
        if not observed.any() or (starved & observed).any():  # a place that is never observed needs no map
            raise ValueError(
                f"fit needs a complete window of past={self.past} and horizon={self.horizon} for every map, in "
                f"training ({len(series)} steps given) and in validation ({len(validation)} steps given)"
            )
        mean_x, mean_y = (total / train[0].clamp_min(1)[..., None] for total in train[1:3])
        gram, cross = _about(train, mean_x, mean_y)
        gram_held_out, cross_held_out = _about(held_out, mean_x, mean_y)
        values, vectors = torch.linalg.eigh(gram)  # one factorisation serves every penalty
        projected = vectors.mT @ cross
        scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
        values = values.clamp_min(0) + 1e-300  # a place that is never observed has an empty gram
        weights = [  # (channels, places, past, horizon) for each penalty
            vectors @ (projected / (values + penalty * scale)[..., None]) for penalty in penalties
        ]
        error = torch.stack(
            [((w * (gram_held_out @ w)).sum((-2, -1)) - 2 * (w * cross_held_out).sum((-2, -1))).sum(1) for w in weights]
        )
        self.penalty = [penalties[i] for i in error.argmin(0)]  # one for each channel's map
        weight = torch.stack([weights[i][c] for c, i in enumerate(error.argmin(0))])
        bias = mean_y - (mean_x[..., None] * weight).sum(-2)
        self.map.weight.copy_(weight.mT)
        self.map.bias.copy_(bias)
        return self

    def _moments(self, series: Tensor) -> tuple[Tensor, ...]:
        """Number of windows, sums of x and y, and sums of x xᵀ and x yᵀ, for each map; in blocks, to bound memory."""
        channels, places = self.map.weight.shape[:2]
        length = self.past + self.horizon
        if len(series) < length:
            raise ValueError(f"a series of {len(series)} steps holds no window of {self.past} + {self.horizon} steps")
        windows = series.reshape(len(series), series.shape[1], -1).unfold(0, length, 1)  # (N, C, P, length)
        block = max(1, BLOCK // windows[0].numel())
        moments = None
        for start in range(0, len(windows), block):
            part = windows[start : start + block].movedim(-1, 1)  # (n, length, C, P)
            x, y = carry_forward(part[:, : self.past]), part[:, self.past :]
            last = x[:, -1:]
            rows = torch.cat([x - last, y - last], 1).permute(2, 3, 0, 1)  # (C, P, n, length)
            if places == 1:
                rows = rows.flatten(1, 2)[:, None]
            if channels == 1:
                rows = rows.movedim(0, 1).flatten(1, 2)[None]
            complete = ~rows.isnan().any(-1, keepdim=True)
            rows = torch.where(complete, rows, 0.0)
            x, y = rows[..., : self.past], rows[..., self.past :]
            sums = complete[..., 0].sum(-1), x.sum(-2), y.sum(-2), x.mT @ x, x.mT @ y
            sums = tuple(value.double() for value in sums)
            moments = sums if moments is None else tuple(a + b for a, b in zip(moments, sums, strict=True))
        return moments


class DLinear(nn.Module):
    r"""Two linear maps, one of a moving average and one of what it leaves.

    .. math:: \hat x = \beta_\mathrm{trend}\,\bar x + \beta_\mathrm{rest}\,(x - \bar x) + b

    :math:`\bar x` is the past's moving average over ``kernel`` steps, an odd number; the ends repeat. Each
    :math:`\beta` is a map from all steps of the past to all of the horizon.

    Shapes: as `NLinear`.
    Source: Zeng et al. (2023), doi:10.1609/aaai.v37i9.26317.

    >>> DLinear(past=48, horizon=12)(torch.zeros(2, 48, 3, 10)).shape
    torch.Size([2, 12, 3, 10])
    """

    def __init__(self, *, past: int, horizon: int, kernel: int = 25, channels: int = 1, places: int = 1):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        self.past, self.horizon, self.kernel = past, horizon, kernel
        self.trend = LinearMap(past=past, horizon=horizon, channels=channels, places=places)
        self.rest = LinearMap(past=past, horizon=horizon, channels=channels, places=places)

    def forward(self, past: Tensor) -> Tensor:
        x, missing = _last_steps(past, self.past)
        rows = x.movedim(1, -1)  # (B, C, P, past)
        half = self.kernel // 2
        padded = torch.cat(
            [rows[..., :1].repeat_interleave(half, -1), rows, rows[..., -1:].repeat_interleave(half, -1)], -1
        )
        trend = padded.unfold(-1, self.kernel, 1).mean(-1).movedim(-1, 1)
        forecast = (self.trend(trend) + self.rest(x - trend)).masked_fill(missing, torch.nan)
        return forecast.reshape(len(past), self.horizon, *past.shape[2:])


def _last_steps(past: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    if past.ndim < 3 or past.shape[1] < steps:
        raise ValueError(f"past must be (B, T, C, *S) with at least {steps} time steps, got shape {tuple(past.shape)}")
    x = carry_forward(past[:, -steps:]).reshape(len(past), steps, past.shape[2], math.prod(past.shape[3:]))
    missing = x[:, -1:].isnan()  # a place without any observed step: its zeros keep the gradient of the others finite
    return x.masked_fill(missing, 0.0), missing


def _about(moments: tuple[Tensor, ...], mean_x: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
    """The second moments about the given means, from the sums about zero."""
    count, sum_x, sum_y, xx, xy = moments
    n = count[..., None, None]
    gram = xx - sum_x[..., None] * mean_x[..., None, :] - mean_x[..., None] * sum_x[..., None, :]
    gram = gram + n * mean_x[..., None] * mean_x[..., None, :]
    cross = xy - sum_x[..., None] * mean_y[..., None, :] - mean_x[..., None] * sum_y[..., None, :]
    return gram, cross + n * mean_x[..., None] * mean_y[..., None, :]
