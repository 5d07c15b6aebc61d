"""The metrics against scikit-learn, `scores`, scoringrules and closed forms, with and without missing values."""

from math import pi, sqrt

import numpy as np
import pytest
import scores
import scoringrules
import sklearn.metrics
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stlib import metrics

SHAPE = (5, 4, 3, 6)
DIMS = ("batch", "time", "channel", "place")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_gaps(truth, *, seed=9):
    return truth.where(random(*truth.shape, seed=seed) < 0.5, torch.nan)  # about a third missing


def labelled(tensor, dims=DIMS):
    return xr.DataArray(tensor.numpy(), dims=dims)


FORECAST, TRUTH = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
GAPPY = with_gaps(TRUTH)
LATITUDE_WEIGHTS = torch.cos(torch.linspace(-1.2, 1.2, SHAPE[-1], dtype=torch.float64))

# Every metric as a function of (forecast, truth), for what must hold for all of them.
EVERY = {
    "mae": metrics.mae,
    "mse": metrics.mse,
    "rmse": metrics.rmse,
    "bias": metrics.bias,
    "mape": metrics.mape,
    "smape": metrics.smape,
    "r2": metrics.r2,
    "mase": lambda f, t, *, dim=None: metrics.mase(f, t, torch.tensor(0.7, dtype=f.dtype), dim=dim),
    "anomaly_correlation": lambda f, t, *, dim=None: metrics.anomaly_correlation(
        f, t, torch.tensor(0.3, dtype=f.dtype), dim=dim
    ),
    "crps_gaussian": lambda f, t, *, dim=None: metrics.crps_gaussian(f, torch.full_like(f, 0.5), t, dim=dim),
    "crps_sample": lambda f, t, *, dim=None: metrics.crps_sample(torch.stack([f, f + 1, f - 2]), t, dim=dim),
    "pinball": lambda f, t, *, dim=None: metrics.pinball(f, t, 0.8, dim=dim),
    "coverage": lambda f, t, *, dim=None: metrics.coverage(f - 1, f + 1, t, dim=dim),
    "width": lambda f, t, *, dim=None: metrics.width(f - 1, f + f.abs(), t, dim=dim),
}
every = pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)


# Against other people's code


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("mae", sklearn.metrics.mean_absolute_error),
        ("mse", sklearn.metrics.mean_squared_error),
        ("rmse", sklearn.metrics.root_mean_squared_error),
        ("r2", sklearn.metrics.r2_score),
        ("mape", lambda t, f: 100 * sklearn.metrics.mean_absolute_percentage_error(t, f)),
        ("pinball", lambda t, f: sklearn.metrics.mean_pinball_loss(t, f, alpha=0.8)),
    ],
)
def test_equals_scikit_learn(name, peer):
    expected = peer(TRUTH.flatten().numpy(), FORECAST.flatten().numpy())
    assert EVERY[name](FORECAST, TRUTH).item() == pytest.approx(expected, rel=1e-12)
    seen = ~GAPPY.isnan()
    expected = peer(TRUTH[seen].numpy(), FORECAST[seen].numpy())
    assert EVERY[name](FORECAST, GAPPY).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("truth", [TRUTH, GAPPY], ids=["complete", "gappy"])
@pytest.mark.parametrize("weights", [None, LATITUDE_WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (metrics.mae, scores.continuous.mae),
        (metrics.mse, scores.continuous.mse),
        (metrics.rmse, scores.continuous.rmse),
        (metrics.bias, scores.continuous.mean_error),
    ],
)
def test_equals_scores_with_dims_and_weights(ours, peer, weights, truth):
    labelled_weights = None if weights is None else labelled(weights, dims=("place",))
    expected = peer(
        labelled(FORECAST), labelled(truth), reduce_dims=["batch", "channel", "place"], weights=labelled_weights
    )
    assert_close(ours(FORECAST, truth, dim=(0, 2, 3), weights=weights).numpy(), expected.values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("truth", [TRUTH, GAPPY], ids=["complete", "gappy"])
def test_quantile_loss_and_efficiency_equal_scores(truth):
    expected = scores.continuous.quantile_score(labelled(FORECAST), labelled(truth), 0.3, preserve_dims=["channel"])
    assert_close(metrics.pinball(FORECAST, truth, 0.3, dim=(0, 1, 3)).numpy(), expected.values, rtol=1e-12, atol=0)
    expected = scores.continuous.nse(labelled(FORECAST), labelled(truth), preserve_dims=["channel"])
    assert_close(metrics.r2(FORECAST, truth, dim=(0, 1, 3)).numpy(), expected.values, rtol=1e-11, atol=0)


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("sample_dim", [0, 2, -1])
def test_crps_of_a_sample_equals_scoringrules_and_scores(fair, sample_dim):
    members = random(11, *SHAPE, seed=3)
    samples = members.movedim(0, sample_dim)
    each = metrics.crps_sample(samples, TRUTH, sample_dim=sample_dim, fair=fair, dim=())
    expected = scoringrules.crps_ensemble(
        TRUTH.numpy(), members.numpy(), m_axis=0, estimator="fair" if fair else "nrg", backend="numpy"
    )
    assert_close(each.numpy(), expected, rtol=1e-10, atol=1e-12)

    mean = metrics.crps_sample(samples, GAPPY, sample_dim=sample_dim, fair=fair, dim=(0, 1, 3))
    expected = scores.probability.crps_for_ensemble(
        labelled(members, dims=("member", *DIMS)),
        labelled(GAPPY),
        "member",
        method="fair" if fair else "ecdf",
        preserve_dims=["channel"],
    )
    assert_close(mean.numpy(), expected.values, rtol=1e-12, atol=0)


def test_crps_of_a_normal_equals_scoringrules():
    std = random(*SHAPE, seed=4).exp()
    each = metrics.crps_gaussian(FORECAST, std, TRUTH, dim=())
    expected = scoringrules.crps_normal(TRUTH.numpy(), FORECAST.numpy(), std.numpy(), backend="numpy")
    assert_close(each.numpy(), expected, rtol=1e-12, atol=1e-14)
    seen = ~GAPPY.isnan()
    assert_close(metrics.crps_gaussian(FORECAST, std, GAPPY), each[seen].mean(), rtol=1e-12, atol=0)


# Closed forms and known optima


def test_crps_of_a_standard_normal_at_its_mean():
    zero = torch.zeros(1, dtype=torch.float64)
    assert metrics.crps_gaussian(zero, zero + 1, zero).item() == pytest.approx((sqrt(2) - 1) / sqrt(pi), rel=1e-15)


def test_crps_of_a_sharp_normal_is_the_absolute_error():
    assert_close(metrics.crps_gaussian(FORECAST, torch.full_like(FORECAST, 1e-9), TRUTH), metrics.mae(FORECAST, TRUTH))


def test_fair_crps_is_unbiased_for_small_ensembles_and_the_other_is_not():
    # Members and truth from N(0, 1): the expected score is 1 / sqrt(pi); the unfair one adds 1 / (m sqrt(pi)).
    members, truth = random(3, 400_000, seed=5), random(400_000, seed=6)
    assert metrics.crps_sample(members, truth, fair=True).item() == pytest.approx(1 / sqrt(pi), abs=0.003)
    assert metrics.crps_sample(members, truth, fair=False).item() == pytest.approx(4 / 3 / sqrt(pi), abs=0.003)


def test_crps_of_a_sample_keeps_its_digits_far_from_zero():
    members, truth = random(50, 1000, seed=7), random(1000, seed=8)
    exact = metrics.crps_sample(members, truth)
    shifted = metrics.crps_sample((0.01 * members + 280).float(), (0.01 * truth + 280).float())
    assert shifted.item() == pytest.approx(0.01 * exact.item(), rel=2e-3)  # 280 K in float32 has steps of 3e-5 K


def test_one_member_scores_as_a_point_forecast():
    assert_close(metrics.crps_sample(FORECAST[None], TRUTH, fair=False), metrics.mae(FORECAST, TRUTH))


def test_the_quantile_minimises_the_pinball_loss():
    truth = torch.arange(1.0, 102.0)
    losses = torch.stack([metrics.pinball(torch.full_like(truth, q), truth, 0.25) for q in truth.tolist()])
    assert truth[losses.argmin()].item() == 26.0  # the lower quartile of 1 ... 101
    assert_close(metrics.pinball(FORECAST, TRUTH, 0.5), metrics.mae(FORECAST, TRUTH) / 2)


def test_coverage_and_width_of_a_normal_interval():
    truth = random(200_000, seed=10)
    bound = torch.full_like(truth, 1.6448536)
    assert metrics.coverage(-bound, bound, truth).item() == pytest.approx(0.9, abs=0.003)
    assert metrics.width(-bound, bound, truth).item() == pytest.approx(2 * 1.6448536)
    edge = torch.tensor([1.0])
    assert metrics.coverage(edge, edge, edge).item() == 1.0  # the ends belong to the interval


def test_smape_by_hand():
    forecast, truth = torch.tensor([1.0, 5.0, 0.0, -1.0]), torch.tensor([0.0, 15.0, 0.0, 1.0])
    assert metrics.smape(forecast, truth, dim=()).tolist() == [200.0, 100.0, 0.0, 200.0]


def test_mase_of_seasonal_persistence_on_its_own_training_series_is_one():
    series = random(40, 3, seed=11).cumsum(0)
    for season in (1, 7):
        scale = metrics.mase_scale(series, season=season)
        assert scale.shape == (3,)
        ours = metrics.mase(series[:-season], series[season:], scale, dim=0)
        assert_close(ours, torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


def test_mase_scale_uses_the_pairs_of_which_both_are_observed():
    series = torch.tensor([1.0, torch.nan, 4.0, 6.0, 9.0])
    assert metrics.mase_scale(series).item() == 2.5  # |6 - 4| and |9 - 6|
    assert metrics.mase_scale(series[None], dim=1, season=2).item() == 4.0  # |4 - 1| and |9 - 4|


def test_mase_has_no_units():
    training = random(30, 3, 6, seed=12)
    one = metrics.mase(FORECAST, TRUTH, metrics.mase_scale(training))
    other = metrics.mase(10 * FORECAST + 3, 10 * TRUTH + 3, metrics.mase_scale(10 * training + 3))
    assert_close(one, other, rtol=1e-12, atol=0)


def test_r2_of_the_mean_is_zero_and_of_the_truth_is_one():
    mean = TRUTH.mean(dim=(0, 1), keepdim=True).expand(SHAPE)
    assert_close(metrics.r2(mean, TRUTH, dim=(0, 1)), torch.zeros(3, 6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert metrics.r2(TRUTH, TRUTH).item() == 1.0


def test_anomaly_correlation_is_the_cosine_of_the_angle_between_weighted_anomalies():
    climatology = random(3, 6, seed=13)
    ours = metrics.anomaly_correlation(FORECAST, TRUTH, climatology, dim=-1, weights=LATITUDE_WEIGHTS)
    a, b = ((x - climatology) * LATITUDE_WEIGHTS.sqrt() for x in (FORECAST, TRUTH))
    assert_close(ours, torch.cosine_similarity(a, b, dim=-1), rtol=1e-12, atol=0)


def test_anomaly_correlation_of_centred_anomalies_is_pearsons():
    climatology = torch.zeros((), dtype=torch.float64)
    a, b = FORECAST - FORECAST.mean(-1, keepdim=True), TRUTH - TRUTH.mean(-1, keepdim=True)
    expected = scores.continuous.correlation.pearsonr(labelled(a), labelled(b), reduce_dims=["place"])
    assert_close(metrics.anomaly_correlation(a, b, climatology, dim=-1).numpy(), expected.values, rtol=1e-10, atol=0)


def test_anomaly_correlation_leaves_out_places_without_a_climatology():
    climatology = random(6, seed=14)
    climatology[:2] = torch.nan
    ours = metrics.anomaly_correlation(FORECAST, TRUTH, climatology, dim=-1)
    kept = metrics.anomaly_correlation(FORECAST[..., 2:], TRUTH[..., 2:], climatology[2:], dim=-1)
    assert_close(ours, kept, rtol=1e-12, atol=0)


def test_squared_error_is_variance_plus_squared_bias():
    errors = FORECAST - TRUTH
    expected = errors.var(unbiased=False) + metrics.bias(FORECAST, TRUTH) ** 2
    assert_close(metrics.mse(FORECAST, TRUTH), expected, rtol=1e-12, atol=0)


# What holds for every metric


@every
@settings(max_examples=25, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=12, max_size=12).filter(lambda m: sum(m) >= 2), seed=st.integers(0, 99))
def test_masked_data_score_as_the_compressed_data(metric, mask, seed):
    forecast, truth, mask = random(12, seed=seed), random(12, seed=seed + 100), torch.tensor(mask)
    expected = metric(forecast[mask], truth[mask])
    gappy = truth.where(mask, torch.nan)
    assert_close(metric(forecast, gappy), expected, rtol=1e-9, atol=1e-12)
    # What a model says about unobserved steps, silence included, changes nothing.
    assert_close(metric(forecast.where(mask, torch.nan), gappy), expected, rtol=1e-9, atol=1e-12)


@every
def test_a_dim_at_a_time_equals_one_slice_at_a_time(metric):
    by_channel = metric(FORECAST, GAPPY, dim=(0, 1, 3))
    slices = [metric(FORECAST[:, :, c], GAPPY[:, :, c]) for c in range(SHAPE[2])]
    assert_close(by_channel, torch.stack(slices), rtol=1e-12, atol=1e-14)
    assert_close(metric(FORECAST, GAPPY, dim=-1), metric(FORECAST, GAPPY, dim=(3,)), equal_nan=True)


@every
def test_order_in_memory_does_not_matter(metric):
    assert not FORECAST.transpose(0, 3).is_contiguous()
    turned = metric(FORECAST.transpose(0, 3), GAPPY.transpose(0, 3), dim=(0, 1, 3))
    assert_close(turned, metric(FORECAST, GAPPY, dim=(0, 1, 3)), rtol=1e-12, atol=1e-14)


@every
def test_silence_on_an_observed_truth_gives_nan(metric):
    forecast = FORECAST.clone()
    forecast[0, 0, 0, 0] = torch.nan
    by_channel = metric(forecast, TRUTH, dim=(0, 1, 3))
    assert by_channel.isnan().tolist() == [True, False, False]
    assert_close(by_channel[1:], metric(FORECAST, TRUTH, dim=(0, 1, 3))[1:])


@every
def test_nothing_observed_gives_nan(metric):
    truth = TRUTH.clone()
    truth[:, :, 1] = torch.nan
    assert metric(FORECAST, truth, dim=(0, 1, 3)).isnan().tolist() == [False, True, False]


@every
def test_single_precision_agrees_with_double(metric):
    expected = metric(FORECAST, GAPPY)
    single = metric(FORECAST.float(), GAPPY.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("ours", [metrics.mae, metrics.mse, metrics.rmse, metrics.bias, metrics.smape, metrics.r2])
def test_half_precision_is_scored_in_single(ours):
    half = ours(FORECAST.bfloat16(), GAPPY.bfloat16())
    assert half.dtype == torch.float32
    exact = ours(FORECAST.bfloat16().double(), GAPPY.bfloat16().double())
    assert half.item() == pytest.approx(exact.item(), rel=1e-5)


@every
def test_missing_truth_does_not_poison_gradients(metric):
    forecast = FORECAST.clone().requires_grad_()
    score = metric(forecast, GAPPY)
    if not score.requires_grad:
        return  # coverage is a count
    score.backward()
    missing = GAPPY.isnan()
    assert forecast.grad.isfinite().all()
    assert (forecast.grad[missing] == 0).all()
    # One step of a central difference, in one observed place.
    place = tuple((~missing).nonzero()[0].tolist())
    step = torch.zeros(SHAPE, dtype=torch.float64)
    step[place] = 1e-6
    slope = (metric(FORECAST + step, GAPPY) - metric(FORECAST - step, GAPPY)) / 2e-6
    assert forecast.grad[place].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)


def test_gradient_of_the_spread_matches_finite_differences():
    mean, log_std, truth = FORECAST[0, 0], random(3, 6, seed=15), GAPPY[0, 0]
    assert torch.autograd.gradcheck(
        lambda m, s: metrics.crps_gaussian(m, s.exp(), truth),
        (mean.clone().requires_grad_(), log_std.requires_grad_()),
    )


@pytest.mark.parametrize("ours", [metrics.mae, metrics.mse, metrics.rmse, metrics.bias])
def test_weights_act_as_repetition(ours):
    weights = torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    repeats = weights.long()
    repeated = ours(FORECAST.repeat_interleave(repeats, -1), GAPPY.repeat_interleave(repeats, -1))
    assert_close(ours(FORECAST, GAPPY, weights=weights), repeated, rtol=1e-12, atol=0)
    assert_close(ours(FORECAST, GAPPY, weights=5 * weights), repeated, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ours", [metrics.mae, metrics.mse, metrics.rmse, metrics.bias])
def test_an_empty_tuple_of_dims_averages_over_nothing(ours):
    each = ours(FORECAST, GAPPY, dim=(), weights=LATITUDE_WEIGHTS)
    assert each.shape == SHAPE
    assert each.isnan().equal(GAPPY.isnan())
    assert each[0, 0, 0, 0].item() == pytest.approx(ours(FORECAST[0, 0, 0, 0], TRUTH[0, 0, 0, 0]).item())


def test_float16_errors_do_not_overflow():
    forecast, truth = torch.full((2000,), 300.0).half(), torch.zeros(2000).half()
    assert metrics.mse(forecast, truth).item() == 90_000.0  # above the largest float16, 65504


# Bad input


@every
def test_shapes_are_never_broadcast_between_forecast_and_truth(metric):
    with pytest.raises(ValueError, match=r"\(5, 4, 3, 6\).*\(1, 4, 3, 6\)"):
        metric(FORECAST, TRUTH[:1])


def test_mape_refuses_zeros_in_the_truth():
    with pytest.raises(ValueError, match="1 of 2 are 0"):
        metrics.mape(torch.ones(3), torch.tensor([0.0, 1.0, torch.nan]))


@pytest.mark.parametrize("scale", [0.0, torch.nan])
def test_mase_refuses_a_scale_of_zero_or_none(scale):
    with pytest.raises(ValueError, match="0 or missing for 6 of 12"):
        metrics.mase(torch.ones(6, 2), torch.ones(6, 2), torch.tensor([1.0, scale]))


@pytest.mark.parametrize("season", [0, 5])
def test_mase_scale_needs_more_than_a_season(season):
    with pytest.raises(ValueError, match=f"5 steps of training_series, got {season}"):
        metrics.mase_scale(torch.ones(5), season=season)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: metrics.crps_gaussian(t, t, t), "std must be positive, got 0"),
        (lambda t: metrics.crps_gaussian(t, torch.ones(2), t), r"std and truth need one shape, got \(2,\) and \(3,\)"),
        (lambda t: metrics.crps_sample(t[None], t), "fair=True needs at least 2 members"),
        (lambda t: metrics.crps_sample(torch.zeros(4, 2), t), r"got \(2,\) and \(3,\)"),
        (lambda t: metrics.pinball(t, t, 90), "level must lie between 0 and 1, got 90"),
        (lambda t: metrics.width(t + 1, t, t), "for 3 of 3"),
        (lambda t: metrics.coverage(t, t[:2], t), r"upper and truth need one shape, got \(2,\) and \(3,\)"),
        (lambda t: metrics.mae(t, t, weights=torch.ones(2)), r"weights of shape \(2,\)"),
        (lambda t: metrics.anomaly_correlation(t, t, torch.ones(2), dim=0), r"climatology of shape \(2,\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3))


def test_numbers_by_hand():
    forecast, truth = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2.0, 4.0, 5.0])
    found = [f(forecast, truth).item() for f in (metrics.mae, metrics.mse, metrics.bias, metrics.mape)]
    np.testing.assert_allclose(found, [4 / 3, 2.0, -2 / 3, 40.0], rtol=1e-6)
