import numpy as np
import pytest
import torch

from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.models.baselines import Persistence

WORLD = AdvectionDiffusion(size=16)


@pytest.fixture(scope="module")
def pairs():
    windows = split(WORLD.simulate(8020, seed=1), past=1, horizon=6, train=8000, validation=10, dtype=torch.float64)
    return windows.train[:]


def rmse(model, pairs):
    return (model(pairs.past) - pairs.future).square().mean((0, 2, 3, 4)).sqrt().numpy()


def test_the_optimal_forecaster_reaches_the_closed_form(pairs):
    np.testing.assert_allclose(rmse(WORLD.optimal_forecaster(6), pairs), WORLD.optimal_rmse(6), rtol=0.01)


def test_the_optimal_forecaster_starts_from_the_last_map(pairs):
    model = WORLD.optimal_forecaster(2)
    several = torch.cat([torch.randn_like(pairs.past[:3]), pairs.past[:3]], 1)
    torch.testing.assert_close(model(several), model(pairs.past[:3]))


def test_persistence_reaches_its_closed_form(pairs):
    np.testing.assert_allclose(rmse(Persistence(horizon=6), pairs), WORLD.persistence_rmse(6), rtol=0.02)


def test_every_cell_has_mean_0_and_variance_1_from_the_start():
    runs = np.stack([WORLD.simulate(2, seed=seed).values for seed in range(2000)])  # (run, time, 1, y, x)
    np.testing.assert_allclose(runs.mean((0, 2, 3, 4)), 0, atol=0.03)
    np.testing.assert_allclose((runs**2).mean((0, 2, 3, 4)), 1, atol=0.03)
    assert WORLD.optimal_rmse(2000)[-1] == pytest.approx(1, abs=1e-6)  # in the long run only climatology is left


def test_one_step_is_the_matrix_it_says(pairs):
    """The dense A from one-step least squares on simulated data equals the kernel in Fourier space."""
    small = AdvectionDiffusion(size=4, velocity=(1.0, 0.0), diffusion=0.0, damping=0.1, forcing_length=0.2)
    x = torch.tensor(small.simulate(40_000, seed=0).values, dtype=torch.float64).flatten(1)
    dense = torch.linalg.lstsq(x[:-1], x[1:]).solution.T
    moved_down = torch.roll(torch.eye(16).reshape(16, 4, 4), 1, dims=1).reshape(16, 16).T * np.exp(-0.1)
    torch.testing.assert_close(dense, moved_down.double(), atol=0.03, rtol=0)


def test_no_linear_forecaster_beats_the_optimum(pairs):
    """Least squares on all 256 cells, scored where it was fitted, gains only what overfitting gives."""
    x, y = pairs.past[:, 0].flatten(1), pairs.future[:, 0].flatten(1)
    residual = y - x @ torch.linalg.lstsq(x, y).solution
    unbiased = (residual.square().sum() / ((len(x) - 256) * 256)).sqrt()
    assert unbiased == pytest.approx(WORLD.optimal_rmse(1)[0], rel=0.005)


def test_the_seed_decides_the_run():
    assert WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=3))
    assert not WORLD.simulate(5, seed=3).equals(WORLD.simulate(5, seed=4))


@pytest.mark.parametrize("options", [{"size": 3}, {"diffusion": -1.0}, {"damping": 0.0}, {"forcing_length": -0.5}])
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs size >= 4"):
        AdvectionDiffusion(**options)
