"""Features: a field as a table of what is known at the origin, for trees and linear models."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from stlib.data.windows import check_field

_AT_ONCE = 1_000_000  # values that roll at a time


def feature_table(
    field: xr.DataArray,
    *,
    lead: int,
    lags: Sequence[int],
    rolling: Sequence[int] = (),
    season: int | None = None,
    calendar: bool = True,
    target: str | None = None,
    enough: float = 0.5,
) -> pd.DataFrame:
    r"""One row for each origin t and place: features known at t, and the target :math:`x_{t+h}` at the lead h.

    ``lag_k``
        :math:`x_{t-k}` for each k in ``lags``; ``lag_0`` is the origin itself.
    ``mean_w``, ``std_w``
        Mean and standard deviation (divisor: count less one) of :math:`x_{t-w+1}, \dots, x_t` for each w in
        ``rolling``, of what is observed; missing where that is less than ``enough`` of the w steps.
    ``season``
        :math:`x_{t+h-m\lceil h/m \rceil}` for a ``season`` of m steps: the target's phase as last seen at the origin.
    ``day_of_year_sin`` and so on
        `calendar_features` of the target's time, which is known beforehand. Only where time has dates.
    ``place_id``
        The number of the place from 0, row-major over space, where there are several. It is a category: leave it out
        of a linear model.
    ``target``
        :math:`x_{t+h}`.

    With several channels the first three are there for each, named ``<channel>_lag_k`` and so on, and ``target`` names
    the channel to forecast.

    No row is dropped and nothing is filled: the first rows lack lags, and the last ``lead`` origins lack a target, as
    it is not known yet. A row belongs to the part that holds its target: to train on what lies before a time, take the
    rows whose origin lies ``lead`` steps and more before it.

    Shapes: dims ``("time", "channel", *space)`` with a regular time axis, to T x places rows in the order of the field,
    indexed by ``origin`` and the space dims, all columns of the field's dtype.
    Raises ValueError for other dims, an irregular time axis or one not longer than ``lead``, a lead or season below 1,
    a negative or repeated lag (-1 would be the future), a rolling window below 2 or repeated, ``enough`` outside
    (0, 1], a target that is no channel, or a calendar of dates with a time zone.

    >>> from stlib.data import datasets
    >>> riders = datasets.load("chicago")["riders"]
    >>> table = feature_table(riders, lead=7, lags=range(2), rolling=[7], season=7)
    >>> list(table.columns[:5]), len(table) == riders.size
    (['lag_0', 'lag_1', 'mean_7', 'std_7', 'season'], True)
    """
    check_field(field)
    steps, channels = field.shape[:2]
    _check_arguments(lead, list(lags), list(rolling), season, enough, steps)
    channel = _target(field, target)
    x = field.values.astype(np.result_type(field.dtype, np.float32), copy=False)
    x = x.reshape(steps, channels, math.prod(x.shape[2:]))
    dates = _target_time(field.indexes["time"], lead) if calendar else None
    when = pd.DataFrame() if dates is None else calendar_features(dates).astype(x.dtype)
    several = x.shape[2] > 1

    names = [f"lag_{lag}" for lag in lags] + [f"{what}_{w}" for w in rolling for what in ("mean", "std")]
    names += ["season"] if season else []
    prefixes = [f"{name}_" for name in field["channel"].values] if channels > 1 else [""]
    columns = [prefix + name for prefix in prefixes for name in names]
    columns += [*when.columns, *(["place_id"] if several else []), "target"]

    # One array, a column after the other: a table of 10 million rows is never copied.
    table = np.empty((len(columns), steps, x.shape[2]), dtype=x.dtype)
    rest = iter(table)
    for series in x.swapaxes(0, 1):  # (T, places) of each channel
        for lag in lags:
            _shift(series, lag, next(rest))
        for window in rolling:
            _roll(series, window, enough, next(rest), next(rest))
        if season:
            _shift(series, season * math.ceil(lead / season) - lead, next(rest))
    for name in when:
        next(rest)[:] = when[name].to_numpy()[:, None]
    if several:
        next(rest)[:] = np.arange(x.shape[2])
    _shift(x[:, channel], -lead, next(rest))

    levels = [field.get_index(dim) for dim in ("time", *field.dims[2:])]
    rows = pd.MultiIndex.from_product(levels, names=["origin", *field.dims[2:]])
    rows = rows if field.ndim > 2 else levels[0].rename("origin")
    return pd.DataFrame(table.reshape(len(columns), -1).T, index=rows, columns=columns, copy=False)


def calendar_features(time: pd.DatetimeIndex) -> pd.DataFrame:
    r"""The calendar of some times as points on a circle, so that its end lies next to its beginning.

    .. math:: \left(\sin 2\pi\varphi, \cos 2\pi\varphi\right), \qquad
       \varphi = \frac{\text{days since New Year}}{\text{days of that year}}, \quad
       \frac{\text{days since Monday}}{7}, \quad \frac{\text{hours since midnight}}{24}

    in the columns ``day_of_year_sin``, ``day_of_year_cos``, ``weekday_sin``, ... in whole days, and hours with their
    minutes. A cycle is there if the times are at more than one phase of it and closer together than it is long: daily
    data have no hour, monthly data no weekday. The month is left out: it is the day of the year, only coarser.

    Shapes: T dates, in any order, to T rows, indexed by them.
    Raises ValueError for anything else than dates, and for dates with a time zone.

    >>> calendar_features(pd.date_range("2024-12-31", periods=2)).round(2).values.tolist()
    [[-0.02, 1.0, 0.78, 0.62], [0.0, 1.0, 0.97, -0.22]]
    """
    if not isinstance(time, pd.DatetimeIndex):
        raise ValueError(f"a calendar needs dates, a pandas DatetimeIndex, got {type(time).__name__}")
    _check_zone(time)
    phases = {
        "day_of_year": ((time.day_of_year - 1) / np.where(time.is_leap_year, 366, 365), pd.Timedelta(days=365)),
        "weekday": (time.day_of_week / 7, pd.Timedelta(days=7)),
        "hour": ((time.hour + time.minute / 60) / 24, pd.Timedelta(days=1)),
    }
    steps = np.diff(np.sort(time.to_numpy()))
    steps = steps[steps > np.timedelta64(0)]
    columns = {}
    for name, (phase, cycle) in phases.items():
        if len(steps) and steps.min() < cycle and phase.nunique() > 1:
            columns[f"{name}_sin"], columns[f"{name}_cos"] = np.sin(2 * np.pi * phase), np.cos(2 * np.pi * phase)
    return pd.DataFrame(columns, index=time, copy=False)


def _check_arguments(lead: int, lags: list, rolling: list, season: int | None, enough: float, steps: int) -> None:
    if not 1 <= lead < steps:
        raise ValueError(f"lead must be from 1 to {steps - 1}, the steps less one, got {lead}")
    if any(lag < 0 for lag in lags) or len(set(lags)) < len(lags):
        raise ValueError(f"lags must be 0 or more, each once (-1 would be the future), got {lags}")
    if any(window < 2 for window in rolling) or len(set(rolling)) < len(rolling):
        raise ValueError(f"rolling must be windows of 2 steps or more, each once, got {rolling}")
    if season is not None and season < 1:
        raise ValueError(f"season must be at least 1 step, got {season}")
    if not 0 < enough <= 1:
        raise ValueError(f"enough must be above 0 and at most 1, got {enough}")


def _target(field: xr.DataArray, target: str | None) -> int:
    """The number of the channel to forecast."""
    names = field["channel"].values.tolist()
    if target is None and len(names) == 1:
        return 0
    if target not in names:
        raise ValueError(f"target must name one of the channels {', '.join(map(str, names))}, got {target!r}")
    return names.index(target)


def _shift(series: np.ndarray, steps: int, out: np.ndarray) -> None:
    """The value ``steps`` before each step, or after it where negative, missing where there is none."""
    out[:] = np.nan
    if steps >= 0:
        out[steps:] = series[: max(len(series) - steps, 0)]
    else:
        out[:steps] = series[-steps:]


def _roll(series: np.ndarray, window: int, enough: float, mean: np.ndarray, std: np.ndarray) -> None:
    observed = max(math.ceil(enough * window - 1e-9), 1)
    places = max(_AT_ONCE // len(series), 1)
    for first in range(0, series.shape[1], places):
        block = slice(first, first + places)
        rolled = pd.DataFrame(series[:, block]).rolling(window, min_periods=observed)
        mean[:, block], std[:, block] = rolled.mean(), rolled.std()


def _target_time(time: pd.Index, lead: int) -> pd.DatetimeIndex | None:
    """The time ``lead`` steps after each; a regular axis says how it goes on after its end."""
    if not isinstance(time, pd.DatetimeIndex):
        return None
    _check_zone(time)
    month = time.to_period("M")
    since, until = time - month.start_time, month.end_time - time
    apart = 12 * (time.year[1] - time.year[0]) + time.month[1] - time.month[0]
    if since.nunique() == 1:
        return (month + lead * apart).start_time + since
    if until.nunique() == 1:
        return (month + lead * apart).end_time - until
    return time + lead * (time[1] - time[0])


def _check_zone(time: pd.DatetimeIndex) -> None:
    if time.tz is not None:
        raise ValueError(
            f"a calendar needs dates without a time zone, got {time.tz}: convert them to UTC first, with "
            'time.tz_convert("UTC").tz_localize(None)'
        )
