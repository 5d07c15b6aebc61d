"""The page of data sets says what the cards and the files say, and shows every shipped set."""

import re
import subprocess
import sys
from pathlib import Path

import data_page
import data_pictures
import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.dates import date2num
from PIL import Image

from stlib.data import datasets

ROOT = Path(__file__).parents[1]
TEXT = data_page.PAGE.read_text(encoding="utf-8")
SETS = datasets.available()
SHIPPED = list(SETS.index[SETS["where"] == "shipped"])
DOWNLOADS = [name for name in SETS.index if name not in SHIPPED]
SECTIONS = {
    part.split("\n", 1)[0]: re.split(r"^## ", part, flags=re.MULTILINE)[0]
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
}


def said(name, label):
    """What the list of a set's section says under a label."""
    (line,) = re.findall(rf"^- {label}: (.*)$", SECTIONS[name], re.MULTILINE)
    return line


def test_page_is_what_the_tool_writes():
    assert data_page.page() == TEXT, "make data-page"


def test_facts_are_read_once_a_page(monkeypatch):
    calls = []
    for name in ("available", "describe"):
        own = getattr(datasets, name)
        monkeypatch.setattr(datasets, name, lambda *given, own=own: calls.append(given) or own(*given))
    data_page.page()
    assert sorted(calls) == [(), *((name,) for name in SETS.index)]


def test_check_fails_on_a_page_that_is_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data_page.py", "--check"])
    data_page.main()
    old = tmp_path / "data.md"
    monkeypatch.setattr(data_page, "PAGE", old)
    for text in (None, TEXT.replace("hPa", "Pa", 1)):
        if text:
            old.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match="out of date"):
            data_page.main()
        assert old.exists() == bool(text) and (not text or old.read_text(encoding="utf-8") == text)  # nothing written


def test_check_runs_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "data_page.py"), "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_set_has_a_section_and_a_row():
    assert sorted(SECTIONS) == sorted(SETS.index)
    rows = re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| .+ \| .+ \|$", TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [anchor for _, anchor in rows] == list(SECTIONS)


def test_order_is_by_kind_then_name():
    kinds = re.findall(r"^\| \[(.+?)\]\(.+?\) \| .+? \| (\w+): ", TEXT, re.MULTILINE)
    order = ["grid", "panel", "graph", "series", "events", "tracks"]
    assert kinds == sorted(kinds, key=lambda row: (order.index(row[1]), row[0]))
    some = {"storm": "grid", "stage4": "grid", "chicago": "panel", "m4-weekly": "panel", "metr-la": "graph"}
    some |= {"us-income": "graph", "co2": "series", "etth1": "series", "ridgecrest": "events"}
    assert (some | {"atlantic-storms": "tracks"}).items() <= dict(kinds).items()
    parts = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert parts == ["All sets", "Grids", "Panels", "Graphs", "Series", "Events", "Tracks"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_set_has_its_picture_with_alt_text(name):
    (alt, path), *more = re.findall(r"^!\[(.+)\]\((\S+)\)$", SECTIONS[name], re.MULTILINE)
    assert not more and path == f"data_pictures/{name}.png"
    assert len(alt) >= 30 and alt.endswith(".")
    assert (ROOT / "book" / path).stat().st_size < 60_000
    with Image.open(ROOT / "book" / path) as picture:
        assert 550 < picture.width < 750 and 250 < picture.height < 750
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 20  # not an empty sheet


def test_no_picture_is_left_over_and_no_alt_text_is_used_twice():
    assert sorted(path.stem for path in (ROOT / "book" / "data_pictures").iterdir()) == SHIPPED
    alts = re.findall(r"^!\[(.+)\]\(", TEXT, re.MULTILINE)
    assert len(set(alts)) == len(alts) == len(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_facts_agree_with_the_file(name):
    data = datasets.load(name)
    main = {"chicago": "riders", "us-income": "income"}.get(name)
    arrays = [data[main]] if main else list(data.values()) if isinstance(data, xr.Dataset) else [data]
    wanted = " × ".join(f"{dim} {length}" for dim, length in zip(arrays[0].dims, arrays[0].shape, strict=True))
    assert said(name, "Shape") == wanted and f": {wanted} |" in TEXT
    check_missing(said(name, "Missing"), arrays)

    facts = datasets.describe(name)
    assert said(name, "Period") == SETS.loc[name, "period"] == f"{facts['start'][:10]} to {facts['end'][:10]}"
    time = data["date"] if "date" in data.coords else data["time"]
    if time.dtype.kind == "M":
        days = time.values.astype("datetime64[D]")
        assert said(name, "Period") == f"{days.min()} to {days.max()}"
    else:  # weeks of a year
        assert said(name, "Period")[:4] == str(int(data["year"].min()))
        assert said(name, "Period")[14:18] == str(int(data["year"].max()))

    names = [array.name for array in arrays] if len(arrays) > 1 else arrays[0]["channel"].values.tolist()
    assert re.findall(r"`(\w+)` \(", said(name, "Channels")) == names
    assert said(name, "Size") in (f"{facts['bytes'] / 1e3:.0f} kB", f"{facts['bytes'] / 1e6:.1f} MB")


def check_missing(printed, arrays):
    """The share printed with three digits is the share of NaN in the arrays."""
    share = 100 * np.concatenate([np.isnan(array.values).ravel() for array in arrays]).mean()
    if share == 0:
        assert printed == "none"
    else:
        assert float(printed.removesuffix(" %")) == pytest.approx(share, rel=0.006)  # half a unit of the third digit


@pytest.mark.parametrize(("name", "array"), [("chicago", "weather"), ("chicago", "games"), ("us-income", "adjacency")])
def test_further_arrays_are_listed(name, array):
    data = datasets.load(name)[array]
    (shape, missing) = re.search(rf"`{array}`, (.+?), missing ([^;]+)", said(name, "With it")).groups()
    assert shape == " × ".join(f"{dim} {length}" for dim, length in data.sizes.items())
    check_missing(missing, [data])


@pytest.mark.parametrize("name", DOWNLOADS)
def test_download_has_its_address_and_size_and_no_picture(name):
    facts = datasets.describe(name)
    assert "![" not in SECTIONS[name] and f"]({facts['address']})" in said(name, "Download")
    megabytes = [float(number) for number in re.findall(r"([\d.]+) MB", said(name, "Size"))]
    assert megabytes[0] == pytest.approx(facts["bytes"] / 1e6, abs=0.05)
    dated = "" if "T" in facts["start"] else "steps "
    assert said(name, "Period") == f"{dated}{facts['start'][:10]} to {facts['end'][:10]}"
    if "companion" in facts:
        assert f"]({facts['companion']['address']})" in said(name, "Download")
        assert said(name, "Size").endswith(f" and {facts['companion']['bytes'] / 1e3:.0f} kB")


@pytest.mark.parametrize("name", list(SETS.index))
def test_section_repeats_its_card(name):
    card, facts = datasets.card(name), datasets.describe(name)
    section = " ".join(SECTIONS[name].split())
    assert f"**{facts['title']}**" in section
    assert " ".join(card.split("## What it is\n\n")[1].split("\n\n")[0].split()) in section
    assert said(name, "Load") == f'`datasets.load("{name}")`'
    assert said(name, "Licence") == facts["licence"] and said(name, "Source") == facts["source"]
    citation = said(name, "Citation")
    assert re.sub(r"[<>]", "", citation) == facts["citation"]
    assert all(f"<{link}>" in citation for link in re.findall(r"https?://\S+", facts["citation"]))
    assert "  " not in said(name, "Flaws") and said(name, "Flaws").endswith(".")


def test_headlines_are_the_bold_words_of_the_flaws():
    flaws = "A fan, not a rectangle. Missing frames. Defective frames. Misdated frames. Jumps. One event."
    assert said("storm", "Flaws") == flaws
    assert said("co2", "Flaws") == "59 missing weeks. Steps of 0.1 ppm. A year is 52.18 weeks."
    points = "- **One\n  two.** Three **four**.\n- **No gap.** A\n- **Six?** B\n- Five."
    text = f"- **No.**\n\n## Known flaws\n\n{points}\n\n## B\n- **C**"
    assert data_page.headlines(text) == "One two. Six?"


def test_a_shipped_set_without_a_picture_is_an_error(monkeypatch):
    monkeypatch.delitem(data_page.PICTURES, "storm")
    with pytest.raises(ValueError, match="no picture of 'storm': add a function to data_pictures.py"):
        data_page.page()


def test_units_and_shares_are_written_for_people():
    assert "`temperature` (K), `pressure` (hPa), `u` (m s⁻¹)" in said("storm", "Channels")
    assert [data_page.per_cent(share) for share in (0.0, 0.197005, 0.000379)] == ["none", "19.7 %", "0.0379 %"]
    assert [data_page.size(number) for number in (4791, 741_389, 57_038_056)] == ["5 kB", "741 kB", "57.0 MB"]


# The pictures


@pytest.fixture
def axes():
    """Draws a set's picture, and gives its axes without the colour bar."""

    def draw(name):
        figure = data_page.PICTURES[name]()
        return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]

    yield draw
    plt.close("all")


def colour_bar(axis):
    return axis.collections[0].colorbar


def mesh(axis):
    """What a map or heat map shows, with the middles of its columns and rows."""
    (drawn,) = axis.collections
    x, y = drawn.get_coordinates()[0, :, 0], drawn.get_coordinates()[:, 0, 1]
    return drawn.get_array().filled(np.nan), (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2


@pytest.mark.skipif(
    f"matplotlib=={matplotlib.__version__}\n" not in (ROOT / "requirements.txt").read_text(encoding="utf-8"),
    reason="another matplotlib may set a picture one pixel aside, which differs by more than a wrong date",
)
@pytest.mark.parametrize("name", SHIPPED)
def test_picture_in_the_book_is_what_the_tool_draws(name, tmp_path, monkeypatch):
    monkeypatch.setattr(data_pictures, "PICTURES", {name: data_pictures.PICTURES[name]})
    with matplotlib.rc_context():
        data_pictures.draw_all(tmp_path)
    pictures = []
    for folder in (tmp_path, data_page.PICTURE_FOLDER):
        with Image.open(folder / f"{name}.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB").reduce(4), dtype=float))
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5, "make data-page"  # of 255


@pytest.mark.parametrize("name", ["a1b", "e1"])
def test_warming_is_between_the_means_of_the_years_in_its_title(name, axes):
    (axis,) = axes(name)
    assert axis.get_title() == "mean of 2080–99 less that of 1860–79"
    field = datasets.load(name).sel(channel="air_temperature").transpose("time", "lat", "lon")
    years = field["time"].dt.year.values.tolist()
    late, early = (np.zeros(field.shape[1:]) for _ in range(2))
    for year, values in zip(years, field.values.astype(float), strict=True):
        late += values / 20 * (2080 <= year <= 2099)
        early += values / 20 * (1860 <= year <= 1879)
    assert [sum(first <= year < first + 20 for year in years) for first in (1860, 2080)] == [20, 20]
    drawn, lon, lat = mesh(axis)
    np.testing.assert_allclose(drawn, late - early, atol=1e-3)
    np.testing.assert_allclose(lon, field["lon"], rtol=1e-5)
    np.testing.assert_allclose(lat, field["lat"], rtol=1e-5)
    assert axis.collections[0].get_clim() == (0, 10) and colour_bar(axis).ax.get_ylabel() == "warming (K)"


@pytest.mark.parametrize(
    ("name", "channel", "times"),
    [
        ("storm", "pressure", {"8 January 1996, 00:00": "1996-01-08T00:00"}),
        ("nasa", "surface_temperature", {"January 1998": "1998-01-01"}),
        ("stage4", "precipitation", {"14 September 2018, 06:00": "2018-09-14T06:00"}),
        ("tropical-winds", "u", {"January 1982": "1982-01-01", "January 1983, El Niño": "1983-01-01"}),
    ],
)
def test_map_is_the_field_at_the_time_in_its_title(name, channel, times, axes):
    maps = axes(name)
    assert [axis.get_title() for axis in maps] == list(times)
    field = datasets.load(name).sel(channel=channel)
    for axis, time in zip(maps, times.values(), strict=True):
        (step,) = np.flatnonzero(field["time"].values == np.datetime64(time))
        drawn, x, y = mesh(axis)
        np.testing.assert_array_equal(drawn, field.values[step])
        rows, columns = field.dims[1:]
        np.testing.assert_allclose(x, field[columns], rtol=1e-5)
        np.testing.assert_allclose(y, field[rows], rtol=1e-5, atol=1e-5)
        assert axis.get_ylim()[0] < axis.get_ylim()[1]  # north is up


HEAT_MAPS = {
    "dengue": ("cases", "district", 15),
    "measles": ("measles", "state", 10),
    "nyc-flights": ("arrival_delay", "destination", 1),
}


@pytest.mark.parametrize("name", HEAT_MAPS)
def test_names_belong_to_their_rows(name, axes):
    channel, place, every = HEAT_MAPS[name]
    (axis,) = axes(name)
    drawn, times, rows = mesh(axis)
    field = datasets.load(name).sel(channel=channel)
    when = field["year"] + (field["week"] - 1) / 52 if name == "measles" else date2num(field["time"])
    steps = [int(np.abs(np.asarray(when) - time).argmin()) for time in times]
    assert np.abs(np.asarray(when)[steps] - times).max() < 1e-6 and set(np.diff(steps)) == {1}
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert list(axis.get_yticks()) == list(range(0, len(rows), every)) and rows.tolist() == list(range(len(rows)))
    for row, label in zip(axis.get_yticks(), labels, strict=True):
        np.testing.assert_array_equal(drawn[int(row)], field.sel({place: label}).values[steps])
    assert axis.get_ylim() == (len(rows) - 0.5, -0.5)  # the first name is on top


def test_heat_maps_show_the_time_their_alt_text_says(axes):
    (dengue,), (measles,), (flights,) = (axes(name) for name in HEAT_MAPS)
    weeks = mesh(dengue)[1]
    assert date2num(np.datetime64("2014-04-01")) <= weeks[0] < date2num(np.datetime64("2014-04-08"))
    assert date2num(np.datetime64("2016-03-24")) < weeks[-1] <= date2num(np.datetime64("2016-03-31"))
    weeks = mesh(measles)[1]
    assert weeks[0] == 1936 and 1945.9 < weeks[-1] <= 1946 + 1e-9
    days = mesh(flights)[1]
    assert days[[0, -1]].tolist() == date2num(np.array(["2013-01-01", "2013-12-31"], "datetime64[D]")).tolist()


def test_flights_are_to_the_busiest_destinations(axes):
    (axis,) = axes("nyc-flights")
    flights = datasets.load("nyc-flights").sel(channel="flights").sum("time")
    totals = dict(zip(flights["destination"].values.tolist(), flights.values.tolist(), strict=True))
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == sorted(totals, key=totals.get, reverse=True)[:12]
    assert axis.collections[0].get_clim() == (-30, 90)
    ticks = dict(zip(colour_bar(axis).get_ticks().tolist(), colour_bar(axis).ax.get_yticklabels(), strict=True))
    assert {at: label.get_text() for at, label in ticks.items()} == {
        -30: "≤ -30", 0: "0", 30: "30", 60: "60", 90: "≥ 90"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["dengue", "measles", "stage4"])
def test_counts_and_rain_are_linear_to_one_and_logarithmic_above(name, axes):
    (axis,) = axes(name)
    norm = axis.collections[0].norm
    assert norm.vmax == np.nanmax(mesh(axis)[0])
    zero, half, one, ten, hundred = norm([0, 0.5, 1, 10, 100])
    assert zero == 0 and half == pytest.approx(one / 2) and hundred - ten == pytest.approx(ten - one)
    labels = [label.get_text() for label in colour_bar(axis).ax.get_yticklabels()]
    assert [float(label) for label in labels] == colour_bar(axis).get_ticks().tolist()


def test_incomes_are_shares_of_the_mean_of_their_year(axes):
    (axis,) = axes("us-income")
    drawn, dates, _ = mesh(axis)
    income = datasets.load("us-income")["income"].sel(channel="income")
    assert drawn.shape == (48, 81) and np.abs(dates - date2num(income["time"])).max() < 1
    np.testing.assert_allclose(drawn.mean(0), 100, rtol=1e-5)
    for row, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
        own = income.sel(state=label.get_text()).values
        np.testing.assert_allclose(drawn[int(row)], 100 * own / income.to_pandas().mean(axis=1), rtol=1e-5)
    assert (np.diff(drawn[:, 0]) <= 0).all() and axis.get_ylim() == (47.5, -0.5)  # the richest of 1929 on top
    before, last = drawn[:, : 1939 - 1929 + 1], drawn[:, -1]
    assert before.min() < 40 and before.max() > 190 and last.min() > 75 and last.max() < 145  # the alt text
    assert colour_bar(axis).ax.get_ylabel() == "income (% of the mean state)"


LINES = {
    "chicago": ("riders", "station", ["Clark_Lake", "Jefferson_Park", "Polk"], "2015-11-02", "2016-01-03"),
    "nyc-airports": ("flights", "airport", ["EWR", "JFK", "LGA"], "2013-07-08T04", "2013-07-11T04"),
    "stocks": ("adjusted_close", "ticker", ["AAPL", "FB", "GOOG", "IBM", "MSFT"], "2000-01-03", "2013-12-31"),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_are_named_after_what_they_show(name, axes):
    channel, place, names, first, last = LINES[name]
    (axis,) = axes(name)
    data = datasets.load(name)
    series = (data["riders"] if name == "chicago" else data).sel(channel=channel)
    dates = series["date" if "date" in series.coords else "time"].values
    wanted = (dates >= np.datetime64(first)) & (dates <= np.datetime64(last))
    labels = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert labels == [one.replace("_", " ") for one in names]
    colours = [line.get_color() for line in axis.figure.legends[0].get_lines()]
    assert colours == [line.get_color() for line in axis.lines] and len(set(colours)) == len(names)
    for line, one in zip(axis.lines, names, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), dates[wanted])
        np.testing.assert_array_equal(line.get_ydata(), series.sel({place: one}).values[wanted])


@pytest.mark.parametrize(("name", "lowest", "highest"), [("co2", 313, 374), ("elnino", 18, 30), ("sunspots", 0, 191)])
def test_line_is_the_whole_series(name, lowest, highest, axes):
    (axis,) = axes(name)
    (line,) = axis.lines
    series = datasets.load(name)
    np.testing.assert_array_equal(line.get_ydata(), series.values[:, 0])
    np.testing.assert_array_equal(line.get_xdata(), series["time"].values)
    assert lowest <= np.nanmin(line.get_ydata()) and np.nanmax(line.get_ydata()) <= highest
    assert not axis.figure.legends


def test_earthquakes_are_where_they_were(axes):
    (axis,) = axes("ridgecrest")
    events = datasets.load("ridgecrest")
    (dots,) = axis.collections
    assert dots.get_offsets().tolist() == events[["lon", "lat"]].to_dataframe()[["lon", "lat"]].values.tolist()
    days = dots.get_array()
    assert days.min() == 0 and 6.9 < days.max() < 7.1  # one week
    first = events["time"].values.min()
    wanted = [(time - first).astype(float) / 86_400e9 for time in events["time"].values]
    np.testing.assert_allclose(days, wanted)
    larger = np.argsort(events["magnitude"].values, kind="stable")
    assert (np.diff(dots.get_sizes()[larger]) >= 0).all() and np.ptp(dots.get_sizes()) > 0
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    table = events[["lon", "lat"]].to_dataframe()
    assert (table["lon"].between(left, right) & table["lat"].between(bottom, top)).mean() > 0.98


def test_storms_of_2005_each_have_a_line(axes):
    (axis,) = axes("atlantic-storms")
    table = datasets.load("atlantic-storms").to_dataframe().reset_index()
    season = table[table["time"].dt.year == 2005]
    tracks = {tuple(zip(own["lon"], own["lat"], strict=True)) for _, own in season.groupby("storm")}
    assert {tuple(map(tuple, line.get_xydata().tolist())) for line in axis.lines} == tracks and len(tracks) > 25
    (dots,) = axis.collections
    assert dots.get_offsets().tolist() == season[["lon", "lat"]].values.tolist()
    np.testing.assert_array_equal(dots.get_array(), season["wind"])
    assert axis.get_title() == "the season of 2005"


def test_large_picture_is_written_in_fewer_colours(tmp_path):
    sizes, colours = [], []
    for name, noise in (("calm", 0), ("noisy", 1)):
        figure, axis = plt.subplots(figsize=(3, 3))
        axis.imshow(noise * np.random.default_rng(0).uniform(size=(300, 300, 3)))
        data_pictures.write(figure, tmp_path / f"{name}.png")
        sizes.append((tmp_path / f"{name}.png").stat().st_size)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (330, 330)
            colours.append(picture.mode)
    assert colours == ["RGBA", "P"] and sizes[0] < data_pictures.LARGE < 2 * sizes[1]
    assert not plt.get_fignums()
