"""Cleaning: values that cannot be right become missing. Filling them is another decision."""

import math

import numpy as np
import xarray as xr

from stlib.data.windows import check_field

_AT_ONCE = 2_000_000  # values of all windows in memory at a time


def hampel(
    field: xr.DataArray, *, window: int, threshold: float = 3.0, floor: float = 0.0, centred: bool = True
) -> xr.DataArray:
    r"""Take out the values that lie far from the median of the steps around them.

    .. math:: x_t \to \text{missing} \quad\text{if}\quad |x_t - m_t| > k \max(1.4826\,\mathrm{MAD}_t, f),
       \qquad \mathrm{MAD}_t = \mathrm{med}_{s \in W_t} |x_s - m_t|

    with :math:`m_t` the median of the window :math:`W_t`, the ``threshold`` :math:`k` and the ``floor`` :math:`f`. For
    normal values 1.4826 MAD is the standard deviation, and unlike it hardly moves when up to half of the window is
    wrong. Every series is cleaned on its own. All windows are of the values as given: what is taken out at one step
    still stands in the windows of the others.

    ``centred=True``: :math:`W_t` is :math:`x_t` and ``window // 2`` steps on either side, for looking at a record. It
    uses the future. ``centred=False``: the ``window`` steps before :math:`x_t`, without it, for a forecast's past.
    Windows are shorter at the ends of the record. A value whose window has fewer than 3 observed values is kept.

    A steep season or trend within the window counts as spread and hides outliers: look for them in the anomalies. A
    filter that sees only the past takes the beginning of every quick rise for an outlier, such as that of an epidemic.

    Where more than half of a window is one value, as with counts that are mostly 0, the MAD is 0 and says nothing of
    the spread: the value is kept, unless ``floor`` gives the smallest spread to believe in, in the units of the data.

    Shapes: dims ``("time", "channel", ...space)`` and a regular time axis, to the same. Observed values are kept bit
    for bit. What was taken out is ``field.notnull() & cleaned.isnull()``.
    Raises ValueError for other dims, no time step, an irregular time axis, a centred window that is even, one below
    3 steps, or a negative threshold or floor.
    Source: Hampel (1974), doi:10.1080/01621459.1974.10482962, for the MAD and its constant; Pearson (2002),
    doi:10.1109/87.974338, for the moving window. The floor is ours.

    >>> from stlib.data import datasets
    >>> co2 = datasets.load("co2").copy(deep=True)
    >>> co2[1000] += 30
    >>> cleaned = hampel(co2, window=9, threshold=5)
    >>> bool(cleaned[1000].isnull()), int((co2.notnull() & cleaned.isnull()).sum())
    (True, 1)
    """
    check_field(field)
    if not field.sizes["time"]:
        raise ValueError("field must have at least 1 time step, got 0")
    if window < 3 or (centred and window % 2 == 0):
        raise ValueError(f"window must be at least 3 steps, and odd where centred, got {window}")
    if not threshold >= 0 or not floor >= 0:
        raise ValueError(f"threshold and floor must be at least 0, got {threshold} and {floor}")
    values = field.values.astype(np.result_type(field.dtype, np.float32), copy=False)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))  # (T, places of all channels)
    ends = (window // 2, window // 2) if centred else (window, 0)
    padded = np.pad(flat, (ends, (0, 0)), constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)  # (T, places, window), not a copy
    kept = np.ones(flat.shape, dtype=bool)
    places = max(_AT_ONCE // window, 1)
    steps = max(places // max(flat.shape[1], 1), 1)
    for step in range(0, len(flat), steps):
        for place in range(0, flat.shape[1], places):
            block = (slice(step, min(step + steps, len(flat))), slice(place, place + places))
            kept[block] = ~_is_far(flat[block], around[block], threshold, floor)
    return field.where(xr.DataArray(kept.reshape(field.shape), dims=field.dims))


def _is_far(x: np.ndarray, around: np.ndarray, threshold: float, floor: float) -> np.ndarray:
    """Which of the values (T, places) lie far from the middle of their windows (T, places, window)."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        ordered = np.sort(around, axis=-1)  # a copy, NaN last
        observed = (~np.isnan(ordered)).sum(-1)
        middle = _median(ordered, observed)
        ordered -= middle[..., None]
        np.abs(ordered, out=ordered)
        ordered.sort(axis=-1)
        spread = np.maximum(1.4826 * _median(ordered, observed), floor)
        return (abs(x - middle) > threshold * spread) & (spread > 0) & (observed >= 3)


def _median(ordered: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The mean of the two middle ones of the first ``observed`` values."""
    lower, upper = np.maximum(observed - 1, 0) // 2, observed // 2
    lower, upper = (np.take_along_axis(ordered, which[..., None], -1)[..., 0] for which in (lower, upper))
    return (lower + upper) / 2
