import numpy as np
import pytest
import torch

from stlib.data.windows import split
from stlib.data.worlds import Drifting
from stlib.evaluation.backtest import backtest
from stlib.models.baselines import DampedAnomaly

WORLD = Drifting(drift_steps=100)
ORIGINS = np.array([10, 50, 97, 120])
HORIZON = 5


@pytest.fixture(scope="module")
def runs():
    """(run, time) of many runs of the same drift."""
    return np.stack([WORLD.simulate(130, seed=seed).values[:, 0] for seed in range(5000)]).astype(float)


def test_each_step_has_its_mean_and_variance_1(runs):
    expected = np.concatenate([np.linspace(0, 2, 101), np.full(29, 2)])
    np.testing.assert_allclose(runs.mean(0), expected, atol=0.05)  # standard error 0.014
    np.testing.assert_allclose(runs.var(0), 1, atol=0.07)  # standard error 0.02


def test_each_step_has_its_coefficient(runs):
    y = runs - WORLD.mean_at(np.arange(130))
    found = (y[:, 1:] * y[:, :-1]).mean(0) / (y[:, :-1] ** 2).mean(0)
    np.testing.assert_allclose(found[:100], 0.9 - 0.6 * np.arange(1, 101) / 100, atol=0.05)
    np.testing.assert_allclose(found[100:], 0.3, atol=0.05)


def test_the_optimal_forecaster_reaches_the_closed_form_at_each_origin(runs):
    for i, origin in enumerate(ORIGINS):
        past = torch.tensor(runs[:, : origin + 1, None])
        forecast = WORLD.optimal_forecaster(HORIZON, origins=[origin] * len(runs))(past)[..., 0].numpy()
        measured = np.sqrt(np.mean((forecast - runs[:, origin + 1 : origin + 1 + HORIZON]) ** 2, axis=0))
        np.testing.assert_allclose(measured, WORLD.optimal_rmse(HORIZON, origins=ORIGINS)[i], rtol=0.03)


def test_no_linear_forecaster_beats_the_optimum(runs):
    """Fitted across runs, so for one origin only, with three lags."""
    x, y = np.column_stack([np.ones(len(runs)), runs[:, 48:51]]), runs[:, 51]
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    unbiased = np.sqrt((left**2).sum() / (len(x) - 4))
    assert unbiased == pytest.approx(WORLD.optimal_rmse(1, origins=[50])[0, 0], rel=0.02)


def test_a_fixed_forecaster_reaches_its_closed_form(runs):
    kept = 0.8 ** np.arange(1, HORIZON + 1)
    expected = WORLD.fixed_rmse(HORIZON, mean=0.3, coefficient=0.8, origins=ORIGINS)
    for i, origin in enumerate(ORIGINS):
        forecast = 0.3 + kept * (runs[:, [origin]] - 0.3)
        measured = np.sqrt(np.mean((forecast - runs[:, origin + 1 : origin + 1 + HORIZON]) ** 2, axis=0))
        np.testing.assert_allclose(measured, expected[i], rtol=0.03)


def test_the_fixed_forecaster_with_the_true_numbers_is_the_best():
    still = Drifting(mean=(1.0, 1.0), coefficient=(0.7, 0.7))
    best = still.optimal_rmse(HORIZON, origins=[3, 50])
    np.testing.assert_allclose(best, np.sqrt(1 - 0.49 ** np.arange(1, 6))[None].repeat(2, 0))
    np.testing.assert_allclose(still.fixed_rmse(HORIZON, mean=1.0, coefficient=0.7, origins=[3, 50]), best)
    assert still.training_fit(100) == pytest.approx((1.0, 0.7))


def test_the_training_fit_is_what_least_squares_finds(runs):
    train = runs[:, :60]
    mean, coefficient = WORLD.training_fit(60)
    assert mean == pytest.approx(train.mean(), abs=0.01)
    away = train - mean
    assert coefficient == pytest.approx((away[:, 1:] * away[:, :-1]).sum() / (away[:, :-1] ** 2).sum(), abs=0.005)


def test_a_fitted_baseline_goes_stale_as_the_closed_form_says():
    """A slow drift, one long run: DampedAnomaly is fitted in the first half and scored in the second."""
    world = Drifting(drift_steps=40_000)
    windows = split(world.simulate(40_000, seed=0), past=1, horizon=1, train=20_000, validation=100)
    model = DampedAnomaly(horizon=1, cycle=None).fit(windows.train.series)
    origins = windows.test.origins

    def root(errors):
        return float(np.sqrt(np.mean(errors**2)))

    stale, best = (
        float(np.sqrt(((result["forecast"] - result["truth"]) ** 2).mean()))
        for result in (
            backtest(model, windows.test),
            backtest(world.optimal_forecaster(1, origins=origins), windows.test, batch_size=len(windows.test)),
        )
    )
    assert best == pytest.approx(root(world.optimal_rmse(1, origins=origins)), rel=0.015)
    assert stale == pytest.approx(root(world.training_fit_rmse(1, train=20_000, origins=origins)), rel=0.015)
    assert stale > 1.08 * best


def test_it_loses_nothing_in_its_training_part_and_more_and_more_after_it():
    world = Drifting()
    origins = np.array([500, 1200, 1600, 1990])
    lost = world.training_fit_rmse(1, train=1000, origins=origins) / world.optimal_rmse(1, origins=origins)
    assert lost[0, 0] < 1.01
    assert (np.diff(lost[:, 0]) > 0).all() and lost[-1, 0] > 1.15


def test_any_space_and_missing_stays_missing():
    past = torch.rand(2, 3, 1, 4, 5)
    past[0, -1, 0, 1, 1] = torch.nan
    forecast = WORLD.optimal_forecaster(2, origins=[7, 9])(past)
    assert forecast.shape == (2, 2, 1, 4, 5) and forecast.dtype == torch.float32
    alone = WORLD.optimal_forecaster(2, origins=[9])(past[1:, :, :, 0, 0])
    torch.testing.assert_close(forecast[1:, :, :, 0, 0], alone)
    np.testing.assert_array_equal(forecast.isnan().any(1), past.isnan().any(1))


def test_the_seed_decides_the_run():
    assert WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=3))
    assert not WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=4))


@pytest.mark.parametrize("options", [{"coefficient": (1.0, 0.5)}, {"coefficient": (0.5, -1.2)}, {"drift_steps": 0}])
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs coefficient between -1 and 1"):
        Drifting(**options)


def test_wrong_numbers_of_windows_and_steps_are_refused():
    with pytest.raises(ValueError, match="made for 2 origins, got a past of 3 windows"):
        WORLD.optimal_forecaster(1, origins=[4, 5])(torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="train must be at least 2 steps, got 1"):
        WORLD.training_fit(1)
