"""Structure: how alike the values of a field are, by how far apart they lie in time and in space."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.linalg import eigh


def anomalies(field: xr.DataArray, *, cycle: str | None) -> xr.DataArray:
    r"""Departures from the usual, :math:`x'_t = x_t - c_t`, for looking at a record as a whole.

    :math:`c_t` is the mean of the same place and channel over all steps with the same ``cycle`` ("month",
    "dayofyear", "hour", or any coordinate along time, such as "week"), or over all steps for ``cycle=None``. It is
    taken from the whole record: a forecast must not use it, see `stlib.models.baselines.Climatology`.

    Shapes: dims ``("time", "channel", ...space)`` to the same. Raises ValueError for a cycle that time does not have.

    >>> from stlib.data import datasets
    >>> round(float(anomalies(datasets.load("elnino"), cycle="month").std()), 2)
    1.08
    """
    if cycle is None:
        return (field - field.mean("time")).assign_attrs(field.attrs)
    if cycle in field.coords:
        phase = field[cycle]
    else:
        try:
            phase = getattr(field["time"].dt, cycle)
        except (AttributeError, KeyError, TypeError):
            phase = None
    if getattr(phase, "dims", None) != ("time",) or cycle == "time" or bool(phase.isnull().any()):
        raise ValueError(
            f"time has no cycle {cycle!r}: name a part of its dates (month, hour, ...) or a coordinate along it, "
            "known at every step"
        )
    _, number = np.unique(phase.values, return_inverse=True)
    groups = xr.DataArray(number, dims="time", name="phase of the cycle")
    plain = field.drop_vars(list(field.coords))  # so that no coordinate can be in the way
    departure = plain.groupby(groups) - plain.groupby(groups).mean()
    return field.copy(data=departure.transpose(*field.dims).values.astype(departure.dtype, copy=False))


def autocorrelation(field: xr.DataArray, *, lags: int) -> xr.DataArray:
    r"""How alike values :math:`\tau` steps apart are: :math:`\rho_\tau = \gamma_\tau / \gamma_0`.

    .. math:: \gamma_\tau = \frac{T - \tau}{T} \operatorname{mean}_t\, (x_t - \bar x)(x_{t-\tau} - \bar x)

    with the mean over the steps where both are observed; with nothing missing this is the usual estimate with divisor
    :math:`T`. With gaps the two means are over different steps, and a value beyond 1 is possible in a short series. A
    constant series has no autocorrelation: NaN.

    Shapes: dims ``("time", "channel", ...space)`` to ``("lag", "channel", ...space)``, lags 0 to ``lags``.
    Raises ValueError unless 0 <= ``lags`` < T.
    Source: Box and Jenkins (1970), Time Series Analysis, section 2.1; the factor keeps long lags from being noisy.

    >>> series = xr.DataArray([[1.0], [2.0], [1.0], [2.0]], dims=("time", "channel"))
    >>> autocorrelation(series, lags=1).values.ravel().tolist()
    [1.0, -0.75]
    """
    steps = field.sizes["time"]
    if not 0 <= lags < steps:
        raise ValueError(f"lags must be from 0 to {steps - 1}, the steps less one, got {lags}")
    field = field.transpose("time", ...)
    seen = field.notnull().values
    x = np.where(seen, field.values.astype(np.float64), 0.0)  # the mean of a long series needs double precision
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = x.sum(0) / seen.sum(0)
    x = np.where(seen, x - mean, 0.0)
    complete = seen.all()
    covariance = np.empty((lags + 1, *x.shape[1:]))
    for lag in range(lags + 1):
        pairs = steps - lag if complete else (seen[lag:] & seen[: steps - lag]).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance[lag] = np.einsum("t...,t...->...", x[lag:], x[: steps - lag]) / pairs * (steps - lag) / steps
    varies = covariance[0] > (1e-12 * mean) ** 2  # less is the rounding of a constant
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(varies, covariance / covariance[0], np.nan)
    rest = {name: values for name, values in field.coords.items() if "time" not in values.dims}
    kind = np.result_type(field.dtype, np.float32)
    return xr.DataArray(
        correlation.astype(kind), dims=("lag", *field.dims[1:]), coords={"lag": range(lags + 1), **rest}
    )


def variogram(field: xr.DataArray, distance: np.ndarray, *, edges: np.ndarray) -> xr.DataArray:
    r"""How different values a distance :math:`d` apart are.

    .. math:: \gamma(d) = \frac12 \operatorname{mean}\,(x_i - x_j)^2

    The mean is over all pairs of places whose distance lies in one bin, and over all times at which both are observed.
    It rises from the noise of a single measurement to the variance of places that have nothing to do with each other.

    Shapes: ``field`` has dims ``("time", "channel", ...space)`` with one channel and N places in all, ``distance`` is
    (N, N), symmetric, row-major over the space dims, in any unit; ``edges`` are the K + 1 ends of the bins, in the same
    unit. Returns ``("distance",)``, K values in the square of the field's unit, at the mean distance of the pairs in
    each bin, with a coordinate ``pairs``: how many there are. A bin without pairs is NaN.
    Raises ValueError for more than one channel, a distance matrix of another size, missing, negative or not symmetric,
    or edges that do not increase.
    Source: Matheron (1963), doi:10.2113/gsecongeo.58.8.1246.

    >>> line = xr.DataArray([[[0.0, 1.0, 2.0]]], dims=("time", "channel", "place"))
    >>> apart = abs(np.arange(3) - np.arange(3)[:, None])
    >>> variogram(line, apart, edges=[0.5, 1.5, 2.5]).values.tolist()
    [0.5, 2.0]
    """
    x = field.transpose("time", "channel", ...).values.astype(np.float64)
    places = int(np.prod(x.shape[2:]))
    distance = np.asarray(distance, dtype=np.float64)
    if x.shape[1] != 1:
        raise ValueError(f"a variogram is for one channel, got {x.shape[1]}: select one")
    if distance.shape != (places, places):
        raise ValueError(f"distance needs the shape ({places}, {places}) for {places} places, got {distance.shape}")
    if not (distance >= 0).all() or not np.allclose(distance, distance.T):
        raise ValueError("distance must be 0 or more, nowhere missing, and the same both ways")
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges must be two numbers or more, increasing, got {edges}")
    x = x.reshape(len(x), places)
    x = x - np.nanmean(x) if np.isfinite(x).any() else x  # the same shift everywhere: keeps the squares small
    seen = np.isfinite(x).astype(np.float64)
    x = np.nan_to_num(x)
    # The sum over times of (x_i - x_j)^2 for all pairs at once, where both are observed.
    cross = (x**2).T @ seen
    squares = np.maximum(cross + cross.T - 2 * x.T @ x, 0)
    times = seen.T @ seen
    i, j = np.triu_indices(places, k=1)
    apart, squares, times = distance[i, j], squares[i, j], times[i, j]
    which = np.digitize(apart, edges)  # bin k holds edges[k - 1] <= distance < edges[k]
    totals = [
        np.bincount(which, weights=weights, minlength=len(edges) + 1)[1 : len(edges)]
        for weights in (squares, times, apart * (times > 0), (times > 0).astype(float))
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        gamma, middle = totals[0] / totals[1] / 2, totals[2] / totals[3]
    pairs = totals[3].astype(int)
    middle = np.where(pairs > 0, middle, (edges[:-1] + edges[1:]) / 2)
    return xr.DataArray(gamma, dims="distance", coords={"distance": middle, "pairs": ("distance", pairs)})


class EOFs(NamedTuple):
    """What `eofs` returns: maps, their amplitudes in time, and the share of the variance each explains."""

    patterns: xr.DataArray  # (mode, channel, ...space)
    amplitudes: xr.DataArray  # (time, mode), variance 1
    share: xr.DataArray  # (mode,), between 0 and 1


def eofs(field: xr.DataArray, *, modes: int, weights: xr.DataArray | None = None) -> EOFs:
    r"""The patterns that explain most of a field's variance: its principal components, as maps.

    .. math:: x'_t \approx \sum_k a_{tk}\, p_k

    The amplitudes :math:`a_{\cdot k}` have variance 1 and are uncorrelated; the patterns :math:`p_k` carry the unit of
    the field and are orthogonal under the weights. The sign is arbitrary: the largest value of each pattern is made
    positive. Maps are of the departure from the mean over time.

    Shapes: ``field`` has dims ``("time", "channel", ...space)``; places that are never observed stay NaN. ``weights``
    (any of the space dims) say how much a place counts, such as the cosine of latitude on a latitude-longitude grid.
    Raises ValueError for a gap (a place observed at some steps only), weights that are not positive or have other dims,
    or more modes than the field has. Channels of different units should be standardised first.
    Source: Lorenz (1956), Empirical Orthogonal Functions and Statistical Weather Prediction, MIT; Hannachi, Jolliffe
    and Stephenson (2007), doi:10.1002/joc.1499.

    >>> line = xr.DataArray([[[1.0, 2.0]], [[-1.0, -2.0]]], dims=("time", "channel", "place"))
    >>> eofs(line, modes=1).patterns.values.ravel().round(3).tolist()
    [1.0, 2.0]
    """
    field = field.transpose("time", "channel", ...)
    x = field.values.reshape(len(field), -1).astype(np.float64)
    seen = np.isfinite(x)
    there = seen.all(0)
    if (gaps := seen.any(0) & ~there).any():
        raise ValueError(f"{gaps.sum()} places have gaps: fill them first, or select places without")
    if not 1 <= modes <= min(len(x) - 1, there.sum()):
        raise ValueError(f"modes must be from 1 to {min(len(x) - 1, there.sum())}, got {modes}")
    root = np.sqrt(_spread_out(weights, field).ravel()[there])
    if not (root > 0).all():
        raise ValueError("weights must be positive wherever the field is observed")
    mean = x[:, there].mean(0)
    x = (x[:, there] - mean) * root
    # The smaller of the two Gram matrices has the same eigenvalues, and costs far less than a decomposition of x.
    wide = len(x) <= x.shape[1]
    gram = (x @ x.T if wide else x.T @ x) / len(x)
    total, largest = np.trace(gram), [len(gram) - modes, len(gram) - 1]
    values, vectors = eigh(gram, subset_by_index=largest, overwrite_a=True)
    values, vectors = values[::-1], vectors[:, ::-1]  # the largest first
    rounding = 1e-13 * (total + ((mean * root) ** 2).sum())
    if values[-1] <= rounding:
        raise ValueError(
            f"the field has {(values > rounding).sum()} patterns that differ from 0, {modes} were asked for"
        )
    amplitudes = vectors * np.sqrt(len(x)) if wide else x @ (vectors / np.sqrt(values))
    patterns = np.full((modes, there.size), np.nan)
    patterns[:, there] = amplitudes.T @ x / len(x) / root
    sign = np.sign(patterns[np.arange(modes), np.nanargmax(abs(patterns), axis=1)])
    patterns, amplitudes = patterns * sign[:, None], amplitudes * sign
    mode = {"mode": np.arange(1, modes + 1)}
    where = {name: coord for name, coord in field.coords.items() if "time" not in coord.dims}
    when = {name: coord for name, coord in field.coords.items() if coord.dims == ("time",)}
    kind = field.dtype if np.issubdtype(field.dtype, np.floating) else np.float64
    return EOFs(
        xr.DataArray(patterns.reshape(modes, *field.shape[1:]), dims=("mode", *field.dims[1:]), coords=mode | where)
        .astype(kind)
        .assign_attrs(field.attrs),
        xr.DataArray(amplitudes, dims=("time", "mode"), coords=when | mode).astype(kind),
        xr.DataArray(values / total, dims="mode", coords=mode),
    )


def _spread_out(weights: xr.DataArray | None, field: xr.DataArray) -> np.ndarray:
    """One weight for each value of a step, (C, *S); by the names of dims alone, since coordinates may be rounded."""
    like = field[0]
    if weights is None:
        return np.ones(like.shape)
    if not isinstance(weights, xr.DataArray) or not set(weights.dims) <= set(like.dims):
        raise ValueError(f"weights must be an array over some of the dims {like.dims}")
    if any(weights.sizes[dim] != like.sizes[dim] for dim in weights.dims):
        raise ValueError(f"weights have the sizes {dict(weights.sizes)}, the field {dict(like.sizes)}")
    plain = weights.drop_vars(list(weights.coords)).astype(np.float64)
    return plain.broadcast_like(like.drop_vars(list(like.coords))).transpose(*like.dims).values
