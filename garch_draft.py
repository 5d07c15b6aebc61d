# %% [markdown]
# # GARCH: forecasting the size of moves
#
# **After this chapter you will be able to**
#
# - say why a model of the mean has nothing to say about stock returns, and what can be forecast instead;
# - write the GARCH recursion and its likelihood in a dozen lines, and fit it to many series at once;
# - judge a forecast of a variance, which nobody ever observes, with a proper score;
# - test a value at risk: is it broken as often as promised, and not in clusters?
# - say when a plain moving average of squares is as good.
#
# **Prerequisites:** [Honest forecasts](honest-forecasts.ipynb), for splits, skill and the Diebold–Mariano test; the normal distribution and its density. The symbols are listed under [Notation](notation.md); the Greek letters of the GARCH equation are this chapter's own.
#
# **Time:** 45 minutes to read, 25 seconds to run on two CPU cores.
#
# **Modules:** `stlib.models.garch`, `stlib.evaluation.coverage`, `stlib.evaluation.significance`, `stlib.data.structure`.
#
# **Data:** daily prices of four US stocks, 2000 to 2013 ([the data page](data.md) has the card), and a made-up world.

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
# A *return* is the change of the logarithm of a price from one trading day to the next. We take it times $100$, so that it is close to a change in per cent. Here are thirteen years of IBM. Look for what you could have forecast.

# %% mystnb={"image": {"alt": "Daily returns of IBM from 2000 to 2013, a band around zero: wide in 2000 to 2002, narrow in 2004 to 2006, wide again in 2008."}}
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from stlib.data import datasets

prices = datasets.load("stocks").sel(
    channel=["adjusted_close"], ticker=["AAPL", "GOOG", "IBM", "MSFT"]
)
field = (100 * np.log(prices.astype(float))).diff("time")
returns = torch.tensor(field.values)  # (T, 1, 4)
dates = pd.DatetimeIndex(field["date"].values)
figure, ax = plt.subplots()
ax.plot(dates, returns[:, 0, 2], color="black", linewidth=0.5)
_ = ax.set(ylabel="return of IBM (%)", xlabel="year")

# %% [markdown]
# The next return could be up or down on any day. But the *width* of the band changes slowly: a wild day comes among wild days. We measure both with the [*autocorrelation*](glossary.md#autocorrelation), of the returns and of their sizes. Expect the first near zero and the second not.

# %% mystnb={"image": {"alt": "Autocorrelation against lag up to 60 days, mean over four stocks. That of the returns stays at zero. That of their absolute values starts near a fifth and falls slowly, still above zero at 60 days."}}
from stlib.data.structure import autocorrelation
from stlib.reporting import claim, three_digits

lags = 60
of_returns = autocorrelation(field, lags=lags).mean(("channel", "ticker"))[1:]
of_sizes = autocorrelation(abs(field), lags=lags).mean(("channel", "ticker"))[1:]
figure, ax = plt.subplots()
ax.plot(of_returns["lag"], of_returns, color="#8a8a8a", label="returns")
ax.plot(of_sizes["lag"], of_sizes, color="black", label="sizes of returns")
ax.set(xlabel="lag (trading days)", ylabel="autocorrelation")
ax.legend()
claim(
    "returns: below 0.05 in size at every lag", float(abs(of_returns).max()) < 0.05
)
first_month = of_sizes.sel(lag=slice(1, 21))
claim("sizes: above 0.1 for the first month", float(first_month.min()) > 0.1)

# %% [markdown]
# So the sign of tomorrow's return cannot be had from its past, but its size can. To be sure, we let a model of the mean try: [*damped anomaly persistence*](glossary.md#damped-anomaly), the best straight line through today's return. We train on the days up to 2005, keep 2006 and 2007 to choose by, and test on 2008 to 2013. These three parts are the same in the whole chapter.

# %%
from stlib.data import windows
from stlib.evaluation.backtest import backtest, skill
from stlib.evaluation.significance import diebold_mariano
from stlib.models.baselines import Climatology, DampedAnomaly

train = torch.tensor(dates.year <= 2005)
validation = torch.tensor((dates.year == 2006) | (dates.year == 2007))
test = torch.tensor(dates.year >= 2008)
sizes = {"train": int(train.sum()), "validation": int(validation.sum())}
parts = windows.split(field, past=1, horizon=1, **sizes)
climatology, line = (
    backtest(model.fit(parts.train.series), parts.test)
    for model in (
        Climatology(horizon=1, cycle=None),
        DampedAnomaly(horizon=1, cycle=None),
    )
)
gain = float(skill(line, climatology)[0])
p_value = diebold_mariano(line, climatology, lead=1).p_value
print("skill of the line:", three_digits(gain), " p-value:", three_digits(p_value))
claim("the mean model gains less than one per cent", gain < 0.01)

# %% [markdown]
# Nothing. Whoever stops here says that stock returns are unpredictable. They are half right:
#
# > **When nothing can be said about the mean, the spread may still be forecast, and a forecast of the spread is what a risk is.**
#
# ## The idea
#
# Write the return as $x_t = \sigma_t z_t$. The noise $z_t$ has mean $0$ and variance $1$, and nobody knows it the day before. The *variance* $\sigma_t^2$ is known the day before: it is a function of the past. (We take the mean of the returns as zero. Over a day it is a tiny part of their size.) The simplest useful function keeps a memory of squares ([Bollerslev, 1986](https://doi.org/10.1016/0304-4076%2886%2990063-1)):
#
# $$ \sigma_t^2 = \omega + \alpha\, x_{t-1}^2 + \beta\, \sigma_{t-1}^2. \tag{GARCH} $$
#
# This is GARCH(1,1), for *generalised autoregressive conditional heteroskedasticity*: a variance (skedasticity) that differs (hetero-) and, given the past (conditional), is a regression on itself. A large move raises tomorrow's variance by $\alpha x_{t-1}^2$; then the rise fades by the factor $\alpha + \beta$ a day. We call this factor the *persistence*. Half of a rise is left after
#
# $$ \ln \tfrac12 \big/ \ln (\alpha + \beta) $$
#
# days, the *half-life*. In the long run the variance is $\bar\sigma^2 = \omega / (1 - \alpha - \beta)$, and a forecast for a lead of $h$ days lies between the two:
#
# $$ \hat\sigma^2_{t+h \mid t} = \bar\sigma^2 + (\alpha + \beta)^{h-1} \left(\hat\sigma^2_{t+1 \mid t} - \bar\sigma^2\right). \tag{1} $$
#
# It is damped persistence, of the variance.
#
# ### By hand
#
# Let $\omega = 0.1$, $\alpha = 0.2$, $\beta = 0.7$ and begin with $\sigma_1^2 = 1$. Four returns come: $1, -2, 0, 1$. On paper: $\sigma_2^2 = 0.1 + 0.2 + 0.7 = 1$. Then $\sigma_3^2 = 0.1 + 0.2 \cdot 4 + 0.7 = 1.6$, then $\sigma_4^2 = 0.1 + 0 + 0.7 \cdot 1.6 = 1.22$, and for the fifth day $0.1 + 0.2 + 0.7 \cdot 1.22 = 1.154$.

# %%
variance = 1.0
for value in (1.0, -2.0, 0.0, 1.0):
    variance = 0.1 + 0.2 * value**2 + 0.7 * variance
    print(f"{variance:.3f}")

# %% [markdown]
# As on paper. The large move of the second day raised the variance, whatever its sign, and two quiet days later most of the rise was still there.
#
# ## From scratch
#
# ### Recursion and likelihood
#
# The same in PyTorch, for a whole series. The first day needs a variance before it. We follow the custom of the package [arch](https://arch.readthedocs.io) and take a mean of the first $75$ squares, in which earlier ones weigh more.

# %%
import math


def back_cast(x):
    weights = 0.94 ** torch.arange(75.0, dtype=x.dtype)
    return (weights * x[:75] ** 2).sum() / weights.sum()


def recursion(x, omega, alpha, beta):
    """The variance of each day, from the days before it."""
    variances = [omega + (alpha + beta) * back_cast(x)]
    for value in x[:-1]:
        variances.append(omega + alpha * value**2 + beta * variances[-1])
    return torch.stack(variances)


# %% [markdown]
# Which $\omega, \alpha, \beta$ fit best? Those that make the returns most likely. If $z_t$ is normal, the density of a return is that of a normal distribution with variance $\sigma_t^2$, and its logarithm is
#
# $$ -\tfrac12 \left( \ln 2\pi + \ln \sigma_t^2 + x_t^2 / \sigma_t^2 \right). \tag{2} $$
#
# The sum over all days is the [*log-likelihood*](glossary.md#log-likelihood). The last two terms pull in opposite directions: a variance too small is punished by $x_t^2 / \sigma_t^2$, one too large by $\ln \sigma_t^2$. The package should agree to the last digits.

# %%
from stlib.models.garch import GARCH


def log_likelihood(x, variances):
    return -0.5 * (math.log(2 * math.pi) + variances.log() + x**2 / variances)


ibm = returns[train, 0, 2]
mine = recursion(ibm, torch.tensor(0.05), 0.08, 0.9)
packaged = GARCH().set(omega=0.05, alpha=[0.08], beta=[0.9])
torch.testing.assert_close(mine, packaged.filter(ibm[:, None])[:, 0])
torch.testing.assert_close(
    log_likelihood(ibm, mine).sum(), packaged.log_likelihood(ibm[:, None])[0]
)
print("hand-made and packaged variances and likelihoods agree")

# %% [markdown]
# ### The best parameters
#
# There are three. We can afford to try them all: our recursion takes a whole grid of parameters at once. Expect the best to be at a small $\alpha$ and a large $\beta$.

# %% mystnb={"image": {"alt": "Map of the log-likelihood of IBM's returns over alpha and beta, best omega for each: a narrow bright ridge runs along alpha plus beta just below one."}}
alpha = torch.linspace(0.01, 0.2, 20, dtype=torch.float64)[:, None, None]
beta = torch.linspace(0.7, 0.98, 29, dtype=torch.float64)[:, None]
omega = torch.logspace(-3, 0, 16, dtype=torch.float64)
shape = torch.broadcast_shapes(alpha.shape, beta.shape, omega.shape)
grid = [part.expand(shape) for part in (omega, alpha, beta)]
total = torch.zeros(shape, dtype=torch.float64)
variances = grid[0] + (grid[1] + grid[2]) * back_cast(ibm)
for value in ibm:
    total += log_likelihood(value, variances)
    variances = grid[0] + grid[1] * value**2 + grid[2] * variances
total[grid[1] + grid[2] >= 1] = -torch.inf
profile = total.amax(2)  # the best omega for each alpha and beta
figure, ax = plt.subplots(figsize=(4.8, 3.2))
levels = profile.max().item() - torch.tensor([200.0, 100, 50, 20, 10, 5, 2, 0])
heights = profile.nan_to_num(neginf=-1e9)
drawn = ax.contourf(beta.flatten(), alpha.flatten(), heights, levels)
figure.colorbar(drawn, label="log-likelihood", format="%.0f")
_ = ax.set(xlabel="β (memory)", ylabel="α (answer to a move)")

# %% [markdown]
# A ridge: what is certain is that the two sum to nearly one. `fit` climbs it with the gradient, for all series at once. It must not end below any point of the grid, and not far above the best of them.

# %%
fitted = GARCH().fit(ibm[:, None])
best = total.max()
where = np.unravel_index(int(total.argmax()), shape)
found = fitted.omega, fitted.alpha, fitted.beta
print("grid:", *(three_digits(part[where].item()) for part in grid))
print("fit: ", *(three_digits(part.item()) for part in found))
claim("the fit is above every point of the grid", fitted.likelihood[0] >= best)
claim("the grid's best point is within 1 of it", fitted.likelihood[0] - best < 1)
claim("the persistence is above 0.98", fitted.persistence[0] > 0.98)

# %% [markdown]
# ## The wrong way first
#
# ### A band that is right on average
#
# The plainest risk statement uses one variance for ever: the mean square of the training years. With a normal distribution, a loss larger than $1.645\,\sigma$ should come on $5\,\%$ of the days. This loss is the [*value at risk*](glossary.md#value-at-risk) at $5\,\%$. We count how often it is exceeded each year. If the statement is honest, each year should show about $5\,\%$.

# %%
from torch.distributions import Normal

from stlib.models.garch import value_at_risk


def broken(distribution, level):
    """Where the loss was larger than the value at risk."""
    return (returns < -value_at_risk(distribution, level)).double()


def by_year(hits, years=range(2006, 2013)):
    return [hits[torch.tensor(dates.year == year)].mean().item() for year in years]


constant = returns[train].square().nanmean(0).expand_as(returns)
hits = broken(Normal(0.0, constant.sqrt()), 0.05)
yearly = dict(zip(range(2006, 2013), by_year(hits), strict=True))
print({year: f"{100 * share:.1f} %" for year, share in yearly.items()})
claim("in 2008 it is broken half as often again as promised", yearly[2008] > 0.07)
calm = [year for year, share in yearly.items() if share < 0.025]
claim("in five other years less than half as often", len(calm) >= 5)

# %% [markdown]
# Too often in the one year that mattered, and far too seldom in the others: the training years were wild themselves. An average over the years could look fine, and would hide both.
#
# ### A variance that has seen the day
#
# So the variance has to move with the times: a mean of the squares of a month, say. A tempting mistake is to centre the month on the day it is for, as smoothers do. Then the day itself, and those after it, are in the mean.
#
# To measure it we need a score. Nobody observes $\sigma_t^2$, not even afterwards; we see one $x_t$. But (2) can be used as a score: it is smallest, on average, for the true variance. Without constants it is
#
# $$ \ln \hat\sigma_t^2 + x_t^2 / \hat\sigma_t^2, $$
#
# known as [*QLIKE*](glossary.md#qlike). Lower is better. A difference of $0.1$ is what one loses, to second order, by a variance that is wrong by a factor of about $1.6$.

# %%
def qlike(variance, part):
    """The score of each day of a part, averaged over the stocks."""
    of_each = variance.log() + returns**2 / variance
    return of_each[part].mean((1, 2))


def moving(window, delay=1):
    """The mean square of a window of days, for the day `delay` after its last."""
    means = returns.square().unfold(0, window, 1).mean(-1)
    days = torch.arange(window - 1, len(returns)) + delay
    variance = torch.full_like(returns, torch.nan)
    variance[days[days < len(returns)]] = means[days < len(returns)]
    return variance


centred = qlike(moving(21, delay=-10), validation).mean().item()
honest = qlike(moving(21), validation).mean().item()
print("centred", three_digits(centred), " before the day", three_digits(honest))
claim("the centred month seems better by 0.2 or more", honest - centred > 0.2)

# %% [markdown]
# A gain larger than any model of this chapter will make, and all of it from the future. A variance for day $t$ may use days up to $t - 1$, and nothing else.

# %% [markdown]
# ## On real data
#
# ### Five forecasts of the variance
#
# From here on everything is fitted on the years up to 2005, chosen on 2006 and 2007, and tested once on 2008 to 2013. The contestants, all one day ahead:
#
# - *constant variance*: the mean square of the training years;
# - *rolling variance*: the mean square of the last days; how many is chosen;
# - *EWMA*, the exponentially weighted moving average of squares, $\sigma_t^2 = (1 - \beta)\, x_{t-1}^2 + \beta\, \sigma_{t-1}^2$. It is GARCH with $\omega = 0$ and $\alpha + \beta = 1$. We choose nothing, and take the $\beta = 0.94$ that the bank J.P. Morgan published in 1996, before our data begin;
# - *GARCH*, three numbers a stock, by maximum likelihood;
# - *GJR-t*, which adds two things that stocks are known for: a fall may raise the variance more than a rise, by $\gamma$ ([Glosten, Jagannathan and Runkle, 1993](https://doi.org/10.1111/j.1540-6261.1993.tb05128.x)), and the noise may have heavy tails: Student's t with $\nu$ degrees of freedom.

# %%
def ewma(beta):
    return GARCH().set(omega=0.0, alpha=[1 - beta], beta=[beta]).filter(returns)


def choose(make, candidates):
    """The candidate with the lowest score on the validation part."""
    scores = {c: qlike(make(c), validation).mean().item() for c in candidates}
    print({c: three_digits(score) for c, score in scores.items()})
    return make(min(scores, key=scores.get))


garch = GARCH().fit(returns[train])
gjr = GARCH(kind="gjr", noise="t").fit(returns[train])
variance = {
    "constant variance": constant,
    "rolling variance": choose(moving, (10, 20, 40, 60, 125, 250)),
    "EWMA": ewma(0.94),
    "GARCH": garch.filter(returns),
    "GJR-t": gjr.filter(returns),
}

# %% [markdown]
# Half a year of days is chosen. Now the test part, which holds the crash of 2008. We compare each forecast with EWMA, day by day, by the Diebold–Mariano test of [Honest forecasts](honest-forecasts.ipynb). Before you look: how much should three fitted numbers a stock gain over one number from a leaflet?

# %%
import xarray as xr

from stlib.evaluation.significance import holm


def loss_of(variance):
    days = {"origin": np.arange(int(test.sum()))}
    return xr.DataArray(qlike(variance, test).numpy(), days)


losses = {name: loss_of(values) for name, values in variance.items()}
tests = {
    name: diebold_mariano(loss, losses["EWMA"], lead=1)
    for name, loss in losses.items()
    if name != "EWMA"
}
p_values = dict(zip(tests, holm([t.p_value for t in tests.values()]), strict=True))
means = {name: float(loss.mean()) for name, loss in losses.items()}
table = pd.DataFrame({"QLIKE": means})
table["less that of EWMA"] = {name: t.difference for name, t in tests.items()}
table["p (Holm)"] = p_values
table.map(three_digits)

# %%
moving_ones = ["rolling variance", "GARCH", "GJR-t"]
claim(
    "a constant variance loses to EWMA by 0.2 or more, and not by luck",
    tests["constant variance"].difference > 0.2
    and p_values["constant variance"] < 0.001,
)
claim(
    "the others are within 0.1 of EWMA",
    all(abs(tests[name].difference) < 0.1 for name in moving_ones),
)
claim(
    "and the test sees no difference",
    all(p_values[name] > 0.1 for name in moving_ones),
)

# %% [markdown]
# This is the sober result of the chapter. *That* the variance moves is worth a lot. *How* one follows it is worth little: five years of days cannot tell GARCH from a moving average of squares. (The columns compare mean scores; lower is better, and p-values are corrected for four tests.)
#
# ### Coverage by year
#
# A score compares. It does not say whether a risk statement is *true*. So we count again how often the value at risk at $5\,\%$ was broken, year by year. Each forecast needs a distribution. GJR-t has its own; the others get a normal one.

# %% mystnb={"image": {"alt": "Line chart of the share of days with a loss beyond the 5 % value at risk, by year from 2006 to 2012, five forecasts. The constant variance is near one per cent in all years but 2008, where it is near eight. The other four stay between two and ten per cent and are highest in 2008."}}
from torch.distributions import StudentT


def distribution_of(name):
    spread = variance[name].sqrt()
    if name != "GJR-t":
        return Normal(torch.zeros_like(spread), spread, validate_args=False)
    nu = gjr.nu.expand_as(spread)
    scale = spread * ((nu - 2) / nu).sqrt()
    return StudentT(nu, torch.zeros_like(scale), scale, validate_args=False)


figure, ax = plt.subplots()
shares = {}
for name in variance:
    shares[name] = by_year(broken(distribution_of(name), 0.05))
    ax.plot(range(2006, 2013), 100 * np.array(shares[name]), **plotting.look(name))
ax.axhline(5, color="black", linewidth=0.8)
ax.set(xlabel="year", ylabel="days beyond the bound (%)")
_ = ax.legend(fontsize=8)

# %%
near = {
    name: int((abs(np.array(by_years) - 0.05) < 0.02).sum())
    for name, by_years in shares.items()
}
print("years within two points of the promise, of seven:", near)
others = [count for name, count in near.items() if name != "constant variance"]
claim("a constant variance has no such year", near["constant variance"] == 0)
claim("each of the others has four or more", min(others) >= 4)

# %% [markdown]
# All but the constant move with the times, and none is perfect: in 2008 every one of them was late, since a variance learned from yesterday cannot know of tomorrow's crash.
#
# ### Tests of a value at risk
#
# Two questions, one test each. *Are there as many breaks as promised?* Under an honest bound each day is a coin with probability $\pi = 0.01$, say. [Kupiec (1995)](https://doi.org/10.3905/jod.1995.407942) compares the likelihood of the breaks under the promised and under the observed rate. *Does one break call the next?* Then the bound lags behind: [Christoffersen (1998)](https://doi.org/10.2307/2527341) compares the rate after a break with the rate after none. We take the harder level of $1\,\%$, where the shape of the tail counts, and count at how many of the four stocks each test rejects at the $5\,\%$ level.

# %%
from stlib.evaluation.coverage import christoffersen, kupiec

rows = {}
for name in variance:
    hits = broken(distribution_of(name), 0.01)[test]
    coverage, (independence, _) = kupiec(hits, 0.01), christoffersen(hits, 0.01)
    rows[name] = {
        "breaks": f"{100 * coverage.rate.mean().item():.2f} %",
        "coverage rejected": int((coverage.p_value < 0.05).sum()),
        "independence rejected": int((independence.p_value < 0.05).sum()),
    }
claim(
    "GJR-t breaks its 1 % bound on 0.8 to 1.4 % of the days",
    0.8 < float(rows["GJR-t"]["breaks"][:-2]) < 1.4,
)
claim("and passes for all four stocks", rows["GJR-t"]["coverage rejected"] == 0)
claim(
    "breaks of the constant bound come in clusters, for two stocks or more",
    rows["constant variance"]["independence rejected"] >= 2,
)
pd.DataFrame.from_dict(rows, orient="index")

# %% [markdown]
# The constant bound is broken about as often as promised over the five years, which is how such a model survives a careless check. Its breaks come together. The bounds of EWMA and the rolling mean follow the times, but with a normal tail they are too narrow: large moves are more frequent than it says, even after the variance is taken out. Heavy tails mend that. So what GJR-t gains over EWMA is not a better variance; it is an honest tail.
#
# ### Further ahead
#
# For a lead of $h$ days GARCH returns to its long-run variance, by (1), while EWMA and the rolling mean stay where they are. From each test day we forecast the variance of the next $60$ days and score it by lead. Both must get worse. Who gets worse faster?

# %% mystnb={"image": {"alt": "Line chart of QLIKE against lead from 1 to 60 days for the constant variance, EWMA, GARCH and GJR-t: the constant is flat and highest, the other three rise slowly from below."}}
LEADS = 60
long = windows.split(field, past=250, horizon=LEADS, **sizes).test
batch = long[:]
far = {}
for name, fitted_one in {"GARCH": garch, "GJR-t": gjr}.items():
    model = GARCH(kind=fitted_one.kind, noise=fitted_one.noise, horizon=LEADS)
    model.load_state_dict(fitted_one.state_dict())
    far[name] = model.variance(batch.past.double())
first = int(test.int().argmax()) + torch.arange(len(long))  # days of lead 1
for name in ("constant variance", "EWMA"):
    far[name] = variance[name][first][:, None].expand(-1, LEADS, 1, 4)
truth = batch.future.double()
by_lead = {
    name: xr.DataArray(
        (values.log() + truth**2 / values).mean((0, 2, 3)).numpy(),
        {"lead": np.arange(1, LEADS + 1)},
    )
    for name, values in far.items()
}
_ = plotting.by_lead(by_lead, ylabel="QLIKE", xlabel="lead (trading days)")

# %%
flat = by_lead["constant variance"]
gain = {name: flat - by_lead[name] for name in ("EWMA", "GARCH", "GJR-t")}
print("gain at leads 1, 20 and 60")
for name, values in gain.items():
    three = values.sel(lead=[1, 20, 60]).values
    print(f"{name:6}", *(three_digits(value) for value in three))
for name in ("EWMA", "GJR-t"):
    last = float(gain[name].sel(lead=60))
    claim(f"{name} still gains 0.1 or more at 60 days", last > 0.1)
lost = float(gain["GARCH"].sel(lead=60))
claim("GARCH has lost all its gain by then", lost < 0.05)

# %% [markdown]
# The spread can be forecast for months, not days. But GARCH falls behind. The long-run variance to which it returns was learned from wild years; the ridge of the likelihood told us how badly that number is known. And one stock has been misled by a single day, as we shall see.
#
# ### Take the clusters away
#
# Is it the order of the days that GARCH uses? We shuffle the training days, which keeps every return and destroys the clusters. The fit should then gain next to nothing in likelihood over a constant variance.

# %%
listed = [0, 2, 3]  # Google came to the market late
in_order = returns[train][:, 0, listed]
shuffled = in_order[torch.randperm(len(in_order))]
gains = {}
for name, series in {"in order": in_order, "shuffled": shuffled}.items():
    square = series.square().mean(0)
    plain = -0.5 * len(series) * (math.log(2 * math.pi) + square.log() + 1)
    gains[name] = GARCH().fit(series).likelihood - plain
    print(f"{name:9}", *(three_digits(gain) for gain in gains[name].tolist()))
claim("in order: 100 or more for IBM and MSFT", gains["in order"][1:].min() > 100)
claim("shuffled: less than 5 for these", gains["shuffled"][1:].max() < 5)

# %% [markdown]
# For IBM and MSFT hundreds of units of log-likelihood shrink to none. Apple keeps some even when shuffled: it has one day that no order makes harmless. We come to it.
#
# ### Where the truth is known
#
# On real data nobody knows $\sigma_t^2$, so we cannot say how far the forecasts are from the best possible. In a made-up world we can. We draw returns from a GARCH that we choose, with noise that is normal, train on the first half, and score the second half with the *true* variance beside the others. The first question is how much is left to gain. Guess: is EWMA, which has the wrong long run, far from the best?

# %%
truth = GARCH().set(omega=0.05, alpha=[0.08], beta=[0.9])
noise = torch.randn(4000, 20, dtype=torch.float64)
made, known = torch.zeros_like(noise), torch.ones_like(noise) * 2.5
for day in range(1, len(noise)):
    made[day - 1] = known[day - 1].sqrt() * noise[day - 1]
    known[day] = 0.05 + 0.08 * made[day - 1] ** 2 + 0.9 * known[day - 1]
made[-1] = known[-1].sqrt() * noise[-1]
half = len(made) // 2
world = {
    "best possible": known,
    "constant variance": made[:half].square().mean(0).expand_as(made),
    "EWMA": GARCH().set(omega=0.0, alpha=[0.06], beta=[0.94]).filter(made),
    "GARCH": GARCH().fit(made[:half]).filter(made),
}
world_scores = {
    name: (values.log() + made**2 / values)[half:].mean().item()
    for name, values in world.items()
}
above = {n: s - world_scores["best possible"] for n, s in world_scores.items()}
print({name: three_digits(value) for name, value in above.items()})
share = above["EWMA"] / above["constant variance"]
claim("the fitted GARCH is within 0.01 of the best possible", above["GARCH"] < 0.01)
claim("EWMA leaves less than a fifth of the constant's gap", share < 0.2)

# %% [markdown]
# (The numbers are how far each score lies above the best possible.) Even where GARCH is the whole truth, it gains little over EWMA. Most of what can be known about tomorrow's variance is "as large as it has lately been", and both say that. So the real data were no accident.
#
# ## What it learned
#
# The parameters can be read: $\alpha$ is the answer to a move, $\gamma$ the extra answer to a fall, $\nu$ says how heavy the tail is (above $30$ it is nearly normal), and the half-life is in trading days. A half-life of more than $1000$ days means that the fit has gone to the edge, a persistence of one: in these years the variance of that stock did not come back. Compare the two rows of Apple.

# %%
def learned(model, stock):
    persistence = model.persistence[0, stock].item()
    half_life = math.log(0.5) / math.log(persistence)
    row = {"α": model.alpha[0, 0, stock], "β": model.beta[0, 0, stock]}
    if model.kind == "gjr":
        row |= {"γ": model.gamma[0, 0, stock], "ν": model.nu[0, stock]}
    row = {name: three_digits(value.item()) for name, value in row.items()}
    long = half_life > 1000
    return row | {"half-life": "> 1000" if long else three_digits(half_life)}


tickers = field["ticker"].values.tolist()
table = {
    (ticker, name): learned(model, stock)
    for stock, ticker in enumerate(tickers)
    for name, model in (("GARCH", garch), ("GJR-t", gjr))
}
pd.DataFrame.from_dict(table, orient="index").fillna("")

# %% [markdown]
# GARCH thinks that Apple answers violently to a move and soon forgets; GJR-t says the opposite. One of them has seen a ghost. On 29 September 2000 Apple warned of poor sales and lost half its value. Under a normal tail such a day is as good as impossible, and the fit bends everything to make it less so. We take that one day out and fit again. (A missing return is allowed: its square is replaced by its expectation, the variance of that day.)

# %%
day = int(returns[:, 0, 0].argmin())
print(f"{dates[day]:%d %B %Y}: a return of {three_digits(returns[day, 0, 0].item())} %")
without = returns[train].clone()
without[day, 0, 0] = torch.nan
pairs = {
    "normal": (garch, GARCH().fit(without)),
    "Student's t": (gjr, GARCH(kind="gjr", noise="t").fit(without)),
}
for noise, (before, after) in pairs.items():
    answers = [model.alpha[0, 0, 0].item() for model in (before, after)]
    print(f"{noise:12} α with the day {answers[0]:.3f}, without {answers[1]:.3f}")
normal, heavy = (
    [model.alpha[0, 0, 0].item() for model in pair] for pair in pairs.values()
)
claim("normal: one day of 1467 makes α ten times as large", normal[0] > 10 * normal[1])
claim("Student's t: it changes α by less than 0.02", abs(heavy[0] - heavy[1]) < 0.02)

# %% [markdown]
# Two lessons. A likelihood with thin tails listens to the loudest day. And a model is worth looking at even when its score is good: the test score gave no hint of this.
#
# Last, the asymmetry. We draw the variance of tomorrow as a function of today's return, for IBM, from the same variance today. This is called a *news impact curve* ([Engle and Ng, 1993](https://doi.org/10.1111/j.1540-6261.1993.tb05127.x)).

# %% mystnb={"image": {"alt": "Variance of IBM tomorrow against today's return from minus eight to eight per cent. GARCH is a parabola around zero. GJR-t is flat for rises and a half parabola for falls."}}
news = torch.linspace(-8, 8, 161, dtype=torch.float64)
figure, ax = plt.subplots()
for name, model in {"GARCH": garch, "GJR-t": gjr}.items():
    fall = model.gamma[0, 0, 2] * (news < 0) if name == "GJR-t" else 0.0
    tomorrow = model.omega[0, 2] + model.beta[0, 0, 2] * 2.0  # today's variance is 2
    tomorrow = tomorrow + (model.alpha[0, 0, 2] + fall) * news**2
    ax.plot(news, tomorrow, **plotting.look(name) | {"marker": None})
ax.set(xlabel="return of today (%)", ylabel="variance of tomorrow")
ax.legend()
claim(
    "IBM: after a fall of 5 % GJR-t expects a larger variance than after a rise",
    tomorrow[news == -5] > 1.2 * tomorrow[news == 5],
)

# %% [markdown]
# For IBM only falls count. Why falls raise the variance more is an old debate: a lower price leaves a firm with more debt for its worth (the *leverage effect*), or a riskier future makes the price fall. The curve cannot tell.
#
# ## When to use which
#
# | Forecast of the variance | Strong when | Fails when | Needs |
# | --- | --- | --- | --- |
# | constant | there are no clusters; very long leads | the world changes | nothing |
# | rolling mean | one wants it plain | a large day enters and leaves the window | a window, chosen |
# | EWMA | leads are short, data are few | leads are long, since it never comes back | one number, known in advance |
# | GARCH | the long run is known, many years of data | one wild day, thin tails | three numbers a series |
# | GJR-t | tails matter: value at risk at $1\,\%$ | few data; effects differ by series | five numbers a series |
#
# The recursion costs next to nothing, and the fit of a thousand series takes seconds. The same models serve wherever the spread moves and the mean does not: errors of a forecaster, wind, electricity prices. Look at the autocorrelation of the sizes first. If it is flat, stop.

# %%
from stlib.reporting import benchmark

rows = pd.DataFrame(benchmark("garch")["rows"]).query("package == 'arch'")
seconds = rows.set_index("work")["times_ours"]
claim("1000 series: at least five times as fast as arch", seconds.iloc[0] > 5)
claim("at the same likelihood", (rows["gain_median"].abs() < 0.001).all())
pd.DataFrame({"arch's time over ours": seconds.map(three_digits)})

# %% [markdown]
# ## Summary
#
# - Returns have no memory in their sign, but a long one in their size. A forecast of the spread is a forecast.
# - GARCH is damped persistence of the variance. It is fitted by likelihood, whose terms punish a variance that is too small and one that is too large.
# - A variance is never observed. QLIKE is a proper score for it all the same.
# - A variance for today may use yesterday, not today. A centred window fakes a gain larger than any model's.
# - A moving variance is worth much; which one, little. Say so.
# - A value at risk is tested for its rate (Kupiec) and its clusters (Christoffersen), and looked at year by year.
# - Heavy tails give an honest bound, and keep one wild day from deciding the fit.

# %% [markdown]
# ## Exercises
#
# ### 1. Ten days ahead
#
# A GARCH has $\omega = 0.02$, $\alpha = 0.06$, $\beta = 0.93$, and its forecast of tomorrow's variance is $4$. What is the standard deviation of the *sum* of the next ten returns? *Hint:* returns of different days are uncorrelated, so the variances of (1) add up.

# %%
from stlib.reporting import check

my_spread = ...  # your answer, in per cent
check(my_spread, "garch: ten days")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
long_run = 0.02 / (1 - 0.06 - 0.93)
leads = torch.arange(10.0)
ten = long_run + 0.99**leads * (4 - long_run)
check(ten.sum().sqrt(), "garch: ten days")
# Three mistakes, and what the check says to them:
check(math.sqrt(10 * 4), "garch: ten days")
check(ten.sum(), "garch: ten days")
check(ten.sqrt().sum(), "garch: ten days")

# %% [markdown]
# ### 2. A calm validation part
#
# We took $\beta = 0.94$ for EWMA from a leaflet. Choose it on the validation part instead, among $0.9, 0.94, 0.97, 0.98, 0.99, 0.995$. By how much does that raise the QLIKE of the *test* part? Why? *Hint:* `choose(ewma, ...)` prints the scores and returns the variance of the best.

# %%
my_rise = ...  # your answer
check(my_rise, "garch: calm")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
calm = choose(ewma, (0.9, 0.94, 0.97, 0.98, 0.99, 0.995))
scores = {
    part: (qlike(calm, days) - qlike(ewma(0.94), days)).mean()
    for part, days in (("validation", validation), ("test", test))
}
check(scores["test"], "garch: calm")
check(scores["validation"], "garch: calm")
check(-scores["test"], "garch: calm")
claim("the choice of the calm years costs 0.1 or more in the crash", scores["test"] > 0.1)
# Two calm years reward a long memory. The crash needs a short one. A validation
# part should hold what the test part may bring.

# %% [markdown]
# ### 3. Seven breaks
#
# In $250$ days a bound at $1\,\%$ was broken seven times. What is the p-value of Kupiec's test? *Hint:* `kupiec` takes a series of true and false; the order does not matter.

# %%
my_p = ...  # your answer
check(my_p, "garch: breaks")

# %% cellView="form" tags=["hide-cell"]
# @title Solution
seven = torch.arange(250) < 7
check(kupiec(seven, 0.01).p_value, "garch: breaks")
check(kupiec(seven, 0.01).statistic, "garch: breaks")
check(kupiec(seven, 0.05).p_value, "garch: breaks")

# %% [markdown]
# ## Further reading
#
# - Engle (1982), the first of the kind: [doi:10.2307/1912773](https://doi.org/10.2307/1912773)
# - Bollerslev (1986), GARCH: [doi:10.1016/0304-4076(86)90063-1](https://doi.org/10.1016/0304-4076%2886%2990063-1)
# - Nelson (1991), EGARCH: [doi:10.2307/2938260](https://doi.org/10.2307/2938260)
# - Glosten, Jagannathan and Runkle (1993), asymmetry: [doi:10.1111/j.1540-6261.1993.tb05128.x](https://doi.org/10.1111/j.1540-6261.1993.tb05128.x)
# - Engle and Ng (1993), news impact curves: [doi:10.1111/j.1540-6261.1993.tb05127.x](https://doi.org/10.1111/j.1540-6261.1993.tb05127.x)
# - Hansen and Lunde (2005), does anything beat a GARCH(1,1)?: [doi:10.1002/jae.800](https://doi.org/10.1002/jae.800)
# - Patton (2011), scores for a variance that is not observed: [doi:10.1016/j.jeconom.2010.03.034](https://doi.org/10.1016/j.jeconom.2010.03.034)
# - Kupiec (1995), coverage of a value at risk: [doi:10.3905/jod.1995.407942](https://doi.org/10.3905/jod.1995.407942)
# - Christoffersen (1998), coverage and independence: [doi:10.2307/2527341](https://doi.org/10.2307/2527341)
