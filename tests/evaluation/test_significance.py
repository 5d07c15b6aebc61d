"""Significance against statsmodels, a case by hand, and the error rates that the docstrings promise."""

from math import atan, cos, pi, sin, sqrt

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from stlib import metrics
from stlib.data import windows
from stlib.evaluation.backtest import backtest, score
from stlib.evaluation.significance import (
    benjamini_hochberg,
    block_bootstrap,
    diebold_mariano,
    holm,
    loss_differential,
)
from stlib.models.baselines import Persistence


def by_origin(values):
    return xr.DataArray(np.asarray(values, dtype=float), {"origin": range(len(values))})


def autoregression(phi, *, origins, series, seed):
    noise = np.random.default_rng(seed).standard_normal((series, origins))
    noise[:, 0] /= sqrt(1 - phi**2)
    for t in range(1, origins):
        noise[:, t] += phi * noise[:, t - 1]
    return noise


def three_errors(rate, *, of):
    """Three standard errors of a rate found by simulation."""
    return 3 * sqrt(rate * (1 - rate) / of)


def results(*, channels=("u", "v"), origins=40, leads=3, seed=0):
    """Two backtests of a 4-place field with a fifth of the truth missing; the first has the smaller errors."""
    random = np.random.default_rng(seed)
    coords = {
        "origin": pd.date_range("2000-01-01", periods=origins, freq="D"),
        "lead": np.arange(1, leads + 1),
        "channel": list(channels),
        "place": list("abcd"),
    }
    shape = [len(values) for values in coords.values()]
    truth = xr.DataArray(random.normal(size=shape), coords, list(coords))
    gappy = truth.where(random.random(shape) > 0.2)
    return tuple(
        xr.Dataset({"forecast": truth + spread * random.normal(size=shape), "truth": gappy}) for spread in (1.0, 1.5)
    )


# The loss difference


@pytest.mark.parametrize(("loss", "metric"), [("squared", metrics.mse), ("absolute", metrics.mae)])
def test_loss_differential_is_the_masked_score_of_each_origin(loss, metric):
    a, b = results()
    found = loss_differential(a, b, loss=loss, channel="v")
    assert found.dims == ("origin", "lead")
    by_lead = [
        metric(*(torch.from_numpy(r[name].sel(channel="v").values) for name in ("forecast", "truth")), dim=-1)
        for r in (a, b)
    ]
    np.testing.assert_allclose(found.values, (by_lead[0] - by_lead[1]).numpy(), rtol=1e-12)
    one = loss_differential(a, b, loss=loss, channel="v", lead=2)
    assert one.dims == ("origin",)
    np.testing.assert_array_equal(one.values, found.sel(lead=2).values)


def test_an_origin_without_any_truth_is_missing_not_zero():
    a, b = results(channels=["u"])
    for result in (a, b):
        result["truth"][5] = np.nan
    difference = loss_differential(a, b, lead=1)
    assert np.flatnonzero(difference.isnull()).tolist() == [5]
    assert diebold_mariano(a, b, lead=1).origins == 39


def test_backtests_and_their_scores_by_origin_give_one_answer():
    steps = 120
    field = xr.DataArray(
        autoregression(0.6, origins=steps, series=2, seed=1).T[:, None],
        {"time": range(steps), "channel": ["t"], "place": ["a", "b"]},
        ("time", "channel", "place"),
    )
    test = windows.split(field, past=2, horizon=3).test

    class Zero(torch.nn.Module):
        def forward(self, past):
            return torch.zeros(len(past), 3, *past.shape[2:])

    persistence, zero = backtest(Persistence(horizon=3), test), backtest(Zero(), test)
    direct = diebold_mariano(zero, persistence, lead=3)
    losses = (score(r, metric="mse", by=["origin", "lead"]).sel(lead=3).astype(float) for r in (zero, persistence))
    by_score = diebold_mariano(*losses, lead=3)
    assert direct == pytest.approx(by_score, rel=1e-5)
    assert direct.difference < 0  # at lead 3 the mean of the process beats its last value


# Diebold and Mariano


@pytest.mark.parametrize(
    ("lead", "stride", "bandwidth"), [(1, 1, 11), (6, 1, 11), (9, 1, 16), (24, 4, 11), (24, 24, 11)]
)
def test_statistic_equals_statsmodels_times_the_small_sample_factor(lead, stride, bandwidth):
    n = 75
    difference = autoregression(0.5, origins=n, series=1, seed=2)[0] + 0.3
    found = diebold_mariano(by_origin(difference), lead=lead, stride=stride)
    peer = sm.OLS(difference, np.ones(n)).fit(
        cov_type="HAC", cov_kwds={"maxlags": bandwidth, "kernel": "bartlett", "use_correction": False}
    )
    reach = bandwidth + 1
    statistic = peer.tvalues[0] * sqrt((n + 1 - 2 * reach + reach * (reach - 1) / n) / n)
    expected = (difference.mean(), statistic, 2 * scipy.stats.t.sf(abs(statistic), n - 1), n, bandwidth)
    assert found == pytest.approx(expected, rel=1e-10)


def test_a_case_by_hand():
    # Deviations are -1, 1, -1, ...; of 10 origins the bandwidth is 4, the reach 5.
    # n * autocovariances: 10, -9, 8, -7, 6; weights 1, .8, .6, .4, .2; n^2 V = 10 + 2 (-7.2 + 4.8 - 2.8 + 1.2) = 2.
    # Factor^2 = (11 - 10 + 20 / 10) / 10 = 0.3, so t^2 = 0.3 * 1 / 0.02 = 15.
    found = diebold_mariano(by_origin([0, 2] * 5), lead=1)
    assert found[:2] == pytest.approx((1.0, sqrt(15)))
    # With 9 degrees of freedom the integral of Student's t is a finite sum in the angle.
    angle = atan(sqrt(15) / 3)
    c = cos(angle)
    inside = 2 / pi * (angle + sin(angle) * (c + 2 / 3 * c**3 + 8 / 15 * c**5 + 16 / 35 * c**7))
    assert found.p_value == pytest.approx(1 - inside, rel=1e-10)  # 0.00377
    assert found[3:] == (10, 4)


def test_gaps_keep_their_place_in_the_order():
    difference = autoregression(0.7, origins=80, series=1, seed=3)[0] + 0.2
    difference[[3, 4, 30, 31, 32, 60]] = np.nan
    found = diebold_mariano(by_origin(difference), lead=1)
    assert (found.origins, found.bandwidth) == (74, 11)
    seen = np.flatnonzero(~np.isnan(difference))
    deviation = difference[seen] - difference[seen].mean()
    weights = np.clip(1 - abs(seen[:, None] - seen) / 12, 0, None)  # every pair, by its true distance
    variance = deviation @ weights @ deviation / 74**2
    factor = sqrt((75 - 24 + 12 * 11 / 74) / 74)
    assert found.statistic == pytest.approx(factor * difference[seen].mean() / sqrt(variance), rel=1e-10)


def test_the_first_is_better_when_the_difference_is_negative():
    a, b = results(channels=["u"], origins=100)
    forward, backward = diebold_mariano(a, b, lead=1), diebold_mariano(b, a, lead=1)
    assert forward.difference < 0 and forward.statistic < 0 and forward.p_value < 1e-4
    assert backward == pytest.approx((-forward.difference, -forward.statistic, *forward[2:]))


@pytest.mark.parametrize(("loss", "power"), [("squared", 2), ("absolute", 1)])
def test_units_do_not_matter(loss, power):
    a, b = results(channels=["u"])
    found = diebold_mariano(a, b, lead=2, loss=loss)
    scaled = diebold_mariano(1000 * a + 5, 1000 * b + 5, lead=2, loss=loss)
    assert scaled == pytest.approx((1000**power * found.difference, *found[1:]), rel=1e-9)


def test_identical_forecasts_are_no_different():
    a, _ = results(channels=["u"])
    assert diebold_mariano(a, a, lead=1) == (0.0, 0.0, 1.0, 40, 8)
    assert block_bootstrap(a, a, lead=1).to_numpy().tolist() == [[0.0] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    ("origins", "lead", "phi", "promised"),
    [(30, 1, 0.0, 0.05), (30, 1, 0.8, 0.20), (60, 6, 0.5, 0.08), (200, 1, 0.5, 0.06)],
)
def test_size_is_what_the_docstring_says(origins, lead, phi, promised):
    runs = autoregression(phi, origins=origins, series=1000, seed=4)
    rejected = np.mean([diebold_mariano(by_origin(run), lead=lead).p_value < 0.05 for run in runs])
    assert rejected == pytest.approx(promised, abs=three_errors(promised, of=1000))


def test_fewer_lags_would_reject_too_often():
    # Why the bandwidth is not the textbook's lead - 1: at lead 1 that is no lag at all, a plain t test.
    runs = autoregression(0.5, origins=60, series=1000, seed=5)
    plain = scipy.stats.ttest_1samp(runs, 0, axis=1).pvalue
    ours = [diebold_mariano(by_origin(run), lead=1).p_value for run in runs]
    assert np.mean(plain < 0.05) == pytest.approx(0.26, abs=three_errors(0.26, of=1000))
    assert np.mean(np.array(ours) < 0.05) == pytest.approx(0.08, abs=three_errors(0.08, of=1000))


def test_size_for_squared_errors_of_overlapping_windows():
    # Errors at lead 6 share five of their six shocks with the next origin's.
    shocks = np.random.default_rng(6).standard_normal((2, 1000, 65)).cumsum(-1)
    errors = shocks[..., 6:] - shocks[..., :-6]
    runs = zip(*errors**2, strict=True)
    rejected = np.mean([diebold_mariano(by_origin(a), by_origin(b), lead=6).p_value < 0.05 for a, b in runs])
    assert rejected == pytest.approx(0.06, abs=three_errors(0.06, of=1000))


def test_power_grows_with_the_difference_and_the_origins():
    def power(difference, origins):
        runs = autoregression(0.0, origins=origins, series=300, seed=7) + difference
        return np.mean([diebold_mariano(by_origin(run), lead=1).p_value < 0.05 for run in runs])

    # The t test with known variance has power 0.49 at 0.25 * sqrt(60) = 1.94 and 0.97 at twice that.
    assert power(0.25, 60) == pytest.approx(0.45, abs=three_errors(0.45, of=300))
    assert power(0.5, 60) > 0.9
    assert power(0.25, 200) > 0.85


# Block bootstrap


def test_bootstrap_intervals_by_hand():
    a, b = results(channels=["u"], origins=60)
    loss_a, loss_b = (score(r, metric="mse", by=["origin", "lead"]).sel(lead=2).values for r in (a, b))
    block, draws = 7, 500
    found = block_bootstrap(a, b, lead=2, block=block, draws=draws, level=0.8, seed=3)
    starts = np.random.default_rng(3).integers(60, size=(draws, 9))
    picked = ((starts[..., None] + np.arange(block)) % 60).reshape(draws, -1)[:, :60]
    mean_a, mean_b = loss_a[picked].mean(1), loss_b[picked].mean(1)
    factor = sqrt((61 - 14 + 42 / 60) / 60)
    for row, drawn, estimate in [
        ("difference", mean_a - mean_b, loss_a.mean() - loss_b.mean()),
        ("skill", 1 - mean_a / mean_b, 1 - loss_a.mean() / loss_b.mean()),
    ]:
        tails = estimate + (np.quantile(drawn, [0.1, 0.9]) - estimate) / factor
        assert found.loc[row].tolist() == pytest.approx([estimate, *tails], rel=1e-9)


def test_bootstrap_spread_matches_the_bartlett_variance():
    # The variance of a circular block mean is, but for its ends, Newey-West with the block as reach.
    difference = by_origin(autoregression(0.5, origins=400, series=1, seed=8)[0])
    test = diebold_mariano(difference, lead=1)
    interval = block_bootstrap(difference, lead=1, draws=20_000).loc["difference"]
    half_width = scipy.stats.norm.ppf(0.95) * abs(test.difference / test.statistic)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.05)


@pytest.mark.parametrize(("origins", "phi", "promised"), [(30, 0.0, 0.90), (60, 0.5, 0.85), (200, 0.8, 0.84)])
def test_coverage_is_what_the_docstring_says(origins, phi, promised):
    runs = autoregression(phi, origins=origins, series=1000, seed=9)
    held = 0
    for seed, run in enumerate(runs):
        interval = block_bootstrap(by_origin(run), lead=1, draws=300, seed=seed).loc["difference"]
        held += interval.low <= 0 <= interval.high
    assert held / 1000 == pytest.approx(promised, abs=three_errors(promised, of=1000))


def test_bootstrap_is_seeded_and_skill_has_no_units():
    a, b = results(channels=["u"])
    first = block_bootstrap(a, b, lead=1, seed=1)
    pd.testing.assert_frame_equal(first, block_bootstrap(a, b, lead=1, seed=1))
    assert not first.equals(block_bootstrap(a, b, lead=1, seed=2))
    scaled = block_bootstrap(10 * a, 10 * b, lead=1, seed=1)
    np.testing.assert_allclose(scaled.loc["skill"], first.loc["skill"], rtol=1e-9)
    np.testing.assert_allclose(scaled.loc["difference"], 100 * first.loc["difference"], rtol=1e-9)
    assert first.loc["skill", "low"] > 0


def test_bootstrap_ignores_missing_origins():
    loss_a, loss_b = by_origin(np.full(40, 1.0)), by_origin(np.full(40, 2.0))
    gaps = xr.DataArray(np.arange(40) % 5 > 0, loss_a.coords)
    found = block_bootstrap(loss_a.where(gaps), loss_b.where(gaps), lead=1)
    np.testing.assert_allclose(found.to_numpy(), [[-1.0] * 3, [0.5] * 3], rtol=1e-12)


def test_one_series_of_differences_has_no_skill():
    found = block_bootstrap(by_origin(np.arange(20.0)), lead=1)
    assert found.loc["skill"].isna().all() and found.loc["difference", "estimate"] == 9.5


# Several tests at once


@settings(max_examples=20, deadline=None)  # statsmodels collects garbage at each call, 0.1 s
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values):
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_benjamini_hochberg_equals_statsmodels(p_values):
    reference = multipletests(p_values, method="fdr_bh")[1]
    np.testing.assert_allclose(benjamini_hochberg(p_values), reference, rtol=1e-12, atol=1e-15)


def test_benjamini_hochberg_keeps_the_share_of_false_alarms():
    rng = np.random.default_rng(0)
    shares, without = [], []
    for _ in range(400):  # 30 tests without an effect, 10 with one
        p_values = 2 * scipy.stats.norm.sf(abs(rng.standard_normal(40) + 3 * (np.arange(40) >= 30)))
        for found, kept in ((benjamini_hochberg(p_values) < 0.1, shares), (p_values < 0.1, without)):
            kept.append(found[:30].sum() / max(found.sum(), 1))
    assert abs(np.mean(shares) - 0.075) < 3 * np.std(shares) / 20  # the level times the share without an effect
    assert np.mean(without) > 0.15


# Bad input


@pytest.mark.parametrize(
    "pooled",
    [
        np.zeros(400),
        [0.0] * 400,
        torch.zeros(400),
        pd.Series(np.zeros(400)),
        xr.DataArray(np.zeros((40, 10)), {"origin": range(40), "place": range(10)}),
        xr.DataArray(np.zeros((40, 10)), {"origin": range(40), "place": range(10)}).stack(pooled=["origin", "place"]),
        xr.DataArray(np.zeros((40, 3)), {"origin": range(40), "lead": [1, 2, 3]}),
        xr.DataArray(np.zeros((5, 40)), {"seed": range(5), "origin": range(40)}),
        xr.DataArray(np.zeros(40), dims="origin"),
    ],
    ids=["array", "list", "tensor", "pandas", "places", "stacked", "leads", "seeds", "unlabelled"],
)
@pytest.mark.parametrize("test", [diebold_mariano, block_bootstrap])
def test_pooled_errors_are_refused(test, pooled):
    with pytest.raises(ValueError, match="average over places first"):
        test(pooled, lead=1)
    with pytest.raises(ValueError, match="average over places first"):
        test(by_origin(np.ones(40)), pooled, lead=1)


@pytest.mark.parametrize("test", [diebold_mariano, block_bootstrap])
def test_repeated_or_dropped_origins_are_refused(test):
    with pytest.raises(ValueError, match="increasing and evenly spaced"):
        test(xr.DataArray(np.arange(40.0), {"origin": np.repeat(np.arange(20), 2)}), lead=1)
    with pytest.raises(ValueError, match="increasing and evenly spaced"):
        test(by_origin(np.arange(40.0)).drop_sel(origin=[7]), lead=1)
    with pytest.raises(ValueError, match="increasing and evenly spaced"):
        test(by_origin(np.arange(40.0))[::-1], lead=1)


@pytest.mark.parametrize("frequency", ["h", "D", "B", "MS", "QS", "YS", "2MS"])
def test_calendar_steps_count_as_even(frequency):
    origins = pd.date_range("1999-11-01", periods=30, freq=frequency)
    assert diebold_mariano(xr.DataArray(np.arange(30.0), {"origin": origins}), lead=1).origins == 30


def test_results_must_share_truth_and_channel_and_hold_a_forecast():
    a, b = results()
    with pytest.raises(ValueError, match="different units"):
        loss_differential(a, b)
    with pytest.raises(ValueError, match="channel 'w' is not among"):
        diebold_mariano(a, b, lead=1, channel="w")
    with pytest.raises(ValueError, match="lead 4 is not among"):
        diebold_mariano(a, b, lead=4, channel="u")
    with pytest.raises(ValueError, match="lead must be a whole number"):
        diebold_mariano(a, b, lead=None, channel="u")
    with pytest.raises(ValueError, match="loss must be"):
        diebold_mariano(a, b, lead=1, channel="u", loss="huber")
    with pytest.raises(ValueError, match="do not share"):
        diebold_mariano(a, b.isel(origin=slice(1, None)), lead=1, channel="u")
    with pytest.raises(ValueError, match="do not share"):
        diebold_mariano(a, b.assign(truth=b.truth + 1), lead=1, channel="u")
    with pytest.raises(ValueError, match="choose one of the others"):
        diebold_mariano(a.assign(forecast=a.forecast.expand_dims(seed=3)), b, lead=1, channel="u")
    silent = b.assign(forecast=b.forecast.where(b.origin != b.origin[0]))
    with pytest.raises(ValueError, match="missing or infinite"):
        diebold_mariano(a, silent, lead=1, channel="u")
    with pytest.raises(ValueError, match="average over places first"):
        diebold_mariano(a, lead=1, channel="u")


def test_one_series_may_not_be_silent_where_the_other_speaks():
    losses = by_origin(np.arange(40.0))
    with pytest.raises(ValueError, match="missing"):
        diebold_mariano(losses, losses.where(losses > 3), lead=1)
    with pytest.raises(ValueError, match="do not share their origins"):
        diebold_mariano(losses, losses.assign_coords(origin=losses.origin + 1), lead=1)


def test_a_series_must_be_of_the_lead_it_is_tested_at():
    a, b = results(channels=["u"])
    with pytest.raises(ValueError, match="lead is 1, but the series given has lead 2"):
        diebold_mariano(loss_differential(a, b, lead=2), lead=1)


@pytest.mark.parametrize(
    ("origins", "lead", "stride", "needed"), [(9, 1, 1, 10), (20, 6, 1, 21), (92, 24, 1, 93), (20, 24, 4, 21)]
)
def test_too_few_origins_are_refused_with_the_number_needed(origins, lead, stride, needed):
    noise = autoregression(0, origins=needed, series=1, seed=10)[0]
    with pytest.raises(ValueError, match=f"{origins} observed.*at least {needed}"):
        diebold_mariano(by_origin(noise[:origins]), lead=lead, stride=stride)
    assert diebold_mariano(by_origin(noise), lead=lead, stride=stride).origins == needed
    assert block_bootstrap(by_origin(noise), lead=lead, stride=stride).loc["difference"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 5}, "block must be 6 .the lead. to 20 .half of the origins., got 5"),
        ({"block": 21}, "got 21"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"draws": 0}, "draws be at least 1"),
        ({"stride": 0}, "stride must be at least 1"),
    ],
)
def test_bad_bootstrap_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        block_bootstrap(by_origin(np.arange(40.0)), lead=6, **options)


def test_a_difference_without_spread_is_refused():
    with pytest.raises(ValueError, match="3 at every origin"):
        diebold_mariano(by_origin(np.full(40, 3.0)), lead=1)


@pytest.mark.parametrize("p_values", [[0.1, 1.2], [0.1, np.nan], [-0.1], [[0.1, 0.2]]])
def test_corrections_refuse_what_is_not_a_probability(p_values):
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="p_values must be"):
            correct(p_values)
