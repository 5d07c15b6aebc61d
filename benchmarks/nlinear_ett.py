"""Closed-form NLinear on the ETT benchmark, beside the published rows of the models that it stands against.

The standard protocol: 12, 4 and 4 months of 30 days of hourly steps for training, validation and test; z-scores of
each channel from the training part; one map shared by the 7 channels; every test window, none dropped; errors in z
units over all windows, leads and channels. The penalty is chosen on the validation part. Both usual lengths of the past
are reported, with their validation error, so that nobody has to choose one by its test error. The fit counts
everything: the moments of the windows, one factorisation, and the choice among six penalties.

At one horizon the same ridge problem is solved by scikit-learn, with the penalty already chosen.
"""

from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.measure import Contestant, contest
from stlib.data import datasets, windows
from stlib.data.scaling import Scaler
from stlib.evaluation.backtest import backtest, score
from stlib.models.linear import NLinear

DATASETS = ("etth1", "etth2")
PASTS = (336, 512)
HORIZONS = (96, 192, 336, 720)
CHECKED = ("etth1", 512, 96)
TRAIN, VALIDATION, TEST = 8640, 2880, 2880  # hourly steps

ZENG = "Zeng et al. (2023), doi:10.1609/aaai.v37i9.26317"
NIE = "Nie et al. (2023), doi:10.48550/arXiv.2211.14730"
NOTES = {NIE: "the published test loader drops the last partial batch of windows"}
# MSE and MAE for each of HORIZONS, as published.
PUBLISHED = (
    ("DLinear", "etth1", 336, ZENG, (0.375, 0.405, 0.439, 0.472), (0.399, 0.416, 0.443, 0.490)),
    ("NLinear", "etth1", 336, ZENG, (0.374, 0.408, 0.429, 0.440), (0.394, 0.415, 0.427, 0.453)),
    ("PatchTST/42", "etth1", 336, NIE, (0.375, 0.414, 0.431, 0.449), (0.399, 0.421, 0.436, 0.466)),
    ("PatchTST/64", "etth1", 512, NIE, (0.370, 0.413, 0.422, 0.447), (0.400, 0.429, 0.440, 0.468)),
    ("PatchTST/64", "etth2", 512, NIE, (0.274, 0.341, 0.329, 0.379), (0.337, 0.382, 0.384, 0.422)),
)


def scaled_parts(dataset: str, past: int, horizon: int) -> windows.Split:
    field = datasets.load(dataset).isel(time=slice(0, TRAIN + VALIDATION + TEST))
    parts = windows.split(field, past=past, horizon=horizon, train=TRAIN, validation=VALIDATION)
    scaler = Scaler().fit(parts.train)
    return windows.Split(*(scaler.windows(part) for part in parts))


def fit(parts: windows.Split) -> NLinear:
    model = NLinear(past=parts.train.past, horizon=parts.train.horizon)
    return model.fit(parts.train.series, parts.validation.series)


def errors(model: NLinear, part: windows.Windows) -> tuple[float, float]:
    """MSE and MAE over all windows, leads and channels; every channel has the same number of values."""
    result = backtest(model, part)
    return tuple(float(score(result, metric=metric, by="channel").mean()) for metric in ("mse", "mae"))


def rows_of(part: windows.Windows) -> tuple[np.ndarray, np.ndarray]:
    """Past and future of every window and channel, less the last past value: (number, past) and (number, horizon)."""
    rows = sliding_window_view(part.series.numpy(), part.past + part.horizon, axis=0)
    rows = rows.reshape(-1, part.past + part.horizon)
    rows = rows - rows[:, part.past - 1, None]
    return rows[:, : part.past], rows[:, part.past :]


def fit_by_scikit_learn(parts: windows.Split, *, penalty: float):
    from sklearn.linear_model import Ridge

    past, future = rows_of(parts.train)
    strength = penalty * len(past) * float(past.var(axis=0, dtype=np.float64).mean())  # NLinear's unit of the penalty
    return Ridge(alpha=strength, solver="cholesky").fit(past, future)


def compare() -> list[dict]:
    return [row for dataset in DATASETS for row in (*_measured(dataset), *_published(dataset))]


def _measured(dataset: str) -> list[dict]:
    cases = [(dataset, past, horizon) for past in PASTS for horizon in HORIZONS]
    ours = Contestant("NLinear, closed form", "stlib-book", datasets.load, fit)
    try:
        datasets.load(dataset)
    except OSError:
        return [_labels(ours.name, *case) | {"source": "data set not available"} for case in cases]
    rows = []
    for case in cases:
        parts = scaled_parts(*case)
        contestants = [ours._replace(prepare=partial(scaled_parts, *case))]
        if case == CHECKED:
            same = partial(fit_by_scikit_learn, penalty=fit(parts).penalty[0])
            contestants.append(Contestant("Ridge", "scikit-learn", contestants[0].prepare, same))
        for row, model in zip(*contest(contestants), strict=True):
            row = _labels(row["model"], *case) | row
            if model is not None:
                row |= {"fit_cpu_seconds": row["cpu_seconds_median"], "test_windows": len(parts.test)}
            if isinstance(model, NLinear):
                row["mse"], row["mae"] = errors(model, parts.test)
                row |= {"validation_mse": errors(model, parts.validation)[0], "penalty": model.penalty[0]}
            elif model is not None:
                past, future = rows_of(parts.test)
                miss = model.predict(past) - future
                row |= {"mse": float(np.square(miss).mean()), "mae": float(np.abs(miss).mean())}
                row |= {"penalty": same.keywords["penalty"], "mse_difference": row["mse"] - rows[-1]["mse"]}
            rows.append(row)
    return rows


def _published(dataset: str) -> list[dict]:
    return [
        _labels(model, name, past, horizon) | {"mse": mse, "mae": mae, "source": source, "note": NOTES.get(source)}
        for model, name, past, source, *both in PUBLISHED
        for horizon, mse, mae in zip(HORIZONS, *both, strict=True)
        if name == dataset
    ]


def _labels(model: str, dataset: str, past: int, horizon: int) -> dict:
    blank = dict.fromkeys(("mse", "mae", "fit_cpu_seconds", "source"))
    return {"model": model, "dataset": dataset, "past": past, "horizon": horizon, **blank}
