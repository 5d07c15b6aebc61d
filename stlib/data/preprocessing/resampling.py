"""Resampling: a coarser time step, or another grid, without making up what was not observed."""

import math

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

_MONTHS = (pd.offsets.MonthBegin, pd.offsets.QuarterBegin, pd.offsets.YearBegin)
_EQUAL = (pd.offsets.Tick, pd.offsets.Day, pd.offsets.Week)
_AT_ONCE = 2_000_000  # values that are regridded at a time


def to_step(field: xr.DataArray, *, step: str, how: str, enough: float = 0.5) -> xr.DataArray:
    r"""Bring a field to a regular and coarser time step.

    ``how="mean"`` is for levels such as a temperature, "sum" for amounts such as rain or cases, and "last" for states
    such as a price: the last observed value in the step. With :math:`n` values expected in a step and :math:`m`
    observed,

    .. math:: \mathrm{mean} = \frac1m \sum x, \qquad \mathrm{sum} = \frac{n}{m} \sum x

    so that a missing value counts in the sum as the mean of the observed ones. A step with :math:`m / n` below
    ``enough`` is missing: a sum of half the hours is not half the sum.

    ``step`` is a fixed length ("6h", "D"), or weeks, months, quarters or years by their first day ("W-MON", "MS", "QS",
    "YS"). A step holds what lies from its label up to the next label. So weeks of "W-MON" begin on Monday and are
    labelled by it, which is not what pandas does by default. :math:`n` is counted in the field's own step, the smallest
    difference of two time stamps; time stamps that are left out are missing values, also in the first and last step
    where the record begins or ends within them. A week counts in the month in which it begins.

    Shapes: dims ``("time", "channel", ...space)`` with dates, to the same with fewer steps, as
    `stlib.data.windows.split` needs them. Attrs stay, units too: see whether they still hold for a sum. Other
    coordinates along time are dropped.
    Raises ValueError for other dims, a time axis without dates, with a time zone, with fewer than two, repeated or not
    increasing, whose differences are no multiples of the smallest, a ``step`` that is finer or no multiple of it, or
    that is named by its last day, and for ``enough`` outside (0, 1].

    >>> from stlib.data import datasets
    >>> to_step(datasets.load("elnino"), step="YS", how="mean").sizes["time"]
    61
    """
    if how not in ("mean", "sum", "last"):
        raise ValueError(f'how must be "mean", "sum" or "last", got {how!r}')
    _check_enough(enough)
    time = _check_time(field)
    offset = _offset(step)
    flat = field.values.reshape(len(time), math.prod(field.shape[1:]))
    steps = pd.DataFrame(flat, index=time).resample(offset, closed="left", label="left")
    observed = steps.count()
    labels = observed.index
    expected = _expected(time, labels.append(labels[-1:] + offset), offset, step)[:, None]
    observed = observed.to_numpy()
    values = getattr(steps, how)().to_numpy(np.result_type(flat.dtype, np.float32))
    if how == "sum":
        values = values * (expected / np.maximum(observed, 1)).astype(values.dtype)
    values = np.where(observed >= (1 - 1e-9) * enough * expected, values, np.nan).astype(values.dtype, copy=False)
    kept = {name: coordinate for name, coordinate in field.coords.items() if "time" not in coordinate.dims}
    return xr.DataArray(
        values.reshape(len(labels), *field.shape[1:]),
        dims=field.dims,
        coords={"time": ("time", labels, field["time"].attrs), **kept},
        attrs=field.attrs,
        name=field.name,
    )


def _check_time(field: xr.DataArray) -> pd.DatetimeIndex:
    if field.dims[:2] != ("time", "channel"):
        raise ValueError(f'a field needs dims ("time", "channel", ...space), got {field.dims}')
    time = field.indexes.get("time")
    if not isinstance(time, pd.DatetimeIndex):
        raise ValueError("to_step needs dates along time; for whole numbers use field.coarsen(time=...)")
    if time.tz is not None:
        raise ValueError(
            f"to_step needs dates without a time zone, got {time.tz}: convert them to UTC first, with "
            'time.tz_convert("UTC").tz_localize(None)'
        )
    if len(time) < 2 or not time.is_unique or not time.is_monotonic_increasing:
        raise ValueError(
            f"to_step needs two or more time stamps, strictly increasing, got {len(time)}: "
            "sort them and drop or average the repeated ones first"
        )
    return time


def _offset(step: str) -> pd.DateOffset:
    try:
        offset = pd.tseries.frequencies.to_offset(step)
    except (ValueError, TypeError):
        offset = None
    if not isinstance(offset, _EQUAL + _MONTHS) or offset.n < 1:
        raise ValueError(
            'step must be a fixed length ("6h", "D") or name weeks, months, quarters or years by their first day '
            f'("W-MON", "MS", "QS", "YS"), got {step!r}'
        )
    return offset


def _expected(time: pd.DatetimeIndex, edges: pd.DatetimeIndex, offset: pd.DateOffset, step: str) -> np.ndarray:
    """How many of the field's own steps begin between one edge and the next."""
    month = time.to_period("M")
    if (time - month.start_time).nunique() == 1 or (month.end_time - time).nunique() == 1:  # calendar months
        stamps, edges = (12 * dates.year.to_numpy() + dates.month.to_numpy() for dates in (time, edges))
        unit, fits = "months", isinstance(offset, _MONTHS)
    else:
        stamps, edges = (dates.as_unit("ns").asi8 for dates in (time, edges))
        unit, fits = "ns", True
    differences = np.diff(stamps)
    own = differences.min()
    named = f"{own} months" if unit == "months" else str(pd.Timedelta(own, "ns"))
    if (differences % own).any():
        raise ValueError(
            f"the time stamps lie {named} or more apart, but not by multiples of that: round them or add the missing "
            'ones first, for example field.resample(time="D").asfreq()'
        )
    lengths = np.diff(edges)
    equal = unit == "months" or isinstance(offset, _EQUAL)
    if not fits or lengths.min() < own or (equal and (lengths % own).any()):
        raise ValueError(f"step must be a multiple of the field's own step, which is {named}, got {step!r}")
    return np.diff(-((stamps[0] - edges) // own))  # -(-a // b) is a / b rounded up


def regrid(field: xr.DataArray, *, lat: ArrayLike, lon: ArrayLike, enough: float = 0.5) -> xr.DataArray:
    r"""Bring a field to another grid of latitudes and longitudes, so that area-weighted means stay what they are.

    A new value is the mean of the old ones, weighted by the area that their cells share with the new cell:

    .. math:: \bar x_{ij} = \frac{\sum_{kl} a_{ik} b_{jl}\, m_{kl} x_{kl}}{\sum_{kl} a_{ik} b_{jl}\, m_{kl}},
       \qquad a_{ik} = |\sin I_i \cap \sin I_k|, \quad b_{jl} = |J_j \cap J_l|

    with the intervals of latitude :math:`I` and longitude :math:`J` that belong to the cells, and :math:`m` 1 where
    :math:`x` is observed and 0 elsewhere. A new cell is missing where less than ``enough`` of its area is observed;
    what lies outside the old grid is not. Each cell holds one value (first order): a finer grid shows the old cells as
    steps, it does not add detail.

    ``lat`` and ``lon`` are the new centres in degrees, increasing or decreasing. Cells end half-way between centres;
    the outermost reach as far outwards as inwards, but not beyond the poles. Longitudes count round the circle: -90 is
    270.

    Shapes: dims ``("time", "channel", "lat", "lon")`` to the same. Attrs and the coordinates of time and channel stay.
    Raises ValueError for other dims (on a plane, with ``y`` and ``x``, use ``field.coarsen``), fewer than two centres,
    centres out of order, latitudes beyond the poles, a grid of more than 360 degrees, infinite values, or
    ``enough`` outside (0, 1].
    Source: Jones (1999), doi:10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2, first order, between grids of parallels
    and meridians. The weights by what is observed are ours.

    >>> from stlib.data import datasets
    >>> regrid(datasets.load("storm"), lat=[25, 35, 45, 55], lon=[-130, -110, -90, -70]).shape
    (64, 6, 4, 4)
    """
    _check_enough(enough)
    if field.dims != ("time", "channel", "lat", "lon"):
        raise ValueError(
            f'regrid needs dims ("time", "channel", "lat", "lon"), got {field.dims}: a grid in the plane or with '
            "latitudes that change along a row does not have them"
        )
    if infinite := int(np.isinf(field.values).sum()):  # 0 * inf is NaN, which the product would spread over the map
        raise ValueError(f"field holds {infinite} infinite values: make them missing first")
    new = {"lat": np.asarray(lat, dtype=np.float64), "lon": np.asarray(lon, dtype=np.float64)}
    rows = _overlap(_cells(new["lat"], "lat"), _cells(field["lat"].values, "field.lat"), turn=None)
    columns = _overlap(_cells(new["lon"], "lon"), _cells(field["lon"].values, "field.lon"), turn=360.0)
    area = np.diff(_cells(new["lat"], "lat")) * np.diff(_cells(new["lon"], "lon")).T  # (new rows, new columns)

    dtype = np.result_type(field.dtype, np.float32)
    flat = field.values.reshape(-1, *field.shape[2:])
    result = np.empty((len(flat), *area.shape), dtype=dtype)
    layers = max(_AT_ONCE // max(flat[0].size, area.size), 1) if len(flat) else 1
    for first in range(0, len(flat), layers):
        x = flat[first : first + layers].astype(np.float64)
        seen = ~np.isnan(x)
        total = rows @ np.where(seen, x, 0) @ columns.T
        covered = rows @ seen.astype(np.float64) @ columns.T
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / covered
        result[first : first + layers] = np.where(covered >= (1 - 1e-9) * enough * area, mean, np.nan)
    kept = {name: values for name, values in field.coords.items() if not {"lat", "lon"} & set(values.dims)}
    coordinates = {dim: (dim, new[dim], field[dim].attrs) for dim in ("lat", "lon")}
    return xr.DataArray(
        result.reshape(*field.shape[:2], *area.shape),
        dims=field.dims,
        coords={**kept, **coordinates},
        attrs=field.attrs,
        name=field.name,
    )


def _cells(centres: np.ndarray, name: str) -> np.ndarray:
    """Lower and upper end of each cell, (cells, 2): sines of the latitudes, degrees of longitude."""
    c = np.asarray(centres, dtype=np.float64)
    steps = np.diff(c) if c.ndim == 1 else c
    if c.ndim != 1 or len(c) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"{name} must be two or more centres in increasing or decreasing order, got {c.tolist()}")
    edges = np.concatenate([[c[0] - steps[0] / 2], c[:-1] + steps / 2, [c[-1] + steps[-1] / 2]])
    if name.endswith("lat"):
        if abs(c).max() > 90:
            raise ValueError(f"{name} must lie from -90 to 90 degrees, got {c.min()} to {c.max()}")
        edges = np.sin(np.deg2rad(edges.clip(-90, 90)))
    elif abs(edges[-1] - edges[0]) > 360 * (1 + 1e-6):
        raise ValueError(
            f"the cells of {name} must not go round more than once, got {abs(edges[-1] - edges[0])} degrees"
        )
    return np.sort(np.stack([edges[:-1], edges[1:]], axis=1), axis=1)


def _overlap(new: np.ndarray, old: np.ndarray, *, turn: float | None) -> np.ndarray:
    """How much of each new cell lies in each old one, (new, old), on a line or on a circle of ``turn`` degrees."""
    if turn is None:
        shifts = [0.0]
    else:  # bring the two grids next to each other, then look one turn to either side
        nearest = turn * np.round((old.mean() - new.mean()) / turn)
        shifts = [nearest - turn, nearest, nearest + turn]
    shared = np.zeros((len(new), len(old)))
    for shift in shifts:
        upper = np.minimum(new[:, None, 1] + shift, old[None, :, 1])
        lower = np.maximum(new[:, None, 0] + shift, old[None, :, 0])
        shared += (upper - lower).clip(0)
    return shared


def _check_enough(enough: float) -> None:
    if not 0 < enough <= 1:
        raise ValueError(f"enough must be above 0 and at most 1, got {enough}")
