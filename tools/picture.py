"""Draws the picture of the README and the moving one of the landing page: what simple forecasts make of a storm."""

import io
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("agg")

from matplotlib import pyplot as plt

from stlib import plotting
from stlib.data import datasets, windows
from stlib.data.worlds import AdvectionDiffusion
from stlib.evaluation.backtest import backtest, score
from stlib.models.baselines import Climatology, DampedAnomaly, Persistence

plotting.set_style()
storm = datasets.load("storm").sel(channel="pressure", time="1996-01-08T00")
world = AdvectionDiffusion()
parts = windows.split(world.simulate(1000, seed=0), past=1, horizon=8)
models = {
    "persistence": Persistence(horizon=8),
    "climatology": Climatology(horizon=8, cycle=None).fit(parts.train.series),
    "damped anomaly": DampedAnomaly(horizon=8, cycle=None).fit(parts.train.series),
    "best possible": world.optimal_forecaster(8),
}
scores = {name: score(backtest(model, parts.test)) for name, model in models.items()}

STATIC = Path(__file__).parents[1] / "book" / "_static"
figure, left = plt.subplots(figsize=(4.5, 3.4))
image = left.pcolormesh(storm["lon"], storm["lat"], storm, shading="nearest")
left.set(xlabel="longitude (°E)", ylabel="latitude (°N)", title="A snow storm, 8 January 1996", facecolor="0.8")
left.grid(False)
figure.colorbar(image, ax=left, label="pressure (hPa)")
figure.savefig(STATIC / "picture_storm.png", dpi=100)

figure, right = plt.subplots(figsize=(4.5, 3.4))
plotting.by_lead(scores, ylabel="error (RMSE)", xlabel="lead (steps)", ax=right)
right.fill_between(range(1, 9), scores["best possible"], scores["damped anomaly"], color="#dbe9f6")
right.annotate("what models can win", (4.3, 0.82), fontsize=8)
right.set(title="How far from the best possible?")
figure.savefig(STATIC / "picture_world.png", dpi=100)

# The moving picture of the landing page: each map of the test days beside the forecast made for it a day before.
parts = windows.split(datasets.load("storm").sel(channel=["pressure"]), past=4, horizon=4, train=32, validation=12)
day = DampedAnomaly(horizon=4, cycle=None).fit(parts.train.series)
result = backtest(day, parts.test).sel(lead=4, channel="pressure")[["forecast", "truth"]].isel(origin=slice(0, 12))
limits = float(result.to_array().min()), float(result.to_array().max())
images = []
for origin in result["origin"]:
    target = pd.Timestamp(origin.values) + pd.Timedelta("1D")
    shown = result.sel(origin=origin)
    maps = {"forecast of the day before": shown["forecast"], "what came": shown["truth"]}
    frame = plotting.fields(maps, label="pressure (hPa)", limits=limits, columns=2)
    frame.suptitle(f"{target:%d January 1996, %H:%M}", fontsize=10)
    buffer = io.BytesIO()
    frame.savefig(buffer, format="png", dpi=80)
    plt.close(frame)
    images.append(buffer.getvalue())
description = (
    "Two maps of air pressure over North America, step by step through three days of January 1996: a simple forecast, "
    "pale and late, beside what came, lows that move east"
)
player = plotting.FramePlayer(images, description)._repr_html_()
(Path(__file__).parents[1] / "book" / "forecast_player.html").write_text(player.strip() + "\n")
