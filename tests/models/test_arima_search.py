"""The order search against statsmodels' tests, a plain loop over the grid, and processes of known order."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from statsmodels.tsa.stattools import kpss as their_kpss

from stlib.models.arima import ARIMA
from stlib.models.arima_search import OwnOrders, kpss, search, seasonal_strength


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_kpss_is_that_of_statsmodels():
    series = torch.cat([noise(200, 2), noise(200, 2).cumsum(0)], 1)
    series[:50, 1] = torch.nan
    found = kpss(series)
    for place in range(4):
        y = series[:, place].numpy()
        y = y[~np.isnan(y)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = their_kpss(y, nlags=int(3 * np.sqrt(len(y)) / 13))[0]
        assert float(found[place]) == pytest.approx(expected)


@pytest.mark.parametrize("season", [4, 7])
def test_seasonal_strength_is_that_of_a_plain_loop(season):
    x = (noise(60) + 2 * torch.arange(season).double().repeat(20)[:60] + 0.3 * torch.arange(60)).numpy()
    half = season // 2
    weights = np.ones(2 * half + 1)
    if season % 2 == 0:
        weights[[0, -1]] = 0.5
    rest = np.array([x[t] - weights @ x[t - half : t + half + 1] / season for t in range(half, 60 - half)])
    usual = [rest[phase::season].mean() for phase in range(season)]
    left = np.array([rest[t] - usual[t % season] for t in range(len(rest))])
    found = seasonal_strength(torch.from_numpy(x)[:, None], season=season)
    assert float(found) == pytest.approx(1 - left.var() / rest.var())
    assert float(seasonal_strength(noise(400, 1), season=season)) < 0.1
    assert float(seasonal_strength(noise(7, 1), season=season)) == 0


def test_the_choice_is_the_least_aicc_of_the_grid():
    shocks = noise(122, 6)
    series = (shocks[2:] + 0.9 * shocks[1:-1] + 0.5 * shocks[:-2] + 3)[:, None]
    series[:30, 0, 0] = torch.nan
    model = search(series, horizon=2, p=1, q=2)
    grid = {
        (order, trend): ARIMA(order=order, trend=trend, horizon=2).fit(series).aicc[0]
        for order, trend in itertools.product(itertools.product(range(2), (0,), range(3)), ("none", "mean"))
    }
    for place, (order, seasonal, trend) in enumerate(model.orders()):
        if order[1] == 0:
            least = min(float(aicc[place]) for aicc in grid.values())
            assert float(grid[order, trend][place]) <= least + 0.02
            assert seasonal == (0, 0, 0)
    assert sum(order[1] == 0 for order, _, _ in model.orders()) >= 5


def test_differences_of_known_processes_are_found():
    shocks = noise(300, 5)
    kinds = [shocks, shocks.cumsum(0), shocks.cumsum(0).cumsum(0)]
    model = search(torch.stack(kinds, 1), horizon=1, p=0, q=1)
    d = torch.tensor([order[1] for order, _, _ in model.orders()]).reshape(3, 5)
    # The test rejects a true level once in twenty, so that not every one has to be right.
    assert ((d == torch.arange(3)[:, None]).sum(1) >= 4).all()


def test_a_season_is_found():
    shocks = noise(84, 3)
    x = 10 * shocks
    for t in range(4, 84):
        x[t] = x[t - 4] + shocks[t] - 0.6 * shocks[t - 4]
    model = search(x[:, None], horizon=4, season=4, p=1, q=0)
    for _, seasonal, _ in model.orders():
        assert seasonal[1:] == (1, 1)


def test_each_series_is_forecast_by_its_own_model():
    series = torch.stack([noise(80, 3), noise(80, 3, seed=1).cumsum(0)], 1)
    model = search(series, horizon=3, p=1, q=1)
    found = model.distribution(series[None])
    assert found.mean.shape == (1, 3, 2, 3)
    for place, (order, _, trend) in enumerate(model.orders()):
        own = series.flatten(1)[:, [place]]
        alone = ARIMA(order=order, trend=trend, horizon=3).fit(own).distribution(own[None])
        torch.testing.assert_close(found.mean.flatten(2)[..., place], alone.mean[..., 0], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(found.stddev.flatten(2)[..., place], alone.stddev[..., 0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(model(series[None]), found.mean)


def test_bad_series_get_the_smallest_model():
    series = torch.full((60, 1, 4), torch.nan).double()
    series[:, 0, 0] = noise(60)
    series[:, 0, 1] = 2.0
    series[-1:, 0, 2] = 1.0
    model = search(series, horizon=2, p=1, q=0)
    forecast = model(series[None])
    assert (forecast[..., 1] == 2).all()
    assert forecast[..., 0].isfinite().all()
    assert forecast[..., 2:].isnan().all()


def test_a_past_of_other_places_is_refused():
    model = OwnOrders(models=[ARIMA(order=(0, 0, 0), horizon=1).fit(noise(9, 2))], which=torch.zeros(2).long())
    with pytest.raises(ValueError, match="past must be \\(B, T, \\*\\(2,\\)\\)"):
        model(torch.zeros(1, 9, 3))


@pytest.mark.parametrize("statistic", [kpss, lambda x: seasonal_strength(x, season=7)])
def test_statistics_do_not_depend_on_units(statistic):
    series = noise(200, 2).cumsum(0)
    for unit in (1e-200, 1e-6, 1e6, 1e200):
        torch.testing.assert_close(statistic(unit * series), statistic(series))
    single = statistic((1e25 * series).float())
    torch.testing.assert_close(single.double(), statistic(series), rtol=1e-3, atol=1e-5)


def test_a_constant_series_has_no_kpss_statistic():
    for value in (0.0, 0.1, 1e6):
        for dtype in (torch.float32, torch.float64):
            assert kpss(torch.full((50, 1), value, dtype=dtype)).isnan().all()


def test_models_next_to_the_unit_circle_are_not_chosen():
    cycle = torch.cos(1.1 * torch.arange(200.0).double())[:, None] + 0.3 * noise(200, 4)
    plain = ARIMA(order=(2, 0, 2), horizon=1).fit(cycle)
    size = (-plain.coefficients[1]).sqrt()  # of its complex roots, inverse
    assert (size > 1 / 1.001).any()
    model = search(cycle, horizon=1)
    for own, chosen in enumerate(model.which.flatten().tolist()):
        best = model.models[chosen]
        found = best.coefficients[:, 0, model.which.flatten()[:own].eq(chosen).sum()]
        p, _, q = best.order
        for part in (-found[:p], found[p : p + q]):
            roots = np.roots([1, *part.tolist()])
            assert (np.abs(roots) < 1 / 1.001 + 1e-4).all()
