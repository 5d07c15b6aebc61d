import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from test_windows import ramp

from stlib.data import datasets, windows
from stlib.data.preprocessing import calendar_features, feature_table, features
from stlib.models.baselines import SeasonalPersistence


def panel(steps=60, channels=2, shape=(3, 2), seed=0, missing=0.2, dtype="float64", freq="D"):
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 2, (steps, channels, *shape)).astype(dtype)
    values[rng.random(values.shape) < missing] = np.nan
    places = {dim: np.arange(n) * 10 for dim, n in zip(("lat", "lon"), shape, strict=False)}
    return xr.DataArray(
        values,
        dims=("time", "channel", *places),
        coords={"time": pd.date_range("2001-12-20", periods=steps, freq=freq), "channel": list("abcd")[:channels]}
        | places,
    )


@pytest.mark.parametrize("enough", [0.5, 1.0])
def test_it_is_pandas_groupby_shift_and_rolling(enough, monkeypatch):
    field = panel()
    long = field.to_dataframe("x")["x"]
    for at_once in (1_000_000, 250, 130, 1):  # all places at once, four and two, two, or one, though that is more
        monkeypatch.setattr(features, "_AT_ONCE", at_once)
        table = feature_table(
            field, lead=3, lags=[0, 1, 5], rolling=[2, 7], season=7, target="b", calendar=False, enough=enough
        )
        for name in "ab":
            places = long.xs(name, level="channel").groupby(["lat", "lon"], group_keys=False)
            expected = {f"lag_{lag}": places.shift(lag) for lag in (0, 1, 5)}
            for w, need in ((2, {0.5: 1, 1.0: 2}[enough]), (7, {0.5: 4, 1.0: 7}[enough])):
                expected[f"mean_{w}"] = places.transform(lambda s, w=w, n=need: s.rolling(w, min_periods=n).mean())
                expected[f"std_{w}"] = places.transform(lambda s, w=w, n=need: s.rolling(w, min_periods=n).std())
            expected["season"] = places.shift(4)  # the step t + 3 - 7
            for column, values in expected.items():
                np.testing.assert_allclose(table[f"{name}_{column}"], values, rtol=1e-9, err_msg=column)
            if name == "b":
                np.testing.assert_allclose(table["target"], places.shift(-3))
        assert list(table.columns) == [f"{name}_{c}" for name in "ab" for c in expected] + ["place_id", "target"]
    assert list(table.index.names) == ["origin", "lat", "lon"]
    assert table.index.equals(long.xs("a", level="channel").index)
    assert table["place_id"].tolist() == list(range(6)) * 60


def test_a_row_by_hand():
    field = ramp(12, start="2001-01-01")  # its value is its own step
    table = feature_table(field, lead=2, lags=[0, 3], rolling=[4], season=5, calendar=False)
    assert list(table.columns) == ["lag_0", "lag_3", "mean_4", "std_4", "season", "target"]
    assert table.loc["2001-01-08"].tolist() == pytest.approx([7, 4, 5.5, (5 / 3) ** 0.5, 4, 9], rel=1e-6)
    assert table.index.name == "origin" and len(table) == 12 and (table.dtypes == np.float32).all()
    assert table["target"].isna().to_numpy().nonzero()[0].tolist() == [10, 11]
    assert table["lag_3"].isna().to_numpy().nonzero()[0].tolist() == [0, 1, 2]
    assert table["mean_4"].isna().to_numpy().nonzero()[0].tolist() == [0]  # half of 4 is 2


def test_a_share_of_the_window_is_counted_without_rounding():
    assert 0.07 * 100 > 7  # in floating point
    field = ramp(100)
    field[7:] = np.nan
    options = {"lead": 1, "lags": [], "rolling": [100], "calendar": False, "enough": 0.07}
    assert feature_table(field, **options)["mean_100"].iloc[-1] == 3  # 0 to 6
    field[6] = np.nan
    assert feature_table(field, **options)["mean_100"].isna().all()


def test_a_lag_beyond_the_record_is_missing():
    table = feature_table(ramp(10), lead=1, lags=[9, 10, 13, 18, 20, 33], calendar=False)
    assert table.filter(like="lag").notna().sum().tolist() == [1, 0, 0, 0, 0, 0]
    assert table["lag_9"].iloc[-1] == 0


@given(lead=st.integers(1, 20), season=st.integers(1, 9))
def test_the_season_is_that_of_seasonal_persistence(lead, season):
    field = ramp(45)
    table = feature_table(field, lead=lead, lags=[], season=season, calendar=False)
    past = torch.from_numpy(field.values[None])  # all of it: the last origin
    forecast = SeasonalPersistence(horizon=lead, season=season)(past)[0, -1, 0]
    assert table["season"].iloc[-1] == forecast


@settings(max_examples=40, deadline=None)
@given(step=st.integers(1, 39), lead=st.integers(1, 9), season=st.integers(1, 12), seed=st.integers(0, 50))
def test_what_comes_after_the_origin_changes_no_feature(step, lead, season, seed):
    field = panel(steps=40, shape=(2,), seed=seed)
    changed = field.copy(deep=True)
    changed[step:] = np.random.default_rng(seed + 1).normal(1e6, 1e6, changed[step:].shape)
    options = {"lead": lead, "lags": [0, 2], "rolling": [3, 10], "season": season, "target": "a"}
    before, after = (feature_table(f, **options).iloc[: 2 * step] for f in (field, changed))
    pd.testing.assert_frame_equal(before.drop(columns="target"), after.drop(columns="target"), check_exact=True)
    pd.testing.assert_series_equal(before["target"][: -2 * lead], after["target"][: -2 * lead], check_exact=True)


def test_the_target_and_its_calendar_are_of_one_time():
    for freq in ("h", "D", "W-SAT", "6h"):
        field = ramp(900, start="2003-03-01", freq=freq)
        time = field.indexes["time"]
        table = feature_table(field, lead=5, lags=[0])
        later = pd.date_range("2003-03-01", periods=905, freq=freq)[5:]
        calendar = calendar_features(later)
        assert list(table.columns) == ["lag_0", *calendar.columns, "target"]
        np.testing.assert_allclose(table[calendar.columns], calendar, atol=1e-6)
        np.testing.assert_array_equal(table["target"].dropna(), np.arange(5, 900))
        assert table.index.equals(time.rename("origin"))


@pytest.mark.parametrize(
    ("freq", "since"), [("MS", 0), ("ME", 0), ("QS", 0), ("QE", 0), ("2MS", 0), ("MS", 14), ("QS", 14), ("ME", -5)]
)
def test_months_go_on_after_the_end(freq, since):
    since = pd.Timedelta(days=since)  # months may be stamped on the 15th, or five days before their end
    field = ramp(40, start="2003-01-01", freq=freq)
    table = feature_table(field.assign_coords(time=field.indexes["time"] + since), lead=7, lags=[0])
    later = pd.date_range("2003-01-01", periods=47, freq=freq)[7:] + since
    day = 2 * np.pi * (later.day_of_year - 1) / np.where(later.is_leap_year, 366, 365)
    np.testing.assert_allclose(table["day_of_year_sin"], np.sin(day), atol=1e-6)
    np.testing.assert_allclose(table["day_of_year_cos"], np.cos(day), atol=1e-6)
    assert list(table.columns) == ["lag_0", "day_of_year_sin", "day_of_year_cos", "target"]


def test_the_calendar_is_a_circle():
    hours = pd.date_range("2003-12-29", "2005-01-03", freq="h")  # over New Year into and out of a leap year
    calendar = calendar_features(hours)
    assert list(calendar.columns) == [f"{n}_{p}" for n in ("day_of_year", "weekday", "hour") for p in ("sin", "cos")]
    for name, largest in (("day_of_year", 2 * np.pi / 365), ("weekday", 2 * np.pi / 7), ("hour", 2 * np.pi / 24)):
        x, y = calendar[f"{name}_cos"], calendar[f"{name}_sin"]
        np.testing.assert_allclose(x**2 + y**2, 1)
        turned = np.angle(np.exp(1j * np.diff(np.arctan2(y, x))))  # from each hour to the next
        assert turned.min() > -1e-9 and turned.max() == pytest.approx(largest, rel=1e-6)
        assert len(np.unique(turned.round(3))) <= 2  # New Year, Monday and midnight are like any other
    new_year = calendar.loc["2004-01-01 00:00"]
    assert new_year["day_of_year_sin"] == 0 and new_year["day_of_year_cos"] == 1
    assert new_year["weekday_sin"] == pytest.approx(np.sin(2 * np.pi * 3 / 7))  # a Thursday
    six = calendar.loc["2004-06-01 06:00"]
    assert (six["hour_sin"], six["hour_cos"]) == pytest.approx((1, 0))
    half_past = calendar_features(pd.date_range("2004-01-01 05:30", periods=9, freq="30min")).iloc[0]
    assert half_past["hour_sin"] == pytest.approx(np.sin(2 * np.pi * 5.5 / 24))


@pytest.mark.parametrize(
    ("name", "cycles"),
    [
        ("sunspots", []),
        ("elnino", ["day_of_year"]),
        ("co2", ["day_of_year"]),
        ("chicago", ["day_of_year", "weekday"]),
        ("nyc-airports", ["day_of_year", "weekday", "hour"]),
    ],
)
def test_only_cycles_that_the_steps_resolve(name, cycles):
    data = datasets.load(name)
    time = data.indexes["time"]
    expected = [f"{cycle}_{part}" for cycle in cycles for part in ("sin", "cos")]
    assert list(calendar_features(time).columns) == expected
    assert calendar_features(time[::-1]).equals(calendar_features(time)[::-1])
    assert list(calendar_features(time.repeat(2)).columns) == expected
    assert calendar_features(time[:1]).shape == (1, 0)


def test_hours_of_one_day_have_only_the_hour():
    assert list(calendar_features(pd.date_range("2001-05-05", periods=20, freq="h")).columns) == [
        "hour_sin",
        "hour_cos",
    ]


def test_no_dates_no_calendar():
    measles = datasets.load("measles")
    table = feature_table(measles, lead=4, lags=[0], season=52)
    assert list(table.columns) == ["lag_0", "season", "place_id", "target"]
    assert len(table) == measles.size and list(table.index.names) == ["origin", "state"]
    assert table.loc[(100, "Ohio"), "lag_0"] == measles.sel(state="Ohio")[100].item()
    assert table.loc[(100, "Ohio"), "season"] == measles.sel(state="Ohio")[52].item()
    assert table["lag_0"].isna().sum() == measles.isnull().sum()


def test_ridge_on_the_table_is_the_direct_computation():
    riders = datasets.load("chicago")["riders"]
    lead, past, end, start = 7, 14, 4000, 4700
    table = feature_table(riders, lead=lead, lags=range(past), season=7, calendar=False).astype("float64")
    time = riders.indexes["time"]
    origin = table.index.get_level_values("origin")
    train = table[(origin >= time[past - 1]) & (origin < time[end - lead])]
    test = table[(origin >= time[start - 1]) & (origin < time[-lead])]
    names = [f"lag_{lag}" for lag in range(past)]
    forecast = Ridge(alpha=10.0).fit(train[names], train["target"]).predict(test[names]).reshape(-1, 20)

    # The same without the table: windows, and the normal equations.
    parts = windows.split(riders, past=past, horizon=lead, train=end, validation=start - end, dtype=torch.float64)
    x, late = (part[:].past[:, :, 0].movedim(1, -1).numpy() for part in (parts.train, parts.test))  # (B, N, past)
    x, y = x.reshape(-1, past), parts.train[:].future[:, -1, 0].flatten().numpy()
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 10 * np.eye(past), centred.T @ (y - y.mean()))
    assert len(train) == len(x)
    np.testing.assert_allclose(forecast, (late - x.mean(0)) @ weights + y.mean(), rtol=1e-8)
    np.testing.assert_array_equal(test["target"], parts.test[:].future[:, -1, 0].flatten().numpy())


def test_trees_take_the_table_as_it_is():
    riders = datasets.load("chicago")["riders"][:800]
    table = feature_table(riders, lead=7, lags=range(7), rolling=[28])
    known = table.dropna(subset="target")
    trees = HistGradientBoostingRegressor(categorical_features=["place_id"], max_iter=10, random_state=0)
    trees.fit(known.drop(columns="target"), known["target"])
    assert trees.score(known.drop(columns="target"), known["target"]) > 0.6


def test_it_is_one_array_of_the_type_of_the_field():
    table = feature_table(panel(dtype="float32"), lead=1, lags=range(3), rolling=[3], target="a")
    assert (table.dtypes == np.float32).all() and table.shape == (360, 2 * 5 + 4 + 2)
    assert np.shares_memory(table["a_lag_0"].to_numpy(), table.to_numpy())
    counts = panel(missing=0).astype(int)
    assert (feature_table(counts, lead=1, lags=[0], target="a").dtypes == np.float64).all()


def test_odd_fields():
    assert feature_table(panel(shape=(0, 2)), lead=1, lags=[0], rolling=[3], target="a").shape[0] == 0
    assert feature_table(panel(shape=(1,), channels=1), lead=1, lags=[0], calendar=False).shape == (60, 2)
    missing = feature_table(panel() * np.nan, lead=1, lags=[0], rolling=[3], season=2, calendar=False, target="a")
    assert missing.drop(columns="place_id").isna().all(axis=None)
    field = panel()
    turned = field.transpose("time", "channel", "lon", "lat")
    assert not turned.values.flags.c_contiguous
    options = {"lead": 2, "lags": [0, 1], "rolling": [3], "target": "b"}
    one, two = feature_table(field, **options), feature_table(turned, **options)
    two = two.reorder_levels(["origin", "lat", "lon"]).reindex(one.index)
    pd.testing.assert_frame_equal(one.drop(columns="place_id"), two.drop(columns="place_id"))
    short = feature_table(ramp(2, freq="MS"), lead=1, lags=[0, 9])
    assert short["target"].tolist()[0] == 1 and short["lag_9"].isna().all()
    unnamed = feature_table(panel().drop_vars(["lat", "lon"]), lead=1, lags=[0], target="a")
    assert unnamed.index[-1][1:] == (2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lags": [0, -1]}, r"lags must be 0 or more, each once \(-1 would be the future\), got \[0, -1\]"),
        ({"lags": [1, 1]}, "lags must be 0 or more, each once"),
        ({"lead": 0}, "lead must be from 1 to 59, the steps less one, got 0"),
        ({"lead": 60}, "lead must be from 1 to 59"),
        ({"rolling": [1]}, r"rolling must be windows of 2 steps or more, each once, got \[1\]"),
        ({"rolling": [3, 3]}, "rolling must be windows of 2 steps or more, each once"),
        ({"season": 0}, "season must be at least 1 step, got 0"),
        ({"enough": 0.0}, "enough must be above 0 and at most 1, got 0.0"),
        ({"enough": 1.5}, "enough must be above 0 and at most 1, got 1.5"),
        ({"target": "z"}, "target must name one of the channels a, b, got 'z'"),
        ({"target": None}, "target must name one of the channels a, b, got None"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        feature_table(panel(), **{"lead": 2, "lags": [0], "target": "a", **options})


def test_unfit_fields_are_refused():
    with pytest.raises(ValueError, match="needs dims"):
        feature_table(panel().transpose("channel", "time", "lat", "lon"), lead=2, lags=[0], target="a")
    with pytest.raises(ValueError, match="gaps or unequal steps"):
        feature_table(panel().isel(time=[*range(9), *range(10, 20)]), lead=2, lags=[0], target="a")
    with pytest.raises(ValueError, match="a calendar needs dates, a pandas DatetimeIndex, got Index"):
        calendar_features(pd.Index([1, 2, 3]))


def test_dates_with_a_time_zone_are_refused():
    field = ramp(48, freq="h")
    time = field.indexes["time"].tz_localize("Europe/Berlin")
    field = field.assign_coords(time=time)
    message = r'without a time zone, got Europe/Berlin: .* time.tz_convert\("UTC"\).tz_localize\(None\)'
    for refused in (lambda: calendar_features(time), lambda: feature_table(field, lead=2, lags=[0])):
        with pytest.raises(ValueError, match=message):
            refused()
    naive = time.tz_convert("UTC").tz_localize(None)  # what the message says
    assert len(feature_table(field.assign_coords(time=naive), lead=2, lags=[0])) == 48
    assert feature_table(field, lead=2, lags=[0], calendar=False)["target"].iloc[0] == 2
