"""Each preparation of the book on a field of ten million values, beside what one would write with other libraries.

The field is 4000 days of a 50 by 50 grid in float32, 38 MiB, with a season, waves in space and noise; one value in ten
is missing, in blocks of time, unless the work needs a full record. Where a library does the same work, the largest
difference of the two answers is given, as a share of the field's standard deviation. Peak memory is that of a whole
process: libraries, field and work; the row "nothing" is the same without work.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from benchmarks.measure import Contestant, contest
from stlib.data import augmentation, graphs, windows
from stlib.data.preprocessing import (
    ClimatologyFill,
    EOFFill,
    NeighbourFill,
    TimeInterpolation,
    feature_table,
    hampel,
    impute,
    regrid,
    to_step,
)
from stlib.data.scaling import Scaler
from stlib.data.structure import autocorrelation, eofs

STEPS, SIDE = 4000, 50
REPETITIONS = 5


@cache
def full() -> xr.DataArray:
    rng = np.random.default_rng(0)
    time = pd.date_range("2000-01-01", periods=STEPS)
    lat, lon = np.linspace(-49, 49, SIDE), np.linspace(0, 98, SIDE)
    day = 2 * np.pi * np.arange(STEPS) / 365.25
    # In single precision and in place: the peak memory of the work must not hide behind that of its field.
    values = 0.5 * rng.standard_normal((STEPS, 1, SIDE, SIDE), dtype=np.float32)
    for k in (1, 2, 7, 30):
        pattern = rng.standard_normal((4, 4), dtype=np.float32).repeat(13, 0).repeat(13, 1)[:SIDE, :SIDE]
        values += np.cos(k * day + 6 * rng.random()).astype(np.float32)[:, None, None, None] * pattern
    coords = {"time": time, "channel": ["value"], "lat": lat, "lon": lon}
    return xr.DataArray(values, dims=("time", "channel", "lat", "lon"), coords=coords)


@cache
def holed() -> xr.DataArray:
    rng = np.random.default_rng(1)
    blocks = rng.random((STEPS // 8, 1, SIDE, SIDE)) < 0.1
    return full().where(~blocks.repeat(8, axis=0))


def split(field: xr.DataArray) -> windows.Split:
    return windows.split(field, past=8, horizon=8)


def neighbours() -> torch.Tensor:
    lat, lon = np.meshgrid(full()["lat"], full()["lon"], indexing="ij")
    return graphs.gaussian(graphs.great_circle(lat.ravel(), lon.ravel()), scale=400.0, threshold=0.01)


def filled(imputer: torch.nn.Module, field: xr.DataArray) -> np.ndarray:
    return impute(field, imputer, train=2400).field.values


def interpolated_by_pandas(field: xr.DataArray) -> np.ndarray:
    return pd.DataFrame(field.values.reshape(STEPS, -1)).interpolate(limit_direction="both").to_numpy()


def climatology_by_xarray(field: xr.DataArray) -> np.ndarray:
    usual = field[:2400].groupby("time.month").mean()
    return field.groupby("time.month").fillna(usual).drop_vars("month").values


def corner() -> xr.DataArray:
    """Twenty-five of the places, for work that takes minutes on all of them."""
    return full()[:, :, :5, :5]


def hampel_by_package(field: xr.DataArray) -> np.ndarray:
    from hampel import hampel as one_series

    values = field.values.reshape(STEPS, -1)
    cleaned = values.copy()
    for place in range(values.shape[1]):
        found = one_series(values[:, place].astype(np.float64), window_size=25, n_sigma=3.0).outlier_indices
        cleaned[found, place] = np.nan
    return cleaned


def standardised_by_sklearn(field: xr.DataArray) -> np.ndarray:
    from sklearn.preprocessing import StandardScaler

    flat = field.values.reshape(STEPS, -1)
    return StandardScaler().fit(flat[:2400]).transform(flat)


def standardised(field: xr.DataArray) -> np.ndarray:
    train = split(field).train
    return Scaler(per="place").fit(train)(train.field).numpy()


def regrid_by_package(field: xr.DataArray) -> np.ndarray:
    import xarray_regrid  # noqa: F401  registers .regrid

    target = xr.Dataset(coords=dict(zip(("lat", "lon"), coarse(), strict=True)))
    return field.regrid.conservative(target, latitude_coord="lat").transpose(*field.dims).values


def coarse() -> tuple[np.ndarray, np.ndarray]:
    return -50 + 10 * (np.arange(10) + 0.5), -1 + 10 * (np.arange(10) + 0.5)


LAGS, WEEKS = (0, 1, 7), (7,)


def features_by_pandas(field: xr.DataArray) -> np.ndarray:
    wide = pd.DataFrame(field.values.reshape(STEPS, -1))
    columns = [wide.shift(lag) for lag in LAGS]
    rolling = wide.rolling(7, min_periods=4)
    columns += [rolling.mean(), rolling.std(), wide.shift(-1)]
    return np.stack([column.to_numpy(np.float32).ravel() for column in columns], axis=1)


def features(field: xr.DataArray) -> np.ndarray:
    table = feature_table(field, lags=LAGS, rolling=WEEKS, lead=1, calendar=False)
    return table[["lag_0", "lag_1", "lag_7", "mean_7", "std_7", "target"]].to_numpy()


def autocorrelation_by_statsmodels(field: xr.DataArray) -> np.ndarray:
    from statsmodels.tsa.stattools import acf

    flat = field.values.reshape(STEPS, -1).astype(np.float64)
    return np.stack([acf(flat[:, place], nlags=30, fft=True) for place in range(flat.shape[1])], axis=1)


def pca_by_sklearn(field: xr.DataArray) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(5, svd_solver="covariance_eigh").fit(field.values.reshape(STEPS, -1)).explained_variance_ratio_


def augmented(change: Callable, field: xr.DataArray) -> np.ndarray:
    """All 250 windows of 16 days that do not overlap, in one batch: each value once."""
    series = torch.as_tensor(field.values).unflatten(0, (250, 16))
    whole = windows.Batch(series[:, :8], series[:, 8:], None)
    return change(whole, torch.Generator().manual_seed(0)).past.numpy()


Work = Callable[[xr.DataArray], np.ndarray]
OURS = "stlib-book"


def tasks() -> list[tuple[str, Callable[[], Any], list[tuple[str, str, Work]]]]:
    """The name of the work, its field, and who does it."""
    return [
        ("nothing", full, [("stlib", OURS, lambda field: field.values)]),
        ("outliers: Hampel filter, 25 days", full, [("stlib", OURS, lambda field: hampel(field, window=25).values)]),
        (
            "the same, 25 places only",
            corner,
            [
                ("stlib", OURS, lambda field: hampel(field, window=25).values),
                ("hampel, place by place", "hampel", hampel_by_package),
            ],
        ),
        (
            "gaps: line in time",
            holed,
            [
                ("stlib", OURS, lambda field: filled(TimeInterpolation(), field)),
                ("interpolate", "pandas", interpolated_by_pandas),
            ],
        ),
        (
            "gaps: monthly climatology",
            holed,
            [
                ("stlib", OURS, lambda field: filled(ClimatologyFill(cycle="month"), field)),
                ("groupby and fillna", "xarray", climatology_by_xarray),
            ],
        ),
        (
            "gaps: neighbours",
            holed,
            [("stlib", OURS, lambda field: filled(NeighbourFill(adjacency=neighbours()), field))],
        ),
        ("gaps: ten EOFs", holed, [("stlib", OURS, lambda field: filled(EOFFill(modes=10), field))]),
        (
            "standardise each place",
            full,
            [("stlib", OURS, standardised), ("StandardScaler", "scikit-learn", standardised_by_sklearn)],
        ),
        (
            "days to months",
            full,
            [
                ("stlib", OURS, lambda field: to_step(field, step="MS", how="mean").values),
                ("resample", "xarray", lambda field: field.resample(time="MS").mean().values),
            ],
        ),
        (
            "50 x 50 to 10 x 10, conservative",
            full,
            [
                ("stlib", OURS, lambda field: regrid(field, lat=coarse()[0], lon=coarse()[1]).values),
                ("conservative", "xarray-regrid", regrid_by_package),
            ],
        ),
        (
            "feature table, six columns",
            full,
            [("stlib", OURS, features), ("shift and rolling", "pandas", features_by_pandas)],
        ),
        (
            "autocorrelation, 30 lags",
            full,
            [
                ("stlib", OURS, lambda field: autocorrelation(field, lags=30).values),
                ("acf, place by place", "statsmodels", autocorrelation_by_statsmodels),
            ],
        ),
        (
            "five EOFs",
            full,
            [
                ("stlib", OURS, lambda field: eofs(field, modes=5).share.values),
                ("PCA", "scikit-learn", pca_by_sklearn),
            ],
        ),
        *(
            (f"augment: {name}", full, [("stlib", OURS, partial(augmented, change))])
            for name, change in {
                "jitter": partial(augmentation.jitter, spread=0.1),
                "time_warp": partial(augmentation.time_warp, strength=0.2),
                "mixup": partial(augmentation.mixup, alpha=0.2),
                "rotate": augmentation.rotate,
            }.items()
        ),
    ]


def prepare(task: str) -> xr.DataArray:
    return next(field for name, field, _ in tasks() if name == task)()


def work(task: str, contestant: int, field: xr.DataArray) -> np.ndarray:
    return next(who for name, _, who in tasks() if name == task)[contestant][2](field)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, where both have a value, as a share of the field's standard deviation."""
    ours, theirs = ours.ravel().astype(np.float64), theirs.ravel().astype(np.float64)
    return float(np.nanmax(abs(ours - theirs))) / float(full().std())


def compare() -> list[dict]:
    rows = []
    for task, _, who in tasks():
        contestants = [
            Contestant(name, package, partial(prepare, task), partial(work, task, i))
            for i, (name, package, _) in enumerate(who)
        ]
        measured, answers = contest(contestants, repetitions=REPETITIONS)
        for row, answer in zip(measured, answers, strict=True):
            if answer is not None and row is not measured[0]:
                ours = answers[0].ravel(), answer.ravel()
                row["difference_share"] = difference(*ours)
                row["missing_in_one"] = int((np.isnan(ours[0]) != np.isnan(ours[1])).sum())
            rows.append({"work": task, **row})
    return rows
