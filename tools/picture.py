"""Draws the picture of the README and the landing page: a storm, and what simple forecasts make of a known world."""

from pathlib import Path

import matplotlib

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

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
image = left.pcolormesh(storm["lon"], storm["lat"], storm, shading="nearest")
left.set(
    xlabel="longitude (°E)", ylabel="latitude (°N)", title="Real data: a snow storm, 8 January 1996", facecolor="0.8"
)
left.grid(False)
figure.colorbar(image, ax=left, label="pressure (hPa)")
plotting.by_lead(scores, ylabel="error (RMSE)", xlabel="lead (steps)", ax=right)
right.fill_between(range(1, 9), scores["best possible"], scores["damped anomaly"], color="0.92")
right.annotate("what models can win", (4.3, 0.82), fontsize=8)
right.set(title="A known world: how far from the best possible?")
figure.savefig(Path(__file__).parents[1] / "book" / "_static" / "picture.png", dpi=100)
