"""Fills in the baseline errors of the data sets' cards: `python tools/baselines.py`; --check only compares."""

import re
import sys
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


def etth1() -> str:
    return ett("etth1")


def etth2() -> str:
    return ett("etth2")


def ett(name: str) -> str:
    field = datasets.load(name).isel(time=slice(0, 14400))
    options = {"past": 336, "horizon": 96, "train": 8640, "validation": 2880, "cycle": "hour", "season": 24}
    return section(field, "MAE", "hours", leads=(1, 24, 96), **options)


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


if __name__ == "__main__":
    outdated = []
    for make in (storm, nasa, chicago, co2, etth1, etth2):
        path = CARDS / make.__name__ / "card.md"
        old = path.read_text()
        try:
            new = with_baselines(old, make())
        except OSError as error:
            print(f"{make.__name__}: left as it is, no file: {error}", file=sys.stderr)
            continue
        if new != old and "--check" in sys.argv:
            outdated.append(make.__name__)
        elif new != old:
            path.write_text(new)
    if outdated:
        sys.exit(f"outdated baseline errors on the cards of: {', '.join(outdated)}; run tools/baselines.py")
