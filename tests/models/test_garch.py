import copy

import arch
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.optimize import minimize
from torch.distributions import Normal, StudentT

from stlib.data import datasets
from stlib.models import _volatility_fit
from stlib.models._climb import climb
from stlib.models._volatility import Parameters, back_cast, log_likelihood, slope_and_information, variance_path
from stlib.models.garch import GARCH, STATUS, value_at_risk

NAN = float("nan")
SIZE = np.sqrt(2 / np.pi)
ORDERS = [("garch", 1, 1), ("garch", 2, 1), ("garch", 1, 2), ("garch", 1, 0), ("gjr", 1, 1), ("gjr", 2, 2)]
ORDERS += [("egarch", 1, 1), ("egarch", 1, 2), ("egarch", 2, 1)]


def simulate(steps, series, *, omega=0.05, alpha=0.08, gamma=0.0, beta=0.87, nu=None, seed=0):
    rng = np.random.default_rng(seed)
    h, e, out = np.full(series, omega / (1 - alpha - gamma / 2 - beta)), np.zeros(series), []
    for _ in range(steps + 200):
        h = omega + (alpha + gamma * (e < 0)) * e**2 + beta * h
        z = rng.normal(size=series) if nu is None else rng.standard_t(nu, size=series) * np.sqrt(1 - 2 / nu)
        e = np.sqrt(h) * z
        out.append(e)
    return torch.from_numpy(np.array(out[200:]))


def values(kind, p, q):
    """Some parameters, inside the bounds."""
    gamma = [0.06, -0.03][:p] if kind != "garch" else []
    return {"omega": 0.05, "alpha": [0.07, 0.05][:p], "gamma": gamma, "beta": [0.5, 0.3][:q]}


def naive(x, *, kind, omega, alpha, gamma, beta, mu=0.0, nu=np.inf, centred=False):
    """The model one step at a time, as the docstring has it: variances and log-likelihood."""
    x = np.asarray(x)
    seen = ~np.isnan(x)
    first = int(seen.argmax())
    early = x[seen][:75] - (x[seen].mean() if centred else 0.0)
    weight = 0.94 ** np.arange(len(early))
    start = (weight * early**2).sum() / weight.sum()
    h, square, fall, z, size, likelihood = {}, {}, {}, {}, {}, 0.0
    for t in range(-3, len(x)):
        if t < first:
            h[t], square[t], fall[t], z[t], size[t] = start, start, start / 2, 0.0, SIZE
            continue
        lags = range(1, 1 + max(len(alpha), len(beta)))
        if kind == "egarch":
            value = omega + sum(b * np.log(h[t - k]) for k, b in zip(lags, beta, strict=False))
            value += sum(a * (size[t - k] - SIZE) for k, a in zip(lags, alpha, strict=False))
            h[t] = np.exp(value + sum(g * z[t - k] for k, g in zip(lags, gamma, strict=False)))
        else:
            h[t] = omega + sum(b * h[t - k] for k, b in zip(lags, beta, strict=False))
            h[t] += sum(a * square[t - k] for k, a in zip(lags, alpha, strict=False))
            h[t] += sum(g * fall[t - k] for k, g in zip(lags, gamma, strict=False))
        if not seen[t]:
            square[t], fall[t], z[t], size[t] = h[t], h[t] / 2, 0.0, SIZE
            continue
        e = x[t] - mu
        square[t], fall[t], z[t] = e**2, e**2 * (e < 0), e / np.sqrt(h[t])
        size[t] = abs(z[t])
        noise = stats.norm() if np.isinf(nu) else stats.t(nu, scale=np.sqrt(1 - 2 / nu))
        likelihood += noise.logpdf(z[t]) - np.log(h[t]) / 2
    return np.array([h[t] for t in range(len(x))]), likelihood


@pytest.mark.parametrize(("kind", "p", "q"), ORDERS)
@pytest.mark.parametrize("noise", ["normal", "t"])
@pytest.mark.parametrize("mean", ["zero", "constant"])
def test_variances_and_likelihood_are_those_of_a_plain_loop_missing_returns_included(kind, p, q, noise, mean):
    x = simulate(150, 3, nu=5)
    x[[0, 1, 2, 40, 41, 90], 1] = NAN
    x[100:, 2] = NAN
    extra = {"mu": 0.05 if mean == "constant" else 0.0, "nu": 6.0 if noise == "t" else np.inf}
    model = GARCH(p=p, q=q, kind=kind, noise=noise, mean=mean).set(**values(kind, p, q), **extra)
    h, likelihood = model.filter(x), model.log_likelihood(x)
    for series in range(3):
        expected = naive(x[:, series], kind=kind, **values(kind, p, q), **extra, centred=mean == "constant")
        np.testing.assert_allclose(h[:, series], expected[0], rtol=1e-10)
        assert likelihood[series].item() == pytest.approx(expected[1], rel=1e-10)


@pytest.mark.parametrize(("kind", "p", "q"), ORDERS)
@pytest.mark.parametrize("noise", ["normal", "t"])
@pytest.mark.parametrize("mean", ["zero", "constant"])
def test_the_likelihood_at_given_parameters_is_that_of_arch(kind, p, q, noise, mean):
    x = simulate(400, 2, nu=5) + 0.03
    given = values(kind, p, q)
    extra = {"mu": 0.05 if mean == "constant" else 0.0, "nu": 6.0 if noise == "t" else np.inf}
    model = GARCH(p=p, q=q, kind=kind, noise=noise, mean=mean).set(**given, **extra)
    vector = [given["omega"], *given["alpha"], *given["gamma"], *given["beta"]]
    vector = [extra["mu"]] * (mean == "constant") + vector + [extra["nu"]] * (noise == "t")
    for series, likelihood in enumerate(model.log_likelihood(x)):
        theirs = peer(arch, x[:, series], p=p, q=q, kind=kind, noise=noise, mean=mean).fix(vector)
        assert likelihood.item() == pytest.approx(theirs.loglikelihood, abs=1e-6)


def peer(arch, x, *, p=1, q=1, kind="garch", noise="normal", mean="zero"):
    vol, o = "EGARCH" if kind == "egarch" else "GARCH", 0 if kind == "garch" else p
    options = {"mean": mean.title(), "dist": noise, "rescale": False}
    return arch.arch_model(x.numpy(), vol=vol, p=p, o=o, q=q, **options)


@pytest.mark.parametrize(("kind", "p", "q"), [("garch", 2, 1), ("gjr", 1, 2), ("egarch", 2, 2)])
@pytest.mark.parametrize("noise", ["normal", "t"])
def test_the_gradient_is_the_slope_of_the_likelihood(kind, p, q, noise):
    x = simulate(120, 3, nu=5)
    x[[0, 30, 31], 1] = NAN
    given = {"mu": 0.05, **values(kind, p, q), "nu": 7.0 if noise == "t" else np.inf}
    rows = [torch.tensor(np.atleast_1d(given[name]))[:, None].repeat(1, 3) for name in Parameters._fields]
    sizes, flat = [len(row) for row in rows], torch.cat(rows)
    start = back_cast(x, centred=True)

    def unflat(vector):
        parts = vector.split(sizes)
        return Parameters(parts[0][0], parts[1][0], *parts[2:5], parts[5][0])

    def likelihood(vector):
        par = unflat(vector)
        return log_likelihood(x, variance_path(x, par, start, kind=kind)[0], par, noise=noise)

    par = unflat(flat)
    h, slopes = variance_path(x, par, start, kind=kind, slopes="constant")
    gradient, _ = slope_and_information(x, h, slopes, par, kind=kind, noise=noise, mean="constant")
    for row, slope in enumerate(gradient):
        step = torch.zeros_like(flat)
        step[row] = 1e-6
        difference = (likelihood(flat + step) - likelihood(flat - step)) / 2e-6
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("noise", ["normal", "t"])
def test_the_information_is_the_variance_of_the_slope_of_one_return(noise):
    nu = 6.5 if noise == "t" else np.inf
    one = torch.ones(1, dtype=torch.float64)
    par = Parameters(0 * one, one, one[None, :0], one[None, :0], one[None, :0], nu * one)
    slopes = torch.tensor([0.7, 1.0], dtype=torch.float64).reshape(1, 2, 1)  # of h by mu and by omega

    def both(z):
        x = torch.tensor([[z]], dtype=torch.float64)
        gradient, information = slope_and_information(
            x, one[None], slopes, par, kind="garch", noise=noise, mean="constant"
        )
        return gradient[:, 0].numpy(), information[0].numpy()

    density = stats.t(nu, scale=np.sqrt(1 - 2 / nu)).pdf if noise == "t" else stats.norm.pdf
    information = both(0.3)[1]
    for i, j in zip(*np.triu_indices(len(information)), strict=True):
        variance = integrate.quad(lambda z, i=i, j=j: both(z)[0][i] * both(z)[0][j] * density(z), -50, 50, limit=300)[0]
        assert information[i, j] == pytest.approx(variance, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "noise", "mean"),
    [("garch", "normal", "zero"), ("garch", "t", "constant"), ("gjr", "t", "zero"), ("egarch", "normal", "constant")],
)
def test_the_optimum_is_that_of_arch_on_simulated_returns(kind, noise, mean):
    x = simulate(1000, 12, alpha=0.05, gamma=0.08, nu=6 if noise == "t" else None, seed=1)
    model = GARCH(kind=kind, noise=noise, mean=mean).fit(x)
    theirs = [
        peer(arch, x[:, series], kind=kind, noise=noise, mean=mean).fit(disp="off", show_warning=False).loglikelihood
        for series in range(12)
    ]
    assert (model.status <= 1).all()
    np.testing.assert_allclose(model.likelihood, theirs, atol=1e-3)
    torch.testing.assert_close(model.log_likelihood(x), model.likelihood, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("kind", "noise", "p", "q"),
    [("garch", "normal", 1, 1), ("gjr", "t", 1, 1), ("egarch", "t", 1, 1), ("garch", "t", 2, 1)],
)
def test_the_optimum_is_that_of_arch_on_stock_returns(kind, noise, p, q):
    prices = datasets.load("stocks").sel(channel=["adjusted_close"])
    x = torch.from_numpy(100 * np.diff(np.log(prices.values.astype(float)), axis=0))  # in per cent
    model = GARCH(p=p, q=q, kind=kind, noise=noise).fit(x)
    assert (model.status[0, [0, 3, 4]] <= 1).all()
    for series in (0, 3, 4):  # listed on all days
        theirs = peer(arch, x[:, 0, series], p=p, q=q, kind=kind, noise=noise).fit(disp="off", show_warning=False)
        assert model.likelihood[0, series].item() > theirs.loglikelihood - 1e-3
        assert model.likelihood[0, series].item() < theirs.loglikelihood + 0.5


def test_no_other_point_within_the_bounds_is_better():
    x = simulate(400, 4, alpha=0.01, beta=0.9)  # hardly any clusters: two of the optima lie on a bound
    model = GARCH().fit(x)
    assert (model.status <= 1).all()
    for series in range(4):

        def loss(v, series=series):
            alone = GARCH().set(omega=v[0], alpha=[v[1]], beta=[v[2]])
            return -alone.log_likelihood(x[:, series : series + 1]).item()

        here = [model.omega[series].item(), model.alpha[0, series].item(), model.beta[0, series].item()]
        bounds = [(1e-8, 5), (0, 1), (0, 0.999)]
        found = minimize(loss, here, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-6})
        assert model.likelihood[series].item() > -found.fun - 1e-3


def test_of_two_tops_the_higher_is_taken(monkeypatch):
    tops = []

    def spy(*problem):
        tops.append(climb(*problem))
        return tops[-1]

    monkeypatch.setattr(_volatility_fit, "climb", spy)
    monkeypatch.setattr(_volatility_fit, "NEARLY", torch.inf)
    x = torch.randn(300, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, value, converged = _volatility_fit.maximise(x, p=1, q=1, kind="garch", noise="normal", mean="zero")
    first, second = tops[0][1].unflatten(0, (2, 20))
    assert converged.all()
    assert (second > first + 0.01).any() and (second < first - 0.01).any()
    torch.testing.assert_close(value, torch.maximum(first, second))


def test_the_true_parameters_are_found_in_a_long_record():
    x = simulate(20_000, 4, alpha=0.04, gamma=0.08, beta=0.88, nu=6)
    model = GARCH(kind="gjr", noise="t").fit(x)
    truth = {"omega": (0.05, 0.02), "alpha": (0.04, 0.02), "gamma": (0.08, 0.03), "beta": (0.88, 0.03), "nu": (6, 0.8)}
    for name, (value, tolerance) in truth.items():  # about four standard errors
        assert (getattr(model, name) - value).abs().max() < tolerance
    assert (model.persistence - 0.96).abs().max() < 0.02
    # Forecasts of the model that made the data have standardised errors of variance 1, whatever came before.
    ratio = x.square() / model.filter(x)
    for part in (ratio[model.filter(x) > 1.5], ratio[model.filter(x) < 0.8]):
        assert part.mean().item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("kind", ["garch", "gjr", "egarch"])
def test_the_unit_does_not_matter(kind):
    x = simulate(500, 3, seed=2)
    model, large = GARCH(kind=kind, mean="constant").fit(x), GARCH(kind=kind, mean="constant").fit(1000 * x)
    torch.testing.assert_close(large.beta, model.beta, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(large.mu, 1000 * model.mu, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(large.filter(1000 * x), 1e6 * model.filter(x), rtol=1e-6, atol=0)
    torch.testing.assert_close(large.likelihood, model.likelihood - 500 * np.log(1000))


def test_a_fit_does_not_depend_on_what_else_is_in_the_batch_or_on_its_size(monkeypatch):
    x = simulate(300, 6).reshape(300, 1, 2, 3)
    whole = GARCH().fit(x)
    assert whole.omega.shape == whole.status.shape == (1, 2, 3)
    assert whole.alpha.shape == (1, 1, 2, 3)
    alone = GARCH().fit(x[..., 1, 2:])
    torch.testing.assert_close(alone.omega[0, 0], whole.omega[0, 1, 2], rtol=1e-6, atol=0)
    monkeypatch.setattr("stlib.models.garch.BLOCK", 700)
    torch.testing.assert_close(GARCH().fit(x).likelihood, whole.likelihood, rtol=1e-9, atol=0)


def test_bad_series_are_reported_and_spoil_no_other():
    good = simulate(300, 2)
    bad = torch.randn(300, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bad[3:, 0] = NAN
    bad[:, 1] = 0.25
    bad[:, 2] = NAN
    bad[7, 3] = torch.inf
    bad[:, 4] *= torch.exp(torch.arange(300.0).double() / 3)
    bad[:, 5] *= 1e100
    model = GARCH(horizon=2).fit(torch.cat([good[:, :1], bad, good[:, 1:]], 1))
    said = [STATUS[number] for number in model.status]
    assert said[1:6] == ["too short", "constant", "too short", "not finite", "at the edge"]
    assert said[0] == said[6] == said[7] == "converged"
    assert model.likelihood.isnan().tolist() == [False, *[True] * 4, False, False, False]
    assert model.persistence[5] == pytest.approx(1 - 1e-6, abs=1e-7)
    torch.testing.assert_close(model.alpha[:, ::7], GARCH().fit(good).alpha, rtol=1e-6, atol=0)
    past = torch.cat([good[:, :1], bad, good[:, 1:]], 1)[None]
    forecast = model(past)
    assert (
        forecast.mean.isnan()[0, 0].tolist()
        == forecast.stddev.isnan()[0, 0].tolist()
        == [False, *[True] * 4, False, False, False]
    )
    assert value_at_risk(forecast, 0.05).isnan()[0, 1].tolist() == [False, *[True] * 4, False, False, False]


def test_missing_returns_before_the_first_change_nothing_and_those_inside_little():
    x = simulate(600, 2)
    early = torch.cat([torch.full((80, 2), NAN, dtype=torch.float64), x])
    torch.testing.assert_close(GARCH().fit(early).beta, GARCH().fit(x).beta, rtol=1e-7, atol=0)
    holes = x.clone()
    holes[100:130] = NAN
    model = GARCH(mean="constant").fit(holes)
    assert (model.status <= 1).all()
    torch.testing.assert_close(model.log_likelihood(holes), model.likelihood)
    assert (model.persistence - GARCH(mean="constant").fit(x).persistence).abs().max() < 0.1


@pytest.mark.parametrize(("kind", "p", "q"), ORDERS[:6])
def test_forecasts_of_several_steps_are_those_of_arch(kind, p, q):
    x = simulate(200, 2)
    given = values(kind, p, q)
    model = GARCH(p=p, q=q, kind=kind, horizon=6).set(**given)
    vector = [given["omega"], *given["alpha"], *given["gamma"], *given["beta"]]
    for series in range(2):
        theirs = peer(arch, x[:, series], p=p, q=q, kind=kind).fix(vector).forecast(horizon=6).variance.to_numpy()[-1]
        np.testing.assert_allclose(model.variance(x[None])[0, :, series], theirs, rtol=1e-8)


@pytest.mark.parametrize(("kind", "p", "q"), [("garch", 2, 1), ("gjr", 1, 2), ("egarch", 1, 1), ("egarch", 2, 2)])
def test_forecasts_of_several_steps_are_the_mean_over_simulated_futures(kind, p, q):
    past = simulate(100, 1)[None]
    given = values(kind, p, q)
    if kind == "egarch":
        given |= {"alpha": [0.4, 0.2][:p], "gamma": [-0.3, -0.1][:p]}
    model = GARCH(p=p, q=q, kind=kind, horizon=4).set(**given)
    futures, one = past[:, -20:].repeat(100_000, 1, 1), GARCH(p=p, q=q, kind=kind).set(**given)
    generator = torch.Generator().manual_seed(0)
    for lead in range(4):
        h = one.variance(futures)
        expected = model.variance(past[:, -20:])[0, lead, 0].item()
        error = h.std().item() / np.sqrt(len(h))
        assert h.mean().item() == pytest.approx(expected, abs=5 * error + 1e-9)
        z = torch.randn(h.shape, dtype=h.dtype, generator=generator)
        futures = torch.cat([futures, h.sqrt() * z], 1)


def test_forecast_distributions_have_the_variance_and_the_mean_of_the_model():
    past = simulate(50, 3)[None]
    normal = GARCH(horizon=3, mean="constant").set(omega=0.1, alpha=[0.1], beta=[0.8], mu=0.2)
    heavy = GARCH(horizon=3, mean="constant", noise="t").set(omega=0.1, alpha=[0.1], beta=[0.8], mu=0.2, nu=5.0)
    assert isinstance(normal(past), Normal)
    assert isinstance(heavy(past), StudentT)
    for model in (normal, heavy):
        torch.testing.assert_close(model(past).variance, model.variance(past))
        torch.testing.assert_close(model(past).mean, torch.full((1, 3, 3), 0.2).double())
    # The variance of the forecast goes to omega / (1 - persistence) = 1, a tenth of the way each step.
    distance = normal.variance(past) - 1
    torch.testing.assert_close(distance[:, 1:], 0.9 * distance[:, :-1])


def test_value_at_risk_is_the_quantile_of_scipy():
    loc, scale, df = torch.randn(4, 2, 3), torch.rand(4, 2, 3) + 0.5, torch.tensor([2.5, 4.0, 30.0])
    for level in (0.01, 0.3):
        expected = -stats.norm.ppf(level, loc.numpy(), scale.numpy())
        np.testing.assert_allclose(value_at_risk(Normal(loc, scale), level), expected, rtol=1e-4, atol=1e-5)
        expected = -stats.t.ppf(level, df.numpy(), loc.numpy(), scale.numpy())
        np.testing.assert_allclose(value_at_risk(StudentT(df, loc, scale), level), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 0"):
        value_at_risk(Normal(0.0, 1.0), 0)


@pytest.mark.parametrize("kind", ["garch", "gjr", "egarch"])
def test_the_future_changes_no_variance_after_the_start(kind):
    x = simulate(200, 2)
    model = GARCH(kind=kind).set(**values(kind, 1, 1))
    other = x.clone()
    other[150:] *= 3
    assert torch.equal(model.filter(other)[:151], model.filter(x)[:151])
    assert not torch.equal(model.filter(other)[151], model.filter(x)[151])
    one_step = model.variance(x[None, :150])[0, 0]
    torch.testing.assert_close(one_step, model.filter(x)[150], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["garch", "gjr", "egarch"])
@pytest.mark.parametrize("space", [(), (4,), (2, 3)])
def test_any_space_and_any_batch(kind, space):
    x = simulate(200, 2 * int(np.prod(space))).reshape(200, 2, *space)
    model = GARCH(kind=kind, horizon=3).fit(x)
    past = torch.stack([x[:150], x[40:190]])
    forecast = model.variance(past)
    assert forecast.shape == (2, 3, 2, *space)
    torch.testing.assert_close(forecast[1:], model.variance(past[1:]))
    assert model.filter(x).shape == x.shape
    assert model.variance(x[None, :1]).shape == (1, 3, 2, *space)


def test_single_precision_on_request_and_the_dtype_of_the_past():
    x = simulate(800, 5)
    double, single = GARCH().fit(x), GARCH().fit(x, dtype=torch.float32)
    assert double.omega.dtype == torch.float64
    assert single.omega.dtype == torch.float32
    np.testing.assert_allclose(double.log_likelihood(x), GARCH().set(**estimates(single)).log_likelihood(x), atol=0.01)
    assert double.variance(x[None].float()).dtype == torch.float32
    torch.testing.assert_close(double.variance(x[None].float()).double(), double.variance(x[None]), rtol=1e-5, atol=0)


def estimates(model):
    return {name: getattr(model, name).double() for name in ("omega", "alpha", "beta")}


def test_a_fitted_model_survives_a_round_trip(tmp_path):
    x = simulate(200, 6).reshape(200, 2, 3)
    model = GARCH(kind="gjr", noise="t", horizon=2).fit(x)
    torch.save(model.state_dict(), tmp_path / "garch.pt")
    copy = GARCH(kind="gjr", noise="t", horizon=2)
    copy.load_state_dict(torch.load(tmp_path / "garch.pt"))
    assert torch.equal(copy.variance(x[None]), model.variance(x[None]))
    assert torch.equal(copy.status, model.status)


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="p and horizon must be at least 1 and q at least 0, got p=0"):
        GARCH(p=0)
    with pytest.raises(ValueError, match="kind must be one of garch, gjr, egarch, got 'arch'"):
        GARCH(kind="arch")
    with pytest.raises(ValueError, match="variance of egarch with noise t is infinite"):
        GARCH(kind="egarch", noise="t", horizon=2)
    with pytest.raises(ValueError, match="not fitted yet"):
        GARCH()(torch.zeros(1, 5, 1))
    with pytest.raises(ValueError, match=r"series must be \(T, C, \*S\), got shape \(5,\)"):
        GARCH().fit(torch.zeros(5))
    with pytest.raises(ValueError, match="alpha needs 2 lags"):
        GARCH(p=2).set(omega=1.0, alpha=[0.1], beta=[0.8])
    model = GARCH().fit(simulate(100, 2))
    with pytest.raises(ValueError, match=r"fitted to \(C, \*S\) = \(2,\), got \(3,\)"):
        model(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match=r"past must be \(B, T, C, \*S\)"):
        model(torch.zeros(5, 2))


@pytest.mark.parametrize(
    "bad", [torch.ones(100, 2), torch.full((100, 1), torch.nan), torch.randn(5, 1), torch.zeros(0, 1)]
)
def test_a_field_without_a_usable_series_is_reported(bad):
    model = GARCH().fit(bad)
    assert not {STATUS[i] for i in model.status.flatten().tolist()} & {"converged", "at the edge", "not converged"}
    assert model.omega.isnan().all() and model.omega.shape == bad.shape[1:]


@pytest.mark.parametrize("kind", ["garch", "egarch"])
def test_a_mean_far_from_zero_changes_nothing_but_the_mean(kind):
    e, h, drawn = 0.0, 1.0, []
    noise = torch.randn(800, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for z in noise.tolist():
        h = 0.05 + 0.1 * e * e + 0.85 * h
        e = h**0.5 * z
        drawn.append(e)
    x = torch.tensor(drawn, dtype=torch.float64)[:, None]
    near, far = (GARCH(kind=kind, mean="constant").fit(series) for series in (x, x + 1e5))
    for name in ("omega", "alpha", "beta"):
        torch.testing.assert_close(getattr(near, name), getattr(far, name), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(far.mu - 1e5, near.mu, rtol=0, atol=1e-4)


def test_a_short_or_flat_past_is_forecast_with_a_constant_mean():
    model = GARCH(kind="egarch", mean="constant").set(mu=1.0, omega=-0.05, alpha=[0.2], gamma=[-0.1], beta=[0.9])
    usual = torch.tensor(-0.05 / 0.1, dtype=torch.float64).exp()
    for past in (torch.full((1, 1, 1), 2.0), torch.ones(1, 6, 1)):
        h = model.variance(past.double())
        assert h.isfinite().all() and 0.2 * usual < h.item() < 5 * usual
    # Over many short pasts the forecast of garch is about the usual variance: it was biased low.
    model = GARCH(mean="constant").set(omega=0.05, alpha=[0.1], beta=[0.85])
    past = torch.randn(20000, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert model.variance(past).mean().item() == pytest.approx(1.0, abs=0.02)


def test_values_without_meaning_are_refused():
    with pytest.raises(ValueError, match="omega must be 0 or more"):
        GARCH().set(omega=-1, alpha=[0.1], beta=[0.8])
    with pytest.raises(ValueError, match="nu must be a number above 2"):
        GARCH(noise="t").set(omega=0.1, alpha=[0.1], beta=[0.8])


def test_the_state_of_another_kind_is_refused():
    series = torch.randn(300, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = GARCH(kind="gjr", noise="t").fit(series)
    for other in (GARCH(kind="egarch", noise="t"), GARCH(kind="gjr"), GARCH(kind="gjr", noise="t", mean="constant")):
        with pytest.raises(ValueError, match="of a GARCH with p=1, q=1, kind=gjr, noise=t, mean=zero, this one has"):
            other.load_state_dict(model.state_dict())
    fresh = copy.deepcopy(GARCH(kind="gjr", noise="t"))
    assert fresh.state_dict().keys() == model.state_dict().keys()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.variance(series[None]), model.variance(series[None]))


def test_a_variance_beyond_all_numbers_is_missing():
    model = GARCH(kind="egarch", horizon=2).set(omega=-0.01, alpha=[0.4], gamma=[-0.1], beta=[0.99])
    series = torch.cat([torch.ones(20, 1), torch.zeros(300, 1), torch.ones(5, 1)]).double()
    assert model.filter(series)[:321].isfinite().all()
    assert model.filter(series)[321:].isnan().all()
    forecast = model(series[None])
    assert forecast.mean.isnan().all() and forecast.stddev.isnan().all()
