import re

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from scipy import sparse

from stlib import plotting
from stlib.data import graphs

matplotlib.use("agg")

MAP = xr.DataArray(
    np.arange(12.0).reshape(3, 4) - 5,
    dims=("lat", "lon"),
    coords={"lat": [20.0, 30, 40], "lon": [-100.0, -90, -80, -70]},
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_no_two_forecasters_look_alike():
    looks = [plotting.look(name) for name in plotting.LOOKS]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == len(looks)  # told apart without colour
    assert (
        len({look["color"] for name, look in zip(plotting.LOOKS, looks, strict=True) if name != "best possible"})
        == len(looks) - 1
    )
    with pytest.raises(ValueError, match="no look for 'oracle'"):
        plotting.look("oracle")


def test_every_line_stands_out_from_white():
    for colour, _, _ in plotting.LOOKS.values():
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 2


def test_maps_share_one_scale_and_keep_missing_cells_apart():
    holes = MAP.where(MAP != 0)
    figure = plotting.fields({"a": MAP, "b": 2 * holes}, label="pressure (hPa)")
    images = [axis.collections[0] for axis in figure.axes[:2]]
    assert images[0].get_clim() == images[1].get_clim() == (-10, 12)
    assert images[1].get_array().mask.sum() == 1
    assert figure.axes[-1].get_ylabel() == "pressure (hPa)"
    assert figure.axes[0].get_xlabel() == "longitude (°E)"


def test_the_skill_map_is_white_at_zero_with_the_line_drawn():
    figure = plotting.skill_map({"NLinear": MAP / 10}, baseline="persistence")
    image = figure.axes[0].collections[0]
    assert image.get_clim() == (-1, 1)
    assert min(plt.get_cmap(plotting.SKILL)(0.5)[:3]) > 0.95
    assert figure.axes[-1].get_ylabel() == "skill against persistence"


def test_by_lead_draws_the_mean_and_the_range_of_the_seeds():
    lead = {"lead": [1, 2]}
    one = xr.DataArray([1.0, 2.0], dims="lead", coords=lead)
    many = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("seed", "lead"), coords=lead)
    ax = plotting.by_lead({"persistence": one, "DLinear": many}, ylabel="RMSE (hPa)", xlabel="lead (hours)", step=6)
    assert list(ax.lines[1].get_xdata()) == [6, 12] and list(ax.lines[1].get_ydata()) == [2, 3]
    assert ax.collections[0].get_paths()[0].vertices[:, 1].max() == 4
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["persistence", "DLinear"]


def test_the_player_is_self_contained_and_small():
    field = xr.concat([MAP, MAP + 1, MAP + 2], "time")
    player = plotting.frame_player(field, title=["a", "b", "c"], label="pressure (hPa)", description='a "map" moving')
    page = player._repr_html_()
    assert page.count("data:image/png;base64,") == 4  # three frames, and the first shown without scripts
    assert not re.search(r"https?://", page) and 'max="2"' in page
    assert "&quot;map&quot;" in page and page == player._repr_html_()
    assert len(page) < 200_000
    assert plt.get_fignums() == []


TABLE = xr.DataArray(
    [[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]],
    dims=("time", "place"),
    coords={"time": [10, 20], "place": ["A", "B", "C"]},
)


def cells(axis):
    """What is drawn at each point: {(x, y): value}, from the middles of the cells of the axes' only mesh."""
    (mesh,) = axis.collections
    corners = mesh.get_coordinates()
    middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    values = mesh.get_array().filled(np.nan).ravel()
    return {tuple(point): value for point, value in zip(middles.reshape(-1, 2).tolist(), values.tolist(), strict=True)}


def test_heat_map_puts_each_value_where_its_row_and_column_are():
    axis = plotting.heat_map(TABLE, x="time", label="cases").axes[0]
    rows = {tick.get_text(): at for tick, at in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)}
    drawn = cells(axis)
    assert list(rows) == ["A", "B", "C"] and len(drawn) == 6
    for time, place in [(10, "A"), (10, "B"), (10, "C"), (20, "A"), (20, "C")]:
        assert drawn[time, rows[place]] == TABLE.sel(time=time, place=place)
    assert np.isnan(drawn[20, rows["B"]]) and axis.get_facecolor()[:3] == (0.8, 0.8, 0.8)  # missing is grey
    assert axis.get_xlim() == (5, 25) and axis.get_xlabel() == "time" and axis.get_ylabel() == "place"


def test_heat_map_does_not_care_for_the_order_of_the_dims():
    one, other = (plotting.heat_map(table, x="time", label="cases").axes[0] for table in (TABLE, TABLE.T))
    np.testing.assert_equal(cells(one), cells(other))
    assert one.get_ylim() == other.get_ylim()


def test_heat_map_reads_names_from_the_top_down():
    axis = plotting.heat_map(TABLE, x="time", label="cases").axes[0]
    assert axis.get_ylim() == (2.5, -0.5)  # bottom, top
    assert plotting.heat_map(TABLE, x="time", label="cases", invert=True).axes[0].get_ylim() == (-0.5, 2.5)


@pytest.mark.parametrize(("invert", "bottom", "top"), [(True, 25, 5), (False, 5, 25)])
def test_hovmoeller_diagram_has_its_first_row_on_top_when_inverted(invert, bottom, top):
    field = TABLE.assign_coords(place=[-100.0, -90.0, -80.0]).rename(place="lon")
    axis = plotting.heat_map(field, x="lon", label="pressure (hPa)", invert=invert).axes[0]
    assert axis.get_ylim() == (bottom, top) and axis.get_xlim() == (-105, -75)
    assert cells(axis)[-80, 10] == 3 and cells(axis)[-100, 20] == 4
    assert axis.get_xlabel() == "longitude (°E)" and axis.get_ylabel() == ""


def test_heat_map_has_its_colours_named():
    figure = plotting.heat_map(TABLE, x="time", label="cases a week", cmap="magma")
    axis, bar = figure.axes
    mesh = axis.collections[0]
    assert bar.get_ylabel() == "cases a week" and mesh.colorbar.ax is bar
    assert mesh.get_clim() == (1, 6) and mesh.get_cmap().name == "magma"


@pytest.mark.parametrize(
    ("values", "x", "said"),
    [
        (TABLE, "lon", "got dims \\('time', 'place'\\) and x='lon'"),
        (TABLE[0], "place", "two dims.*got dims \\('place',\\)"),
        (TABLE.expand_dims("channel"), "time", "two dims.*got dims \\('channel', 'time', 'place'\\)"),
        (TABLE[:, :1], "time", "two or more places and steps.*{'time': 2, 'place': 1}"),
        (TABLE[:0], "time", "two or more places and steps.*{'time': 0, 'place': 3}"),
    ],
)
def test_heat_map_says_what_it_needs(values, x, said):
    with pytest.raises(ValueError, match=said):
        plotting.heat_map(values, x=x, label="cases")


LAT, LON = [22.0, 23.0, 25.0], [120.0, 121.0, 120.5]
NAN = np.nan


def segments(adjacency, lat=LAT, lon=LON):
    """The lines of a graph, each as its two ends (lon, lat)."""
    lines = plotting.draw_graph(lat, lon, adjacency).collections[0]
    return [tuple(map(tuple, line.tolist())) for line in lines.get_segments()]


@pytest.mark.parametrize(
    "adjacency",
    [
        [[0, 2, 0], [2, 0, 0.1], [0, 0.1, 0]],
        [[0, 2, 0], [0, 0, 0], [0, 0.1, 0]],  # each in one direction
        [[5, 2, NAN], [0, NAN, 0.1], [NAN, NAN, 1]],  # loops and missing weights are no edges
        [[0, -1, 0], [-1, 0, -1], [0, 0, 0]],
    ],
)
def test_graph_has_a_line_for_each_pair_of_neighbours(adjacency):
    wanted = [((120, 22), (121, 23)), ((121, 23), (120.5, 25))]  # (lon, lat)
    array = np.array(adjacency, dtype=float)
    tensor = torch.tensor(adjacency, dtype=torch.float32)
    forms = [adjacency, array, np.asfortranarray(array), xr.DataArray(array), sparse.csr_array(array)]
    forms += [
        tensor,
        tensor.clone().requires_grad_(),
        tensor.to_sparse(),
        tensor.double().to_sparse(),
        tensor.abs() > 0,
    ]
    for form in forms:
        assert segments(form) == wanted


def test_graph_has_the_lines_of_a_naive_loop():
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(22, 25, 30), rng.uniform(120, 122, 30)
    weight = rng.uniform(size=(30, 30)) * (rng.uniform(size=(30, 30)) < 0.1)
    weight[rng.uniform(size=(30, 30)) < 0.1] = NAN
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30) if weight[i, j] > 0 or weight[j, i] > 0]
    assert len(pairs) > 50
    assert segments(weight, lat, lon) == [((lon[i], lat[i]), (lon[j], lat[j])) for i, j in pairs]
    # Entries of a sparse tensor that stand twice add up; one that is 0 is no edge.
    twice = torch.sparse_coo_tensor([[0, 0, 1, 2], [1, 1, 2, 2]], [1.0, -1.0, 2.0, 1.0], (3, 3), check_invariants=True)
    assert segments(twice) == [((121, 23), (120.5, 25))]


def test_a_large_lattice_is_drawn_from_its_sparse_adjacency():
    lattice = graphs.contiguity(torch.arange(30_000).reshape(150, 200), sparse=True)  # dense: 4 GB
    lat, lon = (torch.stack(torch.meshgrid(torch.arange(150.0), torch.arange(200.0), indexing="ij")) / 10).flatten(1)
    lines = plotting.draw_graph(lat, lon, lattice).collections[0].get_segments()
    assert len(lines) == 149 * 200 + 150 * 199
    np.testing.assert_allclose(np.abs(np.diff(lines, axis=1)).sum((1, 2)), 0.1, rtol=1e-4)


def test_graph_has_a_dot_for_each_place_and_is_in_proportion():
    ax = plotting.draw_graph(xr.DataArray(LAT), torch.tensor(LON), np.zeros((3, 3)))
    lines, dots = ax.collections
    assert len(lines.get_segments()) == 0
    assert dots.get_offsets().tolist() == [[120, 22], [121, 23], [120.5, 25]]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < 120 < 121 < right and bottom < 22 < 25 < top
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("longitude (°E)", "latitude (°N)")
    assert ax.get_aspect() == pytest.approx(1.08907, rel=1e-4)  # 1 / cos(23.333°)


def test_graph_is_drawn_on_the_axes_given():
    _, axes = plt.subplots(1, 2)
    assert plotting.draw_graph(LAT, LON, np.ones((3, 3)), ax=axes[0]) is axes[0]
    assert len(axes[0].collections[0].get_segments()) == 3 and not axes[1].collections
    alone = plotting.draw_graph([1.0], [2.0], [[1.0]])
    assert alone not in axes and not alone.collections[0].get_segments()


@pytest.mark.parametrize(
    ("lat", "lon", "adjacency", "said"),
    [
        (LAT, LON[:2], np.ones((3, 3)), "lat and lon must be .* got shapes \\(3,\\) and \\(2,\\)"),
        ([LAT], [LON], np.ones((3, 3)), "got shapes \\(1, 3\\) and \\(1, 3\\)"),
        ([], [], np.ones((0, 0)), "N >= 1"),
        (LAT, [120, NAN, np.inf], np.ones((3, 3)), "finite, got 2 places"),
        ([22, NAN, 25], LON, np.ones((3, 3)), "finite, got 1 places"),
        (LAT, LON, np.ones((2, 2)), "adjacency must be \\(N, N\\) with N = 3 places, got shape \\(2, 2\\)"),
        (LAT, LON, torch.ones(3, 4).to_sparse(), "with N = 3 places, got shape \\(3, 4\\)"),
        (LAT, LON, np.ones(3), "with N = 3 places, got shape \\(3,\\)"),
    ],
)
def test_graph_says_what_it_needs(lat, lon, adjacency, said):
    with pytest.raises(ValueError, match=said):
        plotting.draw_graph(lat, lon, adjacency)
    assert not plt.get_fignums()  # no empty figure is left behind
