"""Imputation: filling what is missing, from the past in time, the usual value, the neighbours, or the field's patterns.

Every imputer is fitted on the training part, leaves observed values as they are bit for bit, and leaves missing what it
cannot fill. It takes float32 after a fit on float64 and the reverse, and returns the type it is given. For a forecast,
wrap one in `Imputed`; to look at a record, call `impute`.
"""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from stlib.data.scaling import Scaler
from stlib.data.windows import CALENDAR, Batch, Windows

_PHASES = dict(zip(CALENDAR, (12, 7, 24, 366), strict=True))


class TimeInterpolation(nn.Module):
    r"""A straight line in time across each gap, :math:`x_t = x_a + \frac{t - a}{b - a} (x_b - x_a)`.

    :math:`a < t < b` are the nearest observed steps of the same place and channel. Before the first and after the last
    observed step it is the nearest observed value: at the end of a past this is persistence. A gap of more than
    ``limit`` steps stays missing as a whole, and so does a series without any observed step. Nothing is estimated;
    ``fit`` is there so that all imputers are used alike.

    On a whole record each gap is filled with what came after it: fine for looking, not for a forecast.

    Shapes: ``(B, T, C, *S)`` to the same. Raises ValueError for a limit below 1, fewer dims or infinite values.

    >>> TimeInterpolation()(torch.tensor([[[1.0], [torch.nan], [3.0], [torch.nan]]])).flatten().tolist()
    [1.0, 2.0, 3.0, 3.0]
    """

    def __init__(self, *, limit: int | None = None):
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be None or a number of steps of at least 1, got {limit}")
        self.limit = limit

    def fit(self, train: Windows) -> "TimeInterpolation":
        _check_training(train)
        return self

    def forward(self, series: Tensor, calendar: Tensor | None = None) -> Tensor:
        _check_series(series)
        steps = series.shape[1]
        rows = series.movedim(1, -1)  # each series in one piece, (B, C, *S, T)
        x = rows.flatten()
        missing = x.isnan()
        gap, known = missing.nonzero().squeeze(1), (~missing).nonzero().squeeze(1)
        if len(gap) == 0 or len(known) == 0:
            return series
        # Both are in order, so as many known values lie before a missing one as its position less earlier missing ones.
        earlier = gap - torch.arange(len(gap), device=gap.device)
        before, after = known[(earlier - 1).clamp_min(0)], known[earlier.clamp_max(len(known) - 1)]
        first = gap - gap % steps  # of its own series
        has_before = (earlier > 0) & (before >= first)
        has_after = (earlier < len(known)) & (after < first + steps)
        fill = has_before | has_after
        if self.limit is not None:
            ends = torch.where(has_before, before, first - 1), torch.where(has_after, after, first + steps)
            fill &= ends[1] - ends[0] - 1 <= self.limit
        a, b = torch.where(has_before, before, after), torch.where(has_after, after, before)
        gap, a, b = gap[fill], a[fill], b[fill]
        weight = (gap - a).to(x.dtype) / (b - a).clamp_min(1).to(x.dtype)
        return x.index_put((gap,), torch.lerp(x[a], x[b], weight)).view(rows.shape).movedim(-1, 1)


class ClimatologyFill(nn.Module):
    r"""The usual value for the time of year, week or day: :math:`x_t = c(\mathrm{phase}(t))`.

    :math:`c` is the training mean of the same place and channel in the same phase of ``cycle`` ("month", "weekday",
    "hour", "day_of_year"), or the plain training mean for ``cycle=None``. A phase never observed stays missing.

    Shapes: ``(B, T, C, *S)``, with a calendar ``(B, T, 4)`` unless ``cycle`` is None, to the same.
    Raises ValueError for an unknown cycle, a part other than training, use before ``fit``, a cycle without a calendar,
    infinite values, or channels and places other than those it was fitted on.

    >>> from stlib.data import datasets, windows
    >>> train = windows.split(datasets.load("nasa"), past=12, horizon=1).train
    >>> fill, batch = ClimatologyFill(cycle="month").fit(train), train[:]
    >>> left = fill(batch.past, batch.calendar[:, :12]).isnan().sum()  # Januaries that were never observed, and such
    >>> bool(0 < left < batch.past.isnan().sum())
    True
    """

    def __init__(self, *, cycle: str | None):
        super().__init__()
        if cycle is not None and cycle not in _PHASES:
            raise ValueError(f"cycle must be None or one of {', '.join(_PHASES)}, got {cycle!r}")
        self.cycle = cycle
        self.register_buffer("mean", UninitializedBuffer())

    def fit(self, train: Windows) -> "ClimatologyFill":
        _check_training(train)
        series = train.series
        phase = self._phase(series[None], None if train.calendar is None else train.calendar[None])[0]
        empty = torch.zeros(_PHASES.get(self.cycle, 1), *series.shape[1:], dtype=torch.float64, device=series.device)
        total = empty.index_add(0, phase, series.nan_to_num().double())
        count = empty.index_add(0, phase, (~series.isnan()).double())
        self.mean = (total / count).to(series.dtype)  # (phases, C, *S); 0 / 0 is NaN: never observed
        return self

    def forward(self, series: Tensor, calendar: Tensor | None = None) -> Tensor:
        _check_fitted(self.mean)
        _check_series(series, self.mean.shape[1:])
        return torch.where(series.isnan(), self.mean.to(series.dtype)[self._phase(series, calendar)], series)

    def _phase(self, series: Tensor, calendar: Tensor | None) -> Tensor:
        if self.cycle is None:
            return torch.zeros(series.shape[:2], dtype=torch.long, device=series.device)
        if calendar is None or calendar.shape[:2] != series.shape[:2]:
            given = "none" if calendar is None else f"one of shape {tuple(calendar.shape)}"
            raise ValueError(f"cycle {self.cycle!r} needs a calendar {(*series.shape[:2], len(CALENDAR))}, got {given}")
        return calendar[..., CALENDAR.index(self.cycle)]


class NeighbourFill(nn.Module):
    r"""The weighted mean of the neighbours' anomalies at the same step, in the place's own units.

    .. math:: x_i = \mu_i + \sigma_i \frac{\sum_j a_{ij} m_j z_j}{\sum_j a_{ij} m_j}, \qquad
       z_j = \frac{x_j - \mu_j}{\sigma_j}

    :math:`\mu` and :math:`\sigma` are the training mean and spread of each place and channel, and :math:`m_j` is 1
    where neighbour j is observed at that step, else 0. Without an observed neighbour a value stays missing, and so does
    a place that was never observed in training, which is nobody's neighbour either. Channels are filled one by one.

    Shapes: ``adjacency`` (N, N), entry ``[i, j]`` the weight of j for i, dense or sparse, with N the number of places
    of ``*S``, counted row by row; ``(B, T, C, *S)`` to the same.
    Raises ValueError for an adjacency that is not square or has a negative, missing or infinite weight, another number
    of places, infinite values, a part other than training, or use before ``fit``.
    Source: after the normal-ratio method for rain gauges (Paulhus and Kohler, 1952, Monthly Weather Review 80);
    deviation: anomalies in place of ratios, which also serve for what can be negative.

    >>> from stlib.data import windows
    >>> from stlib.data.worlds import GraphDiffusion
    >>> world = GraphDiffusion(nodes=10)
    >>> train = windows.split(world.simulate(100, seed=0), past=4, horizon=1).train
    >>> past = train[0].past.index_fill(-1, torch.tensor([2]), torch.nan)  # node 2 is silent
    >>> NeighbourFill(adjacency=world.adjacency).fit(train)(past).isnan().any().item()
    False
    """

    def __init__(self, *, adjacency: Tensor | ArrayLike):
        super().__init__()
        adjacency = adjacency if isinstance(adjacency, Tensor) else torch.from_numpy(np.array(adjacency))
        if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
            raise ValueError(f"adjacency must be (N, N), got shape {tuple(adjacency.shape)}")
        weights = adjacency if adjacency.layout == torch.strided else adjacency.to_sparse_coo().coalesce().values()
        if not (weights.isfinite().all() and (weights >= 0).all()):
            raise ValueError(
                f"adjacency must have finite weights of 0 or more, got {int((~weights.isfinite()).sum())} missing or "
                f"infinite and {int((weights < 0).sum())} negative"
            )
        self.scaler = Scaler(per="place")
        self.register_buffer("adjacency", adjacency)

    def fit(self, train: Windows) -> "NeighbourFill":
        _check_training(train)
        places = train.series[0, 0].numel()
        if len(self.adjacency) != places:
            raise ValueError(f"adjacency is for {len(self.adjacency)} places, the training part has {places}")
        self.adjacency = self.adjacency.to(train.series)
        self.scaler.fit(train)
        return self

    def forward(self, series: Tensor, calendar: Tensor | None = None) -> Tensor:
        _check_fitted(self.scaler.mean)
        _check_series(series, self.scaler.mean.shape)
        z = self.scaler(series)
        total, weight = self._gather(z.nan_to_num()), self._gather((~z.isnan()).to(z.dtype))
        guess = self.scaler.inverse(total / weight)  # 0 / 0 is NaN: no neighbour observed
        return torch.where(series.isnan(), guess.to(series.dtype), series)

    def _gather(self, z: Tensor) -> Tensor:
        """What each place takes from the others, at each step and channel."""
        return (self.adjacency.to(z.dtype) @ z.reshape(-1, len(self.adjacency)).T).T.reshape(z.shape)


class EOFFill(nn.Module):
    r"""The field's leading patterns (EOFs), scaled so that they fit what is observed at the same step.

    .. math:: z = W b + \varepsilon, \qquad b \sim N(0, I), \quad \varepsilon \sim N(0, \sigma^2 I), \qquad
       \hat b = (W_o^\top W_o + \sigma^2 I)^{-1} W_o^\top z_o

    :math:`z` is one step of standardised anomalies, all channels and places in one vector, :math:`z_o` and :math:`W_o`
    its observed part. :math:`\hat b` is the posterior mean of probabilistic PCA: least squares with a penalty
    :math:`\sigma^2 / (\lambda_j - \sigma^2)` on the amplitude of pattern j. A step is filled from that step alone, so
    nothing leaks through time. Where little is observed the fill goes towards the climatological mean, and a step with
    nothing observed gets that mean, its best guess. A cell never observed in training stays missing.

    The fit raises the likelihood of what is observed by at most ``iterations`` rounds of EM, which end when
    :math:`\sigma^2` changes by less than the share ``tolerance``. It starts from the EOFs of the field with anomaly 0
    where missing; with nothing missing it ends there, and is PCA. A small ``tolerance`` follows the training part more
    closely, which on short records fills worse. Choose it and ``modes`` by hiding values (`gaps_like_real`) of the
    validation part.

    After the fit ``patterns``, ``(modes, C, *S)``, are orthonormal, ``variance``, ``(modes,)``, is that of each in
    standardised units, ``noise`` is :math:`\sigma^2`, and the scaler holds the mean and spread. Memory grows with
    ``modes ** 2 * (T + C * places)``.

    Shapes: ``(B, T, C, *S)`` to the same. Raises ValueError for fewer than 1 mode or iteration, as many modes as steps
    or cells, infinite values, a part other than training, use before ``fit``, or channels and places other than those
    of ``fit``.
    Source: Beckers and Rixen (2003), doi:10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2 (DINEOF), for EOFs of a field
    with gaps; Tipping and Bishop (1999), doi:10.1111/1467-9868.00196, for the model. Deviations: DINEOF refills with
    the plain EOFs, which follow the noise where little is observed. A cell observed in a share :math:`s` of the steps
    has a prior :math:`N(0, I / (k (1 - s)))` on its k weights, for the same reason. Cells are not weighted by area.

    >>> from stlib.data import datasets, windows
    >>> train = windows.split(datasets.load("nasa"), past=4, horizon=1).train
    >>> fill = EOFFill(modes=5).fit(train)
    >>> int(train.series.isnan().sum()) > 0, int(fill(train.series[None]).isnan().sum())
    (True, 0)
    """

    def __init__(self, *, modes: int, iterations: int = 100, tolerance: float = 1e-2):
        super().__init__()
        if modes < 1 or iterations < 1:
            raise ValueError(f"modes and iterations must be at least 1, got {modes} and {iterations}")
        self.modes, self.iterations, self.tolerance = modes, iterations, tolerance
        self.scaler = Scaler(per="place")
        for name in ("patterns", "variance", "noise"):
            self.register_buffer(name, UninitializedBuffer())

    def fit(self, train: Windows) -> "EOFFill":
        _check_training(train)
        series = train.series
        self.scaler.fit(train)
        known = ~self.scaler.mean.isnan()  # (C, *S)
        z = self.scaler(series)[:, known].double()  # (T, M)
        if self.modes >= min(z.shape):
            raise ValueError(f"modes must be below {min(z.shape)}, for {len(z)} steps and {z.shape[1]} observed cells")
        seen = (~z.isnan()).double()
        z = z.nan_to_num_()
        # No smaller, so that the equations for the amplitudes can be solved in the field's own precision.
        floor = torch.finfo(series.dtype).eps * z.shape[1]
        weights, noise = _principal(z, self.modes)
        noise = noise.clamp_min(floor)
        if not seen.all():
            weights, offset, noise = self._maximise(z, seen, weights, noise, floor)
            self.scaler.mean[known] += self.scaler.spread[known] * offset.to(series.dtype)
        patterns, strength, _ = torch.linalg.svd(weights, full_matrices=False)
        self.patterns = series.new_zeros(self.modes, *known.shape)
        self.patterns[:, known] = patterns.T.to(series.dtype)
        self.variance, self.noise = (strength.square() + noise).to(series.dtype), noise.to(series.dtype)
        return self

    def _maximise(self, z: Tensor, seen: Tensor, weights: Tensor, noise: Tensor, floor: float) -> tuple[Tensor, ...]:
        modes = self.modes
        count = seen.sum(0)  # (M,)
        prior = modes * (1 - count / len(z))
        offset, total = torch.zeros_like(count), z.square().sum()
        for _ in range(self.iterations):
            amplitude, precision = _amplitudes(z, seen, weights, noise, offset)
            # Each cell's least squares on the amplitudes and a constant, over the steps at which it is observed.
            columns = nn.functional.pad(amplitude, (0, 1), value=1.0)  # (T, modes + 1)
            moments = columns[:, :, None] * columns[:, None]
            moments[:, :modes, :modes] += noise * torch.linalg.inv(precision)  # how unsure the amplitudes are
            gram, right = _masked_sum(seen.T, moments), z.T @ columns  # (M, modes + 1, modes + 1), (M, modes + 1)
            penalty = nn.functional.pad((noise * prior)[:, None].expand(-1, modes), (0, 1)).diag_embed()
            fitted = torch.linalg.solve(gram + penalty, right)
            weights, offset = fitted[:, :modes], fitted[:, modes]
            explained = (fitted * (2 * right - (gram @ fitted[:, :, None]).squeeze(-1))).sum()
            before, noise = noise, ((total - explained) / count.sum()).clamp_min(floor)
            if (before - noise).abs() <= self.tolerance * before:
                break
        return weights, offset, noise

    def forward(self, series: Tensor, calendar: Tensor | None = None) -> Tensor:
        _check_fitted(self.noise)
        _check_series(series, self.scaler.mean.shape)
        steps = series.flatten(0, 1)  # (B * T, C, *S)
        gappy = steps.isnan().flatten(1).any(1)
        given = steps[gappy]
        z = self.scaler(given).flatten(1)
        weights = (self.patterns.flatten(1) * (self.variance - self.noise).clamp_min(0).sqrt()[:, None]).T.to(z.dtype)
        amplitude, _ = _amplitudes(z.nan_to_num(), (~z.isnan()).to(z.dtype), weights, self.noise)
        guess = self.scaler.inverse((amplitude @ weights.T).reshape(given.shape)).to(given.dtype)
        return steps.index_put((gappy,), torch.where(given.isnan(), guess, given)).unflatten(0, series.shape[:2])


class Imputed(nn.Module):
    """A forecaster wrapped so that the gaps of the past it is given are filled from that past.

    With ``mask=True`` the forecaster also sees where the past was observed (1) and where not (0), as ``C`` further
    channels: it is given 2 C channels and has to return C.

    `Scaled` goes on either side. ``Scaled(Imputed(model, imputer), scaler)`` needs an imputer fitted on
    ``scaler.windows(train)``, ``Imputed(Scaled(model, scaler), imputer)`` one fitted on ``train``. With a mask take the
    first, so that the mask is not scaled.

    Shapes: ``(B, T, C, *S)`` to what the forecaster returns, ``(B, horizon, C, *S)``.

    >>> from stlib.models.linear import NLinear
    >>> forecaster = Imputed(NLinear(past=4, horizon=2), TimeInterpolation())
    >>> forecaster(torch.tensor([[[1.0], [2.0], [torch.nan], [4.0]]])).isnan().any().item()
    False
    """

    def __init__(self, model: nn.Module, imputer: nn.Module, *, mask: bool = False):
        super().__init__()
        self.model, self.imputer, self.mask = model, imputer, mask

    def forward(self, past: Tensor, calendar: Tensor | None = None, regressors: Tensor | None = None) -> Tensor:
        filled = self.imputer(past, None if calendar is None else calendar[:, : past.shape[1]])
        if self.mask:
            filled = torch.cat([filled, (~past.isnan()).to(past.dtype)], 2)
        return self.model(*Batch(filled, past, calendar, regressors).inputs(self.model))


class Filled(NamedTuple):
    """A record without its gaps, and where they were filled."""

    field: xr.DataArray
    imputed: xr.DataArray  # bool, True where the value is the imputer's


def impute(field: xr.DataArray, imputer: nn.Module, *, train: int) -> Filled:
    """Fill a whole record, for looking at it, with an imputer fitted on its first ``train`` steps.

    Not for forecasting: `TimeInterpolation` fills each gap with what came after it. For a forecast wrap the forecaster
    in `Imputed`. The imputer given is fitted in place.

    Shapes: dims ``("time", "channel", ...space)`` to the same, coordinates, attrs and type kept; a field of whole
    numbers has no gaps and comes back as it is.
    Raises ValueError for other dims, infinite values, or ``train`` outside 2 to the number of steps.

    >>> from stlib.data import datasets
    >>> filled = impute(datasets.load("co2"), TimeInterpolation(), train=1000)
    >>> int(filled.imputed.sum()), int(filled.field.isnull().sum())
    (59, 0)
    """
    if field.dims[:2] != ("time", "channel"):
        raise ValueError(f'a field needs dims ("time", "channel", ...space), got {field.dims}')
    steps = field.sizes["time"]
    if not 2 <= train <= steps:
        raise ValueError(f"train must be from 2 to the field's {steps} steps, got {train}")
    series = torch.tensor(field.values.astype(np.result_type(field.dtype, np.float32), copy=False))
    imputer.fit(Windows(series, field, past=1, horizon=1, part="train", steps=range(train)))
    calendar = Windows(series, field, past=1, horizon=1, part="record", steps=range(steps)).calendar
    with torch.no_grad():
        filled = imputer(series[None], None if calendar is None else calendar[None])[0]
    filled = field.copy(data=filled.numpy().astype(field.dtype, copy=False))
    return Filled(filled, (field.isnull() & filled.notnull()).drop_attrs(deep=False).rename("imputed"))


def gaps_like_real(field: xr.DataArray, *, seed: int, season: int | None = None) -> xr.DataArray:
    """Observed values to hide for measuring an imputer: the record's own gaps, moved in time.

    The pattern of what is missing is moved by a random number of steps, the same everywhere and around the ends, so
    that gaps keep their lengths and their company; what is missing anyway is left out. Hiding single values at random
    instead makes every imputer look good: their neighbours are all there. With ``season`` it moves by whole seasons of
    that many steps, so that gaps keep their time of year; an unfinished last season is then left alone.

    Shapes: dims ``("time", "channel", ...space)`` to the same, True for the values to hide.
    Raises ValueError when nothing is missing, when no observed value would be hidden, or for fewer than two seasons.

    >>> from stlib.data import datasets
    >>> weeks = datasets.load("co2")
    >>> hidden = gaps_like_real(weeks, seed=0)
    >>> bool((hidden & weeks.isnull()).any()), 0 < int(hidden.sum()) <= 59
    (False, True)
    """
    missing = field.isnull()
    if not missing.any():
        raise ValueError("the field has no missing value, so no gaps to imitate")
    unit = 1 if season is None else season
    if unit < 1 or field.sizes["time"] < 2 * unit:
        raise ValueError(f"season={season} must be at least 1 and fit twice into the {field.sizes['time']} time steps")
    seasons = field.sizes["time"] // unit
    shift = int(np.random.default_rng(seed).integers(1, seasons)) * unit
    whole = {"time": slice(seasons * unit)}
    hidden = xr.zeros_like(missing).drop_attrs(deep=False).rename("hidden")
    hidden[whole] = missing[whole].roll(time=shift) & ~missing[whole]
    if not hidden.any():
        raise ValueError(f"moved by {shift} steps the gaps fall on what is missing anyway: take another seed")
    return hidden


def _principal(z: Tensor, modes: int) -> tuple[Tensor, Tensor]:
    """Maximum likelihood of probabilistic PCA for a complete field (T, M): weights (M, modes) and noise variance."""
    steps, cells = z.shape
    gram = (z.T @ z if cells <= steps else z @ z.T) / steps
    size = len(gram)
    variance, vectors = eigh(gram.cpu().numpy(), subset_by_index=[size - modes, size - 1])
    variance, vectors = (torch.from_numpy(found).flip(-1).to(z) for found in (variance, vectors))  # largest first
    if cells > steps:
        vectors = z.T @ vectors / (variance * steps).clamp_min(torch.finfo(z.dtype).tiny).sqrt()
    noise = ((gram.trace() - variance.sum()) / (cells - modes)).clamp_min(0)
    return vectors * (variance - noise).clamp_min(0).sqrt(), noise


def _amplitudes(z: Tensor, seen: Tensor, weights: Tensor, noise: Tensor, offset: Tensor | None = None):
    """Posterior mean of each step's amplitudes (T, k), and noise times their precision (T, k, k); z is 0 if unseen."""
    gram = _masked_sum(seen, weights[:, :, None] * weights[:, None])
    precision = gram + noise * torch.eye(weights.shape[1], dtype=z.dtype, device=z.device)
    right = z @ weights
    if offset is not None:
        right = right - seen @ (offset[:, None] * weights)
    return torch.linalg.solve(precision, right), precision


def _masked_sum(mask: Tensor, matrices: Tensor) -> Tensor:
    """Sum of symmetric matrices (Q, k, k) over those that each row of a mask (R, Q) keeps: (R, k, k)."""
    k = matrices.shape[-1]
    row, column = torch.triu_indices(k, k, device=mask.device)  # one half, as the other is the same
    half = mask @ matrices[:, row, column]
    total = half.new_empty(len(mask), k, k)
    total[:, row, column] = half
    total[:, column, row] = half
    return total


def _check_training(train: Windows) -> None:
    if train.part != "train":
        raise ValueError(f"an imputer is fitted on the training part only, got the {train.part} part: that would leak")
    _check_finite(train.series)


def _check_fitted(buffer: Tensor) -> None:
    if isinstance(buffer, UninitializedBuffer):
        raise ValueError("this imputer is not fitted yet: call fit(parts.train) first")


def _check_series(series: Tensor, cells: torch.Size | None = None) -> None:
    if series.ndim < 3 or (cells is not None and series.shape[2:] != cells):
        needed = "(B, T, C, *S)" if cells is None else f"(B, T, {', '.join(map(str, cells))})"
        raise ValueError(f"series must be {needed}, got shape {tuple(series.shape)}")
    _check_finite(series)


def _check_finite(series: Tensor) -> None:
    infinite = series.isinf()
    if infinite.any():  # counted only then: the sum takes longer than the test
        raise ValueError(f"the series holds {int(infinite.sum())} infinite values: make them missing first")
