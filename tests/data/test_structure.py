"""Correlation in time, difference in space and patterns, against statsmodels, scikit-learn and plain loops."""

import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import PCA
from statsmodels.tsa.stattools import acf

from stlib.data import datasets
from stlib.data.structure import anomalies, autocorrelation, eofs, variogram


def field_of(values, **coords):
    dims = ("time", "channel", "row", "column")[: values.ndim]
    return xr.DataArray(values, dims=dims, coords=coords)


def holes(values, share, seed=1):
    return np.where(np.random.default_rng(seed).random(values.shape) < share, np.nan, values)


def test_anomalies_are_departures_from_the_mean_of_the_same_month():
    winds = datasets.load("tropical-winds")
    departure = anomalies(winds, cycle="month")
    assert departure.dims == winds.dims
    assert departure.attrs == winds.attrs
    january = winds.isel(time=slice(0, None, 12))
    np.testing.assert_allclose(departure.isel(time=24), january.isel(time=2) - january.mean("time"), atol=1e-5)


def test_anomalies_take_a_coordinate_as_their_cycle():
    measles = datasets.load("measles")
    departure = anomalies(measles, cycle="week")
    week = measles.sel(state="Iowa").values.reshape(36, 52)[:, 10]
    ours = departure.sel(state="Iowa").values.reshape(36, 52)[:, 10]
    np.testing.assert_allclose(ours, week - np.nanmean(week), rtol=1e-4, atol=1e-4)
    assert set(departure.coords) == set(measles.coords)


def test_anomalies_without_a_cycle_and_with_an_unknown_one():
    winds = datasets.load("tropical-winds")
    assert float(abs(anomalies(winds, cycle=None).mean("time")).max()) < 1e-5
    with pytest.raises(ValueError, match="'moon'"):
        anomalies(winds, cycle="moon")
    with pytest.raises(ValueError, match="'month'"):
        anomalies(datasets.load("measles"), cycle="month")


def test_anomalies_refuse_a_cycle_that_is_not_along_time_or_not_known_at_every_step():
    field = xr.DataArray(np.arange(8.0).reshape(4, 1, 2), dims=("time", "channel", "place"))
    field = field.assign_coords(
        time=np.arange(4), week=("time", [0, 1, np.nan, 1]), region=("place", [0, 1]), phase=("time", [0, 1, 0, 1])
    )
    for cycle in ("week", "region", "time", "floor"):
        with pytest.raises(ValueError, match=f"time has no cycle '{cycle}'"):
            anomalies(field, cycle=cycle)
    departure = anomalies(field, cycle="phase")
    assert set(departure.coords) == set(field.coords)
    np.testing.assert_array_equal(departure[:, 0, 0], [-2, -2, 2, 2])
    turned = anomalies(field.transpose("place", "time", "channel"), cycle="phase")
    np.testing.assert_array_equal(turned.transpose(*departure.dims), departure)


def test_autocorrelation_is_that_of_statsmodels():
    values = datasets.load("elnino").values.astype(float)
    ours = autocorrelation(field_of(values), lags=30)
    np.testing.assert_allclose(ours.values[:, 0], acf(values[:, 0], nlags=30, fft=False), rtol=1e-9)
    assert ours["lag"].values.tolist() == list(range(31))


def test_autocorrelation_of_many_places_is_that_of_each():
    values = holes(np.random.default_rng(0).normal(size=(50, 2, 3, 4)).cumsum(0), 0.2)
    together = autocorrelation(field_of(values), lags=5)
    alone = autocorrelation(field_of(values[:, 1, 2, 3][:, None]), lags=5)
    np.testing.assert_allclose(together[:, 1, 2, 3], alone[:, 0])


def test_autocorrelation_with_gaps_is_the_mean_over_observed_pairs():
    x = holes(np.random.default_rng(0).normal(size=40).cumsum(), 0.3)
    departure = x - np.nanmean(x)
    covariance = [np.nanmean(departure[lag:] * departure[: 40 - lag]) * (40 - lag) / 40 for lag in range(6)]
    ours = autocorrelation(field_of(x[:, None]), lags=5)
    np.testing.assert_allclose(ours[:, 0], np.array(covariance) / covariance[0])


def test_autocorrelation_of_an_autoregression_falls_as_its_powers():
    noise = np.random.default_rng(0).normal(size=(20_000, 1, 20))
    x = np.zeros_like(noise)
    for t in range(1, len(x)):
        x[t] = 0.8 * x[t - 1] + noise[t]
    ours = autocorrelation(xr.DataArray(x, dims=("time", "channel", "place")), lags=4).mean("place")
    np.testing.assert_allclose(ours[:, 0], 0.8 ** np.arange(5), atol=0.01)


def test_autocorrelation_of_a_constant_or_an_empty_series_is_missing():
    values = np.stack([np.full(9, 0.1), np.full(9, np.nan), np.arange(9.0)], axis=1)[:, None]
    for kind in (np.float32, np.float64):
        ours = autocorrelation(xr.DataArray(values.astype(kind), dims=("time", "channel", "place")), lags=2)
        assert np.isnan(ours[:, 0, :2]).all()
        assert float(ours[0, 0, 2]) == 1.0
        assert ours.dtype == kind
    assert autocorrelation(field_of(values[:, :, 2]), lags=0).values.tolist() == [[1.0]]
    with pytest.raises(ValueError, match="from 0 to 8"):
        autocorrelation(field_of(values[:, :, 0]), lags=9)


def test_autocorrelation_keeps_places_and_takes_any_order_of_dims():
    winds = datasets.load("tropical-winds").isel(lat=slice(3), lon=slice(4))
    ours = autocorrelation(winds, lags=3)
    assert ours.dims == ("lag", "channel", "lat", "lon")
    assert set(ours.coords) == {"lag", "channel", "lat", "lon"}
    turned = autocorrelation(winds.transpose("lon", "time", "lat", "channel"), lags=3)
    np.testing.assert_allclose(turned.transpose(*ours.dims), ours, rtol=1e-6)


def test_autocorrelation_of_a_long_record_far_from_zero_is_exact():
    rng = np.random.default_rng(0)
    pressure = (1013 + rng.normal(size=(100_000, 1)).cumsum(0) / 100).astype(np.float32)
    reference = acf(pressure[:, 0].astype(float), nlags=2, fft=False)
    np.testing.assert_allclose(autocorrelation(field_of(pressure), lags=2)[:, 0], reference, rtol=1e-6)


def test_variogram_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    values = holes(rng.normal(size=(6, 1, 3, 4)) + 300, 0.2)
    where = rng.random((12, 2)) * 10
    distance = np.linalg.norm(where[:, None] - where, axis=-1)
    edges = [0, 2, 4, 6, 100]
    ours = variogram(field_of(values), distance, edges=edges)
    flat = values.reshape(6, 12)
    for k in range(4):
        halves, apart = [], []
        for i in range(12):
            for j in range(i):
                if edges[k] <= distance[i, j] < edges[k + 1]:
                    apart.append(distance[i, j])
                    halves += [(flat[t, i] - flat[t, j]) ** 2 / 2 for t in range(6)]
        np.testing.assert_allclose(float(ours[k]), np.nanmean(halves), rtol=1e-7)
        np.testing.assert_allclose(float(ours["distance"][k]), np.mean(apart))
        assert int(ours["pairs"][k]) == len(apart)


def test_variogram_of_noise_is_its_variance_at_every_distance():
    values = 5 + 3 * np.random.default_rng(0).normal(size=(2000, 1, 30))
    distance = abs(np.arange(30) - np.arange(30)[:, None])
    ours = variogram(xr.DataArray(values, dims=("time", "channel", "place")), distance, edges=[0.5, 1.5, 5.5, 10.5])
    np.testing.assert_allclose(ours, 9, rtol=0.02)


def test_variogram_of_a_slope_is_half_its_square():
    values = np.broadcast_to(7.0 * np.arange(10), (3, 1, 10))
    distance = abs(np.arange(10) - np.arange(10)[:, None])
    ours = variogram(xr.DataArray(values, dims=("time", "channel", "place")), distance, edges=[1, 2, 3, 4, 20, 30])
    np.testing.assert_allclose(ours[:3], 49 / 2 * np.array([1, 4, 9]))
    assert np.isnan(ours[4])
    assert int(ours["pairs"][4]) == 0


def test_variogram_of_small_differences_far_from_zero_is_exact_and_counts_pairs_seen_together():
    values = 1e6 + np.array([[[0.0, 1.0, np.nan]], [[0.0, 1.0, np.nan]], [[np.nan, np.nan, 3.0]]])
    field = xr.DataArray(values, dims=("time", "channel", "place"))
    apart = abs(np.arange(3) - np.arange(3)[:, None])
    ours = variogram(field, apart, edges=[0.5, 1.5, 2.5])
    assert ours.values.tolist()[0] == pytest.approx(0.5, abs=1e-6)
    assert ours["pairs"].values.tolist() == [1, 0]  # the third place is never observed with another
    assert np.isnan(ours[1])
    assert ours["distance"].values.tolist() == [1.0, 2.0]
    turned = variogram(field.transpose("place", "channel", "time"), apart, edges=[0.5, 1.5, 2.5])
    np.testing.assert_array_equal(turned, ours)


def test_variogram_refuses_impossible_distances_and_edges():
    field = field_of(np.zeros((3, 1, 2)))
    for distance in ([[0, np.nan], [1, 0]], [[0, -1], [-1, 0]], [[0, 1], [2, 0]]):
        with pytest.raises(ValueError, match="0 or more, nowhere missing, and the same both ways"):
            variogram(field, distance, edges=[0, 1])
    for edges in ([1, 0], [1], [0, 1, 1]):
        with pytest.raises(ValueError, match="two numbers or more, increasing"):
            variogram(field, [[0, 1], [1, 0]], edges=edges)


def test_variogram_refuses_two_channels_and_another_size():
    two = field_of(np.zeros((3, 2, 4, 1)))
    with pytest.raises(ValueError, match="one channel, got 2"):
        variogram(two, np.zeros((4, 4)), edges=[0, 1])
    with pytest.raises(ValueError, match=r"\(4, 4\) for 4 places, got \(3, 3\)"):
        variogram(two[:, :1], np.zeros((3, 3)), edges=[0, 1])


@pytest.mark.parametrize("shape", [(30, 2, 5, 4), (200, 1, 5, 4)], ids=["fewer steps", "more steps"])
def test_eofs_are_the_principal_components_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    values = np.einsum("tk,k...->t...", rng.normal(size=(shape[0], 4)) * [8, 4, 2, 1], rng.normal(size=(4, *shape[1:])))
    values = 100 + values + 0.1 * rng.normal(size=shape)
    ours = eofs(field_of(values), modes=3)
    reference = PCA(3).fit(values.reshape(shape[0], -1))
    np.testing.assert_allclose(ours.share, reference.explained_variance_ratio_, rtol=1e-6)
    # The same plane whatever the signs, and the same reconstruction.
    ours_back = np.einsum("tk,k...->t...", ours.amplitudes, ours.patterns) + values.mean(0)
    theirs = reference.inverse_transform(reference.transform(values.reshape(shape[0], -1))).reshape(shape)
    np.testing.assert_allclose(ours_back, theirs, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(np.cov(ours.amplitudes.values.T, ddof=0), np.eye(3), atol=1e-9)
    for pattern in ours.patterns:
        assert float(pattern.max()) == float(abs(pattern).max())


def test_eofs_with_weights_are_orthogonal_under_them():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 1, 6, 7)).cumsum(0)
    field = field_of(values, row=np.linspace(0, 80, 6))
    weights = np.cos(np.deg2rad(field["row"]))
    patterns = eofs(field, modes=3, weights=weights).patterns
    products = (patterns * patterns.rename(mode="other") * weights).sum(["channel", "row", "column"]).values
    np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-9 * products.max())
    root = np.sqrt(weights.values)[:, None]
    reference = PCA(3).fit((values * root).reshape(60, -1))
    ours = eofs(field, modes=3, weights=weights).share
    np.testing.assert_allclose(ours, reference.explained_variance_ratio_, rtol=1e-7)


def test_eofs_keep_names_and_take_any_order_of_dims():
    winds = anomalies(datasets.load("tropical-winds").isel(lat=slice(3), lon=slice(4)), cycle="month")
    ours = eofs(winds, modes=2)
    assert ours.patterns.dims == ("mode", "channel", "lat", "lon")
    assert set(ours.patterns.coords) == {"mode", "channel", "lat", "lon"}
    assert set(ours.amplitudes.coords) == {"time", "mode"}
    assert ours.patterns["mode"].values.tolist() == ours.share["mode"].values.tolist() == [1, 2]
    assert ours.patterns.attrs == winds.attrs
    turned = eofs(winds.transpose("lon", "time", "lat", "channel"), modes=2)
    np.testing.assert_allclose(turned.patterns.transpose(*ours.patterns.dims), ours.patterns, atol=1e-5)


def test_eof_weights_go_by_the_names_of_dims_and_not_by_rounded_coordinates():
    values = np.random.default_rng(0).normal(size=(30, 1, 3, 4))
    field = field_of(values, row=np.float32([0.1, 0.2, 0.3]))
    weights = xr.DataArray([1.0, 2.0, 3.0], dims="row", coords={"row": [0.1, 0.2, 0.3]})
    ours = eofs(field, modes=2, weights=weights)
    two_dims = (weights * xr.ones_like(field[0, 0], dtype=float).drop_vars("row")).transpose("column", "row")
    np.testing.assert_allclose(eofs(field, modes=2, weights=two_dims).share, ours.share)
    with pytest.raises(ValueError, match=r"over some of the dims \('channel', 'row', 'column'\)"):
        eofs(field, modes=1, weights=np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"weights have the sizes \{'row': 2\}"):
        eofs(field, modes=1, weights=weights[:2])


def test_eofs_leave_out_places_that_are_never_observed_and_refuse_gaps():
    values = np.random.default_rng(0).normal(size=(20, 1, 3, 3)).astype(np.float32)
    values[:, 0, 1, 1] = np.nan
    result = eofs(field_of(values), modes=2)
    assert np.isnan(result.patterns[:, 0, 1, 1]).all()
    assert int(np.isnan(result.patterns).sum()) == 2
    assert result.patterns.dtype == result.amplitudes.dtype == np.float32
    values[3, 0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="1 places have gaps"):
        eofs(field_of(values), modes=2)
    with pytest.raises(ValueError, match="from 1 to 5, got 8"):
        eofs(field_of(values[:, :, :, :2][:8]), modes=8)
    with pytest.raises(ValueError, match="has 0 patterns that differ from 0, 1 were asked for"):
        eofs(field_of(np.full((100, 1, 3), 0.1)), modes=1)
    one_pattern = np.random.default_rng(0).normal(size=(20, 1, 1)) * np.arange(1.0, 6)
    with pytest.raises(ValueError, match="has 1 patterns that differ from 0, 3 were asked for"):
        eofs(field_of(one_pattern), modes=3)
    with pytest.raises(ValueError, match="positive"):
        eofs(field_of(values[:, :, 0]), modes=1, weights=xr.DataArray([1.0, 0.0, 1.0], dims="row"))
