from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import ramp

from stlib.data import datasets, windows
from stlib.data.preprocessing import regrid, resampling, to_step


def hourly(steps=24 * 10, start="2001-01-01", freq="h", shape=(3,), missing=0.0, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 3, (steps, 1, *shape)).astype(dtype)
    values[rng.random(values.shape) < missing] = np.nan
    return xr.DataArray(
        values,
        dims=("time", "channel", *("place", "height")[: len(shape)]),
        coords={"time": pd.date_range(start, periods=steps, freq=freq), "channel": ["rain"]},
        attrs={"units": "mm"},
        name="rain",
    )


def bins(time, step):
    """The label of each time's step, one by one."""
    if step == "W-MON":
        return [stamp.normalize() - pd.Timedelta(days=stamp.weekday()) for stamp in time]
    if step == "D":
        return [stamp.normalize() for stamp in time]
    if step == "6h":
        return [stamp.normalize() + pd.Timedelta(hours=stamp.hour // 6 * 6) for stamp in time]
    if step == "QS":
        return [pd.Timestamp(stamp.year, (stamp.month - 1) // 3 * 3 + 1, 1) for stamp in time]
    return [pd.Timestamp(stamp.year, stamp.month if step == "MS" else 1, 1) for stamp in time]


@pytest.mark.parametrize("how", ["mean", "sum", "last"])
@pytest.mark.parametrize("step", ["6h", "D", "W-MON", "MS", "QS", "YS"])
@pytest.mark.parametrize("enough", [0.05, 0.85])
def test_it_is_the_naive_loop(step, how, enough):
    field = hourly(steps=24 * 70, start="2003-11-19 05:00", missing=0.15, dtype="float64")
    field[24 * 40 : 24 * 43] = np.nan
    whole = pd.date_range("2003-01-01", "2005-01-01", freq="h", inclusive="left")
    labels, full = np.array(bins(field.indexes["time"], step)), pd.Series(bins(whole, step)).value_counts()
    result = to_step(field, step=step, how=how, enough=enough)
    assert result.indexes["time"].tolist() == sorted(set(labels))
    for label, row in zip(result.indexes["time"], result.values, strict=True):
        for place in range(3):
            x = field.values[labels == label, 0, place]
            x, expected = x[~np.isnan(x)], full[label]
            if len(x) < enough * expected:
                assert np.isnan(row[0, place])
            else:
                value = {"mean": np.mean(x), "sum": np.mean(x) * expected, "last": x[-1]}[how]
                assert row[0, place] == pytest.approx(value, rel=1e-12)


def test_complete_steps_are_plain_means_and_sums_of_xarray():
    field = hourly(steps=24 * 31 * 3, shape=(2, 3))
    days = field.resample(time="D")
    xr.testing.assert_allclose(to_step(field, step="D", how="mean"), days.mean(), rtol=1e-6)
    xr.testing.assert_allclose(to_step(field, step="D", how="sum"), days.sum(), rtol=1e-6)
    xr.testing.assert_identical(to_step(field, step="D", how="last"), days.last())


def test_left_out_time_stamps_count_as_missing():
    field = hourly(steps=24 * 20, missing=0.1)
    kept = np.random.default_rng(1).random(field.sizes["time"]) > 0.3
    kept[24 * 7 : 24 * 9] = False  # two days without any
    kept[[0, 1, -1]] = True
    holes = field.where(xr.DataArray(kept, dims="time"))
    for how in ("mean", "sum", "last"):
        left_out = to_step(field[kept], step="D", how=how, enough=0.6)
        xr.testing.assert_identical(left_out, to_step(holes, step="D", how=how, enough=0.6))
    assert left_out.sizes["time"] == 20 and left_out[7:9].isnull().all() and left_out[:7].notnull().any()


def test_a_sum_with_gaps_is_scaled_up_and_half_is_enough():
    field = xr.ones_like(hourly(steps=48, shape=()))
    field[:12] = np.nan
    assert to_step(field, step="D", how="sum").values.ravel().tolist() == [24, 24]
    field[12] = np.nan
    assert np.isnan(to_step(field, step="D", how="sum").values.ravel()).tolist() == [True, False]
    assert to_step(field, step="D", how="sum", enough=0.4).values.ravel().tolist() == [24, 24]


def test_a_share_of_the_step_is_counted_without_rounding():
    assert 0.07 * 100 > 7  # in floating point
    field = xr.ones_like(hourly(steps=200, shape=()))
    field[7:100], field[106:] = np.nan, np.nan
    assert np.isnan(to_step(field, step="100h", how="mean", enough=0.07).values.ravel()).tolist() == [False, True]


def test_the_ends_of_the_record_are_steps_with_gaps():
    # From 12:00 to 11:00 two days later: half a day, a day, half a day. One hour less is less than half.
    field = hourly(steps=48, start="2001-01-01 12:00")
    assert to_step(field, step="D", how="mean").isnull().any("place").values.ravel().tolist() == [False] * 3
    assert to_step(field[1:], step="D", how="mean").isnull().all("place").values.ravel().tolist() == [
        True,
        False,
        False,
    ]
    assert to_step(field[:-1], step="D", how="mean").isnull().all("place").values.ravel().tolist() == [
        False,
        False,
        True,
    ]


def test_months_of_different_length_need_their_own_share():
    field = xr.ones_like(hourly(steps=59, freq="D", shape=()))
    assert to_step(field, step="MS", how="sum").values.ravel().tolist() == [31, 28]
    field[31 + 14 :] = np.nan  # 14 of 28 are enough, 13 are not
    assert to_step(field, step="MS", how="sum").values.ravel().tolist() == [31, 28]
    field[31 + 13] = np.nan
    assert np.isnan(to_step(field, step="MS", how="sum").values.ravel()).tolist() == [False, True]


@pytest.mark.parametrize("freq", ["MS", "ME"])
def test_months_are_a_step_of_their_own(freq):
    field = hourly(steps=40, freq=freq, start="2001-02-01")
    years = to_step(field, step="YS", how="sum", enough=1.0)
    assert years.indexes["time"].year.tolist() == [2001, 2002, 2003, 2004]
    assert years.isnull().all("place").values.ravel().tolist() == [True, False, False, True]
    np.testing.assert_allclose(years[1, 0], field[11:23, 0].sum("time"), rtol=1e-6)
    np.testing.assert_allclose(
        to_step(field, step="YS", how="sum")[0, 0], field[:11, 0].sum("time") * 12 / 11, rtol=1e-6
    )
    left_out = to_step(field.isel(time=[*range(15), *range(17, 40)]), step="QS", how="mean", enough=0.5)
    assert left_out.isnull().all("place").values.ravel().tolist() == [i == 5 for i in range(len(left_out))]


def test_weeks_begin_on_their_day_and_are_labelled_by_it():
    monday = to_step(hourly(steps=28, freq="D", start="2001-01-01"), step="W-MON", how="mean")  # that was a Monday
    assert monday.indexes["time"].strftime("%a %d").tolist() == ["Mon 01", "Mon 08", "Mon 15", "Mon 22"]
    days = hourly(steps=28, freq="D", start="2001-01-01")
    np.testing.assert_allclose(monday[1], days[7:14].mean("time"), rtol=1e-6)
    assert to_step(days, step="W", how="mean").indexes["time"].day_name().unique().tolist() == ["Sunday"]


def test_a_week_counts_in_the_month_in_which_it_begins():
    mondays = hourly(steps=53, freq="W-MON", start="2001-01-01", shape=())  # both January and October begin with one
    counted = to_step(xr.ones_like(mondays), step="MS", how="sum", enough=1.0)
    assert counted.values.ravel().tolist() == [5, 4, 4, 5, 4, 4, 5, 4, 4, 5, 4, 5]
    months = mondays.to_series().groupby(mondays.indexes["time"].month).sum()
    np.testing.assert_allclose(to_step(mondays, step="MS", how="sum").values.ravel(), months, rtol=1e-6)


def test_the_same_step_makes_the_axis_regular():
    field = hourly(steps=30)
    result = to_step(field.isel(time=[*range(10), *range(13, 30)]), step="h", how="last", enough=1)
    assert result.isnull().all("place").values.ravel().tolist() == [10 <= t < 13 for t in range(30)]
    np.testing.assert_array_equal(result[:10], field[:10])
    co2 = datasets.load("co2")
    weeks = to_step(co2, step="W-SAT", how="last")
    np.testing.assert_array_equal(weeks, co2)
    assert weeks.indexes["time"].equals(co2.indexes["time"])


@pytest.mark.parametrize("step", ["6h", "36h", "D", "W-WED", "MS", "2MS", "QS-FEB", "YS"])
def test_the_result_can_be_split(step):
    field = hourly(steps=24 * 1500, shape=(), start="2001-03-05 07:00").isel(time=slice(None, None, 2))
    result = to_step(field, step=step, how="sum")
    parts = windows.split(result, past=1, horizon=1, train=2, validation=1)
    assert len(parts.train) == 1 and result["time"].dtype == field["time"].dtype
    begin, end = result.indexes["time"][[1, -1]]
    inside = field[(field["time"] >= begin) & (field["time"] < end)]  # the steps that are complete
    assert float(result[1:-1].sum()) == pytest.approx(float(inside.sum()), rel=1e-5)


def test_labels_and_type_survive():
    airports = datasets.load("nyc-airports")
    days = to_step(airports, step="D", how="mean")
    assert days.attrs == airports.attrs and days.name == airports.name and days.dtype == np.float32
    assert days.dims == airports.dims and "local_time" not in days.coords
    for name in ("channel", "airport", "units", "lat", "lon", "altitude", "airport_name"):
        assert days[name].equals(airports[name].drop_vars("local_time", errors="ignore"))
    frame = airports.sel(channel="temperature", airport="JFK").to_series()
    expected = frame.resample("D").mean().where(frame.resample("D").count() >= 12)
    np.testing.assert_allclose(days.sel(channel="temperature", airport="JFK"), expected, rtol=1e-5)
    assert to_step(hourly(dtype="float64"), step="D", how="sum").dtype == np.float64
    field = hourly()
    field["time"].attrs["long_name"] = "begin of the hour"
    assert to_step(field, step="D", how="mean")["time"].attrs == {"long_name": "begin of the hour"}
    assert to_step(hourly().astype(int), step="D", how="sum").dtype == np.float64


def test_odd_fields_in_time():
    assert to_step(hourly(shape=(0,)), step="D", how="sum").shape == (10, 1, 0)
    assert to_step(hourly(shape=(2, 3)) * np.nan, step="D", how="sum").isnull().all()
    field = hourly(shape=(2, 3), dtype="float64")
    strided = field[:, :, ::-1].transpose("time", "channel", "height", "place")
    assert not strided.values.flags.c_contiguous
    expected = to_step(field, step="D", how="mean")[:, :, ::-1].transpose("time", "channel", "height", "place")
    xr.testing.assert_identical(to_step(strided, step="D", how="mean"), expected)
    assert to_step(field[:2], step="h", how="mean").equals(field[:2])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f, {"step": "30min"}, "multiple of the field's own step, which is 0 days 01:00:00, got '30min'"),
        (lambda f: f, {"step": "90min"}, "multiple of the field's own step"),
        (lambda f: f[::24], {"step": "h"}, "own step, which is 1 days 00:00:00, got 'h'"),
        (lambda f: f[::48], {"step": "W-MON"}, "own step, which is 2 days"),
        (
            lambda f: f[::40].assign_coords(time=f.time[::40] + 39 * (f.time[::40] - f.time[0])),
            {"step": "MS"},
            "66 days",
        ),
        (lambda f: f, {"step": "ME"}, "by their first day .*, got 'ME'"),
        (lambda f: f, {"step": "B"}, "by their first day .*, got 'B'"),
        (lambda f: f, {"step": "-1D"}, "step must be a fixed length"),
        (lambda f: f, {"step": "fortnight"}, "step must be a fixed length .*, got 'fortnight'"),
        (lambda f: f, {"how": "median"}, 'how must be "mean", "sum" or "last", got \'median\''),
        (lambda f: f, {"enough": 0}, "enough must be above 0 and at most 1, got 0"),
        (lambda f: f, {"enough": 1.1}, "enough must be above 0 and at most 1, got 1.1"),
        (lambda f: f.isel(time=[0, 1, 1, 2]), {}, "strictly increasing"),
        (lambda f: f[::-1], {}, "strictly increasing"),
        (lambda f: f[:1], {}, "two or more time stamps, strictly increasing, got 1"),
        (lambda f: f.isel(time=[0, 2, 5]), {}, "but not by multiples of that"),
        (lambda f: f.assign_coords(time=np.arange(240)), {}, "needs dates along time"),
        (lambda f: f.drop_vars("time"), {}, "needs dates along time"),
        (
            lambda f: f.assign_coords(time=f.indexes["time"].tz_localize("Asia/Tokyo")),
            {},
            r'without a time zone, got Asia/Tokyo: .*, with time.tz_convert\("UTC"\).tz_localize\(None\)',
        ),
        (lambda f: f.transpose("channel", "time", "place"), {}, "needs dims"),
        (lambda f: f.assign_coords(time=pd.date_range("2001", periods=240, freq="MS")), {"step": "W"}, "is 1 months"),
        (lambda f: f.assign_coords(time=pd.date_range("2001", periods=240, freq="MS")), {"step": "90D"}, "is 1 months"),
        (lambda f: f.assign_coords(time=pd.date_range("2001", periods=240, freq="QS")), {"step": "MS"}, "is 3 months"),
        (lambda f: f.assign_coords(time=pd.date_range("2001", periods=240, freq="2MS")), {"step": "QS"}, "is 2 months"),
    ],
)
def test_what_cannot_be_resampled_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        to_step(change(hourly()), **{"step": "D", "how": "mean", **options})


# Grids


def on_grid(lat, lon, *, seed=0, steps=2, dtype="float64"):
    values = np.random.default_rng(seed).normal(10, 3, (steps, 2, len(lat), len(lon))).astype(dtype)
    return xr.DataArray(
        values,
        dims=("time", "channel", "lat", "lon"),
        coords={"time": np.arange(steps), "channel": ["a", "b"], "lat": lat, "lon": lon},
        attrs={"units": "K"},
    )


def ends(centres):
    """The ends of cells, written out on its own."""
    c = [float(x) for x in centres]
    return [
        c[0] - (c[1] - c[0]) / 2,
        *((a + b) / 2 for a, b in pairwise(c)),
        c[-1] + (c[-1] - c[-2]) / 2,
    ]


def areas(lat, lon):
    rows = np.diff(np.sin(np.deg2rad(np.clip(ends(lat), -90, 90))))
    return abs(rows)[:, None] * abs(np.diff(ends(lon)))


def area_mean(field, grid):
    return (field.values * areas(*grid)).sum((2, 3)) / areas(*grid).sum()


def centres_between(inner, low, high):
    """Centres of cells that reach exactly from low to high: the first two and last two steps are equal outwards."""
    inner = sorted(inner)
    first, last = inner[0] - low, high - inner[-1]
    return np.array([low + first / 3, *inner, high - last / 3])


def domain(low, high):
    """Random centres whose cells fill the domain: c1 - c0 is twice c0 - low."""
    share = st.lists(st.integers(1, 999), min_size=2, max_size=7, unique=True)
    return share.map(lambda s: centres_between([low + (high - low) * x / 1000 for x in s], low, high))


@settings(max_examples=100, deadline=None)
@given(
    old=st.tuples(domain(-37.5, 61.0), domain(-120.0, 30.0)),
    new=st.tuples(domain(-37.5, 61.0), domain(-120.0, 30.0)),
    turn=st.sampled_from([0, 360, -360, 720, -1080]),
    seed=st.integers(0, 99),
)
def test_the_area_weighted_mean_is_conserved(old, new, turn, seed):
    field = on_grid(*old, seed=seed)
    result = regrid(field, lat=new[0], lon=new[1] + turn)
    np.testing.assert_allclose(area_mean(result, new), area_mean(field, old), rtol=1e-12)
    space = ("lat", "lon")
    assert (result.min(space) >= field.min(space) - 1e-9).all() and (result.max(space) <= field.max(space) + 1e-9).all()
    same = regrid(xr.full_like(field, 7.3), lat=new[0], lon=new[1])
    np.testing.assert_allclose(same, 7.3, rtol=1e-14)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    columns=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    start=st.floats(-180, 180),
    poles=st.booleans(),
)
def test_the_mean_of_the_globe_is_conserved_wherever_longitudes_begin(rows, columns, start, poles):
    def globe(n, m, first):
        lat = np.linspace(-90, 90, n) if poles else -90 + 180 * (np.arange(n) + 0.5) / n  # centres on the poles, or not
        return lat, first + 360 * np.arange(m) / m

    old, new = globe(rows[0], columns[0], 0.0), globe(rows[1], columns[1], start)
    field = on_grid(*old)
    result = regrid(field, lat=new[0], lon=new[1], enough=1.0)
    np.testing.assert_allclose(area_mean(result, new), area_mean(field, old), rtol=1e-12)


def test_the_convention_agrees_with_weights_by_the_cosine():
    # On equal steps a cell's area is the cosine of its centre, up to a constant: what scores are weighted with.
    def mean(field):
        return field.weighted(np.cos(np.deg2rad(field["lat"]))).mean(("lat", "lon")).values

    storm = datasets.load("storm")[:4, :2].astype("float64").fillna(0)
    whole = storm[..., :32, :].assign_coords(lat=storm.lat[:32].astype("float64"))  # 32 x 36 cells to 8 x 12
    lat, lon = (whole[dim].values.reshape(-1, n).mean(1) for dim, n in (("lat", 4), ("lon", 3)))
    np.testing.assert_allclose(mean(regrid(whole, lat=lat, lon=lon)), mean(whole), rtol=1e-12)


@pytest.mark.parametrize("flip", [1, -1])
def test_it_is_brute_force(flip):
    rng = np.random.default_rng(3)
    old = np.sort(rng.uniform(-60, 60, 7)), np.sort(rng.uniform(0, 200, 9))
    new = np.sort(rng.uniform(-70, 70, 5)), np.sort(rng.uniform(-20, 220, 6))
    field = on_grid(*old)
    field.values[rng.random(field.shape) < 0.2] = np.nan
    result = regrid(field[..., ::flip, :], lat=new[0][::flip], lon=new[1], enough=0.5)[..., ::flip, :]
    fine = 300  # points a cell and direction, equal in area
    for t, c, i, j in np.ndindex(result.shape):
        low, high = np.sin(np.deg2rad(np.clip(ends(new[0])[i : i + 2], -90, 90)))
        lat = np.rad2deg(np.arcsin(low + (high - low) * (np.arange(fine) + 0.5) / fine))
        west, east = ends(new[1])[j : j + 2]
        lon = west + (east - west) * (np.arange(fine) + 0.5) / fine
        k, m = np.searchsorted(ends(old[0]), lat) - 1, np.searchsorted(ends(old[1]), lon) - 1
        inside = ((k >= 0) & (k < 7))[:, None] & ((m >= 0) & (m < 9))
        points = np.where(inside, field.values[t, c][np.ix_(k.clip(0, 6), m.clip(0, 8))], np.nan)
        share = np.isfinite(points).mean()
        if abs(share - 0.5) < 0.01:
            continue
        assert np.isnan(result.values[t, c, i, j]) == (share < 0.5)
        if share > 0.5:
            assert result.values[t, c, i, j] == pytest.approx(np.nanmean(points), abs=0.06)
    assert 0.1 < result.isnull().mean() < 0.9


def test_two_by_two_by_hand():
    field = on_grid([15.0, 45.0], [0.0, 10.0], steps=1)  # cells 0 to 30 and 30 to 60 degrees, -5 to 5 and 5 to 15
    field[0, 0] = [[1.0, 2.0], [3.0, 4.0]]
    result = regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.25)[0, 0]  # -30 to 30 and 30 to 90; 0 to 10 ...
    assert result.values[0].tolist() == pytest.approx([1.5, 2.0])  # half of the row is observed
    assert result.values[1].tolist() == pytest.approx([3.5, 4.0])
    shares = regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.5)[0, 0].isnull().values.tolist()
    # Row 0: 1/2 of the latitudes, row 1: (sin 60 - 1/2) / (1/2) = 0.732; column 0: all, column 1: half.
    assert shares == [[False, True], [False, True]]
    assert not regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.366)[0, 0, 1].isnull().any()
    assert regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.367)[0, 0, 1].isnull().values.tolist() == [
        False,
        True,
    ]
    field[0, 0, 0, 0] = np.nan  # then the new cell above the equator has the other one only, a quarter of its area
    assert regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.25)[0, 0, 0].values.tolist() == pytest.approx(
        [2.0, 2.0]
    )
    assert regrid(field, lat=[0.0, 60.0], lon=[5.0, 15.0], enough=0.26)[0, 0, 0].isnull().all()


@pytest.mark.parametrize("name", ["storm", "nasa", "tropical-winds", "a1b"])
def test_the_same_grid_changes_nothing(name):
    field = datasets.load(name)[:10]
    same = regrid(field, lat=field.lat, lon=field.lon)
    np.testing.assert_array_equal(same, field)
    assert same.dtype == field.dtype == np.float32 and same.attrs == field.attrs and same.dims == field.dims
    for coordinate in set(field.coords) - {"lat", "lon"}:
        assert same[coordinate].identical(field[coordinate])
    turned = regrid(field, lat=field.lat[::-1], lon=field.lon.astype("float64") + 360)
    np.testing.assert_allclose(turned[..., ::-1, :], field, rtol=1e-6)


def test_the_grid_keeps_its_attrs():
    field = on_grid(np.linspace(-40, 40, 5), np.linspace(0, 90, 4))
    for dim in field.dims:
        field[dim].attrs["long_name"] = f"the {dim}"
    result = regrid(field, lat=[-10, 10], lon=[20, 40])
    assert [result[dim].attrs["long_name"] for dim in result.dims] == ["the time", "the channel", "the lat", "the lon"]


@pytest.mark.parametrize("n", [7, 11, 13])
def test_a_share_of_the_area_is_measured_without_rounding(n):
    # Each new cell is n x n old ones, of which all are observed: the sum of the old areas may come out smaller.
    def centres(cells, low, high):
        return low + (high - low) * (np.arange(cells) + 0.5) / cells

    field = xr.ones_like(on_grid(centres(5 * n, -70.0, 71.3), centres(5 * n, 3.1, 104.7)))
    assert regrid(field, lat=centres(5, -70.0, 71.3), lon=centres(5, 3.1, 104.7), enough=1).notnull().all()


def test_longitudes_in_float32_go_round_once():
    lon = (360 * np.arange(7) / 7).astype("float32")
    steps = np.diff(lon.astype("float64"))
    assert lon[-1] - lon[0] + (steps[0] + steps[-1]) / 2 > 360 * (1 + 1e-9)  # by rounding alone
    field = on_grid(np.linspace(-40, 40, 5), lon)
    np.testing.assert_allclose(regrid(field, lat=field.lat, lon=lon, enough=1), field, rtol=1e-5)
    with pytest.raises(ValueError, match="must not go round more than once, got 360.1"):
        regrid(field, lat=[-10, 10], lon=np.arange(4) * 90.025)


def test_infinite_values_are_refused():
    field = on_grid(np.linspace(-40, 40, 5), np.linspace(0, 90, 4))
    field[0, 0, 1, 1], field[1, 1, 0, 3] = np.inf, -np.inf
    with pytest.raises(ValueError, match="field holds 2 infinite values: make them missing first"):
        regrid(field, lat=[-10, 10], lon=[20, 40])
    assert regrid(field.where(np.isfinite(field)), lat=[-10, 10], lon=[20, 40]).notnull().all()


def test_blocks_change_nothing(monkeypatch):
    field = datasets.load("storm")
    grid = {"lat": np.arange(22, 60, 3.7), "lon": np.arange(-139, -55, 4.1)}
    whole = regrid(field, **grid)
    monkeypatch.setattr(resampling, "_AT_ONCE", 5000)
    np.testing.assert_allclose(regrid(field, **grid), whole, rtol=1e-6)


def test_odd_grids():
    field = on_grid(np.linspace(-40, 40, 5), np.linspace(0, 90, 4))
    assert regrid(field[:0], lat=[-10, 10], lon=[20, 40]).shape == (0, 2, 2, 2)
    assert regrid(field * np.nan, lat=[-10, 10], lon=[20, 40]).isnull().all()
    assert regrid(field, lat=[-10, 10], lon=[200, 220]).isnull().all()  # elsewhere
    one = field.copy()
    one[0, 0, 2, 2] = np.nan
    apart = regrid(one, lat=field.lat, lon=field.lon, enough=1e-6)
    assert apart.isnull().sum() == 1 and apart[0, 0, 2, 2].isnull()  # neighbours that only touch do not fill it
    turned = field.transpose("time", "channel", "lat", "lon")[..., ::-1, :]
    xr.testing.assert_allclose(
        regrid(turned, lat=[-10, 10], lon=[20, 40]), regrid(field, lat=[-10, 10], lon=[20, 40]), rtol=1e-12
    )
    assert regrid(field.astype(int), lat=[-10, 10], lon=[20, 40]).dtype == np.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lat": [10.0]}, r"lat must be two or more centres .*, got \[10.0\]"),
        ({"lat": [10.0, 30.0, 20.0]}, "lat must be two or more centres"),
        ({"lon": [10.0, 10.0]}, "lon must be two or more centres"),
        ({"lon": 10.0}, "lon must be two or more centres"),
        ({"lat": [80.0, 100.0]}, "lat must lie from -90 to 90 degrees, got 80.0 to 100.0"),
        ({"lon": [0.0, 180.0, 360.0]}, "lon must not go round more than once, got 540.0"),
        ({"enough": 0.0}, "enough must be above 0"),
        ({"enough": -1.0}, "enough must be above 0"),
    ],
)
def test_unfit_grids_are_refused(options, message):
    field = on_grid(np.linspace(-40, 40, 5), np.linspace(0, 90, 4))
    with pytest.raises(ValueError, match=message):
        regrid(field, **{"lat": [-10, 10], "lon": [20, 40], **options})


def test_a_plane_is_refused():
    with pytest.raises(ValueError, match=r"regrid needs dims .*\('time', 'channel', 'y', 'x'\): a grid in the plane"):
        regrid(datasets.load("stage4"), lat=[34, 35], lon=[-79, -78])
    with pytest.raises(ValueError, match="regrid needs dims"):
        regrid(ramp(20), lat=[34, 35], lon=[-79, -78])
