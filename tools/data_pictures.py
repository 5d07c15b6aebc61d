"""Draws a picture of each shipped data set for the book's page of data sets; `data_page.py` calls it.

A picture is a function named after its data set; its docstring is the picture's alt text. All of them stand in DRAWN.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from PIL import Image

from stlib import plotting
from stlib.data import datasets

LARGE = 50_000  # bytes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")  # after Okabe & Ito, colour-blind safe


def storm() -> Figure:
    """Map of the air pressure over North America on 8 January 1996 with a deep low off the east coast, high
    pressure along 100°W and low pressure in the north. The lower corners are grey: no data.
    """
    now = datasets.load("storm").sel(channel="pressure", time="1996-01-08T00")
    return maps({"8 January 1996, 00:00": now}, label="pressure (hPa)")


def a1b() -> Figure:
    """Map of the warming of North America in scenario A1B, from the years 1860–79 to 2080–99: about 3 K over the
    sea, 4 to 8 K over land, 10 K over Hudson Bay.
    """
    return warming("a1b")


def e1() -> Figure:
    """Map of the warming of North America in scenario E1, from the years 1860–79 to 2080–99, on the colours of A1B:
    about 2 K over the sea, 2 to 5 K over land.
    """
    return warming("e1")


def nasa() -> Figure:
    """Map of the surface temperature around Central America in January 1998: above 300 K in the tropical Pacific,
    below 285 K along the Andes, and coldest in the north, in the United States.
    """
    now = datasets.load("nasa").sel(channel="surface_temperature", time="1998-01-01")
    return maps({"January 1998": now}, label="surface temperature (K)", height=4.4)


def stage4() -> Figure:
    """Map of an hour of rain on 14 September 2018: a ring of more than 10 mm, above 100 mm at its lower left, round
    a dry eye, with bands of rain farther out at the upper left.
    """
    rain = datasets.load("stage4").sel(channel="precipitation", time="2018-09-14T06")
    figure = maps({"14 September 2018, 06:00": rain}, label="rain in an hour (mm)", height=5)
    figure.axes[0].set(xlabel="x (cells of about 5 km)", ylabel="y (cells of about 5 km)")
    return near_logarithmic(figure, float(rain.max()), ticks=[0, 1, 3, 10, 30, 100])


def tropical_winds() -> Figure:
    """Two maps of the eastward wind over the tropics, January 1982 and January 1983. Orange trade winds from the
    east cover most seas; over the middle of the Pacific they are weaker in 1983.
    """
    wind = datasets.load("tropical-winds").sel(channel="u")
    months = {"January 1982": wind.sel(time="1982-01-01"), "January 1983, El Niño": wind.sel(time="1983-01-01")}
    return maps(months, label="u (m s⁻¹)", limits=(-12, 12), cmap="PuOr", height=3.2)


def chicago() -> Figure:
    """Lines of daily entries at three stations in November and December 2015: high on weekdays, low on weekends,
    and low on Thanksgiving Day and at Christmas. Clark Lake has more than twice the entries of Jefferson Park.
    """
    riders = datasets.load("chicago")["riders"].sel(channel="riders", time=slice("2015-11-02", "2016-01-03"))
    stations = riders.sel(station=["Clark_Lake", "Jefferson_Park", "Polk"])
    return lines(stations, ylabel="entries (thousand a day)", xlabel="November 2015 to January 2016")


def dengue() -> Figure:
    """Heat map of weekly dengue cases in 75 districts from April 2014 to March 2016: two outbreaks, from summer to
    winter. The first is in Kaohsiung, the second in Kaohsiung and Tainan; in between nearly all counts are 0.
    """
    cases = datasets.load("dengue").sel(channel="cases", time=slice("2014-04", "2016-03"))
    figure = places_in_time(cases, label="cases a week", every=15)
    return near_logarithmic(figure, float(cases.max()), ticks=[0, 1, 10, 100, 800])


def measles() -> Figure:
    """Heat map of weekly measles cases in 51 states from 1936 to 1946: a wave in each spring, in some years much
    higher and in most states at once. Grey bars are states and weeks without reports.
    """
    cases = datasets.load("measles").sel(channel="measles")
    cases = cases.assign_coords(time=cases["year"] + (cases["week"] - 1) / 52).sel(time=slice(1936, 1946))
    figure = places_in_time(cases, label="cases per 100 000 and week", every=10)
    return near_logarithmic(figure, float(cases.max()), ticks=[0, 1, 10, 100])


def nyc_flights() -> Figure:
    """Heat map of the mean arrival delay on each day of 2013 for the 12 busiest destinations. Upright stripes are
    bad days in many places at once; summer has the longest delays, autumn the shortest.
    """
    flights = datasets.load("nyc-flights")
    busiest = flights.sel(channel="flights").sum("time").to_series().nlargest(12).index
    delay = flights.sel(channel="arrival_delay", destination=busiest)
    figure = places_in_time(delay, label="mean arrival delay (min)", every=1, xlabel="2013")
    figure.axes[0].collections[0].set_clim(-30, 90)
    return name_ticks(figure, {-30: "≤ -30", 0: "0", 30: "30", 60: "60", 90: "≥ 90"})


def nyc_airports() -> Figure:
    """Lines of hourly departures from three airports on three days of July 2013: none at night, a peak of 28 to 36
    flights in the morning, about 20 through the day.
    """
    flights = datasets.load("nyc-airports").sel(channel="flights", time=slice("2013-07-08T04", "2013-07-11T04"))
    return lines(flights, ylabel="flights an hour", xlabel="July 2013, UTC")


def stocks() -> Figure:
    """Lines of the adjusted daily prices of five stocks from 2000 to 2013 on a logarithmic axis. Apple falls
    from 4 dollars to below 1 and rises to 90 in 2012; Google starts in 2004 and Facebook in 2012."""
    price = datasets.load("stocks").sel(channel="adjusted_close")
    figure = lines(price.assign_coords(time=price["date"]), ylabel="adjusted close (USD)")
    figure.axes[0].set_yscale("log")
    figure.axes[0].set_yticks([1, 10, 100], labels=["1", "10", "100"])
    return figure


def us_income() -> Figure:
    """Heat map of the income of 48 states as a share of their mean, from 1929 to 2009, richest state of 1929 on
    top: from below 40 to above 190 % before the war, from 80 to 140 % in 2009.
    """
    income = datasets.load("us-income")["income"].sel(channel="income")
    relative = (100 * income / income.mean("state")).sortby(-income.isel(time=0))
    return places_in_time(relative, label="income (% of the mean state)", every=9)


def co2() -> Figure:
    """Line of the carbon dioxide in the air from 1958 to 2001: a steady rise from 316 to 371 ppm with a wave of
    about 6 ppm in every year, and short gaps in the first years.
    """
    return lines(datasets.load("co2"), ylabel="CO₂ (ppm)")


def elnino() -> Figure:
    """Line of the sea temperature off Peru from 1950 to 2010: a wave between about 20 and 26 °C in every year, with
    peaks near 29 °C in 1983 and 1998.
    """
    return lines(datasets.load("elnino"), ylabel="sea temperature (°C)")


def sunspots() -> Figure:
    """Line of the sunspot number of each year from 1700 to 2008: waves of about eleven years, whose peaks lie
    between 45 and 190.
    """
    return lines(datasets.load("sunspots"), ylabel="sunspot number")


def ridgecrest() -> Figure:
    """Map of one week of earthquakes in California, larger dots for larger magnitudes: a line of 60 km from
    north-west to south-east, with a second group of later events at its northern end.
    """
    events = datasets.load("ridgecrest")
    days = (events["time"] - events["time"].min()) / np.timedelta64(1, "D")
    figure, axis = plt.subplots(figsize=(6.4, 4.8))
    dots = axis.scatter(events["lon"], events["lat"], s=3 * 3 ** (events["magnitude"] - 2.5), c=days, lw=0)
    figure.colorbar(dots, ax=axis, label="days after the first event")
    axis.set_title("larger dots: larger magnitude")
    return on_a_map(figure, longitudes=(-118.1, -117.2), latitudes=(35.4, 36.3))


def atlantic_storms() -> Figure:
    """Map of the tracks of the Atlantic storms of 2005, coloured by wind: from the tropics to the west, then
    bending to the north-east. The strongest winds, above 140 knots, are in the Caribbean and the Gulf of Mexico.
    """
    storms = datasets.load("atlantic-storms")
    season = storms.isel(observation=(storms["time"].dt.year == 2005).values)
    figure, axis = plt.subplots(figsize=(6.4, 3.9))
    for _, track in season.groupby("storm"):
        axis.plot(track["lon"], track["lat"], color="0.7", lw=0.8, zorder=1)
    dots = axis.scatter(season["lon"], season["lat"], c=season["wind"], s=9, lw=0, zorder=2)
    figure.colorbar(dots, ax=axis, label="wind (knot)", shrink=0.85)
    axis.set_title("the season of 2005")
    return on_a_map(figure, longitudes=(-105, 0), latitudes=(7, 60))


def warming(name: str) -> Figure:
    field = datasets.load(name).sel(channel="air_temperature")
    change = field.sel(time=slice("2080", "2099")).mean("time") - field.sel(time=slice("1860", "1879")).mean("time")
    return maps({"mean of 2080–99 less that of 1860–79": change}, label="warming (K)", limits=(0, 10))


def maps(fields: dict[str, xr.DataArray], *, height: float = 3.7, **look) -> Figure:
    figure = plotting.fields(fields, columns=1, **look)
    figure.set_size_inches(6.4, height)
    return figure


def lines(series: xr.DataArray, *, ylabel: str, xlabel: str = "year") -> Figure:
    """A line a channel or place, named above where there are several."""
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    (dim,) = series.dims[1:]
    for colour, name in zip(COLOURS, series[dim].values, strict=False):
        axis.plot(series["time"], series.sel({dim: name}), color=colour, lw=1.2, label=name.replace("_", " "))
    if series.sizes[dim] > 1:
        figure.legend(loc="outside upper center", ncols=5, handlelength=1.2, columnspacing=1.2)
    axis.set(ylabel=ylabel, xlabel=xlabel)
    few_dates(axis)
    return figure


def places_in_time(values: xr.DataArray, *, label: str, every: int, xlabel: str = "year") -> Figure:
    """Places against time; every so many places are named."""
    figure = plotting.heat_map(values, x="time", label=label, height=4.2)
    (place,) = (dim for dim in values.dims if dim != "time")
    axis = figure.axes[0]
    axis.set_yticks(range(0, values.sizes[place], every), values[place].values[::every], fontsize="medium")
    axis.set(xlabel=xlabel, ylabel="")
    if values["time"].dtype.kind == "M":
        few_dates(axis)
    return figure


def few_dates(axis: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def near_logarithmic(figure: Figure, largest: float, *, ticks: list[float]) -> Figure:
    """The colours of counts and of rain: logarithmic above 1, linear from 0 to 1."""
    figure.axes[0].collections[0].set_norm(SymLogNorm(1, vmin=0, vmax=largest))
    return name_ticks(figure, {tick: str(tick) for tick in ticks})


def name_ticks(figure: Figure, names: dict[float, str]) -> Figure:
    bar = figure.axes[0].collections[0].colorbar
    bar.set_ticks(list(names), labels=list(names.values()))
    bar.minorticks_off()
    return figure


def on_a_map(figure: Figure, *, longitudes: tuple[float, float], latitudes: tuple[float, float]) -> Figure:
    axis = figure.axes[0]
    axis.set(xlim=longitudes, ylim=latitudes, xlabel="longitude (°E)", ylabel="latitude (°N)")
    axis.set_aspect(1 / np.cos(np.deg2rad(np.mean(latitudes))))
    axis.locator_params(nbins=4)
    return figure


def write(figure: Figure, path: Path) -> None:
    """A PNG in all its colours, or in 256 of them where it would be large: then it takes a third of the space."""
    figure.savefig(path, dpi=110)
    plt.close(figure)
    if path.stat().st_size > LARGE:
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


DRAWN = (storm, a1b, e1, nasa, stage4, tropical_winds, chicago, dengue, measles, nyc_flights, nyc_airports, stocks)
DRAWN += (us_income, co2, elnino, sunspots, ridgecrest, atlantic_storms)
PICTURES = {draw.__name__.replace("_", "-"): draw for draw in DRAWN}


def draw_all(folder: Path) -> None:
    """Writes every picture, named after its set, into a folder."""
    folder.mkdir(exist_ok=True)
    plotting.set_style()
    plt.rcParams.update({"font.size": 13, "axes.titlesize": 13})  # readable where the page is 360 pixels wide
    for name, draw in PICTURES.items():
        write(draw(), folder / f"{name}.png")
