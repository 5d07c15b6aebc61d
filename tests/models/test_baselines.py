import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stlib.models.baselines import (
    CYCLES,
    Climatology,
    DampedAnomaly,
    Drift,
    Persistence,
    SeasonalMedian,
    SeasonalPersistence,
    carry_forward,
)

NAN = float("nan")


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1)


def monthly(years, seed=0):
    time = pd.date_range("2000-01-01", periods=12 * years, freq="MS")
    season = torch.tensor(10 * np.sin(2 * np.pi * time.month / 12)).reshape(-1, 1, 1)
    noise = torch.randn(12 * years, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    zeros = torch.zeros(len(time), dtype=torch.long)
    return season + noise, torch.stack([torch.tensor(time.month.to_numpy() - 1).long(), zeros, zeros, zeros], 1)


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=12))
def test_carry_forward_is_pandas_fill(values):
    given_ = [NAN if v is None else v for v in values]
    expected = pd.Series(given_).ffill().bfill().to_numpy(dtype=float)
    np.testing.assert_array_equal(carry_forward(column(*given_)).flatten().numpy(), expected)


def test_persistence_repeats_the_last_observed_value():
    assert Persistence(horizon=2)(column(1, 2, NAN)).flatten().tolist() == [2, 2]
    assert Persistence(horizon=2)(torch.zeros(3, 1, 4, 5, 6)).shape == (3, 2, 4, 5, 6)


def test_seasonal_persistence_by_hand():
    model = SeasonalPersistence(horizon=5, season=3)
    assert model(column(0, 1, 2, 3, 4)).flatten().tolist() == [2, 3, 4, 2, 3]
    assert model(column(0, 1, 2, NAN, 4, 5)).flatten().tolist() == [0, 4, 5, 0, 4]


def test_climatology_is_the_group_mean_of_pandas():
    series, calendar = monthly(4)
    series[5, 0, 1] = NAN
    model = Climatology(horizon=3, cycle="month").fit(series, calendar)
    expected = pd.DataFrame(series.flatten(1).numpy()).groupby(calendar[:, 0].numpy()).mean().to_numpy()
    np.testing.assert_allclose(model.mean.flatten(1).numpy(), expected, rtol=1e-12)
    forecast = model(series[None, 6:11], calendar[None, 6:14])
    np.testing.assert_allclose(forecast[0].flatten(1).numpy(), expected[[11, 0, 1]], rtol=1e-12)


def test_a_phase_never_seen_is_forecast_as_missing():
    series, calendar = monthly(1)
    model = Climatology(horizon=1, cycle="month").fit(series[:6], calendar[:6])
    assert model(series[None, 5:6], calendar[None, 5:7]).isnan().all()


@pytest.mark.parametrize("cycle", [None, *CYCLES])
def test_climatology_has_no_error_on_a_field_that_only_follows_its_cycle(cycle):
    time = pd.date_range("2000-01-01", periods=3000, freq="7h")
    calendar = torch.tensor(np.stack([time.month - 1, time.day_of_week, time.hour, time.day_of_year - 1], 1)).long()
    value = torch.ones(3000) if cycle is None else calendar[:, list(CYCLES).index(cycle)].float()
    model = Climatology(horizon=2, cycle=cycle).fit(value[:, None], calendar)
    forecast = model(value[None, :2990, None], calendar[None, :2992])
    assert torch.equal(forecast.flatten(), value[2990:2992])


def test_damped_anomaly_finds_the_slope_of_an_autoregression():
    phi, generator = 0.8, torch.Generator().manual_seed(0)
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    for t in range(1, len(x)):
        x[t] = phi * x[t - 1] + torch.randn(1, dtype=torch.float64, generator=generator)
    model = DampedAnomaly(horizon=3, cycle=None).fit(x)
    torch.testing.assert_close(model.slope.flatten(), torch.tensor([phi, phi**2, phi**3]).double(), atol=0.02, rtol=0)
    c = x.mean()
    torch.testing.assert_close(model(x[None])[0, 0, 0], c + model.slope[0, 0] * (x[-1, 0] - c))


def test_damped_anomaly_pools_places_or_keeps_them_apart():
    series, calendar = monthly(6)
    apart = DampedAnomaly(horizon=2, cycle="month", per="place").fit(series, calendar)
    assert apart.slope.shape == (2, 2, 3)
    first = DampedAnomaly(horizon=2, cycle="month").fit(series[:, :, :1], calendar)
    torch.testing.assert_close(apart.slope[:, :, :1], first.slope)


def test_damped_anomaly_pairs_only_observed_steps():
    series = torch.randn(60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).cumsum(0)
    holes = series.clone()
    holes[[5, 20, 21]] = NAN
    model = DampedAnomaly(horizon=1, cycle=None).fit(holes)
    x = holes.numpy().ravel() - np.nanmean(holes)
    pairs = ~np.isnan(x[1:]) & ~np.isnan(x[:-1])
    expected = (x[:-1] * x[1:])[pairs].sum() / (x[:-1][pairs] ** 2).sum()
    assert model.slope.item() == pytest.approx(expected, rel=1e-12)


def test_drift_continues_a_line_and_bridges_missing_ends():
    assert Drift(horizon=2)(column(1, 3, 5)).flatten().tolist() == [7, 9]
    assert Drift(horizon=1)(column(1, 2, NAN)).flatten().tolist() == [2.5]


@pytest.mark.parametrize(
    ("model", "past", "message"),
    [
        (Persistence(horizon=1), torch.zeros(2, 3), r"at least 1 time steps, got shape \(2, 3\)"),
        (SeasonalPersistence(horizon=1, season=7), torch.zeros(1, 6, 1), "at least 7 time steps"),
        (Drift(horizon=1), torch.zeros(1, 1, 1), "at least 2 time steps"),
        (Climatology(horizon=1, cycle="month"), torch.zeros(1, 3, 1), "not fitted yet"),
    ],
)
def test_short_pasts_and_unfitted_models_are_refused(model, past, message):
    with pytest.raises(ValueError, match=message):
        model(past)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="cycle must be None or one of month"):
        Climatology(horizon=1, cycle="year")
    with pytest.raises(ValueError, match="has no observed value"):
        Climatology(horizon=1, cycle=None).fit(torch.full((5, 1), NAN))
    with pytest.raises(ValueError, match="more training steps than horizon=5, got 5"):
        DampedAnomaly(horizon=5, cycle=None).fit(torch.zeros(5, 1))


def test_fitted_baselines_survive_a_round_trip():
    series, calendar = monthly(4)
    model = DampedAnomaly(horizon=2, cycle="month").fit(series, calendar)
    copy = DampedAnomaly(horizon=2, cycle="month")
    copy.load_state_dict(model.state_dict(), assign=True)
    inputs = series[None, :5], calendar[None, :7]
    assert torch.equal(copy(*inputs), model(*inputs))


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=12, max_size=12))
def test_seasonal_median_is_the_median_of_pandas(values):
    past = [NAN if v is None else v for v in values]
    forecast = SeasonalMedian(horizon=4, season=3, seasons=4)(column(*past)).flatten().numpy()
    expected = pd.DataFrame(np.reshape(past, (4, 3))).median().to_numpy()
    np.testing.assert_allclose(forecast, [*expected, expected[0]], rtol=1e-12)


def test_seasonal_median_ignores_one_odd_season_and_needs_all_of_them():
    weeks = torch.arange(3.0).repeat(3).reshape(1, 9, 1)
    odd = weeks.clone()
    odd[0, 6:] = 100
    model = SeasonalMedian(horizon=3, season=3, seasons=3)
    assert torch.equal(model(odd), model(weeks))
    with pytest.raises(ValueError, match="at least 9 time steps"):
        model(weeks[:, 1:])


def test_a_missing_last_step_carries_its_anomaly_not_its_value():
    series, calendar = monthly(6)
    model = DampedAnomaly(horizon=1, cycle="month").fit(series, calendar)
    past, when = series[None, :6].clone(), calendar[None, :7]
    usual = model.climatology.climate(past, when, 7)
    past[:, -1] = NAN
    expected = usual[:, 6:] + model.slope * (past[:, 4:5] - usual[:, 4:5])
    torch.testing.assert_close(model(past, when), expected)


def test_climatology_needs_the_calendar_of_the_future_only():
    series, calendar = monthly(4)
    model = Climatology(horizon=3, cycle="month").fit(series, calendar)
    assert torch.equal(model(series[None, :5], calendar[None, :8]), model(series[None, :1], calendar[None, 5:8]))
