from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.stats import norm
from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

from stlib.data.windows import split
from stlib.data.worlds import RegimeSwitching

WORLD = RegimeSwitching()
HORIZON = 4


@pytest.fixture(scope="module")
def series():
    return WORLD.simulate(40_000, seed=0)


def by_enumeration(past, horizon):
    """The posterior mean of each step ahead and of the last regime, summed over every path of past and future."""
    total, ahead, last = 0.0, np.zeros(horizon), np.zeros(2)
    for path in product((0, 1), repeat=len(past) + horizon):
        weight = WORLD.share[path[0]]
        for before, now in pairwise(path):
            weight *= WORLD.transition[now, before]
        for step in range(1, len(past)):
            s = path[step]
            weight *= norm.pdf(past[step], WORLD.intercept[s] + WORLD.coefficient[s] * past[step - 1], WORLD.noise[s])
        mean = past[-1]
        for lead in range(horizon):
            s = path[len(past) + lead]
            mean = WORLD.intercept[s] + WORLD.coefficient[s] * mean
            ahead[lead] += weight * mean
        last[path[len(past) - 1]] += weight
        total += weight
    return ahead / total, last / total


def test_the_filter_is_the_sum_over_all_paths(series):
    model = WORLD.optimal_forecaster(3)
    for start in (0, 100, 200):
        past = series.values[start : start + 6, 0].astype(float)
        ahead, last = by_enumeration(past, 3)
        given = torch.tensor(past)[None, :, None]
        np.testing.assert_allclose(model(given)[0, :, 0], ahead, rtol=1e-12)
        np.testing.assert_allclose(model.regime_probabilities(given)[0, -1, 0], last, rtol=1e-12)


def test_the_filter_is_that_of_statsmodels(series):
    x = series.values[:300, 0].astype(float)
    peer = MarkovRegression(x[1:], k_regimes=2, exog=x[:-1], switching_variance=True)
    # p[0->0], p[1->0], then intercept, slope and variance of each regime
    numbers = [*WORLD.transition[0], *WORLD.intercept, *WORLD.coefficient, *WORLD.noise**2]
    theirs = peer.filter(numbers).filtered_marginal_probabilities  # (T - 1, 2)
    ours = WORLD.optimal_forecaster(1).regime_probabilities(torch.tensor(x)[None, :, None])
    np.testing.assert_allclose(ours[0, 1:, 0], theirs, atol=1e-10)


def test_the_optimal_error_is_that_of_the_filter_on_a_run(series):
    pairs = split(series, past=50, horizon=HORIZON, train=39_900, validation=40, dtype=torch.float64).train[:]
    measured = (WORLD.optimal_forecaster(HORIZON)(pairs.past) - pairs.future).square().mean((0, 2)).sqrt()
    np.testing.assert_allclose(measured, WORLD.optimal_rmse(HORIZON, seed=1), rtol=0.015)


def test_the_known_regime_error_is_that_of_a_forecaster_who_is_told(series):
    x, regime = series.values[:, 0].astype(float), series["regime"].values
    told = torch.eye(2, dtype=torch.float64)[torch.tensor(regime)][:, None]  # (T, 1, 2)
    forecast = WORLD.optimal_forecaster(HORIZON).mean_ahead(told, torch.tensor(x)[:, None])[:, :, 0].numpy()
    measured = [np.sqrt(np.mean((forecast[:-lead, lead - 1] - x[lead:]) ** 2)) for lead in range(1, HORIZON + 1)]
    np.testing.assert_allclose(measured, WORLD.known_regime_rmse(HORIZON), rtol=0.015)


def test_who_is_told_the_next_regime_too_is_left_with_its_noise():
    """The bound lies above the mean noise variance, and meets it when both regimes have the same dynamics."""
    assert WORLD.known_regime_rmse(1)[0] ** 2 > WORLD.share @ WORLD.noise**2
    same = RegimeSwitching(intercept=(0.1, 0.1), coefficient=(0.8, 0.8))
    np.testing.assert_allclose(same.known_regime_rmse(1) ** 2, same.share @ same.noise**2)


def test_one_regime_is_a_plain_autoregression():
    same = RegimeSwitching(intercept=(1.0, 1.0), coefficient=(0.8, 0.8), noise=(0.6, 0.6))
    assert same.mean == pytest.approx(5) and same.variance == pytest.approx(1)
    closed_form = np.sqrt(1 - 0.64 ** np.arange(1, 4))
    np.testing.assert_allclose(same.known_regime_rmse(3), closed_form)
    np.testing.assert_allclose(same.optimal_rmse(3, seed=0, runs=10), closed_form)
    forecast = same.optimal_forecaster(3)(torch.tensor([[[4.0], [7.0]]]))[0, :, 0]
    np.testing.assert_allclose(forecast, 5 + 2 * 0.8 ** np.arange(1, 4), rtol=1e-6)


def test_mean_variance_and_shares_are_those_of_a_run(series):
    x, regime = series.values[:, 0].astype(float), series["regime"].values
    assert x.mean() == pytest.approx(WORLD.mean, abs=0.06)
    assert x.var() == pytest.approx(WORLD.variance, rel=0.04)
    assert regime.mean() == pytest.approx(WORLD.share[1], abs=0.02)
    for s in (0, 1):
        assert (x * (regime == s)).mean() == pytest.approx(WORLD.first[s], abs=0.06)
        assert (x**2 * (regime == s)).mean() == pytest.approx(WORLD.second[s], abs=0.1)
        assert (regime[1:] == s)[regime[:-1] == s].mean() == pytest.approx(WORLD.transition[s, s], abs=0.005)


def test_the_best_linear_forecaster_is_worse(series):
    """With ten lags, scored where it was fitted."""
    x = series.values[:, 0].astype(float)
    lagged = np.stack([np.ones(len(x) - 10)] + [x[10 - lag : -lag] for lag in range(1, 11)], 1)
    left = x[10:] - lagged @ np.linalg.lstsq(lagged, x[10:], rcond=None)[0]
    assert np.sqrt(np.mean(left**2)) > 1.07 * WORLD.optimal_rmse(1, seed=0)[0]


def test_the_far_future_is_climatology():
    assert WORLD.optimal_rmse(200, seed=0, runs=100)[-1] == pytest.approx(WORLD.variance**0.5, rel=1e-6)


def test_every_series_is_on_its_own_and_missing_stays_missing(series):
    model = WORLD.optimal_forecaster(3)
    past = torch.tensor(series.values[:240, 0]).reshape(2, 20, 1, 2, 3)
    together = model(past)
    assert together.shape == (2, 3, 1, 2, 3) and together.dtype == torch.float32
    torch.testing.assert_close(together[1, :, :, 0, 2], model(past[1:, :, :, 0, 2])[0])
    past[0, 4, 0, 1, 1] = torch.nan
    np.testing.assert_array_equal(model(past).isnan().any(1), past.isnan().any(1))


def test_an_outlier_does_not_break_the_filter():
    past = torch.tensor([[[0.0], [1e3], [0.0], [0.5]]])
    assert WORLD.optimal_forecaster(2)(past).isfinite().all()


def test_the_seed_decides_the_run():
    assert WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=3))
    assert not WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=4))


@pytest.mark.parametrize("options", [{"noise": (0.0, 1.0)}, {"stay": (1.0, 0.5)}, {"stay": (0.5, 0.0)}])
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs noise > 0 and 0 < stay < 1"):
        RegimeSwitching(**options)


def test_a_regime_may_explode_for_a_while_but_not_too_long():
    assert RegimeSwitching(coefficient=(1.1, 0.1), stay=(0.5, 0.9)).variance > 0
    with pytest.raises(ValueError, match="no finite variance"):
        RegimeSwitching(coefficient=(1.1, 0.1), stay=(0.9, 0.9))
