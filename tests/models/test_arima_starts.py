"""Starts of ARIMA fits against plain loops, sums over frequencies and known processes."""

import numpy as np
import pytest
import torch
from scipy.fft import next_fast_len
from scipy.signal import lfilter

from stlib.models._arima_fit import TOLERANCE, Complete
from stlib.models._arima_likelihood import Orders, exact, invert_, natural, partials, products, stationary
from stlib.models._arima_starts import at_the_edge, errors, grid, starts
from stlib.models._descent import best_of_starts, minimise
from stlib.models.arima import ARIMA


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def process(ar, ma, steps, series=1, seed=0):
    shocks = noise(steps + 200, series, seed=seed).numpy()
    return torch.from_numpy(lfilter([1, *ma], [1, *(-a for a in ar)], shocks, axis=0)[200:].copy())


@pytest.mark.parametrize(("steps", "lag"), [(7, 1), (50, 1), (101, 1), (64, 4), (67, 4), (30, 12), (9, 12)])
@pytest.mark.parametrize("number", [3, 700])
def test_a_filter_in_pieces_of_time_is_that_of_scipy(steps, lag, number):
    weights = natural(noise(number, 2), Orders(0, 2, 0, 0, 1))
    x = noise(steps, 2, number)
    found = invert_(x.clone(), weights, lag)
    for place in (0, 1, number - 1):
        full = np.zeros(2 * lag + 1)
        full[[0, lag, 2 * lag]] = 1, *weights[place]
        np.testing.assert_allclose(found[:, :, place], lfilter([1], full, x[:, :, place], axis=0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "columns", "late_x", "late_y"), [(3, 2, 0, 1), (2, 2, 0, 1), (1, 4, 2, 0), (4, 4, 1, 1), (3, 1, 0, 0)]
)
@pytest.mark.parametrize("steps", [3, 12])
def test_products_are_plain_sums(rows, columns, late_x, late_y, steps):
    x, y = noise(steps, 2), noise(steps, 2, seed=1)
    for other in (y, x):
        found = products(x, other, rows, columns, late_x=late_x, late_y=late_y)
        for j in range(rows):
            for k in range(columns):
                a, b = late_x + j, late_y + k
                expected = sum(
                    (x[t - a] * other[t - b] for t in range(steps) if t >= max(a, b)), torch.zeros(2, dtype=x.dtype)
                )
                torch.testing.assert_close(found[:, j, k], expected)


def test_gradient_and_curvature_are_those_of_differences():
    orders = Orders(2, 2, 1, 1, 4)
    w, z = noise(60, 3), noise(60, 1, seed=1)
    x = 0.5 * noise(3, 6, seed=2)
    objective = Complete(w, z, torch.tensor([0, 0, 5]), orders)
    w[:5, 2] = 0
    everyone = torch.arange(3)
    _, gradient, _ = objective(x, everyone)
    for i in range(6):
        shift = torch.zeros(6).double()
        shift[i] = 1e-5
        up, down = (objective.at(natural(x + s * shift, orders), everyone).deviance for s in (1, -1))
        torch.testing.assert_close(gradient[:, i], (up - down) / 2e-5, rtol=1e-5, atol=1e-6)


def test_errors_are_a_sum_over_frequencies_with_the_best_autoregression():
    orders = Orders(2, 1, 0, 0, 1)
    w = process([0.5, -0.3], [0.4], 80, 2)
    found, _ = errors(w, orders)
    places, size = grid(orders, w)[0], next_fast_len(80 + 40 + 1, real=True)
    for point in (0, 10, 25):
        theta = -float(stationary(places[point]))
        long = np.concatenate([w.numpy(), np.zeros((400 * size - 80, 2))])
        filtered = lfilter([1], [1, theta], long, axis=0).reshape(400, size, 2).sum(0)  # on the circle of the transform
        for place in range(2):
            x = filtered[:, place]
            lagged = np.stack([np.roll(x, 1), np.roll(x, 2)], 1)
            rest = x - lagged @ np.linalg.lstsq(lagged, x, rcond=None)[0]
            np.testing.assert_allclose(float(found[place, point]), rest @ rest / 80, rtol=1e-8)


@pytest.mark.parametrize(
    ("ar", "ma"), [([0.7], [0.4]), ([0.5, -0.6], [0.5, 0.4]), ([1.2, -0.5], [-0.3, 0.6]), ([], [-0.7]), ([0.6], [])]
)
def test_the_first_start_of_a_long_series_is_near_the_truth(ar, ma):
    orders = Orders(len(ar), len(ma), 0, 0, 1)
    found = natural(starts(process(ar, ma, 4000, 3), orders, 1)[0], orders)
    assert ((found - torch.tensor([*ar, *ma]).double()).abs() < 0.2).all()


def test_starts_are_local_minima_best_first_and_the_likely_ones_only():
    orders = Orders(2, 2, 0, 0, 1)
    w = torch.cat([noise(200, 10), process([1.2, -0.6], [0.5, 0.4], 200, 10)], 1)
    found = starts(w, orders, 5)
    assert found.shape == (5, 20, 4)
    assert found[0].isfinite().all()
    assert found[4].isnan().any() and found[1].isfinite().any()
    error, _ = errors(w, orders)
    places, shape = grid(orders, w)
    for series in range(20):
        values = []
        for start in found[:, series]:
            if start.isnan().any():
                continue
            place = (places - start[2:4]).abs().sum(1).argmin()
            values.append(float(error[series, place]))
            i, j = divmod(int(place), shape[1])
            table = error[series].reshape(shape[:2])
            assert table[i, j] == table[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].min()
        assert values == sorted(values)
        assert 200 * np.log(values[-1] / values[0]) < 15


def test_the_edge_is_found_where_the_series_is_a_difference():
    for sign in (1, -1):
        shocks = noise(301, 4)
        w = shocks[1:] - sign * shocks[:-1]
        found = at_the_edge(w, torch.zeros(4).long(), Orders(1, 1, 0, 0, 1))
        own = natural(found[0 if sign == 1 else 1], Orders(1, 1, 0, 0, 1))
        torch.testing.assert_close(own[:, 1], torch.full((4,), -0.98 * sign).double())
        assert (own[:, 0].abs() < 0.2).all()


def test_late_and_empty_series_have_a_start():
    w = noise(100, 3)
    w[:60, 1] = 0
    w[:, 2] = 0
    orders = Orders(1, 1, 0, 0, 1)
    assert starts(w, orders, 3)[0].isfinite().all()
    assert at_the_edge(w, torch.tensor([0, 60, 0]), orders)[:, :2].isfinite().all()


def test_several_starts_reach_the_best_of_many():
    orders = Orders(2, 2, 0, 0, 1)
    w = process([0.5, -0.6], [0.9, 0.4], 100, 20)
    objective = Complete(w, w.new_zeros(100, 0), torch.zeros(20).long(), orders)
    points = torch.cat([starts(w, orders, 8), at_the_edge(w, objective.begin, orders)])
    found = best_of_starts(objective, points, tolerance=TOLERANCE)
    many = torch.stack([minimise(objective, noise(20, 4, seed=i), tolerance=TOLERANCE).value for i in range(4)])
    assert (found.value <= many.amin(0) + 0.02).double().mean() > 0.95
    at = objective.at(natural(found.x, orders), torch.arange(20)).deviance
    torch.testing.assert_close(found.value, at, rtol=0, atol=1e-3)


def test_partial_autocorrelations_tell_stationary_models():
    coefficients = 1.5 * noise(200, 2)
    largest = [np.abs(np.roots([1, *(-c).tolist()])).max() for c in coefficients]
    found = (partials(coefficients).abs() < 1).all(1)
    assert found.tolist() == [bool(size < 1) for size in largest]
    assert 20 < found.sum() < 180


def test_exact_likelihood_is_that_of_a_dense_covariance():
    orders = Orders(1, 2, 0, 0, 1)
    coefficients = natural(noise(3, 3), orders)
    w = noise(12, 3)
    found = exact(w, w.new_zeros(12, 0), coefficients, orders).deviance
    for place in range(3):
        impulse = np.zeros(3000)
        impulse[0] = 1
        ar, *ma = coefficients[place].tolist()
        psi = lfilter([1, *ma], [1, -ar], impulse)
        gamma = [psi[: 3000 - lag] @ psi[lag:] for lag in range(12)]
        covariance = np.array([[gamma[abs(i - j)] for j in range(12)] for i in range(12)])
        square = w[:, place].numpy() @ np.linalg.solve(covariance, w[:, place].numpy())
        expected = 12 * np.log(square / 12) + np.linalg.slogdet(covariance)[1]
        assert float(found[place]) == pytest.approx(expected, abs=1e-8)


def test_a_root_on_the_circle_is_reached_where_no_other_start_leads_there(monkeypatch):
    series = process([0.1, 0.8], [-1.5, 0.5], 100, 60)[:, None]
    found = ARIMA(order=(2, 0, 2), horizon=1).fit(series).loglik
    monkeypatch.setattr("stlib.models._arima_fit.NEAR", -torch.inf)
    without = ARIMA(order=(2, 0, 2), horizon=1).fit(series).loglik
    assert ((found - without) > 0.1).any()
    assert ((found - without) > -0.05).all()
