"""ARIMA fitted to many series at once, beside libraries that fit one series after the other.

Speed: ARIMA(1,1,1) and ARIMA(2,0,2) on simulated series of 300 steps, exact maximum likelihood in float64; stlib fits
4,000 at once, the others fewer. All times and their ratios are for one series. Growth: stlib with up to 8,000 series.
The search: AICc over a grid by stlib and AutoARIMA by statsforecast, on the first M4 Weekly series, at full length, and
by stlib on all of them, with the errors of the forecasts of the 13 weeks that follow.

The optimum: 1,000 simulated and 300 real series (M4 Weekly, at most their last 300 weeks). Each library's estimates are
put into one and the same exact likelihood; a shortfall is how much less than the best of the others it is. An estimate
that this likelihood does not allow counts as no estimate.
"""

import time
import warnings
from functools import cache, partial
from importlib import metadata

import numpy as np
import torch

from benchmarks.measure import Contestant, contest
from stlib.data import datasets
from stlib.models._arima_likelihood import difference, exact, natural, polynomials
from stlib.models.arima import ARIMA
from stlib.models.arima_search import search

STEPS, MANY, FEW, SEARCHED = 300, 4000, 25, 20
GROWTH = (1000, 2000, 4000, 8000)
HORIZON = 13
KINDS = (((1, 1, 1), "none"), ((2, 0, 2), "mean"))
REAL = ((1, 1, 1), "none")
OURS, STATSMODELS, STATSFORECAST = "stlib-book", "statsmodels", "statsforecast"


@cache
def simulated(kind: tuple, number: int, seed: int) -> np.ndarray:
    """Series ``(STEPS, number)`` of models with partial autocorrelations drawn at random."""
    (p, d, q), trend = kind
    model = ARIMA(order=(p, d, q), trend=trend, horizon=1)
    rng = np.random.default_rng(seed)
    ar, ma = polynomials(natural(torch.from_numpy(rng.normal(0, 0.8, (number, p + q))), model.orders), model.orders)
    x = np.zeros((STEPS + 200, number))
    noise = rng.normal(size=x.shape)
    for t in range(max(p, q), len(x)):
        x[t] = noise[t]
        for i in range(p):
            x[t] += ar[:, i].numpy() * x[t - 1 - i]
        for i in range(q):
            x[t] += ma[:, i].numpy() * noise[t - 1 - i]
    x = x[200:]
    return x.cumsum(0) if d else x + 3


def weekly(number: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The M4 Weekly series ``(T, N)``, NaN before the start, and the weeks that follow ``(HORIZON, N)``."""
    field = datasets.load("m4-weekly")
    values = field.transpose("time", ...).values.reshape(len(field["time"]), -1)[:, :number]
    return values[:-HORIZON].astype(float), values[-HORIZON:].astype(float)


def by_stlib(kind: tuple, series: np.ndarray, effort: str = "best") -> np.ndarray:
    order, trend = kind
    model = ARIMA(order=order, trend=trend, horizon=1).fit(torch.from_numpy(series)[:, None], effort=effort)
    return model.coefficients[: order[0] + order[2], 0].T.numpy()


def by_statsmodels(kind: tuple, series: np.ndarray) -> np.ndarray:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    (p, d, q), trend = kind
    mean, found = trend == "mean", []
    for y in series.T:
        y = y[~np.isnan(y)]
        exog = np.ones(len(y)) if mean else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = SARIMAX(y / y.std(), exog=exog, order=(p, d, q), simple_differencing=True)
                found.append(np.asarray(model.fit(disp=0, maxiter=200).params)[mean:-1])
            except (ValueError, np.linalg.LinAlgError):
                found.append(np.full(p + q, np.nan))
    return np.stack(found)


def by_statsforecast(kind: tuple, series: np.ndarray) -> np.ndarray:
    from statsforecast.arima import arima

    order, trend = kind
    found = []
    for y in series.T:
        y = y[~np.isnan(y)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = arima(y / y.std(), order=order, include_mean=trend == "mean", method="CSS-ML")
            found.append(np.array(list(result["coef"].values()))[: order[0] + order[2]])
        except (ValueError, np.linalg.LinAlgError):
            found.append(np.full(order[0] + order[2], np.nan))
    return np.stack(found)


def search_by_stlib(series: np.ndarray) -> np.ndarray:
    y = torch.from_numpy(series)[:, None]
    return search(y, horizon=HORIZON)(y[None])[0, :, 0].numpy()


def search_by_statsforecast(series: np.ndarray) -> np.ndarray:
    from statsforecast.models import AutoARIMA

    return np.stack([AutoARIMA(season_length=1).forecast(y[~np.isnan(y)], h=HORIZON)["mean"] for y in series.T], axis=1)


FITTERS = {
    OURS: by_stlib,
    f"{OURS}, one start": partial(by_stlib, effort="one start"),
    STATSMODELS: by_statsmodels,
    STATSFORECAST: by_statsforecast,
}


def shortfall(kind: tuple, series: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far each library's log likelihood is below the best of the others, one value a series."""
    (p, d, q), trend = kind
    model = ARIMA(order=(p, d, q), trend=trend, horizon=1)
    w = difference(torch.from_numpy(series / np.nanstd(series, 0)), d, 0, 1)
    begin = (~w.isnan()).int().argmax(0)
    trends = w.new_ones(len(w), int(trend == "mean"))
    loglik = {}
    for name, found in answers.items():
        given = torch.from_numpy(found)
        deviance = exact(w.nan_to_num(), trends, given.nan_to_num(), model.orders, begin=begin).deviance
        loglik[name] = np.where(np.isnan(found).any(1), -np.inf, -deviance.numpy() / 2)
    others = {name: [x for other, x in loglik.items() if other.split(",")[0] != name.split(",")[0]] for name in loglik}
    best = {name: np.max(found, axis=0) for name, found in others.items()}
    return {name: best[name] - loglik[name] for name in loglik}


def compare() -> list[dict]:
    rows = []
    for kind in KINDS:
        sizes = {name: FEW if name in (STATSMODELS, STATSFORECAST) else MANY for name in FITTERS}
        work = f"fit ARIMA{kind[0]}".replace(" ", "")
        rows += _timed(
            work,
            {
                name: (partial(simulated, kind, size, 0), partial(FITTERS[name], kind), size)
                for name, size in sizes.items()
            },
        )[0]
    for number in GROWTH:
        kind = KINDS[0]
        rows += _timed("growth", {OURS: (partial(simulated, kind, number, 0), partial(by_stlib, kind), number)})[0]
    sets = [(f"simulated ARIMA{kind[0]}", kind, simulated(kind, 500, 1)) for kind in KINDS]
    try:
        sets.append((f"M4 Weekly ARIMA{REAL[0]}", REAL, weekly(300)[0][-STEPS:]))
        rows += _searches()
    except OSError:
        rows.append({"work": "optimum, M4 Weekly", "source": "data set not available"})
    for name, kind, series in sets:
        present = {row["model"] for row in rows if row["source"] == "measured"}
        answers = {who: fit(kind, series) for who, fit in FITTERS.items() if who in present}
        for who, gap in shortfall(kind, series, answers).items():
            row = {
                "work": f"optimum, {name}",
                "model": who,
                "package": who.split(",")[0],
                "source": "computed",
                "series": len(gap),
            }
            row |= {"within_share": float((gap < 0.01).mean()), "far_share": float((gap > 0.5).mean())}
            rows.append(row | {"largest_shortfall": float(gap.max())})
    return rows


def _searches() -> list[dict]:
    """Each search once, since it takes minutes; times for one series."""
    rows = []
    ours, theirs = (OURS, search_by_stlib), (STATSFORECAST, search_by_statsforecast)
    for (who, do), size in ((ours, None), (ours, SEARCHED), (theirs, SEARCHED)):
        row = {"work": "search the orders, M4 Weekly", "model": who, "package": who}
        try:
            row["version"] = metadata.version(who)
        except metadata.PackageNotFoundError:
            rows.append(row | {"source": "not installed"})
            continue
        past, future = weekly(size)
        do(past[:, :1])  # once unmeasured: imports
        wall, cpu = time.perf_counter(), time.process_time()
        answer = do(past)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row |= {"source": "timed once", "series": past.shape[1]}
        for name in ("min", "median", "max"):
            row |= {f"wall_seconds_{name}": wall / past.shape[1], f"cpu_seconds_{name}": cpu / past.shape[1]}
        row["smape"] = float((200 * abs(answer - future) / (abs(answer) + abs(future))).mean())
        row["mase"] = float((abs(answer - future).mean(0) / np.nanmean(abs(np.diff(past, axis=0)), 0)).mean())
        row["times_ours"] = row["wall_seconds_median"] / (rows[0] if rows else row)["wall_seconds_median"]
        rows.append(row)
    return rows


def _timed(work: str, who: dict[str, tuple]) -> tuple[list[dict], list]:
    """Rows with times for one series, whatever the number that each contestant works on."""
    rows, answers = contest(
        [Contestant(name, name.split(",")[0], prepare, do) for name, (prepare, do, _) in who.items()]
    )
    for row, (_, _, size) in zip(rows, who.values(), strict=True):
        row |= {"series": size}
        for column in [name for name in row if name.startswith(("wall_seconds", "cpu_seconds"))]:
            row[column] /= size
    for row in rows:
        if "times_ours" in row:
            row["times_ours"] = row["wall_seconds_median"] / rows[0]["wall_seconds_median"]
    return [{"work": work, **row} for row in rows], answers
