import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from stlib.data.windows import split
from stlib.data.worlds import Lorenz96

WORLD = Lorenz96()


def integrate(world, state, time):
    for _ in range(round(time / world.step)):
        state = world.advance(state)
    return state


@pytest.fixture(scope="module")
def attractor():
    """States (run, variable) that have been spun up apart from each other."""
    return torch.tensor(np.stack([WORLD.simulate(1, seed=seed).values[0, 0] for seed in range(3)]))


def test_tendency_by_hand():
    world = Lorenz96(variables=4, forcing=8, damping=0.5)
    # x = 1, 2, 3, 5: (x1 - x2) x3 - 0.5 x0 + 8, and so on round the ring
    expected = [(2 - 3) * 5 - 0.5 + 8, (3 - 5) * 1 - 1 + 8, (5 - 1) * 2 - 1.5 + 8, (1 - 2) * 3 - 2.5 + 8]
    assert world.tendency(torch.tensor([1.0, 2.0, 3.0, 5.0])).tolist() == expected


def test_halving_the_step_divides_the_error_by_16(attractor):
    def reference(start):
        def right_hand_side(_, x):
            return (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + 8

        return solve_ivp(right_hand_side, (0, 0.5), start, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]

    truth = torch.tensor(np.stack([reference(start) for start in attractor.numpy()]))
    errors = [float((integrate(Lorenz96(step=step), attractor, 0.5) - truth).norm()) for step in (0.01, 0.005, 0.0025)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.05)


def test_advection_conserves_energy(attractor):
    world = Lorenz96(forcing=0, damping=0, step=0.005)
    after = integrate(world, attractor, 2)
    assert (after - attractor).norm() > 10
    torch.testing.assert_close(after.square().sum(-1), attractor.square().sum(-1), rtol=1e-6, atol=0)
    assert float((attractor * world.tendency(attractor)).sum(-1).abs().max()) < 1e-10


def test_damping_alone_takes_energy_away_at_its_rate(attractor):
    after = integrate(Lorenz96(forcing=0, damping=0.5, step=0.005), attractor, 1)
    torch.testing.assert_close(after.square().sum(-1), attractor.square().sum(-1) * np.exp(-1), rtol=1e-6, atol=0)


def test_climate_is_the_published_one():
    """N = 40, F = 8: mean about 2.34, standard deviation about 3.64, from our own long runs 2.344 and 3.641."""
    state = WORLD._spun_up(100, torch.Generator().manual_seed(0))
    states = []
    for _ in range(200):
        states.append(state := WORLD.advance(state))
    states = torch.stack(states)
    assert float(states.mean()) == pytest.approx(2.34, abs=0.03)
    assert float(states.std()) == pytest.approx(3.64, abs=0.03)
    # Energy balance of the steady state: F <x> = <x^2>.
    assert 8 * float(states.mean()) == pytest.approx(float(states.square().mean()), rel=0.01)


def test_errors_double_as_fast_as_published():
    """Lorenz and Emanuel (1998): in 2.1 days, where 5 days are a time unit."""
    exponent = WORLD.lyapunov_exponent(1000, seed=0, runs=100)
    assert np.log(2) / exponent == pytest.approx(0.42, abs=0.02)
    assert exponent == pytest.approx(1.68, abs=0.04)


def test_the_exponent_of_a_stable_world_is_that_of_its_fixed_point():
    """With F = 0.5 every state ends in x = F, where the growth rates are F (e^{ik} - e^{-2ik}) - 1 by linearisation."""
    k = 2 * np.pi * np.arange(40) / 40
    expected = (0.5 * (np.exp(1j * k) - np.exp(-2j * k)) - 1).real.max()
    assert Lorenz96(forcing=0.5).lyapunov_exponent(2000, seed=0, runs=2) == pytest.approx(expected, abs=2e-3)


def test_the_perfect_model_is_perfect():
    field = WORLD.simulate(80, seed=0)
    assert field.dtype == np.float64
    windows = split(field, past=2, horizon=10, train=50, validation=15, dtype=torch.float64)
    pairs = windows.train[:]
    torch.testing.assert_close(WORLD.optimal_forecaster(10)(pairs.past), pairs.future, rtol=0, atol=1e-12)
    assert WORLD.optimal_rmse(2).tolist() == [0, 0]


def test_a_twin_grows_from_its_error_to_strangers():
    error = WORLD.perfect_model_rmse(1e-3, 400, seed=0, runs=50)
    assert error[0] == pytest.approx(1e-3, rel=0.1)
    growth = np.log(error[49] / error[19]) / (30 * WORLD.step)  # while small
    assert 1.68 < growth < 3  # faster than the typical run, since the worst runs rule a mean of squares
    assert error[300:].mean() == pytest.approx(2**0.5 * 3.64, rel=0.03)


def test_a_tiny_error_grows_in_proportion():
    big, small = (WORLD.perfect_model_rmse(size, 40, seed=1, runs=20) for size in (1e-6, 1e-7))
    np.testing.assert_allclose(big / small, 10, rtol=1e-3)


def test_the_seed_decides_the_run():
    assert WORLD.simulate(3, seed=3).equals(WORLD.simulate(3, seed=3))
    assert not WORLD.simulate(3, seed=3).equals(WORLD.simulate(3, seed=4))


@pytest.mark.parametrize(
    "options", [{"variables": 3}, {"step": 0.0}, {"step": 0.2}, {"damping": -1.0}, {"damping": 0.0}]
)
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs variables >= 4"):
        Lorenz96(**options)


def test_a_twin_needs_an_error():
    with pytest.raises(ValueError, match="initial_error must be above 0, got 0"):
        WORLD.perfect_model_rmse(0, 3, seed=0)
