"""Linear inverse models against scipy, a system whose dynamics are known, and a regression on principal components."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm, solve_continuous_lyapunov
from sklearn.decomposition import PCA

from stlib.models.lim import LIM, _leading, _logarithm, _noise
from stlib.models.var import VAR

B = np.array([[-0.2, 0.5, 0.0], [-0.5, -0.2, 0.0], [0.3, 0.0, -0.4]])  # turns, decays, and one mode feeds another
Q = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.0], [0.0, 0.0, 0.5]])


def steady():
    """The covariance that B and the forcing Q keep: B C + C Bᵀ = -Q."""
    return solve_continuous_lyapunov(B, -Q)


def made(steps, *, places=6, seed=0):
    """A field (steps, 1, places) whose three patterns follow B and Q exactly."""
    rng = np.random.default_rng(seed)
    covariance, step = steady(), expm(B)
    kick = np.linalg.cholesky(covariance - step @ covariance @ step.T)
    a = np.empty((steps, 3))
    a[0] = np.linalg.cholesky(covariance) @ rng.standard_normal(3)
    for t in range(1, steps):
        a[t] = step @ a[t - 1] + kick @ rng.standard_normal(3)
    patterns = np.linalg.qr(np.random.default_rng(1).normal(size=(places, 3)))[0].T
    return torch.from_numpy(a @ patterns)[:, None], patterns


def test_dynamics_and_forcing_of_a_known_system_come_back():
    field, patterns = made(40_000)
    model = LIM(modes=3, horizon=1).fit(field)
    turn = model.patterns[:, 0].numpy() @ patterns.T  # from the true amplitudes to those of the EOFs
    np.testing.assert_allclose(turn.T @ model.dynamics.numpy() @ turn, B, atol=0.03)
    np.testing.assert_allclose(turn.T @ model.forcing.numpy() @ turn, Q, atol=0.08)
    assert model.negative == 0
    found = model.eigenvalues().numpy()
    expected = sorted(np.linalg.eigvals(B), key=lambda value: -value.real)
    np.testing.assert_allclose(found.real, np.real(expected), atol=0.02)
    np.testing.assert_allclose(np.sort(found.imag), [-0.5, 0, 0.5], atol=0.02)


@pytest.mark.parametrize("lag", [1, 3])
def test_dynamics_are_the_logarithm_of_scipy(lag):
    field, _ = made(300)
    model = LIM(modes=3, horizon=1, lag=lag).fit(field)
    patterns = model.patterns[:, 0].numpy()
    assert (np.take_along_axis(patterns, abs(patterns).argmax(1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(patterns @ patterns.T, np.eye(3), atol=1e-12)
    a = (field - field.mean(0))[:, 0].numpy() @ patterns.T
    np.testing.assert_allclose(model.amplitudes(field[None])[0], a, atol=1e-12)
    propagator = a[lag:].T @ a[:-lag] @ np.linalg.inv(a[:-lag].T @ a[:-lag])
    np.testing.assert_allclose(model.dynamics, logm(propagator) / lag, atol=1e-10)
    np.testing.assert_allclose(model.covariance, a.T @ a / 300, atol=1e-12)
    values = np.linalg.eigvalsh(-(model.dynamics @ model.covariance + model.covariance @ model.dynamics.T))
    np.testing.assert_allclose(np.linalg.eigvalsh(model.forcing), values, atol=1e-10)
    np.testing.assert_allclose(model.propagator(2.5), expm(2.5 * model.dynamics.numpy()), atol=1e-12)


def test_with_lag_one_it_is_a_vector_autoregression_of_principal_components():
    field, _ = made(400)
    field = field + 0.3 * torch.randn(field.shape, dtype=field.dtype, generator=torch.Generator().manual_seed(0)) + 5
    model = LIM(modes=2, horizon=4).fit(field)
    pca = PCA(n_components=2).fit(field[:, 0])
    scores = torch.from_numpy(pca.transform(field[:, 0]))
    var = VAR(lags=1, horizon=4).fit(scores)
    var.coefficients = torch.linalg.lstsq(scores[:-1], scores[1:]).solution.T[None, None]
    var.intercept = torch.zeros(1, 2, dtype=torch.float64)
    expected = pca.inverse_transform(var(scores[None])[0])
    np.testing.assert_allclose(model(field[None])[0, :, 0], expected, atol=1e-9)


def test_the_stated_spread_is_that_of_the_errors():
    field, _ = made(20_000, places=5)
    noisy = field + 0.5 * torch.randn(field.shape, dtype=field.dtype, generator=torch.Generator().manual_seed(0))
    model = LIM(modes=3, horizon=6).fit(noisy)
    windows = noisy.unfold(0, 7, 1).movedim(-1, 1)
    forecast = model.distribution(windows[:, :1])
    error = (forecast.mean - windows[:, 1:]).square().mean(0).sqrt()
    np.testing.assert_allclose(forecast.stddev[0], error, rtol=0.05)
    far = LIM(modes=3, horizon=80).fit(noisy).distribution(noisy[None, :1])
    np.testing.assert_allclose(far.stddev[0, -1, 0], noisy[:, 0].std(0), rtol=0.02)
    np.testing.assert_allclose(far.mean[0, -1, 0], noisy[:, 0].mean(0), atol=0.02)


def test_made_up_records_have_the_covariance_of_the_model():
    model = LIM(modes=3, horizon=1).fit(made(2000)[0])
    a = model.simulate(50, draws=4000, seed=1)
    assert a.shape == (4000, 50, 3)
    for t in (0, 49):
        np.testing.assert_allclose(a[:, t].T @ a[:, t] / 4000, model.covariance, atol=0.3)
    lagged = a[:, 30].T @ a[:, 27] / 4000
    np.testing.assert_allclose(lagged, model.propagator(3) @ model.covariance, atol=0.3)
    assert torch.equal(model.simulate(5, seed=3), model.simulate(5, seed=3))


def test_the_tau_test_passes_what_is_linear_and_stops_what_remembers_otherwise():
    passed = []
    for seed in range(40):
        field, _ = made(200, seed=seed)
        found = LIM(modes=3, horizon=1).fit(field).tau_test(field, lags=4, draws=100)
        assert found.lag.tolist() == [2, 3, 4, 5]
        passed.append((found.distance <= found.limit).double())
    assert 0.88 < torch.stack(passed).mean() < 1.0
    noise = torch.randn(400, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    late = noise.clone()
    for t in range(4, 400):
        late[t] += 0.9 * late[t - 4]  # remembers four steps, and nothing of the last one
    late = late + torch.roll(late, 1, 0)
    found = LIM(modes=1, horizon=1).fit(late).tau_test(late, lags=4, draws=100)
    assert found.distance[2] > 2 * found.limit[2]


def test_the_distance_of_the_tau_test_is_that_of_the_covariances():
    field, _ = made(150)
    model = LIM(modes=2, horizon=1, lag=2).fit(field)
    found = model.tau_test(field, lags=2, draws=20)
    a = model.amplitudes(field[None])[0].numpy()
    start = a.T @ a / len(a)
    propagator = a[2:].T @ a[:-2] @ np.linalg.inv(a[:-2].T @ a[:-2])
    for k, distance in zip((2, 3), found.distance, strict=True):
        lag = 2 * k
        expected = a[lag:].T @ a[:-lag] / (len(a) - lag) - np.linalg.matrix_power(propagator, k) @ start
        np.testing.assert_allclose(distance, np.linalg.norm(expected) / np.linalg.norm(start), rtol=1e-9)


def test_a_forcing_that_is_no_covariance_is_made_one_and_said_so():
    dynamics = torch.tensor([[-0.1, 5.0], [0.0, -0.3]], dtype=torch.float64)
    forcing, negative = _noise(dynamics, torch.eye(2, dtype=torch.float64))
    raw = -(dynamics + dynamics.T)
    values = torch.linalg.eigvalsh(raw)
    assert values[0] < 0 < values[1]
    torch.testing.assert_close(negative, -values[0] / values.abs().sum())
    torch.testing.assert_close(torch.linalg.eigvalsh(forcing), torch.stack([0 * values[0], values.sum()]))
    torch.testing.assert_close(forcing @ raw, raw @ forcing)  # the same axes


def test_weights_decide_what_counts_and_leave_the_field_in_its_units():
    loud = 3 * np.cos(np.arange(500) / 9)[:, None]
    quiet = np.sin(np.arange(500) / 5)[:, None] * np.array([1.0, -1.0, 1.0])
    field = torch.from_numpy(np.hstack([loud, quiet]))[:, None] + 100
    plain = LIM(modes=1, horizon=1).fit(field).patterns[0, 0].abs()
    assert plain[0] > 0.99
    weights = torch.tensor([1e-4, 1.0, 1.0, 1.0])
    model = LIM(modes=1, horizon=1).fit(field, weights)
    now = field[None, 250:251]
    held = model.amplitudes(now)[0, 0] @ model.patterns.flatten(1)
    np.testing.assert_allclose(held[1:], (now - model.mean)[0, 0, 0, 1:], atol=1e-2)


def test_gaps_and_dead_cells():
    field, _ = made(300)
    gappy = torch.cat([field, torch.full((300, 1, 1), torch.nan, dtype=field.dtype)], 2)
    gappy[100, 0, 2] = torch.nan
    model = LIM(modes=3, horizon=3).fit(gappy)
    kept = torch.arange(300) != 100
    centred = (field - gappy.nanmean(0)[:, :6])[:, 0]
    a = centred @ model.patterns[:, 0, :6].T
    pairs = kept[:-1] & kept[1:]
    propagator = torch.linalg.lstsq(a[:-1][pairs], a[1:][pairs]).solution.T
    np.testing.assert_allclose(model.propagator(1), propagator, atol=1e-10)
    past = gappy[None, 95:101]
    forecast = model(past)
    assert forecast[..., 6].isnan().all() and forecast[..., :6].isfinite().all()
    assert model.distribution(past).stddev[..., 6].isnan().all()
    filled = past.clone()
    filled[0, -1, 0, 2] = filled[0, -2, 0, 2]
    torch.testing.assert_close(forecast, model(filled), equal_nan=True)
    silent = past.clone()
    silent[..., 3] = torch.nan
    assert model(silent)[..., 3].isnan().all() and model(silent)[..., [0, 1, 2, 4, 5]].isfinite().all()
    assert model.tau_test(gappy, lags=2, draws=20).distance.isfinite().all()


@pytest.mark.parametrize("space", [(), (4,), (2, 3)])
def test_any_space_goes_in_and_comes_out(space):
    series = torch.randn(80, 2, *space, generator=torch.Generator().manual_seed(0)).cumsum(0)
    model = LIM(modes=2, horizon=3).fit(series)
    past = torch.stack([series[:9], series[20:29]])
    assert model(past).shape == (2, 3, 2, *space)
    assert model(past).dtype == torch.float32
    torch.testing.assert_close(model(past)[1:], model(past[1:, -1:]))
    assert model.distribution(past).sample((5,)).shape == (5, 2, 3, 2, *space)
    copy = LIM(modes=2, horizon=3)
    copy.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(copy.distribution(past).stddev, model.distribution(past).stddev)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40)])
@pytest.mark.parametrize("weakest", [1e-1, 1e-6])
def test_patterns_are_the_singular_vectors(shape, weakest):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in shape)
    x = torch.from_numpy(left * np.geomspace(1, weakest, 5) @ right.T)
    found = _leading(x, 5)
    expected = np.linalg.svd(x.numpy(), full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.abs((found.numpy() * expected).sum(1)), 1, atol=1e-8)
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-8)


def test_the_largest_value_of_a_pattern_is_positive_under_any_weights():
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        series = torch.randn(50, 2, 3, generator=generator).double().cumsum(0)
        patterns = LIM(modes=3, horizon=1).fit(series, torch.rand(3, generator=generator) + 0.01).patterns.flatten(1)
        assert (patterns.gather(1, patterns.abs().argmax(1, keepdim=True)) > 0).all()


def test_turns_shorter_than_two_lags_come_back_slower():
    t = torch.arange(400, dtype=torch.float64)
    turn = 2 * torch.pi / 4 * t  # four steps a turn
    field = torch.stack([turn.cos(), turn.sin()], 1)[:, None]
    periods = [2 * torch.pi / LIM(modes=2, horizon=1, lag=lag).fit(field).eigenvalues().imag.max() for lag in (1, 3)]
    np.testing.assert_allclose(periods, [4, 12], rtol=0.02)


@pytest.mark.parametrize("value", [0.1, 273.15, 1e5 + 0.1])
def test_a_constant_holds_no_pattern_in_any_length(value):
    for steps in range(10, 200, 13):
        with pytest.raises(ValueError, match="the field has 0 patterns"):
            LIM(modes=1, horizon=1).fit(torch.full((steps, 1, 3), value, dtype=torch.float64))


def test_a_logarithm_that_rounding_destroys_is_refused():
    for block in ([[0.9, 1.0], [0.0, 0.9]], [[0.9, 1.0], [1e-14, 0.9]], [[0.9, 1, 0], [0, 0.9, 1], [0, 0, 0.9]]):
        matrix = torch.tensor(block, dtype=torch.float64)
        try:
            found = _logarithm(matrix)
        except ValueError as error:
            assert "nearly the same" in str(error)
        else:
            np.testing.assert_allclose(found, logm(matrix.numpy()), atol=1e-6)
    with pytest.raises(ValueError, match="nearly the same"):
        _logarithm(torch.tensor([[0.9, 1.0], [0.0, 0.9]], dtype=torch.float64))


def test_an_empty_batch_and_whole_numbers():
    field = (10 * made(100)[0]).round()
    model = LIM(modes=2, horizon=3).fit(field)
    assert model(field[None, :5][:0]).shape == model.distribution(field[None, :5][:0]).stddev.shape == (0, 3, 1, 6)
    torch.testing.assert_close(model(field[None].long()), model(field[None]))


def test_unusable_input_is_refused():
    for bad in ({"modes": 0}, {"horizon": 0}, {"lag": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            LIM(**({"modes": 1, "horizon": 1} | bad))
    field, _ = made(50)
    model = LIM(modes=3, horizon=1)
    with pytest.raises(ValueError, match="not fitted yet"):
        model(field[None])
    with pytest.raises(ValueError, match="finite or NaN"):
        model.fit(field * torch.inf)
    for empty in (field * torch.nan, field[:, :0], field[..., :0], field[:0]):
        with pytest.raises(ValueError, match="must hold observed values, got none"):
            model.fit(empty)
    for weights in (torch.zeros(6), torch.full((6,), torch.inf), torch.full((6,), torch.nan)):
        with pytest.raises(ValueError, match="weights must be positive and finite"):
            model.fit(field, weights)
    with pytest.raises(ValueError, match="needs 5 pairs of complete steps"):
        model.fit(field[:5])
    with pytest.raises(ValueError, match="the field has 3 patterns"):
        LIM(modes=4, horizon=1).fit(field)
    flips = torch.tensor([1.0, -1.0]).repeat(20)[:, None]
    with pytest.raises(ValueError, match="no real logarithm: take fewer modes or a shorter lag"):
        LIM(modes=1, horizon=1).fit(flips)
    model.fit(field)
    with pytest.raises(ValueError, match=r"past must be \(B, T, 1, 6\)"):
        model(torch.zeros(1, 3, 1, 5))
    with pytest.raises(ValueError, match="past holds 1 infinite"):
        model(torch.zeros(1, 5, 1, 6).index_put([torch.tensor(i) for i in (0, 2, 0, 1)], torch.tensor(torch.inf)))
    for bad in ({"steps": 0}, {"steps": 3, "draws": 0}):
        with pytest.raises(ValueError, match="steps and draws must be at least 1"):
            model.simulate(**bad)
    with pytest.raises(ValueError, match="more than 50 steps"):
        model.tau_test(field, lags=45)
    with pytest.raises(ValueError, match=r"past must be \(B, T, 1, 6\)"):
        model.tau_test(field[..., :5], lags=2)
    with pytest.raises(ValueError, match="5 pairs of complete steps, 3 apart, got 0"):
        model.tau_test(field * torch.nan, lags=2)
    other = LIM(modes=2, horizon=1)
    other.load_state_dict(model.state_dict(), assign=True)
    with pytest.raises(ValueError, match="fit with modes=3, got modes=2"):
        other(field[None])
