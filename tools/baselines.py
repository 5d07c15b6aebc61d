"""Fills in the baseline errors of the data sets' cards: `python tools/baselines.py`; --check only compares."""

import re
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import xarray as xr

from stlib.data import datasets, windows
from stlib.evaluation.backtest import backtest, score
from stlib.models.baselines import Climatology, DampedAnomaly, Drift, Persistence, SeasonalPersistence
from stlib.reporting import three_digits

CARDS = Path(__file__).parents[1] / "data"
MARK = "<!-- baselines -->"


def storm() -> str:
    field = datasets.load("storm")
    return section(
        field, "RMSE", "6-hour steps", leads=(1, 2, 4), past=4, horizon=4, train=32, validation=12, cycle=None
    )


def nasa() -> str:
    field = datasets.load("nasa").drop_sel(channel="cloud_low")
    note = "`cloud_low` is left out: some cells have no observed training value in some calendar months."
    options = {"past": 12, "horizon": 6, "train": 36, "validation": 12, "cycle": "month", "season": 12}
    return section(field, "RMSE", "months", leads=(1, 3, 6), **options) + "\n" + note + "\n"


def chicago() -> str:
    field = datasets.load("chicago")["riders"]
    options = {"past": 56, "horizon": 14, "train": 0.6, "validation": 0.2, "cycle": "weekday", "season": 7}
    return section(field, "MAE", "days", leads=(1, 7, 14), **options)


def co2() -> str:
    field = datasets.load("co2")
    options = {"past": 104, "horizon": 52, "train": 0.6, "validation": 0.2, "cycle": "month", "season": 52}
    return section(field, "RMSE", "weeks", leads=(1, 13, 52), **options)


def ett(name: str) -> str:
    field = datasets.load(name).isel(time=slice(0, 14400))
    options = {"past": 336, "horizon": 96, "train": 8640, "validation": 2880, "cycle": "hour", "season": 24}
    return section(field, "MAE", "hours", leads=(1, 24, 96), **options)


def tropical_winds() -> str:
    field = datasets.load("tropical-winds")
    options = {"past": 12, "horizon": 6, "train": 72, "validation": 24, "cycle": "month", "season": 12}
    return section(field, "RMSE", "months", leads=(1, 3, 6), **options)


def elnino() -> str:
    field = datasets.load("elnino")
    options = {"past": 24, "horizon": 12, "train": 0.6, "validation": 0.2, "cycle": "month", "season": 12}
    return section(field, "RMSE", "months", leads=(1, 6, 12), **options)


def stage4() -> str:
    field = datasets.load("stage4")
    return section(field, "RMSE", "hours", leads=(1, 2, 3), past=3, horizon=3, train=11, validation=6, cycle=None)


def measles() -> str:
    field = datasets.load("measles").drop_sel(state=["Alaska", "Hawaii"])
    note = (
        "Alaska and Hawaii are left out: they have no training part. So is seasonal persistence: in 31 states some "
        "past of two years lacks a week of the year."
    )
    options = {"past": 104, "horizon": 26, "train": 0.6, "validation": 0.2, "cycle": None}
    return section(field, "MAE", "weeks", leads=(1, 4, 26), **options) + "\n" + note + "\n"


def us_income() -> str:
    field = datasets.load("us-income")["income"]
    return section(field, "RMSE", "years", leads=(1, 3, 5), past=10, horizon=5, train=49, validation=16, cycle=None)


def nyc_flights() -> str:
    field = datasets.load("nyc-flights")
    daily = (field.sel(channel="flights", drop=True) > 0).all("time")
    note = f"Only the {int(daily.sum())} destinations with flights on every day."
    options = {"past": 28, "horizon": 7, "train": 0.6, "validation": 0.2, "cycle": "weekday", "season": 7}
    return section(field.sel(destination=daily), "MAE", "days", leads=(1, 7), **options) + "\n" + note + "\n"


def nyc_airports() -> str:
    field = datasets.load("nyc-airports").drop_sel(channel=["departure_delay", "wind_gust", "wind_direction"])
    note = (
        "`departure_delay` and `wind_gust` are left out because most nights have none, `wind_direction` because the "
        "error of an angle is not a difference."
    )
    options = {"past": 168, "horizon": 24, "train": 0.6, "validation": 0.2, "cycle": "hour", "season": 24}
    return section(field, "MAE", "hours", leads=(1, 6, 24), **options) + "\n" + note + "\n"


def sunspots() -> str:
    field = datasets.load("sunspots")
    options = {"past": 22, "horizon": 11, "train": 0.6, "validation": 0.2, "cycle": None, "season": 11}
    return section(field, "RMSE", "years", leads=(1, 5, 11), **options)


def stocks() -> str:
    field = datasets.load("stocks").sel(channel=["adjusted_close"]).drop_sel(ticker="FB")
    note = "FB is left out: it was not listed in the training part."
    options = {"past": 20, "horizon": 5, "train": 0.6, "validation": 0.2, "cycle": None}
    return section(field, "MAE", "trading days", leads=(1, 5), **options) + "\n" + note + "\n"


def dengue() -> str:
    field = datasets.load("dengue")
    options = {"past": 104, "horizon": 8, "train": 0.6, "validation": 0.2, "cycle": "month", "season": 52}
    return section(field, "MAE", "weeks", leads=(1, 4, 8), **options)


def climate(name: str) -> str:
    options = {"past": 10, "horizon": 10, "train": 140, "validation": 40, "cycle": None}
    return section(datasets.load(name), "RMSE", "years", leads=(1, 5, 10), **options)


def m4(name: str, unit: str, *, horizon: int, **options) -> str:
    """The test part is the competition's: the last `horizon` steps, forecast once."""
    field = datasets.load(name)
    train = field.sizes["time"] - 2 * horizon
    return section(field, "MAE", unit, horizon=horizon, train=train, validation=horizon, cycle=None, **options)


def section(
    field: xr.DataArray, metric: str, unit: str, *, leads, past, horizon, train, validation, cycle, season=None
):
    """A Markdown table: a row a channel and forecaster, a column a lead."""
    parts = windows.split(field, past=past, horizon=horizon, train=train, validation=validation)
    series, calendar = parts.train.series, parts.train.calendar
    models = {"persistence": Persistence(horizon=horizon)}
    if season:
        models["seasonal persistence"] = SeasonalPersistence(horizon=horizon, season=season)
    models["climatology"] = Climatology(horizon=horizon, cycle=cycle).fit(series, calendar)
    models["damped anomaly"] = DampedAnomaly(horizon=horizon, cycle=cycle).fit(series, calendar)
    models["drift"] = Drift(horizon=horizon)
    scores = xr.concat(
        [
            score(backtest(model, parts.test), metric=metric.lower(), by=["channel", "lead"])
            for model in models.values()
        ],
        dim=pd.Index(list(models), name="forecaster"),
    )
    lines = [
        f"| Channel | Forecaster | {' | '.join(f'lead {lead}' for lead in leads)} |",
        f"|---|---|{'---|' * len(leads)}",
    ]
    for channel in field["channel"].values:
        for name in models:
            values = scores.sel(channel=channel, forecaster=name, lead=list(leads)).values
            lines.append(f"| {channel} | {name} | {' | '.join(three_digits(value) for value in values)} |")
    cycle = f"the cycle of the climatology is the {cycle}" if cycle else "the climatology is one mean a cell"
    head = (
        f"{metric} on the last part of the record, leads in {unit}, all places alike: {len(parts.test)} windows of "
        f"{past} past steps, after {len(parts.train.series)} training steps and {len(parts.validation)} validation "
        f"windows; {cycle}. Made by `tools/baselines.py`."
    )
    return f"{head}\n\n" + "\n".join(lines) + "\n"


def with_baselines(card: str, table: str) -> str:
    before, after = re.split(rf"{re.escape(MARK)}.*?(?=\n## )", card, maxsplit=1, flags=re.DOTALL)
    return f"{before}{MARK}\n\n{table}{after}"


MADE = {
    "storm": storm,
    "nasa": nasa,
    "chicago": chicago,
    "co2": co2,
    "etth1": partial(ett, "etth1"),
    "etth2": partial(ett, "etth2"),
    "tropical-winds": tropical_winds,
    "elnino": elnino,
    "stage4": stage4,
    "measles": measles,
    "us-income": us_income,
    "nyc-flights": nyc_flights,
    "nyc-airports": nyc_airports,
    "sunspots": sunspots,
    "stocks": stocks,
    "dengue": dengue,
    "a1b": partial(climate, "a1b"),
    "e1": partial(climate, "e1"),
    "m4-weekly": partial(m4, "m4-weekly", "weeks", horizon=13, leads=(1, 4, 13), past=52),
    "m4-hourly": partial(m4, "m4-hourly", "hours", horizon=48, leads=(1, 24, 48), past=168, season=24),
}

if __name__ == "__main__":
    outdated = []
    for name, make in MADE.items():
        path = CARDS / name / "card.md"
        old = path.read_text()
        try:
            new = with_baselines(old, make())
        except OSError as error:
            print(f"{name}: left as it is, no file: {error}", file=sys.stderr)
            continue
        if new != old and "--check" in sys.argv:
            outdated.append(name)
        elif new != old:
            path.write_text(new)
    if outdated:
        sys.exit(f"outdated baseline errors on the cards of: {', '.join(outdated)}; run tools/baselines.py")
