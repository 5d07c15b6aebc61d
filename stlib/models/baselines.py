"""Baselines: what a forecaster has to beat. Each takes a minute to write and is hard to beat somewhere."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

# The columns of a calendar tensor, and how many phases each cycle has.
CYCLES = {"month": 12, "weekday": 7, "hour": 24, "day_of_year": 366}


def carry_forward(past: Tensor) -> Tensor:
    """Fill each missing step with the last observed one, and what stands before the first with the first.

    A series with no observed step stays missing.

    Shapes: ``(B, T, C, *S)`` to the same.

    >>> carry_forward(torch.tensor([[[1.0], [torch.nan], [3.0]]])).flatten().tolist()
    [1.0, 1.0, 3.0]
    """
    observed = ~past.isnan()
    if bool(observed.all()):
        return past
    step = torch.arange(past.shape[1], device=past.device).reshape(-1, *[1] * (past.ndim - 2))
    latest = torch.where(observed, step, -1).cummax(1).values
    first = observed.int().argmax(1, keepdim=True)
    return past.gather(1, torch.where(latest < 0, first, latest))


class Persistence(nn.Module):
    r"""Nothing changes: :math:`\hat x_{t+h} = x_t`. A missing last step is replaced by the last observed one.

    Shapes: ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, for any ``T`` of at least 1.

    >>> Persistence(horizon=2)(torch.tensor([[[1.0], [5.0]]])).flatten().tolist()
    [5.0, 5.0]
    """

    def __init__(self, *, horizon: int):
        super().__init__()
        self.horizon = horizon

    def forward(self, past: Tensor) -> Tensor:
        _check_past(past, 1)
        return carry_forward(past)[:, -1:].expand(-1, self.horizon, *past.shape[2:])


class SeasonalPersistence(nn.Module):
    r"""The same as one season ago: :math:`\hat x_{t+h} = x_{t+h-m\lceil h/m\rceil}` for a season of :math:`m` steps.

    A missing value is replaced by the one a season earlier still, as far as the given past reaches.

    Shapes: ``(B, T, C, *S)`` with ``T >= season`` to ``(B, horizon, C, *S)``.
    Raises ValueError for a past shorter than one season.

    >>> week = torch.arange(7.0).reshape(1, 7, 1)
    >>> SeasonalPersistence(horizon=9, season=7)(week).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 1.0]
    """

    def __init__(self, *, horizon: int, season: int):
        super().__init__()
        self.horizon, self.season = horizon, season

    def forward(self, past: Tensor) -> Tensor:
        _check_past(past, self.season)
        before = past.new_full((len(past), -past.shape[1] % self.season, *past.shape[2:]), torch.nan)
        phases = torch.cat([before, past], 1).unflatten(1, (-1, self.season)).movedim(1, 0)  # (seasons, B, season, ...)
        latest = phases[0]
        for later in phases[1:]:
            latest = torch.where(later.isnan(), latest, later)
        phase = torch.arange(self.horizon, device=past.device) % self.season
        return latest[:, phase]


class SeasonalMedian(nn.Module):
    r"""The middle value of the same phase in the last seasons: :math:`\hat x_{t+h} = \mathrm{med}_{k} \, x_{t+h-km}`.

    For a season of :math:`m` steps, :math:`k` runs over the last ``seasons`` seasons that lie before :math:`t`. One odd
    season, such as a holiday week, does not move it. Missing values are left out.

    Shapes: ``(B, T, C, *S)`` with ``T >= season * seasons`` to ``(B, horizon, C, *S)``.
    Raises ValueError for a shorter past.

    >>> three_weeks = torch.tensor([1.0, 5, 1, 5, 9, 5]).reshape(1, 6, 1)
    >>> SeasonalMedian(horizon=3, season=2, seasons=3)(three_weeks).flatten().tolist()
    [1.0, 5.0, 1.0]
    """

    def __init__(self, *, horizon: int, season: int, seasons: int):
        super().__init__()
        self.horizon, self.season, self.seasons = horizon, season, seasons

    def forward(self, past: Tensor) -> Tensor:
        steps = self.season * self.seasons
        _check_past(past, steps)
        ordered = past[:, -steps:].unflatten(1, (self.seasons, self.season)).sort(1).values  # NaN last
        count = (~ordered.isnan()).sum(1, keepdim=True)
        # The mean of the two middle values; torch.nanmedian would take the lower one.
        middle = ordered.gather(1, (count - 1).clamp_min(0) // 2) + ordered.gather(1, count // 2)
        phase = torch.arange(self.horizon, device=past.device) % self.season
        return (middle / 2)[:, 0, phase]


class Climatology(nn.Module):
    r"""The usual value for the time of year, week or day: :math:`\hat x_{t+h} = c(\mathrm{phase}(t+h))`.

    :math:`c` is the training mean of each channel and place in each phase of ``cycle`` ("month", "weekday", "hour",
    "day_of_year"), or the plain training mean for ``cycle=None``. Missing values are left out of the means; a phase
    that was never observed is forecast as missing.

    Shapes: ``fit(series (T, C, *S), calendar (T, 4))``, then ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``.
    Raises ValueError for an unknown cycle, a forecast before ``fit``, or a cycle without a calendar.
    Source: Murphy (1988), doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2, for its place as a reference.

    >>> model = Climatology(horizon=1, cycle=None).fit(torch.tensor([[1.0], [3.0]]))
    >>> model(torch.zeros(1, 1, 1)).item()
    2.0
    """

    def __init__(self, *, horizon: int, cycle: str | None):
        super().__init__()
        if cycle is not None and cycle not in CYCLES:
            raise ValueError(f"cycle must be None or one of {', '.join(CYCLES)}, got {cycle!r}")
        self.horizon, self.cycle = horizon, cycle
        self.register_buffer("mean", UninitializedBuffer())

    def fit(self, series: Tensor, calendar: Tensor | None = None) -> "Climatology":
        phase = self._phase(calendar, len(series), series.device)
        observed = ~series.isnan()
        if not observed.any():
            raise ValueError(f"the series of shape {tuple(series.shape)} has no observed value to average")
        phases = CYCLES[self.cycle] if self.cycle else 1
        empty = torch.zeros(phases, *series.shape[1:], dtype=torch.float64, device=series.device)
        total = empty.index_add(0, phase, series.nan_to_num().double())
        count = empty.index_add(0, phase, observed.double())
        self.mean = (total / count).to(series.dtype)  # (phases, C, *S); 0 / 0 is NaN: never observed
        return self

    def forward(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        return self.climate(past, calendar, self.horizon)

    def climate(self, past: Tensor, calendar: Tensor | None, steps: int) -> Tensor:
        """The usual value at the last ``steps`` steps of the calendar: ``(B, steps, C, *S)``."""
        if isinstance(self.mean, UninitializedBuffer):
            raise ValueError("this climatology is not fitted yet: call fit(train.series, train.calendar) first")
        flat = None if calendar is None else calendar[:, -steps:].flatten(0, 1)
        return self.mean[self._phase(flat, len(past) * steps, past.device)].unflatten(0, (len(past), steps))

    def _phase(self, calendar: Tensor | None, steps: int, device: torch.device) -> Tensor:
        if self.cycle is None:
            return torch.zeros(steps, dtype=torch.long, device=device)
        if calendar is None or len(calendar) != steps:
            given = "none" if calendar is None else f"{len(calendar)} steps"
            raise ValueError(f"a {self.cycle} climatology needs a calendar of {steps} steps, got {given}")
        return calendar[:, list(CYCLES).index(self.cycle)]


class DampedAnomaly(nn.Module):
    r"""Today's departure from the usual, fading with the lead: :math:`\hat x_{t+h} = c_{t+h} + a_h (x_t - c_t)`.

    :math:`a_h` is the least-squares slope of the anomaly at :math:`t+h` on the one at :math:`t` in the training part,
    one for each lead and channel, pooled over places (``per="channel"``) or one for each place (``per="place"``). It
    usually lies between climatology (:math:`a_h = 0`) and persistence of the anomaly (:math:`a_h = 1`), but is not
    forced to; where nothing varies it is 0.

    Shapes: ``fit(series (T, C, *S), calendar (T, 4))``, then ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``.
    Raises ValueError as `Climatology` does, and for a training series not longer than the horizon.
    Source: Murphy (1992), doi:10.1175/1520-0434(1992)007<0692:CPATLC>2.0.CO;2, on the best linear combination of
    climatology and persistence.

    >>> walk = torch.randn(500, 1, generator=torch.manual_seed(0)).cumsum(0)
    >>> model = DampedAnomaly(horizon=2, cycle=None).fit(walk)
    >>> bool((model.slope < 1).all() and model.slope[0] > model.slope[1])
    True
    """

    def __init__(self, *, horizon: int, cycle: str | None, per: str = "channel"):
        super().__init__()
        if per not in ("channel", "place"):
            raise ValueError(f'per must be "channel" or "place", got {per!r}')
        self.horizon, self.per = horizon, per
        self.climatology = Climatology(horizon=horizon, cycle=cycle)
        self.register_buffer("slope", UninitializedBuffer())

    def fit(self, series: Tensor, calendar: Tensor | None = None) -> "DampedAnomaly":
        if len(series) <= self.horizon:
            raise ValueError(f"needs more training steps than horizon={self.horizon}, got {len(series)}")
        self.climatology.fit(series, calendar)
        usual = self.climatology.climate(series[None], None if calendar is None else calendar[None], len(series))[0]
        anomaly = (series - usual).double()
        over = (0,) if self.per == "place" else (0, *range(2, series.ndim))
        slopes = []
        for lead in range(1, self.horizon + 1):
            now, later = anomaly[:-lead], anomaly[lead:]
            now = torch.where(later.isnan(), torch.nan, now)  # pairs only
            slopes.append((now * later).nansum(over, keepdim=True) / now.square().nansum(over, keepdim=True))
        self.slope = torch.cat(slopes).nan_to_num().to(series.dtype)  # (horizon, C, *S) or (horizon, C, 1...)
        return self

    def forward(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        _check_past(past, 1)
        usual = self.climatology.climate(past, calendar, past.shape[1] + self.horizon)
        anomaly = carry_forward(past - usual[:, : past.shape[1]])[:, -1:]
        return usual[:, past.shape[1] :] + self.slope * anomaly


class Drift(nn.Module):
    r"""The line through the ends of the past: :math:`\hat x_{t+h} = x_t + h\,(x_t - x_1)/(t - 1)`.

    A missing first or last step is replaced by the nearest observed one.

    Shapes: ``(B, T, C, *S)`` with ``T >= 2`` to ``(B, horizon, C, *S)``.
    Raises ValueError for a past of one step.
    Source: Hyndman & Athanasopoulos (2021), Forecasting: Principles and Practice, 3rd ed., section 5.2.

    >>> Drift(horizon=2)(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().tolist()
    [4.0, 5.0]
    """

    def __init__(self, *, horizon: int):
        super().__init__()
        self.horizon = horizon

    def forward(self, past: Tensor) -> Tensor:
        _check_past(past, 2)
        filled = carry_forward(past)
        slope = (filled[:, -1:] - filled[:, :1]) / (past.shape[1] - 1)
        lead = torch.arange(1, self.horizon + 1, dtype=past.dtype, device=past.device)
        return filled[:, -1:] + lead.reshape(-1, *[1] * (past.ndim - 2)) * slope


def _check_past(past: Tensor, steps: int) -> None:
    if past.ndim < 3 or past.shape[1] < steps:
        raise ValueError(f"past must be (B, T, C, *S) with at least {steps} time steps, got shape {tuple(past.shape)}")
