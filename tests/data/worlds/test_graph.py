import numpy as np
import pytest
import torch
from statsmodels.tsa.vector_ar.var_model import VARProcess, forecast

from stlib.data.windows import split
from stlib.data.worlds import GraphDiffusion
from stlib.models.baselines import Persistence

WORLD = GraphDiffusion(nodes=12)
HORIZON = 6


@pytest.fixture(scope="module")
def pairs():
    field = WORLD.simulate(20_020, seed=1)
    return split(field, past=3, horizon=HORIZON, train=20_000, validation=10, dtype=torch.float64).train[:]


def rmse(model, pairs):
    return (model(pairs.past) - pairs.future).square().mean((0, 2, 3)).sqrt().numpy()


def test_the_optimal_forecaster_reaches_the_closed_form(pairs):
    np.testing.assert_allclose(rmse(WORLD.optimal_forecaster(HORIZON), pairs), WORLD.optimal_rmse(HORIZON), rtol=0.01)


def test_persistence_reaches_its_closed_form(pairs):
    np.testing.assert_allclose(rmse(Persistence(horizon=HORIZON), pairs), WORLD.persistence_rmse(HORIZON), rtol=0.02)


def test_the_optimum_is_that_of_statsmodels():
    process = VARProcess(WORLD.coefficients, None, WORLD.noise_variance * np.eye(12))
    mse = process.mse(HORIZON)  # (horizon, N, N)
    np.testing.assert_allclose(np.sqrt(np.trace(mse, axis1=1, axis2=2) / 12), WORLD.optimal_rmse(HORIZON), rtol=1e-12)
    np.testing.assert_allclose(process.acf(2), [WORLD.covariance[:12, 12 * k : 12 * k + 12] for k in range(3)])
    past = np.random.default_rng(0).standard_normal((3, 12))
    ours = WORLD.optimal_forecaster(HORIZON)(torch.tensor(past)[None, :, None])[0, :, 0]
    np.testing.assert_allclose(ours, forecast(past, WORLD.coefficients, np.zeros(12), HORIZON), rtol=1e-12)


def test_one_step_is_the_graph_it_shows():
    past = np.random.default_rng(0).standard_normal((5, 12))
    by_hand = np.zeros(12)
    for to in range(12):
        for source in range(12):
            if WORLD.lags[to, source]:
                by_hand[to] += WORLD.adjacency[to, source] * past[-WORLD.lags[to, source], source]
    ours = WORLD.optimal_forecaster(1)(torch.tensor(past)[None, :, None])
    np.testing.assert_allclose(ours[0, 0, 0], by_hand, rtol=1e-12)


def test_the_graph_is_what_it_says():
    assert set(WORLD.lags.ravel()) == {0, 1, 2, 3}
    assert ((WORLD.lags > 0) == (WORLD.adjacency > 0)).all()
    assert ((WORLD.lags > 0).sum(1) == 4).all() and (WORLD.lags.diagonal() == 1).all()
    assert (WORLD.lags != WORLD.lags.T).any()  # directed
    distance = np.hypot(*(WORLD.positions[:, None] - WORLD.positions).transpose(2, 0, 1))
    for own_distance, own_lags in zip(distance, WORLD.lags, strict=True):
        assert own_distance[own_lags > 0].max() < own_distance[own_lags == 0].min()  # the nearest
    third = distance[WORLD.lags > 0].max() / 3
    for lag in (1, 2, 3):
        own = distance[WORLD.lags == lag]
        assert (lag - 1) * third <= own.min() and own.max() <= lag * third + 1e-12
    again, other = GraphDiffusion(nodes=12), GraphDiffusion(nodes=12, graph_seed=1)
    np.testing.assert_array_equal(WORLD.adjacency, again.adjacency)
    assert (WORLD.adjacency != other.adjacency).any()


@pytest.mark.parametrize("radius", [0.3, 0.95, 0.999])
def test_the_spectral_radius_is_the_one_given(radius):
    world = GraphDiffusion(nodes=9, max_lag=4, spectral_radius=radius)
    assert np.abs(np.linalg.eigvals(world.companion)).max() == pytest.approx(radius, abs=1e-10)
    assert world.variance.mean() == pytest.approx(1, abs=1e-12)
    assert world.optimal_rmse(3)[-1] < 1


def test_it_starts_in_its_steady_state():
    runs = np.stack([WORLD.simulate(3, seed=seed).values[:, 0] for seed in range(4000)]).astype(float)
    for step in range(3):  # 4000 runs: the standard error of an entry is 0.03 at most
        np.testing.assert_allclose(np.cov(runs[:, step].T), WORLD.covariance[:12, :12], atol=0.12)
    lagged = runs[:, 2].T @ runs[:, 0] / len(runs)
    np.testing.assert_allclose(lagged, WORLD.covariance[:12, 24:], atol=0.12)


def test_least_squares_finds_every_edge_and_its_lag():
    x = WORLD.simulate(30_000, seed=2).values[:, 0].astype(float)
    lagged = np.hstack([x[3 - lag : -lag] for lag in (1, 2, 3)])
    found = np.linalg.lstsq(lagged, x[3:], rcond=None)[0].T.reshape(12, 3, 12).transpose(1, 0, 2)  # lag, to, source
    # The textbook standard error: the same noise at each node, and the true covariance of the regressors.
    error = np.sqrt(WORLD.noise_variance * np.linalg.inv(WORLD.covariance).diagonal() / 30_000).reshape(3, 1, 12)
    score = (found - WORLD.coefficients) / error
    assert np.abs(score).max() < 4.5
    assert score.std() == pytest.approx(1, abs=0.12)
    np.testing.assert_array_equal(np.abs(found) > 0.05, WORLD.coefficients > 0)


def test_the_future_beyond_the_lags_does_not_matter_and_nans_stay(pairs):
    model = WORLD.optimal_forecaster(2)
    past = pairs.past[:4]
    longer = torch.cat([torch.full_like(past, torch.nan), past], 1)
    torch.testing.assert_close(model(longer), model(past))
    past = past.clone()
    past[0, -1, 0, 5] = torch.nan
    assert model(past)[0].isnan().any() and not model(past)[1:].isnan().any()


def test_the_seed_decides_the_run():
    assert WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=3))
    assert not WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=4))


@pytest.mark.parametrize(
    "options",
    [{"nodes": 1}, {"neighbours": 0}, {"neighbours": 20}, {"max_lag": 0}, {"spectral_radius": 1.0}],
)
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs nodes >= 2"):
        GraphDiffusion(**options)


@pytest.mark.parametrize("shape", [(1, 2, 1, 12), (1, 3, 1, 11), (1, 3, 12)])
def test_a_past_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="T >= 3 and N = 12"):
        WORLD.optimal_forecaster(1)(torch.zeros(shape))
