# %% [markdown]
# # When do the neighbours help?
#
# **After this chapter you will be able to**
#
# - write down what it costs to ask the neighbours, and three ways to ask for less: share, shrink, compress;
# - fit a vector autoregression and a space-time autoregression from scratch, and say what each can know;
# - test every pair of places at once for "does one help to forecast the other", without being fooled by the number of tests;
# - tell neighbours that help from a season that all of them share;
# - check a linear inverse model before you believe it.
#
# **Prerequisites:** [Honest forecasts](honest-forecasts.ipynb) for splits, skill and the Diebold–Mariano test; [Seeing data in space and time](spacetime-data.ipynb) for anomalies and adjacency; least squares. The symbols are listed under [Notation](notation.md).
#
# **Time:** 60 minutes to read, 25 seconds to run on two CPU cores.
#
# **Modules:** `stlib.models.var`, `stlib.models.starma`, `stlib.models.lim`, `stlib.evaluation`, `stlib.data.worlds`.
#
# **Data:** weekly measles in 48 US states, weekly dengue in 75 districts of Taiwan, monthly winds over the tropics, and a made-up world whose edges are known. [The data page](data.md) has their cards.

# %% tags=["setup", "hide-input"]
# Set-up: install the package where it is missing (Colab), fix the seed and
# the look of the figures.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("stlib") is None:
    address = (
        "git+https://github.com/learning-space-and-time/learning-space-and-time"
    )
    source = os.environ.get("STLIB_SOURCE", address)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", source], check=True
    )

import torch

from stlib import plotting

torch.manual_seed(0)
plotting.set_style()

# %% [markdown]
# ## The question
#
# Before the vaccine measles came back every two or three years. Here are six years of weekly cases in Pennsylvania and in Ohio, which share a border. The scale is $\log(1 + x)$, so that a factor counts alike everywhere. Expect two lines that rise and fall together.

# %% mystnb={"image": {"alt": "Weekly measles in Pennsylvania and in Ohio from 1934 to 1939 on a logarithmic scale. Both rise every spring and fall every autumn, with large and small years mostly in common."}}
import numpy as np
from matplotlib import pyplot as plt

from stlib.data import datasets

borders = datasets.load("us-income")["adjacency"]
measles = np.log1p(datasets.load("measles").sel(state=borders["state"].values))
six_years = measles.isel(time=slice(312, 624), channel=0)
figure, axis = plt.subplots(figsize=(6.4, 2.6))
for state, style in (("Pennsylvania", "-"), ("Ohio", "--")):
    years = six_years["year"] + (six_years["week"] - 1) / 52
    axis.plot(years, six_years.sel(state=state), style, label=state)
axis.set(xlabel="year", ylabel="log(1 + cases a week)")
_ = axis.legend()

# %%
pair = six_years.sel(state=["Pennsylvania", "Ohio"]).dropna("time").values
print(f"correlation {np.corrcoef(pair.T)[0, 1]:.2f}")

# %% [markdown]
# They do. So: to forecast Ohio, should we ask Pennsylvania?
#
# The correlation does not answer this. It says that the two are alike. It does not say that Pennsylvania knows something about Ohio's next week *that Ohio's own last weeks do not say already*. And it does not say what listening costs. This chapter has one idea:
#
# > **A neighbour is worth asking if it knows what you do not, and if that is worth more than it costs to find out.**
#
# The cost is paid in coefficients. Each has to be estimated from a finite record, and each estimate has an error that ends up in the forecast.

# %% [markdown]
# ## The idea
#
# An *autoregression* of order $p$ forecasts a place from its own last $p$ values. With $x_{t,i}$ for the departure of place $i$ from its mean,
#
# $$ x_{t,i} = \sum_{\tau=1}^{p} \phi_{\tau,i}\, x_{t-\tau,i} + \varepsilon_{t,i}. \tag{own AR} $$
#
# It asks nobody. A [*vector autoregression*](https://doi.org/10.1007/978-3-540-27752-1) asks everybody: the last values of all $N$ places enter the forecast of each, through one matrix for each lag ([Lütkepohl, 2005](https://doi.org/10.1007/978-3-540-27752-1)),
#
# $$ x_t = \sum_{\tau=1}^{p} A_\tau\, x_{t-\tau} + \varepsilon_t. \tag{VAR} $$
#
# Between the two stands a model that asks the neighbours, and everywhere in the same way. $W$ holds the neighbours: row $i$ has equal weights on the neighbours of place $i$, which sum to one, so $W x$ is the mean over the neighbours. Then
#
# $$ x_t = \sum_{\tau=1}^{p} \left( \phi_{\tau 0}\, x_{t-\tau} + \phi_{\tau 1}\, W x_{t-\tau} \right) + \varepsilon_t. \tag{STAR} $$
#
# This is the autoregressive half of space-time ARMA ([Pfeifer and Deutsch, 1980](https://doi.org/10.2307/1268381)). It has two numbers for each lag, whatever the number of places. With $W = 0$ it is an autoregression that all places *share*.
#
# Least squares finds all of them. What they cost, for the 48 states and $p = 6$ weeks:

# %%
N, p = 48, 6
cost = {"shared AR": p, "own AR": N * p, "STAR": 2 * p, "VAR": N * N * p}
for name, coefficients in cost.items():
    print(f"{name:10} {coefficients:6} coefficients")

# %% [markdown]
# Everything below is about this column. There are three ways to pay less than the last line: *share* coefficients between places (STAR), *shrink* them towards zero (ridge), or *compress* many places into few patterns (the linear inverse model, near the end).
#
# ### By hand
#
# Three places in a line, a–b–c. The middle one has two neighbours, the others have one. One lag, $\phi_{10} = 0.5$ for a place itself and $\phi_{11} = 0.3$ for the mean of its neighbours. Today's values are $2, 4, 0$. On paper: the means over the neighbours are $4, 1, 4$, so tomorrow should be $0.5 \cdot 2 + 0.3 \cdot 4$, then $0.5 \cdot 4 + 0.3 \cdot 1$, then $0.5 \cdot 0 + 0.3 \cdot 4$.

# %%
line = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
W = line / line.sum(1, keepdim=True)
today = torch.tensor([2.0, 4.0, 0.0])
print("neighbours", (W @ today).tolist())
print("tomorrow  ", [round(v, 3) for v in (0.5 * today + 0.3 * W @ today).tolist()])

# %% [markdown]
# As on paper. Note that a and c did not touch: what c knows reaches a after two steps, by way of b.

# %% [markdown]
# ## From scratch
#
# ### A vector autoregression
#
# The world to learn on is made up: 20 nodes on a map, each fed by itself and its three nearest, with delays of one to three steps and some noise. The [world's page](api/stlib.data.worlds.md) says how; what matters is that the edges and the smallest possible error are known.
#
# One row for each step: the values of all nodes one, two and three steps before, and a one for the mean. `lstsq` does all twenty regressions at once.

# %%
from functools import cache

from stlib.data.worlds import GraphDiffusion

world = GraphDiffusion(nodes=20)


@cache  # each record is made once
def record(steps, seed):
    """(T, 1, N), in double precision."""
    return torch.from_numpy(world.simulate(steps, seed=seed).values).double()


x = record(600, seed=0)[:, 0]  # (T, N)
lags = 3
rows = torch.cat([x[lags - tau : len(x) - tau] for tau in (1, 2, 3)], 1)
rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)  # (T - 3, 61)
mine = torch.linalg.lstsq(rows, x[lags:]).solution  # (61, 20)

# %% [markdown]
# The package solves the same problem by another way (a Cholesky factor of the 60 × 60 matrix of sums of products), which is faster. The answers should agree.

# %%
from stlib.models.var import VAR

var = VAR(lags=3, horizon=4).fit(x[:, None])
theirs = var.coefficients[0].permute(0, 2, 1).flatten(0, 1)  # (60, 20)
torch.testing.assert_close(mine[:60], theirs)
torch.testing.assert_close(mine[60], var.intercept[0])
print("hand-made and packaged VAR agree:", theirs.numel(), "coefficients")

# %% [markdown]
# ### A space-time autoregression
#
# Here every node and every step is a row, and there are six columns: own value and neighbours' mean at three lags. We give it the true edges.

# %%
from stlib.models.starma import STARMA

edges = torch.from_numpy(world.adjacency > 0).fill_diagonal_(False)
W = edges / edges.sum(1, keepdim=True).double()

z = x - x.mean(0)
columns = [
    (z[lags - tau : len(z) - tau] @ matrix.T).flatten()
    for tau in (1, 2, 3)
    for matrix in (torch.eye(20).double(), W)
]
mine = torch.linalg.lstsq(torch.stack(columns, 1), z[lags:].reshape(-1, 1)).solution
star = STARMA(weights=W, ar=3, horizon=4).fit(x[:, None])
torch.testing.assert_close(mine[:, 0], star.phi.flatten())
print("hand-made and packaged STAR agree:", star.phi.numel(), "coefficients")

# %% [markdown]
# ### What asking costs, measured
#
# Now the central experiment of this chapter. The world is the same; only the length of the record changes, from 80 steps to 2,560. Each model is fitted to the record and makes one-step forecasts of a fresh one. We divide its mean squared error by the smallest possible one, so 1 is perfect.
#
# Four models: *own AR* asks nobody, *VAR* asks all, *STAR* asks the true neighbours, and *STAR, shuffled* asks strangers: the same graph with the names of the nodes mixed. Guess the order of the four at the left end of the picture, and at the right end.

# %%
fresh = record(3000, seed=99).unfold(0, lags + 1, 1).movedim(-1, 1)  # windows
smallest = world.optimal_rmse(1)[0] ** 2
mixed = torch.randperm(20, generator=torch.Generator().manual_seed(0))


def excess(model):
    """One-step error over the smallest possible one."""
    error = model(fresh[:, :lags]) - fresh[:, lags:]
    return float(error.square().mean()) / smallest


makers = {
    "own AR": lambda: VAR(lags=3, horizon=1, per="series"),
    "VAR": lambda: VAR(lags=3, horizon=1),
    "STAR": lambda: STARMA(weights=W, ar=3, horizon=1),
    "STAR, shuffled": lambda: STARMA(weights=W[mixed][:, mixed], ar=3, horizon=1),
}

# %%
lengths = [80, 160, 320, 640, 1280, 2560]
curves = {
    name: np.array(
        [
            [excess(make().fit(record(T, seed))) for seed in range(5)]
            for T in lengths
        ]
    )
    for name, make in makers.items()
}

# %% mystnb={"image": {"alt": "Error relative to the best possible against the length of the record, both on logarithmic axes. VAR falls from more than five times to almost one. STAR is flat near one point one from the start. Own AR and shuffled STAR fall slowly to a third above the best. VAR crosses them near 300 steps and crosses STAR near 640."}}
figure, axis = plt.subplots()
for name, values in curves.items():
    style = plotting.look(name)
    axis.fill_between(
        lengths, values.min(1), values.max(1), color=style["color"], alpha=0.2, lw=0
    )
    axis.plot(lengths, values.mean(1), **style)
axis.axhline(1, **plotting.look("best possible"))
axis.set(
    xscale="log", yscale="log", xlabel="steps in the record", ylabel="error / best"
)
axis.set_xticks(lengths, lengths)
axis.set_yticks([1, 1.1, 1.35, 2, 5], ["1", "1.1", "1.35", "2", "5"])
axis.minorticks_off()
_ = axis.legend(fontsize=8)

# %%
from stlib.reporting import claim

at = {T: {name: v[i] for name, v in curves.items()} for i, T in enumerate(lengths)}
claim(
    "80 steps: VAR is the worst, by far",
    min(at[80]["VAR"]) > 2 * max(at[80]["own AR"]),
)
claim(
    "80 steps: STAR is the best, in every one of five records",
    max(at[80]["STAR"]) < min(min(at[80][n]) for n in at[80] if n != "STAR"),
)
claim("2,560 steps: VAR is within 5 % of the best", max(at[2560]["VAR"]) < 1.05)
claim("STAR stays 5 % to 15 % above it", 1.05 < at[2560]["STAR"].mean() < 1.15)
claim("strangers are worth little", at[2560]["STAR, shuffled"].mean() > 1.25)

# %% [markdown]
# (The bands are the range over five records.) Look at the picture until it is yours; it returns in every chapter on graphs.
#
# - **The neighbours know something here.** At the right end, asking all of them removes nearly all of the avoidable error, and asking nobody leaves a third on top.
# - **With a short record it costs more than it is worth.** Each of VAR's sixty coefficients a node has an error; with 80 steps these errors are larger than all there is to know.
# - **STAR pays in another coin.** It is good at once, because six shared numbers need little data. But it stops short of the best: the true weights differ between neighbours, and STAR gives all of them the same. No record is long enough to mend that. Statisticians call the first cost *variance* and the second *bias*.
# - **The graph itself is information.** Shuffled, it is nearly worthless.
#
# Where VAR crosses STAR depends on the world. That they cross does not.

# %% [markdown]
# ### Shrink
#
# Between "ask nobody" and "ask everybody" lies "listen to everybody a little". *Ridge* adds a penalty $\lambda$ on the squares of the coefficients. We put it on the coefficients of the *others* only (`own=0`), so that a large $\lambda$ leads to the own AR and a small one to VAR. It is chosen on the last quarter of each record. Should the best $\lambda$ grow or fall with the length of the record?


# %%
def shrunk(series):
    cut = 3 * len(series) // 4
    last = series[cut - lags :].unfold(0, lags + 1, 1).movedim(-1, 1)
    errors = {}
    for ridge in (0.01, 0.1, 1.0, 10.0, 100.0):
        model = VAR(lags=3, horizon=1, ridge=ridge, own=0).fit(series[:cut])
        errors[ridge] = float(
            (model(last[:, :lags]) - last[:, lags:]).square().mean()
        )
    best = min(errors, key=errors.get)
    return best, excess(VAR(lags=3, horizon=1, ridge=best, own=0).fit(series))


# %%
print("steps   VAR    ridge  own AR  lambda")
worse = []
for T in lengths:
    found = [shrunk(record(T, seed)) for seed in range(5)]
    penalty, error = (
        np.median([f[0] for f in found]),
        np.mean([f[1] for f in found]),
    )
    plain, alone = at[T]["VAR"].mean(), at[T]["own AR"].mean()
    print(f"{T:5} {plain:6.2f} {error:6.2f} {alone:6.2f}  {penalty:7.2f}")
    worse.append(error / min(plain, alone))
claim(
    "shrunk, VAR is nowhere 1 % worse than the better of its ends",
    max(worse) < 1.01,
)

# %% [markdown]
# The longer the record, the smaller the penalty: data buy the right to listen. With the penalty chosen on data, VAR no longer loses to its own ends at any length. It needs no graph. With a short record STAR, which has the true graph, is still far better.

# %% [markdown]
# ### Who asks whom?
#
# So far we asked whether the neighbours help on the whole. [Granger (1969)](https://doi.org/10.2307/1912791) asked it of each pair: does the past of $j$ improve the forecast of $i$, *given the past of all others*? If so, $j$ "Granger-causes" $i$. The test compares two regressions of $i$, with the lags of $j$ and without them. With $S$ and $S_{-j}$ for their sums of squared errors, and $\nu$ rows less coefficients,
#
# $$ F = \frac{(S_{-j} - S) / p}{S / \nu}. $$
#
# We do it by hand for one pair, and compare with `causality`, which gives all 380 pairs at once.


# %%
def squares(columns, target):
    """Sum of squared errors of a regression."""
    solution = torch.linalg.lstsq(columns, target).solution
    return float((target - columns @ solution).square().sum())


i, j = 0, int(edges[0].nonzero()[0])
target = x[lags:, [i]]
others = [c for c in range(61) if c % 20 != j or c == 60]
full, without = squares(rows, target), squares(rows[:, others], target)
F = (without - full) / 3 / (full / (len(rows) - 61))
tests = var.causality()
torch.testing.assert_close(F, float(tests.statistic[0, i, j]))
print(f"F = {F:.1f}, hand-made and packaged agree")

# %% [markdown]
# With 380 tests at the 5 % level, about sixteen of the 320 pairs without an edge will look like one by chance. Two corrections are in use. [*Holm*](https://www.jstor.org/stable/4615733) keeps the chance of even one false alarm below the level. *Benjamini and Hochberg* ([1995](https://doi.org/10.1111/j.2517-6161.1995.tb02031.x)) keep the share of false alarms *among the alarms* below it. And what people often do instead: draw an edge where the lagged correlation is significant, here with Holm's correction as well.
#
# Two numbers say how good a found graph is: its *precision*, the share of found edges that are true, and its *recall*, the share of true edges that were found. Before you look: which of the four gets *worse* as the record grows?

# %%
from scipy.stats import norm

from stlib.evaluation.significance import benjamini_hochberg, holm

off = ~torch.eye(20, dtype=torch.bool)
truth = edges[off].numpy()


def correlation_tests(series):
    """P-values of the largest lagged correlation of each ordered pair."""
    z = (series - series.mean(0)) / series.std(0)
    lagged = [z[tau:].T @ z[: len(z) - tau] / (len(z) - tau) for tau in (1, 2, 3)]
    r = torch.stack(lagged).abs().amax(0)[off].numpy()
    return np.minimum(1, 3 * 2 * norm.sf(r * np.sqrt(len(z))))  # best of 3 lags


# %%
def graphs(steps, seed):
    series = record(steps, seed)
    tests = VAR(lags=3, horizon=1).fit(series).causality()
    p_values = tests.p_value[0][off].numpy()
    yield "Granger", p_values < 0.05
    yield "Granger, Benjamini–Hochberg", benjamini_hochberg(p_values) < 0.05
    yield "Granger, Holm", holm(p_values) < 0.05
    yield "lag correlation, Holm", holm(correlation_tests(series[:, 0])) < 0.05


quality = {}
for steps in (100, 200, 400, 800, 1600, 3200):
    for seed in range(5):
        for name, found in graphs(steps, seed):
            hits = (found & truth).sum()
            pair = hits / max(found.sum(), 1), hits / truth.sum()
            quality.setdefault(name, {}).setdefault(steps, []).append(pair)

# %% mystnb={"image": {"alt": "Two panels against the length of the record. Precision: Granger with Holm near one, with Benjamini-Hochberg just below, uncorrected near three quarters, lag correlation falling to a fifth. Recall: all rise to one, lag correlation first, Holm last."}}
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), sharey=True)
for (name, by_steps), style in zip(
    quality.items(), ("-o", "-s", "-^", ":x"), strict=True
):
    means = np.array([np.mean(pairs, 0) for pairs in by_steps.values()])
    for axis, values in zip(axes, means.T, strict=True):
        axis.plot(list(by_steps), values, style, markersize=4, label=name)
for axis, title in zip(axes, ("precision", "recall"), strict=True):
    axis.set(
        xscale="log", xlabel="steps in the record", title=title, ylim=(0, 1.05)
    )
_ = axes[1].legend(fontsize=7, loc="lower right")

# %%
last = {name: np.mean(by_steps[3200], 0) for name, by_steps in quality.items()}
first = {name: np.mean(by_steps[200], 0) for name, by_steps in quality.items()}
for name, (precision, recall) in last.items():
    print(f"{name:28} precision {precision:.2f}, recall {recall:.2f}")
claim(
    "every test finds all edges in the end", all(v[1] > 0.99 for v in last.values())
)
claim(
    "uncorrected, a sixth or more of the found edges are false",
    last["Granger"][0] < 5 / 6,
)
claim("corrected, at most 6 %", min(last[n][0] for n in list(last)[1:3]) > 0.94)
claim(
    "lag correlation: the more data, the more false edges",
    last["lag correlation, Holm"][0] < first["lag correlation, Holm"][0] < 0.5,
)

# %% [markdown]
# The lag correlation gets worse. It does not ask what $j$ adds; it asks whether $j$ is alike, and in a connected world everything is, through common neighbours and through its own memory. With enough data every pair is "significant", and no correction of p-values can help: the tests are right, the question is wrong.
#
# Granger's question is the right one, and asking it 380 times needs a correction. But keep three things in mind. It finds what helps to *forecast*. A cause that was left out of the system looks like an edge between its effects (see the exercises). And at 200 steps a careful test finds a small part of the edges only.

# %% [markdown]
# ## The wrong way first
#
# Back to measles. We compare the shared AR with STAR on the borders of the states. The same six lags, the same windows, the validation part. If the neighbours know something, STAR should have the smaller error.

# %%
from stlib.data import windows
from stlib.evaluation.backtest import backtest, score, skill
from stlib.evaluation.significance import diebold_mariano
from stlib.models.starma import neighbour_orders

border_mean = neighbour_orders(torch.tensor(borders.values).double(), orders=1)


def gain(field, graph, *, part="validation", lags=6, past=52):
    """Backtests of STAR and of the shared AR, and the skill of the first."""
    parts = windows.split(field, past=past, horizon=8)
    results = [
        backtest(
            STARMA(weights=weights, ar=lags, horizon=8).fit(parts.train.series),
            getattr(parts, part),
        )
        for weights in (graph, 0 * graph)
    ]
    return *results, skill(*results).sel(lead=[1, 4, 8]).values


with_borders, without, raw = gain(measles, border_mean)
test = diebold_mariano(with_borders, without, lead=1)
print("skill of the neighbours at 1, 4, 8 weeks:", raw.round(3))
print("Diebold–Mariano test at one week: p below 1e-6 is", test.p_value < 1e-6)

# %% [markdown]
# A gain at every lead, and a test that leaves no doubt. Many papers stop here. We go on and ask *what* helps: the borders, or just any other states? So we shuffle the names of the states on the graph. Now Ohio "borders" on Nevada and Maine. If the borders matter, the gain should be gone, as in the made-up world.


# %%
def shuffled(graph, seed):
    order = torch.randperm(
        graph.shape[-1], generator=torch.Generator().manual_seed(seed)
    )
    return graph[:, order][:, :, order]


strangers = np.array(
    [gain(measles, shuffled(border_mean, s))[2] for s in range(10)]
)
print("true borders    ", raw.round(3))
print("shuffled, mean  ", strangers.mean(0).round(3))
claim("borders seem to remove 5 % of the error or more", raw.min() > 0.05)
claim(
    "strangers remove two thirds of that or more",
    (strangers.mean(0) > 0.67 * raw).all(),
)

# %% [markdown]
# Strangers bring most of it, and at eight weeks all of it. So most of what Ohio learns from Pennsylvania it could learn from anywhere. What do all states know? Perhaps the *calendar*: measles rises with the school year and falls in summer. In a state with few cases the season drowns in noise; the mean of some others shows it clearly. The neighbours were a calendar.
#
# We test it: take the season out, with the mean of each week of the year **in the training part**, and repeat.


# %%
def without_season(field, steps):
    usual = field[:steps].groupby("week").mean("time")
    return (field.groupby("week") - usual).drop_vars("week").transpose(*field.dims)


measles_anomaly = without_season(measles, round(0.6 * len(measles)))
*_, true_gain = gain(measles_anomaly, border_mean)
strangers = np.array(
    [gain(measles_anomaly, shuffled(border_mean, s))[2] for s in range(10)]
)
print("true borders    ", true_gain.round(3))
print("shuffled, mean  ", strangers.mean(0).round(3))
claim(
    "without the season the borders are worth less than 1 %", true_gain.max() < 0.01
)

# %% [markdown]
# Nearly gone: less than a hundredth of the error is left of it. A state's own last six weeks and its calendar hold nearly everything that its neighbours know. The test was not wrong: the gain was real, and it was not luck. It was an answer to another question.
#
# **The fix:** before you ask the neighbours, ask the calendar. And always run the shuffled graph beside the true one.

# %% [markdown]
# ## On real data
#
# ### Measles and dengue, side by side
#
# Now a second disease. Dengue is carried by mosquitoes that fly some hundred metres and by people who live in one district and work in the next. Our districts are small: often one had no case for years when the outbreak arrives. Should the neighbours know more here?
#
# A word on how this example was found. We tried seven data sets of this book: measles, dengue, a snow storm, monthly winds, satellite maps, incomes by state and rides by station. Neighbours were worth something in two of them, dengue and the storm. You see dengue *because* it is one of the two. A gain that was picked from seven is weaker evidence than its number says.
#
# The rules are those of [Honest forecasts](honest-forecasts.ipynb). Each model gets its number of lags, its number of neighbours or its penalty on the validation part; the test part is touched once. VAR needs complete steps. Measles has almost none, so for VAR, and for its fit only, gaps are filled with the field's leading patterns; dengue has no gaps.

# %%
from stlib.data.graphs import great_circle, nearest
from stlib.data.preprocessing.imputation import EOFFill

dengue = np.log1p(datasets.load("dengue"))
apart = great_circle(dengue["lat"].values, dengue["lon"].values)
closest = {
    k: neighbour_orders(nearest(apart, k=k).double(), orders=1) for k in (4, 8, 16)
}
data = {
    "measles": (
        windows.split(measles_anomaly, past=52, horizon=8),
        {"borders": border_mean},
    ),
    "dengue": (windows.split(dengue, past=12, horizon=8), closest),
}


# %%
def choose(candidates, parts, series):
    """The candidate with the smallest validation error, all leads together."""
    errors = []
    for model in candidates:
        result = backtest(model.fit(series), parts.validation)
        errors.append(float(score(result, metric="mse").mean()))
    return candidates[int(np.argmin(errors))]


# %%
from itertools import product

from stlib.models.baselines import Persistence

orders = (2, 4, 6, 8)


def candidates(graphs, places):
    none = torch.zeros(places, places)
    yield "own AR", [VAR(lags=p, horizon=8, per="series") for p in orders]
    yield "shared AR", [STARMA(weights=none, ar=p, horizon=8) for p in orders]
    few = product((2, 4), (1.0, 10.0, 100.0))
    yield "VAR", [VAR(lags=p, horizon=8, ridge=r, own=0) for p, r in few]
    many = product(graphs.values(), orders)
    yield "STAR", [STARMA(weights=g, ar=p, horizon=8) for g, p in many]


# %%
models, results = {}, {}
for disease, (parts, graphs_of) in data.items():
    series = parts.train.series
    filled = series
    if series.isnan().any():
        filled = EOFFill(modes=5).fit(parts.train)(series[None])[0]
    models[disease] = {"persistence": Persistence(horizon=8)}
    for name, few in candidates(graphs_of, series.shape[-1]):
        models[disease][name] = choose(
            few, parts, filled if name == "VAR" else series
        )
    results[disease] = {
        name: backtest(model, parts.test) for name, model in models[disease].items()
    }

# %% [markdown]
# The tables show the RMSE of $\log(1 + x)$ on the test part, first measles, then dengue. Three comparisons to make in each: own AR against shared AR (is *sharing* worth it?), VAR against own AR (is *asking all* worth it?), STAR against shared AR (are *the neighbours* worth it?).

# %%
from stlib.reporting import score_table

rmse = {
    name: {model: score(result) for model, result in found.items()}
    for name, found in results.items()
}
score_table(
    {m: s.sel(lead=[1, 2, 4, 8]) for m, s in rmse["measles"].items()}, unit="weeks"
)

# %%
score_table(
    {m: s.sel(lead=[1, 2, 4, 8]) for m, s in rmse["dengue"].items()}, unit="weeks"
)

# %%
m, d = rmse["measles"], rmse["dengue"]
claim(
    "measles: no way of asking is 1 % better than the shared AR at any lead",
    min((m[n] / m["shared AR"]).min() for n in ("VAR", "STAR")) > 0.99,
)
claim(
    "dengue: sharing beats own coefficients at one week",
    d["shared AR"][0] < 0.9 * d["own AR"][0],
)
claim(
    "dengue: STAR beats the shared AR by 4 % or more at every lead",
    (d["STAR"] < 0.96 * d["shared AR"]).all(),
)

# %% [markdown]
# Measles: the neighbours are worth nothing. Dengue: they are worth something at every lead, and sharing is worth more still. With coefficients of its own a district does worse than persistence: one that had a handful of cases in sixteen years cannot learn them. It needs those of the others. That is help from the neighbours too, of another kind: not their *news*, but their *experience*. VAR takes neither; with 75 places it asks for more than sixteen years can pay.
#
# ### Is it the map, and is it luck?
#
# Two questions, as always. First the shuffled graph, ten times. Then the test of [Honest forecasts](honest-forecasts.ipynb), which knows that neighbouring weeks are not independent.

# %%
chosen, parts = models["dengue"]["STAR"], data["dengue"][0]
graph, base = chosen.weights[1:], results["dengue"]["shared AR"]
map_gain = skill(results["dengue"]["STAR"], base).sel(lead=[1, 4, 8]).values
mixed_gain = []
for seed in range(10):
    model = STARMA(weights=shuffled(graph, seed), ar=chosen.ar, horizon=8)
    result = backtest(model.fit(parts.train.series), parts.test)
    mixed_gain.append(skill(result, base).sel(lead=[1, 4, 8]).values)
mixed_gain = np.array(mixed_gain)
print("lead (weeks)         1     4     8")
print("true map         ", *(f"{v:5.2f}" for v in map_gain))
print("shuffled, mean   ", *(f"{v:5.2f}" for v in mixed_gain.mean(0)))
print("shuffled, largest", *(f"{v:5.2f}" for v in mixed_gain.max(0)))
for lead in (1, 4, 8):
    found = diebold_mariano(results["dengue"]["STAR"], base, lead=lead)
    print(f"Diebold–Mariano at lead {lead}: p = {found.p_value:.2f}")

# %%
claim(
    "at one and four weeks no shuffled map comes near the true one",
    (mixed_gain.max(0) < 0.8 * map_gain)[:2].all(),
)

# %% [markdown]
# It is the map: no shuffled one comes near it in the first weeks. And where did it help? Each dot is a district with cases in a tenth of its test weeks or more; green is better than the shared AR at four weeks, brown worse.

# %% mystnb={"image": {"alt": "Map of southern Taiwan with a dot for each district that had cases: nearly all dots, in both cities and between them, are green, a few are white or brown."}}
last_weeks = dengue.isel(time=slice(-len(parts.test), None), channel=0)
busy = ((last_weeks > 0).mean("time") > 0.1).values
by_place = skill(results["dengue"]["STAR"], base, by=["lead", "district"]).sel(
    lead=4
)
figure, axis = plt.subplots(figsize=(4.6, 3.6))
dots = axis.scatter(
    dengue["lon"][busy],
    dengue["lat"][busy],
    c=by_place[busy],
    cmap=plotting.SKILL,
    vmin=-0.5,
    vmax=0.5,
    edgecolors="0.4",
)
axis.set(xlabel="longitude (°E)", ylabel="latitude (°N)")
_ = figure.colorbar(dots, label="skill against shared AR")
better = float((by_place[busy] > 0).mean())
print(f"{int(busy.sum())} districts, better in {better:.2f} of them")
claim("better in three quarters of these districts or more", better > 0.75)

# %% [markdown]
# Nearly everywhere. And yet the test does not call it significant. Why? We look at when the gain was made.

# %% mystnb={"image": {"alt": "Gain of STAR over the shared AR in each week from 2019 to 2024: zero in all years but one, with a tall peak in the second half of 2023."}}
errors = [
    (r["forecast"] - r["truth"]).sel(lead=4) ** 2
    for r in (base, results["dengue"]["STAR"])
]
saved = (errors[0] - errors[1]).mean(["channel", "district"])
figure, axis = plt.subplots(figsize=(6.4, 2.4))
axis.plot(saved["origin"], saved, color=plotting.look("STAR")["color"])
axis.axhline(0, color="0.5", linewidth=0.8)
_ = axis.set(xlabel="date of the forecast", ylabel="squared error saved")
in_2023 = saved["origin"].dt.year == 2023
share = float(saved[in_2023].sum() / saved.sum())
print(f"share of the gain made in 2023: {share:.2f}")

# %% [markdown]
# All of it was made in one outbreak. One outbreak is one event, however many weeks and districts it has, and one event cannot rule out luck. The validation part holds two more, of 2014 and of 2015. The model was chosen there, so they are no proof, but we may look: did the neighbours help in both, and by how much?


# %%
def squared_errors(name, part, lead=4):
    result = backtest(models["dengue"][name], part).sel(lead=lead)
    return ((result["forecast"] - result["truth"]) ** 2).mean(
        ["channel", "district"]
    )


by_year = {}
for part in (parts.validation, parts.test):
    alone, star_error = (squared_errors(n, part) for n in ("shared AR", "STAR"))
    for year in {2014, 2015, 2023} & set(alone["origin"].dt.year.values.tolist()):
        when = alone["origin"].dt.year == year
        by_year[year] = 1 - float(star_error[when].sum() / alone[when].sum())
for year, value in sorted(by_year.items()):
    print(f"{year}: skill at four weeks {value:.2f}")
claim(
    "the neighbours helped in each of the three outbreaks",
    min(by_year.values()) > 0.1,
)

# %% [markdown]
# They did. What we may say: in all three large outbreaks since 2013 the neighbours helped. What we may not say: it is significant.
#
# Compare that with the measles of the section before, where a p-value with many zeros stood for nothing but the calendar. A small p-value is not an explanation, and a large one is not a refutation.

# %% [markdown]
# ### The winds, compressed
#
# The third way to pay less is to compress. The *linear inverse model* describes a field by the amplitudes $a$ of its $k$ leading patterns ([EOFs](spacetime-data.ipynb)), and lets these drive one another ([Penland and Sardeshmukh, 1995](https://doi.org/10.1175/1520-0442%281995%29008%3C1999:TOGOTS%3E2.0.CO;2)):
#
# $$ \frac{da}{dt} = B a + \xi, \qquad B = \frac{1}{\tau_0} \log\left( C_{\tau_0} C_0^{-1} \right), \qquad \hat a_{t+h \mid t} = e^{B h} a_t. $$
#
# $C_\tau$ is the covariance of the amplitudes $\tau$ steps apart. With $\tau_0 = 1$ this is a VAR of one lag between patterns, $k^2$ coefficients for any number of cells. Climatologists use it for El Niño. We try the monthly winds of the tropics: 864 cells, 72 months of training. The month's mean of the training part is taken out.
#
# Two checks come before any forecast. The real parts of the eigenvalues of $B$ must be negative, or the model grows for ever. And a linear system with the right $B$ foretells its covariance at *all* lags, not only at $\tau_0$. That is the *tau test*: compare $C_\tau$ with $e^{B \tau} C_0$ at longer lags. A short record departs from its own model by chance, so `tau_test` does the same to 200 records made up by the model; `limit` is what one in twenty of them exceeds.

# %%
from stlib.models.lim import LIM

u = datasets.load("tropical-winds").sel(channel=["u"])
usual = u[:72].groupby("time.month").mean("time")
wind = (u.groupby("time.month") - usual).drop_vars("month").transpose(*u.dims)
wind_parts = windows.split(wind, past=12, horizon=6, train=72, validation=24)
series = wind_parts.train.series

lim = choose([LIM(modes=k, horizon=6) for k in (1, 2, 3, 5, 8)], wind_parts, series)
decay = -1 / lim.eigenvalues().real
check_lags = lim.tau_test(series, lags=5)
print(f"{lim.modes} patterns; slowest decay in {decay[0]:.1f} months")
for lag, distance, limit in zip(*check_lags, strict=True):
    print(f"lag {int(lag)}: distance {distance:.2f}, limit {limit:.2f}")

# %%
wind_models = {
    "persistence": Persistence(horizon=6),
    "own AR": choose(
        [VAR(lags=p, horizon=6, per="series") for p in (1, 2, 3)],
        wind_parts,
        series,
    ),
    "LIM": lim,
}
wind_scores = {
    n: score(backtest(m, wind_parts.test)) for n, m in wind_models.items()
}
claim("all modes decay", (lim.eigenvalues().real < 0).all())
claim(
    "the LIM loses to the own AR at one month",
    wind_scores["LIM"][0] > 1.05 * wind_scores["own AR"][0],
)
score_table(
    {n: s.sel(lead=[1, 3, 6]) for n, s in wind_scores.items()}, unit="months"
)

# %% [markdown]
# (RMSE in m/s.) All modes decay. The tau test finds nothing at two to four months; at five and six the distance is at or above its limit. And the model loses. The checks ask whether the *patterns* behave like a linear system. They do not ask whether the patterns hold what we want to forecast. Here they do not: much of the memory of the wind is local, and a few large patterns throw it away. We also know from [the chapter on seeing](spacetime-data.ipynb) that the first pattern of these winds does not come back from one half of the record to the other. And the limits are wide. Seventy-two months can hardly refuse any model.
#
# The linear inverse model is at home where a few slow patterns carry most of the variance and the record is long, as in the temperature of the tropical oceans. Monthly winds over six years are not such a case. We prefer to show you this than a case in which it shines.

# %% [markdown]
# ## What it learned
#
# A STAR can be read. We push one district, the one with the most cases in the training part, by one unit and let the dengue model run on without noise. A linear model's answer is its forecast of the pushed map less that of the quiet one. How far does the push go, and how long does it last? We follow the district itself, the mean of the districts that ask it, and the mean of all others.

# %% mystnb={"image": {"alt": "Response to a push of one district over eight weeks: the district itself stays near a half and then falls to a third; each of those who ask it rises to a few hundredths; all others stay near zero."}}
place = int(parts.train.series.nansum((0, 1)).argmax())
quiet = torch.zeros(1, chosen.ar, 1, 75)
pushed = quiet.clone()
pushed[0, -1, 0, place] = 1
answer = (chosen(pushed) - chosen(quiet))[0, :, 0]  # (8, 75)
asks = graph[0][:, place] > 0  # those who ask this district
lead = np.arange(1, 9)
rest = ~asks
rest[place] = False
figure, axis = plt.subplots(figsize=(6.4, 2.8))
axis.plot(lead, answer[:, place], "-o", markersize=4, label="itself")
axis.plot(
    lead, answer[:, asks].mean(1), "--s", markersize=4, label="those who ask it"
)
axis.plot(lead, answer[:, rest].mean(1), ":^", markersize=4, label="all others")
axis.set(xlabel="weeks after the push", ylabel="response")
_ = axis.legend()

# %%
itself, each = answer[-1, place], answer[-1, asks]
print(f"after eight weeks: itself {itself:.2f}, {len(each)} districts that ask it")
print(f"{each.mean():.3f} each, together {each.sum():.2f}")
claim(
    "those who ask it now hold more of the push than it does",
    each.sum() > 1.2 * itself,
)

# %% [markdown]
# The push stays with the district for weeks, about half of it at first. Each of those who ask it takes a few hundredths only, so little that one might think the neighbours do not matter. But they are many. In the end they hold more of it together than the district itself: the model has learned that outbreaks spread. All others are still nearly quiet.
#
# And *whom* did the neighbours help? One story goes like this: neighbours give early warning, so they help most where a district itself has had no case yet. It is a good story. We check it: we split the test cases by what the district and its neighbours had seen in the last weeks, and ask where the error was saved.

# %%
past = parts.test[:].past[:, -chosen.ar :, 0]  # (B, p, 75)
own = (past > 0).any(1).numpy()
around = (torch.einsum("nm,bpm->bpn", graph[0].float(), past) > 0).any(1).numpy()
groups = {
    "own cases": own,
    "no own cases, neighbours have": ~own & around,
    "no cases far and wide": ~own & ~around,
}
four_weeks = [e.values[:, 0] for e in errors]  # of shared AR and STAR, (B, 75)
total = (four_weeks[0] - four_weeks[1]).sum()
share = {}
for name, chosen_cells in groups.items():
    share[name] = (four_weeks[0] - four_weeks[1])[chosen_cells].sum() / total
    print(
        f"{name:30} {chosen_cells.mean():.2f} of cells, {share[name]:.2f} of gain"
    )
claim(
    "four fifths of the gain or more are where there are own cases",
    share["own cases"] > 0.8,
)

# %% [markdown]
# The story is wrong. Nearly all of the gain is where the outbreak already burns. The neighbours are no early warning; they tell how the outbreak goes on. A district's own count is small and noisy, and the mean of its neighbours is another, steadier measurement of the same epidemic. It knows what you do not, as our idea has it, but the thing it knows is duller than the story.

# %% [markdown]
# ## When to use which
#
# | Model | Coefficients | Strong when | Fails when |
# | --- | --- | --- | --- |
# | own AR | $N p$ | places differ, records are long | a place has seen little |
# | shared AR | $p$ | places are alike, events are rare | places differ |
# | STAR | $p$ times 1 + spatial orders | there is a graph, little data, one direction is like another | neighbours differ in weight or direction (give it several graphs) |
# | VAR | $N^2 p$ | few places, long record | $N p$ is near the number of steps |
# | VAR with ridge | the same, shrunk | no graph is known | the record is too short to choose the penalty |
# | LIM | $k^2$ | few slow patterns hold the variance | memory is local |
#
# All of them take seconds. STARMA with a moving average, which needs an iteration over the record, takes tens of seconds on long ones. Granger's tests want a VAR by least squares, that is, several times more steps than $N p$.

# %% [markdown]
# ## Summary
#
# - Alike is not helpful. A neighbour helps with what your own past does not say.
# - Asking costs coefficients. Share them, shrink them or compress the field; with little data the cheapest model with the right graph wins, with much data the freest one.
# - Run the shuffled graph. On measles, strangers helped as much as neighbours: it was the calendar.
# - A tiny p-value can be the answer to another question, and one outbreak is one event.
# - Granger's tests find the edges of a world of which they see everything. Correct for the number of tests; lag correlations get worse with more data.
# - Checks of a model, such as the tau test, say whether it is consistent. They do not say whether it forecasts.

# %% [markdown]
# ## Exercises
#
# ### 1. Two steps by hand
#
# In the line a–b–c of the example, with $0.5$ for a place itself and $0.3$ for the mean of its neighbours, all values are zero but $c = 1$. What is a two steps later? *Hint:* on paper. What reaches b after one step, and how much of it does a take?

# %%
from stlib.reporting import check

my_response = ...  # your answer
check(my_response, "var: response")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
A = 0.5 * torch.eye(3) + 0.3 * line / line.sum(1, keepdim=True)
check(torch.linalg.matrix_power(A, 2)[0, 2], "var: response")
# Two mistakes, and what the check says to them:
check(A[0, 2], "var: response")
check(0.3 * 0.3, "var: response")

# %% [markdown]
# ### 2. Which neighbour should be asked?
#
# Weather moves. Take the pressure of the January storm, one lag and six-hour steps, and give STAR four graphs instead of one: the neighbour to the north, south, east and west. What share of the shared AR's squared error does it remove at one step on the test part, with the split of [Honest forecasts](honest-forecasts.ipynb) (`past=4, horizon=4, train=32, validation=12`)? *Hint:* `step(0, -1)` below is the graph that asks the cell to the west; `torch.stack` four of them. Then look at `phi`: which is largest?

# %%
storm = datasets.load("storm").sel(channel=["pressure"])
rows_, columns_ = storm.shape[-2:]


def step(down, right):
    """(H W, H W): each cell takes from the one so many rows and columns away."""
    cell = torch.arange(rows_ * columns_).reshape(rows_, columns_)
    there = torch.zeros(rows_ * columns_, rows_ * columns_)
    for r in range(max(0, -down), min(rows_, rows_ - down)):
        for c in range(max(0, -right), min(columns_, columns_ - right)):
            there[cell[r, c], cell[r + down, c + right]] = 1
    return there


my_skill = ...  # your answer
check(my_skill, "var: direction")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
storm_parts = windows.split(storm, past=4, horizon=4, train=32, validation=12)
four = torch.stack([step(1, 0), step(-1, 0), step(0, 1), step(0, -1)])


def storm_skill(weights):
    pair = [
        STARMA(weights=w, ar=1, horizon=4).fit(storm_parts.train.series)
        for w in (weights, 0 * weights[:1])
    ]
    return pair[0], skill(*(backtest(m, storm_parts.test) for m in pair))


directed, storm_gain = storm_skill(four)
check(storm_gain[0], "var: direction")
_, same_everywhere = storm_skill(four.sum(0, keepdim=True) / 4)
check(same_everywhere[0], "var: direction")
check(storm_gain.mean(), "var: direction")
names = ("itself", "north", "south", "east", "west")  # rows run northwards
phi = dict(zip(names, directed.phi.flatten().tolist(), strict=True))
print({name: round(value, 2) for name, value in phi.items()})
claim("without direction they are worth nothing", abs(same_everywhere[0]) < 0.02)
claim("west counts most", phi["west"] == max(list(phi.values())[1:]))

# %% [markdown]
# West counts for, and east against: together they are a slope of the pressure from west to east. The model has found that the map moves.
#
# ### 3. What you do not see
#
# Granger's test of the made-up world had everything in view. Hide nodes 0 to 4, fit `VAR(lags=3)` to 3,200 steps (`seed=0`) of the other fifteen, and correct with Holm. What is the precision of the edges found among the fifteen? *Hint:* `record(3200, 0)[..., 5:]` and `edges[5:, 5:]`.

# %%
my_precision = ...  # your answer
check(my_precision, "var: hidden")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
seen = ~torch.eye(15, dtype=torch.bool)
hidden_fit = VAR(lags=3, horizon=1).fit(record(3200, 0)[..., 5:])
found = holm(hidden_fit.causality().p_value[0][seen].numpy()) < 0.05
real = edges[5:, 5:][seen].numpy()
check((found & real).sum() / found.sum(), "var: hidden")
check((found & real).sum() / real.sum(), "var: hidden")
claim("what is hidden makes false edges", (found & real).sum() < 0.95 * found.sum())

# %% [markdown]
# ## Further reading
#
# - Lütkepohl (2005), vector autoregressions: [doi:10.1007/978-3-540-27752-1](https://doi.org/10.1007/978-3-540-27752-1)
# - Pfeifer and Deutsch (1980), space-time ARMA: [doi:10.2307/1268381](https://doi.org/10.2307/1268381)
# - Granger (1969), causality as a gain in forecasts: [doi:10.2307/1912791](https://doi.org/10.2307/1912791)
# - Benjamini and Hochberg (1995), false alarms among the alarms: [doi:10.1111/j.2517-6161.1995.tb02031.x](https://doi.org/10.1111/j.2517-6161.1995.tb02031.x)
# - Litterman (1986), shrinking a vector autoregression: [doi:10.1080/07350015.1986.10509491](https://doi.org/10.1080/07350015.1986.10509491)
# - Penland and Sardeshmukh (1995), the linear inverse model: [doi:10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2](https://doi.org/10.1175/1520-0442%281995%29008%3C1999:TOGOTS%3E2.0.CO;2)
