"""ARIMA against statsmodels, scipy and plain loops."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.diagnostic import acorr_ljungbox
from statsmodels.tsa.statespace.sarimax import SARIMAX

from stlib.data import datasets
from stlib.models._arima_fit import filter_size
from stlib.models.arima import ARIMA, STATUS, jarque_bera, ljung_box

KINDS = [  # order, seasonal, season, trend
    ((1, 0, 1), (0, 0, 0), 1, "none"),
    ((2, 0, 2), (0, 0, 0), 1, "mean"),
    ((0, 1, 2), (0, 0, 0), 1, "drift"),
    ((3, 2, 0), (0, 0, 0), 1, "none"),
    ((1, 0, 1), (1, 0, 1), 4, "mean"),
    ((0, 1, 1), (0, 1, 1), 4, "none"),
    ((1, 0, 0), (0, 1, 1), 12, "drift"),
    ((0, 0, 0), (0, 0, 0), 1, "mean"),
]


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def walks(steps=90, series=3, seed=0):
    return (noise(steps, series, seed=seed).cumsum(0) + 5)[:, None]


def with_holes(series, share=0.15, seed=1):
    rate = torch.rand(series.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(rate < share, torch.nan, series)


def coefficient(model, name, place):
    return float(model.coefficients[model.names.index(name)].flatten()[place])


def reference(model, y, place, regressors=None, **options):
    """statsmodels' model of one series, and our estimates in its order."""
    columns = [] if regressors is None else list(regressors.T)
    if model.trend != "none":
        columns = [np.ones(len(y)) if model.trend == "mean" else np.arange(len(y)), *columns]
    seasonal = (*model.seasonal, model.season if any(model.seasonal) else 0)
    exog = np.stack(columns, 1) if columns else None
    their = SARIMAX(y, exog=exog, order=model.order, seasonal_order=seasonal, trend="n", **options)
    own = sum(model.orders.sizes)
    ours = model.coefficients.flatten(1)[:, place]
    ar, ma, seasonal_ar, seasonal_ma = ours[:own].split(model.orders.sizes)
    return their, np.concatenate([ours[own:], ar, ma, seasonal_ar, seasonal_ma, model.variance.flatten()[[place]]])


@pytest.fixture(scope="module", params=range(len(KINDS)), ids=[str(kind) for kind in KINDS])
def fitted(request):
    order, seasonal, season, trend = KINDS[request.param]
    series = walks(seed=request.param)
    model = ARIMA(order=order, seasonal=seasonal, season=season, trend=trend, horizon=6)
    return model.fit(series), series


def test_likelihood_is_that_of_statsmodels_at_the_same_estimates(fitted):
    model, series = fitted
    for place in range(3):
        their, estimates = reference(model, series[:, 0, place].numpy(), place, simple_differencing=True)
        their.ssm.tolerance = 0  # no steady state: exact to the end
        assert their.loglike(estimates) == pytest.approx(float(model.loglik[0, place]), abs=1e-6)
        assert their.nobs == model.steps[0, place]


def test_optimum_is_at_least_that_of_statsmodels(fitted):
    model, series = fitted
    their, estimates = reference(model, series[:, 0, 0].numpy(), 0, simple_differencing=True)
    assert their.fit(estimates, disp=0).llf <= float(model.loglik[0, 0]) + 0.01
    assert their.fit(disp=0).llf <= float(model.loglik[0, 0]) + 0.01


def test_forecasts_and_their_spread_are_those_of_statsmodels(fitted):
    model, series = fitted
    found = model.distribution(series[None])
    for place in range(3):
        y = series[:, 0, place].numpy()
        their, estimates = reference(model, y, place, use_exact_diffuse=True)
        future = None
        if model.trend != "none":
            future = np.ones(6) if model.trend == "mean" else len(y) + np.arange(6)
        forecast = their.smooth(estimates).get_forecast(6, exog=None if future is None else future[:, None])
        np.testing.assert_allclose(found.mean[0, :, 0, place], forecast.predicted_mean, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(found.stddev[0, :, 0, place], forecast.se_mean, rtol=1e-6)


def test_with_gaps_likelihood_forecasts_and_residuals_are_those_of_statsmodels(fitted):
    kind, series = fitted
    series = with_holes(series)
    series[0] = series[1] = series[-1] = 5.0
    series[0, 0, 1] = series[-1, 0, 2] = torch.nan  # the first value unknown, and the last
    model = ARIMA(order=kind.order, seasonal=kind.seasonal, season=kind.season, trend=kind.trend, horizon=6)
    model.fit(series)
    found, residuals = model.distribution(series[None]), model.residuals(series)
    d = len(model.weights)
    for place in range(3):
        y = series[:, 0, place].numpy()
        their, estimates = reference(model, y, place, use_exact_diffuse=True)
        their.ssm.tolerance = 0
        result = their.smooth(estimates)
        # statsmodels counts log(2 pi) / 2 for each of the d diffuse steps.
        assert result.llf + d * np.log(2 * np.pi) / 2 == pytest.approx(float(model.loglik[0, place]), abs=1e-5)
        future = None
        if model.trend != "none":
            future = np.ones(6) if model.trend == "mean" else len(y) + np.arange(6)
        forecast = result.get_forecast(6, exog=None if future is None else future[:, None])
        np.testing.assert_allclose(found.mean[0, :, 0, place], forecast.predicted_mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.stddev[0, :, 0, place], forecast.se_mean, rtol=1e-5)
        if not np.isnan(y[:d]).any():
            errors = np.where(np.isnan(y), np.nan, result.filter_results.standardized_forecasts_error[0])
            np.testing.assert_allclose(residuals[d:, 0, place], errors[d:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gaps", [False, True])
def test_regressors_are_fitted_and_forecast_as_by_statsmodels(gaps):
    z = torch.stack([noise(96, seed=3), torch.arange(96.0).double().mul(0.3).sin()], 1)
    series = walks(steps=90) + (z[:90] @ torch.tensor([2.0, -3.0]).double())[:, None, None]
    series = with_holes(series, 0.1) if gaps else series
    series[0] = 5.0
    model = ARIMA(order=(1, 1, 1), horizon=6).fit(series, z[:90])
    assert model.names == ("ar1", "ma1", "x1", "x2")
    found = model.distribution(series[None], z)
    batched = model(series[None], z[None])
    torch.testing.assert_close(batched, found.mean)
    for place in range(3):
        their, estimates = reference(model, series[:, 0, place].numpy(), place, z[:90].numpy(), use_exact_diffuse=True)
        their.ssm.tolerance = 0
        result = their.smooth(estimates)
        assert result.llf + np.log(2 * np.pi) / 2 == pytest.approx(float(model.loglik[0, place]), abs=1e-5)
        forecast = result.get_forecast(6, exog=z[90:].numpy())
        np.testing.assert_allclose(found.mean[0, :, 0, place], forecast.predicted_mean, rtol=1e-6)
        np.testing.assert_allclose(found.stddev[0, :, 0, place], forecast.se_mean, rtol=1e-5)
        assert their.fit(estimates, disp=0).llf <= result.llf + 0.01


@pytest.mark.parametrize("gaps", [False, True])
def test_standard_errors_are_those_of_statsmodels(gaps):
    z = noise(200, 1, seed=5)
    shocks = noise(201, 2)
    series = (shocks[1:] + 0.6 * shocks[:-1] + 2 * z)[:, None]
    series = with_holes(series, 0.1) if gaps else series
    model = ARIMA(order=(1, 0, 1), trend="mean", horizon=1).fit(series, z)
    errors = model.standard_errors(series, z)
    for place in range(2):
        their, estimates = reference(model, series[:, 0, place].numpy(), place, z.numpy())
        reported = their.smooth(estimates, cov_type="approx", cov_kwds={"approx_centered": True}).bse
        np.testing.assert_allclose(errors[[2, 3, 0, 1], 0, place], reported[:4], rtol=5e-3)


def test_standard_errors_of_an_estimate_at_the_edge_are_missing():
    series = noise(100, 20).diff(dim=0)[:, None]  # differenced once too often: a unit root of the moving average
    model = ARIMA(order=(0, 0, 1), horizon=1).fit(series)
    edge = model.coefficients[0, 0] < -1 + 1e-5
    assert 5 < edge.sum() < 20
    errors = model.standard_errors(series)[0, 0]
    assert errors[edge].isnan().all()
    assert (errors[~edge] > 0).all()


def test_optimum_on_simulated_and_real_series_is_that_of_statsmodels_or_better():
    shocks = noise(202, 24, seed=7)
    simulated = shocks[2:] + 0.5 * shocks[1:-1] + 0.3 * shocks[:-2]
    real = torch.from_numpy(datasets.load("tropical-winds").values[-200:, 0].astype(float)).flatten(1)[:, ::40]
    for series in (simulated.cumsum(0), real):
        model = ARIMA(order=(1, 1, 1), horizon=1).fit(series[:, None])
        for place in range(series.shape[1]):
            y = series[:, place]
            their = SARIMAX((y / y.std()).numpy(), order=(1, 1, 1), simple_differencing=True).fit(disp=0)
            assert their.llf - (len(y) - 1) * float(y.std().log()) <= float(model.loglik[0, place]) + 0.01


def test_less_effort_finds_no_better_optimum_and_where_it_is_clear_the_same():
    shocks = noise(302, 30, seed=7)
    series = (shocks[2:] + 0.5 * shocks[1:-1] + 0.3 * shocks[:-2]).cumsum(0)[:, None]
    rough, one, best = (
        ARIMA(order=(0, 1, 2), horizon=1).fit(series, effort=effort).loglik for effort in ("rough", "one start", "best")
    )
    assert ((best - one) > -1e-3).all()
    assert ((best - one).abs() < 1e-3).double().mean() > 0.9
    assert ((best - rough).abs() < 0.05).double().mean() > 0.9


@pytest.mark.parametrize("effort", ["one start", "best"])
def test_a_hidden_cycle_is_found(effort):
    generator = torch.Generator().manual_seed(0)
    shocks = torch.randn(300, 20, dtype=torch.float64, generator=generator)
    phase = 6 * torch.rand(20, generator=generator).double()
    series = (shocks + 0.6 * torch.cos(1.44 * torch.arange(300.0).double()[:, None] + phase))[:, None]
    best = ARIMA(order=(2, 0, 2), horizon=1).fit(series, effort=effort)
    # A cycle that lasts: roots of both parts at its angle, those of the autoregression next to the circle.
    known = SARIMAX(series[:, 0, 0].numpy(), order=(2, 0, 2))
    cosine = 2 * np.cos(1.44)
    for place in range(20):
        known = known.clone(series[:, 0, place].numpy())
        at_cycle = known.loglike([0.999 * cosine, -(0.999**2), -0.97 * cosine, 0.97**2, float(best.variance[0, place])])
        assert float(best.loglik[0, place]) > at_cycle


def test_coefficients_of_a_simulated_process_are_found():
    shocks = noise(5300, 4)
    x = torch.zeros_like(shocks)
    for t in range(2, len(x)):
        x[t] = 1.2 * x[t - 1] - 0.5 * x[t - 2] + shocks[t] + 0.4 * shocks[t - 1]
    model = ARIMA(order=(2, 0, 1), trend="mean", horizon=1).fit(3 * x[300:, None] + 7)
    expected = torch.tensor([1.2, -0.5, 0.4, 7]).double()[:, None, None].expand(4, 1, 4)
    spread = model.standard_errors(3 * x[300:, None] + 7)
    assert ((model.coefficients - expected).abs() < 4 * spread).all()
    torch.testing.assert_close(model.variance, torch.full((1, 4), 9.0).double(), rtol=0.05, atol=0)


def test_intervals_cover_what_they_promise():
    shocks = noise(130, 2000)
    series = shocks[1:].cumsum(0) - 0.5 * shocks[:-1].cumsum(0)
    model = ARIMA(order=(0, 1, 1), horizon=9).fit(series[:120, None])
    found = model.distribution(series[None, :120, None])
    covered = found.cdf(series[None, 120:, None])
    inside = ((covered > 0.05) & (covered < 0.95)).double().mean((0, 2, 3))
    # Estimated coefficients cost about one per cent of the coverage at this length.
    np.testing.assert_allclose(inside, 0.9, atol=0.03)


def test_a_bad_series_is_reported_and_spoils_none_of_its_neighbours():
    good = walks(steps=120, series=2)
    bad = torch.full((120, 1, 6), torch.nan).double()
    bad[:, 0, 0] = 4.2
    bad[-3:, 0, 1] = torch.tensor([1.0, 3.0, 2.0])
    bad[:, 0, 3] = 1.2 ** torch.arange(120).double() * (1 + 0.01 * noise(120))
    bad[:, 0, 4] = 1e200 * noise(120)
    bad[:, 0, 5] = 1e-200 * noise(120)
    for order, trend in (((1, 1, 1), "none"), ((1, 0, 0), "mean"), ((0, 0, 1), "none"), ((0, 1, 0), "drift")):
        alone = ARIMA(order=order, trend=trend, horizon=4).fit(good)
        model = ARIMA(order=order, trend=trend, horizon=4).fit(torch.cat([good[..., :1], bad, good[..., 1:]], -1))
        status = [STATUS[i] for i in model.status[0].tolist()]
        assert status[:4] == ["ok", "constant", "too short", "all missing"]
        assert status[4] in ("ok", "not converged")
        assert status[5:] == ["ok", "ok", "ok"]
        torch.testing.assert_close(model.coefficients[..., [0, 7]], alone.coefficients, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.loglik[..., [0, 7]], alone.loglik, rtol=0, atol=1e-3)
        forecast = model.distribution(torch.cat([good[..., :1], bad, good[..., 1:]], -1)[None])
        torch.testing.assert_close(forecast.mean[0, :, 0, 1], torch.full((4,), 4.2).double())
        assert (forecast.stddev[0, :, 0, 1] == 0).all()
        assert forecast.mean[..., 2:4].isnan().all()
        assert forecast.mean[..., [0, 4, 5, 6, 7]].isfinite().all()
        torch.testing.assert_close(forecast.mean[..., [0, 7]], alone(good[None]), rtol=1e-3, atol=1e-3)


def test_a_straight_line_goes_on():
    line = torch.arange(50.0).double()[:, None] * 0.1 + 3
    model = ARIMA(order=(1, 1, 1), trend="drift", horizon=3).fit(line)
    assert STATUS[int(model.status)] == "constant"
    torch.testing.assert_close(model(line[None])[0, :, 0], 3 + 0.1 * torch.arange(50.0, 53).double())


def test_a_late_start_is_a_shorter_series():
    series = walks(steps=120, series=2)
    late = series.clone()
    late[:40, 0, 1] = torch.nan
    for kind in (dict(order=(1, 1, 1)), dict(order=(2, 0, 0), trend="mean")):
        short = ARIMA(**kind, horizon=3).fit(series[40:])
        model = ARIMA(**kind, horizon=3).fit(late)
        torch.testing.assert_close(model.coefficients[..., 1], short.coefficients[..., 1], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.loglik[..., 1], short.loglik[..., 1], rtol=0, atol=1e-3)
        model.load_state_dict(short.state_dict())
        torch.testing.assert_close(model(late[None])[..., 1], short(series[None, 40:])[..., 1])


@pytest.mark.parametrize("length", [2, 3, 5, 8, 12])
def test_a_short_past_is_forecast_as_by_the_kalman_filter(length):
    series = walks(steps=90, series=2)
    model = ARIMA(order=(2, 1, 1), seasonal=(1, 0, 1), season=4, horizon=8).fit(series)
    past = series[None, -length:]
    later = torch.cat([past, torch.full_like(past[:, :1], torch.nan)], 1)  # goes through the filter
    found, expected = model.distribution(past), model.distribution(later)
    torch.testing.assert_close(found.mean[:, 1:], expected.mean[:, :-1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.stddev[:, 1:], expected.stddev[:, :-1], rtol=1e-8, atol=1e-8)
    padded = torch.cat([torch.full_like(past[:, :2], torch.nan), past], 1)
    torch.testing.assert_close(model.distribution(padded).mean, found.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.distribution(padded).stddev, found.stddev, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("space", [(), (2,), (2, 3)])
def test_any_space_and_every_window_by_itself(space):
    series = noise(80, 2, *space).cumsum(0)
    model = ARIMA(order=(1, 1, 0), horizon=5).fit(series)
    windows = torch.stack([series[:60], series[20:], with_holes(series[10:70])])
    found = model.distribution(windows)
    assert found.mean.shape == found.stddev.shape == (3, 5, 2, *space)
    assert model.coefficients.shape == (1, 2, *space)
    for i in range(3):
        torch.testing.assert_close(model(windows[i : i + 1])[0], found.mean[i])
    place = (1,) * (1 + len(space))
    alone = ARIMA(order=(1, 1, 0), horizon=5).fit(series[(slice(None), *place)][:, None])
    torch.testing.assert_close(alone.loglik.flatten()[0], model.loglik[place], rtol=0, atol=1e-3)


def test_units_scale_the_estimates():
    series = walks()
    plain = ARIMA(order=(1, 1, 1), trend="drift", horizon=3).fit(series)
    scaled = ARIMA(order=(1, 1, 1), trend="drift", horizon=3).fit(1000 * series + 3)
    torch.testing.assert_close(scaled(1000 * series[None] + 3), 1000 * plain(series[None]) + 3, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scaled.loglik, plain.loglik - 89 * np.log(1000), rtol=0, atol=1e-6)


def test_aicc_is_its_formula():
    model = ARIMA(order=(1, 1, 1), trend="drift", horizon=1).fit(walks())
    k, n = 4, 89
    torch.testing.assert_close(model.aicc, -2 * model.loglik + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def test_single_precision_on_request():
    shocks = noise(301, 3)
    series = (shocks[1:] + 0.6 * shocks[:-1]).cumsum(0)[:, None]
    double = ARIMA(order=(0, 1, 1), horizon=3).fit(series)
    single = ARIMA(order=(0, 1, 1), horizon=3, dtype=torch.float32).fit(series)
    assert single.coefficients.dtype == torch.float32
    torch.testing.assert_close(single.loglik.double(), double.loglik, rtol=0, atol=0.05)
    assert double(series[None].float()).dtype == torch.float32
    torch.testing.assert_close(
        single.standard_errors(series).double(), double.standard_errors(series), rtol=0.05, atol=0.01
    )


def test_weights_go_into_a_fresh_model():
    series, z = walks(), noise(95, 1, seed=9)
    model = ARIMA(order=(1, 1, 1), horizon=5).fit(series, z[:90])
    fresh = ARIMA(order=(1, 1, 1), horizon=5)
    fresh.load_state_dict(model.state_dict(), assign=True)
    assert fresh.names == model.names
    torch.testing.assert_close(fresh(series[None], z), model(series[None], z))


def test_ljung_box_is_that_of_statsmodels():
    x = noise(120, 3).cumsum(0).diff(dim=0) + 0.2 * noise(119, 1, seed=2)
    found = ljung_box(x, lags=8, fitted=2)
    for place in range(3):
        table = acorr_ljungbox(x[:, place].numpy(), lags=[8], model_df=2)
        assert float(found.statistic[place]) == pytest.approx(table["lb_stat"].iloc[0])
        assert float(found.p_value[place]) == pytest.approx(table["lb_pvalue"].iloc[0])


def test_jarque_bera_is_that_of_scipy():
    x = noise(150, 3).exp()
    holes = with_holes(x)
    found, with_gaps = jarque_bera(x), jarque_bera(holes)
    for place in range(3):
        expected = stats.jarque_bera(x[:, place].numpy())
        assert float(found.statistic[place]) == pytest.approx(expected.statistic)
        assert float(found.p_value[place]) == pytest.approx(expected.pvalue)
        seen = holes[:, place].numpy()
        assert float(with_gaps.statistic[place]) == pytest.approx(stats.jarque_bera(seen[~np.isnan(seen)]).statistic)


def test_residuals_of_the_right_model_are_white_and_normal():
    shocks = noise(401, 200)
    series = (shocks[1:] + 0.6 * shocks[:-1])[:, None]
    residuals = ARIMA(order=(0, 0, 1), horizon=1).fit(series).residuals(series)
    for verdict in (ljung_box(residuals, lags=10, fitted=1), jarque_bera(residuals)):
        assert 0.01 <= float((verdict.p_value < 0.05).double().mean()) <= 0.1
    wrong = ARIMA(order=(0, 0, 0), horizon=1).fit(series).residuals(series)
    assert float((ljung_box(wrong, lags=10).p_value < 0.05).double().mean()) > 0.95


def test_unusable_input_is_refused():
    series = walks()
    for kind, message in [
        (dict(order=(1, -1, 0)), "whole numbers of 0 or more"),
        (dict(order=(1, 0, 0), seasonal=(1, 0, 0)), "season must be at least 2"),
        (dict(order=(1, 0, 0), trend="slope"), "one of none, mean, drift"),
        (dict(order=(1, 1, 0), trend="mean"), "does not go with 1 differences"),
        (dict(order=(1, 0, 0), trend="drift"), "does not go with 0 differences"),
        (dict(order=(1, 0, 0), horizon=0), "horizon must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            ARIMA(**{"horizon": 1, **kind})
    model = ARIMA(order=(1, 1, 0), horizon=2)
    for call in (lambda: model(series[None]), lambda: model.aicc, lambda: model.residuals(series)):
        with pytest.raises(ValueError, match="not fitted yet"):
            call()
    with pytest.raises(ValueError, match="effort must be one of rough, one start, best, got 'high'"):
        model.fit(series, effort="high")
    with pytest.raises(ValueError, match="1 infinite values"):
        model.fit(torch.where(series == series[3, 0, 0], torch.inf, series))
    with pytest.raises(ValueError, match="regressors must be \\(T, K\\) with T=90"):
        model.fit(series, torch.zeros(80, 1))
    with pytest.raises(ValueError, match="2 columns of rank 1"):
        model.fit(series, torch.arange(180.0).reshape(90, 2))
    with pytest.raises(ValueError, match="series must be \\(T, C"):
        model.fit(torch.zeros(9))
    model.fit(series)
    with pytest.raises(ValueError, match="more than 1 steps"):
        model(series[None, :1])
    with pytest.raises(ValueError, match="fitted to channels and places \\(1, 3\\), got \\(1, 2\\)"):
        model(series[None, :, :, :2])
    with pytest.raises(ValueError, match="fitted with 0 regressors, got some"):
        model(series[None], torch.zeros(92, 1))
    model.fit(series, noise(90, 1))
    with pytest.raises(ValueError, match="fitted with 1 regressors, got none"):
        model(series[None])
    with pytest.raises(ValueError, match="regressors must be \\(92, 1\\)"):
        model(series[None], torch.zeros(90, 1))


@pytest.mark.parametrize(("offset", "dtype", "atol"), [(1e8, torch.float64, 1e-4), (1e3, torch.float32, 0.05)])
def test_a_high_level_changes_nothing_but_the_mean(offset, dtype, atol):
    e = torch.randn(301, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = e[1:] + 0.6 * e[:-1]
    low, high = (ARIMA(order=(0, 0, 1), trend="mean", horizon=1, dtype=dtype).fit(series) for series in (x, x + offset))
    torch.testing.assert_close(low.loglik, high.loglik, rtol=0, atol=atol)
    torch.testing.assert_close(low.coefficients[0], high.coefficients[0], rtol=0, atol=1e-2)
    torch.testing.assert_close(low.standard_errors(x)[0], high.standard_errors(x + offset)[0], rtol=0.02, atol=0)
    torch.testing.assert_close(high.coefficients[1] - offset, low.coefficients[1], rtol=0, atol=1e-2)
    assert (high.status == STATUS.index("ok")).all()


def test_a_steep_drift_changes_nothing_but_the_drift():
    e = torch.randn(301, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (e[1:] + 0.4 * e[:-1]).cumsum(0)
    steep = x + 1e7 * torch.arange(300.0, dtype=torch.float64)[:, None, None]
    flat, risen = (ARIMA(order=(0, 1, 1), trend="drift", horizon=1).fit(series) for series in (x, steep))
    torch.testing.assert_close(flat.loglik, risen.loglik, rtol=0, atol=1e-3)
    torch.testing.assert_close(risen.coefficients[1] - 1e7, flat.coefficients[1], rtol=0, atol=1e-3)


def test_whole_numbers_are_forecast_with_decimals():
    x = (100 * torch.randn(80, 1, 2, generator=torch.Generator().manual_seed(0))).long()
    model = ARIMA(order=(1, 0, 0), trend="mean", horizon=2).fit(x)
    whole, decimal = model.distribution(x[None]), model.distribution(x[None].double())
    torch.testing.assert_close(whole.mean, decimal.mean)
    torch.testing.assert_close(whole.stddev, decimal.stddev)


def test_infinite_values_of_a_past_are_refused():
    x = torch.randn(60, 1, 2, generator=torch.Generator().manual_seed(0))
    model = ARIMA(order=(1, 0, 0), trend="mean", horizon=2).fit(x)
    past = torch.stack([x, x])
    past[1, 5, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="the past has 1 infinite values"):
        model(past)
    with pytest.raises(ValueError, match="infinite"):
        model.residuals(past[1])


@pytest.mark.parametrize(
    "kind", [dict(order=(1, 1, 1)), dict(order=(1, 2, 0)), dict(order=(1, 0, 0), seasonal=(0, 1, 1), season=4)]
)
def test_residuals_do_not_see_the_future(kind):
    series = walks(steps=90, series=4)
    model = ARIMA(**kind, horizon=1).fit(series)
    series[:30, 0, 1] = torch.nan  # a late start
    series[0, 0, 2] = series[3:5, 0, 2] = torch.nan
    series[1:6, 0, 3] = torch.nan
    whole, part = model.residuals(series), model.residuals(series[:60])
    torch.testing.assert_close(whole[:60], part, rtol=1e-6, atol=1e-8, equal_nan=True)
    d = len(model.weights)
    late = ARIMA(**kind, horizon=1)
    late.load_state_dict(model.state_dict())
    short = late.residuals(series[30:])[:, 0, 1]
    torch.testing.assert_close(whole[30:, 0, 1], short, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert whole[:, 0, 1].isfinite().sum() == 60 - d
    for place in (1, 2, 3):
        y = series[:, 0, place].numpy()
        their, estimates = reference(model, y, place, use_exact_diffuse=True)
        their.ssm.tolerance = 0
        filtered = their.smooth(estimates).filter_results
        errors, diffuse = filtered.standardized_forecasts_error[0], filtered.nobs_diffuse
        np.testing.assert_allclose(
            whole[diffuse:, 0, place], np.where(np.isnan(y), np.nan, errors)[diffuse:], rtol=1e-5, atol=1e-5
        )


def test_long_seasons_with_gaps_stay_within_memory():
    sizes = []
    series = with_holes(noise(130, 40).cumsum(0))[:, None]
    series[0] = 5.0
    for season in (2, 52):
        model = ARIMA(order=(0, 1, 0), seasonal=(0, 1, 1), season=season, horizon=1)
        sizes.append(filter_size(130, model.orders, model.weights, series.device))
    assert sizes[1] < sizes[0] / 50


def test_an_unfitted_model_can_be_copied_and_takes_the_state_of_a_fitted_one():
    series = walks()
    model = ARIMA(order=(1, 1, 1), horizon=5).fit(series)
    for fresh in (ARIMA(order=(1, 1, 1), horizon=5), copy.deepcopy(ARIMA(order=(1, 1, 1), horizon=5))):
        assert fresh.state_dict().keys() == model.state_dict().keys()
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(fresh(series[None]), model(series[None]))
    with pytest.raises(ValueError, match="ARIMA with order=\\(1, 1, 1\\), .* this one has order=\\(2, 1, 0\\)"):
        ARIMA(order=(2, 1, 0), horizon=5).load_state_dict(model.state_dict())
