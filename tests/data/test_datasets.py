"""Shipped files against their cards and sources; search order; downloads from a local server; command line."""

import doctest
import hashlib
import http.server
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr

from stlib.data import datasets, windows

FIELDS = ["a1b", "chicago", "co2", "dengue", "e1", "elnino", "measles", "nasa", "nyc-airports", "nyc-flights", "stage4"]
FIELDS += ["stocks", "storm", "sunspots", "tropical-winds", "us-income"]
POINTS = ["atlantic-storms", "ridgecrest"]
SHIPPED = FIELDS + POINTS
TO_DOWNLOAD = ["etth1", "etth2", "m4-hourly", "m4-weekly", "metr-la", "pems-bay"]
ROOT = Path(datasets.__file__).parents[2]

GOOD = b"date,a,b\n2020-01-01,1.5,\n2020-01-02,2.5,4\n2020-01-03,3.5,5\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"
SHA = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Point the user's cache at an empty folder, and forget the developer's own settings."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.delenv("STLIB_DATA", raising=False)
    monkeypatch.delenv("STLIB_OFFLINE", raising=False)
    return home


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# The shipped files


def array_of(name):
    data = datasets.load(name)
    return data[{"chicago": "riders", "us-income": "income"}[name]] if isinstance(data, xr.Dataset) else data


@pytest.mark.parametrize("name", SHIPPED)
def test_file_has_the_size_and_sum_of_its_card(name):
    facts = datasets.describe(name)
    file = datasets.SHIPPED / name / facts["file"]
    assert file.stat().st_size == facts["bytes"] < 2_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"]


def test_all_shipped_data_are_small():
    assert sum(file.stat().st_size for file in files_under(datasets.SHIPPED)) < 8_000_000


@pytest.mark.parametrize("name", FIELDS)
def test_field_agrees_with_its_card(name):
    facts, array = datasets.describe(name), array_of(name)
    assert list(array.dims) == facts["dims"]
    assert list(array.shape) == facts["shape"]
    assert array.dtype == np.float32
    assert array["channel"].values.tolist() == facts["channels"]
    assert float(array.isnull().mean()) == pytest.approx(facts["missing"], abs=5e-7)
    if facts["step"] == 1:  # counted, not dated: other coordinates hold the date
        np.testing.assert_array_equal(array["time"].values, np.arange(len(array)))
    else:
        expected = pd.date_range(facts["start"], facts["end"], freq=facts["step"])
        np.testing.assert_array_equal(array["time"].values, expected.to_numpy("datetime64[ns]"))
    assert {"units", "long_name", "licence", "source", "citation"} <= set(array.attrs)
    assert array.attrs["citation"] == facts["citation"]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_split(name):
    parts = windows.split(array_of(name), past=2, horizon=1)
    assert len(parts.test) > 0 and (parts.test.calendar is None) == (name in ("measles", "stocks"))


@pytest.mark.parametrize("name", POINTS)
def test_points_agree_with_their_card(name):
    facts, points = datasets.describe(name), datasets.load(name)
    assert list(points.sizes) == facts["dims"] and list(points.sizes.values()) == facts["shape"]
    assert list(points) == facts["channels"] and {"time", "lat", "lon"} <= set(points.coords)
    assert [array.attrs["units"] for array in points.values()] == facts["units"]
    assert [array.attrs["long_name"] for array in points.values()] == [facts[name]["long_name"] for name in points]
    assert {str(array.dtype) for array in points.values()} == {"float32"}
    assert np.mean([array.isnull() for array in points.values()]) == pytest.approx(facts["missing"], abs=5e-7)
    assert points["time"].dtype == "datetime64[ns]" and points["lat"].dtype.kind == "f"
    first, last = points["time"].values.min(), points["time"].values.max()
    assert [str(first.astype("datetime64[s]")), str(last.astype("datetime64[s]"))] == [
        pd.Timestamp(facts[end]).isoformat() for end in ("start", "end")
    ]


@pytest.mark.parametrize("name", ["storm", "nasa"])
def test_channels_of_different_units_name_them(name):
    array, facts = datasets.load(name), datasets.describe(name)
    assert array.attrs["units"] == "per channel"
    assert array["units"].dims == ("channel",)
    assert array["units"].values.tolist() == facts["units"]
    assert (np.diff(array["lat"]) > 0).all() and (np.diff(array["lon"]) > 0).all()
    with xr.open_dataset(datasets.fetch(name), engine="h5netcdf") as stored:
        assert stored["units"].values.tolist() == facts["units"]


def test_storm_values():
    storm = datasets.load("storm")
    pressure = storm.sel(channel="pressure")
    # Noted from the source fields before they were written as NetCDF.
    assert float(pressure.min()) == np.float32(960.4025)
    assert str(pressure.min(("lat", "lon")).idxmin("time").values)[:13] == "1996-01-14T06"
    assert float(storm[0, 0, -1, -1]) == np.float32(269.65167)
    assert float(storm[-1, 5, -1, -1]) == np.float32(36.51581)
    # The fan: whole at 60 N, 22 columns wide at 20 N, and the four frames the card names.
    inside = storm.notnull().any(("time", "channel"))
    assert inside.sum("lon")[[0, -1]].values.tolist() == [22, 36] and int((~inside).sum()) == 224
    gaps = storm.where(inside, 0).isnull().any(("lat", "lon"))
    frames = [(int(t), str(storm["channel"].values[c])) for t, c in np.argwhere(gaps.values)]
    assert frames == [(17, "temperature"), (17, "v"), (36, "v500"), (37, "v")]


def test_nasa_values():
    nasa = datasets.load("nasa")
    # The first two cells of `nasa` in the R package cubelyr: January 1995, 113.8 W, 36.2 N and 33.7 N.
    first = nasa.sel(time="1995-01-01", lon=-113.8, method="nearest")
    northern = [26.0, 7.5, 34.5, 304.0, 835.0, 272.7, 272.1]
    np.testing.assert_array_equal(first.sel(lat=36.2, method="nearest"), np.float32(northern))
    np.testing.assert_array_equal(
        first.sel(lat=33.7, method="nearest"), np.float32([20.0, 11.5, 32.5, 304.0, 940.0, 279.5, 282.2])
    )


def test_nasa_flaws_are_as_the_card_says():
    nasa = datasets.load("nasa")
    gaps = nasa.isnull().sum(("time", "lat", "lon"))
    assert gaps.values.tolist() == [0, 110, 0, 0, 0, 0, 0]
    pressure = nasa.sel(channel="pressure")
    assert int((pressure == 1000).all("time").sum()) == 330
    level = pressure.mean(("lat", "lon"))
    before, after = level.sel(time=slice(None, "1998-05")), level.sel(time=slice("1998-06", None))
    assert float(before.max()) < 982.6 and float(after.min()) > 989.2
    west, east = nasa.values[..., :-1], nasa.values[..., 1:]
    assert int(((west == east) | (np.isnan(west) & np.isnan(east))).all((0, 1)).sum()) == 33


def test_chicago():
    chicago, facts = datasets.load("chicago"), datasets.describe("chicago")
    riders, weather, games = chicago["riders"], chicago["weather"], chicago["games"]
    assert riders.attrs["units"] == "thousand entries per day"
    for array, part in ((weather, facts["weather"]), (games, facts["games"])):
        assert list(array.dims) == part["dims"] and list(array.shape) == part["shape"]
        assert array[array.dims[1]].values.tolist() == part["names"]
        assert float(array.isnull().mean()) == pytest.approx(part["missing"], abs=5e-7)
        assert array.dtype == np.float32 and array.attrs["licence"] == facts["licence"]
    assert weather["units"].sel(weather_variable="wind_max") == "mile h-1"
    assert games.attrs["units"] == "1"
    # The package's target for Clark/Lake, which is not lagged, on its first six days (Monday to Saturday).
    clark_lake = riders.sel(station="Clark_Lake", time=slice("2001-01-22", "2001-01-27")).squeeze("channel")
    np.testing.assert_allclose(clark_lake, [15.732, 15.762, 15.872, 15.874, 15.423, 2.425], rtol=0, atol=0.006)
    assert int((riders.sel(station="Polk") == 0).sum()) == 135
    baseball = [team for team in facts["games"]["names"] if team.startswith(("Cubs", "WhiteSox"))]
    assert int(games.sel(team_venue=baseball).std("team_venue").max()) == 0 and len(baseball) == 4
    # Record cold and a record-breaking July: the degrees are Fahrenheit, the days are the right ones.
    assert float(weather.sel(time="2014-01-06", weather_variable="temp_min")) == np.float32(-14.1)
    assert float(weather.sel(time="2012-07-06", weather_variable="temp_max")) == np.float32(102.9)


def test_co2_equals_the_copy_in_statsmodels():
    co2, theirs = datasets.load("co2"), sm.datasets.co2.load_pandas().data["co2"]
    np.testing.assert_array_equal(co2.values[:, 0], theirs.to_numpy("float32"))
    assert (co2["time"].values == theirs.index.to_numpy()).all()
    assert int(co2.isnull().sum()) == 59 and co2.attrs["units"] == "ppm"


def test_elnino_and_sunspots_equal_the_copies_in_statsmodels():
    theirs = sm.datasets.elnino.load_pandas().data.set_index("YEAR")
    np.testing.assert_array_equal(datasets.load("elnino").values[:, 0], theirs.to_numpy("float32").ravel())
    theirs = sm.datasets.sunspots.load_pandas().data
    sunspots = datasets.load("sunspots")
    np.testing.assert_array_equal(sunspots.values[:, 0], theirs["SUNACTIVITY"].to_numpy("float32"))
    np.testing.assert_array_equal(sunspots["time"].dt.year, theirs["YEAR"])
    # The El Niño of 1982-83 peaked in June at this coast.
    elnino = datasets.load("elnino").squeeze("channel")
    anomaly = elnino.groupby("time.month") - elnino.groupby("time.month").mean()
    assert str(anomaly.idxmax("time").values)[:7] == "1983-06" and float(anomaly.max()) == pytest.approx(4.6, abs=0.05)


def test_tropical_winds():
    winds = datasets.load("tropical-winds")
    # Noted from the whole hundredths of the source: the first cell, and the extremes.
    np.testing.assert_array_equal(winds[0, 0, 0, :4], np.float32([-5.64, -4.07, -1.92, -2.99]))
    assert float(winds.min()) == np.float32(-19.64) and float(winds.max()) == np.float32(17.61)
    assert np.diff(winds["lon"]).tolist() == [5.0] * 71 and float(winds["lon"][0]) == 21.25
    # Trade winds blow from the east, and weaken in the El Niño of 1982-83.
    pacific = winds.sel(channel="u", lat=slice(-5, 5), lon=slice(160, 235)).mean(("lat", "lon"))
    years = pacific.groupby("time.year").mean().to_series()
    assert (years < 0).all() and years.idxmax() == 1983
    # Too strong, and for too long, to be the air: the card warns of 1988 to 1991.
    assert years.loc[1988:1991].max() < -3.4 < -3.1 < years.drop(range(1988, 1992)).min()
    # The steps of the card: v over the Andes changes sign from March to April 1988, and back in 1992.
    andes = winds.sel(channel="v", lat=-13.75, lon=286.25)
    anomaly = (andes.groupby("time.month") - andes.groupby("time.month").mean()).to_series()
    np.testing.assert_allclose(anomaly["1988-03":"1988-04"], [-3.5, 2.7], atol=0.05)
    np.testing.assert_allclose(anomaly["1992-03":"1992-04"], [5.6, -0.9], atol=0.05)


def test_stage4():
    rain = datasets.load("stage4")
    assert float(rain.max()) == 163.75 and np.argwhere(rain.values == 163.75).tolist() == [[11, 0, 37, 65]]
    assert float((rain == 0).mean()) == pytest.approx(0.4286, abs=5e-5)
    corners = [(float(rain["lat"][y, x]), float(rain["lon"][y, x])) for y in (0, -1) for x in (0, -1)]
    expected = [(33.78, -80.61), (32.44, -77.34), (37.62, -78.36), (36.12, -74.88)]
    np.testing.assert_allclose(corners, expected, atol=0.006)
    series = rain.values.reshape(23, -1)
    hourly = [np.corrcoef(series[t], series[t + 1])[0, 1] for t in range(22)]
    assert np.mean(hourly) == pytest.approx(0.64, abs=0.005)


def test_measles_and_the_states_around():
    measles, income = datasets.load("measles"), datasets.load("us-income")
    assert measles["year"].values[[0, 51, 52, -1]].tolist() == [1928, 1928, 1929, 1963]
    assert measles["week"].values[[0, 51, 52, -1]].tolist() == [1, 52, 1, 52]
    # The first lines of the package's table, and its largest value.
    np.testing.assert_array_equal(measles.sel(state="Alabama")[:3, 0], np.float32([3.67, 6.25, 7.95]))
    largest = measles.sel(state="Montana").squeeze("channel").argmax("time")
    assert float(measles.max()) == np.float32(683.06)
    assert (int(measles["year"][largest]), int(measles["week"][largest])) == (1939, 4)
    assert int(measles.isnull().all("state").sum()) == 49
    # Every state of the graph is one of the panel.
    adjacency = income["adjacency"]
    assert set(measles["state"].values) - set(adjacency["state"].values) == {
        "Alaska",
        "District of Columbia",
        "Hawaii",
    }
    panel = measles.sel(state=adjacency["state"].values)
    assert panel["state"].values.tolist() == adjacency["neighbour"].values.tolist() == income["state"].values.tolist()


def test_us_income_and_its_graph():
    data = datasets.load("us-income")
    income, adjacency = data["income"], data["adjacency"]
    facts = datasets.describe("us-income")["adjacency"]
    assert list(adjacency.dims) == facts["dims"] and list(adjacency.shape) == facts["shape"]
    assert adjacency.attrs["units"] == "1" and adjacency.attrs["long_name"] == facts["long_name"]
    assert income.attrs["units"] == "USD per person per year"
    np.testing.assert_array_equal(income.sel(state="Alabama")[:4, 0], [323, 267, 224, 162])
    assert float(income.sel(state="Wyoming", time="2009-01-01").item()) > 40_000
    assert data["fips"].sel(state="Arizona") == 4 and data["fips"].sel(state="Wyoming") == 56
    matrix = adjacency.values
    assert (matrix == matrix.T).all() and np.diag(matrix).sum() == 0 and matrix.sum() == 214

    def neighbours(state):
        return adjacency["neighbour"].values[adjacency.sel(state=state).values == 1].tolist()

    # From the map.
    assert neighbours("Maine") == ["New Hampshire"]
    assert neighbours("Florida") == ["Alabama", "Georgia"]
    assert neighbours("California") == ["Arizona", "Nevada", "Oregon"]
    assert len(neighbours("Missouri")) == len(neighbours("Tennessee")) == 8 == matrix.sum(1).max()


def test_nyc():
    daily, hourly = datasets.load("nyc-flights"), datasets.load("nyc-airports")
    # 336776 flights is what the package's documentation says.
    for data, space in ((daily, "destination"), (hourly, "airport")):
        assert int(data.sel(channel="flights").astype("float64").sum()) == 336_776
        assert (np.isfinite(data["lat"]) == np.isfinite(data["lon"])).all() and data["lat"].dims == (space,)
    assert daily["destination"].values[daily["lat"].isnull()].tolist() == ["BQN", "PSE", "SJU", "STT"]
    cancelled = daily.sel(channel="cancelled").sum("destination").to_series()
    assert cancelled.nlargest(2).to_dict() == {pd.Timestamp("2013-02-08"): 475, pd.Timestamp("2013-02-09"): 393}
    assert int((daily.sel(channel="flights") > 0).all("time").sum()) == 65
    # Both count the same flights: those of a local day.
    local = hourly["local_time"].dt.date
    by_day = hourly.sel(channel="flights").sum("airport").groupby(local).sum()
    np.testing.assert_array_equal(by_day.values, daily.sel(channel="flights").sum("destination").values)
    # Flights from Kennedy in the first local hour with any, and the clock that was put forward and back.
    assert hourly.sel(channel="flights", airport="JFK", time="2013-01-01T10:00") == 3
    assert str(hourly["local_time"].sel(time="2013-01-01T10:00").values)[:13] == "2013-01-01T05"
    assert {str(hour)[:13] for hour in hourly["local_time"].sel(time="2013-03-10").values} & {"2013-03-10T02"} == set()
    assert (hourly["local_time"] == np.datetime64("2013-11-03T01")).sum() == 2
    wind = hourly.sel(channel="wind_speed", airport="EWR")
    assert str(wind.idxmax("time").values)[:13] == "2013-02-12T08" and float(wind.max()) > 1000
    # Noon is warmer than the hours before dawn; July is warmer than January.
    temperature = hourly.sel(channel="temperature").mean("airport")
    by_hour = temperature.groupby(hourly["local_time"].dt.hour).mean()
    assert float(by_hour[14] - by_hour[5]) > 8
    by_month = temperature.groupby("time.month").mean()
    assert float(by_month[6] - by_month[0]) > 40


def test_stocks():
    stocks = datasets.load("stocks")
    date = stocks["date"]
    assert str(date.values[0])[:10] == "2000-03-01" and str(date.values[-1])[:10] == "2013-03-01"
    first = stocks.sel(ticker="AAPL")[0]
    np.testing.assert_allclose(first, [118.56, 132.06, 118.5, 130.31, 9_616_100, 4.186662803811], rtol=1e-7)
    listed = stocks.sel(channel="close").notnull().sum("time").to_series().to_dict()
    assert listed == {"AAPL": 3270, "FB": 196, "GOOG": 2148, "IBM": 3270, "MSFT": 3270}
    # Two for one: the price halves, the adjusted price does not.
    before, after = stocks.sel(ticker="AAPL", time=date.isin(np.array(["2005-02-25", "2005-02-28"], "datetime64[ns]")))
    ratio = after / before
    assert float(ratio.sel(channel="close")) == pytest.approx(44.86 / 88.99, rel=1e-5)
    assert float(ratio.sel(channel="adjusted_close")) == pytest.approx(1.00821, rel=1e-4)
    high, low = stocks.sel(channel="high"), stocks.sel(channel="low")
    for price in ("open", "close"):
        assert not (stocks.sel(channel=price) > high).any() and not (stocks.sel(channel=price) < low).any()


def test_dengue():
    dengue = datasets.load("dengue").squeeze("channel")
    assert int(dengue.sum()) == 96_658 and float((dengue == 0).mean()) == pytest.approx(0.94669, abs=5e-6)
    largest = dengue.where(dengue == dengue.max(), drop=True)
    assert largest["district"].item() == "Tainan, North" and str(largest["time"].values[0])[:10] == "2015-09-03"
    by_year = dengue.sum("district").groupby("time.year").sum().to_series()
    assert by_year[[2014, 2015, 2020, 2023]].tolist() == [15_155, 42_623, 0, 24_673]
    kaohsiung = dengue["district"].str.startswith("Kaohsiung")
    assert int(kaohsiung.sum()) == 38 and float(dengue["lat"][kaohsiung].mean()) < float(dengue["lat"].mean())


def test_climate_model_runs():
    a1b, e1 = datasets.load("a1b"), datasets.load("e1")
    assert float(a1b[0, 0, 0, 0]) == np.float32(296.08) and float(a1b.max()) == np.float32(306.07)
    # The scenarios part in 2000.
    assert (a1b == e1).all(("channel", "lat", "lon")).sum() == 140 and not (a1b[140] == e1[140]).all()
    rise = {name: float(run[-20:].mean() - run[:20].mean()) for name, run in (("a1b", a1b), ("e1", e1))}
    assert rise == pytest.approx({"a1b": 5.14, "e1": 2.64}, abs=0.01)
    assert float((a1b.mean("time").isel(lat=0) - a1b.mean("time").isel(lat=-1)).mean()) > 20  # the south is warm


def test_ridgecrest():
    quakes = datasets.load("ridgecrest")
    assert (np.diff(quakes["time"].values) > np.timedelta64(0)).all()
    assert float(quakes["magnitude"].max()) == 5.5 and float(quakes["magnitude"].min()) == 2.5
    assert quakes["time"].values[0] == np.datetime64("2019-07-06T03:22:35.630")
    # The curve of completeness of Helmstetter et al. (2006), with the magnitude and time of the mainshock.
    days = (quakes["time"] - np.datetime64("2019-07-06T03:19:53.040")) / np.timedelta64(1, "D")
    least = np.maximum(2.5, 7.1 - 4.5 - 0.75 * np.log10(days))
    assert (quakes["magnitude"] >= least - 1e-6).all()


def test_atlantic_storms():
    storms = datasets.load("atlantic-storms")
    assert len(np.unique(storms["storm"])) == 654
    wilma = storms.where(storms["storm"] == "Wilma 2005", drop=True)
    strongest = wilma.isel(wilma["pressure"].argmin(...))
    assert float(strongest["pressure"]) == 882 and str(strongest["time"].values)[:13] == "2005-10-19T12"
    assert (float(strongest["lat"]), float(strongest["lon"])) == (17.3, -82.8)
    zeta = storms["time"].values[storms["storm"].values == "Zeta 2005"]
    assert str(zeta[0])[:7] == "2005-12" and str(zeta[-1])[:7] == "2006-01"
    # Category and wind agree; sizes are known since 2004.
    hurricane = storms["status"] == "hurricane"
    assert (storms["category"].notnull() == hurricane).all() and float(storms["wind"][hurricane].min()) >= 64
    known = storms["hurricane_force_diameter"].notnull()
    assert int(storms["time"].dt.year.where(known).min()) == 2004
    # Each storm's rows stand together, in the order of time.
    name, time = storms["storm"].values, storms["time"].values
    same = name[1:] == name[:-1]
    assert (~same).sum() + 1 == 654 and (time[1:] >= time[:-1])[same].all()


def test_cards_are_whole():
    headings = ["What it is", "Licence and its evidence", "How it was prepared"]
    headings += ["Known flaws", "Baseline errors", "Citation"]
    for name in datasets.available().index:
        text = datasets.card(name)
        assert text.startswith(f"# {datasets.describe(name)['title']}\n")
        assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == headings


def test_available():
    table = datasets.available()
    assert table.columns.tolist() == ["title", "shape", "period", "licence", "where"]
    where = dict.fromkeys(SHIPPED, "shipped") | dict.fromkeys(TO_DOWNLOAD, "to download")
    assert table["where"].to_dict() == where
    assert table.loc["etth1", "shape"] == "17420 x 7"
    assert table.loc["etth1", "period"] == "2016-07-01 to 2018-06-26"


def test_an_unknown_name_suggests_the_closest():
    for function in (datasets.load, datasets.describe, datasets.card, datasets.fetch):
        with pytest.raises(ValueError, match="unknown data set 'strom'; did you mean 'storm'.*chicago, co2, dengue"):
            function("strom")


def test_docstring_examples():
    assert doctest.testmod(datasets) == (0, 5)


def test_loaded_data_are_in_memory(tmp_path, monkeypatch):
    copy = tmp_path / "storm.nc"
    copy.write_bytes(datasets.fetch("storm").read_bytes())
    monkeypatch.setenv("STLIB_DATA", str(tmp_path))
    storm = datasets.load("storm")
    copy.unlink()
    assert float(storm.max()) == np.float32(1044.1531)


# The search order and downloads, on a tiny data set


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body, announced = {
            "/good.csv": (GOOD, len(GOOD)),
            "/short.csv": (GOOD[:30], len(GOOD)),
            "/silently-short.csv": (GOOD[:30], 30),
            "/page.csv": (PAGE, len(PAGE)),
            "/other.csv": (GOOD.replace(b"1.5", b"1.6"), len(GOOD)),
            "/slow.csv": (GOOD[:30], len(GOOD)),
            **{path: (body, len(body)) for path, body in self.server.extra.items()},
        }.get(self.path, (None, 0))
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if self.path == "/slow.csv":
            self.server.half_sent.set()
            self.server.go_on.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.half_sent, running.go_on, running.extra = threading.Event(), threading.Event(), {}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Make "tiny" the only data set, to be had from the given address; return the folder of its card."""

    def _publish(address):
        folder = tmp_path / "catalogue" / "tiny"
        folder.mkdir(parents=True)
        line = f'address = "{address}"\n' if address else ""
        folder.joinpath("card.md").write_text(
            f"""# Tiny

```toml
name = "tiny"
title = "Tiny"
long_name = "two numbers"
file = "tiny.csv"
bytes = {len(GOOD)}
sha256 = "{SHA}"
{line}dims = ["time", "channel"]
shape = [3, 2]
channels = ["a", "b"]
units = ["K", "hPa"]
start = "2020-01-01T00:00"
end = "2020-01-03T00:00"
licence = "CC0"
source = "here"
citation = "none"
```
"""
        )
        monkeypatch.setattr(datasets, "SHIPPED", folder.parent)
        return folder

    return _publish


def address_of(server, file):
    return f"http://127.0.0.1:{server.server_port}/{file}"


def test_download_is_cached_and_used_again(server, publish, own_cache, capfd, monkeypatch):
    publish(address_of(server, "good.csv"))
    assert datasets.available().loc["tiny", "where"] == "to download"
    tiny = datasets.load("tiny")
    np.testing.assert_array_equal(tiny.values, np.float32([[1.5, np.nan], [2.5, 4], [3.5, 5]]))
    assert tiny["units"].values.tolist() == ["K", "hPa"] and tiny.dims == ("time", "channel")
    assert datasets.available().loc["tiny", "where"] == "cached"
    path = datasets.fetch("tiny")
    assert files_under(own_cache) == [path] and path.read_bytes() == GOOD
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("STLIB_OFFLINE", "1")
    server.shutdown()
    assert datasets.load("tiny").equals(tiny)


@pytest.mark.parametrize(
    "file, reason",
    [
        ("short.csv", r"could not download tiny.csv .*IncompleteRead\(30 bytes read"),
        ("silently-short.csv", "corrupt, cut short or another version: 30 bytes with sha256 [0-9a-f]{64}"),
        ("page.csv", "is an HTML page, not data: 50 bytes"),
        ("gone.csv", "could not download tiny.csv .*404"),
        ("other.csv", f"another version: {len(GOOD)} bytes with sha256 [0-9a-f]{{64}}, expected .* {SHA}"),
    ],
)
def test_bad_download_is_one_clear_line_and_leaves_nothing(file, reason, server, publish, own_cache):
    address = address_of(server, file)
    publish(address)
    with pytest.raises(OSError, match=reason) as caught:
        datasets.load("tiny")
    line = str(caught.value)
    assert "\n" not in line and address in line and SHA in line
    assert f"put it at {Path(own_cache)}" in line and "tiny.csv or in $STLIB_DATA" in line
    assert files_under(own_cache) == []


def test_refused_connection(server, publish, own_cache):
    server.shutdown()
    server.server_close()
    publish(address_of(server, "good.csv"))
    with pytest.raises(OSError, match="could not download tiny.csv from http://127.0.0.1.*refused.*put it at"):
        datasets.fetch("tiny")
    assert files_under(own_cache) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_download_killed_midway_leaves_nothing(how, server, publish, own_cache):
    folder = publish(address_of(server, "slow.csv")).parent
    code = "import pathlib, sys; from stlib.data import datasets as d; d.SHIPPED = pathlib.Path(sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", code + "; d.fetch('tiny')", folder], stderr=subprocess.DEVNULL
    ) as process:
        assert server.half_sent.wait(60)
        time.sleep(0.1)
        process.send_signal(how)
        assert process.wait(60) != 0
    assert files_under(own_cache) == []


def test_a_cache_that_cannot_be_written(server, publish, own_cache, monkeypatch):
    publish(address_of(server, "good.csv"))
    blocked = own_cache / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: blocked / project)
    with pytest.raises(OSError, match="could not write .*tiny.csv .*or in \\$STLIB_DATA"):
        datasets.fetch("tiny")
    assert files_under(own_cache) == [blocked]


def test_failed_write_leaves_nothing(server, publish, own_cache, monkeypatch):
    publish(address_of(server, "good.csv"))

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="could not write .*No space left"):
        datasets.fetch("tiny")
    assert files_under(own_cache) == []


def test_offline(server, publish, own_cache, monkeypatch):
    address = address_of(server, "good.csv")
    publish(address)
    monkeypatch.setenv("STLIB_OFFLINE", "1")
    with pytest.raises(OSError, match=f"'tiny' is not here and STLIB_OFFLINE forbids.*{SHA}.*{address}.*put it at"):
        datasets.load("tiny")
    monkeypatch.setenv("STLIB_OFFLINE", "0")
    assert datasets.load("tiny").shape == (3, 2)


def test_search_order(server, publish, tmp_path, monkeypatch):
    folder = publish(address_of(server, "good.csv"))
    own = tmp_path / "own"
    (own / "tiny").mkdir(parents=True)
    cached = datasets.fetch("tiny")
    shipped, flat, nested = folder / "tiny.csv", own / "tiny.csv", own / "tiny" / "tiny.csv"
    monkeypatch.setenv("STLIB_DATA", str(own))
    assert datasets.fetch("tiny") == cached
    for place in (shipped, flat, nested):
        place.write_bytes(GOOD)
        assert datasets.fetch("tiny") == place
    monkeypatch.delenv("STLIB_DATA")
    assert datasets.fetch("tiny") == shipped


@pytest.mark.parametrize("body, kind", [(GOOD[:-5], "corrupt, cut short"), (PAGE, "an HTML page, not data:")])
@pytest.mark.parametrize("place", ["own", "shipped", "cache"])
def test_a_bad_file_is_refused_wherever_it_is(place, body, kind, server, publish, tmp_path, monkeypatch):
    folder = publish(address_of(server, "good.csv"))
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("STLIB_DATA", str(own))
    path = {"own": own / "tiny.csv", "shipped": folder / "tiny.csv", "cache": datasets.fetch("tiny")}[place]
    path.write_bytes(body)
    with pytest.raises(OSError, match=f"is {kind}.* {len(body)} bytes with .*expected .* {SHA}; delete it") as caught:
        datasets.load("tiny")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_shipped_file_that_was_removed(publish):
    publish(None)
    assert datasets.available().loc["tiny", "where"] == "missing"
    with pytest.raises(OSError, match="the file tiny.csv of data set 'tiny' is missing; reinstall"):
        datasets.load("tiny")


# Readers of what is downloaded, on small files of the same format


def traffic_file(time, sensors, speeds, key):
    """A data frame as pandas and PyTables store it in HDF5 (fixed format, one block)."""
    with io.BytesIO() as body:
        with h5py.File(body, "w") as file:
            frame = file.create_group(key)
            frame["axis0"] = frame["block0_items"] = sensors
            frame["axis1"] = time.to_numpy("datetime64[ns]").astype("int64")
            frame["block0_values"] = speeds
        return body.getvalue()


def metr_la_files():
    time = pd.date_range("2012-03-01", periods=4, freq="5min")
    speeds = np.array([[60.0, 0.0], [61.5, 55.0], [0.0, 54.0], [63.0, 53.25]])
    body = traffic_file(time, np.array([b"773869", b"767541"]), speeds, "df")
    return body, b"index,sensor_id,latitude,longitude\n0,767541,34.11621,-118.23799\n1,773869,34.15497,-118.31829\n"


def pems_bay_files():
    time = pd.date_range("2017-03-12T01:45", periods=5, freq="5min").delete([3])
    body = traffic_file(time, np.array([400001, 400017]), np.array([[70.0, 0.0]] + [[71.0, 66.0]] * 3), "speed")
    return body, b"400017,37.253303,-121.945440\n400001,37.364085,-121.901149\n"


def m4_files():
    train = b'"V1","V2","V3","V4"\n"W1","1.5","2.5",""\n"W2","10","20","30"\n'
    return train, b'"V1","V2","V3"\n"W1","3.5","4.5"\n"W2","40","50"\n'


MAKERS = {"metr-la": metr_la_files, "pems-bay": pems_bay_files, "m4-weekly": m4_files, "m4-hourly": m4_files}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Put the real card in a catalogue of its own, with the sums of small files that lie in $STLIB_DATA."""

    def _small(name):
        text, bodies = datasets.card(name), MAKERS[name]()
        facts = datasets.describe(name)
        files = []
        for old, body in zip([facts, facts["companion"]], bodies, strict=True):
            assert text.count(old["sha256"]) == 1
            text = text.replace(old["sha256"], hashlib.sha256(body).hexdigest())
            files.append(tmp_path / "own" / name / old["file"])
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_bytes(body)
        folder = tmp_path / "catalogue" / name
        folder.mkdir(parents=True)
        folder.joinpath("card.md").write_text(text, encoding="utf-8")
        monkeypatch.setattr(datasets, "SHIPPED", folder.parent)
        monkeypatch.setenv("STLIB_DATA", str(tmp_path / "own"))
        return files

    return _small


@pytest.mark.parametrize("name", MAKERS)
def test_downloads_have_a_pinned_address_for_each_file(name):
    facts = datasets.describe(name)
    for file in (facts, facts["companion"]):
        assert re.fullmatch(r"[0-9a-f]{64}", file["sha256"]) and file["bytes"] > 0
        assert re.search(r"/[0-9a-f]{40}/", file["address"]), "a branch moves, a commit does not"
        assert file["address"].endswith("/" + file["file"])


def test_metr_la(small):
    small("metr-la")
    speed = datasets.load("metr-la")
    assert speed.dims == ("time", "channel", "sensor") and speed.dtype == np.float32
    expected = [[60, np.nan], [61.5, 55], [np.nan, 54], [63, 53.25]]  # 0 is how the source writes missing
    np.testing.assert_array_equal(speed.squeeze("channel"), np.float32(expected))
    assert speed["sensor"].values.tolist() == ["773869", "767541"]
    assert speed["lat"].values.tolist() == [34.15497, 34.11621] and float(speed["lon"][1]) == -118.23799
    assert speed.attrs["units"] == "mile h-1" and str(speed["time"].values[-1])[:16] == "2012-03-01T00:15"


def test_pems_bay(small):
    small("pems-bay")
    speed = datasets.load("pems-bay").squeeze("channel")
    # The step that the source does not have is there, and missing.
    np.testing.assert_array_equal(speed["time"], pd.date_range("2017-03-12T01:45", periods=5, freq="5min"))
    assert speed.isnull().values.tolist() == [[False, True], [False] * 2, [False] * 2, [True] * 2, [False] * 2]
    assert speed["sensor"].values.tolist() == ["400001", "400017"]
    assert speed["lat"].values.tolist() == [37.364085, 37.253303]


@pytest.mark.parametrize("name", ["m4-weekly", "m4-hourly"])
def test_m4(name, small):
    small(name)
    series = datasets.load(name)
    assert series.dims == ("time", "channel", "series") and series["series"].values.tolist() == ["W1", "W2"]
    assert series["time"].values.tolist() == [-3, -2, -1, 0, 1]
    np.testing.assert_array_equal(series[:, 0, 0], np.float32([np.nan, 1.5, 2.5, 3.5, 4.5]))
    np.testing.assert_array_equal(series[:, 0, 1], np.float32([10, 20, 30, 40, 50]))


@pytest.mark.parametrize("name", MAKERS)
def test_a_small_download_can_be_split(name, small):
    small(name)
    parts = windows.split(datasets.load(name), past=1, horizon=1, train=2, validation=1)
    assert len(parts.test) >= 1


@pytest.mark.parametrize("which", ["file", "companion"])
@pytest.mark.parametrize("name", MAKERS)
def test_bad_files_of_every_format_are_refused(name, which, small):
    path = small(name)[which == "companion"]
    good = path.read_bytes()
    for body, reason in (
        (good[: len(good) // 2], "corrupt, cut short or another version"),
        (PAGE, "an HTML page, not data"),
        (good[:-1] + bytes([good[-1] ^ 1]), "corrupt, cut short or another version"),
    ):
        path.write_bytes(body)
        with pytest.raises(
            OSError, match=f"is {reason}: {len(body)} bytes with sha256 .*; delete it, then get"
        ) as caught:
            datasets.load(name)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.unlink()
    assert datasets.available().loc[name, "where"] == "to download"


def test_both_files_are_downloaded(server, small, own_cache):
    paths = small("m4-weekly")
    card = datasets.SHIPPED / "m4-weekly" / "card.md"
    text = card.read_text(encoding="utf-8")
    facts = datasets.describe("m4-weekly")
    for path, old in zip(paths, [facts, facts["companion"]], strict=True):
        server.extra[f"/{old['file']}"] = path.read_bytes()
        text = text.replace(old["address"], address_of(server, old["file"]))
        path.unlink()
    card.write_text(text, encoding="utf-8")
    assert datasets.available().loc["m4-weekly", "where"] == "to download"
    assert datasets.fetch("m4-weekly").name == "Weekly-train.csv"
    assert [path.name for path in files_under(own_cache)] == ["Weekly-test.csv", "Weekly-train.csv"]
    assert datasets.available().loc["m4-weekly", "where"] == "cached"
    assert datasets.load("m4-weekly").shape == (5, 1, 2)


# The command line and the wheel


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "stlib.data", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_command_line():
    listed = command()
    assert listed.returncode == 0 and listed.stderr == ""
    assert listed.stdout == command("list").stdout == datasets.available().to_string() + "\n"
    described = command("describe", "storm")
    assert described.returncode == 0 and described.stdout.strip() == datasets.card("storm").strip()
    fetched = command("fetch", "storm")
    assert Path(fetched.stdout.strip()) == datasets.SHIPPED / "storm" / "storm.nc"


@pytest.mark.parametrize(
    "arguments, message",
    [(("describe", "strom"), "did you mean 'storm'"), (("fetch", "etth1"), "forbids a download; get ETTh1.csv")],
)
def test_command_line_errors_are_one_line(arguments, message):
    result = command(*arguments, STLIB_OFFLINE="1")
    assert result.returncode == 1 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_wheel_carries_the_data(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend is not in this environment")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip_wheel, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from stlib.data import datasets as d; d.load('storm'); print(d.__file__, *d.available()['where'], sep='|')"
    site = tmp_path / "site"
    result = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True)
    module, *where = result.stdout.strip().split("|")
    assert Path(module).is_relative_to(site)
    assert where.count("shipped") == len(SHIPPED) and where.count("to download") == len(TO_DOWNLOAD)
