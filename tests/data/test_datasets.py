"""Shipped files against their cards and sources; search order; downloads from a local server; command line."""

import doctest
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr

from stlib.data import datasets

SHIPPED = ["chicago", "co2", "nasa", "storm"]
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
    return data["riders"] if isinstance(data, xr.Dataset) else data


@pytest.mark.parametrize("name", SHIPPED)
def test_file_agrees_with_its_card(name):
    facts, array = datasets.describe(name), array_of(name)
    file = datasets.SHIPPED / name / facts["file"]
    assert file.stat().st_size == facts["bytes"] < 2_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"]
    assert list(array.dims) == facts["dims"]
    assert list(array.shape) == facts["shape"]
    assert array.dtype == np.float32
    assert array["channel"].values.tolist() == facts["channels"]
    assert float(array.isnull().mean()) == pytest.approx(facts["missing"], abs=5e-7)
    expected = pd.date_range(facts["start"], facts["end"], freq=facts["step"])
    np.testing.assert_array_equal(array["time"].values, expected.to_numpy("datetime64[ns]"))
    assert {"units", "long_name", "licence", "source", "citation"} <= set(array.attrs)
    assert array.attrs["citation"] == facts["citation"]


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
    where = dict.fromkeys(SHIPPED, "shipped") | dict.fromkeys(["etth1", "etth2"], "to download")
    assert table["where"].to_dict() == where
    assert table.loc["etth1", "shape"] == "17420 x 7"
    assert table.loc["etth1", "period"] == "2016-07-01 to 2018-06-26"


def test_an_unknown_name_suggests_the_closest():
    for function in (datasets.load, datasets.describe, datasets.card, datasets.fetch):
        with pytest.raises(ValueError, match="unknown data set 'strom'; did you mean 'storm'.*chicago, co2, etth1"):
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
        running.half_sent, running.go_on = threading.Event(), threading.Event()
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
        assert process.wait(20) != 0
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
    assert where.count("shipped") == len(SHIPPED) and where.count("to download") == 2
