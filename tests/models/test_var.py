"""Vector autoregressions against statsmodels, scikit-learn, plain loops and a world whose best error is known."""

import numpy as np
import pytest
import torch
from scipy.stats import f, kstest
from sklearn.linear_model import LinearRegression
from statsmodels.tsa.api import VAR as Reference

from stlib.data.worlds import GraphDiffusion
from stlib.models import _lagged as lagged
from stlib.models.var import VAR, lag_criteria

LAGS, HORIZON = 3, 5
PERS = ("field", "place", "series")


def record(steps=300, variables=4, seed=0):
    """A stable system with correlated noise, far from zero, of unequal scales."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, variables)) @ rng.normal(size=(variables, variables))
    for t in range(2, steps):
        x[t] += 0.5 * x[t - 1] - 0.2 * x[t - 2] + 0.3 * np.roll(x[t - 1], 1)
    return torch.from_numpy(x * 10.0 ** np.arange(-1, variables - 1) + 50)


def holes(series, share, seed=1):
    gone = torch.rand(series.shape, generator=torch.Generator().manual_seed(seed)) < share
    return series.masked_fill(gone, torch.nan)


@pytest.fixture(scope="module")
def pair():
    series = record()
    return VAR(lags=LAGS, horizon=HORIZON).fit(series), Reference(series.numpy()).fit(LAGS), series


def near(ours, theirs, **tolerance):
    np.testing.assert_allclose(ours, theirs, **({"rtol": 1e-8, "atol": 1e-10} | tolerance))


def test_coefficients_and_noise_are_those_of_statsmodels(pair):
    ours, theirs, _ = pair
    near(ours.coefficients[0], theirs.coefs)
    near(ours.intercept[0], theirs.intercept)
    near(ours.noise[0], theirs.sigma_u)
    assert int(ours.rows) == theirs.nobs


def test_forecasts_and_their_covariance_are_those_of_statsmodels(pair):
    ours, theirs, series = pair
    near(ours(series[None])[0], theirs.forecast(series[-LAGS:].numpy(), HORIZON))
    near(ours.forecast_covariance()[0], theirs.mse(HORIZON))
    _, low, high = theirs.forecast_interval(series[-LAGS:].numpy(), HORIZON, alpha=0.1)
    forecast = ours.distribution(series[None])
    near(forecast.icdf(torch.tensor(0.05))[0], low, rtol=1e-6)
    near(forecast.icdf(torch.tensor(0.95))[0], high, rtol=1e-6)


def test_impulse_responses_and_stability_are_those_of_statsmodels(pair):
    ours, theirs, _ = pair
    reference = theirs.irf(8)
    near(ours.responses(8)[0], reference.irfs)
    near(ours.responses(8, orthogonal=True)[0], reference.orth_irfs)
    near(ours.spectral_radius()[0], 1 / abs(theirs.roots).min())


@pytest.mark.parametrize("test", ["f", "wald"])
def test_causality_of_every_pair_is_that_of_statsmodels(pair, test):
    ours, theirs, _ = pair
    found = ours.causality(test=test)
    for i in range(4):
        for j in range(4):
            if i == j:
                assert found.p_value[0, i, j].isnan()
                assert found.statistic[0, i, j].isnan()
                continue
            reference = theirs.test_causality(i, j, kind=test)
            near(found.statistic[0, i, j], reference.test_statistic, rtol=1e-7)
            if test == "wald":
                near(found.p_value[0, i, j], reference.pvalue, rtol=1e-6, atol=1e-12)
                continue
            freedom = 300 - LAGS - 4 * LAGS - 1
            near(found.p_value[0, i, j], f.sf(reference.test_statistic, LAGS, freedom), rtol=1e-6, atol=1e-12)
            near(reference.pvalue, f.sf(float(found.statistic[0, i, j]), LAGS, 4 * freedom), rtol=1e-6, atol=1e-12)


def test_it_keeps_its_level_in_short_records():
    """61 coefficients for 77 steps, 380 pairs in each of 100 systems; nu K in place of nu gives 0.09 and 0.009."""
    noise = torch.randn(80, 20, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = VAR(lags=3, horizon=1, per="place").fit(noise)
    p_value, wald = (model.causality(test=test).p_value for test in ("f", "wald"))
    pairs = p_value[~p_value.isnan()]
    assert len(pairs) == 100 * 380
    assert abs(float((pairs < 0.05).double().mean()) - 0.05) < 0.01
    assert abs(float((pairs < 0.001).double().mean()) - 0.001) < 0.001
    alarms = p_value.nan_to_num(1.0).flatten(1).amin(1) < 0.05 / 380  # what Holm asks of the smallest
    assert float(alarms.double().mean()) < 0.1
    assert float((wald[~wald.isnan()] < 0.05).double().mean()) > 0.08


def test_criteria_are_those_of_statsmodels():
    series = record(steps=120)
    ours, theirs = lag_criteria(series, max_lags=6), Reference(series.numpy()).select_order(6).ics
    for name in ("aic", "bic", "hqic"):
        near(getattr(ours, name)[:, 0], theirs[name])


def test_p_values_without_any_effect_are_uniform():
    noise = torch.randn(200, 4, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p_value = VAR(lags=2, horizon=1, per="place").fit(noise).causality().p_value
    assert p_value.shape == (60, 4, 4)
    alone = p_value[:, 0, 1]  # one of each system: the others share their noise
    assert kstest(alone, "uniform").pvalue > 0.01
    assert abs(float((p_value < 0.05).double().sum() / (60 * 12)) - 0.05) < 0.02


def test_ridge_is_least_squares_with_rows_that_pull_to_zero():
    series, penalty, own = record(steps=40), 0.3, 0.2
    model = VAR(lags=2, horizon=1, ridge=penalty, own=own).fit(series)
    x = np.hstack([series[1:-1], series[:-2]])
    y = series[2:].numpy()
    centred, left, freedom = x - x.mean(0), [], []
    for i in range(4):
        share = np.where(np.arange(8) % 4 == i, own, 1.0)
        pull = np.diag(np.sqrt(penalty * share * (centred**2).sum(0)))
        rows, target = np.vstack([centred, pull]), np.concatenate([y[:, i] - y[:, i].mean(), np.zeros(8)])
        slope = np.linalg.lstsq(rows, target, rcond=None)[0]
        near(model.coefficients[0, :, i].flatten(), slope)
        near(model.intercept[0, i], y[:, i].mean() - slope @ x.mean(0), rtol=1e-6)
        hat = centred @ np.linalg.solve(rows.T @ rows, centred.T)
        residual = y[:, i] - y[:, i].mean() - centred @ slope
        left.append(residual)
        freedom.append(len(y) - 1 - np.trace(hat))
    near(model.freedom[0], freedom)
    near(model.noise[0], np.array(left) @ np.array(left).T / np.sqrt(np.outer(freedom, freedom)))


def test_a_penalty_means_the_same_in_any_units():
    series, units = record(), torch.tensor([1.0, 1e3, 1e-3, 7.0], dtype=torch.float64)
    plain, other = (VAR(lags=2, horizon=3, ridge=0.1, own=0.5).fit(x) for x in (series, 5 + units * series))
    torch.testing.assert_close(other(5 + units * series[None]), 5 + units * plain(series[None]))


def test_a_large_penalty_on_the_others_leaves_an_autoregression_of_each():
    series = record()
    alone = VAR(lags=2, horizon=3, per="series").fit(series)
    together = VAR(lags=2, horizon=3, ridge=1e7, own=0.0).fit(series)
    torch.testing.assert_close(together(series[None]), alone(series[None]), rtol=1e-5, atol=1e-5)
    nothing = VAR(lags=2, horizon=3, ridge=1e9).fit(series)
    torch.testing.assert_close(nothing(series[None])[0, 0], series[2:].mean(0), rtol=1e-5, atol=1e-5)


def test_systems_of_places_and_series_are_those_of_each_alone():
    series = record(variables=6).reshape(300, 2, 3)
    places, alone = (VAR(lags=2, horizon=4, per=per).fit(series) for per in ("place", "series"))
    for n in range(3):
        one = VAR(lags=2, horizon=4).fit(series[:, :, n])
        near(places.coefficients[n], one.coefficients[0])
        near(places(series[None])[..., n], one(series[None, :, :, n]))
        near(places.distribution(series[None]).stddev[..., n], one.distribution(series[None, :, :, n]).stddev)
    for c in range(2):
        one = LinearRegression().fit(np.hstack([series[1:-1, c, :1], series[:-2, c, :1]]), series[2:, c, 0])
        near(alone.coefficients[3 * c].flatten(), one.coef_)
    assert places.causality().p_value.shape == (3, 2, 2)


def test_steps_with_a_gap_are_left_out_of_the_fit():
    series = holes(record(), 0.02)
    model = VAR(lags=2, horizon=1).fit(series)
    rows = np.hstack([series[2:], series[1:-1], series[:-2]])
    rows = rows[~np.isnan(rows).any(1)]
    assert int(model.rows) == len(rows) < 280
    reference = LinearRegression().fit(rows[:, 4:], rows[:, :4])
    near(model.coefficients[0].movedim(0, 1).flatten(1), reference.coef_)
    near(model.intercept[0], reference.intercept_, rtol=1e-7)


def test_blocks_and_the_way_without_gaps_give_the_same_sums(monkeypatch):
    x = record(steps=50).reshape(50, 2, 2)
    quick = lagged._sums(x, 3)
    gappy = torch.cat([x, torch.full((1, 2, 2), torch.nan, dtype=x.dtype)])  # one more row, that is not complete
    for block in (2**24, 40):
        monkeypatch.setattr(lagged, "BLOCK", block)
        for one, other in zip(quick, lagged._sums(gappy, 3), strict=True):
            torch.testing.assert_close(one, other)


def test_a_gap_of_the_past_is_forecast_from_the_steps_before_it():
    series = record()
    model = VAR(lags=2, horizon=3).fit(series)
    past = series[None, -10:].clone()
    past[0, 6, 1] = past[0, 9, 2] = torch.nan
    filled = past.clone()
    filled[0, 6, 1] = model(filled[:, :6])[0, 0, 1]
    filled[0, 9, 2] = model(filled[:, :9])[0, 0, 2]
    torch.testing.assert_close(model(past), model(filled))
    early = past.clone()
    early[0, 0, 3] = torch.nan  # before any forecast can be made: the first observed value
    early[0, 1, 3], filled[0, :2, 3] = past[0, 1, 3], past[0, 1, 3]
    filled[0, 6, 1] = model(filled[:, :6])[0, 0, 1]
    filled[0, 9, 2] = model(filled[:, :9])[0, 0, 2]
    torch.testing.assert_close(model(early), model(filled))


def test_a_variable_without_any_past_is_missing_and_counts_as_its_mean():
    series = record()
    model = VAR(lags=2, horizon=3).fit(series)
    past, mean = series[None, -5:].clone(), series[None, -5:].clone()
    past[..., 1] = torch.nan
    for t in range(5):  # its mean at first, then its forecast
        mean[0, t, 1] = series[:, 1].mean() if t < 2 else model(mean[:, :t])[0, 0, 1]
    forecast = model(past)
    assert forecast[..., 1].isnan().all()
    torch.testing.assert_close(forecast[..., [0, 2, 3]], model(mean)[..., [0, 2, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_and_constant_variables_spoil_nothing(dtype):
    series = record().to(dtype)
    odd = torch.cat([series, torch.full((300, 1), torch.nan, dtype=dtype), torch.full((300, 1), 0.1, dtype=dtype)], 1)
    for options in ({"ridge": 1.0, "own": 0.0}, {"ridge": 1.0, "own": 0.5}, {"ridge": 1.0}):
        plain, model = (VAR(lags=2, horizon=3, **options).fit(x) for x in (series, odd))
        torch.testing.assert_close(model(odd[None])[..., :4], plain(series[None]))
        torch.testing.assert_close(model.noise[0, :4, :4], plain.noise[0])
    plain, model = (VAR(lags=2, horizon=3).fit(x) for x in (series, odd))
    forecast = model(odd[None])
    assert forecast.dtype == dtype
    assert forecast[..., 4].isnan().all()
    assert (forecast[..., 5] == forecast.new_tensor(0.1)).all()
    torch.testing.assert_close(forecast[..., :4], plain(series[None]))
    spread, expected = model.distribution(odd[None]).stddev, plain.distribution(series[None]).stddev
    torch.testing.assert_close(spread[..., :4], expected)
    assert spread[..., 4].isnan().all() and (spread[..., 5] == 0).all()
    p_value = model.causality().p_value[0]
    torch.testing.assert_close(p_value[:4, :4], plain.causality().p_value[0], equal_nan=True)
    assert p_value[4:].isnan().all() and p_value[:, 4:].isnan().all()
    for one, other in zip(lag_criteria(odd, max_lags=3), lag_criteria(series, max_lags=3), strict=True):
        torch.testing.assert_close(one, other)


def test_a_group_that_cannot_be_fitted_is_missing_and_spoils_no_other():
    series = torch.stack([record(variables=2)] * 4, 2)  # (T, 2, 4 places)
    series[:, 1, 1] = series[:, 0, 1]  # a copy
    series[:-5, 0, 2] = torch.nan  # too short
    series[:, :, 3] = torch.nan
    model = VAR(lags=2, horizon=3, per="place").fit(series)
    forecast = model(series[None])
    near(forecast[..., 0], VAR(lags=2, horizon=3).fit(series[..., 0])(series[None, ..., 0]))
    assert forecast[..., 1:].isnan().all()
    assert model.spectral_radius().isnan().tolist() == [False, True, True, True]
    assert model.causality().p_value[1:].isnan().all()
    assert VAR(lags=2, horizon=3, ridge=1e-20, per="place").fit(series)(series[None])[..., 1].isnan().all()
    held = VAR(lags=2, horizon=3, ridge=0.1, per="place").fit(series)
    assert held(series[None])[..., 1].isfinite().all()


def test_an_explosive_series_is_seen_by_its_radius():
    growth = 1.05 ** torch.arange(100, dtype=torch.float64)
    noise = torch.randn(100, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    series = noise.clone()
    series[..., 1] = noise[..., 1] + 10 * growth[:, None]
    radius = VAR(lags=1, horizon=2, per="series").fit(series).spectral_radius()
    assert radius[0] < 0.5
    near(radius[1], 1.05, rtol=0.01)


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("late", [1, 2])
def test_what_changes_only_in_the_last_steps_is_no_regressor_where_it_does_not_change(late, gap):
    x = record(steps=100, variables=2).numpy()
    x[:, 0] = 0.0
    x[-late:, 0] = np.arange(1.0, late + 1)
    series = torch.from_numpy(np.vstack([np.full((1, 2), np.nan), x]) if gap else x)
    model = VAR(lags=late, horizon=1).fit(series)
    assert (model.coefficients[0, -1, :, 0] == 0).all()
    rows = np.column_stack([np.ones(100 - late), *[x[late - k : 100 - k] for k in range(1, late + 1)]])
    held = np.ptp(rows, axis=0) > 0
    held[0] = True
    beta = np.linalg.lstsq(rows[:, held], x[late:], rcond=None)[0]
    now = np.concatenate([[1.0], *[x[100 - k] for k in range(1, late + 1)]])[held]
    near(model(series[None])[0, 0], now @ beta, rtol=1e-6, atol=1e-9)
    near(model.freedom[0], 100 - late - held.sum())
    ridge = VAR(lags=late, horizon=1, ridge=1e-9).fit(series)
    near(ridge(series[None])[0, 0], now @ beta, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("gap", "steps"), [(False, 3000), (True, 3000), (False, 20_000)])
def test_a_smooth_series_keeps_its_digits(gap, steps):
    noise = np.random.default_rng(0).standard_normal((steps, 2))
    x = noise.cumsum(0).cumsum(0)
    theirs = Reference(x).fit(3)
    series = torch.from_numpy(np.vstack([x, np.full((1, 2), np.nan)]) if gap else x)
    both = VAR(lags=3, horizon=1, per="place").fit(
        torch.stack([torch.from_numpy(noise)[: len(series)], series[:steps]], 2)
    )
    near(both.noise[1], theirs.sigma_u, rtol=1e-6)
    near(both.noise[0], Reference(noise).fit(3).sigma_u)
    odd = torch.cat([series, torch.full((len(series), 1), torch.nan), torch.full((len(series), 1), 0.1)], 1)
    near(VAR(lags=3, horizon=1).fit(odd).noise[0, :2, :2], theirs.sigma_u, rtol=1e-6)
    ours = VAR(lags=3, horizon=1).fit(series)
    near(ours.noise[0], theirs.sigma_u, rtol=1e-6)
    near(ours.coefficients[0], theirs.coefs, rtol=1e-6, atol=1e-6)
    near(ours.causality().statistic[0, 0, 1], theirs.test_causality(0, 1).test_statistic, rtol=1e-4)
    smoother = x[:3000].cumsum(0)
    near(VAR(lags=4, horizon=1).fit(torch.from_numpy(smoother)).noise[0], Reference(smoother).fit(4).sigma_u, rtol=1e-6)
    criteria = lag_criteria(torch.from_numpy(x), max_lags=4)
    for name, values in Reference(x).select_order(4).ics.items():
        if name != "fpe":
            near(getattr(criteria, name)[:, 0], values, atol=1e-6)


def test_a_last_step_far_from_the_others_costs_no_digits():
    x = np.random.default_rng(0).standard_normal((300, 2))
    x[-1, 0] = 1e7  # enters the mean of all steps, and as a regressor no row
    model = VAR(lags=1, horizon=1).fit(torch.from_numpy(x))
    centred = x[:-1] - x[:-1].mean(0)
    near(model.coefficients[0, 0, 1], np.linalg.lstsq(centred, x[1:, 1], rcond=None)[0], rtol=1e-11)


def test_an_order_that_leaves_residuals_of_less_than_full_rank_is_no_candidate():
    noise = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    criteria = lag_criteria(noise, max_lags=6)  # 24 rows: 4 lags leave 7 more than coefficients, 5 leave 3
    assert criteria.bic[:, 0].isfinite().tolist() == [True] * 5 + [False] * 2
    assert criteria.bic.nan_to_num(nan=torch.inf).argmin(0) == 0
    theirs = [Reference(noise.numpy()[6 - p :]).fit(p).bic for p in range(1, 5)]
    near(criteria.bic[1:5, 0], theirs)


def test_criteria_of_variables_that_determine_one_another_are_missing():
    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    copies, total = torch.cat([x, x[:, :1]], 1), torch.cat([x, x.sum(1, keepdim=True)], 1)
    for bad in (copies, total, total + 1e4, total.float(), 0 * x, 0 * x + 0.1, torch.nan * x):
        for values in lag_criteria(bad, max_lags=3):
            assert values.isnan().all()
    late = torch.cat([x[1:], x[:-1, :1]], 1)  # known exactly from one lag on
    assert lag_criteria(late, max_lags=3).aic[:, 0].isfinite().tolist() == [True, False, False, False]
    ends = torch.cat([x[:, :1], x[:, :1]], 1)
    ends[0, 1] = ends[-1, 1] = 3.0  # copies in all rows of lags 1 and 2, not now and at lag 3
    assert lag_criteria(ends, max_lags=3).aic[:, 0].isfinite().tolist() == [True, False, False, False]
    both = lag_criteria(torch.stack([x, x[:, :1].expand(-1, 2)], 2), max_lags=3, per="place").aic
    near(both[:, 0], lag_criteria(x, max_lags=3).aic[:, 0])
    assert both[:, 1].isnan().all()


def test_uncorrelated_pushes_of_noise_without_full_rank_are_missing():
    x = torch.randn(5, 2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = VAR(lags=1, horizon=1, per="place").fit(x)  # 1 degree of freedom for 2 variables
    assert model.responses(2).isfinite().all()
    assert model.responses(2, orthogonal=True).isnan().all()
    series = record(variables=2)
    odd = torch.cat([torch.full((300, 1), 3.0), torch.full((300, 1), torch.nan), series], 1)
    model, plain = VAR(lags=2, horizon=1).fit(odd), VAR(lags=2, horizon=1).fit(series)
    answer = model.responses(3, orthogonal=True)[0]
    near(answer[:, 2:, 2:], plain.responses(3, orthogonal=True)[0])
    assert answer[:, 1].isnan().all() and answer[:, :, 1].isnan().all()
    assert (answer[:, 0, [0, 2, 3]] == 0).all() and (answer[:, [0, 2, 3], 0] == 0).all()


def test_what_cannot_be_fitted_has_no_spread_and_no_answers():
    good = record(variables=2)
    series = torch.stack([good, torch.cat([good[:, :1], good[:, :1]], 1)], 2)  # the second place: copies
    model = VAR(lags=1, horizon=3, per="place").fit(series)
    for values in (model.forecast_covariance(), model.responses(2), model.responses(2, orthogonal=True)):
        assert values[0].isfinite().all() and values[1].isnan().all()
    dead = VAR(lags=1, horizon=3).fit(torch.cat([good, torch.full((300, 1), torch.nan)], 1)).forecast_covariance()[0]
    near(dead[:, :2, :2], VAR(lags=1, horizon=3).fit(good).forecast_covariance()[0])
    assert dead[:, 2].isnan().all() and dead[:, :, 2].isnan().all()


def test_one_degree_of_freedom_is_enough():
    series = record(steps=12)  # 10 rows, 9 coefficients
    model, theirs = VAR(lags=2, horizon=1).fit(series), Reference(series.numpy()).fit(2)
    assert (model.freedom == 1).all()
    near(model.noise[0], theirs.sigma_u, rtol=1e-6, atol=1e-9)
    near(model.coefficients[0], theirs.coefs, rtol=1e-6, atol=1e-8)


def test_an_empty_batch_and_whole_numbers():
    series = record().round()
    model = VAR(lags=2, horizon=3).fit(series)
    assert model(series[None, :5][:0]).shape == (0, 3, 4)
    assert model.distribution(series[None, :5][:0]).stddev.shape == (0, 3, 4)
    whole = model(series[None].long())
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole, model(series[None]))


def test_in_a_world_of_known_edges_a_long_record_comes_near_the_best_possible_error():
    world = GraphDiffusion(nodes=8)
    series = torch.from_numpy(world.simulate(20_000, seed=0).values).double()
    model = VAR(lags=3, horizon=4).fit(series[:19_000])
    np.testing.assert_allclose(model.coefficients[0], world.coefficients, atol=0.04)
    near(model.spectral_radius()[0], 0.95, rtol=0.02)
    windows = series[19_000:].unfold(0, 7, 1).movedim(-1, 1)
    best = world.optimal_forecaster(4)(windows[:, :3])
    error = (model(windows[:, :3]) - windows[:, 3:]).square().mean() / (best - windows[:, 3:]).square().mean()
    assert 0.99 < error < 1.02
    truth = torch.from_numpy(world.adjacency > 0).fill_diagonal_(False)
    found = model.causality().p_value[0] < 0.05 / 56
    assert (found & truth).sum() / truth.sum() > 0.95
    assert (found & ~truth).sum() <= 1


@pytest.mark.parametrize("per", PERS)
@pytest.mark.parametrize("space", [(), (4,), (2, 3)])
def test_any_space_goes_in_and_comes_out(per, space):
    series = torch.randn(80, 2, *space, generator=torch.Generator().manual_seed(0))
    model = VAR(lags=2, horizon=HORIZON, per=per).fit(series)
    past = torch.stack([series[:9], series[20:29]])
    assert model(past).shape == (2, HORIZON, 2, *space)
    assert model(past).dtype == torch.float32
    torch.testing.assert_close(model(past)[1:], model(past[1:, -2:]))  # one window, the last steps only
    forecast = model.distribution(past)
    assert forecast.sample((3,)).shape == (3, 2, HORIZON, 2, *space)
    torch.testing.assert_close(forecast.mean, model(past))


def test_a_fresh_model_takes_the_state_of_a_fitted_one():
    series = record()
    model = VAR(lags=2, horizon=3).fit(series)
    copy = VAR(lags=2, horizon=3)
    copy.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(copy.distribution(series[None]).stddev, model.distribution(series[None]).stddev)
    torch.testing.assert_close(copy.causality().p_value, model.causality().p_value, equal_nan=True)
    other = VAR(lags=3, horizon=3)
    other.load_state_dict(model.state_dict(), assign=True)
    with pytest.raises(ValueError, match="fit with lags=2, got lags=3"):
        other(series[None])


def test_gradients_pass_through_a_forecast():
    series = record()
    model = VAR(lags=2, horizon=2).fit(series)
    past = series[None, -3:].clone().requires_grad_()
    model(past)[0, 1, 0].backward()
    near(past.grad[0, -1], model.responses(2)[0, 2, 0])


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match='per must be "field"'):
        VAR(lags=1, horizon=1, per="grid")
    for bad in ({"lags": 0}, {"horizon": 0}, {"ridge": -1.0}, {"own": 2.0}, {"ridge": torch.nan}, {"ridge": torch.inf}):
        with pytest.raises(ValueError, match="needs lags and horizon"):
            VAR(**({"lags": 1, "horizon": 1} | bad))
    with pytest.raises(ValueError, match="T >= 4 for 2 lags"):
        VAR(lags=2, horizon=1).fit(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="2 infinite values"):
        VAR(lags=2, horizon=1).fit(torch.tensor([[0.0], [torch.inf], [1.0], [torch.inf], [0.0]]))
    with pytest.raises(
        ValueError, match="more than 9 complete steps and no variables that are nearly copies.*ridge above 0"
    ):
        VAR(lags=2, horizon=1).fit(record(steps=9))
    with pytest.raises(
        ValueError, match="under the penalty, intercept included: 4;.*at most 4 are complete.*larger ridge$"
    ):
        VAR(lags=2, horizon=1, ridge=1e-9).fit(record(steps=6))
    with pytest.raises(ValueError, match="intercept included: 3;.*at most 3 are complete.*own above 0$"):
        VAR(lags=2, horizon=1, ridge=1e9, own=0.0).fit(record(steps=5))
    with pytest.raises(ValueError, match="one variable is observed at 2"):
        rare = record()
        rare[2:, 0] = torch.nan
        VAR(lags=2, horizon=1).fit(rare)
    model = VAR(lags=2, horizon=1)
    with pytest.raises(ValueError, match="not fitted yet"):
        model(torch.zeros(1, 5, 4))
    model.fit(record())
    with pytest.raises(ValueError, match="at least 2 time steps"):
        model(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match=r"\(1, 3\) groups and variables"):
        model(torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match="past holds 1 infinite"):
        model(torch.zeros(1, 5, 4).index_put([torch.tensor(i) for i in (0, 2, 1)], torch.tensor(-torch.inf)))
    with pytest.raises(ValueError, match="steps must be"):
        model.responses(-1)
    with pytest.raises(ValueError, match='"f" or "wald"'):
        model.causality(test="t")
    with pytest.raises(ValueError, match="ridge=0.1"):
        VAR(lags=1, horizon=1, ridge=0.1).fit(record()).causality()
    with pytest.raises(ValueError, match="max_lags"):
        lag_criteria(record(), max_lags=0)
