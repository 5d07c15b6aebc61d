"""Space-time ARMA against dense regressions, statsmodels for one place, a slow loop, and fields made with it."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from statsmodels.tsa.arima.model import ARIMA

from stlib.models._starma_fit import residuals
from stlib.models.starma import STARMA, neighbour_orders
from stlib.models.var import VAR

PHI = ((0.3, 0.25, 0.1), (0.2, -0.1, 0.0))
THETA = ((0.4, -0.2, 0.1),)


def ring(places, orders=2):
    adjacency = torch.zeros(places, places, dtype=torch.float64)
    for i in range(places):
        adjacency[i, (i + 1) % places] = adjacency[i, i - 1] = 1
    return neighbour_orders(adjacency, orders=orders)


def made(weights, phi, theta, *, steps, seed=0, noise=1.0):
    """A field (steps, 1, N) of the model, by plain loops."""
    generator = np.random.default_rng(seed)
    matrices = [np.eye(len(weights[0])), *weights.numpy()]
    e = noise * generator.standard_normal((steps + 50, len(weights[0])))
    z = np.zeros_like(e)
    for t in range(2, steps + 50):
        z[t] = e[t]
        for sign, coefficients, source in ((1, phi, z), (-1, theta, e)):
            for k, by_order in enumerate(coefficients, start=1):
                for matrix, value in zip(matrices, by_order, strict=True):
                    z[t] += sign * value * matrix @ source[t - k]
    return torch.from_numpy(z[50:])[:, None]


def squares_by_loops(z, weights, phi, theta):
    """The residuals of the model step by step, a missing value replaced by its forecast."""
    matrices = [np.eye(z.shape[1]), *weights.numpy()]
    p, z, e = len(phi), z.numpy().copy(), np.zeros(z.shape)
    z[:p] = np.nan_to_num(z[:p])
    for t in range(p, len(z)):
        guess = sum(c * m @ z[t - k] for k, row in enumerate(phi, 1) for c, m in zip(row, matrices, strict=True))
        for k, row in enumerate(theta, 1):
            if t - k >= 0:
                guess = guess - sum(c * m @ e[t - k] for c, m in zip(row, matrices, strict=True))
        z[t] = np.where(np.isnan(z[t]), guess, z[t])
        e[t] = z[t] - guess
    return e[p:], z


def holes(series, share, seed=1):
    gone = torch.rand(series.shape, generator=torch.Generator().manual_seed(seed)) < share
    return series.masked_fill(gone, torch.nan)


def test_without_moving_average_it_is_the_stacked_regression():
    weights = ring(6)
    series = made(weights, PHI, (), steps=80) + torch.arange(6.0)
    model = STARMA(weights=weights, ar=2, horizon=3).fit(series)
    z = (series - series.mean(0))[:, 0].numpy()
    matrices = [np.eye(6), *weights.numpy()]
    rows = np.stack([(z[2 - k : 80 - k] @ m.T).ravel() for k in (1, 2) for m in matrices], 1)
    slope, squares, *_ = np.linalg.lstsq(rows, z[2:].ravel(), rcond=None)
    np.testing.assert_allclose(model.phi.flatten(), slope, rtol=1e-9)
    variance = squares[0] / (len(rows) - 6)
    np.testing.assert_allclose(model.phi_error.flatten().square(), variance * np.linalg.inv(rows.T @ rows).diagonal())
    np.testing.assert_allclose(model.variance.mean(), variance)


def test_it_forecasts_as_the_vector_autoregression_with_its_matrices():
    weights = ring(6)
    series = made(weights, PHI, (), steps=200)
    model, dense = STARMA(weights=weights, ar=2, horizon=5).fit(series), VAR(lags=2, horizon=5).fit(series)
    dense.coefficients, dense.intercept = model.matrices()[0], torch.zeros(1, 6, dtype=torch.float64)
    dense.noise = torch.diag_embed(model.variance)
    past = series[None, -7:]
    torch.testing.assert_close(model(past) - model.mean, dense(past - model.mean))
    torch.testing.assert_close(model.distribution(past).stddev, dense.distribution(past).stddev)
    torch.testing.assert_close(model.spectral_radius(), dense.spectral_radius())


def test_without_neighbours_it_is_an_autoregression_that_all_places_share():
    series = made(ring(5), PHI, (), steps=150)
    model = STARMA(weights=torch.zeros(5, 5), ar=2, horizon=3).fit(series)
    z = series - series.mean(0)
    stacked = torch.cat([z[1:-1].reshape(-1, 1), z[:-2].reshape(-1, 1)], 1)
    slope = torch.linalg.lstsq(stacked, z[2:].reshape(-1, 1)).solution
    torch.testing.assert_close(model.phi[0, :, 0], slope[:, 0])
    assert (model.phi[..., 1] == 0).all()


def test_a_single_place_is_the_conditional_least_squares_of_arima():
    series = torch.from_numpy(np.random.default_rng(0).standard_normal(300))
    for t in range(1, 300):
        series[t] += 0.7 * series[t - 1]
    model = STARMA(weights=torch.zeros(1, 1), ar=1, ma=1, horizon=4).fit(series[:, None, None])
    z = (series - series.mean()).numpy()

    def squares(parameters):
        e = np.zeros(300)
        for t in range(1, 300):
            e[t] = z[t] - parameters[0] * z[t - 1] + parameters[1] * e[t - 1]
        return e[1:] @ e[1:]

    best = minimize(squares, [0.5, 0.0], method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose([model.phi[0, 0, 0], model.theta[0, 0, 0]], best, atol=1e-5)
    exact = ARIMA(z, order=(1, 0, 1), trend="n").fit()
    np.testing.assert_allclose([model.phi[0, 0, 0], -model.theta[0, 0, 0]], exact.params[:2], atol=0.02)
    np.testing.assert_allclose(model.phi_error[0, 0, 0], exact.bse[0], rtol=0.1)
    fixed = ARIMA(z, order=(1, 0, 1), trend="n").smooth([*best * [1, -1], float(model.variance)]).get_forecast(4)
    past = series[None, :, None, None]
    np.testing.assert_allclose(model(past).flatten() - model.mean.item(), fixed.predicted_mean, atol=1e-4)
    np.testing.assert_allclose(model.distribution(past).stddev.flatten(), fixed.se_mean, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_residuals_and_their_slope_are_those_of_a_plain_loop(share):
    weights = ring(5)
    z = holes(made(weights, PHI, THETA, steps=40), share)
    beta = torch.tensor([PHI[0] + PHI[1] + THETA[0]], dtype=torch.float64)
    both = torch.cat([torch.eye(5, dtype=torch.float64)[None], weights])
    _, _, slope, error = residuals(z, both, beta, ar=2)
    expected, _ = squares_by_loops(z[:, 0], weights, PHI, THETA)
    np.testing.assert_allclose(error[0], expected, atol=1e-12)
    for j in range(9):
        step = torch.zeros_like(beta)
        step[0, j] = 1e-6
        up, down = (residuals(z, both, beta + sign * step, ar=2)[0] for sign in (1, -1))
        np.testing.assert_allclose(-2 * slope[0, j], (up - down) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_coefficients_of_a_made_field_come_back_within_their_standard_errors(share):
    weights = ring(12)
    series = holes(made(weights, PHI, THETA, steps=500), share)
    model = STARMA(weights=weights, ar=2, ma=1, horizon=2).fit(series)
    found = torch.cat([model.phi[0] - torch.tensor(PHI), model.theta[0] - torch.tensor(THETA)])
    error = torch.cat([model.phi_error[0], model.theta_error[0]])
    assert (found.abs() < 3.5 * error).all()
    np.testing.assert_allclose(model.variance.mean(), 1, atol=0.06)


def test_standard_errors_are_the_spread_over_many_made_fields():
    weights = ring(6, orders=1)
    fields = [made(weights, ((0.5, 0.3),), ((0.3, 0.2),), steps=100, seed=seed) for seed in range(200)]
    model = STARMA(weights=weights, ar=1, ma=1, horizon=1).fit(torch.cat(fields, 1))  # a channel each
    for name in ("phi", "theta"):
        stated = getattr(model, name + "_error").square().mean(0).sqrt()
        np.testing.assert_allclose(stated / getattr(model, name).std(0), 1, atol=0.2)


def test_the_optimum_cannot_be_improved_upon():
    weights = ring(5, orders=1)
    series = made(weights, ((0.4, 0.3),), ((0.5, -0.3),), steps=120)
    model = STARMA(weights=weights, ar=1, ma=1, horizon=1).fit(series)
    z = (series - series.mean(0))[:, 0]

    def squares(x):
        return np.square(squares_by_loops(z, weights, [x[:2]], [x[2:]])[0]).sum()

    ours = torch.cat([model.phi[0, 0], model.theta[0, 0]]).numpy()
    best = minimize(squares, ours + 0.02, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x
    np.testing.assert_allclose(ours, best, atol=1e-4)


@pytest.mark.parametrize("difference", [1, 2])
def test_differences_are_taken_and_undone(difference):
    weights = ring(5, orders=1)
    steady = made(weights, ((0.4, 0.3),), ((0.2, 0.1),), steps=120)
    series = steady
    for _ in range(difference):
        series = series.cumsum(0)
    model = STARMA(weights=weights, ar=1, ma=1, difference=difference, horizon=4).fit(series + 7)
    z = series
    for _ in range(difference):
        z = z.diff(dim=0)
    again = STARMA(weights=weights, ar=1, ma=1, horizon=4).fit(z - z.mean(0))
    raw = STARMA(weights=weights, ar=1, ma=1, horizon=4).fit(z - z.mean(0))
    raw.phi, raw.theta, raw.mean = model.phi, model.theta, 0 * model.mean
    steps = raw(z[None])
    for order in range(difference):
        last = series
        for _ in range(difference - 1 - order):
            last = last.diff(dim=0)
        steps = last[-1] + steps.cumsum(1)
    torch.testing.assert_close(model(series[None] + 7), steps + 7)
    assert (model.phi - again.phi).abs().max() < 0.1  # the same field but for its mean
    spread = model.distribution(series[None]).stddev
    assert (spread.diff(dim=1) > 0).all()


def test_the_spread_of_a_random_walk_grows_as_the_root_of_the_lead():
    series = made(ring(4), ((0.0, 0.0, 0.0),), (), steps=500).cumsum(0)
    model = STARMA(weights=ring(4), ar=0, ma=1, difference=1, horizon=9).fit(series)
    model.theta = torch.zeros_like(model.theta)
    spread = model.distribution(series[None, -5:]).stddev[0, :, 0]
    torch.testing.assert_close(spread / spread[:1], torch.arange(1.0, 10).double().sqrt()[:, None].expand(-1, 4))
    torch.testing.assert_close(model(series[None, -5:]), series[None, -1:].expand(1, 9, 1, 4))


def test_rows_with_a_gap_are_left_out_and_gaps_of_the_past_are_forecast():
    weights = ring(5, orders=1)
    series = holes(made(weights, ((0.4, 0.3),), (), steps=200), 0.03)
    model = STARMA(weights=weights, ar=1, horizon=3).fit(series)
    z = (series - series.nanmean(0))[:, 0].numpy()
    rows, target = [], []
    for t in range(1, 200):
        for n in range(5):
            around = [z[t - 1, n], (z[t - 1, n - 1] + z[t - 1, (n + 1) % 5]) / 2]
            if np.isfinite([z[t, n], *around]).all():
                rows.append(around)
                target.append(z[t, n])
    np.testing.assert_allclose(model.phi.flatten(), np.linalg.lstsq(np.array(rows), target, rcond=None)[0], rtol=1e-9)
    past = series[None, -30:].nan_to_num()
    past[0, 20, 0, 2] = past[0, 29, 0, 4] = torch.nan
    filled = past.clone()
    filled[0, 20, 0, 2] = model(filled[:, :20])[0, 0, 0, 2]
    filled[0, 29, 0, 4] = model(filled[:, :29])[0, 0, 0, 4]
    torch.testing.assert_close(model(past), model(filled))


def test_the_forecast_with_a_moving_average_is_that_of_a_plain_loop():
    weights = ring(5)
    series = holes(made(weights, PHI, THETA, steps=60), 0.1)
    series[:2] = series[:2].nan_to_num()
    model = STARMA(weights=weights, ar=2, ma=1, horizon=3).fit(series)
    z = (series - model.mean)[:, 0]
    longer = torch.cat([z, torch.full((3, 5), torch.nan, dtype=z.dtype)])
    _, expected = squares_by_loops(longer, weights, model.phi[0].tolist(), model.theta[0].tolist())
    np.testing.assert_allclose(model(series[None])[0, :, 0] - model.mean, expected[-3:], atol=1e-10)


def test_channels_have_their_own_coefficients():
    weights = ring(6, orders=1)
    one, two = (made(weights, phi, (), steps=100, seed=s) for s, phi in enumerate((((0.5, 0.3),), ((0.1, 0.6),))))
    for ma in (0, 1):
        both = STARMA(weights=weights, ar=1, ma=ma, horizon=2).fit(torch.cat([one, 10 * two], 1))
        for c, series in enumerate((one, 10 * two)):
            alone = STARMA(weights=weights, ar=1, ma=ma, horizon=2).fit(series)
            torch.testing.assert_close(both.phi[c], alone.phi[0], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(both.variance[c], alone.variance[0], rtol=1e-3, atol=1e-3)


def test_direction_can_be_asked_for():
    east = torch.eye(8, dtype=torch.float64).roll(1, 0)
    series = made(torch.stack([east, east.T]), ((0.2, 0.6, 0.0),), (), steps=400)
    model = STARMA(weights=torch.stack([east, east.T]), ar=1, horizon=1).fit(series)
    np.testing.assert_allclose(model.phi.flatten(), [0.2, 0.6, 0.0], atol=4 * float(model.phi_error.max()))


def test_dead_places_and_odd_channels_spoil_nothing():
    weights = ring(6, orders=1)
    series = made(weights, ((0.4, 0.3),), (), steps=120).repeat(1, 3, 1)
    series[:, 0, 2] = torch.nan  # a place without anything counts as its mean
    series[:, 1] = 4.0  # a constant channel
    series[5:, 2] = torch.nan  # too short
    model = STARMA(weights=weights, ar=1, horizon=3).fit(series)
    forecast = model(series[None])
    assert forecast[0, :, 0, 2].isnan().all() and forecast[0, :, 0, [0, 1, 3, 4, 5]].isfinite().all()
    assert (forecast[0, :, 1] == 4).all()
    z = (series - series[:, 0].mean(0))[:, 0].nan_to_num()
    expected = []
    for _ in range(3):  # the empty place stays at its mean
        new = model.matrices()[0][0, 0] @ (z[-1] if not expected else expected[-1])
        expected.append(new.index_fill(0, torch.tensor(2), 0.0))
    left = torch.tensor([0, 1, 3, 4, 5])
    torch.testing.assert_close(forecast[0, :, 0, left] - model.mean[0, left], torch.stack(expected)[:, left])
    assert model.distribution(series[None]).stddev[0, :, 0, 2].isnan().all()
    past = series[None, -5:, :1].nan_to_num()
    past[..., 4] = torch.nan
    assert model.fit(series[:, :1])(past)[..., 4].isnan().all()
    assert model(past)[..., [0, 1, 3, 5]].isfinite().all()


def test_a_dead_place_adds_nothing_to_the_spread_of_the_others():
    weights = ring(6, orders=1)
    series = made(weights, ((0.4, 0.3),), ((0.2, 0.3),), steps=100)
    series[..., 2] = torch.nan
    model = STARMA(weights=weights, ar=1, ma=1, horizon=4).fit(series)
    left = [0, 1, 3, 4, 5]
    a, m = (matrix[0, 0][left][:, left] for matrix in model.matrices())
    psi = [torch.eye(5, dtype=torch.float64), a - m]
    psi += [a @ psi[1], a @ a @ psi[1]]
    variance = sum(p @ torch.diag(model.variance[0, left]) @ p.T for p in psi).diagonal()
    spread = model.distribution(series[None]).stddev
    torch.testing.assert_close(spread[0, -1, 0, left], variance.sqrt())
    assert spread[..., 2].isnan().all()


@pytest.mark.parametrize("ma", [0, 1])
def test_the_variance_is_over_what_was_observed(ma):
    weights = ring(5, orders=1)
    series = holes(made(weights, ((0.4, 0.3),), ((0.3, 0.2),), steps=80), 0.2)
    series[..., 3] = torch.nan
    model = STARMA(weights=weights, ar=1, ma=ma, horizon=1).fit(series)
    z = (series - model.mean)[:, 0]
    z[:, 3] = 0.0  # a dead place is at its mean
    error, _ = squares_by_loops(z, weights, model.phi[0].tolist(), model.theta[0].tolist())
    there = ~series[1:, 0].isnan()
    if not ma:  # and its neighbours, the step before
        there &= ~(z[:-1].isnan() | z[:-1].roll(1, 1).isnan() | z[:-1].roll(-1, 1).isnan())
    there, count, left = there.numpy(), int(there.sum()), [0, 1, 2, 4]
    expected = [np.square(error[there[:, n], n]).mean() * count / (count - 2 * (1 + ma)) for n in left]
    np.testing.assert_allclose(model.variance[0, left], expected, rtol=1e-6)
    assert model.variance[0, 3].isnan()


def test_a_place_without_a_complete_row_has_the_variance_of_all():
    series = made(ring(5, orders=1), ((0.4, 0.3),), (), steps=80)
    series[::2, 0, 1] = torch.nan
    series[1::2, 0, 2] = torch.nan  # next to one another, never observed in a row
    model = STARMA(weights=ring(5, orders=1), ar=1, horizon=1).fit(series)
    assert model.variance[0, 1] == model.variance[0, 2]
    seen = model.variance[0, [0, 3, 4]]
    assert seen.min() < model.variance[0, 1] < seen.max()


@pytest.mark.parametrize("ma", [0, 1])
def test_a_channel_of_copies_spoils_no_other(ma):
    weights = ring(6, orders=1)
    good = made(weights, ((0.4, 0.3),), (), steps=100)
    same = good[..., :1].expand(-1, -1, 6)  # a place and the mean of its neighbours are the same
    model = STARMA(weights=weights, ar=1, ma=ma, horizon=2).fit(torch.cat([good, same], 1))
    alone = STARMA(weights=weights, ar=1, ma=ma, horizon=2).fit(good)
    for name in ("phi", "theta", "phi_error", "theta_error", "variance"):
        torch.testing.assert_close(getattr(model, name)[:1], getattr(alone, name), rtol=1e-6, atol=1e-8)
        assert getattr(model, name)[1].isnan().all()
    assert model(torch.cat([good, same], 1)[None])[:, :, 1].isnan().all()


@pytest.mark.parametrize("value", [0.1, 273.15, 1e5 + 0.1])
@pytest.mark.parametrize("ma", [0, 1])
def test_a_constant_is_seen_as_one_in_any_length(value, ma):
    good = made(ring(4, orders=1), ((0.4, 0.3),), (), steps=90)
    for steps in range(20, 90, 7 if ma == 0 else 23):
        series = torch.cat([good[:steps], torch.full((steps, 1, 4), value, dtype=torch.float64)], 1)
        model = STARMA(weights=ring(4, orders=1), ar=1, ma=ma, horizon=2).fit(series)
        assert (model.phi[1] == 0).all() and (model.variance[1] == 0).all()
        np.testing.assert_allclose(model(series[None])[0, :, 1], value, rtol=1e-12)


def test_an_order_without_edges_has_no_standard_error():
    weights = ring(5, orders=1)
    series = made(weights, ((0.4, 0.3),), (), steps=100)
    model = STARMA(weights=torch.cat([weights, 0 * weights]), ar=1, ma=1, horizon=1).fit(series)
    alone = STARMA(weights=weights, ar=1, ma=1, horizon=1).fit(series)
    for name in ("phi", "theta"):
        assert getattr(model, name)[0, 0, 2] == 0 and getattr(model, name + "_error")[0, 0, 2].isnan()
        error = getattr(alone, name + "_error")
        torch.testing.assert_close(getattr(model, name + "_error")[..., :2], error, rtol=1e-2, atol=1e-4)


def test_the_first_steps_of_the_past_carry_what_was_observed():
    series = made(ring(5), PHI, (), steps=60)
    model = STARMA(weights=ring(5), ar=2, ma=1, horizon=2).fit(series)
    past = series[None, :8].clone()
    past[0, 0, 0, 1] = past[0, 1, 0, 3] = torch.nan
    filled = past.clone()
    filled[0, 0, 0, 1], filled[0, 1, 0, 3] = past[0, 1, 0, 1], past[0, 0, 0, 3]
    torch.testing.assert_close(model(past), model(filled))


@pytest.mark.parametrize("ma", [0, 1])
def test_an_empty_batch_whole_numbers_and_another_precision(ma):
    series = (10 * made(ring(4), PHI, (), steps=60)).round()
    model = STARMA(weights=ring(4), ar=1, ma=ma, horizon=3).fit(series)
    assert model(series[None, :5][:0]).shape == model.distribution(series[None, :5][:0]).stddev.shape == (0, 3, 1, 4)
    whole = model(series[None].long())
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole, model(series[None]))
    single = STARMA(weights=ring(4), ar=1, ma=ma, horizon=3).float().fit(series)
    torch.testing.assert_close(single(series[None]), model(series[None]), rtol=1e-4, atol=1e-4)
    spread = model.distribution(series[None]).stddev
    torch.testing.assert_close(single.distribution(series[None]).stddev, spread, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", [(4,), (2, 2)])
@pytest.mark.parametrize("ma", [0, 1])
def test_any_space_goes_in_and_comes_out(space, ma):
    series = torch.randn(60, 2, *space, generator=torch.Generator().manual_seed(0))
    model = STARMA(weights=ring(4).float(), ar=1, ma=ma, horizon=3).fit(series)
    past = torch.stack([series[:9], series[20:29]])
    assert model(past).shape == (2, 3, 2, *space)
    assert model(past).dtype == torch.float32
    torch.testing.assert_close(model(past)[1:], model(past[1:]))
    torch.testing.assert_close(model.distribution(past).mean, model(past))
    assert model.distribution(past).sample((5,)).shape == (5, 2, 3, 2, *space)


def test_a_fresh_model_takes_the_state_of_a_fitted_one():
    series = made(ring(5), PHI, THETA, steps=60)
    model = STARMA(weights=ring(5), ar=1, ma=1, horizon=3).fit(series)
    copy = STARMA(weights=torch.zeros(2, 5, 5), ar=1, ma=1, horizon=3)
    copy.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(copy.distribution(series[None]).stddev, model.distribution(series[None]).stddev)
    torch.testing.assert_close(copy(series[None]), model(series[None]))
    for other in ({"ar": 2, "ma": 1}, {"ar": 1, "ma": 0}):
        copy = STARMA(weights=torch.zeros(2, 5, 5), horizon=3, **other)
        copy.load_state_dict(model.state_dict(), assign=True)
        with pytest.raises(ValueError, match=r"ar, ma and orders of \(1, 1, 2\), got"):
            copy(series[None])


def test_orders_of_neighbours_are_shortest_ways():
    generator = np.random.default_rng(0)
    adjacency = torch.from_numpy((generator.random((9, 9)) < 0.2) * generator.uniform(1, 3, (9, 9)))
    orders = neighbour_orders(adjacency, orders=4)
    steps = np.full((9, 9), np.inf)
    np.fill_diagonal(steps, 0)
    steps[(adjacency.numpy() > 0) & ~np.eye(9, dtype=bool)] = 1
    for k in range(9):
        steps = np.minimum(steps, steps[:, [k]] + steps[[k]])
    for order in range(4):
        np.testing.assert_array_equal(orders[order] > 0, steps == order + 1)
        assert np.isin(orders[order].sum(1).round(decimals=12), (0, 1)).all()
    row = adjacency[0].clone().index_fill_(0, torch.tensor(0), 0)
    torch.testing.assert_close(orders[0, 0], row / row.sum())


def test_unusable_input_is_refused():
    for weights in (torch.zeros(3), torch.zeros(2, 3), torch.full((2, 2), torch.nan)):
        with pytest.raises(ValueError, match="weights must be finite"):
            STARMA(weights=weights, ar=1, horizon=1)
    for bad in ({"ar": -1}, {"ar": 0}, {"ma": -1}, {"difference": -1}, {"horizon": 0}):
        with pytest.raises(ValueError, match="needs ar, ma and difference"):
            STARMA(**({"weights": torch.zeros(2, 2), "ar": 1, "horizon": 1} | bad))
    model = STARMA(weights=torch.eye(3).roll(1, 0), ar=1, horizon=1)
    with pytest.raises(ValueError, match="not fitted yet"):
        model(torch.zeros(1, 5, 1, 3))
    with pytest.raises(ValueError, match="more than 1 steps"):
        model.fit(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="for 3 places, got 4"):
        model.fit(torch.zeros(9, 1, 4))
    with pytest.raises(ValueError, match="1 infinite values"):
        model.fit(
            torch.zeros(9, 1, 3).index_put((torch.tensor(3), torch.tensor(0), torch.tensor(1)), torch.tensor(torch.inf))
        )
    with pytest.raises(ValueError, match="no channel can be fitted"):
        STARMA(weights=torch.eye(3), ar=1, horizon=1).fit(torch.randn(9, 1, 3))
    model.fit(torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="at least 1 time steps"):
        model(torch.zeros(1, 0, 1, 3))
    with pytest.raises(ValueError, match="past holds 1 infinite"):
        model(torch.zeros(1, 5, 1, 3).index_put([torch.tensor(i) for i in (0, 2, 0, 1)], torch.tensor(torch.inf)))
    with pytest.raises(ValueError, match=r"\(2, 3\) channels and places"):
        model(torch.zeros(1, 5, 2, 3))
    for adjacency, orders in ((torch.zeros(2, 3), 1), (-torch.ones(2, 2), 1), (torch.ones(2, 2), 0)):
        with pytest.raises(ValueError, match="adjacency with weights of 0 or more"):
            neighbour_orders(adjacency, orders=orders)
